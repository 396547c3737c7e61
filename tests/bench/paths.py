"""The hot paths: our side, the peers, and how to tell that both computed the same thing."""

import math
from functools import cache, partial

import numpy as np
import peers
import torch
from harness import Case, Variant, children_clock

DIFFUSIVITY = 12.5  # noise amplitude 5
CHUNKS = (4, 16, 64, 256)


def given(function, *arguments, **options):
    """A ``prepare`` for a function that is timed itself."""
    return lambda: partial(function, *arguments, **options)


@cache
def lorenz_cloud(n):
    """``n`` states of the stochastic Lorenz system, several to a trajectory: for timing, not for statistics."""
    from snapdyn import simulate, systems

    system = systems.build("lorenz", diffusivity=DIFFUSIVITY)
    return simulate.stationary_cloud(system, n, dt=1e-3, burn=8, per_trajectory=40, gap=0.4, seed=0)


@cache
def torus_cloud(n):
    """A noisy 2-torus embedded in 7 dimensions, unit variances, noise 0.05."""
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 2 * np.pi, (2, n))
    x = [np.cos(a), np.sin(a), np.cos(b), np.sin(b), np.cos(a + b), np.sin(a - b), np.cos(2 * a - b)]
    return np.sqrt(2) * np.stack(x, 1) + 0.05 * rng.standard_normal((n, 7))


def features(x):
    """Ten features: the linear and quadratic ones of the first axes and a cubic."""
    a, b, c = x[:, 0], x[:, 1], x[:, 2]
    return torch.stack([a, b, c, a * a, a * b, a * c, b * b, b * c, c * c, a * b * c], 1)


