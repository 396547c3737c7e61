"""A run that is killed again and again, at random moments, ends with the bytes of one that nobody disturbed."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest
from workflow_helpers import ROOT, SNAKEFILE, contents, surroundings

from snapdyn import artifacts

KILLS = 20

# A recovery by the paper's optimiser, which takes some seconds, and an analysis of a table: model, page, scorecard.
CONFIG = """
run: killed
device: cpu
datasets:
  ou-2d: {n: 800, seeds: 2}
  cloud: {kind: table, path: cloud.csv}
papers:
  fokker-planck-loss:
    experiments:
      killed:
        kind: recovery
        datasets: [ou-2d]
        methods:
          kde-adam: {bandwidth: score, probes: 500, starts: 4, low: -2, high: 4, epochs: 300}
          convolved-l1: {bandwidth: wide, probes: 500}
analyses:
  drift: {dataset: cloud, method: moments, drift: {library: polynomial, degree: 1}, diffusivity: 1.0, seeds: 1}
"""
FITS = "results/killed/fits/fokker-planck-loss/killed"
TARGETS = [f"{FITS}/metrics.parquet", "analyses"]
OPTIMISED = f"{FITS}/ou-2d/kde-adam/parameters.parquet"
PARTIAL = "results/killed/partial/recover/fokker-planck-loss/killed/ou-2d/kde-adam.pt"
LOG = "results/killed/logs/recover/fokker-planck-loss/killed/ou-2d/kde-adam.log"

SIGNALS = [(name, everyone) for name in ("SIGINT", "SIGTERM", "SIGKILL") for everyone in (True, False)]


def prepare(folder):
    folder.mkdir(exist_ok=True)
    points = np.random.default_rng(0).standard_normal((400, 2)) * [1.0, 0.5]
    pd.DataFrame(points, columns=["a", "b"]).to_csv(folder / "cloud.csv", index=False)
    (folder / "killed.yaml").write_text(CONFIG)
    return folder


def heard():
    """Whoever runs the tests in the background may have SIGINT ignored, which children inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(folder, *arguments, checkpoint_every="0.3"):
    """A launch as the leader of a process group of its own; its jobs belong to it."""
    environment = surroundings() | {"PYTHONPATH": str(ROOT / "workflow"), "SNAPDYN_CHECKPOINT_S": checkpoint_every}
    command = [sys.executable, "-m", "snapdyn.launch", "--snakefile", str(SNAKEFILE), "--cores", "2"]
    command += [*(arguments or TARGETS), "--configfile", "killed.yaml"]
    said = (folder / "said.txt").open("w")
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=said, stderr=said, start_new_session=True, preexec_fn=heard
    )


def said(folder):
    return (folder / "said.txt").read_text()


def finish(folder, *arguments, **options):
    running = start(folder, *arguments, **options)
    assert running.wait(timeout=300) == 0, said(folder)[-3000:]


def kill(running, name, everyone):
    """Send the signal to the launch alone, or to its jobs as well, and see it end."""
    (os.killpg if everyone else os.kill)(running.pid, getattr(signal, name))
    running.wait(timeout=30)


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The bytes of a run that nobody disturbed, and how long it took."""
    folder = prepare(tmp_path_factory.mktemp("undisturbed"))
    began = time.monotonic()
    finish(folder)
    found = contents(folder / "results")
    assert {name.rpartition(".")[2] for name in found} >= {"parquet", "png", "pt"} and len(found) > 15
    return found, time.monotonic() - began


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_no_byte(tmp_path, undisturbed):
    expected, span = undisturbed
    assert span < 90
    folder, moments = prepare(tmp_path / "disturbed"), random.Random(4)
    signals = moments.sample(SIGNALS * 4, KILLS)
    while signals:
        running, moment = start(folder), moments.uniform(0, 0.4 * span)
        try:
            running.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            kill(running, *signals.pop())
        else:  # it was done before its time: the next kills are for a new one
            assert running.returncode == 0, said(folder)[-3000:]
            assert contents(folder / "results") == expected
            shutil.rmtree(folder / "results")
        finished = contents(folder / "results")
        finished = {name: total for name, total in finished.items() if "/partial/" not in name and "/." not in name}
        assert finished.items() <= expected.items()  # never a half-written file under its final name
    finish(folder)
    assert contents(folder / "results") == expected
    left = [path for path in (folder / "results").rglob("*") if ".unfinished-" in path.name or "partial" in path.parts]
    assert not left
    finish(folder, *TARGETS, "--dry-run")
    assert "Nothing to be done" in said(folder)


def steps_kept(folder):
    """How far the file says that the optimiser has come, over all seeds."""
    kept = artifacts.load_model(folder / PARTIAL)
    return len(kept["parts"]), sum(loop["step"] for _, _, loop in kept["loops"])


def at_work(running):
    """The one job of a launch."""
    jobs = [child for child in psutil.Process(running.pid).children() if ".recover.py" in child.cmdline()[-1]]
    return jobs[0]


def test_a_fit_goes_on_inside_its_optimiser(tmp_path, undisturbed):
    """Jobs that outlive the launch, or hear of its end, save once more; those killed with it have saved before.

    In the end the job alone is told to end, as by a time limit, and Snakemake tries it once more.
    """
    folder, reached = prepare(tmp_path / "disturbed"), [(0, 0)]
    for name, everyone, every in (("SIGTERM", False, "1000"), ("SIGKILL", False, "1000"), ("SIGKILL", True, "0.2")):
        (folder / LOG).unlink(missing_ok=True)
        running = start(folder, OPTIMISED, checkpoint_every=every)
        wait_for(lambda: (folder / LOG).exists() and "device" in (folder / LOG).read_text())
        wait_for(lambda: not everyone or steps_kept(folder) > reached[-1])  # noqa: B023 - called at once
        time.sleep(0.3)
        kill(running, name, everyone)
        wait_for(lambda: (folder / PARTIAL).exists() and steps_kept(folder) > reached[-1], seconds=20)
        reached.append(steps_kept(folder))
        assert not (folder / OPTIMISED).exists()
    (folder / LOG).unlink()
    running = start(folder, OPTIMISED, "--retries", "1", checkpoint_every="1000")
    wait_for(lambda: (folder / LOG).exists() and "adam goes on" in (folder / LOG).read_text())
    first = (folder / LOG).read_text()
    at_work(running).terminate()
    assert running.wait(timeout=120) == 0, said(folder)[-3000:]
    log = (folder / LOG).read_text()
    assert log.splitlines()[:3] != first.splitlines()[:3] and "Trying to restart job" in said(folder)
    assert "an earlier attempt was stopped; going on from" in log and "adam goes on after step" in log
    found = contents(folder / "results")
    assert found == {path: undisturbed[0][path] for path in found} and len(found) == 4
    assert not (folder / "results/killed/partial").exists()
