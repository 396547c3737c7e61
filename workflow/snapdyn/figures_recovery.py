"""Figures of what fits find beside the truth: against noise and sample size, with unknown D, in a whole library."""

import numpy as np
import pandas as pd

from snapdyn import frames, recovery
from snapdyn.frames import rows

STUDIED_METHOD = "moments"  # whose standard errors are drawn beside its errors


def _kept(metrics):
    """Numbers of a caption that all figures share."""
    sizes = sorted(metrics["n"].unique())
    return {
        "n": " or ".join(f"{n:,}" for n in sizes),
        "largest": f"{sizes[-1]:,}",
        "seeds": metrics.groupby(["dataset", "method"])["seed"].nunique().max(),
    }


def _against(metrics, parameters, places, names):
    """RMS error of every parameter at every place, and what the standard errors of moments predict.

    Args:
        places: function of a data set's and a method's name to the place on the axis.
        names: of the parameters, one panel each.
    """
    parts = []
    for (dataset, method), group in metrics.groupby(["dataset", "method"], sort=True):
        base, x = method.split("/")[0], places(dataset, method)
        mine = parameters[(parameters["dataset"] == dataset) & (parameters["method"] == method)]
        for name in names:
            if len(errors := frames.relative_errors(group, name)):
                parts.append(frames.spread(name, base, x, errors))
            if base == STUDIED_METHOD and len(errors):
                parts.append(rows(name, "predicted-error", [x], [frames.predicted_error(mine, name)]))
    return pd.concat(parts, ignore_index=True).sort_values(["panel", "series", "x"], ignore_index=True)


def lorenz_noise(files):
    """RMS error of each parameter against the noise, one line a method, and what moments predict.

    Equation: ``plain-design``, ``convolved-design``, ``kds``, ``moments``
    """
    metrics, parameters = files["metrics"][0], files["parameters"][0]
    noise = {meta["dataset"]: meta["system"]["diffusivity"] for _, meta in files["clouds"]}
    names = files["cloud"][1]["system"]["names"]
    frame = _against(metrics, parameters, lambda dataset, method: noise[dataset], names)
    return frame, _kept(metrics) | {"names": names, "ticks": sorted(noise.values())}


def lorenz_samples(files):
    """RMS error of each parameter against the number of points, and the power of it in the error of moments.

    Equation: ``plain-design``, ``convolved-design``, ``moments``
    """
    metrics, parameters = files["metrics"][0], files["parameters"][0]
    names = files["cloud"][1]["system"]["names"]
    parts = [_against(metrics, parameters, lambda dataset, method: recovery.size_of(method, None), names)]
    mine = metrics[metrics["method"].str.split("/").str[0] == STUDIED_METHOD]
    for name in names:
        errors = mine[mine["metric"] == f"relative_error_{name}"]
        # a size at which a seed was refused says less than the others
        table = errors.pivot_table(index=["dataset", "seed"], columns="n", values="value").dropna(axis=1)
        power, std_error, line = frames.power_law(table.columns.to_numpy(), 100 * table.to_numpy())
        parts.append(rows(name, "moments-fit", table.columns, line))
        parts.append(rows(f"power: {name}", STUDIED_METHOD, [0], [power], power - std_error, power + std_error))
    return pd.concat(parts, ignore_index=True), _kept(metrics) | {
        "names": names,
        "ticks": sorted(metrics["n"].unique()),
    }


def lorenz_diffusivity(files):
    """Estimates of D and of the drift's parameters as shares of the truth, every seed with its 95 % interval.

    Equation: ``moments``
    """
    metrics, parameters = files["metrics"][0], files["parameters"][0]
    noise = {meta["dataset"]: meta["system"]["diffusivity"] for _, meta in files["clouds"]}
    names = ["diffusivity", *files["cloud"][1]["system"]["names"]]
    order, parts = sorted(noise, key=noise.get), []
    for name in names:
        for place, dataset in enumerate(order):
            here = (parameters["dataset"] == dataset) & (parameters["method"] == STUDIED_METHOD)
            mine = parameters[here & (parameters["name"] == name)]
            x = place + frames.jitter(mine["seed"], 0.7)
            parts.append(frames.intervals(name, STUDIED_METHOD, x, mine, mine["truth"].to_numpy()))
        hits = metrics.loc[metrics["metric"] == f"covered_{name}", "value"]
        parts.append(frames.share(f"covered: {name}", STUDIED_METHOD, len(hits), hits))
    frame = pd.concat(parts, ignore_index=True)
    return frame, _kept(metrics) | {"names": names, "ticks": [f"{noise[dataset]:g}" for dataset in order]}


