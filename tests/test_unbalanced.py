"""Plans whose sources may change their weights: closed forms, no better plan nearby, and what growth does to others."""

import warnings

import numpy as np
import pytest
import torch
from test_couplings import cloud, courses
from test_flows import SPEC

from snapdyn import checkpoint, couplings, flow_floors, flows, methods, metrics, unbalanced
from snapdyn.courses import Courses
from snapdyn.snapshots import Snapshots
from snapdyn.unbalanced import relaxed_plan

SOLVER = relaxed_plan.__kwdefaults__
EVEN = {"axes": ["x", "y"], "time_unit": "s"}


def value(p, x, y, b, strength):
    """What the problem pays for weights p of the sources, even before."""
    return metrics.wasserstein(x, y, order=2, a=p, b=b) ** 2 + strength * float(p @ np.log(p * len(p)))


@pytest.mark.parametrize("strength", [0.5, 2.0, 10.0])
def test_two_places_in_closed_form(strength):
    """At a distance of 1 and targets of weights 0.8 and 0.2: log(p / (1 - p)) = 1 / lambda, until p = 0.8."""
    x = np.array([[0.0], [1.0]])
    plan, gap = relaxed_plan(x, x, b=np.array([0.8, 0.2]), strength=strength, close=1e-7)
    expected = min(1 / (1 + np.exp(-1 / strength)), 0.8)
    np.testing.assert_allclose(plan.sum(1), [expected, 1 - expected], atol=2e-3)
    np.testing.assert_allclose(plan.sum(0), [0.8, 0.2], atol=1e-12)
    assert 0 <= gap <= 1e-4 * strength


@pytest.mark.parametrize("strength", [0.3, 2.0])
def test_no_other_weights_are_better(strength):
    x, y = cloud(25), 0.6 * cloud(31, seed=1) + [0.8, 0.0]
    b = metrics.marginal(np.linspace(1, 2, 31))
    plan, gap = relaxed_plan(x, y, b=b, strength=strength)
    p = plan.sum(1)
    np.testing.assert_allclose(plan.sum(0), b, atol=1e-12)
    reached = float((plan * np.square(x[:, None] - y[None]).sum(2)).sum() + strength * p @ np.log(p * 25))
    assert reached == pytest.approx(value(p, x, y, b, strength)) and 0 <= gap <= 1e-3 * strength
    rng = np.random.default_rng(2)
    for size in (0.01, 0.1, 1.0):
        for _ in range(20):
            other = metrics.marginal(p * np.exp(size * rng.standard_normal(25)))
            assert value(other, x, y, b, strength) > reached - gap
    assert value(np.full(25, 1 / 25), x, y, b, strength) > reached + 0.02


def test_a_high_price_leaves_weights_alone_and_rows_without_weight_take_no_part():
    x, y = cloud(20), cloud(20, seed=1)
    dear, _ = relaxed_plan(x, y, strength=1e6)
    np.testing.assert_allclose(dear, metrics.transport_plan(x, y), atol=1e-5)
    a = metrics.marginal(np.arange(20.0))
    plan, _ = relaxed_plan(x, y, a=a, strength=1.0)
    assert plan[0].sum() == 0 and np.isfinite(plan).all()
    for strength in (0.0, -1.0):
        with pytest.raises(ValueError, match="strength above 0"):
            relaxed_plan(x, y, strength=strength)


@pytest.mark.parametrize("anchor", couplings.ANCHORS)
def test_anchors_keep_their_weights_and_the_other_end_pays(anchor):
    x, y = cloud(30), cloud(40, seed=1) * [0.4, 1.0] + [0.8, 0.0]
    rows = {price: couplings.couple(courses(x, y), anchor=anchor, unbalanced=price)[0] for price in (None, 0.5, 1e6)}
    for row in rows.values():
        np.testing.assert_allclose(row.weight[0], 1 / (40 if anchor == "target" else 30))
    moved = {price: float((row.weight[..., None] * (row.y - row.x)).square().sum()) for price, row in rows.items()}
    assert moved[0.5] < 0.7 * moved[None] and moved[1e6] == pytest.approx(moved[None], rel=1e-3)
    assert rows[None].relaxed == 0 and rows[1e6].relaxed < 1e-3 < 0.1 < rows[0.5].relaxed < 1


def test_plans_that_stop_before_they_are_solved_are_told(monkeypatch):
    """The gap is a share of the price; of blocks it is the worst one's; and what is solved is not warned of."""
    x, y = cloud(60), cloud(50, seed=1) + [3.0, 0.0]
    strength = 0.1
    monkeypatch.setattr(unbalanced.relaxed_plan, "__kwdefaults__", {**SOLVER, "rounds": 3})
    with pytest.warns(UserWarning, match="1 of 1 unbalanced plans stopped .* take a larger one"):
        early = couplings.couple(courses(x, y), unbalanced=strength)[0]
    with pytest.warns(UserWarning, match="1 of 1"):
        blocks = couplings.couple(courses(x[:50], y), unbalanced=strength, block=10)[0]
    price = strength * np.concatenate([x, y]).var(0, ddof=1).mean()
    gap = relaxed_plan(x, y, strength=price, rounds=3)[1] / price
    assert float(early.gap) == pytest.approx(gap, rel=1e-5) and gap > 1e-3
    price = strength * np.concatenate([x[:50], y]).var(0, ddof=1).mean()
    gaps = [relaxed_plan(x[k : k + 10], y[k : k + 10], strength=price, rounds=3)[1] / price for k in range(0, 50, 10)]
    assert float(blocks.gap) == pytest.approx(max(gaps), rel=1e-5) and min(gaps) < 0.9 * max(gaps)
    assert couplings.about_plans([early, blocks], 0, strength)["plan_gap"] == max(float(early.gap), float(blocks.gap))
    monkeypatch.setattr(unbalanced.relaxed_plan, "__kwdefaults__", SOLVER)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solved = couplings.couple(courses(x, y), unbalanced=2.0)[0]
        balanced = couplings.couple(courses(x, y))[0]
    assert 0 <= float(solved.gap) <= 1e-3 and float(balanced.gap) == 0
    assert set(couplings.about_plans([balanced], 0)) == {"pairs"}


