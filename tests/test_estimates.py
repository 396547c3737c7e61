"""What jobs cost and how long a graph of them takes: against schedules that can be worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from plan_helpers import jobs

from snapdyn import artifacts, estimates


def random_jobs(rng, n, **columns):
    """A random graph: each job waits for up to three of the twenty before it."""
    rows = []
    for i in range(n):
        before = rng.integers(max(0, i - 20), i, size=rng.integers(0, 4)) if i else []
        rows.append((f"rule{i % 4}", str(i), rng.exponential(20), tuple({int(j) for j in before})))
    return jobs(*rows, **columns)


def past(*rows, origin="full run"):
    frame = pd.DataFrame(rows, columns=["rule", "job", "wall_s"])
    return frame.assign(cpu_s=frame["wall_s"] / 2, peak_mb=200.0, origin=origin)


class TestSchedule:
    @pytest.mark.parametrize("cores, seconds", [(1, 30), (2, 15), (3, 12), (10, 3)])
    def test_independent_jobs_fill_the_cores(self, cores, seconds):
        assert (
            estimates.schedule(jobs(*[("a", str(i), 3, ()) for i in range(10)]), {"threads": cores}).seconds == seconds
        )

    def test_a_chain_takes_its_sum_on_any_number_of_cores(self):
        chain = jobs(("a", "", 3, ()), ("b", "", 4, (0,)), ("c", "", 5, (1,)), ("d", "", 2, ()))
        assert estimates.schedule(chain, {"threads": 8}).seconds == 12
        assert estimates.longest_chain(chain) == 12

    def test_every_limit_counts_and_no_job_gets_more_than_there_is(self):
        four = [("a", str(i), 1, ()) for i in range(4)]
        assert estimates.schedule(jobs(*four, threads=2), {"threads": 4}).seconds == 2
        assert estimates.schedule(jobs(*four, threads=8), {"threads": 4}).seconds == 4
        assert estimates.schedule(jobs(*four, mem_mb=600.0), {"threads": 4, "mem_mb": 1000}).seconds == 4
        assert estimates.schedule(jobs(*four, gpu=1), {"threads": 4, "gpu": 2}).seconds == 2
        assert estimates.schedule(jobs(*four), {"jobs": 2}).seconds == 2

    def test_memory_is_that_of_jobs_side_by_side(self):
        six = jobs(*[("a", str(i), 1, ()) for i in range(6)], peak_mb=[1.0, 2, 4, 8, 16, 32])
        assert estimates.schedule(six, {"threads": 2}).peak_mb == 48
        assert estimates.schedule(six, {"threads": 6}).peak_mb == 63

    def test_between_the_bounds_of_list_scheduling(self, rng):
        for cores in (1, 2, 5):
            frame = random_jobs(rng, 80)
            chain, work = estimates.longest_chain(frame), frame["wall_s"].sum()
            seconds = estimates.schedule(frame, {"threads": cores}).seconds
            assert max(chain, work / cores) - 1e-9 <= seconds <= work / cores + chain

    def test_no_jobs_take_no_time(self):
        assert estimates.schedule(jobs(), {"threads": 2}) == (0.0, 0.0)


class TestExpect:
    asked = (("fit", "a", np.nan, ()), ("fit", "new", np.nan, ()), ("page", "a", np.nan, ()))

    def expect(self, history):
        bare = jobs(*self.asked).drop(columns=[*estimates.COSTS, "origin"])
        return estimates.expect(bare, history)[["wall_s", "origin"]].to_numpy().tolist()

    def test_own_time_else_median_of_the_rule_else_unknown(self):
        got = self.expect(past(("fit", "a", 3), ("fit", "b", 5), ("fit", "c", 100)))
        assert got[:2] == [[3, "full run"], [5, "median"]] and got[2][1] == "not measured"

    def test_this_run_goes_before_another_size(self):
        mine = past(("fit", "b", 7), origin="this run")
        other = past(("fit", "a", 3000), ("fit", "c", 5000), ("page", "z", 9), origin="other size")
        got = self.expect(pd.concat([mine, other], ignore_index=True))
        assert got == [[7, "median"], [7, "median"], [9, "other size"]]
        assert self.expect(other)[0] == [3000, "other size"]

    def test_targets_cost_nothing(self):
        target = jobs(("all", "", np.nan, ()), idle=True).drop(columns=[*estimates.COSTS, "origin"])
        assert estimates.expect(target, past())["wall_s"].tolist() == [0]


def test_history_is_this_runs_own_and_the_kept_one(tmp_path):
    kept = past(("fit", "a", 3.0)).drop(columns="origin")[["rule", "job", *estimates.COSTS]]
    artifacts.write(kept, tmp_path / "kept.parquet", "rule-benchmark/1")
    path = tmp_path / "results" / "benchmarks" / "fit" / "a" / "seed-0.tsv"
    path.parent.mkdir(parents=True)
    path.write_text("s\tmax_rss\tcpu_time\n5\t100\t4\n")
    full = estimates.history("full", tmp_path / "results", tmp_path / "kept.parquet")
    assert full[["job", "wall_s", "origin"]].to_numpy().tolist() == [["a/seed-0", 5, "this run"], ["a", 3, "full run"]]
    demo = estimates.history("demo", tmp_path / "elsewhere", tmp_path / "kept.parquet")
    assert demo["origin"].tolist() == ["other size"]
    assert estimates.history("demo", tmp_path / "elsewhere", tmp_path / "absent.parquet").empty


def test_a_benchmark_that_a_full_disk_cut_off_does_not_count(tmp_path):
    for name, text in (("a", "s\tmax_rss\tcpu_time\n5\t100\t4\n"), ("b", "")):
        path = tmp_path / "benchmarks" / "fit" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert estimates.history("mine", tmp_path, tmp_path / "absent.parquet")["job"].tolist() == ["a"]


def test_what_waits_for_a_failed_job_is_stranded():
    frame = jobs(("a", "", 1, ()), ("b", "", 1, ()), ("c", "", 1, (0,)), ("d", "", 1, (1,)), ("e", "", 1, (2, 3)))
    assert estimates.stranded(frame, [0]) == {0, 2, 4} and estimates.stranded(frame, []) == set()


def test_names_come_from_logs():
    assert estimates.name_of("fit", "results/full/logs/fit/paper/cells/seed-0.log") == "paper/cells/seed-0"
    assert estimates.name_of("moments", "results/x/logs/moments/a/moments.log") == "a/moments"
    assert estimates.name_of("collect", "results/full/logs/collect.log") == ""
    assert estimates.name_of("all", "") == ""


class TestRemaining:
    limits = {"threads": 3}

    def at(self, frame, factor, share, **changes):
        """A run in which every job takes ``factor`` times what was expected, stopped at a share of its jobs.

        Returns:
            the estimate there and the truth.
        """
        begins, ends = estimates.timeline(frame.assign(wall_s=frame["wall_s"] * factor), self.limits).T
        now = np.sort(ends)[int(share * len(ends))]
        done = {i: ends[i] - begins[i] for i in frame["jobid"] if ends[i] <= now}
        running = {i: now - begins[i] for i in frame["jobid"] if begins[i] < now < ends[i]}
        left = estimates.remaining(frame.assign(**changes), done, running, self.limits, now)
        return left, ends.max() - now

    @pytest.mark.parametrize("factor", [0.4, 1.0, 4.0])
    def test_a_steady_run_is_foreseen_whatever_its_pace(self, rng, factor):
        frame = random_jobs(rng, 60)
        for share in (0.4, 0.7):
            left, truth = self.at(frame, factor, share)
            assert abs(left - truth) < 0.2 * truth + 5
        naive = estimates.schedule(frame, self.limits).seconds
        if factor == 4.0:  # what the test is for: without correction the answer is far off
            assert naive < 0.5 * estimates.schedule(frame.assign(wall_s=4 * frame["wall_s"]), self.limits).seconds

    def test_another_size_needs_a_few_jobs_before_anything_is_said(self, rng):
        frame = random_jobs(rng, 60)
        assert self.at(frame, 0.05, 0.02, origin="other size")[0] is None
        left, truth = self.at(frame, 0.05, 0.5, origin="other size")
        assert abs(left - truth) < 0.3 * truth + 2

    def test_nothing_is_said_of_jobs_that_nobody_measured(self):
        frame = jobs(*[("a", str(i), np.nan, ()) for i in range(10)], origin="not measured")
        assert estimates.remaining(frame, {}, {}, self.limits, 5.0) is None
        # one of them has ended: now their kind is known
        assert estimates.remaining(frame, {0: 6.0}, {}, self.limits, 6.0) == pytest.approx(18.0, rel=0.5)

    def test_a_running_job_has_less_left(self):
        frame = jobs(("a", "0", 100, ()), ("a", "1", 100, ()))
        fresh = estimates.remaining(frame, {}, {0: 0.0, 1: 0.0}, self.limits, 1.0)
        late = estimates.remaining(frame, {}, {0: 90.0, 1: 90.0}, self.limits, 90.0)
        assert fresh == pytest.approx(100, rel=0.1) and late < 25
        assert estimates.remaining(frame, {0: 100.0, 1: 100.0}, {}, self.limits, 100.0) == 0
