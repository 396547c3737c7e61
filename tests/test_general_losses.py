"""The weak form beyond one cloud with isotropic noise: a noise matrix, unequal gaps, and births and deaths.

Every law here is Gaussian at every time, so its snapshots are drawn exactly.
"""

import numpy as np
import pytest
import torch
from moments_helpers import drawn, fit, gaussian_laws
from scipy.linalg import solve_continuous_lyapunov

from snapdyn import drifts, moment_equations
from snapdyn.snapshots import Snapshots

NOISE = np.array([[0.5, 0.2], [0.2, 0.3]])
ISOTROPIC = float(np.trace(NOISE) / 2)
MATRIX, OFFSET = np.array([[-1.0, 0.7], [-0.7, -1.6]]), np.array([0.5, -0.2])
TURNING = drifts.from_expressions({"a": ["-x", "0"], "b": ["0", "-y"]}, ["0.7*y", "-0.7*x"], axes=("x", "y"))
UNEQUAL = [0.0, 0.1, 0.25, 0.35, 0.6]


def z_scores(found, truth):
    """Deviations of the estimates in ``found`` from ``truth``, in standard errors ``(fits, unknowns)``."""
    tables = [one.parameters for one in found]
    return np.stack([(t["estimate"] - truth).to_numpy() / t["std_error"].to_numpy() for t in tables])


def agree(z):
    """Whether z scores ``(fits, unknowns)`` are those of unbiased estimates with right errors."""
    return np.abs(z).max() < 4.5 and 0.75 < np.sqrt(np.mean(z**2)) < 1.3 and np.abs(z.mean(0)).max() < 1.0


def p_values(found):
    return np.array([one.diagnostics["j_p_value"] for one in found])


def at_rest(seed, n=2000):
    covariance = solve_continuous_lyapunov(MATRIX, -2 * NOISE)
    x = np.random.default_rng(seed).multivariate_normal(np.zeros(2), covariance, n, method="cholesky")
    return Snapshots.build(x, meta={"axes": ["x", "y"]})


def linear_rates(mean, covariance, growth=(0.0, 0.0)):
    flow = MATRIX @ covariance
    return MATRIX @ mean + OFFSET + covariance @ growth, flow + flow.T + 2 * NOISE


def on_the_way(seed, n=1500, **options):
    laws = gaussian_laws(UNEQUAL, lambda m, c: linear_rates(m, c, **options), [2.0, 1.0], np.diag([0.3, 0.15]))
    return drawn(laws, UNEQUAL, n, seed)


def test_a_cloud_at_rest_under_a_noise_matrix():
    """A C + C A' + 2 D = 0 with the turn known: two rates from three equations, so a wrong D shows in J."""
    right = [fit(TURNING, at_rest(seed), diffusivity=NOISE) for seed in range(20)]
    assert agree(z_scores(right, [1.0, 1.6])) and (p_values(right) < 0.05).sum() <= 4
    assert max(one.std_error.max() for one in right) < 0.1
    for wrong in (ISOTROPIC, np.diag(np.diag(NOISE)), NOISE * [[1, -1], [-1, 1]]):
        assert fit(TURNING, at_rest(0), diffusivity=wrong).diagnostics["j_p_value"] < 1e-6
    isotropic = fit(TURNING, at_rest(0), diffusivity=ISOTROPIC)
    assert np.abs(z_scores([isotropic], [1.0, 1.6])).max() > 6


def test_a_multiple_of_the_identity_is_a_number():
    one, two = (fit(TURNING, at_rest(0), diffusivity=d) for d in (0.4, 0.4 * np.eye(2)))
    np.testing.assert_allclose(two.coefficients, one.coefficients, rtol=1e-9)
    np.testing.assert_allclose(two.std_error, one.std_error, rtol=1e-9)
    assert two.diagnostics["j_statistic"] == pytest.approx(one.diagnostics["j_statistic"], rel=1e-8)


