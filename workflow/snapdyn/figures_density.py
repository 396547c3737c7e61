"""Figures of densities from dynamics and from points: limit cycles, the round trip, rings, Lorenz, cells."""

import numpy as np
import pandas as pd

from snapdyn import density_frames, frames
from snapdyn.density_frames import Experiment
from snapdyn.frames import rows

DYNAMICS, PLAIN = "mixture-flow-dynamics", "mixture-flow-plain"
TRAININGS = ("mixture-flow-mle", "mixture-flow-sm", "mixture-flow-mle-sm")
PLANES = ((0, 2), (0, 1))  # of Lorenz: x-z and x-y
BINS = 64  # of a histogram of draws along each axis
DRAWS = 200_000  # from a density, for its histogram


def _learned(panel, dataset, experiment, law, box, methods):
    """Maps of p with centroids of some methods, and how many centroids lie in empty space."""
    parts = []
    for method in methods:
        if model := experiment.models.get((dataset, method)):
            parts.append(density_frames.density(panel, method, box, lambda x, m=model: m.log_prob(None, x)))
            found, astray = density_frames.centroids(f"centroids: {dataset}", method, model, law)
            parts += [found, rows(f"astray: {dataset}", method, [len(found)], [astray])]
    return parts


def learned_row(dataset, experiment, law, box, method, **many):
    """Energy and score of one method, beside the true score."""
    model = experiment.models.get((dataset, method))
    if model is None:
        return []
    fields = {"truth": law.score, method: lambda x: model.score(None, x)}
    return [
        density_frames.energy(f"energy: {dataset}", method, box, lambda x: model.log_prob(None, x)),
        density_frames.arrows(f"score: {dataset}", box, law, fields, **many),
    ]


def limit_cycle(files):
    """Fig. 5 of the Fokker-Planck paper: densities of two limit cycles from the dynamics alone, beside the true ones.

    Equation: ``stationary-residual``, ``weighted-residual``, ``mixture-energy``, ``total-variation``
    """
    experiment, parts = Experiment(files), []
    for dataset in experiment.datasets:
        law = experiment.law(dataset)
        box, panel = density_frames.view(law), f"density: {dataset}"
        parts.append(density_frames.density(panel, "truth", box, law.log_prob))
        parts += _learned(panel, dataset, experiment, law, box, (DYNAMICS, PLAIN))
        parts += learned_row(dataset, experiment, law, box, DYNAMICS)
    parts.append(density_frames.curves("loss", experiment, "loss"))
    parts.append(density_frames.curves("mass", experiment, "mass"))
    parts.append(density_frames.comparison("nll", experiment, experiment.above))
    parts.append(density_frames.measured("tv", experiment, "tv"))
    parts.append(density_frames.measured("score error", experiment, "score_rms_error"))
    return pd.concat(parts, ignore_index=True), {
        "datasets": experiment.datasets,
        "shown": [DYNAMICS, PLAIN],
        "diffusivity": _noise(experiment),
        "seeds": experiment.seeds(),
        "depth": f"{density_frames.DEPTH:g}",
    }


def _noise(experiment):
    """The diffusivity of the data sets, as text."""
    found = {cloud.meta["system"]["diffusivity"] for cloud in experiment.clouds.values()}
    return " or ".join(f"{value:g}" for value in sorted(found))


def round_trip(files):
    """The drift's parameters that went into a density, and those that are read off it again.

    Equation: ``plain-design``, ``l1-loss``
    """
    table = files["parameters"][0]
    table = table[table["truth"].notna()]
    names, parts = list(dict.fromkeys(table["name"])), []
    methods = list(dict.fromkeys(table["method"]))
    for name in names:
        mine = table[table["name"] == name]
        truth = mine["truth"].iloc[0]
        parts.append(rows(f"estimate: {name}", "truth", [-0.5, len(methods) - 0.5], truth))
        for method, found in mine.groupby("method", sort=True):
            x = methods.index(method) + frames.jitter(found["seed"], 0.5)
            error = 100 * np.abs(found["estimate"] / truth - 1)
            parts.append(rows(f"estimate: {name}", method, x, found["estimate"]))
            parts.append(rows(f"error: {name}", method, x, error))
    learned = table[table["method"] == DYNAMICS]
    worst = 100 * (learned["estimate"] / learned["truth"] - 1).abs()
    datasets = [table.loc[table["name"] == name, "dataset"].iloc[0] for name in names]
    return pd.concat(parts, ignore_index=True), {
        "names": names,
        "datasets": datasets,
        "methods": methods,
        "seeds": table["seed"].nunique(),
        "worst": f"{worst.max():.2g}",
    }


def density_training(files):
    """Fig. 6 of the Fokker-Planck paper: the same density from few and many points by three trainings.

    Equation: ``latent-mixture``, ``score-matching``, ``total-variation``
    """
    experiment, parts = Experiment(files), []
    for dataset in experiment.datasets:
        law, cloud = experiment.law(dataset), experiment.clouds[dataset].select(split="train")
        box = density_frames.view(law)
        parts.append(density_frames.points(f"data: {dataset}", "cloud", cloud.x))
        parts += _learned(f"density: {dataset}", dataset, experiment, law, box, TRAININGS)
    parts.append(density_frames.density("density", "truth", box, law.log_prob))  # the same for all sizes
    parts.append(density_frames.comparison("nll", experiment, experiment.above))
    parts.append(density_frames.measured("score error", experiment, "score_rms_error"))
    parts.append(density_frames.measured("tv", experiment, "tv"))
    return pd.concat(parts, ignore_index=True), {
        "datasets": experiment.datasets,
        "trainings": list(TRAININGS),
        "sizes": {dataset: f"{experiment.size(dataset):,}" for dataset in experiment.datasets},
        "seeds": experiment.seeds(),
        "ordering": "; ".join(_ordering(experiment, dataset) for dataset in experiment.datasets),
    }


