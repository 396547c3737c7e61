"""What a job has done so far, kept in a file of its own until the job is done: a job that is stopped goes on.

A job consists of *parts* (the fit of one seed), and a part may run *loops* (an optimiser). Finished parts and
the state of the loop at work are written every few seconds and when the job is interrupted. The file is used
only by a job of the same identity (code, parameters, inputs), read without unpickling, and is no input or output
of any rule.
"""

import hashlib
import json
import logging
import os
import platform
import time
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from snapdyn.interruption import Interruption

SECONDS = float(os.environ.get("SNAPDYN_CHECKPOINT_S", "10"))  # between two savings, at least
SHARE = 50  # and this many times as long as the last one took, so that saving costs at most 2 %

LIBRARIES = ("numpy", "pandas", "scipy", "torch", "scikit-learn", "pysindy", "POT")  # that decide a fit


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def of(job, device):
    """The checkpoint of a job, which :func:`snapdyn.run.job` writes when the job is stopped and clears when it is done.

    Its file stands under ``partial`` as the job's log does under ``logs``.

    Args:
        device: that the job computes on, see :meth:`snapdyn.run.Job.device_for`.
    """
    parts = list(Path(job.snakemake.log[0]).with_suffix(".pt").parts)
    if "logs" in parts:
        parts[parts.index("logs")] = "partial"
    identity = _identity(job.snakemake, device)
    job.keep = Checkpoint(Path(*parts), identity, interruption=job.interrupted, log=job.log)
    return job.keep


