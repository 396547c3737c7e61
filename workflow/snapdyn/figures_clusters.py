"""Figures of the nine clusters: the density from points, one step that denoises or clusters, the Hopfield density."""

import numpy as np
import pandas as pd

from snapdyn import clustering, density_frames, density_scores, frames, hopfield, systems
from snapdyn.density_frames import Experiment
from snapdyn.density_methods import standardisation
from snapdyn.figures_density import learned_row
from snapdyn.frames import rows

STUDIED, LATENT, HOPFIELD = "mixture-flow-mle-sm", "mixture-flow-mle", "hopfield"
ARROWS = 30  # of the score along each axis: several across a cluster
LINE = 400  # points of a line through the plane


def nine_clusters(files):
    """Fig. 7 of the Fokker-Planck paper: training, centroids, density, energy and score of the nine clusters.

    Equation: ``latent-mixture``, ``mixture-energy``, ``score-matching``, ``nine-clusters``
    """
    experiment = Experiment(files)
    dataset = experiment.datasets[0]
    law, cloud = experiment.law(dataset), experiment.clouds[dataset].select(split="train")
    box = density_frames.view(law)
    model = experiment.models[dataset, STUDIED]
    found, astray = density_frames.centroids(f"centroids: {dataset}", STUDIED, model, law)
    parts = [
        density_frames.density(f"density: {dataset}", "truth", box, law.log_prob),
        density_frames.density(f"density: {dataset}", STUDIED, box, lambda x: model.log_prob(None, x)),
        density_frames.points("data", "cloud", cloud.x),
        found,
        *learned_row(dataset, experiment, law, box, STUDIED, count=ARROWS),
        density_frames.curves("loss", experiment, "loss"),
        density_frames.curves("validation", experiment, "validation"),
        density_frames.comparison("nll", experiment, experiment.above),
        density_frames.measured("score error", experiment, "score_rms_error"),
    ]
    return pd.concat(parts, ignore_index=True), {
        "dataset": dataset,
        "studied": STUDIED,
        "n": f"{len(cloud):,}",
        "centroids": len(found),
        "astray": astray,
        "seeds": experiment.seeds(),
        "depth": f"{density_frames.DEPTH:g}",
    }


def nine_clusters_cccp(files):
    """Fig. 8 of the Fokker-Planck paper: one step of the concave-convex procedure denoises, or clusters if it is hot.

    Equation: ``cccp``, ``nine-clusters``
    """
    experiment = Experiment(files)
    dataset = experiment.datasets[0]
    cloud = experiment.clouds[dataset]
    system = systems.of(cloud.meta["system"])
    x = cloud.select(split="test").x[: density_scores.CLUSTERED]  # as many as are scored
    parts = [density_frames.points("before", "cloud", x)]
    for place, arc in enumerate(system.nodes.numpy().reshape(9, -1, 2)):
        parts.append(rows("ridge", f"arc {place}", arc[:, 0], arc[:, 1]))
    stepping = [name for name in experiment.methods(dataset) if hasattr(experiment.models[dataset, name].at(), "cccp")]
    chosen = None
    for method in stepping:
        model = experiment.models[dataset, method]
        try:
            scan = clustering.choose_temperature(model.cccp, x)
        except ValueError:  # one cluster at all temperatures: an answer too, of a density that has not learned enough
            continue
        parts.append(rows("scan", method, scan.temperatures, scan.counts))
        parts.append(rows("plateau", method, [scan.temperature], scan.images, *_plateau(scan)))
        if method == STUDIED:
            chosen = scan
            parts += _clustered(model, x, scan)
    parts.append(density_frames.points("after", STUDIED, experiment.models[dataset, STUDIED].cccp(x)))
    parts.append(density_frames.measured("adjusted rand", experiment, "adjusted_rand"))
    parts.append(density_frames.measured("factor", experiment, "denoising_factor"))
    for place, when in enumerate(("before", "after")):
        for method in stepping:
            found = experiment.scores(dataset, method, f"ridge_distance_{when}")
            parts.append(frames.mean_range("ridge distance", method, place, found))
    return pd.concat(parts, ignore_index=True), {
        "studied": STUDIED,
        "temperature": f"{chosen.temperature:.3g}" if chosen else "(no plateau)",
        "images": chosen.images if chosen else 1,
        "factor": f"{experiment.scores(dataset, STUDIED, 'denoising_factor').mean():.2g}",
        "rand": f"{experiment.scores(dataset, STUDIED, 'adjusted_rand').mean():.3f}",
        "seeds": experiment.seeds(),
    }


