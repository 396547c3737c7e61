"""Predictions one snapshot ahead: how cells are moved, what the moves score, and the verdict on them."""

import numpy as np
import pandas as pd
import pytest
from scipy.linalg import expm, solve_continuous_lyapunov

from snapdyn import artifacts, drifts, forecasts, metrics, models, propagation, systems
from snapdyn.snapshots import Snapshots

MATRIX, OFFSET, NOISE = np.array([[-0.6, 0.9], [-0.9, -0.4]]), np.array([0.3, -0.2]), 0.1
TIMES = np.array([0.0, 0.5, 1.5])
IDENTITY = {"paper": "p", "experiment": "e", "dataset": "d", "method": "m", "seed": 0}


def exact_model():
    """The true linear process as a fitted model; only its drift and diffusivity matter here."""
    start = (0.0, np.zeros(2), np.eye(2))
    errors = {"matrix": np.zeros((2, 2)), "offset": np.zeros(2), "diffusivity": 0.0}
    return propagation.AffineModel(
        MATRIX, OFFSET, NOISE, errors=errors, start=start, end=9.0, axes=["x", "y"], time_unit=None, diagnostics={}
    )


def advance(x, gap, rng):
    rest = solve_continuous_lyapunov(MATRIX, -2 * NOISE * np.eye(2))
    carry, fixed = expm(MATRIX * gap), -np.linalg.solve(MATRIX, OFFSET)
    noise = rng.multivariate_normal(np.zeros(2), rest - carry @ rest @ carry.T, len(x), method="eigh")
    return (x - fixed) @ carry.T + fixed + noise


def cells(n=300, seed=0, times=TIMES):
    """Fresh populations at each time, a third of each held out."""
    rng, clouds = np.random.default_rng(seed), []
    for t in times:
        x = np.array([3.0, 1.0]) + rng.normal(size=(n, 2)) * [0.6, 0.3]
        clouds.append(advance(x, t - times[0], rng))
    split = np.resize(np.array(["train", "train", "test"], dtype=object), n * len(times))
    meta = {"dataset": "d", "axes": ["x", "y"], "space": "plane", "seed": seed}
    return Snapshots.build(np.concatenate(clouds), t=np.repeat(times, n), split=split, meta=meta)


class Turning:
    """A velocity that turns ever faster: by the angle t^2 / 2 since t = 0."""

    def velocity(self, t, x):
        return t[:, None] * np.stack([-x[:, 1], x[:, 0]], 1)


class Linear:
    """A drift without noise."""

    def drift(self, t, x):
        return x @ MATRIX.T + OFFSET


class Both(Linear):
    """A velocity beside the drift, which is not to be followed."""

    def velocity(self, t, x):
        return np.ones_like(x)


class Jump(Both):
    """A simulator beside all else; it notes what it was asked."""

    def simulate(self, x0, times, rng):
        self.asked = x0.copy(), np.array(times), rng
        return np.stack([x0, x0 + 100.0])


def test_cells_follow_the_velocity_at_the_right_times():
    x = np.array([[1.0, 0.0], [0.0, 2.0]])
    moved = forecasts.move(Turning(), x, 1.0, 3.0, np.random.default_rng(0))
    angle = (9.0 - 1.0) / 2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(moved, x @ turn.T, atol=1e-6)
    np.testing.assert_array_equal(x, [[1.0, 0.0], [0.0, 2.0]])  # the caller's array is left alone


def test_cells_follow_the_drift_where_there_is_nothing_else():
    x = np.random.default_rng(0).normal(size=(7, 2))
    moved = forecasts.move(Linear(), x, 0.0, 2.0, np.random.default_rng(0))
    fixed = -np.linalg.solve(MATRIX, OFFSET)
    np.testing.assert_allclose(moved, (x - fixed) @ expm(2 * MATRIX).T + fixed, atol=1e-8)


def test_simulation_goes_before_velocity_and_velocity_before_drift():
    x, rng = np.zeros((3, 2)), np.random.default_rng(0)
    np.testing.assert_allclose(forecasts.move(Both(), x, 0.0, 2.0, rng), 2.0)
    model = Jump()
    np.testing.assert_allclose(forecasts.move(model, x, 0.5, 2.0, rng), 100.0)
    start, times, generator = model.asked
    np.testing.assert_array_equal(times, [0.5, 2.0])
    assert generator is rng and not start.any()