@pytest.mark.parametrize("method", ["jkonet-star-v-unbalanced", "jkonet-star-linear"])
def test_models_say_how_far_their_plans_are_from_solved(method):
    x = np.concatenate([cloud(30), cloud(30, seed=1) + [0.5, 0.0]])
    snapshots = Snapshots.build(x, t=np.repeat([0.0, 1.0], 30), meta={})
    options = {"unbalanced": 1.0} | ({"grid": 2, "degree": 2} if "linear" in method else {"steps": 2})
    (model,) = methods.fit_many(method, [snapshots], seeds=[0], options=options)
    assert 0 <= model.diagnostics["plan_gap"] <= 1e-3 and model.diagnostics["relaxed"] > 0.01


def test_the_price_is_a_share_of_the_variance():
    x, y = cloud(30), cloud(30, seed=1) + [0.8, 0.0]
    small, large = (couplings.couple(courses(unit * x, unit * y), unbalanced=0.5)[0] for unit in (1e-3, 1e3))
    torch.testing.assert_close(small.x, large.x)


def test_known_descendants_count_at_sources_alone():
    x = cloud(30)
    heavy = np.where(np.arange(30) < 3, 20.0, 1.0)
    group = courses(x, x + 0.2, x + 0.4, weights=[heavy] * 3)
    mass, growth = (couplings.couple(group, weights=kind) for kind in couplings.WEIGHTS)
    mean = torch.as_tensor(np.average(x, axis=0, weights=heavy) - x.mean(0)) / group.scale[0]
    for k in (0, 1):
        torch.testing.assert_close(mass[k].weight, group.weight[k + 1])
        torch.testing.assert_close(growth[k].weight, torch.full_like(growth[k].weight, 1 / 30))
        came = (growth[k].weight[..., None] * growth[k].x).sum(1)[0] - group.x[k][0].mean(0)
        torch.testing.assert_close(came, mean)


def test_a_checkpoint_keeps_plans_of_different_options_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", 0)
    group, place = courses(cloud(20), cloud(20, seed=1)), tmp_path / "partial.pt"
    balanced = couplings.couple(group, keep=checkpoint.Checkpoint(place))[0]
    relaxed = couplings.couple(group, unbalanced=0.2, keep=checkpoint.Checkpoint(place))[0]
    assert not torch.equal(balanced.x, relaxed.x)
    assert torch.equal(relaxed.x, couplings.couple(group, unbalanced=0.2)[0].x)


def test_growth_is_no_movement():
    """In a flat potential whose particles divide on the right, balanced plans carry rows there; the others do not."""
    growth = {"kind": "front", "rate": 40.0, "known": True}
    spec = SPEC | {"potentials": ["flat"], "n": 500, "steps": 2, "train": 0.9, "growth": growth}
    (snapshots,) = flows.unstacked(*flows.courses(spec, dataset="d", seed=0)).values()
    group = Courses.stacked([snapshots], dtype=torch.float64)
    assert flow_floors.true_force(flows.flow_of(snapshots))(0.0, snapshots.x).max() == 0
    even = Courses(group.x, [torch.full_like(w, 1 / w.shape[1]) for w in group.weight], *_rest(group))

    def drift(courses, **how):
        """How far plans carry rows along the front, on average."""
        rows = couplings.couple(courses, **how)
        return np.mean([float((row.weight * (row.y - row.x)[..., 0]).sum()) for row in rows])

    balanced, known = drift(even), drift(group, weights="growth")
    relaxed = {price: drift(even, unbalanced=price) for price in (3.0, 0.3)}
    assert balanced > 0.15 and abs(known) < 0.3 * balanced
    assert relaxed[3.0] < 0.75 * balanced and abs(relaxed[0.3]) < 0.3 * balanced


def _rest(group):
    return group.times, group.clock, group.centre, group.scale


def test_faults_are_refused():
    group = courses(cloud(10), cloud(10, seed=1))
    with pytest.raises(ValueError, match="expected weights of"):
        couplings.couple(group, weights="both")
    for price in (0.0, -1, True):
        with pytest.raises(ValueError, match="price above 0"):
            couplings.couple(group, unbalanced=price)
    for method in ("jkonet-star-v-unbalanced", "jkonet-star-linear"):
        with pytest.raises(ValueError, match="leave out blur"):
            methods.make(method, **EVEN, options={"unbalanced": 0.5, "blur": 0.1})
    default = methods.make("jkonet-star-v-unbalanced", **EVEN)
    assert default.plans["unbalanced"] > 0
    other = methods.make("jkonet-star-v-unbalanced", **EVEN, options={"unbalanced": 0.7})
    assert other.plans["unbalanced"] == 0.7 and methods.make("jkonet-star-v", **EVEN).plans["unbalanced"] is None
