"""What surrounds a job: the log, how it ends, seeds, the device door, the watchdog, provenance."""

import json
import os
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from snapdyn import interruption, run

SNAKEMAKE = """
import types
snakemake = types.SimpleNamespace(
    rule="toy", log=["logs/toy.log"], wildcards={"seed": "3"}, threads=2, input=["toy.csv"],
    params={"seed": 3}, config={"device": "%(device)s"},
)
from snapdyn import run
with run.job(snakemake) as job:
"""


def script(body, device="auto"):
    return SNAKEMAKE % {"device": device} + "".join(f"    {line}\n" for line in body.splitlines())


@pytest.fixture
def play(tmp_path):
    """Run lines inside a job in its own process; returns the finished process and its log."""

    def play(body, device="auto", **env):
        command = [sys.executable, "-c", script(body, device)]
        environment = {name: value for name, value in os.environ.items() if name != "SNAPDYN_PARENT"} | env
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        return done, (tmp_path / "logs/toy.log").read_text()

    return play


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_a_log_opens_with_who_runs_and_gets_logging_and_warnings(play):
    done, log = play("import warnings; warnings.warn('thin ice'); job.log.info('hello'); print('spoken')")
    assert done.returncode == 0
    assert "toy {'seed': '3'}" in log.splitlines()[0] and "snapdyn" in log.splitlines()[0]
    assert "thin ice" in log and "hello" in log
    assert done.stdout == "spoken\n" and done.stderr == ""  # nothing is redirected


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("import no_such_module", "rule toy: ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise ValueError('expected 3, got 4')", "rule toy: expected 3, got 4"),
        ("raise KeyError('colour')", "rule toy: KeyError: 'colour'"),
    ],
)
def test_an_error_is_told_in_one_line_and_traced_in_the_log(play, body, line):
    done, log = play(body)
    assert done.returncode == 1
    assert done.stderr == f"{line} (log: logs/toy.log)\n"
    assert "Traceback" in log and line.split(": ")[-1] in log


def test_a_rule_without_log_is_refused():
    rule = types.SimpleNamespace(rule="mute", log=[])
    with pytest.raises(ValueError, match="mute has no 'log:'"), run.job(rule):
        pass


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_is_logged_and_fails_the_job(tmp_path, name):
    body = "open('ready', 'w').close(); import time; time.sleep(60)"
    job = subprocess.Popen([sys.executable, "-c", script(body)], cwd=tmp_path, stderr=subprocess.PIPE, preexec_fn=heard)
    wait_for((tmp_path / "ready").exists)
    job.send_signal(getattr(signal, name))
    assert job.communicate(timeout=20)[1] == b"" and job.returncode == 128 + getattr(signal, name)
    log = (tmp_path / "logs/toy.log").read_text()
    assert f"interrupted by {name} after" in log and "the next attempt starts anew" in log and "Traceback" not in log


