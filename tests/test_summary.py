"""The last lines of a run: verdicts, places, failures with both logs, reasons; and short."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from plan_helpers import jobs

from snapdyn import artifacts, progress, summary
from snapdyn.session import Session


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run called demo of 3 fits and a scorecard, 90 s old, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    seconds = [0.0]
    frame = jobs(*[("fit", f"cells/seed-{i}", 30, ()) for i in range(3)], ("scorecard", "", 5, ()))
    watcher = progress.Progress(frame, {"threads": 1}, print, clock=lambda: seconds[0])
    seconds[0] = 90.0
    plan = SimpleNamespace(
        run="demo",
        config={"analyses": {"mine": {"dataset": "cells"}, "theirs": {"dataset": "gone"}}},
        skipped={"gone": "resource gone is not here"},
        skipped_experiments=lambda: {"drift/gone": "resource gone is not here"},
        of=lambda paper: [SimpleNamespace(experiment="mine")],
    )
    given = SimpleNamespace(configfiles=[tmp_path / "mine.yaml"], config={"seeds": 2})
    return Session(SimpleNamespace(config_settings=given), plan, {}, watcher)


def finished(run, *ids):
    run.watcher.done = dict.fromkeys(ids, 20.0)
    return run


def scorecard(verdicts):
    columns = artifacts.CONTRACTS["scorecard/1"].columns
    kinds = {artifacts.TEXT: "x", artifacts.INT: 1, artifacts.FLOAT: np.nan}
    frame = pd.DataFrame(
        [
            {name: kinds[kind] for name, kind in columns.items()} | {"claim": f"{i}", "verdict": v}
            for i, v in enumerate(verdicts)
        ]
    )
    artifacts.write(
        frame.astype({"n_seeds": np.int64}), "results/demo/scorecard.parquet", "scorecard/1", {"run": "demo"}
    )
    artifacts.write_text("# Scorecard\n", "results/demo/scorecard.md")


def test_an_own_run_does_not_count_claims_that_it_did_not_ask_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scorecard(["not run", "not run"])
    path = tmp_path / "results/demo/scorecard.parquet"
    assert list(summary.scorecard(path, renewed=True, own=True)) == []
    assert list(summary.scorecard(path, renewed=True)) == ["Scorecard: 2 claims and targets: 2 not run."]


def test_a_run_that_worked(run, tmp_path):
    (tmp_path / "results/demo/analyses/mine").mkdir(parents=True)
    artifacts.write_json({"verdict": "cannot tell"}, tmp_path / "results/demo/analyses/mine/verdict.json")
    (tmp_path / "results/demo/analyses/mine/page.md").write_text("page")
    (tmp_path / "results/demo/figures/paper").mkdir(parents=True)
    for name in ("one", "two"):
        (tmp_path / f"results/demo/figures/paper/{name}.png").write_bytes(b"")
    scorecard(["better", "not run", "short", "short"])
    assert summary.lines(finished(run, 0, 1, 2, 3), succeeded=True) == [
        "Run demo: 4 of 4 jobs done in 90 s, expected about 95 s.",
        "Scorecard: 4 claims and targets: 1 better, 2 short, 1 not run.",
        "Better than doing nothing: mine cannot tell.",
        "Left out: drift/gone, theirs: resource gone is not here",
        "Look at: results/demo/scorecard.md; results/demo/analyses/mine/page.md; results/demo/figures (2 figures)",
        'All on one page: make report ARGS="--configfile mine.yaml --config seeds=2"',
    ]


def test_a_scorecard_of_an_earlier_run_says_so(run):
    scorecard(["better"])
    assert "Scorecard (not made anew by this run): 1 claims and targets: 1 better." in summary.lines(
        finished(run, 0), succeeded=True
    )


def test_failures_are_told_with_both_logs_and_their_last_words(run, tmp_path):
    (tmp_path / "own.log").write_text("12:00:00 INFO    rule fit\nTraceback\nmy.ValueError: no such column\n  more\n\n")
    run.watcher.failed = {1: progress.Failure("fit", "cells/seed-1", ["own.log", "slurm.log"])}
    told = summary.lines(finished(run, 0), succeeded=False)
    assert told[0].startswith("Run demo is not complete: 1 of 4 jobs done in 90 s, 1 failed and 2 did not end.")
    assert told[1:4] == ["Failed: fit cells/seed-1", "  ValueError: no such column", "  log: own.log, slurm.log"]


def test_a_list_that_an_error_announces_is_told_with_it(tmp_path):
    log = tmp_path / "own.log"
    log.write_text("Traceback\nmy.TableError: cannot use a.csv:\n- no column x\n- no column y\nNameError aside\n")
    failure = type("Failure", (), {"logs": [str(log)]})
    assert summary.last_line(failure).endswith("cannot use a.csv: - no column x - no column y")


def test_many_failures_and_long_texts_stay_short(run, tmp_path):
    (tmp_path / "own.log").write_text("ValueError: " + "x" * 1000)
    run.watcher.failed = {i: progress.Failure("fit", f"cells/seed-{i}", ["own.log"]) for i in range(100)}
    run.plan.skipped_experiments = lambda: {f"drift/{i}": f"reason {i}" for i in range(50)}
    told = summary.lines(run, succeeded=False)
    assert len(told) < 25 and max(map(len, told)) <= summary.WIDTH
    assert any(line.startswith("Failed too: fit cells/seed-4") for line in told)
    assert any("47 more reasons" in line or "48 more reasons" in line for line in told)


def test_jobs_that_the_user_stopped_have_not_failed(run, tmp_path):
    (tmp_path / "own.log").write_text("12:00:00 ERROR   interrupted by SIGINT after 3.0 s\n")
    run.watcher.failed = {1: progress.Failure("fit", "cells/seed-1", ["own.log"])}
    told = summary.lines(finished(run, 0), succeeded=False)
    assert "3 did not end" in told[0] and not any("Failed" in line for line in told)
    run.watcher.failed[1].logs.append("slurm.log")  # a cluster that stops a job is another matter
    assert "Failed: fit cells/seed-1" in summary.lines(run, succeeded=False)


def test_the_report_of_the_full_run_needs_no_arguments():
    assert summary.report_command(SimpleNamespace(configfiles=[], config={})) == "make report"


def test_a_run_without_benchmarks_promises_nothing(run):
    run.watcher.promise = None
    assert summary.lines(finished(run, 0, 1, 2, 3), succeeded=True)[0] == "Run demo: 4 of 4 jobs done in 90 s."
