"""Potentials that are linear in their unknowns: against automatic differentiation, and as a term of an energy."""

import pytest
import torch

from snapdyn import features
from snapdyn.energies import Energy
from snapdyn.features import FeaturePotential


def potential(dim=2, members=2, **how):
    generator = torch.Generator().manual_seed(dim)
    low = -1 - torch.rand(members, dim, generator=generator, dtype=torch.float64)
    high = 2 + torch.rand(members, dim, generator=generator, dtype=torch.float64)
    found = FeaturePotential(low, high, **how)
    with torch.no_grad():
        found.coefficients.copy_(torch.randn(found.coefficients.shape, generator=generator))
    return found


def points(dim=2, members=2, n=7):
    return 2 * torch.randn(members, n, dim, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


@pytest.mark.parametrize(("dim", "how"), [(1, {}), (2, {}), (3, {"degree": 2, "grid": 3}), (2, {"grid": 0})])
def test_derivatives_are_those_of_automatic_differentiation(dim, how):
    net, x = potential(dim, **how), points(dim).requires_grad_()
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    gradient, second = net.hessian(x.detach())
    torch.testing.assert_close(gradient, slope)
    torch.testing.assert_close(net.design(x.detach()) @ net.coefficients[:, None, :, None], slope[..., None])
    rows = [torch.autograd.grad(slope[..., i].sum(), x, retain_graph=True)[0] for i in range(dim)]
    torch.testing.assert_close(second, torch.stack(rows, 2))


def test_the_features_are_the_published_ones():
    """Two axes: 24 monomials and 100 bumps; the box [-4, 4]^2 leaves coordinates as they are."""
    box = torch.full((1, 2), 4.0)
    net = FeaturePotential(-box, box)
    assert net.coefficients.shape == (1, 124)
    x = torch.tensor([[[1.5, -0.5]]]).double()
    for place, value in ((0, -0.5), (5 - 1, 1.5), (4 * 5 + 4 - 1, 1.5**4 * 0.5**4)):
        with torch.no_grad():
            net.coefficients.zero_()[0, place] = 1.0
        assert net(x).item() == pytest.approx(value)
    with torch.no_grad():
        net.coefficients.zero_()[0, 24 + 10 * 3 + 7] = 1.0
    centre = torch.linspace(-4, 4, 10)[[3, 7]]
    assert net(x).item() == pytest.approx(float((-(x[0, 0] - centre).square().sum() / 0.5).exp()))


def test_a_term_of_an_energy():
    net, x = potential(), points().float()
    energy = Energy(2, net, potential())
    other = Energy.from_state(energy.state())
    for one in (energy, other):
        assert one.potential_value(x).dtype == torch.float32 and not one.timed
        torch.testing.assert_close(one.potential_gradient(x), net.gradient(x))
        torch.testing.assert_close(one.member(1).force(x[1:]), energy.force(x)[1:])
    everywhere = energy.interaction_gradient(x, x.clone(), same=True)  # grad W(0) = 0
    torch.testing.assert_close(energy.interaction_gradient(x, x, same=True), everywhere)
    with pytest.raises(ValueError, match="unknown family"):
        Energy.from_state(energy.state() | {"potential": {"family": "none"}})


def test_too_many_features_are_refused_with_what_would_fit():
    with pytest.raises(ValueError, match="103124 features in 5") as error:
        features.require_few(5, 4, 10)
    assert "degree: 3, grid: 4" in str(error.value)
    features.require_few(5, 3, 4)
    with pytest.raises(ValueError, match="would fit"):
        features.require_few(5, 4, 4)
    with pytest.raises(ValueError, match="nothing would fit.*networks"):
        features.require_few(50, 4, 10)
