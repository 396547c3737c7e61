"""Predictions of fitted models on held-out cells, and their scores."""

from dataclasses import replace

import numpy as np
import pandas as pd

from snapdyn import metrics, verdict
from snapdyn.snapshots import Snapshots

ODE_STEPS = 100
STATIONARY_STEPS = 400


def answer(model, snapshots, rng):
    """What a model makes of the held-out rows: draws of a density, the next snapshot, or the cloud some time later.

    Where whole times are held out, those are predicted (:func:`snapdyn.interpolation.predict`).
    """
    if getattr(model, "kind", None) == "density":
        return draw(model, snapshots, rng)
    if snapshots.meta.get("hold_out"):
        from snapdyn import interpolation

        return interpolation.predict(model, snapshots, rng)
    return (predict if snapshots.timed else regenerate)(model, snapshots, rng)


def draw(model, snapshots, rng):
    """As many draws from a density as there are held-out rows, at every time.

    Returns:
        :class:`Snapshots` with the times and the row numbers of the held-out rows, and equal weights.
    """
    cells = snapshots.select(split="test")
    parts = []
    for t in cells.times if cells.timed else [None]:
        here = cells if t is None else cells.select(t=t)
        x = model.sample(len(here), t, rng)
        parts.append(Snapshots.build(x, t=here.t, row=here.row, meta={}))
    return Snapshots.joined(parts, meta=snapshots.meta, split="predicted")


def move(model, x, start, end, rng):
    """Carry ``x (n, dim)`` from time ``start`` to ``end``.

    By the model's own ``simulate`` if it has one, else along its ``velocity`` (or ``drift``) by the classical
    Runge-Kutta rule.
    """
    if callable(getattr(model, "simulate", None)):
        return np.asarray(model.simulate(x, np.array([start, end]), rng))[-1]
    field = getattr(model, "velocity", None) or model.drift
    x, dt = np.array(x, dtype=np.float64), (end - start) / ODE_STEPS
    for t in start + dt * np.arange(ODE_STEPS):
        k1 = field(np.full(len(x), t), x)
        k2 = field(np.full(len(x), t + dt / 2), x + dt / 2 * k1)
        k3 = field(np.full(len(x), t + dt / 2), x + dt / 2 * k2)
        k4 = field(np.full(len(x), t + dt), x + dt * k3)
        x = x + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def predict(model, snapshots, rng):
    """Held-out cells of every time but the last, moved one snapshot ahead.

    Returns:
        :class:`Snapshots` whose ``t`` is the target time and whose ``row`` is the moved cell's.
    """
    cells = snapshots.select(split="test")
    parts = []
    for start, end in zip(cells.times[:-1], cells.times[1:], strict=True):
        here = cells.select(t=start)
        x = _finite(move(model, here.x, start, end, rng), f"from t = {start:g} to {end:g}")
        parts.append(Snapshots.build(x, t=np.full(len(x), end), weight=here.weight, row=here.row, meta={}))
    return Snapshots.joined(parts, meta=snapshots.meta, split="predicted")


def reversed_moves(snapshots, predicted):
    """The same held-out cells moved as far in the opposite direction: what the arrows are worth if turned round."""
    cells, parts = snapshots.select(split="test"), []
    for start, end in zip(cells.times[:-1], cells.times[1:], strict=True):
        moved = predicted.select(t=end)
        parts.append(replace(moved, x=2 * cells.select(t=start).x - moved.x))
    return Snapshots.joined(parts, meta=predicted.meta, split="predicted")


def regenerate(model, snapshots, rng):
    """Held-out points of a stationary cloud carried long enough to forget where they were.

    The time is five times the one in which a typical point drifts by one standard deviation; the notes of the
    result say how long that is.
    """
    if not callable(getattr(model, "drift", None)):
        raise ValueError(f"a stationary cloud needs a model with drift(t, x), {type(model).__name__} has none")
    cells = snapshots.select(split="test")
    speed = np.median(np.linalg.norm(model.drift(np.zeros(len(cells)), cells.x), axis=1))
    horizon = float(5 * np.linalg.norm(cells.x.std(0)) / max(speed, 1e-300))
    if callable(getattr(model, "diffusivity", None)) or not hasattr(model, "diffusivity"):
        x = move(model, cells.x, 0.0, horizon, rng)
    else:
        x, dt = cells.x.copy(), horizon / STATIONARY_STEPS
        for _ in range(STATIONARY_STEPS):
            x = x + dt * model.drift(None, x) + np.sqrt(2 * model.diffusivity * dt) * rng.standard_normal(x.shape)
    bounded = np.isfinite(x).all(1) & (np.abs(x - cells.x.mean(0)) < 100 * cells.x.std(0)).all(1)
    meta = dict(snapshots.meta)
    meta["notes"] = [
        *meta.get("notes", []),
        f"held-out points carried for a time of {horizon:.4g}",
        f"{int((~bounded).sum())} of {len(x)} points escaped and are left out",
    ]
    if not bounded.any():
        raise ValueError("the fitted drift carries every point to infinity, so there is nothing to predict")
    part = Snapshots.build(x[bounded], weight=cells.weight[bounded], row=cells.row[bounded], meta={})
    return Snapshots.joined([part], meta=meta, split="predicted")


def _finite(x, when):
    if not np.isfinite(x).all():
        raise ValueError(f"the fitted model carries {int((~np.isfinite(x).all(1)).sum())} cells to infinity {when}")
    return x


def score(snapshots, predicted, *, identity):
    """``w1`` and ``w2`` of the predictions for each transition and their mean (``t`` NaN).

    Args:
        identity: paper, experiment, dataset, method and seed of the rows.
    """
    cells = snapshots.select(split="test")
    unit, parts = snapshots.meta.get("space", "data units"), []
    for end in cells.times[1:]:
        there, moved = cells.select(t=end), predicted.select(t=end)
        values = {
            f"w{order}": metrics.wasserstein(
                moved.x,
                there.x,
                order=order,
                a=metrics.marginal(moved.weight),
                b=metrics.marginal(there.weight),
            )
            for order in (1, 2)
        }
        parts.append(metrics.rows(values, split="test", unit=unit, n=len(moved), t=end, **identity))
    each = pd.concat(parts, ignore_index=True)
    mean = each.groupby("metric", sort=False).agg(value=("value", "mean"), n=("n", "sum"))
    for name, line in mean.iterrows():
        parts.append(metrics.rows({name: line["value"]}, split="test", unit=unit, n=int(line["n"]), **identity))
    return pd.concat(parts, ignore_index=True)


def gain(pairs, *, rng):
    """The verdict over all seeds.

    Args:
        pairs: ``(snapshots, predicted)`` of each seed.
    """
    forecasts = []
    for snapshots, predicted in pairs:
        cells = snapshots.select(split="test")
        moved = [predicted.select(t=end).x for end in cells.times[1:]]
        forecasts.append(verdict.Forecast(cells, moved, int(snapshots.meta["seed"])))
    return verdict.forecast_gain(forecasts, rng=rng)


def velocity_cosine(model, field, dim):
    """Median cosine between the model's drift and the true velocity at held-out cells.

    Args:
        field: a ``field/1`` frame with ``t``, ``x0..`` and ``velocity0..``.
    """
    x = field[[f"x{i}" for i in range(dim)]].to_numpy()
    truth = field[[f"velocity{i}" for i in range(dim)]].to_numpy()
    ours = model.drift(field["t"].to_numpy(), x)
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(truth, axis=1)
    return float(np.median((ours * truth).sum(1) / np.maximum(lengths, 1e-300)))
