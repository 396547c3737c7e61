"""What a run cost and what stood behind it: time and memory by rule, commits, versions, hosts and devices."""

from collections import Counter
from datetime import UTC, datetime, timedelta

from snapdyn import publish
from snapdyn.report_tables import seconds


def statistics(results, witnesses, links):
    """Time and memory by rule, and the longest jobs; from benchmarks where a rule keeps one."""
    try:
        measures, fault = publish.benchmarks(results / "benchmarks"), None
    except (ValueError, KeyError, OSError) as error:
        measures, fault = None, str(error)
    jobs = witnesses.jobs()
    wall = Counter()
    for job in jobs:
        wall[job.get("rule")] += job.get("wall_s") or 0.0
    counts, rows = Counter(job.get("rule") for job in jobs), []
    measured_rules = {} if measures is None else dict(tuple(measures.groupby("rule")))
    for rule in sorted({*filter(None, counts), *measured_rules}):
        mine = measured_rules.get(rule)
        total = wall[rule] if mine is None else float(mine["wall_s"].sum())
        rows.append(
            {
                "rule": rule,
                "link": links.rule(rule),
                "jobs": max(counts[rule], 0 if mine is None else len(mine)),
                "wall": total,
                "wall_text": seconds(total),
                "cpu": "–" if mine is None else seconds(float(mine["cpu_s"].sum())),
                "longest": "–" if mine is None else seconds(float(mine["wall_s"].max())),
                "memory": "–" if mine is None else f"{mine['peak_mb'].max():,.0f} MB",
            }
        )
    rows.sort(key=lambda row: -row["wall"])
    most = max([row["wall"] for row in rows], default=0.0) or 1.0
    slowest = [] if measures is None else measures.sort_values("wall_s", ascending=False).head(10).to_dict("records")
    return {
        "fault": fault,
        "rows": [row | {"share": round(100 * row["wall"] / most, 1)} for row in rows],
        "slowest": [
            [
                line["rule"],
                line["job"],
                seconds(line["wall_s"]),
                seconds(line["cpu_s"]),
                f"{line['peak_mb']:,.0f} MB",
            ]
            for line in slowest
        ],
        "without": any(row["cpu"] == "–" for row in rows),
        "jobs": sum(row["jobs"] for row in rows),
        "wall": seconds(sum(row["wall"] for row in rows)),
        "cpu": "–" if measures is None else seconds(float(measures["cpu_s"].sum())),
        "memory": "–" if measures is None else f"{measures['peak_mb'].max():,.0f} MB",
    }


def provenance(witnesses):
    """Commits, versions, hosts and devices behind the files, and when they were made."""
    facts = list(witnesses.facts.values())
    commits = Counter((fact.get("commit") or "unknown", bool(fact.get("dirty"))) for fact in facts)
    versions = {}
    for fact in facts:
        for name, version in (fact.get("versions") or {}).items():
            versions.setdefault(name, Counter())[str(version)] += 1
    devices = Counter((fact.get("device") or "unknown", fact.get("device_because") or "") for fact in facts)
    began, ended = _span(facts)
    return {
        "files": len(facts),
        "unreadable": witnesses.unreadable,
        "commits": [{"commit": c, "dirty": dirty, "files": n} for (c, dirty), n in commits.most_common()],
        "dirty": any(dirty for _, dirty in commits),
        "version_rows": [[name, ", ".join(sorted(found))] for name, found in sorted(versions.items())],
        "hosts": _counted(fact.get("host") for fact in facts),
        "platforms": _counted(fact.get("platform") for fact in facts),
        "devices": [{"device": d, "why": why, "files": n} for (d, why), n in devices.most_common()],
        "began": began,
        "ended": ended,
    }


def _counted(values):
    return [f"{value} ({count})" for value, count in Counter(filter(None, values)).most_common()]


def _span(facts):
    """When the first job began and the last one ended."""
    times = []
    for fact in facts:
        try:
            start = datetime.fromisoformat(fact["started"]).astimezone(UTC)
            times.append((start, start + timedelta(seconds=float(fact.get("wall_s") or 0.0))))
        except (KeyError, ValueError, TypeError):
            continue
    if not times:
        return "", ""
    form = "%Y-%m-%d %H:%M UTC"
    return f"{min(t for t, _ in times):{form}}", f"{max(t for _, t in times):{form}}"
