"""What each figure of a paper plots: from the tables of an experiment to one tidy frame.

Every function returns a ``figure/1`` frame (panel, series, x, y, low, high) and the facts that fill the caption.
The drawing is in :mod:`snapdyn.plotting` and its kin, which compute nothing. :data:`FIGURES` has all of them.
"""

import numpy as np
import pandas as pd

from snapdyn import (
    artifacts,
    figures_cells,
    figures_clusters,
    figures_density,
    figures_energy,
    figures_genes,
    figures_inference,
    figures_interaction,
    figures_recovery,
    frames,
    models,
    plotting,
    plotting_cells,
    plotting_clusters,
    plotting_density,
    plotting_energy,
    plotting_genes,
    plotting_inference,
    plotting_interaction,
    plotting_recovery,
    scorecard,
    simulate,
    systems,
)
from snapdyn.frames import rows

CLOUD_POINTS = 4000


def read(files):
    """Read a figure's inputs: ``name -> (frame, metadata)``, or a list of them where there are several files.

    Models come as a list of what :func:`snapdyn.load` returns; their ``about`` says of which data set and method.
    Published numbers come as the list of a paper's claims.
    """
    kinds = {
        "metrics": "metrics/1",
        "parameters": "parameters/1",
        "history": "history/1",
        "histories": "history/1",
        "cloud": "snapshots/1",
        "clouds": "snapshots/1",
        "courses": "courses/1",
        "beside": "metrics/1",
        "predictions": "snapshots/1",
    }
    loaded = [model for path in files.get("models", ()) for model in _models(path)]
    found = {"models": loaded} if "models" in files else {}
    if "published" in files:
        found["published"] = scorecard.read_published(files["published"])[0]["claims"]
    for name, paths in files.items():
        if name not in found:
            one = isinstance(paths, str)
            found[name] = (
                artifacts.read(paths, kinds[name]) if one else [artifacts.read(path, kinds[name]) for path in paths]
            )
    return found


def _models(path):
    """The model of a file, or all of those that were trained together."""
    return models.load_many(path) if str(path).endswith("models.pt") else [models.load(path)]


def _error_rows(panel, metrics, dataset, names):
    """RMS relative error of every method and parameter, with the smallest and largest seed."""
    parts = []
    for method, group in metrics[metrics["dataset"] == dataset].groupby("method", sort=False):
        for place, name in enumerate(names):
            parts.append(frames.spread(panel, method, place, frames.relative_errors(group, name)))
    return parts


