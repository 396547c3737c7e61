"""Rows of figure frames that show densities: maps, arrows, centroids, training curves, scores of every method.

A frame has one number a row beside its place, ``y``, and the range ``low`` to ``high``. In a map, ``x`` and ``y`` are
the middle of a cell and its value is both ends of the range; an arrow starts at ``x``, ``y`` and has the components
``low`` and ``high``.
"""

import numpy as np
import pandas as pd

from snapdyn import density_scores, frames
from snapdyn.frames import rows
from snapdyn.snapshots import Snapshots

CELLS = 100  # of a map along each axis
ARROWS = 17  # of a field along each axis
ROOM = 0.12  # around what can be seen of the true density, as a share of its extent
SEEN = 1e-3  # of the true density's peak: where there is less, no arrow is drawn and a centroid is in empty space
DEPTH = 12.0  # nats above the lowest energy that a map tells apart
POINTS = 2000  # of a cloud


class Experiment:
    """One experiment of kind density as figures see it: scores of all seeds; data and models of the first.

    Args:
        files: what :func:`snapdyn.figures.read` returns.
    Attributes:
        metrics, parameters: tables of all seeds.
        clouds: data set -> :class:`snapdyn.snapshots.Snapshots`.
        models: ``(data set, method)`` -> :class:`snapdyn.density_models.DensityModel`.
        histories: ``(data set, method)`` -> frame of a history, without what is said at step 0.
    """

    def __init__(self, files):
        self.metrics, self.parameters = files["metrics"][0], files["parameters"][0]
        self.clouds = {meta["dataset"]: Snapshots.from_frame(frame, meta) for frame, meta in files["clouds"]}
        self.models = {(model.about["dataset"], model.about["method"]): model for model in files["models"]}
        self.histories = {
            (meta["dataset"], meta["method"]): frame[frame["step"] > 0] for frame, meta in files["histories"]
        }

    @property
    def datasets(self):
        """Names of the data sets, in the order of the configuration."""
        return list(self.clouds)

    def methods(self, dataset):
        """Names of the methods that were fitted to a data set."""
        return [method for name, method in self.models if name == dataset]

    def law(self, dataset):
        """The :class:`snapdyn.density_scores.Law` behind a data set, or None."""
        return density_scores.law_of(self.clouds[dataset])

    def size(self, dataset):
        """How many rows a method learns from."""
        return int((self.clouds[dataset].split == "train").sum())

    def seeds(self):
        """The largest number of seeds of any data set."""
        return int(self.metrics.groupby("dataset")["seed"].nunique().max())

    def scores(self, dataset, method, metric):
        """A metric of a method over the seeds: a series by seed, empty if it was not measured."""
        table = self.metrics
        here = (table["dataset"] == dataset) & (table["method"] == method) & (table["metric"] == metric)
        # floors are repeated with every method that they stand beside
        return table[here & table["t"].isna()].groupby("seed")["value"].first()

    def above(self, dataset, method, floor="truth"):
        """Held-out negative log-likelihood above that of ``floor`` on the same points, in nats, by seed."""
        return (self.scores(dataset, method, "nll") - self.scores(dataset, floor, "nll")).dropna()


def comparison(panel, experiment, values):
    """Marks of every method at every data set: the mean over seeds, from the smallest to the largest.

    Args:
        values: ``(data set, method)`` to numbers by seed; none leaves the mark out.
    """
    parts = [
        frames.mean_range(panel, method, place, found)
        for place, dataset in enumerate(experiment.datasets)
        for method in experiment.methods(dataset)
        if len(found := values(dataset, method))
    ]
    return pd.concat(parts, ignore_index=True) if parts else rows(panel, "none", [], [])


def measured(panel, experiment, metric):
    """:func:`comparison` by a metric as it was measured."""
    return comparison(panel, experiment, lambda *one: experiment.scores(*one, metric))


def cells(panel, series, box, function):
    """A map: ``function`` of the middles ``(m, 2)`` of the cells of a rectangle."""
    points, _ = density_scores.middles(box, CELLS)
    values = function(points)
    return rows(panel, series, points[:, 0], points[:, 1], values, values)


def density(panel, series, box, log_prob):
    """A map of p, in 1 / length^2."""
    return cells(panel, series, box, lambda x: np.exp(log_prob(x)))


def energy(panel, series, box, log_prob):
    """A map of -log p in nats, cut off :data:`DEPTH` above its lowest value."""

    def cut(x):
        found = -log_prob(x)
        return np.minimum(found, found.min() + DEPTH)

    return cells(panel, series, box, cut)


def view(law):
    """The rectangle of the maps: where the true density is above :data:`SEEN` of its peak, with some room."""
    x, _ = density_scores.middles(law.box, 2 * CELLS)
    log_prob = law.log_prob(x)
    seen = x[log_prob > log_prob.max() + np.log(SEEN)]
    low, high = seen.min(0), seen.max(0)
    room, (least, most) = ROOM * (high - low), np.array(law.box).T
    ends = np.maximum(low - room, least), np.minimum(high + room, most)
    return tuple(zip(*(end.tolist() for end in ends), strict=True))


def arrows(panel, box, law, fields, count=ARROWS):
    """Arrows of score fields, where the true density is above :data:`SEEN` of its peak.

    Args:
        fields: series -> function of points ``(n, 2)`` to vectors ``(n, 2)``.
        count: along each axis.
    """
    x, _ = density_scores.middles(box, count)
    log_prob = law.log_prob(x)
    x = x[log_prob > _peak(law) + np.log(SEEN)]
    parts = []
    for series, field in fields.items():
        vectors = field(x)
        parts.append(rows(panel, series, x[:, 0], x[:, 1], vectors[:, 0], vectors[:, 1]))
    return pd.concat(parts, ignore_index=True)


def _peak(law):
    """The largest log-density on a map of the law's box."""
    return law.log_prob(density_scores.middles(law.box, CELLS)[0]).max()


def centroids(panel, series, model, law):
    """Where a model's centroids lie, with the share of each as both ends of the range; and the number in empty space.

    Returns:
        rows, none for a density without centroids; and how many lie where the true density is below :data:`SEEN` of
        its peak.
    """
    density = model.at()
    if not hasattr(density, "centroids_observed"):
        return rows(panel, series, [], []), 0
    x = density.centroids_observed().detach().numpy()
    share = np.exp(density.log_weights.detach().numpy())
    astray = int((law.log_prob(x) < _peak(law) + np.log(SEEN)).sum())
    return rows(panel, series, x[:, 0], x[:, 1], share, share), astray


def points(panel, series, x):
    """At most :data:`POINTS` points of a cloud, its first two axes."""
    x = x[:POINTS]
    return rows(panel, series, x[:, 0], x[:, 1])


def curves(panel, experiment, term):
    """One line of a training's history for each data set and method that has this term: series ``data set/method``."""
    parts = []
    for (dataset, method), history in experiment.histories.items():
        line = history[history["term"] == term]
        if len(line):
            parts.append(rows(panel, f"{dataset}/{method}", line["step"], line["value"]))
    return pd.concat(parts, ignore_index=True) if parts else rows(panel, "none", [], [])