def heard():
    """Whoever runs the tests in the background may have SIGINT ignored, which children inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_what_was_to_be_ignored_is_ignored(tmp_path):
    """As under ``nohup``."""
    body = "import os, signal\nos.kill(os.getpid(), signal.SIGHUP)\nprint('still here')"
    command = "import signal, sys\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + script(body)
    done = subprocess.run([sys.executable, "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "still here\n"


LONG = """
from snapdyn import checkpoint
keep = checkpoint.of(job, job.device)
made = [keep.part(f"seed-{i}", lambda: print("made", flush=True)) for i in range(%d)]
%s
"""


def test_a_job_that_is_stopped_goes_on_with_the_rest(tmp_path, play):
    """A preemption: SIGTERM, and the same job once more."""
    (tmp_path / "toy.csv").write_text("1")
    waits = script(LONG % (2, "import time; time.sleep(60)"), device="cpu")
    job = subprocess.Popen([sys.executable, "-c", waits], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert [job.stdout.readline() for _ in range(2)] == ["made\n"] * 2
    time.sleep(0.2)
    job.terminate()
    job.communicate(timeout=20)
    log = (tmp_path / "logs/toy.log").read_text()
    assert "interrupted by SIGTERM after" in log
    assert "kept: 2 finished parts; the next attempt goes on from there" in log
    assert (tmp_path / "partial/toy.pt").exists()

    done, log = play(LONG % (3, ""), device="cpu")
    assert done.stdout == "made\n" and "going on from 2 finished parts" in log
    assert not (tmp_path / "partial").exists()  # it is done


def test_a_full_disk_is_one_line_even_if_the_log_is_on_it(tmp_path, play):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/toy.log").symlink_to("/dev/full")
    body = (
        "from snapdyn import artifacts, writing\nimport errno\nraise writing.explained(OSError(errno.ENOSPC, ''), 'a')"
    )
    command = [sys.executable, "-c", script(body)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("rule toy: cannot write a: No space left on device. Free some space")
    assert done.stderr.count("\n") == 1


def test_a_log_that_cannot_be_opened_is_one_line(tmp_path):
    (tmp_path / "logs").write_text("a file where a folder should be")
    done = subprocess.run([sys.executable, "-c", script("pass")], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("cannot write logs/toy.log: File exists. ") and done.stderr.count("\n") == 1


def test_seeds_reach_every_generator(play):
    draws = "import random, numpy; print(job.rng.random(), random.random(), numpy.random.random())"
    first, second = play(draws)[0].stdout, play(draws)[0].stdout
    assert first == second and first.split()[0] == str(np.random.default_rng(3).random())
    torch = "import torch; job.device; print(torch.rand(1).item())"
    assert play(torch)[0].stdout == play(torch)[0].stdout != ""


def test_a_light_job_never_imports_torch(play):
    done, _ = play("import sys; job.rng.random(); print('torch' in sys.modules, 'matplotlib' in sys.modules)")
    assert done.stdout == "False False\n"


def test_threads_of_numerical_libraries_default_to_one():
    command = "from snapdyn import run; import os; print([os.environ[name] for name in run.THREAD_VARIABLES])"
    bare = {name: value for name, value in os.environ.items() if name not in run.THREAD_VARIABLES}
    done = subprocess.run([sys.executable, "-c", command], env=bare, capture_output=True, text=True)
    assert done.stdout == f"{['1'] * len(run.THREAD_VARIABLES)}\n"


def test_a_job_has_one_thread_of_each_library_whatever_it_is_started_with(play):
    """Snakemake sets the variables to the rule's threads, and sums by several threads end in other bits."""
    several = dict.fromkeys(run.THREAD_VARIABLES, "4")
    body = """from snapdyn import scores
import torch
print(sorted({os.environ[name] for name in run.THREAD_VARIABLES}), end=" ")
data = torch.randn(3000, 3, generator=torch.Generator().manual_seed(0)).double()
one, many = (scores.kernel_pass(data, data[:50].clone(), 0.3, features=data, threads=n) for n in (1, 4))
print(torch.equal(one.score, many.score), torch.equal(one.means, many.means))"""
    assert play(f"import os\n{body}", **several)[0].stdout == "['1'] True True\n"


def test_parallel_gives_every_thread_of_its_pool_one_thread_of_torch():
    body = """import torch
from snapdyn import run
torch.set_num_threads(2)
count = lambda item: torch.get_num_threads()
print(count(0), *run.parallel(count, range(3), 2), count(0))"""
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True)
    assert done.stdout == "2 1 1 1 2\n"


def test_device_auto_falls_back_and_says_why(play):
    done, log = play("import torch; print(job.device, torch.get_num_threads())", CUDA_VISIBLE_DEVICES="")
    assert done.stdout == "cpu 1\n"
    assert "device cpu: auto: " in log