def _identity(snakemake, device):
    """A digest of all that decides a job's results: code and data among its inputs, parameters, versions, device."""

    def content(path):
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    facts = {
        "rule": snakemake.rule,
        "wildcards": dict(snakemake.wildcards.items()),
        "params": dict(snakemake.params.items()),
        "inputs": sorted((Path(path).name, content(path)) for path in set(snakemake.input)),
        "versions": {name: _version(name) for name in LIBRARIES},
        "python": platform.python_version(),
        "device": device,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


class Checkpoint:
    """Finished parts and the loop at work of one job.

    Args:
        path: the job's own file; None keeps nothing.
        identity: what the work depends on, as a digest; a file with another one is ignored.
        interruption: what tells that the job is to end; it waits for the next step of a loop.
    """

    def __init__(self, path, identity="", *, interruption=None, log=None):
        self.path, self.identity = path and Path(path), identity
        self.interruption = interruption or Interruption()
        self._log = log or logging.getLogger(__name__)
        self._parts, self._loops = {}, {}
        self._part, self._running, self._saved = "", None, True
        self._due = time.monotonic() + SECONDS
        if self.path and self.path.exists():
            self._load()

    def part(self, name, make):
        """What ``make()`` gives, or gave in an earlier attempt.

        Args:
            name: unique in the job.
            make: returns frames, tensors and plain values, also in tuples, lists and mappings.
        """
        if name in self._parts:
            return _unpacked(self._parts[name])
        self._part = name
        try:
            made = make()
        finally:
            self._part = ""
        if self.path:
            self._parts[name] = _packed(made)
            self._loops = {key: kept for key, kept in self._loops.items() if key[0] != name}
            self._saved = False
            self._save_if_due()
        return made

    @contextmanager
    def loop(self, name, *about):
        """A loop that can be left and entered again: ``with keep.loop("adam", design) as loop:``. Loops do not nest.

        Args:
            name: unique in the part.
            about: tensors that decide what the loop does; a state kept for others is not used.
        Yields:
            a :class:`Loop`, whose ``tick`` is to be called after every step. Steps must be short.
        """
        if not self.path:
            yield Loop(self)
            return
        if self._running:
            raise ValueError(f"loop {name!r} inside the loop {self._running[0][1]!r}: only one can go on later")
        key, digest = (self._part, name), _digest(about)
        kept = self._loops.get(key)
        if kept and kept["about"] != digest:
            self._log.info("%s: what was kept is for other numbers; starting anew", name)
            kept = None
        if kept:
            self._log.info("%s goes on after step %d", name, kept["step"])
        loop = Loop(self, kept)
        self._running = key, digest, loop
        try:
            with self.interruption.waiting():
                yield loop
                self._keep_running()
        finally:
            self._running = None

    def save(self):
        """Write what is new, if anything is; a disk that refuses is no reason to stop the job."""
        if self._saved:
            return
        from snapdyn import artifacts

        began = time.monotonic()
        loops = [[*key, kept] for key, kept in self._loops.items()]
        try:
            artifacts.save_state({"identity": self.identity, "parts": self._parts, "loops": loops}, self.path)
            self._saved = True
        except OSError as error:
            self._log.warning("no checkpoint: %s", error)
        now = time.monotonic()
        self._due = now + max(SECONDS, SHARE * (now - began))

    def clear(self):
        """Forget it all: the job is done."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
            for folder in self.path.parents:
                folder.rmdir()  # until one is not empty

    def summary(self):
        """What is kept, in words; empty if nothing is."""
        said = [f"{len(self._parts)} finished parts"] if self._parts else []
        said += [f"{name} up to step {kept['step']}" for (_, name), kept in self._loops.items()]
        return " and ".join(said) if self._saved else ""

    def _keep_running(self):
        """Take the state of the loop at work, which has just finished a step."""
        key, digest, loop = self._running
        if loop.give:
            self._loops[key] = {"about": digest, "step": loop.done, "state": _mapped(loop.give(), _pack)}
            self._saved = False

    def _ticked(self):
        if self.interruption.signal or time.monotonic() > self._due:
            self._keep_running()
            self.save()
        if self.interruption.signal:
            self.interruption.now()

    def _save_if_due(self):
        if time.monotonic() > self._due:
            self.save()

    def _load(self):
        from snapdyn import artifacts

        try:
            found = artifacts.load_model(self.path)
            if found["identity"] != self.identity:
                self._log.info("%s is not used: code, parameters, inputs or device have changed since", self.path)
                return
            parts, loops = dict(found["parts"]), {(part, name): kept for part, name, kept in found["loops"]}
            _unpacked(parts)
        except (ValueError, KeyError, TypeError, OSError) as error:
            self._log.warning("%s is not used: %s", self.path, error)
            return
        self._parts, self._loops = parts, loops
        self._log.info("an earlier attempt was stopped; going on from %s", self.summary())


class Loop:
    """One run of a loop.

    Attributes:
        done: how many steps lie behind.
        state: what ``tick`` was given after the last of them, on the CPU; None at the start.
    """

    def __init__(self, checkpoint, kept=None):
        self._checkpoint, self.give = checkpoint, None
        self.done, self.state = (kept["step"], _mapped(kept["state"], _cloned)) if kept else (0, None)

    def tick(self, done, give):
        """Say that ``done`` steps are behind, after each of them.

        Args:
            give: a function that returns what later steps need: tensors and plain values in lists and mappings.
        """
        if self._checkpoint.path:
            self.done, self.give = done, give
            self._checkpoint._ticked()


NOWHERE = Checkpoint(None)


def _mapped(value, function):
    """``value`` with ``function`` applied to everything in it that is no list, tuple or mapping."""
    if isinstance(value, dict):
        return {key: _mapped(entry, function) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(entry, function) for entry in value)
    return function(value)


def _cloned(value):
    return value.detach().cpu().clone() if hasattr(value, "detach") else value


def _packed(value):
    """``value`` in what a file takes that is read without unpickling: frames become mappings."""
    return _mapped(value, _pack)


def _pack(value):
    import pandas as pd
    import torch

    if isinstance(value, pd.DataFrame):
        columns = {name: value[name].to_numpy().tolist() for name in value}
        return {"frame": columns, "types": [str(kind) for kind in value.dtypes]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    raise TypeError(f"only frames, tensors and plain values can be kept, got {type(value).__name__}")


def _unpacked(value):
    import pandas as pd

    if isinstance(value, dict) and set(value) == {"frame", "types"}:
        columns = value["frame"]
        return pd.DataFrame(columns).astype(dict(zip(columns, value["types"], strict=True)))
    if isinstance(value, dict):
        return {key: _unpacked(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_unpacked(entry) for entry in value)
    return value


def _digest(tensors):
    """A digest of tensors with their types, shapes and device."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)} {tensor.device.type}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
