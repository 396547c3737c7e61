"""The hot paths of the density estimator: log-density, score and divergence, and a training gradient of all three."""

import math
from functools import partial

import torch
from harness import Case, Variant
from torch import nn

TARGET = 3.0  # times faster than nested differentiation


def estimator(dim, dtype):
    """64 components, 4 couplings of two hidden layers of 200, away from its start."""
    from snapdyn import densities

    generator = torch.Generator().manual_seed(0)
    model = densities.MixtureFlow(dim, 64, stacks=4, hidden=200, generator=generator).to(dtype)
    with torch.no_grad():
        model.centroids.normal_(generator=generator)
        model.logits.normal_(generator=generator)
        model.set_covariance(0.3 * torch.eye(dim))
        for coupling in model.flow:
            coupling.coefficients.normal_(0, 0.5, generator=generator)
    return model


class Plain(nn.Module):
    """The same density as one would write it: a network for each scale and shift, a distribution for the mixture."""

    def __init__(self, model):
        super().__init__()
        self.couplings = nn.ModuleList()
        for source in reversed(model.flow):
            both = nn.ModuleList(self._network(source, k) for k in range(2))
            both.kept, both.moved = source.kept, source.moved
            both.coefficients = nn.Parameter(source.coefficients.detach().clone())
            self.couplings.append(both)
        self.centroids = nn.Parameter(model.centroids.detach().clone())
        self.factor = nn.Parameter(model.factor.detach().clone())
        self.logits = nn.Parameter(model.logits.detach().clone())

    @staticmethod
    def _network(source, k):
        layers = []
        for weight, bias in zip(source.weights, source.biases, strict=True):
            layer = nn.Linear(weight.shape[1], weight.shape[2], dtype=weight.dtype)
            with torch.no_grad():
                layer.weight.copy_(weight[k].T)
                layer.bias.copy_(bias[k])
            layers += [layer, nn.Tanh()]
        return nn.Sequential(*layers[:-1])

    def log_prob(self, x):
        total = 0.0
        for both in self.couplings:
            kept, moved = x[:, both.kept], x[:, both.moved]
            scale = both.coefficients[0] * torch.tanh(both[0](kept))
            moved = (moved - both.coefficients[1] * both[1](kept)) * torch.exp(-scale)
            x = torch.cat([kept, moved], 1)[:, torch.cat([both.kept, both.moved]).argsort()]
            total = total - scale.sum(1)
        parts = torch.distributions.MultivariateNormal(self.centroids, scale_tril=self.factor)
        return torch.logsumexp(parts.log_prob(x[:, None]) + self.logits.log_softmax(0), 1) + total


def nested(model, x, graph=False):
    """log p, score and divergence by differentiating twice, an axis at a time."""
    x = x.clone().requires_grad_()
    log_prob = model.log_prob(x)
    score = torch.autograd.grad(log_prob.sum(), x, create_graph=True)[0]
    columns = range(x.shape[1])
    bends = [torch.autograd.grad(score[:, i].sum(), x, create_graph=graph, retain_graph=True)[0][:, i] for i in columns]
    return log_prob, score, sum(bends)


def gradient(derivatives, model, x):
    """Of the mean of |s|^2 + div s by all parameters; that by the centroids is compared."""
    _, score, divergence = derivatives(model, x)
    loss = (score.square().sum(1) + divergence).abs().mean()
    others = [parameter for parameter in model.parameters() if parameter is not model.centroids]
    return torch.autograd.grad(loss, [model.centroids, *others], allow_unused=True)[:1]


def ours_with_graph(model, x):
    jet = model.jet(x, torch.eye(model.dim).to(x))
    return jet[0], jet[1:-1].T, jet[-1]


def in_blocks(function, x, rows=1024):
    parts = [function(part) for part in x.split(rows)]
    return [torch.cat(values) for values in zip(*parts, strict=True)]


def largest_gap(found, wanted):
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True))


def densities(small=False):
    """Log-density, score and divergence of the estimator, and what training needs: their gradient."""
    for dim in (2, 3):
        model = estimator(dim, torch.float64)
        plain, n = Plain(model), 4096 if small else 20_000
        x = torch.randn(n, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        wanted = [part.detach() for part in in_blocks(partial(nested, plain), x)]
        yield Case(
            "densities",
            f"log-density, score and divergence, {dim} axes, {n} points, float64",
            [
                Variant("snapdyn MixtureFlow.derivatives", "ours", lambda m=model, x=x: partial(m.derivatives, x)),
                Variant("nested autograd, blocks of 1024", "peer",
                        lambda p=plain, x=x: partial(in_blocks, partial(nested, p), x), TARGET),
                Variant("nested autograd, all at once", "context", lambda p=plain, x=x: partial(nested, p, x)),
            ],
            error=lambda found, wanted=wanted: largest_gap([part.detach() for part in found], wanted),
            tolerance=1e-6,
        )  # fmt: skip
        model = estimator(dim, torch.float32)
        plain, batch = Plain(model), x[:256].float()
        wanted = gradient(partial(nested, graph=True), plain, batch)
        yield Case(
            "densities",
            f"gradient of score and divergence, {dim} axes, batch of 256, float32",
            [
                Variant("snapdyn MixtureFlow.jet", "ours",
                        lambda m=model, x=batch: partial(gradient, ours_with_graph, m, x)),
                Variant("nested autograd", "peer",
                        lambda p=plain, x=batch: partial(gradient, partial(nested, graph=True), p, x), math.nan),
            ],
            error=lambda found, wanted=wanted: largest_gap(found, wanted),
            tolerance=1e-2,
        )  # fmt: skip
