"""The registered systems: the drift that we simulate, and the exact answers that we test against."""

import difflib
import math

import numpy as np
import torch
from scipy.linalg import solve_continuous_lyapunov

from snapdyn import drifts
from snapdyn.gene_network import GeneNetwork
from snapdyn.nine_clusters import NineClusters
from snapdyn.oscillators import Hopf, VanDerPol
from snapdyn.system import System, constant, named


class Lorenz(System):
    """The Lorenz system with isotropic noise; sigma, rho and beta unknown.

    Equation: ``lorenz``
    """

    axes = ("x", "y", "z")

    def __init__(self, *, diffusivity, sigma=10.0, rho=28.0, beta=8 / 3):
        self.diffusivity = diffusivity
        self.parameters = {"sigma": sigma, "rho": rho, "beta": beta}

        def field(*columns):
            return lambda x: torch.stack(columns_of(x, columns), 1)

        def columns_of(x, columns):
            return [column(*x.unbind(1)) for column in columns]

        def nothing(x, y, z):
            return torch.zeros_like(x)

        self.terms = named(
            self.parameters,
            [
                field(lambda x, y, z: y - x, nothing, nothing),
                field(nothing, lambda x, y, z: x, nothing),
                field(nothing, nothing, lambda x, y, z: -z),
            ],
            [constant(-1.0), constant(0.0), constant(-1.0)],
            field(nothing, lambda x, y, z: -y - x * z, lambda x, y, z: x * y),
            constant(-1.0),
            3,
            fixes_clock=True,
        )

    def rate(self, state, out):
        (x, y, z), (dx, dy, dz) = state.unbind(), out.unbind()
        sigma, rho, beta = self.parameters.values()
        torch.sub(y, x, out=dx).mul_(sigma)
        torch.sub(rho, z, out=dy).mul_(x).sub_(y)
        torch.mul(x, y, out=dz).sub_(z, alpha=beta)

    def initial(self, n, generator, device):
        spread = torch.tensor([[8.0], [9.0], [8.0]], dtype=torch.float64, device=device)
        centre = torch.tensor([[0.0], [0.0], [24.0]], dtype=torch.float64, device=device)
        return centre + spread * super().initial(n, generator, device)


class OrnsteinUhlenbeck(System):
    """A linear system with rotation: f = -(S - R) x, S symmetric and unknown, R antisymmetric and known.

    The whole matrix cannot be told from a stationary cloud: adding a field that circulates along the level
    sets of the density changes nothing. With R given, S is determined (``ou-stationary``).
    ``S_ij = rate * coupling^|i-j|``, ``R`` has ``rotation`` above its diagonal.

    Equation: ``ou-stationary``
    """

    has_density = True

    def __init__(self, *, diffusivity, dim=2, rate=1.0, coupling=0.4, rotation=0.8):
        if not (rate > 0 and abs(coupling) < 1):
            raise ValueError(f"a law at rest needs rate > 0 and |coupling| < 1, got {rate} and {coupling}")
        self.diffusivity = diffusivity
        self.axes = tuple(f"x{i}" for i in range(dim))
        index = torch.arange(dim)
        symmetric = rate * coupling ** (index[:, None] - index[None, :]).abs().double()
        above = torch.diag(torch.full((dim - 1,), float(rotation), dtype=torch.float64), 1)
        turn = above - above.T
        self.matrix = symmetric - turn
        self.covariance = torch.from_numpy(
            solve_continuous_lyapunov(self.matrix.numpy(), 2 * diffusivity * np.eye(dim))
        )
        pairs = [(i, j) for i in range(dim) for j in range(i, dim)]
        self.parameters = {f"s{i}{j}": float(symmetric[i, j]) for i, j in pairs}
        basis = torch.zeros(len(pairs), dim, dim, dtype=torch.float64)
        for k, (i, j) in enumerate(pairs):
            basis[k, i, j] = basis[k, j, i] = -1.0
        traces = basis.diagonal(dim1=1, dim2=2).sum(1)
        self.terms = drifts.AffineDrift(
            dim,
            tuple(self.parameters),
            ("1/time unit",) * len(pairs),
            lambda x: torch.einsum("kij,nj->nki", basis.to(x), x),
            lambda x: traces.to(x).expand(len(x), -1),
            lambda x: x @ turn.to(x).T,
            constant(0.0),  # R sets no clock: for every D some S has the same covariance
        )

    def rate(self, x, out):
        torch.mm(-self.matrix.to(x), x, out=out)

    @property
    def box(self):
        edges = 6 * self.covariance.diagonal().sqrt()
        return tuple((-edge, edge) for edge in edges.tolist()) if self.dim == 2 else None

    def log_prob(self, t, x):
        normal = torch.distributions.MultivariateNormal(
            torch.zeros(self.dim).to(x), covariance_matrix=self.covariance.to(x)
        )
        return normal.log_prob(x)

    def sample(self, n, rng):
        return rng.multivariate_normal(np.zeros(self.dim), self.covariance.numpy(), n, method="cholesky")


