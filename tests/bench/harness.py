"""Time variants of one computation against each other, fairly.

One process; all variants interleaved (A, B, C, A, B, C, ..) after one warm-up round, so that a noisy
neighbour meets them all; CPU seconds, not wall time; median and best of at least five. A ratio is
refused where best and median of either side differ by more than :data:`UNSTEADY`. Outputs are compared
with a reference before anything is timed: a fast wrong variant is the usual result of optimisation.
"""

import ctypes
import gc
import math
import os
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

MIN_ROUNDS = 5
UNSTEADY = 1.7
SHORTEST = 0.1  # CPU seconds; faster variants are called several times in a row
MOST_CALLS = 50

COLUMNS = (
    "path",
    "setting",
    "variant",
    "role",
    "status",
    "cpu_s",
    "cpu_s_best",
    "peak_mb",
    "ratio",
    "pass_ratio",
)
COLUMNS += ("accuracy", "note")


@dataclass
class Variant:
    """One way to compute a case.

    Attributes:
        name, role: role is ``ours``, ``peer`` (a row with a ratio) or ``context`` (timed, no verdict).
        prepare: called once, imports what the variant needs and returns the function to time. An
            ImportError in it makes the row "not installed".
        pass_ratio: CPU seconds of this peer over ours that our side has to reach; NaN for none.
        work: share of the case's work that one call does; times are divided by it.
        compare: whether the output is checked against the reference.
        stated: CPU seconds that were measured elsewhere: the row's status says so, and nothing is called.
        clock: CPU seconds so far; of a GPU wall seconds, since its work is not the CPU's.
        memory: context that measures the ``megabytes`` that a call needs.
        note: what a reader of the row must know.
    """

    name: str
    role: str
    prepare: Callable[[], Callable[[], object]] | None
    pass_ratio: float = math.nan
    work: float = 1.0
    compare: bool = True
    stated: float = math.nan
    clock: Callable[[], float] = time.process_time
    memory: Callable[[], object] = lambda: peak_memory()
    note: str = ""


class Unavailable(Exception):
    """This machine lacks the hardware that a variant needs."""


@dataclass
class Case:
    """Variants of one computation under one setting.

    Attributes:
        path: the hot path, such as ``kde-score``.
        setting: sizes and parameters that define it.
        error: output of a variant -> largest error, or None where there is nothing to compare.
        tolerance: above this error a variant is not timed.
        best_of: name of an extra row -> (variants it is the best of, its pass ratio).
        remark: rows -> a note for all of them, once they are measured.
    """

    path: str
    setting: str
    variants: list
    error: Callable[[object], float] | None = None
    tolerance: float = math.inf
    best_of: dict = field(default_factory=dict)
    remark: Callable[[list], str] | None = None


@dataclass
class Timing:
    """What was measured of one variant."""

    variant: Variant
    status: str = "measured"
    seconds: list = field(default_factory=list)
    peak_mb: float = math.nan
    accuracy: float = math.nan
    note: str = ""

    @property
    def median(self):
        return float(np.median(self.seconds)) if self.seconds else math.nan

    @property
    def best(self):
        return float(np.min(self.seconds)) if self.seconds else math.nan

    @property
    def steady(self):
        return bool(self.seconds) and self.median <= UNSTEADY * self.best


def measure(case, rounds=MIN_ROUNDS, log=print):
    """Time every variant of ``case`` and return its ``benchmark/1`` rows as a list of dicts."""
    if rounds < MIN_ROUNDS:
        raise ValueError(f"expected at least {MIN_ROUNDS} rounds, got {rounds}: a median of fewer means little")
    log(f"{case.path}: {case.setting}")
    timings = [Timing(variant, note=variant.note) for variant in case.variants]
    calls = {}
    for timing in timings:
        calls[timing.variant.name] = _warm_up(case, timing)
    running = [timing for timing in timings if timing.status == "measured"]
    for _ in range(rounds):
        for timing in running:
            function, repeats = calls[timing.variant.name]
            gc.collect()
            start = timing.variant.clock()
            for _ in range(repeats):
                function()
            timing.seconds.append((timing.variant.clock() - start) / repeats / timing.variant.work)
    rows = _rows(case, timings)
    if case.remark is not None:
        said = case.remark(rows)
        log(f"  {said}")
        rows = [row | {"note": _joined(row["note"], said)} for row in rows]
    for row in rows:
        log(line(row))
    return rows


def line(row):
    """One row for a reader."""
    told = f"  {row['variant']:<34} {row['status']:<14} "
    if row["status"] == "stated":
        told += f"{row['cpu_s']:9.4f} s, not measured here"
    elif row["status"] == "measured":
        told += f"{row['cpu_s']:9.4f} s (best {row['cpu_s_best']:.4f}) {row['peak_mb']:8.1f} MB"
        told += f"  error {row['accuracy']:.0e}"
    else:
        told += row["note"]
    if row["ratio"] == row["ratio"]:
        told += f"  ratio {row['ratio']:.2f}"
    if row["pass_ratio"] == row["pass_ratio"]:
        told += f" (pass {row['pass_ratio']:g})"
    return told


