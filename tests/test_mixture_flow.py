"""The method mixture-flow: its four trainings, its starts, and what it refuses."""

import numpy as np
import pytest
import torch

from snapdyn import density_training, drifts, methods, mixture_flow, systems
from snapdyn.snapshots import Snapshots

AXES = ["x", "y"]
HOPF = {"library": "hopf"}
QUICK = {"components": 24, "steps": 200, "flow_steps": 40, "hidden": 8}
LINEAR = {"library": "custom", "terms": {}, "known": ["-2*x", "-y"]}  # with D = 1: variances 1/2 and 1


def cloud(n=800, *, seed=0, scale=(1.0, 1.0), weight=None):
    x = systems.build("hopf", diffusivity=0.2).sample(n, np.random.default_rng(seed))
    return Snapshots.build(x * np.array(scale), weight=weight, meta={"axes": AXES, "seed": 0})


def fitted(snapshots=None, *, drift=None, diffusivity=None, seed=0, name="mixture-flow", **options):
    how = {"drift": drift, "diffusivity": diffusivity, "options": QUICK | options}
    return methods.fit(name, snapshots or cloud(), rng=np.random.default_rng(seed), **how)


@pytest.mark.parametrize("training", ["mle", "score-matching", "combined"])
def test_every_training_from_data_beats_one_gaussian(training):
    model = fitted(training=training, noise=0.2 if training == "score-matching" else 0.0)
    x = cloud(seed=1).x
    sd = x.std(0)
    gaussian = -(0.5 * ((x - x.mean(0)) / sd) ** 2).sum(1) - np.log(2 * np.pi * sd.prod())
    assert model.log_prob(None, x).mean() > gaussian.mean() + 0.1
    assert set(model.history["term"]) == {"loss", "validation"}


def test_dynamics_never_look_at_the_points():
    box = [[-2, 2], [-2, 2]]
    here, there = cloud(), cloud(seed=5, n=400)
    one, two = (fitted(data, drift=HOPF, diffusivity=0.2, training="dynamics", box=box) for data in (here, there))
    x = here.x[:50]
    np.testing.assert_array_equal(one.log_prob(None, x), two.log_prob(None, x))
    assert one.diagnostics["mass"] > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_dynamics_find_a_cycle_by_the_start_that_nobody_set(seed):
    """A random start, trained as briefly, is far from it in every seed."""
    short = {"steps": 300, "flow_steps": 0, "components": 48}
    model = fitted(drift=HOPF, diffusivity=0.1, training="dynamics", seed=seed, **short)
    law = systems.build("hopf", diffusivity=0.1)
    x = law.sample(2000, np.random.default_rng(9))
    truth = law.log_prob(None, torch.from_numpy(x)).mean()
    assert model.log_prob(None, x).mean() > truth - 0.05
    assert (
        fitted(training="dynamics", drift=HOPF, diffusivity=0.1, start="box", seed=seed, **short)
        .log_prob(None, x)
        .mean()
        < truth - 0.05
    )


def test_a_drift_that_holds_nothing_together_is_refused_with_a_way_on():
    outwards = {"library": "custom", "terms": {}, "known": ["x", "y"]}
    with pytest.raises(ValueError, match="start: box or simulation"):
        fitted(drift=outwards, diffusivity=1.0, training="dynamics", box=[[-5, 5]] * 2)


def test_dynamics_find_a_gaussian_and_the_wrong_diffusivity_another():
    effort = {"steps": 1500, "rate": 0.03, "components": 8, "stacks": 0}

    def variances(diffusivity):
        model = fitted(drift=LINEAR, diffusivity=diffusivity, training="dynamics", box=[[-4, 4]] * 2, **effort)
        return model.sample(20_000, rng=np.random.default_rng(0)).var(0)

    np.testing.assert_allclose(variances(1.0), [0.5, 1.0], rtol=0.1)
    assert variances(0.5)[0] < 0.35


def test_the_linear_start_is_there_before_any_training():
    system = systems.build("hopf", diffusivity=0.2)
    how = {"training": "dynamics", "box": [[-2.2, 2.2]] * 2, "start": "linear", "steps": 1, "flow_steps": 0}
    model = fitted(drift=HOPF, diffusivity=0.2, stacks=0, **how)
    x = system.sample(2000, np.random.default_rng(3))
    exact = system.log_prob(0.0, torch.from_numpy(x)).numpy()
    assert abs(np.mean(model.log_prob(None, x) - exact)) < 0.02


