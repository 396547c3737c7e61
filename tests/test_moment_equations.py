"""The moment equations, their noise and their solution, against plain formulas row by row."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from moments_helpers import ByHand, cloud_of, equations, fit, gaussian_laws, ou, wells
from scipy import stats

from snapdyn import drifts, moment_equations, systems, testfunctions, weakform
from snapdyn.snapshots import Snapshots


@pytest.mark.parametrize("times", [[0.0, 0.3], [0.0, 0.3, 1.0], [-1.0, 0.0, 0.2, 1.5, 2.0, 4.0]])
def test_quadrature_integrates_polynomials_over_unequal_gaps(times):
    weights, times = moment_equations.quadrature(times), np.array(times)
    points = min(4, len(times))
    for power in range(points + 1):
        exact = np.diff(times ** (power + 1)) / (power + 1)
        wrong = np.abs(weights @ times**power - exact).max()
        assert wrong < 1e-12 if power < points else wrong > 1e-4
    if len(times) == 2:
        np.testing.assert_allclose(weights, [[0.15, 0.15]])


CASES = {
    "stationary, D given": (None, 0.5),
    "stationary, D unknown": (None, None),
    "timed, D given": ([0.0, 0.3, 0.7], 0.5),
    "timed, D unknown": ([0.0, 0.3, 0.7], None),
}


LINEAR = ou().terms
CLOCKED = replace(  # the first rate known as well: it fixes the clock
    LINEAR,
    names=LINEAR.names[1:],
    fields=lambda x: LINEAR.fields(x)[:, 1:],
    known=lambda x: LINEAR.known(x) + LINEAR.fields(x)[:, 0],
)


def some_equations(times, diffusivity, weighted=False, folds=4, **options):
    """Equations of clouds of a linear system, at rest or on its way there."""
    rng, matrix = np.random.default_rng(2), -ou().matrix.numpy()

    def rates(mean, covariance):
        flow = matrix @ covariance
        return matrix @ mean, flow + flow.T + np.eye(2)

    if times is None:
        laws = [(np.zeros(2), ou().covariance.numpy())]
    else:
        laws = gaussian_laws(times, rates, [0.8, -0.3], np.diag([0.6, 0.2]))
    clouds = [rng.multivariate_normal(*law, 300 + 50 * s) for s, law in enumerate(laws)]
    tests = testfunctions.Monomials(torch.from_numpy(np.concatenate(clouds)), 3)
    terms = LINEAR if times or diffusivity else CLOCKED
    weights = [torch.from_numpy(rng.uniform(0.2, 3, len(x))) if weighted else None for x in clouds]
    parts = [
        weakform.Cloud(terms, tests, torch.from_numpy(x), weight, folds=folds, threads=2, **options)
        for x, weight in zip(clouds, weights, strict=True)
    ]
    return moment_equations.MomentEquations(parts, times, diffusivity=diffusivity)


@pytest.mark.parametrize("engine", ["polynomial", "streamed"])
@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
@pytest.mark.parametrize("case", CASES)
def test_equations_and_noise_are_the_plain_formulas(monkeypatch, case, weighted, engine):
    times, diffusivity = CASES[case]
    if engine == "streamed":
        monkeypatch.setattr(weakform, "polynomial_blocks", lambda *_: None)
        monkeypatch.setattr(weakform, "GRAM_LIMIT", 0)
    found = some_equations(times, diffusivity, weighted)
    expected = ByHand(found.clouds, times, diffusivity)
    rng = np.random.default_rng(0)
    theta, direction = rng.normal(size=(2, found.unknowns))
    near = {"rtol": 1e-10, "atol": 1e-10}
    for folds in (None, [1], [0, 2, 3]):
        index = None if folds is None else torch.tensor(folds)
        for part in (False, True):
            for one, two in zip(found.system(index, part=part), expected.system(folds, part), strict=True):
                np.testing.assert_allclose(one, two, **near)
            noise = found.noise(torch.from_numpy(theta), index, part=part)
            np.testing.assert_allclose(noise, expected.noise(theta, folds, part), **near)
        along = found.noise_along(torch.from_numpy(direction), index)
        np.testing.assert_allclose(along, expected.noise(direction, folds, bare=True), **near)


@pytest.mark.parametrize("case", CASES)
def test_contributions_of_folds_add_up_to_the_whole(case):
    found = some_equations(*CASES[case], weighted=True)
    parts = [found.system(fold[None], part=True) for fold in found.every]
    for whole, pieces in zip(found.system(), zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(sum(pieces), whole, rtol=1e-12, atol=1e-12)
    alone = [found.system(fold[None]) for fold in found.every]  # means of each fold, which do not
    assert (sum(design for design, _ in alone) / 4 - found.system()[0]).abs().max() > 1e-3
    found, theta = some_equations(*CASES[case]), torch.ones(found.unknowns).double()
    within = sum(found.noise(theta, fold[None], part=True) for fold in found.every)
    between = found.noise(theta) - within  # how far the folds' means scatter beyond what the scatter within explains
    assert between.trace().abs() < 0.1 * within.trace()


@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
@pytest.mark.parametrize("case", CASES)
def test_the_efficient_estimate_is_the_plain_formula(monkeypatch, case, weighted):
    monkeypatch.setattr(moment_equations, "SETTLED", 0.0)  # as many iterations as asked for
    times, diffusivity = CASES[case]
    found = some_equations(times, diffusivity, weighted, folds=1)
    expected = ByHand(found.clouds, times, diffusivity)
    solution = found.solve(3)
    theta, error, statistic = expected.efficient(found.start().numpy(), 3)
    np.testing.assert_allclose(solution.estimate, theta, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(solution.std_error, error, rtol=1e-7)
    assert solution.j_statistic == pytest.approx(statistic, rel=1e-6)
    assert solution.j_dof == max(1, len(found.clouds) - 1) * 9 - found.unknowns
    assert solution.j_p == pytest.approx(stats.chi2.sf(statistic, solution.j_dof), rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
@pytest.mark.parametrize("case", CASES)
def test_the_cross_fitted_estimate_solves_its_equation(monkeypatch, case, weighted):
    """sum_f M_-f' S_-f^-1 (M_f theta - q_f) = 0 at theta itself, with the covariance of the sandwich."""
    monkeypatch.setattr(moment_equations, "SETTLED", 1e-10)
    times, diffusivity = CASES[case]
    found = some_equations(times, diffusivity, weighted)
    expected = ByHand(found.clouds, times, diffusivity)
    solution = found.solve(200)
    step, covariance = expected.cross_fitted(solution.estimate)
    error = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((step - solution.estimate) / error, 0, atol=1e-7)
    np.testing.assert_allclose(solution.covariance, covariance, rtol=1e-6, atol=1e-9 * np.abs(covariance).max())
    np.testing.assert_allclose(solution.std_error, error, rtol=1e-7)
    step, _ = expected.cross_fitted(solution.efficient)  # the other estimate does not solve it
    assert np.abs((step - solution.efficient) / error).max() > 0.01
    alone = some_equations(times, diffusivity, weighted, folds=1).solve(200)
    np.testing.assert_allclose(solution.efficient, alone.estimate, rtol=1e-6, atol=1e-8)
    assert (solution.j_statistic, solution.j_dof) == (pytest.approx(alone.j_statistic, rel=1e-6), alone.j_dof)


