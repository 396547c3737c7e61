"""Drift parameters by optimally weighted moments: no density, no bandwidth, and standard errors that hold.

The method chooses test functions, solves the equations of :mod:`snapdyn.moment_equations`, asks
:mod:`snapdyn.identifiability` what the data can tell, and drops what is not needed (:mod:`snapdyn.elimination`).
"""

import math

import numpy as np
import torch

from snapdyn import elimination, identifiability, models, moment_equations, testfunctions, weakform

ROWS_PER_FOLD = 50  # at least, where there are more than two folds
ROWS_PER_TIME = 10  # fewer do not show their own noise
# Rows that should carry the noise of a test function, and their share where there are few rows altogether
ENOUGH_ROWS, ENOUGH_SHARE = 50, 1 / 400


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
        sparse: drop coefficients by :func:`snapdyn.elimination.eliminate`.
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
            known = identifiability.identify(equations, theta, names)
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
        return moment_equations.MomentEquations([moments(cloud) for cloud in clouds], times, diffusivity=scalar)

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
            kept, solution = elimination.eliminate(equations, full, self.threshold, self.iterations, spared)
            if not len(kept):
                raise ValueError(
                    f"no coefficient exceeds {self.threshold:g} standard errors: the data show none of this library"
                )
            rise, dof, p = elimination.j_difference(solution, full)
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
