"""The workflow as a whole: what it plans, what it runs, what it runs again, and what it refuses."""

import json
import re
import socket
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import yaml
from workflow_helpers import (
    ROOT,
    SNAKEFILE,
    TINY,
    contents,
    copy_repository,
    dry_run,
    records,
    snakemake,
    surroundings,
)

from snapdyn import artifacts

LIGHT = {
    "collect",
    "gather_forecast",
    "gather_density",
    "gather_analysis",
    "gather_energies",
    "compare",
    "score_recovery",
    "score_study",
    "scorecard",
}
LIGHT |= {"fetch_resource", "scorecard"}
TARGETS = {"all", "default", "analyses", "fokker_planck_loss", "jko"}
ONE_FILE = "results/full/data/ou-2d/seed-0/snapshots.parquet"
FITS = "results/demo/fits/fokker-planck-loss"
# A part of the run that makes a table, a figure and a checkpoint, by methods that use two threads where they may.
PART = [
    f"{FITS}/lorenz/lorenz/moments/parameters.parquet",
    f"{FITS}/cells-drift/synthetic-course/affine-propagation/seed-0/model.pt",
    "results/demo/figures/fokker-planck-loss/bandwidth.png",
]


# What is planned


def listing(jobs):
    return sorted((job.about, job.fields.get("output", "")) for job in jobs if job.rule not in TARGETS)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The jobs of the published size."""
    return dry_run(tmp_path_factory.mktemp("published"))


def test_both_entries_plan_the_same(published, tmp_path):
    root = dry_run(tmp_path, snakefile=ROOT / "Snakefile")
    assert len(listing(published)) > 50 and listing(root) == listing(published)
    assert [job.rule for job in root if job.rule in TARGETS] == ["default"]


def configured():
    """The papers with their experiments and figures."""
    files = [yaml.safe_load(path.read_text()) for path in (ROOT / "config/papers").glob("*.yaml")]
    return {name: paper for file in files for name, paper in file["papers"].items()}


def test_the_published_size_is_planned_whole(published):
    rules = defaultdict(int)
    for job in published:
        rules[job.rule] += 1
    assert {"simulate", "synthesise", "fetch_resource", "import_resource", "recover", "fit", "figure"} <= set(rules)
    assert rules["figure"] == sum(len(paper["figures"]) for paper in configured().values())


def test_gpu_is_asked_for_by_fits_alone(published):
    asks = {job.rule for job in published if "gpu=1" in job.list("resources")}
    assert asks == {"recover", "study", "fit", "fit_together", "fit_energies"}


REAL_CELLS = {"cells-inference"}  # experiments on nothing else, which is not here
SMALL = "datasets: {ou-2d: {n: 400, seeds: 1}, embryoid-body: {seeds: 1}}\n"

RULES = """
include: "{snakefile}"

import json
found = [
    {{"name": rule.name, "script": rule.script, "log": [str(log) for log in rule.log],
      "conda": str(rule.conda_env), "resources": sorted(rule.resources)}}
    for rule in workflow.rules
]
print("RULES" + json.dumps(found))
"""


def test_every_rule_says_what_it_needs(tmp_path):
    (tmp_path / "Snakefile").write_text(RULES.format(snakefile=SNAKEFILE))
    outcome = snakemake(tmp_path, ONE_FILE, "--dry-run", snakefile=tmp_path / "Snakefile")
    rules = json.loads(re.search(r"^RULES(.*)$", outcome.said, re.M)[1])
    at_work = [rule for rule in rules if rule["script"]]
    assert {rule["name"] for rule in rules if not rule["script"]} <= TARGETS and len(at_work) >= 15
    for rule in at_work:
        assert rule["log"], rule
        assert {"mem_mb", "runtime", "gpu"} <= set(rule["resources"]), rule
        environment = (ROOT / "workflow/rules" / rule["conda"]).resolve()
        assert environment.is_file() and environment.parent == ROOT / "envs", rule
        assert (ROOT / "workflow/rules" / rule["script"]).is_file(), rule


def test_every_rule_states_its_threads():
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        for rule in re.split(r"^(?=rule )", path.read_text(), flags=re.M)[1:]:
            assert re.search(r"^    threads: \d+$", rule, re.M), rule.splitlines()[0]


# Profiles


SETTINGS = """
include: "{snakefile}"

