"""One run at a time, and a killed run leaves nothing that stops the next or changes its bytes."""

import fcntl
import subprocess
import sys
import time

import pytest

SNAKEFILE = """
import os
os.environ["SNAPDYN_PARENT"] = str(os.getpid())

rule all:
    input: "total.txt"

rule part:
    output: "part-{i}.txt"
    log: "logs/part-{i}.log"
    params: seed=lambda wildcards: int(wildcards.i)
    script: "part.py"

rule total:
    input: expand("part-{i}.txt", i=range(4))
    output: "total.txt"
    shell: "cat {input} > {output}"
"""

PART = """
from snapdyn import run

with run.job(snakemake) as job:
    import time
    with open(snakemake.output[0], "w") as file:
        for _ in range(20):
            print(job.rng.random(), file=file, flush=True)
            time.sleep(0.05)
"""


@pytest.fixture
def folder(tmp_path):
    return workflow(tmp_path / "work")


def workflow(folder):
    folder.mkdir()
    (folder / "Snakefile").write_text(SNAKEFILE)
    (folder / "part.py").write_text(PART)
    return folder


def launch(folder, *arguments):
    command = [sys.executable, "-m", "snapdyn.launch", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def end(running):
    """Kill Snakemake; its jobs notice and follow."""
    running.kill()
    running.communicate(timeout=30)


def kill_in_the_middle(folder):
    """Start a run and kill Snakemake, as hard as can be, while its third part is being written."""
    running = launch(folder, "--cores", "2")
    wait_for(lambda: len(list(folder.glob("part-*.txt"))) > 2)
    end(running)
    assert list((folder / ".snakemake/locks").iterdir())  # so the test below does test something


def test_a_killed_run_resumes_and_ends_with_the_same_bytes(folder, tmp_path):
    kill_in_the_middle(folder)
    again = launch(folder, "--cores", "2")
    _, told = again.communicate(timeout=60)
    assert again.returncode == 0, told
    assert "removed the lock of an earlier run" in told
    undisturbed = workflow(tmp_path / "undisturbed")
    assert launch(undisturbed).wait(timeout=60) == 0
    for name in ("total.txt", *(f"part-{i}.txt" for i in range(4))):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()
    dry = launch(folder, "-n")
    assert "Nothing to be done" in "".join(dry.communicate(timeout=60))


def test_a_second_run_is_refused_while_the_first_lives(folder):
    first = launch(folder, "--cores", "1")
    wait_for(lambda: list(folder.glob("part-*.txt")))
    second = launch(folder, "--cores", "1")
    _, told = second.communicate(timeout=30)
    assert second.returncode == 2
    assert f"another run (process {first.pid}) is at work" in told
    dry = launch(folder, "-n")
    assert "total" in "".join(dry.communicate(timeout=30)) and dry.returncode == 0  # looking is allowed
    end(first)


def test_a_plain_snakemake_at_work_keeps_its_lock(folder):
    command = [sys.executable, "-m", "snakemake", "--cores", "1"]
    plain = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
    wait_for(lambda: list(folder.glob("part-*.txt")))
    second = launch(folder)
    _, told = second.communicate(timeout=30)
    assert second.returncode == 2 and f"snakemake (process {plain.pid})" in told
    end(plain)


def test_a_launch_waits_for_the_jobs_of_an_earlier_run(folder):
    (folder / ".snakemake").mkdir()
    with (folder / ".snakemake/snapdyn.jobs").open("a") as orphan:
        fcntl.flock(orphan, fcntl.LOCK_SH)
        waiting = launch(folder)
        assert waiting.stderr.readline() == "waiting for the jobs of an earlier run to end\n"
        assert not list(folder.glob("part-*.txt"))
    assert waiting.communicate(timeout=60) and waiting.returncode == 0


def test_unknown_arguments_are_refused_before_anything_happens(folder):
    mistyped = launch(folder, "--coers", "2")
    assert "--coers" in mistyped.communicate(timeout=30)[1]
    assert mistyped.returncode != 0 and not (folder / ".snakemake").exists()
