"""Scores of energies that are known: the truth has none but its step's, and what is left out or traded shows."""

import numpy as np
import pytest
import torch
from energy_helpers import Quadratic, quadratic_model

from snapdyn import config, energy_evaluation, energy_scores, evaluation, flows

TAU = 0.01
SPHERE = -20.0  # the potential -10 |x|^2
FIT = config.Fit("jko", "interaction", "energy", "flow", "known", 1)


def course(interactions=("sphere",), n=600, diffusivity=0.0):
    spec = {"potentials": ["sphere"], "interactions": list(interactions), "diffusivity": diffusivity}
    spec |= {"dim": 2, "n": n, "steps": 2, "tau": TAU, "paired": False, "scheme": "explicit", "substeps": 20}
    spec |= {"start": [-4, 4], "train": 0.5}
    (snapshots,) = flows.unstacked(*flows.courses(spec, dataset="flow", seed=0)).values()
    return snapshots


def known(potential=SPHERE, interaction=SPHERE, slope=(0.0, 0.0), **more):
    """The model of rates of a quadratic potential and a quadratic kernel in the user's units."""
    kernel = {} if interaction is None else {"interaction": Quadratic([TAU * interaction] * 2)}
    about = {"times": (0.0, TAU, 2 * TAU), "centre": (0.0, 0.0), "scale": 2.0, "step": "explicit"}
    model = quadratic_model(rate=[potential] * 2, **about, **kernel, **more)
    model._precise.potential.slope += torch.tensor(slope) * TAU / 2.0
    return model


def scores(snapshots, model):
    frame = energy_evaluation.score(FIT, 0, snapshots, model)
    mean = frame[frame["t"].isna()].set_index("metric")["value"]
    return mean.to_dict()


def test_the_force_that_is_judged_has_the_interaction_in_it():
    snapshots = course()
    right, without = scores(snapshots, known()), scores(snapshots, known(interaction=None))
    assert right["l2_uvp"] < 1e-12 and right["l2_uvp_interaction"] < 1e-12
    y = [snapshots.select(t=t, split="test").x for t in snapshots.times]
    crowd = energy_scores.CROWD
    missed = [
        100 * np.square(0.2 * (b - b.mean(0))[:crowd]).sum(1).mean() / energy_scores.total_variance(a)
        for a, b in zip(y[:-1], y[1:], strict=True)
    ]
    assert without["l2_uvp"] == pytest.approx(np.mean(missed), rel=0.03)
    assert without["l2_uvp_interaction"] < 1e-12  # a quadratic kernel might be a potential
    assert "w1_implicit" in without and "w1_implicit" not in right
    assert right["w1"] < without["w1"]


def test_a_traded_quadratic_part_costs_nothing_where_the_mean_stays():
    snapshots = course()
    rows = snapshots.select(t=TAU, split="test").x[: energy_scores.CROWD]
    traded = scores(snapshots, known(SPHERE + 5, SPHERE - 5, slope=-5 * rows.mean(0)))
    same_sign = scores(snapshots, known(SPHERE - 5, SPHERE - 5))
    assert traded["l2_uvp"] < 1e-3 and traded["l2_uvp_interaction"] < 1e-12
    assert same_sign["l2_uvp"] > 0.1


def test_a_kernel_of_another_form_is_an_error():
    snapshots = course(["double-exponential"])
    found = scores(snapshots, known())
    assert found["l2_uvp_interaction"] > 0.02 and found["l2_uvp"] > 0.1
    nothing = energy_evaluation.floors(*table(snapshots), rng=np.random.default_rng(0))
    still = nothing[(nothing["method"] == "no-movement") & nothing["t"].isna()].set_index("metric")["value"]
    quadratic = scores(snapshots, known(0.0, -3.0))  # whatever its strength, it has no other part
    assert quadratic["l2_uvp_interaction"] == pytest.approx(still["l2_uvp_interaction"])
    assert "l2_uvp_elsewhere" not in quadratic


def table(snapshots):
    frame = snapshots.frame()
    frame.insert(0, "course", snapshots.meta["course"])
    return frame, snapshots.meta | {"dataset": "flow"}


SAID = {"step_residual": 1e-7, "validation_loss": 0.2, "semi_dual_gap": 0.1, "pairs": 30.0, "reliability": 0.9}
UNITS = {"step_residual": "mm", "validation_loss": "internal", "semi_dual_gap": "internal", "pairs": "1"}
UNITS |= {"reliability": "1"}


def test_every_number_has_its_unit():
    """A diffusivity is no pure number, nor is a residual; losses are in units that a reader does not know."""
    snapshots = course((), diffusivity=0.3)
    snapshots.meta["space"] = "mm"
    model = known(interaction=None, raw_diffusivity=torch.zeros(1), diagnostics=SAID)
    found = energy_evaluation.score(FIT, 0, snapshots, model)
    floors = energy_evaluation.floors(*table(snapshots), rng=np.random.default_rng(0), diffusivity=True)
    both = {"absolute_error_diffusivity": "length^2/time", "relative_error_diffusivity": "1"}
    for frame, expected in ((found, UNITS | both), (floors[floors["method"] == "known-force"], both)):
        mine = frame[frame["metric"].isin(expected)]
        assert mine.set_index("metric")["unit"].to_dict() == expected
    assert set(found.loc[found["metric"].str.startswith("w1"), "unit"]) == {"mm"}
    about = {"paper": "jko", "experiment": "e", "dataset": "d", "method": "known"}
    (said,) = evaluation._specification_tests(about, [0], [snapshots], [model])
    assert said.set_index("metric")["unit"].to_dict() == UNITS


def test_where_nothing_interacts_steps_are_compared_with_each_other():
    snapshots = course(())
    found = scores(snapshots, known(interaction=None))
    assert found["l2_uvp_elsewhere"] < 1e-12 and found["l2_uvp_apart"] < 1e-12
    changing = scores(snapshots, known(interaction=None, timed=True))
    assert changing["l2_uvp_apart"] > 1
