"""Exact propagation of linear processes: its transition, its fit with errors, and its Gaussian law."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm, solve_continuous_lyapunov

from snapdyn import propagation
from snapdyn.snapshots import Snapshots

MATRIX, OFFSET, NOISE = np.array([[-0.8, 0.5], [-0.3, -0.4]]), np.array([0.6, -0.2]), 0.3
TRUTH = np.r_[MATRIX.ravel(), OFFSET, NOISE]


def transition(matrix, offset, diffusivity, gap):
    parts = [torch.tensor(part, dtype=torch.float64) for part in (matrix, offset, diffusivity)]
    return [part.numpy() for part in propagation.transition(*parts, gap)]


@pytest.mark.parametrize("gap", [1e-6, 0.3, 2.0])
def test_the_transition_solves_the_moment_equations(gap):
    matrix, offset = np.array([[-1.0, 0.8, 0.0], [-0.8, -1.5, 0.3], [0.1, 0.0, 0.2]]), np.array([1.0, -2.0, 0.5])
    mean, covariance = np.array([0.5, 1.0, -1.0]), np.array([[1.0, 0.2, 0.0], [0.2, 0.5, 0.1], [0.0, 0.1, 0.8]])

    def rates(t, state, diffusivity=0.4):
        m, c = state[:3], state[3:].reshape(3, 3)
        return np.r_[matrix @ m + offset, (matrix @ c + c @ matrix.T + 2 * diffusivity * np.eye(3)).ravel()]

    carry, shift, noise = transition(matrix, offset, 0.4, gap)
    end = solve_ivp(rates, (0, gap), np.r_[mean, covariance.ravel()], rtol=1e-11, atol=1e-13).y[:, -1]
    np.testing.assert_allclose(carry @ mean + shift, end[:3], rtol=1e-8)
    np.testing.assert_allclose(carry @ covariance @ carry.T + noise, end[3:].reshape(3, 3), rtol=1e-8, atol=1e-10)
    np.testing.assert_array_equal(noise, noise.T)
    halved = transition(matrix, offset, 0.2, gap)[2]  # half the noise is not the same
    np.testing.assert_allclose(halved, noise / 2, rtol=1e-10)


@pytest.mark.parametrize("rates", [(-0.2, -5.0), (-0.01, -20.0)])
def test_long_gaps_of_stiff_systems_stay_exact(rates):
    turn = np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
    matrix = turn @ np.diag(rates) @ turn.T
    carry, shift, noise = transition(matrix, [1.0, 2.0], 0.3, 12.0)
    np.testing.assert_allclose(carry, expm(12 * matrix), rtol=1e-10, atol=1e-12)
    decay = np.exp(2 * 12 * np.array(rates))
    exact = turn @ np.diag(0.3 * (1 - decay) / -np.array(rates)) @ turn.T
    np.testing.assert_allclose(noise, exact, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(shift, (carry - np.eye(2)) @ np.linalg.solve(matrix, [1.0, 2.0]), rtol=1e-10)


def test_in_the_long_run_the_noise_is_the_stationary_covariance():
    carry, shift, noise = transition(MATRIX, OFFSET, NOISE, 200.0)
    assert np.abs(carry).max() < 1e-12
    np.testing.assert_allclose(noise, solve_continuous_lyapunov(MATRIX, -2 * NOISE * np.eye(2)), rtol=1e-10)
    np.testing.assert_allclose(shift, -np.linalg.solve(MATRIX, OFFSET), rtol=1e-10)


@pytest.mark.parametrize("matrix", [np.zeros((2, 2)), np.array([[0.0, 1.0], [0.0, 0.0]]), np.diag([0.7, -0.7])])
def test_still_shearing_and_growing_systems(matrix):
    first, second = (transition(matrix, OFFSET, NOISE, gap) for gap in (0.7, 1.3))
    whole = transition(matrix, OFFSET, NOISE, 2.0)
    np.testing.assert_allclose(second[0] @ first[0], whole[0], atol=1e-12)
    np.testing.assert_allclose(second[0] @ first[1] + second[1], whole[1], atol=1e-12)
    np.testing.assert_allclose(second[0] @ first[2] @ second[0].T + second[2], whole[2], atol=1e-12)
    if not matrix.any():
        np.testing.assert_allclose(whole[2], 2 * NOISE * 2.0 * np.eye(2), rtol=1e-12)


TIMES = np.array([0.0, 0.7, 1.5, 3.0])  # unequal gaps, of the size of the relaxation times


def draw(n, seed, times=TIMES):
    """Independent cells at each time, drawn from the exact law; the first population is not Gaussian."""
    rng, clouds = np.random.default_rng(seed), []
    for t in times:
        x = np.array([3.0, 2.0]) + (rng.exponential(1.0, (n, 2)) - 1) * [0.8, 0.5]
        carry, shift, noise = transition(MATRIX, OFFSET, NOISE, t - times[0])
        clouds.append(x @ carry.T + shift + rng.multivariate_normal(np.zeros(2), noise, n, method="eigh"))
    meta = {"axes": ["a", "b"], "time_unit": "day"}
    return Snapshots.build(np.concatenate(clouds), t=np.repeat(times, n), meta=meta)


def fit(data, seed=0, restarts=1):
    method = propagation.AffinePropagation(axes=data.meta["axes"], time_unit=data.meta["time_unit"], restarts=restarts)
    return method.fit(data, rng=np.random.default_rng(seed))


def numbers(model):
    """Estimates and standard errors of A row by row, b and D."""
    errors = model.errors
    return (
        np.r_[model.matrix.ravel(), model.offset, model.diffusivity],
        np.r_[errors["matrix"].ravel(), errors["offset"], errors["diffusivity"]],
    )


@pytest.fixture(scope="module")
def fifteen():
    return [numbers(fit(draw(400, seed))) for seed in range(15)]


def test_matrix_offset_and_diffusivity_are_recovered_within_their_intervals():
    estimate, error = numbers(fit(draw(3000, 100), restarts=4))
    assert (np.abs(estimate - TRUTH) < 3.5 * error).all()
    assert (error < [0.1, 0.2, 0.06, 0.2, 0.2, 0.1, 0.03]).all()
    assert np.abs(estimate[-1] / 2 - NOISE) > 3.5 * error[-1]  # D taken for half of it would be refused


def test_standard_errors_are_calibrated(fifteen):
    z = np.stack([(estimate - TRUTH) / error for estimate, error in fifteen])
    assert 0.75 < np.sqrt((z**2).mean()) < 1.3
    assert np.abs(z.mean(0)).max() < 1.1
    assert (np.abs(z) < 1.96).mean() > 0.85


def test_more_cells_are_more_certain(fifteen):
    error = np.mean([error for _, error in fifteen], 0)
    np.testing.assert_allclose(error / numbers(fit(draw(6400, 0)))[1], 4.0, rtol=0.3)


def test_restarts_and_their_seed_do_not_matter_for_the_optimum():
    data = draw(300, 1)
    np.testing.assert_allclose(numbers(fit(data, seed=5, restarts=3))[0], numbers(fit(data))[0], rtol=1e-3, atol=1e-3)
    one, two = (numbers(fit(data, seed=3, restarts=2)) for _ in range(2))
    np.testing.assert_array_equal(one[0], two[0])


def test_times_doubled_halve_every_rate():
    data = draw(300, 2)
    slow = Snapshots.build(data.x, t=2 * data.t + 5, meta=data.meta)
    (one, error), (two, error_two) = numbers(fit(data)), numbers(fit(slow))
    np.testing.assert_allclose(two, one / 2, rtol=1e-5)
    np.testing.assert_allclose(error_two, error / 2, rtol=1e-5)


def test_rescaled_and_shifted_coordinates_transform_as_their_units_say():
    """y = c (x - m): A stays, b becomes c (b + A m), D becomes c^2 D; errors of A and D with them."""
    data, c, m = draw(300, 3), 10.0, np.array([40.0, -7.0])
    one, two = fit(data), fit(Snapshots.build(c * (data.x - m), t=data.t, meta=data.meta))
    np.testing.assert_allclose(two.matrix, one.matrix, rtol=1e-5)
    np.testing.assert_allclose(two.offset, c * (one.offset + one.matrix @ m), rtol=1e-5)
    assert two.diffusivity == pytest.approx(c**2 * one.diffusivity, rel=1e-5)
    np.testing.assert_allclose(two.errors["matrix"], one.errors["matrix"], rtol=1e-4)
    assert two.errors["diffusivity"] == pytest.approx(c**2 * one.errors["diffusivity"], rel=1e-4)


def test_rotated_coordinates_rotate_the_matrix():
    data, angle = draw(300, 4), 0.6
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    one, two = fit(data), fit(Snapshots.build(data.x @ turn.T, t=data.t, meta=data.meta))
    np.testing.assert_allclose(two.matrix, turn @ one.matrix @ turn.T, atol=2e-3)
    np.testing.assert_allclose(two.offset, turn @ one.offset, atol=2e-3)
    assert two.diffusivity == pytest.approx(one.diffusivity, rel=2e-3)


def test_the_offset_error_carries_that_of_the_matrix():
    """Far from the origin b = const - A m is as uncertain as A m; the drift at the data is not."""
    data = draw(300, 5)
    near, far = fit(data), fit(Snapshots.build(data.x + 100.0, t=data.t, meta=data.meta))
    assert (far.errors["offset"] > 20 * near.errors["offset"]).all()
    at = data.x[:5]
    np.testing.assert_allclose(far.drift(0.0, at + 100.0), near.drift(0.0, at), rtol=1e-4, atol=1e-4)


def test_cells_count_by_their_weight():
    data = draw(300, 6)
    weight = np.tile(np.repeat([1.0, 2.0], 150), 4)
    weighted = Snapshots.build(data.x, t=data.t, weight=weight, meta=data.meta)
    twice = data.where(np.repeat(np.arange(len(data)), weight.astype(int)))
    np.testing.assert_allclose(numbers(fit(weighted))[0], numbers(fit(twice))[0], rtol=1e-3, atol=1e-4)
    assert np.abs(numbers(fit(weighted))[0] - numbers(fit(data))[0]).max() > 1e-2
    assert (numbers(fit(weighted))[1] > numbers(fit(twice))[1]).all()  # repeats are no further cells


def test_only_training_rows_count():
    data = draw(300, 7)
    split = np.where(np.arange(len(data)) % 5 == 0, "test", "train").astype(object)
    spoiled = Snapshots.build(np.where((split == "test")[:, None], 99.0, data.x), t=data.t, split=split, meta=data.meta)
    np.testing.assert_array_equal(numbers(fit(spoiled))[0], numbers(fit(data.where(split == "train")))[0])


def test_parameters_are_named_by_equation_and_in_the_users_unit():
    model = fit(draw(300, 8))
    frame = model.parameters
    assert frame["name"].tolist() == ["a: 1", "a: a", "a: b", "b: 1", "b: a", "b: b", "diffusivity"]
    assert frame["unit"][0] == "[a]/day" and frame["unit"].iloc[-1] == "length^2/time"
    expected = np.r_[model.offset[0], model.matrix[0], model.offset[1], model.matrix[1], model.diffusivity]
    np.testing.assert_array_equal(frame["estimate"], expected)
    assert (frame["std_error"] > 0).all()
    x = np.random.default_rng(0).normal(size=(6, 2))
    np.testing.assert_allclose(model.drift(0.0, x), x @ model.matrix.T + model.offset, rtol=1e-12)


@pytest.fixture
def model():
    """The true process, from a Gaussian at t = 1."""
    errors = {"matrix": np.full((2, 2), 0.1), "offset": np.full(2, 0.1), "diffusivity": 0.01}
    start = (1.0, np.array([3.0, 2.0]), np.array([[0.6, 0.1], [0.1, 0.3]]))
    return propagation.AffineModel(
        MATRIX, OFFSET, NOISE, errors=errors, start=start, end=4.0, axes=["a", "b"], time_unit="day", diagnostics={}
    )


def test_velocity_carries_the_law(model):
    """d/dt log p + s.u + div u = 0 by central differences, and not for the drift in place of the velocity."""
    rng, step = np.random.default_rng(0), 1e-4
    x, t = rng.normal(size=(30, 2)) + [1.5, 0.5], rng.uniform(1.1, 4.0, 30)
    rate = (model.log_prob(t + step, x) - model.log_prob(t - step, x)) / (2 * step)
    score = np.stack([(model.log_prob(t, x + e) - model.log_prob(t, x - e)) / (2 * step) for e in step * np.eye(2)], 1)
    np.testing.assert_allclose(model.score(t, x), score, rtol=1e-6, atol=1e-6)

    def divergence(field):
        return sum((field(t, x + e) - field(t, x - e))[:, j] for j, e in enumerate(step * np.eye(2))) / (2 * step)

    def residual(field):
        return rate + (score * field(t, x)).sum(1) + divergence(field)

    assert np.abs(residual(model.velocity)).max() < 1e-5
    assert np.abs(residual(model.drift)).mean() > 0.1


def test_log_prob_is_normalised_and_takes_one_time_for_all(model):
    middle = (np.arange(300) + 0.5) * 16 / 300 - 7
    grid = np.stack(np.meshgrid(middle, middle, indexing="ij"), -1).reshape(-1, 2)
    assert np.exp(model.log_prob(2.0, grid)).sum() * (16 / 300) ** 2 == pytest.approx(1, abs=1e-4)
    x, t = grid[:40], np.where(np.arange(40) % 2, 1.5, 3.0)
    for name in ("log_prob", "score", "velocity"):
        both = getattr(model, name)(t, x)
        for time in (1.5, 3.0):
            np.testing.assert_allclose(both[t == time], getattr(model, name)(time, x[t == time]))
    with pytest.raises(ValueError, match="the process starts at t = 1, asked for t = 0.5"):
        model.log_prob(0.5, x)


def test_the_law_is_the_carried_gaussian_to_all_digits(model):
    carry, shift, noise = transition(MATRIX, OFFSET, NOISE, 1.7)
    mean, covariance = model.law(2.7)
    np.testing.assert_allclose(mean, carry @ model.start[1] + shift, rtol=1e-12)
    np.testing.assert_allclose(covariance, carry @ model.start[2] @ carry.T + noise, rtol=1e-12)


def test_simulations_follow_the_law_at_every_time(model):
    rng, n = np.random.default_rng(0), 20000
    times = np.array([1.0, 1.2, 3.5])
    path = model.simulate(rng.multivariate_normal(*model.start[1:], n), times, rng)
    assert path.shape == (3, n, 2)
    for t, x in zip(times, path, strict=True):
        mean, covariance = model.law(t)
        assert (np.abs(x.mean(0) - mean) < 4.5 * np.sqrt(np.diag(covariance) / n)).all()
        error = np.sqrt((np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / n)
        assert (np.abs(np.cov(x.T) - covariance) < 4.5 * error).all()
    one, two = (model.simulate(path[0][:9], times, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    lagged = np.cov(path[0].T, path[2].T)[2:, :2]  # Cov(X_later, X_start) = F C
    exact = expm(2.5 * MATRIX) @ model.start[2]
    np.testing.assert_allclose(lagged, exact, atol=0.03)


def test_a_fit_has_the_law_of_its_first_snapshot():
    data = draw(3000, 9)
    found = fit(data)
    first = data.select(t=0.0).x
    mean, covariance = found.law(0.0)
    np.testing.assert_allclose(mean, first.mean(0), rtol=1e-10)
    np.testing.assert_allclose(covariance, np.cov(first.T, ddof=0), rtol=1e-10)
    mean, covariance = found.law(3.0)
    np.testing.assert_allclose(mean, data.select(t=3.0).x.mean(0), atol=0.06)
    np.testing.assert_allclose(covariance, np.cov(data.select(t=3.0).x.T), atol=0.06)
    assert found.end == 3.0


def test_the_quasi_likelihood_is_least_where_moments_match():
    """It is the relative entropy: 0 at the truth if the observed moments are the exact ones, above 0 elsewhere."""
    means, covariances = [np.array([3.0, 2.0])], [np.diag([0.64, 0.25])]
    for gap in np.diff(TIMES):
        carry, shift, noise = transition(MATRIX, OFFSET, NOISE, gap)
        means.append(carry @ means[-1] + shift)
        covariances.append(carry @ covariances[-1] @ carry.T + noise)
    means, covariances = torch.tensor(np.array(means)), torch.tensor(np.array(covariances))

    def loss(theta):
        shares = torch.full((3,), 1 / 3).double()
        return propagation.quasi_likelihood(torch.tensor(theta), means, covariances, np.diff(TIMES), shares).item()

    truth = np.r_[MATRIX.ravel(), OFFSET, np.log(NOISE)]
    assert loss(truth) == pytest.approx(0, abs=1e-12)
    for k in range(7):
        for step in (-0.1, 0.1):
            assert loss(truth + step * np.eye(7)[k]) > 1e-5


@pytest.mark.filterwarnings("ignore:invalid value")
def test_clouds_that_cannot_be_fitted_are_refused():
    few = draw(30, 0)
    thin = few.where((few.t != 1.5) | (np.arange(len(few)) % 15 == 0))
    with pytest.raises(ValueError, match=r"more than 2 training cells at each time, got \['1.5: 2'\]; use fewer comp"):
        fit(thin)
    with pytest.raises(ValueError, match="needs at least two snapshots, got 1"):
        fit(few.select(t=0.0))
    with pytest.raises(ValueError, match="needs at least two snapshots, got 0"):
        fit(Snapshots.build(few.x, meta=few.meta))
    flat = Snapshots.build(few.x * [1.0, 0.0], t=few.t, meta=few.meta)
    same = Snapshots.build(np.ones_like(few.x), t=few.t, meta=few.meta)
    for data in (flat, same):
        with pytest.raises(ValueError, match="singular|constant|spread"):
            fit(data)
