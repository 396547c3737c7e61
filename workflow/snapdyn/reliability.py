r"""How much of a learned force two halves of the rows agree on, and how far it is to be shrunk for that.

Halves A and B of a snapshot's rows have independent noise, each with twice the variance of the noise of all rows. With
S the mean product of their forces and Q their mean square, the share of signal in a half's force is S / Q, and by the
formula of Spearman and Brown in the force of all rows

.. math:: r = \frac{2 S}{Q + S}, \qquad S = \overline{F_A \cdot F_B}, \quad
          Q = \tfrac12 \overline{|F_A|^2 + |F_B|^2}

which is also the factor on the force of all rows with the least squared error.

Equation: ``reliability``
"""

import numpy as np

from snapdyn.snapshots import Snapshots

STREAM = 2  # of the random numbers that halve the rows
APART = 10**7  # of the seeds of two halves: from one start both would keep what is not trained away


def halves(snapshots, seed):
    """The rows of each time in two parts, at random.

    Rows of one time are taken to have nothing to do with those of another: of one population that is seen again and
    again (``paired: true``) the halves would lose their pairs.

    Args:
        snapshots: :class:`snapdyn.snapshots.Snapshots` of training rows.
    Returns:
        two of them.
    Raises:
        ValueError: fewer than four rows at a time.
    """
    rng, first = np.random.default_rng([STREAM, seed]), np.zeros(len(snapshots), dtype=bool)
    for t in snapshots.times:
        rows = rng.permutation(np.flatnonzero(snapshots.t == t))
        if len(rows) < 4:
            raise ValueError(f"two halves need four training rows at each time, got {len(rows)} at t = {t:g}")
        first[rows[: len(rows) // 2]] = True
    return snapshots.where(first), snapshots.where(~first)


def seeds(seed):
    """Of the trainings of both halves, neither of which starts as the other or as that of all rows."""
    return [seed + APART, seed + 2 * APART]


def factor(snapshots: Snapshots, one, other):
    """The reliability r of the force that all rows give, in [0, 1].

    Args:
        snapshots: training rows; the forces are compared at those of every time but the first.
        one, other: models of the two halves, with ``drift(t, x)``.
    Returns:
        r; 0 where the halves do not agree on anything.
    Equation: ``reliability``
    """
    product, square = 0.0, 0.0
    for t in snapshots.times[1:]:
        rows = snapshots.select(t=t)
        weight = rows.weight / rows.weight.sum()
        a, b = one.drift(t, rows.x), other.drift(t, rows.x)
        product += float(weight @ (a * b).sum(1))
        square += 0.5 * float(weight @ (a**2 + b**2).sum(1))
    total = square + product
    return min(max(2 * product / total, 0.0), 1.0) if total > 0 else 0.0