def attractor(name, parameters, *, diffusivity, steps=30000, dt=2e-3):
    """One noise-free trajectory after its transient ``(steps / 4, dim)``; empty if it escapes."""
    import torch

    system = systems.build(name, diffusivity=diffusivity, **parameters)
    x = torch.tensor([[1.0], [1.0], [20.0]], dtype=torch.float64)
    path = []
    try:
        for _ in range(steps // 4):
            simulate.integrate(
                system.rate, x, steps=4, dt=dt, diffusivity=0.0, generator=torch.Generator().manual_seed(0)
            )
            path.append(x[:, 0].numpy().copy())
    except ValueError:
        return np.empty((0, system.dim))
    return np.array(path[len(path) // 4 :])


def lorenz(files):
    """Fig. 2 of the Fokker-Planck paper: cloud, curves of random starts, attractors; and errors of every method.

    Equation: ``plain-design``, ``l1-loss``, ``moments``
    """
    cloud, meta = files["cloud"]
    history, options = files["history"]
    metrics, parameters = files["metrics"][0], files["parameters"][0]
    system = meta["system"]
    truth = {name: system["parameters"][name] for name in system["names"]}
    diffusivity = system["diffusivity"]
    points = cloud[: min(CLOUD_POINTS, len(cloud))]
    parts = [rows("cloud", "cloud", points["x0"], points["x2"])]
    first = history[history["seed"] == 0]
    for (term, member), line in first.groupby(["term", "member"], sort=True):
        parts.append(rows(f"path: {term}", f"start {member}", line["step"], line["value"]))
    for name, value in truth.items():
        parts.append(rows(f"path: {name}", "truth", [0, first["step"].max()], value))
    data = meta["dataset"]
    sizes = metrics.groupby("dataset")["n"].max().sort_values()
    for method in ("truth", "kde-adam", "moments"):
        found = parameters.query("dataset == @data and method == @method and seed == 0")
        values = truth if method == "truth" else dict(zip(found["name"], found["estimate"], strict=True))
        path = attractor(system["system"], values, diffusivity=diffusivity)
        parts.append(rows("attractor", method, path[:, 0], path[:, 2]))
    for dataset in sizes.index:
        parts += _error_rows(f"error: N = {sizes[dataset]:,}", metrics, dataset, list(truth))
        predicted = parameters.query("dataset == @dataset and method == 'moments'")
        for place, name in enumerate(truth):
            share = frames.predicted_error(predicted, name)
            parts.append(rows(f"error: N = {sizes[dataset]:,}", "predicted-error", [place], [share]))
    seeds = metrics.groupby("dataset")["seed"].nunique()
    facts = {
        "diffusivity": f"{diffusivity:g}",
        "n": f"{sizes[data]:,}",
        "starts": first["member"].nunique(),
        "seeds": ", ".join(f"{seeds[name]} (N = {sizes[name]:,})" for name in sizes.index),
        "names": list(truth),
        "options": options["options"],
    }
    return pd.concat(parts, ignore_index=True), facts


def bandwidth(files):
    """Signed error of each parameter over the kernel width: mean over seeds, plus and minus a standard deviation.

    Equation: ``plain-design``, ``convolved-design``
    """
    metrics = files["metrics"][0]
    errors = metrics[metrics["metric"].str.startswith("relative_error_")].copy()
    split = errors["method"].str.split("/h=", expand=True)
    errors["kind"], errors["width"] = split[0], split[1].astype(float)
    parts = []
    for (metric, kind), group in errors.groupby(["metric", "kind"], sort=True):
        by = group.groupby("width")["value"]
        mean, sd = 100 * by.mean(), 100 * by.std(ddof=1).fillna(0.0)
        name = metric.removeprefix("relative_error_")
        parts.append(rows(name, kind, mean.index, mean.to_numpy(), (mean - sd).to_numpy(), (mean + sd).to_numpy()))
    facts = {"seeds": errors["seed"].nunique(), "n": f"{errors['n'].max():,}"}
    facts["names"] = files["cloud"][1]["system"]["names"]
    return pd.concat(parts, ignore_index=True), facts


def ornstein_uhlenbeck(files):
    """RMS error of every method against the exact rates, in each dimension.

    Equation: ``ou-stationary``, ``moments``
    """
    metrics = files["metrics"][0]
    parts = []
    for dataset, group in metrics.groupby("dataset", sort=True):
        for method, mine in group[group["metric"] == "relative_rms_error"].groupby("method", sort=False):
            parts.append(frames.spread(dataset, method, 0, 100 * mine["value"].to_numpy()))
    facts = {"n": f"{metrics['n'].max():,}", "seeds": metrics["seed"].nunique()}
    return pd.concat(parts, ignore_index=True), facts


def cells_drift(files):
    """W1 one step ahead of every method and baseline, for each transition and their mean.

    Equation: ``affine-propagation``, ``wasserstein``
    """
    metrics = files["metrics"][0]
    # moves turned round are three times as bad as standing still; they stay in the tables, off the axis
    scores = metrics[(metrics["metric"] == "w1") & (metrics["method"] != "reversed-moves")]
    parts = []
    for dataset, group in scores.groupby("dataset", sort=True):
        targets = np.sort(group["t"].dropna().unique())
        place = {t: k for k, t in enumerate(targets)}
        for method, mine in group.groupby("method", sort=False):
            for t, values in mine.groupby("t", dropna=False)["value"]:
                x = place.get(t, len(targets) + 0.5)
                sd = values.std(ddof=1) if len(values) > 1 else 0.0
                parts.append(rows(dataset, method, [x], [values.mean()], values.mean() - sd, values.mean() + sd))
        labels = [*(f"{t:g}" for t in targets), "mean"]
        parts.append(rows(dataset, "ticks", [*place.values(), len(targets) + 0.5], 0.0))
        parts[-1]["series"] = [f"tick: {label}" for label in labels]
    frame = pd.concat(parts, ignore_index=True)

    splits = scores.groupby("dataset")["seed"].nunique().to_dict()
    return frame, {"splits": splits}


FIGURES = {
    "lorenz": (lorenz, plotting.lorenz),
    "bandwidth": (bandwidth, plotting.bandwidth),
    "ornstein_uhlenbeck": (ornstein_uhlenbeck, plotting.ornstein_uhlenbeck),
    "cells_drift": (cells_drift, plotting.cells_drift),
    "lorenz_noise": (figures_recovery.lorenz_noise, plotting_recovery.lorenz_noise),
    "lorenz_samples": (figures_recovery.lorenz_samples, plotting_recovery.lorenz_samples),
    "lorenz_diffusivity": (figures_recovery.lorenz_diffusivity, plotting_recovery.lorenz_diffusivity),
    "lorenz_library": (figures_recovery.lorenz_library, plotting_recovery.lorenz_library),
    "lorenz_trajectories": (figures_recovery.lorenz_trajectories, plotting_recovery.lorenz_trajectories),
    "coverage": (figures_inference.coverage, plotting_inference.coverage),
    "misspecification": (figures_inference.misspecification, plotting_inference.misspecification),
    "cells_inference": (figures_inference.cells_inference, plotting_inference.cells_inference),
    "gene_network": (figures_genes.gene_network, plotting_genes.gene_network),
    "gene_network_parameters": (figures_genes.gene_network_parameters, plotting_genes.gene_network_parameters),
    "limit_cycle": (figures_density.limit_cycle, plotting_density.limit_cycle),
    "round_trip": (figures_density.round_trip, plotting_density.round_trip),
    "density_training": (figures_density.density_training, plotting_density.density_training),
    "nine_clusters": (figures_clusters.nine_clusters, plotting_clusters.nine_clusters),
    "nine_clusters_cccp": (figures_clusters.nine_clusters_cccp, plotting_clusters.nine_clusters_cccp),
    "hopfield_density": (figures_clusters.hopfield_density, plotting_clusters.hopfield_density),
    "lorenz_density": (figures_density.lorenz_density, plotting_density.lorenz_density),
    "cells_density": (figures_density.cells_density, plotting_density.cells_density),
    "potentials_levels": (figures_energy.potentials_levels, plotting_energy.potentials_levels),
    "potentials_levels_all": (figures_energy.potentials_levels_all, plotting_energy.potentials_levels),
    "potentials_scores": (figures_energy.potentials_scores, plotting_energy.potentials_scores),
    "potentials_training": (figures_energy.potentials_training, plotting_energy.potentials_training),
    "forces_only": (figures_energy.forces_only, plotting_energy.forces_only),
    "potentials_dimension": (figures_energy.potentials_dimension, plotting_energy.potentials_dimension),
    "interaction_kernels": (figures_interaction.interaction_kernels, plotting_interaction.interaction_kernels),
    "interaction_kernels_noisy": (
        figures_interaction.interaction_kernels_noisy,
        plotting_interaction.interaction_kernels,
    ),
    "interaction_scores": (figures_interaction.interaction_scores, plotting_interaction.interaction_scores),
    "diffusivity_recovered": (figures_interaction.diffusivity_recovered, plotting_interaction.diffusivity_recovered),
    "unpairing_ratios": (figures_interaction.unpairing_ratios, plotting_interaction.unpairing_ratios),
    "cells_one_step": (figures_cells.cells_one_step, plotting_cells.cells_one_step),
    "cells_held_out": (figures_cells.cells_held_out, plotting_cells.cells_held_out),
    "cells_field": (figures_cells.cells_field, plotting_cells.cells_field),
}