@pytest.mark.parametrize("case", CASES)
def test_the_crossed_j_test_is_the_plain_formula(case):
    """Products of different folds by hand, and the law of their sum drawn instead of integrated."""
    times, diffusivity = CASES[case]
    found = some_equations(times, diffusivity, folds=4)
    solution = found.solve()
    moments, unknowns, folds = solution.j_dof + found.unknowns, found.unknowns, 4
    theta = torch.from_numpy(solution.estimate)
    parts = [
        (design @ theta - rest).numpy() for design, rest in (found.system(f[None], part=True) for f in found.every)
    ]
    products = {}
    for f, g in itertools.combinations(range(folds), 2):
        others = [k for k in range(folds) if k not in (f, g)]
        noise = found.noise(theta, torch.tensor(others)).numpy() * len(others) / folds
        products[f, g] = parts[f] @ np.linalg.solve(noise, parts[g])
    scale = np.std(list(products.values()), ddof=1) / (np.sqrt(moments) / folds)
    centre = -unknowns * (1 - 1 / folds)
    z = np.random.default_rng(0).normal(size=(100_000, moments, folds)) / np.sqrt(folds)
    z[:, :unknowns] -= z[:, :unknowns].mean(2, keepdims=True)  # what the fit takes away
    null = (z.sum(2) ** 2 - (z**2).sum(2)).sum(1)
    standard = centre + (2 * sum(products.values()) - centre) / scale
    assert null.mean() == pytest.approx(centre, abs=0.1)  # the parts of a sum, each with a fold's noise
    assert solution.j_p == pytest.approx((null > standard).mean(), abs=0.005)