import json
asked = workflow.resource_settings
limits = {{name: str(limit) for name, limit in workflow.global_resources.items()}}
defaults = asked.default_resources.args if asked.default_resources else []
print("SETTINGS" + json.dumps({{"cores": asked.cores, "jobs": asked.nodes, "limits": limits, "defaults": defaults}}))
"""


def resolved(folder, *arguments):
    """What Snakemake makes of its settings."""
    (folder / "Snakefile").write_text(SETTINGS.format(snakefile=SNAKEFILE))
    outcome = snakemake(folder, ONE_FILE, "--dry-run", *arguments, snakefile=folder / "Snakefile")
    assert outcome.status == 0, outcome.said
    return json.loads(re.search(r"^SETTINGS(.*)$", outcome.said, re.M)[1])


def test_each_profile_changes_what_is_resolved(tmp_path):
    """There is no SLURM here, so its profile is resolved with the local executor."""
    from snakemake.cli import parse_args
    from snakemake.utils import available_cpu_count

    profiles = ROOT / "workflow" / "profiles"
    plain = resolved(tmp_path)
    local = resolved(tmp_path, "--workflow-profile", profiles / "local")
    slurm = resolved(tmp_path, "--workflow-profile", profiles / "slurm", "--executor", "local")
    assert "gpu" not in plain["limits"] and "gpu" in local["limits"]
    assert plain["jobs"] is None and slurm["jobs"] > 1
    assert not plain["defaults"] and {"mem_mb=2000", "runtime=60"} <= set(slurm["defaults"])
    _, said = parse_args(["--workflow-profile", str(profiles / "local")])
    assert said.cores == local["cores"] == available_cpu_count()
    assert said.keep_going and said.show_failed_logs and said.rerun_incomplete
    _, said = parse_args(["--workflow-profile", str(profiles / "slurm"), "--executor", "local"])
    assert (said.retries, said.keep_going) == (1, True) and said.latency_wait >= 20
    assert yaml.safe_load((profiles / "slurm/config.yaml").read_text())["executor"] == "slurm"


# What is refused before any job


def refusal(folder, text, *arguments):
    (folder / "wrong.yaml").write_text(text)
    outcome = snakemake(folder, "--cores", "1", *arguments, "--configfile", "wrong.yaml")
    assert outcome.status and "Traceback" not in outcome.said
    assert not (folder / "results").exists() and not outcome.jobs
    return outcome.said


def test_all_mistakes_of_a_configuration_are_named_at_once(tmp_path):
    said = refusal(
        tmp_path,
        """
        sedes: 4
        datasets:
          lorenz: {seed: 4}
          mine: {kind: table, path: nowhere.csv}
        papers: {fokker-planck-loss: {experiments: {lorenz: {methods: {kde-l1: {probs: 10}}}}}}
        """,
    )
    for hint in ("'seeds'", "'probes'"):
        assert f"did you mean {hint}" in said
    assert "datasets.lorenz: unknown key 'seed'; did you mean 'seeds'" in said
    assert "no such file 'nowhere.csv'" in said
    assert "must name its run" in said
    assert said.count("the configuration has faults") == 1


# One small run of everything, without network


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the repository in which the shrunken demo has run once, on two cores and without network."""
    folder = copy_repository(tmp_path_factory.mktemp("checkout") / "snapdyn")
    (folder / "tiny.yaml").write_text(re.sub("run: tiny\n", "", TINY))
    outcome = demo(folder, "--cores", "2", watch=folder / "watch")
    assert outcome.status == 0, outcome.said[-3000:]
    return folder


def demo(folder, *arguments, **options):
    """The demo shrunk further, from the root's Snakefile as a user would start it."""
    overlays = ("--configfile", "config/demo.yaml", "tiny.yaml")
    return snakemake(folder, *arguments, *overlays, snakefile=folder / "Snakefile", **options)


@pytest.fixture(scope="module")
def demo_jobs(checkout):
    """All jobs of that run, as Snakemake lists them."""
    return [job for job in demo(checkout, "--dry-run", "--forceall").jobs if job.rule not in TARGETS]


def test_the_demo_needs_no_network(checkout, demo_jobs):
    assert len(records(checkout / "watch")) == len(demo_jobs) > 25
    with socket.create_server(("127.0.0.1", 0)) as server:
        attempt = f"import socket; socket.create_connection({server.getsockname()!r})"
        command = [sys.executable, "-c", attempt]
        open_, blocked = (
            subprocess.run(command, env=surroundings(watch), capture_output=True, text=True)
            for watch in (None, checkout / "watch")
        )
    assert open_.returncode == 0 and "the network is blocked by the test" in blocked.stderr


