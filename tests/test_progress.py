"""The lines that a run prints of itself: right numbers, not too many of them, and never the end of the run."""

import logging
import os
from types import SimpleNamespace

import numpy as np
import pytest
from plan_helpers import jobs
from snakemake_interface_logger_plugins.common import LogEvent

from snapdyn import progress


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def watch(clock):
    """A run of ten jobs of a minute each on two cores, and the lines that it said."""
    frame = jobs(*[("fit", f"cells/seed-{i}", 60, ()) for i in range(10)])
    said = []
    return SimpleNamespace(run=progress.Progress(frame, {"threads": 2}, said.append, clock=clock), said=said)


def tell(run, event, **fields):
    record = logging.makeLogRecord({"event": event, "msg": None} | fields)
    run.handle(record)


def begin(run, *ids):
    tell(run, LogEvent.JOB_STARTED, jobs=list(ids))
    for jobid in ids:
        tell(run, LogEvent.JOB_INFO, jobid=jobid, rule_name="fit")


def end(run, *ids):
    for jobid in ids:
        tell(run, LogEvent.JOB_FINISHED, job_id=jobid)
    tell(run, LogEvent.PROGRESS, done=len(run.done), total=10)


def fail(run, jobid, logs=("own.log",), message=None):
    tell(run, LogEvent.JOB_ERROR, jobid=jobid, rule_name="fit", log=list(logs), rule_msg=message, aux={})


def test_a_line_says_jobs_time_and_what_runs(watch, clock):
    begin(watch.run, 0, 1)
    clock.now = 60
    end(watch.run, 0, 1)
    begin(watch.run, 2, 3)
    clock.now = 90
    watch.run.tell()
    assert watch.said == ["2 of 10 jobs, 90 s of about 5 min; running: fit cells/seed-2, fit cells/seed-3"]


def test_the_pace_of_the_run_corrects_the_time(watch, clock):
    for pair in ((0, 1), (2, 3)):
        begin(watch.run, *pair)
        clock.now += 180  # three times as long as earlier benchmarks say
        end(watch.run, *pair)
    begin(watch.run, 4, 5)
    whole = int(watch.run.line().split("about ")[1].split(" min")[0])
    assert 13 <= whole <= 16  # five rounds of three minutes; benchmarks alone say five minutes


def test_medians_are_no_promise(clock):
    frame = jobs(*[("fit", str(i), 60, ()) for i in range(10)])
    frame.loc[:3, "origin"] = "median"
    assert progress.Progress(frame, {"threads": 1}, print, clock=clock).promise is None


