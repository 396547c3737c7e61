"""The density estimator against closed forms: normaliser, derivatives, inverse, sampling, CCCP."""

import numpy as np
import pytest
import torch
from scipy import stats

from snapdyn import densities, tabulation


def estimator(dim=2, *, components=5, stacks=3, seed=0, centre=None, scale=None):
    """A small estimator away from its start: coefficients, weights and covariance at random."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"stacks": stacks, "hidden": 8, "generator": generator}
    found = densities.MixtureFlow(dim, components, centre=centre, scale=scale, **sizes).double()
    with torch.no_grad():
        for parameter in (found.centroids, found.logits):
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        root = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
        found.set_covariance(0.1 * root @ root.T + 0.1 * torch.eye(dim))
        for coupling in found.flow:
            coupling.coefficients.uniform_(0.3, 0.6, generator=generator)
    return found


def points(n, dim, seed=1):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plane(reach, n=600):
    """Midpoints of a grid over ``[-reach, reach]^2``, and the area of a cell."""
    line = (torch.arange(n, dtype=torch.float64) + 0.5) / n * 2 * reach - reach
    return torch.cartesian_prod(line, line), (2 * reach / n) ** 2


@pytest.mark.parametrize("stacks", [0, 3])
def test_the_density_integrates_to_one(stacks):
    """``mixture-energy``: with the printed signs of the normaliser it does not."""
    model = estimator(stacks=stacks)
    x, area = plane(12.0)
    with torch.no_grad():
        assert float((-model.energy(x)).exp().sum() * area) == pytest.approx(1, abs=1e-6)
        normaliser = model.dim / 2 * np.log(2 * np.pi) + float(model.tril.diagonal().sum())
        printed = (-model.energy(x) + 2 * normaliser).exp().sum() * area
    assert abs(float(printed) - 1) > 0.05


def test_without_couplings_it_is_a_gaussian_mixture():
    model = estimator(stacks=0)
    x = points(50, 2)
    covariance, weights = model.covariance.detach().numpy(), model.log_weights.detach().exp().numpy()
    laws = [stats.multivariate_normal(c, covariance) for c in model.centroids.detach().numpy()]
    density = sum(w * law.pdf(x.numpy()) for w, law in zip(weights, laws, strict=True))
    np.testing.assert_allclose(model.log_prob(x).detach().numpy(), np.log(density), rtol=1e-10)


def test_it_starts_as_the_mixture_whatever_the_networks():
    plain = estimator(stacks=0)
    start = densities.MixtureFlow(2, 5, stacks=4, hidden=8).double()
    state = {name: value for name, value in plain.state_dict().items() if "flow" not in name}
    start.load_state_dict(start.state_dict() | state)
    x = points(20, 2)
    torch.testing.assert_close(start.log_prob(x), plain.log_prob(x))
    assert not start.coefficients().any()
    (-start.log_prob(x).mean()).backward()
    assert all(float(weight.grad.abs().max()) == 0 for c in start.flow for weight in c.weights)
    assert all(float(c.coefficients.grad.abs().max()) > 0 for c in start.flow)


@pytest.mark.parametrize("dim", [2, 3, 5])
def test_derivatives_against_nested_differentiation(dim):
    scale = torch.linspace(0.3, 4, dim, dtype=torch.float64)
    model = estimator(dim, centre=points(1, dim)[0], scale=scale)
    x = points(20, dim).requires_grad_()
    log_prob, score, divergence = model.derivatives(x)
    value = model.log_prob(x)
    slope = torch.autograd.grad(value.sum(), x, create_graph=True)[0]
    bend = sum(torch.autograd.grad(slope[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(dim))
    for found, wanted in ((log_prob, value), (score, slope), (divergence, bend)):
        torch.testing.assert_close(found, wanted.detach())
    assert not torch.allclose(divergence, bend.detach() + slope.detach().square().sum(1))


def test_training_gradients_against_nested_differentiation():
    """Third derivatives: what a loss on score and divergence sends into the weights."""
    model, x = estimator(3), points(10, 3)
    weights = list(model.parameters())
    jet = model.jet(x, torch.eye(3, dtype=torch.float64))
    ours = torch.autograd.grad(jet[1:-1].square().sum() + jet[-1].abs().sum(), weights)
    x = x.requires_grad_()
    slope = torch.autograd.grad(model.log_prob(x).sum(), x, create_graph=True)[0]
    bend = sum(torch.autograd.grad(slope[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(3))
    theirs = torch.autograd.grad(slope.square().sum() + bend.abs().sum(), weights)
    for found, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)


def test_many_axes_are_differentiated_along_random_signs():
    dim = densities.MAX_EXACT_DIM + 1
    model, x = estimator(dim, components=3, stacks=2), points(4, dim)
    exact = model.jet(x, torch.eye(dim, dtype=torch.float64)).detach()
    log_prob, score, guess = model.derivatives(x, probes=4000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(log_prob, exact[0])
    torch.testing.assert_close(score, exact[1:-1].T)
    assert (guess - exact[-1]).abs().max() < 0.1 * exact[-1].abs().max()


def test_there_and_back():
    model, x = estimator(3, centre=points(1, 3)[0], scale=points(1, 3)[0].exp()), points(30, 3)
    latent, log_det = model.latent(x)
    torch.testing.assert_close(model.observed(latent), x)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: model.latent(row[None])[0][0]))(x)
    wanted = jacobian.slogdet().logabsdet + model.scale.log().sum()
    torch.testing.assert_close(log_det, wanted)


def test_draws_follow_the_density():
    """Mean log-density and mean over cells: against the density of another estimator both fail."""
    model, other = estimator(), estimator(seed=3)
    x = model.sample(40_000, torch.Generator().manual_seed(0))
    grid, area = plane(8.0, 400)
    with torch.no_grad():
        p, q = model.log_prob(grid), other.log_prob(grid)
        drawn = model.log_prob(x)
    entropy = float((p.exp() * p).sum() * area)
    error = float(drawn.std() / np.sqrt(len(x)))
    assert abs(float(drawn.mean()) - entropy) < 4 * error
    assert abs(float((q.exp() * p).sum() * area) - entropy) > 20 * error
    left = float((p.exp() * (grid[:, 0] < 0)).sum() * area)
    assert float((x[:, 0] < 0).double().mean()) == pytest.approx(left, abs=4 * 0.5 / np.sqrt(len(x)))


def test_a_change_of_units_moves_log_prob_as_it_must():
    scale = torch.tensor([10.0, 0.1], dtype=torch.float64)
    plain = estimator()
    other = estimator(scale=scale)
    x = points(10, 2)
    torch.testing.assert_close(other.log_prob(x * scale), plain.log_prob(x) - scale.log().sum())
    torch.testing.assert_close(other.score(x * scale), plain.score(x) / scale)


class TestCCCP:
    def test_the_score_is_the_pull_towards_the_image(self):
        model, x = estimator(stacks=0), points(20, 2)
        pull = torch.linalg.solve(model.covariance.detach(), (model.cccp(x) - x).T).T
        torch.testing.assert_close(model.score(x), pull)

    def test_a_step_never_raises_the_energy(self):
        model, x = estimator(stacks=0), 3 * points(500, 2)
        with torch.no_grad():
            before = model.energy(x)
            for _ in range(20):
                x = model.cccp(x)
                after = model.energy(x)
                assert (after <= before + 1e-12).all()
                before = after
            beyond = x + 1.5 * (model.cccp(x) - x) + 0.1  # no step of the map: energy may rise
            assert (model.energy(beyond) > before).any()

    def test_temperature_widens_the_covariance_and_leaves_the_weights(self):
        model, x = estimator(stacks=0), points(20, 2)
        wide = densities.MixtureFlow.from_mixture(
            model.centroids.detach(), 3 * model.covariance.detach(), model.log_weights.detach()
        )
        torch.testing.assert_close(model.cccp(x, 3.0), wide.cccp(x))
        whitened = torch.linalg.inv(model.factor.detach()).T
        z, c = x @ whitened, model.centroids.detach() @ whitened
        logits = (model.log_weights.detach() + z @ c.T - 0.5 * c.square().sum(1)) / 3
        assert not torch.allclose(logits.softmax(1) @ model.centroids.detach(), model.cccp(x, 3.0), atol=1e-3)

    def test_very_hot_sends_everything_to_the_mean_of_the_centroids(self):
        model, x = estimator(stacks=0), points(20, 2)
        mean = model.log_weights.detach().exp() @ model.centroids.detach()
        torch.testing.assert_close(model.cccp(x, 1e9), mean.expand(20, 2))

    def test_it_acts_in_latent_space(self):
        model = estimator()
        flat = estimator(stacks=0)
        flat.load_state_dict({name: value for name, value in model.state_dict().items() if "flow" not in name})
        x = points(20, 2)
        torch.testing.assert_close(model.cccp(x), model.observed(flat.cccp(model.latent(x)[0])).detach())


def test_states_come_back():
    model, x = estimator(3, centre=points(1, 3)[0]), points(5, 3)
    again = densities.MixtureFlow.from_state(model.state())
    torch.testing.assert_close(again.log_prob(x), model.log_prob(x))


def test_one_axis_has_no_couplings():
    with pytest.raises(ValueError, match="stacks: 0"):
        densities.MixtureFlow(1, 3, stacks=2)
    model = estimator(1, stacks=0)
    x = torch.linspace(-10, 10, 4001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        assert float(model.log_prob(x).exp().sum() * 20 / 4000) == pytest.approx(1, abs=1e-6)


class TestTables:
    """Many points: networks of one axis are read from a table, to the same derivatives."""

    @pytest.mark.parametrize("dim", [2, 3])
    def test_the_same_derivatives(self, dim):
        model = estimator(dim, centre=points(1, dim)[0])
        x = points(tabulation.WORTH * tabulation.NODES, dim)
        with torch.no_grad():
            wanted = model.jet(x, torch.eye(dim, dtype=torch.float64))
        log_prob, score, divergence = model.derivatives(x)
        torch.testing.assert_close(log_prob, wanted[0], rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(score, wanted[1:-1].T, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(divergence, wanted[-1], rtol=1e-6, atol=1e-6)
        assert not torch.equal(log_prob, wanted[0])  # it was a table

    def test_a_function_too_rough_for_its_table_is_evaluated_itself(self):
        def wave(frequency):
            def function(x):
                wave, quarter = torch.sin(frequency * x), torch.cos(frequency * x)
                return torch.stack([wave, frequency * quarter, -(frequency**2) * wave])[..., None]

            return function

        x = torch.rand(tabulation.WORTH * tabulation.NODES, generator=torch.Generator().manual_seed(0)).double()
        smooth = tabulation.evaluated(wave(5.0), x)
        torch.testing.assert_close(smooth, wave(5.0)(x), rtol=1e-7, atol=1e-6)
        assert tabulation.evaluated(wave(500.0), x) is None
        assert tabulation.evaluated(wave(5.0), x[:100]) is None
        assert tabulation.evaluated(wave(5.0), x.float()) is None
