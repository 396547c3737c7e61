r"""Fifteen test potentials with their first and second derivatives, in any number of dimensions; as pair kernels too.

Each is put together from elementwise functions of a few arguments, in one of three ways:

.. math:: \sum_i g(v_i), \qquad \sum_{i<d} h(v_i, v_{i+1}), \qquad f(u_1(v), \dots, u_m(v))

with features u that are means of half of the coordinates or squared distances. Automatic differentiation is left to
the elementwise functions; the rest is written out, so that second derivatives cost a few passes in any dimension.
Where a function has a kink, its derivatives there are finite: those of one side, or 0.

Arguments are tensors or numpy arrays ``(..., dim)``, and answers are of the same kind.

Equation: ``test-potentials``
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor


def _where_not(singular, x, function):
    """``function(x)``, but 0 with derivatives 0 where ``singular``: what would be NaN or infinite there."""
    return torch.where(singular, 0.0, function(torch.where(singular, 1.0, x)))


def _power_of_size(x, power):
    """|x|^power; its slope at 0 is 0, and its second derivative, which is infinite there, counts as 0."""
    return _where_not(x == 0, x, lambda x: x.abs() ** power)


def _root(square):
    return _where_not(square == 0, square, torch.sqrt)


def _angle(x, y):
    """The angle of (x, y) between -pi and pi; with derivatives 0 at the origin."""
    origin = (x == 0) & (y == 0)
    return torch.where(origin, 0.0, torch.atan2(y, torch.where(origin, 1.0, x)))


def _styblinski_tang(v):
    return 0.5 * (v**4 - 16 * v**2 + 5 * v)


def _flowers(v):
    return v + 2 * torch.sin(_power_of_size(v, 1.2))


def _oakley_ohagan(v):
    return 5 * (torch.sin(v) + torch.cos(v) + v**2 + v)


def _wavy_plateau(v):
    return torch.cos(torch.pi * v) + 0.5 * v**4 - 3 * v**2 + 1


def _relu(v):
    return -50 * torch.relu(v)


def _sphere(v):
    return -10 * v**2


def _flat(v):
    return 0 * v


def _watershed(v, following):
    return 0.1 * (v + v**2 * (following + 4))


def _zigzag_ridge(v, following):
    return (v - following) ** 2 + torch.cos(v) * (v + following) + v**2 * following


def _holder_table(first, second, square):
    return 10 * (torch.sin(first) * torch.cos(second) * torch.exp((1 - _root(square) / torch.pi).abs())).abs()


def _ishigami(first, second):
    return torch.sin(first) + 7 * torch.sin(second) ** 2 + 0.1 * ((first + second) / 2) ** 4 * torch.sin(first)


def _friedman(first, second):
    a, b = 2 * (first - 7), second - 7
    squares = 20 * (a * torch.sin(b) - 0.5) ** 2 + 10 * (a * torch.cos(b) - 1) ** 2
    return 0.01 * (10 * torch.sin(torch.pi * a * b) + squares + 0.1 * b * torch.sin(a))


def _bohachevsky(first, second):
    waves = 0.3 * torch.cos(3 * torch.pi * first) + 0.4 * torch.cos(4 * torch.pi * second)
    return 10 * (first**2 + 2 * second**2 - waves)


def _rotational(first, second):
    return -500 * torch.relu(_angle(first + 5, second + 5) + torch.pi)


def _double_exponential(right, left):
    return 200 * (torch.exp(-right / 20) + torch.exp(-left / 20))


def _elementwise(function, arguments, order):
    """Value and derivatives up to ``order`` of an elementwise function of tensors of one shape.

    Returns:
        the value, then the slopes by each argument, then a mapping ``(i, j) -> second derivative`` for i <= j.
    """
    with torch.enable_grad():
        leaves = [argument.detach().requires_grad_() for argument in arguments]
        value = function(*leaves)
        found = [value.detach()]
        if order >= 1:
            slopes = _slopes(value, leaves, again=order > 1)
            found.append([slope.detach() for slope in slopes])
        if order >= 2:
            rows = [_slopes(slope, leaves) for slope in slopes]
            count = range(len(leaves))
            found.append({(i, j): rows[i][j].detach() for i in count for j in count if i <= j})
    return found


def _slopes(value, leaves, again=False):
    if not value.requires_grad:  # it does not depend on any of them
        return [torch.zeros_like(leaf) for leaf in leaves]
    slopes = torch.autograd.grad(value.sum(), leaves, create_graph=again, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(leaf) if slope is None else slope for slope, leaf in zip(slopes, leaves, strict=True)]


class Potential:
    """A scalar function of points with its derivatives.

    Args:
        name: of :data:`POTENTIALS`.
        function: the elementwise function that it is made of.
    """

    least_dim = 1

    def __init__(self, name, function):
        self.name, self.function = name, function

    def value(self, x):
        """V ``(...)`` at ``x (..., dim)``, in length^2 / time."""
        return _as_given(x, lambda x: self._value(self._checked(x)))

    def gradient(self, x):
        """grad V ``(..., dim)``."""
        return _as_given(x, lambda x: self._gradient(self._checked(x)))

    def hessian(self, x):
        """grad V ``(..., dim)`` and the second derivatives ``(..., dim, dim)``."""
        return _as_given(x, lambda x: self._hessian(self._checked(x)))

    def _checked(self, x):
        if x.ndim < 1 or x.shape[-1] < self.least_dim:
            raise ValueError(
                f"{self.name} is defined for points (..., dim) with dim >= {self.least_dim}, got shape {tuple(x.shape)}"
            )
        return x


class _Sum(Potential):
    """sum_i g(v_i)."""

    def _value(self, x):
        return self.function(x).sum(-1)

    def _gradient(self, x):
        return _elementwise(self.function, [x], 1)[1][0]

    def _hessian(self, x):
        _, (slope,), second = _elementwise(self.function, [x], 2)
        return slope, torch.diag_embed(second[0, 0])


class _Chain(Potential):
    """sum_i h(v_i, v_{i+1})."""

    least_dim = 2

    def _value(self, x):
        return self.function(x[..., :-1], x[..., 1:]).sum(-1)

    def _gradient(self, x):
        return self._spread(x, _elementwise(self.function, [x[..., :-1], x[..., 1:]], 1)[1])

    def _hessian(self, x):
        _, slopes, second = _elementwise(self.function, [x[..., :-1], x[..., 1:]], 2)
        beside = torch.diag_embed(second[0, 1], offset=1)
        matrix = torch.diag_embed(self._spread(x, [second[0, 0], second[1, 1]]))
        return self._spread(x, slopes), matrix + beside + beside.transpose(-1, -2)

    @staticmethod
    def _spread(x, parts):
        """What each link gives to its two ends, summed for each coordinate."""
        total = torch.zeros_like(x)
        total[..., :-1] += parts[0]
        total[..., 1:] += parts[1]
        return total


def _half(x, which):
    """Mean of the first floor(d / 2) coordinates or of the others; its gradient; it has no second derivatives."""
    middle = x.shape[-1] // 2
    part = slice(None, middle) if which == 0 else slice(middle, None)
    slope = torch.zeros_like(x)
    slope[..., part] = 1 / x[..., part].shape[-1]
    return x[..., part].mean(-1), slope, 0.0


def _square(x, centre):
    """|x - centre|^2, its gradient, and the factor of the unit matrix in its second derivatives."""
    return (x - centre).square().sum(-1), 2 * (x - centre), 2.0


class _Features(Potential):
    """f(u_1(v), ..), where features are functions ``x -> value, gradient, curvature``."""

    def __init__(self, name, function, features, least_dim=2):
        super().__init__(name, function)
        self.features, self.least_dim = features, least_dim

    def _value(self, x):
        return self.function(*(feature(x)[0] for feature in self.features))

    def _gradient(self, x):
        values, directions, _ = zip(*(feature(x) for feature in self.features), strict=True)
        _, slopes = _elementwise(self.function, values, 1)
        return sum(slope[..., None] * direction for slope, direction in zip(slopes, directions, strict=True))

    def _hessian(self, x):
        values, directions, curvatures = zip(*(feature(x) for feature in self.features), strict=True)
        _, slopes, second = _elementwise(self.function, values, 2)
        gradient, matrix = torch.zeros_like(x), 0.0
        for slope, direction, curvature in zip(slopes, directions, curvatures, strict=True):
            gradient = gradient + slope[..., None] * direction
            matrix = matrix + (curvature * slope)[..., None, None] * torch.eye(x.shape[-1]).to(x)
        for (i, j), weight in second.items():
            outer = directions[i][..., :, None] * directions[j][..., None, :]
            matrix = matrix + weight[..., None, None] * (outer if i == j else outer + outer.transpose(-1, -2))
        return gradient, matrix


class Even:
    r"""The even part of a potential, as the kernel of an interaction: only it has an energy.

    .. math:: W_s(z) = \tfrac12 (W(z) + W(-z))

    Equation: ``even-kernel``
    """

    def __init__(self, potential):
        self.potential, self.name = potential, potential.name

    def value(self, x):
        """W_s ``(...)`` at differences ``x (..., dim)``."""
        return 0.5 * (self.potential.value(x) + self.potential.value(-x))

    def gradient(self, x):
        """grad W_s ``(..., dim)``; 0 at 0."""
        return 0.5 * (self.potential.gradient(x) - self.potential.gradient(-x))

    def hessian(self, x):
        """grad W_s ``(..., dim)`` and the second derivatives ``(..., dim, dim)``."""
        (slope, matrix), (turned, other) = self.potential.hessian(x), self.potential.hessian(-x)
        return 0.5 * (slope - turned), 0.5 * (matrix + other)


def _as_given(x, function):
    """``function`` of a tensor, for a tensor or an array; the answer is of the same kind."""
    if isinstance(x, Tensor):
        return function(x)
    answer = function(torch.from_numpy(np.asarray(x, dtype=np.float64)))
    return tuple(part.numpy() for part in answer) if isinstance(answer, tuple) else answer.numpy()


HALVES = (partial(_half, which=0), partial(_half, which=1))

# in the order of the paper's list
_LISTED = (
    _Sum("styblinski-tang", _styblinski_tang),
    _Features("holder-table", _holder_table, (*HALVES, partial(_square, centre=0.0))),
    _Sum("flowers", _flowers),
    _Sum("oakley-ohagan", _oakley_ohagan),
    _Chain("watershed", _watershed),
    _Features("ishigami", _ishigami, HALVES),
    _Features("friedman", _friedman, HALVES),
    _Sum("sphere", _sphere),
    _Features("bohachevsky", _bohachevsky, HALVES),
    _Sum("wavy-plateau", _wavy_plateau),
    _Chain("zigzag-ridge", _zigzag_ridge),
    _Features(
        "double-exponential", _double_exponential, (partial(_square, centre=3.0), partial(_square, centre=-3.0)), 1
    ),
    _Sum("relu", _relu),
    _Features("rotational", _rotational, HALVES),
    _Sum("flat", _flat),
)
POTENTIALS = {potential.name: potential for potential in _LISTED}
HARD = ("flowers", "friedman", "ishigami", "wavy-plateau", "watershed", "zigzag-ridge")


def build(name):
    """The potential of a name of :data:`POTENTIALS`.

    Raises:
        ValueError: an unknown name, with those that there are.
    """
    if name not in POTENTIALS:
        raise ValueError(f"unknown potential {name!r}; there are {list(POTENTIALS)}")
    return POTENTIALS[name]
