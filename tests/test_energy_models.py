"""Learned energies in user units: against a quadratic potential whose steps are known in closed form."""

import numpy as np
import pytest
import torch
from energy_helpers import RATE, Quadratic, quadratic_model

import snapdyn
from snapdyn import energy_models, methods, models
from snapdyn.energies import Energy

X = np.random.default_rng(0).normal(size=(40, 2)) * [2.0, 1.0] + [1.0, 0.0]


def softplus_inverse(value):
    return torch.tensor([value], dtype=torch.float64).expm1().log()


@pytest.mark.parametrize("scale", [1.0, 3.0, 0.1])
def test_values_are_in_the_users_units(scale):
    model = quadratic_model(scale=scale)
    centre = 0.5 * (RATE * model.centre**2).sum()
    np.testing.assert_allclose(model.potential(None, X), 0.5 * (X**2 @ RATE) - centre, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(model.drift(0.0, X), -RATE * X, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(model.velocity(0.0, X), model.drift(0.0, X))


def test_one_step_of_each_gap_and_no_more():
    model = quadratic_model()
    path = model.simulate(X, [0.0, 2.0, 3.0])
    first = X / (1 + 2 * RATE)
    np.testing.assert_allclose(path, [X, first, first / (1 + RATE)], rtol=1e-6, atol=1e-8)
    assert model.step_residual < 1e-5
    model = quadratic_model(step="explicit")
    first = X - 2 * RATE * X
    np.testing.assert_allclose(
        model.simulate(X, [0.0, 2.0, 3.0])[1:], [first, first - RATE * first], rtol=1e-12, atol=1e-12
    )


def test_times_between_are_reached_by_part_of_a_step_or_along_its_line():
    """What is asked for in between changes nothing of what comes later."""
    asked = [0.0, 0.5, 1.5, 2.5, 3.0]
    path = quadratic_model().simulate(X, asked)
    whole = X / (1 + 2 * RATE)
    parts = [X, X / (1 + 0.5 * RATE), X / (1 + 1.5 * RATE), whole / (1 + 0.5 * RATE), whole / (1 + RATE)]
    np.testing.assert_allclose(path, parts, rtol=1e-6, atol=1e-8)
    path = quadratic_model(between="line").simulate(X, asked)
    last = whole / (1 + RATE)
    line = [X, X + 0.25 * (whole - X), X + 0.75 * (whole - X), whole + 0.5 * (last - whole), last]
    np.testing.assert_allclose(path, line, rtol=1e-6, atol=1e-8)


def test_beyond_the_last_snapshot_steps_are_mean_gaps():
    path = quadratic_model().simulate(X, [3.0, 4.5, 5.0])
    np.testing.assert_allclose(path[1], X / (1 + 1.5 * RATE), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(path[2], X / (1 + 1.5 * RATE) / (1 + 0.5 * RATE), rtol=1e-6, atol=1e-8)


def test_a_start_inside_a_gap_steps_to_its_end():
    path = quadratic_model().simulate(X, [1.5, 2.0, 3.0])
    np.testing.assert_allclose(path[1], X / (1 + 0.5 * RATE), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(path[2], path[1] / (1 + RATE), rtol=1e-6, atol=1e-8)


def test_a_timed_potential_is_that_of_the_end_of_its_gap():
    """Its stamps are -1, 1/3 and 1, so that the factors of the two gaps are 4/3 and 2."""
    model = quadratic_model(timed=True)
    slopes = {0.0: 4 / 3, 0.1: 4 / 3, 2.0: 4 / 3, 2.1: 2.0, 3.0: 2.0, 9.0: 2.0}
    for t, factor in slopes.items():
        np.testing.assert_allclose(model.drift(t, X), -factor * RATE * X, rtol=1e-12, atol=1e-12)
    mixed = np.where(np.arange(40) < 20, 1.0, 3.0)
    factor = np.where(mixed == 1, 4 / 3, 2.0)[:, None]
    np.testing.assert_allclose(model.drift(mixed, X), -factor * RATE * X, rtol=1e-12, atol=1e-12)
    path = model.simulate(X, [0.0, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(path[1], X / (1 + 4 / 3 * RATE), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(path[3], X / (1 + 8 / 3 * RATE) / (1 + 2 * RATE), rtol=1e-6, atol=1e-8)
    with pytest.raises(ValueError, match="depends on time: say when"):
        model.potential(None, X)


def test_an_interaction_pulls_towards_the_others():
    """W = c z^2 / 2 pulls every particle with c times its distance from the mean of the others."""
    kernel = 0.4 * np.ones(2)
    model = quadratic_model(interaction=Quadratic(1.5 * kernel))  # the clock is 1.5
    z = X[:5]
    np.testing.assert_allclose(model.interaction(z), 0.5 * z**2 @ kernel, rtol=1e-12)
    others = (X.sum(0) - X) / (len(X) - 1)
    np.testing.assert_allclose(model.drift(None, X), -RATE * X - kernel * (X - others), rtol=1e-9, atol=1e-12)
    crowd = X[:7] + 1
    pull = -RATE * z - kernel * (z - crowd.mean(0))
    np.testing.assert_allclose(model.drift(0.0, z, population=crowd), pull, rtol=1e-9, atol=1e-12)
    two = np.where(np.arange(40) < 20, 0.0, 2.0)
    np.testing.assert_allclose(model.drift(two, X)[:20], model.drift(0.0, X[:20]), rtol=1e-9, atol=1e-12)
    moved = model.simulate(X, [0.0, 2.0])[1]
    others = (moved.sum(0) - moved) / (len(X) - 1)
    np.testing.assert_allclose(moved + 2 * (RATE * moved + kernel * (moved - others)), X, atol=1e-4)
    with pytest.raises(ValueError, match="give the population"):
        model.drift(0.0, X[:1])


def test_entropy_is_noise_of_the_learned_size():
    """From one point: variance 2 D gap, shrunk by the step back."""
    model = quadratic_model(raw_diffusivity=softplus_inverse(0.02))
    diffusivity = 0.02 * 9 / 1.5
    assert model.diffusivity == pytest.approx(diffusivity)
    assert dict(model.parameters.iloc[0]) | {"std_error": 0} == {
        "name": "diffusivity",
        "estimate": pytest.approx(diffusivity),
        "std_error": 0,
        "unit": "length^2/time",
    }
    moved = model.simulate(np.tile([1.0, -1.0], (20_000, 1)), [0.0, 2.0], np.random.default_rng(1))[1]
    np.testing.assert_allclose(moved.var(0), 4 * diffusivity / (1 + 2 * RATE) ** 2, rtol=0.05)
    with pytest.raises(NotImplementedError, match="take drift"):
        model.velocity(0.0, X)
    assert quadratic_model().parameters.empty and quadratic_model().diffusivity is None


@pytest.mark.parametrize("step", ["implicit", "explicit"])
def test_every_substep_has_noise_of_its_own(step):
    """Four steps in a gap, two for half of it: variances follow from the recursion of one; shared noise has more."""
    model = quadratic_model(raw_diffusivity=softplus_inverse(0.02), substeps=4, step=step)
    tau, factor = 0.5, 1 / (1 + 0.5 * RATE) if step == "implicit" else 1 - 0.5 * RATE
    inside = factor if step == "implicit" else 1.0  # noise comes before the implicit step
    moved = model.simulate(np.tile([1.0, -1.0], (20_000, 1)), [0.0, 1.0, 2.0], np.random.default_rng(1))
    for cloud, count in zip(moved[1:], (2, 4), strict=True):
        variance = 0.0
        for _ in range(count):
            variance = factor**2 * variance + inside**2 * 2 * model.diffusivity * tau
        np.testing.assert_allclose(cloud.var(0), variance, rtol=0.05)


def test_an_unsolved_step_is_said():
    steep = quadratic_model(rate=[-2.0, -2.0])  # no minimum: |y - x|^2 / 4 - y^2
    with pytest.warns(UserWarning, match="solved to"):
        steep.simulate(X, [0.0, 2.0])


def test_what_is_not_there_is_refused_with_what_is():
    model = quadratic_model()
    with pytest.raises(NotImplementedError, match="no interaction, only: potential"):
        model.interaction(X)
    for name in ("log_prob", "score"):
        with pytest.raises(NotImplementedError, match="density method"):
            getattr(model, name)(0.0, X)
    with pytest.raises(ValueError, match=r"expected points \(n, 2\)"):
        model.potential(0.0, X[:, :1])
    with pytest.raises(ValueError, match="times that increase"):
        model.simulate(X, [1.0, 0.0])
    with pytest.raises(ValueError, match="expected a step"):
        quadratic_model(step="leap")
    assert methods.model_faults(model) == []


def test_the_field_as_a_frame():
    frame = quadratic_model().potential_frame(2.0, X)
    assert list(frame) == ["t", "x0", "x1", "potential", "drift0", "drift1"]
    np.testing.assert_allclose(frame[["drift0", "drift1"]], -RATE * X, rtol=1e-12)


def test_a_file_gives_the_same_model(tmp_path):
    terms = ("potential", "interaction", "entropy")
    energy = Energy.build(2, seeds=[3], terms=terms, timed=True, hidden=(8, 8))
    about = {"times": [0.0, 1.0, 3.0], "clock": 1.5, "centre": [0.5, 0.0], "scale": 2.0, "axes": ["x", "y"]}
    model = energy_models.EnergyModel(energy, **about, between="line", diagnostics={"loss": 0.5})
    models.save(model, tmp_path / "model.pt", method="ijkonet", meta={"axes": ["x", "y"]})
    back = snapdyn.load(tmp_path / "model.pt")
    assert (back.kind, back.between, back.diagnostics) == ("energy", "line", {"loss": 0.5})
    np.testing.assert_array_equal(back.potential(1.0, X), model.potential(1.0, X))
    np.testing.assert_array_equal(back.interaction(X), model.interaction(X))
    one, two = (m.simulate(X, [0.0, 0.4, 3.0], np.random.default_rng(2)) for m in (model, back))
    np.testing.assert_array_equal(one, two)
