"""The files that stages hand to each other: parquet frames under a contract, checkpoints, provenance.

What *defines* a file's content travels in its own metadata, so equal content means equal bytes; what
merely *witnesses* a run (versions, host, wall time) is written beside it as ``<file>.provenance.json``.
"""

import io
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from snapdyn import writing

METADATA_KEY = b"snapdyn"

INT, FLOAT, TEXT = "int64", "float64", "string"


@dataclass(frozen=True)
class Contract:
    """What a kind of file must hold.

    Attributes:
        columns: name -> type of every required column. A name that ends in ``*`` stands for one column
            per dimension: ``x*`` is ``x0 .. x{dim-1}``, with ``dim`` taken from the metadata.
        optional: columns that may be there as well, in the same notation.
        missing: columns in which NaN means "not applicable"; everywhere else a value must be finite.
        unique: columns that together may not repeat.
        may_be_empty: whether no rows is an answer too.
    """

    columns: dict
    optional: dict
    missing: frozenset = frozenset()
    unique: tuple = ()
    may_be_empty: bool = False

    def expand(self, columns, dim):
        for name, kind in columns.items():
            if name.endswith("*"):
                yield from ((f"{name[:-1]}{i}", kind) for i in range(dim))
            else:
                yield name, kind


CONTRACTS = {
    "snapshots/1": Contract(
        {"row": INT, "t": FLOAT, "split": TEXT, "weight": FLOAT, "x*": FLOAT}, {}, frozenset({"t"}), ("row",)
    ),
    "courses/1": Contract(
        {"course": TEXT, "row": INT, "t": FLOAT, "split": TEXT, "weight": FLOAT, "x*": FLOAT},
        {},
        unique=("course", "row"),
    ),
    "trajectories/1": Contract({"particle": INT, "step": INT, "t": FLOAT, "x*": FLOAT}, {}),
    "couplings/1": Contract({"t_from": FLOAT, "t_to": FLOAT, "row_from": INT, "row_to": INT, "weight": FLOAT}, {}),
    "field/1": Contract(
        {"t": FLOAT, "x*": FLOAT},
        {"log_prob": FLOAT, "score*": FLOAT, "velocity*": FLOAT, "flux*": FLOAT, "residual": FLOAT}
        | {"potential": FLOAT, "drift*": FLOAT},
        frozenset({"t"}),
    ),
    "parameters/1": Contract(
        {"paper": TEXT, "experiment": TEXT, "dataset": TEXT, "method": TEXT, "seed": INT}
        | {"name": TEXT, "estimate": FLOAT, "std_error": FLOAT, "truth": FLOAT, "unit": TEXT},
        {},
        frozenset({"std_error", "truth"}),
        may_be_empty=True,  # a model need not have parameters
    ),
    "metrics/1": Contract(
        {"paper": TEXT, "experiment": TEXT, "dataset": TEXT, "method": TEXT, "seed": INT, "split": TEXT}
        | {"t": FLOAT, "metric": TEXT, "value": FLOAT, "unit": TEXT, "n": INT},
        {},
        frozenset({"t"}),
    ),
    "history/1": Contract({"seed": INT, "member": INT, "step": INT, "term": TEXT, "value": FLOAT, "split": TEXT}, {}),
    "scorecard/1": Contract(
        {"claim": TEXT, "paper": TEXT, "source": TEXT, "experiment": TEXT, "method": TEXT, "metric": TEXT}
        | {"published": FLOAT, "published_spread": FLOAT, "ours": FLOAT, "ours_spread": FLOAT}
        | {"n_seeds": INT, "floor": FLOAT, "floor_kind": TEXT, "verdict": TEXT, "note": TEXT},
        {},
        frozenset({"published", "published_spread", "ours", "ours_spread", "floor"}),
        ("claim",),
    ),
    "figure/1": Contract(
        {"panel": TEXT, "series": TEXT, "x": FLOAT, "y": FLOAT, "low": FLOAT, "high": FLOAT},
        {},
        frozenset({"low", "high"}),
    ),
    "rule-benchmark/1": Contract(
        {"rule": TEXT, "job": TEXT, "wall_s": FLOAT, "cpu_s": FLOAT, "peak_mb": FLOAT}, {}, unique=("rule", "job")
    ),
    "benchmark/1": Contract(
        {"path": TEXT, "setting": TEXT, "variant": TEXT, "role": TEXT, "status": TEXT}
        | {"cpu_s": FLOAT, "cpu_s_best": FLOAT, "peak_mb": FLOAT, "ratio": FLOAT, "pass_ratio": FLOAT}
        | {"accuracy": FLOAT, "note": TEXT},
        {},
        frozenset({"cpu_s", "cpu_s_best", "peak_mb", "ratio", "pass_ratio", "accuracy"}),
    ),
}


class ContractError(ValueError):
    """A file does not hold what its kind promises; the message lists every fault found."""


