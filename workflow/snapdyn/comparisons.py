r"""Scores of one method, or of one kind of data, against those of another: as a ratio and in units of their spread.

With :math:`a_s` and :math:`b_s` the two scores of seed s, each the mean over the steps of a course, and the standard
deviations :math:`\sigma` over seeds,

.. math:: \text{ratio}_s = \frac{a_s}{b_s}, \qquad \text{gap}_s = \frac{a_s - b_s}{\sqrt{\sigma_a^2 + \sigma_b^2}}

The mean gap says by how many spreads of a single difference two scores differ: within 1 or 2 of them, one seed of each
cannot tell the two apart. Where two methods see the same data, the spread of their ratio over seeds is that of a
paired difference, which shows what is systematic.

A ratio hides it where both scores are worse than that of no movement at all: the score of no movement, set against
the same second score, stands beside each of these numbers, with ``_still`` after its name.

Equation: ``score-ratio``, ``score-gap``
"""

import logging
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd

from snapdyn import compared, metrics

log = logging.getLogger(__name__)
STILL = "no-movement"


def run(frames, pairs, spec, *, paper, experiment):
    """All rows of a comparison.

    Args:
        frames: experiment -> its ``metrics/1`` frame.
        pairs: of :func:`snapdyn.compared.pairs`.
        spec: ``metrics`` and ``courses`` (none: the data sets are compared as wholes).
        paper, experiment: of the rows.
    Returns:
        a ``metrics/1`` frame, with the data set and the method of the first side of each pair. For each course,
        metric and seed ``<metric>_ratio`` and, from two seeds, ``<metric>_gap``; for each data set with several courses
        what :func:`summary` says; and the same of no movement in place of the first side, where its scores are there,
        with ``_still`` after the name. A ratio to 0 is left out, and the log says so.
    Raises:
        ValueError: scores that are not there, or no ratio at all.
    Equation: ``score-ratio``, ``score-gap``
    """
    parts = []
    for pair in pairs:
        one, other = (compared.Side(**pair[side]) for side in ("one", "other"))
        identity = {"paper": paper, "experiment": experiment, "method": one.method}
        for metric, (side, suffix) in product(spec["metrics"], ((one, ""), (replace(one, method=STILL), "_still"))):
            courses = spec["courses"] or [None]
            if suffix and not all(_stands(frames, side, course, metric) for course in courses):
                continue  # nothing says how far no movement is from these data
            tables = {course: _side_by_side(frames, side, other, course, metric) for course in courses}
            for course, table in tables.items():
                values = {"ratio": ratio(table), "gap": gap(table)}
                about = identity | {"dataset": _named(one.dataset, course)}
                parts += _rows(_called(metric, values, suffix), about, n=int(table["n"].min()))
                if zero := table.index[table["other"] == 0].tolist():
                    log.info("%s: no ratio of %s for seeds %s, which have a 0 below", about["dataset"], metric, zero)
                if values["gap"].empty:
                    log.info("%s: no gap of %s, %d seeds have no spread", about["dataset"], metric, len(table))
            if len(tables) > 1:
                values = _called(metric, summary(tables), suffix)
                parts += _rows(values, identity | {"dataset": one.dataset}, n=len(tables))
    if not parts:
        raise ValueError(
            f"{experiment}: every score to compare with is 0, so there is no ratio; leave these metrics out"
        )
    return pd.concat(parts, ignore_index=True)


def ratio(table):
    """First score over second, by seed; seeds whose second score is 0 have none.

    Args:
        table: columns ``one`` and ``other``, by seed.
    Returns:
        series by seed.
    Equation: ``score-ratio``
    """
    kept = table[table["other"] != 0]
    return kept["one"] / kept["other"]


def gap(table):
    """First score minus second in units of their joint spread over seeds, by seed; empty without a spread.

    Equation: ``score-gap``
    """
    spread = float(np.hypot(*(table[side].std(ddof=1) for side in ("one", "other"))))
    return (table["one"] - table["other"]) / spread if np.isfinite(spread) and spread > 0 else table["one"][:0]


def summary(tables):
    """What the courses of a data set say together, by seed.

    Args:
        tables: course -> table, as for :func:`ratio`.
    Returns:
        ``ratio_median`` over courses, of seeds that have all ratios; ``lower``, at how many courses the first score is
        lower; and ``gap_worst``, the gap at the course where its mean over seeds is largest, with that mean positive.
    """
    ratios = pd.DataFrame({course: ratio(table) for course, table in tables.items()}).dropna()
    lower = pd.DataFrame({course: table["one"] < table["other"] for course, table in tables.items()}).dropna()
    gaps = [found for table in tables.values() if len(found := gap(table))]
    worst = max(gaps, key=lambda found: abs(found.mean()), default=pd.Series(dtype=np.float64))
    sign = -1.0 if len(worst) and worst.mean() < 0 else 1.0
    return {
        "ratio_median": ratios.median(axis=1),
        "lower": lower.astype(np.float64).sum(axis=1),
        "gap_worst": sign * worst if len(gaps) == len(tables) else worst[:0],
    }


def _side_by_side(frames, one, other, course, metric):
    """Both scores of the seeds that both sides have: columns ``one``, ``other`` and ``n``."""
    left, right = (_scores(frames[side.experiment], side, course, metric) for side in (one, other))
    table = left.join(right, how="inner", lsuffix="", rsuffix="_other")
    if table.empty:
        seeds = [frame.index.tolist() for frame in (left, right)]
        raise ValueError(f"{metric} of {_named(one.dataset, course)}: no seed in common, the sides have {seeds}")
    n = table[["n", "n_other"]].min(axis=1)
    return pd.DataFrame({"one": table["value"], "other": table["value_other"], "n": n}).sort_index()


def _scores(frame, side, course, metric):
    """Means over times of one side: columns ``value`` and ``n`` by seed."""
    mine = _of(frame, side, course)
    rows = mine[mine["metric"] == metric]
    if rows.empty:
        there = sorted(mine["metric"].unique())
        raise ValueError(
            f"expected {metric} of {side.method} on {_named(side.dataset, course)} among the scores of "
            f"{side.experiment}, found of these {there or 'nothing'}"
        )
    return rows.set_index("seed")[["value", "n"]]


def _stands(frames, side, course, metric):
    """Whether there is such a score."""
    return (_of(frames[side.experiment], side, course)["metric"] == metric).any()


def _of(frame, side, course):
    mine = (frame["dataset"] == _named(side.dataset, course)) & (frame["method"] == side.method)
    return frame[mine & frame["t"].isna()]


def _called(metric, values, suffix):
    return {f"{metric}_{name}{suffix}": series for name, series in values.items()}


def _named(dataset, course):
    return dataset if course is None else f"{dataset}/{course}"


def _rows(values, identity, *, n):
    """``metrics/1`` frames of series by seed."""
    return [
        metrics.rows({name: float(value)}, split="test", unit="1", n=n, seed=int(seed), **identity)
        for name, series in values.items()
        for seed, value in series.items()
    ]
