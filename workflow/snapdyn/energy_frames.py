"""What a learned energy says of the user's own cells: its potential and drift there, on a grid, and where they go."""

import numpy as np
import pandas as pd

from snapdyn.snapshots import Snapshots

SIDE = 61  # points along each axis of a plane
MARGIN = 0.05  # of the data's range, on both sides
SHARES = (0.25, 0.5, 0.75)  # of a gap, at which its cells are shown on their way


def field(model, snapshots):
    """The ``field/1`` frame of the potential and the drift at every row, and in a plane on a grid as well.

    With an interaction the population at a time is all rows of that time. The grid stands for all times where the field
    does not depend on them; else there is one for every step, at the time of its end.

    Args:
        model: a :class:`snapdyn.energy_models.EnergyModel`.
    Returns:
        the frame, rows first; and its metadata, with ``rows`` (how many of them are data), ``side`` of the grid (0
        without one), and ``timed`` (whether the potential depends on time).
    """
    interacting = model.energy.interaction is not None
    parts = [model.potential_frame(snapshots.t, snapshots.x)]
    side = SIDE if model.dim == 2 else 0
    if side:
        places = plane(snapshots.x)
        for t in model.times[1:] if model.timed or interacting else [None]:
            crowd = snapshots.select(t=t).x if interacting else None
            parts.append(model.potential_frame(t, places, crowd))
    meta = {key: snapshots.meta.get(key) for key in ("dataset", "axes", "space", "time_unit", "seed")}
    meta |= {"dim": model.dim, "timed": model.timed, "rows": len(snapshots), "side": side, "equations": ["free-energy"]}
    return pd.concat(parts, ignore_index=True), meta


def plane(x):
    """Points ``(SIDE^2, 2)`` of a grid over the range of ``x (n, 2)``."""
    low, high = x.min(0), x.max(0)
    sides = np.linspace(low - MARGIN * (high - low), high + MARGIN * (high - low), SIDE).T
    return np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 2)


def on_the_way(model, snapshots, rng):
    """All rows of every observed time on their way to the next one, and one mean gap after the last.

    Returns:
        :class:`snapdyn.snapshots.Snapshots` whose ``t`` is the time between; ``row`` is that of the row that was moved
        plus a multiple of ``meta["row_stride"]``.
    """
    times, stride, parts = model.times, int(snapshots.row.max()) + 1, []
    steps = [
        (start, start + np.array(SHARES) * (end - start)) for start, end in zip(times[:-1], times[1:], strict=True)
    ]
    steps.append((times[-1], np.array([times[-1] + model.clock])))
    for start, wanted in steps:
        here = snapshots.select(t=start)
        path = model.simulate(here.x, np.array([start, *wanted]), rng)[1:]
        for t, x in zip(wanted, path, strict=True):
            row = here.row + len(parts) * stride
            parts.append(Snapshots.build(x, t=np.full(len(x), t), weight=here.weight, row=row, meta={}))
    return Snapshots.joined(parts, meta=snapshots.meta | {"row_stride": stride}, split="predicted")
