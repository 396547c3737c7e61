"""One run at a time, and a killed run leaves nothing that stops the next or changes its bytes."""

import errno
import fcntl
import os
import platform
import signal
import subprocess
import sys
import threading
import time

import pytest

from snapdyn import launch as launcher

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
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, start_new_session=True, preexec_fn=heard, **pipes)


def heard():
    """Whoever runs the tests in the background may have SIGINT ignored, which children inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


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
    assert f"another run (process {first.pid} on {platform.node()}) is at work" in told
    dry = launch(folder, "-n")
    assert "total" in "".join(dry.communicate(timeout=30)) and dry.returncode == 0  # looking is allowed
    end(first)


def test_a_run_that_was_killed_on_another_host_may_still_live_there(folder):
    """A lock that only this host knows says nothing of that one; without a cluster nobody shares the folder."""
    state = folder / ".snakemake"
    state.mkdir()
    lock = state / "snapdyn.lock"
    lock.write_text("17 on login-2")
    (state / "slurm_logs").mkdir()
    refused = launch(folder)
    told = refused.communicate(timeout=60)[1]
    assert refused.returncode == 2 and "process 17 on login-2, did not end by itself" in told and str(lock) in told
    assert lock.read_text() == "17 on login-2" and not list(folder.glob("part-*.txt"))
    (state / "slurm_logs").rmdir()
    assert launch(folder).wait(timeout=60) == 0 and lock.read_text() == ""


def test_of_two_that_start_at_once_one_runs(folder):
    running = [launch(folder, "--cores", "1") for _ in range(2)]
    told = [one.communicate(timeout=60)[1] for one in running]
    assert sorted(one.returncode for one in running) == [0, 2]
    winner, loser = sorted((0, 1), key=lambda i: running[i].returncode)
    assert told[loser].splitlines()[-1].startswith(f"another run (process {running[winner].pid} on ")
    assert (folder / "total.txt").exists()


@pytest.mark.parametrize("everyone", [True, False], ids=["group", "alone"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_an_interrupted_run_ends_soon_with_one_clear_line(folder, name, everyone):
    """As Ctrl-C or the end of a terminal, which reach the jobs as well, or ``kill``, which does not."""
    (folder / "part.py").write_text(PART.replace("0.05", "2"))  # jobs that would take long
    running = launch(folder, "--cores", "2")
    wait_for(lambda: len(list(folder.glob("part-*.txt"))) == 2)
    (os.killpg if everyone else os.kill)(running.pid, getattr(signal, name))
    began = time.monotonic()
    _, told = running.communicate(timeout=30)
    assert time.monotonic() - began < 10 and running.returncode == 128 + getattr(signal, name)
    assert told.splitlines()[-1].startswith(f"interrupted by {name}: finished results and the progress of long fits")
    assert "Traceback" not in told and not (folder / ".snakemake/locks").exists()
    logs = [path.read_text() for path in folder.glob("logs/*.log")]
    assert len(logs) == 2 and all("interrupted by SIG" in log for log in logs)


def test_the_workflow_uses_its_own_copy_of_the_package(folder):
    (folder / "own/snapdyn").mkdir(parents=True)
    (folder / "own/snapdyn/__init__.py").write_text("__version__ = 'its own'")
    snakefile = "import sys\nsys.path.insert(0, 'own')\nimport snapdyn\nprint('uses', snapdyn.__version__)\n"
    (folder / "Snakefile").write_text(snakefile + SNAKEFILE)
    assert "uses its own\n" in "".join(launch(folder, "-n").communicate(timeout=60))


def test_a_launch_sweeps_what_killed_jobs_left(folder):
    (folder / "results/deep").mkdir(parents=True)
    left = folder / "results/deep/.metrics.parquet.unfinished-x1.parquet"
    left.touch()
    assert launch(folder, "-n").wait(timeout=60) == 0 and left.exists()  # looking changes nothing
    assert launch(folder).wait(timeout=60) == 0 and not left.exists()


@pytest.mark.parametrize("where", [".snakemake", "results"])
def test_a_folder_that_takes_nothing_is_told_before_anything_runs(folder, capsys, monkeypatch, where):
    (folder / "results").mkdir()
    monkeypatch.chdir(folder)

    def temporary_file(dir, really=launcher.writing.tempfile.TemporaryFile):
        if dir == folder / where:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return really(dir=dir)

    monkeypatch.setattr(launcher.writing.tempfile, "TemporaryFile", temporary_file)
    for name in [name for name in sys.modules if name.partition(".")[0] == "snapdyn"]:
        monkeypatch.setitem(sys.modules, name, sys.modules[name])  # the launch drops them; later tests want these
    monkeypatch.setattr(sys, "argv", sys.argv)
    assert launcher.main(["--cores", "1"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"cannot write to {folder / where}: Read-only file system. Make it writable, or work")
    assert told.count("\n") == 1 and not list(folder.glob("part-*.txt"))


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


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--cores", "1"], launcher.SELDOM),
        (["--cores", "1", "--max-jobs-per-timespan", "5/1s"], ["--max-jobs-per-timespan", "5/1s"]),
        (["--executor", "slurm", "--jobs", "1"], []),
    ],
)
def test_waiting_jobs_are_looked_through_seldom_on_one_machine(arguments, wanted):
    """A cluster keeps its own rate, and so does who asks for one."""
    from snakemake import cli

    def rate(arguments):
        return vars(cli.parse_args(arguments)[1].max_jobs_per_timespan)

    ours = launcher.our_options(cli.parse_args(arguments)[1])
    assert rate([*ours, *arguments]) == rate(["--cores", "1", *wanted])


def test_a_run_that_is_over_waits_for_no_timer():
    timer = threading.Timer(600, print)
    timer.start()
    launcher.forget_timers()
    timer.join(10)
    assert not timer.is_alive()


def test_unknown_arguments_are_refused_before_anything_happens(folder):
    mistyped = launch(folder, "--coers", "2")
    assert "--coers" in mistyped.communicate(timeout=30)[1]
    assert mistyped.returncode != 0 and not (folder / ".snakemake").exists()
