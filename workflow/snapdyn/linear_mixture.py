"""The stationary density of a known drift as a Gaussian mixture with fixed centres: one linear problem.

With centres and covariance fixed, div(f p) - D Laplacian(p) is linear in the weights of the mixture (label
``linear-mixture``). From coarse to fine: each level solves for the weights on a lattice of centres, and the next
one keeps only the centres where there is probability.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from scipy.ndimage import binary_dilation

from snapdyn import checkpoint, densities, density_methods, nonnegative

REACH = {1: 7.0, 2: 7.0, 3: 5.0}  # standard deviations beyond which a Gaussian counts as zero
EFFORT = 2e11  # operations that a level may cost; one that would cost more is not tried
BLOCK = 4096  # points whose neighbouring centres are in memory at once
LIMIT = {1: 2000, 2: 20_000, 3: 12_000}  # centroids, unless said otherwise
PROBES = {1: 2.0, 2: 2.0, 3: 1.5}
ESCAPED = 0.01  # share of the probability outside of the box that is refused
UNSOLVED = 0.5  # residual, as a share of the noise term, that is refused: 0.6 and more where nothing is at rest
INSET = 1.5  # standard deviations that the outermost centres stay away from the walls
KEPT = 1e-5  # centres of the next level: where the density exceeds this share of its maximum


@dataclass
class Lattice:
    """Equal Gaussians at some of the points of a rectangular lattice.

    Attributes:
        low: first point of the lattice ``(dim,)``; spacing: ``(dim,)``; shape: points along each axis.
        active: which of the points carry a Gaussian, a mask of ``shape``.
        width: standard deviations along the axes ``(dim,)``.
    """

    low: np.ndarray
    spacing: np.ndarray
    active: np.ndarray
    width: np.ndarray

    def __post_init__(self):
        self.count = int(self.active.sum())
        self.place = np.full(self.active.shape, -1)
        self.place[self.active] = np.arange(self.count)
        reach = np.ceil(REACH[self.active.ndim] * self.width / self.spacing).astype(int)
        self.offsets = [np.arange(-r, r + 1) for r in reach]

    @property
    def centroids(self):
        return self.low + self.spacing * np.argwhere(self.active)

    def nearest(self, x):
        """The lattice point next to each of ``x (n, dim)``, as integers, inside the lattice."""
        return np.clip(np.rint((x - self.low) / self.spacing).astype(int), 0, np.array(self.active.shape) - 1)

    def near(self, x, margin):
        """Whether the lattice point next to each of ``x`` is within ``margin`` points of an active one ``(n,)``."""
        wide = binary_dilation(self.active, np.ones((3,) * self.active.ndim), iterations=margin)
        return wide[tuple(self.nearest(x).T)]

    def tiles(self, x):
        """For blocks of points: rows, places of the active centres nearby, scaled distances along each axis, values.

        Yields:
            a slice of ``x``; centres ``(n, count)`` by number or -1; for each axis (x - c) / width
            ``(n, 1, .., offsets, .., 1)``; the Gaussians' densities ``(n, offsets, ..)``.
        """
        dim = x.shape[1]
        padding = [(len(o) // 2, len(o) // 2) for o in self.offsets]
        padded = np.pad(self.place, padding, constant_values=-1)
        normaliser = np.prod(self.width) * (2 * np.pi) ** (dim / 2)
        for start in range(0, len(x), BLOCK):
            block = slice(start, min(start + BLOCK, len(x)))
            nearest = self.nearest(x[block])
            index, away, values = 0, [], 1 / normaliser
            for axis, offsets in enumerate(self.offsets):
                view = [1] * (dim + 1)
                view[0], view[axis + 1] = len(nearest), len(offsets)
                at = self.low[axis] + self.spacing[axis] * (nearest[:, axis, None] + offsets)
                scaled = (x[block, axis, None] - at) / self.width[axis]
                away.append(scaled.reshape(view))
                values = values * np.exp(-0.5 * scaled**2).reshape(view)
                shifted = (nearest[:, axis, None] + offsets + len(offsets) // 2).reshape(view)
                index = index * padded.shape[axis] + shifted
            yield block, padded.ravel()[index], away, values

    def density(self, x, weights):
        """The mixture's density at ``x (n, dim)``: ``(n,)``."""
        found = np.empty(len(x))
        padded = np.append(weights, 0.0)  # place -1 is no centre
        for block, place, _, values in self.tiles(x):
            found[block] = (values * padded[place]).reshape(len(place), -1).sum(1)
        return found

    def operator(self, x, drift, divergence, diffusion):
        """div(f N_c) - sum_ij D_ij d_i d_j N_c at ``x`` for every active centre c: a sparse matrix ``(n, count)``."""
        parts = []
        for block, place, away, values in self.tiles(x):
            f, slope = drift[block], divergence[block]
            view = (-1,) + (1,) * x.shape[1]
            factor = slope.reshape(view) + np.sum(np.diagonal(diffusion) / self.width**2)
            for i in range(x.shape[1]):
                u = away[i] / self.width[i]
                factor = factor - u * (f[:, i].reshape(view) + diffusion[i, i] * u)
                for j in range(i):
                    if diffusion[i, j]:
                        factor = factor - 2 * diffusion[i, j] * u * away[j] / self.width[j]
            close = sum(a**2 for a in away) < REACH[x.shape[1]] ** 2
            there = (place >= 0) & close
            counts = np.append(0, np.cumsum(there.reshape(len(place), -1).sum(1)))
            entries = np.broadcast_to(values * factor, there.shape)[there]
            parts.append(sparse.csr_matrix((entries, place[there], counts), shape=(len(place), self.count)))
        return sparse.vstack(parts, format="csr")