def kde(small=False):
    """The kernel pass: log-density, score, Laplacian, ESS and ten posterior means."""
    from snapdyn import scores

    scale = 10 if small else 1
    big, middle = 100_000 // scale, 20_000 // scale
    settings = [
        # cloud, n, bandwidth, pass against q = 256, against the best q, with the other peers
        (lorenz_cloud, big, 0.75, 10.0, 5.0, False),
        (lorenz_cloud, big, 3.0, 6.0, 2.5, False),
        (torus_cloud, big, 0.3, 6.0, math.nan, False),
        (lorenz_cloud, middle, 0.75, math.nan, math.nan, True),
    ]
    for cloud, n, h, against_stated, against_best, others in settings:
        x = cloud(n)
        x = torch.from_numpy(np.ascontiguousarray(x - x.mean(0)))
        probes = x[:: len(x) // (500 // scale)][: 500 // scale].clone()
        values = features(x)

        def ours(x=x, probes=probes, h=h, values=values):
            found = scores.kernel_pass(x, probes, h, features=values)
            return found.log_prob, found.score, found.laplacian, found.means, found.sample_size

        variants = [Variant("snapdyn.scores.kernel_pass", "ours", given(ours), note="target: peak under 100 MB")]
        for q in CHUNKS:
            stated = q == 256
            variants.append(
                Variant(
                    f"naive torch float64, q = {q}",
                    "peer" if stated else "context",
                    given(peers.naive_kde, x, probes, h, values, q),
                    against_stated if stated else math.nan,
                )
            )
        if others:
            note = "log-density only; ours gives scores and means as well"
            variants += [
                Variant("sklearn KernelDensity", "peer", partial(peers.sklearn_kde, x, probes, h), 5.0,
                        compare=False, note=note),
                Variant("scipy gaussian_kde", "peer", partial(peers.scipy_kde, x, probes, h),
                        compare=False, note=note),
                Variant("PyKeOps float64", "peer", partial(peers.keops_kde, x, probes, h, values), 12.0,
                        note="after compiling"),
            ]  # fmt: skip
        exact = peers.exact_kde(x, probes[:40], h, values)
        yield Case(
            "kde-score",
            f"d = {x.shape[1]}, N = {n}, M = {len(probes)}, h = {h}, 10 features, ESS",
            variants,
            error=lambda found, exact=exact: peers.kde_error(found, exact),
            tolerance=1e-6,
            best_of={
                "naive torch float64, best q": (
                    [f"naive torch float64, q = {q}" for q in CHUNKS],
                    against_best,
                )
            },
        )


def kde_growth(small=False):
    """Our kernel pass over N: linear."""
    from snapdyn import scores

    variants = []
    for n in (10_000, 30_000, 100_000):
        n = n // 10 if small else n
        x = torch.from_numpy(lorenz_cloud(n))
        variants.append(
            Variant(f"N = {n}", "ours", given(scores.kernel_pass, x, x[:1000].clone(), 0.75, features=features(x)))
        )

    def exponent(rows):
        seconds = [row["cpu_s"] for row in rows]
        return f"exponent in N {math.log(seconds[-1] / seconds[0]) / math.log(10):.2f}, target 0.9 to 1.1"

    yield Case("kde-growth", "d = 3, M = 1000, h = 0.75", variants, remark=exponent)


def moments(small=False):
    """Optimally weighted moments, monomials to degree 4, three unknowns, three reweightings."""
    from snapdyn import moments as ours
    from snapdyn import systems, weakform
    from snapdyn.snapshots import Snapshots

    x = lorenz_cloud(10_000 if small else 100_000)
    system = systems.build("lorenz", diffusivity=DIFFUSIVITY)
    points = torch.from_numpy(x)

    def gram():
        tests = weakform.Tests.monomials(points, 4)
        equations = ours.MomentEquations([weakform.Cloud(system.terms, tests, points)], diffusivity=DIFFUSIVITY)
        solution = equations.solve(3)
        return solution.estimate, solution.std_error, solution.j_statistic

    def whole_fit():
        data = Snapshots.build(x, meta={"dataset": "bench", "dim": 3})
        fit = ours.Moments(system.terms, diffusivity=DIFFUSIVITY, degree=4, iterations=3)
        model = fit.fit(data, rng=np.random.default_rng(0))
        return model.coefficients, model.std_error, model.diagnostics["j_statistic"]

    reference = peers.numpy_moments(x, DIFFUSIVITY)

    def error(found):
        return max(
            float(np.max(np.abs(np.asarray(a) / np.asarray(b) - 1))) for a, b in zip(found, reference, strict=True)
        )

    yield Case(
        "moments",
        f"Lorenz, N = {len(x)}, degree 4, 3 unknowns, 3 reweightings",
        [
            Variant("snapdyn.moments, one pass", "ours", given(gram), note="target: under 1 CPU s and 50 MB"),
            Variant(
                "snapdyn.moments.Moments.fit",
                "context",
                given(whole_fit),
                note="with its identifiability check",
            ),
            Variant("straightforward numpy", "peer", given(peers.numpy_moments, x, DIFFUSIVITY), 1.5),
        ],
        error=error,
        tolerance=1e-3,
    )


def simulation(small=False):
    """Euler-Maruyama of the stochastic Lorenz system, only the last state kept."""
    from snapdyn import simulate, systems

    n, steps, dt = (500 if small else 5000), 1024, 5e-4
    system = systems.build("lorenz", diffusivity=DIFFUSIVITY)
    start = np.random.default_rng(0).normal(size=(n, 3)) * [8, 9, 8] + [0, 0, 24]

    def ours():
        state = torch.from_numpy(np.ascontiguousarray(start.T)).clone()
        generator = torch.Generator().manual_seed(0)
        simulate.integrate(system.rate, state, steps=steps, dt=dt, diffusivity=DIFFUSIVITY, generator=generator)
        return state.T.numpy()

    reference = peers.eager_lorenz(start, steps, dt, DIFFUSIVITY, seed=1)

    def error(found):
        """Largest difference of a mean or a spread, in standard errors of the difference."""
        spread = reference.std(0)
        means = np.abs(np.asarray(found).mean(0) - reference.mean(0)) / (spread * math.sqrt(2 / n))
        widths = np.abs(np.asarray(found).std(0) / spread - 1) / math.sqrt(1 / n)
        return max(means.max(), widths.max())

    options = (start, steps, dt, DIFFUSIVITY)
    few = 100
    yield Case(
        "simulation",
        f"Lorenz, {n} trajectories, {steps} steps of {dt}; accuracy in standard errors",
        [
            Variant("snapdyn.simulate.integrate", "ours", given(ours)),
            Variant("torch eager float64", "peer", given(peers.eager_lorenz, *options), 2.5),
            Variant("torchsde Euler float32", "peer", partial(peers.torchsde_lorenz, start, few, *options[2:]), 4.0,
                    work=few / steps, compare=False, note=f"{few} steps, scaled"),
            Variant("diffrax Euler jit vmap float32", "peer", partial(peers.diffrax_lorenz, *options), 2.0),
            Variant("JAX lax.scan float32", "peer", partial(peers.jax_lorenz, *options)),
        ],
        error=error,
        tolerance=6.0,
    )  # fmt: skip


def transport(small=False):
    """Exact transport between two Gaussian clouds in five dimensions, squared cost, cost matrix included."""
    from snapdyn import metrics

    for n in (350, 1000, 2000):
        n = n // 10 if small else n
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(n, 5)), rng.normal(0.5, 1.2, size=(n, 5))
        reference = peers.assignment(x, y)()
        target = "; target: under 3 CPU s" if n == 2000 else ""
        yield Case(
            "transport",
            f"W2, d = 5, n = m = {n}",
            [
                Variant("snapdyn.metrics.wasserstein", "ours", given(metrics.wasserstein, x, y, order=2),
                        note=f"network simplex of POT, inputs checked{target}"),
                Variant("POT emd2", "peer", partial(peers.pot_emd2, x, y)),
                Variant("scipy linear_sum_assignment", "peer", partial(peers.assignment, x, y)),
            ],
            error=lambda found, reference=reference: abs(found - reference),
            tolerance=1e-8,
        )  # fmt: skip


def start_up(small=False):
    """A job that only moves tables, against one that imports torch: processes, CPU seconds of the child."""
    light = "from snapdyn import run, artifacts, snapshots, metrics"
    yield Case(
        "start-up",
        "imports of a light job, in a process of its own",
        [
            Variant("light job of snapdyn", "ours", given(peers.child, light), clock=children_clock),
            Variant("a job that imports torch", "peer", given(peers.child, f"{light}\nimport torch"), 1.5,
                    clock=children_clock),
            Variant("python alone", "context", given(peers.child, "pass"), clock=children_clock),
        ],
    )  # fmt: skip


def potential_step(small=False):
    """A training step of a JKO potential: the peer's row stands until our side of it does."""
    yield Case(
        "potential-step",
        "MLP 2-64-64-1, batch 250",
        [Variant("jkonet-star", "peer", peers.jkonet_star, note="nothing of ours to compare with yet")],
    )


PATHS = {
    "kde": kde,
    "kde-growth": kde_growth,
    "moments": moments,
    "simulation": simulation,
    "transport": transport,
    "start-up": start_up,
    "potential-step": potential_step,
}
