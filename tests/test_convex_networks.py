"""Input-convex networks: convex for any weights, and their written gradients against automatic differentiation."""

import pytest
import torch

from snapdyn.convex_networks import START, ConvexNetworks


def networks(hidden, members=3, spread=10.0, dim=3):
    """Networks far from their start, so that no activation stays on one side."""
    shape = ConvexNetworks(dim, hidden)
    weights = torch.stack([shape.start(member) for member in range(members)]).double() * spread
    weights += torch.randn(weights.shape, generator=torch.Generator().manual_seed(1))  # biases, too
    x = 2 * torch.randn(members, 400, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return shape, weights, x


@pytest.mark.parametrize("hidden", [(7,), (6, 5), (5, 4, 3)])
def test_midpoints_lie_below_and_without_positive_weights_they_do_not(hidden, monkeypatch):
    shape, weights, x = networks(hidden)
    near, far = x[:, :200], x[:, 200:]

    def excess():
        return shape.value(weights, (near + far) / 2) - (shape.value(weights, near) + shape.value(weights, far)) / 2

    assert excess().max() <= 1e-12
    monkeypatch.setattr("snapdyn.convex_networks.functional.softplus", lambda u: u)
    assert excess().max() > 0.1


@pytest.mark.parametrize("hidden", [(7,), (6, 5), (5, 4, 3)])
def test_the_written_gradient_is_that_of_the_value(hidden):
    shape, weights, x = networks(hidden)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(shape.value(weights, x).sum(), x)
    torch.testing.assert_close(shape.gradient(weights, x), slope, rtol=1e-12, atol=1e-12)
    both = torch.stack([weights, weights.flip(0)], 1)  # two networks a member
    twice = shape.gradient(both, x[:, None].expand(-1, 2, -1, -1))
    torch.testing.assert_close(twice[:, 0], slope, rtol=1e-12, atol=1e-12)
    assert (twice[0, 1] - slope[0]).abs().max() > 0.1


def test_maps_are_monotone():
    shape, weights, x = networks((6, 5))
    y = shape.gradient(weights, x)
    assert ((x[:, :200] - x[:, 200:]) * (y[:, :200] - y[:, 200:])).sum(2).min() >= 0


def test_starts_are_gaussian_and_named_by_their_numbers():
    shape = ConvexNetworks(2, (64, 64))
    assert shape.count == 2 * 129 + 128 + 64 * 64 + 64
    start = shape.start(3, 1, 0)
    assert torch.equal(start, shape.start(3, 1, 0)) and not torch.equal(start, shape.start(3, 2, 0))
    assert int((start == 0).sum()) == 128 and torch.equal(start == 0, shape.start(4) == 0)  # the biases
    assert abs(float(start[start != 0].std()) / START - 1) < 0.05
