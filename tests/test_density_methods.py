"""Methods that estimate densities: against known laws, in any unit, with weights, at every time, back to a drift."""

import numpy as np
import pytest
import torch

from snapdyn import density_families, density_methods, drifts, fokker_planck, hopfield, methods, systems
from snapdyn.snapshots import Snapshots

NAMES = ["gaussian-mixture", "kde", "hopfield"]
MIXTURE = density_families.GaussianMixture(
    [0.5, 0.3, 0.2],
    np.array([[0.0, 0.0], [4.0, 1.0], [-2.0, 5.0]]),
    np.array([[[1.0, 0.6], [0.6, 1.0]], [[0.3, 0.0], [0.0, 2.0]], [[0.5, -0.2], [-0.2, 0.4]]]),
)


def draws(n, seed=0):
    return MIXTURE.sample(n, torch.Generator().manual_seed(seed)).numpy()


def cloud(x, **more):
    return Snapshots.build(x, meta={"axes": ["x", "y"], "time_unit": "day"}, **more)


def fitted(name, snapshots, **more):
    return methods.fit(name, snapshots, rng=np.random.default_rng(3), **more)


def test_a_mixture_is_found_with_its_number_of_components():
    """The likelihood of fresh draws reaches the entropy within the noise of fitting 17 numbers to 3000 points."""
    model = fitted("gaussian-mixture", cloud(draws(3000)))
    assert model.diagnostics["components"] == 3
    test = draws(20_000, seed=1)
    lost = MIXTURE.log_prob(torch.from_numpy(test)).numpy() - model.log_prob(None, test)
    assert abs(lost.mean()) < 5 * 17 / (2 * 3000)
    fewer = fitted("gaussian-mixture", cloud(draws(3000)), options={"components": 2})
    assert (MIXTURE.log_prob(torch.from_numpy(test)).numpy() - fewer.log_prob(None, test)).mean() > 0.05
    assert fewer.diagnostics["bic"] > model.diagnostics["bic"]


@pytest.mark.parametrize("name", NAMES)
def test_a_column_times_ten_changes_the_density_as_its_unit_says(name):
    x = draws(400)
    plain, tenfold = (fitted(name, cloud(x * [factor, 1.0])) for factor in (1.0, 10.0))
    at = draws(50, seed=2)
    moved = tenfold.log_prob(None, at * [10.0, 1.0])
    np.testing.assert_allclose(moved, plain.log_prob(None, at) - np.log(10), rtol=1e-6, atol=1e-6)
    pull = tenfold.score(None, at * [10.0, 1.0]) * [10.0, 1.0]
    np.testing.assert_allclose(pull, plain.score(None, at), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["gaussian-mixture", "kde"])
def test_weights_count_like_repeated_rows(name):
    x = draws(600)
    weight = np.where(np.arange(600) < 300, 1.0, 3.0)
    options = {"components": 3} if name == "gaussian-mixture" else {"bandwidth": 0.4}
    weighted = fitted(name, cloud(x, weight=weight), options=options)
    repeated = fitted(name, cloud(np.repeat(x, weight.astype(int), axis=0)), options=options)
    ignored = fitted(name, cloud(x), options=options)
    at = draws(100, seed=2)
    target = repeated.log_prob(None, at)
    assert np.abs(weighted.log_prob(None, at) - target).max() < 0.02
    assert np.abs(ignored.log_prob(None, at) - target).max() > 0.1
    gone = fitted(name, cloud(x, weight=np.where(np.arange(600) < 300, 1.0, 0.0)), options=options)
    np.testing.assert_allclose(
        gone.log_prob(None, at), fitted(name, cloud(x[:300]), options=options).log_prob(None, at), rtol=1e-6
    )


