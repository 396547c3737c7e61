"""The hot paths of the training of energies: epochs, and members of an ensemble.

jkonet-star itself (flax, optax and ott of a year that does not fit into this environment) is not run here. Its rows
state what its code was measured to need elsewhere, and the same training step in its framework and style stands beside
them, measured.
"""

import copy
from functools import partial

import numpy as np
import torch
from harness import Case, Variant
from torch import nn
from torch.nn import functional

BATCH, EPOCH = 250, 20  # rows a step, steps an epoch: 5000 rows
STEPS = 64  # of a timed call
MEMBERS = 32
CLIP, RATE = 10.0, 1e-3
ELSEWHERE = (
    "measured elsewhere, not in this run: its code at commit 1741c53, jax 0.4.26, one core; an order of magnitude"
)
AGREE = 1e-2  # largest relative difference of a trained gradient in float32


def stated(seconds, pass_ratio):
    """What jkonet-star needed elsewhere."""
    return Variant("jkonet-star, stated", "peer", None, pass_ratio, stated=seconds, note=ELSEWHERE)


def populations(members, n, steps=5):
    """Courses of 2-D clouds that draw together, and the rows from each time to the next."""
    from snapdyn.couplings import Rows
    from snapdyn.courses import Courses

    generator = torch.Generator().manual_seed(0)
    x = [2.5 * torch.randn(members, n, 2, generator=generator)]
    for _ in range(steps):
        x.append(0.85 * x[-1] + 0.1 * torch.sin(2 * x[-1]))
    weight = [torch.full((members, n), 1 / n)] * (steps + 1)
    courses = Courses(x, weight, np.arange(steps + 1.0), 1.0, np.zeros((members, 2)), np.ones(members))
    nothing = torch.zeros(members)
    return courses, [Rows(x[k], x[k + 1], weight[k], *[nothing] * 4) for k in range(steps)]


def plain_network(stack, activation=nn.Softplus):
    """The first member of a :class:`snapdyn.networks.StackedMLP` as one would write it."""
    layers = []
    for weight, bias in zip(stack.weights, stack.biases, strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[2], dtype=weight.dtype)
        with torch.no_grad():
            layer.weight.copy_(weight[0].T)
            layer.bias.copy_(bias[0].flatten())
        layers += [layer, activation()]
    return nn.Sequential(*layers[:-1])


def slope_of(network, x, graph=True):
    """The gradient of a network's output by its inputs, by automatic differentiation."""
    x = x if x.requires_grad else x.detach().requires_grad_()
    return torch.autograd.grad(network(x).sum(), x, create_graph=graph)[0]


def gap(found, wanted):
    return float((found - wanted).abs().max() / wanted.abs().max())


# The epochs


