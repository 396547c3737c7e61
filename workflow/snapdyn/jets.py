r"""Values with their derivatives, carried forward: a function, its slopes along some directions and its Laplacian.

A *jet* of a function of ``x`` is one tensor ``(2 + m, n, k)``: the values, then ``m`` first derivatives along given
directions, then the sum of the second derivatives along them. With the axes as directions that sum is the Laplacian.
One pass through a network gives all of them, where nested automatic differentiation takes ``dim + 2`` passes and keeps
a graph of each.

A network of fewer inputs than directions is cheaper to differentiate by its own inputs. The sum of second derivatives
then weighs their products by a *metric* ``(n, m, m)``, the Gram matrix of the inputs' slopes along the directions.

Equation: ``forward-laplacian``
"""

import torch
from torch import Tensor


def start(x: Tensor, directions: Tensor) -> Tensor:
    """The jet of the identity at ``x (n, k)`` along ``directions (m, k)``: ``(2 + m, n, k)``."""
    n, k = x.shape
    return torch.cat([x[None], directions[:, None].expand(-1, n, k), torch.zeros_like(x)[None]])


def own(jet: Tensor) -> tuple[Tensor, Tensor]:
    """The jet of a network's input by that input itself ``(2 + k, n, k)``, and its metric ``(n, k, k)``."""
    slopes, k = jet[1:-1], jet.shape[-1]
    eye = torch.eye(k).to(jet)[:, None].expand(k, *jet.shape[1:])
    return torch.cat([jet[:1], eye, jet[-1:]]), torch.einsum("mni,mnj->nij", slopes, slopes)


def along(jet: Tensor, inputs: Tensor) -> Tensor:
    """Slopes by a network's own inputs turned into slopes along the directions of ``inputs``, the inputs' jet."""
    slopes = torch.einsum("mni,...inb->...mnb", inputs[1:-1], jet[..., 1:-1, :, :])
    return torch.cat([jet[..., :1, :, :], slopes, jet[..., -1:, :, :]], -3)


def affine(jet: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The jet of ``y W + b``; any number of networks side by side.

    Args:
        jet: ``(.., 2 + m, n, k)``.
        weight: ``(.., k, l)``; bias ``(.., l)``.
    """
    rows, n, k = jet.shape[-3:]
    out = (jet.reshape(*jet.shape[:-3], rows * n, k) @ weight).unflatten(-2, (rows, n))
    out[..., 0, :, :] += bias[..., None, :]  # in place: a copy of it all would cost a tenth of the pass
    return out


class _Tanh(torch.autograd.Function):
    """tanh of a jet, with its derivative written out: half the passes over memory that autograd would make."""

    @staticmethod
    def _lowered(slopes, metric):
        """sum_j G_ij v_j, of the shape of the slopes. Few terms: written out, they need no transposed copies."""
        if metric is None:
            return slopes
        count = metric.shape[-1]
        rows = [sum(metric[:, i, j, None] * slopes[..., j, :, :] for j in range(count)) for i in range(count)]
        return torch.stack(rows, -3)

    @staticmethod
    def _squares(slopes, metric):
        """sum_ij G_ij v_i v_j."""
        if metric is None:
            return slopes.square().sum(-3)
        total = 0.0
        for i in range(metric.shape[-1]):
            for j in range(i + 1):
                twice = metric[:, i, j, None] * (1 if i == j else 2)
                total = total + twice * (slopes[..., i, :, :] * slopes[..., j, :, :])
        return total

    @staticmethod
    def forward(ctx, jet, metric):
        value, slopes, curve = jet[..., 0, :, :], jet[..., 1:-1, :, :], jet[..., -1, :, :]
        tanh, out = value.tanh(), torch.empty_like(jet)
        gain = 1 - tanh.square()
        out[..., 0, :, :] = tanh
        torch.mul(slopes, gain.unsqueeze(-3), out=out[..., 1:-1, :, :])
        squares = _Tanh._squares(slopes, metric)
        torch.mul(gain, torch.addcmul(curve, tanh, squares, value=-2), out=out[..., -1, :, :])
        ctx.save_for_backward(jet, metric, out, squares)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        jet, metric, out, squares = ctx.saved_tensors
        slopes, curve, tanh = jet[..., 1:-1, :, :], jet[..., -1, :, :], out[..., 0, :, :]
        by_slopes, by_curve = grad[..., 1:-1, :, :], grad[..., -1, :, :]
        gain = 1 - tanh.square()
        back = torch.empty_like(jet)
        pull = gain * by_curve  # what reaches the curve of the input
        back[..., -1, :, :] = pull
        # slopes enter their own output, and as a square that of the curve: -4 tanh gain G v
        turn = (pull * tanh).unsqueeze(-3)
        torch.mul(by_slopes, gain.unsqueeze(-3), out=back[..., 1:-1, :, :])
        back[..., 1:-1, :, :].addcmul_(turn, _Tanh._lowered(slopes, metric), value=-4)
        # d/dv of gain is -2 tanh gain; of gain tanh is gain (1 - 3 tanh^2)
        turned = (by_slopes * slopes).sum(-3) + by_curve * curve
        value = grad[..., 0, :, :] - 2 * tanh * turned - 2 * by_curve * squares * (1 - 3 * tanh.square())
        torch.mul(value, gain, out=back[..., 0, :, :])
        if metric is None:
            return back, None
        weighed, n = turn * slopes, metric.shape[0]
        pairs = [
            (weighed[..., i, :, :] * slopes[..., j, :, :]).sum(-1).reshape(-1, n).sum(0)
            for i in range(metric.shape[-1])
            for j in range(metric.shape[-1])
        ]
        return back, -2 * torch.stack(pairs, -1).reshape(metric.shape)


def tanh(jet: Tensor, metric: Tensor | None = None) -> Tensor:
    """The jet of tanh of every entry."""
    return _Tanh.apply(jet, metric)


def product(one: Tensor, two: Tensor) -> Tensor:
    """The jet of the product, entry by entry."""
    a, b = one[:1], two[:1]
    curve = a * two[-1:] + b * one[-1:] + 2 * (one[1:-1] * two[1:-1]).sum(0, keepdim=True)
    return torch.cat([a * b, a * two[1:-1] + b * one[1:-1], curve])


def exp(jet: Tensor) -> Tensor:
    """The jet of the exponential of every entry."""
    value, slopes = jet[:1].exp(), jet[1:-1]
    return torch.cat([value, value * slopes, value * (jet[-1:] + slopes.square().sum(0, keepdim=True))])
