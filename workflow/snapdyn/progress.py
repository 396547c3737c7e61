"""How far a run is and how long it still takes, one plain line now and then.

A handler of Snakemake's log events, the interface that its logger plugins use. It only takes notes; the lines come
from a thread, so that whatever goes wrong here costs a line and never a run.
"""

import logging
import os
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

from snapdyn import estimates
from snapdyn.run import SECONDS_BETWEEN_LINES

FIRST, LONGEST, SILENCE = 10.0, 300.0, 60.0  # seconds between lines: at first, at most, and while nothing ends
SHOWN = 2  # running jobs that a line names
_INSIDE = re.compile(r"INFO\s+(\S[^:]*: +\d+/\d+), .* gone, (.*) left$")  # what run.Job.progress leaves in a log


@dataclass
class Failure:
    """A job that failed, and where to read why."""

    rule: str
    job: str = ""
    logs: list = field(default_factory=list)
    messages: list = field(default_factory=list)


class Progress(logging.Handler):
    """Notes which jobs run, end and fail.

    Args:
        jobs: a frame of :func:`snapdyn.estimates.expect`, all jobs of the run.
        limits: see :func:`snapdyn.estimates.schedule`.
        say: takes a line.
        alive: returns the ids of the jobs at work, for a Snakemake that was told not to say which end; optional.
        clock: seconds, for tests.
    """

    def __init__(self, jobs, limits, say, *, alive=None, clock=time.monotonic):
        super().__init__()
        self.jobs, self.limits, self.say, self.alive, self.clock = jobs, limits, say, alive, clock
        self.about = jobs.set_index("jobid")[["rule", "job", "log", "wall_s", "origin"]].to_dict("index")
        self.total = len(jobs)
        self.began = self.said = clock()
        self.started, self.done, self.failed = {}, {}, {}
        self.news, self.over = False, threading.Event()
        first = estimates.schedule(jobs, limits).seconds
        own = jobs["origin"].isin([*estimates.OWN, estimates.NOTHING])  # a median of its rule promises little
        self.promise = first if own.mean() > 0.8 else None

    def opening(self):
        """What earlier benchmarks promise, before the first job; nothing where they promise little."""
        if self.promise is not None and self.promise > SILENCE:
            return f"{self.total} jobs, about {said(self.promise)} by earlier benchmarks."
        return None

    @property
    def elapsed(self):
        return self.clock() - self.began

    def emit(self, record):
        """Take note of one of Snakemake's events; of a Snakemake that talks otherwise, take none."""
        with suppress(Exception):
            note = getattr(self, f"on_{getattr(record, 'event', None)}", None)
            if note:
                note(record)

    def on_job_info(self, record):
        self.started[record.jobid] = self.clock()
        self.failed.pop(record.jobid, None)  # another attempt

    def on_job_started(self, record):
        self._notice_ended()

    def on_job_finished(self, record):
        self._end(record.job_id)

    def on_job_error(self, record):
        self._fail(record.jobid, record.rule_name, record.log, [record.rule_msg])

    def on_group_error(self, record):
        for info in record.job_error_info:
            self._fail(info["jobid"], info["rule_name"], [*info["log"], *record.aux_logs], [])

    def on_progress(self, record):
        self.total = record.total  # checkpoints may add jobs

    def _fail(self, jobid, rule, logs, messages):
        failure = self.failed.setdefault(jobid, Failure(rule, self.about.get(jobid, {}).get("job", "")))
        failure.logs += [str(log) for log in logs if log and str(log) not in failure.logs]
        failure.messages += [str(text) for text in messages if text]
        self.news = True

    def _end(self, jobid):
        if jobid not in self.done:
            self.done[jobid] = self.clock() - self.started.get(jobid, self.clock())
            self.news = True

    def _notice_ended(self):
        """With ``--quiet progress`` no event says that a job has ended; that it no longer runs says it too."""
        if self.alive is None:
            return
        alive = set(self.alive())
        for jobid in set(self.started) - set(self.done) - set(self.failed) - alive:
            self._end(jobid)

    def running(self):
        """jobid -> seconds since it began, the longest first."""
        now = self.clock()
        ids = [jobid for jobid in list(self.started) if jobid not in self.done and jobid not in self.failed]
        return {jobid: now - self.started[jobid] for jobid in ids}

    def line(self):
        """The line, such as ``57 of 344 jobs, 12 of about 41 min; running: recover lorenz/moments (seeds: 3/20)``."""
        elapsed, running = self.elapsed, self.running()
        jobs = self.jobs[~self.jobs["jobid"].isin(estimates.stranded(self.jobs, list(self.failed)))]
        left = estimates.remaining(jobs, dict(self.done), running, self.limits, elapsed)
        time_said = said(elapsed) if left is None else out_of(elapsed, elapsed + left)
        parts = [f"{len(self.done)} of {self.total} jobs, {time_said}"]
        if self.failed:
            parts.append(f"{len(self.failed)} failed")
        if running:
            names = [self._label(jobid, seconds) for jobid, seconds in list(running.items())[:SHOWN]]
            more = f" and {len(running) - SHOWN} more" if len(running) > SHOWN else ""
            parts.append(f"running: {', '.join(names)}{more}")
        return "; ".join(parts)

    def _label(self, jobid, seconds):
        about = self.about.get(jobid, {"rule": f"job {jobid}", "job": "", "log": "", "origin": ""})
        inner = inside(about["log"])
        if not inner and about["origin"] in estimates.TRUSTED and about["wall_s"] > SILENCE:
            inner = out_of(seconds, max(seconds, about["wall_s"]))
        return " ".join(filter(None, (about["rule"], about["job"]))) + (f" ({inner})" if inner else "")

    def due(self):
        """Whether it is time for a line: after news, ever more rarely; and once a minute while nothing ends."""
        gap = self.clock() - self.said
        usual = min(max(FIRST, self.elapsed / 40), LONGEST)
        return gap >= usual if self.news else gap >= max(usual, SILENCE) and bool(self.running())

    def tell(self):
        """Say the line if it is time for it."""
        self._notice_ended()
        if self.due():
            self.news, self.said = False, self.clock()
            self.say(self.line())

    def watch(self, every=1.0):
        """Tell from now on, from a thread of its own, until :meth:`close`."""

        def keep_telling():
            while not self.over.wait(every):
                with suppress(Exception):
                    self.tell()

        threading.Thread(target=keep_telling, name="snapdyn progress", daemon=True).start()

    def stop(self):
        """Say nothing more; what has ended by now is noted."""
        self.over.set()
        self._notice_ended()

    def close(self):
        self.over.set()
        super().close()


def inside(log):
    """How far a job is, from the last progress line of its log: ``seeds: 12/20, 00:10 left``; empty without any.

    The blocks of one pass over the data count only where nothing larger is told of, and only while they are news:
    a job is more than one pass.
    """
    try:
        with open(log, "rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - 4096, 0))
            tail = file.read().decode("utf-8", "replace")
            news = time.time() - os.fstat(file.fileno()).st_mtime < 4 * SECONDS_BETWEEN_LINES
    except OSError:
        return ""
    found = [match.groups() for line in tail.splitlines() if (match := _INSIDE.search(line))]
    larger = [groups for groups in found if not groups[0].startswith("blocks: ")]
    last = larger[-1:] or found[-1:] * news
    return "{}, {} left".format(*last[0]) if last else ""


def said(seconds):
    """A duration for people: ``48 s``, ``12 min``, ``3.4 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def out_of(elapsed, whole):
    """Time gone and time in all: ``12 of about 41 min``, ``50 s of about 5 min``."""
    (gone, unit), (number, whole_unit) = said(elapsed).split(), said(whole).split()
    return f"{gone} of about {number} {unit}" if unit == whole_unit else f"{gone} {unit} of about {number} {whole_unit}"
