"""The stationary density from a known drift by one linear problem, against closed forms."""

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.optimize import nnls

from snapdyn import densities, drifts, linear_mixture, nonnegative, systems
from snapdyn.snapshots import Snapshots

HOPF = systems.build("hopf", diffusivity=0.1)
BOX = ((-2.0, 2.0), (-2.0, 2.0))


def solved(system, box, **options):
    return linear_mixture.solve(
        lambda x: system.drift(None, x), lambda x: system.divergence(None, x), system.diffusivity, box, **options
    )


def density(found):
    return densities.MixtureFlow.from_mixture(found.centroids, found.covariance, found.weights.log())


def total_variation(found, system, box, cells=100):
    axes = [low + (high - low) / cells * (np.arange(cells) + 0.5) for low, high in box]
    grid = torch.from_numpy(np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(box)))
    area = np.prod([(high - low) / cells for low, high in box])
    with torch.no_grad():
        ours = density(found).log_prob(grid).exp()
    return float(0.5 * (ours - system.log_prob(None, grid).exp()).abs().sum() * area)


def test_the_limit_cycle_to_the_target():
    found = solved(HOPF, BOX)
    assert total_variation(found, HOPF, BOX) < 1e-3
    assert total_variation(found, systems.build("hopf", diffusivity=0.2), BOX) > 0.1
    assert (found.weights > 0).all() and found.weights.sum() == pytest.approx(1)
    changes = [level["change"] for level in found.levels]
    assert changes[0] == np.inf and changes[-1] < 2e-3 < changes[-2]


@pytest.mark.parametrize(("dim", "finest", "bound"), [(1, 0.25, 1e-3), (2, 0.3, 3e-3)])
def test_a_linear_drift_has_its_gaussian(dim, finest, bound):
    system = systems.build("ornstein-uhlenbeck", dim=dim, diffusivity=0.5)
    box = ((-4.0, 4.0),) * dim
    found = solved(system, box, finest=finest)
    assert found.covariance.diagonal().sqrt().tolist() == pytest.approx([finest] * dim, rel=0.05)
    assert total_variation(found, system, box) < bound


def test_three_axes():
    system = systems.build("ornstein-uhlenbeck", dim=3, diffusivity=0.5)
    found = solved(system, ((-3.7, 3.7),) * 3, start=8, finest=0.5)
    mean = found.weights @ found.centroids
    covariance = (found.centroids - mean).T @ (found.weights[:, None] * (found.centroids - mean)) + found.covariance
    torch.testing.assert_close(covariance, system.covariance, atol=0.05, rtol=0.05)


def test_a_matrix_of_diffusivities():
    matrix, noise = torch.tensor([[1.0, 0.4], [-0.4, 1.0]]).double(), np.array([[0.5, 0.2], [0.2, 0.4]])
    found = linear_mixture.solve(lambda x: -x @ matrix.T, lambda x: -2 + 0 * x[:, 0], noise, ((-4, 4),) * 2, finest=0.3)
    from scipy.linalg import solve_continuous_lyapunov

    exact = solve_continuous_lyapunov(matrix.numpy(), 2 * noise)
    moved = found.centroids.numpy() - found.weights.numpy() @ found.centroids.numpy()
    covariance = moved.T @ (found.weights.numpy()[:, None] * moved) + found.covariance.numpy()
    np.testing.assert_allclose(covariance, exact, atol=0.01)
    assert abs(exact[0, 1]) > 0.1


def test_the_rows_are_the_residual_of_each_gaussian():
    """div(f N) - sum D_ij d_i d_j N by automatic differentiation."""
    lattice = linear_mixture.Lattice(
        np.array([-1.0, -1.0]), np.array([0.5, 0.4]), np.ones((4, 5), bool), np.array([0.4, 0.3])
    )
    noise, x = np.array([[0.5, 0.2], [0.2, 0.4]]), np.random.default_rng(0).uniform(-0.5, 0.5, (6, 2))
    points = torch.from_numpy(x)
    f, slope = HOPF.drift(None, points), HOPF.divergence(None, points)
    rows = lattice.operator(x, f.numpy(), slope.numpy(), noise).toarray()
    spread = torch.from_numpy(np.diag(lattice.width**2))
    for k in (0, 7, 19):
        normal = torch.distributions.MultivariateNormal(torch.from_numpy(lattice.centroids[k]), spread)

        def flux(point, normal=normal):
            p = lambda at: normal.log_prob(at).exp()  # noqa: E731
            return HOPF.drift(None, point[None])[0] * p(point) - torch.from_numpy(noise) @ torch.func.grad(p)(point)

        exact = torch.stack([torch.func.jacrev(flux)(point).trace() for point in points])
        np.testing.assert_allclose(rows[:, k], exact.numpy(), atol=1e-8)
    weights = np.random.default_rng(1).dirichlet(np.ones(lattice.count))
    identity = lattice.operator(x, 0 * f.numpy(), np.ones(6), 0 * noise)
    np.testing.assert_allclose(lattice.density(x, weights), identity @ weights, atol=1e-9)


