"""The formulas of NOTATION.md against closed forms, in numpy and scipy alone.

Nothing here imports the package: a mistake shared by a formula and its code would pass the module
tests, and fails here. Every test also refuses a wrong form of its equation.
"""

import numpy as np
import pytest
from scipy.integrate import dblquad, quad, solve_ivp
from scipy.linalg import expm, solve_continuous_lyapunov

ROTATION = np.array([[1.0, 0.8, 0.0], [-0.8, 1.5, 0.3], [0.1, 0.0, 0.7]])  # OU drift is -ROTATION x
DIFFUSIVITY = 0.6


def stationary_covariance(rate, diffusivity):
    """``ou-stationary``: A S + S A^T = 2 D I."""
    return solve_continuous_lyapunov(rate, 2 * diffusivity * np.eye(len(rate)))


def gaussian_score(x, covariance):
    """Score and trace of its Jacobian of N(0, covariance) at the rows of ``x``."""
    precision = np.linalg.inv(covariance)
    return -x @ precision, np.full(len(x), -np.trace(precision))


def residual(f, div_f, score, div_score, diffusivity):
    """``stationary-residual``: s.f + div f - D (|s|^2 + div s)."""
    return (score * f).sum(1) + div_f - diffusivity * ((score**2).sum(1) + div_score)


@pytest.mark.parametrize(("factor", "vanishes"), [(1.0, True), (2.0, False), (0.5, False)])
def test_the_lyapunov_covariance_is_stationary_with_d_and_not_with_2d(factor, vanishes):
    covariance = stationary_covariance(ROTATION, DIFFUSIVITY)
    x = np.random.default_rng(0).normal(size=(50, 3))
    found = residual(-x @ ROTATION.T, -np.trace(ROTATION), *gaussian_score(x, covariance), factor * DIFFUSIVITY)
    assert (np.abs(found).max() < 1e-12) == vanishes


def test_noise_amplitude_is_the_root_of_2d():
    """OU with rate a: a long Euler-Maruyama run has variance D / a (1 + O(dt)), not D / 2a or 2 D / a."""
    rng, rate, dt = np.random.default_rng(1), 1.3, 0.01
    x = np.zeros(20000)
    for _ in range(600):
        x += -rate * x * dt + np.sqrt(2 * DIFFUSIVITY * dt) * rng.normal(size=x.shape)
    exact = DIFFUSIVITY / rate / (1 - rate * dt / 2)  # law of the discrete chain
    assert abs(x.var() / exact - 1) < 5 * np.sqrt(2 / len(x))


def hopf(x, angular_speed):
    """Drift and divergence of the Hopf normal form, clockwise."""
    q = (x**2).sum(1)
    turn = angular_speed * np.stack([x[:, 1], -x[:, 0]], 1)
    return x * (1 - q)[:, None] + turn, 2 - 4 * q


def radial_score(x, diffusivity, sign=1.0):
    """Score and its divergence of p ~ exp(+(q/2 - q^2/4) / D); ``sign = -1`` is the wrong density."""
    q = (x**2).sum(1)
    return sign * x * (1 - q)[:, None] / diffusivity, sign * (2 - 4 * q) / diffusivity


@pytest.mark.parametrize("angular_speed", [0.0, 1.0, -3.0])
def test_hopf_density_is_stationary_for_any_angular_speed(angular_speed):
    x = np.random.default_rng(2).normal(size=(60, 2))
    f, div_f = hopf(x, angular_speed)
    assert np.abs(residual(f, div_f, *radial_score(x, 0.1), 0.1)).max() < 1e-10
    assert np.abs(residual(f, div_f, *radial_score(x, 0.1, sign=-1.0), 0.1)).max() > 1
    assert np.abs(residual(f, div_f, *radial_score(x, 0.1), 0.2)).max() > 1


