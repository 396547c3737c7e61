"""Drift parameters from one stationary cloud by the kernel deviation from stationarity (KDS), minimised exactly.

If p is stationary for the generator A = f . grad + D Laplacian, then E[A_x A_y k(x, y)] = 0 for independent x and
y from p. The deviation is this mean over pairs of points; for a drift that is affine in its unknowns it is a
quadratic form, so its minimum is one linear solve.
"""

import math

import numpy as np
import torch
from scipy.linalg import qr, solve_triangular
from torch import Tensor

from snapdyn import drifts, models, run, scores

CHUNK = 2**21  # numbers in a table of features that is worked out at once
DEPENDENT = 1e-13  # share of a feature that is no longer told from rounding
RANK = 1e-10  # smallest eigenvalue of the scaled form, over its largest, that counts as determined


class PairFeatures:
    r"""The generators of a drift's parts on both arguments of a Gaussian kernel, as products of functions of one.

    In coordinates divided by the bandwidth, :math:`k = e^{-|x|^2/2}\, e^{x\cdot y}\, e^{-|y|^2/2}`, so every
    derivative of k in x is k times a polynomial in y with coefficients in x, and

    .. math:: A^{(j)}_x A^{(k)}_y\, k(x, y) = k(x, y) \sum_{ts} \alpha^{(j)}_t(x)\, m_s(x)\; \beta^{(k)}_{ts}(y)

    with the monomials m = (1, x_1 .., x_1^2 ..). The parts j, k are the fields g_1 .. g_m of the drift and, last,
    its known part together with the Laplacian: v . grad + D Laplacian.

    Args:
        centre, width: the coordinates are (x - centre) / width, both ``(dim,)``.
    Equation: ``kds``
    """

    def __init__(self, drift: drifts.AffineDrift, diffusivity: float, centre: Tensor, width: Tensor):
        self.drift, self.centre, self.width = drift, centre, width
        self.noise = diffusivity / width.square()
        self.parts = drift.count + 1
        self.monomials = 1 + 2 * drift.dim

    def scaled(self, x: Tensor) -> Tensor:
        return (x - self.centre) / self.width

    def _factors(self, x):
        """m ``(n, monomials)`` and alpha ``(n, parts, monomials)`` at states ``x (n, dim)``, and what they are of."""
        z = self.scaled(x)
        m = torch.cat([torch.ones_like(z[:, :1]), z, z.square()], 1)
        fields = torch.cat([self.drift.fields(x), self.drift.known(x)[:, None]], 1) / self.width
        noise = torch.zeros(self.parts, z.shape[1]).to(z)  # per part: only the last has a Laplacian
        noise[-1] = self.noise
        inner = -torch.einsum("nkd,nd->nk", fields, z) + (z.square() - 1) @ noise.T
        along = fields - 2 * noise * z[:, None]
        alpha = torch.cat([inner[:, :, None], along, noise.expand(len(z), -1, -1)], 2)
        return z, m, alpha, fields, noise

    def left(self, x: Tensor) -> Tensor:
        """alpha_t m_s ``(n, parts monomials^2)``."""
        _, m, alpha, _, _ = self._factors(x)
        return (alpha[..., None] * m[:, None, None]).flatten(1)

    def right(self, x: Tensor) -> Tensor:
        """beta_ts ``(n, parts monomials^2)``: what A_y makes of k m_t, over k, by powers of x."""
        z, m, alpha, fields, noise = self._factors(x)
        d = z.shape[1]
        beta = m[:, None, :, None] * alpha[:, :, None]
        for i in range(d):
            one, two = 1 + i, 1 + d + i  # places of z_i and z_i^2 among the monomials
            beta[:, :, one, 0] += alpha[:, :, one]
            beta[:, :, one, one] += 2 * noise[:, i]
            beta[:, :, two, 0] += 2 * z[:, i, None] * fields[:, :, i] + 2 * noise[:, i] * (1 - 2 * m[:, two, None])
            beta[:, :, two, one] += 4 * noise[:, i] * z[:, i, None]
        beta[:, :-1, 1 + d :] = 0.0  # squares come from the Laplacian on the left, which only the last part has
        return beta.flatten(1)

    def contract(self, pairs: Tensor, combine: Tensor) -> Tensor:
        """The form ``(parts, parts)`` from the sums over pairs of left features x a basis of the right ones.

        Args:
            pairs: sums ``(parts monomials^2, r)``.
            combine: right features = basis @ combine ``(r, parts monomials^2)``.
        """
        terms = self.monomials**2
        form = torch.einsum("jtr,rkt->jk", pairs.view(self.parts, terms, -1), combine.view(-1, self.parts, terms))
        form[-1, :-1] = form[:-1, -1]  # which the right features left out; the form is symmetric
        return form


