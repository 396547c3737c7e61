"""Stacked networks: derivatives written out against nested automatic differentiation, members against single ones."""

import pytest
import torch
from torch.func import functional_call, hessian, jacrev, vmap

from snapdyn import networks

SEEDS = [3, 5, 8]


def stack(inputs=3, outputs=1, **how):
    return networks.StackedMLP(inputs, outputs, seeds=SEEDS, hidden=(7, 5), **how).double()


def alone(net, place):
    """One member as a function of one point."""
    one = net.member(place)
    parameters = dict(one.named_parameters())
    return lambda x: functional_call(one, parameters, (x[None, None],))[0, 0]


def points(inputs=3, n=11):
    return torch.randn(len(SEEDS), n, inputs, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("activation", list(networks.ACTIVATIONS))
@pytest.mark.parametrize("dim", [None, 2])
def test_derivatives_are_those_of_nested_differentiation(activation, dim):
    net, x = stack(activation=activation), points()
    gradient, second = net.hessian(x, dim)
    torch.testing.assert_close(net.gradient(x, dim), gradient)
    for place in range(len(SEEDS)):
        value = alone(net, place)
        first = vmap(jacrev(lambda p, value=value: value(p)[0]))(x[place])
        torch.testing.assert_close(gradient[place], first[:, :dim], rtol=1e-10, atol=1e-12)
        exact = vmap(hessian(lambda p, value=value: value(p)[0]))(x[place])
        torch.testing.assert_close(second[place], exact[:, :dim, :dim], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("activation", list(networks.ACTIVATIONS))
def test_the_jacobian_of_several_outputs(activation):
    net, x = stack(outputs=2, activation=activation), points()
    y, slopes = net.jacobian(x, 2)
    torch.testing.assert_close(y, net(x))
    for place in range(len(SEEDS)):
        exact = vmap(jacrev(alone(net, place)))(x[place])
        torch.testing.assert_close(slopes[place], exact[:, :, :2], rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="use jacobian"):
        net.gradient(x)


def test_a_loss_in_the_gradient_has_the_right_slopes_by_the_weights():
    net, x = stack(), points()
    loss = net.gradient(x).square().mean()
    ours = torch.autograd.grad(loss, list(net.weights))
    point = x.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(net(point).sum(), point, create_graph=True)
    nested = torch.autograd.grad(slopes.square().mean(), list(net.weights))
    for one, other in zip(ours, nested, strict=True):
        torch.testing.assert_close(one, other)


def test_a_member_is_the_same_alone_and_in_company():
    net = stack()
    single = networks.StackedMLP(3, 1, seeds=[SEEDS[1]], hidden=(7, 5)).double()
    x = points()
    torch.testing.assert_close(net(x)[1:2], single(x[1:2]))
    torch.testing.assert_close(net.member(1)(x[1:2]), single(x[1:2]))
    assert (net(x[:1].expand(3, -1, -1))[0] - net(x[:1].expand(3, -1, -1))[1]).abs().max() > 1e-3


def test_state_there_and_back():
    net, x = stack(activation="selu"), points()
    torch.testing.assert_close(networks.StackedMLP.from_state(net.state())(x), net(x))
    assert networks.StackedMLP(3, 1, seeds=[1], last=0.0)(x[:1].float()).abs().max() == 0
