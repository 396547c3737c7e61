"""How the density estimator learns: from known dynamics, or from data by likelihood and by score matching.

Every objective is a function of the model and a batch; :func:`train` minimises any of them, keeps the best state on
validation points, and can be interrupted and resumed to the same bits.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from snapdyn import checkpoint

FORMS = ("plain", "detached", "weighted", "weighted-square", "equation-square")
OUTSIDE = 10.0  # weight of the mass outside the box
LEAST_MASS = 0.5  # of the model's probability inside the box; less of it is not a density of this system
MONITORED = 2000  # draws that the mass inside the box is measured with


@dataclass(frozen=True)
class Recipe:
    """How to minimise.

    Attributes:
        steps: optimiser steps.
        batch: points a step.
        rate: largest step size of Adam for the mixture; rises over ``warm`` steps and falls to 0 as a cosine.
        flow_share: step size of the couplings' networks, as a share of the mixture's.
        clip: largest norm of a gradient.
        average: decay of the running mean of the weights, which is what is judged and returned.
        every: steps between two looks at validation points and at the mass inside the box.
        patience: looks without a better validation loss before it ends; None for never.
        penalty: weight of the sum of the couplings' absolute coefficients.
    """

    steps: int = 3000
    batch: int = 256
    rate: float = 1e-2
    flow_share: float = 0.3
    warm: int = 100
    clip: float = 1.0
    average: float = 0.995
    every: int = 100
    patience: int | None = 10
    penalty: float = 0.0

    def rate_at(self, step):
        """The step size of step ``step``, counted from 1."""
        warm = min(1.0, step / max(self.warm, 1))
        return self.rate * warm * 0.5 * (1 + math.cos(math.pi * (step - 1) / self.steps))


def stationary_residual(model, x, drift, divergence, diffusivity):
    r"""R = s . f + div f - D (|s|^2 + div s) at ``x``, in 1 / time, and log p there, both ``(n,)``.

    Args:
        drift, divergence: f ``(n, dim)`` and div f ``(n,)`` at ``x``.
        diffusivity: D, a number or a matrix ``(dim, dim)``.
    Equation: ``stationary-residual``
    """
    dim = x.shape[1]
    amplitude = torch.as_tensor(np.asarray(diffusivity), dtype=x.dtype, device=x.device)
    if amplitude.ndim == 0:
        jet = model.jet(x, torch.eye(dim).to(x))
        score, curve = jet[1:-1].T, amplitude * (jet[1:-1].square().sum(0) + jet[-1])
        return (score * drift).sum(1) + divergence - curve, jet[0]
    # along the axes for s . f, along the noise's own directions for tr(D (s s^T + grad s))
    noisy = model.jet(x, torch.linalg.cholesky(amplitude).T.contiguous())
    score = model.jet(x, torch.eye(dim).to(x))[1:-1].T
    return (score * drift).sum(1) + divergence - noisy[1:-1].square().sum(0) - noisy[-1], noisy[0]


class Dynamics:
    r"""The stationary equation of known dynamics, at points of a box.

    ``plain`` is the paper's mean of |R| over uniform points: it weighs empty regions as much as full ones, and the
    model's mass is free to leave the box. ``weighted`` is the mean of |R| over the model's own law inside the box,

    .. math:: \log \frac{\int_B p\,|R|}{\int_B p} + \kappa \int_{\bar B} p

    estimated from points of which half are uniform and half the model's. Divided by the mass in the box, it cannot be
    lowered by carrying mass out; the second term, with kappa = ``OUTSIDE``, carries it in. The logarithm makes the
    two comparable in any unit of time. ``weighted-square`` has R^2, and ``equation-square`` the square of what the
    equation itself leaves over, (p R)^2, over that of the mass in the box. ``detached`` weighs |R| by p without a
    gradient through it, on uniform points.

    Args:
        dynamics: has ``drift(x)`` and ``divergence(x)``.
        box: ``(dim, 2)``, lowest and highest value of each axis.
    Equation: ``stationary-residual``, ``weighted-residual``
    """

    def __init__(self, dynamics, diffusivity, box, *, form="weighted-square"):
        if form not in FORMS:
            raise ValueError(f"expected a loss of {FORMS}, got {form!r}")
        self.dynamics, self.diffusivity, self.form = dynamics, diffusivity, form
        self.low, self.high = box[:, 0], box[:, 1]
        self.log_volume = float((self.high - self.low).log().sum())

    def batch(self, model, n, generator):
        """Points ``(n, dim)`` to check the equation at, the uniform ones first."""
        uniform = n if self.form in ("plain", "detached") else n - n // 2
        low, high = self.low.to(model.centroids), self.high.to(model.centroids)
        x = low + (high - low) * torch.rand(uniform, model.dim, generator=generator, dtype=low.dtype).to(low)
        return x if uniform == n else torch.cat([x, model.sample(n - uniform, generator)])

    def __call__(self, model, x):
        drift, divergence = self.dynamics.drift(x), self.dynamics.divergence(x)
        residual, log_prob = stationary_residual(model, x, drift, divergence, self.diffusivity)
        size = residual.square() if self.form.endswith("square") else residual.abs()
        if self.form == "plain":
            return size.mean()
        if self.form == "detached":
            weight = log_prob.detach().softmax(0)
            return (weight * size).sum()
        proposed = torch.logaddexp(log_prob.detach(), torch.tensor(-self.log_volume).to(log_prob)) - math.log(2)
        inside = self.inside(x)
        share = torch.where(inside, (log_prob - proposed).exp(), 0.0)  # p over what the points come from
        size = torch.where(inside, size, 0.0)
        if self.form == "equation-square":
            mean = (share.square() * proposed.exp() * size).mean() / share.mean().square()
        else:
            mean = (share * size).mean() / share.mean()
        # the share of the model's own draws that are outside; its gradient is the mean of that of their log p
        own = slice(len(x) - len(x) // 2, None)
        outside = torch.where(inside, 0.0, (log_prob - log_prob.detach()).exp())[own].mean()
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log() + OUTSIDE * outside

    def inside(self, x):
        """Which points lie in the box ``(n,)``."""
        return ((x >= self.low.to(x)) & (x <= self.high.to(x))).all(1)

    def mass(self, model, generator):
        """Share of the model's probability inside the box, by sampling."""
        return float(self.inside(model.sample(MONITORED, generator)).double().mean())


