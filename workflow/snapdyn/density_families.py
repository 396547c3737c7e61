"""Densities in closed form: Gaussian mixtures with a covariance each, and kernel densities.

A density works in the user's coordinates and answers ``log_prob(x)`` (differentiable), ``derivatives(x)`` (log-density,
score and its divergence), ``sample(n, generator)`` and ``state()``.
"""

import math

import torch
from torch import Tensor

from snapdyn import scores

ROWS = 8192  # points at a time, so that memory stays flat


class GaussianMixture:
    r"""A mixture of Gaussians, each with its own covariance.

    .. math:: p = \sum_k w_k N(\mu_k, C_k), \quad s = -\sum_k r_k C_k^{-1}(x - \mu_k), \quad
              \frac{\nabla^2 p}{p} = \sum_k r_k \bigl(|C_k^{-1}(x - \mu_k)|^2 - \mathrm{tr}\,C_k^{-1}\bigr)

    with r_k the posterior weights of the components.

    Args:
        weights: positive shares ``(k,)``, scaled to sum to 1.
        means: ``(k, dim)``.
        covariances: ``(k, dim, dim)``, positive definite.
    Equation: ``full-mixture``
    """

    family = "gaussian-mixture"

    def __init__(self, weights, means, covariances):
        weights, self.means, self.covariances = (
            torch.as_tensor(value, dtype=torch.float64) for value in (weights, means, covariances)
        )
        count, dim = self.means.shape
        shapes = tuple(weights.shape), tuple(self.covariances.shape)
        if shapes != ((count,), (count, dim, dim)):
            raise ValueError(f"expected weights ({count},) and covariances ({count}, {dim}, {dim}), got {shapes}")
        self.weights, self.dim, self.components = weights / weights.sum(), dim, count
        self.factors = torch.linalg.cholesky(self.covariances)
        identity = torch.eye(dim, dtype=torch.float64).expand(count, dim, dim)
        self.whiteners = torch.linalg.solve_triangular(self.factors, identity, upper=False)
        logs = self.factors.diagonal(dim1=1, dim2=2).log().sum(1)
        self._offsets = self.weights.log() - logs - 0.5 * dim * math.log(2 * math.pi)

    def _whitened(self, x):
        """Distances from every mean in units of its spread ``(n, k, dim)``, and log w_k N_k ``(n, k)``."""
        gone = torch.einsum("kij,nkj->nki", self.whiteners.to(x), x[:, None] - self.means.to(x))
        return gone, self._offsets.to(x) - 0.5 * gone.square().sum(2)

    def joint(self, x: Tensor) -> Tensor:
        """log w_k N(x; mu_k, C_k) ``(n, k)`` of every component."""
        return self._whitened(x)[1]

    def log_prob(self, x: Tensor) -> Tensor:
        """log p ``(n,)`` in nats at ``x (n, dim)``; differentiable."""
        return torch.cat([self.joint(part).logsumexp(1) for part in x.split(ROWS)])

    def derivatives(self, x: Tensor):
        """log p ``(n,)``, score ``(n, dim)`` and its divergence ``(n,)``.

        Equation: ``full-mixture``
        """
        parts = []
        with torch.no_grad():
            whiteners = self.whiteners.to(x)
            traces = whiteners.square().sum((1, 2))
            for part in x.split(ROWS):
                gone, logs = self._whitened(part)
                posterior = logs.softmax(1)
                pull = -torch.einsum("kji,nkj->nki", whiteners, gone)
                score = torch.einsum("nk,nki->ni", posterior, pull)
                laplacian = (posterior * (pull.square().sum(2) - traces)).sum(1)
                parts.append((logs.logsumexp(1), score, laplacian - score.square().sum(1)))
        return tuple(torch.cat(values) for values in zip(*parts, strict=True))

    def sample(self, n, generator) -> Tensor:
        """``n`` exact draws ``(n, dim)``; the generator is one of the CPU."""
        chosen = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        return self.means[chosen] + torch.einsum("nij,nj->ni", self.factors[chosen], noise)

    def state(self):
        """Constructor arguments, as tensors."""
        return {"weights": self.weights, "means": self.means, "covariances": self.covariances}

    @classmethod
    def from_state(cls, state):
        return cls(**state)


class KernelDensity:
    """A Gaussian kernel around every data point.

    Args:
        points: centres ``(n, dim)``.
        bandwidth: one positive number per axis ``(dim,)``, in the data's units.
        weights: non-negative weights of the points ``(n,)``; equal without.
    Equation: ``kde-score``
    """

    family, tiled = "kde", True

    def __init__(self, points, bandwidth, weights=None):
        self.points = torch.as_tensor(points, dtype=torch.float64)
        self.dim, self.components = self.points.shape[1], len(self.points)
        self.bandwidth = torch.as_tensor(bandwidth, dtype=torch.float64).expand(self.dim).clone()
        self.weights = None if weights is None else torch.as_tensor(weights, dtype=torch.float64)

    def _pass(self, x):
        weights = None if self.weights is None else self.weights.to(x)
        return scores.kernel_pass(
            self.points.to(x), x.detach(), self.bandwidth.to(x), weights=weights, sample_size=False
        )

    def log_prob(self, x: Tensor) -> Tensor:
        """log p ``(n,)`` in nats at ``x (n, dim)``; differentiable once."""
        return _WithScore.apply(x, self)

    def derivatives(self, x: Tensor):
        """log p ``(n,)``, score ``(n, dim)`` and its divergence ``(n,)``."""
        kernel = self._pass(x)
        return kernel.log_prob, kernel.score, kernel.divergence

    def sample(self, n, generator) -> Tensor:
        """``n`` exact draws ``(n, dim)``; the generator is one of the CPU."""
        if self.weights is None:
            chosen = torch.randint(len(self.points), (n,), generator=generator)
        else:
            below = self.weights.cumsum(0)
            chosen = torch.searchsorted(below, below[-1] * torch.rand(n, generator=generator, dtype=torch.float64))
            chosen = chosen.clamp_max(len(below) - 1)
        noise = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        return self.points[chosen] + self.bandwidth * noise

    def state(self):
        """Constructor arguments, as tensors."""
        return {"points": self.points, "bandwidth": self.bandwidth, "weights": self.weights}

    @classmethod
    def from_state(cls, state):
        return cls(**state)


class _WithScore(torch.autograd.Function):
    """log p_h with the score of the same pass as its derivative: the pass itself works in place."""

    @staticmethod
    def forward(ctx, x, density):
        kernel = density._pass(x)
        ctx.save_for_backward(kernel.score)
        return kernel.log_prob

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (score,) = ctx.saved_tensors
        return grad[:, None] * score, None