def _plateau(scan):
    """The lowest and the highest temperature of the range that was chosen."""
    middle = np.abs(np.log(scan.temperatures / scan.temperature)).argmin()
    same = scan.counts == scan.images
    low = middle - np.argmin(np.append(same[: middle + 1][::-1], False)) + 1
    high = middle + np.argmin(np.append(same[middle:], False)) - 1
    return scan.temperatures[low], scan.temperatures[high]


def _clustered(model, x, chosen):
    """Points by the image that they share with others, stragglers apart; and the images with their shares of points."""
    moved = model.cccp(x, chosen.temperature)
    labels = clustering.labels(moved, clustering.tolerance_of(x))
    shares, parts = np.bincount(labels) / len(x), []
    shown = np.arange(len(x)) < density_frames.POINTS
    for label in np.flatnonzero(shares >= clustering.SHARE):
        mine, share = labels == label, shares[label]
        at = moved[mine].mean(0)
        parts.append(rows("clustered", f"cluster {label}", x[mine & shown, 0], x[mine & shown, 1]))
        parts.append(rows("images", "images", at[:1], at[1:], share, share))
    lone = (shares[labels] < clustering.SHARE) & shown
    return [*parts, rows("clustered", "stragglers", x[lone, 0], x[lone, 1])]


def hopfield_density(files):
    """Fig. 10 of the Fokker-Planck paper: the Hopfield density beside the latent mixture, and their energies.

    Along a line through the middle clusters, as energies per inverse temperature and up to a constant each: the
    network's own energy, -log p of the density with its patterns, and the same of the latent mixture and of the truth.

    Equation: ``hopfield-density``, ``latent-mixture``
    """
    experiment = Experiment(files)
    dataset = experiment.datasets[0]
    law, cloud = experiment.law(dataset), experiment.clouds[dataset].select(split="train")
    box = density_frames.view(law)
    panel = f"density: {dataset}"
    parts = [density_frames.density(panel, "truth", box, law.log_prob)]
    for method in (HOPFIELD, LATENT):
        if model := experiment.models.get((dataset, method)):
            parts.append(density_frames.density(panel, method, box, lambda x, m=model: m.log_prob(None, x)))
            parts.append(density_frames.centroids(f"centroids: {dataset}", method, model, law)[0])
    network = experiment.models[dataset, HOPFIELD]
    beta = network.diagnostics["inverse_temperature"]
    line = np.stack([np.linspace(*box[0], LINE), np.zeros(LINE)], 1)
    energies = {"truth": -law.log_prob(line) / beta}
    for method in (LATENT, HOPFIELD):
        if model := experiment.models.get((dataset, method)):
            energies[method] = model.energy(None, line) / beta
    energies["hopfield-energy"] = network_energy(network.at(), line, cloud, beta)
    for series, values in energies.items():
        parts.append(rows("energy", series, line[:, 0], values - values.min()))
    parts.append(density_frames.comparison("nll", experiment, experiment.above))
    gap = np.ptp(energies["hopfield-energy"] - energies[HOPFIELD])
    frame = pd.concat(parts, ignore_index=True)
    frame["series"] = frame["series"].replace(LATENT, "latent-mixture")  # here without couplings
    return frame, {
        "dataset": dataset,
        "patterns": network.at().components,
        "beta": f"{beta:g}",
        "gap": f"{gap:.0e}",
        "seeds": experiment.seeds(),
    }


def network_energy(density, x, cloud, beta):
    """E_hop ``(n,)`` at ``x (n, dim)`` of the patterns behind a Hopfield density, standardised as its method does it.

    Args:
        cloud: the training rows that its patterns were drawn from.

    Equation: ``hopfield-density``
    """
    import torch

    centre, scale = standardisation(cloud.x, cloud.weight)
    patterns = (density.centroids.detach().numpy() - centre) / scale
    return hopfield.energy(torch.from_numpy((x - centre) / scale), torch.from_numpy(patterns), beta).numpy()
