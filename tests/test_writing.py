"""Files are there whole or not at all, and a disk that refuses is told in one sentence."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from snapdyn import artifacts, writing

ROWS = 20_000
FRAME = pd.DataFrame(
    {"row": np.arange(ROWS), "t": np.nan, "split": "train", "weight": 1.0}
    | {"x0": np.random.default_rng(0).standard_normal(ROWS)}
)


def figure(path):
    from matplotlib.figure import Figure

    drawn = Figure()
    drawn.subplots().plot([0, 1], [0, 1])
    numbers = {"panel": ["a"], "series": ["s"], "x": [0.0], "y": [0.0], "low": [np.nan], "high": [np.nan]}
    artifacts.save_figure(drawn, path.with_suffix(""), pd.DataFrame(numbers))


def model(path):
    import torch

    artifacts.save_model({"w": torch.arange(1e5)}, path)


WRITERS = {
    "points.parquet": lambda path: artifacts.write(FRAME, path, "snapshots/1", {"dim": 1}),
    "model.pt": model,
    "facts.json": lambda path: artifacts.write_json({"a": "b" * 100_000}, path),
    "picture.pdf": figure,
}


def refuse(number):
    def call(*arguments, **options):
        raise OSError(number, os.strerror(number))

    return call


FAILING = ["tempfile.mkstemp", "Path.mkdir", "os.chmod", "os.fsync", "os.replace"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", FAILING)
def test_whatever_is_refused_nothing_is_lost_and_nothing_is_left(tmp_path, monkeypatch, call, number):
    path = tmp_path / "facts.json"
    path.write_text("before")
    monkeypatch.setattr(f"snapdyn.writing.{call}", refuse(number))
    with pytest.raises(writing.WriteError) as told:
        artifacts.write_json({"after": 1}, path)
    monkeypatch.undo()
    assert f"cannot write {path}: {os.strerror(number)}. " in str(told.value) and told.value.errno == number
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk(tmp_path, monkeypatch, name):
    """The temporary name stands for a device that is full, so every library meets it in its own way."""

    def on_a_full_disk(dir, prefix, suffix):
        temporary = Path(dir) / f"{prefix}x{suffix}"
        temporary.symlink_to("/dev/full")
        return os.open(temporary, os.O_RDWR), str(temporary)

    monkeypatch.setattr("snapdyn.writing.tempfile.mkstemp", on_a_full_disk)
    with pytest.raises(writing.WriteError) as told:
        WRITERS[name](tmp_path / name)
    said = str(told.value)
    assert said.startswith(f"cannot write {tmp_path / name}: No space left on device. Free some space, or work on ")
    assert "(the folder results may be a link to one). Finished results are kept: the same command goes on" in said
    assert not list(tmp_path.iterdir())


LIMITED = """
import resource, sys
sys.path.insert(0, {tests!r})
import test_writing, pathlib
from snapdyn import writing
resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))
for name, write in test_writing.WRITERS.items():
    try:
        write(pathlib.Path(name))
    except writing.WriteError as error:
        print(error)
"""


def test_a_limit_on_the_size_of_files(tmp_path):
    """Beyond the limit the kernel sends SIGXFSZ, which would kill a program that does not ignore it."""
    command = [sys.executable, "-c", LIMITED.format(tests=str(Path(__file__).parent))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for line, name in zip(lines, WRITERS, strict=True):
        assert line.startswith(f"cannot write {name}: File too large. Raise the limit on the size of a file (ulimit")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_turns_read_only_does_not_hide_what_happened(tmp_path, monkeypatch):
    monkeypatch.setattr("snapdyn.writing.os.replace", refuse(errno.EROFS))
    monkeypatch.setattr("snapdyn.writing.Path.unlink", refuse(errno.EROFS))
    with pytest.raises(writing.WriteError, match="Read-only file system. Make it writable, or work"):
        artifacts.write_json({}, tmp_path / "facts.json")
    monkeypatch.undo()
    (left,) = tmp_path.iterdir()
    assert writing.sweep(tmp_path) == [left] and not list(tmp_path.iterdir())


def test_an_error_of_ours_is_not_the_disk_s(tmp_path):
    with pytest.raises(ZeroDivisionError), writing.replacing(tmp_path / "facts.json"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


KILLED = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background have it ignored
from snapdyn import writing
with writing.replacing("deep/metrics.parquet") as temporary:
    temporary.write_bytes(b"half")
    print("writing", flush=True)
    import time; time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_writer_leaves_no_half_file(tmp_path, number):
    writer = subprocess.Popen([sys.executable, "-c", KILLED], cwd=tmp_path, stdout=subprocess.PIPE, stderr=-3)
    assert writer.stdout.readline() == b"writing\n"
    writer.send_signal(number)
    writer.wait(timeout=20)
    assert not (tmp_path / "deep/metrics.parquet").exists()
    left = list((tmp_path / "deep").iterdir())
    assert len(left) == (number == signal.SIGKILL)  # that one nobody can clear away but the next launch
    assert writing.sweep(tmp_path) == left and not list((tmp_path / "deep").iterdir())


def test_only_what_was_left_unfinished_is_swept(tmp_path):
    kept = [tmp_path / name for name in ("metrics.parquet", ".hidden", "my.unfinished-story.md", ".git.parquet")]
    for path in kept:
        path.touch()
    assert writing.sweep(tmp_path) == [] and sorted(tmp_path.iterdir()) == sorted(kept)
    assert writing.sweep(tmp_path / "nowhere") == []


def test_the_results_of_a_run_on_another_disk_are_swept_too(tmp_path):
    (elsewhere := tmp_path / "disk").mkdir()
    (left := elsewhere / ".a.parquet.unfinished-1.parquet").touch()
    (results := tmp_path / "results").mkdir()
    (results / "full").symlink_to(elsewhere)
    assert writing.sweep(results) == [results / "full" / left.name] and not left.exists()


def test_trouble_is_seen_before_anything_runs(tmp_path, monkeypatch):
    assert writing.trouble_with(tmp_path / "results") is None and not list((tmp_path / "results").iterdir())
    (tmp_path / "link").symlink_to("/nowhere/results")
    assert "is a link to /nowhere/results, which is not there" in writing.trouble_with(tmp_path / "link")
    monkeypatch.setattr("snapdyn.writing.os.fsync", refuse(errno.ENOSPC))
    assert "No space left on device. Free some space" in writing.trouble_with(tmp_path / "results")
    monkeypatch.setattr("snapdyn.writing.Path.mkdir", refuse(errno.EROFS))
    assert "Read-only file system. Make it writable" in writing.trouble_with(tmp_path / "results")


def test_waiting_for_the_disk_costs_little(tmp_path):
    began = time.process_time()
    for i in range(50):
        artifacts.write_json({"i": i}, tmp_path / f"{i}.json")
    assert time.process_time() - began < 1
