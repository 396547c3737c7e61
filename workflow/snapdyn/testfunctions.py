"""Test functions of the weak form: smooth functions with the derivatives that the generator needs.

Each kind is an object with ``count`` and

    ``__call__(x (n, dim), noise=None) -> value (n, count), gradient (n, dim, count), second (n, count)``

where ``second`` = sum_ij noise_ij d_i d_j phi for a symmetric matrix ``noise (dim, dim)``; without one it is the
identity, which makes ``second`` the Laplacian.
"""

import torch
from torch import Tensor

from snapdyn import drifts


def _checked(x, noise, dim):
    if x.ndim != 2 or x.shape[1] != dim:
        raise ValueError(f"expected points (n, {dim}), got {tuple(x.shape)}")
    if noise is not None and noise.shape != (dim, dim):
        raise ValueError(f"expected a noise matrix ({dim}, {dim}), got {tuple(noise.shape)}")


def _take(values, columns):
    """``values[:, columns]`` for ``values (n, any)``; several times as fast as indexing."""
    return values.gather(1, columns.expand(len(values), -1))


class MonomialTable:
    """Values of all monomials up to a degree, in the order of :func:`snapdyn.drifts.exponents`.

    Every monomial is one of the degree below times a coordinate, so each costs one product.
    """

    def __init__(self, dim, degree):
        everything = drifts.exponents(dim, degree)
        place = {powers: column for column, powers in enumerate(everything)}
        self.levels = []
        for total in range(1, degree + 1):
            level = [powers for powers in everything if sum(powers) == total]
            axes = [next(j for j in range(dim) if powers[j]) for powers in level]
            below = [place[(*p[:j], p[j] - 1, *p[j + 1 :])] for p, j in zip(level, axes, strict=True)]
            self.levels.append((torch.tensor(below), torch.tensor(axes)))
        self.count = len(everything)

    def __call__(self, z: Tensor):
        """``(n, count)``, the constant first."""
        table = torch.ones(len(z), self.count).to(z)
        start = 1
        for below, axes in self.levels:
            out = table[:, start : start + len(below)]
            torch.mul(_take(table, below.to(z.device)), _take(z, axes.to(z.device)), out=out)
            start += len(below)
        return table


class Monomials:
    """Monomials of standardised coordinates up to a degree, the constant left out.

    Args:
        x: points ``(n, dim)`` whose means and standard deviations standardise the coordinates.
        degree: highest total degree.

    Attributes:
        powers: exponents ``(count, dim)``.
        centre, scale: the standardisation ``(dim,)``.
    """

    def __init__(self, x: Tensor, degree: int):
        if degree < 1:
            raise ValueError(f"monomials need a degree of at least 1, got {degree}")
        self.centre, self.scale = x.mean(0), x.std(0)
        everything, dim = drifts.exponents(x.shape[1], degree), x.shape[1]
        self.powers = torch.tensor(everything[1:], device=x.device)
        # Every derivative of a monomial is a monomial of lower degree: all of it is columns of one table of values.
        self.table = MonomialTable(dim, degree)
        place = {powers: column for column, powers in enumerate(everything)}

        def derivatives(*axes):
            """Factor and column of the derivative of each monomial by ``axes``."""
            found = []
            for powers in everything[1:]:
                factor, lowered = 1, list(powers)
                for j in axes:
                    factor *= lowered[j]
                    lowered[j] -= 1
                found.append((factor, place[tuple(lowered)] if factor else 0))
            return list(zip(*found, strict=True))

        def tensors(pairs):
            factors, columns = zip(*pairs, strict=True)
            return torch.tensor(factors, dtype=x.dtype, device=x.device), torch.tensor(columns, device=x.device)

        slopes, self._slope_columns = tensors([derivatives(j) for j in range(dim)])
        self._slopes = slopes / self.scale[:, None]
        bends, self._bend_columns = tensors([derivatives(i, j) for i in range(dim) for j in range(dim)])
        self._bends = bends / torch.outer(self.scale, self.scale).view(-1, 1)
        self._low = sum(sum(powers) <= max(degree - 2, 0) for powers in everything)

    @property
    def count(self):
        return len(self.powers)

    def _contraction(self, noise):
        """``second`` of each monomial as a combination of the lower ones, in a column: ``(lower, count)``."""
        dim = len(self.scale)
        if noise is None:
            noise = torch.eye(dim)
        weights = self._bends * noise.to(self._bends).reshape(-1, 1)
        return torch.zeros(self._low, self.count).to(weights).scatter_add_(0, self._bend_columns, weights)

    def __call__(self, x: Tensor, noise: Tensor | None = None):
        _checked(x, noise, self.powers.shape[1])
        z = (x - self.centre) / self.scale
        table = self.table(z)
        gradient = _take(table, self._slope_columns.flatten()).view(*z.shape, self.count).mul_(self._slopes)
        return table[:, 1:], gradient, table[:, : self._low] @ self._contraction(noise)


