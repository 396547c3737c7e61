"""How good a density is: on held-out points, beside one Gaussian and the true law, and against that law on a grid."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from snapdyn import clustering, density_families, metrics, recovery, systems, verdict

CELLS = 200  # of the grid along each axis of the system's box
WIDE_CELLS = 400  # of the grid that a density is integrated on
EXACT_DRAWS = 20000  # from the true law, at which scores are compared
MONITORED = 20000  # draws from the density that say how far out it reaches
LEAST = -700.0  # nats: what is left of a law outside of its grid
CLUSTERED = 4000  # held-out points that are clustered and denoised, at most
CLOUD = 2000  # points of a cloud whose distance to the held-out one is measured
# what a fit says of itself, where it does
REPORTED = ("components", "centroids", "bic", "bandwidth", "inverse_temperature", "energy_gap", "round_trip_residual")


@dataclass(frozen=True)
class Law:
    """The true stationary law of a system, arrays in and out.

    Attributes:
        log_prob: points ``(n, dim)`` to log p ``(n,)`` in nats.
        score: points to grad log p ``(n, dim)``.
        sample: ``(n, rng)`` to draws ``(n, dim)``.
        system: that it is the law of.
    """

    log_prob: Callable
    score: Callable
    sample: Callable
    system: systems.System

    @property
    def box(self):
        """``((from, to), (from, to))`` that holds nearly all of it, in a plane; else None."""
        return self.system.box


def law_of(snapshots):
    """The :class:`Law` behind simulated snapshots: in closed form, or by a grid in a plane; None for other data."""
    about = snapshots.meta.get("system")
    if about is None or about.get("system") not in systems.SYSTEMS:
        return None
    system = systems.of(about)
    if system.has_density:

        def exact(function):
            return lambda x: function(0.0, torch.from_numpy(np.ascontiguousarray(x))).detach().numpy()

        return Law(exact(system.log_prob), exact(system.score), system.sample, system)
    if system.box is None:
        return None
    from snapdyn import grid_density

    found = grid_density.solve(system, system.box)
    return Law(lambda x: np.maximum(found.log_prob(x), LEAST), found.score, found.sample, system)


def evaluate(fit, *, cells, drawn, fitted, rng, progress=None):
    """Everything that is known about how good a density is.

    Per seed: ``nll``, the mean negative log-likelihood of the held-out points in nats, for each time and their mean
    (``t`` NaN), with rows of ``one-gaussian`` and, where the law is known, of ``truth``. In a plane ``integral``, which
    is 1 for a density. Against a known law: ``score_rms_error`` (:func:`score_error`) and, in a plane, ``tv``, ``kl``
    and ``mass`` (:func:`grid_scores`). Without one: ``w1_samples``, the W1 distance between the density's draws and the
    held-out points, beside ``w1_floor``, that of as many training points. ``relative_error_<name>`` of coefficients
    that were found from the density alone. And for a law with clusters what :func:`clusters` says.

    Args:
        fit: :class:`snapdyn.config.Fit`.
        cells, drawn: snapshots of every seed, and draws from the density (:func:`snapdyn.forecasts.draw`).
        fitted: a :class:`snapdyn.density_models.DensityModel` of every seed.
        progress: makes a bar of an iterable and a label.
    Returns:
        a ``metrics/1`` frame and the verdict.
    """
    about = {"paper": fit.paper, "experiment": fit.experiment, "dataset": fit.dataset, "method": fit.method}
    law = law_of(cells[0])
    plane = None if law is None or law.box is None else Grid.of(law)
    exact = None if law is None else law.sample(EXACT_DRAWS, rng)
    parts, losses, nulls = [], [], []
    seeds = list(zip(cells, drawn, fitted, strict=True))
    for cell, cloud, model in progress(seeds, "seeds") if progress else seeds:
        test, identity = cell.select(split="test"), about | {"seed": int(cell.meta["seed"])}
        own = {fit.method: -model.log_prob(test.t if cell.timed else None, test.x)}
        floors = {"one-gaussian": one_gaussian(cell)} | ({} if law is None else {"truth": -law.log_prob(test.x)})
        for method, loss in (own | floors).items():
            parts += _likelihoods(test, loss, identity | {"method": method})
        losses.append(own[fit.method])
        nulls.append(floors["one-gaussian"])
        if cell.dim == 2:
            parts += [
                metrics.rows({"integral": value}, split="train", unit="1", n=WIDE_CELLS**2, t=t, **identity)
                for t, value in integrals(model, rng, None if law is None else law.box)
            ]
        if law is None:
            parts.append(_distances(cell, cloud, identity, rng))
        else:
            value = {"score_rms_error": score_error(model, law, exact)}
            parts.append(metrics.rows(value, split="test", unit="1", n=len(exact), **identity))
        if plane is not None:
            values = grid_scores(model, plane)
            parts.append(metrics.rows(values, split="test", unit="1", n=CELLS**2, **identity))
        if law is not None and hasattr(law.system, "component") and hasattr(model.at(), "cccp"):
            x = metrics.thin(test.x, test.weight, CLUSTERED, rng)[0]
            values, space = clusters(model, law.system, x), cell.meta.get("space", "data units")
            units = {name: space if name.startswith("ridge_") else "1" for name in values}
            parts.append(metrics.rows(values, split="test", unit=units, n=len(x), **identity))
        parts += _of_the_fit(fit, cell, model, identity)
    answer = verdict.likelihood_gain(
        losses,
        nulls,
        rows=[cell.select(split="test").row for cell in cells],
        times=[cell.select(split="test").t for cell in cells],
        weights=[cell.select(split="test").weight for cell in cells],
        rng=rng,
    )
    return pd.concat(parts, ignore_index=True), answer


def one_gaussian(snapshots):
    """-log p ``(n,)`` of the held-out points under one Gaussian at each time, with the training rows' moments."""
    train, test = snapshots.select(split="train"), snapshots.select(split="test")
    loss = np.empty(len(test))
    for t in train.times if snapshots.timed else [None]:
        seen, here = (train, np.full(len(test), True)) if t is None else (train.select(t=t), test.t == t)
        mean = np.average(seen.x, axis=0, weights=seen.weight)
        covariance = np.atleast_2d(np.cov(seen.x.T, aweights=seen.weight, ddof=0))
        gaussian = density_families.GaussianMixture([1.0], mean[None], covariance[None])
        loss[here] = -gaussian.log_prob(torch.from_numpy(test.x[here])).numpy()
    return loss