class Training:
    """One training of some members, as our code runs it and as its peers would.

    Every call starts from the same weights and draws the same batches, so that all end with the same gradients.
    """

    def __init__(self, terms, members, n):
        from snapdyn import jkonet_star
        from snapdyn.energies import Energy

        self.courses, rows = populations(members, n)
        self.seeds = list(range(members))
        self.energy = Energy.build(2, seeds=self.seeds, terms=terms)
        scores = [-y / 4 for y in self.courses.x[1:]] if "entropy" in terms else None
        self.loss = jkonet_star.FirstOrder(rows, scores, self.courses)
        self.together = "interaction" not in terms
        self.points = self.courses.x[0][:1, :200]
        self.draw_seeds = [seed + jkonet_star.APART for seed in self.seeds]

    def draws(self, members):
        return self.loss.batches(BATCH, self.draw_seeds[:members], together=self.together)

    def ours(self, steps):
        from snapdyn import checkpoint, jkonet_star
        from snapdyn.energy_training import Recipe

        energy = copy.deepcopy(self.energy)
        how = {"batch": BATCH, "seeds": self.seeds, "rate": RATE, "keep": checkpoint.NOWHERE}
        jkonet_star.fit(energy, self.loss, None, Recipe(steps=steps, every=50), **how)
        return energy.member(0).potential_gradient(self.points)[0].detach()

    def eager(self, steps, fused=False):
        """A loop over one model: the loss by nested differentiation, torch's own Adam."""
        networks = {
            name: plain_network(getattr(self.energy, name))
            for name in ("potential", "interaction")
            if getattr(self.energy, name) is not None
        }
        weights = [p for network in networks.values() for p in network.parameters()]
        raw = self.energy.raw_diffusivity
        if raw is not None:
            raw = nn.Parameter(raw.detach()[0].clone())
            weights.append(raw)
        optimiser, draws = torch.optim.Adam(weights, lr=RATE, fused=fused or None), self.draws(1)
        for _ in range(steps):
            tables = [draws.batch(k)[0] for k in range(len(draws.courses.x))]
            loss = sum(self.condition(networks, raw, table) for table in tables) / len(tables)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, CLIP)
            optimiser.step()
        return slope_of(networks["potential"], self.points[0], graph=False)

    def condition(self, networks, raw, table):
        """The loss of a batch of one time, or of all times where nothing interacts."""
        x, y, tau, score = table[:, :2], table[:, 2:4], table[:, 4:5], table[:, 6:]
        total = slope_of(networks["potential"], y)
        if "interaction" not in networks:
            return (tau * total + y - x).square().sum(1).mean()
        n = len(y)
        z = (y[:, None] - y).reshape(-1, 2).requires_grad_()
        even = lambda z: (networks["interaction"](z) + networks["interaction"](-z)) / 2  # noqa: E731
        forces = slope_of(even, z).view(n, n, 2)
        others, residuals = 1 - torch.eye(n), []
        for half in (0, 1):
            pull = forces[:, half::2].sum(1) / others[:, half::2].sum(1)[:, None]
            residuals.append(tau * (total + pull + functional.softplus(raw) * score) + y - x)
        return (residuals[0] * residuals[1]).sum(1).mean()

    def jax(self, steps, members=1):
        """A compiled step a call, as jkonet-star takes them; many models by vmap."""
        import jax
        import jax.numpy as jnp

        def value(weights, y):
            for weight, bias in weights[:-1]:
                y = jax.nn.softplus(y @ weight + bias)
            return (y @ weights[-1][0] + weights[-1][1])[0]

        slope = jax.vmap(jax.grad(value, argnums=1), (None, 0))

        def loss(weights, rows):
            x, y, tau = rows[:, :2], rows[:, 2:4], rows[:, 4:5]
            return jnp.square(tau * slope(weights, y) + y - x).sum(1).mean()

        def step(weights, first, second, count, table, rows):
            slopes = jax.grad(loss)(weights, table[rows])
            norm = jnp.sqrt(sum(jnp.square(s).sum() for s in jax.tree_util.tree_leaves(slopes)))
            share = jnp.minimum(1.0, CLIP / norm)
            slopes = jax.tree_util.tree_map(lambda s: share * s, slopes)
            first = jax.tree_util.tree_map(lambda m, s: 0.9 * m + 0.1 * s, first, slopes)
            second = jax.tree_util.tree_map(lambda v, s: 0.999 * v + 0.001 * s * s, second, slopes)
            fix, fix_square = 1 - 0.9**count, 1 - 0.999**count

            def moved(w, m, v):
                return w - RATE * m / fix / (jnp.sqrt(v / fix_square) + 1e-8)

            return jax.tree_util.tree_map(moved, weights, first, second), first, second

        layers = zip(self.energy.potential.weights, self.energy.potential.biases, strict=True)
        start = [(w.detach().numpy()[:members], b.detach().numpy()[:members, 0]) for w, b in layers]
        table = torch.cat(self.loss.tables, 1).numpy()[:members]
        if members == 1:
            start, table, step = [(w[0], b[0]) for w, b in start], table[0], jax.jit(step)
        else:
            step = jax.jit(jax.vmap(step, (0, 0, 0, None, 0, 0)))
        start, table = jax.tree_util.tree_map(jnp.asarray, start), jnp.asarray(table)
        empty = jax.tree_util.tree_map(jnp.zeros_like, start)

        def call():
            weights, first, second, draws = start, empty, empty, self.draws(members)
            for number in range(1, steps + 1):
                rows = draws.rows(0).numpy()
                rows = rows[0] if members == 1 else rows
                weights, first, second = step(weights, first, second, float(number), table, rows)
            own = weights if members == 1 else [(w[0], b[0]) for w, b in weights]
            return torch.from_numpy(np.array(slope(own, self.points[0].numpy())))

        return call