def test_hopf_normaliser():
    """Z = pi sqrt(pi D) exp(1/(4D)) (1 + erf(1 / (2 sqrt(D)))) normalises exp((q/2 - q^2/4) / D)."""
    from scipy.special import erf

    for diffusivity in (0.1, 0.5, 2.0):
        unnormalised = lambda y, x, d=diffusivity: np.exp(  # noqa: E731
            ((x * x + y * y) / 2 - (x * x + y * y) ** 2 / 4) / d
        )
        integral, _ = dblquad(unnormalised, -4, 4, -4, 4)
        root = np.sqrt(diffusivity)
        exact = np.pi * np.sqrt(np.pi) * root * np.exp(1 / (4 * diffusivity)) * (1 + erf(1 / (2 * root)))
        assert abs(integral / exact - 1) < 1e-6


def test_gradient_drift_has_the_gibbs_density():
    """``double-well-density``: f = -grad V is stationary for exp(-V / D) with D, not with 2 D."""
    x = np.random.default_rng(3).normal(size=(40, 2))
    grad = np.stack([4 * x[:, 0] * (x[:, 0] ** 2 - 1), x[:, 1]], 1)
    laplacian = 12 * x[:, 0] ** 2 - 4 + 1
    for factor, vanishes in ((1.0, True), (2.0, False)):
        score, div_score = -grad / (factor * DIFFUSIVITY), -laplacian / (factor * DIFFUSIVITY)
        found = residual(-grad, -laplacian, score, div_score, DIFFUSIVITY)
        assert (np.abs(found).max() < 1e-10) == vanishes


def test_closed_form_has_a_minus_sign():
    """theta = -pinv(A) c on exact scores; theta = +pinv(A) c, as printed in the paper, gives minus theta.

    Fields x and -|x|^2 x of the Hopf form with the turn known, truth (1, 1), exact density.
    """
    diffusivity, x = 0.1, np.random.default_rng(4).normal(size=(300, 2))
    q = (x**2).sum(1)
    score, div_score = radial_score(x, diffusivity)
    design = np.stack([(score * x).sum(1) + 2, -(q * (score * x).sum(1)) - 4 * q], 1)
    turn = np.stack([x[:, 1], -x[:, 0]], 1)
    constant = (score * turn).sum(1) - diffusivity * ((score**2).sum(1) + div_score)
    solution = -np.linalg.pinv(design) @ constant
    assert np.allclose(solution, [1, 1], atol=1e-8)
    assert np.allclose(design @ solution + constant, 0, atol=1e-8)
    assert not np.allclose(-solution, [1, 1], atol=0.5)


def test_full_matrix_design_is_row_major():
    """a = Vec(s u^T + J_u^T) in C order is the field form s.g + div g with g_(j,k) = e_j u_k."""
    rng = np.random.default_rng(5)
    score, u, jacobian = rng.normal(size=2), rng.normal(size=4), rng.normal(size=(4, 2))
    vec = (np.outer(score, u) + jacobian.T).ravel(order="C")
    fields = [score[j] * u[k] + jacobian[k, j] for j in range(2) for k in range(4)]
    assert np.allclose(vec, fields)
    assert not np.allclose((np.outer(score, u) + jacobian.T).ravel(order="F"), fields)


def kernel_weights(y, sample, h):
    logits = -((sample - y) ** 2).sum(1) / (2 * h**2)
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def log_kde(y, sample, h):
    logits = -((sample - y) ** 2).sum(1) / (2 * h**2)
    d = sample.shape[1]
    return np.log(np.mean(np.exp(logits))) - d / 2 * np.log(2 * np.pi * h**2)


def test_convolved_regressors_by_differences():
    """sum w f(X).(X - y) / h^2 is div(p_h m_h) / p_h, for the density and posterior mean of one sample."""
    rng, h, step = np.random.default_rng(7), 0.6, 1e-5
    sample, y = rng.normal(size=(150, 2)), np.array([0.4, 0.1])
    values = np.stack([sample[:, 1] ** 2, sample[:, 0] * sample[:, 1]], 1)

    def flux(at):  # p_h m_h
        return np.exp(log_kde(at, sample, h)) * (kernel_weights(at, sample, h) @ values)

    by_differences = sum((flux(y + step * e)[i] - flux(y - step * e)[i]) / (2 * step) for i, e in enumerate(np.eye(2)))
    w = kernel_weights(y, sample, h)
    assert abs(w @ (values * (sample - y)).sum(1) / h**2 - by_differences / np.exp(log_kde(y, sample, h))) < 1e-8


