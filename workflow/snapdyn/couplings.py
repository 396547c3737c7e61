r"""Which particle of one snapshot becomes which of the next: exact optimal plans, and the rows that a loss sums over.

Losses of the first-order condition have the unknown force at one end of a pair only, the *anchor*. With F there and
the plan's conditional mean of the other end,

.. math:: E_\pi |F(y) + y - x|^2 = E_\rho |F(y) + y - \bar x(y)|^2 + E_\pi |x - \bar x(y)|^2

so one row for each anchor says all that the plan does, with less noise than its single pairs.

Where particles divide or die, snapshots differ by more than movement. Either the rows' weights are known to be their
numbers of descendants (``weights: growth``), and count where a row is a source; or the plan may change the weights of
the other end at a price (``unbalanced``), while every anchor keeps its own.

Equation: ``coupling-means``, ``semi-relaxed-plan``
"""

import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from snapdyn import checkpoint, metrics, unbalanced
from snapdyn.unbalanced import CLOSE

DUST = 1e-9  # share of an even pair's weight below which an entry of a plan is rounding
ANCHORS = ("target", "source")
WEIGHTS = ("mass", "growth")


@dataclass(frozen=True, eq=False)
class Rows:
    """Pairs from one snapshot to the next, for each member sorted by the rows of the anchor.

    Attributes:
        x: where they come from ``(members, n, dim)``; y: where they go to.
        weight: ``(members, n)``, sums to 1.
        spread: E |x - x(y)|^2 of what the means leave out ``(members,)``.
        pairs: how many pairs the plan has ``(members,)``.
        relaxed: share of the other end's weight that the plan has shifted ``(members,)``; 0 if balanced.
        gap: by how much the plan may cost more than the best one, as a share of the price of growth, of the worst of
            its blocks ``(members,)``; 0 if balanced.
    """

    x: Tensor
    y: Tensor
    weight: Tensor
    spread: Tensor
    pairs: Tensor
    relaxed: Tensor
    gap: Tensor

    def part(self, rows):
        """Some of the rows, their weights scaled to sum to 1."""
        weight = self.weight[:, rows]
        return replace(self, x=self.x[:, rows], y=self.y[:, rows], weight=weight / weight.sum(1, keepdim=True))


def plan(x, y, *, a=None, b=None, blur=0.0, price=None, anchor="target"):
    """The pairs of the optimal plan for the squared distance of two weighted clouds.

    Args:
        x, y: positions ``(n, dim)`` and ``(m, dim)``.
        a, b: their weights, which sum to 1; even if left out.
        blur: entropy of Sinkhorn's plan, in length^2; 0 for the exact plan, which has n + m - 1 pairs at most.
        price: of a change of weights at the end that is not the anchor, in length^2, see
            :func:`snapdyn.unbalanced.relaxed_plan`; None for a balanced plan.
    Returns:
        rows of x and of y ``(pairs,)``, sorted by y and then x, and weights ``(pairs,)``, which sum to 1.
    """
    return _pairs(_solved(x, y, a=a, b=b, blur=blur, price=price, anchor=anchor)[0])


def _solved(x, y, *, a, b, blur, price, anchor):
    """The plan as a matrix ``(n, m)``, and the gap that an unbalanced one is left with, as a share of the price."""
    if blur:
        import ot
        from scipy.spatial.distance import cdist

        a = metrics.marginal(np.ones(len(x)) if a is None else a)
        b = metrics.marginal(np.ones(len(y)) if b is None else b)
        cost = cdist(x, y, "sqeuclidean")
        return ot.sinkhorn(a, b, cost, blur, method="sinkhorn_log", numItermax=10_000, stopThr=1e-9), 0.0
    if price is None:
        return metrics.transport_plan(x, y, order=2, a=a, b=b), 0.0
    if anchor == "target":
        found, gap = unbalanced.relaxed_plan(x, y, a=a, b=b, strength=price)
        return found, gap / price
    found, gap = unbalanced.relaxed_plan(y, x, a=b, b=a, strength=price)
    return found.T, gap / price


