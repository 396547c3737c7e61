"""A network of three genes driven by two oscillators."""

import math

import torch

from snapdyn import drifts
from snapdyn.oscillators import Hopf
from snapdyn.system import System


class GeneNetwork(System):
    """Three genes p, b, r that repress each other, driven by two oscillators: seven axes, 21 unknown entries.

    Unknown are the entries of a 3 x 7 matrix Theta, row by row: how much of each product of the Hill factors
    P = 1/(1 + p^2), B, R enters each gene's equation. ``activation=True`` replaces R by r^2/(1 + r^2) in the
    equations of p and r, as in the model of the germinal centre that the paper cites; the paper's own text has
    1/(1 + r^2) throughout, which is another network. Theta is the same matrix in both.

    The oscillators are Hopf forms, slow (periods 200 and 141) and known; they set the clock.

    Equation: ``gene-network``
    """

    axes = ("x1", "y1", "x2", "y2", "p", "b", "r")
    products = ("P", "B", "R", "PB", "PR", "BR", "PBR")
    genes, phases = (4, 5, 6), ((0, 1), (2, 3))
    speeds = (math.pi / 100, math.sqrt(2) * math.pi / 100)
    basal, strengths, drives = (1e-6, 2.0, 0.1), (9.0, 100.0, 2.6), (10.0, 5.0)
    true_terms = ("p: B", "p: R", "b: PBR", "r: R")

    def __init__(self, *, diffusivity, activation=False):
        self.diffusivity, self.activation = diffusivity, activation
        names = tuple(f"{gene}: {product}" for gene in "pbr" for product in self.products)
        self.parameters = {name: float(name in self.true_terms) for name in names}
        self.terms = drifts.AffineDrift(
            self.dim,
            names,
            ("1/time unit",) * len(names),
            self._fields,
            self._divergences,
            self._known,
            self._known_divergence,
            fixes_clock=True,
            phases=self.phases,
        )

    def _hill(self, x):
        """Hill factors ``(n, 3)`` and their derivatives by their own gene."""
        genes = x[:, list(self.genes)]
        factor = 1 / (1 + genes.square())
        return factor, -2 * genes * factor.square()

    def _products(self, x):
        """For the equations of p, b and r, the seven products ``(n, 7)`` and their derivatives by that gene."""
        factor, slope = self._hill(x)
        (p, b, r), (dp, db, dr) = factor.unbind(1), slope.unbind(1)
        up, dup = (1 - r, -dr) if self.activation else (r, dr)  # the factor of r in the equations of p and r
        zero = torch.zeros_like(p)
        values = torch.stack([p, b, r, p * b, p * r, b * r, p * b * r], 1)
        raised = torch.stack([p, b, up, p * b, p * up, b * up, p * b * up], 1) if self.activation else values
        by_p = torch.stack([dp, zero, zero, dp * b, dp * up, zero, dp * b * up], 1)
        by_b = torch.stack([zero, db, zero, p * db, zero, db * r, p * db * r], 1)
        by_r = torch.stack([zero, zero, dup, zero, p * dup, b * dup, p * b * dup], 1)
        return (raised, values, raised), (by_p, by_b, by_r)

    def _fields(self, x):
        blocks = []
        for axis, strength, values in zip(self.genes, self.strengths, self._products(x)[0], strict=True):
            blocks.append(torch.nn.functional.pad(strength * values[:, :, None], (axis, self.dim - 1 - axis)))
        return torch.cat(blocks, 1)

    def _divergences(self, x):
        slopes = self._products(x)[1]
        return torch.cat([strength * slope for strength, slope in zip(self.strengths, slopes, strict=True)], 1)

    def _signals(self, x):
        """BCR and CD40 ``(n,)``: sin(phase)^30 of each oscillator times the Hill factor of b."""
        repressed = self._hill(x)[0][:, 1]
        shares = [x[:, j].square() / (x[:, i].square() + x[:, j].square()) for i, j in self.phases]
        return [drive * share**15 * repressed for drive, share in zip(self.drives, shares, strict=True)]

    def _known(self, x):
        rates = []
        for (i, j), speed in zip(self.phases, self.speeds, strict=True):
            growth = 1 - x[:, i].square() - x[:, j].square()
            rates += [x[:, i] * growth + speed * x[:, j], x[:, j] * growth - speed * x[:, i]]
        bcr, cd40 = self._signals(x)
        (p, b, r), (basal_p, basal_b, basal_r) = x[:, list(self.genes)].unbind(1), self.basal
        return torch.stack([*rates, basal_p - p, basal_b - (1 + bcr) * b, basal_r - r + cd40], 1)

    def _known_divergence(self, x):
        factor, _ = self._hill(x)
        bcr, _ = self._signals(x)
        b = x[:, self.genes[1]]
        planes = x[:, :4].square().sum(1)
        return 4 - 4 * planes - 3 - bcr * (1 - 2 * b.square() * factor[:, 1])

    def rate(self, x, out):
        square, share, hill = x.new_empty(7, x.shape[1]).split([2, 2, 3])
        (cosine, sine), genes = (x[0:4:2], x[1:4:2]), x[4:]
        torch.mul(cosine, cosine, out=square)
        torch.mul(sine, sine, out=share)
        share.div_(square.add_(share))
        growth = square.neg_().add_(1)
        speeds = torch.tensor(self.speeds, dtype=x.dtype, device=x.device)[:, None]
        torch.mul(cosine, growth, out=out[0:4:2]).addcmul_(sine, speeds)
        torch.mul(sine, growth, out=out[1:4:2]).addcmul_(cosine, speeds, value=-1)
        fifth = torch.mul(share, share, out=square).mul_(square).mul_(share)
        signals = torch.mul(fifth, fifth, out=share).mul_(fifth)  # sin(phase)^30 by five products

        p, b, r = torch.mul(genes, genes, out=hill).add_(1).reciprocal_()
        signals.mul_(b)
        basal, sign = list(self.basal), 1.0
        if self.activation:  # r^2/(1 + r^2) = 1 - R
            basal[0], basal[2], sign = basal[0] + self.strengths[0], basal[2] + self.strengths[2], -1.0
        torch.sub(torch.tensor(basal, dtype=x.dtype, device=x.device)[:, None], genes, out=out[4:])
        out[4].add_(b, alpha=self.strengths[0]).add_(r, alpha=sign * self.strengths[0])
        out[5].addcmul_(p.mul_(b), r, value=self.strengths[1]).addcmul_(signals[0], x[5], value=-self.drives[0])
        out[6].add_(r, alpha=sign * self.strengths[2]).add_(signals[1], alpha=self.drives[1])

    def initial(self, n, generator, device):
        """Oscillators at rest, exactly; genes spread around the middle of their range, all above 0."""
        ring = Hopf(diffusivity=self.diffusivity)
        rings = [ring.at_rest(n, generator, device) for _ in self.phases]
        middle = torch.tensor([[8.0], [1.0], [2.0]], dtype=torch.float64, device=device)
        spread = torch.randn(3, n, generator=generator, dtype=torch.float64, device=device)
        return torch.cat([*rings, middle * torch.exp(0.4 * spread)])
