"""What is kept of full runs: every job's cost, the scorecard, the figures with their captions; the rest stays."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from snapdyn import artifacts, frames, publish, scorecard

ROOT = Path(__file__).parents[1]
CLAIM = {"kind": "claim", "source": "Table 1", "dataset": "d", "method": "m", "metric": "w1", "statistic": "mean"}
CLAIM |= {"direction": "lower", "published": 1.0, "comparable": True}
PAPERS = [{"paper": "p", "claims": [CLAIM | {"id": name, "experiment": name} for name in ("one", "two", "three")]}]


def finished(results, commit, values, *, jobs):
    """A finished run: ``values`` are scores by experiment, and each experiment has a figure of its name."""
    for rule, job, seconds in jobs:
        path = results / "benchmarks" / rule / f"{job}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\th:m:s\tmax_rss\tcpu_time\n{seconds}\t0:00:03\t200\t{seconds / 2}\n")
    about = {"paper": "p", "dataset": "d", "method": "m", "split": "test", "t": np.nan, "metric": "w1", "unit": "1"}
    rows = [
        about | {"experiment": name, "seed": seed, "value": value, "n": 10}
        for name, value in values.items()
        for seed in range(3)
    ]
    measured = pd.DataFrame(rows)[list(artifacts.CONTRACTS["metrics/1"].columns)]
    artifacts.write(measured, results / "metrics.parquet", "metrics/1")
    card = scorecard.build(measured, None, PAPERS)
    artifacts.write(card, results / "scorecard.parquet", "scorecard/1", {"run": "full"})
    for name, value in values.items():
        figure = results / "figures" / "p" / f"{name}.png"
        artifacts.write(
            frames.rows("panel", "series", [0.0], [1.0]),
            figure.with_suffix(".parquet"),
            "figure/1",
            {"caption": f"What {name} shows: {value}."},
        )
        figure.write_bytes(b"png of " + commit.encode())
    witness = {"commit": commit, "dirty": False, "versions": {"python": "3.11"}}
    artifacts.write_json(witness, results / "scorecard.parquet.provenance.json")
    artifacts.write_json(witness | {"dirty": True}, results / "metrics.parquet.provenance.json")
    return results


@pytest.fixture
def first(tmp_path):
    jobs = [("fit", "p/one/seed-0", 3.0), ("fit", "p/two/seed-0", 5.0), ("simulate", "d", 2.0)]
    return finished(tmp_path / "first", "abc123", {"one": 0.9, "two": 2.0}, jobs=jobs)


def test_cost_of_every_job(first):
    frame = publish.benchmarks(first / "benchmarks").set_index(["rule", "job"])
    assert frame.loc[("fit", "p/two/seed-0"), "wall_s"] == 5 and frame.loc[("simulate", "d"), "cpu_s"] == 1
    assert np.isclose(frame["peak_mb"], 200).all()


def test_page_names_commit_machine_and_captions(first, tmp_path):
    target = tmp_path / "full-run"
    publish.publish(first, target, machine="a machine")
    once = (target / "README.md").read_text()
    publish.publish(first, target, machine="a machine")  # replaces what was there
    page = (target / "README.md").read_text()
    assert page == once
    assert "`abc123` with uncommitted changes" in page and "`abc123` (" in page
    assert "a machine" in page and "What one shows: 0.9." in page and "Experiments: p/one, p/two." in page
    assert "| fit | 2 | 8 | 4 | 5 | 200 |" in page
    assert (target / "figures" / "p" / "one.png").exists()
    assert len(artifacts.read(target / "benchmark.parquet", "rule-benchmark/1")[0]) == 3


def test_a_run_of_some_experiments_leaves_those_of_earlier_runs(first, tmp_path):
    target = tmp_path / "full-run"
    publish.publish(first, target, machine="a machine")
    jobs = [("fit", "p/two/seed-0", 50.0), ("fit", "p/three/seed-0", 7.0)]
    second = finished(tmp_path / "second", "def456", {"two": 0.5, "three": 1.0}, jobs=jobs)
    publish.publish(second, target, machine="another machine")
    card = artifacts.read(target / "scorecard.parquet", "scorecard/1")[0]
    assert card["claim"].tolist() == ["one", "two", "three"]
    assert card["ours"].tolist() == [0.9, 0.5, 1.0] and "not run" not in set(card["verdict"])
    text = (target / "scorecard.md").read_text()
    assert "3 claims: 2 better, 1 reproduced." in text
    page = (target / "README.md").read_text()
    assert "What one shows: 0.9." in page and "What two shows: 0.5." in page and "What two shows: 2.0." not in page
    newer, older = page.index("Experiments: p/three, p/two."), page.index("Experiments: p/one.")
    assert page.index("another machine") < newer < page.index("on a machine") < older
    assert (target / "figures" / "p" / "one.png").read_bytes() == b"png of abc123"
    assert (target / "figures" / "p" / "two.png").read_bytes() == b"png of def456"
    costs = artifacts.read(target / "benchmark.parquet", "rule-benchmark/1")[0].set_index(["rule", "job"])["wall_s"]
    assert costs.to_dict() == {
        ("fit", "p/one/seed-0"): 3.0,
        ("fit", "p/two/seed-0"): 50.0,
        ("fit", "p/three/seed-0"): 7.0,
        ("simulate", "d"): 2.0,
    }
    third = finished(tmp_path / "third", "fff", {"one": 0.1}, jobs=jobs[:1])
    publish.publish(third, target, machine="a third machine")  # of the first run nothing is left
    page = (target / "README.md").read_text()
    assert "abc123" not in page and "def456" in page and "fff" in page


def test_a_figure_of_which_nothing_is_kept_goes(first, tmp_path):
    target = tmp_path / "full-run"
    publish.publish(first, target, machine="a machine")
    again = finished(tmp_path / "again", "def456", {"one": 0.9, "two": 2.0}, jobs=[("simulate", "d", 2.0)])
    (again / "figures" / "p" / "two.png").unlink()
    publish.publish(again, target, machine="a machine")
    assert [path.stem for path in target.rglob("*.png")] == ["one"]
    assert "## two" not in (target / "README.md").read_text()


def test_a_run_of_another_size_is_refused_and_replaces_nothing(first, tmp_path):
    target = tmp_path / "full-run"
    publish.publish(first, target, machine="a machine")
    before = {path: path.read_bytes() for path in sorted(target.rglob("*.*"))}
    small = finished(tmp_path / "demo", "def456", {"one": 0.1}, jobs=[("simulate", "d", 1.0)])
    card = artifacts.read(small / "scorecard.parquet", "scorecard/1")[0]
    artifacts.write(card, small / "scorecard.parquet", "scorecard/1", {"run": "demo"})
    with pytest.raises(ValueError, match="published size, called 'full', got 'demo'"):
        publish.publish(small, target, machine="a machine")
    assert {path: path.read_bytes() for path in sorted(target.rglob("*.*"))} == before


def test_an_experiment_that_was_run_and_gave_nothing_is_not_covered_by_an_old_number(first, tmp_path):
    target = tmp_path / "full-run"
    publish.publish(first, target, machine="a machine")
    second = finished(tmp_path / "second", "def456", {"two": 0.5}, jobs=[("simulate", "d", 2.0)])
    measured = artifacts.read(second / "metrics.parquet", "metrics/1")[0].assign(metric="other")
    artifacts.write(measured, second / "metrics.parquet", "metrics/1")
    card = scorecard.build(measured, None, PAPERS)
    artifacts.write(card, second / "scorecard.parquet", "scorecard/1", {"run": "full"})
    publish.publish(second, target, machine="another machine")
    card = artifacts.read(target / "scorecard.parquet", "scorecard/1")[0].set_index("claim")
    assert card.loc["two", "verdict"] == "not run" and card.loc["one", "ours"] == 0.9


def test_a_run_without_benchmarks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no benchmarks under"):
        publish.benchmarks(tmp_path)


def test_what_is_kept_belongs_to_experiments_and_figures_of_the_papers():
    folder = ROOT / "docs" / "full-run"
    papers = {}
    for path in sorted((ROOT / "config" / "papers").glob("*.yaml")):
        papers |= yaml.safe_load(path.read_text(encoding="utf-8"))["papers"]
    runs = json.loads((folder / publish.STATED).read_text(encoding="utf-8"))
    kept = [name for run in runs for name in run["experiments"]]
    assert len(kept) == len(set(kept))
    assert set(kept) <= {f"{paper}/{name}" for paper in papers for name in papers[paper]["experiments"]}
    named = sorted(name for run in runs for name in run["figures"])
    there = sorted(str(path.relative_to(folder / "figures").with_suffix("")) for path in folder.rglob("*.png"))
    assert there == named
    assert set(named) <= {f"{paper}/{name}" for paper in papers for name in papers[paper]["figures"]}
