"""The blocks of the weak form: test functions, what the generator makes of them, and their sample moments.

For a drift f = v + sum_k theta_k g_k, the generator of a test function phi is
L phi = sum_k theta_k g_k . grad phi + v . grad phi + D Laplacian phi: linear in every unknown. So the
sample moments of the blocks g_k . grad phi, v . grad phi, Laplacian phi (and phi itself) say all that the weak
form needs to know about a cloud.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from snapdyn import drifts, run

CHUNK = 2048  # rows that are worked on together
GRAM_LIMIT = 2000  # blocks times tests whose second moments are kept


@dataclass(frozen=True)
class Tests:
    """Test functions: monomials of standardised coordinates up to a degree, the constant left out.

    Attributes:
        powers: exponents ``(count, dim)``.
        centre, scale: the standardisation ``(dim,)``.
    """

    powers: Tensor
    centre: Tensor
    scale: Tensor

    @classmethod
    def monomials(cls, x: Tensor, degree: int):
        powers = torch.tensor(drifts.exponents(x.shape[1], degree)[1:])
        return cls(powers.to(x.device), x.mean(0), x.std(0))

    @property
    def count(self):
        return len(self.powers)

    def __call__(self, x: Tensor):
        """Values ``(n, count)``, gradients ``(n, dim, count)`` and Laplacians ``(n, count)`` at ``x``."""
        z = (x - self.centre) / self.scale
        top = int(self.powers.max())
        ladder = [torch.ones_like(z)]
        for _ in range(top):
            ladder.append(ladder[-1] * z)
        ladder = torch.stack(ladder, 1)  # (n, power, dim)
        levels = torch.arange(top + 1).to(z)[None, :, None]
        lowered = torch.cat([torch.zeros_like(ladder[:, :1]), ladder[:, :-1]], 1)
        slope = levels * lowered
        twice = torch.cat([torch.zeros_like(ladder[:, :1]), lowered[:, :-1]], 1)
        bend = levels * (levels - 1) * twice
        axes = range(z.shape[1])
        value = [ladder[:, self.powers[:, j], j] for j in axes]
        gradient, laplacian = [], 0.0
        for j in axes:
            others = None
            for i in axes:
                if i != j:
                    others = value[i] if others is None else others * value[i]
            first = slope[:, self.powers[:, j], j] / self.scale[j]
            second = bend[:, self.powers[:, j], j] / self.scale[j] ** 2
            gradient.append(first if others is None else first * others)
            laplacian = laplacian + (second if others is None else second * others)
        product = value[0]
        for factor in value[1:]:
            product = product * factor
        return product, torch.stack(gradient, 1), laplacian


def block_values(drift, tests, x):
    """The blocks [phi, g_1 . grad phi .. g_m . grad phi, v . grad phi, Lap phi] at ``x``: ``(n, m + 3, tests)``."""
    value, gradient, laplacian = tests(x)
    fields = torch.cat([drift.fields(x), drift.known(x)[:, None]], 1)
    return torch.cat([value[:, None], torch.bmm(fields, gradient), laplacian[:, None]], 1)


class Cloud:
    """Moments of the blocks over one snapshot.

    Small systems keep the second moments of all blocks, so that no later step reads the data again; for large
    libraries, where those would not fit, each step passes over the data with what it needs.

    Attributes:
        mean: weighted means of the blocks ``(blocks, tests)``.
        n: rows.
    """

    def __init__(self, drift, tests, x: Tensor, weight: Tensor | None = None, *, threads=1, second=True):
        self.drift, self.tests, self.x, self.threads = drift, tests, x, threads
        self.n = len(x)
        self.weight = torch.full_like(x[:, 0], 1 / self.n) if weight is None else weight / weight.sum()
        self.blocks = drift.count + 3
        self.gram = None
        everything = torch.eye(self.blocks).to(x)
        if second and self.blocks * tests.count <= GRAM_LIMIT:
            self.mean, self.gram = self._moments(everything)
        else:
            self.mean = self._moments(everything, second=False)[0]

    def _moments(self, combine, second=True):
        """Mean ``(rows, tests)`` of the blocks combined by ``combine (rows, blocks)``, covariance of that mean."""
        size = len(combine) * self.tests.count
        whole = len(combine) == self.blocks

        def chunk(start):
            part = slice(start, start + CHUNK)
            values = block_values(self.drift, self.tests, self.x[part])
            values = values if whole else torch.einsum("rb,nbk->nrk", combine, values)
            weighted = values.flatten(1) * self.weight[part, None]
            if not second:
                return weighted.sum(0), None, None
            return weighted.sum(0), weighted.T @ weighted, weighted.T @ self.weight[part]

        mean, cross = torch.zeros(size).to(self.x), 0.0
        square = torch.zeros(size, size).to(self.x) if second else None
        for one, two, mixed in run.parallel(chunk, range(0, self.n, CHUNK), self.threads):
            mean += one
            if second:
                square += two
                cross = cross + mixed
        shape = (len(combine), self.tests.count)
        if not second:
            return mean.view(shape), None
        # sum_i w_i^2 (h_i - mean)(h_i - mean)', the sampling noise of independent rows
        outer = torch.outer(mean, cross)
        square += self.weight.square().sum() * torch.outer(mean, mean) - outer - outer.T
        return mean.view(shape), square.view(*shape, *shape)

    def noise(self, combine):
        """Covariance ``(rows, tests, rows, tests)`` of the mean of the combined blocks."""
        if self.gram is None:
            return self._moments(combine)[1]
        half = torch.einsum("rb,bkcl->rkcl", combine, self.gram)
        return torch.einsum("rkcl,sc->rksl", half, combine)
