"""The kernel deviation from stationarity: the form against derivatives of the kernel, and its minimum."""

import numpy as np
import pytest
import torch
from torch.func import jacrev, vmap

from snapdyn import drifts, kds, scores, systems
from snapdyn.snapshots import Snapshots

LIBRARIES = {
    "lorenz": systems.build("lorenz", diffusivity=1.0).terms,
    "polynomial": drifts.polynomial(2, 2, axes=("x", "y")),
    "double-well": systems.build("double-well", diffusivity=1.0).terms,
}
WIDTHS = {"even": [0.9, 0.9, 0.9], "uneven": [0.5, 1.2, 2.0]}


def points(n, dim, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(0.4, 1.0, (n, dim))), torch.from_numpy(rng.uniform(0.2, 2.0, n))


def gradient_and_laplacian(function):
    """State to (d_1 phi .. d_d phi, Laplacian phi), by automatic differentiation, after any leading axes of phi."""

    def both(x):
        bend = jacrev(jacrev(function))(x).diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
        return torch.cat([jacrev(function)(x), bend], -1)

    return both


def by_double_loop(drift, diffusivity, width, x):
    """A_x A_y k for all parts of the drift and all pairs ``(n, n, parts, parts)``; A = f . grad + D Laplacian."""

    def kernel(x, y):
        return torch.exp(-0.5 * ((x - y) / width).square().sum())

    def derivatives(x, y):  # (of x, of y)
        return gradient_and_laplacian(lambda x: gradient_and_laplacian(lambda y: kernel(x, y))(y))(x).T

    fields = torch.cat([drift.fields(x), drift.known(x)[:, None]], 1)
    noise = torch.zeros_like(fields[:, :, :1])
    noise[:, -1] = diffusivity
    parts = torch.cat([fields, noise], 2)
    table = vmap(vmap(derivatives, (None, 0)), (0, None))(x, x)
    return torch.einsum("ika,ijab,jlb->ijkl", parts, table, parts)


def form_of(drift, diffusivity, width, x, weight, centre=None, **options):
    pairs = kds.PairFeatures(drift, diffusivity, x.mean(0) if centre is None else centre, width)
    return kds.deviation_form(pairs, x, weight, **options)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", LIBRARIES)
def test_the_form_is_the_mean_over_pairs_of_the_generator_on_both_arguments(name, width):
    drift = LIBRARIES[name]
    x, weight = points(9, drift.dim)
    width = torch.tensor(WIDTHS[width][: drift.dim]).double()
    direct = by_double_loop(drift, 0.7, width, x)
    torch.testing.assert_close(direct, direct.permute(1, 0, 3, 2))
    both = torch.outer(weight, weight)
    v = torch.einsum("ij,ijkl->kl", both, direct) / both.sum()
    both.fill_diagonal_(0)
    u = torch.einsum("ij,ijkl->kl", both, direct) / both.sum()
    size = u.diagonal().abs().sqrt()
    for statistic, expected in (("u", u), ("v", v)):
        found = form_of(drift, 0.7, width, x, weight, statistic=statistic)
        assert ((found - expected).abs() < 1e-10 * torch.outer(size, size)).all()
    # the noise enters: D taken for 2 D would be seen
    wrong = form_of(drift, 1.4, width, x, weight)
    assert ((wrong - u).abs() > 1e-2 * torch.outer(size, size)).any()


def test_the_statistics_differ_by_the_pairs_of_a_point_with_itself():
    """There the kernel is 1: H has g_j . g_k / l^2, b has 0, the constant D^2 (d^2 + 2 d) / l^4."""
    drift = LIBRARIES["lorenz"]
    x, weight = points(300, 3)
    length, diffusivity = 0.8, 1.5
    width = torch.full((3,), length, dtype=torch.float64)
    u, v = (form_of(drift, diffusivity, width, x, weight, statistic=s) for s in "uv")
    fields = torch.cat([drift.fields(x), drift.known(x)[:, None]], 1)
    own = torch.einsum("n,nkd,nld->kl", weight.square(), fields, fields) / length**2
    own[-1, -1] += weight.square().sum() * diffusivity**2 * 15 / length**4
    pairs = weight.sum().square() - weight.square().sum()
    torch.testing.assert_close(v * weight.sum().square(), u * pairs + own, rtol=1e-9, atol=1e-9)
    assert (own.diagonal() > 1e-3 * pairs * u.diagonal().abs()).all()


