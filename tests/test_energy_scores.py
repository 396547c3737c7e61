"""Scores of energies against closed forms, and against the forms that they are taken for."""

import numpy as np
import pytest

from snapdyn import artifacts, energy_scores, metrics
from snapdyn.snapshots import Snapshots

TAU = 0.5


def rng(seed=0):
    return np.random.default_rng(seed)


def linear_course(n=400, dim=3):
    """Explicit steps x -> x - tau A x of a quadratic potential, the same particles throughout; and A."""
    matrix = np.diag(np.arange(1.0, dim + 1)) / 4
    clouds = [rng().standard_normal((n, dim)) + 1]
    for _ in range(2):
        clouds.append(clouds[-1] - TAU * clouds[-1] @ matrix)
    t = np.repeat([1.0, 1.0 + TAU, 1.0 + 2 * TAU], n)
    split = np.tile(np.where(np.arange(n) % 4, "test", "train").astype(object), 3)
    return Snapshots.build(np.concatenate(clouds), t=t, split=split, meta={}), matrix


def test_l2_uvp_of_linear_forces():
    """100 tau^2 E |(B - A) y|^2 / tr Cov x, written once more with moments."""
    snapshots, matrix = linear_course()
    wrong = 1.1 * matrix + 0.05
    scores = energy_scores.force_scores(snapshots, lambda t, x: x @ wrong.T, lambda t, x: x @ matrix.T)
    for k, score in enumerate(scores):
        x, y = (snapshots.select(t=snapshots.times[j], split="test").x for j in (k, k + 1))
        second = y.T @ y / len(y)
        expected = 100 * TAU**2 * np.trace((wrong - matrix) @ second @ (wrong - matrix).T) / np.trace(np.cov(x.T))
        assert score.values["l2_uvp"] == pytest.approx(expected, rel=0.01)  # ddof
        assert score.t == snapshots.times[k + 1] and score.n == 300
        # neither the earlier points nor the mean variance of a coordinate
        assert score.values["l2_uvp"] != pytest.approx(expected * (x.T @ x).trace() / (y.T @ y).trace(), rel=0.1)
        assert score.values["l2_uvp"] != pytest.approx(3 * expected, rel=0.1)


def test_forces_are_asked_at_the_targets_time_and_points():
    snapshots, _ = linear_course()
    asked = []

    def force(t, x):
        asked.append((t, x))
        return np.zeros_like(x)

    scores = energy_scores.force_scores(snapshots, force, force, split="train")
    for t, x in asked:
        np.testing.assert_array_equal(x, snapshots.select(t=t, split="train").x)
    assert [t for t, _ in asked[::2]] == [1.5, 2.0] and [score.values["l2_uvp"] for score in scores] == [0, 0]


def test_bw_uvp_in_closed_form():
    x = rng().standard_normal((500, 3)) @ np.diag([1.0, 2.0, 3.0])
    assert energy_scores.bw_uvp(x, x) == pytest.approx(0, abs=1e-9)
    variance = energy_scores.total_variance(x)
    shift = np.array([0.3, -0.2, 0.1])
    assert energy_scores.bw_uvp(x + shift, x) == pytest.approx(200 * shift @ shift / variance)
    # twice as wide around the same mean: W2^2 = tr Sigma
    assert energy_scores.bw_uvp(2 * x - x.mean(0), x) == pytest.approx(200)
    # nothing but the mean has 200 per cent, by the half in the definition
    assert energy_scores.bw_uvp(np.broadcast_to(x.mean(0), x.shape), x) == pytest.approx(200)
    assert energy_scores.bw_uvp(x[:, :1] + 1, x[:, :1]) == pytest.approx(200 / x[:, 0].var())


def test_one_step_scores_tell_right_steps_from_wrong_ones():
    snapshots, matrix = linear_course()

    def move(factor):
        return lambda x, start, end: x - factor * (end - start) * x @ matrix

    def of(metric, factor, **how):
        scores = energy_scores.step_scores(snapshots, move(factor), **how)
        return [(score.values[metric], score.n) for score in scores if metric in score.values]

    for metric, small, large in (("w1", 1e-12, 0.1), ("bw_uvp", 1e-9, 1.0)):
        assert max(of(metric, 1))[0] < small < large < min(of(metric, 2) + of(metric, 0))[0]
    x, y = (snapshots.select(t=t, split="test").x for t in (1.0, 1.5))
    assert of("w1", 0)[0] == (metrics.wasserstein(x, y), 300)
    assert len(of("w1_implicit", 1, suffix="_implicit")) == len(of("bw_uvp_implicit", 1, suffix="_implicit")) == 2
    thinned = of("w1", 1, max_points=100)[0]
    assert thinned[0] > 0.05 and thinned[1] == 100  # what thinning alone costs, and the number of points compared
    assert of("bw_uvp", 1, max_points=100)[0][1] == 300


