"""Kernel density estimates and everything that one pass over the kernel weights can give.

Densities, scores, Laplacians and posterior means of features are all weighted means over the data with the
same softmax weights, so one blocked pass computes them together (labels ``kde-score``,
``effective-sample-size``).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from snapdyn import run

# Probes x data in one tile of weights: about 1 MiB, so that the tile stays in the cache.
TILE = {"cpu": (256, 512), "cuda": (4096, 8192)}
# Powers of very negative numbers fall into a slow path of the vector library; the clamp costs nothing and
# lifts negligible weights to 5e-131 (float64) or 4e-18 (float32).
CLAMP = {torch.float64: -433.0, torch.float32: -58.0}
# Kernels are powers of 2, which are faster than powers of e: exp(-r^2 / 2) = 2^(-(r SHRINK)^2).
SHRINK = math.sqrt(0.5 / math.log(2))
# Shares of the normal-scale bandwidth among which the likelihood of left-out points chooses.
LIKELIHOOD_FACTORS = tuple(2.0 ** (k / 4) for k in range(-20, 5))


@dataclass(frozen=True)
class KernelEstimate:
    """What :func:`kernel_pass` returns, at ``q`` probes.

    Attributes:
        log_prob: log p_h in nats ``(q,)``.
        score: grad log p_h ``(q, dim)``.
        laplacian: (Laplacian p_h) / p_h = |s|^2 + div s ``(q,)``.
        means: posterior means E[feature(X) | X + h eps = x] ``(q, count)``.
        sample_size: effective number of data points behind each probe ``(q,)``; None if not asked for.
    """

    log_prob: Tensor
    score: Tensor
    laplacian: Tensor
    means: Tensor
    sample_size: Tensor | None

    @property
    def divergence(self):
        """div s ``(q,)``."""
        return self.laplacian - self.score.square().sum(1)


def normal_scale_bandwidth(x, *, derivative=1):
    """The bandwidth that is optimal for the ``derivative``-th derivative of a Gaussian density.

    Args:
        x: data ``(n, dim)``.
        derivative: 0 for the density, 1 for the score, 2 for its divergence.
    Returns:
        one bandwidth per axis ``(dim,)``, in the data's units.
    Equation: ``normal-scale-bandwidth``
    """
    n, dim = x.shape
    return np.std(x, axis=0, ddof=1) * (4 / (n * (dim + 2 * derivative + 2))) ** (1 / (dim + 2 * derivative + 4))


def bandwidth(x, rule):
    """Bandwidths ``(dim,)`` from a config entry: a number, one number per axis, or a named rule.

    Rules: ``density``, ``score``, ``divergence`` (normal-scale for that quantity), and ``wide``, for the convolved
    form, whose width costs variance but no bias: 0.4 to 2 standard deviations, so wide that about a thousand
    neighbours count in the middle of a Gaussian cloud. ``likelihood`` shrinks the rule for the density until points are
    likeliest under all others (:func:`likelihood_bandwidth`): for clouds that are no single lump.
    """
    rules = {"density": 0, "score": 1, "divergence": 2}
    named = rule if isinstance(rule, str) else None
    if named == "wide":
        share = np.clip(np.sqrt(2) * (1000 / len(x)) ** (1 / x.shape[1]), 0.4, 2.0)
        h = share * np.std(x, axis=0, ddof=1)
    elif named == "likelihood":
        h = likelihood_bandwidth(x)
    elif named is not None:
        if rule not in rules:
            raise ValueError(
                f"unknown bandwidth rule {rule!r}; use a number or one of {[*rules, 'wide', 'likelihood']}"
            )
        h = normal_scale_bandwidth(x, derivative=rules[rule])
    elif np.size(rule) not in (1, x.shape[1]):
        raise ValueError(f"expected one bandwidth or one for each of the {x.shape[1]} axes, got {np.size(rule)}")
    else:
        h = np.broadcast_to(np.asarray(rule, dtype=np.float64), x.shape[1:])
    if not (np.isfinite(h).all() and (h > 0).all()):
        raise ValueError(
            f"bandwidths must be above 0, got {np.array(h).tolist()}; an axis without spread or a cloud of "
            "identical points gives 0: drop the constant axis, or set a bandwidth"
        )
    return np.array(h)


def likelihood_bandwidth(x, *, factors=LIKELIHOOD_FACTORS, probes=2000):
    """The multiple of the normal-scale rule ``(dim,)`` under which points are likeliest given all others.

    Args:
        x: points ``(n, dim)``.
        probes: how many of them are asked, evenly spread over the rows.
    Equation: ``likelihood-bandwidth``
    """
    start, data = normal_scale_bandwidth(x, derivative=0), torch.from_numpy(np.ascontiguousarray(x))
    if not (start > 0).all():
        return start  # an axis without spread; the caller says so
    rows = torch.linspace(0, len(x) - 1, min(probes, len(x))).round().long()

    def likelihood(factor):
        found = kernel_pass(data, data[rows], factor * start, own=rows, sample_size=False)
        return float(found.log_prob.mean())

    return max(factors, key=likelihood) * start


def kernel_pass(
    data: Tensor,
    probes: Tensor,
    bandwidth,
    *,
    features: Tensor | None = None,
    weights: Tensor | None = None,
    own: Tensor | None = None,
    sample_size: bool = True,
    threads: int = 1,
) -> KernelEstimate:
    r"""Gaussian kernel estimate of density, score, Laplacian and posterior means at ``probes``.

    .. math:: w_i(x) \propto e^{-|x - X_i|^2_H / 2}, \quad s = H^{-1}(\textstyle\sum_i w_i X_i - x)

    Memory is one tile and a copy of the data, whatever the number of points; tiles are summed in a fixed
    order, so results do not depend on ``threads``.

    Args:
        data: centres ``(n, dim)``, float64 or float32; device and dtype of the result.
        probes: where to estimate ``(q, dim)``.
        bandwidth: one positive number, or one per axis ``(dim,)``.
        features: values at the data ``(n, count)`` whose posterior means are wanted.
        weights: non-negative prior weights of the data ``(n,)``; equal without.
        own: for leave-one-out, the data row ``(q,)`` that each probe is.
        sample_size: also return the effective sample size; a third of the cost.
        threads: threads over blocks of probes.
    Equation: ``kde-score``, ``effective-sample-size``
    """
    if weights is not None and own is None and not (weights > 0).all():  # what weighs nothing is not there
        there = (weights > 0).to(data.device)
        data, weights = data[there], weights.to(data)[there]
        features = None if features is None else features[there]
    n, dim = data.shape
    h = torch.as_tensor(bandwidth, dtype=data.dtype, device=data.device).expand(dim)
    if not (torch.isfinite(h).all() and (h > 0).all()):
        raise ValueError(f"bandwidth must be positive and finite, got {h.tolist()}")
    if own is not None and n < 2:
        raise ValueError("leaving one out needs at least two data points, got 1")
    # Whitened by the bandwidth and centred: expanded squared distances then lose no digits that matter.
    centre = data.mean(0)
    points, queries = (data - centre) / h, (probes - centre) / h
    tree = cKDTree(points.cpu().numpy(), balanced_tree=False, compact_nodes=False)  # built once, asked once
    nearest = tree.query(queries.cpu().numpy(), k=1 if own is None else [2])[0].reshape(-1)
    peak = -0.5 * torch.from_numpy(nearest).to(data).square()

    # One matrix product gives log2 of the weight over the row's largest:
    # [2x, 1, -(|x|^2 + peak)] . [X, -|X|^2, 1], with x and X shrunk so that 2^.. is the Gaussian.
    # Both sides lie with one quantity a row, as the products want them.
    keys = torch.ones(dim + 2, n, dtype=data.dtype, device=data.device)
    torch.mul(points.T, SHRINK, out=keys[:dim])
    torch.sum(keys[:dim].square(), 0, out=keys[dim]).neg_()
    asked = queries * SHRINK
    tops = -(asked.square().sum(1) + peak / math.log(2))[:, None]
    questions = torch.cat([2 * asked, torch.ones_like(tops), tops], 1)
    count = 0 if features is None else features.shape[1]
    values = torch.ones(dim + 2 + count, n, dtype=data.dtype, device=data.device)
    values[1 : dim + 1] = points.T
    torch.sum((points / h).square().T, 0, out=values[dim + 1])
    if features is not None:
        values[dim + 2 :] = features.T
    if weights is not None:
        values *= weights.to(data)
    rows, cols = TILE[data.device.type]
    floor = CLAMP[data.dtype]

    def block(start):
        question = questions[start : start + rows]
        sums = torch.zeros(len(values), len(question)).to(data)
        squares = torch.zeros(len(question)).to(data)
        buffer = torch.empty(len(question), cols).to(data)
        for left in range(0, n, cols):
            right = min(left + cols, n)
            tile = (
                buffer[:, : right - left] if right - left == cols else torch.empty(len(question), right - left).to(data)
            )
            torch.mm(question, keys[:, left:right], out=tile)
            tile.clamp_(min=floor, max=0.0).exp2_()  # rounding must not lift a weight above the largest
            if own is not None:
                mine = own[start : start + rows] - left
                inside = torch.nonzero((mine >= 0) & (mine < right - left)).squeeze(1)
                tile[inside, mine[inside]] = 0.0
            sums.addmm_(values[:, left:right], tile.T)
            if sample_size:
                if weights is not None:
                    tile = tile * weights[left:right].to(data)
                squares += torch.linalg.vector_norm(tile, dim=1).square()  # faster than a row-wise dot
        return sums.T, squares

    results = list(run.parallel(block, range(0, len(queries), rows), threads))
    sums = torch.cat([sums for sums, _ in results])
    squares = torch.cat([squares for _, squares in results])

    total = sums[:, :1]
    means = sums[:, 1:] / total
    mean, length, rest = means[:, :dim], means[:, dim], means[:, dim + 1 :]
    mass = weights.sum().to(data) if weights is not None else torch.tensor(float(n)).to(data)
    left_out = 0 if own is None else (1 if weights is None else weights.to(data)[own])
    normaliser = torch.log(mass - left_out) + 0.5 * dim * math.log(2 * math.pi) + h.log().sum()
    # sum_j E[(X_j - x_j)^2] / h_j^4, from whitened coordinates
    spread = length + ((queries - 2 * mean) * queries / h.square()).sum(1)
    return KernelEstimate(
        log_prob=peak + total[:, 0].log() - normaliser,
        score=(mean - queries) / h,
        laplacian=spread - h.pow(-2).sum(),
        means=rest,
        sample_size=total[:, 0].square() / squares if sample_size else None,
    )