@pytest.mark.parametrize("h", [0.2, 1.0, 4.0])
def test_smoothed_gaussian_is_stationary_for_the_posterior_mean_drift_alone(h):
    """``convolved-design`` exactly: p_h = N(0, S + h^2 I), m_h(y) = -A S (S + h^2 I)^-1 y, for every h."""
    covariance = stationary_covariance(ROTATION, DIFFUSIVITY)
    smooth = covariance + h**2 * np.eye(3)
    y = np.random.default_rng(8).normal(size=(40, 3))
    score, div_score = gaussian_score(y, smooth)
    posterior = ROTATION @ covariance @ np.linalg.inv(smooth)
    found = residual(-y @ posterior.T, -np.trace(posterior), score, div_score, DIFFUSIVITY)
    assert np.abs(found).max() < 1e-10
    plain = residual(-y @ ROTATION.T, -np.trace(ROTATION), score, div_score, DIFFUSIVITY)
    assert np.abs(plain).max() > 0.05  # the plain form is off by O(h^2)


def test_weak_form_holds_on_a_sample_at_every_bandwidth():
    """``weak-form``: the mean of L phi over an OU sample is 0 within its error; the plain one is not."""
    rng = np.random.default_rng(9)
    covariance = stationary_covariance(ROTATION, DIFFUSIVITY)
    sample = rng.multivariate_normal(np.zeros(3), covariance, size=40000)
    worst_plain = 0.0
    for h in (0.4, 0.8, 1.6):
        for y in 0.7 * rng.normal(size=(8, 3)):
            away = sample - y
            phi = np.exp(-(away**2).sum(1) / (2 * h**2))
            second = (away**2).sum(1) / h**4 - 3 / h**2
            generator = phi * ((sample @ ROTATION.T * away).sum(1) / h**2 + DIFFUSIVITY * second)
            error = generator.std(ddof=1) / np.sqrt(len(sample))
            assert abs(generator.mean()) < 4.5 * error
            at_probe = phi * (-(ROTATION @ y) @ away.T / h**2 - np.trace(ROTATION) - DIFFUSIVITY * second)
            error = at_probe.std(ddof=1) / np.sqrt(len(sample))
            worst_plain = max(worst_plain, abs(at_probe.mean()) / error)
    assert worst_plain > 20


def test_timed_weak_form_on_the_exact_transient():
    """E_t1[phi] - E_t0[phi] = integral of E_t[L phi], exactly; the trapezium over one gap errs as gap^3."""
    rate, mean0, var0 = 0.9, 2.0, 0.1

    def moments(t):
        mean = mean0 * np.exp(-rate * t)
        var = DIFFUSIVITY / rate + (var0 - DIFFUSIVITY / rate) * np.exp(-2 * rate * t)
        return mean, var

    def second_moment(t):
        mean, var = moments(t)
        return mean**2 + var

    def generator(t, diffusivity=DIFFUSIVITY):  # L x^2 = -2 rate x^2 + 2 D
        return -2 * rate * second_moment(t) + 2 * diffusivity

    change = second_moment(1.0) - second_moment(0.2)
    assert abs(quad(generator, 0.2, 1.0)[0] - change) < 1e-10
    assert abs(quad(generator, 0.2, 1.0, args=(2 * DIFFUSIVITY,))[0] - change) > 0.5
    errors = []
    for gap in (0.1, 0.05):
        trapezium = gap / 2 * (generator(0.2) + generator(0.2 + gap))
        errors.append(abs(trapezium - second_moment(0.2 + gap) + second_moment(0.2)))
    assert 7 < errors[0] / errors[1] < 9