class Likelihood:
    """Mean negative log-likelihood of the data, in nats."""

    def __init__(self, x, weight=None):
        self.x, self.weight = x, weight

    def batch(self, model, n, generator):
        """Rows drawn in proportion to their weights ``(n, dim)``."""
        if self.weight is None:
            rows = torch.randint(len(self.x), (n,), generator=generator)
        else:
            rows = torch.multinomial(self.weight, n, replacement=True, generator=generator)
        return self.x[rows.to(self.x.device)]

    def __call__(self, model, x):
        return -model.log_prob(x).mean()


class ScoreMatching(Likelihood):
    r"""Hyvarinen's objective, mean of |s|^2 / 2 + div s over the data, in standardised axes; or its denoising form.

    Args:
        noise: standard deviation of the noise of denoising score matching, in standard deviations of each axis; 0 for
            the implicit form.
    Equation: ``score-matching``, ``denoising-score-matching``
    """

    def __init__(self, x, weight=None, *, noise=0.0):
        super().__init__(x, weight)
        self.noise = noise

    def batch(self, model, n, generator):
        x = super().batch(model, n, generator)
        if not self.noise:
            return x
        return torch.stack([x, self.noise * torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x)])

    def __call__(self, model, x):
        directions = model.scale.diag()  # derivatives along standardised axes
        if not self.noise:
            return self._implicit(model.jet(x, directions))
        if x.ndim == 2:  # validation points: the implicit form judges both
            return self._implicit(model.jet(x, directions))
        x, noise = x
        slopes = model.jet(x + noise * model.scale, directions)[1:-1].T
        return 0.5 * (slopes + noise / self.noise**2).square().sum(1).mean()

    @staticmethod
    def _implicit(jet):
        return (0.5 * jet[1:-1].square().sum(0) + jet[-1]).mean()


class Combined(Likelihood):
    r"""Likelihood plus ``share`` times implicit score matching in units of the model's mean squared score, in one pass.

    In those units the second term is of order one (-1/2 at the exact law) however narrow the density is; the unit has
    no gradient.

    Equation: ``score-matching``
    """

    def __init__(self, x, weight=None, *, share):
        super().__init__(x, weight)
        self.share = share

    def __call__(self, model, x):
        jet = model.jet(x, model.scale.diag())
        size = jet[1:-1].detach().square().sum(0).mean()
        return -jet[0].mean() + self.share * ScoreMatching._implicit(jet) / size


