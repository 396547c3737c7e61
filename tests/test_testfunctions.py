"""Test functions: values by their formula, derivatives against automatic differentiation."""

import math

import numpy as np
import pytest
import torch

from snapdyn import systems, testfunctions


def cloud(n, dim, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(0.7, 1.5, size=(n, dim)))


def phase_modes(degree=2, harmonics=3):
    return testfunctions.PhaseModes(cloud(50, 6), degree, harmonics, axes=(5, 1), phases=((0, 2), (4, 3)))


MADE = {
    "monomials, one axis": lambda: testfunctions.Monomials(cloud(50, 1), 4),
    "monomials, degree 1": lambda: testfunctions.Monomials(cloud(50, 2), 1),
    "monomials": lambda: testfunctions.Monomials(cloud(50, 4), 3),
    "gaussians, one width": lambda: testfunctions.Gaussians(cloud(9, 3), 1.3),
    "gaussians, width by axis": lambda: testfunctions.Gaussians(cloud(9, 3), torch.tensor([0.8, 1.5, 2.5])),
    "phase modes": phase_modes,
    "phase modes, one harmonic": lambda: phase_modes(3, 1),
}
DIM = {"monomials, one axis": 1, "monomials, degree 1": 2, "monomials": 4} | dict.fromkeys(
    ["gaussians, one width", "gaussians, width by axis"], 3
)
NOISE = ["none", "diagonal", "full"]


def noise_matrix(kind, dim):
    if kind == "none":
        return None
    root = torch.from_numpy(np.random.default_rng(2).normal(size=(dim, dim)))
    return root @ root.T if kind == "full" else root.square().diag().diag()


def formula(tests):
    """The values at one point ``(dim,)``, straight from the definition."""
    if isinstance(tests, testfunctions.Gaussians):
        return lambda x: torch.exp(-(((x - tests.centres) / tests.width) ** 2).sum(1) / 2)
    if isinstance(tests, testfunctions.Monomials):
        powers = tests.powers.tolist()

        def products(x):
            z = (x - tests.centre) / tests.scale
            return torch.stack([math.prod(z[j] ** e for j, e in enumerate(p) if e) for p in powers])

        return products
    base, harmonics = formula(tests.monomials), range(1, tests.harmonics + 1)

    def modes(x):
        factors = [torch.ones_like(x[0])]
        for first, second in tests.phases:
            phase = torch.atan2(x[second], x[first])
            factors += [torch.cos(2 * k * phase) for k in harmonics] + [torch.sin(2 * k * phase) for k in harmonics]
        return torch.outer(base(x[list(tests.axes)]), torch.stack(factors)).flatten()

    return modes


