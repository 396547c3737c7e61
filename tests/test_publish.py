"""What is kept of a full run: every job's cost, the scorecard, the figures with their captions."""

import numpy as np
import pytest

from snapdyn import artifacts, frames, publish


@pytest.fixture
def finished(tmp_path):
    results = tmp_path / "results"
    for rule, job, seconds in (("fit", "cells/seed-0", 3.0), ("fit", "cells/seed-1", 5.0), ("simulate", "ou", 2.0)):
        path = results / "benchmarks" / rule / f"{job}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\th:m:s\tmax_rss\tcpu_time\n{seconds}\t0:00:03\t200\t{seconds / 2}\n")
    (results / "scorecard.md").write_text("# Scorecard\n")
    (results / "scorecard.parquet").write_bytes(b"kept as it is")
    witness = {"commit": "abc123", "dirty": False, "versions": {"python": "3.11"}}
    artifacts.write_json(witness, results / "scorecard.parquet.provenance.json")
    artifacts.write_json(witness | {"commit": "def456", "dirty": True}, results / "metrics.parquet.provenance.json")
    figure = results / "figures" / "paper" / "one.png"
    figure.parent.mkdir(parents=True)
    figure.write_bytes(b"png")
    frame = frames.rows("panel", "series", [0.0], [1.0])
    artifacts.write(frame, figure.with_suffix(".parquet"), "figure/1", {"caption": "What it shows."})
    return results


def test_cost_of_every_job(finished):
    frame = publish.benchmarks(finished / "benchmarks").set_index(["rule", "job"])
    assert frame.loc[("fit", "cells/seed-1"), "wall_s"] == 5 and frame.loc[("simulate", "ou"), "cpu_s"] == 1
    assert np.isclose(frame["peak_mb"], 200).all()


def test_page_names_commit_machine_and_captions(finished, tmp_path):
    target = tmp_path / "full-run"
    publish.publish(finished, target, machine="a machine")
    publish.publish(finished, target, machine="a machine")  # replaces what was there
    page = (target / "README.md").read_text()
    assert "`abc123` (1 files)" in page and "`def456` with uncommitted changes (1 files)" in page
    assert "a machine" in page and "What it shows." in page
    assert "| fit | 2 | 8 | 4 | 5 | 200 |" in page
    assert (target / "figures" / "paper" / "one.png").exists()
    assert len(artifacts.read(target / "benchmark.parquet", "rule-benchmark/1")[0]) == 3


def test_a_run_without_benchmarks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no benchmarks under"):
        publish.benchmarks(tmp_path)
