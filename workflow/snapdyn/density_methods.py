"""Methods that estimate a density: one for each observed time, or one for a stationary cloud."""

import logging

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from snapdyn import checkpoint, density_families, density_models, fokker_planck, scores

MARGIN = 0.25  # of the data's range, on both sides, where no box is given
PROBES = 5000  # draws from the density at which the round trip asks for the parameters
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # numbers of components among which BIC chooses


def silent(iterable_or_total, label):
    """A progress bar that shows nothing, for fits outside a job."""
    counted = isinstance(iterable_or_total, int)
    return tqdm(**{"total" if counted else "iterable": iterable_or_total}, desc=label, disable=True)


class DensityMethod:
    """Base of the methods that estimate densities: what they share is the loop over times and the round trip.

    Args:
        axes: names of the coordinates.
        drift: the :class:`snapdyn.drifts.AffineDrift` whose coefficients are read off the density, or None.
        dynamics: a drift without unknowns (:func:`snapdyn.drifts.complete`), for methods that learn from it.
        diffusivity: D in length^2 / time, or None.
    """

    def __init__(self, *, axes, time_unit=None, drift=None, dynamics=None, diffusivity=None):
        self.axes, self.time_unit = list(axes), time_unit
        self.drift, self.dynamics, self.diffusivity = drift, dynamics, diffusivity

    def estimate(self, x, weight, *, rng, device, precision, keep, progress):
        """A density of the points ``x (n, dim)``.

        Args:
            weight: of each point ``(n,)``, above 0, 1 in the mean.
            keep, progress: see :meth:`fit`.
        Returns:
            the density, on the CPU; its diagnostics, name -> number; and a history (columns member, step, term,
            value) or None.
        """
        raise NotImplementedError

    def fit(self, snapshots, *, rng, device="cpu", precision="float64", keep=checkpoint.NOWHERE, progress=None):
        """Fit the training rows of a cloud or of every snapshot; see :class:`snapdyn.density_models.DensityModel`.

        Args:
            keep: a :class:`snapdyn.checkpoint.Checkpoint`: every finished time is a part of it.
            progress: function ``(iterable or total, label)`` that returns a bar like tqdm's.
        """
        data = snapshots.select(split="train")
        times = list(data.times) if snapshots.timed else [None]
        how = {"device": device, "precision": precision, "keep": keep, "progress": progress or silent}
        densities, diagnostics, histories = [], {}, []
        for t, child in zip(times, rng.spawn(len(times)), strict=True):
            when = "" if t is None else f" at t = {t:g}"
            x, weight = _usable(data if t is None else data.select(t=t), when)

            def part(x=x, weight=weight, child=child):
                density, said, history = self.estimate(x, weight, rng=child, **how)
                said = {name: float(value) for name, value in said.items()}
                return density_models.saved_density(density), said, None if history is None else pd.DataFrame(history)

            saved, said, history = keep.part(f"density{when}", part)
            densities.append(density_models.loaded_density(saved))
            diagnostics |= {f"{name}{when}": value for name, value in said.items()}
            if history is not None:
                histories.append(history.assign(term=history["term"] + when))
        parameters, said = self.round_trip(densities[0], rng) if times == [None] else (None, {})
        return density_models.DensityModel(
            densities,
            times=None if times == [None] else times,
            axes=self.axes,
            parameters=parameters,
            diagnostics=diagnostics | said,
            history=pd.concat(histories, ignore_index=True).to_dict("list") if histories else None,
        )

    def round_trip(self, density, rng):
        """The drift's coefficients from the density alone, where they and a diffusivity are asked for.

        The least mean |residual| of the stationary equation, the paper's own loss, with the density's score and
        divergence at :data:`PROBES` of its own draws. Squares would leave the answer to the few draws that lie far out,
        where a density is worst and a drift largest. There are no standard errors: what the data leave open, a density
        does not tell.

        Returns:
            a frame of parameters, or None; and diagnostics: how many ``round_trip_probes``, the mean
            ``round_trip_residual`` in 1 / time, and the ``round_trip_rank``.
        Equation: ``plain-design``, ``l1-loss``
        """
        drift = self.drift
        if drift is None or not drift.count or not isinstance(self.diffusivity, int | float):
            return None, {}
        design, rest = self_consistency(density, drift, self.diffusivity, rng=rng)
        scaled = design / design.norm(dim=0).clamp_min(1e-300)
        rank = int(torch.linalg.matrix_rank(scaled, rtol=1e-8))
        said = {"round_trip_probes": len(design), "round_trip_rank": rank}
        if rank < drift.count:
            logging.getLogger(__name__).warning(
                "the density determines only %d of the %d unknown coefficients of the drift, so none is given: fix "
                "some of them in `known`, or take a smaller library",
                rank,
                drift.count,
            )
            return None, said
        theta = fokker_planck.least_absolute(design, rest)
        said["round_trip_residual"] = float((design @ theta + rest).abs().mean())
        empty = np.full(drift.count, np.nan)
        return density_models.parameter_table(drift.names, theta.numpy(), empty, drift.units), said


