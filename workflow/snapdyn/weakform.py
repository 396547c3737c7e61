"""The blocks of the weak form: what the generator makes of test functions, and its sample moments fold by fold.

For a drift f = v + sum_k theta_k g_k, the generator of a test function phi is
L phi = sum_k theta_k g_k . grad phi + v . grad phi + D Laplacian phi: linear in every unknown. So the
sample moments of the blocks g_k . grad phi, v . grad phi, Laplacian phi (and phi itself) say all that the weak
form needs to know about a cloud. They are kept for every fold of the rows, because whoever weights the equations
of some rows has to learn the weights from others.

A birth rate g = g_0 + sum_k gamma_k b_k adds the blocks (b_k - mean b_k) (phi - mean phi): of a cloud that is seen
normalised, only g minus its mean can be known.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from snapdyn import drifts, run, testfunctions

CHUNK = 2048  # rows that are worked on together
FOLDS = 10
GRAM_LIMIT = 500  # blocks times tests whose second moments are kept
TERM_LIMIT = 2_000_000  # entries of the table that turns moments of monomials into blocks


@dataclass
class Sums:
    """Additive sums over the rows of every fold: w, w h, w^2, w^2 h and w^2 h h' of a feature vector h.

    Attributes:
        mass: sum of weights ``(folds,)``; ``first (folds, size)``.
        mass2, first2, second2: the same with squared weights, and ``(folds, size, size)``.
    """

    mass: Tensor
    first: Tensor
    mass2: Tensor
    first2: Tensor
    second2: Tensor | None

    @classmethod
    def over(cls, features, x, weight, folds, *, threads, second=True):
        """Sums of ``features(rows) (n, size)`` over the rows of each fold, a slice of ``x``."""
        chunks = [
            (fold, slice(start, min(start + CHUNK, part.stop)))
            for fold, part in enumerate(folds)
            for start in range(part.start, part.stop, CHUNK)
        ]

        def of_chunk(item):
            fold, rows = item
            values, w = features(x[rows]), weight[rows]
            weighted = values * w[:, None]
            square = weighted.T @ weighted if second else None
            return fold, w.sum(), weighted.sum(0), w.square().sum(), w @ weighted, square

        total = None
        for fold, *parts in run.parallel(of_chunk, chunks, threads):
            if total is None:
                total = [None if part is None else part.new_zeros(len(folds), *part.shape) for part in parts]
            for whole, part in zip(total, parts, strict=True):
                if part is not None:
                    whole[fold] += part
        return cls(*total)

    def mean(self, folds):
        """Weighted mean of the features over the rows of ``folds``: ``(size,)``."""
        return self.first[folds].sum(0) / self.mass[folds].sum()

    def noise(self, folds):
        """Covariance of that mean for independent rows, ``(size, size)``.

        sum_i w_i^2 (h_i - mean)(h_i - mean)' over what the estimated mean takes from it, 1 - sum_i w_i^2.
        """
        mean, first = self.mean(folds), self.first2[folds].sum(0)
        outer = torch.outer(mean, first)
        square = self.second2[folds].sum(0) + self.mass2[folds].sum() * torch.outer(mean, mean) - outer - outer.T
        room = self.mass[folds].sum().square() - self.mass2[folds].sum()
        return square / room.clamp_min(torch.finfo(room.dtype).tiny)  # a single row has no scatter


class Cloud:
    """Moments of the blocks over the folds of one snapshot, from one pass over its rows wherever possible.

    For polynomial drifts and monomial tests every block is a polynomial: the moments of monomials hold all of
    them, at a fraction of the cost. Other small systems keep the second moments of all blocks. Large ones pass over
    the data again with whatever combination of blocks is asked for.

    Args:
        drift: the affine drift.
        tests: test functions, see :mod:`snapdyn.testfunctions`.
        x: states ``(n, dim)``; a fold is a run of rows, so rows in a meaningful order must be shuffled before.
        weight: prior weights ``(n,)``.
        noise: matrix ``(dim, dim)`` with which second derivatives are contracted; the identity without one.
        growth: birth rate, see :class:`snapdyn.drifts.Growth`.
    Attributes:
        blocks: phi, g_1 .. g_m, (growth terms,) v, second derivatives.
    Equation: ``weak-form``, ``matrix-noise``, ``birth-death``
    """

    def __init__(
        self,
        drift,
        tests,
        x: Tensor,
        weight: Tensor | None = None,
        *,
        folds=1,
        noise=None,
        growth=None,
        threads=1,
    ):
        self.drift, self.tests, self.x, self.noise_matrix, self.threads = drift, tests, x, noise, threads
        self.growth = growth
        self.n = len(x)
        self.weight = torch.full_like(x[:, 0], 1 / self.n) if weight is None else weight / weight.sum()
        cuts = np.linspace(0, self.n, folds + 1).round().astype(int)
        self.folds = [slice(a, b) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
        self.blocks = drift.count + 3 + (growth.count if growth else 0)
        self.every = torch.arange(folds)
        self._last = None, None
        self._centre_growth()
        table = None if growth else polynomial_blocks(drift, tests, x, noise)
        if table is not None:
            monomials, self.table = table
            self.sums = self._pass(monomials)
        elif self.blocks * tests.count <= GRAM_LIMIT:
            self.table = torch.eye(self.blocks * tests.count).to(x).view(self.blocks, tests.count, -1)
            self.sums = self._pass(lambda rows: self._values(rows).flatten(1))
        else:
            self.table = None
            self.sums = self._pass(lambda rows: self._values(rows).flatten(1), second=False)

    def _pass(self, features, second=True):
        return Sums.over(features, self.x, self.weight, self.folds, threads=self.threads, second=second)

    def _centre_growth(self):
        """What has to be known of all rows before the first block: the means of the rates and of the tests."""
        if self.growth is None:
            self.centre = None
            return

        def features(rows):
            rates = torch.cat([self.growth.terms(rows), self.growth.known(rows)[:, None]], 1)
            return torch.cat([rates, self.tests(rows)[0]], 1)

        mean = self._pass(features, second=False).mean(self.every)
        self.centre = mean[: self.growth.count + 1], mean[self.growth.count + 1 :]

    def _parts(self, x):
        """Tests and fields at ``x``: value, gradient and second derivatives; fields, known part last; rates."""
        fields = torch.cat([self.drift.fields(x), self.drift.known(x)[:, None]], 1)
        rates = None
        if self.growth is not None:
            rates = torch.cat([self.growth.terms(x), self.growth.known(x)[:, None]], 1) - self.centre[0]
        return *self.tests(x, self.noise_matrix), fields, rates

    def _values(self, x):
        """The blocks at ``x``: ``(n, blocks, tests)``."""
        value, gradient, second, fields, rates = self._parts(x)
        along = torch.bmm(fields, gradient)
        parts, known = [value[:, None], along[:, :-1]], along[:, -1:]
        if rates is not None:
            bred = rates[:, :, None] * (value - self.centre[1])[:, None]
            parts.append(bred[:, :-1])
            known = known + bred[:, -1:]
        return torch.cat([*parts, known, second[:, None]], 1)

    def _combined(self, x, combine):
        """``combine (rows, blocks)`` times the blocks at ``x``, ``(n, rows, tests)``: the fields are summed first."""
        value, gradient, second, fields, rates = self._parts(x)
        count = self.drift.count
        along = torch.cat([combine[:, 1 : 1 + count], combine[:, -2:-1]], 1)
        total = torch.bmm(torch.einsum("rk,nkd->nrd", along, fields), gradient)
        total += combine[:, :1] * value[:, None] + combine[:, -1:] * second[:, None]
        if rates is not None:
            bred = torch.einsum("rk,nk->nr", combine[:, 1 + count : -1], rates)
            total += bred[:, :, None] * (value - self.centre[1])[:, None]
        return total

    def share(self, folds):
        """Share of the weight that the rows of ``folds`` hold."""
        return self.sums.mass[folds].sum() / self.sums.mass.sum()

    def mean(self, folds):
        """Weighted means of the blocks over ``folds``: ``(blocks, tests)``."""
        mean = self.sums.mean(folds)
        return mean.view(self.blocks, -1) if self.table is None else self.table @ mean

    def noise(self, combine, folds):
        """Covariance of the means of combined blocks over ``folds``.

        Args:
            combine: rows of block coefficients ``(rows, blocks)``.
        Returns:
            ``(rows, tests, rows, tests)``.
        """
        shape = (len(combine), self.tests.count)
        if self.table is not None:
            spread = torch.einsum("rb,bkp->rkp", combine, self.table).flatten(0, 1)
            return (spread @ self.sums.noise(folds) @ spread.T).view(*shape, *shape)
        asked, sums = self._last
        if asked is None or not torch.equal(asked, combine):
            sums = self._pass(lambda rows: self._combined(rows, combine).flatten(1))
            self._last = combine, sums
        return sums.noise(folds).view(*shape, *shape)

    def carrying_rows(self, combine):
        """How many rows carry the noise of each combined block: (sum h^2)^2 / sum h^4 of its deviations ``(tests,)``.

        As many as there are rows for values of one size; few where rare rows far out hold most of the variance, so that
        neither the mean nor its error can be trusted.

        Args:
            combine: block coefficients ``(blocks,)``.
        """
        combine = combine[None]
        mean = torch.einsum("rb,bk->rk", combine, self.mean(self.every))

        def powers(rows):
            square = (self._combined(rows, combine) - mean).square()
            return torch.cat([square, square.square()], 1).flatten(1)

        second, fourth = self._pass(powers, second=False).mean(self.every).view(2, -1)
        return self.n * second.square() / fourth.clamp_min(torch.finfo(fourth.dtype).tiny)


def polynomial_blocks(drift, tests, x, noise=None):
    """How to get all blocks from the moments of monomials, if drift and tests are polynomials.

    Every product of a monomial of a field with a derivative of a test is one monomial of a longer list, so
    the blocks are ``table (blocks, tests, monomials)`` times the values of that list.

    Args:
        x: states ``(n, dim)``; the outermost and some of the others must agree that the fields are polynomials.
    Returns:
        a function from states to the monomials ``(n, monomials)``, and the table; None where the blocks are no
        polynomials, or too many.
    """
    if not isinstance(tests, testfunctions.Monomials):
        return None
    witnesses = torch.cat([x[x.argmin(0)], x[x.argmax(0)], x[:: -(-len(x) // CHUNK)]])
    found = drifts.polynomial_fields(drift, tests.centre, tests.scale, states=witnesses)
    if found is None:
        return None
    factors, coefficients = found  # exponents of z = (x - centre) / scale, and (count + 1, dim, exponents)
    dim, scale = drift.dim, tests.scale.cpu().numpy()
    powers, factors = tests.powers.cpu().numpy(), np.array(factors)
    degree = int(powers.sum(1).max())
    top = degree + max(int(factors.sum(1).max()) - 1, 0)
    longer = np.array(drifts.exponents(dim, top))
    if (len(coefficients) + 2) * len(powers) * len(longer) > TERM_LIMIT:
        return None
    base = (top + 1) ** np.arange(dim)
    order = np.argsort(longer @ base)

    def place(exponent):
        return order[np.searchsorted(longer @ base, exponent @ base, sorter=order)]

    table = np.zeros((len(coefficients) + 2, len(powers), len(longer)))
    table[0, np.arange(len(powers)), place(powers)] = 1
    unit = np.eye(dim, dtype=int)
    matrix = np.eye(dim) if noise is None else noise.cpu().numpy()
    for j in range(dim):
        rows = np.flatnonzero(powers[:, j])
        for p, factor in enumerate(factors):
            where = place(powers[rows] - unit[j] + factor)
            table[1:-1, rows, where] += coefficients[:, j, p, None] * powers[rows, j] / scale[j]
        for i in range(dim):
            count = powers[:, j] * (powers[:, i] - (i == j))
            rows = np.flatnonzero(count)
            where = place(powers[rows] - unit[i] - unit[j])
            table[-1, rows, where] += matrix[i, j] * count[rows] / (scale[i] * scale[j])
    values = testfunctions.MonomialTable(dim, top)
    return lambda x: values((x - tests.centre) / tests.scale), torch.from_numpy(table).to(tests.scale)
