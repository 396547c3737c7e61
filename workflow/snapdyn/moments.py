"""Drift parameters by optimally weighted moments: no density, no bandwidth, and standard errors that hold.

For every smooth test function phi of moderate growth, E[L phi] = 0 in the stationary state, with the
generator L phi = f . grad phi + D Laplacian phi; between two snapshots the change of E[phi] is the integral
of E[L phi]. Both are linear in the unknowns.

The best weight of the equations is the inverse of their noise, which has to be estimated. From the same rows, the
estimate leans towards the equations that happen to come out quiet: with many or heavy-tailed tests the coefficients
are biased by a sizeable share of a standard error, and the standard error is too small. So the rows are split into
folds, the equations of every fold are weighted by what the other folds know, and the error is the scatter that
remains (``cross-fitted-moments``).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from snapdyn import models, testfunctions, weakform

SETTLED = 0.01  # standard errors
UNSETTLED = 0.5  # standard errors of the last step, from which on an iteration has failed
EIGENVALUE_CUT = 1e-10  # relative to the largest, of the tests' correlation matrix
ROWS_PER_FOLD = 50  # at least, where there are more than two folds
ROWS_PER_TIME = 10  # fewer do not show their own noise
BATCH = 0.34  # share of the doubtful unknowns that is dropped between two fits
# Rows that should carry the noise of a test function, and their share where there are few rows altogether
ENOUGH_ROWS, ENOUGH_SHARE = 50, 1 / 400
VISIBLE = 3.0  # standard errors by which both halves of the data must agree on a direction
ROUNDING = 1e-10  # of a column's length: less is nothing


@dataclass(frozen=True)
class Solution:
    """Estimates of the unknowns with what their quality rests on.

    Attributes:
        estimate, std_error: ``(unknowns,)``; the standard error assumes independent rows.
        covariance: of the estimates ``(unknowns, unknowns)``.
        j_statistic, j_dof, j_p: the test that one set of parameters can satisfy all moments.
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
        return Solution(
            theta.cpu().numpy(),
            covariance.diagonal().clamp_min(0).sqrt().cpu().numpy(),
            covariance.cpu().numpy(),
            statistic,
            dof,
            float(stats.chi2.sf(statistic, dof)),
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


@dataclass(frozen=True)
class Identifiability:
    """Which combinations of the unknowns the data can tell.

    Attributes:
        names: of the unknowns.
        singular_values: of the whitened, column-scaled system, largest first ``(unknowns,)``.
        weakest: the combination of scaled unknowns that is seen worst, a unit vector ``(unknowns,)``.
        directions: combinations that change nothing, unit vectors ``(gauge, unknowns)``.
    """

    names: list
    singular_values: np.ndarray
    weakest: np.ndarray
    directions: np.ndarray

    @property
    def rank(self):
        """Number of combinations that the data show."""
        return len(self.names) - len(self.directions)

    @property
    def touched(self):
        """Names of the unknowns that a direction without effect moves, in their order."""
        if not len(self.directions):
            return []
        share = np.abs(self.directions) / np.abs(self.directions).max(1, keepdims=True)
        return [name for name, most in zip(self.names, share.max(0), strict=True) if most > 0.3]

    def report(self):
        """One sentence a direction, and the numbers."""
        condition = self.singular_values[0] / max(self.singular_values[-1], np.finfo(float).tiny)
        lines = [
            f"rank {self.rank} of {len(self.names)}; singular values of the scaled system "
            f"{self.singular_values[0]:.3g} to {self.singular_values[-1]:.3g}, condition number {condition:.3g}"
        ]
        for direction in self.directions:
            largest = np.argsort(-np.abs(direction))[:6]
            parts = [f"{direction[k]:+.2f} {self.names[k]!r}" for k in largest if abs(direction[k]) > 0.1]
            lines.append("no effect along " + " ".join(parts))
        return lines


def identify(equations, theta, names, threshold=VISIBLE):
    """What the data can tell of each combination of the unknowns.

    The whitened design M is estimated on two halves of the data. One half names the direction w that is weakest
    beside its own noise, and what M w looks like there; along a direction that the population determines, the other
    half agrees. Along a gauge direction (a field that leaves the density alone) M w is nothing but each half's own
    noise. Directions are tried from the weakest, up to the first that is seen.

    Args:
        equations: :class:`MomentEquations` with two folds or more.
        theta: the estimate, for the weights.
        threshold: agreement, in standard errors, below which a direction counts as undetermined.
    Equation: ``gauge``
    """
    design, tiny = equations.system()[0], torch.finfo(theta.dtype).tiny
    noise = equations.noise(theta)
    size = noise.diagonal().clamp_min(tiny)
    # Near some estimates a combination of equations has no noise, and would drown all others: add that of M itself.
    signs = torch.from_numpy(np.random.default_rng(0).choice([-1.0, 1.0], len(names))).to(theta)
    other = equations.noise_along(signs / (design / size.sqrt()[:, None]).norm(dim=0).clamp_min(tiny))
    root = whitening(noise + other / (other.diagonal() / size).mean().clamp_min(tiny))
    whole = root @ design
    scale = whole.norm(dim=0).clamp_min(tiny)
    # A column that is all noise is as long as any other once it is scaled: only its scatter over the folds tells.
    folds = [root @ equations.system(fold[None])[0] / scale for fold in equations.every]
    _, spread, turn = torch.linalg.svd(torch.cat([fold - whole / scale for fold in folds]), full_matrices=False)
    basis = turn.T / spread.clamp_min(1e-8 * spread[0])  # every column as noisy as the next, and independently so
    halves = [root @ equations.system(equations.every[side::2])[0] / scale for side in (0, 1)]
    found = []
    for one, two in (halves, halves[::-1]):
        left, _, right = torch.linalg.svd(one @ basis, full_matrices=False)
        blind = []
        for image, combination in zip(left.T.flip(0), right.flip(0), strict=True):
            direction = torch.nn.functional.normalize(basis @ combination, dim=0)
            agreement = image @ two @ direction
            error = (2 * image @ root @ equations.noise_along(direction / scale) @ root.T @ image).clamp_min(0).sqrt()
            if agreement > max(threshold * error, ROUNDING):
                break
            blind.append(direction)
        found.append(blind)
    # each half must find one: a weak direction may fail by chance
    fewer = min(found, key=len)
    singular = torch.linalg.svdvals(whole / scale)
    faintest = torch.linalg.svd(whole / scale @ basis, full_matrices=False)[2][-1]
    weakest = torch.nn.functional.normalize(basis @ faintest, dim=0)
    directions = torch.stack(fewer) if fewer else whole.new_zeros(0, len(names))
    return Identifiability(list(names), *(part.cpu().numpy() for part in (singular, weakest, directions)))


def eliminate(equations, solution, threshold, iterations=10, always=()):
    """Drop unknowns that are not needed, weakest first, until each exceeds ``threshold`` standard errors.

    Dropping one moves the others along their covariance. After a share of the doubtful ones has gone, the survivors are
    fitted anew, since the weights and the covariance belong to the old estimate; and so on until none falls below the
    threshold.

    Args:
        always: indices of unknowns that stay, however uncertain.
    Returns:
        indices of the kept unknowns, and their solution.
    Raises:
        ValueError: a threshold that leaves too little.
    Equation: ``elimination``
    """
    kept = np.arange(equations.unknowns)
    while len(kept):
        theta, covariance, survivors = solution.estimate, solution.covariance, np.arange(len(kept))
        doubtful = (np.abs(theta) / np.sqrt(np.diag(covariance)) <= threshold).sum()
        for _ in range(max(1, math.ceil(doubtful * BATCH))):
            z = np.where(np.isin(kept[survivors], always), np.inf, np.abs(theta) / np.sqrt(np.diag(covariance)))
            weakest = int(np.argmin(z))
            if z[weakest] > threshold:
                break
            column = covariance[:, weakest] / covariance[weakest, weakest]
            theta = np.delete(theta - column * theta[weakest], weakest)
            covariance = covariance - np.outer(column, covariance[weakest])
            covariance = np.delete(np.delete(covariance, weakest, 0), weakest, 1)
            survivors = np.delete(survivors, weakest)
        if len(survivors) == len(kept):
            break
        kept = kept[survivors]
        if len(kept):
            start = torch.from_numpy(theta).to(equations.clouds[0].x)
            try:
                solution = equations.restricted(kept).solve(iterations, start)
            except ValueError as error:
                raise ValueError(
                    f"a threshold of {threshold:g} standard errors leaves {len(kept)} of {equations.unknowns} "
                    "unknowns, with which the equations cannot be met at all: take a lower one"
                ) from error
    return kept, solution


def j_difference(restricted, full):
    """Whether the unknowns that ``restricted`` sets to zero are needed: the rise of J, its degrees of freedom, p.

    Equation: ``j-test``
    """
    rise, dof = restricted.j_statistic - full.j_statistic, restricted.j_dof - full.j_dof
    return rise, dof, float(stats.chi2.sf(max(rise, 0.0), dof)) if dof else math.nan


class Moments:
    """Method ``moments``: optimally weighted moments with standard errors and the J test.

    Args:
        drift: the affine drift whose coefficients are wanted.
        diffusivity: D in length^2 / time; a symmetric matrix ``(dim, dim)`` of them, where half the squared noise
            amplitude differs between directions; or ``"unknown"`` to estimate it. A stationary cloud shows an unknown
            D only where a known part of the drift fixes the clock; without any known part only the
            ratios of the coefficients to D are reported.
        tests: ``monomials`` of the state; ``gaussians`` at random data points; ``mixed``, monomials to degree 3 and
            Gaussians; or ``phases``, monomials times angular modes, for drifts with rotating drivers. By default
            monomials of a low degree if they suffice, else ``mixed``, and ``gaussians`` where a few rows far out would
            carry the noise of the monomials.
        degree: highest degree of the monomials; None chooses the lowest that overdetermines.
        harmonics: of the angular modes.
        count, width: number of Gaussians (three for each unknown, but 60 at least; 15 on one axis), and their width in
            standard deviations of each axis.
        growth: :class:`snapdyn.drifts.Growth`, for populations in which the rows are born and die (timed data).
        iterations: re-weighting steps at most.
        sparse: drop coefficients by :func:`eliminate`.
        threshold: of the elimination, in standard errors.
    """

    def __init__(
        self,
        drift,
        *,
        diffusivity,
        tests=None,
        degree=None,
        harmonics=4,
        count=None,
        width=0.6,
        growth=None,
        iterations=10,
        sparse=False,
        threshold=4.0,
    ):
        self.drift, self.iterations, self.degree = drift, iterations, degree
        self.tests = tests or ("phases" if drift.phases else "monomials" if degree else None)
        if self.tests not in (None, "monomials", "gaussians", "mixed", "phases"):
            raise ValueError(f"tests must be monomials, gaussians, mixed or phases, got {tests!r}")
        if self.tests == "phases" and not drift.phases:
            raise ValueError("tests: phases needs a drift with rotating drivers; take monomials or gaussians")
        self.harmonics, self.count, self.width = harmonics, count, width
        self.growth, self.sparse, self.threshold = growth, sparse, threshold
        self.unknown = isinstance(diffusivity, str) and diffusivity == "unknown"
        self.diffusivity = None if self.unknown else models.checked_diffusivity(diffusivity, drift.dim)

    @property
    def _names(self):
        born = self.growth.names if self.growth else ()
        return [*self.drift.names, *born, *(["diffusivity"] if self.diffusivity is None else [])]

    def _candidates(self, x, gaps, rng):
        """Test functions to try in turn: as few as the unknowns allow, since high powers have heavy tails.

        Between snapshots they also relax fast, which the quadrature over a gap cannot follow; a stationary cloud
        shows more of the drift to higher powers.
        """
        dim, unknowns = x.shape[1], len(self._names)
        if self.tests == "phases":
            angles = {axis for pair in self.drift.phases for axis in pair}
            axes = [axis for axis in range(dim) if axis not in angles]
            yield testfunctions.PhaseModes(x, self.degree or 3, self.harmonics, axes=axes, phases=self.drift.phases)
        elif self.degree is not None and self.tests == "monomials":
            yield testfunctions.Monomials(x, self.degree)
        elif self.tests in ("gaussians", "mixed"):
            yield self._bumps(x, rng, self.tests)
        else:
            lowest, highest = (2, 8) if gaps else (4, 4) if dim <= 3 else (2 if dim > 6 else 3, 8)
            counts = {d: max(gaps, 1) * (math.comb(dim + d, d) - 1) for d in range(lowest, highest + 1)}
            enough = next((d for d, count in counts.items() if count > 1.5 * unknowns), highest if gaps else None)
            if enough is not None:
                yield testfunctions.Monomials(x, enough)
            if gaps and dim <= 3:
                yield testfunctions.Monomials(x, enough + 1)
            elif not gaps and (dim <= 3 or enough is None):
                yield self._bumps(x, rng, "mixed")
                yield self._bumps(x, rng, "gaussians")

    def _bumps(self, x, rng, kind):
        """Gaussians at random data points, with monomials of a low degree if ``mixed``."""
        default = 15 if x.shape[1] == 1 else max(60, 3 * len(self._names))  # on a line they crowd
        count = min(self.count or default, len(x))
        bumps = testfunctions.Gaussians.drawn(x, count, self.width * x.std(0), rng)
        if kind == "gaussians":
            return bumps
        return testfunctions.Joined(testfunctions.Monomials(x, self.degree or 3), bumps)

    def fit(self, snapshots, *, rng, device="cpu", threads=1):
        """Fit the training rows, stationary or timed.

        Raises:
            ValueError: a diffusivity that the data cannot show, or coefficients that they do not determine.
        """
        data = snapshots.select(split="train")
        clock = True
        if self.unknown:
            self.diffusivity = None
        if self.unknown and not data.timed and not self.drift.fixes_clock:
            if not self.drift.homogeneous:
                raise ValueError(
                    "diffusivity: unknown cannot be estimated here: a stationary cloud shows a diffusivity only if the "
                    "known part of the drift fixes the clock, and this one does not. Give a number, timed "
                    "snapshots, or a drift without a known part (then the ratios to the diffusivity are reported)"
                )
            self.diffusivity, clock = 1.0, False
        if self.growth is not None and not data.timed:
            raise ValueError("growth needs timed snapshots: a stationary cloud shows no births (give a time_key)")
        if data.timed and len(data.times) < 2:
            raise ValueError(
                f"moments of timed data need at least two times, got only t = {data.times[0]:g}; "
                "without a time_key the rows are one stationary cloud"
            )
        if flat := [axis for axis, spread in zip(data.meta["axes"], np.ptp(data.x, axis=0), strict=True) if not spread]:
            raise ValueError(f"the axes {flat} are constant over all {len(data)} training rows: drop them")
        times = data.times if data.timed else None
        clouds = [data] if times is None else [data.select(t=t) for t in times]
        if data.timed and (few := [float(t) for t, c in zip(times, clouds, strict=True) if len(c) < ROWS_PER_TIME]):
            raise ValueError(
                f"the snapshots at t = {few} have fewer than {ROWS_PER_TIME} training rows, too few to know their "
                "noise: leave these times out"
            )
        clouds = [cloud.where(rng.permutation(len(cloud))) for cloud in clouds]  # folds are runs of rows
        names, chosen = self._names, None
        for tests in self._candidates(torch.from_numpy(data.x).to(device), len(clouds) - 1, rng):
            fault = self._too_few(clouds, tests, names)
            if fault is not None:
                continue
            equations = self._equations(clouds, times, tests, device, threads)
            solution = equations.solve(self.iterations)
            theta = torch.from_numpy(solution.efficient).to(equations.clouds[0].x)
            known = identify(equations, theta, names)
            fault = self._undetermined(known)
            if fault is None:
                rows = equations.carrying_rows(theta)
                if chosen is None or rows > chosen[-1]:
                    chosen = equations, solution, known, rows
                if rows >= min(ENOUGH_ROWS, ENOUGH_SHARE * len(data)):  # else the next kind may have lighter tails
                    break
        if chosen is None:
            raise ValueError(fault)
        return self._model(*chosen, clock)

    def _equations(self, clouds, times, tests, device, threads):
        folds = int(np.clip(min(map(len, clouds)) // ROWS_PER_FOLD, 2, weakform.FOLDS))
        matrix = None if self.diffusivity is None or np.ndim(self.diffusivity) == 0 else self.diffusivity

        def moments(cloud):
            x, weight = torch.from_numpy(cloud.x).to(device), torch.from_numpy(cloud.weight).to(device)
            return weakform.Cloud(
                self.drift,
                tests,
                x,
                None if (weight == weight[0]).all() else weight,
                folds=folds,
                noise=None if matrix is None else torch.from_numpy(matrix).to(x),
                growth=self.growth,
                threads=threads,
            )

        scalar = self.diffusivity if matrix is None else 1.0
        return MomentEquations([moments(cloud) for cloud in clouds], times, diffusivity=scalar)

    def _too_few(self, clouds, tests, names):
        rows, moments = sum(map(len, clouds)), tests.count * max(1, len(clouds) - 1)
        if min(rows, moments) > len(names):
            return None
        return (
            f"{len(names)} unknowns cannot be determined from {rows} rows and {moments} moments: give more data, "
            "a smaller drift library, or test functions of a higher degree (options: {degree: ..})"
        )

    def _undetermined(self, known):
        if not len(known.directions):
            return None
        return (
            f"these data do not determine all {len(known.names)} unknowns: a combination of {known.touched} changes "
            "nothing that can be seen (for instance a rotation along the level sets of the density). Fix one of "
            "them in `known:`, take a smaller drift library, or give more data. Report: " + "; ".join(known.report())
        )

    def _model(self, equations, solution, known, rows, clock):
        full, count = solution, len(known.names)
        kept = np.arange(count)
        diagnostics = {
            "j_statistic": full.j_statistic,
            "j_dof": float(full.j_dof),
            "j_p_value": full.j_p,
            "condition_number": full.condition,
            "rank": float(known.rank),
            "carrying_rows": rows,
            "cross_fitted": float(solution.cross_fitted),
            "largest_singular_value": float(known.singular_values[0]),
            "smallest_singular_value": float(known.singular_values[-1]),
        }
        strongest = np.argsort(-np.abs(known.weakest))[:6]
        diagnostics |= {models.WEAKEST + known.names[k]: float(known.weakest[k]) for k in strongest}
        if self.sparse:
            spared = [count - 1] if self.diffusivity is None else []  # no coefficient of the library
            kept, solution = eliminate(equations, full, self.threshold, self.iterations, spared)
            if not len(kept):
                raise ValueError(
                    f"no coefficient exceeds {self.threshold:g} standard errors: the data show none of this library"
                )
            rise, dof, p = j_difference(solution, full)
            diagnostics |= {
                "j_statistic": solution.j_statistic,
                "j_dof": float(solution.j_dof),
                "j_p_value": solution.j_p,
                "j_full": full.j_statistic,
                "j_full_dof": float(full.j_dof),
                "j_rise": rise,
                "j_rise_dof": float(dof),
                "j_rise_p_value": p,
                "cross_fitted": float(solution.cross_fitted),
                "kept": float(len(kept)),
                "threshold": float(self.threshold),
            }
        estimate, error = np.zeros(count), np.full(count, np.nan)
        estimate[kept], error[kept] = solution.estimate, solution.std_error
        drift = slice(0, self.drift.count)
        joint = self.diffusivity is None
        born = slice(self.drift.count, count - joint)
        return models.DriftModel(
            self.drift,
            estimate[drift],
            diffusivity=float(estimate[-1]) if joint else self.diffusivity,
            std_error=error[drift],
            diffusivity_error=float(error[-1]) if joint else None,
            growth=list(zip(known.names[born], estimate[born].tolist(), error[born].tolist(), strict=True)),
            clock=clock,
            diagnostics=diagnostics,
        )
