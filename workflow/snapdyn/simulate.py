"""Simulate systems: independent trajectories, recorded as unordered snapshots."""

import math
from functools import cache

import numpy as np
import torch

from snapdyn.snapshots import Snapshots, split_rows

# Trajectories that run side by side. Large enough to hide Python's cost per step, small enough for the
# state to stay in the cache; fixed, so that results depend neither on threads nor on memory.
BLOCK = 8192
NOISE_STEPS = 8  # whose increments are drawn together and fit into the cache
SCHEMES = ("euler-maruyama", "heun")


@cache
def _levels(device):
    """The normal law as 2^16 equally likely levels ``(65536,)``: means of its slices, scaled to unit variance."""
    edges = torch.special.ndtri(torch.arange(2**16 + 1, dtype=torch.float64) / 2**16)
    density = torch.exp(-edges.square() / 2)
    means = density[:-1] - density[1:]
    return (means / means.square().mean().sqrt()).to(device)


def _increments(x, steps, generator):
    """A function that draws ``steps`` standard normal deviates for every entry of ``x``, into the same memory.

    Drawing is most of the cost of a simulation, so a deviate takes 16 random bits and a table. Only the first
    moments of an increment bear on the law of a state: all odd ones and the variance are exact, the fourth is
    2.99983 and no deviate exceeds 4.4. That moves the law by less than 1e-4 of what the step of Euler's scheme does.
    """
    count = steps * x.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64, device=x.device)
    index = torch.empty(count, dtype=torch.int64, device=x.device)
    noise = torch.empty(steps, *x.shape, dtype=x.dtype, device=x.device)
    flat, increments, levels = noise.view(-1), noise.unbind(), _levels(x.device).to(x.dtype)

    def draw():
        bits.random_(-(2**63), None, generator=generator)
        index.copy_(bits.view(torch.int16)[:count]).bitwise_and_(2**16 - 1)
        torch.index_select(levels, 0, index, out=flat)
        return increments

    return draw


def integrate(rate, x, *, steps, dt, diffusivity, generator, scheme="euler-maruyama"):
    """Advance states by ``steps`` steps of dX = f dt + sqrt(2 D) dW, in place.

    Args:
        rate: function ``(x, out)`` that writes the drift of states ``(dim, n)`` into ``out``.
        x: states ``(dim, n)``, float64, overwritten.
        dt: step in time units.
        generator: torch generator on the device of ``x``.
        scheme: ``euler-maruyama``, whose stationary law is off by O(dt), or ``heun``, off by O(dt^2) because
            the noise is additive, for one more drift and no more noise a step.
    Equation: ``euler-maruyama``, ``stochastic-heun``
    """
    if scheme not in SCHEMES:
        raise ValueError(f"unknown scheme {scheme!r}; there are {SCHEMES}")
    amplitude = math.sqrt(2 * diffusivity * dt)
    draw = _increments(x, min(NOISE_STEPS, max(steps, 1)), generator)
    speed = torch.empty_like(x)
    ahead, later = (torch.empty_like(x), torch.empty_like(x)) if scheme == "heun" else (None, None)
    for start in range(0, steps, NOISE_STEPS):
        for increment in draw()[: steps - start]:
            rate(x, speed)
            if scheme == "heun":
                torch.add(x, speed, alpha=dt, out=ahead).add_(increment, alpha=amplitude)
                rate(ahead, later)
                torch.add(ahead, later.sub_(speed), alpha=dt / 2, out=x)
            else:
                x.add_(speed, alpha=dt).add_(increment, alpha=amplitude)
    if not torch.isfinite(x).all():
        lost = int((~torch.isfinite(x).all(0)).sum())
        raise ValueError(f"{lost} of {x.shape[1]} trajectories left the finite numbers; take a smaller dt than {dt}")
    return x