@pytest.mark.parametrize("case", ["stationary, D unknown", "timed, D given"])
def test_restricted_equations_are_those_of_the_smaller_drift(case):
    times, diffusivity = CASES[case]
    found = some_equations(times, diffusivity)
    kept = [0, *range(2, found.unknowns)]
    some = found.restricted(kept)
    whole, rest = found.system()
    torch.testing.assert_close(some.system()[0], whole[:, kept], rtol=0, atol=0)
    torch.testing.assert_close(some.system()[1], rest, rtol=0, atol=0)
    theta = torch.randn(found.unknowns, generator=torch.Generator().manual_seed(0)).double()
    theta[1] = 0
    torch.testing.assert_close(some.noise(theta[kept]), found.noise(theta), rtol=1e-12, atol=1e-15)
    whole_drift = found.clouds[0].drift
    left = [k for k in kept if k < whole_drift.count]
    terms = replace(whole_drift, names=("some",) * len(left), fields=lambda x: whole_drift.fields(x)[:, left])
    clouds = [weakform.Cloud(terms, cloud.tests, cloud.x, folds=4) for cloud in found.clouds]
    smaller = moment_equations.MomentEquations(clouds, times, diffusivity=diffusivity).solve()
    for name in ("estimate", "covariance", "efficient", "j_statistic", "j_dof"):
        np.testing.assert_allclose(getattr(some.solve(), name), getattr(smaller, name), rtol=1e-6, err_msg=name)
    twice = found.restricted([1, 2]).restricted([1])  # counts among those that are left
    torch.testing.assert_close(twice.system()[0], whole[:, [2]], rtol=0, atol=0)


def test_equations_without_an_unknown_have_no_say_in_the_start():
    """x and its powers see no field along y: their rows hold zeros, which no scaling may blow up."""
    terms = drifts.from_expressions({"a": ["0", "-y"]}, ["-x", "0"], axes=("x", "y"))
    x = np.random.default_rng(0).normal(size=(2000, 2))
    found = equations(terms, x, 3, diffusivity=1.0)
    assert abs(float(found.start()[0]) - 1) < 0.2
    assert abs(found.solve().estimate[0] - 1) < 4 * found.solve().std_error[0]


