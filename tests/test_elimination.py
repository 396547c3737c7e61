"""Elimination keeps exactly what is there, and the rise of J has its size and its power."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from moments_helpers import WELL, equations, fit, linear_snapshots, wells, wilson
from scipy import stats

from snapdyn import drifts, elimination


def test_elimination_leaves_exactly_the_terms_that_are_there():
    library, right = drifts.from_expressions(WELL, None, axes=("x", "y")), 0
    for seed in range(10):
        found = fit(library, wells(3000, seed), diffusivity=0.3, degree=5, sparse=True)
        right += np.flatnonzero(found.coefficients).tolist() == [0, 1, 2]
        kept = found.coefficients != 0
        assert (np.isnan(found.std_error) == ~kept).all()
        assert (np.abs(found.coefficients) > 4 * found.std_error)[kept].all()
        if kept.sum() == 3:
            assert (np.abs(found.coefficients - [1, -1, -1, *[0] * 7])[kept] < 4 * found.std_error[kept]).all()
        numbers = found.diagnostics
        assert numbers["kept"] == kept.sum() and numbers["j_rise_dof"] == (~kept).sum()
        assert numbers["j_dof"] - numbers["j_full_dof"] == (~kept).sum() and numbers["threshold"] == 4
        assert numbers["j_rise"] == pytest.approx(numbers["j_statistic"] - numbers["j_full"])
    assert right >= 9
    whole = fit(library, wells(3000, 0), diffusivity=0.3, degree=5)
    assert "kept" not in whole.diagnostics and (whole.coefficients != 0).all()


def test_the_survivors_are_fitted_anew():
    found = equations(drifts.from_expressions(WELL, None, axes=("x", "y")), wells(3000, 0).x, 5, diffusivity=0.3)
    full = found.solve()
    kept, solution = elimination.eliminate(found, full, 4.0)
    assert kept.tolist() == [0, 1, 2]
    again = found.restricted(kept).solve()
    np.testing.assert_allclose(solution.estimate, again.estimate, atol=0.05 * again.std_error.min())
    assert (solution.std_error < full.std_error[kept]).all()
    everything, same = elimination.eliminate(found, full, 0.0)
    assert len(everything) == 10 and same is full
    assert 9 in elimination.eliminate(found, full, 4.0, always=[9])[0]


class Known:
    """Equations of which nothing but the estimate and its covariance is known, exact for every restriction."""

    clouds = [SimpleNamespace(x=torch.zeros(1).double())]

    def __init__(self, theta, covariance):
        self.theta, self.information, self.unknowns = theta, np.linalg.inv(covariance), len(theta)

    def restricted(self, kept):
        return SimpleNamespace(solve=lambda *_: self.solve(np.asarray(kept)))

    def solve(self, kept=slice(None)):
        covariance = np.linalg.inv(self.information[kept][:, kept])
        estimate = covariance @ (self.information @ self.theta)[kept]
        return SimpleNamespace(estimate=estimate, covariance=covariance)


def test_of_two_that_share_their_effect_one_stays():
    """Each of them alone is lost in noise beside the other; with one gone the other is plain, before any new fit."""
    covariance = np.diag([1.0, 100.0, 0.01, 1.0, 1.0, 1.0])
    covariance[0, 1] = covariance[1, 0] = -9.99
    found = Known(np.array([0.12, 1.0, 5.0, 3.4, -3.2, 3.0]), covariance)
    kept, solution = elimination.eliminate(found, found.solve(), 4.0)
    assert kept.tolist() == [0, 2]
    np.testing.assert_allclose(solution.estimate, [0.12 + 0.0999, 5.0])
    np.testing.assert_allclose(np.diag(solution.covariance), [1 - 0.999**2, 0.01])


def test_a_threshold_that_is_too_high_drops_true_terms_or_is_refused():
    library = drifts.from_expressions(WELL, None, axes=("x", "y"))
    for seed in range(3):
        with pytest.raises(ValueError, match="200 standard errors"):
            fit(library, wells(3000, seed), diffusivity=0.3, degree=5, sparse=True, threshold=200)
        try:
            found = fit(library, wells(3000, seed), diffusivity=0.3, degree=5, sparse=True, threshold=25)
        except ValueError as error:
            assert "25 standard errors" in str(error)
        else:
            assert (found.coefficients[:3] == 0).any() and found.diagnostics["j_rise_p_value"] < 1e-6


def test_elimination_keeps_an_unknown_diffusivity():
    """It is no term of the library: of motion without noise nothing could be seen, and the model still has one."""
    data = linear_snapshots(1500, [0.0, 0.15, 0.3, 0.45], 0, noise=0.0)
    found = fit(drifts.affine(2, axes=("x", "y")), data, diffusivity="unknown", sparse=True)
    assert abs(found.diffusivity) < 4 * found.diffusivity_error < 0.2
    assert {"x: x", "x: y", "y: x", "y: y"} <= set(np.array(found.drift_terms.names)[found.coefficients != 0])
    assert np.isfinite(found.simulate(data.x[:5], [0.0, 0.5])).all()  # even if it came out below zero


def test_the_rise_of_j_has_its_size_and_sees_a_term_that_is_missed():
    library, rises, p = drifts.from_expressions(WELL, None, axes=("x", "y")), [], []
    for seed in range(100):
        found = equations(library, wells(4000, seed).x, 4, diffusivity=0.3)
        full, right = found.solve(), found.restricted([0, 1, 2]).solve()
        rise, dof, value = elimination.j_difference(right, full)
        assert dof == 7 and value == pytest.approx(stats.chi2.sf(max(rise, 0), 7))
        rises.append(rise)
        p.append(value)
        if seed < 5:
            assert elimination.j_difference(found.restricted([0, 2, 3, 4, 5]).solve(), full)[2] < 1e-10
    low, high = wilson(np.sum(np.array(p) < 0.05), 100)
    assert low < 0.05 < high and abs(np.mean(rises) - 7) < 3 * np.sqrt(2 * 7 / 100)
    rise, dof, value = elimination.j_difference(full, full)
    assert (rise, dof) == (0, 0) and np.isnan(value)