@pytest.mark.parametrize("r", [0, 1, 2])
def test_normal_scale_bandwidth_minimises_the_asymptotic_error(r):
    """d = 1: AMISE of the r-th derivative of a normal KDE is minimal at (4 / (N (2r + 3)))^(1 / (2r + 5)).

    AMISE(h) = R(K^(r)) / (N h^(2r+1)) + h^4 R(f^(r+2)) / 4 for the unit normal f and K, where
    R(phi^(k)) = (2k)! / (2^(2k+1) k! sqrt(pi)).
    """
    from math import factorial, pi, sqrt

    from scipy.optimize import minimize_scalar

    def roughness(k):
        return factorial(2 * k) / (2 ** (2 * k + 1) * factorial(k) * sqrt(pi))

    n = 1000

    def amise(log_h):
        h = np.exp(log_h)
        return np.log(roughness(r) / (n * h ** (2 * r + 1)) + h**4 / 4 * roughness(r + 2))

    best = np.exp(minimize_scalar(amise, bounds=(-5, 1), method="bounded", options={"xatol": 1e-10}).x)
    d = 1
    assert abs(best / (4 / (n * (d + 2 * r + 2))) ** (1 / (d + 2 * r + 4)) - 1) < 1e-4


def van_loan(rate, diffusivity, gap):
    """``affine-propagation``: exp(A h) and the covariance added over the gap, from one exponential."""
    d = len(rate)
    block = expm(np.block([[-rate, 2 * diffusivity * np.eye(d)], [np.zeros((d, d)), rate.T]]) * gap)
    transition = block[d:, d:].T
    return transition, transition @ block[:d, d:]


@pytest.mark.parametrize("gap", [0.1, 0.7, 3.0])
def test_affine_propagation_against_the_moment_equations(gap):
    """Unstable and rotating A included: m' = A m + b, C' = A C + C A^T + 2 D I, by a tight Runge-Kutta."""
    rate, shift = np.array([[0.3, -1.0, 0.2], [1.1, -0.6, 0.0], [0.0, 0.4, -0.2]]), np.array([0.5, -1.0, 0.2])
    mean0, root = np.array([1.0, 0.0, -1.0]), np.random.default_rng(10).normal(size=(3, 3))
    cov0 = root @ root.T

    def rhs(_, packed, diffusion):
        mean, cov = packed[:3], packed[3:].reshape(3, 3)
        return np.concatenate([rate @ mean + shift, (rate @ cov + cov @ rate.T + diffusion * np.eye(3)).ravel()])

    def integrate(diffusion):
        start = np.concatenate([mean0, cov0.ravel()])
        end = solve_ivp(rhs, (0, gap), start, args=(diffusion,), rtol=1e-11, atol=1e-12, method="DOP853").y[:, -1]
        return end[:3], end[3:].reshape(3, 3)

    transition, added = van_loan(rate, DIFFUSIVITY, gap)
    assert np.allclose(transition, expm(rate * gap), atol=1e-10)
    augmented = expm(np.block([[rate, shift[:, None]], [np.zeros((1, 4))]]) * gap)
    mean, cov = integrate(2 * DIFFUSIVITY)
    assert np.allclose(augmented[:3, :3] @ mean0 + augmented[:3, 3], mean, atol=1e-8)
    assert np.allclose(transition @ cov0 @ transition.T + added, cov, rtol=1e-8, atol=1e-8)
    _, with_d_for_2d = integrate(DIFFUSIVITY)
    assert not np.allclose(transition @ cov0 @ transition.T + added, with_d_for_2d, rtol=1e-2)


def test_affine_propagation_tends_to_the_lyapunov_covariance():
    _, added = van_loan(-ROTATION, DIFFUSIVITY, 9.0)  # much longer gaps lose digits: NOTATION.md has the doubling
    assert np.allclose(added, stationary_covariance(ROTATION, DIFFUSIVITY), atol=1e-5)


def test_doubling_a_gap():
    """Q(2 h) = F Q F^T + Q keeps its digits where exp(-A h) overflows."""
    transition, added = van_loan(-ROTATION, DIFFUSIVITY, 0.5)
    for _ in range(10):  # 512 time units
        added = transition @ added @ transition.T + added
        transition = transition @ transition
    assert np.allclose(added, stationary_covariance(ROTATION, DIFFUSIVITY), rtol=1e-10)