def test_the_start_is_good_enough_to_stay_clear_of_false_fixed_points():
    """Near theta = 0 and D = 0 the tests of y have no noise, so weights from a poor start pull everything there."""
    terms = drifts.from_expressions({"a": ["x", "0"], "c": ["0", "-y"]}, ["-x^3", "0"], axes=("x", "y"))
    truth = np.array([1.0, 1.0, 0.3])
    for seed in range(30):
        found = equations(terms, wells(3000, seed).x, 4, diffusivity=None)
        assert (np.abs(found.start().numpy() - truth) < 0.5 * truth).all()
        solution = found.solve()
        assert solution.j_p > 1e-4 and (np.abs(solution.efficient - truth) < 0.4 * truth).all()
    bad = found.solve(start=torch.tensor([2.6, -0.002, -0.1]).double())  # where it would have begun from equal rows
    assert bad.j_statistic > 20 * bad.j_dof and abs(bad.efficient[1]) < 1e-3


def test_whitening_undoes_the_covariance_and_drops_what_is_noise_of_rounding():
    half = np.random.default_rng(0).normal(size=(6, 4))
    units = np.array([1e-6, 1.0, 1e3, 1e6, 1.0, 1e-3])[:, None]
    covariance = torch.from_numpy((units * half) @ (units * half).T)  # rank 4 in 6, in six units
    root = moment_equations.whitening(covariance)
    assert root.shape == (4, 6)
    torch.testing.assert_close(root @ covariance @ root.T, torch.eye(4).double(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["ornstein-uhlenbeck", "hopf", "double-well"])
def test_the_generator_averages_to_zero_over_the_stationary_law_and_a_wrong_one_does_not(name):
    system = systems.build(name, diffusivity=0.5)
    x = system.sample(20000, np.random.default_rng(3))

    def z_scores(factor, diffusivity=0.5):
        found, theta = equations(system.terms, x, 4, diffusivity=diffusivity), factor * system.truth
        design, rest = found.system()
        return ((design @ theta - rest) / found.noise(theta).diagonal().sqrt()).abs()

    assert z_scores(1.0).max() < 4
    assert z_scores(1.2).max() > 6
    assert z_scores(1.0, 1.0).max() > 20  # D taken for 2 D


def test_whole_weights_are_repetitions_in_the_equations():
    terms, rng = ou().terms, np.random.default_rng(7)
    x, times = torch.from_numpy(rng.normal(size=(80, 2))), torch.from_numpy(rng.integers(1, 5, 80))
    tests = testfunctions.Monomials(x, 3)
    weighted = moment_equations.MomentEquations([weakform.Cloud(terms, tests, x, times.double())], diffusivity=0.5)
    repeated = moment_equations.MomentEquations(
        [weakform.Cloud(terms, tests, x.repeat_interleave(times, 0))], diffusivity=0.5
    )
    for one, two in zip(weighted.system(), repeated.system(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(weighted.start(), repeated.start(), rtol=1e-9, atol=1e-9)


def test_equal_weights_and_weights_of_zero():
    """Weights of 2 are no more data than weights of 1; a row of weight 0 is not there."""
    data = cloud_of(ou(), 1500, 8)
    plain = fit(ou().terms, data, diffusivity=0.5, degree=4)
    doubled = fit(
        ou().terms, Snapshots.build(data.x, weight=np.full(1500, 2.0), meta=data.meta), diffusivity=0.5, degree=4
    )
    np.testing.assert_allclose(doubled.std_error, plain.std_error, rtol=1e-9)
    np.testing.assert_allclose(doubled.coefficients, plain.coefficients, rtol=1e-9)
    x, keep = torch.from_numpy(data.x), torch.arange(1500) % 3 > 0
    tests = testfunctions.Monomials(x, 4)
    some = moment_equations.MomentEquations(
        [weakform.Cloud(ou().terms, tests, x, keep.double())], diffusivity=0.5
    ).solve()
    less = moment_equations.MomentEquations([weakform.Cloud(ou().terms, tests, x[keep])], diffusivity=0.5).solve()
    np.testing.assert_allclose(some.estimate, less.estimate, rtol=1e-8)
    np.testing.assert_allclose(some.std_error, less.std_error, rtol=1e-8)
