"""Kernel designs: exact where theory says so, biased where it says so, and three solvers of one system."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from snapdyn import drifts, fokker_planck, scores, systems
from snapdyn.snapshots import Snapshots


def exact_kernel(system, probes):
    """A KernelEstimate that holds the exact score and Laplacian of the stationary density."""
    x = probes.clone().requires_grad_()
    score = torch.autograd.grad(system.log_prob(None, x).sum(), x, create_graph=True)[0]
    trace = sum(torch.autograd.grad(score[:, j].sum(), x, retain_graph=True)[0][:, j] for j in range(system.dim))
    score, trace = score.detach(), trace.detach()
    nothing = torch.zeros(len(probes), 0).double()
    log_prob = system.log_prob(None, probes)
    return scores.KernelEstimate(log_prob, score, score.square().sum(1) + trace, nothing, None)


def probes_of(system, n=200, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, system.dim)))


EXACT = {
    "hopf": ("hopf", {"diffusivity": 0.3, "growth": 1.4, "saturation": 0.8, "turn": 2.0}),
    "ou": ("ornstein-uhlenbeck", {"diffusivity": 0.7, "dim": 3, "rate": 1.3, "rotation": 1.1}),
    "double-well": ("double-well", {"diffusivity": 0.4, "slope": 1.3, "stiffness": 1.7}),
}


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("solver", ["least_squares", "least_absolute"])
def test_exact_scores_give_the_exact_parameters(name, solver):
    registered, parameters = EXACT[name]
    system = systems.build(registered, **parameters)
    probes = probes_of(system)
    design, rest = fokker_planck.plain_design(exact_kernel(system, probes), system.terms, probes, system.diffusivity)
    solve = getattr(fokker_planck, solver)
    theta = solve(design, rest)
    torch.testing.assert_close(theta, system.truth, rtol=1e-8, atol=1e-8)
    # the closed form without its minus sign, as it is printed, gives every parameter with the wrong sign
    torch.testing.assert_close(solve(design, -rest), -system.truth, rtol=1e-8, atol=1e-8)
    # D taken for 2 D doubles what nothing else sets the scale of
    wrong = fokker_planck.plain_design(exact_kernel(system, probes), system.terms, probes, 2 * system.diffusivity)
    assert (solve(*wrong) - system.truth).abs().max() > 0.2


def test_rows_are_the_stationary_residual():
    system = systems.build("hopf", diffusivity=0.3)
    probes = probes_of(system, 30)
    kernel = exact_kernel(system, probes)
    design, rest = fokker_planck.plain_design(kernel, system.terms, probes, 0.5)
    theta = torch.tensor([0.3, -2.0]).double()
    drift, divergence = system.terms(theta, probes), system.terms.divergence(theta, probes)
    expected = (kernel.score * drift).sum(1) + divergence - 0.5 * (kernel.score.square().sum(1) + kernel.divergence)
    torch.testing.assert_close(design @ theta + rest, expected)


@pytest.mark.parametrize("h", [[0.6, 0.6, 0.6], [0.4, 1.0, 2.0]], ids=["isotropic", "diagonal"])
def test_the_convolved_design_is_the_divergence_of_the_smoothed_flux(h):
    """Against finite differences of div(p_h m_h) / p_h with p_h m_h = mean of K_h(x - X_i) g(X_i)."""
    system = systems.build("lorenz", diffusivity=1.5)
    rng = np.random.default_rng(1)
    data, probes = (torch.from_numpy(rng.normal(size=(n, 3))) for n in (60, 7))
    width = torch.tensor(h).double()
    inverse = width**-2
    features = fokker_planck.convolution_features(system.terms, data, inverse)
    kernel = scores.kernel_pass(data, probes, width, features=features)
    design, rest = fokker_planck.convolved_design(kernel, system.terms, probes, inverse, 1.5)

    def kernels(x):  # (probes, data), not normalised
        return torch.exp(-0.5 * ((x[:, None] - data[None]) * width.pow(-1)).square().sum(2))

    def divergence(values):  # of the smoothed flux of a field (n, dim), by central differences
        total, step = 0.0, 1e-4
        for j in range(3):
            e = step * torch.eye(3)[j].double()
            total += (kernels(probes + e) - kernels(probes - e)) @ values[:, j] / (2 * step)
        return total / kernels(probes).sum(1)

    fields, known = system.terms.fields(data), system.terms.known(data)
    for k in range(3):
        torch.testing.assert_close(design[:, k], divergence(fields[:, k]), rtol=1e-6, atol=1e-6)
    laplacian, step = 0.0, 1e-3
    for j in range(3):
        e = step * torch.eye(3)[j].double()
        bend = kernels(probes + e) + kernels(probes - e) - 2 * kernels(probes)
        laplacian += bend.sum(1) / step**2
    laplacian = laplacian / kernels(probes).sum(1)
    torch.testing.assert_close(rest, divergence(known) - 1.5 * laplacian, rtol=1e-4, atol=1e-4)


def test_the_convolved_equation_holds_for_smoothed_exact_moments_at_any_width():
    """For a linear system m_h is known: E[X | X + h eps = x] = C (C + h^2)^-1 x; the rows then vanish."""
    system = systems.build("ornstein-uhlenbeck", diffusivity=0.6)
    probes, c = probes_of(system, 40), system.covariance
    for h in (0.3, 1.0, 4.0):
        smooth = torch.linalg.inv(c + h * h * torch.eye(2).double())
        flow = -system.matrix @ c @ smooth  # the conditional mean of the drift is flow x
        score = -probes @ smooth
        laplacian = score.square().sum(1) - smooth.trace()
        residual = (score * (probes @ flow.T)).sum(1) + flow.trace() - 0.6 * laplacian
        assert residual.abs().max() < 1e-12
        unsmoothed = (score * system.drift(None, probes)).sum(1) - system.matrix.trace() - 0.6 * laplacian
        assert unsmoothed.abs().mean() > 0.05 * min(h, 1) ** 2  # what the plain design takes for zero


def rows(n=300, count=3, seed=0, scale=(1.0, 1.0, 1.0)):
    """A design with columns of some scale, and a rest with heavy-tailed noise."""
    rng = np.random.default_rng(seed)
    design = rng.normal(size=(n, count))
    rest = -design @ np.array([10.0, 28.0, 8 / 3])[:count] + 2 * rng.laplace(size=n)
    return torch.from_numpy(design * scale), torch.from_numpy(rest)


def by_linear_programme(design, rest):
    """The exact L1 minimum: min sum(u) with -u <= A theta + c <= u."""
    a, c = design.numpy(), rest.numpy()
    n, m = a.shape
    cost = np.r_[np.zeros(m), np.ones(n)]
    bound = np.block([[a, -np.eye(n)], [-a, -np.eye(n)]])
    found = linprog(cost, bound, np.r_[-c, c], bounds=[(None, None)] * m + [(0, None)] * n, method="highs")
    return found.x[:m], found.fun / n


@pytest.mark.parametrize("scale", [(1.0, 1.0, 1.0), (1.0, 1e3, 1e-3)], ids=["even", "uneven"])
def test_reweighting_finds_the_exact_l1_minimum(scale):
    design, rest = rows(scale=scale)
    theta, least = by_linear_programme(design, rest)
    found = fokker_planck.least_absolute(design, rest)
    loss = (design @ found + rest).abs().mean().item()
    assert loss == pytest.approx(least, rel=1e-7)
    np.testing.assert_allclose(found.numpy() * scale, theta * scale, rtol=1e-4)
    squares = fokker_planck.least_squares(design, rest)
    assert (design @ squares + rest).abs().mean().item() > least * (1 + 1e-4)


def test_least_squares_is_the_pseudo_inverse_whatever_the_columns_scale():
    for scale in ((1.0, 1.0, 1.0), (1e-8, 1.0, 1e8)):
        design, rest = rows(scale=scale)
        expected = -np.linalg.pinv(design.numpy() / scale) @ rest.numpy() / scale
        np.testing.assert_allclose(fokker_planck.least_squares(design, rest).numpy(), expected, rtol=1e-8)


def adam(design, rest, seed=0, **changed):
    rng = np.random.default_rng(seed)
    starts = torch.from_numpy(rng.uniform(0, 40, (4, design.shape[1])))
    options = {"batch": 2, "epochs": 2, "rate": 0.05} | changed
    return starts, fokker_planck.adam_paths(design, rest, starts, rng=rng, **options)


def test_every_start_of_the_optimiser_ends_at_the_l1_minimum():
    design, rest = rows(n=5000, seed=1)
    starts, (theta, steps, path, loss) = adam(design, rest)
    exact = fokker_planck.least_absolute(design, rest)
    least = (design @ exact + rest).abs().mean()
    assert (theta - exact).abs().max() < 0.02 * exact.abs().max()
    assert (loss[-1] < 1.02 * least).all() and (loss[-1] >= least * (1 - 1e-9)).all()
    assert (loss[0] > 5 * least).all()  # it did have a way to go
    torch.testing.assert_close(path[0], starts)
    torch.testing.assert_close(path[-1], theta)
    assert steps[0] == 0 and steps[-1] == 5000 and path.shape == (len(steps), 4, 3)
    torch.testing.assert_close(loss[3], (design @ path[3].T + rest[:, None]).abs().mean(0))


def test_the_optimiser_repeats_itself_and_its_starts_do_not_meddle():
    design, rest = rows(n=100)
    starts, (theta, *_) = adam(design, rest)
    assert torch.equal(theta, adam(design, rest)[1][0])
    assert not torch.equal(theta, adam(design, rest, seed=1)[1][0])
    rng = np.random.default_rng(0)
    rng.uniform(0, 40, (4, 3))
    alone = fokker_planck.adam_paths(design, rest, starts[2:3], batch=2, epochs=2, rate=0.05, rng=rng)[0]
    torch.testing.assert_close(alone[0], theta[2], rtol=1e-10, atol=1e-10)


def test_a_batch_of_everything_follows_the_gradient_of_the_mean_loss():
    """One step of Adam moves every coefficient by the rate, against the sign of its gradient."""
    design, rest = rows(n=50)
    starts, (theta, steps, *_) = adam(design, rest, batch=50, epochs=1, rate=0.05)
    gradient = torch.sign(starts @ design.T + rest) @ design / 50
    torch.testing.assert_close(theta, starts - 0.05 * gradient.sign(), rtol=1e-5, atol=1e-5)
    assert steps.tolist() == [0, 1]


def method(terms, diffusivity, *, convolved=True, solver="lstsq", **options):
    return fokker_planck.KernelMethod(terms, diffusivity=diffusivity, convolved=convolved, solver=solver, **options)


def cloud_of(system, n, seed):
    return Snapshots.build(system.sample(n, np.random.default_rng(seed)), meta={"axes": list(system.axes)})


def test_the_convolved_form_is_unbiased_where_the_plain_one_is_not():
    """Eight clouds of a linear system, kernel of half a standard deviation."""
    system = systems.build("ornstein-uhlenbeck", diffusivity=0.5)
    truth, found = system.truth.numpy(), {}
    for convolved in (True, False):
        fits = [
            method(system.terms, 0.5, convolved=convolved, bandwidth=0.4, probes=1500).fit(
                cloud_of(system, 4000, seed), rng=np.random.default_rng(seed)
            )
            for seed in range(8)
        ]
        found[convolved] = np.stack([fit.coefficients - truth for fit in fits])
    error = {k: v.std(0, ddof=1) / np.sqrt(8) for k, v in found.items()}
    assert (np.abs(found[True].mean(0)) < 4 * error[True] + 0.01).all()
    diagonal = [0, 2]  # s00 and s11, which the smoothing shrinks
    assert (np.abs(found[False].mean(0)) > 10 * error[False])[diagonal].all()
    assert (found[False].mean(0)[diagonal] < -0.15).all()


@pytest.mark.parametrize("solver", ["lstsq", "l1"])
@pytest.mark.parametrize("name", ["hopf", "double-well"])
def test_the_convolved_form_recovers_nonlinear_systems(name, solver):
    system = systems.build(name, diffusivity=0.5)
    fit = method(system.terms, 0.5, solver=solver, probes=1500).fit(
        cloud_of(system, 8000, 1), rng=np.random.default_rng(0)
    )
    np.testing.assert_allclose(fit.coefficients, system.truth.numpy(), atol=0.15)
    flipped = method(system.terms, 1.0, solver=solver, probes=1500).fit(
        cloud_of(system, 8000, 1), rng=np.random.default_rng(0)
    )
    assert (np.abs(flipped.coefficients - system.truth.numpy()) > 0.5).all()


def test_the_optimiser_reports_the_median_of_its_starts_and_its_history():
    system = systems.build("hopf", diffusivity=0.5)
    options = {"convolved": False, "probes": 1000, "starts": 3, "high": 4.0, "bandwidth": 0.3}
    data = cloud_of(system, 3000, 2)
    fit = method(system.terms, 0.5, solver="adam", **options).fit(data, rng=np.random.default_rng(0))
    exact = method(system.terms, 0.5, solver="l1", **options).fit(data, rng=np.random.default_rng(0))
    np.testing.assert_allclose(fit.coefficients, exact.coefficients, atol=0.05)
    history = fit.history
    last = history["step"] == history["step"].max()
    for name, value in zip(fit.drift_terms.names, fit.coefficients, strict=True):
        ends = history["value"][last & (history["term"] == name)]
        assert len(ends) == 3 and np.median(ends) == pytest.approx(value)
    assert set(history["term"]) == {"loss", "growth", "saturation"} and set(history["member"]) == {0, 1, 2}
    assert fit.diagnostics["loss"] == pytest.approx(exact.diagnostics["loss"], rel=0.02)
    assert exact.history is None and np.isnan(exact.std_error).all()


def test_fits_repeat_use_training_rows_only_and_agree_in_single_precision():
    system = systems.build("hopf", diffusivity=0.5)
    data = cloud_of(system, 2000, 3)
    split = np.array(["train"] * 1500 + ["test"] * 500, dtype=object)
    spoiled = Snapshots.build(np.r_[data.x[:1500], 100 + data.x[1500:]], split=split, meta=data.meta)

    def fit(snapshots, seed=0, **options):
        return method(system.terms, 0.5, probes=700).fit(snapshots, rng=np.random.default_rng(seed), **options)

    clean = fit(data.where(np.arange(1500)))
    np.testing.assert_array_equal(fit(spoiled).coefficients, clean.coefficients)
    np.testing.assert_array_equal(fit(spoiled, threads=2).coefficients, clean.coefficients)
    assert not np.array_equal(fit(spoiled, seed=1).coefficients, clean.coefficients)  # other probes
    np.testing.assert_allclose(fit(spoiled, precision="float32").coefficients, clean.coefficients, rtol=1e-3)


@pytest.mark.parametrize("probes", [1, 2])
def test_too_few_probes_are_refused(probes):
    system = systems.build("hopf", diffusivity=0.5)
    with pytest.raises(ValueError, match=f"2 unknown coefficients need more than 2 probing points, got {probes}"):
        method(system.terms, 0.5, probes=probes).fit(cloud_of(system, 500, 0), rng=np.random.default_rng(0))


@pytest.mark.parametrize("convolved", [False, True])
def test_unknowns_that_stand_for_the_same_field_are_refused(convolved):
    terms = drifts.from_expressions({"a": ["x", "0"], "b": ["2*x", "0"], "c": ["0", "y"]}, None, axes=("x", "y"))
    cloud = cloud_of(systems.build("hopf", diffusivity=0.5), 500, 0)
    with pytest.raises(ValueError, match="these data determine only 2 of 3 unknown coefficients"):
        method(terms, 0.5, convolved=convolved).fit(cloud, rng=np.random.default_rng(0))


def test_identical_points_are_refused_with_what_to_do():
    cloud = Snapshots.build(np.ones((50, 2)), meta={"axes": ["x", "y"]})
    with pytest.raises(ValueError, match="a cloud of identical points gives 0: drop the constant axis, or set a"):
        method(drifts.affine(2, axes=("x", "y")), 0.5).fit(cloud, rng=np.random.default_rng(0))


def test_rows_that_weigh_more_count_more():
    """Weights 1 and 3 are the cloud with the second half there three times."""
    system = systems.build("hopf", diffusivity=0.5)
    one, two = cloud_of(system, 600, 4), cloud_of(systems.build("hopf", diffusivity=1.5), 600, 5)
    weight = np.repeat([1.0, 3.0], 600)
    weighted = Snapshots.build(np.r_[one.x, two.x], weight=weight, meta=one.meta)
    repeated = Snapshots.build(np.r_[one.x, two.x, two.x, two.x], meta=one.meta)
    fit = method(system.terms, 0.5, bandwidth=0.5)
    equal = fit.fit(Snapshots.build(weighted.x, meta=one.meta), rng=np.random.default_rng(0)).coefficients
    found = fit.fit(weighted, rng=np.random.default_rng(0)).coefficients
    expected = fit.fit(repeated, rng=np.random.default_rng(0)).coefficients
    assert np.abs(found - expected).max() < 0.3 * np.abs(equal - expected).max()
