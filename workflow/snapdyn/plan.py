"""What would run, at what cost, and what is missing for it: ``python -m snapdyn.plan [arguments of Snakemake]``.

A dry run of Snakemake in this process decides what would run; earlier benchmarks say what that costs.
"""

import contextlib
import logging
import os
import sys
import tempfile
from pathlib import Path

import pandas as pd
import yaml

from snapdyn import estimates, preflight, session, summary
from snapdyn.progress import said

MEGABYTE = 2**20
ENOUGH = 0.5  # share of the jobs that have to be measured for a time of the whole


def main(arguments):
    """Print the plan; returns an exit status, 1 where Snakemake finds a fault."""
    with tempfile.TemporaryDirectory() as scratch:
        arguments, absent = without_missing_executor(arguments, Path(scratch))
        with _only_what_matters():
            if not dry_run(arguments, cluster=absent):
                return 1
    current = session.CURRENT
    if getattr(current and current.workflow, "dag", None) is None:  # asked for something else, such as --list-rules
        return 0
    with contextlib.chdir(current.folder):
        print("\n".join(told(current, absent)))
    return 0


def told(current, absent):
    """The lines about a session whose graph is known; ``absent`` names an executor that is not installed."""
    jobs = estimates.planned(current.workflow.dag)
    plan, results = current.plan, Path(current.results)
    missing = [f"executor plugin: pip install snakemake-executor-plugin-{absent}"] if absent else []
    if len(jobs):
        limits = estimates.limits_of(current.workflow)
        jobs = estimates.expect(jobs, estimates.history(plan.run, results))
        yield from listing(plan.run, jobs, limits)
        yield from device(plan, jobs, "jobs" in limits)
        missing += lacking(current, jobs, cluster="jobs" in limits)
    left_out = summary.skipped(session.left_out(plan), at_most=sys.maxsize)
    yield from [*left_out, *room(results), *gaps(missing)]


def dry_run(arguments, *, cluster=None):
    """Let Snakemake decide what would run, as silently as it can; whether it found no fault."""
    from snakemake.cli import args_to_api, parse_args
    from snakemake.exceptions import print_exception
    from snakemake.settings.enums import Quietness

    try:
        parser, settings = parse_args(arguments)
        settings.dryrun, settings.rerun_incomplete = True, True
        settings.quiet = {Quietness.RULES, Quietness.PROGRESS}  # exactly these: Snakemake then stops after the graph
        if cluster or settings.executor not in (None, "local", "dryrun"):
            settings.cores = settings.cores or sys.maxsize
        elif settings.cores is None:
            settings.cores, settings.jobs = settings.jobs or os.cpu_count(), None
        return args_to_api(settings, parser)
    except Exception as error:  # as Snakemake's own command line does
        print_exception(error)
        return False


def without_missing_executor(arguments, scratch):
    """Arguments that Snakemake accepts although the executor which they or a profile name is not installed.

    Args:
        scratch: a folder for a copy of the profile without what only that executor understands.
    Returns:
        the arguments and the executor's name, None where nothing is missing.
    """
    from snakemake.cli import get_profile_dir
    from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

    installed = set(ExecutorPluginRegistry().plugins)
    kept, absent = [], None
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for option, word in zip([None, *words], words, strict=False):
        if option in ("--executor", "-e") and word not in installed:
            absent, word = word, "local"
        elif option in ("--workflow-profile", "--profile") and (found := get_profile_dir(word)):
            values = yaml.safe_load(found[1].read_text(encoding="utf-8")) or {}
            executor = values.get("executor", "local")
            if executor not in installed:
                absent = executor
                values = {k: v for k, v in values.items() if k != "executor" and not k.startswith(f"{executor}-")}
                (scratch / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
                word = str(scratch / "config.yaml")
        kept.append(word)
    return (kept if absent else arguments), absent


@contextlib.contextmanager
def _only_what_matters():
    """Of Snakemake's messages, only warnings, errors, and that there is nothing to do."""

    def matters(record):
        said = str(record.msg)  # what is missing has a paragraph of its own
        warned = record.levelno >= logging.WARNING and not said.startswith(session.WOULD_REFUSE)
        return warned or "Nothing to be done" in said

    logger = logging.getLogger("snakemake.logging")
    logger.addFilter(matters)
    try:
        yield
    finally:
        logger.removeFilter(matters)


def listing(run, jobs, limits):
    """The jobs of each rule and what they ask for and cost, then the whole."""
    from tabulate import tabulate

    work = jobs[~jobs["idle"]]
    rows = [_row(rule, group) for rule, group in work.groupby("rule", sort=False)]
    cores = f"{limits['threads']} cores" if "threads" in limits else f"a cluster, {limits['jobs']} jobs at once"
    yield f"Plan of run {run}: {len(work)} jobs on {cores}."
    yield ""
    yield tabulate(rows, headers="keys", tablefmt="simple", disable_numparse=True)
    yield ""
    yield from totals(work, limits)


def _row(rule, group):
    measured = group["wall_s"].notna().any()
    reasons = group["reason"].value_counts()
    return {
        "rule": rule,
        "jobs": len(group),
        "threads": _spread(group["threads"]),
        "memory asked": _amount(group["mem_mb"].max()),
        "GPUs": _spread(group["gpu"]),
        "time": said(group["wall_s"].sum()) if measured else "not measured",
        "longest": said(group["wall_s"].max()) if measured else "",
        "CPU": said(group["cpu_s"].sum()) if measured else "",
        "peak memory": _amount(group["peak_mb"].max()),
        "why": reasons.index[0] + (" and other reasons" if len(reasons) > 1 else ""),
    }


def _spread(values):
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low} to {high}"