@dataclass(frozen=True)
class Solution:
    """Centroids ``(k, dim)``, one covariance ``(dim, dim)`` and weights ``(k,)`` above 0 with sum 1, as tensors.

    ``levels`` has the numbers of each level: ``centroids``, ``probes``, ``residual`` of the equation as a share of its
    noise term (norms of averages over a Gaussian's width), ``change`` in total variation from the level before, the
    share ``outside`` of the box, and how the weights were found.
    """

    centroids: torch.Tensor
    covariance: torch.Tensor
    weights: torch.Tensor
    levels: list


def solve(
    drift,
    divergence,
    diffusivity,
    box,
    *,
    finest=None,
    start=12,
    growth=1.4,
    tolerance=2e-3,
    limit=None,
    ratio=0.75,
    probes=None,
    report=None,
):
    """The mixture that ``drift`` and ``diffusivity`` leave at rest in ``box``, refined until it settles.

    Args:
        drift: states ``(n, dim)``, a float64 tensor, to f(x) ``(n, dim)``.
        divergence: the same to div f ``(n,)``.
        diffusivity: D > 0, or a symmetric matrix ``(dim, dim)``.
        box: ``(from, to)`` for each axis; it has to hold nearly all the probability.
        finest: standard deviation of the last level's Gaussians, one number or one for each axis; without it the
            search ends by ``tolerance``.
        start: lattice points along the longest axis on the first level; ``growth``: how much denser each level is
            than the one before.
        tolerance: without ``finest``, the search ends when the total variation between two levels is smaller.
        limit: centroids at most; a level that would have more is not tried.
        ratio: standard deviation of the Gaussians over the distance of their centres.
        probes: points at which the equation is asked for over lattice points, along each axis.
        report: function that is given the dict of numbers of each level.
    Returns:
        a :class:`Solution`.
    Raises:
        ValueError: more than three axes, a drift that is not finite, a box that cannot hold the probability, or an
            equation that no mixture meets.
    Equation: ``linear-mixture``
    """
    box, diffusion, scale = _checked(box, diffusivity, finest)
    dim = len(box)
    limit = limit or LIMIT[dim]
    probes = probes or PROBES[dim]
    last = np.inf if finest is None else ((box[:, 1] - box[:, 0]) / scale).max() * ratio + 1 - 2 * INSET * ratio
    coarse, weights, levels, count = None, None, [], min(start, last)
    while True:
        lattice = _refined(box, _shape(box, count, scale), ratio, coarse, weights)
        if lattice.count > limit:
            break
        solved = _level(lattice, coarse, weights, drift, divergence, diffusion, box, probes)
        if solved is None:
            break
        weights, coarse, facts = solved
        levels.append(facts)
        if report:
            report(facts)
        if count >= last or (finest is None and facts["change"] < tolerance):
            break
        count = min(count * growth, last)
    if coarse is None:
        raise ValueError(f"the first level has {lattice.count} centroids, more than {limit}: take a smaller start")
    if (outside := levels[-1]["outside"]) > ESCAPED:
        raise ValueError(
            f"{100 * outside:.2g} % of the probability leaves the box {box.tolist()} with Gaussians of width "
            f"{coarse.width.round(3).tolist()} ({coarse.count} of at most {limit} centroids): take a larger box or "
            f"more centroids, or check that the drift holds its states together"
        )
    if (residual := levels[-1]["residual"]) > UNSOLVED:
        raise ValueError(
            f"the stationary equation is not met in the box {box.tolist()}: the residual is {residual:.2g} of the "
            f"noise term with Gaussians of width {coarse.width.round(3).tolist()}: check that the drift holds its "
            f"states together, or take narrower Gaussians"
        )
    used = weights > 0
    found = coarse.centroids[used], np.diag(coarse.width**2), weights[used] / weights[used].sum()
    return Solution(*(torch.from_numpy(np.ascontiguousarray(part)) for part in found), levels)


