"""The workflow on a real SLURM: asked for, got, killed, cancelled, resumed, and equal to a run without it."""

import re
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import accounting
import cluster as slurm
import numpy as np
import pandas as pd
import pytest
from workflow_helpers import ROOT, SNAKEFILE, contents, dry_run, surroundings

HERE = Path(__file__).parent
CONFIG = ROOT / "config" / "slurm-test.yaml"
PROFILE = ROOT / "workflow" / "profiles" / "slurm"
ANALYSES = "results/slurm-test/analyses"
EVERYTHING = ["all", *(f"results/slurm-test/data/wide/seed-{seed}/snapshots.parquet" for seed in range(3))]
# What is not for a real cluster: a status check every 2 s instead of 40, and a file system that is local.
IMPATIENT = ["--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "5"]
GROUPED = {"simulate", "evaluate_analysis", "gather_analysis", "page", "collect", "scorecard"}


# A cluster, a folder to run in, and the story of one run


@pytest.fixture(scope="module")
def cluster():
    """A SLURM for these tests alone."""
    try:
        with slurm.running() as up:
            yield up
    except slurm.Unavailable as reason:
        pytest.skip(f"no SLURM: {reason}")


def new_folder(path):
    """A user's folder: data and methods of the configuration lie where the run starts."""
    path.mkdir()
    shutil.copy(HERE / "stand_ins.py", path)
    points = np.random.default_rng(0).normal(size=(1000, 2))
    pd.DataFrame(points, columns=["x", "y"]).to_csv(path / "cloud.csv", index=False)
    return path


def filled_in(target, cluster, changes):
    """The shipped profile, filled in as its comments and docs/cluster.md say."""
    shutil.copytree(PROFILE, target)
    node = {"cores: 8": f"cores: {cluster.cpus}", "mem_mb: 32000": f"mem_mb: {cluster.memory_mb}"}
    account = {"# slurm_account: my-project": f"slurm_account: {cluster.account}"}
    for name, edits in (("config.yaml", node | account | changes), ("partitions.yaml", PARTITION_NAMES | node)):
        text = (target / name).read_text()
        for old, new in edits.items():
            assert old in text or name == "partitions.yaml", f"{name} has no line {old!r}"
            text = text.replace(old, new)
        (target / name).write_text(text)
    return target


PARTITION_NAMES = {"standard:": "cpu:"}
BY_GPU = {"# slurm_partition: standard": "slurm_partition: cpu"}


def launch(profile=None, *targets):
    """The command of `make run` for the test's configuration."""
    command = [sys.executable, "-m", "snapdyn.launch", "--snakefile", str(SNAKEFILE), *(targets or EVERYTHING)]
    where = ["--workflow-profile", str(profile), *IMPATIENT] if profile else ["--cores", "2"]
    return [*command, *where, "--configfile", str(CONFIG)]


def environment():
    return surroundings() | {"PYTHONPATH": str(ROOT / "workflow")}


def run(folder, *command, expect=0):
    """Run to the end; all that was said."""
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == expect, (done.stdout + done.stderr)[-6000:]
    return done.stdout + done.stderr


def wait_for(what, happened, seconds=240):
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.2)
    return found


def queue():
    """Ids of the jobs that wait or run."""
    listed = subprocess.run(["squeue", "--noheader", "--format=%i"], capture_output=True, text=True, check=True)
    return [int(line) for line in listed.stdout.split()]


