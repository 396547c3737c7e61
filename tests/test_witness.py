"""Training curves against the truth: the same numbers as afterwards, and nothing changed by being looked at."""

import numpy as np
import pytest
import torch

from snapdyn import energy_scores, flow_floors, flows, methods, witness
from snapdyn.courses import Courses
from snapdyn.energies import Energy

SPEC = {"interactions": [], "diffusivity": 0.0, "dim": 2, "n": 80, "steps": 2, "tau": 0.01}
SPEC |= {"paired": False, "scheme": "explicit", "substeps": 1, "start": [-4, 4], "train": 0.5}
SMALL = {"hidden": [8], "steps": 6, "batch": 20, "every": 3}


def made(names=("styblinski-tang", "sphere"), **changes):
    frame, meta = flows.courses(SPEC | {"potentials": list(names)} | changes, dataset="d", seed=0)
    return list(flows.unstacked(frame, meta).values())


def curve(model, term):
    return [value for name, value in zip(model.history["term"], model.history["value"], strict=True) if name == term]


@pytest.mark.parametrize("validation", [0, 0.25])
@pytest.mark.parametrize("name", ["jkonet-star-v", "ijkonet-v", "ijkonet-prox"])
def test_the_last_look_is_the_score_of_the_model_and_changes_nothing(name, validation):
    courses, options = made(), SMALL | {"validation": validation}
    seen = methods.fit_many(name, courses, seeds=[0, 1], options=options, witness=witness.of(courses))
    alone = methods.fit_many(name, courses, seeds=[0, 1], options=options)
    for course, one, other in zip(courses, seen, alone, strict=True):
        x = course.x[:20]
        assert (one.drift(0.01, x) == other.drift(0.01, x)).all()
        assert not curve(other, "l2_uvp") and len(curve(one, "l2_uvp")) == len(curve(one, "bw_uvp")) == 2
        if validation:
            continue  # what is kept need not be the last
        force = flow_floors.true_force(flows.flow_of(course))
        scores = energy_scores.force_scores(course, lambda t, x, one=one: -one.drift(t, x), force)
        scores += energy_scores.step_scores(course, lambda x, a, b, one=one: x + (b - a) * one.drift(b, x))
        for term in ("l2_uvp", "bw_uvp"):
            mean = np.mean([score.values[term] for score in scores if term in score.values])
            assert curve(one, term)[-1] == pytest.approx(mean, rel=1e-4)


def test_the_true_energy_has_no_error_and_one_at_rest_that_of_no_movement():
    courses = made(["sphere"])
    stacked = Courses.stacked([course.select(split="train") for course in courses])
    look = witness.of(courses)([0], stacked)

    class Known:
        interaction = None

        def __init__(self, factor):
            self.factor = factor

        def potential_gradient(self, x, stamp):
            inside = torch.from_numpy(stacked.centre[:, None] / stacked.scale[:, None, None]).to(x)
            return self.factor * -20 * stacked.clock * (x + inside)

    assert float(look(Known(1.0))["l2_uvp"]) == pytest.approx(0, abs=1e-6)
    floors = flow_floors.reference_scores(courses[0], rng=np.random.default_rng(0))["no-movement"]
    still = np.mean([score.values["l2_uvp"] for score in floors if "l2_uvp" in score.values])
    assert float(look(Known(0.0))["l2_uvp"]) == pytest.approx(still, rel=1e-4)
    assert float(look(Known(-1.0))["l2_uvp"]) == pytest.approx(4 * still, rel=1e-4)


def test_an_interaction_has_no_witness():
    assert witness.of(made(["sphere"], interactions=["relu"])) is None
    courses = made(["sphere"])
    look = witness.of(courses)([0], Courses.stacked([course.select(split="train") for course in courses]))
    assert look(Energy.build(2, seeds=[0], terms=("potential", "interaction"))) == {}


def test_rows_to_look_at_are_needed():
    courses = made(["sphere"], train=1.0)
    with pytest.raises(ValueError, match="held-out rows at every time, there are none at t = 0"):
        witness.of(courses)([0], Courses.stacked(courses))
