"""Distances against closed forms and a second exact solver; rows against their contract."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from snapdyn import artifacts, metrics


@pytest.fixture
def cloud():
    return np.random.default_rng(0).normal(size=(80, 3))


@pytest.mark.parametrize("order", [1, 2])
def test_a_shift_costs_its_length(cloud, order):
    shift = np.array([3.0, -4.0, 12.0])
    assert metrics.wasserstein(cloud, cloud + shift, order=order) == pytest.approx(13.0, abs=1e-10)


@pytest.mark.parametrize("order", [1, 2])
def test_agrees_with_the_assignment_problem(cloud, order):
    other = np.random.default_rng(1).normal(size=cloud.shape) * 2
    costs = cdist(cloud, other) ** order
    rows, columns = linear_sum_assignment(costs)
    exact = costs[rows, columns].mean() ** (1 / order)
    assert metrics.wasserstein(cloud, other, order=order) == pytest.approx(exact, rel=1e-10)


def test_marginals_count_as_repeated_points(cloud):
    few, counts = cloud[:4], np.array([1, 2, 3, 4])
    repeated = np.repeat(few, counts, axis=0)
    weighted = metrics.wasserstein(few, cloud, a=metrics.marginal(counts))
    assert weighted == pytest.approx(metrics.wasserstein(repeated, cloud), rel=1e-10)
    assert weighted != pytest.approx(metrics.wasserstein(few, cloud), rel=1e-3)


def test_marginals_of_different_mass_are_refused(cloud):
    with pytest.raises(ValueError, match=r"total mass 80 and 160.*metrics\.marginal"):
        metrics.wasserstein(cloud, cloud, a=np.ones(80), b=np.full(80, 2.0))
    # One marginal alone sets the total mass of both.
    assert metrics.wasserstein(cloud, cloud, a=np.ones(80)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (np.zeros((3, 2)), np.zeros((3, 3)), {}, "got shapes"),
        (np.zeros((0, 2)), np.zeros((3, 2)), {}, "got shapes"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), {}, "3 of 3 points of the first cloud"),
        (np.zeros((3, 2)), np.zeros((3, 2)), {"order": 3}, "order must be 1 or 2"),
        (np.zeros((3, 2)), np.zeros((3, 2)), {"a": np.ones(2)}, "expected marginals"),
        (np.zeros((3, 2)), np.zeros((3, 2)), {"a": np.array([2.0, -1, 0])}, "not negative"),
    ],
)
def test_bad_clouds_are_refused(x, y, options, message):
    with pytest.raises(ValueError, match=message):
        metrics.wasserstein(x, y, **options)


@pytest.mark.parametrize("order", [1, 2])
def test_potentials_give_the_cost_and_its_first_order_change(order):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(40, 2)), rng.normal(size=(53, 2)) + 1
    a, b = metrics.marginal(rng.uniform(1, 2, 40)), metrics.marginal(rng.uniform(1, 2, 53))
    distance, f, g = metrics.wasserstein(x, y, order=order, a=a, b=b, with_potentials=True)
    assert a @ f + b @ g == pytest.approx(distance**order, rel=1e-10)
    assert (f[:, None] + g <= cdist(x, y) ** order + 1e-10).all()
    step = 1e-6 * (metrics.marginal(rng.uniform(size=40)) - a)
    moved = metrics.wasserstein(x, y, order=order, a=a + step, b=b) ** order
    assert moved - distance**order == pytest.approx(step @ f, rel=1e-3)


def test_large_clouds_are_thinned_with_a_spread():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(900, 2)), rng.normal(size=(700, 2)) + 2
    exact = metrics.wasserstein(x, y)
    mean, spread = metrics.sampled_wasserstein(x, y, max_points=300, repeats=5, rng=rng)
    assert mean == pytest.approx(exact, abs=0.15)
    assert 0 < spread < 0.15
    assert metrics.sampled_wasserstein(x, y) == (exact, 0.0)
    assert metrics.wasserstein(x, y, max_points=300) == metrics.wasserstein(x, y, max_points=300)
    with pytest.raises(ValueError, match="thin the clouds first"):
        metrics.wasserstein(x, y, max_points=300, with_potentials=True)


def test_thinning_follows_the_weights():
    x = np.repeat([[0.0], [1.0]], 500, axis=0)
    weight = np.repeat([3.0, 1.0], 500)
    kept, marginal = metrics.thin(x, weight, 400, np.random.default_rng(0))
    assert kept.shape == (400, 1)
    assert marginal.sum() == pytest.approx(1)
    assert kept.mean() == pytest.approx(0.25, abs=0.08)


def test_gaussian_w2_in_closed_form():
    # Commuting covariances: the roots subtract.
    c0, c1 = np.diag([1.0, 4.0]), np.diag([9.0, 16.0])
    assert metrics.gaussian_w2([0, 0], c0, [3, 4], c1) == pytest.approx(np.sqrt(25 + 4 + 4))
    assert metrics.gaussian_w2([0], [[0.0]], [2], [[9.0]]) == pytest.approx(np.sqrt(4 + 9))


def test_gaussian_w2_agrees_with_a_map_between_samples():
    rng = np.random.default_rng(4)
    m0, m1 = np.zeros(2), np.array([1.0, -2.0])
    c0, c1 = np.array([[2.0, 0.7], [0.7, 1.0]]), np.array([[1.0, -0.4], [-0.4, 3.0]])
    root, inverse = metrics.matrix_power(c0, 0.5), metrics.matrix_power(c0, -0.5)
    best = inverse @ metrics.matrix_power(root @ c1 @ root, 0.5) @ inverse
    assert best @ c0 @ best == pytest.approx(c1)
    x = rng.multivariate_normal(m0, c0, 200_000)
    moved = np.sqrt(np.mean(np.sum((m1 + (x - m0) @ best - x) ** 2, axis=1)))
    assert metrics.gaussian_w2(m0, c0, m1, c1) == pytest.approx(moved, rel=0.01)
    # A Cholesky map carries one law to the other as well, and pays more.
    other = np.linalg.cholesky(c1) @ np.linalg.inv(np.linalg.cholesky(c0))
    dearer = np.sqrt(np.mean(np.sum((m1 + (x - m0) @ other.T - x) ** 2, axis=1)))
    assert dearer > metrics.gaussian_w2(m0, c0, m1, c1) * 1.01


def test_gaussian_w2_is_the_limit_of_samples():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(1200, 2)), rng.normal(size=(1200, 2)) * 2 + 5
    exact = metrics.gaussian_w2([0, 0], np.eye(2), [5, 5], 4 * np.eye(2))
    assert metrics.wasserstein(x, y, order=2) == pytest.approx(exact, rel=0.03)


def test_errors_of_parameters():
    assert metrics.relative_error([11, -9], [10, -10]) == pytest.approx([0.1, 0.1])
    assert metrics.z_score(1.2, 1.0, 0.1) == pytest.approx(2)
    assert metrics.rms([3, 4]) == pytest.approx(np.sqrt(12.5))
    with pytest.raises(ValueError, match="truth other than 0"):
        metrics.relative_error(1.0, 0.0)
    with pytest.raises(ValueError, match="standard errors above 0"):
        metrics.z_score(1.0, 1.0, 0.0)


def _rows(seed, value, **changes):
    about = {"paper": "p", "experiment": "e", "dataset": "d", "method": "m", "seed": seed, "split": "test"}
    return metrics.rows({"w1": value, "w2": 2 * value}, **(about | {"unit": "PC", "n": 5} | changes))


def test_rows_keep_the_contract(tmp_path):
    frame = _rows(0, 1.5, t=2.0, unit={"w1": "a", "w2": "b"})
    artifacts.write(frame, tmp_path / "metrics.parquet", "metrics/1")
    back, _ = artifacts.read(tmp_path / "metrics.parquet", "metrics/1")
    assert back[["metric", "value", "unit", "t"]].to_numpy().tolist() == [
        ["w1", 1.5, "a", 2.0],
        ["w2", 3.0, "b", 2.0],
    ]


def test_rms_over_seeds_groups_by_everything_else():
    import pandas as pd

    frame = pd.concat([_rows(0, 3.0), _rows(1, 4.0), _rows(0, 7.0, t=1.0)])
    table = metrics.rms_over_seeds(frame).set_index(["metric", "t"])
    assert table.loc[("w1", np.nan), "value"].item() == pytest.approx(np.sqrt(12.5))
    assert table.loc[("w1", np.nan), "n_seeds"].item() == 2
    assert table.loc[("w1", 1.0), "value"].item() == 7.0
