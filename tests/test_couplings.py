"""Couplings: known optimal maps, what rows of means keep of a plan, blocks, and going on after a stop."""

import numpy as np
import pytest
import torch

from snapdyn import checkpoint, couplings, metrics
from snapdyn.courses import Courses
from snapdyn.snapshots import Snapshots


def cloud(n, seed=0, dim=2):
    return np.random.default_rng(seed).standard_normal((n, dim))


def courses(*clouds, weights=None, members=1):
    """Snapshots at times 0, 1, ..; each further member is the first one shifted."""
    x, t = np.concatenate(clouds), np.repeat(np.arange(len(clouds), dtype=float), [len(c) for c in clouds])
    weight = np.ones(len(x)) if weights is None else np.concatenate(weights)
    meta = {"axes": ["a", "b"], "dim": 2}
    found = [Snapshots.build(x + 0.1 * m, t=t, weight=weight, meta=meta) for m in range(members)]
    return Courses.stacked(found, dtype=torch.float64)


def test_a_gradient_of_a_convex_function_is_found_again():
    x, order = cloud(60), np.random.default_rng(1).permutation(60)
    y = (1.3 * x + [0.5, -1.0])[order]
    source, target, weight = couplings.plan(x, y)
    assert (target == np.arange(60)).all() and (source == order).all()
    np.testing.assert_allclose(weight, 1 / 60)
    mirrored, _, _ = couplings.plan(x, -y)
    assert (mirrored != order).any()


def test_pairs_are_sorted_and_have_the_right_marginals():
    x, y = cloud(30), cloud(47, seed=1)
    a, b = metrics.marginal(np.linspace(1, 3, 30)), metrics.marginal(np.linspace(2, 1, 47))
    source, target, weight = couplings.plan(x, y, a=a, b=b)
    assert len(source) <= 30 + 47 - 1
    assert (np.diff(target * 30 + source) > 0).all()
    np.testing.assert_allclose(np.bincount(source, weight), a, atol=1e-12)
    np.testing.assert_allclose(np.bincount(target, weight), b, atol=1e-12)


@pytest.mark.parametrize("blur", [0.0, 0.5])
@pytest.mark.parametrize("anchor", couplings.ANCHORS)
def test_means_lose_a_constant_of_the_loss_and_nothing_else(anchor, blur):
    x, y = cloud(30), 0.5 + cloud(41, seed=1)
    source, target, weight = couplings.plan(x, y, blur=blur)
    mean_x, mean_y, mass, spread = couplings.means(x, y, source, target, weight, anchor=anchor)
    rows, own = (target, mean_y) if anchor == "target" else (source, mean_x)
    assert len(own) == len(mean_x) == (41 if anchor == "target" else 30)
    assert spread > 0
    for seed in (2, 3):
        force = cloud(len(own), seed=seed)
        pairs = weight @ np.square(force[rows] + y[target] - x[source]).sum(1)
        np.testing.assert_allclose(pairs, mass @ np.square(force + mean_y - mean_x).sum(1) + spread)
        wrong = np.square(force + mean_y - mean_x).sum(1).mean() + spread  # without the masses
        assert anchor == "target" or blur or abs(wrong - pairs) < 1e-9  # even weights on the source's side
    with pytest.raises(ValueError, match="1 of 42 target rows take no part"):
        couplings.means(x, np.vstack([y, y[:1]]), source, target, weight)


def test_a_blurred_plan_is_between_the_exact_one_and_independence():
    x = cloud(40)
    y = x + 0.3
    near, far = (couplings.means(x, y, *couplings.plan(x, y, blur=blur)) for blur in (0.02, 1e3))
    np.testing.assert_allclose(near[0], x, atol=0.2)
    assert np.square(near[0] - x).sum(1).mean() < 0.005 and near[3] < 0.05
    np.testing.assert_allclose(far[0], np.tile(x.mean(0), (40, 1)), atol=0.02)


