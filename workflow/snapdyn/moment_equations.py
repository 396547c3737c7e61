"""The linear equations that test functions make of snapshots, their noise, and their cross-fitted solution.

For every smooth test function phi of moderate growth, E[L phi] = 0 in the stationary state, with the
generator L phi = f . grad phi + D Laplacian phi; between two snapshots the change of E[phi] is the integral
of E[L phi]. Both are linear in the unknowns.

The best weight of the equations is the inverse of their noise, which has to be estimated. From the same rows, the
estimate leans towards the equations that happen to come out quiet: with many or heavy-tailed tests the coefficients
are biased by a sizeable share of a standard error, and the standard error is too small. So the rows are split into
folds, the equations of every fold are weighted by what the other folds know, and the error is the scatter that
remains (``cross-fitted-moments``).
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

SETTLED = 0.01  # standard errors
UNSETTLED = 0.5  # standard errors of the last step, from which on an iteration has failed
EIGENVALUE_CUT = 1e-10  # relative to the largest, of the tests' correlation matrix
ROUNDING = 1e-10  # of a column's length: less is nothing


@dataclass(frozen=True)
class Solution:
    """Estimates of the unknowns with what their quality rests on.

    Attributes:
        estimate, std_error: ``(unknowns,)``; the standard error assumes independent rows.
        covariance: of the estimates ``(unknowns, unknowns)``.
        j_statistic, j_dof: of the test that one set of parameters can satisfy all moments, at the efficient estimate.
        j_p: its p-value, from products of different folds at the cross-fitted estimate; with fewer than three folds
            from the chi-squared law of J.
        singular_values: of the whitened, column-scaled system, largest first ``(unknowns,)``.
        efficient: the estimate with weights from the same rows, where J is smallest ``(unknowns,)``.
        cross_fitted: whether weights and slopes come from other rows throughout; if not, standard errors may be too
            small.
    """

    estimate: np.ndarray
    std_error: np.ndarray
    covariance: np.ndarray
    j_statistic: float
    j_dof: int
    j_p: float
    singular_values: np.ndarray
    efficient: np.ndarray
    cross_fitted: bool

    @property
    def condition(self):
        """Condition number of the whitened, column-scaled system."""
        return float(self.singular_values[0] / max(self.singular_values[-1], np.finfo(float).tiny))


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

    Args:
        clouds: one :class:`snapdyn.weakform.Cloud` a snapshot, all with the same folds.
        times: of the snapshots; None for one stationary cloud.
        diffusivity: D, or None if it is one more unknown (the last).
        kept: indices of the unknowns that are not zero; all of them by default.
    Equation: ``weak-form``, ``timed-weak-form``
    """

    def __init__(self, clouds, times=None, *, diffusivity=None, kept=None):
        self.clouds, self.times, self.diffusivity = clouds, times, diffusivity
        self.every = clouds[0].every
        everything = clouds[0].blocks - 3 + (diffusivity is None)
        self.kept = torch.arange(everything) if kept is None else torch.as_tensor(kept)
        if times is None:
            self.on_value, self.on_generator = torch.zeros(1, 1).double(), torch.ones(1, 1).double()
        else:
            here, after = torch.eye(len(times))[:-1].double(), torch.eye(len(times))[1:].double()
            self.on_value, self.on_generator = here - after, torch.from_numpy(quadrature(times))

    @property
    def unknowns(self):
        """Number of coefficients, of the drift and of the birth rate, plus one if the diffusivity is unknown."""
        return len(self.kept)

    def restricted(self, kept):
        """The same equations with only some unknowns, the others zero; ``kept`` counts among the present ones."""
        return MomentEquations(
            self.clouds, self.times, diffusivity=self.diffusivity, kept=self.kept[torch.as_tensor(kept)]
        )

    def system(self, folds=None, *, part=False):
        """``M (equations, unknowns)`` and ``q (equations,)`` of the rows in ``folds``.

        Args:
            folds: indices of the folds; all by default.
            part: the folds' contribution to the whole system instead, so that disjoint folds add up to it.
        """
        folds = self.every if folds is None else folds
        means = torch.stack([cloud.mean(folds) * (cloud.share(folds) if part else 1.0) for cloud in self.clouds])
        value = torch.einsum("es,sk->ek", self.on_value.to(means), means[:, 0])
        generator = torch.einsum("es,sbk->ekb", self.on_generator.to(means), means[:, 1:])
        rest = value + generator[..., -2]
        if self.diffusivity is None:
            unknown = torch.cat([generator[..., :-2], generator[..., -1:]], -1)
        else:
            unknown, rest = generator[..., :-2], rest + self.diffusivity * generator[..., -1]
        return unknown[..., self.kept.to(means.device)].flatten(0, 1), -rest.flatten()

    def _combination(self, unknowns, value, known):
        """Coefficients of the blocks for the kept ``unknowns``, that of phi and that of the known part."""
        count = self.clouds[0].blocks - 3
        whole = unknowns.new_zeros(count + 1)
        whole[self.kept.to(unknowns.device)] = unknowns
        diffusivity = whole[-1:] if self.diffusivity is None else whole.new_tensor([known * self.diffusivity])
        generator = torch.cat([whole.new_zeros(1), whole[:count], whole.new_tensor([known]), diffusivity])
        return torch.stack([value * torch.eye(len(generator)).to(whole)[0], generator])

    def noise(self, theta, folds=None, *, part=False):
        """Covariance ``(equations, equations)`` of the residual M theta - q at ``theta``."""
        return self._covariance(self._combination(theta, 1.0, 1.0), folds, part)

    def carrying_rows(self, theta):
        """The smallest number of rows that carry the noise of one test function at ``theta``."""
        generator = self._combination(theta, 1.0, 1.0)[1]
        return min(float(cloud.carrying_rows(generator).min()) for cloud in self.clouds)

    def noise_along(self, direction, folds=None):
        """Covariance ``(equations, equations)`` of M w, for one direction w of the unknowns."""
        return self._covariance(self._combination(direction, 0.0, 0.0), folds, False)

    def _covariance(self, combine, folds, part):
        folds = self.every if folds is None else folds
        rows = slice(None) if self.on_value.any() else slice(1, 2)  # a cloud at rest has no use for the values
        combine = combine[rows]
        pairs = torch.stack(
            [cloud.noise(combine, folds) * (cloud.share(folds) ** 2 if part else 1.0) for cloud in self.clouds]
        )
        use = torch.stack([self.on_value, self.on_generator], -1)[..., rows].to(pairs)  # (equation, snapshot, row)
        total = torch.einsum("esr,srkql,fsq->ekfl", use, pairs, use)
        return total.reshape(total.shape[0] * total.shape[1], -1)

    def start(self):
        """The first estimate: every equation scaled by how its coefficients scatter over the folds.

        That needs no estimate before it. The noise at a poor one would: it can be so small for some equations that
        they pull everything after them, to unknowns near zero.
        """
        design, rest = self.system()
        columns = design.norm(dim=0).clamp_min(torch.finfo(design.dtype).tiny)
        scatter = sum(((self.system(fold[None])[0] - design) / columns).square() for fold in self.every)
        size = (scatter + 1e-6 * (design / columns).square()).sum(1).sqrt()  # in no column's unit
        said = size > ROUNDING * size.max()  # equations without an unknown say nothing about one
        return _scaled_least_squares(design[said] / size[said, None], rest[said] / size[said])[0]

    def solve(self, iterations=10, start=None):
        """The cross-fitted estimate with its standard errors, and the J test.

        Raises:
            ValueError: fewer usable moments than unknowns.
        Equation: ``moments``, ``j-test``, ``cross-fitted-moments``
        """
        efficient, white, target, singular = self._efficient(iterations, start)
        residual = white @ efficient - target
        statistic, dof = float(residual @ residual), len(target) - self.unknowns
        if len(self.every) > 1:
            theta, covariance, settled = self._cross_fitted(efficient, iterations)
        else:
            settled = False
            theta, covariance = efficient, torch.linalg.pinv(white.T @ white, hermitian=True, rtol=1e-14)
        chance = self._crossed_j(theta, dof) if len(self.every) > 2 else float(stats.chi2.sf(statistic, dof))
        return Solution(
            theta.cpu().numpy(),
            covariance.diagonal().clamp_min(0).sqrt().cpu().numpy(),
            covariance.cpu().numpy(),
            statistic,
            dof,
            chance,
            singular.cpu().numpy(),
            efficient.cpu().numpy(),
            settled,
        )

    def _efficient(self, iterations, start):
        """Optimal weighting, repeated until the estimate no longer moves."""
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
            theta, singular = _scaled_least_squares(white, target)
            if (white @ (theta - before)).square().sum() < SETTLED**2:  # the move in standard errors
                break
        return theta, white, target, singular

    def _cross_fitted(self, start, iterations):
        """The equations of each fold weighted by the others' noise and slope, and the covariance of the estimate.

        Few rows for many unknowns can make the slopes of single folds so noisy that the estimate does not settle. Then
        the slope comes from all rows, and only the noise from the others: biased a little, but stable.

        Returns:
            the estimate, its covariance, and whether the first form settled.
        """
        whole = self.system()[0]
        slopes = [self.system(self.every[self.every != fold])[0] for fold in self.every]
        theta, covariance, moved = self._weighted_by_others(start, slopes, whole, iterations)
        if moved < UNSETTLED:
            return theta, covariance, True
        return *self._weighted_by_others(start, [whole] * len(slopes), whole, iterations)[:2], False

    def _weighted_by_others(self, theta, slopes, whole, iterations):
        """The estimate, its covariance, and how far its last step went in standard errors."""
        parts = [self.system(fold[None], part=True) for fold in self.every]
        others = [self.every[self.every != fold] for fold in self.every]
        scale = whole.norm(dim=0).clamp_min(torch.finfo(theta.dtype).tiny)
        last = math.inf
        for _ in range(iterations):
            weights = []
            for rest, slope in zip(others, slopes, strict=True):
                root = whitening(self.noise(theta, rest))
                weights.append(root.T @ (root @ (slope / scale)))
            bread = sum(weight.T @ (design / scale) for weight, (design, _) in zip(weights, parts, strict=True))
            target = sum(weight.T @ rest for weight, (_, rest) in zip(weights, parts, strict=True))
            scatter = sum(
                weight.T @ self.noise(theta, fold[None], part=True) @ weight
                for weight, fold in zip(weights, self.every, strict=True)
            )
            inverse = torch.linalg.pinv(bread)
            covariance = inverse @ scatter @ inverse.T / torch.outer(scale, scale)
            found = inverse @ target / scale
            moved = ((found - theta) / covariance.diagonal().sqrt()).abs().max()
            # weights that chase the estimate may circle: half a step where the steps do not shrink
            theta = found if moved < last else (found + theta) / 2
            if moved < SETTLED:
                break
            last = moved
        return theta, covariance, float(moved)

    def _crossed_j(self, theta, dof):
        """p-value of J without the rows' own noise: the sum of r_f' S^-1 r_g over different folds f and g.

        S comes from the remaining folds, so each product averages to zero whatever the tails of the tests; how the
        products scatter says how much larger than expected their sum may be for a noise known so badly.

        Equation: ``crossed-j-test``
        """
        count, moments = len(self.every), dof + self.unknowns
        residuals = []
        for fold in self.every:
            design, rest = self.system(fold[None], part=True)
            residuals.append(design @ theta - rest)
        products = []
        for f, g in itertools.combinations(range(count), 2):
            others = torch.cat([self.every[:f], self.every[f + 1 : g], self.every[g + 1 :]])
            root = whitening(self.noise(theta, others) * (len(others) / count))
            products.append(float((root @ residuals[f]) @ (root @ residuals[g])))
        kept = 1 - 1 / count
        scale = np.std(products, ddof=1) * count / math.sqrt(moments)
        mean = -self.unknowns * kept
        standard = mean + (2 * sum(products) - mean) / max(scale, np.finfo(float).tiny)
        # the law for a known S: kept chi2(dof) minus an independent chi2(moments (count - 1)) / count
        own = stats.chi2.ppf((np.arange(200) + 0.5) / 200, moments * (count - 1)) / count
        return float(stats.chi2.sf((standard + own) / kept, dof).mean())


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
    return vt[keep].T @ ((u[:, keep].T @ rest) / s[keep]) / scale, s
