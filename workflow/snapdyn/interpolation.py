"""Snapshots held out whole: what models make of them from the snapshots around, and what needs no model.

A held-out snapshot is predicted from all rows of the observed one before it, and once more from all rows of the
first, and compared with all its own rows. Nothing of it was seen in training, so that here dynamics are judged, and
not how well a seen marginal is reproduced.
"""

import numpy as np
import pandas as pd

from snapdyn import baselines, forecasts, metrics, verdict
from snapdyn.held_out import FROM_FIRST, carried, gaps
from snapdyn.snapshots import Snapshots

MAX_POINTS = 7000  # of a cloud in a distance: more than in forecasts, since whole snapshots are compared
HALVINGS = 5  # draws of two disjoint halves, whose mean distance is the floor


def predict(model, snapshots, rng):
    """What a model makes of every held-out time; see :func:`snapdyn.held_out.carried`."""
    return carried(snapshots, lambda here, times: _moved(model, here.x, times, rng))


def _moved(model, x, times, rng):
    """``x (n, dim)`` through all ``times`` to the last of them."""
    if callable(getattr(model, "simulate", None)):
        return np.asarray(model.simulate(x, np.array(times), rng))[-1]
    for start, end in zip(times[:-1], times[1:], strict=True):
        x = forecasts.move(model, x, start, end, rng)
    return x


def score(snapshots, predicted, *, identity, rng=None):
    """``w1`` and ``w2`` from the snapshot before, ``w1_rolled`` and ``w2_rolled`` from the first, against all rows.

    Args:
        identity: paper, experiment, dataset, method and seed of the rows.
        rng: of the thinning of clouds above :data:`MAX_POINTS`.
    Returns:
        a ``metrics/1`` frame: a row for each held-out time and metric, and their mean (``t`` NaN).
    """
    parts = []
    for gap in gaps(snapshots):
        there, moved = snapshots.select(t=gap.t), predicted.select(t=gap.t)
        near = _distances(moved.select(split="predicted"), there, rng)
        rolled = moved.select(split=FROM_FIRST)
        far = _distances(rolled, there, rng) if len(rolled) else near
        values = near | {f"{name}_rolled": value for name, value in far.items()}
        parts.append(_rows(values, snapshots, len(moved.select(split="predicted")), gap.t, identity))
    each = pd.concat(parts, ignore_index=True)
    return pd.concat([each, baselines.mean_over_transitions(each)], ignore_index=True)


def _distances(cloud, there, rng):
    marginals = metrics.marginal(cloud.weight), metrics.marginal(there.weight)
    how = {"a": marginals[0], "b": marginals[1], "max_points": MAX_POINTS, "rng": rng}
    return {f"w{order}": metrics.wasserstein(cloud.x, there.x, order=order, **how) for order in (1, 2)}


def _rows(values, snapshots, n, t, identity):
    unit = snapshots.meta.get("space", "data units")
    return metrics.rows(values, split="test", unit=unit, n=n, t=t, **identity)


# What needs no model: each takes the step between the observed neighbours and the share of it


def previous(step, share):
    """The snapshot before, as it is: no movement."""
    return baselines.no_movement(step)


def following(step, share):
    """The snapshot after, as it is."""
    return baselines.train_floor(step)


def ot_interpolation(step, share):
    r"""Displacement interpolation: every pair of the exact plan at its share of the way, with the plan's weight.

    .. math:: \sum_{ij} \pi_{ij}\, \delta_{(1 - s) x_i + s\, y_j}
    """
    sides = (step.source, step.target)
    (x, a), (y, b) = (metrics.thin(side.x, side.weight, MAX_POINTS, step.rng) for side in sides)
    plan = metrics.transport_plan(x, y, order=2, a=a, b=b)
    i, j = np.nonzero(plan)
    return baselines.Prediction((1 - share) * x[i] + share * y[j], metrics.marginal(plan[i, j]))


def affine_part(step, share):
    """Every row its share of the way to its image under the optimal map between two Gaussians."""
    whole = baselines.affine_gaussian(step)
    return step.moved((1 - share) * step.cells.x + share * whole.x)


