"""Rows of figure frames, and the statistics that figures show."""

import numpy as np
import pandas as pd

from snapdyn import recovery


def rows(panel, series, x, y, low=np.nan, high=np.nan):
    """Rows of a ``figure/1`` frame; single numbers stand for all rows."""
    x, y = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64))
    return pd.DataFrame({"panel": panel, "series": series, "x": x, "y": y, "low": low, "high": high})


def rms(values):
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


def spread(panel, series, x, values):
    """One mark: RMS of ``values`` over seeds, from the smallest to the largest."""
    return rows(panel, series, [x], [rms(values)], np.min(values), np.max(values))


def mean_range(panel, series, x, values):
    """One mark: mean of ``values`` over seeds, from the smallest to the largest."""
    return rows(panel, series, [x], [np.mean(values)], np.min(values), np.max(values))


def relative_errors(metrics, name):
    """Size of the relative error of the parameter ``name``, in %, one a seed."""
    return 100 * metrics.loc[metrics["metric"] == f"relative_error_{name}", "value"].abs().to_numpy()


def predicted_error(parameters, name):
    """Mean standard error of the parameter ``name`` as a share of its true size, in %."""
    mine = parameters[parameters["name"] == name]
    return 100 * float((mine["std_error"] / mine["truth"].abs()).mean())


def intervals(panel, series, x, estimates, scale=1.0):
    """Estimates with their 95 % intervals, divided by ``scale``; no interval where there is no standard error.

    Args:
        estimates: ``parameters/1`` rows.
    """
    y, reach = (
        estimates["estimate"].to_numpy() / scale,
        recovery.Z95 * np.abs(estimates["std_error"].to_numpy() / scale),
    )
    return rows(panel, series, x, y, y - reach, y + reach)


def share(panel, series, x, hits):
    """One mark: how often ``hits`` is true, with the Wilson 95 % interval."""
    from scipy import stats

    hits = np.asarray(hits) > 0.5
    interval = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    # at no hit or all of them one end is the share itself, but for rounding
    return rows(panel, series, [x], [hits.mean()], min(interval.low, hits.mean()), max(interval.high, hits.mean()))


def power_law(sizes, errors):
    """Power of the size in the RMS error: the line through its logarithm at every size.

    Sizes of one seed are parts of the same data, so their errors go together; the standard error of the power comes
    from leaving out one seed at a time.

    Args:
        sizes: ``(sizes,)``.
        errors: ``(seeds, sizes)``.
    Returns:
        the power, its standard error (NaN for one seed), and the RMS error on the line ``(sizes,)``.
    """
    sizes, errors = np.log(sizes), np.asarray(errors)

    def fit(errors):
        return np.polyfit(sizes, np.log(np.mean(errors**2, 0)) / 2, 1)

    power, level = fit(errors)
    n = len(errors)
    if n < 2:
        return power, np.nan, np.exp(power * sizes + level)
    left = np.array([fit(np.delete(errors, k, 0))[0] for k in range(n)])
    std_error = np.sqrt((n - 1) * np.mean((left - left.mean()) ** 2))
    return power, float(std_error), np.exp(power * sizes + level)


def jitter(seeds, width):
    """Places around 0, within ``width``, that set the marks of many seeds apart; a seed's place is its rank."""
    order = np.unique(seeds)
    return width * ((np.searchsorted(order, seeds) + 0.5) / len(order) - 0.5)


def monomial_size(name, cloud, axes):
    """RMS over a cloud of the monomial in a coefficient's name: ``x: x z^2`` of the axes ``x``, ``z``.

    Args:
        cloud: a ``snapshots/1`` frame.
        axes: names of its coordinates.
    """
    value = np.ones(len(cloud))
    for axis, power in factors(name):
        value = value * cloud[f"x{list(axes).index(axis)}"].to_numpy() ** power
    return rms(value)


def factors(name):
    """``x: x z^2`` -> ``[("x", 1), ("z", 2)]``; the constant has none."""
    parts = [part.partition("^") for part in name.partition(": ")[2].split() if part != "1"]
    return [(axis, int(power or 1)) for axis, _, power in parts]


def library_order(names):
    """Names of coefficients, equation by equation, by degree and then by their axes."""

    def place(name):
        axes = [axis for axis, power in factors(name) for _ in range(power)]
        return name.partition(": ")[0], len(axes), axes

    return sorted(set(names), key=place)
