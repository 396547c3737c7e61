"""Populations that divide: their masses and laws against quadrature, what files say of them, and fair scores."""

import numpy as np
import pytest
from test_flows import SPEC

from snapdyn import checks, energy_evaluation, energy_scores, flow_floors, flows
from snapdyn.growth import Growth

TAU = 0.01
FRONT = Growth("front", 60.0)
GRID = (np.arange(4000) + 0.5) / 500 - 4  # midpoints of the uniform law of the start
GROWING = SPEC | {"potentials": ["flowers", "flat"], "growth": {"kind": "front", "rate": 30.0}}


def flow(potential="sphere", growth=FRONT, **options):
    return flows.Flow(flows.FlowEnergy(2, potential), TAU, 3, growth=growth, **options)


def rng(seed=0):
    return np.random.default_rng(seed)


def on_axis(x):
    return np.stack([x, np.zeros_like(x)], 1)


def expected(exponent, factor):
    """Mass, and mean and variance of x0, of founders on the grid that are carried to ``factor`` times their place."""
    weight = np.exp(exponent)
    mean = np.average(factor * GRID, weights=weight)
    return weight.mean(), mean, np.average((factor * GRID - mean) ** 2, weights=weight)


def rate(x):
    return 60 / (1 + np.exp(-x))


def test_rates():
    x = rng().normal(size=(9, 2))
    np.testing.assert_allclose(Growth("front", 60.0)(x), rate(x[:, 0]))
    np.testing.assert_allclose(Growth("front", 3.0, width=0.5)(x), 3 / (1 + np.exp(-2 * x[:, 0])))
    np.testing.assert_array_equal(Growth("even", -2.0)(x), np.full(9, -2.0))
    for kind, value in (("front", 5.0), ("front", -5.0), ("even", 5.0), ("even", -5.0)):
        assert (Growth(kind, value)(x) <= Growth(kind, value).most).all()


def test_noise_moves_founders_before_they_divide():
    """In a flat potential from a point on, x is normal after a step: the mass is an integral over it."""
    tau, beta, half = 0.05, 20.0, 1e-6
    moving = flows.FlowEnergy(2, "flat", diffusivity=beta)
    growth = Growth("front", 60.0)
    spread = flows.Flow(moving, tau, 2, growth=growth, start=(2 - half, 2 + half))
    x = 2 + np.sqrt(2 * beta * tau) * np.linspace(-8, 8, 20_001)
    law = np.exp(-((x - 2) ** 2) / (4 * beta * tau))
    mass = np.exp(tau * rate(2.0)) * np.average(np.exp(tau * rate(x)), weights=law)
    still = np.exp(2 * tau * rate(2.0))
    assert spread.masses(rng())[2] == pytest.approx(mass, rel=0.01) and mass < 0.95 * still


def test_mass_and_law_of_a_population_that_moves_and_divides():
    """sphere is -10 |v|^2, so an explicit step is a factor of 2 at tau = 0.05: two of them, up to a quadrature."""
    factor, tau, n = 2.0, 0.05, 20_000
    moving = flows.Flow(flows.FlowEnergy(2, "sphere"), tau, 3, growth=Growth("front", 60.0 * TAU / tau))
    mass, mean, variance = expected(TAU * (rate(GRID) + rate(factor * GRID)), factor**2)
    assert moving.masses(rng())[2] == pytest.approx(mass, rel=0.005)
    x, residuals = moving.population(n, 2, rng(1))
    error = (variance / n) ** 0.5
    assert x.shape == (n, 2) and residuals.shape == (2, n)
    assert abs(x[:, 0].mean() - mean) < 4 * error and x[:, 0].var() == pytest.approx(variance, rel=0.05)
    assert abs(x[:, 1].mean()) < 4 * error * 1.5
    # growth at the end of steps, at their start for both, or none at all, is another law
    for wrong in (rate(factor * GRID) + rate(factor**2 * GRID), 2 * rate(GRID), 0 * GRID):
        other = expected(TAU * wrong, factor**2)
        assert abs(other[1] - mean) > 6 * error or abs(other[0] / mass - 1) > 0.015
    assert len(np.unique(x[:, 0])) == n  # nobody is a copy


@pytest.mark.parametrize("value", [40.0, -40.0])
def test_even_growth_changes_numbers_and_nothing_else(value):
    even, plain = flow(growth=Growth("even", value)), flow(growth=None)
    np.testing.assert_allclose(even.masses(rng()), np.exp(TAU * value * np.arange(4)))
    np.testing.assert_array_equal(even.population(500, 3, rng())[0][:50], plain.population(500, 3, rng())[0][:50])
    np.testing.assert_array_equal(plain.masses(rng()), 1)


def test_death_on_the_right_leaves_the_left():
    dying = flow("flat", Growth("front", -60.0))
    mass, mean, _ = expected(-3 * TAU * rate(GRID), 1.0)
    assert dying.masses(rng())[3] == pytest.approx(mass, rel=0.005) and mass < 0.6
    assert dying.population(20_000, 3, rng(2))[0][:, 0].mean() == pytest.approx(mean, abs=0.06) and mean < -0.5


