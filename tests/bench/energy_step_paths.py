"""The hot paths of learning energies beside training: closed form, plans, maps, implicit steps, entropies."""

import math
from functools import partial

import numpy as np
import torch
from energy_paths import AGREE, BATCH, RATE, gap, plain_network, populations, slope_of, stated
from harness import Case, Variant
from torch import nn

# The closed form


def plain_features(u):
    """The 124 features at one point: monomials of powers to 4 in each axis, and bumps on a grid."""
    powers = torch.stack([u**e for e in range(5)])  # (5, 2)
    centres = torch.linspace(-4, 4, 10, dtype=u.dtype)
    away = torch.stack(torch.meshgrid(centres, centres, indexing="ij"), -1).reshape(-1, 2) - u
    return torch.cat([torch.outer(powers[:, 0], powers[:, 1]).flatten()[1:], (-away.square().sum(1) / 0.5).exp()])


def autograd_ridge(rows, points):
    """The ridge solution with gradients of features by automatic differentiation, float64."""
    jacobian = torch.func.vmap(torch.func.jacrev(plain_features))
    gram, right = 0.01 * torch.eye(124, dtype=torch.float64), torch.zeros(124, dtype=torch.float64)
    for row in rows:
        x, y, weight = row.x[0].double(), row.y[0].double(), row.weight[0].double()
        slopes = jacobian(y)  # (n, 124, 2)
        gram += torch.einsum("n,nad,nbd->ab", weight, slopes, slopes)
        right -= torch.einsum("n,nad,nd->a", weight, slopes, y - x)
    theta = torch.linalg.solve(gram, right)
    return torch.einsum("a,nad->nd", theta, jacobian(points))


def linear(small=False):
    """The ridge solution of JKOnet* with features."""
    from snapdyn import jkonet_linear

    n = 100 if small else 1000
    courses, rows = populations(1, n)
    points = courses.x[0][0, :200].double()

    def ours(terms=("potential",)):
        energy = jkonet_linear.blank(courses, terms=terms, box=(-4.0, 4.0))
        scores = [-y / 4 for y in courses.x[1:]] if "entropy" in terms else None
        jkonet_linear.solve(energy, rows, courses, scores)
        return energy.potential_gradient(points[None])[0].detach()

    wanted = autograd_ridge(rows, points)
    variants = [
        Variant("snapdyn.jkonet_linear.solve", "ours", lambda: ours, note="target: under 1 CPU s"),
        stated(7.5, 1 / 0.15),
        Variant("gradients of features by autograd", "peer", lambda: partial(autograd_ridge, rows, points)),
    ]
    if not small:
        everything = ("potential", "interaction", "entropy")
        variants.append(Variant("the same with all three terms", "context", lambda: partial(ours, everything),
                                compare=False, note="249 unknowns"))  # fmt: skip
    yield Case(
        "energy-linear",
        f"JKOnet*, 124 features in 2 axes, 5 transitions of {n}, plans given",
        variants,
        error=lambda found: gap(found, wanted),
        tolerance=1e-6,
    )


# Plans, maps, proximal steps, entropies


def plans(small=False):
    """One optimal plan, and its rows."""
    from snapdyn import couplings

    n = 100 if small else 1000
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, 2)), rng.normal(0.5, 1.2, size=(n, 2))

    def ours():
        source, target, weight = couplings.plan(x, y)
        return couplings.means(x, y, source, target, weight)[0]

    def by_pot():
        import ot

        even = np.full(n, 1 / n)

        def call():
            plan = ot.emd(even, even, ot.dist(x, y), numItermax=1_000_000)
            return n * plan.T @ x

        return call

    wanted = by_pot()()
    yield Case(
        "energy-plan",
        f"exact plan and the mean sources of its targets, {n} x {n}, 2 axes",
        [
            Variant("snapdyn.couplings.plan, means", "ours", lambda: ours, note="target: parity, the same solver"),
            Variant("POT emd", "peer", by_pot, 0.8),
        ],
        error=lambda found: float(np.abs(found - wanted).max()),
        tolerance=1e-6,
    )


