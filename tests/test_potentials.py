"""The test potentials against their formulas written once more, and their derivatives against differences."""

import numpy as np
import pytest
import torch
from numpy import abs as size
from numpy import cos, exp, pi, sin

from snapdyn import potentials

DIMS = (2, 3, 7)


def halves(v):
    middle = len(v) // 2
    return v[:middle].mean(), v[middle:].mean()


def friedman(v):
    z1, z2 = halves(v)
    a, b = 2 * (z1 - 7), z2 - 7
    return (10 * sin(pi * a * b) + 20 * (a * sin(b) - 0.5) ** 2 + 10 * (a * cos(b) - 1) ** 2 + b * sin(a) / 10) / 100


def holder(v):
    z1, z2 = halves(v)
    return 10 * size(sin(z1) * cos(z2) * exp(size(1 - np.linalg.norm(v) / pi)))


def ishigami(v):
    z1, z2 = halves(v)
    return sin(z1) + 7 * sin(z2) ** 2 + 0.1 * ((z1 + z2) / 2) ** 4 * sin(z1)


def bohachevsky(v):
    z1, z2 = halves(v)
    return 10 * (z1**2 + 2 * z2**2 - 0.3 * cos(3 * pi * z1) - 0.4 * cos(4 * pi * z2))


def rotational(v):
    z1, z2 = halves(v)
    return -500 * max(np.arctan2(z2 + 5, z1 + 5) + pi, 0)


def double_exponential(v):
    ones = np.ones(len(v))
    near = [np.linalg.norm(v - shift * ones) ** 2 / 20 for shift in (3, -3)]
    return 200 * (exp(-near[0]) + exp(-near[1]))


def zigzag(v):
    a, b = v[:-1], v[1:]
    return np.sum((a - b) ** 2 + cos(a) * (a + b) + a**2 * b)


# one point (dim,) -> a number
FORMULAS = {
    "styblinski-tang": lambda v: np.sum(v**4 - 16 * v**2 + 5 * v) / 2,
    "holder-table": holder,
    "flowers": lambda v: np.sum(v + 2 * sin(size(v) ** 1.2)),
    "oakley-ohagan": lambda v: 5 * np.sum(sin(v) + cos(v) + v**2 + v),
    "watershed": lambda v: np.sum(v[:-1] + v[:-1] ** 2 * (v[1:] + 4)) / 10,
    "ishigami": ishigami,
    "friedman": friedman,
    "sphere": lambda v: -10 * v @ v,
    "bohachevsky": bohachevsky,
    "wavy-plateau": lambda v: np.sum(cos(pi * v) + v**4 / 2 - 3 * v**2 + 1),
    "zigzag-ridge": zigzag,
    "double-exponential": double_exponential,
    "relu": lambda v: -50 * np.sum(np.maximum(v, 0)),
    "rotational": rotational,
    "flat": lambda v: 0.0,
}
# what the texts say where they differ from the evaluated formulas
TEXTS = {
    "holder-table": lambda v: -holder(v) / 10,
    "bohachevsky": lambda v: bohachevsky(v) / 10 + 0.7,
    "wavy-plateau": lambda v: np.sum(cos(5 * pi * v) + v**4 / 2 - 3 * v**2 + 1),
    "zigzag-ridge": lambda v: zigzag(v) + np.sum((cos(1.25 * v[:-1]) - cos(v[:-1])) * (v[:-1] + v[1:])),
    "relu": lambda v: np.sum(np.maximum(v, 0)),
}
CASES = [(name, dim) for name in FORMULAS for dim in DIMS]


def points(dim, n=40, seed=0):
    """Away from the kink at 0, over which no difference reaches."""
    x = np.random.default_rng(seed).uniform(-4, 4, (n, dim))
    return np.where(size(x) < 0.05, x + 0.2, x)


def differences(function, x, step=1e-5):
    """Central differences of a function ``(n, dim) -> (n, ...)`` by each axis, last: ``(n, ..., dim)``."""
    shifts = step * np.eye(x.shape[1])
    return np.stack([(function(x + shift) - function(x - shift)) / (2 * step) for shift in shifts], -1)


def test_the_list_is_the_papers():
    assert list(potentials.POTENTIALS) == list(FORMULAS)
    assert len(potentials.HARD) == 6 and set(potentials.HARD) <= set(FORMULAS)


