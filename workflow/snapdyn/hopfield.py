"""The Hopfield density: patterns stored in an energy, read as a Gaussian mixture whose weights are not free."""

import numpy as np
import torch

from snapdyn import checkpoint, densities
from snapdyn.density_methods import DensityMethod, standardisation

TEMPERATURES = 2.0 ** np.arange(-2, 7)  # inverse ones, among which the rows that are no patterns choose


def mixture(patterns, inverse_temperature, centre, scale):
    r"""The density of a Hopfield network with ``patterns (k, dim)``.

    .. math:: p \propto e^{-\beta E_{hop}}, \quad
              E_{hop}(z) = \tfrac12|z|^2 - \tfrac1\beta\log\sum_k e^{\beta\,Z_k\cdot z}

    which is the mixture of N(Z_k, I / beta) with weights proportional to exp(beta |Z_k|^2 / 2). In standardised
    coordinates z = (x - centre) / scale, so that the unit of an axis changes nothing.

    Returns:
        a :class:`snapdyn.densities.MixtureFlow` without couplings, in the data's coordinates.
    Equation: ``hopfield-density``
    """
    patterns, centre, scale = (torch.as_tensor(value, dtype=torch.float64) for value in (patterns, centre, scale))
    standard = (patterns - centre) / scale
    covariance = torch.diag(scale.square()) / inverse_temperature
    return densities.MixtureFlow.from_mixture(
        patterns, covariance, 0.5 * inverse_temperature * standard.square().sum(1)
    )


def energy(z, patterns, inverse_temperature):
    """E_hop ``(n,)`` at standardised states ``z (n, dim)`` of a network with standardised ``patterns (k, dim)``.

    Equation: ``hopfield-density``
    """
    recalled = (inverse_temperature * z @ patterns.T).logsumexp(1) / inverse_temperature
    return 0.5 * z.square().sum(1) - recalled


def energy_gap(density, x, patterns, inverse_temperature, centre, scale):
    """How far -log p / beta is from E_hop at ``x (n, dim)`` beyond a constant: rounding, if both are right."""
    z, stored = (torch.from_numpy((value - centre) / scale) for value in (x, patterns))
    with torch.no_grad():
        lifted = -density.log_prob(torch.from_numpy(x)) / inverse_temperature
    return float(np.ptp((lifted - energy(z, stored, inverse_temperature)).numpy()))


class Hopfield(DensityMethod):
    """Method ``hopfield``: training rows drawn at random as patterns, one temperature.

    Args:
        patterns: how many rows are stored.
        inverse_temperature: beta, in standardised coordinates; where it is not given, the rows that are no patterns
            choose the likeliest of :data:`TEMPERATURES`.
    """

    def __init__(self, *, patterns=64, inverse_temperature=None, **known):
        super().__init__(**known)
        self.patterns, self.inverse_temperature = patterns, inverse_temperature

    def fit(self, snapshots, *, rng, keep=checkpoint.NOWHERE):
        """Fit on the CPU; see :meth:`snapdyn.density_methods.DensityMethod.fit`."""
        return super().fit(snapshots, rng=rng, keep=keep)

    def estimate(self, x, weight, *, rng, **how):
        centre, scale = standardisation(x, weight)
        count = min(self.patterns, len(x) // 2)
        drawn = rng.choice(len(x), count, replace=False, p=weight / weight.sum())
        others = np.setdiff1d(np.arange(len(x)), drawn)
        rest, shares = torch.from_numpy(x[others]), torch.from_numpy(weight[others])

        def likelihood(beta):
            with torch.no_grad():
                return float(shares @ mixture(x[drawn], beta, centre, scale).log_prob(rest))

        beta = self.inverse_temperature or max(TEMPERATURES.tolist(), key=likelihood)
        density = mixture(x[drawn], beta, centre, scale)
        gap = energy_gap(density, x, x[drawn], beta, centre, scale)
        return density, {"inverse_temperature": beta, "components": count, "energy_gap": gap}, None
