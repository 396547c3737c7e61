"""The user's own table, parquet or csv: its columns become coordinates exactly as they are."""

import difflib
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from snapdyn import clouds
from snapdyn import times as timing

SEPARATORS = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}
EXACT = {"float_precision": "round_trip"} if pd.__version__ < "3.1" else {}  # exact without from there on
PARQUET_MAGIC = b"PAR1"


class TableError(clouds.DataError):
    """A table cannot be used as it is; the message lists every fault found."""


@dataclass(frozen=True, eq=False)
class Table:
    """A checked table.

    Attributes:
        x: positions ``(n, dim)`` in the user's coordinates.
        axes: the names of its ``dim`` columns.
        times: :class:`snapdyn.times.Times`, None without a time column.
        weight: ``(n,)``, None without a weight column.
        notes: what was left out and why, as sentences.
    """

    x: np.ndarray
    axes: list
    times: timing.Times | None
    weight: np.ndarray | None
    notes: list


def table_snapshots(
    path,
    *,
    dataset,
    seed,
    columns=None,
    time_key=None,
    weight_key=None,
    time_unit=None,
    times=None,
    train=0.7,
    hold_out=None,
):
    """Snapshots of a user's table, in its own coordinates and time unit.

    Args:
        dataset: name of the data set.
        seed: of the split into train and test.
        train: share of each time's rows to train on.
        hold_out: times to hold out whole, see :func:`snapdyn.clouds.assemble`.
        path, columns, time_key, weight_key, time_unit, times: see :func:`read_table`.
    Returns:
        :class:`snapdyn.snapshots.Snapshots`; ``row`` counts the table's rows from 0.
    Raises:
        TableError: with all faults at once.
    """
    options = {"columns": columns, "time_key": time_key, "weight_key": weight_key}
    table = read_table(path, **options, time_unit=time_unit, times=times)
    meta = {
        "dataset": dataset,
        "space": f"columns of {Path(path).name}, as given",
        "source": {"file": Path(path).name, "sha256": checksum(path), "time_key": time_key},
        "notes": table.notes,
    }
    return clouds.assemble(
        table.x,
        axes=table.axes,
        times=table.times,
        weight=table.weight,
        meta=meta,
        seed=seed,
        train=train,
        hold_out=hold_out,
        where=str(path),
    )


def read_table(path, *, columns=None, time_key=None, weight_key=None, time_unit=None, times=None):
    """Read and check a parquet, csv or tsv table (csv and tsv also gzipped).

    Args:
        columns: names of the coordinates; None takes every numeric column but the two keys.
        time_key: column of times or time labels; None says that the rows are one stationary cloud.
        weight_key: column of weights, 0 or more.
        time_unit, times: unit, and mapping from labels to numbers (:func:`snapdyn.times.parse_times`).
    Returns:
        Table.
    Raises:
        TableError: a file that is not what its name says; else every fault of its content at once.
    """
    options = {"columns": columns, "time_key": time_key, "weight_key": weight_key}
    return check_frame(open_frame(path), where=str(path), **options, time_unit=time_unit, times=times)


def check_frame(frame, *, where, columns=None, time_key=None, weight_key=None, time_unit=None, times=None):
    """The :class:`Table` of a frame; ``where`` names its source, the rest is as for :func:`read_table`."""
    keys = [str(key) for key in (time_key, weight_key) if key is not None]
    frame = _with_index(frame, keys + [str(name) for name in columns or []])
    if repeated := sorted(set(frame.columns[frame.columns.duplicated()])):
        refuse(where, [f"columns {repeated} occur more than once; rename them"])
    if len(frame) == 0:
        refuse(where, [f"the table has no rows; its columns are {list(frame)}"])
    axes, notes, faults = _axes(frame, columns, keys)
    faults += [missing("column", key, frame.columns) for key in keys if key not in frame]

    x = np.empty((len(frame), len(axes)))
    for i, name in enumerate(axes):
        x[:, i] = numbers(frame, name, faults)
    there = [key is not None and str(key) in frame for key in (time_key, weight_key)]
    t = times_of(frame, str(time_key), faults, unit=time_unit, times=times) if there[0] else None
    weight = weights_of(frame, str(weight_key), faults) if there[1] else None
    timed = t is not None or time_key is None  # without its times a course would be misjudged as one cloud
    faults += clouds.faults(x, axes=axes, times=t, weight=weight, copies=timed)
    refuse(f"{where} (its rows count from 0)", faults)
    return Table(x, axes, t, weight, notes)


def refuse(where, faults):
    clouds.refuse(where, faults, TableError)


def open_frame(path):
    """Read a table whatever its kind; the name's ending says which, and the content must agree."""
    path = Path(path)
    if not path.is_file():
        raise TableError(f"{path}: no such file; expected a .parquet, .csv or .tsv table")
    name = path.name.lower()
    ending = next((e for e in (".parquet", *sorted(SEPARATORS, key=len)[::-1]) if name.endswith(e)), None)
    if ending is None:
        known = ", ".join([".parquet", *SEPARATORS])
        raise TableError(f"{path}: expected a name that ends in one of {known}")
    if path.stat().st_size == 0:
        raise TableError(f"{path}: the file is empty; expected a {ending} table")
    frame = _open_parquet(path) if ending == ".parquet" else _open_text(path, ending)
    frame.columns = [str(column) for column in frame.columns]
    return frame


