"""What every cloud of points must satisfy, whatever file it came from, and how it becomes snapshots."""

import numpy as np
import pandas as pd

from snapdyn import snapshots

ENOUGH_POINTS = 2  # a time point with one point has no spread
MANY_DUPLICATES = 0.5  # beyond this the median nearest-neighbour distance, a bandwidth's scale, is zero
SHOWN = 30  # names in one message


class DataError(ValueError):
    """The data cannot be used as they are; the message lists every fault found."""


def refuse(what, faults, error=DataError):
    """Raise one error that names all ``faults`` of ``what``, if there are any."""
    if faults:
        raise error("\n- ".join([f"cannot use {what}:", *faults]))


def listing(items, n=SHOWN):
    """The first few of many items, and how many more there are, for a message."""
    more = f" and {len(items) - n} more" if len(items) > n else ""
    return ", ".join(map(str, items[:n])) + more


def faults(x, *, axes, times=None, weight=None, copies=True):
    """All reasons, as sentences, why a cloud cannot carry any method.

    Args:
        x: positions ``(n, dim)``; an entry that is not finite is another check's business.
        axes: names of the ``dim`` coordinates.
        times: :class:`snapdyn.times.Times` of the rows; None for one stationary cloud.
        weight: weights ``(n,)`` or None.
        copies: whether to look for exact copies among the points of each time.
    """
    if len(x) == 0:
        return ["there are no rows; expected at least two points"]
    found = _constant(x, axes)
    groups = _groups(len(x), times)
    if times is not None and len(groups) < 2:
        found.append(
            f"all rows have the same time ({next(iter(groups))}); expected at least two distinct times, "
            "or no time_key for one stationary cloud"
        )
    if few := [f"{name} ({len(rows)})" for name, rows in groups.items() if len(rows) < ENOUGH_POINTS]:
        found.append(f"fewer than {ENOUGH_POINTS} cells at {listing(few)}; leave that time out or add cells")
    if copies and x.shape[1] and np.isfinite(x).all():
        repeats = _duplicated(x, groups)
        many = {name: r for name, r in repeats.items() if len(r) > 1 and r.mean() > MANY_DUPLICATES}
        found += [
            f"{repeated.sum()} of {len(repeated)} points at {name} are exact copies of another one, so the "
            "bandwidth would be zero; drop the copies, record more digits, or add noise the size of rounding"
            for name, repeated in many.items()
        ]
    if weight is not None:
        found += _weight_faults(weight, groups)
    return found


def notes(x, *, times=None, weight=None):
    """What a reader must know about a usable cloud: repeated points, and mass that is not conserved."""
    groups = _groups(len(x), times)
    said = [
        f"{repeated.sum()} of {len(repeated)} points at {name} are exact copies of another one"
        for name, repeated in _duplicated(x, groups).items()
        if repeated.any()
    ]
    mass = {name: float(len(rows) if weight is None else weight[rows].sum()) for name, rows in groups.items()}
    start = next(iter(mass.values()))
    if not np.allclose(list(mass.values()), start, rtol=1e-9):
        what = "the number of cells" if weight is None else "the summed weight"
        listed = ", ".join(f"{name}: {m:g} ({m / start:.3g})" for name, m in mass.items())
        said.append(
            f"mass changes between snapshots; {what} at each time, and its ratio to the first: {listed}. "
            "Each snapshot is used as a distribution of mass one: growth, death and sampling depth are not "
            "modelled, except by methods of that purpose (jkonet-star-v-unbalanced; weights: growth)"
        )
    return said