def test_courses_of_several_members_and_unequal_snapshots():
    group = courses(cloud(20), cloud(31, seed=1), cloud(31, seed=2), members=2)
    rows = couplings.couple(group)
    assert [tuple(r.x.shape) for r in rows] == [(2, 31, 2), (2, 31, 2)]
    for k, step in enumerate(rows):
        torch.testing.assert_close(step.y, group.x[k + 1])
        torch.testing.assert_close(step.weight.sum(1), torch.ones(2).double())
        torch.testing.assert_close(step.weight, group.weight[k + 1])
    assert (rows[0].spread > 0).all() and (rows[1].spread < 1e-12).all()  # the second is a pairing
    torch.testing.assert_close(rows[0].x[0], rows[0].x[1])  # shifted alike
    back = couplings.couple(group, anchor="source")
    torch.testing.assert_close(back[0].x, group.x[0])
    for k in (0, 1):  # the mean displacement is that of the clouds
        for some in (rows, back):
            moved = (some[k].weight[..., None] * (some[k].y - some[k].x)).sum(1)
            torch.testing.assert_close(moved, group.x[k + 1].mean(1) - group.x[k].mean(1))
    with pytest.raises(ValueError, match="anchor"):
        couplings.couple(group, anchor="both")


def test_blocks_keep_rows_that_follow_particles_together():
    """Particles that cross cost more than they need; with a plan for each of them they stay themselves."""
    x = cloud(40)
    group = courses(x, -x)
    alone = couplings.couple(group, block=1)[0]
    torch.testing.assert_close(alone.x, group.x[0])
    whole = couplings.couple(group)[0]
    assert (whole.y - whole.x).square().sum() < 0.5 * (alone.y - alone.x).square().sum()
    halves = couplings.couple(group, block=20)[0]
    first = couplings.couple(courses(x[:20], -x[:20]))[0]
    assert halves.pairs.tolist() == [40.0] and first.pairs.tolist() == [20.0]
    unequal = couplings.couple(courses(x, -x[:30]), block=10)[0]
    assert unequal.pairs > 30  # one plan, which splits particles


def test_the_blur_of_a_course_is_a_share_of_its_variance():
    x = cloud(40)
    small, large = (couplings.couple(courses(unit * x, unit * (x + 0.5)), blur=0.3)[0] for unit in (1e-3, 1e3))
    torch.testing.assert_close(small.x, large.x)
    assert small.spread > 0.05
    assert couplings.couple(courses(x, x + 0.5), blur=0.1)[0].spread < small.spread


def test_weights_of_rows_reach_the_plan():
    x = cloud(30)
    heavy = np.where(np.arange(30) < 3, 20.0, 1.0)
    step = couplings.couple(courses(x, x + 0.2, weights=[heavy, np.ones(30)]))[0]
    moved = (step.weight[..., None] * (step.y - step.x)).sum(1)
    plain = couplings.couple(courses(x, x + 0.2))[0]
    assert (moved - (plain.weight[..., None] * (plain.y - plain.x)).sum(1)).abs().max() > 0.05


def test_plans_that_were_made_are_not_made_again(tmp_path, monkeypatch):
    group = courses(cloud(20), cloud(20, seed=1), cloud(20, seed=2), members=2)
    expected = couplings.couple(group)
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", 0)
    made, whole = [], couplings._coupled

    def counted(*ends, **how):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(1)
        return whole(*ends, **how)

    monkeypatch.setattr(couplings, "_coupled", counted)
    with pytest.raises(KeyboardInterrupt):
        couplings.couple(group, keep=checkpoint.Checkpoint(tmp_path / "partial.pt"))
    monkeypatch.setattr(couplings, "_coupled", lambda *ends, **how: made.append(2) or whole(*ends, **how))
    found = couplings.couple(group, keep=checkpoint.Checkpoint(tmp_path / "partial.pt"))
    assert made == [1, 1, 1, 2]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.x, other.x) and torch.equal(one.weight, other.weight)


def test_members_with_the_same_rows_share_a_plan(monkeypatch):
    made, coupled = [], couplings._coupled
    monkeypatch.setattr(couplings, "_coupled", lambda *ends, **how: made.append(1) or coupled(*ends, **how))
    x = [Snapshots.build(cloud(40, seed=s), t=np.repeat([0.0, 1.0], 20), meta={"axes": ["a", "b"]}) for s in (0, 0, 1)]
    rows = couplings.couple(Courses.stacked(x, dtype=torch.float64))
    assert len(made) == 2
    torch.testing.assert_close(rows[0].x[0], rows[0].x[1])
    assert (rows[0].x[0] - rows[0].x[2]).abs().max() > 0.1