def _likelihoods(test, loss, identity):
    """Rows of ``nll`` for each time, and their mean."""
    if not np.isfinite(loss).all():
        lost = int((~np.isfinite(loss)).sum())
        raise ValueError(
            f"{identity['method']}: the density is zero or not finite at {lost} of {len(loss)} held-out rows"
        )
    common, values, parts = {"split": "test", "unit": "nat"}, [], []
    for t in test.times if test.timed else [np.nan]:
        here = test.t == t if test.timed else np.full(len(test), True)
        values.append(float(np.average(loss[here], weights=test.weight[here])))
        if test.timed:
            parts.append(metrics.rows({"nll": values[-1]}, n=int(here.sum()), t=t, **common, **identity))
    return [*parts, metrics.rows({"nll": float(np.mean(values))}, n=len(test), **common, **identity)]


@dataclass(frozen=True)
class Grid:
    """The true law on a grid.

    Attributes:
        points: middles of the cells ``(m, 2)``.
        area: of a cell, in length^2.
        log_prob: of the law there ``(m,)``.
    """

    points: np.ndarray
    area: float
    log_prob: np.ndarray

    @classmethod
    def of(cls, law):
        points, area = middles(law.box, CELLS)
        return cls(points, area, law.log_prob(points))


def middles(box, count):
    """Middles ``(count^2, 2)`` of the cells of a rectangle, and the area of a cell."""
    sides = [low + (high - low) * (np.arange(count) + 0.5) / count for low, high in box]
    area = np.prod([(high - low) / count for low, high in box])
    return np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 2), float(area)


def grid_scores(model, grid):
    r"""``tv``, ``kl`` and ``mass`` of a density q against the law p.

    .. math:: TV = \tfrac12 \int |p - q|, \quad KL = \int p \log(p/q)

    ``mass`` is the density's probability inside the box. What either law has outside of it counts in full in the total
    variation, since the other has next to nothing there.

    Equation: ``total-variation``
    """
    log_q = model.log_prob(None, grid.points)
    p, q = np.exp(grid.log_prob), np.exp(log_q)
    inside = [float(density.sum() * grid.area) for density in (p, q)]
    outside = sum(max(0.0, 1 - share) for share in inside)
    there = p > 0
    return {
        "tv": 0.5 * (float(np.abs(p - q).sum() * grid.area) + outside),
        "kl": float((p[there] * (grid.log_prob[there] - log_q[there])).sum() * grid.area),
        "mass": inside[1],
    }