def test_lines_come_seldom(watch, clock):
    begin(watch.run, 0, 1)
    for second in range(1, 60):
        clock.now = second
        if second % 10 == 0:
            end(watch.run, second // 10)
        watch.run.tell()
    assert 3 <= len(watch.said) <= 6


def test_silence_is_broken_once_a_minute(watch, clock):
    begin(watch.run, 0)
    for second in range(1, 600):
        clock.now = second
        watch.run.tell()
    assert 8 <= len(watch.said) <= 10


def test_no_time_is_promised_where_none_is_known(clock):
    unknown = jobs(*[("fit", str(i), np.nan, ()) for i in range(5)], origin="not measured")
    run = progress.Progress(unknown, {"threads": 1}, print, clock=clock)
    begin(run, 0)
    clock.now = 30
    assert run.line() == "0 of 5 jobs, 30 s; running: fit 0" and run.promise is None and run.opening() is None


def test_the_promise_comes_first(watch):
    assert watch.run.promise == 300 and watch.run.opening() == "10 jobs, about 5 min by earlier benchmarks."


def test_a_snakemake_that_does_not_say_what_ended_is_asked_what_runs(clock):
    alive = [0, 1]
    frame = jobs(*[("fit", str(i), 60, ()) for i in range(4)])
    run = progress.Progress(frame, {"threads": 2}, print, alive=lambda: alive, clock=clock)
    begin(run, 0, 1)
    clock.now = 50
    alive[:] = [1, 2]
    begin(run, 2)
    assert run.done == {0: 50} and set(run.running()) == {1, 2}
    alive.clear()
    run.stop()
    assert set(run.done) == {0, 1, 2}


def test_failures_keep_both_logs_and_another_attempt_forgets_them(watch):
    begin(watch.run, 0, 1, 2)
    fail(watch.run, 0, ["own.log", "slurm.log"], "ran out of memory")
    fail(watch.run, 1)
    begin(watch.run, 1)
    assert list(watch.run.failed) == [0] and set(watch.run.running()) == {1, 2}
    kept = watch.run.failed[0]
    assert (kept.rule, kept.job, kept.logs) == ("fit", "cells/seed-0", ["own.log", "slurm.log"])
    assert kept.messages == ["ran out of memory"] and "1 failed" in watch.run.line()


def test_what_cannot_run_any_more_takes_no_time(clock):
    chain = jobs(("fit", "a", 100, ()), ("fit", "b", 100, ()), ("page", "a", 100, (0,)))
    run = progress.Progress(chain, {"threads": 1}, print, clock=clock)
    begin(run, 0)
    assert run.line().startswith("0 of 3 jobs, 0 s of about 5 min")
    fail(run, 0)
    assert run.line() == "0 of 3 jobs, 0 s of about 2 min; 1 failed"


def test_a_group_that_fails_names_its_jobs_and_the_clusters_log(watch):
    info = [{"jobid": i, "rule_name": "fit", "log": [f"{i}.log"]} for i in (0, 1)]
    tell(watch.run, LogEvent.GROUP_ERROR, groupid="short", aux_logs=["slurm.log"], job_error_info=info)
    fail(watch.run, 0, ["0.log"])
    assert [failure.logs for failure in watch.run.failed.values()] == [["0.log", "slurm.log"], ["1.log", "slurm.log"]]


@pytest.mark.parametrize(
    "fields", [{}, {"event": "job_info"}, {"event": "job_finished"}, {"event": 7}, {"event": "run"}]
)
def test_events_that_we_do_not_know_change_nothing(watch, fields):
    watch.run.handle(logging.makeLogRecord(fields))
    assert watch.run.line() == "0 of 10 jobs, 0 s of about 5 min"


def test_what_a_long_job_says_of_itself_is_passed_on(watch, clock, tmp_path):
    log = tmp_path / "recover.log"
    log.write_text(
        "05:51:21 INFO    rule recover\n"
        "05:51:28 INFO    seeds: 4/20,  1.42s/it, 00:05 gone, 00:22 left\n"
        "05:51:33 INFO    seeds: 8/20,  1.36s/it, 00:11 gone, 00:16 left\n"
        "05:51:34 WARNING something else: 3/4\n"
    )
    assert progress.inside(log) == "seeds: 8/20, 00:16 left"
    assert progress.inside(tmp_path / "absent.log") == "" and progress.inside("") == ""
    watch.run.about[0]["log"] = str(log)
    begin(watch.run, 0)
    assert watch.run.line().endswith("running: fit cells/seed-0 (seeds: 8/20, 00:16 left)")


def test_a_long_job_that_says_nothing_has_the_time_of_earlier_ones(clock):
    frame = jobs(("fit", "long", 600, ()), ("fit", "short", 10, ()), ("fit", "other", 600, ()))
    frame.loc[2, "origin"] = "other size"
    run = progress.Progress(frame, {"threads": 3}, print, clock=clock)
    for jobid, label in enumerate(("long (2 of about 10 min)", "short", "other")):
        assert run._label(jobid, 120.0) == f"fit {label}"


def test_the_job_log_has_the_lines_that_are_looked_for(tmp_path):
    """Against :meth:`snapdyn.run.Job.progress` itself, so that neither can change alone."""
    from snapdyn import run

    with run._logging_to(tmp_path / "job.log") as log:
        bar = run._progress_class()(total=20, desc="blocks of trajectories", log=log)
        bar.seconds_between_lines = 0.0
        bar.update(3)
        bar.close()
    assert progress.inside(tmp_path / "job.log").startswith("blocks of trajectories: 3/20, ")


def test_blocks_of_a_pass_are_told_while_they_are_news_and_nothing_larger_is(tmp_path, monkeypatch):
    from snapdyn import run

    monkeypatch.setattr(run, "SECONDS_BETWEEN_LINES", 0.0)
    path = tmp_path / "job.log"
    with run._logging_to(path):
        assert list(run.parallel(lambda i: i * i, range(4), 2)) == [0, 1, 4, 9]
    assert len(path.read_text().splitlines()) == 3  # the last block needs no word
    assert progress.inside(path).startswith("blocks: 3/4, ")
    os.utime(path, (0, 0))
    assert progress.inside(path) == ""
    with path.open("a") as log:
        log.write("05:51:28 INFO    seeds: 4/20,  1.42s/it, 00:05 gone, 00:22 left\n")
        log.write("05:51:29 INFO    blocks: 9/10,  1.42s/it, 00:05 gone, 00:01 left\n")
    assert progress.inside(path) == "seeds: 4/20, 00:22 left"


def test_passes_that_are_soon_done_say_nothing(tmp_path):
    from snapdyn import run

    with run._logging_to(tmp_path / "job.log"):
        list(run.parallel(abs, range(100), 1))
    assert (tmp_path / "job.log").read_text() == ""


def test_the_thread_says_lines_until_it_is_closed(clock):
    said = []
    run = progress.Progress(jobs(("fit", "a", 60, ())), {"threads": 1}, said.append, clock=clock)
    begin(run, 0)
    clock.now = 61
    run.watch(every=0.01)
    for _ in range(500):
        if said:
            break
        run.over.wait(0.01)
    run.close()
    assert len(said) == 1 and said[0].startswith("0 of 1 jobs")


@pytest.mark.parametrize("seconds, text", [(3, "3 s"), (99, "99 s"), (150, "2 min"), (5000, "83 min"), (9000, "2.5 h")])
def test_durations(seconds, text):
    assert progress.said(seconds) == text


def test_time_gone_has_a_unit_of_its_own_only_where_it_differs():
    assert progress.out_of(720, 2460) == "12 of about 41 min"
    assert progress.out_of(50, 300) == "50 s of about 5 min"
    assert progress.out_of(20, 50) == "20 of about 50 s"
    assert progress.out_of(7200, 12600) == "2.0 of about 3.5 h"
