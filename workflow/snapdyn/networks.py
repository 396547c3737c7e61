r"""Many small networks of one shape side by side, with the derivatives of their outputs by the inputs written out.

Seeds, data sets and starts of an experiment are *members* of one batched program: every weight has a leading axis of
members. Slopes and second derivatives are sums of matrix products, so a loss in them costs one pass of automatic
differentiation by the weights, where nested differentiation takes two or three.

With pre-activations a_l, slopes s_l = phi'(a_l), curvatures c_l = phi''(a_l), J_l = da_l/dx and g_l = dy/d phi(a_l):

.. math:: \nabla y = W_1 (s_1 g_1), \qquad \nabla^2 y = \sum_l J_l^\top \mathrm{diag}(c_l g_l) J_l

Equation: ``network-derivatives``
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


def _softplus(a):
    return functional.softplus(a)


def _softplus_slope(a):
    return torch.sigmoid(a)


def _softplus_curvature(a):
    s = torch.sigmoid(a)
    return s * (1 - s)


def _selu_slope(a):
    return SELU_SCALE * torch.where(a > 0, torch.ones_like(a), SELU_ALPHA * a.clamp(max=0).exp())


def _selu_curvature(a):
    return SELU_SCALE * torch.where(a > 0, torch.zeros_like(a), SELU_ALPHA * a.clamp(max=0).exp())


# name -> value, first and second derivative
ACTIVATIONS = {
    "softplus": (_softplus, _softplus_slope, _softplus_curvature),
    "selu": (functional.selu, _selu_slope, _selu_curvature),
}


class StackedMLP(nn.Module):
    """``members`` networks of one shape; points ``(members, n, inputs)`` in, ``(members, n, outputs)`` out.

    Args:
        inputs, outputs: width of both ends.
        seeds: one for each member; the start of a member depends on its own seed alone.
        hidden: widths of the hidden layers.
        activation: a name of :data:`ACTIVATIONS`.
        last: factor on the start of the last layer; 0 makes it start as zero.
    """

    def __init__(self, inputs, outputs, *, seeds, hidden=(64, 64), activation="softplus", last=1.0):
        super().__init__()
        self.inputs, self.outputs, self.hidden, self.activation = inputs, outputs, tuple(hidden), activation
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        sizes = [inputs, *self.hidden, outputs]
        for place, (into, out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            reach = into**-0.5 * (last if place == len(self.hidden) else 1.0)
            for shape, group in (((into, out), self.weights), ((1, out), self.biases)):
                drawn = [2 * torch.rand(shape, generator=generator) - 1 for generator in generators]
                group.append(nn.Parameter(reach * torch.stack(drawn)))

    @property
    def members(self):
        return len(self.weights[0])

    def forward(self, x: Tensor) -> Tensor:
        """Outputs ``(members, n, outputs)`` at ``x (members, n, inputs)``."""
        value = ACTIVATIONS[self.activation][0]
        for place, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, value(x) if place else x, weight)
        return x

    def _pre_activations(self, x):
        value, found = ACTIVATIONS[self.activation][0], []
        for place, (weight, bias) in enumerate(zip(self.weights[:-1], self.biases[:-1], strict=True)):
            found.append(torch.baddbmm(bias, value(found[-1]) if place else x, weight))
        return found

    def _pulled_back(self, pre, slopes):
        """g_l of the only output, for every hidden layer, the first layer first."""
        pulled = [self.weights[-1].transpose(1, 2).expand(-1, pre[-1].shape[1], -1)]
        for weight, slope in zip(reversed(self.weights[1:-1]), reversed(slopes[1:]), strict=True):
            pulled.append((pulled[-1] * slope) @ weight.transpose(1, 2))
        return pulled[::-1]

    def gradient(self, x: Tensor, dim=None) -> Tensor:
        """The gradient of the only output by the first ``dim`` inputs (all by default): ``(members, n, dim)``."""
        self._one_output()
        pre = self._pre_activations(x)
        slopes = [ACTIVATIONS[self.activation][1](a) for a in pre]
        return (self._pulled_back(pre, slopes)[0] * slopes[0]) @ self.weights[0][:, :dim].transpose(1, 2)

    def hessian(self, x: Tensor, dim=None) -> tuple[Tensor, Tensor]:
        """Gradient ``(members, n, dim)`` and second derivatives ``(members, n, dim, dim)`` of the only output."""
        self._one_output()
        _, slope, curvature = ACTIVATIONS[self.activation]
        pre = self._pre_activations(x)
        slopes = [slope(a) for a in pre]
        pulled = self._pulled_back(pre, slopes)
        first = self.weights[0][:, :dim]
        members, n, count = x.shape[0], x.shape[1], first.shape[1]
        along = first[:, None].expand(members, n, count, -1)  # da_l along each input: (members, n, dim, hidden)
        total = 0.0
        for place, (a, g) in enumerate(zip(pre, pulled, strict=True)):
            if place:
                along = (along * slopes[place - 1][:, :, None]).flatten(1, 2) @ self.weights[place]
                along = along.unflatten(1, (n, count))
            total = total + (along * (curvature(a) * g)[:, :, None]) @ along.transpose(2, 3)
        return (pulled[0] * slopes[0]) @ first.transpose(1, 2), total

    def jacobian(self, x: Tensor, dim=None) -> tuple[Tensor, Tensor]:
        """Outputs ``(members, n, outputs)`` and their slopes by the first ``dim`` inputs, output before input:
        ``(members, n, outputs, dim)``."""
        value, slope, _ = ACTIVATIONS[self.activation]
        n, first = x.shape[1], self.weights[0][:, :dim]
        count = first.shape[1]
        y = torch.baddbmm(self.biases[0], x, self.weights[0])
        along = first[:, None].expand(len(first), n, count, -1)
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            along = ((along * slope(y)[:, :, None]).flatten(1, 2) @ weight).unflatten(1, (n, count))
            y = torch.baddbmm(bias, value(y), weight)
        return y, along.transpose(2, 3)

    def _one_output(self):
        if self.outputs != 1:
            raise ValueError(f"a gradient needs a network with one output, this one has {self.outputs}; use jacobian")

    def state(self):
        """Constructor arguments and weights of all members, as tensors and plain values."""
        keys = ("inputs", "outputs", "hidden", "activation")
        kept = {key: getattr(self, key) for key in keys} | {"hidden": list(self.hidden)}
        return kept | {
            "weights": [weight.detach().cpu().clone() for weight in self.weights],
            "biases": [bias.detach().cpu().clone() for bias in self.biases],
        }

    @classmethod
    def from_state(cls, state):
        """The networks of :meth:`state`, in the precision of its weights."""
        shape = {key: state[key] for key in ("inputs", "outputs", "hidden", "activation")}
        found = cls(**shape, seeds=[0] * len(state["weights"][0]))
        for own, kept in ((found.weights, state["weights"]), (found.biases, state["biases"])):
            for place, value in enumerate(kept):
                own[place] = nn.Parameter(value.clone())
        return found

    def member(self, place):
        """One of the networks, as a stack of one."""
        state = self.state()
        rows = {name: [value[place : place + 1] for value in state[name]] for name in ("weights", "biases")}
        return StackedMLP.from_state(state | rows)

    def scaled(self, factor):
        """The networks times a number."""
        state = self.state()
        last = {name: [*state[name][:-1], factor * state[name][-1]] for name in ("weights", "biases")}
        return StackedMLP.from_state(state | last)