def test_device_cuda_without_a_gpu_is_one_clear_error(play):
    done, _ = play("job.device", device="cuda", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    assert "cuda was asked for, but" in done.stderr and "set device: auto or cpu" in done.stderr


def test_device_names_are_checked():
    with pytest.raises(ValueError, match="auto, cpu or cuda, got 'gpu'"):
        run.choose_device("gpu")


def test_freed_memory_is_kept_where_the_c_library_can(monkeypatch):
    asked = []
    library = types.SimpleNamespace(mallopt=lambda parameter, value: asked.append((parameter, value)))
    monkeypatch.setattr(run.ctypes, "CDLL", lambda name: library)
    run._keep_freed_memory()
    assert asked == [(-4, 0), (-1, 2**31 - 1)]  # no array of its own mapping, nothing given back
    monkeypatch.setattr(run.ctypes, "CDLL", lambda name: types.SimpleNamespace())
    run._keep_freed_memory()  # another C library: nothing happens


def test_parallel_keeps_the_order_of_its_items():
    def slow_first(item):
        time.sleep(0.05 if item == 0 else 0)
        return item * item

    for threads in (1, 4):
        assert list(run.parallel(slow_first, range(20), threads)) == [item * item for item in range(20)]


def test_parallel_passes_an_error_on():
    with pytest.raises(ZeroDivisionError):
        list(run.parallel(lambda item: 1 / item, [1, 0, 1], 2))


def test_progress_counts_in_the_log(play):
    done, log = play("assert sum(job.progress([1, 2, 3], 'steps')) == 6\nbar = job.progress(4, 'fits')\n"
                     "bar.update(4)\nbar.close()")  # fmt: skip
    assert done.returncode == 0 and done.stderr == ""
    assert "steps: 3/3" in log and "fits: 4/4" in log


def test_provenance_is_written_beside_an_artifact(play, tmp_path):
    play("from snapdyn import artifacts; import pandas as pd\n"
         "frame = pd.DataFrame({'row': [0], 't': [0.0], 'split': ['train'], 'weight': [1.0], 'x0': [0.5]})\n"
         "job.device\nartifacts.write(frame, 'points.parquet', 'snapshots/1', {'dim': 1})",
         device="cpu")  # fmt: skip
    facts = json.loads((tmp_path / "points.parquet.provenance.json").read_text())
    assert facts["rule"] == "toy" and facts["wildcards"] == {"seed": "3"} and facts["device"] == "cpu"
    assert {"snapdyn", "python", "numpy", "torch", "pyarrow"} <= set(facts["versions"])
    assert {"commit", "dirty", "host", "platform", "started"} <= set(facts) and facts["wall_s"] > 0


def test_a_job_dies_with_the_process_that_started_it(tmp_path):
    (tmp_path / "job.py").write_text(script("open('ready', 'w').close(); import time; time.sleep(60)"))
    parent = "import os, subprocess, sys; os.environ['SNAPDYN_PARENT'] = str(os.getpid());" + (
        "job = subprocess.Popen([sys.executable, 'job.py']); open('pid', 'w').write(str(job.pid)); job.wait()"
    )
    snakemake = subprocess.Popen([sys.executable, "-c", parent], cwd=tmp_path)
    wait_for((tmp_path / "ready").exists)
    job = int((tmp_path / "pid").read_text())
    snakemake.send_signal(signal.SIGKILL)  # not reaped yet: a zombie parent must count as gone
    try:
        wait_for(lambda: interruption.process_start(job) is None, seconds=5)
    finally:
        snakemake.wait()
    assert "is gone" in (tmp_path / "logs/toy.log").read_text()


def test_a_job_whose_parent_is_gone_already_does_not_start(play):
    ended = subprocess.Popen(["true"])
    ended.wait()
    done, log = play("import time; time.sleep(60)", SNAPDYN_PARENT=str(ended.pid))
    assert done.returncode != 0 and "is gone" in log


def test_a_process_is_known_by_its_start():
    assert interruption.process_start(os.getpid()) == interruption.process_start(os.getpid()) is not None
    assert interruption.process_start(2**22 + 1) is None