def train(model, objective, recipe, *, seed, validation=None, keep=checkpoint.NOWHERE, name="train", progress=None):
    """Minimise ``objective`` and leave the best averaged weights in ``model``.

    Args:
        objective: has ``batch(model, n, generator)`` and ``objective(model, batch) -> loss``; if it has ``mass``, that
            is looked at as well, and too little of it ends the training with an error.
        seed: of all draws.
        validation: points ``(n, dim)``, or what else the objective takes for a batch; without any, the last state
            stays.
        keep: a :class:`snapdyn.checkpoint.Checkpoint`.
        progress: ``(total, label) -> tqdm``, to show how far it is.
    Returns:
        the history: rows ``[step, term, value]``.
    Raises:
        ValueError: the loss is no longer finite, or the model's mass has left the box.
    """
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    generator = torch.Generator().manual_seed(seed)
    monitor = torch.Generator().manual_seed(seed + 1)
    flow = list(model.flow.parameters())
    groups = [{"params": [w for w in weights if all(w is not f for f in flow)], "share": 1.0}]
    groups += [{"params": flow, "share": recipe.flow_share}] if flow else []
    optimiser = torch.optim.Adam(groups, lr=recipe.rate)
    mean = [weight.detach().clone() for weight in weights]
    rows, best, stale, total = [], None, 0, 0.0

    def state():
        return {
            "weights": weights,
            "mean": mean,
            "adam": optimiser.state_dict()["state"],
            "generators": [generator.get_state(), monitor.get_state()],
            "rows": rows,
            "best": best,
            "stale": stale,
            "total": total,
        }

    with keep.loop(name, *weights) as loop:
        if kept := loop.state:
            with torch.no_grad():
                for group, values in ((weights, kept["weights"]), (mean, kept["mean"])):
                    for weight, value in zip(group, values, strict=True):
                        weight.copy_(value)
            optimiser.load_state_dict(optimiser.state_dict() | {"state": kept["adam"]})
            for one, value in zip((generator, monitor), kept["generators"], strict=True):
                one.set_state(value)
            rows, best, stale, total = kept["rows"], kept["best"], kept["stale"], kept["total"]
        bar = progress(recipe.steps, name) if progress else None
        if bar is not None:
            bar.update(loop.done)
        for step in range(loop.done + 1, recipe.steps + 1):
            if recipe.patience is not None and stale >= recipe.patience:
                break
            for group in optimiser.param_groups:
                group["lr"] = group["share"] * recipe.rate_at(step)
            optimiser.zero_grad()
            loss = objective(model, objective.batch(model, recipe.batch, generator))
            if recipe.penalty:
                loss = loss + recipe.penalty * model.coefficients().abs().sum()
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(weights, recipe.clip)
            if not torch.isfinite(norm):
                raise ValueError(
                    f"{name}: the loss or its gradient is not finite at step {step}: take a smaller rate (now "
                    f"{recipe.rate:g}), fewer stacks, or look for rows far away from all others"
                )
            optimiser.step()
            for average, weight in zip(mean, weights, strict=True):
                average.lerp_(weight.detach(), 1 - min(recipe.average, step / (step + 10)))
            total += float(loss.detach())
            if step % recipe.every == 0 or step == recipe.steps:
                found = {"loss": total / (recipe.every if step % recipe.every == 0 else step % recipe.every)}
                total = 0.0
                with _swapped(weights, mean):
                    found |= _looked_at(model, objective, validation, monitor, name, step)
                rows += [[step, term, value] for term, value in found.items()]
                if "validation" in found:
                    better = best is None or found["validation"] < best["loss"]
                    stale = 0 if better else stale + 1
                    if better:
                        best = {"loss": found["validation"], "step": step, "weights": [m.clone() for m in mean]}
            if bar is not None:
                bar.update()
            loop.tick(step, state)
        if bar is not None:
            bar.close()
    with torch.no_grad():
        for weight, value in zip(weights, best["weights"] if best else mean, strict=True):
            weight.copy_(value)
    return rows


class _swapped:
    """The model with other weights for a while."""

    def __init__(self, weights, others):
        self.weights, self.others = weights, others

    def __enter__(self):
        self.own = [weight.detach().clone() for weight in self.weights]
        self._put(self.others)

    def __exit__(self, *error):
        self._put(self.own)

    def _put(self, values):
        with torch.no_grad():
            for weight, value in zip(self.weights, values, strict=True):
                weight.copy_(value)


def _looked_at(model, objective, validation, generator, name, step):
    """Validation loss and mass inside the box, as far as there are any."""
    found = {}
    with torch.no_grad():
        if validation is not None:
            found["validation"] = float(objective(model, validation))
        if hasattr(objective, "mass"):
            found["mass"] = objective.mass(model, generator)
    if found.get("mass", 1.0) < LEAST_MASS:
        share = f"{found['mass']:.0%}"
        raise ValueError(
            f"{name}: only {share} of the model's probability is inside the box at step {step}, so it is no density of "
            "this system: take loss: weighted-square, a smaller rate, or a box that holds all states"
        )
    return found
