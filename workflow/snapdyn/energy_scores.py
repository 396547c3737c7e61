r"""Scores of a learned energy: its force against the true one, and its one-step predictions against what came.

Two of them are shares of unexplained variance, in per cent; both are 0 for the truth.

.. math:: L^2\text{-UVP} = 100\,\frac{\tau^2\,\mathbb E_{y\sim\rho_{k+1}} |\hat F(y) - F(y)|^2}{\mathrm{Var}\,\rho_k},
          \qquad BW\text{-UVP} = 100\,\frac{BW^2(\hat\rho_k, \rho_k)}{\tfrac12 \mathrm{Var}\,\rho_k},
          \qquad \mathrm{Var}\,\rho = \mathrm{tr}\,\Sigma_\rho

Equation: ``l2-uvp``, ``bw-uvp``
"""

from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd

from snapdyn import metrics

PER_CENT = ("l2_uvp", "bw_uvp")  # how the metrics in per cent begin
RATIOS = ("mass_ratio",)
# Of what is no distance: pure numbers, and what is in the data's units. Other numbers of a training, losses above all,
# are in the lengths and times that it is done in.
PURE = ("relative_error_diffusivity", "reliability", "relaxed", "plan_gap", "clipped_share", "flipped_share")
PURE += ("kept_step", "last_step", "steps", "pairs", "features")
DIFFUSIVITIES = ("absolute_error_diffusivity",)
LENGTHS = ("step_residual",)
INTERNAL = "internal"
CROWD = 200  # rows of a population where particles interact: the cost of its forces grows with their square


class Scores(NamedTuple):
    """What was measured on the transition to time ``t``, on ``n`` points: ``values`` by metric."""

    t: float
    values: dict
    n: int


def total_variance(x):
    """The trace of the covariance of points ``(n, dim)``, in length^2."""
    return float(np.asarray(x).var(axis=0).sum())