def by_automatic_differentiation(tests, x, noise):
    """Values, gradients and contracted second derivatives of the formula."""
    value = formula(tests)
    slope = torch.func.vmap(torch.func.jacrev(value))(x)  # (n, tests, dim)
    bend = torch.func.vmap(torch.func.jacfwd(torch.func.jacrev(value)))(x)
    noise = torch.eye(x.shape[1]).to(x) if noise is None else noise
    return torch.func.vmap(value)(x), slope.transpose(1, 2), torch.einsum("nkij,ij->nk", bend, noise)


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("name", MADE)
def test_values_and_derivatives_are_those_of_automatic_differentiation(name, noise):
    tests, dim = MADE[name](), DIM.get(name, 6)
    x, noise = cloud(6, dim, seed=1), noise_matrix(noise, dim)
    value, gradient, second = tests(x, noise)
    assert value.shape == second.shape == (6, tests.count) and gradient.shape == (6, dim, tests.count)
    expected = by_automatic_differentiation(tests, x, noise)
    for found, wanted in zip((value, gradient, second), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", [name for name in MADE if DIM.get(name, 6) > 1])
def test_a_cross_term_left_out_and_a_sign_turned_are_seen(name):
    """The second derivatives answer for every entry of the noise, also for each one off the diagonal."""
    tests, dim = MADE[name](), DIM.get(name, 6)
    x, noise = cloud(6, dim, seed=1), noise_matrix("full", dim)
    *_, bend = by_automatic_differentiation(tests, x, noise)
    for i in range(dim):
        for j in range(i):
            shorn, turned = noise.clone(), noise.clone()
            shorn[i, j] = shorn[j, i] = 0
            turned[i, j] = turned[j, i] = -noise[i, j]
            for wrong in (shorn, turned):
                missed = (tests(x, wrong)[2] - bend).abs().max()
                # planes of different phases never meet in one test, nor do the axes of a linear monomial
                alone = isinstance(tests, testfunctions.PhaseModes) and {i, j} in ({0, 3}, {0, 4}, {2, 3}, {2, 4})
                if alone or name == "monomials, degree 1":
                    assert missed < 1e-10
                else:
                    assert missed > 1e-3


def test_monomials_are_products_of_standardised_coordinates():
    sample, x = cloud(50, 3), cloud(5, 3, seed=3)
    tests = testfunctions.Monomials(sample, 4)
    assert tests.count == math.comb(3 + 4, 4) - 1 == len({tuple(p) for p in tests.powers.tolist()})
    z = (x - sample.mean(0)) / sample.std(0)
    powers = tests.powers.tolist()
    torch.testing.assert_close(tests(x)[0][:, powers.index([1, 0, 3])], z[:, 0] * z[:, 2] ** 3)
    assert tests.powers.sum(1).max() == 4 and tests.powers.sum(1).min() == 1


def test_gaussians_stand_at_points_of_the_data_and_have_their_widths():
    x, width = cloud(40, 3), torch.tensor([0.8, 1.5, 2.5], dtype=torch.float64)
    tests = testfunctions.Gaussians.drawn(x, 12, width, np.random.default_rng(0))
    assert tests.count == 12 and len(tests.centres.unique(dim=0)) == 12
    assert all((x == centre).all(1).any() for centre in tests.centres)
    again = testfunctions.Gaussians.drawn(x, 12, width, np.random.default_rng(0))
    assert again.centres.equal(tests.centres)
    other = testfunctions.Gaussians.drawn(x, 12, width, np.random.default_rng(1))
    assert not other.centres.equal(tests.centres)


def test_phase_modes_are_monomials_times_even_modes():
    tests, x = phase_modes(2, 3), cloud(5, 6, seed=4)
    assert tests.modes == 1 + 2 * 3 * 2 and tests.count == 5 * 13
    turned = x.clone()
    turned[:, [0, 2]] *= -1  # half a turn
    torch.testing.assert_close(tests(turned)[0], tests(x)[0], rtol=1e-12, atol=1e-12)
    turned[:, 0] *= -1
    assert (tests(turned)[0] - tests(x)[0]).abs().max() > 0.1


def test_for_isotropic_noise_a_mode_bends_by_its_square_over_q():
    x = cloud(8, 6, seed=5)
    value, _, bend = phase_modes(1, 2)(x)
    level = torch.tensor([2.0, 4.0, 2.0, 4.0], dtype=torch.float64)
    for planes, part in (((0, 2), slice(1, 5)), ((4, 3), slice(5, 9))):
        q = x[:, planes].square().sum(1)
        expected = -(level**2) / q[:, None] * value[:, part]  # the first monomial is linear and bends nothing
        torch.testing.assert_close(bend[:, part], expected, rtol=1e-11, atol=1e-11)


def test_a_chunk_is_a_part_of_the_whole_and_single_precision_stays_single():
    for name, make in MADE.items():
        tests, x = make(), cloud(20, DIM.get(name, 6), seed=6)
        for whole, part in zip(tests(x), tests(x[7:12]), strict=True):
            torch.testing.assert_close(part, whole[7:12], rtol=1e-13, atol=1e-13)
    x = cloud(30, 3).float()
    bumps = testfunctions.Gaussians.drawn(x, 4, 1.0, np.random.default_rng(0))
    modes = testfunctions.PhaseModes(x, 2, 2, axes=[0], phases=[(1, 2)])
    for tests in (testfunctions.Monomials(x, 3), bumps, modes):
        assert all(part.dtype == torch.float32 for part in tests(x, torch.eye(3, dtype=torch.float64)))


def test_the_generator_averages_to_zero_over_a_law_at_rest():
    """The stationary cloud of a linear system, with bumps; a drift 10 % too strong is refused."""
    system = systems.build("ornstein-uhlenbeck", diffusivity=0.5, dim=3)
    x = torch.from_numpy(system.sample(20_000, np.random.default_rng(0)))
    bumps = testfunctions.Gaussians.drawn(x, 12, 1.2, np.random.default_rng(1))
    modes = testfunctions.PhaseModes(x, 2, 2, axes=[2], phases=[(0, 1)])
    for tests in (testfunctions.Monomials(x, 3), bumps, modes):
        _, gradient, bend = tests(x)
        for strength, fits in ((1.0, True), (1.1, False)):
            rate = strength * torch.einsum("nd,ndk->nk", system.drift(None, x), gradient) + 0.5 * bend
            score = rate.mean(0) / (rate.std(0) / math.sqrt(len(x)))
            assert (score.abs().max() < 4) == fits


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda x: testfunctions.Monomials(x, 0), "degree of at least 1, got 0"),
        (lambda x: testfunctions.Gaussians(x, 0.0), "one positive width"),
        (lambda x: testfunctions.Gaussians(x, torch.ones(2)), "one for each of 3 axes"),
        (lambda x: testfunctions.Gaussians.drawn(x, 11, 1.0, np.random.default_rng(0)), "11 different centres from 10"),
        (lambda x: testfunctions.PhaseModes(x, 1, 1, axes=[0], phases=[(0, 1)]), r"different indices below 3.*\[0, 0"),
        (lambda x: testfunctions.PhaseModes(x, 1, 1, axes=[3], phases=[(0, 1)]), "different indices below 3"),
        (lambda x: testfunctions.PhaseModes(x, 1, 0, axes=[2], phases=[(0, 1)]), "at least one harmonic"),
        (lambda x: testfunctions.Monomials(x, 2)(x[:, :2]), r"expected points \(n, 3\), got \(10, 2\)"),
        (lambda x: testfunctions.Gaussians(x, 1.0)(x, torch.eye(2)), r"noise matrix \(3, 3\), got \(2, 2\)"),
    ],
)
def test_what_cannot_be_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make(cloud(10, 3))
