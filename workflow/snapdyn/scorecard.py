"""What was published beside what this run measured, with a verdict that is computed, never typed.

For a lower-is-better number, with ``s = sqrt(se_ours^2 + se_published^2)`` and ``se = spread / sqrt(n)``::

    better      ours < published - 2 s, from three seeds or more
    reproduced  within max(2 s, 5 % of published)
    short       otherwise

A target of our own has no such slack: it is met (``reproduced``, or ``better``) or missed (``short``).
A claim with a band (what a picture shows, a target range) is ``reproduced`` inside it, else ``short``.
``impossible as published`` stands for a number beyond an exact bound by more than three standard errors.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from snapdyn import artifacts, metrics

VERDICTS = ("better", "reproduced", "short", "impossible as published", "not comparable", "not run")
TARGET_SOURCE = "snapdyn target, not a published number"
MIN_SEEDS = 3  # below this a spread means too little for "better"
TOLERANCE = 0.05  # of the published number

_PAPER = {"paper", "title", "arxiv", "version", "claims"}
_REQUIRED = {"id", "kind", "source", "experiment", "dataset", "method", "metric", "statistic", "direction"}
_REQUIRED |= {"published", "comparable"}
_OPTIONAL = {"spread", "n", "band", "reason", "floor", "figure", "note", "split", "t"}
_CHOICES = {
    "kind": ("claim", "picture", "target"),
    "statistic": ("mean", "rms", "median"),
    "direction": ("lower", "higher", "band"),
    "comparable": (True, False),
}
_FLOOR_SOURCES = ({"value"}, {"metric", "method"}, {"std_error_of", "method"})


def read_published(paths):
    """Read the claims of each paper and refuse a file with faults, naming all of them.

    Args:
        paths: ``resources/published/<paper>.yaml`` files, or one folder of them.
    Returns:
        one dict for each paper, sorted by name: ``paper, title, arxiv, version, claims``.
    """
    if isinstance(paths, str | Path):
        paths = sorted(Path(paths).glob("*.yaml")) if Path(paths).is_dir() else [paths]
    papers = [yaml.safe_load(Path(path).read_text(encoding="utf-8")) for path in paths]
    faults = [fault for path, paper in zip(paths, papers, strict=True) for fault in _faults(Path(path).name, paper)]
    ids = [claim.get("id") for paper in papers for claim in paper.get("claims", [])]
    faults += [f"the id {name!r} is used {ids.count(name)} times" for name in dict.fromkeys(ids) if ids.count(name) > 1]
    if faults:
        raise ValueError("published claims have faults:\n" + "\n".join(faults))
    return sorted(papers, key=lambda paper: paper["paper"])


def _faults(where, paper):
    if missing := _PAPER - set(paper):
        yield f"{where}: missing {sorted(missing)}"
    if unknown := set(paper) - _PAPER - {"defaults"}:  # where a file keeps its YAML anchors
        yield f"{where}: unknown keys {sorted(unknown)}"
    for claim in paper.get("claims", []):
        name = f"{where}: {claim.get('id', claim)}"
        if missing := _REQUIRED - set(claim):
            yield f"{name}: missing {sorted(missing)}"
        if unknown := set(claim) - _REQUIRED - _OPTIONAL:
            yield f"{name}: unknown keys {sorted(unknown)}"
        for key, allowed in _CHOICES.items():
            if key in claim and claim[key] not in allowed:
                yield f"{name}: {key} must be one of {list(allowed)}, got {claim[key]!r}"
        if claim.get("comparable") is False and not claim.get("reason"):
            yield f"{name}: not comparable, but no reason is given"
        if (claim.get("kind") == "target") != (claim.get("source") == TARGET_SOURCE):
            yield f"{name}: exactly the targets have the source {TARGET_SOURCE!r}"
        if claim.get("comparable") and claim.get("published") is None and claim.get("direction") != "band":
            yield f"{name}: comparable to what? give a published number, or direction: band with its band"
        if claim.get("direction") == "band" and len(claim.get("band", [])) != 2:
            yield f"{name}: direction band needs band: [low, high]"
        floor = claim.get("floor", {"kind": "", "value": 0})
        if set(floor) - {"kind", "bound"} not in _FLOOR_SOURCES or "kind" not in floor:
            wanted = "kind and one of value, metric + method, std_error_of + method"
            yield f"{name}: floor needs {wanted}; got {floor}"


def build(measured, parameters, published, *, skipped=None, full=True):
    """Join every claim with what this run measured.

    Args:
        measured: the run's ``metrics/1`` frame, or None.
        parameters: the run's ``parameters/1`` frame, or None (floors that are standard errors).
        published: the papers of :func:`read_published`.
        skipped: ``"experiment/dataset"`` -> why this run left it out.
        full: whether the run has the published size; a smaller one shows its numbers, not verdicts.
    Returns:
        a ``scorecard/1`` frame, one row a claim, in the order of the files.
    """
    skipped = skipped or {}
    lines = [
        _line(paper["paper"], claim, measured, parameters, skipped, full)
        for paper in published
        for claim in paper["claims"]
    ]
    columns = artifacts.CONTRACTS["scorecard/1"].columns
    kinds = {artifacts.TEXT: object, artifacts.INT: np.int64, artifacts.FLOAT: np.float64}
    return pd.DataFrame(lines, columns=list(columns)).astype({name: kinds[kind] for name, kind in columns.items()})


def _line(paper, claim, measured, parameters, skipped, full):
    ours, spread, n_seeds = summarise(_values(measured, claim), claim["statistic"])
    floor = _floor(claim, measured, parameters)
    verdict, reasons = judge(claim, ours, spread, n_seeds, floor=floor, full=full)
    if n_seeds == 0:
        reasons.insert(0, skipped.get(f"{claim['experiment']}/{claim['dataset']}", "not part of this run"))
    note = [" ".join(claim["note"].split())] if "note" in claim else []
    figure = [f"figure: {claim['figure']}"] if claim["kind"] != "target" and "figure" in claim else []
    return {
        "claim": claim["id"],
        "paper": paper,
        "source": claim["source"],
        "experiment": claim["experiment"],
        "method": claim["method"],
        "metric": claim["metric"],
        "published": _number(claim["published"]),
        "published_spread": _number(claim.get("spread")),
        "ours": ours,
        "ours_spread": spread,
        "n_seeds": n_seeds,
        "floor": floor,
        "floor_kind": claim.get("floor", {}).get("kind", ""),
        "verdict": verdict,
        "note": "; ".join(reasons + note + figure),
    }


def _number(value):
    return np.nan if value is None else float(value)


def _values(measured, claim):
    """One number for each seed: rows of the claim's method and metric, at its time (none: the mean row)."""
    if measured is None:
        return np.array([])
    keep = measured["t"].isna() if "t" not in claim else measured["t"] == claim["t"]
    for name in ("experiment", "dataset", "method", "metric", "split"):
        if name in claim:
            keep &= measured[name] == claim[name]
    return measured[keep].groupby("seed")["value"].mean().to_numpy()