def l2_uvp(learned, true, *, tau, variance, weight=None):
    """Squared error of a force at the points of the later snapshot, in per cent of the earlier one's variance.

    Args:
        learned, true: forces ``(n, dim)`` in length / time, grad V + grad W * rho; with an interaction the total is
            what the data determine.
        tau: time of the step; variance: of the earlier snapshot, see :func:`total_variance`.
        weight: of the points ``(n,)``; even if left out.
    Equation: ``l2-uvp``
    """
    learned, true = np.asarray(learned, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if learned.shape != true.shape or learned.ndim != 2:
        raise ValueError(f"expected two forces (n, dim), got shapes {learned.shape} and {true.shape}")
    if not variance > 0:
        raise ValueError(f"the earlier snapshot has no spread to compare with: its variance is {variance}")
    return float(100 * tau**2 * np.average(np.square(learned - true).sum(1), weights=weight) / variance)


def bw_uvp(predicted, target, weight=None):
    r"""Squared Bures distance of the moments of two clouds, in per cent of *half* the target's variance.

    The half is the paper's; with it a prediction of nothing but the right mean has 200 %.

    Args:
        predicted, target: points ``(n, dim)`` and ``(m, dim)``.
        weight: of the predicted points ``(n,)``; even if left out.
    Equation: ``bw-uvp``
    """
    moments = [
        (np.average(x, axis=0, weights=w), np.atleast_2d(np.cov(x.T, ddof=0, aweights=w)))
        for x, w in ((np.asarray(predicted), weight), (np.asarray(target), None))
    ]
    return float(100 * metrics.gaussian_w2(*moments[0], *moments[1]) ** 2 / (0.5 * total_variance(target)))


def force_scores(snapshots, force, truth, *, split="test", most=None):
    """``l2_uvp`` of every step.

    Args:
        snapshots: of one course.
        force, truth: functions ``(t, x (n, dim)) -> (n, dim)`` of the target's time and its rows, in length / time;
            where particles interact, the rows are the population.
        split: of the rows to score on; most: of them at each time, the first ones; all if not given.
    Returns:
        list of :class:`Scores`.
    """
    found = []
    for source, target in _transitions(snapshots, split):
        start, end, y = source.t[0], target.t[0], target.x[:most]
        value = l2_uvp(force(end, y), truth(end, y), tau=end - start, variance=total_variance(source.x))
        found.append(Scores(float(end), {"l2_uvp": value}, len(y)))
    return found


def interaction_scores(snapshots, force, truth, *, split="test", most=None):
    r"""``l2_uvp_interaction`` of every step: ``l2_uvp`` of the interaction's force alone, whatever no data determine.

    A quadratic part of the kernel pulls towards the population's mean like a potential does, so the multiple of that
    pull that fits the error of all steps best is taken off before the rest is counted.

    Args:
        snapshots, split, most: see :func:`force_scores`.
        force, truth: grad W * rho as functions of the population ``(n, dim) -> (n, dim)``, in length / time.
    Returns:
        list of :class:`Scores`.
    Equation: ``interaction-uvp``
    """
    errors, pulls, ends = [], [], []
    for source, target in _transitions(snapshots, split):
        y = target.x[:most]
        unit = (target.t[0] - source.t[0]) / np.sqrt(total_variance(source.x))
        errors.append(unit * (np.asarray(force(y)) - np.asarray(truth(y))))
        pulls.append(unit * (y - y.mean(0)))
        ends.append(float(target.t[0]))
    means = [[(a * b).sum(1).mean() for a, b in zip(left, pulls, strict=True)] for left in (errors, pulls)]
    free = sum(means[0]) / sum(means[1])
    rest = [np.square(error - free * pull).sum(1).mean() for error, pull in zip(errors, pulls, strict=True)]
    return [
        Scores(end, {"l2_uvp_interaction": float(100 * value)}, len(error))
        for end, value, error in zip(ends, rest, errors, strict=True)
    ]


def common_scores(snapshots, force, truth, *, split="test"):
    r"""Whether the force of one step is that of the others: two numbers of every step.

    ``l2_uvp_elsewhere`` is ``l2_uvp`` of its force at the rows of all other target snapshots. ``l2_uvp_apart`` is half
    of the mean squared difference from the other steps' forces, at the rows of all targets: 0 for one common energy.

    Args:
        snapshots, split: see :func:`force_scores`.
        force, truth: functions ``(t, x (n, dim)) -> (n, dim)`` without an interaction, in length / time.
    Returns:
        list of :class:`Scores`; empty for a single step, which has nothing to compare with.
    Equation: ``common-force``
    """
    steps = [(float(target.t[0]), source, target) for source, target in _transitions(snapshots, split)]
    if len(steps) < 2:
        return []
    x = np.concatenate([target.x for *_, target in steps])
    owner = np.repeat(np.arange(len(steps)), [len(target) for *_, target in steps])
    forces, found = [np.asarray(force(end, x)) for end, *_ in steps], []
    apart = np.zeros((len(steps), len(steps)))
    for j, k in combinations(range(len(steps)), 2):
        apart[j, k] = apart[k, j] = np.square(forces[j] - forces[k]).sum(1).mean()
    for k, (end, source, target) in enumerate(steps):
        tau, variance, others = end - source.t[0], total_variance(source.x), owner != k
        values = {
            "l2_uvp_elsewhere": l2_uvp(forces[k][others], truth(end, x[others]), tau=tau, variance=variance),
            "l2_uvp_apart": float(100 * tau**2 * apart[k].sum() / (len(steps) - 1) / 2 / variance),
        }
        found.append(Scores(end, values, len(x) - len(target)))
    return found


def step_scores(snapshots, move, *, weigh=None, split="test", suffix="", max_points=metrics.MAX_POINTS):
    """``w1`` and ``bw_uvp`` of the true rows of every snapshot but the last, moved one step, against the next ones.

    Args:
        snapshots: of one course.
        move: function ``(x (n, dim), start, end) -> (n, dim)``.
        weigh: function ``x (n, dim) -> (n,)``, how many descendants a row has in a step, where particles divide.
        suffix: to the names of the metrics, which says how the steps are taken, for example ``_implicit``.
        max_points: clouds above it are thinned, see :func:`step_distance`; once, since the mean is over many steps and
            seeds; that raises ``w1`` of unpaired clouds.
    Returns:
        list of :class:`Scores`.
    Raises:
        ValueError: a prediction of another shape, or not finite.
    Equation: ``wasserstein``, ``bw-uvp``
    """
    found = []
    for source, target in _transitions(snapshots, split):
        start, end = source.t[0], target.t[0]
        moved = np.asarray(move(source.x, start, end), dtype=np.float64)
        if moved.shape != source.x.shape or not np.isfinite(moved).all():
            raise ValueError(
                f"expected {len(source)} finite positions at t = {end:g}, got shape {moved.shape} with "
                f"{int((~np.isfinite(moved)).sum())} numbers that are not finite"
            )
        weight = None if weigh is None else metrics.marginal(weigh(source.x))
        distance = step_distance(snapshots, moved, target.x, weight, max_points)
        found.append(Scores(float(end), {"w1" + suffix: distance}, min(len(moved), max_points)))
        found.append(Scores(float(end), {"bw_uvp" + suffix: bw_uvp(moved, target.x, weight)}, len(moved)))
    return found


def step_distance(snapshots, moved, target, weight=None, max_points=metrics.MAX_POINTS):
    """``w1`` of a prediction; clouds above ``max_points`` are thinned, paired ones to the same particles of both.

    Args:
        snapshots: of the course; moved, target: positions of its rows ``(n, dim)`` and ``(m, dim)``.
        weight: of the moved ones ``(n,)``.
    """
    if snapshots.meta.get("flow", {}).get("paired") and len(moved) > max_points:
        few = np.random.default_rng(0).permutation(len(moved))[:max_points]
        moved, target = moved[few], target[few]
    return metrics.wasserstein(moved, target, a=weight, max_points=max_points, repeats=1)


def frame(scores, *, unit, identity, split="test"):
    """The ``metrics/1`` frame of :class:`Scores`: a row for each time and metric, and the mean over times (t NaN).

    Args:
        unit: of length.
        identity: ``paper``, ``experiment``, ``dataset``, ``method`` and ``seed`` of the rows.
    """
    by_metric = {}
    for score in scores:
        for name, value in score.values.items():
            by_metric.setdefault(name, []).append((score.t, value, score.n))
    parts = []
    for name, measured in by_metric.items():
        given = {
            "unit": "%" if name.startswith(PER_CENT) else "1" if name in RATIOS else unit,
            "split": split,
            **identity,
        }
        parts += [metrics.rows({name: value}, t=t, n=n, **given) for t, value, n in measured]
        mean = float(np.mean([value for _, value, _ in measured]))
        parts.append(metrics.rows({name: mean}, n=sum(n for *_, n in measured), **given))
    return pd.concat(parts, ignore_index=True)


def units(names, space):
    """Units of errors of a diffusivity and of what a training says of itself: ``name -> unit``.

    Args:
        space: unit of length of the data.
    """
    known = dict.fromkeys(PURE, "1") | dict.fromkeys(DIFFUSIVITIES, "length^2/time") | dict.fromkeys(LENGTHS, space)
    return {name: known.get(name, INTERNAL) for name in names}


def _transitions(snapshots, split):
    """Rows of each snapshot and of the next one."""
    rows = snapshots.select(split=split)
    for start, end in pairwise(snapshots.times):
        source, target = rows.select(t=start), rows.select(t=end)
        if not (len(source) and len(target)):
            raise ValueError(
                f"the step from t = {start:g} to {end:g} has no {split} rows on one of its sides; hold some out"
            )
        yield source, target
