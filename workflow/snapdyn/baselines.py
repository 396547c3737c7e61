"""What a forecast must beat to mean something: predictions of the next snapshot without dynamics.

Each baseline sees the training cells of two snapshots and moves the held-out cells of the first one
step ahead. Two of them ignore the cells that they are given (``floor_kind`` says so): their score is
what reproducing the marginal alone earns, since the target snapshot is seen in training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from snapdyn import metrics
from snapdyn.snapshots import Snapshots


class Prediction(NamedTuple):
    """Predicted positions ``(n, dim)`` and their marginal ``(n,)``, which sums to 1."""

    x: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True, eq=False)
class Step:
    """One transition: training cells of both snapshots, and the held-out cells of the first.

    Attributes:
        source, target: training cells of the snapshot and of the next one.
        cells: held-out cells of the first snapshot, to be moved.
        rng: generator for the baselines that draw.
    """

    source: Snapshots
    target: Snapshots
    cells: Snapshots
    rng: np.random.Generator

    def moved(self, x):
        """The held-out cells at ``x``, with the weights that they came with."""
        return Prediction(x, metrics.marginal(self.cells.weight))

    @cached_property
    def displacements(self):
        """Training cells of the source and where the exact plan sends each, on average, from there.

        The plan is for the squared distance between the weighted clouds, thinned to
        ``metrics.MAX_POINTS`` a side.
        """
        alive = self.source.where(self.source.weight > 0)
        x, a = metrics.thin(alive.x, alive.weight, metrics.MAX_POINTS, self.rng)
        y, b = metrics.thin(self.target.x, self.target.weight, metrics.MAX_POINTS, self.rng)
        plan = metrics.transport_plan(x, y, order=2, a=a, b=b)
        return x, plan @ y / a[:, None] - x


def no_movement(step):
    """Every cell stays where it is."""
    return step.moved(step.cells.x)


def mean_shift(step):
    """Every cell moves by the difference of the two training means."""
    start, end = (np.average(cells.x, axis=0, weights=cells.weight) for cells in (step.source, step.target))
    return step.moved(step.cells.x + end - start)


def affine_gaussian(step):
    r"""The optimal map between the two fitted Gaussians.

    .. math:: x \mapsto m_1 + A (x - m_0), \qquad
              A = S_0^{-1/2} (S_0^{1/2} S_1 S_0^{1/2})^{1/2} S_0^{-1/2}

    Directions in which the source has no spread are not stretched.
    """
    (m0, s0), (m1, s1) = _moments(step.source), _moments(step.target)
    root, inverse = metrics.matrix_power(s0, 0.5), metrics.matrix_power(s0, -0.5)
    matrix = inverse @ metrics.matrix_power(root @ s1 @ root, 0.5) @ inverse
    return step.moved(m1 + (step.cells.x - m0) @ matrix)


def _moments(cells):
    mean = np.average(cells.x, axis=0, weights=cells.weight)
    if len(cells) < 2:
        return mean, np.zeros((cells.dim, cells.dim))
    return mean, np.atleast_2d(np.cov(cells.x, rowvar=False, aweights=cells.weight))


def ot_nearest(step, neighbours=1):
    """Each cell takes the mean displacement of its nearest training cells under the barycentric map."""
    x, displacement = step.displacements
    _, nearest = cKDTree(x).query(step.cells.x, k=range(1, min(neighbours, len(x)) + 1))
    return step.moved(step.cells.x + displacement[nearest].mean(axis=1))


def ot_10_nearest(step):
    """:func:`ot_nearest` with ten neighbours."""
    return ot_nearest(step, neighbours=10)


def resampling(step):
    """Random training cells of the target, as many as there are cells to move; ignores its input."""
    n, target = len(step.cells), step.target
    if np.ptp(target.weight) == 0:
        drawn = step.rng.choice(len(target), n, replace=n > len(target))
    else:
        drawn = step.rng.choice(len(target), n, p=metrics.marginal(target.weight))
    return Prediction(target.x[drawn], np.full(n, 1 / n))


def train_floor(step):
    """All training cells of the target; ignores its input."""
    return Prediction(step.target.x, metrics.marginal(step.target.weight))


@dataclass(frozen=True)
class Baseline:
    """A named prediction; ``floor_kind`` is empty for those that use the cells they are given."""

    predict: Callable[[Step], Prediction]
    floor_kind: str = ""


BASELINES = {
    "no-movement": Baseline(no_movement),
    "mean-shift": Baseline(mean_shift),
    "affine-gaussian": Baseline(affine_gaussian),
    "ot-nearest": Baseline(ot_nearest),
    "ot-10-nearest": Baseline(ot_10_nearest),
    "resampling": Baseline(resampling, "as many training cells of the target; ignores the input"),
    "train-floor": Baseline(train_floor, "all training cells of the target; ignores the input"),
}


def evaluate(snapshots, *, seed, orders=(1, 2), methods=None, paper="shared", experiment="baselines"):
    """Score every baseline on every transition between neighbouring snapshots.

    All held-out cells of a snapshot are moved once and compared with all held-out cells of the next.

    Args:
        snapshots: timed snapshots with a ``train`` and a ``test`` split at every time.
        seed: of the split; it also seeds the baselines that draw.
        orders: 1 for ``w1``, 2 for ``w2``.
        methods: names from :data:`BASELINES`; all of them if left out.
    Returns:
        a ``metrics/1`` frame on the split ``test``: for each method and metric one row a transition,
        ``t`` its target time and ``n`` the number of predicted points, and one row with ``t`` NaN, the
        mean over transitions.
    """
    methods = list(BASELINES) if methods is None else list(methods)
    if unknown := sorted(set(methods) - set(BASELINES)):
        raise ValueError(f"unknown baselines {unknown}; there are {list(BASELINES)}")
    require_both_splits(snapshots)
    shared = {"paper": paper, "experiment": experiment, "seed": seed, "split": "test"}
    shared |= {"dataset": snapshots.meta.get("dataset", "unnamed")}
    shared |= {"unit": snapshots.meta.get("space", "data units")}
    parts, rng = [], np.random.default_rng(seed)
    for start, end in zip(snapshots.times[:-1], snapshots.times[1:], strict=True):
        train, test = snapshots.select(split="train"), snapshots.select(split="test")
        step = Step(train.select(t=start), train.select(t=end), test.select(t=start), rng)
        truth = test.select(t=end)
        for method in methods:
            predicted = BASELINES[method].predict(step)
            values = {f"w{order}": _distance(predicted, truth, order, rng) for order in orders}
            parts.append(metrics.rows(values, method=method, t=end, n=len(predicted.x), **shared))
    each = pd.concat(parts, ignore_index=True)
    return pd.concat([each, mean_over_transitions(each)], ignore_index=True)


def _distance(predicted, truth, order, rng):
    weight = metrics.marginal(truth.weight)
    return metrics.wasserstein(predicted.x, truth.x, order=order, a=predicted.weight, b=weight, rng=rng)


def mean_over_transitions(frame):
    """The rows with ``t`` NaN: the mean over times of each score, ``n`` added up over them."""
    keys = [name for name in metrics.COLUMNS if name not in ("t", "value", "n")]
    mean = frame.groupby(keys, sort=False).agg(value=("value", "mean"), n=("n", "sum")).reset_index()
    return mean.assign(t=np.nan)[list(metrics.COLUMNS)]


def require_both_splits(snapshots):
    """Raise unless there are two snapshots at least, each with training and held-out cells."""
    if len(snapshots.times) < 2:
        raise ValueError(
            f"a forecast needs snapshots at two times at least, the data have {len(snapshots.times)}; "
            "for one stationary cloud use the weak-form residual instead"
        )
    bare = {
        f"{split} at t = {t:g}"
        for t in snapshots.times
        for split in ("train", "test")
        if not np.any((snapshots.t == t) & (snapshots.split == split))
    }
    if bare:
        raise ValueError(f"no cells in {sorted(bare)}; split each snapshot so that both parts have some")
