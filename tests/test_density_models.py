"""Fitted densities: one for each observed time, their file, and what they cannot answer."""

import numpy as np
import pytest
import torch

import snapdyn
from snapdyn import artifacts, density_families, density_models, models

X = np.random.default_rng(0).normal(size=(7, 2))


def gaussian(mean):
    return density_families.GaussianMixture([1.0], np.array([mean]), np.eye(2)[None])


def timed():
    return density_models.DensityModel(
        [gaussian([0.0, 0.0]), gaussian([2.0, 1.0])], times=[0.0, 2.5], axes=["a", "b"], diagnostics={"bic": 3.5}
    )


def normal(x, mean):
    return -0.5 * ((x - mean) ** 2).sum(1) - np.log(2 * np.pi)


def test_each_time_has_its_own_density():
    model, when = timed(), np.array([0, 2.5, 2.5, 0, 0, 2.5, 0])
    means = np.where(when[:, None] == 0, [0.0, 0.0], [2.0, 1.0])
    np.testing.assert_allclose(model.log_prob(when, X), normal(X, means), rtol=1e-12)
    np.testing.assert_allclose(model.energy(2.5, X), -normal(X, [2.0, 1.0]), rtol=1e-12)
    np.testing.assert_allclose(model.score(when, X), means - X, rtol=1e-12)
    np.testing.assert_allclose(model.divergence(when, X), np.full(7, -2.0))
    draws = model.sample(4000, 2.5, np.random.default_rng(1))
    assert np.abs(draws.mean(0) - [2, 1]).max() < 0.1
    np.testing.assert_array_equal(draws, model.sample(4000, 2.5, np.random.default_rng(1)))


def test_at_rest_all_times_are_the_same():
    model = density_models.DensityModel([gaussian([0.0, 0.0])], axes=["a", "b"])
    for t in (None, 0.0, 77.0, np.zeros(7), np.arange(7.0)):
        np.testing.assert_allclose(model.log_prob(t, X), normal(X, 0.0))
    assert model.sample(5).shape == (5, 2)


@pytest.mark.parametrize("ask", [lambda m: m.log_prob(1.0, X), lambda m: m.score(np.full(7, 1.0), X)])
def test_an_unobserved_time_is_refused_with_the_observed_ones(ask):
    with pytest.raises(ValueError, match=r"no density at t = 1, .* observed are 0, 2.5"):
        ask(timed())


@pytest.mark.parametrize("ask", [lambda m: m.sample(3), lambda m: m.log_prob(None, X)])
def test_a_time_must_be_said_where_there_are_several(ask):
    with pytest.raises(ValueError, match="say which of 0, 2.5"):
        ask(timed())


@pytest.mark.parametrize(
    ("t", "x", "said"),
    [
        (0.0, X[:, :1], r"expected points \(n, 2\), one column for each of \['a', 'b'\], got \(7, 1\)"),
        (0.0, X[0], r"got \(2,\)"),
        (np.zeros(3), X, r"one for each of the 7 points, got shape \(3,\)"),
    ],
)
def test_shapes_are_checked(t, x, said):
    with pytest.raises(ValueError, match=said):
        timed().log_prob(t, x)


@pytest.mark.parametrize("name", ["drift", "velocity", "potential", "simulate"])
def test_a_density_moves_nothing(name):
    with pytest.raises(NotImplementedError, match=rf"density only, so there is no {name}\(.*log_prob\(t, x\)"):
        getattr(timed(), name)(0.0, X)


def test_families_without_a_concave_convex_step_say_so():
    with pytest.raises(NotImplementedError, match="family 'gaussian-mixture' has no cccp.*linear-mixture have"):
        timed().cccp(X, 2.0, t=0.0)


def test_a_model_comes_back_as_it_was(tmp_path):
    found = density_models.parameter_table(["a: a"], [1.5], [np.nan], ["1/day"])
    for model in (timed(), density_models.DensityModel([gaussian([0.0, 1.0])], axes=["a", "b"], parameters=found)):
        models.save(model, tmp_path / "model.pt", method="kde", meta={"dataset": "d", "axes": ["a", "b"]})
        back = snapdyn.load(tmp_path / "model.pt")
        t = None if model.times is None else 2.5
        np.testing.assert_array_equal(back.log_prob(t, X), model.log_prob(t, X))
        assert back.parameters.equals(model.parameters) and back.parameters.dtypes.equals(model.parameters.dtypes)
        assert (back.times, back.axes, back.diagnostics) == (model.times, model.axes, model.diagnostics)
        assert back.about["method"] == "kde" and back.dim == 2


def test_the_file_holds_tensors_and_plain_values_only(tmp_path):
    models.save(timed(), tmp_path / "model.pt", method="kde", meta={})
    saved = artifacts.load_model(tmp_path / "model.pt")  # weights_only
    assert saved["kind"] == "density" and saved["state"]["densities"][0]["family"] == "gaussian-mixture"
    saved["state"]["densities"][0]["family"] = "os.path:join"
    torch.save(saved, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="unknown family of densities 'os.path:join'"):
        snapdyn.load(tmp_path / "other.pt")


def test_memory_stays_flat_with_many_components():
    class Wide:
        components, asked = 10**6, []

        def log_prob(self, x):
            self.asked.append(len(x))
            return x[:, 0]

    x = np.random.default_rng(0).normal(size=(300, 2))
    model = density_models.DensityModel([Wide()], axes=["a", "b"])
    np.testing.assert_array_equal(model.log_prob(None, x), x[:, 0])
    assert max(Wide.asked) == 64 and sum(Wide.asked) == 300
    assert density_models.rows_at_once(density_families.KernelDensity(x, 0.1)) == density_models.ROWS


def test_as_many_densities_as_times():
    with pytest.raises(ValueError, match="expected 2 densities, one for each time, got 1"):
        density_models.DensityModel([gaussian([0.0, 0.0])], times=[0, 1], axes=["a", "b"])


@pytest.mark.parametrize(
    "ask",
    [lambda m: m.log_prob("mid", X), lambda m: m.sample(2, [0.0, 2.5]), lambda m: m.sample(2, "mid")],
)
def test_a_time_that_is_no_number_is_refused(ask):
    with pytest.raises(ValueError, match="expected (one observed time|times as numbers)"):
        ask(timed())