def test_em_with_equal_weights_stays_at_the_maximum_of_scikit_learn():
    from sklearn.mixture import GaussianMixture

    x = draws(1500)
    theirs = GaussianMixture(3, random_state=0, tol=1e-9, max_iter=2000).fit(x)
    start = theirs.weights_, theirs.means_ + 0.1, theirs.covariances_
    found = density_methods.weighted_em(torch.from_numpy(x), torch.ones(1500).double(), *start, tolerance=1e-12)
    ours = density_families.GaussianMixture(*found).log_prob(torch.from_numpy(x)).mean()
    assert ours == pytest.approx(theirs.score(x), abs=1e-6)


def test_each_time_is_fitted_alone():
    rng, t = np.random.default_rng(0), np.repeat([0.0, 2.0], 300)
    x = rng.normal(size=(600, 2)) + t[:, None]
    model = fitted("gaussian-mixture", cloud(x, t=t), drift={"library": "affine"}, diffusivity=1.0)
    alone = fitted("gaussian-mixture", cloud(x[300:]))
    assert model.times == [0.0, 2.0] and model.diagnostics["components at t = 2"] == 1
    np.testing.assert_allclose(model.log_prob(2.0, x), alone.log_prob(None, x), atol=1e-9)
    assert len(model.parameters) == 0  # nothing is at rest


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.zeros((3, 2)), "more than 3 training rows, got 3"),
        (np.stack([np.arange(9.0), np.ones(9)], 1), r"the axes \['y'\] have no spread"),
    ],
)
def test_data_without_a_density_are_refused(x, said):
    with pytest.raises(ValueError, match=said):
        fitted("kde", cloud(x))


# The round trip: a density, and what its drift must have been

OU = systems.build("ornstein-uhlenbeck", diffusivity=0.7, rate=1.3, coupling=0.3, rotation=0.6)
GAUSSIAN = density_families.GaussianMixture([1.0], np.zeros((1, 2)), OU.covariance.numpy()[None])


def method(drift=OU.terms, diffusivity=0.7):
    return density_methods.DensityMethod(axes=["x0", "x1"], drift=drift, diffusivity=diffusivity)


def test_an_exact_density_gives_the_drift_back():
    found, said = method().round_trip(GAUSSIAN, np.random.default_rng(0))
    np.testing.assert_allclose(found["estimate"], OU.truth, atol=1e-8)
    assert found["name"].tolist() == list(OU.parameters) and found["std_error"].isna().all()
    assert said["round_trip_probes"] == density_methods.PROBES and said["round_trip_residual"] < 1e-8


def test_a_score_of_the_wrong_sign_gives_another():
    class Turned:
        components = 1

        def sample(self, n, generator):
            return GAUSSIAN.sample(n, generator)

        def derivatives(self, x):
            log_prob, score, divergence = GAUSSIAN.derivatives(x)
            return log_prob, -score, -divergence

    found, _ = method().round_trip(Turned(), np.random.default_rng(0))
    assert np.abs(found["estimate"] - OU.truth.numpy()).max() > 0.5


def test_a_wrong_diffusivity_scales_what_it_should():
    """A pure gradient drift is known up to its ratio to D."""
    still = systems.build("ornstein-uhlenbeck", diffusivity=0.7, rotation=0.0)
    gaussian = density_families.GaussianMixture([1.0], np.zeros((1, 2)), still.covariance.numpy()[None])
    found, _ = method(still.terms, 1.4).round_trip(gaussian, np.random.default_rng(0))
    np.testing.assert_allclose(found["estimate"], 2 * still.truth, atol=1e-8)


def test_a_few_stray_draws_do_not_decide():
    """One draw in a thousand from a wrong lump far out: the least squares are off, the least mean size is not."""
    covariance = OU.covariance.numpy()
    strays = density_families.GaussianMixture(
        [0.999, 0.001], np.array([[0.0, 0.0], [25.0, 10.0]]), np.stack([covariance, covariance / 100])
    )
    found, _ = method().round_trip(strays, np.random.default_rng(0))
    np.testing.assert_allclose(found["estimate"], OU.truth, rtol=0.02, atol=0.02)
    design, rest = density_methods.self_consistency(strays, OU.terms, 0.7, rng=np.random.default_rng(0))
    squares = fokker_planck.least_squares(design, rest).numpy()
    assert np.abs(squares - OU.truth.numpy()).max() > 0.1