def stationary_cloud(
    system,
    n,
    *,
    dt,
    burn,
    seed,
    per_trajectory=1,
    gap=0.0,
    ordered=False,
    scheme=SCHEMES[0],
    device="cpu",
    progress=iter,
):
    """``n`` states of ``system`` after a transient, unordered unless asked otherwise.

    Args:
        burn: time before the first record; long enough to forget the start.
        per_trajectory: records taken from each trajectory, ``gap`` apart in time. 1 makes every state
            independent, which standard errors assume.
        ordered: keep trajectories whole, one after another, each in the order of time.
        progress: wraps the iterable of blocks, to show how far the run is.
    Returns:
        states ``(n, dim)`` in a random order, or trajectory by trajectory.
    """
    trajectories = -(-n // per_trajectory)
    sizes = [min(BLOCK, trajectories - start) for start in range(0, trajectories, BLOCK)]
    seeds = np.random.SeedSequence(seed).spawn(len(sizes) + 1)
    blocks = []
    for size, block_seed in progress(list(zip(sizes, seeds, strict=False))):
        generator = torch.Generator(device).manual_seed(int(block_seed.generate_state(1, np.uint64)[0] >> 1))
        x = system.initial(size, generator, device)
        records = []
        for record in range(per_trajectory):
            steps = round((gap if record else burn) / dt)
            integrate(
                system.rate,
                x,
                steps=steps,
                dt=dt,
                diffusivity=system.diffusivity,
                generator=generator,
                scheme=scheme,
            )
            records.append(x.T.cpu().numpy().copy())
        blocks.append(np.stack(records, 1 if ordered else 0).reshape(-1, system.dim))
    cloud = np.concatenate(blocks)
    if ordered:
        return cloud[:n]
    return np.random.default_rng(seeds[-1]).permutation(cloud)[:n]


def attractor_distances(system, model, *, seed, n=1000, burn=10.0, dt=2e-3):
    """How far a fitted drift's noise-free cloud of ``n`` points is from the true one.

    Returns:
        ``attractor_w1``, in the state's units, left out where the fitted drift carries points to infinity; and
        ``attractor_w1_floor``, the same between two clouds of the true drift.
    """
    from snapdyn import metrics

    coefficients = torch.from_numpy(model.coefficients)

    def cloud(rate, seed):
        x = system.initial(n, torch.Generator().manual_seed(seed), "cpu")
        silent = torch.Generator()
        return integrate(rate, x, steps=round(burn / dt), dt=dt, diffusivity=0.0, generator=silent).T.numpy()

    true = cloud(system.rate, 2 * seed)
    found = {"attractor_w1_floor": metrics.wasserstein(true, cloud(system.rate, 2 * seed + 1))}
    try:
        fitted = cloud(lambda x, out: out.copy_(model.drift_terms(coefficients, x.T).T), 2 * seed + 1)
    except ValueError:
        return found
    return found | {"attractor_w1": metrics.wasserstein(true, fitted)}


def timed_snapshots(system, n, times, *, dt, seed, start=None, device="cpu"):
    """Independent populations of ``n`` particles, each seen once at one of ``times``.

    Args:
        start: function ``(n, rng) -> (n, dim)`` that draws the population at ``times[0]``; the system's own
            starting states without it.
    Returns:
        states ``(len(times) n, dim)`` and their times ``(len(times) n,)``.
    """
    clouds = []
    for time, child in zip(times, np.random.SeedSequence(seed).spawn(len(times)), strict=True):
        generator = torch.Generator(device).manual_seed(int(child.generate_state(1, np.uint64)[0] >> 1))
        if start is None:
            x = system.initial(n, generator, device)
        else:
            x = torch.from_numpy(np.ascontiguousarray(start(n, np.random.default_rng(child)).T)).to(device)
        steps = math.ceil((time - times[0]) / dt - 1e-9)
        step = (time - times[0]) / max(steps, 1)  # at most dt, and a whole number of them
        integrate(system.rate, x, steps=steps, dt=step, diffusivity=system.diffusivity, generator=generator)
        clouds.append(x.T.cpu().numpy().copy())
    return np.concatenate(clouds), np.repeat(np.asarray(times, dtype=np.float64), n)


def system_snapshots(
    system,
    n,
    *,
    dataset,
    seed,
    spec,
    dt=None,
    burn=None,
    per_trajectory=1,
    gap=0.0,
    paths=None,
    scheme=SCHEMES[0],
    train=1.0,
    device="cpu",
    progress=iter,
):
    """One stationary cloud of ``system`` as :class:`Snapshots`.

    Exact draws where the system has a sampler and ``dt`` is not given; otherwise a simulation.

    Args:
        paths: ``{"every": .., "records": ..}`` for whole trajectories instead of single states: row number
            = trajectory x records + record, and records of a trajectory are ``every`` apart in time.
        train: share of the points, with ``paths`` of the trajectories, that is not held out.
    """
    if paths:
        per_trajectory, gap = paths["records"], paths["every"]
        if dt is None or n % per_trajectory or abs(gap / dt - round(gap / dt)) > 1e-6 or round(gap / dt) < 1:
            raise ValueError(
                f"{dataset}: paths need a dt of which every is a multiple, and an n that is a multiple of records; "
                f"got dt {dt}, every {gap}, n {n}, records {per_trajectory}"
            )
    if dt is None and system.has_density:
        x = system.sample(n, np.random.default_rng(seed))
    elif dt is None or burn is None:
        raise ValueError(f"{dataset}: this system has no exact sampler, so give dt and burn")
    else:
        x = stationary_cloud(
            system,
            n,
            dt=dt,
            burn=burn,
            seed=seed,
            per_trajectory=per_trajectory,
            gap=gap,
            ordered=bool(paths),
            scheme=scheme,
            device=device,
            progress=progress,
        )
    meta = {
        "dataset": dataset,
        "dim": system.dim,
        "axes": list(system.axes),
        "space": "state of the system",
        "time_unit": "time unit",
        "seed": seed,
        "system": spec
        | {"parameters": system.parameters, "names": list(system.parameters), "diffusivity": system.diffusivity},
        "equations": ["sde", {"euler-maruyama": "euler-maruyama", "heun": "stochastic-heun"}[scheme]],
    }
    if paths:
        meta["paths"] = {"every": float(paths["every"]), "records": int(paths["records"])}
    records = paths["records"] if paths else 1
    split = split_rows(np.zeros(n // records), train, np.random.default_rng(seed)).repeat(records)
    return Snapshots.build(x, split=split, meta=meta)