def assemble(
    x,
    *,
    axes,
    meta,
    seed,
    train,
    hold_out=None,
    times=None,
    weight=None,
    row=None,
    split=None,
    found=(),
    where="the data",
):
    """Check a cloud, split it into train and test at each time, and describe it.

    Args:
        x: positions ``(n, dim)``, finite.
        axes, times, weight: as for :func:`faults`.
        meta: at least ``dataset`` and ``space``; its ``notes`` come first.
        seed: of the split; kept in the metadata.
        train: share of each time's rows to train on, above 0; 1 leaves no test rows.
        hold_out: times of which every row is held out, while all rows of the others are trained on; ``train`` is not
            used then. Kept in the metadata.
        row: source row numbers ``(n,)``; the position if None.
        split: an existing split ``(n,)`` to keep instead.
        found: faults of the source found so far, to be raised with those of the cloud.
        where: the source's name, for the message.
    Returns:
        :class:`snapdyn.snapshots.Snapshots`.
    Raises:
        DataError: with all faults at once.
    """
    found = [*found, *faults(x, axes=axes, times=times, weight=weight)]
    if split is None:
        split = split_rows(len(x), times, train=train, seed=seed, hold_out=hold_out)
    if not found and not hold_out:
        empty = [name for name, rows in _groups(len(x), times).items() if not (split[rows] == "train").any()]
        if empty:
            found.append(f"train = {train:g} leaves no cell to train on at {listing(empty)}; raise it")
    refuse(where, found)
    labels = {} if times is None else {"labels": [[time, label] for time, label in times.labels.items()]}
    meta = {
        "dim": x.shape[1],
        "axes": list(axes),
        "time_unit": None if times is None else times.unit,
        "seed": int(seed),
        **meta,
        "source": {**labels, **meta.get("source", {})},
        "notes": [*meta.get("notes", []), *notes(x, times=times, weight=weight)],
    }
    if hold_out:
        meta["hold_out"] = sorted(float(t) for t in hold_out)
    t = None if times is None else times.values
    return snapshots.Snapshots.build(x, t=t, split=split, weight=weight, row=row, meta=meta)


def split_rows(n, times, *, train, seed, hold_out=None):
    """``"train"`` or ``"test"`` for each of ``n`` rows, drawn within each time by the one-step protocol.

    With ``hold_out`` nothing is drawn: all rows of those times are ``"test"`` and all others ``"train"``.
    """
    if hold_out:
        return _held_out_times(times, hold_out)
    if not 0 < train <= 1:
        raise DataError(f"expected train, the share of cells to train on, in (0, 1], got {train}")
    t = np.full(n, np.nan) if times is None else times.values
    return snapshots.split_rows(t, train, np.random.default_rng(seed))


def _held_out_times(times, hold_out):
    """The split that holds out whole times, which must lie between others that are observed."""
    if times is None:
        raise DataError("hold_out names times, but these data have none (no time_key)")
    known, wanted = np.unique(times.values), np.asarray(hold_out, dtype=np.float64)
    named = listing([f"{t:g}" for t in known])
    if strange := [f"{t:g}" for t in wanted if t not in known]:
        raise DataError(f"hold_out: no rows at {listing(strange)}; the times are {named}")
    ends = [f"{t:g}" for t in wanted if t in (known[0], known[-1])]
    if ends:
        raise DataError(
            f"hold_out: {listing(ends)} is the first or the last time, and a held-out snapshot needs an observed one "
            f"before and after it; the times are {named}"
        )
    return np.where(np.isin(times.values, wanted), "test", "train").astype(object)


def _groups(n, times):
    """Name of each time, in order -> its rows; a time that lost all its rows is still there."""
    if times is None:
        return {"the cloud": np.arange(n)}
    known = np.union1d(times.values, list(times.labels))
    position = np.searchsorted(known, times.values)
    rows = np.split(np.argsort(position, kind="stable"), np.cumsum(np.bincount(position, minlength=len(known))))
    return {times.name(t): some for t, some in zip(known, rows[:-1], strict=True)}


def _constant(x, axes):
    finite = [column[np.isfinite(column)] for column in x.T]
    flat = [
        name
        for name, column in zip(axes, finite, strict=True)
        if len(column) > 1 and np.ptp(column) <= 1e-12 * np.abs(column).max()
    ]
    if not flat:
        return []
    return [f"constant columns {flat}: they carry no dynamics; leave them out"]


def _duplicated(x, groups):
    return {name: pd.DataFrame(x[rows]).duplicated(keep=False).to_numpy() for name, rows in groups.items()}


def _weight_faults(weight, groups):
    if (bad := ~np.isfinite(weight)).any():
        return [f"{bad.sum()} weights are not finite, the first is row {np.flatnonzero(bad)[0]}"]
    found = []
    if (bad := weight < 0).any():
        row = np.flatnonzero(bad)[0]
        found.append(f"expected weights of 0 or more, {bad.sum()} are negative, first row {row}: {weight[row]:g}")
    if empty := [name for name, rows in groups.items() if len(rows) and not weight[rows].any()]:
        found.append(f"all weights are zero at {listing(empty)}")
    return found