@pytest.mark.parametrize(("sign", "vanishes"), [(-1, True), (+1, False)])
def test_birth_death_enters_with_minus_g(sign, vanishes):
    """d/dt log p + s.F + div F - g = 0 for dp/dt = -div(F p) + g p, on a Gaussian with g = a x, f = -k x.

    The law stays Gaussian: m' = -k m + a C, C' = -2 k C + 2 D, (log mass)' = a m.
    """
    slope, rate, mean, var = 0.7, 1.2, 0.4, 0.5
    mean_dot = -rate * mean + slope * var
    var_dot = -2 * rate * var + 2 * DIFFUSIVITY
    mass_dot = slope * mean
    x = np.linspace(-2, 2, 9)
    log_p_dot = mass_dot - var_dot / (2 * var) + (x - mean) * mean_dot / var + (x - mean) ** 2 * var_dot / (2 * var**2)
    score, div_score = -(x - mean) / var, -1 / var
    flow, div_flow = -rate * x - DIFFUSIVITY * score, -rate - DIFFUSIVITY * div_score
    found = log_p_dot + score * flow + div_flow + sign * slope * x
    assert (np.abs(found).max() < 1e-12) == vanishes
    # normalised snapshots see g - E[g]: the constant a m is invisible
    seen = log_p_dot - mass_dot + score * flow + div_flow - (slope * x - slope * mean)
    assert np.abs(seen).max() < 1e-12


def test_moment_equations_of_birth_and_death_by_the_density_itself():
    """The Gaussian solution used above, integrated, solves dp/dt on a grid by central differences."""
    slope, rate = 0.7, 1.2

    def rhs(_, packed):
        mean, var, _ = packed
        return [-rate * mean + slope * var, -2 * rate * var + 2 * DIFFUSIVITY, slope * mean]

    times = 0.5 + 1e-3 * np.arange(-1, 2)
    path = solve_ivp(rhs, (0, 1), [0.3, 0.4, 0.0], t_eval=times, rtol=1e-11, atol=1e-12).y
    x = np.linspace(-3, 3, 2001)
    step = x[1] - x[0]
    p = [np.exp(m) / np.sqrt(2 * np.pi * v) * np.exp(-((x - u) ** 2) / (2 * v)) for u, v, m in path.T]
    change = (p[2] - p[0]) / 2e-3
    transport = np.gradient(-rate * x * p[1], step)
    spread = DIFFUSIVITY * np.gradient(np.gradient(p[1], step), step)
    inner = slice(5, -5)
    assert np.abs(change + transport - spread - slope * x * p[1])[inner].max() < 1e-4
    assert np.abs(change + transport - spread + slope * x * p[1])[inner].max() > 0.1


def test_affine_change_of_units():
    """``affine-units``: y = M (x - m) maps drift, score, log density and D; the equation still holds."""
    rng = np.random.default_rng(11)
    matrix, origin = rng.normal(size=(3, 3)) + 2 * np.eye(3), rng.normal(size=3)
    covariance = stationary_covariance(ROTATION, DIFFUSIVITY)
    x = rng.multivariate_normal(np.zeros(3), covariance, size=30)
    y = (x - origin) @ matrix.T
    mean_y, cov_y = -matrix @ origin, matrix @ covariance @ matrix.T
    inverse = np.linalg.inv(matrix)
    score_y = -x @ np.linalg.inv(covariance) @ inverse  # rows: M^-T s
    assert np.allclose(score_y, -(y - mean_y) @ np.linalg.inv(cov_y))

    def log_gauss(z, cov):
        return -0.5 * (z * np.linalg.solve(cov, z.T).T).sum(1) - 0.5 * np.linalg.slogdet(2 * np.pi * cov)[1]

    log_det = np.linalg.slogdet(matrix)[1]
    assert np.allclose(log_gauss(y - mean_y, cov_y), log_gauss(x, covariance) - log_det)
    rate_y = matrix @ -ROTATION @ inverse  # A_y = M A M^-1, b_y = M (b + A m)
    shift_y = matrix @ (-ROTATION @ origin)
    assert np.allclose(y @ rate_y.T + shift_y, -x @ ROTATION.T @ matrix.T)
    noise_y = DIFFUSIVITY * matrix @ matrix.T  # the matrix D_y of y
    assert np.allclose(rate_y @ cov_y + cov_y @ rate_y.T + 2 * noise_y, 0, atol=1e-10)
    wrong = DIFFUSIVITY * matrix @ inverse.T
    assert not np.allclose(rate_y @ cov_y + cov_y @ rate_y.T + 2 * wrong, 0, atol=1e-2)