class Gaussians:
    """Gaussian bumps exp(-sum_j (x - c)_j^2 / (2 h_j^2)), one at each centre.

    Args:
        centres: points ``(count, dim)``.
        width: h in the units of the coordinates, a number or one for each axis ``(dim,)``.
    """

    def __init__(self, centres: Tensor, width):
        width = torch.as_tensor(width).to(centres)
        if width.ndim > 1 or (width.ndim and len(width) != centres.shape[1]) or not (width > 0).all():
            raise ValueError(
                f"expected one positive width or one for each of {centres.shape[1]} axes, got {width.tolist()}"
            )
        self.centres, self.width = centres, width.expand(centres.shape[1])

    @classmethod
    def drawn(cls, x: Tensor, count: int, width, rng):
        """Bumps at ``count`` different points of ``x (n, dim)``, chosen by the numpy generator ``rng``."""
        if not 1 <= count <= len(x):
            raise ValueError(f"cannot draw {count} different centres from {len(x)} points")
        chosen = torch.from_numpy(rng.choice(len(x), count, replace=False)).to(x.device)
        return cls(x[chosen], width)

    @property
    def count(self):
        return len(self.centres)

    def __call__(self, x: Tensor, noise: Tensor | None = None):
        _checked(x, noise, self.centres.shape[1])
        noise = torch.eye(x.shape[1]) if noise is None else noise
        inverse = 1 / self.width
        # u = (x - c) / h; with v_j = u_j / h_j, grad phi = -v phi and second = (v . noise v - sum_j noise_jj/h_j^2) phi
        steps = (x * inverse)[:, :, None] - (self.centres * inverse).T
        value = steps.square().sum(1).mul_(-0.5).exp_()
        noise = noise.to(x) * torch.outer(inverse, inverse)
        if (noise == noise.diag().diag()).all():
            second = (steps.square() * noise.diag()[:, None]).sum(1)
        else:
            second = (steps * torch.einsum("ij,njk->nik", noise, steps)).sum(1)
        second.sub_(noise.trace()).mul_(value)
        gradient = steps.mul_(-inverse[:, None]).mul_(value[:, None])
        return value, gradient, second


