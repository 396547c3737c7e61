"""Stationary densities on a grid against closed forms: order of convergence, positivity, draws, refusals."""

import numpy as np
import pytest
import torch

from snapdyn import grid_density, systems

HOPF = systems.build("hopf", diffusivity=0.1)
LINEAR = systems.build("ornstein-uhlenbeck", diffusivity=0.5, rotation=1.0)
BOX = ((-2.0, 2.0), (-2.0, 2.0))


def total_variation(found, system):
    exact = system.log_prob(None, torch.from_numpy(found.points)).exp().numpy()
    return 0.5 * np.abs(found.density.ravel() - exact).sum() * found.area


@pytest.mark.parametrize(("system", "box"), [(HOPF, BOX), (LINEAR, ((-5, 5), (-4.5, 4.5)))])
def test_the_error_falls_as_the_square_of_a_cell(system, box):
    errors = [total_variation(grid_density.solve(system, box, cells=cells), system) for cells in (40, 80, 160)]
    assert 3.6 < errors[0] / errors[1] < 4.4 and 3.6 < errors[1] / errors[2] < 4.4
    assert errors[2] < 1e-3
    twice = systems.build("hopf", diffusivity=0.2)
    assert total_variation(grid_density.solve(HOPF, BOX, cells=80), twice) > 0.1


def test_no_cell_is_negative_and_the_smallest_are_right():
    """A grid so coarse that central differences would oscillate, and densities down to e^-380."""
    coarse = grid_density.stationary(lambda x: 40 * HOPF.drift(None, x), 0.1, BOX, cells=30)
    assert (coarse.density >= 0).all() and coarse.density.sum() * coarse.area == pytest.approx(1, rel=1e-12)
    far = grid_density.solve(HOPF, ((-3, 3), (-3, 3)), cells=300)
    exact = HOPF.log_prob(None, torch.from_numpy(far.points)).numpy().reshape(300, 300)
    inner = (slice(20, -20),) * 2
    assert exact[inner].min() < -80
    assert (np.abs(np.log(far.density) - exact) < 0.02 * np.abs(exact) + 0.05)[inner].all()


def test_between_the_cells_log_prob_and_score_are_smooth():
    found = grid_density.solve(HOPF, BOX, cells=(160, 120))
    assert found.density.shape == (160, 120)
    x = HOPF.sample(500, np.random.default_rng(0))
    exact = torch.from_numpy(x)
    assert np.abs(found.log_prob(x) - HOPF.log_prob(None, exact).numpy()).max() < 0.05
    score = HOPF.score(None, exact).numpy()
    assert np.sqrt(np.square(found.score(x) - score).sum() / np.square(score).sum()) < 0.01
    slope = (found.log_prob(x + [1e-5, 0]) - found.log_prob(x - [1e-5, 0])) / 2e-5
    np.testing.assert_allclose(found.score(x)[:, 0], slope, atol=1e-4)
    outside = np.array([[2.1, 0.0]])
    assert found.log_prob(outside) == -np.inf and np.isnan(found.score(outside)).all()


def test_draws_have_the_moments_of_the_density():
    found = grid_density.solve(LINEAR, ((-5, 5), (-4.5, 4.5)), cells=100)
    x = found.sample(40_000, np.random.default_rng(1))
    exact = LINEAR.covariance.numpy()
    np.testing.assert_allclose(np.cov(x.T), exact, atol=0.02)
    assert np.abs(x.mean(0)).max() < 5 * np.sqrt(exact.max() / 40_000)


def test_the_exchange_of_two_cells():
    """B(P) = P / (e^P - 1): 1 - P/2 near zero, upwind far out, and B(-P) - B(P) = P throughout."""
    peclet = np.array([-800.0, -3.0, -1e-7, 0.0, 1e-7, 3.0, 800.0])
    forth, back = grid_density._exchange(peclet)
    np.testing.assert_allclose(forth - back, peclet, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(back[1:6], [3 / (1 - np.exp(-3)), 1 + 5e-8, 1, 1 - 5e-8, 3 / np.expm1(3)], rtol=1e-9)
    assert (forth >= 0).all() and (back >= 0).all() and np.isfinite(forth).all()


@pytest.mark.parametrize(
    ("drift", "diffusivity", "box", "said"),
    [
        (lambda x: -x, 0.5, ((-1, 1), (-1, 1)), "at the walls of the box"),
        (lambda x: -x / x[:, :1].clamp_min(0), 0.5, ((-5, 5), (-5, 5)), "not finite at"),
        (lambda x: -x, 0.0, ((-5, 5), (-5, 5)), "diffusivity must be above 0"),
        (lambda x: -x, 0.5, ((-5, 5),) * 3, "needs a plane"),
        (lambda x: -x, 0.5, ((5, -5), (-5, 5)), "needs a plane"),
    ],
)
def test_what_cannot_work_is_refused(drift, diffusivity, box, said):
    with pytest.raises(ValueError, match=said):
        grid_density.stationary(drift, diffusivity, box, cells=40)