@pytest.mark.parametrize(("name", "dim"), CASES)
def test_values_are_the_formulas(name, dim):
    x = points(dim)
    expected = [FORMULAS[name](v) for v in x]
    np.testing.assert_allclose(potentials.build(name).value(x), expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("name", TEXTS)
def test_the_texts_other_formulas_are_refused(name):
    x = points(2)
    assert size(potentials.build(name).value(x) - [TEXTS[name](v) for v in x]).max() > 0.1


@pytest.mark.parametrize(("name", "dim"), CASES)
def test_derivatives_are_those_of_the_values(name, dim):
    potential, x = potentials.build(name), points(dim)
    expected = differences(potential.value, x)
    scale = 1 + size(expected).max()
    np.testing.assert_allclose(potential.gradient(x), expected, atol=1e-6 * scale)
    gradient, matrix = potential.hessian(x)
    np.testing.assert_allclose(gradient, potential.gradient(x), rtol=1e-12)
    bends = differences(potential.gradient, x)
    np.testing.assert_allclose(matrix, bends, atol=1e-6 * (1 + size(bends).max()))
    np.testing.assert_array_equal(matrix, matrix.transpose(0, 2, 1))


@pytest.mark.parametrize("name", FORMULAS)
def test_derivatives_are_finite_at_kinks(name):
    """The origin, the corner -5 of the angle, its cut, and the sphere |v| = pi."""
    x = np.array([[0, 0], [-5, -5], [-6, -5], [0, 1], [pi, 0], [1, pi / 2]], dtype=float)
    potential = potentials.build(name)
    gradient, matrix = potential.hessian(x)
    assert np.isfinite(potential.value(x)).all() and np.isfinite(gradient).all() and np.isfinite(matrix).all()


def test_the_slope_of_flowers_at_zero():
    slope = potentials.build("flowers").gradient(np.array([[0.0], [1e-9], [-1e-9]]))[:, 0]
    # the derivative of |v|^1.2 is 0 at 0, and grows like |v|^0.2 around it
    assert slope[0] == 1 and slope[1] - 1 == pytest.approx(2.4 * 1e-9**0.2, rel=1e-6) == 1 - slope[2]


@pytest.mark.parametrize("name", FORMULAS)
def test_even_kernels(name):
    kernel, z = potentials.Even(potentials.build(name)), points(3, seed=1)
    np.testing.assert_allclose(kernel.value(z), kernel.value(-z), rtol=1e-12)
    np.testing.assert_allclose(kernel.value(z), [(FORMULAS[name](v) + FORMULAS[name](-v)) / 2 for v in z], atol=1e-10)
    np.testing.assert_array_equal(kernel.gradient(z), -kernel.gradient(-z))
    np.testing.assert_array_equal(kernel.gradient(np.zeros((1, 3))), 0.0)
    gradient, matrix = kernel.hessian(z)
    np.testing.assert_allclose(gradient, kernel.gradient(z), rtol=1e-12, atol=1e-12)
    bends = differences(kernel.gradient, z)
    np.testing.assert_allclose(matrix, bends, atol=1e-6 * (1 + size(bends).max()))


def test_most_of_the_list_is_not_even():
    """Why kernels are made even: the force of the raw function is no force of an interaction's energy."""
    z = points(2)
    odd = [name for name in FORMULAS if size(potentials.build(name).value(z) - potentials.build(name).value(-z)).max()]
    assert {"styblinski-tang", "flowers", "watershed", "ishigami", "zigzag-ridge", "friedman", "relu"} <= set(odd)


def test_tensors_stay_tensors_with_their_leading_axes():
    x = torch.from_numpy(points(2)).reshape(4, 10, 2)
    for name in FORMULAS:
        potential = potentials.build(name)
        gradient, matrix = potential.hessian(x)
        assert potential.value(x).shape == (4, 10) and gradient.shape == (4, 10, 2) and matrix.shape == (4, 10, 2, 2)
        assert not gradient.requires_grad and gradient.dtype == torch.float64
        assert torch.equal(gradient[1], potential.gradient(x[1]))


def test_faults_name_what_is_wrong():
    with pytest.raises(ValueError, match=r"unknown potential 'flower'; there are \['styblinski-tang'"):
        potentials.build("flower")
    with pytest.raises(ValueError, match=r"ishigami is defined for points .* with dim >= 2, got shape \(5, 1\)"):
        potentials.build("ishigami").value(np.zeros((5, 1)))
