"""Floors of flows against numbers measured with other programs, and against what they must not depend on."""

import numpy as np
import pytest
import torch

from snapdyn import energy_scores, energy_steps, flow_floors, flows, metrics, potentials

TAU = 0.01
# potential -> explicit-implicit bias in per cent, measured once with 20 000 particles
BIAS = {
    "styblinski-tang": 0.0499,
    "holder-table": 0.1685,
    "flowers": 2.3e-05,
    "oakley-ohagan": 0.0139,
    "watershed": 9.6e-07,
    "ishigami": 4.1e-04,
    "friedman": 0.0803,
    "sphere": 0.1600,
    "bohachevsky": 21.8,
    "wavy-plateau": 0.2178,
    "zigzag-ridge": 0.0031,
    "double-exponential": 0.0033,
    "relu": 0.0,
    "rotational": 0.3384,
    "flat": 0.0,
}
# one-step W1 between 1000 and 1000 particles: two samples, and no movement of paired ones
SAMPLES = {"styblinski-tang": (0.279, 0.176), "sphere": (0.466, 0.924), "rotational": (0.281, 0.694)}


def rng(seed=0):
    return np.random.default_rng(seed)


def flow(potential, interaction=None, *, beta=0.0, scheme="explicit", dim=2, **options):
    return flows.Flow(flows.FlowEnergy(dim, potential, interaction, beta), TAU, 5, scheme, **options)


def course(potential, *, n=2000, steps=5, interactions=(), seed=0, **changes):
    spec = {"potentials": [potential], "interactions": list(interactions), "diffusivity": 0.0, "dim": 2, "n": n}
    spec |= {"steps": steps, "tau": TAU, "paired": False, "scheme": "explicit", "substeps": 20}
    spec |= {"start": [-4, 4], "train": 0.5} | changes
    (snapshots,) = flows.unstacked(*flows.courses(spec, dataset="flow", seed=seed)).values()
    return snapshots


def mean(scores, metric):
    return np.mean([score.values[metric] for score in scores if metric in score.values])


@pytest.mark.parametrize("name", potentials.POTENTIALS)
def test_the_bias_of_explicit_data(name):
    """To the noise of 20,000 particles, at most 3 % where a force has kinks."""
    bias = mean(flow_floors.step_bias(flow(name), rng=rng()), "l2_uvp_bias")
    assert bias == pytest.approx(BIAS[name], rel=0.05, abs=1e-12)


def test_the_bias_is_what_the_exact_fit_scores():
    """The force that fits explicit data exactly is at y the true one at x; implicit data have no bias."""
    moving, name = flow("styblinski-tang"), "styblinski-tang"
    x, _ = moving.paths(4000, rng())
    bias = [score.values["l2_uvp_bias"] for score in flow_floors.step_bias(moving, rng=rng(1), n=4000)]
    slope = potentials.build(name).gradient
    for k in range(5):
        variance = energy_scores.total_variance(x[k])
        fit = energy_scores.l2_uvp(slope(x[k]), slope(x[k + 1]), tau=TAU, variance=variance)
        assert fit == pytest.approx(bias[k], rel=0.1)
    assert mean(flow_floors.step_bias(flow(name, scheme="implicit"), rng=rng()), "l2_uvp_bias") < 1e-9
    # but where particles stop in a valley with a kink there is no force that fits them
    kinks = flow_floors.step_bias(flow("holder-table", scheme="implicit"), rng=rng(), n=100)
    assert mean(kinks, "l2_uvp_bias") > 0.01
    y, _ = flow(name, scheme="implicit").advance(x[0])
    assert energy_scores.l2_uvp((x[0] - y) / TAU, slope(y), tau=TAU, variance=1) < 1e-8


def test_an_exact_implicit_fit_that_steps_explicitly():
    """What a perfect learner of explicit data scores; measured once: 0.091, 0.039, 0.025, 0.020 from the second step.

    The first asks the fit where no target snapshot reaches."""
    before = np.linspace(-4, 4, 20_001)
    after = before - TAU * potentials.build("styblinski-tang").gradient(before[:, None])[:, 0]

    def move(x, start, end):
        return 2 * x - np.interp(x, after, before)  # x - tau F, with tau F = before - after at x

    snapshots = course("styblinski-tang", paired=True)
    later = snapshots.where(snapshots.t > 0)
    scores = [score.values["w1"] for score in energy_scores.step_scores(later, move) if "w1" in score.values]
    np.testing.assert_allclose(scores, [0.091, 0.039, 0.025, 0.020], rtol=0.08)


def test_small_steps_have_a_quarter_of_the_bias():
    """To first order in tau the displacement of the flow has half of the explicit step's error."""
    far, near = (
        mean(flow_floors.step_bias(flow("oakley-ohagan", scheme=scheme), rng=rng(), n=4000), "l2_uvp_bias")
        for scheme in ("explicit", "substeps")
    )
    assert near / far == pytest.approx(0.25, abs=0.05)