def test_files_hold_as_many_rows_as_there_are_particles():
    tables = [flows.courses(GROWING, dataset="d", seed=seed) for seed in (0, 1)]
    courses = [flows.unstacked(*table)["flat"] for table in tables]
    counts = [[int((c.t == t).sum()) for t in c.times] for c in courses]
    masses = tables[0][1]["masses"]["flat"]
    assert counts[0] == counts[1] == [round(60 * m) for m in masses] and counts[0][-1] > 90
    assert [expected(k * 0.5 * TAU * rate(GRID), 1.0)[0] for k in range(4)] == pytest.approx(masses, rel=0.01)
    assert (courses[0].weight == 1).all() and not np.isin(courses[0].x, courses[1].x).any()
    halves = [((courses[0].t == t) & (courses[0].split == "train")).sum() for t in courses[0].times]
    assert halves == [n // 2 for n in counts[0]]
    # no course changes with those beside it, and no snapshot with those after it
    alone, _ = flows.courses(GROWING | {"potentials": ["flat"], "steps": 2}, dataset="d", seed=0)
    np.testing.assert_array_equal(alone["x0"], courses[0].x[: len(alone), 0])
    # without growth, all is as if there were no such thing
    plain, meta = flows.courses(SPEC, dataset="d", seed=0)
    same, about = flows.courses(SPEC | {"growth": None}, dataset="d", seed=0)
    assert plain.equals(same) and "masses" not in meta and "masses" not in about


def test_known_growth_is_the_weight_of_a_row():
    unknown, _ = flows.courses(GROWING, dataset="d", seed=0)
    known = GROWING | {"growth": {**GROWING["growth"], "known": True}}
    frame, meta = flows.courses(known, dataset="d", seed=0)
    assert frame.drop(columns="weight").equals(unknown.drop(columns="weight"))
    np.testing.assert_allclose(frame["weight"], np.exp(TAU * 0.5 * rate(frame["x0"])))
    snapshots = flows.unstacked(frame, meta)["flat"]
    np.testing.assert_allclose(snapshots.weight, flows.flow_of(snapshots).descendants(snapshots.x))


def course(potential="flat", **more):
    spec = SPEC | {"potentials": [potential], "n": 1000, "growth": {"kind": "front", "rate": 60.0}} | more
    return flows.unstacked(*flows.courses(spec, dataset="d", seed=0))[potential]


def mean(scores, name):
    return np.mean([score.values[name] for score in scores if name in score.values])


def test_predictions_are_judged_by_where_rows_move():
    """In a flat potential, no movement is the truth: its rows score as two samples do, once they are weighted."""
    snapshots = course()
    found = flow_floors.reference_scores(snapshots, rng=rng())
    truth, still = found["truth"], found["no-movement"]
    floor = mean(truth, "w1_floor")
    for scores in (truth, still):
        assert mean(scores, "w1") == pytest.approx(floor, rel=0.35) and mean(scores, "bw_uvp") < 1.5
    plain = energy_scores.step_scores(snapshots, lambda x, start, end: x)
    assert mean(plain, "w1") > 1.3 * mean(still, "w1") and mean(plain, "bw_uvp") > 2 * mean(still, "bw_uvp")
    assert mean(truth, "l2_uvp_bias") == 0
    ratios = [score.values["mass_ratio"] for score in truth if "mass_ratio" in score.values]
    counts = np.array([(snapshots.t == t).sum() for t in snapshots.times])
    np.testing.assert_allclose(ratios, counts[1:] / counts[:-1])
    assert min(ratios) > 1.3 and "mass_ratio" not in [n for s in found["no-movement"] for n in s.values]


def test_the_bias_is_that_of_the_law_that_is_seen():
    """Of double wells in one axis and growth along it: not the bias of the uniform start, carried on unweighted."""
    growing = flow("styblinski-tang", Growth("front", 200.0, width=0.3))
    bias = flow_floors.step_bias(growing, rng=rng())
    x = growing.population(100_000, 1, rng(5))[0]
    y, force = growing.advance(x)[0], flow_floors.true_force(growing)
    square = np.square((x - y) / TAU - force(0.0, y)).sum(1)
    share = 100 * TAU**2 / x.var(0).sum()
    exact = share * np.average(square, weights=np.exp(TAU * growing.growth(x)))
    assert bias[1].values["l2_uvp_bias"] == pytest.approx(exact, rel=0.03)
    plain = flow_floors.step_bias(flow("styblinski-tang", None), rng=rng())[1].values["l2_uvp_bias"]
    assert abs(plain / exact - 1) > 0.06


def test_collected_rows_name_their_units():
    frame = energy_evaluation.floors(*flows.courses(GROWING | {"steps": 1}, dataset="d", seed=0), rng=rng())
    units = frame.groupby("metric")["unit"].agg(set)
    assert units["mass_ratio"] == {"1"} and units["l2_uvp"] == {"%"} and units["w1"] == {"state of the flow"}


def test_faults_are_refused():
    with pytest.raises(ValueError, match="kind even or front"):
        Growth("back", 1.0)
    with pytest.raises(ValueError, match="width above 0"):
        Growth("front", 1.0, width=0.0)
    with pytest.raises(ValueError, match="cannot be followed as pairs"):
        flows.courses(GROWING | {"paired": True}, dataset="d", seed=0)
    with pytest.raises(ValueError, match="do not interact"):
        flows.courses(GROWING | {"interactions": ["sphere"]}, dataset="d", seed=0)
    with pytest.raises(ValueError, match=r"flowers: too few particles live to be seen, \[60, 3"):
        flows.courses(GROWING | {"growth": {"kind": "even", "rate": -300.0}}, dataset="d", seed=0)


@pytest.mark.parametrize("other", [{"paired": True}, {"interactions": ["sphere"]}])
def test_the_config_says_so_before_any_job(other):
    spec = {"kind": "flow", "potentials": ["flat"], "growth": {"kind": "front", "rate": 20}}
    config = {"run": "mine", "datasets": {"d": spec}}
    assert checks.check(config) == []
    (said,) = checks.check({"run": "mine", "datasets": {"d": spec | other}})
    assert said.startswith("datasets.d.growth: only unpaired particles") and next(iter(other)) in said
    (said,) = checks.check({"run": "mine", "datasets": {"d": spec | {"growth": {"kind": "front"}}}})
    assert "growth" in said
