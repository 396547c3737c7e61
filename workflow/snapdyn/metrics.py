"""Distances between clouds, errors of parameters, and the tidy rows that carry them.

Optimal transport is exact (network simplex): at the sizes of an evaluation it is as fast as an
approximation and has nothing to tune. Its memory and time grow like n m and n^2.2, so clouds above
:data:`MAX_POINTS` are thinned, several times, and the spread over the draws is given. Every such
distance shrinks as the clouds grow: compare only numbers that were measured at the same sizes.
"""

import numpy as np
import pandas as pd

MAX_POINTS = 3000
_MAX_PIVOTS = 100_000_000  # the solver's own default stops short above about 1000 points

COLUMNS = ("paper", "experiment", "dataset", "method", "seed", "split", "t", "metric", "value", "unit", "n")
_TEXT = ("paper", "experiment", "dataset", "method", "split", "metric", "unit")


def wasserstein(x, y, *, order=1, a=None, b=None, with_potentials=False, max_points=MAX_POINTS, repeats=3, rng=None):
    r"""Exact Wasserstein distance between two weighted clouds.

    .. math:: W_1 = \min_\pi \sum \pi_{ij} |x_i - y_j|, \qquad
              W_2^2 = \min_\pi \sum \pi_{ij} |x_i - y_j|^2

    Args:
        x, y: positions ``(n, dim)`` and ``(m, dim)``, in one unit of length.
        order: 1 or 2.
        a, b: marginals ``(n,)`` and ``(m,)`` of equal total mass; uniform where left out.
        with_potentials: also return the dual potentials ``f (n,)`` and ``g (m,)`` of the transport
            *cost* (``W1``, or the square of ``W2``): the cost is ``a.f + b.g``, and ``f``, ``g`` are its
            first-order change when the marginals change at constant mass.
        max_points: a cloud above this size is thinned, see :func:`sampled_wasserstein`.
        repeats, rng: how many draws are averaged then, and their generator (seed 0 if left out).
    Returns:
        the distance in the unit of ``x``, or ``(distance, f, g)``.
    Raises:
        ValueError: shapes that do not fit, positions that are not finite, marginals that are negative
            or differ in total mass, potentials asked for clouds above ``max_points``.
    Equation: ``wasserstein``
    """
    x, y, a, b = _checked(x, y, order, a, b)
    if max(len(x), len(y)) > max_points:
        if with_potentials:
            raise ValueError(
                f"potentials need the whole plan and the clouds have {len(x)} and {len(y)} points, above "
                f"max_points = {max_points}; thin the clouds first or raise max_points"
            )
        options = {"order": order, "a": a, "b": b, "max_points": max_points, "repeats": repeats}
        return sampled_wasserstein(x, y, rng=rng, **options)[0]
    import ot

    cost, log = ot.emd2(a, b, _costs(x, y, order), numItermax=_MAX_PIVOTS, log=True)
    _refuse_unfinished(log)
    distance = float(max(cost, 0.0)) ** (1 / order)
    return (distance, np.asarray(log["u"]), np.asarray(log["v"])) if with_potentials else distance


def sampled_wasserstein(x, y, *, order=1, a=None, b=None, max_points=MAX_POINTS, repeats=3, rng=None):
    """Mean and standard deviation of the distance over random thinnings of the larger clouds.

    A cloud of at most ``max_points`` is used whole; if both are, the answer is exact and the spread 0.
    Thinning raises the distance (smaller samples lie further apart); it does not average out.

    Returns:
        ``(distance, spread)`` in the unit of ``x``; the spread is over ``repeats`` draws, ddof 1.
    """
    x, y, a, b = _checked(x, y, order, a, b)
    if max(len(x), len(y)) <= max_points:
        return wasserstein(x, y, order=order, a=a, b=b, max_points=max_points), 0.0
    rng = np.random.default_rng(0) if rng is None else rng
    values = []
    for _ in range(repeats):
        (xs, aw), (ys, bw) = thin(x, a, max_points, rng), thin(y, b, max_points, rng)
        values.append(wasserstein(xs, ys, order=order, a=aw, b=bw, max_points=max_points))
    return float(np.mean(values)), float(np.std(values, ddof=1)) if repeats > 1 else 0.0


def transport_plan(x, y, *, order=2, a=None, b=None, with_potentials=False):
    """The exact optimal coupling ``(n, m)`` of two clouds, total mass 1; arguments as :func:`wasserstein`.

    With potentials: the coupling and ``(f, g)``, for which ``f_i + g_j`` is at most the cost of every pair.
    """
    import ot

    x, y, a, b = _checked(x, y, order, a, b)
    plan, log = ot.emd(a, b, _costs(x, y, order), numItermax=_MAX_PIVOTS, log=True)
    _refuse_unfinished(log)
    return (plan, (np.asarray(log["u"]), np.asarray(log["v"]))) if with_potentials else plan


def thin(x, weight, max_points, rng):
    """At most ``max_points`` points that stand for the weighted cloud ``x (n, dim)``.

    Equal weights are drawn without replacement; unequal ones with replacement, in proportion, after
    which every drawn point weighs the same.

    Returns:
        points ``(k, dim)`` and their marginal ``(k,)``, which sums to 1.
    """
    weight = marginal(weight)
    if len(x) <= max_points:
        return x, weight
    if np.ptp(weight) == 0:
        keep = np.sort(rng.choice(len(x), max_points, replace=False))
    else:
        keep = np.sort(rng.choice(len(x), max_points, p=weight))
    return x[keep], np.full(max_points, 1 / max_points)