def test_the_frame_has_every_time_and_the_mean(tmp_path):
    scores = [
        energy_scores.Scores(0.1, {"w1": 1.0, "bw_uvp": 2.0}, 10),
        energy_scores.Scores(0.2, {"w1": 3.0, "bw_uvp": 5.0}, 30),
        energy_scores.Scores(0.1, {"l2_uvp_bias": 7.0}, 99),
    ]
    identity = {"paper": "jko", "experiment": "e", "dataset": "flow/relu", "method": "truth", "seed": 0}
    frame = energy_scores.frame(scores, unit="length", identity=identity)
    artifacts.write(frame, tmp_path / "metrics", "metrics/1")
    w1 = frame[frame["metric"] == "w1"]
    assert w1["value"].tolist() == [1, 3, 2] and w1["n"].tolist() == [10, 30, 40]
    assert w1["t"].isna().tolist() == [False, False, True] and set(w1["unit"]) == {"length"}
    assert set(frame[frame["metric"] != "w1"]["unit"]) == {"%"} and len(frame) == 8


def test_faults_are_refused():
    snapshots, _ = linear_course()
    with pytest.raises(ValueError, match=r"expected 300 finite positions at t = 1.5, got shape \(300, 3\) with 1 num"):
        energy_scores.step_scores(snapshots, lambda x, *_: np.where(np.arange(x.size).reshape(x.shape), x, np.nan))
    with pytest.raises(ValueError, match="has no train rows on one of its sides"):
        energy_scores.step_scores(snapshots.select(split="test"), lambda x, *_: x, split="train")
    with pytest.raises(ValueError, match="expected two forces"):
        energy_scores.l2_uvp(np.zeros((3, 2)), np.zeros((3, 1)), tau=1, variance=1)
    with pytest.raises(ValueError, match="its variance is 0"):
        energy_scores.l2_uvp(np.zeros((3, 2)), np.zeros((3, 2)), tau=1, variance=0)


def pull(rate):
    """grad W * rho of the kernel rate |z|^2 / 2."""
    return lambda x: rate * (x - x.mean(0))


def bumpy(x):
    """A pull that no quadratic kernel has."""
    return np.sin(1.5 * x) - np.sin(1.5 * x).mean(0)


def test_a_quadratic_part_of_a_kernel_is_nobodys_error_and_any_other_part_is():
    snapshots, _ = linear_course()

    def score(learned, true, **options):
        found = energy_scores.interaction_scores(snapshots, learned, true, **options)
        return np.array([one.values["l2_uvp_interaction"] for one in found])

    assert score(pull(5.0), pull(-2.0)).max() < 1e-12
    kept = score(lambda x: bumpy(x) + pull(7.0)(x), np.zeros_like)
    np.testing.assert_allclose(kept, score(bumpy, np.zeros_like))
    whole = energy_scores.force_scores(snapshots, lambda t, x: bumpy(x), lambda t, x: np.zeros_like(x))
    assert 0.3 < kept.sum() / sum(s.values["l2_uvp"] for s in whole) < 0.99
    # one multiple for all steps: a pull that changes with the population is an error
    turning = iter([1.0, -1.0])
    assert score(lambda x: pull(next(turning))(x), np.zeros_like).min() > 1


def test_what_is_taken_off_is_the_least_square_of_all_steps_together():
    snapshots, _ = linear_course()
    found = energy_scores.interaction_scores(snapshots, bumpy, np.zeros_like, most=100)
    assert {one.n for one in found} == {100}
    total = sum(one.values["l2_uvp_interaction"] for one in found)

    def without(rate):
        kinds = [lambda t, x: bumpy(x) - pull(rate)(x), lambda t, x: np.zeros_like(x)]
        return sum(one.values["l2_uvp"] for one in energy_scores.force_scores(snapshots, *kinds, most=100))

    tried = [without(rate) for rate in np.linspace(-2, 2, 1601)]
    assert total == pytest.approx(min(tried), rel=1e-4) and without(0) > 1.01 * total


def test_one_energy_for_all_steps_is_told_from_one_for_each():
    snapshots, matrix = linear_course()

    def true(t, x):
        return x @ matrix

    same = energy_scores.common_scores(snapshots, lambda t, x: 1.1 * x @ matrix, true)
    assert [one.t for one in same] == [1.5, 2.0] and all(one.values["l2_uvp_apart"] == 0 for one in same)
    # the force of each step right at its own rows alone, for which it takes any other rows to see that
    near = {t: snapshots.select(t=t, split="test").x for t in (1.5, 2.0)}

    def own(t, x):
        known = (x[:, None] == near[t]).all(2).any(1)
        return np.where(known[:, None], x @ matrix, x @ matrix + t)

    assert all(one.values["l2_uvp"] == 0 for one in energy_scores.force_scores(snapshots, own, true))
    for one, tau_square in zip(energy_scores.common_scores(snapshots, own, true), (2.25, 4.0), strict=True):
        start = snapshots.select(t=one.t - TAU, split="test").x
        scale = 100 * TAU**2 / energy_scores.total_variance(start)
        assert one.values["l2_uvp_elsewhere"] == pytest.approx(scale * 3 * tau_square)
        # at half of the rows one step is right, at the others the other one
        assert one.values["l2_uvp_apart"] == pytest.approx(scale * 3 * (2.25 + 4.0) / 4)
        assert one.n == 300
    assert energy_scores.common_scores(snapshots.where(snapshots.t > 1), true, true) == []
