"""The last lines of a run: what came out, where to look, what was left out or failed and why, how long it took."""

import json
import re
from collections import Counter
from itertools import groupby, takewhile
from pathlib import Path

from snapdyn import progress, session

WIDTH = 200  # characters of a line; a longer one is cut
FAILURES = 4  # failed jobs that are shown with their logs
LEFT_OUT = 3  # reasons that are shown
_ERROR = re.compile(r"(?:\w+\.)*([A-Z]\w*(?:Error|Exception|Exit): .*)")  # as a traceback ends


def lines(run, succeeded):
    """The summary of a :class:`snapdyn.session.Session` that has ended, under 25 lines."""
    watcher, plan, results = run.watcher, run.plan, Path(run.results)
    own = bool(plan.config["analyses"])
    renewed = {watcher.about[jobid]["rule"] for jobid in watcher.done if jobid in watcher.about}
    failed = [failure for failure in watcher.failed.values() if not stopped_by_user(failure)]
    return compose(
        ending(plan.run, watcher, failed, succeeded),
        failures(failed),
        [
            *scorecard(results / "scorecard.parquet", renewed="scorecard" in renewed, own=own),
            *analyses(plan, results),
        ],
        skipped(session.left_out(plan)),
        places(results, report_command(run.workflow.config_settings)),
    )


def compose(*parts):
    """All lines, cut to a width that a terminal and a log can bear."""
    found = [line for part in parts for line in part]
    return [line if len(line) <= WIDTH else line[: WIDTH - 3] + "..." for line in found]


def ending(run, watcher, failed, succeeded):
    """How many jobs ran, how long, and how that compares with what was expected."""
    promise = f", expected about {progress.said(watcher.promise)}" if watcher.promise is not None else ""
    done, total = len(watcher.done), watcher.total
    if succeeded:
        return [f"Run {run}: {done} of {total} jobs done in {progress.said(watcher.elapsed)}{promise}."]
    never = total - done - len(failed)
    left = f"{len(failed)} failed and {never} did not end" if failed else f"{never} did not end"
    return [
        f"Run {run} is not complete: {done} of {total} jobs done in {progress.said(watcher.elapsed)}, {left}. "
        "The same command goes on from here."
    ]


def failures(failed):
    """Each failed job with its logs, the rule's own and the cluster's, and the last thing the first one says."""
    for failure in failed[:FAILURES]:
        yield f"Failed: {failure.rule} {failure.job}".rstrip()
        if text := last_line(failure):
            yield f"  {text}"
        yield f"  log: {', '.join(failure.logs) or 'none'}"
    if len(failed) > FAILURES:
        yield f"Failed too: {', '.join(f'{f.rule} {f.job}'.rstrip() for f in failed[FAILURES:])}"


def last_line(failure):
    """What a job's own log says of its end: the first line of the error (with the list that a colon announces), else
    the last line; empty without one."""
    try:
        text = Path(failure.logs[0]).read_text(encoding="utf-8", errors="replace")
    except (OSError, IndexError):
        return ""
    said = [line.rstrip() for line in text.splitlines() if line.strip()]
    errors = [(place, match) for place, line in enumerate(said) if (match := _ERROR.match(line))]
    if errors:
        place, match = errors[-1]
        listed = takewhile(lambda line: line.lstrip().startswith("- "), said[place + 1 :])
        return " ".join([match[1], *map(str.strip, listed)] if match[1].endswith(":") else [match[1]])
    return re.sub(r"^\d\d:\d\d:\d\d [A-Z]+ +", "", said[-1]).strip() if said else ""


def stopped_by_user(failure):
    """Whether a job on this machine ended because the whole run was told to; on a cluster that is worth a word."""
    return len(failure.logs) == 1 and last_line(failure).startswith("interrupted")


def scorecard(path, *, renewed, own=False):
    """The count of verdicts; of a run of one's own analyses, on papers that it asked something of."""
    if not path.exists():
        return
    from snapdyn import artifacts
    from snapdyn.scorecard import VERDICTS, asked

    frame = artifacts.read(path, "scorecard/1")[0]
    counts = Counter((asked(frame)[0] if own else frame)["verdict"])
    if own and not counts:
        return
    said = ", ".join(f"{counts[name]} {name}" for name in VERDICTS if name in counts)
    stale = "" if renewed else " (not made anew by this run)"
    yield f"Scorecard{stale}: {sum(counts.values())} claims and targets: {said}." if counts else ""


def analyses(plan, results):
    """Whether each of the user's analyses is better than doing nothing."""
    found = {}
    for fit in plan.of(paper="analyses"):
        path = results / "analyses" / fit.experiment / "verdict.json"
        if path.exists():
            found[fit.experiment] = json.loads(path.read_text(encoding="utf-8"))["verdict"]
    if found:
        said = ", ".join(f"{name} {verdict}" for name, verdict in found.items())
        yield f"Better than doing nothing: {said}."


def skipped(left_out, at_most=LEFT_OUT):
    """What this run left out, by reason; ``at_most`` so many of them."""
    reason = left_out.get
    grouped = [(why, list(names)) for why, names in groupby(sorted(left_out, key=reason), key=reason)]
    for why, names in grouped[:at_most]:
        yield f"Left out: {', '.join(names)}: {why}"
    if len(grouped) > at_most:
        yield f"Left out for {len(grouped) - at_most} more reasons: scorecard.md has them."


def report_command(settings):
    """What makes the report of this run: its configuration files and values, as the user gave them."""
    here = Path.cwd()
    files = [path.relative_to(here) if path.is_relative_to(here) else path for path in map(Path, settings.configfiles)]
    given = [f"--configfile {' '.join(map(str, files))}"] if files else []
    given += [f"--config {' '.join(f'{key}={value}' for key, value in settings.config.items())}"] * bool(
        settings.config
    )
    return f'make report ARGS="{" ".join(given)}"' if given else "make report"


def places(results, report):
    """Where to look, as far as there is something to see."""
    pages = sorted(results.glob("analyses/*/page.md"))
    figures = sorted(results.glob("figures/*/*.png"))
    found = [card] if (card := results / "scorecard.md").exists() else []
    if pages:
        found.append(pages[0] if len(pages) == 1 else results / "analyses" / "*" / "page.md")
    if figures:
        found.append(f"{results / 'figures'} ({len(figures)} figures)")
    if found:
        yield f"Look at: {'; '.join(map(str, found))}"
        yield f"All on one page: {report}"
