"""Snapshots held out whole: how they are split, what predicts them without a model, and what models are asked."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from energy_helpers import quadratic_model, rolling

from snapdyn import artifacts, clouds, forecasts, held_out, interpolation, metrics, synthetic, tables
from snapdyn.snapshots import Snapshots

TIMES = (0.0, 1.0, 2.0, 4.0, 5.0)
ABOUT = {"paper": "jko", "experiment": "e", "dataset": "d", "method": "m", "seed": 0}


def held(*times, n=60, data=None):
    data = rolling(n, TIMES) if data is None else data
    split = np.where(np.isin(data.t, times), "test", "train").astype(object)
    return replace(data, split=split, meta=data.meta | {"hold_out": sorted(times)})


def test_whole_times_are_held_out_of_a_table(tmp_path):
    frame = pd.DataFrame({"t": np.repeat([0, 1, 3], 20), "a": np.arange(60.0), "b": np.arange(60.0) ** 2})
    frame.to_csv(tmp_path / "points.csv", index=False)
    asked = {"dataset": "points", "seed": 3, "time_key": "t"}
    data = tables.table_snapshots(tmp_path / "points.csv", hold_out=[1], **asked)
    assert set(data.split[data.t == 1]) == {"test"} and set(data.split[data.t != 1]) == {"train"}
    assert data.meta["hold_out"] == [1.0]
    for wrong, said in (([2], "no rows at 2; the times are 0, 1, 3"), ([3, 1], "3 is the first or the last time")):
        with pytest.raises(clouds.DataError, match=said):
            tables.table_snapshots(tmp_path / "points.csv", hold_out=wrong, **asked)
    with pytest.raises(clouds.DataError, match="have none"):
        tables.table_snapshots(tmp_path / "points.csv", hold_out=[1], dataset="p", seed=0)


def test_the_components_of_counts_do_not_see_the_held_out_times():
    """Other counts at the held-out time, and the same coordinates of all others."""
    course = synthetic.count_course(times=[0, 1, 2], cells_per_time=40, n_genes=60)
    counts = course["counts"].toarray()
    other = counts.copy()
    other[course["t"] == 1] = other[course["t"] == 1][::-1, ::-1]
    asked = {"dataset": "c", "seed": 0, "n_pcs": 2, "min_genes": 1, "hold_out": [1]}
    from snapdyn import preprocess

    one, two = (preprocess.counts_snapshots(c, course["genes"], course["t"], **asked) for c in (counts, other))
    assert (one.split == np.where(one.t == 1, "test", "train")).all()
    np.testing.assert_array_equal(one.x[one.t != 1], two.x[two.t != 1])
    assert not np.array_equal(one.x[one.t == 1], two.x[two.t == 1])


def test_neighbours_are_the_nearest_observed_times():
    assert held_out.gaps(held(1.0, 2.0)) == [(1, 0, 4), (2, 0, 4)]
    assert [gap.share for gap in held_out.gaps(held(1.0, 2.0))] == [0.25, 0.5]


def test_every_row_before_is_carried_and_every_row_of_the_start():
    data = held(1.0, 4.0)
    model = quadratic_model(times=(0.0, 2.0, 5.0))
    moved = forecasts.answer(model, data, np.random.default_rng(0))
    assert {(t, s) for t, s in zip(moved.t, moved.split, strict=True)} == {
        (1.0, "predicted"),
        (4.0, "predicted"),
        (4.0, "rolled-out"),
    }
    near = moved.select(split="predicted", t=4.0)
    np.testing.assert_allclose(near.x, model.simulate(data.select(t=2.0).x, [2.0, 4.0])[1])
    far = moved.select(split="rolled-out")
    np.testing.assert_allclose(far.x, model.simulate(data.select(t=0.0).x, [0.0, 2.0, 4.0])[2])
    np.testing.assert_array_equal(near.row % moved.meta["row_stride"], data.select(t=2.0).row)
    assert len(np.unique(moved.row)) == len(moved)
    assert artifacts.problems(moved.frame(), "snapshots/1", {"dim": 2}) == []


def test_a_field_is_followed_through_every_time():
    class Pulled:
        def velocity(self, t, x):
            return -x

    data = held(1.0, 2.0)
    moved = forecasts.answer(Pulled(), data, np.random.default_rng(0))
    start = data.select(t=0.0).x
    np.testing.assert_allclose(moved.select(t=2.0).x, np.exp(-2) * start, rtol=1e-6)
    assert set(moved.split) == {"predicted"}


def test_a_model_that_loses_rows_is_refused():
    class Wild:
        def simulate(self, x, times, rng):
            return np.full((len(times), *x.shape), np.nan)

    with pytest.raises(ValueError, match="60 rows to infinity from t = 0 to 1"):
        forecasts.answer(Wild(), held(1.0), np.random.default_rng(0))


def test_scores_are_distances_to_all_rows():
    data = held(1.0, 4.0)
    moved = forecasts.answer(quadratic_model(), data, np.random.default_rng(0))
    frame = interpolation.score(data, moved, identity=ABOUT)
    there = data.select(t=4.0).x
    value = frame[(frame["t"] == 4) & (frame["metric"] == "w2")]["value"].item()
    assert value == pytest.approx(metrics.wasserstein(moved.select(t=4.0, split="predicted").x, there, order=2))
    rolled = frame[frame["metric"] == "w1_rolled"].set_index("t")["value"]
    same = frame[frame["metric"] == "w1"].set_index("t")["value"]
    assert rolled[1.0] == same[1.0] and rolled[4.0] != same[4.0]
    assert same[np.nan] == pytest.approx(same[[1.0, 4.0]].mean())
    assert artifacts.problems(frame, "metrics/1", {}) == []


def line(shift, n=40):
    return np.stack([np.linspace(0, 1, n) + shift, np.zeros(n)], 1)


def test_baselines_between_two_shifted_clouds():
    """A cloud that moves by 3 over times 0 and 3: a third of the way at t = 1."""
    t = np.repeat([0.0, 1.0, 3.0], 40)
    data = Snapshots.build(np.concatenate([line(0), line(1), line(3)]), t=t, meta={"dataset": "line", "seed": 0})
    frame = interpolation.evaluate_baselines(held(1.0, data=data), seed=0)
    w1 = frame[(frame["metric"] == "w1") & (frame["t"] == 1)].set_index("method")["value"]
    assert list(w1.index) == [*interpolation.BASELINES, "two-halves"]
    assert w1["previous"] == pytest.approx(1) and w1["next"] == pytest.approx(2)
    assert w1["ot-interpolation"] == pytest.approx(0, abs=1e-9)
    assert w1["affine-half"] == pytest.approx(0, abs=1e-9)
    assert w1["half-and-half"] == pytest.approx(10 / 9, rel=0.01)
    assert w1["gaussian-midpoint"] < 0.2 and 0 < w1["two-halves"] < 0.2
    assert frame["t"].isna().sum() == 14
    with pytest.raises(ValueError, match="unknown baselines"):
        interpolation.evaluate_baselines(held(1.0, data=data), seed=0, methods=["next", "middle"])


def test_displacement_interpolation_keeps_masses_of_unequal_clouds():
    t = np.repeat([0.0, 1.0, 2.0], [30, 40, 40])
    x = np.concatenate([line(0, 30), line(1), line(2)])
    weight = np.concatenate([np.linspace(1, 2, 30), np.ones(80)])
    data = held(1.0, data=Snapshots.build(x, t=t, weight=weight, meta={}))
    cloud = interpolation.ot_interpolation(_step(data), 0.5)
    assert cloud.weight.sum() == pytest.approx(1) and len(cloud.x) <= 30 + 40 - 1
    source, target = data.select(t=0.0), data.select(t=2.0)
    between = 0.5 * np.average(source.x, axis=0, weights=source.weight) + 0.5 * target.x.mean(0)
    np.testing.assert_allclose(cloud.weight @ cloud.x, between)


def _step(data):
    from snapdyn import baselines

    source = data.select(t=0.0)
    return baselines.Step(source, data.select(t=2.0), source, np.random.default_rng(0))


def test_the_verdict_is_about_the_held_out_times():
    data = held(1.0, 4.0, n=150)
    good = forecasts.answer(quadratic_model(times=(0.0, 2.0, 5.0)), data, np.random.default_rng(0))
    still = forecasts.answer(quadratic_model(rate=[0.0, 0.0]), data, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    answer = interpolation.gain([(data, good)], rng=rng)
    assert answer["verdict"] == "yes" and "W1 at the held-out times" in answer["sentence"]
    w1 = [metrics.wasserstein(data.select(t=a).x, data.select(t=b).x) for a, b in ((0.0, 1.0), (2.0, 4.0))]
    assert answer["null_score"] == pytest.approx(np.mean(w1))
    assert interpolation.gain([(data, still)], rng=rng)["verdict"] != "yes"


def test_a_synthetic_course_with_a_held_out_time_knows_its_oracle():
    options = {"times": [0, 1, 2], "cells_per_time": 40, "n_genes": 60, "seed": 0}
    asked = {"dataset": "c", "seed": 0, "n_pcs": 2, "min_genes": 1, "rng": np.random.default_rng(0)}
    cells, truth, forecast = synthetic.course_with_truth(options, hold_out=[1], **asked)
    assert len(truth) == (cells.t == 1).sum() and set(forecast.t) == {1.0}
    far = metrics.wasserstein(cells.select(t=0.0).x, cells.select(t=1.0).x)
    assert metrics.wasserstein(forecast.x, cells.select(t=1.0).x) < 0.8 * far


def test_reproduces_the_embryoid_body_table(snapdyn_resources):
    """Half of the affine map at t1 and t3 from all cells of the snapshots around, without any draw."""
    path = snapdyn_resources / "embryoid_body" / "pcs_5d.parquet"
    if not path.exists():
        pytest.skip(f"no {path.name} in {path.parent}")
    frame = pd.read_parquet(path)
    x = frame[[f"z{i}" for i in range(1, 6)]].to_numpy(np.float64)
    data = Snapshots.build(x, t=frame["time"].to_numpy(np.float64), meta={"dataset": "embryoid-body"})
    found = interpolation.evaluate_baselines(held(1.0, 3.0, data=data), seed=0, methods=["affine-half"])
    by = found.set_index(["metric", "t"])["value"]
    for (metric, t), published in {("w1", 1): 0.783, ("w1", 3): 0.779, ("w2", 1): 0.859, ("w2", 3): 0.851}.items():
        assert by[metric, t] == pytest.approx(published, abs=6e-4)
