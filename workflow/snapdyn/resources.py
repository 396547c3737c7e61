"""Files from elsewhere: declared with a checksum, found in a folder or fetched, read into one canonical form.

A resource has one or more *forms*, for example upstream's own arrays and a converted table. The first
form found wins, and whatever the form, :func:`read` returns the same thing.
"""

import hashlib
import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml

ENVIRONMENT = "SNAPDYN_RESOURCES"


class ResourceError(ValueError):
    """A resource is declared wrongly, absent, or not the file that its checksum names."""


@dataclass(frozen=True)
class File:
    """One file of a form; ``file`` is its path inside a resources folder."""

    file: str
    sha256: str
    urls: tuple = ()

    def __post_init__(self):
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"{self.file}: {self.sha256!r} is not a SHA-256 in hexadecimal")


@dataclass(frozen=True)
class Form:
    """One way in which a resource comes: its files, in the order in which ``reader`` takes them."""

    files: tuple
    reader: str
    licence: str
    tested: bool

    def __post_init__(self):
        if self.reader not in READERS:
            raise ValueError(f"no reader is called {self.reader!r}, there are {sorted(READERS)}")


@dataclass(frozen=True)
class Resource:
    """What ``config/resources.yaml`` says about one name."""

    name: str
    description: str
    licence: str
    forms: tuple


class Located(NamedTuple):
    """Files that are there and have the right checksums; ``read(*located)`` reads them."""

    name: str
    paths: tuple
    form: Form


def load(path):
    """Read declarations like those of ``config/resources.yaml`` as a mapping name -> :class:`Resource`."""
    return declare(yaml.safe_load(Path(path).read_text(encoding="utf-8")))


def declare(declarations):
    """Build the resources that a mapping declares, naming everything wrong with them at once."""

    def file(entry):
        return File(**entry | {"urls": tuple(entry.get("urls", ()))})

    def form(entry):
        return Form(**entry | {"files": tuple(map(file, entry["files"]))})

    built, faults = {}, []
    for name, entry in declarations.items():
        try:
            built[name] = Resource(name, **entry | {"forms": tuple(map(form, entry["forms"]))})
        except KeyError as error:
            faults.append(f"{name}: key {error} is missing")
        except (TypeError, ValueError) as error:
            faults.append(f"{name}: {error}")
    if faults:
        raise ResourceError("resources are declared wrongly: " + "; ".join(faults))
    return built


def folders(resources_dir="resources"):
    """Where to look, in order: what SNAPDYN_RESOURCES names, then ``resources_dir``, where downloads go."""
    override = os.environ.get(ENVIRONMENT)
    return [Path(folder) for folder in (override, resources_dir) if folder]


def missing(names, declared, folders):
    """Those of ``names`` that no form in ``folders`` covers; looks at names only, never at contents."""
    return [
        name for name in names if not any(all(_places(form, name, folders)) for form in _named(name, declared).forms)
    ]


def locate(name, declared, folders):
    """Find the first form of a resource that lies in ``folders``, or else download one into the last.

    Args:
        declared: name -> :class:`Resource`, from :func:`load`.
        folders: where to look, in order; a file may lie at ``<folder>/<file>`` or
            ``<folder>/<name>/<file's own name>``.
    Returns:
        :class:`Located`.
    Raises:
        ResourceError: for a file with another checksum, which never falls through to the next form;
            or, if no form could be had, one that tells each URL, checksum and place.
    """
    resource = _named(name, declared)
    for form in resource.forms:
        paths = _places(form, name, folders)
        if all(paths):
            for file, path in zip(form.files, paths, strict=True):
                _verify(file, path)
            return Located(name, tuple(paths), form)
    failures = []
    for form in resource.forms:
        try:
            return Located(name, tuple(_download(form, name, folders)), form)
        except _Unavailable as failure:
            failures.append(str(failure))
    looked = ", ".join(str(folder) for folder in folders)
    raise ResourceError(
        f"resource {name!r} is not in {looked} and could not be downloaded. Any one of these would do:\n"
        + "\n".join(failures)
    )


def read(name, paths, form):
    """Read the files of ``form`` into the canonical form of the resource ``name``."""
    try:
        return READERS[form.reader](*paths)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        told = ", ".join(str(path) for path in paths)
        raise ResourceError(f"resource {name!r}: {form.reader} cannot read {told}: {error}") from error


class _Unavailable(Exception):
    """A form could not be downloaded; the message says what would help."""


def _named(name, declared):
    if name not in declared:
        raise ResourceError(f"no resource is called {name!r}, declared are {sorted(declared)}")
    return declared[name]


def _places(form, name, folders):
    """The path of each file of a form, None for those that are nowhere."""
    return [
        next((path for folder in folders for path in _candidates(file, name, folder) if path.is_file()), None)
        for file in form.files
    ]


def _candidates(file, name, folder):
    return Path(folder) / file.file, Path(folder) / name / Path(file.file).name


def _verify(file, path):
    with open(path, "rb") as content:
        got = hashlib.file_digest(content, "sha256").hexdigest()
    if got != file.sha256:
        raise ResourceError(
            f"{path} ({path.stat().st_size} bytes) has SHA-256 {got}, expected {file.sha256}: "
            "it is truncated, changed or another version; delete it to look further, or put the right one in"
        )