def test_what_a_density_cannot_tell_is_not_given(caplog):
    """A whole matrix holds a turn along the level sets, of which a cloud at rest shows nothing."""
    affine = drifts.build({"library": "affine"}, axes=["x0", "x1"])
    found, said = method(affine).round_trip(GAUSSIAN, np.random.default_rng(0))
    assert found is None and said["round_trip_rank"] == 5
    assert "determines only 5 of the 6 unknown coefficients" in caplog.text


@pytest.mark.parametrize("known", [{"drift": None}, {"diffusivity": None}, {"diffusivity": "unknown"}])
def test_without_a_drift_and_a_number_there_is_no_round_trip(known):
    assert method(**({"drift": OU.terms, "diffusivity": 0.7} | known)).round_trip(GAUSSIAN, None) == (None, {})


def test_the_methods_make_the_round_trip(rng):
    data = Snapshots.build(OU.sample(4000, rng), meta={"axes": ["x0", "x1"]})
    spec = {"library": "ornstein-uhlenbeck", "parameters": {"rotation": 0.6}}
    model = fitted("gaussian-mixture", data, drift=spec, diffusivity=0.7, options={"components": 1})
    np.testing.assert_allclose(model.parameters["estimate"], OU.truth, atol=0.15)


# What the others are told


class Noted(density_methods.DensityMethod):
    def estimate(self, x, weight, *, rng, device, precision, keep, progress):
        with progress(1, "nothing") as bar:
            bar.update()
        self.calls = [*getattr(self, "calls", []), (len(x), weight.mean(), device, precision, rng.integers(1000))]
        history = {"member": [0], "step": [0], "term": ["loss"], "value": [1.0]}
        return GAUSSIAN, {"size": len(x)}, history


def test_an_estimate_gets_its_rows_weights_and_surroundings():
    x, t = draws(50), np.repeat([0.0, 1.0], 25)
    weight = np.where(np.arange(50) % 5, 2.0, 0.0)
    noted = Noted(axes=["x", "y"])
    model = noted.fit(cloud(x, t=t, weight=weight), rng=np.random.default_rng(0), device="cuda", precision="float32")
    (one, two) = noted.calls
    assert one[:4] == two[:4] == (20, 1.0, "cuda", "float32") and one[4] != two[4]
    assert model.history["term"] == ["loss at t = 0", "loss at t = 1"]
    assert model.diagnostics == {"size at t = 0": 20.0, "size at t = 1": 20.0}


# Hopfield


def test_the_energy_of_a_hopfield_density_is_that_of_its_network():
    x = draws(300)
    patterns, centre, scale, beta = x[:20], x.mean(0), x.std(0), 3.0
    density = hopfield.mixture(patterns, beta, centre, scale)
    assert hopfield.energy_gap(density, x, patterns, beta, centre, scale) < 1e-10
    assert hopfield.energy_gap(density, x, patterns, 2 * beta, centre, scale) > 0.1
    model = fitted("hopfield", cloud(x), options={"patterns": 30})
    assert model.diagnostics["components"] == 30 and model.diagnostics["energy_gap"] < 1e-10


def test_a_hopfield_network_finds_a_temperature_for_its_patterns():
    x = draws(400)
    chosen = fitted("hopfield", cloud(x))
    likely = [chosen.log_prob(None, draws(1000, seed=1)).mean()]
    for beta in (0.05, 30.0):
        other = fitted("hopfield", cloud(x), options={"inverse_temperature": beta})
        likely.append(other.log_prob(None, draws(1000, seed=1)).mean())
    assert likely[0] > max(likely[1:]) + 0.1
