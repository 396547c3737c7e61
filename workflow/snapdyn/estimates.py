"""What jobs will cost, from what earlier ones did cost, and how long a graph of them takes side by side.

A job's key is its rule and the rest of its log's path, which is also its benchmark's path. Frames of jobs have
``jobid, rule, job, threads, mem_mb, gpu, reason, log, idle`` and ``after`` (the jobids that it waits for);
:func:`expect` adds ``wall_s, cpu_s, peak_mb`` and ``origin``.
"""

import heapq
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from snapdyn import artifacts, publish

KEPT = Path(__file__).parents[2] / "docs" / "full-run" / "benchmark.parquet"
COSTS = ("wall_s", "cpu_s", "peak_mb")
# Where a number comes from, best first. A median is that of the rule; "other size" are jobs of the published size
# in a run that states sizes of its own: a shape to start from, not a time to promise.
ORIGINS = ("this run", "full run", "median", "other size", "not measured")
OWN, TRUSTED = ORIGINS[:2], ORIGINS[:3]
NOTHING = "nothing to compute"  # targets such as `all`
SETTLING = 60.0  # seconds that a run must last before its own pace outweighs earlier benchmarks
ENOUGH = 5  # finished jobs that say how jobs of another size compare


class Schedule(NamedTuple):
    """Jobs side by side: seconds from the first start to the last end, and the most memory in use at once."""

    seconds: float
    peak_mb: float


def planned(dag):
    """The jobs that Snakemake's ``dag`` wants to run, as a frame; each stands behind those that it waits for."""
    ids = {job: dag.jobid(job) for job in dag.needrun_jobs(exclude_finished=False)}
    jobs = [job for level in dag.toposorted(set(ids)) for job in sorted(level, key=ids.get)]
    return pd.DataFrame(
        [
            {
                "jobid": ids[job],
                "rule": job.rule.name,
                "job": name_of(job.rule.name, next(iter(job.log), "")),
                "threads": _number(job.threads, 1),
                "mem_mb": _number(job.resources.get("mem_mb"), np.nan),
                "gpu": _gpus(job.resources),
                "reason": "" if job.is_norun else str(dag.reason(job)).split(";")[0].split(":")[0],
                "log": next(iter(job.log), ""),
                "idle": job.is_norun,
                "after": tuple(sorted(ids[other] for other in dag.dependencies[job] if other in ids)),
            }
            for job in jobs
        ],
        columns=["jobid", "rule", "job", "threads", "mem_mb", "gpu", "reason", "log", "idle", "after"],
    )


def limits_of(workflow):
    """What Snakemake's ``workflow`` may use at once, as limits of :func:`schedule`."""
    names = {"_cores": "threads", "_nodes": "jobs", "mem_mb": "mem_mb", "gpu": "gpu"}
    given = workflow.scheduler.global_resources
    return {ours: given[theirs] for theirs, ours in names.items() if given.get(theirs, sys.maxsize) < sys.maxsize}


def name_of(rule, log):
    """A job's name among those of its rule: ``<logs>/<rule>/<name>.log``; empty where the rule has one job."""
    _, found, rest = str(log).partition(f"/{rule}/")
    return str(Path(rest).with_suffix("")) if found else ""


def _number(value, otherwise):
    """A resource as a number; some are known only once the job is about to start."""
    return value if isinstance(value, int | float) else otherwise


def _gpus(resources):
    """How many GPUs a job asks for, by ``gpu`` or by a cluster's own ``gres``."""
    asked = _number(resources.get("gpu"), 0)
    return asked or int("gpu" in str(resources.get("gres", "")))


def history(run, results, kept=KEPT):
    """Costs of earlier jobs: those of this run that lie under ``results``, then those of the kept full run.

    Returns:
        ``rule, job, wall_s, cpu_s, peak_mb, origin``.
    """
    parts = []
    folder = Path(results) / "benchmarks"
    if any(path.stat().st_size for path in folder.rglob("*.tsv")):
        parts.append(publish.benchmarks(folder).assign(origin="this run"))
    if Path(kept).exists():
        frame, _ = artifacts.read(kept, "rule-benchmark/1")
        parts.append(frame.assign(origin="full run" if run == "full" else "other size"))
    if not parts:
        return pd.DataFrame(columns=["rule", "job", *COSTS, "origin"])
    return pd.concat(parts, ignore_index=True)


def expect(jobs, past):
    """``jobs`` with what each will cost: by its own earlier time, else by the median of its rule.

    Args:
        jobs: a frame of :func:`planned`.
        past: from :func:`history`; where a job is in it twice, the first counts.
    """
    fields = ["rule", "job", *COSTS, "origin"]
    exact = {row[:2]: row[2:] for row in past[fields][::-1].itertuples(index=False, name=None)}
    # Medians only of one origin: another size says nothing about this one.
    medians = past.groupby(["origin", "rule"])[list(COSTS)].median().T.to_dict("list")
    rows = []
    for rule, job, idle in zip(jobs["rule"], jobs["job"], jobs["idle"], strict=True):
        found = exact.get((rule, job))
        like = next((medians[origin, rule] for origin in OWN if (origin, rule) in medians), None)
        if idle:
            rows.append((0.0, 0.0, 0.0, NOTHING))
        elif found and (found[-1] in TRUSTED or like is None):
            rows.append(found)
        elif like:
            rows.append((*like, "median"))
        elif ("other size", rule) in medians:
            rows.append((*medians["other size", rule], "other size"))
        else:
            rows.append((np.nan, np.nan, np.nan, "not measured"))
    costs = pd.DataFrame(rows, columns=[*COSTS, "origin"], index=jobs.index)
    return pd.concat([jobs, costs], axis=1)


