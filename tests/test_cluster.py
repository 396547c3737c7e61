"""What a cluster asks of the workflow that needs no cluster to be tested: leftovers, GPUs by method, groups, memory.

Against a real SLURM: tests/slurm.
"""

import os
import re
import stat

import pytest
import yaml
from workflow_helpers import ROOT, dry_run

from snapdyn import methods, slurm

PROFILE = ROOT / "workflow/profiles/slurm"
OURS = "7f1f9a96-85e5-48b3-81eb-d086f2ad6fb8"


# Jobs that a killed run left in the queue


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """A pretended ``squeue`` that lists a file's lines until ``scancel`` takes the cancelled ones away."""
    listed = tmp_path / "queue.txt"
    programs = {
        "squeue": f'test -e {listed} || {{ echo "cannot reach the controller" >&2; exit 1; }}; cat {listed}',
        "scancel": f"""for job; do
            echo "$job" >> {tmp_path}/cancelled.txt
            grep -vF "$job|" {listed} > {listed}.new; mv {listed}.new {listed}
        done""",
    }
    (tmp_path / "bin").mkdir()
    for name, body in programs.items():
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    return listed


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run" / ".snakemake" / "slurm_logs").mkdir(parents=True)
    return tmp_path / "run"


def test_only_jobs_of_this_folder_that_snakemake_submitted_are_cancelled(queue, folder, tmp_path, capsys):
    (tmp_path / "link").symlink_to(folder)
    queue.write_text(
        f"11|{OURS}|{folder}\n"
        f"12|prefix_{OURS}|{tmp_path}/link\n"
        f"13|{OURS}|{tmp_path}\n"  # another folder
        f"14|snapdyn|{folder}\n"  # the job that runs Snakemake itself
        f"15_[1-4]|{OURS}|{folder}\n"
    )
    assert slurm.cancel_leftovers(folder) is None
    assert (tmp_path / "cancelled.txt").read_text().split() == ["11", "12", "15_[1-4]"]
    assert "cancelling 3 SLURM jobs that an earlier run left: 11 12 15_[1-4]" in capsys.readouterr().err
    assert [line.split("|")[0] for line in queue.read_text().splitlines()] == ["13", "14"]


def test_a_silent_slurm_stops_only_a_folder_that_used_it(queue, folder, tmp_path):
    said = slurm.cancel_leftovers(folder)
    assert "SLURM does not answer (cannot reach the controller)" in said
    (tmp_path / "elsewhere").mkdir()
    assert slurm.cancel_leftovers(tmp_path / "elsewhere") is None


# Resources


def test_methods_that_take_a_device_ask_for_a_gpu():
    able = {name for name in methods.METHODS if methods.takes_device(name)}
    on_cpu = {"affine-propagation", "sindy", "gaussian-mixture", "kde", "hopfield", "linear-mixture"}
    assert able == set(methods.METHODS) - on_cpu


def test_a_class_from_outside_is_read_and_not_imported(tmp_path, monkeypatch):
    source = """
        raise SystemExit("imported")
        class With:
            def fit(self, snapshots, *, rng, device="cpu"): ...
        class Open:
            def fit(self, snapshots, **given): ...
        class Without:
            def fit(self, snapshots, *, rng): ...
        class Inherits(Without): ...
    """
    (tmp_path / "unread.py").write_text(re.sub("^        ", "", source, flags=re.M))
    monkeypatch.syspath_prepend(tmp_path)
    found = {name: methods.takes_device(f"unread:{name}") for name in ("With", "Open", "Without", "Inherits")}
    assert found == {"With": True, "Open": True, "Without": False, "Inherits": True}
    assert methods.takes_device("no_such_module:Any")


def amounts(job):
    return dict(part.split("=") for part in job.list("resources"))


def test_memory_doubles_with_every_attempt_and_stops_at_the_node(tmp_path):
    target = "results/full/fits/fokker-planck-loss/lorenz/lorenz/moments/parameters.parquet"

    def memory(attempt):
        jobs = dry_run(tmp_path, target, "--workflow-profile", PROFILE, "--executor", "local", "--attempt", attempt)
        (job,) = (job for job in jobs if job.rule == "recover")
        return int(amounts(job)["mem_mb"])

    first = memory(1)
    assert [memory(2), memory(3)] == [2 * first, 4 * first]
    assert memory(20) == yaml.safe_load((PROFILE / "config.yaml").read_text())["resources"]["mem_mb"]


def test_the_profile_names_rules_that_exist_and_groups_no_gpu():
    said = (PROFILE / "config.yaml").read_text()
    sources = [path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk")]
    rules = {name for text in sources for name in re.findall(r"^rule (\w+):|^use rule \w+ as (\w+)", text, re.M)}
    rules = {name for pair in rules for name in pair if name}
    blocks = [block for text in sources for block in re.split(r"^(?=rule )", text, flags=re.M)]
    gpu = {re.match(r"rule (\w+)", block)[1] for block in blocks if "gpu=lambda" in block}
    grouped = set(yaml.safe_load(said)["groups"])
    assert grouped <= rules and len(gpu) == 6 and not grouped & gpu
    examples = re.findall(r"^#   (\w+): \{(?:gpu_model|gpu)", said, re.M)
    assert sorted(examples) == sorted([*gpu, *gpu])