def maps(small=False):
    """The maps' answers to one step of the energy in iJKOnet."""
    from snapdyn import ijkonet
    from snapdyn.energies import Energy

    n, rounds, inner = (100, 1, 10) if small else (1000, 6, 10)
    courses, _ = populations(1, n)
    energy = Energy.build(2, seeds=[0])
    plain, x = plain_network(energy.potential), courses.x[0][:, :200]
    k = len(courses.gaps)

    def fresh():
        return ijkonet.Maps(courses, energy, seeds=[0], batch=BATCH, inner=inner, rate=RATE)

    def ours():
        player = fresh()
        for _ in range(rounds):
            player.answer(energy)
        return player.maps(x, courses.stamps[0])[0].detach()

    def eager():
        player = fresh()  # for its start, its draws and its stamps
        network, draws = plain_network(player.maps.move, nn.SELU), player.draws
        optimiser = torch.optim.Adam(network.parameters(), lr=RATE, betas=(0.5, 0.9))

        def carried(points, stamps):
            return points + network(torch.cat([points, stamps.expand(len(points))[:, None]], 1))

        for _ in range(rounds * inner):
            points = torch.cat([draws.batch(step) for step in range(k)], 1)[0]
            y = carried(points, player.starts)
            cost = plain(y)[:, 0] + (y - points).square().sum(1) / 2  # all gaps are 1
            optimiser.zero_grad()
            cost.view(k, BATCH).mean(1).sum().backward()
            optimiser.step()
        return carried(x[0], torch.tensor(courses.stamps[0], dtype=x.dtype)).detach()

    wanted = eager()
    yield Case(
        "energy-maps",
        f"iJKOnet, potential: {inner} steps of the maps for one step of the energy, 5 x {BATCH} rows, 3-64-64-2",
        [
            Variant("snapdyn.ijkonet.Maps.answer", "ours", lambda: ours, work=rounds),
            Variant("torch eager, Adam", "peer", lambda: eager, work=rounds),
        ],
        error=lambda found: gap(found, wanted),
        tolerance=AGREE,
    )


def proximal(small=False):
    """A step of the scheme for a potential, and a step of the bilevel training for comparison."""
    from snapdyn import energy_steps, jkonet
    from snapdyn.energies import Energy

    n = 25 if small else BATCH
    courses, _ = populations(1, 100 if small else 1000)
    energy = Energy.build(2, seeds=[0])
    plain = plain_network(energy.potential)
    x = torch.cat([cloud[:, :n] for cloud in courses.x[:-1]], 1)

    def ours():
        return energy_steps.implicit(energy, x, 1.0, limit=5, tolerance=1e-3, dtype=x.dtype)[0][0]

    def fixed_point(rounds=50):
        y = x[0]
        for _ in range(rounds):
            y = x[0] - slope_of(plain, y, graph=False)
        return y

    inner = 2 if small else 100

    def bilevel():
        how = {"cost": {"epsilon": 0.6}, "batch": n, "count": inner, "rate": 1e-2}
        outer = jkonet.Bilevel(energy, courses, seeds=[0], **how)
        return torch.autograd.grad(outer.loss(1).sum(), list(energy.parameters()))

    wanted = energy_steps.implicit(energy, x, 1.0, limit=50, tolerance=1e-6)[0][0]
    yield Case(
        "energy-prox",
        f"implicit step of 5 x {n} rows, MLP 2-64-64-1, float32",
        [
            Variant("snapdyn.energy_steps.implicit, 5 Newton steps", "ours", lambda: ours),
            Variant("50 fixed-point iterations by autograd", "peer", lambda: fixed_point),
            Variant("jkonet: one step of its potential", "context", lambda: bilevel, compare=False,
                    note=f"{inner} steps of the maps for each of the 5 gaps, unrolled, Sinkhorn included"),
        ],
        error=lambda found: gap(found, wanted),
        tolerance=AGREE,
    )  # fmt: skip


def all_pairs_entropy(x, neighbours=5):
    """Kozachenko and Leonenko's estimate from all distances."""
    from scipy.spatial.distance import cdist
    from scipy.special import digamma, gammaln

    n, dim = x.shape
    reach = np.partition(cdist(x, x), neighbours, axis=1)[:, neighbours]
    ball = dim / 2 * math.log(math.pi) - gammaln(dim / 2 + 1)
    return digamma(n) - digamma(neighbours) + ball + dim * np.log(reach).mean()


def entropies(small=False):
    """The entropy of a snapshot by nearest neighbours."""
    from snapdyn import entropies

    n = 200 if small else 2000
    for dim in (2, 5):
        x = np.random.default_rng(0).normal(size=(n, dim))
        wanted = all_pairs_entropy(x)
        yield Case(
            "energy-entropy",
            f"Kozachenko-Leonenko, {n} rows, {dim} axes, fifth neighbour",
            [
                Variant("snapdyn.entropies.differential_entropy", "ours",
                        lambda x=x: partial(entropies.differential_entropy, x)),
                Variant("all pairs, scipy", "peer", lambda x=x: partial(all_pairs_entropy, x)),
            ],
            error=lambda found, wanted=wanted: abs(found - wanted),
            tolerance=1e-9,
        )  # fmt: skip


def steps(small=False):
    """All of these."""
    for cases in (linear, plans, maps, proximal, entropies):
        yield from cases(small)