def test_moment_standard_errors_and_j_are_calibrated():
    """``moments`` and ``j-test`` on OU with unknown rates: RMS z near 1, J near its degrees of freedom, and a
    drift that lacks a term is refused by J."""
    truth = np.array([1.0, 1.5])
    spread = np.sqrt(DIFFUSIVITY / truth)
    scores, statistics, wrong = [], [], []
    for seed in range(60):
        x = np.random.default_rng(seed).normal(size=(4000, 2)) * spread
        a, b = x.T
        zero = np.zeros_like(a)
        # phi: a^2, b^2, a^4, b^4, a^2 b^2; columns d phi, Laplacian
        da = np.stack([2 * a, zero, 4 * a**3, zero, 2 * a * b**2], 1)
        db = np.stack([zero, 2 * b, zero, 4 * b**3, 2 * a**2 * b], 1)
        laplacian = np.stack([zero + 2, zero + 2, 12 * a**2, 12 * b**2, 2 * b**2 + 2 * a**2], 1)
        regressors = np.stack([-a[:, None] * da, -b[:, None] * db], 2)
        estimate, error, j, _ = two_step(regressors, DIFFUSIVITY * laplacian)
        scores.append((estimate - truth) / error)
        statistics.append(j)
        wrong.append(two_step(regressors.sum(2, keepdims=True), DIFFUSIVITY * laplacian)[2])  # equal rates
    assert 0.8 < np.sqrt(np.mean(np.square(scores))) < 1.25
    assert abs(np.mean(statistics) - 3) < 4 * np.sqrt(2 * 3 / 60)
    assert np.median(wrong) > 30


@pytest.mark.parametrize(("weights", "biased"), [("others", False), ("own", True)])
def test_weights_from_other_rows_leave_the_equation_unbiased(weights, biased):
    """``cross-fitted-moments``: six equations share the mean 1 of skewed data, weighted by noise that is learned from
    the other folds; from the same rows, an equation that comes out low looks quiet and counts more."""
    scores = []
    for seed in range(400):
        folds, score = np.random.default_rng(seed).exponential(size=(5, 20, 6)), 0.0
        for k in range(5):
            rows = np.delete(folds, k, 0).reshape(-1, 6) if weights == "others" else folds.reshape(-1, 6)
            weight = np.linalg.solve(np.cov(rows.T), np.ones(6))
            score += weight @ (folds[k].mean(0) - 1) / 5
        scores.append(score)
    error = np.std(scores) / np.sqrt(len(scores))
    assert (abs(np.mean(scores)) > 6 * error) == biased
    assert biased or abs(np.mean(scores)) < 3.5 * error


def test_a_turn_along_the_level_sets_is_invisible():
    """``gauge``: for g = R C^-1 x with antisymmetric R, div(g p) = 0 and E[g . grad phi] = 0; not with symmetric R."""
    covariance = stationary_covariance(ROTATION, DIFFUSIVITY)
    precision, x = np.linalg.inv(covariance), np.random.default_rng(12).normal(size=(30, 3))
    half = np.random.default_rng(13).normal(size=(3, 3))
    quadratic = half @ half.T  # phi = x' Q x: E[g . grad phi] = 2 tr(Q G C) for g = G x
    for matrix, invisible in ((half - half.T, True), (half + half.T, False)):
        field = matrix @ precision
        carried = np.trace(field) - ((x @ field.T) * (x @ precision)).sum(1)  # div(g p) / p
        assert (np.abs(carried).max() < 1e-10) == invisible
        assert (abs(2 * np.trace(quadratic @ field @ covariance)) < 1e-10) == invisible


