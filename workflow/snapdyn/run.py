"""What a job does before its first line of science: log, seeds, threads, device, provenance, watchdog.

Only the standard library is imported here, so that an ImportError of anything else reaches the log.
"""

import ctypes
import io
import logging
import os
import platform
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path

from snapdyn import __version__, interruption, writing

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt, in malloc.h
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

for _name in THREAD_VARIABLES:  # numerical libraries read them once, when they are imported
    os.environ.setdefault(_name, "1")


class Job:
    """What a script may ask of its surroundings.

    Attributes:
        log: the job's logger; its lines go to the rule's log file.
        threads: threads that the rule was given, for :func:`parallel`.
        rng: numpy ``Generator`` seeded with the rule's parameter ``seed`` (0 where there is none).
        snakemake, interrupted: what the script was given, and what tells that it is to end.
        keep: the job's :class:`snapdyn.checkpoint.Checkpoint` if it has asked for one.
    """

    def __init__(self, snakemake, log, interrupted):
        import numpy as np

        self.log = log
        self.snakemake, self.interrupted, self.keep = snakemake, interrupted, None
        self.threads = snakemake.threads
        self._seed = int(snakemake.params.get("seed", 0))
        self._device_asked = snakemake.config.get("device", "auto")
        self.rng = np.random.default_rng(self._seed)
        self._seed_globals()

    def _seed_globals(self):
        """Seed what libraries draw from behind our back; torch's only where it is in use."""
        import random

        import numpy as np

        random.seed(self._seed)
        np.random.seed(self._seed % 2**32)  # noqa: NPY002 - the global state is the point
        if "torch" in sys.modules:
            sys.modules["torch"].manual_seed(self._seed)

    @cached_property
    def device(self):
        """The torch device of this job, ``"cpu"`` or ``"cuda"``; asking for it imports and seeds torch."""
        return self.device_for(True)

    def device_for(self, able):
        """:attr:`device` where the job's method is ``able`` to use a GPU; else the CPU, whatever is configured."""
        device, why = choose_device(self._device_asked if able else "cpu")
        why = why if able else "the method runs on the CPU only"
        self._seed_globals()
        _witness(device=device, device_because=why)
        self.log.info("device %s: %s", device, why)
        return device

    def progress(self, iterable_or_total, label):
        """A tqdm that draws a bar on a terminal and always leaves a plain line in the log now and then.

        Args:
            iterable_or_total: what to iterate over, or how many ``update()`` calls to expect.
        """
        counted = isinstance(iterable_or_total, int)
        given = {"total": iterable_or_total} if counted else {"iterable": iterable_or_total}
        return _progress_class()(**given, desc=label, log=self.log)


@contextmanager
def job(snakemake):
    """Everything around a job; use as ``with run.job(snakemake) as job:`` and import inside the block.

    The log file gets a header at once, then logging, warnings and the full traceback of whatever ends
    the block. An error ends the process with status 1 and one line on stderr.
    """
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))  # Snakemake has set them to the rule's threads
    if not snakemake.log:
        raise ValueError(f"rule {snakemake.rule} has no 'log:'; give it one, or it cannot say why it failed")
    began, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    wildcards, job = dict(snakemake.wildcards.items()), None
    with (
        _logging_to(snakemake.log[0]) as log,
        interruption.with_parent(log),
        interruption.counted_as_running(),
        interruption.by_signals() as interrupted,
    ):
        try:
            log.info("rule %s %s, snapdyn %s, %s", snakemake.rule, wildcards, __version__, started)
            if slurm_job := os.environ.get("SLURM_JOB_ID"):
                seen = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
                log.info("SLURM job %s on %s, GPUs: %s", slurm_job, platform.node(), seen)
            _witness(
                rule=snakemake.rule,
                wildcards=wildcards,
                started=started,
                wall_s=lambda: round(time.perf_counter() - began, 3),
                commit=lambda: _commit().removesuffix("-dirty") or None,
                dirty=lambda: _commit().endswith("-dirty"),
                versions=_versions,
                host=platform.node(),
                slurm_job=slurm_job,
                platform=platform.platform(),
                device="not asked for",
            )
            yield (job := Job(snakemake, log, interrupted))
            if job.keep:
                job.keep.clear()
            log.info("done in %.1f s", time.perf_counter() - began)
        except KeyboardInterrupt:
            cause = interrupted.signal or "SIGINT"
            log.error("interrupted by %s after %.1f s; %s", cause, time.perf_counter() - began, _put_away(job))
            raise SystemExit(128 + getattr(signal, cause)) from None
        except Exception as error:
            log.exception("failed after %.1f s", time.perf_counter() - began)
            log.info(_put_away(job))
            plain = isinstance(error, ValueError | writing.WriteError)
            message = str(error) if plain else f"{type(error).__name__}: {error}"
            print(f"rule {snakemake.rule}: {message} (log: {snakemake.log[0]})", file=sys.stderr)
            raise SystemExit(1) from None


def _put_away(job):
    """Write down what the job has done so far; returns where the next attempt starts, in words."""
    kept = ""
    if job and job.keep:
        job.keep.save()
        kept = job.keep.summary()
    return f"kept: {kept}; the next attempt goes on from there" if kept else "the next attempt starts anew"


