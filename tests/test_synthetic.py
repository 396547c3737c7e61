"""The synthetic time course: its law is what it says, and its truth is true of the counts themselves."""

import json

import numpy as np
import pytest

from snapdyn import artifacts, preprocess, synthetic

EMBEDDING = {"n_pcs": 3, "n_top_genes": None, "min_genes": 20}


@pytest.fixture(scope="module")
def course():
    return synthetic.count_course(seed=1)


@pytest.fixture(scope="module")
def cloud(course):
    return synthetic.course_snapshots(course["options"], dataset="course", seed=0, **EMBEDDING)


def test_the_drift_and_its_stable_fates():
    law = synthetic.Law()
    far = np.array([[50.0, 1.0], [50.0, -1.0], [50.0, 0.0], [-50.0, 0.0]])
    np.testing.assert_allclose(law.drift(far), [[law.rate, 0]] * 4, atol=1e-12)  # fixed points of the fork
    assert law.drift(np.array([[50.0, 0.1]]))[0, 1] > 0 > law.drift(np.array([[-50.0, 0.1]]))[0, 1]


def test_progress_has_its_exact_moments(rng):
    law = synthetic.Law(diffusivity=0.1)
    z = law.advance(np.zeros((40_000, 2)), 2.0, rng, step=0.05)
    assert z[:, 0].mean() == pytest.approx(2 * law.rate, abs=4 * np.sqrt(0.4 / 40_000))
    assert z[:, 0].var() == pytest.approx(2 * 0.1 * 2.0, rel=4 * np.sqrt(2 / 40_000))


def test_fate_settles_at_its_linearised_spread(rng):
    law = synthetic.Law(rate=0.0, diffusivity=0.002)
    z = law.advance(np.tile([50.0, 1.0], (4000, 1)), 5.0, rng)[:, 1]
    assert z.mean() == pytest.approx(1.0, abs=0.01)
    assert z.var() == pytest.approx(law.diffusivity / (2 * law.growth), rel=0.1)  # OU of rate 2 growth


def test_cells_branch_and_every_snapshot_has_its_own(course):
    fate = {t: course["latent"][course["t"] == t, 1] for t in synthetic.TIMES}
    assert np.abs(fate[0.0]).max() < 0.6
    assert (fate[5.0] > 0.7).mean() > 0.3 and (fate[5.0] < -0.7).mean() > 0.3
    assert len(np.unique(course["latent"], axis=0)) == 750


def test_counts_are_negative_binomial_around_their_library(rng):
    law = synthetic.Law(depth_spread=0.0)
    programmes = synthetic.gene_programmes(50, 0)
    counts = synthetic._draw_counts(np.zeros((20_000, 2)), law, programmes, rng)
    share = np.exp(programmes[0]) / np.exp(programmes[0]).sum()
    mean = law.depth * share
    variance = mean + law.dispersion * mean**2
    np.testing.assert_allclose(counts.mean(axis=0), mean, atol=5 * np.sqrt(variance.max() / 20_000))
    np.testing.assert_allclose(counts.var(axis=0), variance, rtol=0.15)
    assert np.abs(counts.var(axis=0) / mean - 1).min() > 0.5  # power: not Poisson


def test_the_options_make_the_same_course_again(course):
    again = synthetic.count_course(**json.loads(json.dumps(course["options"])))
    assert (again["counts"] != course["counts"]).nnz == 0
    np.testing.assert_array_equal(again["latent"], course["latent"])
    other = synthetic.count_course(seed=2)
    assert (other["counts"] != course["counts"]).nnz > 0
    same_genes = [synthetic.gene_programmes(c["options"]["n_genes"], 0)[0] for c in (course, other)]
    np.testing.assert_array_equal(*same_genes)


def test_the_leading_components_show_progress_and_fate(course, cloud):
    seen = np.corrcoef(np.column_stack([course["latent"][cloud.row], cloud.x]).T)[:2, 2:]
    assert abs(seen[0, 0]) > 0.95
    assert abs(seen[1, 1:]).max() > 0.9
    assert cloud.meta["system"]["options"] == course["options"]
    assert (cloud.meta["time_unit"], len(cloud), cloud.dim) == ("day", 750, 3)
    assert not any("mass" in note for note in cloud.meta["notes"])


