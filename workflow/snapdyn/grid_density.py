"""The stationary density of a planar system on a grid: the reference where no closed form is known.

Cells of a rectangle exchange probability through their faces (label ``scharfetter-gummel``), so nothing is lost and
no cell can go below zero, however fine or coarse the grid.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

WALL = 1e-3  # share of the probability in the cells at the walls that tells of a box that is too small
LEAST = 1e-300  # density below which a cell counts as empty
COARSE = 50  # cells along each axis of the grid that finds where the density is large


@dataclass(frozen=True)
class GridDensity:
    """A density on the cells of a rectangle, a smooth function in between.

    Attributes:
        x, y: middles of the cells along both axes, in the user's units.
        density: at the middles of the cells ``(len(x), len(y))``; its sum times the area of a cell is 1.
    """

    x: np.ndarray
    y: np.ndarray
    density: np.ndarray

    @property
    def area(self):
        """Of a cell, in length^2."""
        return float((self.x[1] - self.x[0]) * (self.y[1] - self.y[0]))

    @property
    def points(self):
        """Middles of all cells ``(len(x) len(y), 2)``, in the order of ``density.ravel()``."""
        return np.stack(np.meshgrid(self.x, self.y, indexing="ij"), -1).reshape(-1, 2)

    @cached_property
    def _spline(self):
        from scipy.interpolate import RectBivariateSpline

        return RectBivariateSpline(self.x, self.y, np.log(np.maximum(self.density, LEAST)))

    def _inside(self, at):
        half = np.array([self.x[1] - self.x[0], self.y[1] - self.y[0]]) / 2
        low, high = np.array([self.x[0], self.y[0]]) - half, np.array([self.x[-1], self.y[-1]]) + half
        return ((at >= low - 1e-12) & (at <= high + 1e-12)).all(1)

    def log_prob(self, x):
        """log p ``(n,)`` in nats at points ``(n, 2)``, by a bicubic spline of log p; -inf outside of the box."""
        at = np.asarray(x, dtype=np.float64)
        return np.where(self._inside(at), self._spline.ev(at[:, 0], at[:, 1]), -np.inf)

    def score(self, x):
        """grad log p ``(n, 2)`` at points ``(n, 2)``: the slopes of the same spline; NaN outside of the box."""
        at = np.asarray(x, dtype=np.float64)
        slopes = np.stack([self._spline.ev(at[:, 0], at[:, 1], dx=1), self._spline.ev(at[:, 0], at[:, 1], dy=1)], 1)
        return np.where(self._inside(at)[:, None], slopes, np.nan)

    def sample(self, n, rng):
        """``n`` draws ``(n, 2)``: a cell by its probability, then a place in it, all equally likely."""
        below = np.cumsum(self.density.ravel())
        cell = np.searchsorted(below, below[-1] * rng.uniform(size=n), side="right")
        step = np.array([self.x[1] - self.x[0], self.y[1] - self.y[0]])
        return self.points[cell] + step * (rng.uniform(size=(n, 2)) - 0.5)


def solve(system, box, *, cells=400):
    """The stationary density of a planar ``system`` in ``box``; see :func:`stationary`."""
    return stationary(lambda x: system.drift(None, x), system.diffusivity, box, cells=cells)


def stationary(drift, diffusivity, box, *, cells=400):
    """The density that ``drift`` and ``diffusivity`` leave at rest, by finite volumes with walls that nothing passes.

    The error falls as the square of a cell's side. 400 x 400 cells take a few seconds.

    Args:
        drift: states ``(n, 2)``, a float64 tensor, to f(x) ``(n, 2)``.
        diffusivity: D > 0.
        box: ``((x from, x to), (y from, y to))``; it has to hold nearly all the probability.
        cells: along each axis, one number or two.
    Raises:
        ValueError: not a plane, a drift that is not finite, or a box whose walls touch the probability.
    Equation: ``scharfetter-gummel``
    """
    box = np.asarray(box, dtype=np.float64)
    if box.shape != (2, 2) or not (np.isfinite(box).all() and (box[:, 0] < box[:, 1]).all()):
        raise ValueError(f"a grid needs a plane: expected a box ((from, to), (from, to)), got {box.tolist()}")
    if not diffusivity > 0:
        raise ValueError(f"diffusivity must be above 0, got {diffusivity}")
    shape = tuple(np.broadcast_to(cells, 2).tolist())
    (x, y), step, gain = _rates(drift, diffusivity, box, shape)
    if not np.isfinite(density := _at_rest(gain, _busiest(drift, diffusivity, box, x, y)).reshape(shape)).all():
        raise ValueError(f"no density could be found in the box {box.tolist()}: the drift leads out of it everywhere")
    density /= density.sum() * step.prod()
    walls = np.ones(shape, dtype=bool)
    walls[1:-1, 1:-1] = False
    if (share := density[walls].sum() * step.prod()) > WALL:
        raise ValueError(
            f"{100 * share:.2g} % of the probability lies at the walls of the box {box.tolist()}: take a larger box"
        )
    return GridDensity(x, y, density)


def _rates(drift, diffusivity, box, shape):
    """Middles of the cells along both axes, sides of a cell, and the matrix of rates between the cells.

    Entry (i, j) of the matrix is the rate from cell j to cell i in 1 / time; columns sum to zero.
    """
    from scipy import sparse

    step = (box[:, 1] - box[:, 0]) / shape
    middles = [low + size * (np.arange(count) + 0.5) for low, size, count in zip(box[:, 0], step, shape, strict=True)]
    index = np.arange(shape[0] * shape[1]).reshape(shape)
    rows, columns, rates = [], [], []
    for axis, (before, after) in enumerate(((index[:-1], index[1:]), (index[:, :-1], index[:, 1:]))):
        faces = list(middles)
        faces[axis] = middles[axis][:-1] + step[axis] / 2
        forth, back = _exchange(_on_grid(drift, faces, axis, box) * step[axis] / diffusivity)
        for source, target, rate in ((before, after, forth), (after, before, back)):
            rate = (rate * diffusivity / step[axis] ** 2).ravel()
            rows += [target.ravel(), source.ravel()]
            columns += [source.ravel(), source.ravel()]
            rates += [rate, -rate]
    entries = np.concatenate(rates), (np.concatenate(rows), np.concatenate(columns))
    return middles, step, sparse.csc_matrix(entries, shape=(index.size, index.size))


def _on_grid(drift, axes, component, box):
    """One component of the drift at all points of a grid ``(len(x), len(y))``."""
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    values = drift(torch.from_numpy(points))[:, component].detach().cpu().numpy()
    if not np.isfinite(values).all():
        where = points[~np.isfinite(values)][0].tolist()
        raise ValueError(f"the drift is not finite at {where}, inside the box {box.tolist()}")
    return values.reshape(len(axes[0]), len(axes[1]))


def _exchange(peclet):
    """Rates forth and back through a face, times h^2 / D: B(-P) and B(P) with B(z) = z / (e^z - 1)."""
    size = np.abs(peclet)
    against = np.where(size > 1e-5, size / np.expm1(np.clip(size, 1e-5, 700)), 1 - size / 2)
    along = against + size
    return np.where(peclet > 0, along, against), np.where(peclet > 0, against, along)


def _factors(matrix):
    """Triangular factors of an M-matrix, whose pivots may stay on the diagonal."""
    from scipy.sparse.linalg import splu

    return splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})


def _busiest(drift, diffusivity, box, x, y):
    """Number of the cell where the density is about largest, from a coarse grid and a rough solution."""
    from scipy import sparse

    (coarse_x, coarse_y), _, gain = _rates(drift, diffusivity, box, (COARSE, COARSE))
    slow = 1e-9 * np.abs(gain.diagonal()).max()
    rough = _factors(slow * sparse.identity(gain.shape[0]) - gain).solve(np.ones(gain.shape[0]))
    i, j = np.unravel_index(np.argmax(rough), (COARSE, COARSE))
    return int(np.abs(x - coarse_x[i]).argmin() * len(y) + np.abs(y - coarse_y[j]).argmin())


def _at_rest(gain, pinned):
    """The positive vector that the matrix of rates maps to zero, 1 at the cell ``pinned``, whose equation is left out.

    What remains is an M-matrix: elimination along its diagonal adds terms of one sign only, so no entry is
    negative, and the smallest are as good as the largest.
    """
    kept = np.delete(np.arange(gain.shape[0]), pinned)
    source = gain[:, [pinned]].toarray()[kept, 0]
    solution = np.ones(gain.shape[0])
    solution[kept] = _factors(-gain[kept][:, kept]).solve(source)
    return solution
