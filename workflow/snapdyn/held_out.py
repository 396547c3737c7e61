"""Snapshots that are held out whole: which they are, and what is carried to them."""

from typing import NamedTuple

import numpy as np

from snapdyn.snapshots import Snapshots

FROM_FIRST = "rolled-out"  # split of what starts at the first snapshot


class Gap(NamedTuple):
    """A held-out time and the nearest observed times around it."""

    t: float
    before: float
    after: float

    @property
    def share(self):
        """How far between the two it lies, in (0, 1)."""
        return (self.t - self.before) / (self.after - self.before)


def gaps(snapshots):
    """The :class:`Gap` of every held-out time, in order."""
    observed = snapshots.select(split="train").times
    around = [(t, observed[observed < t].max(), observed[observed > t].min()) for t in snapshots.meta["hold_out"]]
    return [Gap(*map(float, one)) for one in sorted(around)]


def carried(snapshots, carry):
    """All rows of the observed snapshot before each held-out time, carried there; and all of the first snapshot.

    The second is left out where both are the same.

    Args:
        carry: function of the rows that start, as snapshots, and of the times ``[start, .., held out]`` that they pass;
            it gives their positions ``(n, dim)`` at the last of them.
    Returns:
        :class:`Snapshots`; ``t`` is the held-out time and ``split`` ``"predicted"`` or ``"rolled-out"``. A row that is
        carried to several times has numbers of its own: that of the row that was moved plus a multiple of
        ``meta["row_stride"]``.
    Raises:
        ValueError: rows that are carried to infinity.
    """
    seen = snapshots.select(split="train")
    first, stride, parts = float(seen.times[0]), int(snapshots.row.max()) + 1, []
    starts = [(gap.before, gap.t, "predicted") for gap in gaps(snapshots)]
    starts += [(first, gap.t, FROM_FIRST) for gap in gaps(snapshots) if gap.before != first]
    for place, (start, t, split) in enumerate(starts):
        here = seen.select(t=start)
        passed = [float(time) for time in seen.times if start <= time < t]
        x = np.asarray(carry(here, [*passed, t]))
        if not np.isfinite(x).all():
            lost = int((~np.isfinite(x).all(1)).sum())
            raise ValueError(f"the fitted model carries {lost} rows to infinity from t = {start:g} to {t:g}")
        rows = {"t": np.full(len(x), t), "weight": here.weight, "row": here.row + place * stride}
        parts.append(Snapshots.build(x, split=np.full(len(x), split, dtype=object), meta={}, **rows))
    whole = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("t", "split", "weight", "row")}
    meta = snapshots.meta | {"row_stride": stride}
    return Snapshots.build(np.concatenate([part.x for part in parts]), meta=meta, **whole)
