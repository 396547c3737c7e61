"""One cloud at rest: the weak form on held-out points, against the best linear drift."""

import numpy as np
import pytest
import torch

from snapdyn import artifacts, models, stationary, systems, testfunctions
from snapdyn.snapshots import Snapshots

IDENTITY = {"paper": "p", "experiment": "e", "dataset": "d", "method": "m"}


def held_out(system, n=6000, seed=0):
    split = np.resize(np.array(["train", "test"], dtype=object), n)
    x = system.sample(n, np.random.default_rng(seed))
    return Snapshots.build(x, split=split, meta={"dataset": "d", "axes": list(system.axes), "seed": seed})


def model_of(system, factor=1.0, diffusivity=None):
    factor = np.broadcast_to(factor, len(system.parameters))
    return models.DriftModel(system.terms, factor * system.truth.numpy(), diffusivity=diffusivity or system.diffusivity)


def test_residuals_are_the_generator_at_every_point():
    system = systems.build("double-well", diffusivity=0.4)
    x = system.sample(40, np.random.default_rng(0))
    tests = testfunctions.Monomials(torch.from_numpy(x), 3)
    drift = system.drift(None, torch.from_numpy(x)).numpy()
    found = stationary.generator_residuals(drift, 0.4, tests, x)
    assert found.shape == (40, tests.count)
    step = 1e-3
    values = lambda y: tests(torch.from_numpy(y))[0].numpy()  # noqa: E731
    expected = 0.0
    for j, e in enumerate(step * np.eye(2)):
        up, down = values(x + e), values(x - e)
        expected = expected + drift[:, j, None] * (up - down) / (2 * step) + 0.4 * (up + down - 2 * values(x)) / step**2
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["ornstein-uhlenbeck", "hopf", "double-well"])
def test_the_true_drift_leaves_noise_alone_and_a_wrong_one_does_not(name):
    system = systems.build(name, diffusivity=0.4)
    sizes = {}
    for label, model in {"true": model_of(system), "wrong": model_of(system, 1.5)}.items():
        found = [
            stationary.standardised(stationary.residual_pair(model, held_out(system, seed=s), system.diffusivity)[0])
            for s in range(6)
        ]
        sizes[label] = np.sqrt(np.mean(np.square(found)))
    assert 0.7 < sizes["true"] < 1.35
    assert sizes["wrong"] > 4
    doubled = stationary.residual_pair(model_of(system), held_out(system), 2 * system.diffusivity)[0]
    assert stationary.standardised(doubled) > 4  # D taken for 2 D


def test_standardised_residuals_do_not_grow_with_points_that_only_repeat_the_law():
    rng = np.random.default_rng(0)
    for n in (500, 20000):
        noise = rng.normal(size=(n, 30)) * rng.uniform(0.1, 100, 30)
        assert stationary.standardised(noise) == pytest.approx(1.0, abs=0.35)
    shifted = rng.normal(size=(10000, 5)) + 0.1
    assert stationary.standardised(shifted) == pytest.approx(np.sqrt(0.1**2 * 10000 + 1), rel=0.15)


def test_the_linear_null_of_a_gaussian_cloud_is_d_times_its_score():
    """Best linear drift without the rotation that no cloud can show: -D C^-1 (x - m)."""
    rng = np.random.default_rng(1)
    mixing = np.array([[1.0, 0.0], [0.6, 0.5]])
    x = rng.normal(size=(20000, 2)) @ mixing.T + [3.0, -2.0]
    drift = stationary.linear_drift(x, 0.7)
    at = rng.normal(size=(50, 2)) + [3.0, -2.0]
    exact = -0.7 * np.linalg.solve(np.cov(x.T), (at - x.mean(0)).T).T
    np.testing.assert_allclose(drift(at), exact, atol=1e-3 * np.abs(exact).max())
    np.testing.assert_allclose(stationary.linear_drift(10 * x, 70.0)(10 * at), 10 * drift(at), rtol=1e-5, atol=1e-6)


def verdict_on(system, model_at, seeds=(0, 1), n=6000):
    clouds = [held_out(system, n, s) for s in seeds]
    pairs = [
        stationary.residual_pair(model_at(s), cloud, system.diffusivity) for s, cloud in zip(seeds, clouds, strict=True)
    ]
    rows = [s * n + cloud.select(split="test").row for s, cloud in zip(seeds, clouds, strict=True)]
    return stationary.evaluate(pairs, identity=IDENTITY, seeds=seeds, rows=rows, rng=np.random.default_rng(0))


def test_the_verdict_on_two_wells_is_yes_and_on_a_wrong_drift_it_is_not():
    system = systems.build("double-well", diffusivity=0.3)
    frame, answer = verdict_on(system, lambda seed: model_of(system))
    assert answer["verdict"] == "yes" and answer["low"] > 0
    assert answer["null"] == "the best linear drift" and answer["n_cells"] == 6000
    assert artifacts.problems(frame, "metrics/1", {}) == []
    size = frame.groupby("method")["value"].mean()
    assert size["m"] < 2 and size["linear-drift"] > 10
    assert len(frame) == 4 and set(frame["metric"]) == {"weak_form_residual"} and set(frame["n"]) == {3000}
    assert verdict_on(system, lambda seed: model_of(system, [3.0, 3.0, 3.0]))[1]["verdict"] == "no"


def test_the_ring_of_a_limit_cycle_is_no_linear_cloud():
    system = systems.build("hopf", diffusivity=0.3)
    assert verdict_on(system, lambda seed: model_of(system))[1]["verdict"] == "yes"


def test_a_linear_cloud_gives_its_own_drift_no_credit_over_the_linear_null():
    system = systems.build("ornstein-uhlenbeck", diffusivity=0.5)
    _, answer = verdict_on(system, lambda seed: model_of(system))
    assert answer["verdict"] != "yes"


class Outsider:
    def drift(self, t, x):
        return -x


def test_the_diffusivity_is_the_models_own_or_the_given_one():
    system = systems.build("hopf", diffusivity=0.4)
    assert stationary.diffusivity_of(model_of(system), 9.0) == 0.4
    assert stationary.diffusivity_of(Outsider(), 9) == 9.0
    for given in (None, "unknown"):
        with pytest.raises(ValueError, match="judged together with its diffusivity"):
            stationary.diffusivity_of(Outsider(), given)


def test_a_fitted_drift_is_judged_on_points_it_has_not_seen():
    """Many coefficients fitted to few points look perfect on those points and not on others."""
    system = systems.build("double-well", diffusivity=0.4)
    data = held_out(system, 300)
    train = data.select(split="train")
    tests = testfunctions.Monomials(torch.from_numpy(train.x), stationary.DEGREE)
    drift = stationary.linear_drift(train.x, 0.4)
    seen = stationary.generator_residuals(drift(train.x), 0.4, tests, train.x)
    linear = [a for a, power in enumerate(tests.powers.tolist()) if sum(power) <= 2]
    assert stationary.standardised(seen[:, linear]) < 0.2  # what it was fitted to
    unseen = stationary.residual_pair(model_of(system), data, 0.4)[1]
    assert stationary.standardised(unseen[:, linear]) > 0.2
