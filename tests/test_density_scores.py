"""Scores of densities: against laws in closed form, and what a wrong density scores."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from snapdyn import densities, density_families, density_models, density_scores, forecasts, simulate, systems, verdict
from snapdyn.config import Fit
from snapdyn.snapshots import Snapshots

OU = {"system": "ornstein-uhlenbeck", "diffusivity": 1.0}
SYSTEM = systems.build("ornstein-uhlenbeck", diffusivity=1.0)
FIT = Fit("p", "e", "density", "d", "kde", 2, {}, {"library": "ornstein-uhlenbeck", "parameters": {}}, 1.0)


def gaussian(covariance, mean=(0.0, 0.0)):
    family = density_families.GaussianMixture([1.0], np.array([mean]), np.asarray(covariance)[None])
    return density_models.DensityModel([family], axes=["x0", "x1"])


EXACT = gaussian(SYSTEM.covariance.numpy())


@pytest.fixture(scope="module")
def cells():
    spec = {"system": "ornstein-uhlenbeck", "options": {}, "recipe": {}}
    return [simulate.system_snapshots(SYSTEM, 1000, dataset="d", seed=seed, spec=spec, train=0.6) for seed in range(2)]


def law(cells):
    return density_scores.law_of(cells[0])


def test_the_law_of_simulated_data_is_the_systems(cells):
    found, x = law(cells), np.random.default_rng(0).normal(size=(9, 2))
    np.testing.assert_allclose(found.log_prob(x), EXACT.log_prob(None, x), rtol=1e-12)
    np.testing.assert_allclose(found.score(x), EXACT.score(None, x), rtol=1e-12)
    assert density_scores.law_of(Snapshots.build(x, meta={})) is None


def test_the_exact_density_scores_as_it_should(cells):
    grid = density_scores.Grid.of(law(cells))
    values = density_scores.grid_scores(EXACT, grid)
    assert values["tv"] < 1e-5 and abs(values["kl"]) < 1e-9 and values["mass"] == pytest.approx(1, abs=1e-5)
    assert density_scores.score_error(EXACT, law(cells), SYSTEM.sample(500, np.random.default_rng(0))) < 1e-12
    ((t, total),) = density_scores.integrals(EXACT, np.random.default_rng(0), SYSTEM.box)
    assert np.isnan(t) and total == pytest.approx(1, abs=1e-5)


def test_a_wrong_density_scores_what_theory_says():
    """Two Gaussians a distance m apart: TV = 2 Phi(m/2) - 1, KL = m^2/2; one wider by r: a score off by 1 - 1/r^2."""
    box = ((-9.0, 9.0), (-9.0, 9.0))
    normal = gaussian(np.eye(2))
    about = density_scores.Law(
        lambda x: normal.log_prob(None, x), lambda x: normal.score(None, x), None, SimpleNamespace(box=box)
    )
    moved = density_scores.grid_scores(gaussian(np.eye(2), (1.5, 0.0)), density_scores.Grid.of(about))
    assert moved["tv"] == pytest.approx(2 * norm.cdf(0.75) - 1, abs=1e-4)
    assert moved["kl"] == pytest.approx(1.5**2 / 2, rel=1e-6)
    x = np.random.default_rng(0).normal(size=(100, 2))
    assert density_scores.score_error(gaussian(4 * np.eye(2)), about, x) == pytest.approx(0.75)


def test_what_lies_outside_of_the_box_counts():
    normal, box = gaussian(np.eye(2)), ((-6.0, 6.0), (-6.0, 6.0))
    about = density_scores.Law(lambda x: normal.log_prob(None, x), None, None, SimpleNamespace(box=box))
    gone = density_scores.grid_scores(gaussian(np.eye(2), (40.0, 0.0)), density_scores.Grid.of(about))
    assert gone["mass"] < 1e-9 and gone["tv"] == pytest.approx(1, abs=1e-6)


def evaluated(models, cells, fit=FIT):
    rng = np.random.default_rng(0)
    drawn = [forecasts.draw(model, cell, rng) for model, cell in zip(models, cells, strict=True)]
    return density_scores.evaluate(fit, cells=cells, drawn=drawn, fitted=models, rng=rng)


def test_everything_is_scored_for_every_seed(cells):
    frame, answer = evaluated([EXACT, EXACT], cells)
    mean = frame.pivot_table(index="method", columns=["metric", "seed"], values="value")
    for seed in (0, 1):
        test = cells[seed].select(split="test")
        exact = -SYSTEM.log_prob(0.0, torch.from_numpy(test.x)).mean().item()
        assert mean.loc["kde", ("nll", seed)] == mean.loc["truth", ("nll", seed)] == pytest.approx(exact)
        assert 0 < mean.loc["one-gaussian", ("nll", seed)] - exact < 0.02
    assert {"tv", "kl", "mass", "integral", "score_rms_error", "nll"} == set(frame["metric"])
    assert set(frame.loc[frame["metric"] == "nll", "unit"]) == {"nat"}
    assert answer["verdict"] == "no" and answer["null"] == "one Gaussian" and answer["n_seeds"] == 2


def test_data_without_a_law_get_distances_beside_their_floor():
    rng, t = np.random.default_rng(0), np.repeat([0.0, 1.0], 200)
    split = np.resize(np.array(["train", "test"], dtype=object), 400)
    meta = {"seed": 0, "dataset": "d", "axes": ["x0", "x1"], "space": "PC"}
    cell = Snapshots.build(rng.normal(size=(400, 2)) + 3 * t[:, None], t=t, split=split, meta=meta)
    families = [density_families.GaussianMixture([1.0], np.full((1, 2), 3 * s), np.eye(2)[None]) for s in (0.0, 1.0)]
    right, wrong = (
        density_models.DensityModel(order, times=[0.0, 1.0], axes=["x0", "x1"]) for order in (families, families[::-1])
    )
    found = {}
    for name, model in (("right", right), ("wrong", wrong)):
        frame, answer = evaluated([model], [cell])
        assert "tv" not in set(frame["metric"]) and set(frame["method"]) == {"kde", "one-gaussian"}
        assert answer["null"] == "one Gaussian at each time"
        assert (frame["metric"] == "nll").sum() == 6 and frame.loc[frame["metric"] == "nll", "t"].isna().sum() == 2
        found[name] = frame[frame["t"].isna()].set_index("metric")["value"]
    assert found["right"]["w1_samples"] < 2 * found["right"]["w1_floor"] < 0.5 * found["wrong"]["w1_samples"]


def test_coefficients_that_a_density_gives_are_compared_with_the_truth(cells):
    parameters = density_models.parameter_table(["s00", "s11"], [1.1, 0.8], [np.nan] * 2, ["1"] * 2)
    families = EXACT.densities
    model = density_models.DensityModel(families, axes=["x0", "x1"], parameters=parameters, diagnostics={"bic": 2.0})
    frame = evaluated([model, model], cells)[0].query("seed == 1").set_index("metric")["value"]
    assert frame["relative_error_s00"] == pytest.approx(0.1) and frame["relative_error_s11"] == pytest.approx(-0.2)
    assert frame["bic"] == 2.0 and "relative_error_s01" not in frame


def test_a_density_that_is_zero_where_there_are_cells_is_an_error(cells):
    class Nowhere(density_models.DensityModel):
        def log_prob(self, t, x):
            return np.where(x[:, 0] > 0, -np.inf, 0.0)

    with pytest.raises(ValueError, match=r"kde: the density is zero or not finite at \d+ of 400 held-out rows"):
        evaluated([Nowhere(EXACT.densities, axes=["x0", "x1"])] * 2, cells)


@pytest.mark.parametrize("name", ["hopf", "double-well", "ornstein-uhlenbeck", "nine-clusters"])
def test_the_box_of_a_system_holds_its_law(name):
    system = systems.build(name, diffusivity=0.1)
    points, area = density_scores.middles(system.box, 300)
    assert system.log_prob(0.0, torch.from_numpy(points)).exp().sum() * area == pytest.approx(1, abs=1e-5)
    assert systems.build("ornstein-uhlenbeck", dim=3).box is None and systems.build("lorenz").box is None


def test_a_law_without_a_closed_form_comes_from_a_grid():
    meta = {"system": {"system": "van-der-pol", "diffusivity": 0.1, "options": {}}}
    found = density_scores.law_of(Snapshots.build(np.zeros((2, 2)), meta=meta))
    points, area = density_scores.middles(found.box, 100)
    assert np.exp(found.log_prob(points)).sum() * area == pytest.approx(1, abs=2e-3)
    x = found.sample(2000, np.random.default_rng(0))
    system, x = systems.build("van-der-pol", diffusivity=0.1), torch.from_numpy(x)
    # at rest: E[f . grad phi + D Laplacian phi] = 0 for phi = x y and y^2
    f = system.drift(0.0, x)
    weak = torch.stack([f[:, 0] * x[:, 1] + f[:, 1] * x[:, 0], 2 * f[:, 1] * x[:, 1] + 0.2], 1)
    assert (weak.mean(0).abs() < 4 * weak.std(0) / 2000**0.5).all()
    assert found.log_prob(np.array([[99.0, 0.0]]))[0] == density_scores.LEAST


def flow(centroids, width):
    mixture = densities.MixtureFlow.from_mixture(
        centroids, width**2 * torch.eye(2).double(), torch.zeros(len(centroids))
    )
    return density_models.DensityModel([mixture], axes=["x", "y"])


def test_clusters_and_ridges_of_the_exact_mixture_are_found():
    system = systems.build("nine-clusters", diffusivity=1.0)
    spec = {"system": "nine-clusters", "options": {}, "recipe": {}}
    cells = [simulate.system_snapshots(system, 1200, dataset="d", seed=0, spec=spec, train=0.5)]
    fit = Fit("p", "e", "density", "d", "linear-mixture", 1, {}, None, 1.0)
    frame = evaluated([flow(system.nodes, system.width)], cells, fit)[0].set_index("metric")
    found = frame["value"]
    assert found["adjusted_rand"] > 0.99 and found["images"] == 9 and found["temperature"] > 1
    assert found["denoising_factor"] > 2
    assert found["ridge_distance_after"] < found["ridge_distance_before"] < 2 * system.width
    assert found["tv"] < 1e-3 and found["score_rms_error"] < 1e-6
    assert frame.loc["ridge_distance_after", "unit"] == cells[0].meta["space"]
    blurred = density_scores.clusters(flow(torch.zeros(2, 2).double(), 2.0), system, cells[0].x[:300])
    assert blurred["adjusted_rand"] == 0 and blurred["images"] == 1 and "temperature" not in blurred
    assert blurred["denoising_factor"] < 1


# The verdict


def gain(model, null, *, n=400, seeds=3, times=None, spread=0.1, **options):
    rng = np.random.default_rng(0)
    rows, shared = [np.arange(n)] * seeds, rng.normal(size=n)
    t = [np.full(n, np.nan)] * seeds if times is None else [np.resize(times, n)] * seeds
    losses = [[mean + 0.3 * shared + spread * rng.normal(size=n) for _ in range(seeds)] for mean in (model, null)]
    weights = [np.ones(n)] * seeds
    return verdict.likelihood_gain(*losses, rows=rows, times=t, weights=weights, rng=rng, replicates=400, **options)


@pytest.mark.parametrize("offset", [0.0, -50.0])  # the unit of the axes moves all likelihoods alike
@pytest.mark.parametrize(("model", "answer"), [(1.0, "yes"), (2.0, "no"), (2.5, "no")])
def test_the_gain_over_one_gaussian(model, answer, offset):
    found = gain(model + offset, 2.0 + offset)
    assert found["verdict"] == answer and found["gain"] == pytest.approx(2.0 - model, abs=0.02)
    assert found["margin"] == verdict.LIKELIHOOD_MARGIN and found["null"] == "one Gaussian"
    assert found["n_cells"] == 400 and "held-out negative log-likelihood (nats)" in found["sentence"]


def test_few_cells_cannot_tell():
    assert gain(2.0, 2.0, n=12, seeds=1, spread=2.0)["verdict"] == "cannot tell"


def test_times_count_equally_however_many_cells_they_have():
    t = np.array([0.0] * 90 + [1.0] * 10)
    loss = np.where(t == 0, 1.0, 3.0)
    found = verdict.likelihood_gain(
        [loss], [loss + 1], rows=[np.arange(100)], times=[t], weights=[np.ones(100)], rng=np.random.default_rng(0)
    )
    assert found["model_score"] == pytest.approx(2.0) and found["null"] == "one Gaussian at each time"
    assert found["low"] == pytest.approx(1.0)  # the same gain at every cell
