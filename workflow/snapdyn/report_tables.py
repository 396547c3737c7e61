"""Tables of a report: numbers over seeds with their spread, each beside its floor."""

import math
import re

import numpy as np

# What a table of results shows first: metric -> heading. All others are in the table behind it.
HEADLINES = {
    "w1": "W1",
    "w2": "W2",
    "l2_uvp": "L2-UVP",
    "l2_uvp_ratio_median": "median ratio of L2-UVP",
    "l2_uvp_lower": "courses of lower L2-UVP",
    "l2_uvp_gap_worst": "largest gap of L2-UVP",
    "weak_form_residual": "weak-form residual",
    "nll": "-log p, held-out",
    "tv": "total variation",
    "kl": "relative entropy",
    "mass": "mass in the box",
    "mass_ratio": "growth in a step",
    "score_rms_error": "score error",
    "integral": "integral",
    "w1_samples": "W1 of draws",
    "w1_floor": "W1 of training points",
    "adjusted_rand": "adjusted Rand",
    "denoising_factor": "denoising",
    "velocity_cosine": "velocity cosine",
    "relative_rms_error": "relative RMS error",
    "attractor_w1": "W1 of attractors",
    "entries_within_tenth": "entries within 0.1",
    "support_exact": "exact support",
    "covered": "truth in 95 % interval",
    "j_per_dof": "J / d.o.f.",
    "j_rejects": "J rejects at 5 %",
    "refused": "fits refused",
}
SHARES = ("support_exact", "covered", "j_rejects", "refused")  # of seeds, replicates or parameters: means of yes and no
# Methods that are no methods: what a score means is told by what these score on the same data.
FLOORS = {
    "resampling": "floor: as many training cells of the target",
    "train-floor": "floor: all training cells of the target",
    "true-law": "floor: the exact law",
    "no-movement": "doing nothing",
    "linear-drift": "doing nothing: the best linear drift",
    "one-gaussian": "doing nothing: one Gaussian",
    "truth": "floor: the exact law",
    "reversed-moves": "the moves turned round",
    "previous": "doing nothing: the snapshot before",
    "two-halves": "floor: two halves of the snapshot",
}
BASELINES = {
    "mean-shift": "baseline: the mean moves",
    "affine-gaussian": "baseline: one affine map a step",
    "ot-nearest": "baseline: transport of the nearest cell",
    "ot-10-nearest": "baseline: transport of the ten nearest",
    "next": "baseline: the snapshot after",
    "ot-interpolation": "baseline: displacement interpolation",
    "affine-half": "baseline: part of one affine map",
    "gaussian-midpoint": "baseline: a Gaussian in between",
    "half-and-half": "baseline: both neighbours together",
}
SHOWN_ROWS = 800  # of a table behind a headline; the parquet has all