def summarise(values, statistic):
    """A statistic over seeds, and a spread such that ``spread / sqrt(n)`` is its standard error.

    The spread of a mean is the standard deviation (ddof 1); those of ``rms`` and ``median`` follow to
    first order (the median's for normal errors).

    Returns:
        ``(value, spread, n)``; NaN where there is nothing, and a NaN spread for a single seed.
    """
    n = len(values)
    if n == 0:
        return np.nan, np.nan, 0
    if statistic == "rms":
        value = metrics.rms(values)
        scatter, factor = np.square(values), 1 / (2 * value) if value > 0 else 0.0
    else:
        value = float(np.mean(values) if statistic == "mean" else np.median(values))
        scatter, factor = values, 1.0 if statistic == "mean" else np.sqrt(np.pi / 2)
    spread = factor * float(np.std(scatter, ddof=1)) if n > 1 else np.nan
    return value, spread, n


def _floor(claim, measured, parameters):
    floor = claim.get("floor", {})
    if "value" in floor:
        return float(floor["value"])
    if "std_error_of" in floor and parameters is not None:
        rows = parameters[
            (parameters["experiment"] == claim["experiment"])
            & (parameters["dataset"] == claim["dataset"])
            & (parameters["method"] == floor["method"])
            & (parameters["name"] == floor["std_error_of"])
        ]
        relative = (rows["std_error"] / rows["truth"].abs()).dropna()
        return metrics.rms(relative) if len(relative) else np.nan
    if "metric" in floor and measured is not None:
        # Floors belong to the data, not to the paper that asks: any experiment's row will do.
        sought = {name: claim[name] for name in ("dataset", "split", "t") if name in claim}
        values = _values(measured, sought | {name: floor[name] for name in ("metric", "method")})
        return float(values.mean()) if len(values) else np.nan
    return np.nan


def judge(claim, ours, spread, n_seeds, *, floor=np.nan, full=True):
    """The verdict on one claim and the reasons for it, as sentences.

    Args:
        claim: as in the published file.
        ours, spread, n_seeds: from :func:`summarise`.
        floor: an exact bound if the claim's floor says ``bound: true``.
    """
    published, direction = claim["published"], claim["direction"]
    unlike = [] if claim["comparable"] else [f"not comparable: {' '.join(claim['reason'].split())}"]
    if full and not unlike and (beyond := _beyond_bound(claim, floor)):
        return "impossible as published", [beyond]
    if n_seeds == 0:
        return "not run", unlike
    if unlike or not full:
        return "not comparable", unlike + ["demo size"] * (not full)
    few = [f"{n_seeds} seed{'s' * (n_seeds > 1)} only"] if n_seeds < MIN_SEEDS else []
    if direction == "band":
        low, high = claim["band"]
        return ("reproduced" if low <= ours <= high else "short"), [f"asked: {low:g} to {high:g}", *few]
    reasons = list(few)
    if claim.get("spread") is None and claim["kind"] != "target":
        reasons.append("spread not published, counted as 0")
    standard_error = _standard_error(spread, n_seeds)
    s = np.hypot(standard_error, _standard_error(claim.get("spread"), claim.get("n")))
    excess = ours - published if direction == "lower" else published - ours
    if excess < -2 * s and n_seeds >= MIN_SEEDS:
        return "better", reasons
    if claim["kind"] == "target":  # a bar of our own is met or missed; noise is no excuse
        reasons.append(f"asked: at {'most' if direction == 'lower' else 'least'} {published:g}")
    slack = (1e-12 if claim["kind"] == "target" else TOLERANCE) * abs(published)
    if claim["kind"] != "target":
        slack = max(slack, 2 * s)
    if excess <= slack:
        return "reproduced", reasons
    return "short", reasons