def test_the_expected_position_is_the_mean_of_fresh_measurements(course, cloud, rng):
    rows = cloud.row[cloud.split == "test"][::45]
    affine, repeats = cloud.meta["affine"], 500
    drawn = synthetic.true_forecast(course, affine, np.repeat(rows, repeats), 0.0, rng)
    drawn = drawn.reshape(len(rows), repeats, -1)
    error = drawn.std(axis=1) / np.sqrt(repeats)
    z = course["latent"][rows]
    off = (drawn.mean(axis=1) - synthetic._expected_positions(z, course, affine)) / error
    assert np.sqrt((off**2).mean()) < 2
    mean_counts = 4000 * synthetic._shares(z, course["law"], synthetic._programmes(course))
    naive = preprocess.embed_with(mean_counts, course["genes"], affine)  # power: the logarithm bends
    assert np.sqrt((((drawn.mean(axis=1) - naive) / error) ** 2).mean()) > 3


def test_the_true_drift_is_the_rate_of_the_mean_forecast(course, cloud, rng):
    rows = cloud.row[cloud.split == "test"][::45]
    affine, repeats, dt = cloud.meta["affine"], 1500, 0.1
    drift = synthetic.true_drift(course, affine, rows)
    many = np.repeat(rows, repeats)
    later, now = (synthetic.true_forecast(course, affine, many, d, rng) for d in (dt, 0.0))
    rate = (later - now).reshape(len(rows), repeats, -1).mean(axis=1) / dt
    slope = (rate * drift).sum() / (drift**2).sum()
    assert slope == pytest.approx(1.0, abs=0.05)
    assert ((rate * -drift).sum() / (drift**2).sum()) < -0.9  # power: its reverse is refused


def test_the_differences_have_converged(course, cloud):
    rows = cloud.row[::50]
    coarse, fine = (synthetic.true_drift(course, cloud.meta["affine"], rows, step=s) for s in (0.02, 0.005))
    np.testing.assert_allclose(coarse, fine, atol=2e-3 * np.abs(fine).max())


def test_the_oracle_forecast_lands_on_the_next_snapshot(course, cloud, rng):
    now, ahead = cloud.select(t=2.0), cloud.select(t=3.0)
    predicted = synthetic.true_forecast(course, cloud.meta["affine"], now.row, 1.0, rng)
    gap = np.linalg.norm(predicted.mean(axis=0) - ahead.x.mean(axis=0))
    still = np.linalg.norm(now.x.mean(axis=0) - ahead.x.mean(axis=0))
    assert gap < 0.2 * still
    np.testing.assert_allclose(predicted.std(axis=0), ahead.x.std(axis=0), rtol=0.25)


def test_a_course_with_its_truth_is_ready_to_be_written(course, tmp_path):
    def make(seed):
        rng = np.random.default_rng(seed)
        return synthetic.course_with_truth(course["options"], dataset="c", seed=0, rng=rng, **EMBEDDING)

    cells, truth, forecast = make(5)
    artifacts.write(cells.frame(), tmp_path / "cells.parquet", "snapshots/1", cells.meta)
    artifacts.write(truth, tmp_path / "truth.parquet", "field/1", cells.meta)
    artifacts.write(forecast.frame(), tmp_path / "forecast.parquet", "snapshots/1", forecast.meta)
    held_out = cells.select(split="test")
    np.testing.assert_array_equal(truth["x0"], held_out.x[:, 0])
    drift = synthetic.true_drift(course, cells.meta["affine"], held_out.row)
    np.testing.assert_array_equal(truth[["velocity0", "velocity1", "velocity2"]], drift)
    for now, then in zip(cells.times[:-1], cells.times[1:], strict=True):
        np.testing.assert_array_equal(forecast.select(t=then).row, cells.select(split="test", t=now).row)
    np.testing.assert_array_equal(make(5)[2].x, forecast.x)
    assert (make(6)[2].x != forecast.x).any()


def test_refuses_what_is_no_course_all_at_once():
    with pytest.raises(ValueError) as error:
        synthetic.count_course(times=[0, 2, 1], cells_per_time=[5, 1], n_genes=2)
    assert "at least two increasing times, got [0.0, 2.0, 1.0]" in str(error.value)
    assert "2 or more cells for each of 3 times, got [5, 1]" in str(error.value)
    assert "at least 3 genes, got 2" in str(error.value)
