"""Keep what full runs measured where readers find it: ``python -m snapdyn.publish`` fills docs/full-run/.

Scorecard, figures and the time and memory of every job, with date, commit and hardware. All experiments together take
longer than one run need last, so a run replaces what it measured anew, and the rest stays as an earlier one left it.
"""

import json
import platform
import shutil
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from snapdyn import artifacts, scorecard

FULL = "full"  # the name of a run of the published size
STATED = "runs.json"  # which run measured which experiments, and the captions of its figures
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
    """Copy what readers want of the run in ``results`` to ``target``, beside what earlier runs left there.

    Args:
        results: folder of a run with its scorecard; parts of it may be left out.
        target: folder that holds what is kept; made where there is none.
        machine: one line about the hardware.
    Raises:
        ValueError: a run of another size, whose numbers would take the place of those of the published one.
    """
    results, target = Path(results), Path(target)
    costs = benchmarks(results / "benchmarks")
    card, about = artifacts.read(results / "scorecard.parquet", "scorecard/1")
    if about.get("run") != FULL:
        raise ValueError(
            f"expected a run of the published size, called {FULL!r}, got {about.get('run')!r} in {results}: its "
            "numbers would replace those at published size; give the folder of a full run"
        )
    measured = artifacts.read(results / "metrics.parquet", "metrics/1")[0]
    experiments = sorted(set(measured["paper"] + "/" + measured["experiment"]))
    witnesses = [json.loads(path.read_text()) for path in sorted(results.rglob("*.provenance.json"))]
    target.mkdir(parents=True, exist_ok=True)
    runs = _others(target, experiments)
    if (target / "scorecard.parquet").exists():
        card = _together(card, artifacts.read(target / "scorecard.parquet", "scorecard/1")[0], experiments)
        earlier = artifacts.read(target / "benchmark.parquet", "rule-benchmark/1")[0]
        costs = pd.concat([earlier, costs]).drop_duplicates(["rule", "job"], keep="last")
        costs = costs.sort_values(["rule", "job"], ignore_index=True)
    captions = {}
    for figure in sorted((results / "figures").rglob("*.png")):
        name = str(figure.relative_to(results / "figures").with_suffix(""))
        captions[name] = artifacts.read(figure.with_suffix(".parquet"), "figure/1")[1]["caption"]
        copy = target / "figures" / f"{name}.png"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(figure, copy)
    for run in runs:  # the figure of an experiment that was measured anew is new, too
        run["figures"] = {name: text for name, text in run["figures"].items() if name not in captions}
    runs.append(_about(witnesses, machine) | {"experiments": experiments, "figures": captions})
    for copy in (target / "figures").rglob("*.png"):  # of runs of which nothing is left
        if not any(str(copy.relative_to(target / "figures").with_suffix("")) in run["figures"] for run in runs):
            copy.unlink()
    artifacts.write(card, target / "scorecard.parquet", "scorecard/1", {"run": FULL})
    artifacts.write_text(scorecard.to_markdown(card), target / "scorecard.md")
    artifacts.write(costs, target / "benchmark.parquet", "rule-benchmark/1")
    artifacts.write_json(runs, target / STATED)
    artifacts.write_text(_page(runs, costs), target / "README.md")


def _others(target, experiments):
    """The runs kept in ``target``, less what is measured anew; of a run of which nothing else is left, nothing."""
    path = target / STATED
    runs = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    for run in runs:
        run["experiments"] = [name for name in run["experiments"] if name not in experiments]
    return [run for run in runs if run["experiments"]]


def _together(new, earlier, experiments):
    """The claims of ``new``, each with the row of ``earlier`` where only that run measured its experiment."""
    silent = new["verdict"].eq("not run") & ~(new["paper"] + "/" + new["experiment"]).isin(experiments)
    kept = earlier[earlier["claim"].isin(new.loc[silent, "claim"])]
    both = pd.concat([new[~new["claim"].isin(kept["claim"])], kept])
    return both.set_index("claim").loc[new["claim"]].reset_index()


def _about(witnesses, machine):
    commits = Counter(f"`{w['commit']}`" + " with uncommitted changes" * w["dirty"] for w in witnesses)
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine,
        "commits": ", ".join(f"{commit} ({n} files)" for commit, n in commits.most_common()),
        "versions": {name: version for w in witnesses for name, version in w["versions"].items()},
    }


def _page(runs, costs):
    lines = [
        "# What full runs measured",
        "",
        "Every experiment at published size, from the latest run that had it. The [scorecard](scorecard.md) has every",
        "claim and target, `benchmark.parquet` the cost of each job.",
    ]
    for run in reversed(runs):
        versions = ", ".join(f"{name} {version}" for name, version in sorted(run["versions"].items()))
        lines += ["", f"**Kept on {run['date']}**, run on {run['machine']}. Commit behind each file: {run['commits']}."]
        lines += [f"Versions: {versions}.", f"Experiments: {', '.join(run['experiments'])}."]
    lines += [
        "",
        "| rule | jobs | wall, s (sum) | CPU, s (sum) | longest job, s | peak memory, MB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for rule, group in costs.groupby("rule"):
        lines.append(
            f"| {rule} | {len(group)} | {group['wall_s'].sum():.0f} | {group['cpu_s'].sum():.0f} | "
            f"{group['wall_s'].max():.0f} | {group['peak_mb'].max():.0f} |"
        )
    for name, caption in sorted({name: text for run in runs for name, text in run["figures"].items()}.items()):
        title = Path(name).name
        lines += ["", f"## {title}", "", f"![{title}](figures/{name}.png)", "", caption]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    source = sys.argv[1] if len(sys.argv) > 1 else "results/full"
    try:
        publish(source, "docs/full-run", machine=hardware())
    except ValueError as refusal:
        sys.exit(str(refusal))