def lorenz_library(files):
    """All coefficients of a library on the largest cloud, and the z-scores of every seed.

    A coefficient is multiplied by the RMS of its monomial over the cloud: how much of the drift the term is.

    Equation: ``moments``, ``elimination``, ``kds``
    """
    metrics, parameters = files["metrics"][0], files["parameters"][0]
    sizes = metrics.groupby("dataset")["n"].max().sort_values()
    cloud, meta = next((cloud, meta) for cloud, meta in files["clouds"] if meta["dataset"] == sizes.index[-1])
    mine = parameters[parameters["dataset"] == sizes.index[-1]]
    names = frames.library_order(mine["name"])
    scale = {name: frames.monomial_size(name, cloud, meta["axes"]) for name in names}
    first, parts = mine[mine["seed"] == mine["seed"].min()], []
    for equation in meta["axes"]:
        terms = [name for name in names if name.startswith(f"{equation}: ")]
        for method, found in first.groupby("method", sort=True):
            found = found.set_index("name").loc[terms]
            shown = np.isfinite(found["std_error"]) if method == "moments-sparse" else np.full(len(found), True)
            factor = 1 / np.array([scale[name] for name in terms])
            parts.append(
                frames.intervals(f"equation: {equation}", method, np.arange(len(terms)), found, factor)[list(shown)]
            )
        truth = [scale[name] * first.set_index("name").loc[name, "truth"].max() for name in terms]
        parts.append(rows(f"equation: {equation}", "truth", np.arange(len(terms)), truth))
    sure = mine[mine["method"] == STUDIED_METHOD]
    z = ((sure["estimate"] - sure["truth"]) / sure["std_error"]).to_numpy()
    edges = np.linspace(-5, 5, 21)
    density = np.histogram(z.clip(-4.99, 4.99), edges, density=True)[0]
    parts.append(rows("z-scores", STUDIED_METHOD, (edges[:-1] + edges[1:]) / 2, density))
    grid = np.linspace(-5, 5, 101)
    parts.append(rows("z-scores", "normal", grid, np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)))
    parts.append(rows("z-scores: RMS", STUDIED_METHOD, [len(z)], [frames.rms(z)]))
    exact = metrics[metrics["metric"] == "support_exact"]
    for dataset, hits in exact.groupby("dataset")["value"]:
        parts.append(frames.share("exact support", dataset, len(hits), hits))
    facts = _kept(metrics) | {
        "equations": list(meta["axes"]),
        "terms": {axis: [name[3:] for name in names if name.startswith(f"{axis}: ")] for axis in meta["axes"]},
        "dataset": sizes.index[-1],
        "seeds": sure["seed"].nunique(),
        "support": "; ".join(
            f"{int(exact.loc[exact['dataset'] == dataset, 'value'].sum())} of "
            f"{(exact['dataset'] == dataset).sum()} seeds at N = {n:,}"
            for dataset, n in sizes.items()
        ),
    }
    return pd.concat(parts, ignore_index=True), facts


def lorenz_trajectories(files):
    """Errors of whole trajectories seen in order, and of the same states without it.

    RMS relative error of each true term, and the largest absent one, in units of the drift and in standard errors.

    Equation: ``forward-difference``, ``moments``
    """
    metrics, parameters = files["metrics"][0], files["parameters"][0]
    cloud, meta = files["cloud"]
    names = frames.library_order(parameters["name"])
    truth = parameters.groupby("name")["truth"].first()
    true, absent = ([name for name in names if (truth[name] != 0) == there] for there in (True, False))
    scale = {name: frames.monomial_size(name, cloud, meta["axes"]) for name in absent}
    parts = []
    for method, group in metrics.groupby("method", sort=True):
        mine = parameters[parameters["method"] == method]
        for place, name in enumerate(true):
            parts.append(frames.spread("true terms", method, place, frames.relative_errors(group, name)))
            parts.append(rows("true terms", f"predicted: {method}", [place], [frames.predicted_error(mine, name)]))
        others = mine[mine["name"].isin(absent)]
        away = others["estimate"].abs()
        drift = (away * others["name"].map(scale)).groupby(others["seed"]).max()
        surprise = (away / others["std_error"]).groupby(others["seed"]).max()
        parts.append(frames.spread("absent terms", method, 0, drift))
        parts.append(frames.spread("absent terms, z", method, 0, surprise))
    parts.append(rows("absent terms, z", "normal", [0], [_largest_normal(len(absent))]))
    facts = _kept(metrics) | {"terms": true, "absent": len(absent)} | meta["paths"]
    return pd.concat(parts, ignore_index=True), facts | {"paths": len(cloud) // meta["paths"]["records"]}


def _largest_normal(count):
    """Median of the largest of ``count`` independent standard normals, in size."""
    from scipy import stats

    return float(stats.norm.ppf((1 + 0.5 ** (1 / count)) / 2))