def _pairs(found):
    target, source = np.nonzero((found > DUST / max(found.shape)).T)
    weight = found[source, target]
    return source, target, weight / weight.sum()


def means(x, y, source, target, weight, *, anchor="target"):
    """One row for each anchor of a plan, with the mean of the other ends.

    Args:
        x, y: positions ``(n, dim)`` and ``(m, dim)``; source, target, weight: see :func:`plan`.
        anchor: the end that stays as it is.
    Returns:
        x, y, weight of the rows, as many as there are anchors, and the spread E |x - mean|^2 around the means.
    """
    (own, mine), (other, theirs) = ((y, target), (x, source)) if anchor == "target" else ((x, source), (y, target))
    mass = np.bincount(mine, weight, minlength=len(own))
    if not (mass > 0).all():
        raise ValueError(f"{int((mass <= 0).sum())} of {len(own)} {anchor} rows take no part in the plan")
    sums = np.stack([np.bincount(mine, weight * axis[theirs], minlength=len(own)) for axis in other.T], 1)
    mean = sums / mass[:, None]
    spread = float(weight @ np.square(other[theirs] - mean[mine]).sum(1))
    return (mean, own, mass, spread) if anchor == "target" else (own, mean, mass, spread)


def blocks(n, m, size):
    """Slices of both snapshots that a plan is computed for: the same of both, or all where their numbers differ."""
    if size is None or n != m or n <= size:
        return [slice(None)]
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def couple(
    courses,
    *,
    anchor="target",
    blur=0.0,
    block=None,
    unbalanced=None,
    weights="mass",
    keep=checkpoint.NOWHERE,
    progress=None,
):
    """The rows of every step of every course.

    Args:
        courses: :class:`snapdyn.courses.Courses`.
        anchor: the end at which a loss has its force, ``target`` or ``source``.
        blur: see :func:`plan`, as a share of the variance of a course's axes.
        block: particles of a plan; more are coupled in consecutive blocks of the same row numbers, which only snapshots
            of equal numbers and weights can be. For rows that follow particles this keeps their pairs together.
        unbalanced: price of growth, see :func:`plan`, as a share of the variance of a course's axes; None for none.
        weights: what the rows' weights are: ``mass``, at both ends of a step, or ``growth``, the number of a row's
            descendants, which counts where the row is a source; targets are even then.
        keep: a :class:`snapdyn.checkpoint.Checkpoint`: plans that were made are not made again.
        progress: ``(total, label) -> tqdm``.
    Returns:
        a list of :class:`Rows`, one for each step; unbalanced plans that stopped further from the best than
        :data:`snapdyn.unbalanced.CLOSE` are warned of.
    """
    if anchor not in ANCHORS:
        raise ValueError(f"expected an anchor of {ANCHORS}, got {anchor!r}")
    refuse_growth(unbalanced, weights, blur)
    steps, members = len(courses.x) - 1, courses.members
    clouds = [
        (x.double().cpu().numpy(), w.double().cpu().numpy()) for x, w in zip(courses.x, courses.weight, strict=True)
    ]
    everything = torch.cat(courses.x, 1).double()
    variances = everything.var(1).mean(1).tolist()
    found, known = [], {}  # starts of one split have the same rows, and one plan
    how = {"anchor": anchor, "block": block}
    label = f"couplings, {anchor}, {blur:g}, {block}, {unbalanced}, {weights}"
    with keep.loop(label, *courses.x, *courses.weight) as loop:
        found += loop.state or []
        bar = progress(steps * members, "couplings") if progress else None
        if bar is not None:
            bar.update(loop.done)
        for number in range(loop.done, steps * members):
            k, member = divmod(number, members)
            ends = [(x[member], w[member]) for x, w in clouds[k : k + 2]]
            if weights == "growth":
                ends[1] = ends[1][0], np.ones_like(ends[1][1])
            rows = tuple(part.tobytes() for end in ends for part in end)
            if rows not in known:
                price = None if unbalanced is None else unbalanced * variances[member]
                known[rows] = _coupled(*ends, blur=blur * variances[member], price=price, **how)
            found.append(known[rows])
            if bar is not None:
                bar.update()
            loop.tick(number + 1, lambda: found)
        if bar is not None:
            bar.close()
    like = courses.x[0]
    stacked = []
    for k in range(steps):
        parts = zip(*found[k * members : (k + 1) * members], strict=True)
        stacked.append(Rows(*(torch.stack(list(part)).to(like) for part in parts)))
    _warn_of_gaps(stacked, unbalanced)
    return stacked