def timeline(jobs, limits):
    """When each of ``jobs`` begins and ends if whatever is ready and fits starts, in the order given.

    Args:
        jobs: ``jobid, threads, mem_mb, gpu, wall_s, after``; unknown costs count as nothing.
        limits: what there is, of ``threads, mem_mb, gpu, jobs``; no entry, no limit. A job that asks for more
            than there is gets all of it.
    Returns:
        ``(n, 2)`` seconds.
    """
    ids = jobs["jobid"].tolist()
    place = {jobid: i for i, jobid in enumerate(ids)}
    wall = jobs["wall_s"].fillna(0.0).tolist()
    asked = jobs.assign(jobs=1)
    needs = {name: asked[name].fillna(0).clip(upper=limit).tolist() for name, limit in limits.items()}
    waits = [{other for other in after if other in place} for after in jobs["after"]]
    followers = [[] for _ in ids]
    for i, others in enumerate(waits):
        for other in others:
            followers[place[other]].append(i)
    ready = [i for i, others in enumerate(waits) if not others]
    free, running, clock = dict(limits), [], 0.0
    times = np.zeros((len(ids), 2))
    while ready or running:
        held = []
        for n, i in enumerate(ready):
            if any(free[name] <= 0 for name in ("threads", "jobs") if name in free):
                held += ready[n:]
                break
            if all(need[i] <= free[name] for name, need in needs.items()):
                for name, need in needs.items():
                    free[name] -= need[i]
                times[i] = clock, clock + wall[i]
                heapq.heappush(running, (clock + wall[i], i))
            else:
                held.append(i)
        ready = held
        clock, i = heapq.heappop(running)
        for name, need in needs.items():
            free[name] += need[i]
        for other in followers[i]:
            waits[other].discard(ids[i])
            if not waits[other]:
                ready.append(other)
        ready.sort()
    return times


def schedule(jobs, limits):
    """The time and memory of ``jobs`` (with ``peak_mb`` as well) run side by side as in :func:`timeline`."""
    if jobs.empty:
        return Schedule(0.0, 0.0)
    begins, ends = timeline(jobs, limits).T
    memory = jobs["peak_mb"].fillna(0.0).to_numpy(dtype=float)
    moment, change = np.concatenate([begins, ends]), np.concatenate([memory, -memory])
    order = np.lexsort((change, moment))  # at one moment, what ends makes room first
    return Schedule(float(ends.max()), float(np.cumsum(change[order]).max()))


def longest_chain(jobs):
    """Seconds of the longest chain of jobs that wait for each other: no number of cores is faster."""
    return schedule(jobs, {}).seconds


def stranded(jobs, failed):
    """The ids of jobs that will not run since ``failed`` ones did not end: those, and whatever waits for them."""
    gone = set(failed)
    for jobid, after in zip(jobs["jobid"], jobs["after"], strict=True):  # whoever waits stands later
        if gone.intersection(after):
            gone.add(jobid)
    return gone


def remaining(jobs, done, running, limits, elapsed):
    """Seconds that a run still needs, from earlier costs corrected by how it has gone so far.

    Each rule goes at the pace of its finished jobs, and the whole at that of the schedule so far, which takes
    in what no benchmark knows: other work on the machine, queues, a slower disk.

    Args:
        jobs: a frame of :func:`expect`, all jobs of the run.
        done: jobid -> the seconds that it took.
        running: jobid -> seconds since it began.
        limits: see :func:`schedule`.
        elapsed: seconds since the run began.
    Returns:
        None where nothing honest can be said: most jobs of unknown cost (a few count as the median of the
        others), or costs of another size with too few jobs finished to tell how they compare.
    """
    wall = _at_this_pace(jobs, done)
    ahead = ~jobs["jobid"].isin(done)
    computing = ahead & ~jobs["idle"]
    if (wall.isna() & computing).sum() > computing.sum() / 2:
        return None
    taken = jobs["jobid"].map(done)
    whole = jobs.assign(wall_s=taken.where(taken.notna(), wall.fillna(wall.median())))
    left = whole["wall_s"] - jobs["jobid"].map(running).fillna(0.0)
    rest = whole.assign(wall_s=left.clip(lower=0.0))[ahead]
    seconds = schedule(rest, limits).seconds
    passed = schedule(whole, limits).seconds - seconds
    return seconds * float(np.clip((elapsed + SETTLING) / (passed + SETTLING), 0.5, 3.0))


def _at_this_pace(jobs, done):
    """Expected wall times, scaled rule by rule to what the finished jobs took; NaN where unknown."""
    taken = jobs["jobid"].map(done)
    known = jobs["wall_s"].where(~jobs["idle"])
    trusted = jobs["origin"].isin(TRUSTED)
    both = taken.notna() & known.gt(0)
    pace = taken[both].sum() / known[both].sum() if both.any() else np.nan
    if both.sum() < ENOUGH:
        known = known.where(trusted)
    out = pd.Series(0.0, index=jobs.index).where(jobs["idle"])
    for _, rows in jobs[~jobs["idle"]].groupby("rule"):
        i = rows.index
        seen = both[i]
        if not known[i].notna().any():  # never measured: as long as those of this run took
            out[i] = taken[i].mean()
            continue
        settling = known[i].median() if trusted[i].all() else 0.0
        if seen.any():
            ratio = (taken[i][seen].sum() + settling) / (known[i][seen].sum() + settling)
        else:
            ratio = 1.0 if trusted[i].all() else pace
        out[i] = known[i] * ratio
        out[i] = out[i].fillna(out[i].median())
    return out