def gaussian_between(step, share):
    """As many draws as rows before from the Gaussian at that share of the geodesic between two Gaussians."""
    moved = affine_part(step, share)
    mean = np.average(moved.x, axis=0, weights=moved.weight)
    covariance = np.atleast_2d(np.cov(moved.x, rowvar=False, aweights=moved.weight))
    drawn = mean + step.rng.standard_normal(moved.x.shape) @ metrics.matrix_power(covariance, 0.5)
    return baselines.Prediction(drawn, np.full(len(drawn), 1 / len(drawn)))


def half_and_half(step, share):
    """Both neighbours together, weighted by how near they are."""
    parts = (1 - share) * metrics.marginal(step.source.weight), share * metrics.marginal(step.target.weight)
    return baselines.Prediction(np.concatenate([step.source.x, step.target.x]), np.concatenate(parts))


BASELINES = {
    "previous": previous,
    "next": following,
    "ot-interpolation": ot_interpolation,
    "affine-half": affine_part,
    "gaussian-midpoint": gaussian_between,
    "half-and-half": half_and_half,
}


def evaluate_baselines(snapshots, *, seed, methods=None, paper="shared", experiment="baselines"):
    """Score every baseline at every held-out time, and ``two-halves``, the floor: two disjoint halves of the snapshot.

    Args:
        snapshots: with whole times held out.
        seed: of the draws.
        methods: names from :data:`BASELINES`, and ``two-halves``; all by default.
    Returns:
        a ``metrics/1`` frame with ``w1`` and ``w2`` at each held-out time, and their mean (``t`` NaN).
    """
    methods = [*BASELINES, "two-halves"] if methods is None else list(methods)
    if unknown := sorted(set(methods) - {*BASELINES, "two-halves"}):
        raise ValueError(f"unknown baselines {unknown}; there are {[*BASELINES, 'two-halves']}")
    shared = {"paper": paper, "experiment": experiment, "dataset": snapshots.meta.get("dataset", "unnamed")}
    shared |= {"seed": seed}
    rng, seen, parts = np.random.default_rng(seed), snapshots.select(split="train"), []
    for gap in gaps(snapshots):
        there, source = snapshots.select(t=gap.t), seen.select(t=gap.before)
        step = baselines.Step(source, seen.select(t=gap.after), source, rng)
        for method in methods:
            if method == "two-halves":
                values, n = two_halves(there, rng), len(there) // 2
            else:
                cloud = BASELINES[method](step, gap.share)
                values, n = _distances(Snapshots.build(cloud.x, weight=cloud.weight, meta={}), there, rng), len(cloud.x)
            parts.append(_rows(values, snapshots, n, gap.t, shared | {"method": method}))
    each = pd.concat(parts, ignore_index=True)
    return pd.concat([each, baselines.mean_over_transitions(each)], ignore_index=True)


def two_halves(there, rng):
    """Mean distances between two disjoint random halves of a snapshot: what a fresh sample of that size would score."""
    found, size = [], len(there) // 2
    for _ in range(HALVINGS):
        order = rng.permutation(len(there))
        found.append(_distances(there.where(order[:size]), there.where(order[size : 2 * size]), rng))
    return {name: float(np.mean([values[name] for values in found])) for name in found[0]}


def gain(pairs, *, rng):
    """The verdict over all seeds: mean W1 at the held-out times against no movement from the snapshot before.

    Args:
        pairs: ``(snapshots, predicted)`` of each seed.
    Equation: ``gain-interval``
    """
    found = []
    for snapshots, predicted in pairs:
        around = gaps(snapshots)
        wanted = [time for gap in around for time in (gap.before, gap.t)]
        moved = predicted.select(split="predicted")
        found.append(
            verdict.Forecast(
                snapshots.where(np.isin(snapshots.t, wanted)),
                [moved.select(t=gap.t).x for gap in around],
                int(snapshots.meta["seed"]),
                transitions=tuple((gap.before, gap.t) for gap in around),
            )
        )
    return verdict.forecast_gain(found, rng=rng, score="mean W1 at the held-out times")
