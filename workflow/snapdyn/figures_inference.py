"""Figures of whether stated errors hold and whether the J test sees a wrong model."""

import numpy as np
import pandas as pd

from snapdyn import frames, recovery
from snapdyn.frames import rows

QUANTILES = 200  # of the p-values at most


def coverage(files):
    """Coverage of 95 % intervals, size of the J test, and its p-values against the uniform law.

    Equation: ``cross-fitted-moments``, ``crossed-j-test``
    """
    metrics = files["metrics"][0]
    order = metrics.groupby("dataset")["n"].max().sort_values(kind="stable")
    parts, ticks, counts = [], [], {}
    for place, dataset in enumerate(order.index):
        by = {name: mine["value"].to_numpy() for name, mine in metrics[metrics["dataset"] == dataset].groupby("metric")}
        for name in (name for name in by if name.startswith("covered_")):
            parts.append(frames.share("coverage", dataset, len(ticks), by[name]))
            ticks.append(name.removeprefix("covered_"))
        parts.append(frames.share("rejections", dataset, place, by["j_rejects"]))
        levels = _levels(len(by["j_p_value"]))
        parts.append(rows("p-values", dataset, np.quantile(by["j_p_value"], levels, method="hazen"), levels))
        counts[dataset] = f"{len(by['j_p_value']):,} of {order[dataset]:,} points"
    return pd.concat(parts, ignore_index=True), _refusals(metrics) | {"ticks": ticks, "counts": counts}


def _refusals(metrics):
    """How many fits of a study said no to their data: they have neither intervals nor a J."""
    refused = metrics.loc[metrics["metric"] == "refused", "value"]
    return {"refused": int(refused.sum()), "fits": f"{len(refused):,}"}


def _levels(count):
    """Where quantiles are taken: in the middle of each of equally many parts, the p-values themselves if few."""
    parts = min(count, QUANTILES)
    return (np.arange(parts) + 0.5) / parts


def misspecification(files):
    """How often J rejects the complete model, and each model with one true term left out, against the size.

    Equation: ``crossed-j-test``
    """
    metrics = files["metrics"][0]
    tests = metrics[metrics["metric"] == "j_rejects"]
    label = tests["method"].str.split("/").str[-1]
    dropped = label[label != "complete"].str.removeprefix("without ")
    equations = sorted({name.partition(":")[0] for name in dropped})
    parts = []
    for (series, method), hits in tests.groupby([label.rename("label"), "method"])["value"]:
        n = recovery.size_of(method, None)
        panels = equations if series == "complete" else [series.removeprefix("without ").partition(":")[0]]
        parts += [frames.share(panel, series, n, hits) for panel in panels]
    frame = pd.concat(parts, ignore_index=True).sort_values(["panel", "series", "x"], ignore_index=True)
    facts = _refusals(metrics) | {"seeds": tests["seed"].nunique()}
    return frame, facts | {"equations": equations, "ticks": sorted(frame["x"].unique().astype(int).tolist())}


def cells_inference(files):
    """Every coefficient of a linear drift of cells with its 95 % interval, by two methods, and what J says.

    Equation: ``affine-propagation``, ``timed-weak-form``, ``crossed-j-test``
    """
    parameters, metrics = files["parameters"][0], files["metrics"][0]
    names = frames.library_order([name for name in parameters["name"].unique() if ": " in name]) + ["diffusivity"]
    parts = []
    for (method, name), mine in parameters.groupby(["method", "name"], sort=True):
        mean = mine[["estimate", "std_error"]].mean().to_frame().T  # over splits of the same cells
        panel = "diffusivity" if name == "diffusivity" else "coefficients"
        place = 0 if name == "diffusivity" else names.index(name)
        parts.append(frames.intervals(panel, method, [place], mean))
    tested = metrics[metrics["method"] == "moments"].set_index("metric")["value"]
    facts = {
        "names": names[:-1],
        "splits": parameters["seed"].nunique(),
        "unknowns": len(names),
        "j_per_dof": f"{tested.loc[['j_per_dof']].median():.0f}",
        "j_p_value": f"{tested.loc[['j_p_value']].max():.1g}",
    }
    return pd.concat(parts, ignore_index=True), facts
