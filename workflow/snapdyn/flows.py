r"""Populations that flow in a known energy, recorded as courses: several snapshots of several populations.

Snapshot k holds particles after k steps of length tau. Unpaired, the default, every snapshot has particles of its own,
as measured populations have; paired, one population is seen again and again, and whoever couples rows finds the true
pairs. With noise xi and force(x) = grad V + grad W * rho, a step is one of

.. math:: y = x - \tau\,\mathrm{force}(x) + \sqrt{2\tau\beta}\,\xi, \qquad
          y + \tau\,\mathrm{force}(y) = x + \sqrt{2\tau\beta}\,\xi

or many small ones of the first kind. Only the second is a step of the JKO scheme, which energies are learned with; the
first is that of the published data. Where particles divide or die, snapshots differ in numbers, each row being one
particle: see :mod:`snapdyn.growth`.

Equation: ``flow-step``, ``flow-growth``
"""

import zlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from snapdyn import energy_steps, potentials
from snapdyn.growth import Growth, growth_of
from snapdyn.snapshots import Snapshots, split_rows

SCHEMES = ("explicit", "implicit", "substeps")
SOLVED = 1e-6  # residual of an implicit step that counts as solved, in units of length
_SPLIT, _PAIRED, _MASS = 10**6, 10**6 + 1, 10**6 + 2  # streams of random numbers beside those of the snapshots 0, 1, ..
COUNTED = 100_000  # particles that a growing population's mass is measured with


class FlowEnergy(nn.Module):
    """A known free energy as one member, under the face of :class:`snapdyn.energies.Energy`.

    Args:
        dim: number of axes.
        potential, interaction: names of :data:`snapdyn.potentials.POTENTIALS`; of the second the even part acts.
        diffusivity: beta, in length^2 / time.
    """

    timed = False

    def __init__(self, dim, potential="flat", interaction=None, diffusivity=0.0):
        super().__init__()
        if not diffusivity >= 0:
            raise ValueError(f"a diffusivity is at least 0, got {diffusivity}")
        self.dim, self.potential = dim, potentials.build(potential)
        self.interaction = None if interaction is None else potentials.Even(potentials.build(interaction))
        self.diffusivity = torch.tensor([diffusivity], dtype=torch.float64) if diffusivity else None

    def potential_value(self, x: Tensor, stamp=None) -> Tensor:
        """V ``(..., n)`` at ``x (..., n, dim)``; the stamp of timed energies changes nothing."""
        return self.potential.value(x)

    def potential_gradient(self, x: Tensor, stamp=None) -> Tensor:
        """grad V ``(..., n, dim)``."""
        return self.potential.gradient(x)

    def potential_hessian(self, x: Tensor, stamp=None) -> tuple[Tensor, Tensor]:
        """grad V and the second derivatives ``(..., n, dim, dim)``."""
        return self.potential.hessian(x)

    def interaction_gradient(self, x: Tensor, others: Tensor, *, same=False) -> Tensor:
        """mean over ``others (..., m, dim)`` of grad W (x - y); ``same``: x is among them and left out of its own."""
        pairs = x[..., :, None, :] - others[..., None, :, :]
        return self.interaction.gradient(pairs).sum(-2) / (others.shape[-2] - same)  # grad W(0) = 0

    def force(self, x: Tensor, stamp=None, cloud=None) -> Tensor:
        """grad V + grad W * rho ``(..., n, dim)`` in the population ``cloud (..., m, dim)``, or in x itself."""
        total = self.potential_gradient(x)
        if self.interaction is None:
            return total
        return total + self.interaction_gradient(x, x if cloud is None else cloud, same=cloud is None)


