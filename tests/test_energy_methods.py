"""What methods that learn energies share: data in, held-back rows, one program for many courses, models out."""

from dataclasses import replace

import numpy as np
import pytest
from energy_helpers import Untrained, rolling

from snapdyn.courses import Courses
from snapdyn.energy_methods import held_back

AXES = {"axes": ["x", "y"], "time_unit": "day"}


def method(**options):
    return Untrained(**AXES, hidden=(8,), **options)


def test_a_fit_gives_a_model_in_the_datas_units():
    data = rolling()
    model = method().fit(data, rng=np.random.default_rng(0))
    train = data.select(split="train")
    np.testing.assert_allclose(model.centre, train.x.mean(0))
    assert (model.times.tolist(), model.clock, model.axes) == ([0, 1, 2, 3], 1.0, ["x", "y"])
    assert model.diagnostics["members"] == 1 and model.history["term"] == ["loss"]
    assert model.diagnostics["rows"] + model.diagnostics["held"] == len(train)
    assert model.diagnostics["step_residual"] < 1e-5


def test_what_is_held_back_is_a_share_of_every_time_and_each_members_own():
    data = rolling(100, train=1.0)
    courses = Courses.stacked([data, data])
    fitted, held = held_back(courses, 0.2, [1, 2])
    assert [x.shape[1] for x in fitted.x] == [80] * 4 and [x.shape[1] for x in held.x] == [20] * 4
    for k, x in enumerate(courses.x):
        for member in range(2):
            parts = np.concatenate([fitted.x[k][member], held.x[k][member]])
            np.testing.assert_array_equal(np.sort(parts, axis=0), np.sort(x[member].numpy(), axis=0))
    assert not np.array_equal(held.x[0][0], held.x[0][1])
    assert held.weight[0].sum(1).tolist() == pytest.approx([1.0, 1.0])
    again = held_back(courses, 0.2, [1, 3])[1]
    np.testing.assert_array_equal(again.x[0][0], held.x[0][0])
    with pytest.raises(ValueError, match="set validation: 0"):
        held_back(Courses.stacked([rolling(3, train=1.0)]), 0.9, [0])


def test_many_courses_are_one_program_and_each_is_as_if_alone():
    courses = [rolling(seed=1), rolling(seed=2, scale=5.0)]
    together = method().fit_many(courses, seeds=[3, 4])
    assert [model.diagnostics["members"] for model in together] == [2, 2]
    assert [model.history["member"] for model in together] == [[0], [0]]
    for course, seed, model in zip(courses, [3, 4], together, strict=True):
        (alone,) = method().fit_many([course], seeds=[seed])
        at = course.x[:20]
        np.testing.assert_allclose(model.potential(None, at), alone.potential(None, at), rtol=1e-6)
        assert model.scale == alone.scale


def test_courses_of_other_sizes_are_a_program_of_their_own():
    found = method(validation=0).fit_many([rolling(100), rolling(50), rolling(100, seed=5)], seeds=[0, 1, 2])
    assert [model.diagnostics["members"] for model in found] == [2, 1, 2]
    assert [model.diagnostics["rows"] for model in found] == [240, 120, 240]
    assert found[0].diagnostics["held"] == 0


def test_rows_without_weight_and_held_out_rows_are_not_seen():
    data = rolling()
    weight = np.where(np.arange(len(data)) % 2, 1.0, 0.0)
    found = method(validation=0).fit(replace(data, weight=weight), rng=np.random.default_rng(0))
    assert found.diagnostics["rows"] == int((weight[data.split == "train"] > 0).sum())


def test_times_without_training_rows_are_left_to_be_predicted():
    data = rolling()
    split = np.where(data.t == 1, "test", data.split).astype(object)
    model = method().fit(replace(data, split=split), rng=np.random.default_rng(0))
    assert model.times.tolist() == [0, 2, 3]
    assert model.simulate(data.x[:5], [0.0, 1.0]).shape == (2, 5, 2)


def test_too_little_is_refused():
    with pytest.raises(ValueError, match="at two times at least, got 1"):
        method().fit(rolling(times=(0.0,)), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="two training rows at each time"):
        method().fit(rolling(1, train=1.0), rng=np.random.default_rng(0))
    for wrong in ({"steps": 0}, {"batch": 1.5}, {"rate": 0}, {"validation": 1.0}, {"step": "leap"}, {"hidden": [0]}):
        with pytest.raises(ValueError, match="expected"):
            Untrained(**AXES, **wrong)