def independent_columns(features, x: Tensor):
    """Columns of ``features(x)`` that span all of them, and every column in terms of those.

    The fields of a library share their monomials, so that hundreds of features are often some tens of functions.

    Returns:
        indices ``(r,)`` and ``combine (r, columns)`` with features = features[:, indices] @ combine.
    """
    columns = features(x[:1]).shape[1]
    parts = x.split(max(CHUNK // columns, 1))
    scale = sum(features(rows).square().sum(0) for rows in parts).sqrt()
    used = torch.nonzero(scale).squeeze(1)
    triangle = torch.zeros(0, len(used)).to(x)
    for rows in parts:
        triangle = torch.linalg.qr(torch.cat([triangle, features(rows)[:, used] / scale[used]]), mode="r").R
    corner, order = qr(triangle.cpu().numpy(), mode="r", pivoting=True)
    rank = int((np.abs(np.diag(corner)) > DEPENDENT * abs(corner[0, 0])).sum())
    chosen, order = used[torch.from_numpy(order[:rank]).to(used)], used[torch.from_numpy(order).to(used)]
    combine = torch.zeros(rank, columns).to(x)
    combine[:, order] = torch.from_numpy(solve_triangular(corner[:rank, :rank], corner[:rank])).to(x)
    return chosen, combine * scale / scale[chosen, None]


def deviation_form(pairs: PairFeatures, x: Tensor, weight: Tensor, *, statistic="u", threads=1) -> Tensor:
    r"""The deviation as a quadratic form in (theta, 1): ``(parts, parts)`` in 1 / time^2.

    .. math:: L(\theta) = \theta^\top H \theta + 2 b^\top \theta + \mathrm{const}

    with H the leading block, b the last column and the constant in the corner. Memory is some tiles and one
    feature table; tiles are summed in a fixed order, so results do not depend on ``threads``.

    Args:
        x, weight: points ``(n, dim)`` and their non-negative weights ``(n,)``, float64.
        statistic: ``u`` leaves out the pairs of a point with itself, ``v`` has them.
    Equation: ``kds``
    """
    n = len(x)
    chosen, combine = independent_columns(pairs.right, x)
    parts = x.split(max(CHUNK // combine.shape[1], 1))
    values = torch.cat([pairs.right(rows)[:, chosen] for rows in parts]) * weight[:, None]
    shrunk = pairs.scaled(x) * scores.SHRINK
    half = shrunk.square().sum(1)
    one = torch.ones_like(half)
    # [2 x, 1, -|x|^2] . [y, -|y|^2, 1] is log2 of the kernel
    keys, questions = torch.stack([*shrunk.T, -half, one]), torch.stack([*(2 * shrunk).T, one, -half], 1)
    rows, cols = scores.TILE[x.device.type]

    def block(start):
        part = slice(start, start + rows)
        sums = torch.zeros(len(questions[part]), len(chosen)).to(x)
        for left in range(0, n, cols):
            tile = torch.mm(questions[part], keys[:, left : left + cols])
            tile.clamp_(min=scores.CLAMP[x.dtype], max=0.0).exp2_()
            sums.addmm_(tile, values[left : left + cols])
        if statistic == "u":
            sums -= values[part]  # the kernel of a point with itself is 1
        return (pairs.left(x[part]) * weight[part, None]).T @ sums

    total = 0.0
    for found in run.parallel(block, range(0, n, rows), threads):
        total = total + found
    mass = weight.sum().square() - (weight.square().sum() if statistic == "u" else 0.0)
    return pairs.contract(total, combine) / mass


def minimise(form: Tensor):
    """The minimiser ``(count,)`` of a deviation, its value there, and the extreme eigenvalues of the scaled form.

    Raises:
        ValueError: fields that the points do not tell apart, or a form that has no minimum.
    """
    form = form.cpu()
    square, slope = form[:-1, :-1], form[:-1, -1]
    scale = square.diagonal().abs().sqrt().clamp_min(torch.finfo(form.dtype).tiny)
    scaled = square / scale / scale[:, None]
    values, vectors = torch.linalg.eigh((scaled + scaled.T) / 2)
    rank, count = int((values.abs() > RANK * values.abs().max()).sum()), len(square)
    if rank < count:
        raise ValueError(
            f"these data determine only {rank} of {count} unknown coefficients: fix some of them, or take "
            "a smaller drift library"
        )
    if values[0] < 0:
        raise ValueError(
            f"the u statistic of these {count} coefficients is not positive definite (smallest scaled eigenvalue "
            f"{values[0]:.1e}), so that its stationary point is no minimum: set statistic: v, take more points, a "
            "narrower bandwidth or a smaller drift library"
        )
    theta = -(vectors @ ((vectors.T @ (slope / scale)) / values)) / scale
    return theta, float(form[-1, -1] + slope @ theta), values


class KernelDeviation:
    """Drift parameters by the exact minimum of the kernel deviation from stationarity.

    Args:
        drift: the affine drift whose coefficients are wanted.
        diffusivity: D, known, in length^2 / time.
        bandwidth: a number, one per axis, or a rule of :func:`snapdyn.scores.bandwidth`.
        statistic: ``u``, the mean over pairs of different points, unbiased, or ``v``, over all pairs, which is
            biased towards small drifts but never without a minimum.
        points: at most this many rows are used, drawn at random: the cost is quadratic.
    """

    def __init__(self, drift, *, diffusivity, bandwidth="wide", statistic="u", points=20000):
        if statistic not in ("u", "v"):
            raise ValueError(f"statistic must be u or v, got {statistic!r}")
        if np.ndim(diffusivity) != 0:
            raise ValueError("the kernel deviation takes one diffusivity for all axes, a number above 0, not a matrix")
        self.drift, self.diffusivity = drift, diffusivity
        self.bandwidth, self.statistic, self.points = bandwidth, statistic, points

    def fit(self, snapshots, *, rng, device="cpu", threads=1):
        """Fit the training rows of one stationary cloud; see :class:`snapdyn.models.DriftModel`."""
        data = snapshots.select(split="train")
        h = scores.bandwidth(data.x, self.bandwidth)
        data = data.where(np.sort(rng.permutation(len(data))[: self.points]))
        if len(data) <= self.drift.count:
            raise ValueError(
                f"{self.drift.count} unknown coefficients need more than {self.drift.count} points, got {len(data)}: "
                "give more data, or a smaller drift library"
            )
        x, weight = (torch.from_numpy(part).to(device) for part in (data.x, data.weight))
        width = torch.from_numpy(h).to(x)
        pairs = PairFeatures(self.drift, self.diffusivity, x.mean(0), width)
        form = deviation_form(pairs, x, weight, statistic=self.statistic, threads=threads)
        theta, loss, values = minimise(form)
        return models.DriftModel(
            self.drift,
            theta.numpy(),
            diffusivity=self.diffusivity,
            diagnostics={
                "loss": loss,
                "condition": float(values[-1] / values[0]),
                "smallest_eigenvalue": float(values[0]),
                "bandwidth": math.exp(np.log(h).mean()),
                "points": float(len(data)),
            },
        )