def _level(lattice, coarse, weights, drift, divergence, diffusion, box, probes):
    """The weights of one level, the level itself, and facts about it; None where it is too dear."""
    points, cell = _probes(box, probes, lattice)
    f, slope = _known(drift, divergence, points)
    rows = lattice.operator(points, f, slope, diffusion)
    # averages of the residual over the width of a Gaussian: ripples of the lattice cost nothing
    wide = binary_dilation(lattice.active, np.ones((3,) * len(box)), iterations=2)
    tests = Lattice(lattice.low, lattice.spacing, wide, lattice.width)
    still = np.zeros_like(f)
    average = tests.operator(points, still, np.ones(len(f)), np.zeros_like(diffusion))
    rows = (average.T @ rows).tocsr() * cell
    if coarse and rows.shape[1] * nonnegative.band(rows)[0] ** 2 > EFFORT:
        return None
    found, way = nonnegative.exact(rows)
    now = lattice.density(points, found)
    noise = cell * tests.operator(points, still, slope * 0, diffusion).T @ now
    facts = {
        "centroids": lattice.count,
        "probes": len(points),
        "residual": float(np.linalg.norm(rows @ found) / np.linalg.norm(noise)),
        "change": float(0.5 * np.abs(now - coarse.density(points, weights)).sum() * cell) if coarse else np.inf,
        "outside": float(1 - now.sum() * cell),
        "way": way,
    }
    return found, lattice, facts


def _checked(box, diffusivity, finest):
    """The box, the diffusivity as a matrix, and the lengths that the spacings along the axes are proportional to."""
    box = np.asarray(box, dtype=np.float64)
    dim = len(box)
    if dim > 3:
        raise ValueError(f"a lattice of centroids can fill at most 3 axes, the state has {dim}; use mixture-flow")
    if box.shape != (dim, 2) or not (np.isfinite(box).all() and (box[:, 0] < box[:, 1]).all()):
        raise ValueError(f"expected a box with (from, to) for each axis, got {box.tolist()}")
    matrix = np.asarray(diffusivity, dtype=np.float64)
    matrix = matrix * np.eye(dim) if matrix.ndim == 0 else matrix
    if matrix.shape != (dim, dim) or not np.linalg.eigvalsh((matrix + matrix.T) / 2).min() > 0:
        raise ValueError(f"diffusivity must be above 0, or a positive matrix ({dim}, {dim}); got {diffusivity}")
    # without a choice of the user's, noise crosses the spacings of all axes in the same time
    scale = np.sqrt(np.diagonal(matrix)) if finest is None else np.asarray(finest, dtype=np.float64)
    if scale.size not in (1, dim) or not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ValueError(f"the finest width must be above 0, one number or one for each of {dim} axes; got {finest}")
    return box, matrix, np.broadcast_to(scale, dim)