@dataclass
class Story:
    """A run that was cancelled, killed, resumed, mended and finished.

    Attributes:
        interrupted, resumed, finished: what the three launches said.
        held: SLURM jobs of the fit that was held: the one that was cancelled, and the one that the kill left behind.
        left: what was in SLURM's queue after Snakemake was killed.
        after_resuming: which files of the analyses were there while one of them was still broken.
        records: SLURM's accounting of it all.
    """

    folder: Path
    interrupted: str = ""
    resumed: str = ""
    finished: str = ""
    held: list = field(default_factory=list)
    left: list = field(default_factory=list)
    after_resuming: set = field(default_factory=set)
    records: list = field(default_factory=list)

    def of(self, comment):
        return [record for record in self.records if record.comment == comment]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same run on this machine, without SLURM and without trouble."""
    folder = new_folder(tmp_path_factory.mktemp("local") / "run")
    (folder / "mended").touch()
    run(folder, *launch())
    return folder


@pytest.fixture(scope="module")
def story(cluster, tmp_path_factory):
    folder = new_folder(tmp_path_factory.mktemp("slurm") / "run")
    profile = filled_in(folder.parent / "profile", cluster, BY_GPU)
    told = Story(folder)
    (folder / "hold").touch()
    said = folder.parent / "said.txt"
    with open(said, "w") as file:
        outer = subprocess.Popen(launch(profile), cwd=folder, env=environment(), stdout=file, stderr=file)
    log = folder / "results/slurm-test/logs/fit_analysis/cpu/seed-0.log"

    def holding():
        text = log.read_text() if log.exists() else ""
        found = re.search(r"SLURM job (\d+) on", text)
        assert outer.poll() is None, said.read_text()[-6000:]
        return int(found[1]) if found and "holding" in text and int(found[1]) not in told.held else None

    try:
        told.held.append(wait_for("the held fit", holding))
        subprocess.run(["scancel", str(told.held[0])], check=True)
        wait_for("the end of the cancelled fit", lambda: "interrupted" in log.read_text())
        told.held.append(wait_for("its second attempt", holding))
    finally:
        outer.kill()
        outer.wait()
    told.interrupted, told.left = said.read_text(), queue()

    (folder / "hold").unlink()
    told.resumed = run(folder, *launch(profile), expect=1)
    told.after_resuming = {str(path.relative_to(folder / ANALYSES)) for path in (folder / ANALYSES).rglob("*.*")}
    (folder / "mended").touch()
    told.finished = run(folder, *launch(profile))
    assert not queue()
    told.records = accounting.records()
    return told


@pytest.fixture(scope="module")
def rules(story):
    """What the rules themselves say of every job: the plugin's name for it -> threads, memory, minutes, GPUs."""
    asked = {}
    for job in dry_run(story.folder, *EVERYTHING, "--forceall", "--configfile", CONFIG):
        amounts = dict(part.split("=") for part in job.list("resources"))
        if "mem_mb" in amounts:
            name = "_".join([f"rule_{job.rule}", *(["wildcards"] if job.wildcards else []), *job.wildcards.values()])
            threads = int(job.fields.get("threads", 1))
            asked[name] = {"cpu": threads} | {key: int(amounts[key]) for key in ("mem_mb", "runtime", "gpu")}
    return asked


# What was asked for, and what SLURM gave


def test_the_configuration_is_small_and_has_every_kind_of_job(rules):
    assert len(rules) <= 20
    fits = {name: asked["gpu"] for name, asked in rules.items() if name.startswith("rule_fit_analysis_")}
    assert set(fits.values()) == {0, 1}


def test_exactly_the_gpu_rules_asked_for_the_gpu_and_got_it(story, rules):
    singles = [record for record in story.records if record.comment in rules]
    assert {bool(record.gpus) for record in singles} == {True, False}
    for record in singles:
        assert record.gpus == rules[record.comment]["gpu"], record
    for record in story.records:
        assert record.got.get("gres/gpu", 0) == (record.gpus if record.start else 0), record
        assert record.comment in rules or not record.gpus, record
    seen = {}
    for log in (story.folder / "results/slurm-test/logs").rglob("*.log"):
        head = log.read_text().splitlines()[:2]
        seen[re.search(r"rule (\w+) (.*), snapdyn", head[0]).groups()] = re.search("GPUs: (.*)", head[1])[1]
    assert len(seen) == len(rules)
    for (rule, wildcards), gpus in seen.items():
        assert gpus == ("0" if rule == "fit_analysis" and "'gpu'" in wildcards else "none"), (rule, wildcards)


def test_memory_time_and_threads_are_the_rules_own(story, rules):
    attempts = defaultdict(int)
    for record in story.records:
        if record.comment not in rules:
            continue
        rule = rules[record.comment]
        assert (record.asked["cpu"], record.minutes) == (rule["cpu"], rule["runtime"]), record
        assert record.mem_mb in (rule["mem_mb"], 2 * rule["mem_mb"]), record
        assert (record.partition, record.account) == ("cpu", "lab")
        attempts[record.comment] += 1
    assert set(attempts) == {name for name in rules if name.split("_wildcards")[0].removeprefix("rule_") not in GROUPED}


