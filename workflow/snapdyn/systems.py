"""Systems with a known law: the drift that we simulate, and the exact answers that we test against.

A system is dX = f(X) dt + sqrt(2 D) dW (label ``sde``). It carries its drift as an affine function of its
parameters, its divergence and, where there is one, its stationary density.
"""

import difflib
import math

import numpy as np
import torch
from scipy.linalg import solve_continuous_lyapunov
from torch import Tensor

from snapdyn import drifts


class System:
    """Base of all systems.

    Attributes:
        dim, axes: number and names of the coordinates.
        diffusivity: D in length^2 / time.
        parameters: name -> true value of what the estimators have to find.
        terms: the drift as :class:`snapdyn.drifts.AffineDrift` in those parameters.
    """

    axes: tuple
    diffusivity: float
    parameters: dict
    terms: drifts.AffineDrift
    has_density = False

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


def _named(names, fields, divergences, known, known_divergence, dim, *, fixes_clock=False):
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


def _constant(value):
    return lambda x: torch.full_like(x[:, 0], value)


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

        self.terms = _named(
            self.parameters,
            [
                field(lambda x, y, z: y - x, nothing, nothing),
                field(nothing, lambda x, y, z: x, nothing),
                field(nothing, nothing, lambda x, y, z: -z),
            ],
            [_constant(-1.0), _constant(0.0), _constant(-1.0)],
            field(nothing, lambda x, y, z: -y - x * z, lambda x, y, z: x * y),
            _constant(-1.0),
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
            _constant(0.0),  # R sets no clock: for every D some S has the same covariance
        )

    def rate(self, x, out):
        torch.mm(-self.matrix.to(x), x, out=out)

    def log_prob(self, t, x):
        normal = torch.distributions.MultivariateNormal(
            torch.zeros(self.dim).to(x), covariance_matrix=self.covariance.to(x)
        )
        return normal.log_prob(x)

    def sample(self, n, rng):
        return rng.multivariate_normal(np.zeros(self.dim), self.covariance.numpy(), n, method="cholesky")


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

        self.terms = _named(
            self.parameters,
            [lambda x: x, lambda x: -square(x)[:, None] * x],
            [_constant(2.0), lambda x: -4 * square(x)],
            lambda x: turn * torch.stack([x[:, 1], -x[:, 0]], 1),
            _constant(0.0),
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

        self.terms = _named(
            self.parameters,
            [along(lambda x: x), along(lambda x: -(x**3)), along(None, lambda y: -y)],
            [_constant(1.0), lambda x: -3 * x[:, 0].square(), _constant(-1.0)],
            torch.zeros_like,
            _constant(0.0),
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


SYSTEMS = {
    "lorenz": Lorenz,
    "ornstein-uhlenbeck": OrnsteinUhlenbeck,
    "hopf": Hopf,
    "double-well": DoubleWell,
    "gene-network": GeneNetwork,
}


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