def number(value):
    """Three significant digits; a dash for what is not there."""
    if value is None or not math.isfinite(value):
        return "–"
    if 1000 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def natural(name):
    """A key that sorts ``n=2000`` before ``n=10000``."""
    return [float(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+(?:\.\d+)?)", name))]


def measured(value, spread, metric=""):
    """``value ± spread`` as the scorecard writes it: relative errors in percent."""
    if value is None or not math.isfinite(value):
        return "–"
    scale, unit = (100, " %") if metric.startswith("relative_") else (1, "")
    plus_minus = f" ± {spread * scale:.2g}" if spread is not None and math.isfinite(spread) else ""
    return f"{number(value * scale)}{plus_minus}{unit}"


def seconds(value):
    """A duration for a person."""
    if not math.isfinite(value):
        return "–"
    if value < 100:
        return f"{value:.3g} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def size(count):
    """A file's size for a person."""
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{max(1, round(count / 1e3))} kB"


def _over_seeds(rows, by):
    """Mean, standard deviation (NaN for one seed), smallest, largest and number of seeds of ``value``."""
    groups = rows.groupby(by, sort=False, dropna=False)
    table = groups["value"].agg(["mean", "std", "min", "max"])
    return table.assign(seeds=groups["seed"].nunique(), n=groups["n"].max(), unit=groups["unit"].first())


def predicted_errors(parameters):
    """``(data set, what follows the method's name) -> error to be expected`` from the standard errors of moments.

    The same share as ``relative_rms_error``, with standard errors in the place of errors: what an estimate without
    bias would miss the truth by, and so the floor of every method's error. Studies name their fits ``moments/n=2000``.
    """
    mine = parameters[parameters["method"].str.split("/").str[0] == "moments"]
    mine = mine[np.isfinite(mine["truth"]) & np.isfinite(mine["std_error"])]
    squares = mine.assign(error=mine["std_error"] ** 2, size=mine["truth"] ** 2)
    means = squares.groupby(["dataset", "method", "seed"])[["error", "size"]].mean()
    means = means[means["size"] > 0]
    shares = np.sqrt(means["error"] / means["size"]).groupby(["dataset", "method"]).mean()
    return {(dataset, method.partition("/")[2]): float(value) for (dataset, method), value in shares.items()}


def headlines(metrics, parameters):
    """One table for each data set: methods and floors down, headline metrics across.

    An error has its floor in the column after it: what the same points, or the true drift, would score.

    Returns:
        dicts ``dataset, unit, columns, rows``; a row has ``method, about, role, seeds, cells``.
    """
    tables, expected = [], {} if parameters is None else predicted_errors(parameters)
    whole = metrics[metrics["t"].isna()]
    for dataset, mine in whole.groupby("dataset", sort=True):
        stated = _over_seeds(mine, ["method", "metric"])
        floors = {where: value for (name, where), value in expected.items() if name == dataset}
        columns = [name for name in HEADLINES if (mine["metric"] == name).any()]
        columns = [part for name in columns for part in (name, f"floor of {name}")]
        rows = []
        for method in sorted(set(mine["method"]), key=natural):
            role = "floor" if method in FLOORS else "baseline" if method in BASELINES else "method"
            cells = [_cell(stated, method, column, floors) for column in columns]
            seeds = int(mine.loc[mine["method"] == method, "seed"].nunique())
            about = FLOORS.get(method) or BASELINES.get(method, "")
            rows.append({"method": method, "about": about, "role": role, "seeds": seeds, "cells": cells})
        rows.sort(key=lambda row: ("method", "baseline", "floor").index(row["role"]))
        shown = [place for place in range(len(columns)) if any(row["cells"][place] for row in rows)]
        if not shown:
            continue
        for row in rows:
            row["cells"] = [row["cells"][place] for place in shown]
        units = sorted({unit for unit in mine.loc[mine["metric"].isin(["w1", "w2"]), "unit"] if unit != "1"})
        titles = [HEADLINES.get(columns[place], "its floor") for place in shown]
        tables.append({"dataset": dataset, "unit": "; ".join(units), "columns": titles, "rows": rows})
    return tables


def _cell(stated, method, column, floors):
    """What a method scored, or the floor of that; nothing where there is none."""
    metric = column.removeprefix("floor of ")
    if (method, metric) not in stated.index:
        return ""
    found = stated.loc[(method, metric)]
    if metric == column:
        return f"{100 * found['mean']:.3g} %" if metric in SHARES else measured(found["mean"], found["std"], metric)
    if metric == "relative_rms_error" and method.partition("/")[2] in floors:
        return measured(floors[method.partition("/")[2]], None, metric)
    if (method, f"{metric}_floor") in stated.index:
        itself = stated.loc[(method, f"{metric}_floor")]
        return measured(itself["mean"], itself["std"], metric)
    return ""


def details(metrics, names):
    """Every metric but those of single parameters: rows of text, and how many rows there are in all.

    Args:
        names: of parameters, whose errors stand in :func:`estimates`.
    """
    single = tuple(f"_{name}" for name in names)
    named = metrics["metric"]
    keep = ~(named.str.endswith(single) if single else np.zeros(len(named), dtype=bool))
    keep &= ~named.str.startswith("weakest: ")
    kept = metrics[keep].sort_values("method", key=lambda names: names.map(natural), kind="stable")
    table = _over_seeds(kept.sort_values("dataset", kind="stable"), ["dataset", "method", "split", "t", "metric"])
    rows = []
    for (dataset, method, split, t, metric), line in table[:SHOWN_ROWS].iterrows():
        rows.append(
            [dataset, method, split, "all" if math.isnan(t) else number(t), metric]
            + [measured(line["mean"], line["std"], metric)]
            + [f"{measured(line['min'], None, metric)} to {measured(line['max'], None, metric)}"]
            + [str(int(line["seeds"])), f"{int(line['n']):,}", line["unit"]]
        )
    return rows, len(table)


def estimates(parameters):
    """Every parameter of every method: mean over seeds and its spread beside the standard error and the truth."""
    ordered = parameters.sort_values("method", key=lambda names: names.map(natural), kind="stable")
    ordered = ordered.sort_values("dataset", kind="stable")
    groups = ordered.groupby(["dataset", "method", "name", "unit"], sort=False)
    table = groups[["estimate", "std_error", "truth"]].mean()
    table = table.assign(spread=groups["estimate"].std(), seeds=groups["seed"].nunique())
    rows = []
    for (dataset, method, name, unit), line in table[:SHOWN_ROWS].iterrows():
        values = [measured(line["estimate"], line["spread"]), number(line["std_error"]), number(line["truth"])]
        rows.append([dataset, method, name, *values, str(int(line["seeds"])), unit])
    return rows, len(table)


def strip(row, band=None):
    """Places, from 0 to 100, of what one claim compares: the published number, ours and the floor.

    Args:
        row: a row of the scorecard.
        band: ``(low, high)`` where the claim asks for one.
    Returns:
        ``name -> (place, low, high)``, whiskers cut at the ends of the axis, the band as ``(low, high)``; each None if
        it is not there, and None for a claim without anything to compare.
    """
    points = {name: (row[name], row[f"{name}_spread"]) for name in ("published", "ours")} | {
        "floor": (row["floor"], math.nan)
    }
    points = {name: point for name, point in points.items() if math.isfinite(point[0])}
    if "ours" not in points or len(points) + (band is not None) < 2:
        return None
    values = [value for value, _ in points.values()] + list(band or [])
    low, high = min(0.0, *values), max(values)
    reach = (high - low) * 1.06 or 1.0

    def place(value):
        return round(min(100.0, max(0.0, 100 * (value - low) / reach)), 2)

    found = dict.fromkeys(("published", "ours", "floor", "band"))
    for name, (value, spread) in points.items():
        around = spread if math.isfinite(spread) else 0.0
        found[name] = (place(value), place(value - around), place(value + around))
    if band:
        found["band"] = tuple(map(place, band))
    return found
