r"""Differential entropy of a cloud by the distances to its nearest neighbours (Kozachenko and Leonenko).

.. math:: \hat H = \sum_i w_i \big[\psi(n) - \psi(k) + \log c_d + d \log r_i - \log(n \bar w_i)\big]

with r_i the distance to the k-th neighbour, c_d the volume of the unit ball, and w-bar_i the mean weight of the k
neighbours: they turn the density of the rows into that of the weighted population. With even weights the last term
is 0. A number by itself is biased where the density changes within r_i, more so in many dimensions; energies only
need differences between snapshots.

Equation: ``kozachenko-leonenko``
"""

import math

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import digamma, gammaln

NEIGHBOURS = 5


def differential_entropy(x, weight=None, *, neighbours=NEIGHBOURS):
    """Entropy in nats of the law that a weighted cloud was drawn from, in the cloud's own unit of length.

    Rows at the same place are one row with the sum of their weights: a repeated row (a bootstrap, a rounded
    coordinate) would else stand at distance 0 and make the entropy minus infinity.

    Args:
        x: positions ``(n, dim)``.
        weight: of each row ``(n,)``, how much of the population it stands for; even if left out. Rows without any
            are left out.
        neighbours: k; more of them less noise and more bias.
    Raises:
        ValueError: values that are not finite, weights that are negative, or no more than k different places.
    Equation: ``kozachenko-leonenko``
    """
    x = np.asarray(x, dtype=np.float64)
    weight = np.ones(len(x)) if weight is None else np.asarray(weight, dtype=np.float64)
    if x.ndim != 2 or weight.shape != (len(x),):
        raise ValueError(f"expected positions (n, dim) and weights (n,), got shapes {x.shape} and {weight.shape}")
    if not np.isfinite(x).all() or not np.isfinite(weight).all() or (weight < 0).any():
        raise ValueError("an entropy needs finite positions and finite weights that are not negative; drop other rows")
    places, place_of = np.unique(x[weight > 0], axis=0, return_inverse=True)
    n, dim = places.shape
    if n <= neighbours:
        raise ValueError(
            f"an entropy by {neighbours} neighbours needs more than {neighbours} different places, got {n} "
            f"among {len(x)} rows; take fewer neighbours or more rows"
        )
    weight = np.bincount(place_of.ravel(), weights=weight[weight > 0])
    weight /= weight.sum()
    distance, nearest = cKDTree(places).query(places, neighbours + 1)  # the first is the row itself
    around = n * weight[nearest[:, 1:]].mean(axis=1)
    unit_ball = 0.5 * dim * math.log(math.pi) - gammaln(0.5 * dim + 1)
    log_volume = unit_ball + dim * np.log(distance[:, -1])
    return float(weight @ (digamma(n) - digamma(neighbours) + log_volume - np.log(around)))


def snapshot_entropies(courses, *, neighbours=NEIGHBOURS):
    """The entropy of every snapshot of :class:`snapdyn.courses.Courses` in its inner units: ``(members, K + 1)``."""
    per_time = [
        [differential_entropy(one, mass, neighbours=neighbours) for one, mass in zip(x, w, strict=True)]
        for x, w in ((x.cpu().numpy(), w.cpu().numpy()) for x, w in zip(courses.x, courses.weight, strict=True))
    ]
    return np.array(per_time).T
