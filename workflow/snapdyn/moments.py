"""Drift parameters by optimally weighted moments: no density, no bandwidth, and honest standard errors.

For every smooth test function phi of moderate growth, E[L phi] = 0 in the stationary state, with the
generator L phi = f . grad phi + D Laplacian phi; between two snapshots the change of E[phi] is the integral
of E[L phi]. Both are linear in the unknowns. One pass over the data collects the second moments of every
block; all later iterations, standard errors and the J test come from those.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from snapdyn import models, weakform

SETTLED = 0.01  # standard errors
EIGENVALUE_CUT = 1e-10  # relative to the largest, of the tests' correlation matrix


@dataclass(frozen=True)
class Solution:
    """Estimates of the unknowns with what their quality rests on.

    Attributes:
        estimate, std_error: ``(unknowns,)``; the standard error assumes independent rows.
        covariance: of the estimates ``(unknowns, unknowns)``.
        j_statistic, j_dof, j_p: the test that one set of parameters can satisfy all moments.
        condition: condition number of the whitened, column-scaled system.
    """

    estimate: np.ndarray
    std_error: np.ndarray
    covariance: np.ndarray
    j_statistic: float
    j_dof: int
    j_p: float
    condition: float


def quadrature(times, points=4):
    """Weights that integrate a function known at ``times`` over each gap: ``(len(times) - 1, len(times))``.

    Exact for the polynomial through up to ``points`` neighbouring times; with two times this is the trapezium.
    """
    times = np.asarray(times, dtype=np.float64)
    points = min(points, len(times))
    weights = np.zeros((len(times) - 1, len(times)))
    for k, gap in enumerate(np.diff(times)):
        first = int(np.clip(k - (points - 2) // 2, 0, len(times) - points))
        nodes = (times[first : first + points] - times[k]) / gap
        powers = np.arange(points)
        weights[k, first : first + points] = gap * np.linalg.solve(nodes ** powers[:, None], 1 / (powers + 1))
    return weights


class MomentEquations:
    """The linear system M theta = q of one or several snapshots and the covariance of its noise.

    Each equation e reads sum_s (on_value[e, s] E_s[phi] + on_generator[e, s] E_s[L phi]) = 0 for all tests:
    one equation (0, 1) for a stationary cloud; for snapshots at t_0 < t_1 < .. one per gap, with
    the generator's mean integrated by :func:`quadrature`.

    Equation: ``weak-form``, ``timed-weak-form``
    """

    def __init__(self, clouds, times=None, *, diffusivity=None):
        self.clouds, self.diffusivity = clouds, diffusivity
        if times is None:
            self.on_value, self.on_generator = torch.zeros(1, 1).double(), torch.ones(1, 1).double()
        else:
            here, after = torch.eye(len(times))[:-1].double(), torch.eye(len(times))[1:].double()
            self.on_value, self.on_generator = here - after, torch.from_numpy(quadrature(times))

    @property
    def unknowns(self):
        """Number of drift coefficients, plus one if the diffusivity is unknown."""
        return self.clouds[0].blocks - 3 + (self.diffusivity is None)

    def system(self):
        """``M (equations, unknowns)`` and ``q (equations,)``."""
        means = torch.stack([cloud.mean for cloud in self.clouds])
        value = torch.einsum("es,sk->ek", self.on_value.to(means), means[:, 0])
        generator = torch.einsum("es,sbk->ekb", self.on_generator.to(means), means[:, 1:])
        rest = value + generator[..., -2]
        if self.diffusivity is None:
            keep = [*range(generator.shape[-1] - 2), generator.shape[-1] - 1]
            return generator[..., keep].flatten(0, 1), -rest.flatten()
        return generator[..., :-2].flatten(0, 1), -(rest + self.diffusivity * generator[..., -1]).flatten()

    def noise(self, theta):
        """Covariance ``(equations, equations)`` of the residual M theta - q at ``theta``."""
        known = [] if self.diffusivity is None else [self.diffusivity]
        drift, diffusivity = (theta[:-1], theta[-1:]) if not known else (theta, theta.new_tensor(known))
        generator = torch.cat([torch.zeros(1).to(theta), drift, torch.ones(1).to(theta), diffusivity])
        return self._covariance(torch.eye(len(generator)).to(theta)[0], generator)

    def noise_along(self, direction):
        """Covariance ``(equations, equations)`` of M w, for one direction w of the unknowns."""
        drift, diffusivity = (direction[:-1], direction[-1:]) if self.diffusivity is None else (direction, None)
        zero = torch.zeros(1).to(direction)
        generator = torch.cat([zero, drift, zero, zero if diffusivity is None else diffusivity])
        return self._covariance(torch.zeros_like(generator), generator)

    def _covariance(self, value, generator):
        """Covariance of the equations built from the block combinations ``value`` and ``generator``."""
        combine = torch.stack([value, generator])
        pairs = torch.stack([cloud.noise(combine) for cloud in self.clouds])
        use = torch.stack([self.on_value, self.on_generator], -1).to(value)  # (equation, snapshot, 2)
        total = torch.einsum("esr,srkql,fsq->ekfl", use, pairs, use)
        return total.reshape(total.shape[0] * total.shape[1], -1)

    def start(self):
        """The unweighted estimate, every equation scaled to the same size."""
        design, rest = self.system()
        tiny = torch.finfo(design.dtype).tiny
        norm = (design / design.norm(dim=0).clamp_min(tiny)).norm(dim=1).clamp_min(tiny)  # in no column's unit
        return _scaled_least_squares(design / norm[:, None], rest / norm)[0]

    def solve(self, iterations=10, start=None):
        """Optimal weighting from an unweighted start, repeated until the estimate no longer moves.

        Raises:
            ValueError: fewer usable moments than unknowns.
        Equation: ``moments``, ``j-test``
        """
        design, rest = self.system()
        theta = self.start() if start is None else start
        for _ in range(iterations):
            root = whitening(self.noise(theta))
            if len(root) <= self.unknowns:
                raise ValueError(
                    f"{len(root)} usable moments cannot determine {self.unknowns} unknowns: raise the degree of "
                    "the test functions, or take a smaller drift library"
                )
            white, target = root @ design, root @ rest
            before = theta
            theta, condition = _scaled_least_squares(white, target)
            if (white @ (theta - before)).square().sum() < SETTLED**2:  # the move in standard errors
                break
        residual = white @ theta - target
        covariance = torch.linalg.pinv(white.T @ white, hermitian=True, rtol=1e-14)
        statistic, dof = float(residual @ residual), len(root) - self.unknowns
        return Solution(
            theta.cpu().numpy(),
            covariance.diagonal().clamp_min(0).sqrt().cpu().numpy(),
            covariance.cpu().numpy(),
            statistic,
            dof,
            float(stats.chi2.sf(statistic, dof)),
            condition,
        )


def whitening(covariance: Tensor) -> Tensor:
    """W with W S W' = I on the directions of S that rounding leaves meaningful, ``(kept, size)``."""
    scale = covariance.diagonal().clamp_min(torch.finfo(covariance.dtype).tiny).sqrt()
    values, vectors = torch.linalg.eigh(covariance / torch.outer(scale, scale))
    keep = values > EIGENVALUE_CUT * values[-1]
    return (vectors[:, keep] / values[keep].sqrt()).T / scale


