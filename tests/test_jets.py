"""Jets against nested automatic differentiation: values, slopes, Laplacians, and gradients of all three."""

import pytest
import torch

from snapdyn import jets

torch.manual_seed(0)
DIM, POINTS = 3, 7


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


WEIGHTS = [numbers(2, DIM, 5, seed=1), numbers(2, 5, 4, seed=2)]
BIASES = [numbers(2, 5, seed=3), numbers(2, 4, seed=4)]


def network(x):
    """Two networks side by side, ``(2, n, 4)``."""
    for place, (weight, bias) in enumerate(zip(WEIGHTS, BIASES, strict=True)):
        x = (x.tanh() if place else x) @ weight + bias[:, None]
    return x.tanh()


def network_jet(jet, metric=None):
    for place, (weight, bias) in enumerate(zip(WEIGHTS, BIASES, strict=True)):
        jet = jets.affine(jets.tanh(jet, metric) if place else jet.expand(2, *jet.shape), weight, bias)
    return jets.tanh(jet, metric)


def nested(function, x):
    """Value ``(.., n, k)``, gradient and Laplacian of every output of a function of single rows."""

    def one(row):
        return function(row[None])[..., 0, :]

    gradient = torch.stack([torch.autograd.functional.jacobian(one, row) for row in x], -3)
    bend = torch.stack([torch.func.hessian(one)(row).diagonal(dim1=-2, dim2=-1).sum(-1) for row in x], -2)
    return function(x), gradient, bend


def test_a_network_and_its_derivatives():
    x = numbers(POINTS, DIM, seed=5)
    jet = network_jet(jets.start(x, torch.eye(DIM, dtype=torch.float64)))
    value, gradient, laplacian = nested(network, x)
    torch.testing.assert_close(jet[:, 0], value)
    torch.testing.assert_close(jet[:, 1:-1].movedim(1, -1), gradient)
    torch.testing.assert_close(jet[:, -1], laplacian)


def test_products_and_exponentials():
    x = numbers(POINTS, DIM, seed=6)
    start = jets.start(x, torch.eye(DIM, dtype=torch.float64))

    def function(x):
        return x.tanh() * torch.exp(-x.flip(1))

    found = jets.product(jets.tanh(start), jets.exp(-start.flip(2)))
    value, gradient, laplacian = nested(function, x)
    torch.testing.assert_close(found[0], value)
    torch.testing.assert_close(found[1:-1].movedim(0, -1), gradient)
    torch.testing.assert_close(found[-1], laplacian)


@pytest.mark.parametrize("with_metric", [True, False])
def test_derivatives_by_a_networks_own_inputs(with_metric):
    """Inputs that are themselves functions of ``x``: only with the metric is the Laplacian right."""
    x = numbers(POINTS, 4, seed=7)
    mixing = numbers(4, DIM, seed=8)
    inputs = jets.tanh(jets.affine(jets.start(x, torch.eye(4, dtype=torch.float64)), mixing, torch.zeros(DIM).double()))
    own, metric = jets.own(inputs)
    found = jets.along(network_jet(own, metric if with_metric else None), inputs)
    value, gradient, laplacian = nested(lambda x: network((x @ mixing).tanh()), x)
    torch.testing.assert_close(found[:, 0], value)
    torch.testing.assert_close(found[:, 1:-1].movedim(1, -1), gradient)
    assert torch.allclose(found[:, -1], laplacian) == with_metric


def test_gradients_through_the_written_out_tanh():
    jet = numbers(2 + DIM, POINTS, 2, seed=9).requires_grad_()
    metric = numbers(POINTS, DIM, DIM, seed=10)
    metric = (metric @ metric.mT).requires_grad_()
    assert torch.autograd.gradcheck(jets.tanh, (jet,))
    # the metric is symmetric: what autograd sees is one of many gradients that agree along symmetric changes
    assert torch.autograd.gradcheck(lambda jet, metric: jets.tanh(jet, (metric + metric.mT) / 2), (jet, metric))
    assert torch.autograd.gradcheck(lambda jet: jets.tanh(jet.expand(3, *jet.shape), metric.detach()), (jet,))


def test_signs_instead_of_axes_estimate_the_laplacian():
    x = numbers(POINTS, DIM, seed=11)
    signs = torch.randint(2, (20_000, DIM), generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    exact = network_jet(jets.start(x, torch.eye(DIM, dtype=torch.float64)))[:, -1]
    guess = network_jet(jets.start(x, signs))[:, -1] / len(signs)
    assert (guess - exact).abs().max() < 0.05 * exact.abs().max()
    assert (guess + exact).abs().max() > 0.5 * exact.abs().max()