def test_every_log_says_something(checkout, demo_jobs):
    for job in demo_jobs:
        (log,) = job.list("log")
        assert f"rule {job.rule} " in (checkout / log).read_text().splitlines()[0]
        assert "done in" in (checkout / log).read_text().splitlines()[-1]


def test_a_second_run_has_nothing_to_do(checkout):
    outcome = demo(checkout, "--dry-run")
    assert "Nothing to be done (all requested" in outcome.said and not outcome.jobs


def left_out():
    """Experiments that the demo, or its shrunken form, has no data sets for."""
    overlays = [yaml.safe_load(text) for text in ((ROOT / "config" / "demo.yaml").read_text(), TINY)]
    papers = [paper["experiments"] for overlay in overlays for paper in overlay["papers"].values()]
    return {name for experiments in papers for name, spec in experiments.items() if spec.get("datasets") == []}


def test_collected_tables_keep_their_contract(checkout):
    folder = checkout / "results/demo"
    metrics, _ = artifacts.read(folder / "metrics.parquet", "metrics/1")
    parameters, _ = artifacts.read(folder / "parameters.parquet", "parameters/1")
    scorecard, _ = artifacts.read(folder / "scorecard.parquet", "scorecard/1")
    for frame, kind in ((metrics, "metrics/1"), (parameters, "parameters/1"), (scorecard, "scorecard/1")):
        assert list(frame) == list(artifacts.CONTRACTS[kind].columns)
    asked = {name for paper in configured().values() for name in paper["experiments"]}
    there = asked - REAL_CELLS - left_out()
    assert set(metrics["experiment"]) == there
    drifts = set(configured()["fokker-planck-loss"]["experiments"])
    # no drift is read off the densities of cells; of energies only those with a diffusivity have a parameter
    assert (there & drifts) - {"cells-density"} <= set(parameters["experiment"]) <= there - {"cells-density"}
    assert np.isfinite(parameters["estimate"]).all()
    assert (folder / "scorecard.md").read_text().startswith("# Scorecard")


def test_every_figure_stands_beside_what_it_plots(checkout):
    drawn = sorted((checkout / "results/demo/figures").rglob("*.pdf"))
    asked = {(figure["experiment"], name) for p in configured().values() for name, figure in p["figures"].items()}
    without = REAL_CELLS | left_out()
    assert {path.stem for path in drawn} == {name for experiment, name in asked if experiment not in without}
    for figure in drawn:
        assert figure.with_suffix(".png").stat().st_size > 5000
        artifacts.read(figure.with_suffix(".parquet"), "figure/1")


def test_what_is_missing_is_left_out_and_the_scorecard_says_so(checkout, demo_jobs):
    assert not {"fetch_resource", "import_resource"} & {job.rule for job in demo_jobs}
    scorecard, _ = artifacts.read(checkout / "results/demo/scorecard.parquet", "scorecard/1")
    line = scorecard.set_index("claim").loc["target-embryoid-body"]
    assert line["verdict"] == "not run"
    assert "embryoid-body-5pc is not in" in line["note"] and "skip-missing" in line["note"]
    assert "embryoid-body-5pc is not in" in (checkout / "results/demo/scorecard.md").read_text()


def test_rules_that_only_move_tables_import_no_torch(checkout):
    torch = defaultdict(set)
    for record in records(checkout / "watch"):
        torch[record["torch"]].add(record["rule"])
    assert not LIGHT & torch[True] and {"collect", "score_recovery", "score_study", "scorecard"} <= torch[False]
    assert {"recover", "fit"} <= torch[True]


# What runs again


def test_every_module_that_a_job_imports_is_an_input_of_it(checkout, demo_jobs):
    inputs = {job.about: set(job.list("input")) for job in demo_jobs}
    for record in records(checkout / "watch"):
        declared = inputs[record["rule"], tuple(sorted(record["wildcards"].items()))]
        untracked = {name for name, file in record["modules"].items() if file not in declared}
        assert not untracked, f"{record['rule']} imports {untracked}, but editing them would not rerun it"