def problems(frame, kind, meta):
    """All the ways in which ``frame`` breaks the contract ``kind``, as sentences."""
    contract = CONTRACTS[kind]
    starred = any(name.endswith("*") for name in contract.columns)
    dim = meta.get("dim", 0)
    if starred and not (isinstance(dim, int) and dim > 0):
        return [f"metadata 'dim' must be a positive whole number, got {dim!r}"]
    required = dict(contract.expand(contract.columns, dim))
    allowed = required | dict(contract.expand(contract.optional, dim))
    found = []
    if len(frame) == 0 and not contract.may_be_empty:
        found.append("the table has no rows")
    if missing := [name for name in required if name not in frame]:
        found.append(f"missing columns {missing}; it has {list(frame.columns)}")
    if extra := [name for name in frame if name not in allowed]:
        found.append(f"unexpected columns {extra}; allowed are {list(allowed)}")
    for name in (name for name in frame if name in allowed):
        values, wanted = frame[name], allowed[name]
        is_text = pd.api.types.is_string_dtype(values) or values.dtype == object
        got = TEXT if is_text else str(values.dtype)
        if got != wanted:
            found.append(f"column {name!r} must be {wanted}, got {values.dtype}")
        elif wanted == FLOAT and name not in contract.missing:
            bad = np.flatnonzero(~np.isfinite(values.to_numpy()))
            if len(bad):
                found.append(f"column {name!r} has {len(bad)} rows that are not finite, the first is row {bad[0]}")
        elif wanted == TEXT and values.isna().any():
            found.append(f"column {name!r} has {int(values.isna().sum())} empty rows")
    if contract.unique and not set(contract.unique) - set(frame):
        repeats = int(frame.duplicated(list(contract.unique)).sum())
        if repeats:
            found.append(f"columns {list(contract.unique)} must identify a row, {repeats} rows repeat")
    return found


def write(frame, path, kind, meta=None):
    """Write ``frame`` as the parquet artifact ``kind``; refuse what would break its contract.

    Columns are written in the contract's order with its types, without pandas' own metadata.

    Args:
        meta: JSON-able mapping of what defines the content; ``dim`` where the kind has ``x0..``.
    """
    meta = {"contract": kind, **(meta or {})}
    if found := problems(frame, kind, meta):
        raise ContractError(f"refusing to write {path} as {kind}: " + "; ".join(found))
    contract, dim = CONTRACTS[kind], meta.get("dim", 0)
    columns = dict(contract.expand(contract.columns | contract.optional, dim))
    types = {INT: pa.int64(), FLOAT: pa.float64(), TEXT: pa.string()}
    schema = pa.schema([(name, types[columns[name]]) for name in columns if name in frame])
    schema = schema.with_metadata({METADATA_KEY: json.dumps(meta, sort_keys=True).encode()})
    arrays = [pa.array(frame[field.name].to_numpy(), field.type, from_pandas=False) for field in schema]
    with writing.replacing(path) as temporary:
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), temporary, compression="zstd")
    write_provenance(path)


def read(path, kind):
    """Read a parquet artifact and check it against its contract.

    Returns:
        the frame and its metadata.
    Raises:
        ContractError: with every fault at once: not a parquet file, another kind or version, missing,
            extra or mistyped columns, values that are not finite, no rows.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise ContractError(f"{path}: no such file; the rule that writes {kind} has not run") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise ContractError(f"{path} is not a readable parquet file ({error})") from None
    raw = (table.schema.metadata or {}).get(METADATA_KEY)
    if raw is None:
        raise ContractError(f"{path} carries no snapdyn metadata, expected the kind {kind}")
    meta = json.loads(raw)
    if meta.get("contract") != kind:
        raise ContractError(f"{path} is of kind {meta.get('contract')!r}, expected {kind!r}")
    frame = table.to_pandas(ignore_metadata=True)
    if found := problems(frame, kind, meta):
        raise ContractError(f"{path} breaks its contract {kind}: " + "; ".join(found))
    return frame, meta


def write_text(text, path):
    """Write a text file whole or not at all."""
    with writing.replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(value, path):
    """Write JSON with sorted keys, whole or not at all."""
    write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", path)


def save_model(state, path):
    """Save ``state``, a mapping of tensors and plain values, as a model with its provenance."""
    save_state(state, path)
    write_provenance(path)


def save_state(state, path):
    """Save tensors and plain values alone.

    Written through a buffer because the bytes of ``torch.save`` depend on the file's name.
    """
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    with writing.replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def load_model(path):
    """Read a checkpoint onto the CPU: tensors and plain values only, nothing is ever unpickled."""
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            if spoilt := archive.testzip():  # torch itself does not look
                raise ValueError(f"wrong checksum of {spoilt}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ContractError(f"{path}: no such file; give the model.pt of a finished fit") from None
    except Exception as error:  # torch raises many kinds for a file that is no checkpoint
        first = re.split(r"[\n.]", str(error))[0]
        raise ContractError(f"{path} is not a checkpoint of tensors and plain values ({first})") from None


def save_figure(figure, path, frame, meta=None):
    """Save a figure as PDF and PNG with ``<figure>.parquet`` of exactly what it plots.

    Args:
        path: the path without its ending.
        frame: the ``figure/1`` frame that was drawn.
    """
    path = Path(path)
    for suffix, extra in ((".pdf", {"CreationDate": None}), (".png", {})):
        with writing.replacing(path.with_name(path.name + suffix)) as temporary:
            figure.savefig(temporary, metadata=extra)
    write(frame, path.with_name(path.name + ".parquet"), "figure/1", meta)


_witness = {}


def witness(**facts):
    """Add facts about this run to every provenance file that it writes."""
    _witness.update(facts)


def write_provenance(path):
    """Write what this run knows about itself beside ``path``; outside a job there is nothing to say."""
    if _witness:
        facts = {name: fact() if callable(fact) else fact for name, fact in _witness.items()}
        write_json(facts, f"{path}.provenance.json")