def self_consistency(density, drift, diffusivity, *, rng, probes=PROBES):
    """Rows ``A (probes, count)`` and ``c (probes,)`` of the stationary equation at draws from the density itself.

    Equation: ``plain-design``
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    with torch.no_grad():
        x = density.sample(probes, generator)
    blocks = [density.derivatives(part) for part in x.split(density_models.rows_at_once(density))]
    log_prob, score, divergence = (torch.cat(values) for values in zip(*blocks, strict=True))
    laplacian = divergence + score.square().sum(1)
    kernel = scores.KernelEstimate(log_prob, score, laplacian, means=None, sample_size=None)
    return fokker_planck.plain_design(kernel, drift, x, diffusivity)


def standardisation(x, weight):
    """Weighted mean and standard deviation of points ``(n, dim)``, both ``(dim,)``."""
    centre = np.average(x, axis=0, weights=weight)
    return centre, np.sqrt(np.average((x - centre) ** 2, axis=0, weights=weight))


def box_around(x, box, axes):
    """``box`` as an array ``(dim, 2)``, or where there is none the range of ``x (n, dim)`` with a margin."""
    if box is None:
        low, high = x.min(0), x.max(0)
        return np.stack([low - MARGIN * (high - low), high + MARGIN * (high - low)], 1)
    try:
        found = np.asarray(box, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.shape != (len(axes), 2) or not (found[:, 0] < found[:, 1]).all():
        raise ValueError(f"expected a box [[low, high], ..], one pair for each of {list(axes)}, got {box}")
    return found


def _usable(data, when):
    """Points and weights of one time, if a density can be fitted to them."""
    there = data.weight > 0
    x, weight = data.x[there], data.weight[there]
    if len(x) < data.dim + 2:
        raise ValueError(
            f"a density in {data.dim} dimensions needs more than {data.dim + 1} training rows{when}, got {len(x)}"
        )
    flat = [axis for axis, spread in zip(data.meta["axes"], np.ptp(x, axis=0), strict=True) if not spread > 0]
    if flat:
        raise ValueError(f"the axes {flat} have no spread{when}, so there is no density: leave them out of `columns`")
    return x, weight / weight.mean()


class GaussianMixture(DensityMethod):
    """Method ``gaussian-mixture``: maximum likelihood by EM (scikit-learn), a covariance for each component.

    Args:
        components: how many; the smallest BIC among :data:`COUNTS` decides where it is not given.
    """

    def __init__(self, *, components=None, **known):
        super().__init__(**known)
        self.components = components

    def fit(self, snapshots, *, rng, keep=checkpoint.NOWHERE, progress=None):
        """Fit on the CPU; see :meth:`DensityMethod.fit`."""
        return super().fit(snapshots, rng=rng, keep=keep, progress=progress)

    def estimate(self, x, weight, *, rng, progress, **how):
        centre, scale = standardisation(x, weight)  # the same answer in any unit, and a ridge that means the same
        z, seed = (x - centre) / scale, int(rng.integers(2**31))
        counts = [self.components] if self.components else [k for k in COUNTS if k == 1 or k * 5 * z.shape[1] <= len(z)]
        best, rises = None, 0
        for count in progress(counts, "numbers of components"):
            found = _mixture(z, weight, count, seed)
            best, rises = (found, 0) if best is None or found[0] < best[0] else (best, rises + 1)
            if rises == 2:
                break
        bic, shares, means, covariances = best
        density = density_families.GaussianMixture(
            shares, centre + scale * means, covariances * scale[:, None] * scale[None, :]
        )
        return density, {"components": len(shares), "bic": bic}, None


def _mixture(z, weight, count, seed):
    """BIC, shares, means and covariances of a mixture fitted to standardised points."""
    from sklearn import mixture as sklearn_mixture

    if len(z) <= count:
        raise ValueError(f"gaussian-mixture: {count} components need more than {count} training rows, got {len(z)}")
    fitted = sklearn_mixture.GaussianMixture(count, random_state=seed, max_iter=500, tol=1e-4).fit(z)
    found = fitted.weights_, fitted.means_, fitted.covariances_
    dim, points = z.shape[1], torch.from_numpy(z)
    if np.ptp(weight) > 0:  # which scikit-learn does not take: go on from its answer
        found = weighted_em(points, torch.from_numpy(weight), *found)
    mixture = density_families.GaussianMixture(*found)
    size = weight.sum() ** 2 / np.square(weight).sum()
    log_likelihood = size * np.average(mixture.log_prob(points).numpy(), weights=weight)
    free = count * (1 + dim + dim * (dim + 1) // 2) - 1
    return free * np.log(size) - 2 * log_likelihood, *found


def weighted_em(x, weight, shares, means, covariances, *, iterations=500, tolerance=1e-7, ridge=1e-6):
    """Maximum likelihood of a Gaussian mixture of weighted points ``x (n, dim)``, from a start.

    Equation: ``full-mixture``
    """
    weight, before = weight / weight.sum(), -np.inf
    for _ in range(iterations):
        mixture = density_families.GaussianMixture(shares, means, covariances)
        logs = mixture.joint(x)
        total = logs.logsumexp(1)
        likelihood = float(weight @ total)
        if likelihood - before < tolerance:
            break
        before = likelihood
        posterior = (logs - total[:, None]).exp() * weight[:, None]
        shares = posterior.sum(0)
        means = posterior.T @ x / shares[:, None]
        gone = x[:, None] - means
        covariances = torch.einsum("nk,nki,nkj->kij", posterior, gone, gone) / shares[:, None, None]
        covariances = covariances + ridge * torch.eye(x.shape[1]).to(x)
    return mixture.weights.numpy(), mixture.means.numpy(), mixture.covariances.numpy()


class KernelDensity(DensityMethod):
    """Method ``kde``: a Gaussian kernel around every training row.

    Args:
        bandwidth: a number, one per axis, or a rule of :func:`snapdyn.scores.bandwidth`.
    """

    def __init__(self, *, bandwidth="likelihood", **known):
        super().__init__(**known)
        self.bandwidth = bandwidth

    def fit(self, snapshots, *, rng, keep=checkpoint.NOWHERE):
        """Fit on the CPU; see :meth:`DensityMethod.fit`."""
        return super().fit(snapshots, rng=rng, keep=keep)

    def estimate(self, x, weight, **how):
        h = scores.bandwidth(x, self.bandwidth)
        weights = None if np.ptp(weight) == 0 else weight
        return density_families.KernelDensity(x, h, weights), {"bandwidth": np.exp(np.log(h).mean())}, None
