"""Drift parameters by optimally weighted moments: no density, no bandwidth, and honest standard errors.

For every smooth test function phi of moderate growth, E[L phi] = 0 in the stationary state, with the
generator L phi = f . grad phi + D Laplacian phi; between two snapshots the change of E[phi] is the integral
of E[L phi]. Both are linear in the unknowns. One pass over the data collects the second moments of every
block; all later iterations, standard errors and the J test come from those.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from snapdyn import drifts, models, run

CHUNK = 2048
GRAM_LIMIT = 2000  # blocks times tests whose second moments are kept
EIGENVALUE_CUT = 1e-10  # relative to the largest, of the tests' correlation matrix


@dataclass(frozen=True)
class Tests:
    """Test functions: monomials of standardised coordinates up to a degree, the constant left out.

    Attributes:
        powers: exponents ``(count, dim)``.
        centre, scale: the standardisation ``(dim,)``.
    """

    powers: Tensor
    centre: Tensor
    scale: Tensor

    @classmethod
    def monomials(cls, x: Tensor, degree: int):
        powers = torch.tensor(drifts.exponents(x.shape[1], degree)[1:])
        return cls(powers.to(x.device), x.mean(0), x.std(0))

    @property
    def count(self):
        return len(self.powers)

    def __call__(self, x: Tensor):
        """Values ``(n, count)``, gradients ``(n, dim, count)`` and Laplacians ``(n, count)`` at ``x``."""
        z = (x - self.centre) / self.scale
        top = int(self.powers.max())
        ladder = [torch.ones_like(z)]
        for _ in range(top):
            ladder.append(ladder[-1] * z)
        ladder = torch.stack(ladder, 1)  # (n, power, dim)
        levels = torch.arange(top + 1).to(z)[None, :, None]
        lowered = torch.cat([torch.zeros_like(ladder[:, :1]), ladder[:, :-1]], 1)
        slope = levels * lowered
        twice = torch.cat([torch.zeros_like(ladder[:, :1]), lowered[:, :-1]], 1)
        bend = levels * (levels - 1) * twice
        axes = range(z.shape[1])
        value = [ladder[:, self.powers[:, j], j] for j in axes]
        gradient, laplacian = [], 0.0
        for j in axes:
            others = None
            for i in axes:
                if i != j:
                    others = value[i] if others is None else others * value[i]
            first = slope[:, self.powers[:, j], j] / self.scale[j]
            second = bend[:, self.powers[:, j], j] / self.scale[j] ** 2
            gradient.append(first if others is None else first * others)
            laplacian = laplacian + (second if others is None else second * others)
        product = value[0]
        for factor in value[1:]:
            product = product * factor
        return product, torch.stack(gradient, 1), laplacian


def block_values(drift, tests, x):
    """The blocks [phi, g_1 . grad phi .. g_m . grad phi, v . grad phi, Lap phi] at ``x``: ``(n, m + 3, tests)``."""
    value, gradient, laplacian = tests(x)
    fields = torch.cat([drift.fields(x), drift.known(x)[:, None]], 1)
    return torch.cat([value[:, None], torch.bmm(fields, gradient), laplacian[:, None]], 1)


class Cloud:
    """Moments of the blocks over one snapshot.

    Small systems keep the second moments of all blocks, so that no later step reads the data again; for large
    libraries, where those would not fit, each step passes over the data with what it needs.

    Attributes:
        mean: weighted means of the blocks ``(blocks, tests)``.
        n: rows.
    """

    def __init__(self, drift, tests, x: Tensor, weight: Tensor | None = None, *, threads=1):
        self.drift, self.tests, self.x, self.threads = drift, tests, x, threads
        self.n = len(x)
        self.weight = torch.full((self.n,), 1.0 / self.n).to(x) if weight is None else weight / weight.sum()
        self.blocks = drift.count + 3
        self.gram = None
        everything = torch.eye(self.blocks).to(x)
        if self.blocks * tests.count <= GRAM_LIMIT:
            self.mean, self.gram = self._moments(everything)
        else:
            self.mean = self._moments(everything, second=False)[0]

    def _moments(self, combine, second=True):
        """Mean ``(rows, tests)`` of the blocks combined by ``combine (rows, blocks)``, covariance of that mean."""
        size = len(combine) * self.tests.count
        whole = len(combine) == self.blocks

        def chunk(start):
            part = slice(start, start + CHUNK)
            values = block_values(self.drift, self.tests, self.x[part])
            values = values if whole else torch.einsum("rb,nbk->nrk", combine, values)
            weighted = values.flatten(1) * self.weight[part, None]
            if not second:
                return weighted.sum(0), None, None
            return weighted.sum(0), weighted.T @ weighted, weighted.T @ self.weight[part]

        mean, square, cross = torch.zeros(size).to(self.x), torch.zeros(size, size).to(self.x), 0.0
        for one, two, mixed in run.parallel(chunk, range(0, self.n, CHUNK), self.threads):
            mean += one
            if second:
                square += two
                cross = cross + mixed
        shape = (len(combine), self.tests.count)
        if not second:
            return mean.view(shape), None
        # sum_i w_i^2 (h_i - mean)(h_i - mean)', the sampling noise of independent rows
        outer = torch.outer(mean, cross)
        square += self.weight.square().sum() * torch.outer(mean, mean) - outer - outer.T
        return mean.view(shape), square.view(*shape, *shape)

    def noise(self, combine):
        """Covariance ``(rows, tests, rows, tests)`` of the mean of the combined blocks."""
        if self.gram is None:
            return self._moments(combine)[1]
        half = torch.einsum("rb,bkcl->rkcl", combine, self.gram)
        return torch.einsum("rkcl,sc->rksl", half, combine)


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


class MomentEquations:
    """The linear system M theta = q of one or several snapshots and the covariance of its noise.

    Each equation e reads sum_s (on_value[e, s] E_s[phi] + on_generator[e, s] E_s[L phi]) = 0 for all tests:
    one equation (0, 1) for a stationary cloud; for snapshots at t_0 < t_1 < .. one per gap, with
    the generator integrated by the trapezium rule.

    Equation: ``weak-form``, ``timed-weak-form``
    """

    def __init__(self, clouds, times=None, *, diffusivity=None):
        self.clouds, self.diffusivity = clouds, diffusivity
        if times is None:
            self.on_value, self.on_generator = torch.zeros(1, 1).double(), torch.ones(1, 1).double()
        else:
            gaps = torch.from_numpy(np.diff(times))
            here, after = torch.eye(len(times))[:-1].double(), torch.eye(len(times))[1:].double()
            self.on_value = here - after
            self.on_generator = gaps[:, None] / 2 * (here + after)

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
        drift, diffusivity = (theta[:-1], theta[-1:]) if self.diffusivity is None else (theta, None)
        if diffusivity is None:
            diffusivity = torch.full((1,), self.diffusivity).to(theta)
        one, zero = torch.ones(1).to(theta), torch.zeros(1).to(theta)
        generator = torch.cat([zero, drift, one, diffusivity])
        combine = torch.stack([torch.eye(len(generator)).to(theta)[0], generator])  # phi, L phi
        pairs = torch.stack([cloud.noise(combine) for cloud in self.clouds])
        use = torch.stack([self.on_value, self.on_generator], -1).to(theta)  # (equation, snapshot, 2)
        total = torch.einsum("esr,srkql,fsq->ekfl", use, pairs, use)
        return total.reshape(total.shape[0] * total.shape[1], -1)

    def start(self):
        """The unweighted estimate, every equation scaled to the same size."""
        design, rest = self.system()
        norm = design.norm(dim=1).clamp_min(torch.finfo(design.dtype).tiny)
        return _scaled_least_squares(design / norm[:, None], rest / norm)[0]

    def solve(self, iterations=3, start=None):
        """Two-step and iterated optimal weighting from an unweighted start.

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
            theta, condition = _scaled_least_squares(white, target)
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


