"""A synthetic single-cell time course with a known law: a branching diffusion seen through RNA counts.

Each cell has a hidden state z = (progress, fate) that obeys dz = f(z) dt + sqrt(2 D) dW. Genes follow z
log-linearly, a cell's library size is log-normal, and its counts are negative binomial. Cells are destroyed
when they are measured, so every snapshot holds cells of its own.
"""

from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd

from snapdyn import held_out, preprocess

TIMES = (0.0, 1.0, 2.0, 3.0, 5.0)  # days; unequal gaps, as real designs have
TIME_UNIT = "day"


@dataclass(frozen=True)
class Law:
    """The hidden law, and how it shows in counts.

    Attributes:
        rate: drift of progress, 1 / day.
        growth: rate at which fate leaves 0 once progress has passed ``onset``, 1 / day.
        onset, width: progress at which the fork opens, and how gradually.
        diffusivity: D of both hidden coordinates, 1 / day.
        spread: standard deviation of both at the first time.
        loading: size of a responding gene's log fold change for one unit of progress or of fate.
        depth, depth_spread: median library size in counts; standard deviation of its logarithm.
        dispersion: phi of the counts' variance, mean + phi mean^2.
    """

    rate: float = 0.6
    growth: float = 2.0
    onset: float = 0.6
    width: float = 0.3
    diffusivity: float = 0.03
    spread: float = 0.15
    loading: float = 0.7
    depth: float = 4000.0
    depth_spread: float = 0.3
    dispersion: float = 0.2

    def drift(self, z):
        """Drift ``(n, 2)`` in 1 / day of states ``(n, 2)``: steady progress, and a pitchfork in fate."""
        progress, fate = z[:, 0], z[:, 1]
        open_fork = np.tanh((progress - self.onset) / self.width)
        return np.column_stack([np.full(len(z), self.rate), self.growth * fate * (open_fork - fate**2)])

    def advance(self, z, duration, rng, *, step=0.01):
        """States ``(n, 2)`` a ``duration`` in days later, by Euler-Maruyama."""
        n_steps = int(np.ceil(duration / step - 1e-9))
        for _ in range(n_steps):
            dt = duration / n_steps
            z = z + dt * self.drift(z) + np.sqrt(2 * self.diffusivity * dt) * rng.standard_normal(z.shape)
        return z


def gene_programmes(n_genes, seed):
    """Log-linear gene programmes: baseline ``(n_genes,)`` and loadings ``(2, n_genes)`` of unit scale.

    A third of the genes follows progress, a third fate, and a third neither.
    """
    rng = np.random.default_rng(seed)
    follows = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])[:, np.arange(n_genes) % 3]
    return rng.normal(0.0, 1.0, n_genes), follows * rng.normal(0.0, 1.0, (2, n_genes))


def count_course(*, times=TIMES, cells_per_time=150, n_genes=400, seed=0, programme_seed=0, **law):
    """Simulate the time course.

    Args:
        times: in days, increasing. ``cells_per_time``: one number, or one for each time.
        seed: of cells and counts; ``programme_seed``: of the genes, so that seeds can share a tissue.
        law: fields of :class:`Law` that differ from their defaults.
    Returns:
        mapping: ``counts`` CSR ``(n, n_genes)``, ``genes (n_genes,)``, ``t (n,)``, ``latent (n, 2)``,
        ``law``, and JSON-able ``options``, from which ``count_course(**options)`` makes the same course.
    Raises:
        ValueError: with all faults at once.
    """
    from scipy import sparse

    times = [float(t) for t in times]
    per_time = [cells_per_time] * len(times) if np.isscalar(cells_per_time) else list(cells_per_time)
    faults = []
    if len(times) < 2 or np.any(np.diff(times) <= 0):
        faults.append(f"expected at least two increasing times, got {times}")
    if len(per_time) != len(times) or min(per_time) < 2:
        faults.append(f"expected 2 or more cells for each of {len(times)} times, got {per_time}")
    if n_genes < 3:
        faults.append(f"expected at least 3 genes, got {n_genes}")
    if faults:
        raise ValueError("; ".join(faults))
    hidden, rng = Law(**law), np.random.default_rng(seed)
    latent = np.concatenate([
        hidden.advance(rng.normal(0.0, hidden.spread, (n, 2)), t - times[0], rng)
        for t, n in zip(times, per_time, strict=True)
    ])  # fmt: skip
    options = {"times": times, "cells_per_time": per_time, "n_genes": n_genes, "seed": seed}
    options |= {"programme_seed": programme_seed} | asdict(hidden)
    counts = _draw_counts(latent, hidden, gene_programmes(n_genes, programme_seed), rng)
    return {
        "counts": sparse.csr_matrix(counts),
        "genes": np.array([f"gene-{i:04d}" for i in range(n_genes)], dtype=object),
        "t": np.repeat(times, per_time),
        "latent": latent,
        "law": hidden,
        "options": options,
    }


def course_snapshots(options, *, dataset, seed, train=0.7, **embedding):
    """Snapshots of a course in principal components; ``meta["system"]`` holds what makes it again.

    Args:
        options: of :func:`count_course`.
        dataset, seed, train: name; seed of the split; share of each time's cells to train on.
        embedding: see :func:`snapdyn.preprocess.embed_counts`.
    """
    course = count_course(**options)
    return preprocess.counts_snapshots(
        course["counts"], course["genes"], course["t"], dataset=dataset, seed=seed, train=train,
        time_unit=TIME_UNIT, system={"name": "count-course", "options": course["options"]}, **embedding,
    )  # fmt: skip