def test_held_out_cells_of_all_times_but_the_last_move_one_snapshot_ahead():
    data, model = cells(30), Jump()
    predicted = forecasts.predict(model, data, np.random.default_rng(0))
    held = data.select(split="test")
    for start, end in zip(TIMES[:-1], TIMES[1:], strict=True):
        here, moved = held.select(t=start), predicted.select(t=end)
        np.testing.assert_array_equal(moved.x, here.x + 100.0)
        np.testing.assert_array_equal(moved.row, here.row)
    assert set(predicted.t) == {0.5, 1.5} and set(predicted.split) == {"predicted"}
    assert predicted.meta["dataset"] == "d"
    meta = dict(predicted.meta, dim=2)
    assert artifacts.problems(predicted.frame(), "snapshots/1", meta) == []


def test_weights_go_with_the_cells():
    data = cells(30)
    weight = np.random.default_rng(1).uniform(1, 2, len(data))
    data = Snapshots.build(data.x, t=data.t, split=data.split, weight=weight, meta=data.meta)
    predicted = forecasts.predict(Jump(), data, np.random.default_rng(0))
    expected = np.concatenate([data.select(split="test", t=t).weight for t in TIMES[:-1]])
    np.testing.assert_array_equal(predicted.weight, expected)


class Lost(Linear):
    def simulate(self, x0, times, rng):
        end = x0.copy()
        end[:2] = np.inf
        return np.stack([x0, end])


def test_cells_carried_to_infinity_are_refused_with_their_number_and_time():
    with pytest.raises(ValueError, match="carries 2 cells to infinity from t = 0 to 0.5"):
        forecasts.predict(Lost(), cells(30), np.random.default_rng(0))


def scores_of(model, data, seed=0):
    predicted = forecasts.predict(model, data, np.random.default_rng(seed))
    frame = forecasts.score(data, predicted, identity=IDENTITY)
    assert artifacts.problems(frame, "metrics/1", {}) == []
    return frame, predicted


class Still:
    def drift(self, t, x):
        return np.zeros_like(x)


def test_the_true_law_predicts_as_well_as_a_resample_and_no_movement_does_not():
    data, again = cells(900), cells(900, seed=1)
    frame, _ = scores_of(exact_model(), data)
    still, _ = scores_of(Still(), data)
    for end in TIMES[1:]:

        def at(table, metric, end=end):
            return table[(table["metric"] == metric) & (table["t"] == end)]["value"].item()

        there = data.select(split="test", t=end).x
        floor = metrics.wasserstein(there, again.select(split="test", t=end).x)
        assert at(frame, "w1") < 1.7 * floor
        assert at(still, "w1") > 4 * floor
        assert at(frame, "w2") >= at(frame, "w1")
    assert set(frame["unit"]) == {"plane"} and set(frame["split"]) == {"test"}


def test_scores_are_the_distances_and_their_mean_stands_without_a_time():
    data = cells(60)
    frame, predicted = scores_of(exact_model(), data)
    for order in (1, 2):
        rows = frame[frame["metric"] == f"w{order}"]
        for end in TIMES[1:]:
            exact = metrics.wasserstein(predicted.select(t=end).x, data.select(split="test", t=end).x, order=order)
            assert rows[rows["t"] == end]["value"].item() == pytest.approx(exact)
        mean = rows[rows["t"].isna()]
        assert mean["value"].item() == pytest.approx(rows[rows["t"].notna()]["value"].mean())
        assert mean["n"].item() == 40


def gain_of(model, seeds=(0, 1)):
    pairs = [(data := cells(300, seed), forecasts.predict(model, data, np.random.default_rng(seed))) for seed in seeds]
    return forecasts.gain(pairs, rng=np.random.default_rng(0))


def test_the_verdict_on_the_true_law_is_yes_and_on_its_reverse_it_is_not():
    answer = gain_of(exact_model())
    assert answer["verdict"] == "yes" and answer["n_seeds"] == 2 and answer["low"] > 0
    backwards = models.DriftModel(
        drifts.affine(2, axes=("x", "y")), np.r_[-OFFSET[0], -MATRIX[0], -OFFSET[1], -MATRIX[1]], diffusivity=NOISE
    )
    assert gain_of(backwards)["verdict"] == "no"
    assert gain_of(Still())["verdict"] == "no"