def _scaled_least_squares(design, rest):
    scale = design.norm(dim=0).clamp_min(torch.finfo(design.dtype).tiny)
    u, s, vt = torch.linalg.svd(design / scale, full_matrices=False)
    keep = s > 1e-12 * s[0]
    theta = vt[keep].T @ ((u[:, keep].T @ rest) / s[keep]) / scale
    return theta, float(s[0] / s[-1].clamp_min(torch.finfo(design.dtype).tiny))


def undetermined(halves, noise_along, names, threshold=3.0):
    """Unknowns that the data cannot tell apart from noise, as a list of names; empty if all is well.

    The whitened design M is estimated on two halves of the data. One half names its weakest direction w and
    what M w looks like there; along a direction that the population determines, the other half agrees. Along a
    gauge direction (a field that leaves the density alone) M w is nothing but each half's own noise.

    Args:
        halves: two designs ``(moments, unknowns)``.
        noise_along: direction ``(unknowns,)`` to the covariance of M w over the whole sample.
        threshold: agreement, in standard errors, below which a direction counts as undetermined.
    """
    scale = ((halves[0] + halves[1]) / 2).norm(dim=0).clamp_min(torch.finfo(halves[0].dtype).tiny)
    found = []
    for one, two in (halves, halves[::-1]):
        left, _, right = torch.linalg.svd(one / scale, full_matrices=False)
        shares = torch.zeros(len(names)).to(scale)
        for image, direction in zip(left.T.flip(0)[:3], right.flip(0)[:3], strict=True):
            agreement = image @ (two / scale) @ direction
            error = (2 * image @ noise_along(direction / scale) @ image).clamp_min(0).sqrt()
            if agreement < threshold * error:
                shares = torch.maximum(shares, direction.abs() / direction.abs().max())
        found.append(shares)
    if not all(shares.any() for shares in found):  # each half must find one: a weak direction may fail by chance
        return []
    return [name for name, share in zip(names, torch.maximum(*found).tolist(), strict=True) if share > 0.3]