def test_editing_a_module_reruns_its_users_and_nobody_else(checkout, demo_jobs):
    package = checkout / "workflow/snapdyn"
    for path in package.glob("*.py"):
        path.touch()
    assert not demo(checkout, "--dry-run").jobs  # touched, not edited
    edited = [package / f"{name}.py" for name in ("studies", "propagation", "scorecard", "verdict")]
    before = {path: path.read_text() for path in edited}
    for path in edited:
        path.write_text(before[path] + "\n\nEDITED = True\n")
    planned = demo(checkout, "--dry-run").jobs
    for path in edited:
        path.write_text(before[path])
    users = {path.stem: {job.about for job in demo_jobs if str(path) in job.list("input")} for path in edited}
    direct = set.union(*users.values())
    assert direct <= {job.about for job in planned}
    for job in planned:
        why = job.fields["reason"]
        assert (job.about in direct and "Updated input files" in why) or "updated by another job" in why
    rules = {name: {rule for rule, _ in jobs} for name, jobs in users.items()}
    assert rules["studies"] == {"study"} and rules["scorecard"] == {"scorecard", "figure"}
    assert rules["propagation"] == {"fit", "evaluate"}  # a method, found by its name
    untouched = {"simulate", "simulate_flow", "synthesise", "recover", "score_recovery", "score_flow", "fit_energies"}
    assert not untouched & {job.rule for job in planned}


def test_a_killed_run_resumes_and_ends_with_the_same_bytes(checkout, tmp_path):
    """Killed as hard as can be on two cores, ended on one: the bytes are those of the undisturbed run on two."""
    overlays = [str(checkout / name) for name in ("config/demo.yaml", "tiny.yaml")]
    command = [sys.executable, "-m", "snapdyn.launch", "--snakefile", str(checkout / "workflow/Snakefile")]
    command += [*PART, "--configfile", *overlays]
    environment = surroundings() | {"PYTHONPATH": str(checkout / "workflow")}
    running = subprocess.Popen([*command, "--cores", "2"], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 180
    while not list(tmp_path.glob("results/demo/data/*/seed-0/snapshots.parquet")):
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    running.kill()
    running.wait()
    assert not any((tmp_path / path).exists() for path in PART)  # it was in the middle of its work
    command += ["--cores", "1"]
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "removed the lock of an earlier run that was killed" in again.stderr
    resumed, undisturbed = contents(tmp_path / "results"), contents(checkout / "results")
    assert {path.removeprefix("results/") for path in PART} <= set(resumed)
    assert {Path(name).suffix for name in resumed} >= {".parquet", ".png", ".pdf", ".pt"}
    assert resumed == {name: undisturbed[name] for name in resumed}


# An absent resource


def test_an_absent_resource_stops_only_what_needs_it(checkout):
    """``resources: require`` without network: one error with address, checksum and place."""
    (checkout / "need.yaml").write_text("run: need\n" + SMALL)
    snapshots = [f"results/need/data/{name}/seed-0/snapshots.parquet" for name in ("embryoid-body", "ou-2d")]
    outcome = snakemake(
        checkout,
        *("--cores", "2", "--keep-going", *snapshots, "--configfile", "need.yaml"),
        watch=checkout / "watch",
    )
    assert outcome.status and [(checkout / path).exists() for path in snapshots] == [False, True]
    assert re.findall(r"Error in rule (\w+)", outcome.said) == ["fetch_resource"]
    log = (checkout / "results/need/logs/fetch_resource/embryoid-body-5pc.log").read_text()
    declared = yaml.safe_load((checkout / "config/resources.yaml").read_text())["embryoid-body-5pc"]
    for text in (outcome.err, log):
        for form in declared["forms"]:
            for file in form["files"]:
                assert file["sha256"] in text and f"at resources/{file['file']}" in text
                assert all(url in text for url in file.get("urls", ()))
    assert "the network is blocked by the test" in log
    assert not list((checkout / "results/need").rglob("*embryoid-body*.json"))


def test_a_resource_with_another_checksum_is_refused(checkout):
    """A file that is there but is not the one declared: what was expected, what came, and nothing made of it."""
    spoiled = checkout / "spoiled" / "embryoid_body" / "pcs_5d.parquet"
    spoiled.parent.mkdir(parents=True)
    spoiled.write_bytes(b"cut short")
    (checkout / "spoiled.yaml").write_text("run: spoiled\nresources_dir: spoiled\n" + SMALL)
    wanted = "results/spoiled/resources/embryoid-body-5pc.json"
    outcome = snakemake(checkout, "--cores", "1", wanted, "--configfile", "spoiled.yaml")
    declared = yaml.safe_load((checkout / "config/resources.yaml").read_text())["embryoid-body-5pc"]
    assert outcome.status and not (checkout / wanted).exists()
    assert (
        declared["forms"][0]["files"][0]["sha256"] in outcome.err
        and "spoiled/embryoid_body/pcs_5d.parquet" in outcome.err
    )