def _amount(megabytes):
    return "" if pd.isna(megabytes) else f"{megabytes:.0f} MB"


def totals(work, limits):
    """Time, CPU and GPU hours, memory; and how far these numbers can be believed."""
    known = work[work["wall_s"].notna()]
    sources = work["origin"].value_counts()
    if known.empty:
        yield "Expected time and memory: not measured."
    elif len(known) < ENOUGH * len(work):
        yield (
            f"Expected time: not known, {len(work) - len(known)} of {len(work)} jobs were never measured; "
            f"the others take {said(known['wall_s'].sum())} in all."
        )
    else:
        planned, chain = estimates.schedule(work, limits), estimates.longest_chain(work)
        gpu = known[known["gpu"] > 0]
        hours = (gpu["wall_s"] * gpu["gpu"]).sum() / 3600
        text = "Expected: about {}, at least {} on any number of cores; {:.2g} CPU-hours; {:.2g} GPU-hours at most."
        yield text.format(said(planned.seconds), said(chain), known["cpu_s"].sum() / 3600, hours)
        if "jobs" in limits:
            yield "Waiting in queues and the start of jobs are not counted."
        together = f", {_amount(planned.peak_mb)} at once" if "threads" in limits else ""
        yield f"Memory: {_amount(known['peak_mb'].max())} in the largest job{together}."
        notes = {
            "this run": "of earlier jobs of this run",
            "full run": "of the kept full run",
            "median": "of jobs of the same rule",
            "other size": "of jobs of the published size: this run states its own, so they only show where time goes",
        }
        yield "Times: " + "; ".join(f"{sources[name]} {note}" for name, note in notes.items() if name in sources) + "."
    if unknown := sources.get("not measured", 0):
        rules = ", ".join(dict.fromkeys(work["rule"][work["origin"] == "not measured"]))
        yield f"Not measured, not counted: {unknown} jobs of {rules}."


def device(plan, jobs, cluster):
    """Where jobs that can use a GPU will compute."""
    asked = plan.config["device"]
    if cluster and (jobs["gpu"] > 0).any():
        yield f"Device: {asked}, decided on the cluster's nodes."
    elif asked == "auto" and _on_this_gpu(jobs, cluster):
        yield f"Device: auto, here the {'CPU' if preflight.gpu_fault() else 'GPU'}."


def _on_this_gpu(jobs, cluster):
    return not cluster and bool((jobs["gpu"] > 0).any())


def room(results):
    """What lies on the disk, and what is free."""
    here = preflight.size(results) if results.exists() else 0
    yield f"Disk: {results} holds {here / MEGABYTE:.0f} MB, {preflight.room(results) / 2**30:.0f} GB are free."


def lacking(current, jobs, *, cluster):
    """What the planned jobs need and this machine does not have, as sentences."""
    from snapdyn import resources

    found, plan = [], current.plan
    wanted = [name for rule, name in zip(jobs["rule"], jobs["job"], strict=True) if rule == "fetch_resource"]
    folders = resources.folders(plan.config["resources_dir"])
    for name, lines in preflight.absent_files(wanted, current.declared, folders).items():
        found.append("\n    ".join([*lines, *preflight.fetching([name], current.declared)]))
    if plan.config["device"] == "cuda" and _on_this_gpu(jobs, cluster) and (fault := preflight.gpu_fault()):
        found.append(fault)
    if preflight.room(current.results) < preflight.ROOM:
        found.append("room: less than 2 GB are free where the results go")
    return found


def gaps(missing):
    """The paragraph of what is missing."""
    if not missing:
        return ["Missing: nothing."]
    return ["Missing:", *(f"  {line}" for line in missing)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