class Moments:
    """Method ``moments``: optimally weighted moments with standard errors and the J test.

    Args:
        drift: the affine drift whose coefficients are wanted.
        diffusivity: D in length^2 / time, or ``"unknown"`` to estimate it (timed snapshots, or a drift
            whose known part fixes the clock).
        degree: highest degree of the monomial tests; None chooses the lowest that overdetermines.
        iterations: re-weighting steps at most.
    """

    def __init__(self, drift, *, diffusivity, degree=None, iterations=10):
        self.drift, self.iterations, self.degree = drift, iterations, degree
        self.diffusivity = None if diffusivity == "unknown" else float(diffusivity)

    def _degrees(self, dim, gaps):
        """Degrees of the tests to try in turn: as low as the unknowns allow, since high powers have heavy tails.

        Between snapshots they also relax fast, which the quadrature over a gap cannot follow; a stationary cloud
        shows more of the drift to higher powers.
        """
        if self.degree is not None:
            return [self.degree]
        unknowns = self.drift.count + (self.diffusivity is None)
        lowest = 2 if gaps or dim > 6 else 3 if dim > 3 else 4
        enough = (d for d in range(lowest, 9) if max(gaps, 1) * (math.comb(dim + d, d) - 1) > 1.2 * unknowns)
        first = next(enough, 8)
        return [first, first + (1 if gaps else 2)] if dim <= 3 else [first]

    def fit(self, snapshots, *, rng, device="cpu", threads=1):
        """Fit the training rows, stationary or timed.

        Raises:
            ValueError: a diffusivity that the data cannot show, or coefficients that they do not determine.
        """
        data = snapshots.select(split="train")
        if self.diffusivity is None and not data.timed and not self.drift.fixes_clock:
            raise ValueError(
                "diffusivity: unknown needs timed snapshots or a drift with a known part: a stationary cloud shows "
                "only the ratio of drift to diffusivity. Give a number, or a `known:` part that sets the clock"
            )
        if data.timed and len(data.times) < 2:
            raise ValueError(
                f"moments of timed data need at least two times, got only t = {data.times[0]:g}; "
                "without a time_key the rows are one stationary cloud"
            )
        if flat := [axis for axis, spread in zip(data.meta["axes"], np.ptp(data.x, axis=0), strict=True) if not spread]:
            raise ValueError(f"the axes {flat} are constant over all {len(data)} training rows: drop them")
        clouds = [data] if not data.timed else [data.select(t=t) for t in data.times]
        times = data.times if data.timed else None
        x = torch.from_numpy(data.x).to(device)
        names = [*self.drift.names, *(["diffusivity"] if self.diffusivity is None else [])]
        for degree in self._degrees(data.dim, len(clouds) - 1):
            tests = weakform.Tests.monomials(x, degree)
            equations = self._equations(clouds, times, tests, device, threads)
            fault = self._too_few(clouds, tests, names)
            if fault is None:
                solution = equations.solve(self.iterations)
                theta = torch.from_numpy(solution.estimate).to(x)
                fault = self._undetermined(theta, clouds, times, tests, equations, names, rng, device, threads)
            if fault is None:
                break
        else:
            raise ValueError(fault)
        known = self.diffusivity is not None
        return models.DriftModel(
            self.drift,
            solution.estimate if known else solution.estimate[:-1],
            diffusivity=self.diffusivity if known else float(solution.estimate[-1]),
            std_error=solution.std_error if known else solution.std_error[:-1],
            diffusivity_error=None if known else float(solution.std_error[-1]),
            diagnostics={
                "j_statistic": solution.j_statistic,
                "j_dof": float(solution.j_dof),
                "j_p_value": solution.j_p,
                "condition_number": solution.condition,
            },
        )

    def _equations(self, clouds, times, tests, device, threads, second=True):
        def moments(cloud):
            x, weight = torch.from_numpy(cloud.x).to(device), torch.from_numpy(cloud.weight).to(device)
            weight = None if (weight == weight[0]).all() else weight
            return weakform.Cloud(self.drift, tests, x, weight, threads=threads, second=second)

        return MomentEquations([moments(cloud) for cloud in clouds], times, diffusivity=self.diffusivity)

    def _too_few(self, clouds, tests, names):
        rows, moments = sum(map(len, clouds)), tests.count * max(1, len(clouds) - 1)
        if min(rows, moments) > len(names):
            return None
        return (
            f"{len(names)} unknowns cannot be determined from {rows} rows and {moments} moments: give more data, "
            "a smaller drift library, or test functions of a higher degree (options: {degree: ..})"
        )

    def _undetermined(self, theta, clouds, times, tests, equations, names, rng, device, threads):
        root = whitening(equations.noise(theta))
        halves = []
        orders = [rng.permutation(len(cloud)) for cloud in clouds]
        for side in (0, 1):
            parts = [c.where(np.sort(order[side::2])) for c, order in zip(clouds, orders, strict=True)]
            halves.append(root @ self._equations(parts, times, tests, device, threads, second=False).system()[0])
        bad = undetermined(halves, lambda w: root @ equations.noise_along(w) @ root.T, names)
        if not bad:
            return None
        return (
            f"these data do not determine all {len(names)} unknowns: a combination of {bad} changes nothing that "
            "can be seen (for instance a rotation along the level sets of the density). Fix one of them in "
            "`known:`, take a smaller drift library, or give more data"
        )