def test_neither_tiles_nor_threads_nor_the_centre_matter(monkeypatch):
    drift = LIBRARIES["polynomial"]
    x, weight = points(700, 2)
    width = torch.tensor([0.7, 1.1]).double()
    whole = form_of(drift, 0.5, width, x, weight)
    assert torch.equal(form_of(drift, 0.5, width, x, weight, threads=3), whole)
    moved = form_of(drift, 0.5, width, x, weight, centre=torch.tensor([-1.0, 2.0]).double())
    torch.testing.assert_close(moved, whole, rtol=1e-9, atol=1e-9)
    monkeypatch.setitem(scores.TILE, "cpu", (37, 41))
    monkeypatch.setattr(kds, "CHUNK", 10_000)
    torch.testing.assert_close(form_of(drift, 0.5, width, x, weight), whole, rtol=1e-9, atol=1e-9)


def test_dependent_features_are_worked_out_once():
    x, _ = points(400, 2)
    pairs = kds.PairFeatures(LIBRARIES["polynomial"], 0.5, x.mean(0), torch.ones(2).double())
    chosen, combine = kds.independent_columns(pairs.right, x)
    features = pairs.right(x)
    size = features.norm(dim=0).clamp_min(1e-300)
    assert len(chosen) == 15  # the monomials up to degree 4
    assert int((features != 0).any(0).sum()) > 80
    assert ((features[:, chosen] @ combine - features) / size).abs().max() < 1e-11


def test_the_minimum_of_a_known_form():
    rng = np.random.default_rng(0)
    scale = torch.tensor([1e-6, 1.0, 1e5]).double()
    root = torch.from_numpy(rng.normal(size=(5, 3))) * scale
    theta = torch.tensor([2e6, -3.0, 1e-5]).double()
    square = root.T @ root
    form = torch.zeros(4, 4).double()
    form[:3, :3], form[:3, 3], form[3, :3] = square, -square @ theta, -square @ theta
    form[3, 3] = theta @ square @ theta + 0.25
    found, loss, values = kds.minimise(form)
    torch.testing.assert_close(found, theta, rtol=1e-9, atol=0)
    assert loss == pytest.approx(0.25, rel=1e-6)
    assert values[0] > 0 and values.sum() == pytest.approx(3.0)  # columns are scaled to 1


def cloud_of(system, n, seed, **more):
    return Snapshots.build(system.sample(n, np.random.default_rng(seed)), meta={"axes": list(system.axes)}, **more)


def fit(terms, diffusivity, data, seed=0, **options):
    return kds.KernelDeviation(terms, diffusivity=diffusivity, **options).fit(data, rng=np.random.default_rng(seed))


def test_a_linear_system_is_recovered_without_bias_by_u_and_not_by_v():
    system = systems.build("ornstein-uhlenbeck", diffusivity=0.5)
    truth, found = system.truth.numpy(), {}
    for statistic, width in (("u", "wide"), ("u", 0.15), ("v", 0.15)):
        fits = [
            fit(system.terms, 0.5, cloud_of(system, 1500, seed), bandwidth=width, statistic=statistic)
            for seed in range(8)
        ]
        found[statistic, width] = np.stack([model.coefficients - truth for model in fits])
    error = {k: v.std(0, ddof=1) / np.sqrt(8) for k, v in found.items()}
    for key in (("u", "wide"), ("u", 0.15)):
        assert (np.abs(found[key].mean(0)) < 4 * error[key] + 0.01).all()
    diagonal = [0, 2]
    assert (np.abs(found["u", "wide"].mean(0)) < 0.05).all()
    assert (found["v", 0.15].mean(0) < -10 * error["v", 0.15])[diagonal].all()  # shrunk by the own pairs


@pytest.mark.parametrize("name", ["hopf", "double-well"])
def test_nonlinear_systems_are_recovered_and_another_d_gives_another_answer(name):
    system = systems.build(name, diffusivity=0.5)
    data = cloud_of(system, 6000, 1)
    model = fit(system.terms, 0.5, data)
    np.testing.assert_allclose(model.coefficients, system.truth.numpy(), atol=0.12)
    assert np.isnan(model.std_error).all() and model.diffusivity == 0.5
    assert model.diagnostics["condition"] < 1e3 and abs(model.diagnostics["loss"]) < 0.01
    if name == "double-well":  # nothing known: only theta / D is in the cloud
        np.testing.assert_allclose(fit(system.terms, 1.0, data).coefficients, 2 * model.coefficients, rtol=1e-9)


