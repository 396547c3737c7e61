"""Reliability of a learned force: two halves of the rows, what they agree on, and the shrinkage that follows."""

import numpy as np
import pytest

from snapdyn import energy_scores, flow_floors, flows, jkonet_star, methods, reliability
from snapdyn.snapshots import Snapshots

SPEC = {"interactions": [], "diffusivity": 0.0, "dim": 2, "n": 1200, "steps": 3, "tau": 0.01}
SPEC |= {"paired": False, "scheme": "explicit", "substeps": 1, "start": [-4, 4], "train": 0.5}
FEATURES = {"degree": 2, "grid": 5, "width": 4.0, "validation": 0}


class Given:
    """A model whose drift at the rows is an array, time by time."""

    def __init__(self, drifts):
        self.drifts = drifts

    def drift(self, t, x):
        return self.drifts[t]


def cloud(n=5000, times=(0.0, 1.0, 2.0), seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n * len(times), 2))
    return Snapshots.build(x, t=np.repeat(times, n), meta={"dataset": "cloud"})


def drawn(rng, snapshots, signal, noise):
    return Given({t: signal + noise * rng.standard_normal((len(snapshots.select(t=t)), 2)) for t in snapshots.times})


@pytest.mark.parametrize("noise", [0.0, 0.5, 2.0])
def test_the_factor_is_the_one_with_the_least_error_of_the_force_of_all_rows(noise):
    snapshots, rng, signal = cloud(), np.random.default_rng(1), np.array([1.0, -0.5])
    one, other = (drawn(rng, snapshots, signal, noise * np.sqrt(2)) for _ in range(2))
    found = reliability.factor(snapshots, one, other)
    whole = signal + noise * rng.standard_normal((200_000, 2))
    shares = np.linspace(0, 1, 501)
    best = shares[np.argmin([np.square(s * whole - signal).sum(1).mean() for s in shares])]
    assert found == pytest.approx(best, abs=0.02)
    if noise:  # the share in a half, without the step from a half to all rows, is another number
        half = signal @ signal / (signal @ signal + 4 * noise**2)
        assert abs(half - best) > 0.05  # so more than twice what is allowed above


def test_halves_that_agree_on_nothing_leave_nothing():
    snapshots, rng = cloud(), np.random.default_rng(2)
    one = drawn(rng, snapshots, 0.0, 1.0)
    against = Given({t: -drift for t, drift in one.drifts.items()})
    assert reliability.factor(snapshots, one, against) == 0.0
    assert reliability.factor(snapshots, Given({t: 0 * d for t, d in one.drifts.items()}), against) == 0.0


def test_halves_have_every_row_once_and_follow_the_seed():
    snapshots = cloud(n=51)
    one, other = reliability.halves(snapshots, 3)
    assert sorted([*one.row, *other.row]) == list(snapshots.row)
    assert [len(one.select(t=t)) for t in snapshots.times] == [25, 25, 25]
    assert (reliability.halves(snapshots, 3)[0].row == one.row).all()
    assert (reliability.halves(snapshots, 4)[0].row != one.row).any()


def test_no_two_trainings_start_alike():
    assert len({0, *reliability.seeds(0), 1, *reliability.seeds(1)}) == 6


def test_too_few_rows_for_two_halves_are_refused():
    with pytest.raises(ValueError, match="four training rows at each time, got 3 at t = 0"):
        reliability.halves(cloud(n=3), 0)


@pytest.fixture(scope="module")
def fitted():
    """A linear fit as it is and shrunk, of forces that are strong, weak beside their noise, and absent."""
    names, found = ["friedman", "watershed", "flat"], {}
    frame, meta = flows.courses(SPEC | {"potentials": names}, dataset="d", seed=0)
    courses = flows.unstacked(frame, meta)
    for shrink in (False, True):
        options = FEATURES | {"shrink": shrink}
        models = methods.fit_many("jkonet-star-linear", list(courses.values()), seeds=[0] * 3, options=options)
        found[shrink] = dict(zip(names, models, strict=True))
    return courses, found


def test_a_shrunk_force_is_the_reliability_times_the_other(fitted):
    courses, found = fitted
    x = courses["friedman"].x[:50]
    for name, model in found[True].items():
        share = model.diagnostics["reliability"]
        assert model.drift(0.01, x) == pytest.approx(share * found[False][name].drift(0.01, x), abs=1e-9)
    assert "reliability" not in found[False]["flat"].diagnostics


def test_halves_agree_on_a_strong_force_and_on_none():
    """The share of one data set spreads by 0.2, so it is the medians of eight that are held apart."""
    courses, spec = [], SPEC | {"potentials": ["styblinski-tang", "flat"]}
    for seed in range(8):
        courses += flows.unstacked(*flows.courses(spec, dataset="d", seed=seed)).values()
    options = FEATURES | {"shrink": True}
    models = methods.fit_many("jkonet-star-linear", courses, seeds=np.repeat(range(8), 2), options=options)
    shares = np.reshape([model.diagnostics["reliability"] for model in models], (8, 2))
    assert ((shares >= 0) & (shares <= 1)).all()
    force, absent = np.median(shares, axis=0)
    assert force > 0.6 and absent < 0.25


def test_shrinking_lowers_the_error_where_noise_rules(fitted):
    courses, found = fitted

    def error(name, shrink):
        force = flow_floors.true_force(flows.flow_of(courses[name]))
        model = found[shrink][name]
        scores = energy_scores.force_scores(courses[name], lambda t, x: -model.drift(t, x), force)
        return np.mean([score.values["l2_uvp"] for score in scores])

    assert error("watershed", True) < 0.6 * error("watershed", False)
    assert error("flat", True) < 0.6 * error("flat", False)
    assert error("friedman", True) < 1.1 * error("friedman", False)


def test_an_interaction_is_not_shrunk():
    with pytest.raises(ValueError, match="potential alone"):
        jkonet_star.JKOnetStar(axes=["x", "y"], terms=("potential", "interaction"), shrink=True)
    with pytest.raises(ValueError, match="no options .'shrink'"):
        methods.make("jkonet-star", axes=["x", "y"], options={"shrink": True})
