"""What would run, at what cost, and what is missing; and what the Snakefile says before, during and after a run."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from plan_helpers import fake_torch, jobs
from workflow_helpers import ROOT, SNAKEFILE, surroundings

from snapdyn import plan

TINY = {"run": "tiny", "device": "cpu", "datasets": {"ou-2d": {"n": 400, "seeds": 1}}}
FIT = "fits/fokker-planck-loss/ornstein-uhlenbeck/ou-2d/moments/parameters.parquet"


def call(module, folder, *arguments, watch=None, path=()):
    """Run a module on the repository's workflow in ``folder``; ``path`` goes before everything on PYTHONPATH."""
    env = surroundings(watch)
    kept = [*map(str, path), env.get("PYTHONPATH"), str(ROOT / "workflow")]
    env["PYTHONPATH"] = os.pathsep.join(filter(None, kept))
    command = [sys.executable, "-m", module, "--snakefile", str(SNAKEFILE), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def configured(folder, **changes):
    (folder / "mine.yaml").write_text(yaml.safe_dump(TINY | changes))
    return folder


class TestWords:
    """On frames of jobs."""

    limits = {"threads": 2}

    def listed(self, frame):
        return "\n".join(plan.listing("demo", frame, self.limits))

    def test_a_rule_is_a_line_with_what_it_asks_and_costs(self):
        frame = jobs(
            ("simulate", "a", 60, ()),
            ("simulate", "b", 120, ()),
            ("fit", "c", 600, (0, 1)),
            ("all", "", 0, (2,)),
            idle=[False, False, False, True],
            gpu=[0, 0, 1, 0],
            reason="Missing output files",
            origin=["full run", "median", "full run", "nothing to compute"],
        )
        told = self.listed(frame)
        assert told.startswith("Plan of run demo: 3 jobs on 2 cores.")
        assert " ".join(told.splitlines()[4].split()) == (
            "simulate 2 1 100 MB 0 3 min 2 min 3 min 10 MB Missing output files"
        )
        assert "Expected: about 12 min, at least 12 min on any number of cores; 0.22 CPU-hours; 0.17 GPU-hours" in told
        assert "Memory: 10 MB in the largest job, 20 MB at once." in told
        assert "Times: 2 of the kept full run; 1 of jobs of the same rule." in told

    def test_what_was_never_measured_says_so(self):
        unknown = {"wall_s": np.nan, "cpu_s": np.nan, "peak_mb": np.nan, "origin": "not measured"}
        told = self.listed(jobs(("fit", "a", 1, ()), ("page", "b", 1, ())).assign(**unknown))
        assert "not measured" in told.splitlines()[4] and "Expected time and memory: not measured." in told
        assert "Not measured, not counted: 2 jobs of fit, page." in told

    @pytest.mark.parametrize(("known", "promised"), [(1, False), (2, True)])
    def test_a_time_of_the_whole_needs_half_of_its_jobs(self, known, promised):
        frame = jobs(*[("fit", str(i), 1, ()) for i in range(4)])
        frame.loc[known:, ["wall_s", "cpu_s", "peak_mb"]] = np.nan
        frame["origin"] = ["full run"] * known + ["not measured"] * (4 - known)
        told = self.listed(frame)
        assert ("Expected: about" in told) == promised
        few = "Expected time: not known, 3 of 4 jobs were never measured; the others take 1 s in all."
        assert (few in told) != promised and f"Not measured, not counted: {4 - known} jobs of fit." in told

    def test_times_of_another_size_are_no_promise(self):
        told = self.listed(jobs(("fit", "a", 60, ()), origin="other size"))
        assert "1 of jobs of the published size: this run states its own" in told

    def test_a_cluster_has_jobs_at_once_and_queues(self):
        told = "\n".join(plan.listing("demo", jobs(("fit", "a", 60, ())), {"jobs": 50}))
        assert "on a cluster, 50 jobs at once" in told and "queue" in told

    def test_room_that_runs_out_is_missing(self, monkeypatch, tmp_path):
        current = SimpleNamespace(
            plan=SimpleNamespace(config={"resources_dir": str(tmp_path), "device": "cpu"}),
            declared={},
            results=str(tmp_path),
        )
        assert plan.lacking(current, jobs(("fit", "a", 1, ())), cluster=False) == []
        monkeypatch.setattr(plan.preflight, "room", lambda folder: 10**9)
        assert "less than 2 GB" in plan.lacking(current, jobs(("fit", "a", 1, ())), cluster=False)[0]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What a plan, a quiet run, and two plans after it said about one small target."""
    folder = configured(tmp_path_factory.mktemp("tiny"))
    target = ["--configfile", "mine.yaml", "--", f"results/tiny/{FIT}"]
    return SimpleNamespace(
        before=call("snapdyn.plan", folder, "--cores", 2, *target),
        run=call("snakemake", folder, "--cores", 2, "--quiet", *target),
        after=call("snapdyn.plan", folder, *target),
        again=call("snapdyn.plan", folder, "--cores", 2, "--forcerun", "recover", *target),
    )


class TestBeforeDuringAndAfter:
    """One small target of the real workflow."""

    def test_the_plan_lists_the_jobs_of_a_dry_run(self, told):
        assert told.before.returncode == 0, told.before.stderr
        assert told.before.stdout.startswith("Plan of run tiny: 2 jobs on 2 cores.")
        rows = [line.split() for line in told.before.stdout.splitlines()]
        assert [row[:3] for row in rows if row and row[0] in ("simulate", "recover")] == [
            ["simulate", "1", "1"],
            ["recover", "1", "2"],
        ]
        assert "Missing: nothing." in told.before.stdout and "rule recover:" not in told.before.stdout

    def test_the_run_ends_with_a_summary(self, told):
        assert told.run.returncode == 0, told.run.stderr
        assert "Run tiny: 2 of 2 jobs done in" in told.run.stderr

    def test_nothing_to_do_is_said_in_snakemakes_words(self, told):
        assert told.after.returncode == 0
        assert "Nothing to be done (all requested files are present and up to date)." in told.after.stdout
        assert "Plan of run" not in told.after.stdout

    def test_times_come_from_the_run_itself(self, told):
        assert "1 of earlier jobs of this run" in told.again.stdout


def test_faults_of_the_configuration_are_told_once_and_all_together(tmp_path):
    told = call("snapdyn.plan", configured(tmp_path, devise="cpu", seeds="three"), "--configfile", "mine.yaml")
    assert told.returncode == 1
    assert told.stdout.count("unknown key 'devise'") == 1 and told.stdout.count("seeds: 'three'") == 1


def test_an_executor_that_is_not_installed_is_missing_and_the_plan_goes_on(tmp_path):
    folder = configured(tmp_path)
    (folder / "profile").mkdir()
    profile = {"executor": "no-such", "no-such-wish": 7, "jobs": 30, "set-resources": {"recover": {"mem_mb": 4321}}}
    (folder / "profile" / "config.yaml").write_text(yaml.safe_dump(profile))
    target = ["--configfile", "mine.yaml", "--", f"results/tiny/{FIT}"]
    told = call("snapdyn.plan", folder, "--workflow-profile", "profile", *target)
    assert told.returncode == 0, told.stderr
    assert "on a cluster, 30 jobs at once" in told.stdout and "4321 MB" in told.stdout
    assert "pip install snakemake-executor-plugin-no-such" in told.stdout


def test_a_resource_that_is_nowhere_is_missing_with_address_checksum_and_place(tmp_path):
    folder = configured(tmp_path, resources_dir="nowhere")
    target = "results/tiny/data/ipsc/seed-0/snapshots.parquet"
    told = call("snapdyn.plan", folder, "--configfile", "mine.yaml", "--", target, watch=tmp_path / "watch")
    assert "resource ipsc-cardiomyocyte is not in nowhere" in told.stdout
    assert "SHA-256 dcf8a671" in told.stdout and "at nowhere/ipsc_cardiomyocyte/counts_csr.npz" in told.stdout
    assert "iPSC.rda: no answer" in told.stdout


class TestCudaWithoutGpu:
    """``device: cuda`` where torch sees no GPU."""

    refusal = "device: cuda was asked for, but torch sees no GPU"

    @pytest.fixture
    def ask(self, tmp_path):
        folder = configured(tmp_path, device="cuda")
        torch = fake_torch(tmp_path / "torch", available=False)
        target = ["--configfile", "mine.yaml", "--"]
        return lambda module, *given, of=FIT: call(module, folder, *given, *target, f"results/tiny/{of}", path=[torch])

    def test_a_run_is_refused_before_any_job_by_one_message(self, ask, tmp_path):
        told = ask("snakemake", "--cores", 1)
        assert told.returncode == 1 and told.stderr.count(self.refusal) == 1
        assert not (tmp_path / "results").exists()

    def test_a_dry_run_warns_and_a_plan_calls_it_missing(self, ask):
        told = ask("snakemake", "--dry-run")
        assert told.returncode == 0 and self.refusal in told.stdout + told.stderr
        told = ask("snapdyn.plan")
        assert told.returncode == 0 and (told.stdout + told.stderr).count(self.refusal) == 1

    def test_what_needs_no_gpu_may_run(self, ask):
        told = ask("snakemake", "--cores", 1, "--quiet", of="data/ou-2d/seed-0/snapshots.parquet")
        assert self.refusal not in told.stderr  # whatever else that torch cannot do
