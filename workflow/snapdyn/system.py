"""What a system with a known law is: the base class, and drifts from lists of fields.

A system is dX = f(X) dt + sqrt(2 D) dW (label ``sde``). It carries its drift as an affine function of its
parameters, its divergence and, where there is one, its stationary density.
"""

import numpy as np
import torch
from torch import Tensor

from snapdyn import drifts


class System:
    """Base of all systems.

    Attributes:
        dim, axes: number and names of the coordinates.
        diffusivity: D in length^2 / time.
        parameters: name -> true value of what the estimators have to find.
        terms: the drift as :class:`snapdyn.drifts.AffineDrift` in those parameters.
        box: ``((from, to), (from, to))`` that holds all of the law but 1e-5 or less, of a planar system; None for
            others.
    """

    axes: tuple
    diffusivity: float
    parameters: dict
    terms: drifts.AffineDrift
    has_density = False
    box = None

    @property
    def dim(self):
        return len(self.axes)

    @property
    def truth(self):
        """The parameters as a vector ``(count,)``."""
        return torch.tensor(list(self.parameters.values()), dtype=torch.float64)

    def rate(self, x: Tensor, out: Tensor) -> None:
        """Write f of states laid out one component a row, ``(dim, n)``, into ``out``: the inner loop of simulations."""
        raise NotImplementedError

    def drift(self, t, x: Tensor) -> Tensor:
        """f(x) ``(n, dim)``; the systems here do not depend on ``t``."""
        return self.terms(self.truth.to(x), x)

    def divergence(self, t, x: Tensor) -> Tensor:
        """div f(x) ``(n,)``."""
        return self.terms.divergence(self.truth.to(x), x)

    def log_prob(self, t, x: Tensor) -> Tensor:
        """Stationary log-density ``(n,)`` in nats, where ``has_density``."""
        raise NotImplementedError(f"{type(self).__name__} has no stationary density in closed form")

    def score(self, t, x: Tensor) -> Tensor:
        """grad log p ``(n, dim)`` of the stationary density."""
        x = x.detach().requires_grad_()
        return torch.autograd.grad(self.log_prob(t, x).sum(), x)[0]

    def sample(self, n, rng) -> np.ndarray:
        """``n`` exact independent draws ``(n, dim)`` from the stationary density, where ``has_density``."""
        raise NotImplementedError(f"{type(self).__name__} has no exact sampler: simulate it")

    def initial(self, n, generator, device) -> Tensor:
        """Starting states ``(dim, n)`` for a simulation."""
        return torch.randn(self.dim, n, generator=generator, dtype=torch.float64, device=device)


def named(names, fields, divergences, known, known_divergence, dim, *, fixes_clock=False):
    """An AffineDrift from lists of one-field functions of ``x (n, dim)``."""
    return drifts.AffineDrift(
        dim,
        tuple(names),
        ("1/time unit",) * len(names),
        lambda x: torch.stack([field(x) for field in fields], 1),
        lambda x: torch.stack([divergence(x) for divergence in divergences], 1),
        known,
        known_divergence,
        fixes_clock=fixes_clock,
    )


def constant(value):
    return lambda x: torch.full_like(x[:, 0], value)
