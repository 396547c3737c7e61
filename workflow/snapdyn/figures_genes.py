"""Figures of the gene network: a cloud, how the paper's optimiser moves, and what every method finds."""

import numpy as np
import pandas as pd

from snapdyn import frames, simulate, systems
from snapdyn.frames import rows

POINTS = 1500
PLANES = (("p", "b"), ("r", "b"))
SHOWN_EQUATION = "b"  # the row with the paper's two failures, its 12th and 14th entry
REGENERATED = ("kde-adam", "moments-sparse")


def regenerated(about, estimates, *, n, burn=25.0, dt=0.02, seed=0):
    """A cloud under a found drift and the true noise, from the system's own starts ``(kept, dim)``.

    Args:
        about: ``system`` of a cloud's metadata.
        estimates: name -> value of every unknown.
    Returns:
        the states that stayed finite.
    """
    import torch

    system = systems.of(about)
    found = torch.tensor([estimates[name] for name in system.parameters], dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    x = system.initial(n, generator, "cpu")

    def rate(x, out):
        out.copy_(system.terms(found, x.T).T)

    steps = {"steps": round(burn / dt), "dt": dt, "diffusivity": system.diffusivity, "scheme": "heun"}
    try:
        simulate.integrate(rate, x, **steps, generator=generator)
    except ValueError:  # some went to infinity; the others tell where the rest is
        x = x[:, torch.isfinite(x).all(0)]
    return x.T.numpy()


def _limits(values):
    """An axis with room around the data: a quarter of their range on both sides."""
    low, high = np.min(values), np.max(values)
    return low - (high - low) / 4, high + (high - low) / 4


def gene_network(files):
    """Fig. 3 of the Fokker-Planck paper: cloud, seven of the 21 entries from all starts, clouds under found drifts.

    Equation: ``gene-network``, ``l1-loss``, ``elimination``
    """
    cloud, meta = files["cloud"]
    history, metrics, parameters = files["history"][0], files["metrics"][0], files["parameters"][0]
    about, axes, data = meta["system"], meta["axes"], meta["dataset"]
    clouds = {"cloud": cloud[[f"x{k}" for k in range(meta["dim"])]].to_numpy()[:POINTS]}
    for method in REGENERATED:
        found = parameters.query("dataset == @data and method == @method and seed == 0")
        clouds[method] = regenerated(
            about, dict(zip(found["name"], found["estimate"], strict=True)), n=len(clouds["cloud"])
        )
    limits = {axis: _limits(clouds["cloud"][:, k]) for k, axis in enumerate(axes)}
    parts = []
    for across, up in PLANES:
        i, j = axes.index(across), axes.index(up)
        for series, x in clouds.items():
            inside = np.ones(len(x), bool)
            for axis, k in ((across, i), (up, j)):
                inside &= (x[:, k] >= limits[axis][0]) & (x[:, k] <= limits[axis][1])
            parts.append(rows(f"{across}-{up}", series, x[inside, i], x[inside, j]))
            if len(x):
                parts.append(rows(f"median: {across}-{up}", series, [np.median(x[:, i])], [np.median(x[:, j])]))
            parts.append(rows(f"outside: {across}-{up}", series, [0], [1 - inside.sum() / len(clouds["cloud"])]))
    first = history[history["seed"] == history["seed"].min()]
    entries = [name for name in about["names"] if name.startswith(f"{SHOWN_EQUATION}: ")]
    for (term, member), line in first.groupby(["term", "member"], sort=True):
        if term in ("loss", *entries):
            parts.append(rows(f"path: {term}", f"start {member}", line["step"], line["value"]))
    for name in entries:
        parts.append(rows(f"path: {name}", "truth", [0, first["step"].max()], about["parameters"][name]))
    mine = metrics[metrics["dataset"] == data]
    distances = mine[mine["metric"] == "attractor_w1"]
    for place, (method, values) in enumerate(distances.groupby("method", sort=True)["value"]):
        parts.append(frames.spread("attractor", method, place, values))
    floor = mine.loc[mine["metric"] == "attractor_w1_floor", "value"]
    parts.append(frames.spread("attractor", "attractor-floor", distances["method"].nunique(), floor))
    facts = {
        "diffusivity": f"{about['diffusivity']:g}",
        "n": f"{mine['n'].max():,}",
        "starts": first["member"].nunique(),
        "seeds": mine["seed"].nunique(),
        "shown": SHOWN_EQUATION,
        "points": f"{POINTS:,}",
        "entries": entries,
        "planes": PLANES,
        "limits": limits,
        "regenerated": REGENERATED,
    }
    return pd.concat(parts, ignore_index=True), facts


def gene_network_parameters(files):
    """Fig. 9 of the Fokker-Planck paper: all 21 entries, by the paper's recipe and by moments, every seed.

    Equation: ``gene-network``, ``l1-loss``, ``moments``, ``elimination``
    """
    metrics, parameters = files["metrics"][0], files["parameters"][0]
    about = files["cloud"][1]["system"]
    names, sizes = about["names"], metrics.groupby("dataset")["n"].max().sort_values()
    shown = ("kde-adam", "moments", "moments-sparse")
    parts = []
    for dataset in sizes.index:
        parts.append(rows(dataset, "truth", np.arange(len(names)), [about["parameters"][name] for name in names]))
        for row, method in enumerate(shown):
            mine = parameters.query("dataset == @dataset and method == @method")
            x = mine["name"].map(names.index) + 0.27 * (row - 1) + frames.jitter(mine["seed"], 0.2)
            parts.append(frames.intervals(dataset, method, x, mine))
            near = metrics.query("dataset == @dataset and method == @method and metric == 'entries_within_tenth'")
            parts.append(rows(f"within: {dataset}", method, [0], [near["value"].mean()]))
            parts[-1]["low"], parts[-1]["high"] = near["value"].min(), near["value"].max()
    seeds = metrics.groupby("dataset")["seed"].nunique()
    facts = {
        "diffusivity": f"{about['diffusivity']:g}",
        "names": names,
        "sizes": {name: f"{n:,}" for name, n in sizes.items()},
        "seeds": ", ".join(f"{seeds[name]} (N = {sizes[name]:,})" for name in sizes.index),
    }
    return pd.concat(parts, ignore_index=True), facts