class DoubleWell(System):
    """Two wells along x, a parabola along y: f = (a x - b x^3, -c y), the gradient of a potential.

    Equation: ``double-well-density``
    """

    axes = ("x", "y")
    has_density = True

    def __init__(self, *, diffusivity, slope=1.0, barrier=1.0, stiffness=1.0):
        if not (barrier > 0 and stiffness > 0):
            raise ValueError(f"a law at rest needs barrier and stiffness above 0, got {barrier} and {stiffness}")
        self.diffusivity = diffusivity
        self.parameters = {"slope": slope, "barrier": barrier, "stiffness": stiffness}

        def along(x_part=None, y_part=None):
            def field(x):
                zero = torch.zeros_like(x[:, 0])
                parts = (x_part(x[:, 0]) if x_part else zero, y_part(x[:, 1]) if y_part else zero)
                return torch.stack(parts, 1)

            return field

        self.terms = named(
            self.parameters,
            [along(lambda x: x), along(lambda x: -(x**3)), along(None, lambda y: -y)],
            [constant(1.0), lambda x: -3 * x[:, 0].square(), constant(-1.0)],
            torch.zeros_like,
            constant(0.0),
            2,
        )

    def rate(self, state, out):
        x, y = state
        a, b, c = self.parameters.values()
        torch.mul(x, x, out=out[0]).mul_(-b).add_(a).mul_(x)
        torch.mul(y, -c, out=out[1])

    def potential(self, t, x):
        """V with f = -grad V ``(n,)``, in length^2 / time."""
        a, b, c = self.parameters.values()
        return -a * x[:, 0] ** 2 / 2 + b * x[:, 0] ** 4 / 4 + c * x[:, 1] ** 2 / 2

    @property
    def box(self):
        a, b, c = self.parameters.values()
        wide = math.sqrt(max(a / b + math.sqrt(72 * self.diffusivity / b), 0.0))
        high = 6 * math.sqrt(self.diffusivity / c)
        return ((-wide, wide), (-high, high))

    def _grid(self):
        a, b, _ = self.parameters.values()
        edge = math.sqrt(max(a, 0.0) / b) + 6 * self.diffusivity**0.25 / b**0.25 + 1
        return np.linspace(-edge, edge, 20001)

    def _weights(self, grid):
        a, b, _ = self.parameters.values()
        return np.exp((a * grid**2 / 2 - b * grid**4 / 4 - a * a / (4 * b)) / self.diffusivity)

    def log_prob(self, t, x):
        a, b, c = self.parameters.values()
        grid = self._grid()
        mass = np.trapezoid(self._weights(grid), grid) * math.sqrt(2 * math.pi * self.diffusivity / c)
        return -(self.potential(t, x) + a * a / (4 * b)) / self.diffusivity - math.log(mass)

    def sample(self, n, rng):
        grid = self._grid()
        below = np.cumsum(self._weights(grid))
        x = np.interp(rng.uniform(size=n), below / below[-1], grid)
        return np.stack([x, rng.normal(0, math.sqrt(self.diffusivity / self.parameters["stiffness"]), n)], 1)


SYSTEMS = {
    "lorenz": Lorenz,
    "ornstein-uhlenbeck": OrnsteinUhlenbeck,
    "hopf": Hopf,
    "double-well": DoubleWell,
    "gene-network": GeneNetwork,
    "van-der-pol": VanDerPol,
    "nine-clusters": NineClusters,
}


def of(about):
    """The system that simulated snapshots come from.

    Args:
        about: ``system`` of their metadata.
    """
    return build(about["system"], diffusivity=about["diffusivity"], **about.get("options", {}))


def build(name, **parameters):
    """The registered system ``name`` with these parameters.

    Raises:
        ValueError: unknown name or parameter (with the nearest one), or a diffusivity that is not positive.
    """
    if name not in SYSTEMS:
        near = difflib.get_close_matches(name, SYSTEMS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown system {name!r}{hint} (known: {list(SYSTEMS)})")
    cls = SYSTEMS[name]
    allowed = list(cls.__init__.__kwdefaults__ or {})
    parameters = {"diffusivity": 1.0, **parameters}
    if "dim" not in allowed:
        parameters.pop("dim", None)
    unknown = sorted(set(parameters) - {"diffusivity", *allowed})
    if unknown:
        near = [match for key in unknown for match in difflib.get_close_matches(key, allowed, 1)]
        hint = f"; did you mean {', '.join(map(repr, near))}?" if near else ""
        raise ValueError(f"system {name!r} has no parameters {unknown}{hint}; it takes {['diffusivity', *allowed]}")
    if not parameters["diffusivity"] > 0:
        raise ValueError(f"diffusivity must be above 0, got {parameters['diffusivity']}")
    return cls(**parameters)
