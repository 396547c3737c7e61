"""Moments: every sum against plain numpy, honest errors and tests of the model, and refusals of what cannot be seen."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.linalg import expm, solve_continuous_lyapunov

from snapdyn import drifts, moments, systems, weakform
from snapdyn.snapshots import Snapshots

OU = {"diffusivity": 0.5, "rate": 1.0, "coupling": 0.4, "rotation": 0.8}


def ou(**changed):
    return systems.build("ornstein-uhlenbeck", **(OU | changed))


def cloud_of(system, n, seed):
    return Snapshots.build(system.sample(n, np.random.default_rng(seed)), meta={"axes": list(system.axes)})


def fit(terms, snapshots, *, diffusivity, seed=0, **options):
    method = moments.Moments(terms, diffusivity=diffusivity, **options)
    return method.fit(snapshots, rng=np.random.default_rng(seed))


def monomials_by_hand(x, powers, centre, scale):
    """Values, gradients ``(n, dim, count)`` and Laplacians of standardised monomials, one power at a time."""
    z, dim = (x - centre) / scale, x.shape[1]
    value, laplacian = np.empty((len(x), len(powers))), np.zeros((len(x), len(powers)))
    gradient = np.empty((len(x), dim, len(powers)))

    def derivative(e, order, j):
        factor = np.prod([e - k for k in range(order)]) if order else 1.0
        return np.zeros(len(x)) if e < order else factor * z[:, j] ** (e - order) / scale[j] ** order

    for a, power in enumerate(powers):
        value[:, a] = np.prod([z[:, j] ** e for j, e in enumerate(power)], 0)
        for i in range(dim):
            others = np.prod([z[:, j] ** e for j, e in enumerate(power) if j != i] or [np.ones(len(x))], 0)
            gradient[:, i, a] = derivative(power[i], 1, i) * others
            laplacian[:, a] += derivative(power[i], 2, i) * others
    return value, gradient, laplacian


class ByHand:
    """The moment equations of one or several clouds in numpy, from every residual of every row."""

    def __init__(self, terms, tests, clouds, times=None, diffusivity=None, weights=None):
        self.diffusivity, self.times = diffusivity, times
        weights = weights or [np.ones(len(x)) for x in clouds]
        self.shares = [w / w.sum() for w in weights]
        self.parts = []
        for x in clouds:
            value, gradient, laplacian = monomials_by_hand(
                x, tests.powers.tolist(), tests.centre.numpy(), tests.scale.numpy()
            )
            fields, known = terms.fields(torch.from_numpy(x)).numpy(), terms.known(torch.from_numpy(x)).numpy()
            columns = np.einsum("nkd,nda->nak", fields, gradient)
            rest = np.einsum("nd,nda->na", known, gradient)
            if diffusivity is None:
                columns = np.concatenate([columns, laplacian[..., None]], 2)
            else:
                rest = rest + diffusivity * laplacian
            self.parts.append((value, columns, rest))

    def roles(self):
        """For every equation, (cloud, factor of phi, factor of L phi)."""
        if self.times is None:
            return [[(0, 0.0, 1.0)]]
        change = np.eye(len(self.times))[:-1] - np.eye(len(self.times))[1:]
        integral = moments.quadrature(self.times)  # has a test of its own
        return [
            [(s, v, g) for s, (v, g) in enumerate(zip(*row, strict=True))] for row in zip(change, integral, strict=True)
        ]

    def system(self):
        design, rest = [], []
        for roles in self.roles():
            design.append(sum(g * np.einsum("n,nak->ak", self.shares[s], self.parts[s][1]) for s, _, g in roles))
            rest.append(sum(self.shares[s] @ (v * self.parts[s][0] + g * self.parts[s][2]) for s, v, g in roles))
        return np.concatenate(design), -np.concatenate(rest)

    def noise(self, theta):
        equations = self.roles()
        tests = self.parts[0][0].shape[1]
        total = np.zeros((len(equations) * tests,) * 2)
        for s, (value, columns, rest) in enumerate(self.parts):
            stacked = []
            for roles in equations:
                v, g = next(((v, g) for i, v, g in roles if i == s), (0.0, 0.0))
                stacked.append(v * value + g * (columns @ theta + rest))
            rows = np.concatenate(stacked, 1)
            centred = rows - self.shares[s] @ rows
            total += (self.shares[s][:, None] ** 2 * centred).T @ centred
        return total

    def solve(self, theta, iterations):
        design, rest = self.system()
        for _ in range(iterations):
            inverse = np.linalg.inv(self.noise(theta))
            bread = np.linalg.inv(design.T @ inverse @ design)
            theta = bread @ design.T @ inverse @ rest
        residual = design @ theta - rest
        return theta, np.sqrt(np.diag(bread)), residual @ inverse @ residual


def test_test_functions_are_monomials_with_their_derivatives():
    x = torch.from_numpy(np.random.default_rng(0).normal(2.0, 3.0, size=(40, 3)))
    tests = weakform.Tests.monomials(x, 4)
    assert tests.count == 34 and (tests.powers.sum(1) > 0).all()
    for found, expected in zip(
        tests(x),
        monomials_by_hand(x.numpy(), tests.powers.tolist(), tests.centre.numpy(), tests.scale.numpy()),
        strict=True,
    ):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_gradients_and_laplacians_are_those_of_automatic_differentiation(dim):
    x = torch.from_numpy(np.random.default_rng(1).normal(1.0, 2.0, size=(6, dim)))
    tests = weakform.Tests.monomials(x, 3)
    _, gradient, laplacian = tests(x)

    def value(point):
        return tests(point[None])[0][0]

    slope = torch.func.vmap(torch.func.jacrev(value))(x)  # (n, tests, dim)
    bend = torch.func.vmap(torch.func.jacfwd(torch.func.jacrev(value)))(x).diagonal(dim1=2, dim2=3).sum(2)
    torch.testing.assert_close(gradient.transpose(1, 2), slope, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(laplacian, bend, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("times", [[0.0, 0.3], [0.0, 0.3, 1.0], [-1.0, 0.0, 0.2, 1.5, 2.0, 4.0]])
def test_quadrature_integrates_polynomials_over_unequal_gaps(times):
    weights, times = moments.quadrature(times), np.array(times)
    points = min(4, len(times))
    for power in range(points + 1):
        exact = np.diff(times ** (power + 1)) / (power + 1)
        wrong = np.abs(weights @ times**power - exact).max()
        assert wrong < 1e-12 if power < points else wrong > 1e-4
    if len(times) == 2:
        np.testing.assert_allclose(weights, [[0.15, 0.15]])


CASES = {
    "stationary, D given": (None, 0.3),
    "stationary, D unknown": (None, None),
    "timed, D given": ([0.0, 0.3, 1.0], 0.3),
    "timed, D unknown": ([0.0, 0.3, 1.0], None),
}


@pytest.mark.parametrize("streamed", [False, True], ids=["gram", "streamed"])
@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
@pytest.mark.parametrize("case", CASES)
def test_equations_noise_and_solution_are_the_plain_formulas(monkeypatch, case, weighted, streamed):
    times, diffusivity = CASES[case]
    monkeypatch.setattr(moments, "SETTLED", 0.0)  # as many iterations as asked for
    monkeypatch.setattr(weakform, "CHUNK", 64)  # several chunks, the last one short
    if streamed:
        monkeypatch.setattr(weakform, "GRAM_LIMIT", 0)
    terms, rng = ou().terms, np.random.default_rng(2)
    clouds = [rng.normal(size=(300 + 50 * s, 2)) * [1.0, 0.6] + 0.1 * s for s in range(len(times or [0]))]
    weights = [rng.uniform(0.2, 3, len(x)) for x in clouds] if weighted else None
    tests = weakform.Tests.monomials(torch.from_numpy(np.concatenate(clouds)), 3)
    parts = []
    for s, x in enumerate(clouds):
        weight = torch.from_numpy(weights[s]) if weighted else None
        parts.append(weakform.Cloud(terms, tests, torch.from_numpy(x), weight, threads=2))
        assert (parts[-1].gram is None) == streamed
    found = moments.MomentEquations(parts, times, diffusivity=diffusivity)
    expected = ByHand(terms, tests, clouds, times, diffusivity, weights)
    for one, two in zip(found.system(), expected.system(), strict=True):
        np.testing.assert_allclose(one.numpy(), two, rtol=1e-10, atol=1e-10)
    theta = rng.normal(size=found.unknowns)
    np.testing.assert_allclose(
        found.noise(torch.from_numpy(theta)).numpy(), expected.noise(theta), rtol=1e-10, atol=1e-10
    )
    direction = rng.normal(size=found.unknowns)
    bare = ByHand(terms, tests, clouds, times, diffusivity, weights)  # M w alone: no values, no known part
    bare.parts = [(0 * value, columns, 0 * rest) for value, columns, rest in bare.parts]
    along = bare.noise(direction)
    np.testing.assert_allclose(found.noise_along(torch.from_numpy(direction)).numpy(), along, rtol=1e-10, atol=1e-10)
    solution = found.solve(3)
    theta, error, statistic = expected.solve(found.start().numpy(), 3)
    np.testing.assert_allclose(solution.estimate, theta, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(solution.std_error, error, rtol=1e-7)
    assert solution.j_statistic == pytest.approx(statistic, rel=1e-6)
    assert solution.j_dof == max(1, len(clouds) - 1) * tests.count - found.unknowns
    assert solution.j_p == pytest.approx(stats.chi2.sf(statistic, solution.j_dof), rel=1e-5, abs=1e-12)


def test_whitening_undoes_the_covariance_and_drops_what_is_noise_of_rounding():
    half = np.random.default_rng(0).normal(size=(6, 4))
    units = np.array([1e-6, 1.0, 1e3, 1e6, 1.0, 1e-3])[:, None]
    covariance = torch.from_numpy((units * half) @ (units * half).T)  # rank 4 in 6, in six units
    root = moments.whitening(covariance)
    assert root.shape == (4, 6)
    torch.testing.assert_close(root @ covariance @ root.T, torch.eye(4).double(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["ornstein-uhlenbeck", "hopf", "double-well"])
def test_the_generator_averages_to_zero_over_the_stationary_law_and_a_wrong_one_does_not(name):
    system = systems.build(name, diffusivity=0.5)
    x = torch.from_numpy(system.sample(20000, np.random.default_rng(3)))
    tests = weakform.Tests.monomials(x, 4)
    equations = moments.MomentEquations([weakform.Cloud(system.terms, tests, x)], diffusivity=0.5)

    def z_scores(factor, diffusivity=0.5):
        equations.diffusivity = diffusivity
        design, rest = equations.system()
        theta = factor * system.truth
        return ((design @ theta - rest) / equations.noise(theta).diagonal().sqrt()).abs()

    assert z_scores(1.0).max() < 4
    assert z_scores(1.2).max() > 6
    assert z_scores(1.0, 1.0).max() > 20  # D taken for 2 D


def replicates(system, terms, n, seeds, **options):
    return [fit(terms, cloud_of(system, n, seed), diffusivity=system.diffusivity, **options) for seed in seeds]


@pytest.fixture(scope="module")
def hundred():
    return replicates(ou(), ou().terms, 2000, range(100))


def test_standard_errors_cover(hundred):
    truth = ou().truth.numpy()
    z = np.stack([(f.coefficients - truth) / f.std_error for f in hundred])
    rms = np.sqrt((z**2).mean(0))
    assert ((rms > 0.8) & (rms < 1.25)).all()
    assert 0.88 < (np.abs(z) < 1.96).mean() < 0.99


def test_the_j_test_has_its_size_and_rejects_a_missing_term(hundred):
    few = np.mean([f.diagnostics["j_statistic"] / f.diagnostics["j_dof"] for f in hundred])
    assert 0.85 < few < 1.3  # estimated weights: a little too large at 2000 points ..
    many = replicates(ou(), ou().terms, 12000, range(200, 230), degree=4)
    ratio = np.array([f.diagnostics["j_statistic"] / f.diagnostics["j_dof"] for f in many])
    p = np.array([f.diagnostics["j_p_value"] for f in many])
    assert 0.8 < ratio.mean() < 1.15 and (p < 0.05).sum() <= 5  # .. and right at 12000
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    assert {f.diagnostics["j_dof"] for f in many} == {14.0 - 3.0}
    well = systems.build("double-well", diffusivity=0.3)
    linear = drifts.from_expressions({"a": ["x", "0"], "c": ["0", "-y"]}, None, axes=("x", "y"))
    missing = replicates(well, linear, 1000, range(5))
    assert all(f.diagnostics["j_p_value"] < 1e-6 for f in missing)
    assert all(f.diagnostics["j_statistic"] > 3 * f.diagnostics["j_dof"] for f in missing)


def test_without_a_clock_a_wrong_diffusivity_scales_the_drift():
    well = systems.build("double-well", diffusivity=0.3)
    data = cloud_of(well, 3000, 0)
    one, two = (fit(well.terms, data, diffusivity=d) for d in (0.3, 0.6))
    np.testing.assert_allclose(two.coefficients, 2 * one.coefficients, rtol=1e-6)
    assert two.diagnostics["j_statistic"] == pytest.approx(one.diagnostics["j_statistic"], rel=1e-5)


def test_lorenz_is_recovered_within_its_errors_and_its_diffusivity_too():
    from snapdyn import simulate

    system = systems.build("lorenz", diffusivity=12.5)
    x = simulate.stationary_cloud(system, 4000, dt=1e-3, burn=3.0, seed=0)
    data = Snapshots.build(x, meta={"axes": ["x", "y", "z"]})
    known = fit(system.terms, data, diffusivity=12.5, degree=4)
    assert (np.abs(known.coefficients - system.truth.numpy()) < 4 * known.std_error).all()
    assert (known.std_error < [0.2, 0.2, 0.1]).all()
    assert fit(system.terms, data, diffusivity=25.0, degree=4).diagnostics["j_p_value"] < 1e-6  # it has a clock
    joint = fit(system.terms, data, diffusivity="unknown", degree=4)
    assert abs(joint.diffusivity - 12.5) < 4 * joint.diffusivity_error < 5
    assert joint.parameters["name"].tolist() == ["sigma", "rho", "beta", "diffusivity"]
    assert known.parameters["name"].tolist() == ["sigma", "rho", "beta"]


# Timed snapshots of dX = (A X + b) dt + sqrt(2 D) dW, drawn exactly.
MATRIX, OFFSET, NOISE = np.array([[-1.0, 0.6], [-0.4, -0.7]]), np.array([0.5, -0.2]), 0.3


def linear_snapshots(n, times, seed):
    rng, clouds = np.random.default_rng(seed), []
    rest = solve_continuous_lyapunov(MATRIX, -2 * NOISE * np.eye(2))
    fixed = -np.linalg.solve(MATRIX, OFFSET)
    for t in times:
        carry = expm(MATRIX * (t - times[0]))
        x = np.array([2.0, 1.0]) + rng.normal(size=(n, 2)) * [0.5, 0.3]
        noise = rest - carry @ rest @ carry.T
        clouds.append((x - fixed) @ carry.T + fixed + rng.multivariate_normal(np.zeros(2), noise, n, method="eigh"))
    meta = {"axes": ["x", "y"], "time_unit": "day"}
    return Snapshots.build(np.concatenate(clouds), t=np.repeat(times, n).astype(float), meta=meta)


def truth_of_linear():
    return np.concatenate([np.r_[OFFSET[i], MATRIX[i]] for i in range(2)])


def test_timed_moments_recover_drift_and_diffusivity_over_short_gaps():
    z = []
    for seed in range(15):
        data = linear_snapshots(1500, [0.0, 0.2, 0.4, 0.6, 0.8], seed)
        found = fit(drifts.affine(2, axes=("x", "y"), time_unit="day"), data, diffusivity="unknown")
        estimate = np.r_[found.coefficients, found.diffusivity]
        error = np.r_[found.std_error, found.diffusivity_error]
        z.append((estimate - np.r_[truth_of_linear(), NOISE]) / error)
        assert error[-1] < 0.03
    assert np.abs(z).max() < 4.5
    assert 0.75 < np.sqrt(np.mean(np.square(z))) < 1.3
    assert np.abs(np.mean(z, 0)).max() < 1.0


def test_the_trapezium_shows_over_long_gaps():
    data = linear_snapshots(20000, [0.0, 2.5], 0)
    found = fit(drifts.affine(2, axes=("x", "y")), data, diffusivity="unknown", degree=4)
    z = (found.coefficients - truth_of_linear()) / found.std_error
    assert np.abs(z).max() > 6


def test_times_doubled_halve_every_rate():
    data = linear_snapshots(1500, [0.0, 0.3, 0.6], 1)
    slow = Snapshots.build(data.x, t=2 * data.t, meta=data.meta)
    one, two = (fit(drifts.affine(2, axes=("x", "y")), d, diffusivity="unknown") for d in (data, slow))
    np.testing.assert_allclose(two.coefficients, one.coefficients / 2, rtol=1e-6)
    np.testing.assert_allclose(two.std_error, one.std_error / 2, rtol=1e-6)
    assert two.diffusivity == pytest.approx(one.diffusivity / 2, rel=1e-6)
    assert two.diffusivity_error == pytest.approx(one.diffusivity_error / 2, rel=1e-6)


def test_every_column_times_ten_changes_coefficients_as_their_units_say():
    """[y]/[x^2 y]/time and so on: theta c_j / prod c^alpha, with D a hundredfold; errors too."""
    system = ou(rotation=0.0)
    data = cloud_of(system, 3000, 5)
    terms = drifts.from_expressions(
        {"a": ["x", "0"], "b": ["0", "y"], "cube": ["x^3", "0"], "mixed": ["0", "x^2*y"], "constant": ["1", "0"]},
        None,
        axes=("x", "y"),
    )
    units = 10.0 ** np.array([0, 0, -2, -2, 1])
    one = fit(terms, data, diffusivity=0.5)
    two = fit(terms, Snapshots.build(10 * data.x, meta=data.meta), diffusivity=50.0)
    np.testing.assert_allclose(two.coefficients, one.coefficients * units, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(two.std_error, one.std_error * units, rtol=1e-6)
    assert two.diagnostics["j_statistic"] == pytest.approx(one.diagnostics["j_statistic"], rel=1e-6)


def test_one_column_times_ten_changes_coefficients_as_their_units_say():
    """Of a motion without noise: isotropic noise would not stay isotropic."""
    rng, times = np.random.default_rng(6), [0.0, 0.5, 1.0]
    x = np.concatenate([(OFFSET + rng.normal(size=(1500, 2))) @ expm(MATRIX * t).T for t in times])
    t, scale = np.repeat(times, 1500), np.array([1.0, 10.0])
    terms = drifts.affine(2, axes=("x", "y"))
    one = fit(terms, Snapshots.build(x, t=t, meta={}), diffusivity=1e-14)
    two = fit(terms, Snapshots.build(x * scale, t=t, meta={}), diffusivity=1e-14)
    powers = np.array(drifts.exponents(2, 1))
    units = np.concatenate([s / np.prod(scale**powers, 1) for s in scale])
    np.testing.assert_allclose(two.coefficients, one.coefficients * units, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(two.std_error, one.std_error * units, rtol=1e-6)


def test_a_shifted_cloud_has_the_shifted_drift():
    """f = A x + b in y = x + m is A y + (b - A m), whatever the data."""
    data, shift = linear_snapshots(1500, [0.0, 0.3, 0.6], 1), np.array([30.0, -8.0])
    moved = Snapshots.build(data.x + shift, t=data.t, meta=data.meta)
    one, two = (fit(drifts.affine(2, axes=("x", "y")), d, diffusivity="unknown") for d in (data, moved))
    theta, theta_moved = one.coefficients.reshape(2, 3), two.coefficients.reshape(2, 3)
    near = moments.SETTLED * one.std_error.max()  # re-weighting stops within this of its limit
    np.testing.assert_allclose(theta_moved[:, 1:], theta[:, 1:], atol=near)
    np.testing.assert_allclose(theta_moved[:, 0], theta[:, 0] - theta[:, 1:] @ shift, atol=40 * near)
    np.testing.assert_allclose(two.std_error.reshape(2, 3)[:, 1:], one.std_error.reshape(2, 3)[:, 1:], rtol=1e-3)
    assert two.diffusivity == pytest.approx(one.diffusivity, abs=moments.SETTLED * one.diffusivity_error)


def test_whole_weights_are_repetitions_in_the_equations():
    terms, rng = ou().terms, np.random.default_rng(7)
    x, times = torch.from_numpy(rng.normal(size=(80, 2))), torch.from_numpy(rng.integers(1, 5, 80))
    tests = weakform.Tests.monomials(x, 3)
    weighted = moments.MomentEquations([weakform.Cloud(terms, tests, x, times.double())], diffusivity=0.5)
    repeated = moments.MomentEquations([weakform.Cloud(terms, tests, x.repeat_interleave(times, 0))], diffusivity=0.5)
    for one, two in zip(weighted.system(), repeated.system(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(weighted.start(), repeated.start(), rtol=1e-9, atol=1e-9)


def test_equal_weights_and_weights_of_zero():
    """Weights of 2 are no more data than weights of 1; a row of weight 0 is not there."""
    data = cloud_of(ou(), 1500, 8)
    plain = fit(ou().terms, data, diffusivity=0.5, degree=4)
    doubled = fit(ou().terms, Snapshots.build(data.x, weight=np.full(1500, 2.0), meta=data.meta), diffusivity=0.5)
    np.testing.assert_allclose(doubled.std_error, plain.std_error, rtol=1e-9)
    np.testing.assert_allclose(doubled.coefficients, plain.coefficients, rtol=1e-9)
    x, keep = torch.from_numpy(data.x), torch.arange(1500) % 3 > 0
    tests = weakform.Tests.monomials(x, 4)
    some = moments.MomentEquations([weakform.Cloud(ou().terms, tests, x, keep.double())], diffusivity=0.5).solve()
    less = moments.MomentEquations([weakform.Cloud(ou().terms, tests, x[keep])], diffusivity=0.5).solve()
    np.testing.assert_allclose(some.estimate, less.estimate, rtol=1e-8)
    np.testing.assert_allclose(some.std_error, less.std_error, rtol=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_a_rotation_that_the_cloud_cannot_show_is_refused(seed):
    data = cloud_of(ou(), 2000, seed)
    with pytest.raises(ValueError, match="do not determine all 6 unknowns: a combination of .*'x0: x1'.*in `known:`"):
        fit(drifts.affine(2, axes=("x0", "x1")), data, diffusivity=0.5, seed=seed)
    hopf = systems.build("hopf", diffusivity=0.5)
    swirl = drifts.from_expressions(
        {"growth": ["x", "y"], "saturation": ["-x*(x^2+y^2)", "-y*(x^2+y^2)"], "turn": ["y", "-x"]},
        None,
        axes=("x", "y"),
    )
    with pytest.raises(ValueError, match="a combination of .*'turn'"):
        fit(swirl, cloud_of(hopf, 2000, seed), diffusivity=0.5, seed=seed)


@pytest.mark.parametrize("seed", range(4))
def test_what_the_data_determine_is_not_refused(seed):
    """The same rotation in time, or beside a known one; and a full cubic library along one axis."""
    moved = linear_snapshots(1000, [0.0, 0.3, 0.6], seed)
    assert fit(drifts.affine(2, axes=("x", "y")), moved, diffusivity="unknown", seed=seed).diffusivity > 0
    assert len(fit(ou().terms, cloud_of(ou(), 1000, seed), diffusivity=0.5, seed=seed).coefficients) == 3
    one = ou(dim=1)
    found = fit(drifts.polynomial(1, 3, axes=("x0",)), cloud_of(one, 3000, seed), diffusivity=0.5, seed=seed)
    assert (np.abs(found.coefficients - [0, -1, 0, 0]) < 4.5 * found.std_error).all()


@pytest.mark.parametrize("name", ["ornstein-uhlenbeck", "hopf", "double-well"])
def test_an_unknown_diffusivity_without_a_clock_is_refused(name):
    """A cloud at rest shows only the ratio of drift to diffusivity, whoever claims to know better."""
    system = systems.build(name, diffusivity=0.5)
    plain = drifts.from_expressions({"a": ["x", "0"], "c": ["0", "y"]}, None, axes=("x", "y"))
    with pytest.raises(ValueError, match="needs timed snapshots or a drift with a known part"):
        fit(plain, cloud_of(system, 500, 0), diffusivity="unknown")
    with pytest.raises(ValueError, match="diffusivity"):
        fit(system.terms, cloud_of(system, 2000, 0), diffusivity="unknown")


def test_more_unknowns_than_rows_or_moments_are_refused():
    library = drifts.polynomial(2, 3, axes=("x", "y"))
    with pytest.raises(ValueError, match="20 unknowns cannot be determined from 15 rows and .* moments: give more"):
        fit(library, cloud_of(ou(), 15, 0), diffusivity=0.5)
    with pytest.raises(ValueError, match="20 unknowns cannot be determined from 500 rows and 5 moments.*degree"):
        fit(library, cloud_of(ou(), 500, 0), diffusivity=0.5, degree=2)


def test_degenerate_clouds_are_refused_in_words():
    x = np.random.default_rng(0).normal(size=(200, 2))
    flat = Snapshots.build(x * [1.0, 0.0], meta={})
    same = Snapshots.build(np.ones((200, 2)), meta={})
    once = Snapshots.build(x, t=np.zeros(200), meta={})
    terms = drifts.from_expressions({"a": ["x", "0"], "c": ["0", "y"]}, None, axes=("x", "y"))
    for data in (flat, same, once):
        with pytest.raises(ValueError, match="constant|spread|identical|two (snapshots|times)|determine"):
            fit(terms, data, diffusivity=0.5)


def test_fits_use_training_rows_only_and_do_not_depend_on_threads():
    data = cloud_of(ou(), 1500, 9)
    split = np.array(["train"] * 1200 + ["test"] * 300, dtype=object)
    spoiled = Snapshots.build(np.r_[data.x[:1200], 50 + data.x[1200:]], split=split, meta=data.meta)
    clean = fit(ou().terms, data.where(np.arange(1200)), diffusivity=0.5)
    np.testing.assert_array_equal(fit(ou().terms, spoiled, diffusivity=0.5).coefficients, clean.coefficients)
    method = moments.Moments(ou().terms, diffusivity=0.5)
    threaded = method.fit(spoiled, rng=np.random.default_rng(0), threads=3)
    np.testing.assert_array_equal(threaded.coefficients, clean.coefficients)
