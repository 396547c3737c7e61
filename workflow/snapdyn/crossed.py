"""Every split with every start of a training: the two spreads of a score, told apart."""

import numpy as np
import pandas as pd

from snapdyn import forecasts, metrics


def members(seeds, inits=1):
    """``(split, start)`` of every training: each split with a start of its own first, then with the others.

    Args:
        seeds: how many splits; inits: how many starts each of them gets.
    """
    starts = max(inits, 1)
    return [(seed, (seed + shift) % starts if starts > 1 else seed) for seed in range(seeds) for shift in range(starts)]


def score(fitted, snapshots, *, identity, rng):
    """One-step scores of every start on one split, under methods called ``<method>/start=<number>``.

    Args:
        fitted: ``(start, model)`` of the split.
        identity: paper, experiment, dataset, method and seed of the rows.
    """
    parts = []
    for start, model in fitted:
        moved = forecasts.predict(model, snapshots, rng)
        named = identity | {"method": f"{identity['method']}/start={start}"}
        parts.append(forecasts.score(snapshots, moved, identity=named))
    return pd.concat(parts, ignore_index=True)


def spreads(frame, *, identity):
    """``w1_sd_over_splits`` and ``w1_sd_over_starts`` (and of ``w2``) of the mean over transitions.

    Each is a standard deviation (ddof 1) within a start or a split, as the root mean square over the others. It has
    the seed 0 and belongs to all of them.

    Args:
        frame: rows of :func:`score` of all splits.
        identity: paper, experiment, dataset and method of the rows.
    """
    means = frame[frame["t"].isna()]
    values, units, counts = {}, {}, []
    for name, mine in means.groupby("metric", sort=True):
        table = mine.pivot(index="seed", columns="method", values="value").to_numpy()
        if min(table.shape) < 2:
            continue
        values[f"{name}_sd_over_splits"] = metrics.rms(table.std(axis=0, ddof=1))
        values[f"{name}_sd_over_starts"] = metrics.rms(table.std(axis=1, ddof=1))
        units |= dict.fromkeys((f"{name}_sd_over_splits", f"{name}_sd_over_starts"), mine["unit"].iloc[0])
        counts.append(np.isfinite(table).sum())
    if not values:
        return metrics.rows({}, split="test", unit={}, n=0, seed=0, **identity)
    return metrics.rows(values, split="test", unit=units, n=int(counts[0]), seed=0, **identity)