def _download(form, name, folders):
    """Fetch the files of a form that are not there yet, whole and verified or not at all."""
    places, advice = [], []
    for file, place in zip(form.files, _places(form, name, folders), strict=True):
        target = Path(folders[-1]) / file.file
        if place is not None:
            _verify(file, place)
            places.append(place)
        elif reasons := _fetch(file, target):
            advice += [f"  put {file.file} (SHA-256 {file.sha256}) at {target}", *reasons]
        else:
            places.append(target)
    if advice:
        raise _Unavailable("\n".join(advice))
    return places


def _fetch(file, target):
    """Try each URL of a file in turn; returns why all of them failed, or nothing after a success."""
    if not file.urls:
        return ["    (it has no public address)"]
    import pooch
    from requests import RequestException

    pooch.get_logger().setLevel("WARNING")
    reasons = []
    for url in file.urls:
        try:
            pooch.retrieve(
                url,
                known_hash=f"sha256:{file.sha256}",
                fname=target.name,
                path=target.parent,
                downloader=pooch.HTTPDownloader(timeout=60),
            )
            return []
        except (RequestException, OSError, ValueError) as error:
            reasons.append(f"    from {url}: {error}")
    return reasons


def _timed_frame(t, x):
    """The canonical frame of timed points: ``row`` in source order, ``t``, ``x0..``, at float32 precision."""
    x = np.asarray(x, dtype=np.float32).astype(np.float64)
    if x.ndim != 2 or np.shape(t) != x.shape[:1]:
        raise ValueError(f"expected labels (n,) and points (n, dim), got {np.shape(t)} and {x.shape}")
    frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(x.shape[1])])
    frame.insert(0, "row", np.arange(len(x), dtype=np.int64))
    frame.insert(1, "t", np.asarray(t, dtype=np.float64))
    return frame


def _read_timed_parquet(path):
    """Columns ``cell_row``, ``time``, ``z1..``."""
    table = pd.read_parquet(path).sort_values("cell_row")
    if not np.array_equal(table["cell_row"], np.arange(len(table))):
        raise ValueError("cell_row must count the rows from 0 without gaps")
    return _timed_frame(table["time"], table.filter(regex=r"^z\d+$"))


def _read_timed_table(path):
    """A ``.parquet`` or ``.csv`` in the order of its rows: ``time`` or ``samples``, and ``x1..``."""
    table = pd.read_parquet(path) if Path(path).suffix == ".parquet" else pd.read_csv(path)
    times = [name for name in ("time", "samples") if name in table]
    if len(times) != 1:
        raise ValueError(f"expected one column of times, `time` or `samples`, among {list(table)}")
    return _timed_frame(table[times[0]], table.filter(regex=r"^x\d+$"))


def _read_timed_arrays(data, labels):
    """Two ``.npy``: points ``(n, dim)`` and time labels ``(n,)``."""
    return _timed_frame(np.load(labels, allow_pickle=False), np.load(data, allow_pickle=False))


def _read_counts_npz(path):
    """Raw counts in CSR arrays, cells in rows: a mapping of ``counts``, ``genes`` and ``day``."""
    from scipy import sparse

    with np.load(path, allow_pickle=False) as arrays:
        parts = (arrays["data"], arrays["indices"], arrays["indptr"])
        counts = sparse.csr_matrix(parts, shape=tuple(arrays["shape"]))
        return {"counts": counts, "genes": arrays["genes"].astype(str), "day": arrays["day"].astype(float)}


def _read_counts_rda(path):
    """An R ``SummarizedExperiment``, genes in rows, the day in its column data as ``6`` or ``D6``."""
    try:
        import rdata
    except ImportError:
        raise ValueError("this form needs the optional package rdata (pip install rdata)") from None
    from scipy import sparse

    arrays = list(_arrays_in(rdata.read_rda(path)))
    matrix = max((array for array in arrays if np.ndim(array) == 2), key=np.size, default=None)
    if matrix is None or not hasattr(matrix, "coords"):
        raise ValueError("found no matrix of counts with gene names in it")
    labels = (pd.Series(np.ravel(array).astype(str)) for array in arrays if np.size(array) == matrix.shape[1])
    days = (label.str.extract(r"^[Dd]?(\d+)$")[0].astype(float) for label in labels)
    day = next((day for day in days if day.notna().all() and day.nunique() < len(day)), None)
    if day is None:
        raise ValueError(f"found no day for each of its {matrix.shape[1]} cells")
    order = np.argsort(day.to_numpy(), kind="stable")
    counts = sparse.csr_matrix(np.asarray(matrix).T[order].astype(np.int32))
    genes = np.asarray(matrix.coords[matrix.dims[0]]).astype(str)
    return {"counts": counts, "genes": genes, "day": day.to_numpy()[order]}


def _arrays_in(value):
    """Every array inside nested lists, mappings and R objects."""
    if isinstance(value, dict):
        value = list(value.values())
    elif hasattr(value, "__dict__") and not hasattr(value, "shape"):
        value = list(vars(value).values())
    if isinstance(value, list):
        for inner in value:
            yield from _arrays_in(inner)
    elif hasattr(value, "shape"):
        yield value


READERS = {
    "timed-parquet": _read_timed_parquet,
    "timed-table": _read_timed_table,
    "timed-arrays": _read_timed_arrays,
    "counts-npz": _read_counts_npz,
    "counts-rda": _read_counts_rda,
}
