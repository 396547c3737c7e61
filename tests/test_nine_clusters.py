"""Nine curved clusters: exact draws, labels without doubt, and the distance to the ridge."""

import numpy as np
import pytest
import torch
from scipy import stats

from snapdyn import simulate, systems

SYSTEM = systems.build("nine-clusters", diffusivity=0.5)


def test_draws_fall_into_cells_as_the_density_says():
    """Chi-square over cells of 0.25; draws from narrower clusters are refused."""
    n, side, fine = 20_000, 0.25, 10
    middle = -3 + side / fine * (np.arange(24 * fine) + 0.5)
    grid = torch.from_numpy(np.stack(np.meshgrid(middle, middle, indexing="ij"), -1).reshape(-1, 2))
    mass = SYSTEM.log_prob(None, grid).exp().numpy() * (side / fine) ** 2
    expected = n * mass.reshape(24, fine, 24, fine).sum((1, 3)).ravel()
    assert expected.sum() == pytest.approx(n, rel=1e-6)
    filled = expected > 5

    def p_value(x):
        counts = np.histogram2d(*x.T, bins=24, range=[[-3, 3], [-3, 3]])[0].ravel()
        observed = np.append(counts[filled], n - counts[filled].sum())
        wanted = np.append(expected[filled], n - expected[filled].sum())
        return stats.chisquare(observed, wanted).pvalue

    assert p_value(SYSTEM.sample(n, np.random.default_rng(0))) > 1e-3
    assert p_value(SYSTEM.initial(n, torch.Generator().manual_seed(1), "cpu").T.numpy()) > 1e-3
    narrower = systems.build("nine-clusters", diffusivity=0.5, width=0.07)
    assert p_value(narrower.sample(n, np.random.default_rng(0))) < 1e-6


def test_every_draw_has_the_label_of_its_own_cluster():
    x = SYSTEM.sample(9000, np.random.default_rng(2))
    chosen = np.random.default_rng(2).integers(len(SYSTEM.nodes), size=9000)
    found = SYSTEM.component(x)
    assert np.array_equal(found, chosen // 50)
    assert np.array_equal(found, SYSTEM.component(torch.from_numpy(x)))
    assert found.min() == 0 and found.max() == 8 and np.bincount(found).min() > 900
    corners = np.array([[-2.0, 2.0], [2.0, 2.0], [-2.0, -2.0]])
    assert SYSTEM.component(corners).tolist() == [0, 2, 6]


def test_no_other_cluster_is_near():
    """At the draws the second most probable cluster is at most e^-20 as probable as the first."""
    logits = SYSTEM._logits(torch.from_numpy(SYSTEM.sample(5000, np.random.default_rng(3))))
    two = torch.logsumexp(logits.unflatten(1, (9, -1)), 2).topk(2, 1).values
    assert (two[:, 0] - two[:, 1]).min() > 20


def test_the_distance_to_the_ridge_is_that_to_finely_drawn_arcs():
    fine = systems.build("nine-clusters", diffusivity=0.5, nodes=20_001).nodes.numpy()
    x = np.random.default_rng(4).uniform(-3, 3, (150, 2))
    nearest = np.array([np.linalg.norm(fine - point, axis=1).min() for point in x])
    np.testing.assert_allclose(SYSTEM.ridge_distance(x), nearest, atol=1e-5)
    assert SYSTEM.ridge_distance(SYSTEM.nodes.numpy()).max() < 1e-12
    whole_circle = np.abs(np.linalg.norm(x[:, None] - SYSTEM.circle, axis=2) - SYSTEM.radius).min(1)
    assert np.abs(whole_circle - nearest).max() > 0.1  # an arc ends, its circle does not


def test_all_arcs_have_one_length_and_their_own_shape():
    arcs = SYSTEM.nodes.numpy().reshape(9, 50, 2)
    lengths = np.linalg.norm(np.diff(arcs, axis=1), axis=2).sum(1)
    np.testing.assert_allclose(lengths, 1.1, rtol=2e-3)
    np.testing.assert_allclose(arcs.mean(1)[[0, 4, 5]], [[-2, 2], [0, 0], [2, 0]], atol=0.02)
    assert len(set(SYSTEM.radius)) == 9
    other = systems.build("nine-clusters", diffusivity=0.5, shape_seed=1)
    assert not np.allclose(other.radius, SYSTEM.radius)
    assert np.array_equal(systems.build("nine-clusters", diffusivity=2.0).nodes, SYSTEM.nodes)


def test_the_motion_leaves_the_law_at_rest_and_another_diffusivity_does_not():
    """The mean square distance to the ridge of a simulated cloud, started from exact draws."""
    system = systems.build("nine-clusters", diffusivity=0.01)

    def moved(diffusivity):
        x = system.initial(1500, torch.Generator().manual_seed(5), "cpu")
        generator = torch.Generator().manual_seed(6)
        simulate.integrate(
            system.rate, x, steps=20, dt=0.02, diffusivity=diffusivity, generator=generator, scheme="heun"
        )
        return system.ridge_distance(x.T.numpy()) ** 2

    at_rest = system.ridge_distance(system.sample(20_000, np.random.default_rng(7))) ** 2
    same, other = moved(0.01), moved(0.02)
    error = same.std() / np.sqrt(len(same))
    assert abs(same.mean() - at_rest.mean()) < 5 * error
    assert other.mean() - at_rest.mean() > 10 * error


def test_blocks_of_points_change_nothing():
    x = torch.from_numpy(SYSTEM.sample(5000, np.random.default_rng(8)))
    for values in (SYSTEM.log_prob, SYSTEM.score):
        assert torch.equal(values(None, x)[4500:4600], values(None, x[4500:4600]))
    torch.testing.assert_close(SYSTEM.divergence(None, x)[4990:], SYSTEM.divergence(None, x[4990:]))
