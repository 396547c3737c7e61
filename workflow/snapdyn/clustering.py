"""Clusters and denoised points from one step of a density's concave-convex procedure (label ``cccp``).

Everything here takes ``cccp``, a function of points ``(n, dim)`` and a temperature that returns their images
``(n, dim)``. At temperature 1 an image is the point's denoised self; at higher ones the images of a whole cluster
fall onto one point, until at last everything falls onto the mean of the centroids.
"""

from dataclasses import dataclass

import numpy as np

TEMPERATURES = np.logspace(0, 3, 61)
SHARE = 0.01  # of the points: images of fewer are stragglers between clusters, not clusters


@dataclass(frozen=True)
class Plateau:
    """The temperature that was chosen, the number of images there, and the scan that it was chosen from.

    Attributes:
        temperatures, counts: of the scan, ``(m,)``.
    """

    temperature: float
    images: int
    temperatures: np.ndarray
    counts: np.ndarray


def labels(images, tolerance):
    """Which images are one: connected pairs no further apart than ``tolerance``.

    Args:
        images: ``(n, dim)``.
        tolerance: in the user's units.
    Returns:
        integers ``(n,)`` from 0, the largest group first.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    images = np.asarray(images, dtype=np.float64)
    if not np.isfinite(images).all():
        raise ValueError("images that are not finite have no labels: the temperature is too low or the model diverged")
    # points of one small cell count as one, so that thousands of images on one spot have no millions of pairs
    cell = tolerance / (2 * np.sqrt(images.shape[1]))
    _, first, member = np.unique(np.floor(images / cell), axis=0, return_index=True, return_inverse=True)
    member = member.ravel()
    pairs = cKDTree(images[first]).query_pairs(tolerance, output_type="ndarray")
    links = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(len(first),) * 2)
    group = connected_components(links, directed=False)[1][member]
    sizes = np.bincount(group)
    return np.argsort(np.argsort(-sizes, kind="stable"), kind="stable")[group]


def distinct_images(images, tolerance, *, share=SHARE):
    """How many groups of images there are that hold at least ``share`` of the points."""
    sizes = np.bincount(labels(images, tolerance))
    return int((sizes >= share * len(images)).sum())


def tolerance_of(x):
    """Images closer than this count as one: 2 % of the points' root mean square distance from their mean."""
    x = np.asarray(x, dtype=np.float64)
    return 0.02 * float(np.sqrt(np.square(x - x.mean(0)).sum(1).mean()))


def choose_temperature(cccp, x, *, temperatures=TEMPERATURES, tolerance=None, share=SHARE):
    """The middle of the widest range of temperatures, in log T, over which the number of images stays the same.

    Counts of one image do not compete (that end of the scale goes on for ever), nor do those where more than half
    of the points have no group. No labels are used.

    Raises:
        ValueError: no temperature of the scan gives at least two groups.
    """
    x = np.asarray(x, dtype=np.float64)
    tolerance = tolerance_of(x) if tolerance is None else tolerance
    temperatures = np.sort(np.asarray(temperatures, dtype=np.float64))
    counts = np.empty(len(temperatures), dtype=int)
    for place, temperature in enumerate(temperatures):
        sizes = np.bincount(labels(cccp(x, float(temperature)), tolerance))
        large = sizes[sizes >= share * len(x)]
        counts[place] = len(large) if large.sum() > len(x) / 2 else 0
    best, start = (0.0, None), 0
    for end in range(1, len(counts) + 1):
        if end == len(counts) or counts[end] != counts[start]:
            width = np.log(temperatures[end - 1] / temperatures[start])
            if counts[start] > 1 and (best[1] is None or width > best[0]):
                best = (width, (start, end - 1))
            start = end
    if best[1] is None:
        raise ValueError(
            f"no temperature between {temperatures[0]:g} and {temperatures[-1]:g} gives two groups of images or more: "
            f"the density has one cluster, or the scan has to go further"
        )
    first, last = best[1]
    middle = float(np.sqrt(temperatures[first] * temperatures[last]))
    return Plateau(middle, int(counts[first]), temperatures, counts)


def agreement(found, true):
    """The adjusted Rand index of two labellings ``(n,)``: 1 for the same groups, 0 for chance."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(true, found))


def denoising(cccp, x, distance, *, temperature=1.0):
    """What one step does to the distance from the true ridge.

    Args:
        distance: points ``(n, dim)`` to their distances ``(n,)``.
    Returns:
        ``ridge_distance_before`` and ``ridge_distance_after``, root mean squares in the user's units, and their
        ratio ``denoising_factor``.
    """
    before, after = (float(np.sqrt(np.mean(np.square(distance(at))))) for at in (x, cccp(x, temperature)))
    return {
        "ridge_distance_before": before,
        "ridge_distance_after": after,
        "denoising_factor": before / max(after, np.finfo(float).tiny),
    }
