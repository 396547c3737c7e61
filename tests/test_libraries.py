"""A law that nobody told: a cubic oscillator from 40,000 unordered points and a library of twenty terms."""

import numpy as np
import pytest
import torch

from snapdyn import methods, simulate
from snapdyn.snapshots import Snapshots

LAW = {"x: y": 1.0, "y: x": -1.0, "y: y": 1.0, "y: x^2 y": -1.0}  # van der Pol
DIFFUSIVITY = 0.2
CUBIC = {"library": "polynomial", "degree": 3}


def oscillator(x, out):
    torch.mul(x[1], 1.0, out=out[0])
    torch.addcmul(-x[0] + x[1], x[0].square(), x[1], value=-1.0, out=out[1])


@pytest.fixture(scope="module")
def cloud():
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(2, 40000, generator=generator, dtype=torch.float64)
    simulate.integrate(oscillator, x, steps=4000, dt=5e-3, diffusivity=DIFFUSIVITY, generator=generator, scheme="heun")
    return Snapshots.build(x.T.numpy().copy(), meta={"axes": ["x", "y"]})


def found(method, cloud, **known):
    rng = np.random.default_rng(0)
    return methods.fit(method, cloud, rng=rng, **({"drift": CUBIC, "diffusivity": DIFFUSIVITY} | known))


def test_all_twenty_coefficients_lie_within_their_intervals(cloud):
    model = found("moments", cloud)
    truth = np.array([LAW.get(name, 0.0) for name in model.drift_terms.names])
    z = (model.coefficients - truth) / model.std_error
    assert np.abs(z).max() < 3.5 and np.abs(z).mean() < 1.3
    assert model.std_error.max() < 0.1
    assert model.diagnostics["j_p_value"] > 0.01 and model.diagnostics["cross_fitted"] == 1.0


def test_elimination_leaves_the_law(cloud):
    model = found("moments-sparse", cloud.where(np.arange(15000)))
    kept = {name for name, error in zip(model.drift_terms.names, model.std_error, strict=True) if np.isfinite(error)}
    assert kept == set(LAW)
    assert model.diagnostics["j_rise_p_value"] > 0.001


def test_a_library_without_the_cubic_term_is_rejected(cloud):
    """Power: the law is not in this library."""
    linear = {"library": "custom", "known": ["y", "0"], "terms": {"a": ["0", "x"], "b": ["0", "y"]}}
    model = found("moments", cloud, drift=linear, options={"degree": 4})
    assert model.diagnostics["j_p_value"] < 1e-6


def test_a_known_part_gives_the_diffusivity_too(cloud):
    drift = {
        "library": "custom",
        "known": ["y", "0"],
        "terms": {"a": ["0", "x"], "b": ["0", "y"], "c": ["0", "x^2*y"]},
    }
    # the law has tails like |x|^(-1/D): bounded test functions, since high powers have no moments
    model = found("moments", cloud, drift=drift, diffusivity="unknown", options={"tests": "gaussians"})
    assert abs(model.diffusivity - DIFFUSIVITY) < 3.5 * model.diffusivity_error < 0.05
    assert (np.abs(model.coefficients - [-1, 1, -1]) < 3.5 * model.std_error).all()
