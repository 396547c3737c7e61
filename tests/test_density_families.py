"""Densities in closed form: log-density, score, divergence, samples, and the way into a file and back."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KernelDensity as Reference

from snapdyn import density_families, density_models

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(60, 3)) * [1.0, 3.0, 0.5]
ROOTS = RNG.normal(size=(4, 3, 3))
WEIGHT = RNG.uniform(0.2, 3.0, 60)
MADE = {
    "mixture": density_families.GaussianMixture(
        [1.0, 2.0, 0.5, 0.5], RNG.normal(size=(4, 3)), ROOTS @ ROOTS.transpose(0, 2, 1) + 0.3 * np.eye(3)
    ),
    "kernels": density_families.KernelDensity(POINTS, [0.4, 1.1, 0.2]),
    "weighted kernels": density_families.KernelDensity(POINTS, [0.4, 1.1, 0.2], WEIGHT),
}


@pytest.fixture(params=MADE)
def density(request):
    return MADE[request.param]


def by_hand(density, x):
    """log p written out, for automatic differentiation."""
    if isinstance(density, density_families.GaussianMixture):
        parts = torch.distributions.MultivariateNormal(density.means, covariance_matrix=density.covariances)
        weights = density.weights
    else:
        spread = torch.diag(density.bandwidth**2).expand(len(density.points), -1, -1)
        parts = torch.distributions.MultivariateNormal(density.points, covariance_matrix=spread)
        weights = torch.ones(len(density.points)).double() if density.weights is None else density.weights
    return (parts.log_prob(x[:, None]) + (weights / weights.sum()).log()).logsumexp(1)


def test_derivatives_are_those_of_the_formula(density):
    x = torch.from_numpy(RNG.normal(size=(25, 3))).requires_grad_()
    value = by_hand(density, x)
    (score,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    bends = [torch.autograd.grad(score[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(3)]
    found = density.derivatives(x.detach())
    for one, two in zip(found, (value, score, sum(bends)), strict=True):
        torch.testing.assert_close(one, two.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(density.log_prob(x.detach()), found[0], rtol=1e-12, atol=1e-12)
    (gradient,) = torch.autograd.grad(density.log_prob(x).sum(), x)
    torch.testing.assert_close(gradient, found[1], rtol=1e-9, atol=1e-9)


def test_draws_follow_the_density(density):
    """The mean energy of draws is the entropy, whatever draws them: beside importance weights of a wide Gaussian."""
    x = density.sample(40_000, torch.Generator().manual_seed(1))
    assert x.shape == (40_000, 3) and x.dtype == torch.float64
    wide = torch.distributions.MultivariateNormal(x.mean(0), covariance_matrix=2 * x.T.cov())
    y = wide.sample((40_000,))
    ratio = (density.log_prob(y) - wide.log_prob(y)).exp()
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / 200
    drawn, weighted = density.log_prob(x), ratio * density.log_prob(y)
    error = (drawn.var() + weighted.var()).sqrt() / 200
    assert abs(drawn.mean() - weighted.mean()) < 5 * error
    assert abs(density.log_prob(1.3 * x).mean() - weighted.mean()) > 5 * error


def test_a_density_comes_back_from_its_state(density):
    x = torch.from_numpy(RNG.normal(size=(9, 3)))
    back = density_models.loaded_density(density_models.saved_density(density))
    assert type(back) is type(density) and torch.equal(back.log_prob(x), density.log_prob(x))
    one, two = (each.sample(5, torch.Generator().manual_seed(2)) for each in (back, density))
    assert torch.equal(one, two)


def test_kernels_agree_with_scikit_learn():
    x = RNG.normal(size=(40, 3))
    theirs = Reference(bandwidth=0.7, kernel="gaussian").fit(POINTS, sample_weight=WEIGHT).score_samples(x)
    ours = density_families.KernelDensity(POINTS, 0.7, WEIGHT).log_prob(torch.from_numpy(x))
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)


def test_points_far_away_keep_a_finite_log_density(density):
    assert torch.isfinite(torch.stack(density.derivatives(torch.full((1, 3), 300.0).double())[::2])).all()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"weights \(2,\) and covariances \(2, 3, 3\), got"):
        density_families.GaussianMixture([1.0], np.zeros((2, 3)), np.eye(3)[None])