def _open_parquet(path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path).to_pandas()
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise TableError(f"{path} is named .parquet but is not a readable parquet file ({reason})") from None


def _open_text(path, ending):
    with path.open("rb") as file:
        head = file.read(4096)
    looks = "parquet" if head.startswith(PARQUET_MAGIC) else "binary" if b"\0" in head else None
    if looks and not ending.endswith(".gz"):
        raise TableError(f"{path} is named {ending} but holds {looks} data; expected text")
    try:
        return pd.read_csv(path, sep=SEPARATORS[ending], low_memory=False, **EXACT)
    except (OSError, EOFError, UnicodeDecodeError, ValueError) as error:  # ValueError: pandas' parser errors
        reason = str(error).splitlines()[0]
        raise TableError(f"{path} is named {ending} but cannot be read as such ({reason})") from None


def missing(kind, name, known):
    """A sentence for a name that is not there: the nearest ones, and all that are."""
    known = [str(other) for other in known]
    folded = {other.casefold(): other for other in known}
    near = [folded[f] for f in difflib.get_close_matches(str(name).casefold(), folded, n=3, cutoff=0.6)]
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"no {kind} {str(name)!r}{hint}; there are {clouds.listing(known) or 'none'}"


def checksum(path):
    """sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def numbers(frame, name, faults):
    """A column as float64 ``(n,)``, NaN where it is none; what is wrong with it joins ``faults``."""
    column = _plain(frame[name])
    if not (_is_numeric(column) or _is_text(column)):
        faults.append(f"column {name!r} holds {column.dtype}, expected numbers")
        return np.full(len(column), np.nan)
    values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    text = np.isnan(values) & column.notna().to_numpy() if _is_text(column) else np.zeros(len(values), bool)
    if text.any():
        first = np.flatnonzero(text)[0]
        faults.append(
            f"column {name!r} has {text.sum()} rows of text where numbers are expected, the first is row "
            f"{first} ({column.iloc[first]!r}); correct them, or leave the column out of `columns`"
        )
    if (bad := ~np.isfinite(values) & ~text).any():
        faults.append(
            f"column {name!r} has {bad.sum()} rows that are NaN or inf, the first is row "
            f"{np.flatnonzero(bad)[0]}; fill them in or remove those rows"
        )
    return values


def times_of(frame, name, faults, *, unit=None, times=None):
    """The :class:`snapdyn.times.Times` of a column, or None; what is wrong with it joins ``faults``."""
    try:
        return timing.parse_times(frame[name], unit=unit, times=times)
    except ValueError as error:
        faults.append(f"time_key {name!r}: {error}")
        return None


def weights_of(frame, name, faults):
    """A column of weights as float64, or None; what is wrong with it joins ``faults``."""
    weight = numbers(frame, name, faults)
    return weight if np.isfinite(weight).all() else None


def _with_index(frame, wanted):
    """A frame whose named index levels are columns again where one of them is asked for."""
    levels = [level for level in frame.index.names if level is not None]
    return frame.reset_index() if any(str(level) in wanted for level in levels) else frame


def _axes(frame, columns, keys):
    """Names of the coordinates, notes on what is left out, faults."""
    if columns is None:
        others = [name for name in frame if name not in keys]
        counter = [name for name in others if name.startswith("Unnamed:") and _is_counter(frame[name])]
        axes = [name for name in others if name not in counter and _is_number_column(frame[name])]
        left_out = [name for name in others if name not in axes]
        notes = [f"columns {left_out} are not numbers or only count the rows; left out"] if left_out else []
        faults = [] if axes else [f"no numeric columns besides {keys}; there are {list(frame)}"]
        return axes, notes, faults
    wanted = [str(name) for name in ([columns] if isinstance(columns, str) else columns)]
    faults = [missing("column", name, frame.columns) for name in wanted if name not in frame]
    if not wanted:
        faults.append("`columns` is empty; name at least one, or leave it out to take all numeric ones")
    if repeated := sorted({name for name in wanted if wanted.count(name) > 1}):
        faults.append(f"`columns` names {repeated} more than once")
    if both := [name for name in wanted if name in keys]:
        faults.append(f"{both} cannot be a coordinate and time_key or weight_key at once")
    return [name for name in dict.fromkeys(wanted) if name in frame], [], faults


def _is_counter(column):
    return column.dtype.kind == "i" and np.array_equal(column.to_numpy(), np.arange(len(column)))


def _is_number_column(column):
    """Numbers, or text that mostly reads as numbers: a stray word must not drop a coordinate silently."""
    column = _plain(column)
    if _is_numeric(column):
        return True
    if not _is_text(column):
        return False
    filled = column.dropna()
    return len(filled) > 0 and bool(pd.to_numeric(filled, errors="coerce").notna().mean() > 0.5)


def _plain(column):
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.astype(column.cat.categories.dtype)
    return column


def _is_numeric(column):
    kinds = pd.api.types
    return kinds.is_numeric_dtype(column) and not (kinds.is_bool_dtype(column) or kinds.is_complex_dtype(column))


def _is_text(column):
    return column.dtype == object or pd.api.types.is_string_dtype(column)
