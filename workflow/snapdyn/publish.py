"""Keep the latest full run where readers find it: ``python -m snapdyn.publish`` fills docs/full-run/.

Scorecard, figures and the time and memory of every job, with date, commit and hardware.
"""

import json
import platform
import shutil
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from snapdyn import artifacts

MEASURES = {"s": "wall_s", "cpu_time": "cpu_s", "max_rss": "peak_mb"}


def benchmarks(folder):
    """Every Snakemake benchmark under ``folder`` as one ``rule-benchmark/1`` frame: rule, job, wall, CPU, memory."""
    parts = []
    for path in sorted(Path(folder).rglob("*.tsv")):
        if not path.stat().st_size:  # what a full disk leaves
            continue
        rule, *job = path.relative_to(folder).with_suffix("").parts
        # "NA" stands for a job that ended before it could be measured
        table = pd.read_csv(path, sep="\t", na_values=["-", "NA"])[list(MEASURES)].rename(columns=MEASURES)
        parts.append(table.tail(1).assign(rule=rule, job="/".join(job)))
    if not parts:
        raise ValueError(f"no benchmarks under {folder}; run the workflow first")
    frame = pd.concat(parts, ignore_index=True).fillna(0.0)
    return frame[["rule", "job", *MEASURES.values()]].astype(dict.fromkeys(MEASURES.values(), "float64"))


def hardware():
    """One line about this machine."""
    import psutil

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    memory = psutil.virtual_memory().total / 2**30
    return f"{psutil.cpu_count()} cores ({model}), {memory:.0f} GiB memory, {platform.system()}, no GPU used"


def publish(results, target, *, machine):
    """Copy what readers want of the run in ``results`` to ``target``, replacing what was there."""
    results, target = Path(results), Path(target)
    frame = benchmarks(results / "benchmarks")
    witnesses = [json.loads(path.read_text()) for path in sorted(results.rglob("*.provenance.json"))]
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(parents=True)
    for name in ("scorecard.md", "scorecard.parquet"):
        shutil.copy(results / name, target / name)
    figures = sorted((results / "figures").rglob("*.png"))
    for figure in figures:
        copy = target / figure.relative_to(results)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(figure, copy)
    artifacts.write(frame, target / "benchmark.parquet", "rule-benchmark/1")
    artifacts.write_text(_page(results, figures, frame, witnesses, machine), target / "README.md")


def _page(results, figures, frame, witnesses, machine):
    by = frame.groupby("rule")
    commits = Counter(f"`{w['commit']}`" + " with uncommitted changes" * w["dirty"] for w in witnesses)
    said = ", ".join(f"{commit} ({n} files)" for commit, n in commits.most_common())
    versions = {name: version for w in witnesses for name, version in w["versions"].items()}
    lines = [
        "# The latest full run",
        "",
        f"Kept on {datetime.now(UTC):%Y-%m-%d}, run on {machine}. Commit behind each file: {said}.",
        f"Versions: {', '.join(f'{name} {version}' for name, version in sorted(versions.items()))}.",
        "",
        "The [scorecard](scorecard.md) has every claim and target, `benchmark.parquet` the cost of each job:",
        "",
        "| rule | jobs | wall, s (sum) | CPU, s (sum) | longest job, s | peak memory, MB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for rule, group in by:
        lines.append(
            f"| {rule} | {len(group)} | {group['wall_s'].sum():.0f} | {group['cpu_s'].sum():.0f} | "
            f"{group['wall_s'].max():.0f} | {group['peak_mb'].max():.0f} |"
        )
    for figure in figures:
        meta = artifacts.read(figure.with_suffix(".parquet"), "figure/1")[1]
        lines += ["", f"## {figure.stem}", "", f"![{figure.stem}]({figure.relative_to(results)})", "", meta["caption"]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    source = sys.argv[1] if len(sys.argv) > 1 else "results/full"
    publish(source, "docs/full-run", machine=hardware())