def _warn_of_gaps(rows, price):
    gaps = torch.stack([row.gap for row in rows])
    if unsolved := int((gaps > CLOSE).sum()):
        warnings.warn(
            f"{unsolved} of {gaps.numel()} unbalanced plans stopped before they were solved: they may cost up to "
            f"{float(gaps.max()):.2g} of the price of growth more than the best ones (expected {CLOSE:g}). The price, "
            f"unbalanced: {price:g}, is small beside how far the snapshots move: take a larger one",
            stacklevel=3,
        )


def about_plans(rows, member, price=None):
    """What a member's diagnostics say of its plans.

    ``pairs`` of all steps; with a price of growth also the share of weight that is shifted, on average over the steps
    (``relaxed``), and the worst gap (``plan_gap``), see :class:`Rows`.
    """
    said = {"pairs": float(sum(row.pairs[member] for row in rows))}
    if price is not None:
        said["relaxed"] = float(sum(row.relaxed[member] for row in rows)) / len(rows)
        said["plan_gap"] = float(max(row.gap[member] for row in rows))
    return said


def refuse_growth(unbalanced, weights, blur):
    """Raise for what :func:`couple` cannot do about growth."""
    if weights not in WEIGHTS:
        raise ValueError(f"expected weights of {WEIGHTS}, got {weights!r}")
    if unbalanced is not None and (isinstance(unbalanced, bool) or not unbalanced > 0):
        raise ValueError(f"expected a price above 0 for unbalanced, or none, got {unbalanced!r}")
    if unbalanced is not None and blur:
        raise ValueError(f"unbalanced plans are exact: leave out blur: {blur:g}, or unbalanced")


def _coupled(start, end, *, anchor, blur, block, price=None):
    (x, a), (y, b) = start, end
    even = np.ptp(a) == 0 and np.ptp(b) == 0
    parts, pairs, relaxed, gap = [], 0, 0.0, 0.0
    for rows in blocks(len(x), len(y), block if even else None):
        mass = {"a": metrics.marginal(a[rows]), "b": metrics.marginal(b[rows])}
        found, left = _solved(x[rows], y[rows], **mass, blur=blur, price=price, anchor=anchor)
        source, target, weight = _pairs(found)
        gap = max(gap, left)
        made = means(x[rows], y[rows], source, target, weight, anchor=anchor)
        share = len(x[rows]) / len(x)
        if price is not None:
            before, there = (mass["a"], source) if anchor == "target" else (mass["b"], target)
            relaxed += share * np.abs(np.bincount(there, weight, minlength=len(before)) - before).sum() / 2
        parts.append((*made, share))
        pairs += len(source)
    xs, ys, masses, spreads, shares = zip(*parts, strict=True)
    mass = np.concatenate([share * m for m, share in zip(masses, shares, strict=True)])
    spread = float(np.dot(spreads, shares))
    values = (np.concatenate(xs), np.concatenate(ys), mass / mass.sum(), spread, float(pairs), float(relaxed), gap)
    return tuple(torch.as_tensor(value, dtype=torch.float64) for value in values)


class Table:
    """Numbers to be drawn by weight, for each time a table ``(members, n, columns)``: what
    :class:`snapdyn.courses.Draws` takes for courses.

    Args:
        x: list of tables; weight: list of ``(members, n)``, each summing to 1.
    """

    def __init__(self, x, weight):
        self.x, self.weight = x, weight