def test_dropping_an_unknown_is_the_fit_without_it():
    """``elimination``: with fixed weights the step along the covariance is exact; leaving the others alone is not."""
    rng = np.random.default_rng(14)
    design, rest, root = rng.normal(size=(12, 4)), rng.normal(size=12), rng.normal(size=(12, 12))
    inverse = np.linalg.inv(root @ root.T)

    def fitted(columns):
        covariance = np.linalg.inv(columns.T @ inverse @ columns)
        theta = covariance @ columns.T @ inverse @ rest
        gap = columns @ theta - rest
        return theta, covariance, gap @ inverse @ gap

    theta, covariance, j = fitted(design)
    kept = [0, 1, 3]
    fewer, smaller, more = fitted(design[:, kept])
    ratio = covariance[kept, 2] / covariance[2, 2]
    assert np.allclose(theta[kept] - ratio * theta[2], fewer)
    assert not np.allclose(theta[kept], fewer, atol=0.01)
    assert np.allclose(covariance[np.ix_(kept, kept)] - np.outer(ratio, covariance[2, kept]), smaller)
    assert np.isclose(more - j, theta[2] ** 2 / covariance[2, 2])  # ``j-test``: what the dropped one costs


def test_a_noise_matrix_needs_the_whole_jacobian_of_the_score():
    """``matrix-noise``: s.F + div F = 0 with F = f - D s, div F = div f - sum_ij D_ij d_i s_j, on the Lyapunov law."""
    root = np.random.default_rng(15).normal(size=(3, 3))
    noise = root @ root.T / 3
    covariance = solve_continuous_lyapunov(ROTATION, 2 * noise)
    precision, x = np.linalg.inv(covariance), np.random.default_rng(16).normal(size=(30, 3))
    score = -x @ precision
    flow = -x @ ROTATION.T - score @ noise
    right = (score * flow).sum(1) - np.trace(ROTATION) + (noise * precision).sum()
    assert np.abs(right).max() < 1e-10
    by_trace = (score * flow).sum(1) - np.trace(ROTATION) + np.trace(noise) / 3 * np.trace(precision)
    assert np.abs(by_trace).max() > 0.1
    quadratic = np.diag([1.0, 2.0, -1.0]) + 0.5  # E[L phi] of phi = x' Q x: -2 tr(Q A C) + 2 tr(Q D)
    generator = -2 * np.trace(quadratic @ ROTATION @ covariance) + 2 * np.trace(quadratic @ noise)
    assert abs(generator) < 1e-10
    isotropic = np.trace(noise) / 3 * np.eye(3)
    assert abs(generator + 2 * np.trace(quadratic @ (isotropic - noise))) > 0.1


def test_births_that_grow_with_the_square_keep_a_gaussian():
    """``birth-death`` for g = c x^2, f = -k x: d/dt E[phi] = E[L phi] + Cov(g, phi) for phi = x, (x - m)^2, x^4."""
    growth, rate, mean, var = -0.5, 1.2, 0.4, 0.7
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    x, weights = mean + np.sqrt(var) * nodes, weights / weights.sum()
    mean_dot = -rate * mean + 2 * growth * mean * var
    var_dot = -2 * rate * var + 2 * DIFFUSIVITY + 2 * growth * var**2

    def change(phi, slope, bend, sign=1.0):
        g = sign * growth * x**2
        return (
            weights @ (-rate * x * slope + DIFFUSIVITY * bend) + weights @ (g * phi) - (weights @ g) * (weights @ phi)
        )

    one = np.ones_like(x)
    fourth_dot = (4 * mean**3 + 12 * mean * var) * mean_dot + (6 * mean**2 + 6 * var) * var_dot
    cases = [(x, one, 0 * x, mean_dot), ((x - mean) ** 2, 2 * (x - mean), 2 * one, var_dot)]
    for *phi, expected in [*cases, (x**4, 4 * x**3, 12 * x**2, fourth_dot)]:
        assert np.isclose(change(*phi), expected)
        assert abs(change(*phi, sign=-1.0) - expected) > 0.1  # the sign in print
        g = growth * x**2
        uncentred = weights @ (-rate * x * phi[1] + DIFFUSIVITY * phi[2]) + weights @ (g * phi[0])
        assert abs(uncentred - expected) > 0.05  # of the growing population, not of the survivors' share