def undetermined(halves, names):
    """Coefficients that the data cannot tell apart from noise, as a list of names; empty if all is well.

    The whitened design is estimated on two halves of the data. Along a direction that the population
    determines, the halves agree; along a gauge direction (a field that leaves the density alone) each half
    shows only its own noise.
    """
    one, two = halves
    signal = (one.T @ two + two.T @ one) / 2
    noise = (one - two).T @ (one - two) / 4
    scale = ((one + two) / 2).norm(dim=0).clamp_min(1e-300)
    signal, noise = signal / torch.outer(scale, scale), noise / torch.outer(scale, scale)
    values, vectors = torch.linalg.eigh(signal)
    for value, vector in zip(values, vectors.T, strict=True):
        if value < 0.5 * (vector @ noise @ vector):
            weight = vector.abs() / vector.abs().max()
            return [name for name, share in zip(names, weight.tolist(), strict=True) if share > 0.3]
    return []


class Moments:
    """Method ``moments``: optimally weighted moments with standard errors and the J test.

    Args:
        drift: the affine drift whose coefficients are wanted.
        diffusivity: D in length^2 / time, or ``"unknown"`` to estimate it (timed snapshots, or a drift
            whose known part fixes the clock).
        degree: highest degree of the monomial tests; None chooses the lowest that overdetermines.
        iterations: re-weighting steps.
    """

    def __init__(self, drift, *, diffusivity, degree=None, iterations=3):
        self.drift, self.iterations, self.degree = drift, iterations, degree
        self.diffusivity = None if diffusivity == "unknown" else float(diffusivity)

    def _tests(self, x, equations):
        unknowns = self.drift.count + (self.diffusivity is None)
        if self.degree is not None:
            return Tests.monomials(x, self.degree)
        # As low as the unknowns allow: high powers have heavy tails, and their estimated weights bias the fit.
        for degree in range(2, 9):
            tests = Tests.monomials(x, degree)
            if equations * tests.count > 1.5 * unknowns:
                break
        return tests

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
        clouds = [data] if not data.timed else [data.select(t=t) for t in data.times]
        tests = self._tests(torch.from_numpy(data.x).to(device), max(1, len(clouds) - 1))
        times = data.times if data.timed else None
        equations = self._equations(clouds, times, tests, device, threads)
        names = [*self.drift.names, *(["diffusivity"] if self.diffusivity is None else [])]
        self._refuse_undetermined(clouds, times, tests, equations, names, rng, device, threads)
        solution = equations.solve(self.iterations)
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

    def _equations(self, clouds, times, tests, device, threads):
        def moments(cloud):
            x, weight = torch.from_numpy(cloud.x).to(device), torch.from_numpy(cloud.weight).to(device)
            return Cloud(
                self.drift, tests, x, None if (weight == weight[0]).all() else weight, threads=threads
            )

        return MomentEquations([moments(cloud) for cloud in clouds], times, diffusivity=self.diffusivity)

    def _refuse_undetermined(self, clouds, times, tests, equations, names, rng, device, threads):
        unknowns, rows = len(names), sum(map(len, clouds))
        moments = tests.count * max(1, len(clouds) - 1)
        if moments <= unknowns or rows <= unknowns:
            raise ValueError(
                f"{unknowns} unknowns cannot be determined from {rows} rows and {moments} moments: give more data, "
                "a smaller drift library, or test functions of a higher degree"
            )
        root = whitening(equations.noise(equations.start()))
        halves = []
        orders = [rng.permutation(len(cloud)) for cloud in clouds]
        for side in (0, 1):
            parts = [c.where(np.sort(order[side::2])) for c, order in zip(clouds, orders, strict=True)]
            halves.append(root @ self._equations(parts, times, tests, device, threads).system()[0])
        if bad := undetermined(halves, names):
            raise ValueError(
                f"these data do not determine all {unknowns} unknowns: a combination of {bad} changes nothing that "
                "can be seen (for instance a rotation along the level sets of the density). Fix one of them in "
                "`known:`, or take a smaller drift library"
            )
