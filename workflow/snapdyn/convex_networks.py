r"""Small input-convex networks side by side; their gradients, written out, are maps without any detour.

.. math:: h_0 = \sigma(x W_0 + b_0)^2, \qquad h_l = \sigma(h_{l-1} U_l^+ + x W_l + b_l), \qquad
          \psi(x) = h_L u^+ + x \cdot w, \qquad U^+ = \log(1 + e^U)

The leaky ReLU and its square are convex, later layers add with weights above 0 and rise, so psi is convex in x.

Equation: ``convex-network``
"""

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

LEAK = 0.01  # slope of the activation below 0
START = 0.1  # standard deviation of all weights at the start


class ConvexNetworks:
    """The shape of the networks; their weights are one tensor ``(..., count)``, a row for each network.

    Args:
        dim: inputs.
        hidden: widths of the hidden layers.
    """

    def __init__(self, dim, hidden=(64, 64)):
        ends = (*hidden, 1)
        self.dim, self.layers = dim, len(ends)
        self.shapes = [(dim, width) for width in ends]  # from the input to every layer
        self.shapes += [(1, width) for width in hidden]  # biases; a constant in psi moves nothing
        self.shapes += list(pairwise(ends))  # from layer to layer, before they are made positive
        self.count = sum(math.prod(shape) for shape in self.shapes)

    def start(self, *seeds):
        """Fresh weights ``(count,)``: a Gaussian draw from numbers that name them, biases 0."""
        drawn = START * np.random.default_rng(seeds).standard_normal(self.count, dtype=np.float32)
        sizes = [math.prod(shape) for shape in self.shapes]
        left, count = sum(sizes[: self.layers]), sum(sizes[self.layers : 2 * self.layers - 1])
        drawn[left : left + count] = 0
        return torch.from_numpy(drawn)

    def _parts(self, weights):
        sizes = [math.prod(shape) for shape in self.shapes]
        parts = [part.unflatten(-1, shape) for part, shape in zip(weights.split(sizes, -1), self.shapes, strict=True)]
        count = self.layers
        return parts[:count], parts[count : 2 * count - 1], [functional.softplus(u) for u in parts[2 * count - 1 :]]

    def _pre_activations(self, parts, x):
        """Of every hidden layer ``(..., n, width)``, and what the last of them gives on."""
        direct, biases, onward = parts
        found = [x @ direct[0] + biases[0]]
        h = functional.leaky_relu(found[0], LEAK).square()
        for weight, bias, positive in zip(direct[1:], biases[1:], onward, strict=False):
            found.append(h @ positive + x @ weight + bias)
            h = functional.leaky_relu(found[-1], LEAK)
        return found, h

    def value(self, weights: Tensor, x: Tensor) -> Tensor:
        """psi ``(..., n)`` at ``x (..., n, dim)`` by networks ``(..., count)``."""
        parts = self._parts(weights)
        last = self._pre_activations(parts, x)[1]
        return (last @ parts[2][-1] + x @ parts[0][-1])[..., 0]

    def gradient(self, weights: Tensor, x: Tensor) -> Tensor:
        """grad psi ``(..., n, dim)``.

        Equation: ``convex-network``
        """
        parts = self._parts(weights)
        direct, _, onward = parts
        pre, _ = self._pre_activations(parts, x)
        total, pulled = direct[-1].mT, onward[-1].mT
        for place in range(len(pre) - 1, -1, -1):
            slope = torch.ones_like(pre[place]).where(pre[place] > 0, LEAK)
            if place == 0:  # of the square
                slope = 2 * slope * slope * pre[0]
            pulled = pulled * slope
            total = total + pulled @ direct[place].mT
            if place:
                pulled = pulled @ onward[place - 1].mT
        return total