def stationary(system, n=1500, seed=0):
    x = system.sample(n, np.random.default_rng(seed))
    split = np.resize(np.array(["train", "test"], dtype=object), n)
    return Snapshots.build(x, split=split, meta={"dataset": "d", "axes": list(system.axes), "notes": ["before"]})


def fitted(system, factor=1.0):
    return models.DriftModel(system.terms, factor * system.truth.numpy(), diffusivity=system.diffusivity)


@pytest.mark.parametrize("name", ["ornstein-uhlenbeck", "double-well"])
def test_a_cloud_at_rest_is_made_again_by_its_own_drift(name):
    system = systems.build(name, diffusivity=0.5)
    data = stationary(system)
    held = data.select(split="test")
    made = forecasts.regenerate(fitted(system), data, np.random.default_rng(0))
    floor = metrics.wasserstein(held.x, stationary(system, seed=1).select(split="test").x)
    assert metrics.wasserstein(held.x, made.x) < 1.8 * floor
    wrong = forecasts.regenerate(fitted(system, 3.0), data, np.random.default_rng(0))
    assert metrics.wasserstein(held.x, wrong.x) > 2.2 * floor
    apart = np.linalg.norm(made.x - held.x[np.searchsorted(held.row, made.row)], axis=1)
    assert np.median(apart) > 0.5 * held.x.std()  # the points did move
    assert made.meta["notes"][0] == "before" and "0 of 750 points escaped" in made.meta["notes"][2]
    assert not made.timed and set(made.split) == {"predicted"}
    assert data.meta["notes"] == ["before"]


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_points_that_escape_are_counted_and_left_out():
    system = systems.build("double-well", diffusivity=0.5)
    data = stationary(system, 400)
    terms = drifts.polynomial(2, 2, axes=("x", "y"))
    theta = np.zeros(terms.count)
    theta[[terms.names.index("x: x^2"), terms.names.index("y: y")]] = 1.0, -1.0
    model = models.DriftModel(terms, theta, diffusivity=1e-3)
    made = forecasts.regenerate(model, data, np.random.default_rng(0))
    escaped = int(made.meta["notes"][2].split()[0])
    assert 0 < escaped < 200 and len(made) == 200 - escaped and np.isfinite(made.x).all()
    with pytest.raises(ValueError, match="carries every point to infinity"):
        forecasts.regenerate(fitted(system, -300.0), data, np.random.default_rng(0))


def test_a_cloud_at_rest_needs_a_drift():
    with pytest.raises(ValueError, match=r"needs a model with drift\(t, x\), Turning has none"):
        forecasts.regenerate(
            Turning(), stationary(systems.build("hopf", diffusivity=0.5), 50), np.random.default_rng(0)
        )


def test_the_cosine_with_the_true_velocity():
    x = np.random.default_rng(0).normal(size=(50, 2))
    truth = x @ MATRIX.T + OFFSET
    columns = {"t": np.zeros(50), "x0": x[:, 0], "x1": x[:, 1]}
    same = pd.DataFrame(columns | {"velocity0": 3 * truth[:, 0], "velocity1": 3 * truth[:, 1]})
    across = pd.DataFrame(columns | {"velocity0": -truth[:, 1], "velocity1": truth[:, 0]})
    assert forecasts.velocity_cosine(Linear(), same, 2) == pytest.approx(1.0)
    assert forecasts.velocity_cosine(Linear(), across, 2) == pytest.approx(0.0, abs=1e-12)
    assert forecasts.velocity_cosine(Still(), same, 2) == 0.0


def test_arrows_turned_round_are_worse_than_standing_still(rng):
    start, end = rng.normal(2, 0.2, (300, 2)), rng.normal(1, 0.2, (300, 2))
    t, meta = np.repeat([0.0, 1.0], 300), {"dataset": "shift", "dim": 2, "seed": 0}
    cells = Snapshots.build(np.concatenate([start, end]), t=t, split=np.full(600, "test", dtype=object), meta=meta)
    predicted = Snapshots.build(start - 1, t=np.ones(300), row=np.arange(300), meta=meta)
    turned = forecasts.reversed_moves(cells, predicted)
    assert np.allclose(turned.x, start + 1) and (turned.t == 1).all()
    identity = {"paper": "p", "experiment": "e", "dataset": "d", "method": "m", "seed": 0}
    w1 = [
        forecasts.score(cells, moved, identity=identity).query("metric == 'w1'")["value"].iloc[0]
        for moved in (predicted, turned)
    ]
    assert w1[0] < 0.15 and w1[1] > 2.5