def integrals(model, rng, box=None):
    """``(t, integral)`` of the density of each time over a plane, on a grid that reaches as far as its draws.

    Args:
        box: to be covered in any case.
    """
    for t in [None] if model.times is None else model.times:
        x = model.sample(MONITORED, t, rng)
        reached = np.concatenate([x, np.array(box).T]) if box is not None else x
        low, high = reached.min(0), reached.max(0)
        margin = 0.1 * (high - low)
        points, area = middles(np.stack([low - margin, high + margin], 1), WIDE_CELLS)
        yield np.nan if t is None else t, float(np.exp(model.log_prob(t, points)).sum() * area)


def score_error(model, law, x):
    r"""Error of the density's score over draws from the law, relative to the size of the true score.

    .. math:: \sqrt{E|s - s^*|^2 / E|s^*|^2}
    """
    true = law.score(x)
    return metrics.rms(np.linalg.norm(model.score(None, x) - true, axis=1)) / metrics.rms(np.linalg.norm(true, axis=1))


def clusters(model, system, x):
    """What one step of the density's concave-convex procedure makes of ``x (n, dim)``.

    ``adjusted_rand`` against the true clusters at the ``temperature`` that the number of ``images`` chooses, without
    labels; and how much nearer to the true ridge a step at temperature 1 brings the points (``denoising_factor``). A
    density with one cluster at all temperatures finds none: 1 image and an index of 0.

    Equation: ``cccp``
    """
    found = clustering.denoising(model.cccp, x, system.ridge_distance)
    try:
        plateau = clustering.choose_temperature(model.cccp, x)
    except ValueError:
        return found | {"images": 1.0, "adjusted_rand": 0.0}
    groups = clustering.labels(model.cccp(x, plateau.temperature), clustering.tolerance_of(x))
    index = clustering.agreement(groups, system.component(x))
    return found | {"temperature": plateau.temperature, "images": float(plateau.images), "adjusted_rand": index}


def _distances(cells, drawn, identity, rng):
    """Rows of ``w1_samples`` and ``w1_floor`` for each time and their mean: clouds of equal size."""
    train, test = cells.select(split="train"), cells.select(split="test")
    common, parts = {"split": "test", "unit": cells.meta.get("space", "data units")}, []
    for t in test.times if cells.timed else [np.nan]:
        here, seen, cloud = (part if np.isnan(t) else part.select(t=t) for part in (test, train, drawn))
        size = min(len(here), len(seen), CLOUD)
        target, weight = metrics.thin(here.x, here.weight, size, rng)
        rivals = {"w1_samples": (cloud.x, cloud.weight), "w1_floor": (seen.x, seen.weight)}
        values = {}
        for name, (x, mass) in rivals.items():
            x, mass = metrics.thin(x, mass, size, rng)
            values[name] = metrics.wasserstein(x, target, a=mass, b=weight)
        parts.append(metrics.rows(values, n=size, t=t, **common, **identity))
    if cells.timed:
        each = pd.concat(parts, ignore_index=True).groupby("metric", sort=False)
        mean = each["value"].mean().to_dict()
        parts.append(metrics.rows(mean, n=int(each["n"].sum().iloc[0]), **common, **identity))
    return pd.concat(parts, ignore_index=True)


def _of_the_fit(fit, cells, model, identity):
    """What the fit says of itself, and the errors of what it found from the density alone."""
    values = {name: model.diagnostics[name] for name in REPORTED if name in model.diagnostics}
    if "system" in cells.meta and len(model.parameters):
        truth = recovery.truth_of(cells, fit.drift, fit.diffusivity)
        for name, found in zip(model.parameters["name"], model.parameters["estimate"], strict=True):
            if truth.get(name):
                values[f"relative_error_{name}"] = float(metrics.relative_error(found, truth[name]))
    n = int((cells.split == "train").sum())
    return [metrics.rows(values, split="train", unit="1", n=n, **identity)] if values else []