@dataclass(frozen=True)
class Flow:
    """How a population starts and moves.

    Attributes:
        energy: a :class:`FlowEnergy`.
        tau: length of a step in time units; steps: how many.
        scheme: of :data:`SCHEMES`; substeps: small steps in each, for the third.
        start: bounds (low, high) of the uniform law at the start, for every axis.
        growth: a :class:`snapdyn.growth.Growth`, or None where no particle divides or dies.
    """

    energy: FlowEnergy
    tau: float
    steps: int
    scheme: str = "explicit"
    substeps: int = 50
    start: tuple = (-4.0, 4.0)
    growth: Growth | None = None

    def __post_init__(self):
        if self.scheme not in SCHEMES:
            raise ValueError(f"scheme must be one of {SCHEMES}, got {self.scheme!r}")
        if not (self.tau > 0 and self.steps >= 1 and self.substeps >= 1 and self.start[0] < self.start[1]):
            raise ValueError(
                f"expected tau > 0, steps and substeps >= 1 and start [low, high], got tau {self.tau}, steps "
                f"{self.steps}, substeps {self.substeps}, start {self.start}"
            )
        if self.growth is not None and self.energy.interaction is not None:
            raise ValueError("particles that divide do not interact here: leave out the growth or the interactions")

    @property
    def dim(self):
        return self.energy.dim

    @property
    def times(self):
        """Of the snapshots ``(steps + 1,)``, free of rounding in the last digits."""
        return np.round(self.tau * np.arange(self.steps + 1), 12)

    def begin(self, n, rng):
        """``n`` particles at time 0: ``(n, dim)``."""
        return rng.uniform(*self.start, (n, self.dim))

    def advance(self, x, rng=None):
        """One step of a population ``(n, dim)``.

        Args:
            rng: of the noise; without one there is none.
        Returns:
            positions ``(n, dim)`` and the residuals ``(n,)`` of the implicit equation, 0 for the other schemes.
        Raises:
            ValueError: particles that a step carried to infinity.
        Equation: ``flow-step``
        """
        x = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64))[None]
        small = self.substeps if self.scheme == "substeps" else 1
        residual = torch.zeros_like(x[..., 0])
        for _ in range(small):
            noise = None
            if rng is not None and self.energy.diffusivity is not None:
                noise = torch.from_numpy(rng.standard_normal(x.shape))
            if self.scheme == "implicit":
                x, residual = energy_steps.implicit(self.energy, x, self.tau, noise=noise, tolerance=0.1 * SOLVED)
            else:
                x = energy_steps.explicit(self.energy, x, self.tau / small, noise=noise)
        if lost := int((~torch.isfinite(x)).any(2).sum()):
            raise ValueError(
                f"{lost} of {x.shape[1]} particles left for infinity in one step of tau = {self.tau}: take a smaller "
                "tau, or the scheme substeps"
            )
        return x[0].numpy(), residual[0].numpy()

    def paths(self, n, rng):
        """The same ``n`` particles at every time ``(steps + 1, n, dim)``, and the residuals ``(steps, n)``."""
        if self.growth is not None:
            raise ValueError("particles that divide or die cannot be followed as pairs: take unpaired snapshots")
        found, residuals = [self.begin(n, rng)], []
        for _ in range(self.steps):
            x, residual = self.advance(found[-1], rng)
            found.append(x)
            residuals.append(residual)
        return np.stack(found), np.stack(residuals)

    def population(self, n, k, rng):
        """``n`` new particles after ``k`` steps ``(n, dim)``, and the residuals on their way ``(k, n)``.

        Where they divide, founders are drawn until ``n`` are kept, each with a chance in proportion to its descendants:
        rows are independent draws of the law, none a copy of another.
        """
        if self.growth is None:
            x, residuals, _ = self._carried(n, k, rng)
            return x, residuals
        most, parts, have = k * self.tau * self.growth.most, [], 0
        while have < n:
            x, residuals, left = self._carried(n, k, rng)
            kept = rng.random(n) < np.exp(left - most)
            parts.append((x[kept], residuals[:, kept]))
            have += int(kept.sum())
        x, residuals = (np.concatenate(part, axis) for part, axis in zip(zip(*parts, strict=True), (0, 1), strict=True))
        return x[:n], residuals[:, :n]

    def descendants(self, x):
        """How many a particle at each of ``x (n, dim)`` has after one step, on average: ``(n,)``.

        Equation: ``flow-growth``
        """
        return np.ones(len(x)) if self.growth is None else np.exp(self.tau * self.growth(x))

    def masses(self, rng, n=COUNTED):
        """Mass at every time, of 1 at the start ``(steps + 1,)``: the mean number of descendants of ``n`` founders.

        Equation: ``flow-growth``
        """
        if self.growth is None:
            return np.ones(self.steps + 1)
        x, left, found = self.begin(n, rng), np.zeros(n), [1.0]
        for _ in range(self.steps):
            left += np.log(self.descendants(x))
            x, _ = self.advance(x, rng)
            found.append(float(np.exp(left).mean()))
        return np.array(found)

    def _carried(self, n, k, rng):
        """``n`` founders after ``k`` steps, the residuals, and the logarithm of each one's descendants ``(n,)``."""
        x, residuals, left = self.begin(n, rng), np.zeros((k, n)), np.zeros(n)
        for step in range(k):
            if self.growth is not None:
                left += np.log(self.descendants(x))
            x, residuals[step] = self.advance(x, rng)
        return x, residuals, left


