"""The scorecard of a report: every claim with its reasons, and the numbers that it compares as places on one axis."""

import re
from collections import Counter
from pathlib import Path

import yaml

from snapdyn.report_tables import measured, strip

VERDICTS = {  # in the order of the page, with a sign that does not need colour
    "better": "▲",
    "reproduced": "✓",
    "short": "✗",
    "impossible as published": "⊘",
    "not comparable": "≠",
    "not run": "○",
}
NOTHING = {"rows": [], "fault": None, "counts": {}, "papers": [], "groups": [], "small": False}


def slug(*names):
    """A name for an anchor, whatever the names hold."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", "--".join(map(str, names))) or "-"


def published(folder):
    """``id -> claim`` of every published file in ``folder``."""
    found = {}
    for path in sorted(Path(folder).glob("*.yaml")):
        found |= {claim["id"]: claim for claim in yaml.safe_load(path.read_text(encoding="utf-8"))["claims"]}
    return found


def claims(frame, known):
    """What the page shows of a scorecard.

    Args:
        frame: a ``scorecard/1`` frame.
        known: see :func:`published`; a claim that it lacks is shown without its data set and band.
    Returns:
        ``rows``, ``groups`` of them with a title, ``counts`` of verdicts, ``papers``, and whether the run is ``small``.
    """
    rows = [_row(line, known.get(line["claim"], {})) for line in frame.to_dict("records")]
    counts = Counter(row["verdict"] for row in rows)
    papers = list(dict.fromkeys(row["paper"] for row in rows))
    groups = []
    for paper in papers:
        for target, title in (
            (False, f"What {paper} claims"),
            (True, f"Targets that this project set itself for {paper}"),
        ):
            if mine := [row for row in rows if row["paper"] == paper and row["target"] == target]:
                groups.append((title, mine))
    order = [*VERDICTS, *sorted(set(counts) - set(VERDICTS))]
    return NOTHING | {
        "rows": rows,
        "groups": groups,
        "counts": {name: counts[name] for name in order if counts[name]},
        "papers": papers,
        "small": any("demo size" in row["reason"] for row in rows),
    }


def _row(line, claim):
    metric = line["metric"]
    return {
        "id": slug("claim", line["claim"]),
        "target": claim.get("kind") == "target" or line["source"].startswith("snapdyn target"),
        "anchor": slug("experiment", line["paper"], line["experiment"]),
        "dataset": claim.get("dataset", ""),
        "published": _published_text(line, claim),
        "ours": measured(line["ours"], line["ours_spread"], metric),
        "floor": measured(line["floor"], None, metric),
        "sign": VERDICTS.get(line["verdict"], "·"),
        "strip": strip(line, claim.get("band")),
        **{name: line[name] for name in ("claim", "paper", "source", "experiment", "method", "metric")},
        **{name: line[name] for name in ("n_seeds", "floor_kind", "verdict")},
        **_reason_and_note(line["note"], claim),
    }


def _published_text(line, claim):
    if claim.get("direction") == "band":
        low, high = (measured(end, None, line["metric"]) for end in claim["band"])
        return f"{low} to {high}"
    said = measured(line["published"], line["published_spread"], line["metric"])
    if claim.get("kind") == "target" and said != "–":
        return f"{'at least' if claim.get('direction') == 'higher' else 'at most'} {said}"
    return said


def _reason_and_note(said, claim):
    """What led to a verdict, and what the published file says of the claim itself."""
    static = [" ".join(claim["note"].split())] if "note" in claim else []
    if "figure" in claim and claim.get("kind") != "target":
        static.append(f"figure: {claim['figure']}")
    tail = "; ".join(static)
    if tail and said.endswith(tail):
        return {"reason": said[: -len(tail)].removesuffix("; "), "note": tail}
    return {"reason": said, "note": ""}
