"""Moments: the estimate against plain numpy, honest errors, tests of the model, and what nobody can see refused."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from moments_helpers import ByHand, cloud_of, drawn, fit, gaussian_laws, ou
from scipy import stats
from scipy.linalg import expm

from snapdyn import drifts, moments, systems, testfunctions, weakform
from snapdyn.snapshots import Snapshots


def equations(terms, x, degree, *, diffusivity, folds=weakform.FOLDS):
    """The equations of one stationary cloud."""
    points = torch.from_numpy(x)
    tests = testfunctions.Monomials(points, degree)
    return moments.MomentEquations([weakform.Cloud(terms, tests, points, folds=folds)], diffusivity=diffusivity)


@pytest.mark.parametrize("times", [[0.0, 0.3], [0.0, 0.3, 1.0], [-1.0, 0.0, 0.2, 1.5, 2.0, 4.0]])
def test_quadrature_integrates_polynomials_over_unequal_gaps(times):
    weights, times = moments.quadrature(times), np.array(times)
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
    return moments.MomentEquations(parts, times, diffusivity=diffusivity)


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
    monkeypatch.setattr(moments, "SETTLED", 0.0)  # as many iterations as asked for
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
    monkeypatch.setattr(moments, "SETTLED", 1e-10)
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
    smaller = moments.MomentEquations(clouds, times, diffusivity=diffusivity).solve()
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
    root = moments.whitening(covariance)
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


def wilson(hits, trials, z=3.0):
    """Interval of a rate after ``hits`` in ``trials`` (Wilson), at ``z`` standard errors."""
    rate, spread = hits / trials, z**2 / trials
    centre, half = rate + spread / 2, z * np.sqrt(rate * (1 - rate) / trials + spread / (4 * trials))
    return (centre - half) / (1 + spread), (centre + half) / (1 + spread)


def covers(z, level=0.95):
    """Whether each column of z scores is inside the normal interval as often as it should."""
    inside = (np.abs(z) < stats.norm.ppf(0.5 + level / 2)).sum(0)
    return [low < level < high for low, high in (wilson(hits, len(z)) for hits in inside)]


def replicates(n, degree, seeds, folds=weakform.FOLDS):
    system = ou()
    clouds = (system.sample(n, np.random.default_rng(seed)) for seed in seeds)
    return [equations(system.terms, x, degree, diffusivity=0.5, folds=folds).solve() for x in clouds]


@pytest.fixture(scope="module")
def three_hundred():
    return replicates(2000, 4, range(300))


def test_cross_fitting_takes_the_bias_away_that_efficient_weights_have(three_hundred):
    """In standard errors, for the two diagonal rates: each weight leans on the rows that it weights, or it does not."""
    truth, diagonal = ou().truth.numpy(), [0, 2]
    error = np.stack([found.std_error for found in three_hundred])
    efficient = (np.stack([found.efficient for found in three_hundred]) - truth) / error
    fitted = (np.stack([found.estimate for found in three_hundred]) - truth) / error
    assert (efficient.mean(0)[diagonal] > 0.25).all()
    assert (np.abs(fitted.mean(0)) < 0.15).all()


def test_intervals_of_the_cross_fitted_estimate_cover(three_hundred):
    truth = ou().truth.numpy()
    z = np.stack([(found.estimate - truth) / found.std_error for found in three_hundred])
    assert all(covers(z)) and all(covers(z, 0.68))
    rms = np.sqrt((z**2).mean(0))
    assert ((rms > 0.85) & (rms < 1.2)).all()
    heavy = replicates(2000, 5, range(120), folds=1)  # weights from the same rows and heavier tails: they do not
    z = np.stack([(found.estimate - truth) / found.std_error for found in heavy])
    assert not any(covers(z[:, [0, 2]]))


def test_the_j_test_has_its_size_and_rejects_a_missing_term():
    found = replicates(5000, 3, range(250))
    p, ratio = np.array([f.j_p for f in found]), np.array([f.j_statistic / f.j_dof for f in found])
    low, high = wilson((p < 0.05).sum(), len(p))
    assert low < 0.05 < high and 0.9 < ratio.mean() < 1.1
    assert stats.kstest(p, "uniform").pvalue > 1e-3 and {f.j_dof for f in found} == {9 - 3}
    well = systems.build("double-well", diffusivity=0.3)
    linear = drifts.from_expressions({"a": ["x", "0"], "c": ["0", "-y"]}, None, axes=("x", "y"))
    missing = [fit(linear, cloud_of(well, 1000, seed), diffusivity=0.3, degree=4) for seed in range(5)]
    assert all(f.diagnostics["j_p_value"] < 1e-6 for f in missing)
    assert all(f.diagnostics["j_statistic"] > 3 * f.diagnostics["j_dof"] for f in missing)


def test_without_a_clock_a_wrong_diffusivity_scales_the_drift():
    well = systems.build("double-well", diffusivity=0.3)
    data = cloud_of(well, 3000, 0)
    one, two = (fit(well.terms, data, diffusivity=d) for d in (0.3, 0.6))
    np.testing.assert_allclose(two.coefficients, 2 * one.coefficients, rtol=1e-6)
    assert two.diagnostics["j_statistic"] == pytest.approx(one.diagnostics["j_statistic"], rel=1e-5)


def test_lorenz_is_recovered_within_its_errors_and_its_diffusivity_too():
    from snapdyn import simulate

    system = systems.build("lorenz", diffusivity=12.5)
    x = simulate.stationary_cloud(system, 4000, dt=1e-3, burn=3.0, seed=0)
    data = Snapshots.build(x, meta={"axes": ["x", "y", "z"]})
    known = fit(system.terms, data, diffusivity=12.5, degree=4)
    assert (np.abs(known.coefficients - system.truth.numpy()) < 4 * known.std_error).all()
    assert (known.std_error < [0.2, 0.2, 0.1]).all()
    assert fit(system.terms, data, diffusivity=25.0, degree=4).diagnostics["j_p_value"] < 1e-6  # it has a clock
    joint = fit(system.terms, data, diffusivity="unknown", degree=4)
    assert abs(joint.diffusivity - 12.5) < 4 * joint.diffusivity_error < 5
    assert joint.parameters["name"].tolist() == ["sigma", "rho", "beta", "diffusivity"]
    assert known.parameters["name"].tolist() == ["sigma", "rho", "beta"]


# Timed snapshots of dX = (A X + b) dt + sqrt(2 D) dW, drawn exactly.
MATRIX, OFFSET, NOISE = np.array([[-1.0, 0.6], [-0.4, -0.7]]), np.array([0.5, -0.2]), 0.3


def linear_snapshots(n, times, seed, noise=NOISE):
    def rates(mean, covariance):
        flow = MATRIX @ covariance
        return MATRIX @ mean + OFFSET, flow + flow.T + 2 * noise * np.eye(2)

    laws = gaussian_laws(times, rates, [2.0, 1.0], np.diag([0.25, 0.09]))
    data = drawn(laws, times, n, seed)
    return replace(data, meta=data.meta | {"axes": ["x", "y"], "time_unit": "day"})


def truth_of_linear():
    return np.concatenate([np.r_[OFFSET[i], MATRIX[i]] for i in range(2)])


def test_timed_moments_recover_drift_and_diffusivity_over_short_gaps():
    z = []
    for seed in range(15):
        data = linear_snapshots(1500, [0.0, 0.2, 0.4, 0.6, 0.8], seed)
        found = fit(drifts.affine(2, axes=("x", "y"), time_unit="day"), data, diffusivity="unknown")
        estimate = np.r_[found.coefficients, found.diffusivity]
        error = np.r_[found.std_error, found.diffusivity_error]
        z.append((estimate - np.r_[truth_of_linear(), NOISE]) / error)
        assert error[-1] < 0.03
    assert np.abs(z).max() < 4.5
    assert 0.75 < np.sqrt(np.mean(np.square(z))) < 1.3
    assert np.abs(np.mean(z, 0)).max() < 1.0


def test_the_trapezium_shows_over_long_gaps():
    data = linear_snapshots(20000, [0.0, 2.5], 0)
    found = fit(drifts.affine(2, axes=("x", "y")), data, diffusivity="unknown", degree=4)
    z = (found.coefficients - truth_of_linear()) / found.std_error
    assert np.abs(z).max() > 6


def test_times_doubled_halve_every_rate():
    data = linear_snapshots(1500, [0.0, 0.3, 0.6], 1)
    slow = Snapshots.build(data.x, t=2 * data.t, meta=data.meta)
    one, two = (fit(drifts.affine(2, axes=("x", "y")), d, diffusivity="unknown") for d in (data, slow))
    np.testing.assert_allclose(two.coefficients, one.coefficients / 2, rtol=1e-6)
    np.testing.assert_allclose(two.std_error, one.std_error / 2, rtol=1e-6)
    assert two.diffusivity == pytest.approx(one.diffusivity / 2, rel=1e-6)
    assert two.diffusivity_error == pytest.approx(one.diffusivity_error / 2, rel=1e-6)


def test_every_column_times_ten_changes_coefficients_as_their_units_say():
    """[y]/[x^2 y]/time and so on: theta c_j / prod c^alpha, with D a hundredfold; errors too."""
    system = ou(rotation=0.0)
    data = cloud_of(system, 3000, 5)
    terms = drifts.from_expressions(
        {"a": ["x", "0"], "b": ["0", "y"], "cube": ["x^3", "0"], "mixed": ["0", "x^2*y"], "constant": ["1", "0"]},
        None,
        axes=("x", "y"),
    )
    units = 10.0 ** np.array([0, 0, -2, -2, 1])
    one = fit(terms, data, diffusivity=0.5)
    two = fit(terms, Snapshots.build(10 * data.x, meta=data.meta), diffusivity=50.0)
    np.testing.assert_allclose(two.coefficients, one.coefficients * units, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(two.std_error, one.std_error * units, rtol=1e-6)
    assert two.diagnostics["j_statistic"] == pytest.approx(one.diagnostics["j_statistic"], rel=1e-6)


def test_one_column_times_ten_changes_coefficients_as_their_units_say():
    """Of a motion without noise: isotropic noise would not stay isotropic."""
    rng, times = np.random.default_rng(6), [0.0, 0.5, 1.0]
    x = np.concatenate([(OFFSET + rng.normal(size=(1500, 2))) @ expm(MATRIX * t).T for t in times])
    t, scale = np.repeat(times, 1500), np.array([1.0, 10.0])
    terms = drifts.affine(2, axes=("x", "y"))
    one = fit(terms, Snapshots.build(x, t=t, meta={}), diffusivity=1e-14)
    two = fit(terms, Snapshots.build(x * scale, t=t, meta={}), diffusivity=1e-14)
    powers = np.array(drifts.exponents(2, 1))
    units = np.concatenate([s / np.prod(scale**powers, 1) for s in scale])
    np.testing.assert_allclose(two.coefficients, one.coefficients * units, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(two.std_error, one.std_error * units, rtol=1e-6)


def test_a_shifted_cloud_has_the_shifted_drift():
    """f = A x + b in y = x + m is A y + (b - A m), whatever the data."""
    data, shift = linear_snapshots(1500, [0.0, 0.3, 0.6], 1), np.array([30.0, -8.0])
    moved = Snapshots.build(data.x + shift, t=data.t, meta=data.meta)
    one, two = (fit(drifts.affine(2, axes=("x", "y")), d, diffusivity="unknown") for d in (data, moved))
    theta, theta_moved = one.coefficients.reshape(2, 3), two.coefficients.reshape(2, 3)
    near = moments.SETTLED * one.std_error.max()  # re-weighting stops within this of its limit
    np.testing.assert_allclose(theta_moved[:, 1:], theta[:, 1:], atol=near)
    np.testing.assert_allclose(theta_moved[:, 0], theta[:, 0] - theta[:, 1:] @ shift, atol=40 * near)
    np.testing.assert_allclose(two.std_error.reshape(2, 3)[:, 1:], one.std_error.reshape(2, 3)[:, 1:], rtol=1e-3)
    assert two.diffusivity == pytest.approx(one.diffusivity, abs=moments.SETTLED * one.diffusivity_error)


def test_whole_weights_are_repetitions_in_the_equations():
    terms, rng = ou().terms, np.random.default_rng(7)
    x, times = torch.from_numpy(rng.normal(size=(80, 2))), torch.from_numpy(rng.integers(1, 5, 80))
    tests = testfunctions.Monomials(x, 3)
    weighted = moments.MomentEquations([weakform.Cloud(terms, tests, x, times.double())], diffusivity=0.5)
    repeated = moments.MomentEquations([weakform.Cloud(terms, tests, x.repeat_interleave(times, 0))], diffusivity=0.5)
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
    some = moments.MomentEquations([weakform.Cloud(ou().terms, tests, x, keep.double())], diffusivity=0.5).solve()
    less = moments.MomentEquations([weakform.Cloud(ou().terms, tests, x[keep])], diffusivity=0.5).solve()
    np.testing.assert_allclose(some.estimate, less.estimate, rtol=1e-8)
    np.testing.assert_allclose(some.std_error, less.std_error, rtol=1e-8)


GAUGE = "do not determine all {} unknowns: a combination of .*{}.*in `known:`"
SWIRL = drifts.from_expressions(
    {"growth": ["x", "y"], "saturation": ["-x*(x^2+y^2)", "-y*(x^2+y^2)"], "turn": ["y", "-x"]}, None, axes=("x", "y")
)


@pytest.mark.parametrize("seed", range(4))
def test_a_rotation_that_the_cloud_cannot_show_is_refused(seed):
    with pytest.raises(ValueError, match=GAUGE.format(6, "'x0: x1', 'x1: x0'")):
        fit(drifts.affine(2, axes=("x0", "x1")), cloud_of(ou(), 2000, seed), diffusivity=0.5, seed=seed)
    hopf = systems.build("hopf", diffusivity=0.5)
    with pytest.raises(ValueError, match=GAUGE.format(3, "'turn'")):
        fit(SWIRL, cloud_of(hopf, 2000, seed), diffusivity=0.5, seed=seed)


def identified(terms, x, degree, names=None, diffusivity=0.5):
    found = equations(terms, x, degree, diffusivity=diffusivity)
    theta = torch.from_numpy(found.solve().efficient)
    return found, moments.identify(found, theta, names or terms.names)


def test_gauge_directions_are_found_and_named():
    """Of a linear drift: R C^-1 x with antisymmetric R, which turns along the level sets of N(0, C)."""
    ranks = []
    for seed in range(20):
        system = ou()
        found, known = identified(
            drifts.affine(2, axes=("x0", "x1")), system.sample(2000, np.random.default_rng(seed)), 3
        )
        ranks.append(known.rank)
        turn = np.array([[0, 1], [-1, 0]]) @ np.linalg.inv(system.covariance.numpy())
        design, rest = found.system()
        root = moments.whitening(found.noise(torch.from_numpy(found.solve().efficient)))
        exact = np.concatenate([[0.0, *row] for row in turn]) * (root @ design).norm(dim=0).numpy()
        for direction in known.directions:
            assert abs(direction @ exact) / np.linalg.norm(exact) > 0.95
            assert np.linalg.norm(direction) == pytest.approx(1)
        if known.rank == 5:
            assert {"x0: x1", "x1: x0"} <= set(known.touched) <= {"x0: x1", "x1: x0", "x0: x0", "x1: x1"}
    assert ranks.count(5) >= 18 and min(ranks) >= 4

    hopf, ranks = systems.build("hopf", diffusivity=0.5), []
    for seed in range(20):
        _, known = identified(SWIRL, hopf.sample(2000, np.random.default_rng(seed)), 4)
        ranks.append(known.rank)
        assert ("turn" in known.touched) == (known.rank < 3)
        assert (np.abs(known.directions[:, 2]) > 0.8).all() and abs(known.weakest[2]) > 0.8
        assert len(known.singular_values) == 3 and (np.diff(known.singular_values) <= 0).all()
    assert ranks.count(2) >= 18 and min(ranks) >= 2


def test_three_rotations_of_three_axes():
    system, found = ou(dim=3), []
    for seed in range(5):
        x = system.sample(2000, np.random.default_rng(seed))
        found.append(identified(drifts.affine(3, axes=("x0", "x1", "x2")), x, 3)[1].rank)
    assert found.count(12 - 3) >= 4 and min(found) >= 9


def test_fields_that_are_nothing_or_the_same_are_gauge():
    x = ou().sample(1000, np.random.default_rng(0))
    plain = {"a": ["-x", "0"], "b": ["0", "-y"], "c": ["-y", "-x"]}
    for name, field in (("nothing", ["0", "0"]), ("twice", ["2*x", "0"])):
        terms = drifts.from_expressions(plain | {name: field}, ["0.8*y", "-0.8*x"], axes=("x", "y"))
        _, known = identified(terms, x, 4)
        assert known.rank == 3 and name in known.touched
        assert "b" not in known.touched and "c" not in known.touched


def test_nothing_is_flagged_where_all_is_determined():
    """No knob decides alone: the registered systems, from few rows to many, and the numbers of the report."""
    for name in ("ornstein-uhlenbeck", "hopf", "double-well"):
        system = systems.build(name, diffusivity=0.5)
        for n, seed in ((500, 0), (500, 1), (2000, 2), (2000, 3), (20000, 4)):
            _, known = identified(system.terms, system.sample(n, np.random.default_rng(seed)), 4)
            assert known.rank == len(known.names) and known.touched == [] and len(known.directions) == 0
    (line,) = known.report()
    top, low = known.singular_values[[0, -1]]
    assert line == (
        f"rank 3 of 3; singular values of the scaled system {top:.3g} to {low:.3g}, condition number {top / low:.3g}"
    )


def test_the_report_names_the_direction():
    known = moments.Identifiability(
        ["a", "b", "c"], np.array([1.0, 0.5, 0.01]), np.array([0.0, 0.0, 1.0]), np.array([[0.05, -0.8, 0.6]])
    )
    assert known.rank == 2 and known.touched == ["b", "c"]
    rank, direction = known.report()
    assert rank.startswith("rank 2 of 3; singular values") and rank.endswith("1 to 0.01, condition number 100")
    assert direction == "no effect along -0.80 'b' +0.60 'c'"


def test_a_refusal_reports_rank_singular_values_and_direction():
    with pytest.raises(
        ValueError, match="rank 2 of 3; singular values .* condition number .*; no effect along .*'turn'"
    ):
        fit(SWIRL, cloud_of(systems.build("hopf", diffusivity=0.5), 2000, 0), diffusivity=0.5)
    fine = fit(ou().terms, cloud_of(ou(), 1000, 0), diffusivity=0.5).diagnostics
    assert fine["rank"] == 3 and 1 <= fine["condition_number"] < 10


@pytest.mark.parametrize("seed", range(4))
def test_what_the_data_determine_is_not_refused(seed):
    """The same rotation in time, or beside a known one; and a full cubic library along one axis."""
    moved = linear_snapshots(1000, [0.0, 0.3, 0.6], seed)
    assert fit(drifts.affine(2, axes=("x", "y")), moved, diffusivity="unknown", seed=seed).diffusivity > 0
    assert len(fit(ou().terms, cloud_of(ou(), 1000, seed), diffusivity=0.5, seed=seed).coefficients) == 3
    one = ou(dim=1)
    found = fit(drifts.polynomial(1, 3, axes=("x0",)), cloud_of(one, 3000, seed), diffusivity=0.5, seed=seed, degree=6)
    assert (np.abs(found.coefficients - [0, -1, 0, 0]) < 4.5 * found.std_error).all()


WELL = {
    "x: x": ["x", "0"],
    "x: x^3": ["x^3", "0"],
    "y: y": ["0", "y"],
    "x: 1": ["1", "0"],
    "x: x^2": ["x^2", "0"],
    "x: y^2": ["y^2", "0"],
    "y: 1": ["0", "1"],
    "y: x": ["0", "x"],
    "y: y^2": ["0", "y^2"],
    "y: y^3": ["0", "y^3"],
}


def wells(n, seed):
    return cloud_of(systems.build("double-well", diffusivity=0.3), n, seed)


def test_elimination_leaves_exactly_the_terms_that_are_there():
    library, right = drifts.from_expressions(WELL, None, axes=("x", "y")), 0
    for seed in range(10):
        found = fit(library, wells(3000, seed), diffusivity=0.3, degree=5, sparse=True)
        right += np.flatnonzero(found.coefficients).tolist() == [0, 1, 2]
        kept = found.coefficients != 0
        assert (np.isnan(found.std_error) == ~kept).all()
        assert (np.abs(found.coefficients) > 4 * found.std_error)[kept].all()
        if kept.sum() == 3:
            assert (np.abs(found.coefficients - [1, -1, -1, *[0] * 7])[kept] < 4 * found.std_error[kept]).all()
        numbers = found.diagnostics
        assert numbers["kept"] == kept.sum() and numbers["j_rise_dof"] == (~kept).sum()
        assert numbers["j_dof"] - numbers["j_full_dof"] == (~kept).sum() and numbers["threshold"] == 4
        assert numbers["j_rise"] == pytest.approx(numbers["j_statistic"] - numbers["j_full"])
    assert right >= 9
    whole = fit(library, wells(3000, 0), diffusivity=0.3, degree=5)
    assert "kept" not in whole.diagnostics and (whole.coefficients != 0).all()


def test_the_survivors_are_fitted_anew():
    found = equations(drifts.from_expressions(WELL, None, axes=("x", "y")), wells(3000, 0).x, 5, diffusivity=0.3)
    full = found.solve()
    kept, solution = moments.eliminate(found, full, 4.0)
    assert kept.tolist() == [0, 1, 2]
    again = found.restricted(kept).solve()
    np.testing.assert_allclose(solution.estimate, again.estimate, atol=0.05 * again.std_error.min())
    assert (solution.std_error < full.std_error[kept]).all()
    everything, same = moments.eliminate(found, full, 0.0)
    assert len(everything) == 10 and same is full
    assert 9 in moments.eliminate(found, full, 4.0, always=[9])[0]


class Known:
    """Equations of which nothing but the estimate and its covariance is known, exact for every restriction."""

    clouds = [SimpleNamespace(x=torch.zeros(1).double())]

    def __init__(self, theta, covariance):
        self.theta, self.information, self.unknowns = theta, np.linalg.inv(covariance), len(theta)

    def restricted(self, kept):
        return SimpleNamespace(solve=lambda *_: self.solve(np.asarray(kept)))

    def solve(self, kept=slice(None)):
        covariance = np.linalg.inv(self.information[kept][:, kept])
        estimate = covariance @ (self.information @ self.theta)[kept]
        return SimpleNamespace(estimate=estimate, covariance=covariance)


def test_of_two_that_share_their_effect_one_stays():
    """Each of them alone is lost in noise beside the other; with one gone the other is plain, before any new fit."""
    covariance = np.diag([1.0, 100.0, 0.01, 1.0, 1.0, 1.0])
    covariance[0, 1] = covariance[1, 0] = -9.99
    found = Known(np.array([0.12, 1.0, 5.0, 3.4, -3.2, 3.0]), covariance)
    kept, solution = moments.eliminate(found, found.solve(), 4.0)
    assert kept.tolist() == [0, 2]
    np.testing.assert_allclose(solution.estimate, [0.12 + 0.0999, 5.0])
    np.testing.assert_allclose(np.diag(solution.covariance), [1 - 0.999**2, 0.01])


def test_a_threshold_that_is_too_high_drops_true_terms_or_is_refused():
    library = drifts.from_expressions(WELL, None, axes=("x", "y"))
    for seed in range(3):
        with pytest.raises(ValueError, match="200 standard errors"):
            fit(library, wells(3000, seed), diffusivity=0.3, degree=5, sparse=True, threshold=200)
        try:
            found = fit(library, wells(3000, seed), diffusivity=0.3, degree=5, sparse=True, threshold=25)
        except ValueError as error:
            assert "25 standard errors" in str(error)
        else:
            assert (found.coefficients[:3] == 0).any() and found.diagnostics["j_rise_p_value"] < 1e-6


def test_elimination_keeps_an_unknown_diffusivity():
    """It is no term of the library: of motion without noise nothing could be seen, and the model still has one."""
    data = linear_snapshots(1500, [0.0, 0.15, 0.3, 0.45], 0, noise=0.0)
    found = fit(drifts.affine(2, axes=("x", "y")), data, diffusivity="unknown", sparse=True)
    assert abs(found.diffusivity) < 4 * found.diffusivity_error < 0.2
    assert {"x: x", "x: y", "y: x", "y: y"} <= set(np.array(found.drift_terms.names)[found.coefficients != 0])
    assert np.isfinite(found.simulate(data.x[:5], [0.0, 0.5])).all()  # even if it came out below zero


def test_the_rise_of_j_has_its_size_and_sees_a_term_that_is_missed():
    library, rises, p = drifts.from_expressions(WELL, None, axes=("x", "y")), [], []
    for seed in range(100):
        found = equations(library, wells(4000, seed).x, 4, diffusivity=0.3)
        full, right = found.solve(), found.restricted([0, 1, 2]).solve()
        rise, dof, value = moments.j_difference(right, full)
        assert dof == 7 and value == pytest.approx(stats.chi2.sf(max(rise, 0), 7))
        rises.append(rise)
        p.append(value)
        if seed < 5:
            assert moments.j_difference(found.restricted([0, 2, 3, 4, 5]).solve(), full)[2] < 1e-10
    low, high = wilson(np.sum(np.array(p) < 0.05), 100)
    assert low < 0.05 < high and abs(np.mean(rises) - 7) < 3 * np.sqrt(2 * 7 / 100)
    rise, dof, value = moments.j_difference(full, full)
    assert (rise, dof) == (0, 0) and np.isnan(value)


@pytest.mark.parametrize("name", ["double-well", "linear"])
def test_an_unknown_diffusivity_and_nothing_known_gives_ratios(name):
    """A cloud at rest shows only the ratio of drift to diffusivity: as if D were 1."""
    if name == "linear":
        terms = drifts.from_expressions(
            {"a": ["-x0", "0"], "c": ["0", "-x1"], "s": ["-x1", "-x0"]}, None, axes=("x0", "x1")
        )
        system, truth = ou(rotation=0.0), np.array([1.0, 1.0, 0.4])
    else:
        system = systems.build("double-well", diffusivity=0.5)
        terms, truth = system.terms, system.truth.numpy()
    data = cloud_of(system, 3000, 0)
    found, one = fit(terms, data, diffusivity="unknown"), fit(terms, data, diffusivity=1.0)
    assert found.parameters["name"].tolist() == [f"{name} / D" for name in terms.names]
    assert not found.clock and one.clock and found.diffusivity == 1.0 and found.diffusivity_error is None
    np.testing.assert_array_equal(found.coefficients, one.coefficients)
    np.testing.assert_array_equal(found.std_error, one.std_error)
    assert found.parameters["unit"].str.endswith("/ (length^2/time)").all()
    assert (np.abs(found.coefficients - truth / 0.5) < 4 * found.std_error).all()
    assert (np.abs(found.coefficients - truth) > 8 * found.std_error).any()


@pytest.mark.parametrize("name", ["ornstein-uhlenbeck", "hopf"])
def test_an_unknown_diffusivity_beside_a_known_turn_is_refused(name):
    """The turn is known but sets no clock: for every D some drift keeps the same cloud."""
    system = systems.build(name, diffusivity=0.5)
    with pytest.raises(ValueError, match="only if the known part of the drift fixes the clock, and this one does not"):
        fit(system.terms, cloud_of(system, 500, 0), diffusivity="unknown")
    terms = {"a": ["x", "0"], "c": ["0", "y"], "s": ["y", "x"]}
    if name == "hopf":
        terms = {"growth": ["x", "y"], "saturation": ["-x*(x^2+y^2)", "-y*(x^2+y^2)"]}
    by_hand = drifts.from_expressions(terms, ["0.8*y", "-0.8*x"], axes=("x", "y"))
    assert by_hand.fixes_clock  # whoever claims to know better
    for seed in range(4):
        with pytest.raises(ValueError, match="a combination of .*'diffusivity'"):
            fit(by_hand, cloud_of(system, 2000, seed), diffusivity="unknown")


def test_a_known_part_that_fixes_the_clock_shows_the_diffusivity():
    """f = (a x - x^3, -c y) with the cube known: exp(-V / D) with everything over the D that the cube sets."""
    terms = drifts.from_expressions({"a": ["x", "0"], "c": ["0", "-y"]}, ["-x^3", "0"], axes=("x", "y"))
    z = []
    for seed in range(30):
        found = fit(terms, wells(3000, seed), diffusivity="unknown", degree=4)
        errors = np.r_[found.std_error, found.diffusivity_error]
        z.append((np.r_[found.coefficients, found.diffusivity] - [1.0, 1.0, 0.3]) / errors)
        assert found.clock and found.parameters["name"].tolist() == ["a", "c", "diffusivity"]
    assert errors[-1] < 0.03 and np.abs(z).max() < 4.5
    assert 0.75 < np.sqrt(np.mean(np.square(z))) < 1.3
    wrong = fit(terms, wells(3000, 0), diffusivity=0.6, degree=4)
    assert wrong.diagnostics["j_p_value"] < 1e-6


def test_a_method_may_fit_again():
    """What one data set could not show is no knowledge about the next."""
    method = moments.Moments(drifts.affine(2, axes=("x", "y")), diffusivity="unknown")
    assert not method.fit(wells(500, 0), rng=np.random.default_rng(0)).clock
    found = method.fit(linear_snapshots(1000, [0.0, 0.3, 0.6], 0), rng=np.random.default_rng(0))
    assert found.clock and abs(found.diffusivity - NOISE) < 4 * found.diffusivity_error


@pytest.mark.parametrize("kind", ["gaussians", "mixed"])
def test_gaussian_bumps_do_as_well(kind):
    truth, z, p = ou().truth.numpy(), [], []
    for seed in range(40):
        options = {"tests": kind, "count": 15, "width": 1.2, "seed": seed}
        found = fit(ou().terms, cloud_of(ou(), 1500, seed), diffusivity=0.5, **options)
        assert found.diagnostics["j_dof"] == 15 + (9 if kind == "mixed" else 0) - 3
        z.append((found.coefficients - truth) / found.std_error)
        p.append(found.diagnostics["j_p_value"])
    rms = np.sqrt(np.mean(np.square(z)))
    assert 0.8 < rms < 1.2 and np.abs(np.mean(z, 0)).max() < 0.55
    low, high = wilson(np.sum(np.array(p) < 0.05), 40)
    assert low < 0.05 < high


PULLED = replace(
    drifts.from_expressions(
        {"drive": ["0", "0", "(x^2 - y^2)/(x^2 + y^2)"], "decay": ["0", "0", "-z"]},
        ["x*(1 - x^2 - y^2) + y", "y*(1 - x^2 - y^2) - x", "0"],
        axes=("x", "y", "z"),
    ),
    phases=((0, 1),),
)


def pulled_cloud(n, seed, dt=0.01):
    """z follows an oscillator: dz = 2 cos(2 phase) - z, all with D = 0.05."""
    rng = np.random.default_rng(seed)
    x = np.c_[systems.build("hopf", diffusivity=0.05).sample(n, rng), rng.normal(size=n)]
    for _ in range(600):
        rate = PULLED(torch.tensor([2.0, 1.0]).double(), torch.from_numpy(x)).numpy()
        x = x + dt * rate + np.sqrt(2 * 0.05 * dt) * rng.normal(size=x.shape)
    return Snapshots.build(x, meta={"axes": ["x", "y", "z"]})


def test_phase_modes_follow_a_rotating_driver():
    z = []
    for seed in range(5):
        data = pulled_cloud(2000, seed)
        found = fit(PULLED, data, diffusivity=0.05, degree=2, harmonics=2)
        assert found.diagnostics["j_dof"] == 2 * (1 + 2 * 2) - 2
        z.append((found.coefficients - [2.0, 1.0]) / found.std_error)
    assert np.abs(z).max() < 4 and (found.std_error < 0.2).all()
    backwards = replace(PULLED, known=lambda x: PULLED.known(x) * torch.tensor([1.0, 1.0, 1.0]) + 2 * turn(x))
    assert fit(backwards, data, diffusivity=0.05, degree=2, harmonics=2).diagnostics["j_p_value"] < 1e-6
    plain = fit(PULLED, data, diffusivity=0.05, tests="monomials", degree=3)
    assert (np.abs(plain.coefficients - [2.0, 1.0]) < 4 * plain.std_error).all()


def turn(x):
    return torch.stack([-x[:, 1], x[:, 0], torch.zeros_like(x[:, 0])], 1)


def test_unknown_tests_are_refused():
    with pytest.raises(ValueError, match="tests must be monomials, .* phases, got 'wavelets'"):
        moments.Moments(ou().terms, diffusivity=0.5, tests="wavelets")
    with pytest.raises(ValueError, match="needs a drift with rotating drivers; take monomials or gaussians"):
        moments.Moments(ou().terms, diffusivity=0.5, tests="phases")


def test_more_unknowns_than_rows_or_moments_are_refused():
    library = drifts.polynomial(2, 3, axes=("x", "y"))
    with pytest.raises(ValueError, match="20 unknowns cannot be determined from 15 rows and .* moments: give more"):
        fit(library, cloud_of(ou(), 15, 0), diffusivity=0.5)
    with pytest.raises(ValueError, match="20 unknowns cannot be determined from 500 rows and 5 moments.*degree"):
        fit(library, cloud_of(ou(), 500, 0), diffusivity=0.5, degree=2)


def test_degenerate_clouds_are_refused_in_words():
    x = np.random.default_rng(0).normal(size=(200, 2))
    flat = Snapshots.build(x * [1.0, 0.0], meta={})
    same = Snapshots.build(np.ones((200, 2)), meta={})
    once = Snapshots.build(x, t=np.zeros(200), meta={})
    terms = drifts.from_expressions({"a": ["x", "0"], "c": ["0", "y"]}, None, axes=("x", "y"))
    for data in (flat, same, once):
        with pytest.raises(ValueError, match="constant|spread|identical|two (snapshots|times)|determine"):
            fit(terms, data, diffusivity=0.5)
    thin = Snapshots.build(x, t=np.r_[np.zeros(195), np.ones(5)], meta={})
    with pytest.raises(ValueError, match=r"snapshots at t = \[1.0\] have fewer than 10 training rows"):
        fit(terms, thin, diffusivity=0.5)


def test_fits_use_training_rows_only_and_do_not_depend_on_threads():
    data = cloud_of(ou(), 1500, 9)
    split = np.array(["train"] * 1200 + ["test"] * 300, dtype=object)
    spoiled = Snapshots.build(np.r_[data.x[:1200], 50 + data.x[1200:]], split=split, meta=data.meta)
    clean = fit(ou().terms, data.where(np.arange(1200)), diffusivity=0.5)
    np.testing.assert_array_equal(fit(ou().terms, spoiled, diffusivity=0.5).coefficients, clean.coefficients)
    method = moments.Moments(ou().terms, diffusivity=0.5)
    threaded = method.fit(spoiled, rng=np.random.default_rng(0), threads=3)
    np.testing.assert_array_equal(threaded.coefficients, clean.coefficients)
