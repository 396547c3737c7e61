"""Method moments: honest errors, tests of the model, unknown diffusivity, and what nobody can see refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from moments_helpers import (
    MATRIX,
    NOISE,
    OFFSET,
    cloud_of,
    equations,
    fit,
    linear_snapshots,
    ou,
    truth_of_linear,
    wells,
    wilson,
)
from scipy import stats
from scipy.linalg import expm

from snapdyn import drifts, moment_equations, moments, systems, weakform
from snapdyn.snapshots import Snapshots


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


def test_heavy_tails_do_not_make_the_j_test_reject_too_often(three_hundred):
    """Degree 4 at 2000 points: the chi-squared law of J rejects what is true, crossed folds do not."""
    p = np.array([found.j_p for found in three_hundred])
    low, high = wilson((p < 0.05).sum(), len(p))
    assert low < 0.05 < high and stats.kstest(p, "uniform").pvalue > 1e-3
    naive = np.array([stats.chi2.sf(found.j_statistic, found.j_dof) for found in three_hundred])
    assert wilson((naive < 0.05).sum(), len(naive))[0] > 0.05


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
    near = moment_equations.SETTLED * one.std_error.max()  # re-weighting stops within this of its limit
    np.testing.assert_allclose(theta_moved[:, 1:], theta[:, 1:], atol=near)
    np.testing.assert_allclose(theta_moved[:, 0], theta[:, 0] - theta[:, 1:] @ shift, atol=40 * near)
    np.testing.assert_allclose(two.std_error.reshape(2, 3)[:, 1:], one.std_error.reshape(2, 3)[:, 1:], rtol=1e-3)
    assert two.diffusivity == pytest.approx(one.diffusivity, abs=moment_equations.SETTLED * one.diffusivity_error)


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