# Read again by snapdyn.progress, to say how far a long job is.
PROGRESS_LINE = "{desc}: {n_fmt}/{total_fmt}, {rate_fmt}, {elapsed} gone, {remaining} left"
SECONDS_BETWEEN_LINES = 5.0


def parallel(function, items, threads):
    """Map ``function`` over ``items`` on a pool of threads.

    Yields:
        the results in the order of ``items``, so that summing them gives the same bits for any ``threads``;
        one at a time, so that nobody has to hold them all. What takes long says in the log how far it is.
        Torch's own threads are one in each, since sums by several of them end in other bits.
    """
    from operator import length_hint

    if threads <= 1:
        yield from _telling(map(function, items), length_hint(items))
        return
    with ThreadPoolExecutor(threads, initializer=_one_thread_of_torch) as pool:
        yield from _telling(pool.map(function, items), length_hint(items))


def _one_thread_of_torch():
    """What :func:`choose_device` sets holds in the thread that called it only."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def _telling(results, total):
    """The same ``results``; a line in the log now and then, none where they take no longer than that."""
    began = said = time.monotonic()
    for n, result in enumerate(results, 1):
        yield result
        if n < total and time.monotonic() - said >= SECONDS_BETWEEN_LINES:
            from tqdm import tqdm

            said = time.monotonic()
            line = tqdm.format_meter(n, total, said - began, prefix="blocks", bar_format=PROGRESS_LINE)
            logging.getLogger("snapdyn").info(line)


def choose_device(asked):
    """Resolve ``device: auto | cpu | cuda`` and make torch's answers repeatable there.

    Returns:
        ``"cpu"`` or ``"cuda"``, and why.
    """
    if asked not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {asked!r}")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    import torch

    torch.set_num_threads(1)  # one thread is what makes the CPU repeatable; see parallel
    _keep_freed_memory()
    if asked == "cpu":
        return "cpu", "the configuration says cpu"
    fault = _cuda_fault(torch)
    if fault is None:
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time
        return "cuda", f"{asked}: {torch.cuda.get_device_name(0)}"
    if asked == "cuda":
        raise ValueError(f"device: cuda was asked for, but {fault}; set device: auto or cpu, or mend that")
    return "cpu", f"auto: {fault}"


def _keep_freed_memory():
    """Let the C library keep what this process frees, since the arrays of one training step are those of the next.

    Left to itself it gives arrays of many megabytes back and has them filled with zeros when it asks for them again: a
    tenth to a third of a training of many members. Elsewhere than with glibc nothing happens.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1)):
            mallopt(parameter, value)


def _cuda_fault(torch):
    """Why CUDA cannot be used, or None if it can."""
    if not torch.cuda.is_available():
        return "torch sees no GPU" if torch.version.cuda else "the installed torch is a CPU build"
    try:
        torch.ones(1, device="cuda").item()  # a GPU may be listed and yet be busy, full or too old
    except RuntimeError as error:
        return f"the GPU does not answer ({str(error).splitlines()[0]})"
    return None


def _progress_class():
    """A tqdm class that reports to a logger; built on demand to keep this module's imports light."""
    from tqdm import tqdm

    class Progress(tqdm):
        seconds_between_lines = SECONDS_BETWEEN_LINES

        def __init__(self, *args, log, **kwargs):
            self._log, self._last = log, time.monotonic()
            self._terminal = sys.stderr.isatty()
            target = sys.stderr if self._terminal else io.StringIO()
            super().__init__(*args, file=target, leave=False, mininterval=0.5, miniters=1, **kwargs)

        def display(self, msg=None, pos=None):
            if self._terminal:
                super().display(msg, pos)
            if time.monotonic() - self._last >= self.seconds_between_lines:
                self._say()

        def close(self):
            if not self.disable:
                self._say()
            super().close()

        def _say(self):
            self._last = time.monotonic()
            self._log.info(self.format_meter(**self.format_dict | {"bar_format": PROGRESS_LINE}))

    return Progress


@contextmanager
def _logging_to(path):
    """Send logging and warnings, and nothing else, to a fresh file at ``path``."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(path, mode="w", encoding="utf-8")
    except OSError as error:
        print(writing.explained(error, path), file=sys.stderr)
        raise SystemExit(1) from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield logging.getLogger("snapdyn")
    finally:
        logging.captureWarnings(False)
        root.setLevel(level)
        root.removeHandler(handler)
        with suppress(OSError):
            handler.close()


class _LogFile(logging.FileHandler):
    """A log that does without what a full disk does not take, so that the job can still say what is wrong."""

    def handleError(self, record):
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def _witness(**facts):
    from snapdyn import artifacts

    artifacts.witness(**facts)


@cache
def _commit():
    """The commit of the checkout this package stands in, with ``-dirty`` if it was edited; or nothing."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    with suppress(OSError, subprocess.SubprocessError):
        here = Path(__file__).parent
        return subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    return ""


def _versions():
    loaded = ("numpy", "scipy", "pandas", "pyarrow", "torch")
    found = {name: sys.modules[name].__version__ for name in loaded if name in sys.modules}
    return {"snapdyn": __version__, "python": platform.python_version()} | found