def test_the_weights_are_those_of_least_squares_with_a_heavy_row_of_any_weight():
    rng = np.random.default_rng(2)
    dense = rng.normal(size=(60, 25))
    exact, way = nonnegative.exact(sparse.csr_matrix(dense))
    assert way == "blocks" and exact.min() == 0 and exact.sum() == pytest.approx(1)
    for heavy in (1.0, 30.0):
        w = nnls(np.vstack([dense, np.full((1, 25), heavy)]), np.append(np.zeros(60), heavy))[0]
        np.testing.assert_allclose(exact, w / w.sum(), atol=1e-8)
    w = nonnegative.by_active_set(dense, np.ones(25))
    np.testing.assert_allclose(exact, w / w.sum(), atol=1e-8)
    free = np.linalg.solve(dense.T @ dense, np.ones(25))
    assert np.abs(free / free.sum() - exact).max() > 0.01


@pytest.mark.parametrize(
    ("dim", "drift", "box", "options", "said"),
    [
        (4, lambda x: -x, ((-3, 3),) * 4, {}, "at most 3 axes, the state has 4"),
        (2, lambda x: 1 / x.clamp_min(0), ((-3, 3),) * 2, {}, "not finite at"),
        (2, lambda x: -x, ((3, -3),) * 2, {}, "from, to"),
        (2, lambda x: -x, ((-3, 3),) * 2, {"finest": -1.0}, "finest width must be above 0"),
        (2, lambda x: -x, ((-3, 3),) * 2, {"limit": 10}, "take a smaller start"),
    ],
)
def test_what_cannot_work_is_refused(dim, drift, box, options, said):
    with pytest.raises(ValueError, match=said):
        linear_mixture.solve(drift, lambda x: -dim + 0 * x[:, 0], 0.5, box, **options)


@pytest.mark.parametrize("rate", [1.0, 0.1, 0.0])
@pytest.mark.parametrize("dim", [1, 2])
def test_a_drift_that_leaves_nothing_at_rest_is_refused(dim, rate):
    """In a box wide enough for the mixture to look settled: only the equation tells."""
    with pytest.raises(ValueError, match="leaves the box|the stationary equation is not met"):
        linear_mixture.solve(lambda x: rate * x, lambda x: rate * dim + 0 * x[:, 0], 1.0, ((-5, 5),) * dim, limit=3000)


def test_the_method_needs_a_complete_drift_and_gives_parameters_back():
    meta = {"dataset": "ring", "axes": ["x", "y"], "dim": 2, "time_unit": "time unit"}
    data = Snapshots.build(HOPF.sample(300, np.random.default_rng(3)), meta=meta)
    with pytest.raises(ValueError, match="without unknown numbers"):
        linear_mixture.LinearMixture(axes=("x", "y"), drift=HOPF.terms, diffusivity=0.1)
    method = linear_mixture.LinearMixture(
        axes=("x", "y"),
        drift=HOPF.terms,
        dynamics=drifts.complete({"library": "hopf"}, axes=("x", "y")),
        diffusivity=0.1,
        box=BOX,
    )
    model = method.fit(data, rng=np.random.default_rng(4))
    x = HOPF.sample(200, np.random.default_rng(5))
    exact = HOPF.log_prob(None, torch.from_numpy(x)).numpy()
    assert np.abs(model.log_prob(None, x) - exact).max() < 0.1
    assert model.parameters["estimate"].to_numpy() == pytest.approx([1, 1], abs=0.02)
