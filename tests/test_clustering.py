"""Clusters and denoised points from one step, on a mixture whose procedure is written out here."""

import numpy as np
import pytest
from scipy.special import softmax

from snapdyn import clustering, systems

SYSTEM = systems.build("nine-clusters", diffusivity=0.5)


def procedure(centroids, covariance, weights, *, form="both"):
    """xi -> Xi softmax(Xi^T S^-1 xi + lambda + l), with T S for S in both terms; or with the temperature misplaced."""
    inverse = np.linalg.inv(covariance)

    def cccp(x, temperature):
        cross, own = x @ inverse @ centroids.T, -0.5 * np.einsum("ki,ij,kj->k", centroids, inverse, centroids)
        if form == "logits":
            return softmax((cross + np.log(weights) + own) / temperature, 1) @ centroids
        if form == "one term":
            return softmax(cross / temperature + np.log(weights) + own, 1) @ centroids
        return softmax(cross / temperature + np.log(weights) + own / temperature, 1) @ centroids

    return cccp


def nine(count=450, seed=0):
    """A mixture with centroids taken from the data, as wide as the clusters."""
    centroids = SYSTEM.sample(count, np.random.default_rng(seed))
    return procedure(centroids, SYSTEM.width**2 * np.eye(2), np.full(count, 1 / count))


def test_a_temperature_chosen_without_labels_finds_the_nine_clusters():
    x = SYSTEM.sample(1000, np.random.default_rng(1))
    cccp = nine()
    chosen = clustering.choose_temperature(cccp, x, temperatures=np.logspace(0, 2, 25))
    assert chosen.images == 9
    images = cccp(x, chosen.temperature)
    assert clustering.agreement(clustering.labels(images, clustering.tolerance_of(x)), SYSTEM.component(x)) > 0.99
    cold = clustering.labels(cccp(x, 1.0), clustering.tolerance_of(x) / 8)
    assert clustering.agreement(cold, SYSTEM.component(x)) < 0.5
    assert clustering.distinct_images(cccp(x, 1e6), clustering.tolerance_of(x)) == 1


def test_one_step_denoises():
    x = SYSTEM.sample(2000, np.random.default_rng(2))
    found = clustering.denoising(nine(), x, SYSTEM.ridge_distance)
    assert found["ridge_distance_before"] == pytest.approx(SYSTEM.width, rel=0.05)
    assert found["denoising_factor"] > 1.5
    same = clustering.denoising(lambda x, temperature: x, x, SYSTEM.ridge_distance)
    assert same["denoising_factor"] == 1.0


def test_the_temperature_belongs_into_both_terms_and_leaves_the_weights():
    """A step at T is a step of the mixture with covariance T S; with all logits divided by T it is another one."""
    rng = np.random.default_rng(3)
    centroids, covariance = rng.normal(size=(20, 2)), np.array([[0.3, 0.1], [0.1, 0.2]])
    weights, x, temperature = rng.dirichlet(np.ones(20)), rng.normal(size=(50, 2)), 4.0
    wider = procedure(centroids, temperature * covariance, weights)(x, 1.0)
    away = x[:, None] - centroids
    square = np.einsum("nki,ij,nkj->nk", away, np.linalg.inv(temperature * covariance), away)
    mean = softmax(-square / 2 + np.log(weights), 1) @ centroids  # the mean of the centroids that a point may come from
    right = procedure(centroids, covariance, weights)(x, temperature)
    np.testing.assert_allclose(right, wider, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(right, mean, rtol=1e-10, atol=1e-12)
    for form in ("logits", "one term"):
        wrong = procedure(centroids, covariance, weights, form=form)(x, temperature)
        assert np.abs(wrong - right).max() > 0.01


def test_the_plateau_is_the_widest_in_log_temperature():
    """A step function of the temperature: 4 groups over [2, 8), 3 over [8, 12), then 1 for a long time."""
    groups = np.arange(400) % 12

    def stairs(x, temperature):
        count = 12 if temperature < 2 else 4 if temperature < 8 else 3 if temperature < 12 else 1
        return (groups % count)[:, None] * np.ones((1, 2))

    x = np.random.default_rng(4).normal(size=(400, 2))
    found = clustering.choose_temperature(stairs, x, temperatures=np.logspace(0, 4, 200), tolerance=0.1)
    assert found.images == 4 and found.temperature == pytest.approx(4.0, rel=0.05)
    assert found.counts.max() == 12 and found.counts[-1] == 1
    with pytest.raises(ValueError, match="gives two groups"):
        clustering.choose_temperature(lambda x, temperature: 0 * x, x)


def test_labels_join_what_is_near_and_nothing_else():
    spots = np.array([[0.0, 0.0], [3.0, 0.0], [3.0, 3.0]])
    which = np.random.default_rng(5).choice(3, 3000, p=[0.2, 0.5, 0.3])
    images = spots[which] + 0.001 * np.random.default_rng(6).normal(size=(3000, 2))
    found = clustering.labels(images, 0.1)
    assert clustering.agreement(found, which) == 1.0
    assert (np.diff(np.bincount(found)) < 0).all()  # the largest first
    chain = np.arange(0, 10, 0.09)[:, None] * np.ones((1, 2)) / np.sqrt(2)
    assert clustering.labels(chain, 0.1).max() == 0 and clustering.labels(chain, 0.08).max() == len(chain) - 1
    straggler = np.r_[images, [[10.0, 10.0]]]
    assert clustering.distinct_images(straggler, 0.1) == 3
    assert clustering.distinct_images(straggler, 0.1, share=0.0) == 4
    with pytest.raises(ValueError, match="not finite"):
        clustering.labels(np.array([[np.nan, 0.0]]), 0.1)
