r"""iJKOnet without an adversary: for a potential the best map is known particle by particle.

The carried point of x solves y + tau grad V(y) = x, by Newton's method from where x was carried to last. Because y is
a minimum, the potential's gradient needs no derivative of y (envelope theorem):

.. math:: \nabla_\theta \mathcal{L} = \sum_k \Big[\overline{\nabla_\theta V(y^\star)}
          - \overline{\nabla_\theta V(x_{k+1})}\Big]

Equation: ``inverse-jko``, ``jko-step``, ``semi-dual``
"""

import torch

from snapdyn import energy_game, energy_steps, semidual
from snapdyn.courses import Draws
from snapdyn.energy_methods import EnergyMethod, Trained
from snapdyn.ijkonet import BATCHES


class Proximal:
    """The carrier of the min-max that solves each particle's own problem.

    Args:
        courses: :class:`snapdyn.courses.Courses` to draw from.
        seeds: one for each member.
        batch: rows of each snapshot a step.
        inner: Newton steps a batch, at most.
        tolerance: of a particle's residual, at which it is done.
    """

    def __init__(self, courses, *, seeds, batch=250, inner=5, tolerance=1e-3):
        self.courses, self.batch, self.inner, self.tolerance = courses, batch, inner, tolerance
        self.draws = Draws(courses, batch, [seed + BATCHES for seed in seeds])
        x = courses.x[0]
        self.carried_to = [one.clone() for one in courses.x[:-1]]  # where each training row went last
        self.ends = torch.as_tensor(courses.stamps[1:], dtype=x.dtype, device=x.device).repeat_interleave(batch)
        self.tau = torch.as_tensor(courses.gaps, dtype=x.dtype, device=x.device).repeat_interleave(batch)
        self.residual = torch.zeros(courses.members, dtype=torch.float64)

    def answer(self, energy):
        """Nothing to learn: the answer is computed."""

    def follow(self, decay):
        """Nothing to average."""

    def round(self, energy):
        """Points carried by their proximal steps and observed ones, for :func:`snapdyn.energy_game.price`."""
        # one batch of each snapshot, carried on and observed, so that most of its noise cancels
        wide = [self.draws.rows(k)[..., None].expand(-1, -1, self.courses.dim) for k in range(len(self.courses.x))]
        drawn = [x.gather(1, rows) for x, rows in zip(self.courses.x, wide, strict=True)]
        start = torch.cat([y.gather(1, rows) for y, rows in zip(self.carried_to, wide, strict=False)], 1)
        how = {"limit": self.inner, "tolerance": self.tolerance, "dtype": start.dtype}
        y, residual = energy_steps.implicit(energy, torch.cat(drawn[:-1], 1), self.tau, self.ends, start=start, **how)
        self.residual = residual.quantile(0.99, 1).double().cpu()
        for place, rows, found in zip(self.carried_to, wide, y.split(self.batch, 1), strict=False):
            place.scatter_(1, rows, found)
        return {"y": y, "x": torch.cat(drawn[1:], 1), "stamps": self.ends, "batch": self.batch}

    def state(self):
        """What a checkpoint needs to go on."""
        return {"carried_to": self.carried_to, "residual": self.residual, "draws": self.draws.state()}

    def restore(self, state):
        for own, kept in zip(self.carried_to, state["carried_to"], strict=True):
            own.copy_(kept)
        self.residual = state["residual"]
        self.draws.restore(state["draws"])


class IJKOnetProx(EnergyMethod):
    """The method without an adversary, for a potential alone.

    Args:
        inner, tolerance: Newton steps a batch at most, and the residual at which a particle needs no more.
        average, clip, every, patience: see :class:`snapdyn.energy_game.Recipe`.
        options: see :class:`snapdyn.energy_methods.EnergyMethod`.
    Equation: ``inverse-jko``, ``semi-dual``
    """

    def __init__(self, *, inner=5, tolerance=1e-3, average=0.99, clip=10.0, every=50, patience=10, **options):
        super().__init__(**options)
        self.inner, self.tolerance = inner, tolerance
        self.recipe = energy_game.Recipe(
            self.steps, self.batch, self.rate, clip, average=average, every=every, patience=patience
        )

    def train(self, courses, *, seeds, validation=None, device="cpu", keep, progress):
        energy = self.fresh(courses, seeds)
        semidual.check_potential(energy)
        carrier = Proximal(courses, seeds=seeds, batch=self.batch, inner=self.inner, tolerance=self.tolerance)
        judge = energy_game.judge(energy, validation)
        numbers, history = energy_game.play(
            energy,
            carrier,
            self.recipe,
            judge=judge,
            witness=self.witness,
            keep=keep,
            name="ijkonet-prox",
            progress=progress,
        )
        numbers["inner_residual"] = carrier.residual
        return Trained(energy, energy_game.for_each(numbers), history)