class PhaseModes:
    """Monomials of some axes times angular modes of some planes.

    The monomials are those of :class:`Monomials` on ``axes``. Their factors are 1 and, for each phase
    phi = atan2(x_second, x_first) and k = 1 .. ``harmonics``, cos(2 k phi) and sin(2 k phi): even modes, because a
    drift that depends on the phase through squares shows nothing in the odd ones. No products of two phases, and
    no modes without a monomial. Not defined where a plane's two coordinates are both zero.

    Args:
        x: points ``(n, dim)``.
        degree, harmonics: highest degree of the monomials, and highest k.
        axes: indices of the axes of the monomials.
        phases: pairs (first, second) of indices of the planes.
    """

    def __init__(self, x: Tensor, degree: int, harmonics: int, *, axes, phases):
        self.dim, self.harmonics = x.shape[1], harmonics
        self.axes, self.phases = tuple(axes), tuple(map(tuple, phases))
        taken = [*self.axes, *(i for pair in self.phases for i in pair)]
        if len(set(taken)) < len(taken) or not set(taken) <= set(range(self.dim)):
            raise ValueError(f"axes and phases must be different indices below {self.dim}, got {taken}")
        if harmonics < 1 or any(len(pair) != 2 for pair in self.phases):
            raise ValueError(f"expected pairs of axes and at least one harmonic, got {self.phases} and {harmonics}")
        self.monomials = Monomials(x[:, self.axes], degree)

    @property
    def modes(self):
        """Number of factors of each monomial."""
        return 1 + 2 * self.harmonics * len(self.phases)

    @property
    def count(self):
        return self.monomials.count * self.modes

    def _angular(self, x, noise):
        """Modes of one plane, their gradients, and their second derivatives contracted with ``noise (2, 2)``.

        Returns:
            ``(n, 2 harmonics)``, ``(n, 2, 2 harmonics)`` and ``(n, 2 harmonics)``: cosines, then sines.
        """
        first, second = x.unbind(1)
        q = x.square().sum(1)
        cos, sin = (first - second) * (first + second) / q, 2 * first * second / q
        cosines, sines = [cos], [sin]
        for _ in range(1, self.harmonics):
            cosines.append(cosines[-1] * cos - sines[-1] * sin)
            sines.append(sines[-1] * cos + cosines[-2] * sin)
        value = torch.stack([*cosines, *sines], 1)
        level = 2 * torch.arange(1, self.harmonics + 1).to(x)
        turned = torch.cat([-level * value[:, self.harmonics :], level * value[:, : self.harmonics]], 1)  # d/dphi
        slope = torch.stack([-second, first], 1) / q[:, None]  # grad phi
        gradient = slope[:, :, None] * turned[:, None]
        # Hess T(phi) = T'' grad phi grad phi' + T' Hess phi, and q Hess phi = [[sin, -cos], [-cos, -sin]] of 2 phi
        (a, b), (c, d) = noise
        along = a * slope[:, 0].square() + (b + c) * slope.prod(1) + d * slope[:, 1].square()
        across = ((a - d) * sin - (b + c) * cos) / q
        return value, gradient, across[:, None] * turned - along[:, None] * level.repeat(2).square() * value

    def __call__(self, x: Tensor, noise: Tensor | None = None):
        _checked(x, noise, self.dim)
        noise = (torch.eye(self.dim) if noise is None else noise).to(x)
        n, monomials, own = len(x), self.monomials.count, list(self.axes)
        # the monomials by the modes, with the modes of all planes in one row behind the constant
        base, slope, bend = self.monomials(x[:, own], noise[own][:, own])
        mode, turn = x.new_ones(n, self.modes), x.new_zeros(n, self.dim, self.modes)
        curve = x.new_zeros(n, self.modes)
        for place, pair in enumerate(map(list, self.phases)):
            part = slice(1 + 2 * self.harmonics * place, 1 + 2 * self.harmonics * (place + 1))
            mode[:, part], turn[:, pair, part], curve[:, part] = self._angular(x[:, pair], noise[pair][:, pair])

        value = base[:, :, None] * mode[:, None]
        gradient = x.new_zeros(n, self.dim, monomials, self.modes)
        for place, axis in enumerate(own):
            torch.mul(slope[:, place, :, None], mode[:, None], out=gradient[:, axis])
        for place, pair in enumerate(self.phases):
            part = slice(1 + 2 * self.harmonics * place, 1 + 2 * self.harmonics * (place + 1))
            for axis in pair:
                torch.mul(base[:, :, None], turn[:, axis, None, part], out=gradient[:, axis, :, part])
        second = bend[:, :, None] * mode[:, None]
        second.addcmul_(base[:, :, None], curve[:, None])
        mixed = noise.clone()
        mixed[:, [i for i in range(self.dim) if i not in own]] = 0
        mixed[own] = 0  # what is left joins a plane's axis to a monomial's
        if mixed.any():
            drag = torch.einsum("pm,nmk->npk", mixed[:, own], slope)
            second += 2 * torch.einsum("npk,npl->nkl", drag, turn)
        return value.flatten(1), gradient.flatten(2), second.flatten(1)


class Joined:
    """Several kinds of test functions, one after another."""

    def __init__(self, *kinds):
        self.kinds = kinds

    @property
    def count(self):
        return sum(kind.count for kind in self.kinds)

    def __call__(self, x: Tensor, noise: Tensor | None = None):
        parts = [kind(x, noise) for kind in self.kinds]
        return tuple(torch.cat(values, -1) for values in zip(*parts, strict=True))