def test_turned_axes_turn_the_noise_matrix():
    """In y = R x drift, noise and errors are those of x: what is small along one axis may be large along another."""
    angle = 0.6
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    data = at_rest(0)
    turned = Snapshots.build(data.x @ turn.T, meta=data.meta)
    fields, known = TURNING.fields, TURNING.known
    spin = torch.from_numpy(turn)
    terms = drifts.AffineDrift(
        2,
        TURNING.names,
        TURNING.units,
        lambda x: fields(x @ spin) @ spin.T,
        TURNING.divergences,
        lambda x: known(x @ spin) @ spin.T,
        TURNING.known_divergence,
    )
    one = fit(TURNING, data, diffusivity=NOISE, degree=3)
    two = fit(terms, turned, diffusivity=(turn @ NOISE @ turn.T + (turn @ NOISE @ turn.T).T) / 2, degree=3)
    np.testing.assert_allclose(two.coefficients, one.coefficients, atol=moment_equations.SETTLED * one.std_error.max())
    unturned = fit(terms, turned, diffusivity=NOISE, degree=3)
    assert unturned.diagnostics["j_p_value"] < 1e-6 < two.diagnostics["j_p_value"]


def test_unequal_gaps_under_a_noise_matrix():
    """All six coefficients of a linear drift between five snapshots."""
    library = drifts.affine(2, axes=("x", "y"))
    truth = np.concatenate([np.r_[OFFSET[i], MATRIX[i]] for i in range(2)])
    right = [fit(library, on_the_way(seed), diffusivity=NOISE) for seed in range(15)]
    assert agree(z_scores(right, truth))
    wrong = z_scores([fit(library, on_the_way(seed), diffusivity=ISOTROPIC) for seed in range(5)], truth)
    assert np.abs(wrong.mean(0)).max() > 8
    equal = np.repeat(np.linspace(0.0, 0.6, 5), 1500)  # the same rows, as if their gaps were the same
    shifted = [Snapshots.build(on_the_way(seed).x, t=equal, meta={}) for seed in range(3)]
    found = [fit(library, data, diffusivity=NOISE) for data in shifted]
    assert p_values(found).max() < 1e-3 or np.abs(z_scores(found, truth).mean(0)).max() > 8


# Births and deaths: dp/dt = -div(F p) + (g - E[g]) p. For g = gamma . x, or gamma x^2 on a line, the normalised law
# stays Gaussian: m' = .. + Cov(g, x), C' = .. + Cov(g, (x - m)(x - m)').
RATE, SPREAD, TIMES = 1.0, 0.4, [0.0, 0.15, 0.35, 0.5, 0.7, 1.0]
LINE = drifts.from_expressions({"a": ["-x"]}, None, axes=("x",))
GROWTHS = {"linear": ("x", 0.8), "quadratic": ("x^2", -0.5)}


def bred(kind, seed, n=2000):
    _, gamma = GROWTHS[kind]

    def rates(mean, covariance):
        if kind == "linear":
            return -RATE * mean + gamma * covariance[0], -2 * RATE * covariance + 2 * SPREAD
        more = 2 * gamma * covariance @ covariance
        return -RATE * mean + 2 * gamma * mean * covariance[0], -2 * RATE * covariance + 2 * SPREAD + more

    start = 0.3 if kind == "linear" else 1.5
    return drawn(gaussian_laws(TIMES, rates, [1.5], [[start]]), TIMES, n, seed)


def growth(unknown=None, known=None):
    return drifts.Growth.from_expressions(unknown or {}, known, axes=("x",))


@pytest.mark.parametrize("kind", GROWTHS)
def test_drift_and_birth_rate_are_recovered_together(kind):
    term, gamma = GROWTHS[kind]
    found = [fit(LINE, bred(kind, seed), diffusivity=SPREAD, growth=growth({"gamma": term})) for seed in range(15)]
    assert found[0].parameters["name"].tolist() == ["a", "gamma"]
    assert agree(z_scores(found, [RATE, gamma])) and (p_values(found) < 0.05).sum() <= 4
    assert max(one.parameters["std_error"].max() for one in found) < 0.15
    (name, estimate, error), *_ = found[0].growth
    assert name == "gamma" and error > 0 and estimate == found[0].parameters["estimate"].iloc[1]