def test_noise_and_interactions_have_a_bias_too():
    quiet, loud = (
        mean(flow_floors.step_bias(flow("styblinski-tang", beta=beta), rng=rng()), "l2_uvp_bias") for beta in (0, 0.1)
    )
    # the noise itself, 2 tau beta dim = 0.004 against a variance of 10, would be 0.04 % more
    assert loud == pytest.approx(quiet, rel=0.2)
    both = mean(flow_floors.step_bias(flow("flat", "sphere"), rng=rng(), n=300), "l2_uvp_bias")
    # the same linear force around the mean, of which a particle is left out: 100 (20 tau n / (n - 1))^4
    assert both == pytest.approx(0.16 * (300 / 299) ** 4, rel=1e-6)


@pytest.mark.parametrize("name", SAMPLES)
def test_two_samples_and_no_movement(name):
    """W1 at 1000 particles a side; two draws of such a number differ by a few per cent, some by more."""
    samples, still = SAMPLES[name]
    unpaired = flow_floors.step_floor(course(name), rng=rng())
    assert mean(unpaired[::2], "w1_floor") == pytest.approx(samples, rel=0.25)  # of the steps 1, 3 and 5, as there
    paired = course(name, paired=True, steps=5)
    first = paired.select(split="test")
    moved = [
        metrics.wasserstein(first.select(t=a).x, first.select(t=b).x)
        for a, b in zip(paired.times[:-1], paired.times[1:], strict=True)
    ]
    assert np.mean(moved) == pytest.approx(still, rel=0.05)


def test_paired_clouds_are_thinned_to_the_same_particles():
    snapshots = course("sphere", n=400, paired=True, steps=2)
    thinned = flow_floors.reference_scores(snapshots, rng=rng(), max_points=50)["truth"]
    assert mean([score for score in thinned if "w1_floor" in score.values], "w1_floor") == 0
    moves = [score.values["w1"] for score in thinned if "w1" in score.values]
    assert moves == pytest.approx([0, 0], abs=1e-12)


def test_references_of_paired_data():
    """Explicit data: the explicit step with the truth is exact, the implicit one is not, and nothing beats 0."""
    found = flow_floors.reference_scores(course("sphere", n=400, paired=True, steps=2), rng=rng())
    truth, still = found["truth"], found["no-movement"]
    assert mean(truth, "w1") < 1e-9 and mean(truth, "bw_uvp") < 1e-9 and mean(truth, "w1_floor") < 1e-9
    # growth 1 / 0.8 instead of 1.2
    assert 0.1 < mean(truth, "w1_implicit") < 0.5 and mean(truth, "bw_uvp_implicit") > 0.1
    assert mean(still, "w1") > 0.5
    # the force of 0 errs by |20 y|^2: 100 (20 tau)^2 1.2^2 in per cent
    assert mean(still, "l2_uvp") == pytest.approx(5.76, rel=0.05)
    assert mean(truth, "l2_uvp_bias") == pytest.approx(BIAS["sphere"], rel=0.01)
    implicit = flow_floors.reference_scores(course("sphere", n=400, paired=True, scheme="implicit"), rng=rng())
    assert mean(implicit["truth"], "w1_implicit") < 1e-6 < 0.1 < mean(implicit["truth"], "w1")


def test_references_of_unpaired_data():
    """Particles of their own in each snapshot: the truth scores what two samples do, which stays above 0."""
    found = flow_floors.reference_scores(course("sphere", steps=3), rng=rng())
    truth, still = found["truth"], found["no-movement"]
    assert mean(truth, "w1") == pytest.approx(mean(truth, "w1_floor"), rel=0.3) and mean(truth, "w1") > 0.3
    assert mean(still, "w1") > 1.2 * mean(truth, "w1")
    assert [score.t for score in truth if "w1" in score.values] == [0.01, 0.02, 0.03]


def test_floors_of_noise_are_not_the_data_again():
    noisy = course("flat", n=400, steps=1, paired=True, diffusivity=0.1)
    floor = mean(flow_floors.step_floor(noisy, rng=rng()), "w1_floor")
    # two draws of sqrt(2 tau beta) = 0.045 in each axis
    assert 0.01 < floor < 0.1


def test_the_truth_with_an_interaction():
    noisy = course("styblinski-tang", n=100, steps=1, interactions=["sphere"], diffusivity=0.1)
    found = flow_floors.reference_scores(noisy, rng=rng())
    assert all(np.isfinite(list(score.values.values())).all() for scores in found.values() for score in scores)
    moving, x = flows.flow_of(noisy), noisy.select(t=0.0).x
    expected = energy_steps.force(moving.energy, torch.from_numpy(x)[None])[0].numpy()
    np.testing.assert_array_equal(flow_floors.true_force(moving)(0.0, x), expected)
    assert not any("w1_implicit" in score.values for score in found["truth"])
    assert mean(found["no-movement"], "l2_uvp_interaction") < 1e-9  # the kernel is nothing but quadratic
    alone = potentials.build("styblinski-tang").gradient(x)
    np.testing.assert_allclose(flow_floors.true_interaction(moving)(x), expected - alone, atol=1e-9)
    assert not flow_floors.true_interaction(flow("sphere"))(x).any()
    np.testing.assert_allclose(expected - alone, -20 * (x - x.mean(0)) * 100 / 99, atol=1e-9)