def test_a_mixture_of_gaussians_by_differences():
    """``full-mixture``: score and Laplacian against central differences of log p; without the trace they fail."""
    rng = np.random.default_rng(17)
    weights, means = np.array([0.2, 0.5, 0.3]), rng.normal(size=(3, 2))
    roots = rng.normal(size=(3, 2, 2))
    covariances = roots @ roots.transpose(0, 2, 1) + 0.5 * np.eye(2)
    inverses, x = np.linalg.inv(covariances), rng.normal(size=(20, 2))

    def parts(x):
        gone = x[:, None] - means
        quadratic = np.einsum("nki,kij,nkj->nk", gone, inverses, gone)
        logs = np.log(weights) - 0.5 * quadratic - 0.5 * np.linalg.slogdet(2 * np.pi * covariances)[1]
        return np.exp(logs), -np.einsum("kij,nkj->nki", inverses, gone)

    joint, pull = parts(x)
    posterior = joint / joint.sum(1, keepdims=True)
    score = np.einsum("nk,nki->ni", posterior, pull)
    traces = inverses.trace(axis1=1, axis2=2)
    laplacian = (posterior * ((pull**2).sum(2) - traces)).sum(1)

    def log_p(x):
        return np.log(parts(x)[0].sum(1))

    step, bend = 1e-4, 0.0
    for axis in np.eye(2):
        ahead, behind = log_p(x + step * axis), log_p(x - step * axis)
        assert np.allclose((ahead - behind) / (2 * step), score @ axis, atol=1e-6)
        bend = bend + (ahead - 2 * log_p(x) + behind) / step**2
    assert np.allclose(bend, laplacian - (score**2).sum(1), atol=1e-5)
    assert not np.allclose(bend, laplacian + traces @ weights - (score**2).sum(1), atol=0.1)


@pytest.mark.parametrize(("power", "right"), [(1, True), (0, False)])
def test_a_hopfield_energy_is_a_mixture(power, right):
    """``hopfield-density``: log of the mixture plus beta E_hop is one constant; with the printed weights it is not."""
    rng, beta = np.random.default_rng(18), 2.5
    patterns, z = rng.normal(size=(5, 3)), rng.normal(size=(40, 3))
    energy = 0.5 * (z**2).sum(1) - np.log(np.exp(beta * z @ patterns.T).sum(1)) / beta
    weights = np.exp(0.5 * beta**power * (patterns**2).sum(1))
    kernels = np.exp(-0.5 * beta * ((z[:, None] - patterns) ** 2).sum(2))
    assert (np.ptp(np.log(kernels @ weights) + beta * energy) < 1e-10) == right


def two_step(regressors, laplacian, steps=3):
    """Residual per datum is regressors @ theta + laplacian (n, K); optimally weighted estimate, errors, J."""
    n = len(laplacian)
    matrix, target = regressors.mean(0), -laplacian.mean(0)
    theta = np.linalg.lstsq(matrix, target, rcond=None)[0]
    for _ in range(steps):
        weight = np.linalg.inv(np.cov((regressors @ theta + laplacian).T))
        information = matrix.T @ weight @ matrix
        theta = np.linalg.solve(information, matrix.T @ weight @ target)
    gap = matrix @ theta - target
    return (
        theta,
        np.sqrt(np.diag(np.linalg.inv(information)) / n),
        n * gap @ weight @ gap,
        len(target) - len(theta),
    )