def test_a_known_part_fixes_the_clock():
    """A known part counts: the rest of it is what it was without."""
    data = cloud_of(systems.build("double-well", diffusivity=0.5), 3000, 2)
    terms = {"a": ["x", "0"], "b": ["-x^3", "0"]}
    half = drifts.from_expressions(terms, ["-0.5*x^3", "-y"], axes=("x", "y"))
    whole = drifts.from_expressions(terms, ["0", "-y"], axes=("x", "y"))
    one, two = (fit(library, 0.5, data, bandwidth=0.6).coefficients for library in (half, whole))
    np.testing.assert_allclose(one + [0.0, 0.5], two, atol=1e-9)


def test_weights_are_repetitions_for_v_and_nothing_for_rows_that_weigh_nothing():
    system = systems.build("hopf", diffusivity=0.5)
    x = system.sample(400, np.random.default_rng(3))
    weight = np.repeat([1.0, 3.0, 0.0], [200, 150, 50])
    weighted = Snapshots.build(x, weight=weight, meta={"axes": ["x", "y"]})
    repeated = Snapshots.build(np.r_[x[:200], np.tile(x[200:350], (3, 1))], meta={"axes": ["x", "y"]})
    one, two = (fit(system.terms, 0.5, data, bandwidth=0.5, statistic="v") for data in (weighted, repeated))
    np.testing.assert_allclose(one.coefficients, two.coefficients, rtol=1e-9)
    fewer = fit(system.terms, 0.5, weighted.where(weight > 0), bandwidth=0.5)
    np.testing.assert_allclose(fit(system.terms, 0.5, weighted, bandwidth=0.5).coefficients, fewer.coefficients)
    plain = fit(system.terms, 0.5, Snapshots.build(x, meta=weighted.meta), bandwidth=0.5)
    assert np.abs(plain.coefficients - fewer.coefficients).max() > 1e-3


def test_only_training_rows_and_at_most_so_many_points_are_used():
    system = systems.build("hopf", diffusivity=0.5)
    data = cloud_of(system, 900, 4)
    split = np.array(["train"] * 700 + ["test"] * 200, dtype=object)
    spoiled = Snapshots.build(np.r_[data.x[:700], 50 + data.x[700:]], split=split, meta=data.meta)
    clean = fit(system.terms, 0.5, data.where(np.arange(700)))
    np.testing.assert_array_equal(fit(system.terms, 0.5, spoiled).coefficients, clean.coefficients)
    assert clean.diagnostics["points"] == 700
    some = fit(system.terms, 0.5, spoiled, points=300)
    assert some.diagnostics["points"] == 300
    assert not np.array_equal(some.coefficients, fit(system.terms, 0.5, spoiled, points=300, seed=1).coefficients)


def test_what_the_points_do_not_tell_apart_is_refused():
    terms = drifts.from_expressions({"a": ["x", "0"], "b": ["2*x", "0"], "c": ["0", "y"]}, None, axes=("x", "y"))
    data = cloud_of(systems.build("hopf", diffusivity=0.5), 300, 0)
    for statistic in "uv":
        with pytest.raises(ValueError, match="these data determine only 2 of 3 unknown coefficients"):
            fit(terms, 0.5, data, statistic=statistic)
    with pytest.raises(ValueError, match="12 unknown coefficients need more than 12 points, got 12"):
        fit(LIBRARIES["polynomial"], 0.5, data, points=12)


def test_a_form_without_a_minimum_is_refused_by_u_and_solved_by_v():
    data = cloud_of(systems.build("hopf", diffusivity=0.5), 60, 0)
    with pytest.raises(ValueError, match="u statistic .* not positive definite .* set statistic: v"):
        fit(drifts.polynomial(2, 3, axes=("x", "y")), 0.5, data, bandwidth=2.0)
    model = fit(drifts.polynomial(2, 3, axes=("x", "y")), 0.5, data, bandwidth=2.0, statistic="v")
    assert model.diagnostics["smallest_eigenvalue"] > 0 and model.diagnostics["loss"] > 0
    with pytest.raises(ValueError, match="statistic must be u or v, got 'w'"):
        kds.KernelDeviation(data, diffusivity=0.5, statistic="w")
    with pytest.raises(ValueError, match="one diffusivity for all axes, .* not a matrix"):
        kds.KernelDeviation(data, diffusivity=np.eye(2))
