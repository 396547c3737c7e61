"""Transport maps: where they start, their determinants, and the entropy that they carry."""

import math

import pytest
import torch
from torch.func import jacrev, vmap

from snapdyn import entropies, transport_maps

SEEDS = [1, 2]


def maps(dim, spread=0.5):
    """Maps away from the identity."""
    found = transport_maps.TransportMaps(dim, seeds=SEEDS, hidden=(9, 7)).double()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for last in (found.move.weights[-1], found.move.biases[-1]):
            last.add_(spread * torch.randn(last.shape, generator=generator))
    return found


def points(dim, n=200):
    return torch.randn(len(SEEDS), n, dim, generator=torch.Generator().manual_seed(0)).double()


def test_they_start_as_the_identity():
    found, x = transport_maps.TransportMaps(3, seeds=SEEDS), points(3).float()
    assert torch.equal(found(x, 0.3), x)
    y, log_det, flipped = found.with_log_det(x, 0.3)
    assert torch.equal(y, x)
    assert log_det.abs().max() == 0
    assert not flipped.any()


@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_determinants_are_those_of_nested_differentiation(dim):
    found, x = maps(dim, spread=6), points(dim)
    stamp = torch.linspace(-1, 1, x.shape[1]).double()
    y, log_det, flipped = found.with_log_det(x, stamp)
    torch.testing.assert_close(y, found(x, stamp))
    for place in range(len(SEEDS)):

        def alone(point, s, place=place):
            return found(point.expand(len(SEEDS), 1, -1), s)[place, 0]

        sign, size = torch.linalg.slogdet(vmap(jacrev(alone))(x[place], stamp[:, None]))
        torch.testing.assert_close(log_det[place], size.clamp_min(math.log(transport_maps.LEAST_DETERMINANT)))
        assert torch.equal(flipped[place], sign < 0)
        assert dim == 1 or place == 1 or 0 < flipped[place].sum() < x.shape[1]  # both kinds were tried


def test_a_reflection_is_flagged_and_a_collapse_stays_finite():
    for dim in (2, 4):
        turned = torch.eye(dim).double()
        turned[0, 0] = -2
        log_det, flipped = transport_maps.log_abs_det(torch.stack([turned, 2 * torch.eye(dim).double()]))
        torch.testing.assert_close(log_det, torch.tensor([1.0, dim]).double() * math.log(2))
        assert flipped.tolist() == [True, False]
        nothing = torch.zeros(1, dim, dim).double()
        assert torch.isfinite(transport_maps.log_abs_det(nothing)[0]).all()


def test_the_entropy_of_what_a_map_carries():
    """H(T#rho) - H(rho) is the mean log-determinant: nearest neighbours see the same change."""
    found, x = maps(2, spread=0.6), points(2, 5000)
    y, log_det, flipped = found.with_log_det(x, 0.5)
    assert not flipped.any()
    change = log_det.mean(1).detach().numpy()
    assert change.max() > 0.15
    for place in range(len(SEEDS)):
        before, after = (entropies.differential_entropy(z[place].detach().numpy()) for z in (x, y))
        assert abs(after - before - change[place]) < 0.06