def _known(drift, divergence, points):
    """Drift and divergence at points, in numpy."""
    x = torch.from_numpy(points)
    values = [function(x).detach().cpu().numpy() for function in (drift, divergence)]
    bad = ~(np.isfinite(values[0]).all(1) & np.isfinite(values[1]))
    if bad.any():
        raise ValueError(f"the drift is not finite at {points[bad][0].tolist()}: choose a box without such points")
    return values


def _shape(box, count, scale):
    """Lattice points along each axis, ``count`` along the longest."""
    sides = (box[:, 1] - box[:, 0]) / scale
    return np.maximum(np.rint(count * sides / sides.max()).astype(int), 4)


def _refined(box, shape, ratio, coarse, weights):
    """The next lattice, with centres where the coarser density is not negligible."""
    spacing = (box[:, 1] - box[:, 0]) / (shape - 1 + 2 * INSET * ratio)
    low = box[:, 0] + INSET * ratio * spacing
    axes = [first + step * np.arange(count) for first, step, count in zip(low, spacing, shape, strict=True)]
    active = np.ones(shape, dtype=bool)
    if coarse:
        points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(box))
        close = coarse.near(points, 2)
        density = np.zeros(len(points))
        density[close] = coarse.density(points[close], weights)
        active = (density > KEPT * density.max()).reshape(active.shape)
    return Lattice(low, spacing, active, ratio * spacing)


def _probes(box, ratio, lattice):
    """Points of a denser lattice, shifted against the walls, around the active centres; and the volume of each."""
    numbers = np.rint(ratio * np.array(lattice.active.shape)).astype(int)
    step = (box[:, 1] - box[:, 0]) / numbers
    axes = [low + size * (np.arange(n) + 0.5) for low, size, n in zip(box[:, 0], step, numbers, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(box))
    return points[lattice.near(points, 2)], step.prod()


class LinearMixture(density_methods.DensityMethod):
    """Method ``linear-mixture``: the density that a known drift leaves at rest; the data only tell where to look.

    Args:
        box: ``(from, to)`` for each axis that holds the density; the data's range with room around it by default.
        width: of the finest Gaussians, one number or one for each axis; refined until it settles by default.
    """

    def __init__(self, *, box=None, width=None, **known):
        super().__init__(**known)
        if self.dynamics is None or self.diffusivity is None:
            raise ValueError("linear-mixture needs a drift without unknown numbers, and a diffusivity")
        self.box, self.width = box, width

    def fit(self, snapshots, *, rng, keep=checkpoint.NOWHERE, progress=None):
        """Fit on the CPU; see :meth:`snapdyn.density_methods.DensityMethod.fit`."""
        return super().fit(snapshots, rng=rng, keep=keep, progress=progress)

    def estimate(self, x, weight, *, rng, progress, **how):
        bar = progress(0, "levels")
        found = solve(
            self.dynamics.drift,
            self.dynamics.divergence,
            self.diffusivity,
            density_methods.box_around(x, self.box, self.axes),
            finest=self.width,
            report=lambda facts: bar.update(),
        )
        density = densities.MixtureFlow.from_mixture(found.centroids, found.covariance, found.weights.log())
        last = found.levels[-1]
        facts = {name: last[name] for name in ("residual", "change", "outside") if np.isfinite(last[name])}
        return density, {"centroids": len(found.weights), "levels": len(found.levels), **facts}, None