def _ordering(experiment, dataset):
    """In how many seeds both trainings together are the best of the three, by likelihood and by score."""
    said, seeds = [], 0
    for name, metric in (("likelihood", "nll"), ("score", "score_rms_error")):
        table = pd.DataFrame({method: experiment.scores(dataset, method, metric) for method in TRAININGS})
        best, seeds = table.idxmin(axis=1), len(table)
        said.append(f"{(best == 'mixture-flow-mle-sm').sum()} by held-out {name}")
    return (
        f"of {seeds} seed{'s' if seeds != 1 else ''} with {experiment.size(dataset):,} points in {' and '.join(said)}"
    )


def lorenz_density(files):
    """The density of the Lorenz system from its dynamics alone, beside a simulation; and every method's scores.

    Equation: ``stationary-residual``, ``weighted-residual``, ``wasserstein``
    """
    experiment = Experiment(files)
    dataset = experiment.datasets[0]
    cloud = experiment.clouds[dataset]
    axes, parts = cloud.meta["axes"], []
    spread = cloud.x.max(0) - cloud.x.min(0)
    low, high = cloud.x.min(0) - 0.05 * spread, cloud.x.max(0) + 0.05 * spread
    clouds = {"cloud": cloud.x}
    for method in (DYNAMICS, "linear-mixture"):
        if model := experiment.models.get((dataset, method)):
            clouds[method] = model.sample(DRAWS, rng=np.random.default_rng(0))
    for i, j in PLANES:
        for series, x in clouds.items():
            parts.append(_histogram(f"{axes[i]}-{axes[j]}", series, x[:, [i, j]], low[[i, j]], high[[i, j]]))
    methods = experiment.methods(dataset)
    likelihoods = pd.DataFrame({method: experiment.scores(dataset, method, "nll") for method in methods})
    best = likelihoods.mean().idxmin()
    above = (likelihoods.sub(likelihoods[best], axis=0)).to_dict("series")
    parts.append(density_frames.comparison("nll", experiment, lambda dataset, method: above[method]))
    parts.append(density_frames.measured("w1", experiment, "w1_samples"))
    floor = experiment.metrics.loc[experiment.metrics["metric"] == "w1_floor", "value"]
    parts.append(frames.mean_range("w1", "w1-floor", 0, floor))
    gaussian = experiment.scores(dataset, "one-gaussian", "nll") - likelihoods[best]
    return pd.concat(parts, ignore_index=True), {
        "shown": list(clouds),
        "planes": [(axes[i], axes[j]) for i, j in PLANES],
        "diffusivity": _noise(experiment),
        "n": f"{len(cloud):,}",
        "draws": f"{DRAWS:,}",
        "seeds": experiment.seeds(),
        "best": best,
        "gaussian": f"{gaussian.mean():.2f}",
    }


def _histogram(panel, series, x, low, high):
    """Shares of points ``(n, 2)`` in the cells of a rectangle, over the area of a cell: an estimate of the marginal."""
    counts, *edges = np.histogram2d(x[:, 0], x[:, 1], BINS, list(zip(low, high, strict=True)))
    middles = [(edge[:-1] + edge[1:]) / 2 for edge in edges]
    area = np.prod([edge[1] - edge[0] for edge in edges])
    values = (counts / len(x) / area).ravel()
    at = np.stack(np.meshgrid(*middles, indexing="ij"), -1).reshape(-1, 2)
    return rows(panel, series, at[:, 0], at[:, 1], values, values)


def cells_density(files):
    """Held-out likelihood of cells beside one Gaussian a snapshot, for each snapshot and their mean.

    Equation: ``latent-mixture``, ``kde-score``, ``full-mixture``
    """
    metrics = files["metrics"][0]
    scores = metrics[metrics["metric"] == "nll"].drop_duplicates(["dataset", "method", "seed", "t"])
    scores = scores.assign(t=scores["t"].fillna(np.inf))  # the mean comes last
    parts = []
    for dataset, group in scores.groupby("dataset", sort=True):
        table = group.pivot(index=["t", "seed"], columns="method", values="value")
        above = table.drop(columns=["one-gaussian", "truth"], errors="ignore").sub(table["one-gaussian"], axis=0)
        times = np.sort(group["t"].unique())
        place = {t: k + 0.5 * np.isinf(t) for k, t in enumerate(times)}
        for method in above:
            for t, values in above[method].groupby("t"):
                middle, sd = values.mean(), values.std(ddof=1) if len(values) > 1 else 0.0
                parts.append(rows(dataset, method, [place[t]], [middle], middle - sd, middle + sd))
        for t, x in place.items():
            parts.append(rows(dataset, "tick: mean" if np.isinf(t) else f"tick: {t:g}", [x], 0.0))
    splits = scores.groupby("dataset")["seed"].nunique().to_dict()
    return pd.concat(parts, ignore_index=True), {"splits": splits}