def test_short_jobs_share_slurm_jobs_that_fit_the_node(story, rules, cluster):
    """Three clouds are too much for the node at once, so their group asks for two and runs one after them."""
    groups = [record for record in story.records if record.comment not in rules]

    def of(rule):
        (found,) = [record for record in groups if rule in record.comment and record.state == "COMPLETED"][-1:]
        return found.asked["cpu"], found.mem_mb, found.minutes

    def rule(name):
        asked = [asked for job, asked in rules.items() if job.startswith(f"rule_{name}")]
        return asked[0]["mem_mb"], asked[0]["runtime"]

    memory, minutes = rule("simulate")
    assert 3 * rules["rule_simulate_wildcards_wide_0"]["cpu"] > cluster.cpus
    assert of("simulate") == (2, 2 * memory, 2 * minutes)
    (scores, scoring), (table, _), (page, drawing) = map(rule, ("evaluate_analysis", "gather_analysis", "page"))
    assert of("page") == (2, scores + table, scoring + drawing)
    (tables, collecting), (_, judging) = rule("collect"), rule("scorecard")
    assert of("scorecard") == (1, tables, collecting + judging)
    for record in story.records:
        assert record.asked["cpu"] <= cluster.cpus and record.mem_mb <= cluster.memory_mb
        assert record.start is not None or record.state == "CANCELLED", f"never started: {record}"
    assert len(story.records) < len(rules)  # although some were made several times


def test_a_job_wider_than_the_node_would_wait_for_ever(story, cluster):
    """What grouping must avoid: SLURM takes such a job without a word."""
    wide = ["sbatch", "--parsable", f"--cpus-per-task={cluster.cpus + 1}", "--output=/dev/null", "--wrap=true"]
    job = subprocess.run(wide, capture_output=True, text=True, check=True).stdout.strip()
    time.sleep(3)
    reason = subprocess.run(["squeue", "--noheader", "--format=%T %r"], capture_output=True, text=True).stdout
    subprocess.run(["scancel", job], check=True)
    assert reason.startswith("PENDING")


# Failures


def test_a_failing_job_is_reported_with_both_logs_and_tried_again(story):
    tries = [record for record in story.of("rule_fit_analysis_wildcards_broken_0") if record.state == "FAILED"]
    assert len(tries) in (3, 4)  # once or twice before the kill
    said = story.resumed
    assert "Error in rule fit_analysis" in said and "logs/fit_analysis/broken/seed-0.log" in said
    assert "this method is broken until a file called 'mended'" in said
    last = tries[-1]
    (own,) = (story.folder / ".snakemake/slurm_logs").rglob(f"{last.job}.log")
    assert str(own) in said and f"SLURM-job '{last.job}' failed" in said
    assert "this method is broken" in own.read_text()
    assert [f"SLURM jobid {record.job} " in said for record in tries[-2:]] == [True, True]


def test_a_failing_job_does_not_stop_what_does_not_need_it(story):
    for name in ("gpu", "cpu"):
        assert {f"{name}/page.png", f"{name}/verdict.json", f"{name}/parameters.parquet"} <= story.after_resuming
    assert not [name for name in story.after_resuming if name.startswith("broken/")]


def test_what_was_killed_for_its_memory_gets_twice_as_much(story, rules):
    name = "rule_fit_analysis_wildcards_cpu_0"
    first, second = [record for record in story.of(name) if record.job > max(story.held)]
    assert (first.mem_mb, second.mem_mb) == (rules[name]["mem_mb"], 2 * rules[name]["mem_mb"])
    assert (first.state in ("FAILED", "OUT_OF_MEMORY"), second.state) == (True, "COMPLETED")
    assert "exceeded memory limit" in story.resumed


# Cancelled, killed, resumed


def test_a_cancelled_job_says_so_and_is_tried_again(story):
    cancelled, left = (next(r for r in story.records if r.job == job) for job in story.held)
    assert cancelled.state == left.state == "CANCELLED"
    assert f"SLURM-job '{cancelled.job}' failed, SLURM status is: 'CANCELLED'" in story.interrupted


def test_what_a_killed_snakemake_left_in_the_queue_is_cancelled_first(story):
    assert story.held[1] in story.left
    assert re.search(rf"cancelling \d+ SLURM jobs that an earlier run left: .*\b{story.held[1]}\b", story.resumed)
    ends = [record.end for record in story.records if record.job in story.left]
    later = [record.submit for record in story.records if record.job > max(story.left)]
    assert max(ends) <= min(later)


def test_a_fit_that_was_stopped_goes_on_from_its_checkpoint(story):
    """Stopped by scancel, by the launch that found it in the queue, and for its memory; half of it was done once."""
    assert len(story.of("rule_fit_analysis_wildcards_cpu_0")) >= 4
    assert (story.folder / "parts").read_text() == f"job {story.held[0]}\n"