def _warm_up(case, timing):
    """Prepare, warm up, gauge the memory, check the output; the function and how often to call it."""
    variant = timing.variant
    if math.isfinite(variant.stated):
        timing.status, timing.seconds = "stated", [variant.stated]
        return None
    try:
        function = variant.prepare()
        output = function()
        with variant.memory() as peak:  # the second call: the first one also loads libraries
            start = variant.clock()
            function()
            spent = variant.clock() - start
    except ImportError as error:
        timing.status, timing.note = "not installed", _joined(timing.note, str(error))
        return None
    except Unavailable as error:
        timing.status, timing.note = "not available", _joined(timing.note, str(error))
        return None
    except Exception as error:  # a peer that breaks is a row, not the end of the benchmark
        timing.status, timing.note = "failed", _joined(timing.note, f"{type(error).__name__}: {error}")
        return None
    timing.peak_mb = peak.megabytes
    if case.error is not None and variant.compare:
        timing.accuracy = float(case.error(output))
        if not timing.accuracy <= case.tolerance:
            timing.status = "wrong"
            timing.note = _joined(timing.note, f"error above {case.tolerance:g}, so not timed")
            return None
    return function, min(MOST_CALLS, max(1, math.ceil(SHORTEST / max(spent, 1e-6))))


def _rows(case, timings):
    ours = next((t for t in timings if t.variant.role == "ours"), None)
    rows = []
    for timing in timings:
        variant = timing.variant
        pass_ratio = variant.pass_ratio if variant.role == "peer" else math.nan
        rows.append(_row(case, variant.name, variant.role, timing, ours, pass_ratio))
    for name, (members, pass_ratio) in case.best_of.items():
        candidates = [t for t in timings if t.variant.name in members and t.seconds]
        if candidates:
            best = min(candidates, key=lambda t: t.median)
            row = _row(case, name, "peer", best, ours, pass_ratio)
            rows.append(row | {"note": _joined(best.note, f"the fastest of {len(members)}: {best.variant.name}")})
    return rows


def _row(case, name, role, timing, ours, pass_ratio):
    ratio, note = math.nan, timing.note
    if role == "peer" and timing.seconds and ours is not None and ours.seconds:
        if timing.steady and ours.steady:
            ratio = timing.median / ours.median
        else:
            note = _joined(note, f"no ratio: best and median differ by more than {UNSTEADY}")
    return {
        "path": case.path,
        "setting": case.setting,
        "variant": name,
        "role": role,
        "status": timing.status,
        "cpu_s": timing.median,
        "cpu_s_best": timing.best,
        "peak_mb": timing.peak_mb,
        "ratio": ratio,
        "pass_ratio": pass_ratio,
        "accuracy": timing.accuracy,
        "note": note,
    }


def _joined(*notes):
    return "; ".join(note.split("\n")[0] for note in notes if note)


def exponent(sizes, seconds):
    """b of the power law seconds = a sizes^b that fits best; NaN where fewer than two sizes were measured."""
    measured = np.isfinite(seconds)
    if measured.sum() < 2:
        return math.nan
    return float(np.polyfit(np.log(sizes)[measured], np.log(seconds)[measured], 1)[0])


def frame(rows):
    """Rows as a ``benchmark/1`` frame."""
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    numbers = ["cpu_s", "cpu_s_best", "peak_mb", "ratio", "pass_ratio", "accuracy"]
    return table.astype(dict.fromkeys(numbers, "float64"))


class gpu_memory:
    """Memory of the GPU that a block needed at most, in ``megabytes``."""

    def __enter__(self):
        import torch

        self.megabytes = math.nan
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        self._before = torch.cuda.memory_allocated()
        return self

    def __exit__(self, *_):
        import torch

        torch.cuda.synchronize()
        self.megabytes = (torch.cuda.max_memory_allocated() - self._before) / 2**20


class peak_memory:
    """Memory that a block needed beyond what was there before, in ``megabytes``; NaN off Linux.

    The kernel's high-water mark is reset first. Memory that the allocator had kept is given back before, and
    every larger block is mapped afresh inside, so that the figure depends neither on what was freed before
    nor on how the heap is fragmented. Outside, blocks are reused, as is best for the timing of all variants.
    """

    MAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # parameters of mallopt

    def __enter__(self):
        self.megabytes = math.nan
        gc.collect()
        self._allocator(128 * 1024)
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self._before = _status("VmRSS")
        except OSError:
            self._before = None
        return self

    def __exit__(self, *_):
        if self._before is not None:
            self.megabytes = max(0.0, (_status("VmHWM") - self._before) / 1024)
        self._allocator(32 * 1024**2)

    def _allocator(self, threshold):
        with suppress(OSError, AttributeError):  # another C library: the figure is a lower bound
            libc = ctypes.CDLL("libc.so.6")
            libc.malloc_trim(0)
            libc.mallopt(self.MAP_THRESHOLD, threshold)
            libc.mallopt(self.TRIM_THRESHOLD, 2 * threshold)


def _status(name):
    """A line of /proc/self/status in kB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise OSError(f"no {name}")


def children_clock():
    """CPU seconds of finished child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def conditions():
    """Versions, cores and load that a reader needs beside the numbers."""
    import importlib.metadata
    import platform

    names = ["numpy", "scipy", "torch", "scikit-learn", "POT", "jax", "diffrax", "torchsde", "pykeops"]
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    load = [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else []
    return {"versions": versions, "machine": platform.machine(), "cores": os.cpu_count(), "load": load}