def epochs(small=False):
    """An epoch of JKOnet*: 5000 rows of five steps, 20 steps of 250, of one model."""
    n, steps = (100, 8) if small else (1000, STEPS)
    for terms, few, peers in (
        (("potential",), steps, (0.081, 1 / 0.6)),
        (("potential", "interaction", "entropy"), max(4, steps // 4), (10.3, 1 / 0.5)),
    ):
        training, alone = Training(terms, 1, n), len(terms) == 1
        work = few / EPOCH
        pairs = "" if alone else "; pairs within a time, 5 x 50 x 50 a step, where jkonet-star takes 250 x 250 of all"
        variants = [
            Variant("snapdyn.jkonet_star.fit", "ours", lambda t=training, s=few: partial(t.ours, s), work=work),
            stated(*peers),
            Variant("torch eager, Adam", "peer", lambda t=training, s=few: partial(t.eager, s), work=work),
        ]
        if alone:
            variants.append(
                Variant("JAX jit, one step a call", "peer", lambda t=training, s=few: t.jax(s), work=work,
                        note="batches drawn by our code")
            )  # fmt: skip
        wanted = training.eager(few)
        yield Case(
            "energy-epoch",
            f"JKOnet*, {', '.join(terms)}; MLP 2-64-64-1, {EPOCH} steps of {BATCH} of {5 * n} rows, float32{pairs}",
            variants,
            error=lambda found, wanted=wanted: gap(found, wanted),
            tolerance=AGREE,
        )


def products(members, steps):
    """The six large matrix products that slopes and their loss's gradient need a step, into arrays that are there."""
    generator = torch.Generator().manual_seed(0)
    layer, weight = (torch.randn(members, rows, 64, generator=generator) for rows in (BATCH, 64))
    across, square = torch.empty_like(layer), torch.empty_like(weight)

    def call():
        for _ in range(steps):
            for _ in range(4):
                torch.bmm(layer, weight, out=across)
            for _ in range(2):
                torch.bmm(layer.transpose(1, 2), across, out=square)

    return call


def ensembles(small=False):
    """What one of many models costs that are trained side by side."""
    n, steps, members = (100, 8, 4) if small else (1000, STEPS, MEMBERS)
    many, one = Training(("potential",), members, n), Training(("potential",), 1, n)
    # the rows and the test points of the first of many
    one.loss.tables, one.points = [table[:1] for table in many.loss.tables], many.points
    epoch = steps / EPOCH
    all_of_them = members * epoch
    wanted = one.eager(steps)
    yield Case(
        "energy-ensemble",
        f"JKOnet*, potential, {members} members; CPU seconds of one member and epoch of {EPOCH} steps of {BATCH}",
        [
            Variant(f"snapdyn.jkonet_star.fit, {members} members", "ours", lambda: partial(many.ours, steps),
                    work=all_of_them),
            Variant("snapdyn.jkonet_star.fit, one member", "peer", lambda: partial(one.ours, steps), 1 / 0.6,
                    work=epoch),
            Variant("torch eager loop of one model, Adam", "peer", lambda: partial(one.eager, steps), 1 / 0.25,
                    work=epoch),
            Variant("the same, fused Adam", "peer", lambda: partial(one.eager, steps, fused=True), work=epoch),
            Variant("JAX jit, one step a call, one model", "peer", lambda: one.jax(steps), 0.9, work=epoch),
            Variant(f"JAX jit of vmap, {members} models", "peer", lambda: many.jax(steps, members), 0.8,
                    work=all_of_them),
            Variant("the matrix products alone", "context", lambda: products(members, steps), work=all_of_them,
                    compare=False, note="what no program of these operations can be faster than"),
        ],
        error=lambda found: gap(found, wanted),
        tolerance=AGREE,
    )  # fmt: skip


def training(small=False):
    """Both of these."""
    for cases in (epochs, ensembles):
        yield from cases(small)