def test_no_two_jobs_ever_write_the_same_files(story):
    for record in story.records:
        for other in story.of(record.comment):
            if record.job < other.job and other.start:
                assert record.end <= other.start, (record, other)


def test_the_run_ends_with_the_bytes_of_the_local_one(story, undisturbed):
    disturbed, plain = contents(story.folder / "results"), contents(undisturbed / "results")
    assert {Path(name).suffix for name in plain} >= {".parquet", ".png", ".pdf", ".pt", ".md"} and len(plain) > 30
    assert disturbed == plain
    again = run(story.folder, *launch(), "--dry-run")
    assert "Nothing to be done (all requested" in again


# Kinds of clusters


def rules_with(old, new):
    """Uncomment the profile's example of ``set-resources`` for all rules that fit."""
    lines = re.findall(r"^#   \w+: \{.*\}$", (PROFILE / "config.yaml").read_text(), re.M)
    chosen = {line: line[2:].replace(old, new) for line in lines if old in line}
    return {"# set-resources:": "set-resources:"} | chosen


KINDS = {
    "a partition of their own": ({"# slurm-partition-config": "slurm-partition-config"}, "gpu"),
    "a type to be named": (BY_GPU | rules_with("gpu_model: a100", "gpu_model: pretended"), "cpu"),
    "gres only": (BY_GPU | rules_with('gres: "gpu:1"', 'gres: "gpu:1"'), "cpu"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_gpus_are_asked_for_in_the_way_of_each_kind_of_cluster(story, cluster, kind, tmp_path):
    """The last kind is started in a SLURM job, as where nothing may run on login nodes."""
    changes, partition = KINDS[kind]
    profile = filled_in(tmp_path / "profile", cluster, changes)
    model = f"{ANALYSES}/gpu/seed-1/model.pt"
    before = (story.folder / model).read_bytes()
    command = launch(profile, model, "--force")
    if kind == list(KINDS)[-1]:
        inside = ["sbatch", "--wait", "--mem=1000", f"--output={tmp_path}/driver.log", f"--wrap={shlex.join(command)}"]
        run(story.folder, *inside)
        assert "You are running snakemake in a SLURM job context" in (tmp_path / "driver.log").read_text()
    else:
        run(story.folder, *command)
    record = accounting.records()[-1]
    assert (record.comment, record.state) == ("rule_fit_analysis_wildcards_gpu_1", "COMPLETED")
    assert (record.gpus, record.got["gres/gpu"], record.partition) == (1, 1, partition)
    log = (story.folder / "results/slurm-test/logs/fit_analysis/gpu/seed-1.log").read_text()
    assert "GPUs: 0" in log and (story.folder / model).read_bytes() == before


# What it costs


def test_overhead_is_measured(story, undisturbed, rules, capsys):
    """Printed, so that docs/cluster.md can be held against it; the bound is generous."""
    took = sum((end - begin).total_seconds() for begin, end, _ in accounting.finished(undisturbed))
    local = (took - sum(accounting.own_seconds(undisturbed).values())) / len(rules)
    inside, waiting, records = [], [], {record.job: record for record in accounting.records()}
    for log, own in accounting.own_seconds(story.folder).items():
        record = records[int(re.search(r"SLURM job (\d+)", log.read_text())[1])]
        if record.comment in rules:
            inside.append(record.seconds - own)
            waiting.append((record.start - record.submit).total_seconds())
    unseen = [
        (end - records[job].end).total_seconds() for _, end, job in accounting.finished(story.folder) if job in records
    ]
    done = {record.comment for record in story.records if record.state == "COMPLETED"}
    table = [
        ("", "this machine", "SLURM"),
        ("jobs", str(len(rules)), str(len(done) + 2)),  # the groups of the three analyses are called alike
        ("before and after the script, s a job", f"{local:.1f}", f"{statistics.mean(inside):.1f}"),
        ("waiting for the node, s a job", "", f"{statistics.mean(waiting):.1f}"),
        ("until Snakemake saw its end, s a job", "", f"{statistics.mean(unseen):.1f}"),
    ]
    with capsys.disabled():
        print("\n" + "\n".join(f"{what:<40}{here:>14}{there:>26}" for what, here, there in table))
    assert 0 < statistics.mean(inside) < 60