def marginal(weight):
    """Weights ``(n,)`` scaled to total mass 1: what a snapshot's ``weight`` column is to a coupling."""
    weight = np.asarray(weight, dtype=np.float64)
    total = weight.sum()
    if not (np.isfinite(weight).all() and (weight >= 0).all() and total > 0):
        raise ValueError("weights must be finite, not negative, and not all zero")
    return weight / total


def _checked(x, y, order, a, b):
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}")
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not (len(x) and len(y)):
        raise ValueError(f"expected two clouds (n, dim) and (m, dim), got shapes {x.shape} and {y.shape}")
    for name, cloud in (("first", x), ("second", y)):
        if bad := int((~np.isfinite(cloud)).any(axis=1).sum()):
            raise ValueError(f"{bad} of {len(cloud)} points of the {name} cloud are not finite; drop or mend them")
    mass = next((np.sum(w, dtype=np.float64) for w in (a, b) if w is not None), 1.0)
    a = np.full(len(x), mass / len(x)) if a is None else np.asarray(a, dtype=np.float64)
    b = np.full(len(y), mass / len(y)) if b is None else np.asarray(b, dtype=np.float64)
    if a.shape != (len(x),) or b.shape != (len(y),):
        raise ValueError(f"expected marginals ({len(x)},) and ({len(y)},), got {a.shape} and {b.shape}")
    if not np.isclose(a.sum(), b.sum(), rtol=1e-9, atol=0):
        raise ValueError(
            f"the marginals have total mass {a.sum():g} and {b.sum():g}; transport conserves mass, so scale "
            "each to 1 (metrics.marginal) or report the change of mass apart"
        )
    return x, y, marginal(a), marginal(b)


def _costs(x, y, order):
    from scipy.spatial.distance import cdist

    return cdist(x, y, "euclidean" if order == 1 else "sqeuclidean")


def _refuse_unfinished(log):
    if log["warning"] is not None:
        raise RuntimeError(f"the transport solver did not finish: {log['warning']}")


def gaussian_w2(mean_0, cov_0, mean_1, cov_1):
    r"""Wasserstein-2 distance between two Gaussians (Bures).

    .. math:: W_2^2 = |m_0 - m_1|^2 + \mathrm{tr}(C_0 + C_1 - 2 (C_0^{1/2} C_1 C_0^{1/2})^{1/2})

    Args:
        mean_0, mean_1: ``(dim,)``; cov_0, cov_1: ``(dim, dim)``, positive semi-definite.
    """
    mean_0, mean_1 = np.atleast_1d(mean_0), np.atleast_1d(mean_1)
    cov_0, cov_1 = np.atleast_2d(cov_0), np.atleast_2d(cov_1)
    root = matrix_power(cov_0, 0.5)
    cross = np.trace(matrix_power(root @ cov_1 @ root, 0.5))
    squared = np.sum((mean_0 - mean_1) ** 2) + np.trace(cov_0) + np.trace(cov_1) - 2 * cross
    return float(np.sqrt(max(squared, 0.0)))


def matrix_power(matrix, power):
    """Real power of a symmetric positive semi-definite matrix; directions without spread stay at 0."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    kept = values > 1e-12 * max(values.max(), 0.0)
    scaled = np.where(kept, np.where(kept, values, 1.0) ** power, 0.0)
    return (vectors * scaled) @ vectors.T


def relative_error(estimate, truth):
    """Signed error as a fraction of the size of the truth; refuses a truth of 0."""
    truth = np.asarray(truth, dtype=np.float64)
    if np.any(truth == 0):
        raise ValueError("a relative error needs a truth other than 0; use the difference or a z-score")
    return (np.asarray(estimate, dtype=np.float64) - truth) / np.abs(truth)


def z_score(estimate, truth, std_error):
    """Error in units of its own standard error."""
    std_error = np.asarray(std_error, dtype=np.float64)
    if np.any(std_error <= 0):
        raise ValueError("a z-score needs standard errors above 0")
    return (np.asarray(estimate, dtype=np.float64) - truth) / std_error


def rms(values):
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(np.asarray(values, dtype=np.float64)))))


def rms_over_seeds(frame):
    """Root mean square over seeds of every number in a ``metrics/1`` frame.

    Returns:
        one row for each combination of the other columns, with ``value`` (RMS) and ``n_seeds``.
    """
    keys = [name for name in COLUMNS if name not in ("seed", "value", "n")]
    groups = frame.groupby(keys, dropna=False, sort=True)
    return groups.agg(value=("value", rms), n_seeds=("seed", "nunique")).reset_index()


def rows(values, *, paper, experiment, dataset, method, seed, split, unit, n, t=np.nan):
    """A ``metrics/1`` frame, one row for each entry of ``values``.

    Args:
        values: metric name -> number.
        unit: text, or metric name -> text; ``"1"`` for a pure number.
        n: how many points, cells or parameters each number was measured on.
        t: time the numbers belong to; NaN where there is none, and for means over times.
    """
    frame = pd.DataFrame({"metric": list(values), "value": list(values.values())})
    frame["unit"] = [unit[name] for name in values] if isinstance(unit, dict) else unit
    shared = {"paper": paper, "experiment": experiment, "dataset": dataset, "method": method}
    for name, value in (shared | {"split": split, "seed": seed, "t": t, "n": n}).items():
        frame[name] = value
    kinds = {"seed": np.int64, "n": np.int64, "t": np.float64, "value": np.float64}
    return frame.astype(kinds | dict.fromkeys(_TEXT, object))[list(COLUMNS)]
