"""Snapshots: points or cells, each seen once, with or without the time at which they were seen."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd


@dataclass(frozen=True, eq=False)
class Snapshots:
    """The in-memory form of the ``snapshots/1`` artifact.

    Attributes:
        x: positions ``(n, dim)`` in the coordinates that ``meta["space"]`` names, float64.
        t: times ``(n,)`` in ``meta["time_unit"]``; NaN throughout for one stationary cloud.
        split: ``"train"`` or ``"test"`` for each row ``(n,)``.
        weight: non-negative prior weight of each row ``(n,)``, 1 where nothing is known.
        row: the row's number in its source ``(n,)``, unique within the data set.
        meta: what defines the content: ``dataset``, ``axes`` (names of the coordinates), ``space``,
            ``time_unit``, ``seed``, and where they exist ``system``, ``affine`` and ``source``.
    """

    x: np.ndarray
    t: np.ndarray
    split: np.ndarray
    weight: np.ndarray
    row: np.ndarray
    meta: dict

    @classmethod
    def build(cls, x, *, meta, t=None, split=None, weight=None, row=None):
        """Snapshots of ``x (n, dim)`` with the contract's defaults for what is left out."""
        x = np.ascontiguousarray(x, dtype=np.float64)
        if x.ndim != 2:
            raise ValueError(f"expected positions (n, dim), got an array of shape {x.shape}")
        n = len(x)
        meta = {"axes": [f"x{i}" for i in range(x.shape[1])], "time_unit": None, **meta}
        return cls(
            x=x,
            t=np.full(n, np.nan) if t is None else np.asarray(t, dtype=np.float64),
            split=np.full(n, "train", dtype=object) if split is None else np.asarray(split, dtype=object),
            weight=np.ones(n) if weight is None else np.asarray(weight, dtype=np.float64),
            row=np.arange(n, dtype=np.int64) if row is None else np.asarray(row, dtype=np.int64),
            meta=meta,
        )

    @classmethod
    def from_frame(cls, frame, meta):
        """Read the ``snapshots/1`` frame and its metadata (see :func:`snapdyn.artifacts.read`)."""
        columns = [f"x{i}" for i in range(meta["dim"])]
        return cls(
            x=np.ascontiguousarray(frame[columns].to_numpy(np.float64)),
            t=frame["t"].to_numpy(np.float64),
            split=frame["split"].to_numpy(object),
            weight=frame["weight"].to_numpy(np.float64),
            row=frame["row"].to_numpy(np.int64),
            meta=meta,
        )

    @classmethod
    def joined(cls, parts, *, meta, split):
        """The rows of several snapshots one after another, all under one ``split`` name."""
        rows = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "t", "weight", "row")}
        return cls.build(rows.pop("x"), split=np.full(len(rows["t"]), split, dtype=object), meta=meta, **rows)

    def frame(self):
        """The ``snapshots/1`` frame."""
        columns = {"row": self.row, "t": self.t, "split": self.split, "weight": self.weight}
        return pd.DataFrame(columns | {f"x{i}": self.x[:, i] for i in range(self.dim)})

    def __len__(self):
        return len(self.x)

    @property
    def dim(self):
        return self.x.shape[1]

    @property
    def timed(self):
        return not np.isnan(self.t).all()

    @property
    def times(self):
        """Distinct times in order; empty for a stationary cloud."""
        return np.unique(self.t[~np.isnan(self.t)])

    def where(self, keep):
        """The rows selected by a boolean mask or by indices."""
        rows = {name: getattr(self, name)[keep] for name in ("x", "t", "split", "weight", "row")}
        return replace(self, **rows)

    def select(self, *, split=None, t=None):
        """The rows of one split and/or one time."""
        keep = np.ones(len(self), dtype=bool)
        if split is not None:
            keep &= self.split == split
        if t is not None:
            keep &= self.t == t
        return self.where(keep)


def split_rows(groups, fraction, rng):
    """Assign ``"train"`` to the first ``floor(fraction n)`` of a random order of each group.

    Groups (the times) are taken in sorted order from one generator, so that the split is the one
    of the published one-step protocol for ``numpy.random.default_rng(seed)``.

    Args:
        groups: the time of each row ``(n,)``; rows with NaN are one group.
        fraction: share of each group that is trained on; 1 puts everything into ``"train"``.
    Returns:
        ``"train"`` or ``"test"`` for each row ``(n,)``, object dtype.
    """
    groups = np.nan_to_num(np.asarray(groups, dtype=np.float64), nan=np.inf)
    split = np.full(len(groups), "test", dtype=object)
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        split[rng.permutation(rows)[: int(np.floor(fraction * len(rows)))]] = "train"
    return split