def test_couplings_begin_where_the_mixture_ended():
    plain, both = (fitted(training="mle", flow_steps=steps, stacks=2) for steps in (0, 1))
    x = cloud(seed=1).x
    assert [model.densities[0].stacks for model in (plain, both)] == [0, 2]
    np.testing.assert_allclose(plain.log_prob(None, x), both.log_prob(None, x), atol=0.05)
    longer = fitted(training="mle", flow_steps=300, stacks=2)
    assert float(longer.densities[0].coefficients().detach().abs().sum()) > 0


def test_units_and_seeds():
    scale = (10.0, 0.1)
    one, two, other = fitted(), fitted(cloud(scale=scale)), fitted(seed=1)
    x = cloud(seed=1).x
    np.testing.assert_allclose(two.log_prob(None, x * scale), one.log_prob(None, x) - np.log(1.0), atol=0.05)
    np.testing.assert_array_equal(one.log_prob(None, x), fitted().log_prob(None, x))
    assert not np.array_equal(one.log_prob(None, x), other.log_prob(None, x))


def test_weights_count():
    weight = np.where(cloud().x[:, 0] > 0, 1.0, 1e-6)
    x = fitted(cloud(weight=weight), stacks=0).sample(2000, rng=np.random.default_rng(0))
    assert (x[:, 0] > 0).mean() > 0.9


def test_weights_count_where_it_is_decided_when_to_stop(monkeypatch):
    seen, train = [], density_training.train

    def watched(*arguments, validation, **options):
        seen.append(validation)
        return train(*arguments, validation=validation, **options)

    monkeypatch.setattr(density_training, "train", watched)
    weight = np.where(cloud().x[:, 0] > 0, 1.0, 1e-6)
    fitted(cloud(weight=weight), stacks=0, steps=2)
    assert (seen[0][:, 0] > 0).all()
    fitted(cloud(), stacks=0, steps=2)
    assert (seen[1][:, 0] < 0).any()


def test_a_density_for_each_time():
    x = np.concatenate([cloud(300).x, cloud(300, seed=1).x + 5])
    snapshots = Snapshots.build(x, t=np.repeat([0.0, 1.0], 300), meta={"axes": AXES, "seed": 0})
    model = fitted(snapshots, stacks=0)
    assert model.sample(500, 1.0).mean() > 4 > 1 > model.sample(500, 0.0).mean()


def test_parameters_come_back_from_a_density_learned_from_points():
    model = fitted(cloud(20_000), drift=HOPF, diffusivity=0.2, stacks=0, components=64, steps=1500)
    found = dict(zip(model.parameters["name"], model.parameters["estimate"], strict=True))
    assert found["growth"] == pytest.approx(1, abs=0.25)
    assert found["saturation"] == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"training": "likelihood"}, "expected a training of"),
        ({"start": "grid"}, "expected a start of"),
        ({"start": "linear"}, "with training: mle, got 'linear'"),
        ({"training": "dynamics"}, "a drift without unknown numbers"),
        ({"steps": 0, "batch": -1}, "1 or more, for steps, batch, got {'steps': 0, 'batch': -1}"),
        ({"components": "many"}, "a whole number, 1 or more, for components, got {'components': 'many'}"),
        ({"validation": 1.0}, "validation in \\[0, 1\\)"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        mixture_flow.MixtureFlow(axes=AXES, **options)


def test_a_box_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"expected a box \[\[low, high\]"):
        fitted(drift=HOPF, diffusivity=0.2, training="dynamics", box=[[2, -2], [-2, 2]])


def test_fixed_trainings_are_those_of_their_names():
    dynamics = drifts.complete(HOPF, axes=AXES)
    for name, training in (("mle", "mle"), ("sm", "score-matching"), ("mle-sm", "combined"), ("plain", "dynamics")):
        method = methods.METHODS[f"mixture-flow-{name}"]
        made = methods.resolve(f"mixture-flow-{name}")(axes=AXES, dynamics=dynamics, diffusivity=0.2, **method.fixed)
        assert made.training == training
    assert made.loss == "plain"


def test_a_simulated_start_lies_where_the_law_is():
    how = {"start": "simulation", "steps": 1, "flow_steps": 0, "stacks": 0, "components": 200, "box": [[-4, 4]] * 2}
    model = fitted(drift=LINEAR, diffusivity=1.0, training="dynamics", dt=0.01, burn=8, **how)
    np.testing.assert_allclose(model.densities[0].centroids_observed().numpy().var(0), [0.5, 1.0], rtol=0.35)
    with pytest.raises(ValueError, match="needs dt, burn"):
        fitted(drift=LINEAR, diffusivity=1.0, training="dynamics", start="simulation")
