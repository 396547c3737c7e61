"""Baselines against maps known in closed form, and against the published embryoid-body table."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from snapdyn import artifacts, baselines, metrics
from snapdyn.snapshots import Snapshots, split_rows

META = {"dataset": "toy", "space": "PC"}


def snapshots(clouds, *, weight=None, seed=0):
    """One snapshot per cloud at t = 0, 1, ...; 60 % of each for training."""
    t = np.repeat(np.arange(len(clouds), dtype=float), [len(x) for x in clouds])
    split = split_rows(t, 0.6, np.random.default_rng(seed))
    return Snapshots.build(np.concatenate(clouds), t=t, split=split, weight=weight, meta=META)


def step(data, seed=0):
    train, test = data.select(split="train"), data.select(split="test")
    rng = np.random.default_rng(seed)
    return baselines.Step(train.select(t=0.0), train.select(t=1.0), test.select(t=0.0), rng)


@pytest.fixture
def linear():
    """A cloud and its exact image under a symmetric positive map: the optimal map is known."""
    x = np.random.default_rng(0).normal(size=(300, 2))
    matrix, shift = np.array([[1.5, 0.3], [0.3, 0.7]]), np.array([4.0, -1.0])
    data = snapshots([x, x])
    moved = np.where(data.t[:, None] == 1, data.x @ matrix + shift, data.x)
    same_split = np.concatenate([data.split[:300], data.split[:300]])
    return replace(data, x=moved, split=same_split), matrix, shift


def test_no_movement_and_mean_shift(linear):
    data, _, _ = linear
    one = step(data)
    assert (baselines.no_movement(one).x == one.cells.x).all()
    gap = one.target.x.mean(axis=0) - one.source.x.mean(axis=0)
    assert baselines.mean_shift(one).x - one.cells.x == pytest.approx(np.tile(gap, (len(one.cells), 1)))


def test_affine_gaussian_finds_the_optimal_map(linear):
    data, matrix, shift = linear
    one = step(data)
    assert baselines.affine_gaussian(one).x == pytest.approx(one.cells.x @ matrix + shift, abs=1e-9)


def test_affine_gaussian_survives_a_constant_axis(linear):
    data, _, _ = linear
    flat = np.column_stack([data.x, np.ones(len(data))])
    predicted = baselines.affine_gaussian(step(replace(data, x=flat))).x
    assert np.isfinite(predicted).all()
    assert predicted[:, 2] == pytest.approx(1)


def test_ot_nearest_moves_with_the_nearest_training_cell(linear):
    data, matrix, shift = linear
    one = step(data)
    x, displacement = one.displacements
    # The image of a cloud under a monotone map is its optimal partner, cell by cell.
    assert displacement == pytest.approx(x @ matrix + shift - x, abs=1e-9)
    nearest = np.linalg.norm(one.cells.x[:, None] - x, axis=2).argmin(axis=1)
    assert baselines.ot_nearest(one).x == pytest.approx(one.cells.x + displacement[nearest])
    ten = np.linalg.norm(one.cells.x[:, None] - x, axis=2).argsort(axis=1)[:, :10]
    assert baselines.ot_10_nearest(one).x == pytest.approx(one.cells.x + displacement[ten].mean(axis=1))


def test_ten_neighbours_of_fewer_cells():
    rng = np.random.default_rng(0)
    one = step(snapshots([rng.normal(size=(6, 2)), rng.normal(size=(6, 2)) + 1]))
    assert np.isfinite(baselines.ot_10_nearest(one).x).all()


def test_floors_ignore_their_input(linear):
    data, _, _ = linear
    one = step(data)
    elsewhere = baselines.Step(one.source, one.target, replace(one.cells, x=one.cells.x + 99), one.rng)
    known = {tuple(x) for x in one.target.x}
    for name, baseline in baselines.BASELINES.items():
        predicted = baseline.predict(replace(elsewhere, rng=np.random.default_rng(0))).x
        ignores = {tuple(x) for x in predicted} <= known
        assert ignores == bool(baseline.floor_kind), name
    assert len(baselines.resampling(one).x) == len(one.cells)
    assert len({tuple(x) for x in baselines.resampling(one).x}) == len(one.cells)  # without replacement
    assert len(baselines.train_floor(one).x) == len(one.target)


def test_weights_steer_the_plan_and_the_score():
    rng = np.random.default_rng(1)
    start = np.concatenate([rng.normal(size=(400, 1)) - 5, rng.normal(size=(400, 1)) + 5])
    end = np.concatenate([rng.normal(size=(400, 1)) - 5, rng.normal(size=(1200, 1)) + 5])
    grows = np.concatenate([np.ones(400), np.full(400, 3.0), np.ones(1600)])

    def w1(weight):
        table = baselines.evaluate(snapshots([start, end], weight=weight), seed=0, orders=(1,))
        return table[table["t"] == 1.0].set_index("method")["value"]

    ignored, honoured = w1(None), w1(grows)
    assert ignored["no-movement"] > 2  # a quarter of the cells seems to cross the gap
    assert honoured["no-movement"] < 1
    assert honoured["ot-nearest"] < 1
    assert ignored["ot-nearest"] < ignored["no-movement"] / 2


def test_evaluate_keeps_the_contract_and_ends_in_means(linear, tmp_path):
    rng = np.random.default_rng(2)
    data = snapshots([rng.normal(size=(n, 2)) + k for k, n in enumerate((50, 60, 70))])
    table = baselines.evaluate(data, seed=7)
    artifacts.write(table, tmp_path / "metrics.parquet", "metrics/1")
    assert len(table) == len(baselines.BASELINES) * 2 * 3
    assert set(table["t"].dropna()) == {1.0, 2.0}
    assert set(table["seed"]) == {7}
    assert set(table["unit"]) == {"PC"}
    for (_, metric), rows in table.groupby(["method", "metric"]):
        mean = rows[rows["t"].isna()]
        assert mean["value"].item() == pytest.approx(rows["value"][rows["t"].notna()].mean()), metric
    still = table[(table["method"] == "no-movement") & (table["metric"] == "w1")].set_index("t")
    assert still.loc[1.0, "n"] == 20
    test = data.select(split="test")
    expected = metrics.wasserstein(test.select(t=0.0).x, test.select(t=1.0).x)
    assert still.loc[1.0, "value"] == pytest.approx(expected)
    pd.testing.assert_frame_equal(table, baselines.evaluate(data, seed=7))


def test_power_the_map_that_made_the_data_wins():
    rng = np.random.default_rng(3)
    clouds = [rng.normal(size=(400, 2)) * (1 + k) + 3 * k for k in range(2)]
    table = baselines.evaluate(snapshots(clouds), seed=0, orders=(1,)).dropna(subset="t")
    score = table.set_index("method")["value"]
    assert score["no-movement"] > score["mean-shift"] > 1.5 * score["affine-gaussian"]


def test_refusals():
    rng = np.random.default_rng(0)
    whole = snapshots([rng.normal(size=(10, 2)), rng.normal(size=(10, 2))])
    with pytest.raises(ValueError, match="at two times at least, the data have 0"):
        baselines.evaluate(replace(whole, t=np.full(20, np.nan)), seed=0)
    with pytest.raises(ValueError, match="test at t = 1"):
        baselines.evaluate(replace(whole, split=np.where(whole.t == 1, "train", whole.split)), seed=0)
    with pytest.raises(ValueError, match=r"unknown baselines \['no-move'\]"):
        baselines.evaluate(whole, seed=0, methods=["no-move"])


PUBLISHED = {  # W1, mean over the four transitions: mean and standard deviation over five splits
    "no-movement": (1.351, 0.013),
    "affine-gaussian": (0.626, 0.002),
    "ot-nearest": (0.520, 0.006),
    "resampling": (0.494, 0.004),
}


def test_reproduces_the_embryoid_body_table(snapdyn_resources):
    path = snapdyn_resources / "embryoid_body" / "pcs_5d.parquet"
    if not path.exists():
        pytest.skip(f"no {path.name} in {path.parent}")
    frame = pd.read_parquet(path)
    t = frame["time"].to_numpy(np.float64)
    split = split_rows(t, 0.6, np.random.default_rng(0))
    x = frame[[f"z{i}" for i in range(1, 6)]].to_numpy(np.float64)
    data = Snapshots.build(x, t=t, split=split, meta={"dataset": "embryoid-body", "space": "whitened PC"})
    assert [len(data.select(split="test", t=k)) for k in range(5)] == [953, 1666, 1312, 1466, 1333]
    table = baselines.evaluate(data, seed=0, orders=(1,), methods=PUBLISHED)
    ours = table[table["t"].isna()].set_index("method")["value"]
    for method, (mean, spread) in PUBLISHED.items():
        assert ours[method] == pytest.approx(mean, abs=3 * spread), method
    # No movement is worse than the map of two Gaussians, which is worse than the plan: not by chance.
    assert ours["no-movement"] > 2 * ours["affine-gaussian"] > 2 * ours["ot-nearest"] + 0.1
