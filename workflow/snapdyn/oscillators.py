"""Planar systems whose noise-free motion runs round a limit cycle."""

import math

import numpy as np
import torch

from snapdyn.system import System, constant, named


class Hopf(System):
    """The Hopf normal form: growth a, saturation b, and a known clockwise turn at angular speed ``turn``.

    The turn runs along the level sets of the density, so the cloud cannot show it; a and b it can.

    Equation: ``hopf-density``
    """

    axes = ("x", "y")
    has_density = True

    def __init__(self, *, diffusivity, growth=1.0, saturation=1.0, turn=1.0):
        if not saturation > 0:
            raise ValueError(f"a law at rest needs saturation > 0, got {saturation}")
        self.diffusivity = diffusivity
        self.parameters = {"growth": growth, "saturation": saturation}
        self.turn = turn

        def square(x):
            return x.square().sum(1)

        self.terms = named(
            self.parameters,
            [lambda x: x, lambda x: -square(x)[:, None] * x],
            [constant(2.0), lambda x: -4 * square(x)],
            lambda x: turn * torch.stack([x[:, 1], -x[:, 0]], 1),
            constant(0.0),
            2,
        )

    def rate(self, state, out):
        x, y = state
        a, b = self.parameters.values()
        radial = a - b * (x * x + y * y)
        torch.mul(x, radial, out=out[0]).add_(y, alpha=self.turn)
        torch.mul(y, radial, out=out[1]).sub_(x, alpha=self.turn)

    @property
    def _square_law(self):
        """r^2 is normal with this mean and standard deviation, cut off at 0."""
        a, b = self.parameters.values()
        return a / b, math.sqrt(2 * self.diffusivity / b)

    @property
    def box(self):
        mean, sd = self._square_law
        edge = math.ceil(2 * math.sqrt(max(mean, 0.0) + 6 * sd)) / 2
        return ((-edge, edge), (-edge, edge))

    def log_prob(self, t, x):
        mean, sd = self._square_law
        above = 0.5 * math.erfc(-mean / sd / math.sqrt(2))
        normaliser = math.log(math.pi * sd * math.sqrt(2 * math.pi) * above)
        return -0.5 * ((x.square().sum(1) - mean) / sd).square() - normaliser

    def sample(self, n, rng):
        from scipy.stats import truncnorm

        mean, sd = self._square_law
        radius = np.sqrt(truncnorm.rvs(-mean / sd, np.inf, mean, sd, size=n, random_state=rng))
        angle = rng.uniform(0, 2 * np.pi, n)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)

    def at_rest(self, n, generator, device):
        """Exact draws as :meth:`sample`, as states ``(2, n)`` from a torch generator."""
        mean, sd = self._square_law
        u, turns = torch.rand(2, n, generator=generator, dtype=torch.float64, device=device)
        uncut = 0.5 * math.erfc(-mean / sd / math.sqrt(2))  # what the normal has above 0
        square = mean - sd * torch.special.ndtri(uncut * (1 - u))
        angle = 2 * math.pi * turns
        return square.clamp_min(0).sqrt() * torch.stack([angle.cos(), angle.sin()])


class VanDerPol(System):
    """The van der Pol oscillator: f = (y, mu (1 - x^2) y - x), the strength mu of its damping unknown.

    Energy comes in where |x| < 1 and is lost elsewhere. The rest of the drift is a known rotation, which is not
    along the level sets of the density, so it sets the clock.

    Equation: ``van-der-pol``
    """

    axes = ("x", "y")

    def __init__(self, *, diffusivity, mu=1.0):
        if not mu > 0:
            raise ValueError(f"without damping there is no law at rest: mu must be above 0, got {mu}")
        self.diffusivity = diffusivity
        self.parameters = {"mu": mu}
        self.terms = named(
            self.parameters,
            [lambda x: torch.stack([torch.zeros_like(x[:, 0]), (1 - x[:, 0].square()) * x[:, 1]], 1)],
            [lambda x: 1 - x[:, 0].square()],
            lambda x: torch.stack([x[:, 1], -x[:, 0]], 1),
            constant(0.0),
            2,
            fixes_clock=True,
        )

    @property
    def box(self):
        """The cycle with room for the noise; None where strong noise leaves no box that holds nearly all.

        Far out the state creeps back along y = -1 / (mu x), so that the density in x falls as the power -1 / (mu D).
        """
        mu = self.parameters["mu"]
        power = 1 / (mu * self.diffusivity)
        if power < 6:
            return None
        noise = math.sqrt(10 * self.diffusivity)
        wide, high = max(2 + 3.5 * noise, 2.4 * 3000 ** (1 / (power - 1))), 3 + 2.5 * mu + noise
        return ((-wide, wide), (-high, high))

    def rate(self, state, out):
        x, y = state
        torch.mul(x, x, out=out[0]).neg_().add_(1).mul_(y).mul_(self.parameters["mu"])
        torch.sub(out[0], x, out=out[1])
        out[0].copy_(y)

    def initial(self, n, generator, device):
        return 1.5 * super().initial(n, generator, device)  # inside and outside of the cycle, whose radius is 2
