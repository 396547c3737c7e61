r"""A potential that is linear in its unknowns: monomials and Gaussian bumps on a grid, with their derivatives.

Both families are products of functions of one axis each, so all derivatives are products of the tables of the axes.
In coordinates in which the box of the features is [-4, 4]^d,

.. math:: \phi_e(u) = \prod_i u_i^{e_i}, \quad 0 \le e_i \le p, \qquad \phi_c(u) = e^{-|u - c|^2 / \sigma}

Equation: ``linear-energy``
"""

import torch
from torch import Tensor, nn

REACH = 4.0  # the box of the features in their own coordinates is [-REACH, REACH]^d
LIMIT = 2500  # features: the normal equations of more take minutes
ENTRIES = 2**23  # numbers of one block


def count(dim, degree, grid):
    """How many features there are in ``dim`` dimensions: (degree + 1)^dim - 1 + grid^dim."""
    return (degree + 1) ** dim - 1 + grid**dim


def require_few(dim, degree, grid):
    """Raise where there are more than :data:`LIMIT` features, and say which would be few enough."""
    if count(dim, degree, grid) <= LIMIT:
        return
    grids = [g for g in range(grid + 1) if g != 1]  # a single bump is no family
    fitting = [(d, g) for d in range(degree + 1) for g in grids if 0 < count(dim, d, g) <= LIMIT]
    most = max((d for d, _ in fitting), default=0)
    finest = max((g for _, g in fitting), default=0)
    says = [f"degree: {most}, grid: {max(g for d, g in fitting if d == most)}"] if most else []
    says += [f"degree: {max(d for d, g in fitting if g == finest)}, grid: {finest}"] if finest else []
    raise ValueError(
        f"monomials of degree {degree} an axis and {grid} bumps an axis are {count(dim, degree, grid)} features in "
        f"{dim} dimensions, above {LIMIT}; {' or '.join(dict.fromkeys(says)) or 'nothing'} would fit; in many "
        "dimensions take networks, as the method jkonet-star-v does"
    )


class FeaturePotential(nn.Module):
    """Sums of features, one for each member; points ``(members, n, dim)`` in, as a network of one output.

    Args:
        low, high: corners of the box of the features ``(members, dim)``.
        degree: highest power of an axis; 0 for no monomials.
        grid: bumps along an axis; 0 for none.
        width: sigma of the bumps in the features' own coordinates, in which the box is [-4, 4]^d.
        coefficients: ``(members, count)``, first the monomials, then the bumps; zero if left out.
    Equation: ``linear-energy``
    """

    family = "features"

    def __init__(self, low, high, *, degree=4, grid=10, width=0.5, coefficients=None):
        super().__init__()
        low, high = (torch.as_tensor(value, dtype=torch.float64) for value in (low, high))
        if not (high > low).all():
            raise ValueError(f"expected a box with low < high along every axis, got {low.tolist()} to {high.tolist()}")
        self.inputs, self.degree, self.grid, self.width = low.shape[1], degree, grid, width
        require_few(self.inputs, degree, grid)
        self.register_buffer("low", low)
        self.register_buffer("high", high)
        self.register_buffer("slope", 2 * REACH / (high - low))  # du / dx
        empty = torch.zeros(len(low), count(self.inputs, degree, grid), dtype=torch.float64)
        self.coefficients = nn.Parameter(empty if coefficients is None else coefficients.to(empty))

    @property
    def members(self):
        return len(self.low)

    def tables(self, x: Tensor):
        """For monomials and for bumps, the functions of each axis and their first two derivatives by x.

        Returns:
            a list of one or two tensors ``(3, members, n, dim, number)``.
        """
        u = (x.to(self.low) - self.low[:, None]) * self.slope[:, None] - REACH
        u, by = u[..., None], self.slope[:, None, :, None]
        found = []
        if self.degree:
            power = torch.arange(self.degree + 1).to(u)
            value = u**power
            first = power * u ** (power - 1).clamp_min(0)
            second = power * (power - 1) * u ** (power - 2).clamp_min(0)
            found.append(torch.stack([value, by * first, by**2 * second]))
        if self.grid:
            centres = torch.linspace(-REACH, REACH, self.grid).to(u) if self.grid > 1 else torch.zeros(1).to(u)
            away = u - centres
            value = (-away.square() / self.width).exp()
            first = -2 / self.width * away * value
            second = (4 / self.width**2 * away.square() - 2 / self.width) * value
            found.append(torch.stack([value, by * first, by**2 * second]))
        return found

    def joined(self, products):
        """Features of both families after one another, without the constant monomial."""
        parts = list(products)
        if self.degree:
            parts[0] = parts[0][..., 1:]
        return torch.cat(parts, -1)

    def design(self, x: Tensor) -> Tensor:
        """grad of every feature ``(members, n, dim, count)``."""
        tables = self.tables(x)
        return torch.stack([self._features(tables, [int(a == i) for a in range(self.inputs)]) for i in self._axes], 2)

    @property
    def _axes(self):
        return range(self.inputs)

    def _features(self, tables, orders):
        """All features, differentiated ``orders[i]`` times along axis i: ``(members, n, count)``."""
        return self.joined(outer([table[o, ..., i, :] for i, o in enumerate(orders)]) for table in tables)

    def _summed(self, x, several):
        """The potential differentiated as each of ``several`` orders says ``(members, n, len(several))``."""
        rows = max(1, ENTRIES // (x.shape[0] * self.coefficients.shape[1]))
        parts = []
        for part in x.split(rows, 1):
            tables = self.tables(part)
            sums = [self._features(tables, orders) @ self.coefficients[..., None] for orders in several]
            parts.append(torch.cat(sums, -1))
        return torch.cat(parts, 1).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Values ``(members, n, 1)`` at ``x (members, n, dim)``."""
        return self._summed(x, [[0] * self.inputs])

    def gradient(self, x: Tensor, dim=None) -> Tensor:
        """``(members, n, dim)``."""
        return self._summed(x, [[int(a == i) for a in self._axes] for i in self._axes[:dim]])

    def hessian(self, x: Tensor, dim=None) -> tuple[Tensor, Tensor]:
        """Gradient ``(members, n, dim)`` and second derivatives ``(members, n, dim, dim)``."""
        axes = self._axes[:dim]
        pairs = [[int(a == i) + int(a == j) for a in self._axes] for i in axes for j in axes]
        return self.gradient(x, dim), self._summed(x, pairs).unflatten(-1, (len(axes), len(axes)))

    def state(self):
        """Constructor arguments, as tensors and plain values."""
        kept = {"family": self.family, "degree": self.degree, "grid": self.grid, "width": self.width}
        rows = {"low": self.low, "high": self.high, "coefficients": self.coefficients}
        return kept | {name: value.detach().cpu().clone() for name, value in rows.items()}

    @classmethod
    def from_state(cls, state):
        return cls(**{name: value for name, value in state.items() if name != "family"})

    def member(self, place):
        """One of the potentials, as a stack of one."""
        state = self.state()
        rows = {name: state[name][place : place + 1] for name in ("low", "high", "coefficients")}
        return FeaturePotential.from_state(state | rows)

    def scaled(self, factor):
        """The potentials times a number."""
        state = self.state()
        return FeaturePotential.from_state(state | {"coefficients": factor * state["coefficients"]})


def outer(tables):
    """Products of one function of each table ``(.., number)``, the last axis fastest: ``(.., number^dim)``."""
    found = tables[0]
    for table in tables[1:]:
        found = (found[..., None] * table[..., None, :]).flatten(-2)
    return found