def names(kinds, interactions=()):
    """Courses of a data set: ``name -> (potential, interaction)``.

    Args:
        kinds: names of potentials.
        interactions: none, one for all, or one for each of them.
    Raises:
        ValueError: another number of interactions, or courses that repeat.
    """
    if len(interactions) not in (0, 1, len(kinds)):
        raise ValueError(f"expected no interaction, one, or one for each of {len(kinds)} potentials: {interactions}")
    pairs = [None] * len(kinds) if not interactions else list(interactions) * (len(kinds) // len(interactions))
    found = {kind if pair is None else f"{kind}+{pair}": (kind, pair) for kind, pair in zip(kinds, pairs, strict=True)}
    if len(found) < len(kinds):
        raise ValueError(f"courses of a data set must differ, got the potentials {kinds} with {interactions}")
    return found


def courses(spec, *, dataset, seed, progress=iter):
    """All courses of one seed of a data set of kind ``flow``.

    Random numbers belong to the seed, the course's name and the snapshot: a course stays the same whichever stand
    beside it, and no snapshot shares a start or a noise with another.

    Args:
        spec: ``potentials``, ``interactions``, ``diffusivity``, ``dim``, ``n``, ``steps``, ``tau``, ``paired``,
            ``scheme``, ``substeps``, ``start``, ``growth``, ``train``; see docs/configuration.md.
        progress: wraps the list of courses.
    Returns:
        the ``courses/1`` frame and its metadata, from which :func:`unstacked` and :func:`flow_of` know the rest.
        A particle of paired data has the row number k n + particle in snapshot k, and one split throughout;
        ``unsolved`` is the share of a course's implicit steps with a residual above :data:`SOLVED`. Where particles
        divide, a snapshot has n rows times its mass, the same of all seeds; ``masses`` gives it for each course, 1 at
        the start; and if the growth is ``known``, a row's weight is the number of its descendants after one step.
    Raises:
        ValueError: paired particles that divide, or a snapshot that nearly all of them die before.
    """
    parts, unsolved, masses = [], {}, {}
    for name in progress(list(names(spec["potentials"], spec["interactions"]))):
        flow = _flow(spec, name)
        if spec["paired"]:
            x, residuals = flow.paths(spec["n"], _generator(seed, name, _PAIRED))
            split = split_rows(np.zeros(spec["n"]), spec["train"], _generator(seed, name, _SPLIT))
            split = np.tile(split, flow.steps + 1)
        else:
            masses[name] = flow.masses(_generator(0, name, _MASS)).tolist()
            counts = _counts(spec["n"], masses[name], name)
            drawn = [flow.population(n, k, _generator(seed, name, k)) for k, n in enumerate(counts)]
            x, residuals = np.concatenate([x for x, _ in drawn]), np.concatenate([r.ravel() for _, r in drawn])
            split = None
        t = np.repeat(flow.times, spec["n"] if spec["paired"] else counts)
        if split is None:
            split = split_rows(t, spec["train"], _generator(seed, name, _SPLIT))
        x = x.reshape(-1, flow.dim)
        weight = flow.descendants(x) if (spec.get("growth") or {}).get("known") else None
        frame = Snapshots.build(x, t=t, split=split, weight=weight, meta={}).frame()
        frame.insert(0, "course", np.full(len(frame), name, dtype=object))
        parts.append(frame)
        if flow.scheme == "implicit":
            unsolved[name] = float((residuals > SOLVED).mean())
    meta = {
        "dataset": dataset,
        "dim": spec["dim"],
        "axes": [f"x{i}" for i in range(spec["dim"])],
        "space": "state of the flow",
        "time_unit": "time unit",
        "seed": seed,
        "flow": {key: value for key, value in spec.items() if key not in ("kind", "seeds")},
        "unsolved": unsolved,
        "equations": ["flow-step", "test-potentials", "even-kernel"],
    }
    if spec.get("growth"):
        meta |= {"masses": masses, "equations": [*meta["equations"], "flow-growth"]}
    return pd.concat(parts, ignore_index=True), meta


def unstacked(frame, meta):
    """The :class:`Snapshots` of each course of a ``courses/1`` frame, by name, in the order of the data set."""
    flow = meta["flow"]
    found = {}
    for name in names(flow["potentials"], flow["interactions"]):
        rows = frame[frame["course"] == name].drop(columns="course")
        own = {**meta, "dataset": f"{meta['dataset']}/{name}", "course": name}
        found[name] = Snapshots.from_frame(rows, own)
    return found


def flow_of(snapshots):
    """The :class:`Flow` that made the snapshots of one course."""
    return _flow(snapshots.meta["flow"], snapshots.meta["course"])


def _flow(spec, course):
    potential, interaction = names(spec["potentials"], spec["interactions"])[course]
    energy = FlowEnergy(spec["dim"], potential, interaction, spec["diffusivity"])
    low, high = spec["start"]
    return Flow(energy, spec["tau"], spec["steps"], spec["scheme"], spec["substeps"], (low, high), growth_of(spec))


def _counts(n, masses, course):
    """Rows of every snapshot, ``n`` at the start."""
    counts = [round(n * mass) for mass in masses]
    if min(counts) < 4:
        raise ValueError(f"{course}: too few particles live to be seen, {counts} at the times; let fewer of them die")
    return counts


def _generator(seed, course, stream):
    return np.random.default_rng([seed, zlib.crc32(course.encode()), stream])