def test_drift_birth_rate_and_diffusivity_are_recovered_together():
    options = {"diffusivity": "unknown", "growth": growth({"gamma": "x"})}
    found = [fit(LINE, bred("linear", seed), **options) for seed in range(15)]
    assert found[0].parameters["name"].tolist() == ["a", "gamma", "diffusivity"]
    assert agree(z_scores(found, [RATE, 0.8, SPREAD]))


@pytest.mark.parametrize("kind", GROWTHS)
def test_the_sign_in_print_and_no_growth_at_all_are_refused(kind):
    """App. B prints + g where the equation has - g: births as if they were deaths."""
    term, gamma = GROWTHS[kind]

    def fits(known):
        options = {"growth": growth(known=known)} if known else {}
        return [fit(LINE, bred(kind, seed), diffusivity=SPREAD, **options) for seed in range(5)]

    right, printed, none = fits(f"{gamma}*{term}"), fits(f"{-gamma}*{term}"), fits(None)
    assert agree(z_scores(right, [RATE])) or np.abs(z_scores(right, [RATE])).max() < 3
    assert p_values(right).min() > 1e-3
    assert np.abs(z_scores(printed, [RATE])).min() > 15 and p_values(printed).max() < 1e-6
    assert np.abs(z_scores(none, [RATE])).min() > 6


@pytest.mark.parametrize("kind", GROWTHS)
def test_a_constant_rate_of_growth_cannot_be_seen(kind):
    term, gamma = GROWTHS[kind]
    data = bred(kind, 0)
    one, two = (
        fit(LINE, data, diffusivity=SPREAD, growth=growth(known=known), degree=3)
        for known in (f"{gamma}*{term}", f"{gamma}*{term} + 12")
    )
    np.testing.assert_allclose(two.coefficients, one.coefficients, rtol=1e-9)
    np.testing.assert_allclose(two.std_error, one.std_error, rtol=1e-9)
    with pytest.raises(ValueError, match="a combination of .*'one'"):
        fit(LINE, data, diffusivity=SPREAD, growth=growth({"gamma": term, "one": "1"}))


def test_births_under_a_noise_matrix_over_unequal_gaps():
    """g = 0.6 x - 0.4 y pulls the mean by C (0.6, -0.4)."""
    terms = drifts.from_expressions(
        {"a": ["-x", "0"], "b": ["0", "-y"]}, ["0.5 + 0.7*y", "-0.2 - 0.7*x"], axes=("x", "y")
    )
    rates = {sign: drifts.Growth.from_expressions({"gx": "x"}, f"{sign}0.4*y", axes=("x", "y")) for sign in ("-", "+")}
    clouds = [on_the_way(seed, growth=(0.6, -0.4)) for seed in range(15)]
    both = drifts.Growth.from_expressions({"gx": "x", "gy": "y"}, axes=("x", "y"))
    assert agree(z_scores([fit(terms, data, diffusivity=NOISE, growth=both) for data in clouds], [1.0, 1.6, 0.6, -0.4]))
    right = z_scores([fit(terms, data, diffusivity=NOISE, growth=rates["-"]) for data in clouds], [1.0, 1.6, 0.6])
    wrong = z_scores([fit(terms, data, diffusivity=NOISE, growth=rates["+"]) for data in clouds], [1.0, 1.6, 0.6])
    assert agree(right) and np.abs(wrong.mean(0)).max() > 1.5 > 2 * np.abs(right.mean(0)).max()


def test_growth_needs_times():
    with pytest.raises(ValueError, match="growth needs timed snapshots: a stationary cloud shows no births"):
        fit(TURNING, at_rest(0), diffusivity=NOISE, growth=drifts.Growth.from_expressions({"g": "x"}, axes=("x", "y")))