def _standard_error(spread, n):
    """Spread over root n; 0 where nothing is known, and a spread without its n is taken for one value's."""
    return float(spread) / np.sqrt(n or 1) if spread is not None and np.isfinite(spread) else 0.0


def _beyond_bound(claim, floor):
    published, exact = claim["published"], claim.get("floor", {}).get("bound", False)
    if published is None or not exact or not np.isfinite(floor) or claim["direction"] == "band":
        return None
    beyond = floor - published if claim["direction"] == "lower" else published - floor
    if beyond > max(3 * _standard_error(claim.get("spread"), claim.get("n")), 1e-12 * abs(floor)):
        return f"the published {published:g} is beyond the exact bound {floor:g}"
    return None


def asked(frame):
    """The claims of papers of which a run measured anything, and the number of claims of each other paper."""
    silent = (frame["verdict"] == "not run").groupby(frame["paper"], sort=False).transform("all").astype(bool)
    return frame[~silent], frame.loc[silent, "paper"].value_counts(sort=False).to_dict()


def to_markdown(frame, *, own=False):
    """The scorecard for a person: a count of verdicts, each paper's claims, then this project's targets.

    Args:
        own: whether the run is about analyses of the user's: what papers claim that it did not ask for is one line.
    """
    left_out = {}
    if own:
        frame, left_out = asked(frame)
    elsewhere = ", ".join(f"{paper} ({count})" for paper, count in left_out.items())
    elsewhere = f"No experiment of these papers was part of this run; their claims are left out: {elsewhere}."
    if left_out and frame.empty:
        return f"# Scorecard\n\n{elsewhere}\n"
    counts = frame["verdict"].value_counts()
    summary = ", ".join(f"{counts[name]} {name}" for name in VERDICTS if name in counts)
    lines = ["# Scorecard", "", f"{len(frame)} claims: {summary}.", ""]
    is_target = frame["source"] == TARGET_SOURCE
    groups = [(f"What {paper} claims", rows) for paper, rows in frame[~is_target].groupby("paper", sort=False)]
    groups += [(f"Targets for {paper}", rows) for paper, rows in frame[is_target].groupby("paper", sort=False)]
    for title, rows in groups:
        lines += [f"## {title}", "", *_table(rows), ""]
    lines += [elsewhere, ""] if left_out else []
    lines += [
        "Numbers are value ± spread over seeds (n); the floor is what an exact answer, its own sampling "
        "noise or doing nothing would score.",
    ]
    return "\n".join(lines) + "\n"


def _table(rows):
    head = (
        "claim",
        "source",
        "experiment, method",
        "metric",
        "published",
        "ours",
        "floor",
        "verdict",
        "note",
    )
    body = []
    for row in rows.itertuples():
        seeds = f" (n = {row.n_seeds})" if row.n_seeds else ""
        floor = _shown(row.floor, np.nan, row.metric)
        body.append(
            (
                row.claim,
                "" if row.source == TARGET_SOURCE else row.source,
                f"{row.experiment}, {row.method}",
                row.metric,
                _shown(row.published, row.published_spread, row.metric),
                _shown(row.ours, row.ours_spread, row.metric) + seeds,
                f"{floor} ({row.floor_kind})" if row.floor_kind else floor,
                f"**{row.verdict}**",
                row.note,
            )
        )
    table = [head, tuple("---" for _ in head), *body]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in table]


def _shown(value, spread, metric):
    """Three significant digits, relative errors in percent, a dash for what is not there."""
    if not np.isfinite(value):
        return "–"
    scale, unit = (100, " %") if metric.startswith("relative_") else (1, "")
    plus_minus = f" ± {spread * scale:.2g}" if np.isfinite(spread) else ""
    return f"{value * scale:.3g}{plus_minus}{unit}"


def verdicts_to_markdown(verdicts):
    """The user's own analyses, before anything else: ``name -> verdict`` as a table; empty without any."""
    if not verdicts:
        return ""
    lines = ["# Analyses", "", "| analysis | better than doing nothing | why |", "| --- | --- | --- |"]
    for name, answer in sorted(verdicts.items()):
        lines.append(f"| [{name}](analyses/{name}/page.md) | **{answer['verdict']}** | {answer['sentence']} |")
    return "\n".join(lines) + "\n\n"
