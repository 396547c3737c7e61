"""Fitted energies: what :func:`snapdyn.load` returns for methods that learn what drives a population."""

import copy
import warnings

import numpy as np
import pandas as pd
import torch

from snapdyn import energy_steps
from snapdyn.density_models import parameter_table
from snapdyn.energies import Energy

STEPS = ("implicit", "explicit")
BETWEEN = ("scheme", "line")
ROWS = 4096  # points at a time where they do not act on each other
PAIRS = 2**18  # pairs of points at a time where they do
ENOUGH = 1e-3  # residual of an implicit step, in the data's spread, above which it is said


class EnergyModel:
    r"""A free energy learned from timed snapshots, and the scheme that carries a population down it.

    Arrays in, arrays out, all in the data's coordinates and time unit. With x = scale x' + centre and t = clock t' the
    potential inside is multiplied by scale^2 / clock. A potential and an interaction are known up to a constant:
    they are 0 at the data's centre and at distance 0.

    A potential that depends on time has one form for each observed gap, that of the gap's end: at a time t it is
    the form of the first observed time that is not before t.

    Attributes:
        energy: one member of :class:`snapdyn.energies.Energy`, in internal units.
        times: observed times ``(K + 1,)``; clock: the unit of time inside; centre ``(dim,)``, scale: of positions.
        axes: names of the coordinates.
        step: ``implicit`` (the step that energies are fitted with) or ``explicit``.
        between: how a time inside a gap is reached, see :meth:`simulate`.
        substeps: steps of the scheme in a gap; a time that is a part of a gap has its part of them.
        parameters: frame with name, estimate, std_error and unit; the diffusivity where it is learned.
        diagnostics: name -> number.
        history: columns member, step, term, value, split of the training, or None.
        step_residual: the largest residual of an implicit step of the last :meth:`simulate`, in the data's unit.
    Equation: ``free-energy``
    """

    kind = "energy"

    def __init__(
        self,
        energy,
        *,
        times,
        clock,
        centre,
        scale,
        axes,
        time_unit=None,
        step="implicit",
        between="scheme",
        substeps=1,
        diagnostics=None,
        history=None,
    ):
        if step not in STEPS or between not in BETWEEN:
            raise ValueError(f"expected a step of {STEPS} and between of {BETWEEN}, got {step!r} and {between!r}")
        self.energy, self._precise = energy, copy.deepcopy(energy).double().cpu()
        self.times, self.clock = np.asarray(times, dtype=np.float64), float(clock)
        self.centre, self.scale = np.asarray(centre, dtype=np.float64), float(scale)
        self.axes, self.time_unit, self.step, self.between = list(axes), time_unit, step, between
        self.substeps = int(substeps)
        self.diagnostics, self.history, self.step_residual = diagnostics or {}, history, 0.0

    def with_step(self, step):
        """The same energy with the other kind of step; see :meth:`simulate`."""
        about = {name: getattr(self, name) for name in ("times", "clock", "centre", "scale", "axes", "time_unit")}
        about |= {name: getattr(self, name) for name in ("between", "substeps", "diagnostics", "history")}
        return EnergyModel(self.energy, step=step, **about)

    @property
    def dim(self):
        return len(self.axes)

    @property
    def timed(self):
        """Whether the potential depends on time."""
        return self.energy.timed

    @property
    def unit(self):
        """A potential of 1 inside in the user's length^2 / time."""
        return self.scale**2 / self.clock

    @property
    def diffusivity(self):
        """The weight of the entropy in length^2 / time, or None for an energy without it."""
        inside = self._precise.diffusivity
        return None if inside is None else self.unit * float(inside.detach()[0])

    @property
    def parameters(self):
        found = self.diffusivity
        if found is None:
            return parameter_table()
        return parameter_table(["diffusivity"], [found], [np.nan], ["length^2/time"])

    # What the energy is made of

    def potential(self, t, x):
        """V ``(n,)`` in length^2 / time at ``x (n, dim)``; ``t``: one time, or one for each point (unused at rest)."""
        self._needs("potential")
        x, stamp = self._inside(x), self._stamp_of(t)
        centre = torch.zeros(1, 1 if stamp is None or stamp.dim() == 0 else x.shape[1], self.dim).double()

        def value(points, stamps):
            return self._precise.potential_value(points, stamps)[0]

        with torch.no_grad():
            level = value(centre, stamp).numpy()
        return self.unit * (self._blocks(value, x, stamp) - level)

    def interaction(self, z):
        """W ``(n,)`` in length^2 / time at differences ``z (n, dim)`` of two positions."""
        self._needs("interaction")
        z = torch.from_numpy(self._points(z) / self.scale)[None]
        value = self._blocks(lambda points, _: self._precise.kernel(points)[0], z)
        with torch.no_grad():
            return self.unit * (value - self._precise.kernel(torch.zeros(1, 1, self.dim).double())[0].numpy())

    def drift(self, t, x, population=None):
        """-grad V - grad W * rho ``(n, dim)`` in length / time: what moves a particle, its noise apart.

        Args:
            t: one time, or one for each point.
            population: positions ``(m, dim)`` of rho, which an interaction needs; left out, the points ``x`` of the
                same time are the population.
        """
        x, stamp = self._inside(x), self._stamp_of(t)
        total = torch.zeros_like(x[0]).numpy()
        if self.energy.potential is not None:
            total = total + self._blocks(lambda at, when: self._precise.potential_gradient(at, when)[0], x, stamp)
        if self.energy.interaction is not None:
            total = total + self._pull(t, x, population)
        return -self.scale / self.clock * total

    def interaction_force(self, x, population=None):
        """grad W * rho ``(n, dim)`` in length / time: the interaction's own part of the drift, with the other sign.

        Args:
            population: positions ``(m, dim)`` of rho; left out, the points ``x`` are the population.
        """
        self._needs("interaction")
        return self.scale / self.clock * self._pull(None, self._inside(x), population)

    def _pull(self, t, x, population):
        """grad W * rho at ``x (1, n, dim)``, inside."""
        if population is not None:
            cloud = self._inside(population)
            size = max(1, PAIRS // cloud.shape[1])
            with torch.no_grad():
                parts = [self._precise.interaction_gradient(part, cloud)[0] for part in x.split(size, 1)]
            return torch.cat(parts).numpy()
        when, total = np.broadcast_to(0.0 if t is None else t, x.shape[1]), np.empty(x.shape[1:])
        for rows in (np.flatnonzero(when == time) for time in np.unique(when)):
            if len(rows) < 2:
                raise ValueError("an interaction acts between particles, and there is one alone: give the population")
            with torch.no_grad():
                total[rows] = energy_steps.interaction_force(self._precise, x[:, rows])[0].numpy()
        return total

    def velocity(self, t, x, population=None):
        """What carries the population's density: the drift of an energy without entropy.

        With entropy it is the drift less the diffusivity times the density's score, which an energy does not know.
        """
        if self.diffusivity is not None:
            raise NotImplementedError(
                f"the velocity of a population with noise is drift(t, x) - {self.diffusivity:.3g} * score(t, x), and "
                "an energy knows no score: take drift(t, x), and the score of a density method such as gaussian-mixture"
            )
        return self.drift(t, x, population)

    def potential_frame(self, t, x, population=None):
        """The learned field at ``x (n, dim)`` as a ``field/1`` frame: ``potential`` where there is one, and the drift.

        Args:
            t: one time, or one for each point.
        """
        x = self._points(x)
        frame = pd.DataFrame({"t": np.array(np.broadcast_to(np.nan if t is None else t, len(x)), dtype=np.float64)})
        frame = frame.assign(**{f"x{i}": x[:, i] for i in range(self.dim)})
        if self.energy.potential is not None:
            frame["potential"] = self.potential(t, x)
        drift = self.drift(t, x, population)
        return frame.assign(**{f"drift{i}": drift[:, i] for i in range(self.dim)})

    def _has_no(self, name):
        raise NotImplementedError(
            f"an energy has no {name}: it moves a population and does not know its density; use drift(t, x), "
            "potential(t, x) or simulate(x0, times), or a density method for the density"
        )

    def log_prob(self, t, x):
        self._has_no("log_prob(t, x)")

    def score(self, t, x):
        self._has_no("score(t, x)")

    # Where it carries a population

    def simulate(self, x0, times, rng=None):
        """Carry ``x0 (n, dim)`` from ``times[0]`` to every time by the scheme: ``(len(times), n, dim)``.

        From one observed time to the next there is one step of the whole gap, as in the fit. A time inside a gap is
        reached by one step of its part of the gap (``between="scheme"``: what the variational scheme says of it) or
        on the straight line to where the whole step ends (``"line"``); what comes after starts from the observed
        time, so that it does not depend on which times are asked for. After the last observed time steps are as
        long as the mean gap.

        Args:
            times: increasing, in the data's unit.
            rng: of the noise of an energy with entropy; seed 0 if left out.
        """
        times = np.asarray(times, dtype=np.float64)
        if times.ndim != 1 or not len(times) or (np.diff(times) < 0).any():
            raise ValueError(f"expected times that increase, got {times}")
        rng = rng or np.random.default_rng(0)
        x, start, self.step_residual = self._inside(x0), float(times[0]), 0.0
        path, wanted = [], list(times)
        while wanted:
            end, stamp = self._next(start)
            noise = self._noise(x, rng)
            whole = None
            if self.between == "line" or wanted[-1] >= end:
                whole = self._stepped(x, end - start, stamp, noise)
            while wanted and wanted[0] < end:
                share = (wanted[0] - start) / (end - start)
                path.append(self._part(x, whole, share, end - start, stamp, noise))
                wanted.pop(0)
            x, start = whole, end
        if self.step_residual > ENOUGH * self.scale:
            warnings.warn(
                f"an implicit step was solved to {self.step_residual:.2g} only (in the data's unit, whose spread is "
                f"{self.scale:.2g}): the energy is too steep for its gaps; compare step: explicit",
                stacklevel=2,
            )
        return np.stack([self.centre + self.scale * points[0].numpy() for points in path])

    def _part(self, x, whole, share, gap, stamp, noise):
        if share == 0:
            return x
        if self.between == "line":
            return x + share * (whole - x)
        return self._stepped(x, share * gap, stamp, noise, share)

    def _next(self, start):
        """The end of the step that begins at a time, and the stamp of its potential."""
        later = np.flatnonzero(self.times > start)
        if len(later):
            place = max(int(later[0]), 1)
            return float(self.times[later[0]]), self._stamps[place]
        return start + self.clock, self._stamps[-1]

    def _noise(self, x, rng):
        """Draws for every substep of a whole step ``(substeps, 1, n, dim)``; None without an entropy."""
        beta = self._precise.diffusivity
        return None if beta is None else torch.from_numpy(rng.standard_normal((self.substeps, *x.shape)))

    def _stepped(self, x, gap, stamp, noise, share=1.0):
        """The population ``x (1, n, dim)`` after a time ``gap``, in the user's unit, that is a share of a whole one."""
        count = max(1, int(np.ceil(share * self.substeps - 1e-9)))
        tau = gap / self.clock / count
        for number in range(count):
            drawn = None if noise is None else noise[number]
            with torch.no_grad():
                if self.step == "explicit":
                    x = energy_steps.explicit(self._precise, x, tau, stamp, drawn)
                    continue
                x, residual = energy_steps.implicit(self._precise, x, tau, stamp, noise=drawn)
            self.step_residual = max(self.step_residual, self.scale * float(residual.max()))
        return x

    # Between the user's units and those inside

    @property
    def _stamps(self):
        return 2 * (self.times - self.times[0]) / (self.times[-1] - self.times[0]) - 1

    def _stamp_of(self, t):
        """The stamp of the potential at each time, None for one that does not depend on time."""
        if not self.timed:
            return None
        if t is None or np.isnan(t).any():
            observed = ", ".join(f"{time:g}" for time in self.times)
            raise ValueError(f"this potential depends on time: say when, for example at one of {observed}")
        place = np.clip(np.searchsorted(self.times, np.asarray(t, dtype=np.float64)), 1, len(self.times) - 1)
        return torch.from_numpy(np.asarray(self._stamps[place]))

    def _points(self, x):
        x = np.asarray(x, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"expected points (n, {self.dim}), one column for each of {self.axes}, got {x.shape}")
        return x

    def _inside(self, x):
        return torch.from_numpy((self._points(x) - self.centre) / self.scale)[None]

    def _blocks(self, function, x, stamp=None):
        """``function(points (1, n, dim), stamps)`` as an array, a block of points after another."""
        parts = []
        with torch.no_grad():
            for start in range(0, max(x.shape[1], 1), ROWS):
                rows = slice(start, start + ROWS)
                when = stamp if stamp is None or stamp.dim() == 0 else stamp[rows]
                parts.append(function(x[:, rows], when).numpy())
        return np.concatenate(parts)

    def _needs(self, term):
        if getattr(self.energy, term) is None:
            there = [
                name for name in ("potential", "interaction", "diffusivity") if getattr(self.energy, name) is not None
            ]
            raise NotImplementedError(f"this energy has no {term}, only: {', '.join(there)}")

    # On file

    def state(self):
        """Constructor arguments as tensors and plain values; the history stays behind."""
        return {
            "energy": self.energy.state(),
            "times": self.times.tolist(),
            "clock": self.clock,
            "centre": self.centre.tolist(),
            "scale": self.scale,
            "axes": self.axes,
            "time_unit": self.time_unit,
            "step": self.step,
            "between": self.between,
            "substeps": self.substeps,
            "diagnostics": {name: float(value) for name, value in self.diagnostics.items()},
        }

    @classmethod
    def from_state(cls, state):
        rest = {name: value for name, value in state.items() if name != "energy"}
        return cls(Energy.from_state(state["energy"]), **rest)
