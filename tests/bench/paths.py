"""The hot paths: our side, the peers, and how to tell that both computed the same thing."""

import math
import time
from functools import cache, partial

import density_paths
import energy_paths
import energy_step_paths
import harness
import numpy as np
import peers
import torch
from harness import Case, Variant, children_clock

DIFFUSIVITY = 12.5  # noise amplitude 5
CHUNKS = (4, 16, 64, 256)
SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)  # of the clouds in the growth cases


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


def growth(path, setting, prepare, small, *, smallest):
    """A case that runs one computation at growing N; the exponent is that from ``smallest`` on."""
    sizes = [n // 10 if small else n for n in SIZES]
    smallest = smallest // 10 if small else smallest

    def exponent(rows):
        large = [(n, row["cpu_s"]) for n, row in zip(sizes, rows, strict=True) if n >= smallest]
        slope = harness.exponent(*zip(*large, strict=True))
        return f"exponent in N {slope:.2f} from N = {smallest} on, target 0.9 to 1.1"

    cloud = lorenz_cloud(sizes[-1])
    variants = [Variant(f"N = {n}", "ours", prepare(cloud[:n])) for n in sizes]
    return Case(path, setting, variants, remark=exponent)


def kde_growth(small=False):
    """Our kernel pass over N: linear."""
    from snapdyn import scores

    def prepare(x):
        x = torch.from_numpy(x)
        return given(scores.kernel_pass, x, x[:1000].clone(), 0.75, features=features(x))

    yield growth("kde-growth", "d = 3, M = 1000, h = 0.75", prepare, small, smallest=10_000)


def quadratic_library():
    """All 30 quadratic terms in three axes, and what they are for the Lorenz system."""
    from snapdyn import drifts

    drift = drifts.polynomial(3, 2, axes=["x", "y", "z"])
    true = {"x: x": -10, "x: y": 10, "y: x": 28, "y: y": -1, "y: x z": -1, "z: x y": 1, "z: z": -8 / 3}
    return drift, np.array([true.get(name, 0.0) for name in drift.names])


def whole_fit(x, drift, options):
    """What a user calls: cross-fitted estimates, their errors, the J test and the identifiability check."""
    from snapdyn import moments
    from snapdyn.snapshots import Snapshots

    data = Snapshots.build(x, meta={"dataset": "bench", "dim": x.shape[1]})
    fit = moments.Moments(drift, diffusivity=DIFFUSIVITY, **options)
    return fit.fit(data, rng=np.random.default_rng(0))


def moments(small=False):
    """Optimally weighted moments, monomials to degree 4, three unknowns, three reweightings."""
    from unittest.mock import patch

    from snapdyn import moment_equations as ours
    from snapdyn import systems, testfunctions, weakform

    x = lorenz_cloud(10_000 if small else 100_000)
    system = systems.build("lorenz", diffusivity=DIFFUSIVITY)
    points = torch.from_numpy(x)

    def one_pass():
        tests = testfunctions.Monomials(points, 4)
        equations = ours.MomentEquations([weakform.Cloud(system.terms, tests, points)], diffusivity=DIFFUSIVITY)
        design, rest = equations.system()
        size = design.norm(dim=1)  # start where the peer starts, and reweight as often: then all numbers must agree
        start = torch.linalg.lstsq(design / size[:, None], (rest / size)[:, None]).solution[:, 0]
        with patch.object(ours, "SETTLED", 0.0):
            solution = equations.solve(3, start)
        return solution.estimate, solution.std_error, solution.j_statistic

    reference = peers.numpy_moments(x, DIFFUSIVITY)

    def error(found):
        return max(
            float(np.max(np.abs(np.asarray(a) / np.asarray(b) - 1))) for a, b in zip(found, reference, strict=True)
        )

    yield Case(
        "moments",
        f"Lorenz, N = {len(x)}, degree 4, 3 unknowns, 3 reweightings",
        [
            Variant("snapdyn.moments, weights from all rows", "ours", given(one_pass),
                    note="target: under 1 CPU s and 50 MB"),
            Variant("snapdyn.moments.Moments.fit", "context", given(whole_fit, x, system.terms, {"degree": 4}),
                    compare=False, note="cross-fitted, with its identifiability check: more than the peer does"),
            Variant("straightforward numpy", "peer", given(peers.numpy_moments, x, DIFFUSIVITY), 3.0),
        ],
        error=error,
        tolerance=1e-8,
    )  # fmt: skip


def moments_fit(small=False):
    """Whole fits by each way to the moments: polynomials, second moments of all blocks, passes over the rows."""
    from snapdyn import systems

    x = lorenz_cloud(10_000 if small else 100_000)
    system = systems.build("lorenz", diffusivity=DIFFUSIVITY)
    few, many = (system.terms, system.truth.numpy()), quadratic_library()
    settings = [
        ("3 unknowns, monomials to degree 4", *few, {"degree": 4}, "from the moments of monomials"),
        ("30 unknowns, monomials to degree 6", *many, {"degree": 6}, "from the moments of monomials"),
        ("3 unknowns, 60 Gaussians", *few, {"tests": "gaussians"}, "from the second moments of all blocks"),
        ("30 unknowns, 90 Gaussians", *many, {"tests": "gaussians"}, "one more pass for each weighting"),
    ]

    def run(drift, truth, options):
        model = whole_fit(x, drift, options)
        return model.coefficients, truth, model.std_error

    def error(found):
        """Largest distance from the truth in standard errors, which know nothing of states that share a trajectory."""
        estimate, truth, std_error = found
        return float(np.abs((estimate - truth) / std_error).max())

    yield Case(
        "moments-fit",
        f"Lorenz, N = {len(x)}, cross-fitted, identifiability checked; accuracy in standard errors",
        [
            Variant(name, "context", given(run, drift, truth, options), note=note)
            for name, drift, truth, options, note in settings
        ],
        error=error,
        tolerance=8.0,
    )


def moments_growth(small=False):
    """Whole fits over N: linear once the rows outweigh what is done once, a tenth of a second for 30 unknowns."""
    from snapdyn import systems

    few = systems.build("lorenz", diffusivity=DIFFUSIVITY).terms
    many, _ = quadratic_library()
    for drift, degree in ((few, 4), (many, 6)):

        def prepare(x, drift=drift, degree=degree):
            return given(whole_fit, x, drift, {"degree": degree})

        setting = f"Lorenz, {drift.count} unknowns, degree {degree}, whole fit"
        yield growth("moments-growth", setting, prepare, small, smallest=300_000)


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


def gpu(small=False):
    """Whole fits of methods that can use a GPU, there and on one core: the same numbers, seconds, memory."""
    from snapdyn import methods, systems
    from snapdyn.snapshots import Snapshots

    x = lorenz_cloud(10_000 if small else 100_000)
    data = Snapshots.build(x, meta={"axes": ["x", "y", "z"]})
    spec = {"library": "lorenz", "parameters": systems.build("lorenz", diffusivity=DIFFUSIVITY).parameters}
    asked = {
        "moments": {"degree": 4},
        "moments, Gaussian tests": {"tests": "gaussians"},
        "convolved-l1": {"bandwidth": 3.0, "probes": 1000},
        "kde-lstsq": {"bandwidth": 0.75, "probes": 1000},
        "kds": {"bandwidth": 3.0, "points": 5000},
    }

    def fit(method, options, device):
        known = {"drift": spec, "diffusivity": DIFFUSIVITY, "options": options}
        model = methods.fit(method, data, rng=np.random.default_rng(0), device=device, **known)
        if device == "cuda":
            torch.cuda.synchronize()
        return model.coefficients

    def on_gpu(*arguments):
        def prepare():
            if not torch.cuda.is_available():
                raise harness.Unavailable("torch sees no GPU on this machine")
            return partial(fit, *arguments, "cuda")

        return prepare

    for name, options in asked.items():
        arguments = name.split(",")[0], options
        reference = cache(partial(fit, *arguments, "cpu"))
        yield Case(
            "gpu",
            f"{name}, Lorenz, N = {len(x)}",
            [
                Variant("one CPU core", "ours", given(fit, *arguments, "cpu")),
                Variant("GPU", "peer", on_gpu(*arguments), clock=time.perf_counter, memory=harness.gpu_memory,
                        note="wall seconds and memory of the GPU"),
            ],
            error=lambda found, reference=reference: float(np.max(np.abs(found / reference() - 1))),
            tolerance=1e-3,
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


PATHS = {
    "kde": kde,
    "kde-growth": kde_growth,
    "moments": moments,
    "moments-fit": moments_fit,
    "moments-growth": moments_growth,
    "simulation": simulation,
    "transport": transport,
    "densities": density_paths.densities,
    "energy-training": energy_paths.training,
    "energy-steps": energy_step_paths.steps,
    "gpu": gpu,
    "start-up": start_up,
}