def course_with_truth(options, *, dataset, seed, rng, train=0.7, hold_out=None, **embedding):
    """A course in principal components, and beside it what only its maker can know.

    Args:
        options, dataset, seed, train, embedding: as for :func:`course_snapshots`.
        hold_out: times to hold out whole, see :func:`snapdyn.clouds.assemble`.
        rng: of the oracle's forecast.
    Returns:
        the snapshots; the ``field/1`` frame of their test cells, whose ``velocity0..`` is the true drift
        (:func:`true_drift`); and the oracle's forecast: snapshots of the test cells of each time, moved to
        the next (:func:`true_forecast`), ``row`` being the row of the cell that was moved. With whole times held out,
        see :func:`snapdyn.held_out.carried`.
    """
    cells = course_snapshots(options, dataset=dataset, seed=seed, train=train, hold_out=hold_out, **embedding)
    course, affine, judged = count_course(**options), cells.meta["affine"], cells.select(split="test")
    drift = true_drift(course, affine, judged.row)
    columns = {"t": judged.t} | {f"x{i}": judged.x[:, i] for i in range(cells.dim)}
    truth = pd.DataFrame(columns | {f"velocity{i}": drift[:, i] for i in range(cells.dim)})
    if hold_out:

        def carry(here, times):
            return true_forecast(course, affine, here.row, times[-1] - times[0], rng)

        return cells, truth, held_out.carried(cells, carry)
    moved = judged.where(judged.t < cells.times[-1])
    x, t = np.empty_like(moved.x), np.empty_like(moved.t)
    for now, then in pairwise(cells.times):
        rows = moved.t == now
        x[rows], t[rows] = true_forecast(course, affine, moved.row[rows], then - now, rng), then
    return cells, truth, replace(moved, x=x, t=t)


def true_drift(course, affine, rows, *, step=0.02):
    r"""Expected embedded displacement rate of cells whose hidden state is known.

    With Phi(z) the expected position of a cell in state z over library size and counts, this is Ito's
    formula :math:`f\cdot\nabla\Phi + D\,\Delta\Phi`, by central differences: what an unbiased one-step
    forecast of the position moves by, per day.

    Args:
        course: of :func:`count_course`. ``affine``: of :func:`snapdyn.preprocess.embed_counts`.
        rows: the cells, as numbers in the course (a snapshot's ``row``) ``(n,)``.
        step: of the differences, in units of the hidden state.
    Returns:
        drift ``(n, dim)`` in embedded units / day.
    """
    law, z = course["law"], course["latent"][rows]
    shifts = step * np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
    states = (z + shifts[:, None]).reshape(-1, 2)
    middle, *sides = _expected_positions(states, course, affine).reshape(len(shifts), len(z), -1)
    drift = np.zeros_like(middle)
    for ahead, behind, f in zip(sides[::2], sides[1::2], law.drift(z).T, strict=True):
        drift += f[:, None] * (ahead - behind) / (2 * step)
        drift += law.diffusivity * (ahead - 2 * middle + behind) / step**2
    return drift


def true_forecast(course, affine, rows, duration, rng):
    """The oracle's prediction: the cells ``rows`` a ``duration`` in days later, measured afresh.

    Args:
        course, affine, rows: as for :func:`true_drift`.
    Returns:
        positions ``(n, dim)``: one draw of the true law for each cell, counting noise included.
    """
    later = course["law"].advance(course["latent"][rows], duration, rng)
    counts = _draw_counts(later, course["law"], _programmes(course), rng)
    return preprocess.embed_with(counts, course["genes"], affine)


def _programmes(course):
    return gene_programmes(course["options"]["n_genes"], course["options"]["programme_seed"])


def _shares(z, law, programmes):
    """Each gene's expected share of a cell's counts ``(n, n_genes)``."""
    baseline, loadings = programmes
    log_mean = baseline + law.loading * z @ loadings
    shares = np.exp(log_mean - log_mean.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def _draw_counts(z, law, programmes, rng):
    library = law.depth * np.exp(law.depth_spread * rng.standard_normal((len(z), 1)))
    mean = library * _shares(z, law, programmes)
    return rng.poisson(rng.gamma(1 / law.dispersion, law.dispersion * mean)).astype(np.int64)


def _expected_positions(z, course, affine, *, n_shares=60, n_libraries=5):
    """Embedded positions ``(n, dim)`` of hidden states, averaged over library sizes and counts.

    A gene's expected log1p level depends on its share alone (a cell's observed total is taken as its
    library size, which many genes make nearly exact): so it is tabulated over shares and interpolated.
    """
    from scipy import interpolate, stats

    law, order = course["law"], {gene: i for i, gene in enumerate(course["genes"])}
    log_share = np.log(_shares(z, law, _programmes(course))[:, [order[gene] for gene in affine["genes"]]])
    grid = np.linspace(log_share.min(), log_share.max(), n_shares)
    nodes, weights = np.polynomial.hermite_e.hermegauss(n_libraries)
    level, size = np.zeros(n_shares), 1 / law.dispersion
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        library = law.depth * np.exp(law.depth_spread * node)
        mean = np.exp(grid) * library
        n_max = int(mean.max() * (1 + 12 * np.sqrt(law.dispersion))) + 50
        # E g(n) = g(0) + sum over n >= 1 of (g(n) - g(n - 1)) P(count >= n), here with g(0) = 0
        gains = np.diff(np.log1p(affine["target_sum"] * np.arange(n_max + 1) / library))
        level += weight * stats.nbinom.sf(np.arange(n_max), size, size / (size + mean[:, None])) @ gains
    return preprocess.project(interpolate.CubicSpline(grid, level)(log_share), affine)
