r"""iJKOnet: a free energy from snapshots by a min-max over energies and transport maps, without any coupling.

The maps of :mod:`snapdyn.transport_maps` answer the energy with some steps of Adam each time before the energy makes
one (:mod:`snapdyn.energy_game`). With an entropy term,

.. math:: \partial_\beta \mathcal{L} = \sum_k \Big[\hat H_{k+1} - \hat H_k
          - \int \log |\det \nabla T_k| \, d\rho_k\Big]

so beta grows while the maps expand less than the data do; the entropies of the snapshots are estimated once.

Equation: ``inverse-jko``, ``push-forward-entropy``
"""

import copy

import torch

from snapdyn import energy_game
from snapdyn.courses import Draws
from snapdyn.energy_methods import EnergyMethod, Trained
from snapdyn.entropies import snapshot_entropies
from snapdyn.transport_maps import TransportMaps

MAPS, BATCHES = 2**32, 2**33  # added to a member's seed: its maps and batches start from other numbers than its energy


class Maps:
    """The carrier of the min-max as networks that learn to answer.

    Args:
        courses: :class:`snapdyn.courses.Courses` to draw from.
        energy: whose terms it answers.
        seeds: one for each member.
        batch: rows of each snapshot a step.
        inner: steps of the maps for each step of the energy.
        rate: step size of their Adam.
        pairs: partners of each point in the estimate of an interaction.
    """

    def __init__(self, courses, energy, *, seeds, batch=250, inner=10, rate=1e-3, pairs=8, hidden=(64, 64)):
        self.courses, self.batch, self.inner, self.pairs = courses, batch, inner, pairs
        self.draws = Draws(courses, batch, [seed + BATCHES for seed in seeds])
        x = courses.x[0]
        self.maps = TransportMaps(courses.dim, seeds=[seed + MAPS for seed in seeds], hidden=hidden).to(x.device)
        self.mean = copy.deepcopy(self.maps)
        self.adam = torch.optim.Adam(self.maps.parameters(), lr=rate, betas=(0.5, 0.9))
        self.stamps = torch.as_tensor(courses.stamps, dtype=x.dtype, device=x.device)
        self.starts, self.ends = self.stamps[:-1].repeat_interleave(batch), self.stamps[1:].repeat_interleave(batch)
        self.tau = torch.as_tensor(courses.gaps, dtype=x.dtype, device=x.device).repeat_interleave(batch)[:, None]
        self.rise = None
        if energy.diffusivity is not None:
            entropies = torch.from_numpy(snapshot_entropies(courses)).to(x)
            self.rise = entropies[:, 1:] - entropies[:, :-1]

    def answer(self, energy):
        """``inner`` steps of the maps towards the best ones for this energy, each on a fresh batch."""
        diffusivity = None if energy.diffusivity is None else energy.diffusivity.detach()
        for _ in range(self.inner):
            x = torch.cat([self.draws.batch(k) for k in range(len(self.courses.x) - 1)], 1)
            if diffusivity is None:
                y, log_det = self.maps(x, self.starts), None
            else:
                y, log_det, _ = self.maps.with_log_det(x, self.starts)
            # the slope of the loss by every carried point is known, so that one pass through the maps is all it takes
            with torch.no_grad():
                pull = (y - x) / self.tau
                if energy.potential is not None:
                    pull += energy.potential_gradient(y, self.ends)
                if energy.interaction is not None:
                    pull += energy_game.paired_force(energy, y, self.batch, self.pairs)
            loss = (y * pull).sum()
            if log_det is not None:
                loss = loss - (diffusivity * log_det.sum(1)).sum()
            self.adam.zero_grad()
            (loss / self.batch).backward()
            self.adam.step()

    @torch.no_grad()
    def round(self, energy):
        """Points carried by the maps and observed ones, for :func:`snapdyn.energy_game.price`."""
        # one batch of each snapshot, carried on and observed, so that most of its noise cancels
        drawn = [self.draws.batch(k) for k in range(len(self.courses.x))]
        x, growth = torch.cat(drawn[:-1], 1), None
        if self.rise is None:
            y = self.maps(x, self.starts)
        else:
            y, log_det, _ = self.maps.with_log_det(x, self.starts)
            growth = log_det.unflatten(1, (-1, self.batch)).mean(2) - self.rise
        ends = {"y": y, "x": torch.cat(drawn[1:], 1), "stamps": self.ends, "batch": self.batch}
        return ends | {"growth": growth, "pairs": self.pairs}

    def follow(self, decay):
        """Let the averaged maps follow."""
        with torch.no_grad():
            torch._foreach_lerp_(list(self.mean.parameters()), [w.detach() for w in self.maps.parameters()], 1 - decay)

    def carried(self, x, k):
        """Points ``x (members, n, dim)`` of snapshot ``k``, carried by the averaged maps."""
        return self.mean(x, self.stamps[k])

    @torch.no_grad()
    def flipped(self):
        """Share of the training rows where the averaged maps turn space inside out ``(members,)``."""
        parts = [self.mean.with_log_det(x, s)[2] for x, s in zip(self.courses.x[:-1], self.stamps, strict=False)]
        return torch.cat(parts, 1).double().mean(1).cpu()

    def state(self):
        """What a checkpoint needs to go on."""
        weights = [*self.maps.parameters(), *self.mean.parameters()]
        return {"weights": weights, "adam": self.adam.state_dict()["state"], "draws": self.draws.state()}

    def restore(self, state):
        with torch.no_grad():
            for own, kept in zip([*self.maps.parameters(), *self.mean.parameters()], state["weights"], strict=True):
                own.copy_(kept)
        self.adam.load_state_dict(self.adam.state_dict() | {"state": state["adam"]})
        self.draws.restore(state["draws"])


class IJKOnet(EnergyMethod):
    """The adversarial method, for any terms of the energy.

    Args:
        inner: steps of the maps for each step of the energy.
        map_rate: step size of the maps.
        pairs: partners of each point in the estimate of an interaction.
        average, clip, every, patience: see :class:`snapdyn.energy_game.Recipe`.
        options: see :class:`snapdyn.energy_methods.EnergyMethod`.
    Equation: ``inverse-jko``
    """

    def __init__(self, *, inner=10, map_rate=1e-3, pairs=8, average=0.99, clip=10.0, every=50, patience=10, **options):
        super().__init__(**options)
        self.inner, self.map_rate, self.pairs = inner, map_rate, pairs
        self.recipe = energy_game.Recipe(
            self.steps, self.batch, self.rate, clip, average=average, every=every, patience=patience
        )

    def train(self, courses, *, seeds, validation=None, device="cpu", keep, progress):
        energy = self.fresh(courses, seeds)
        how = {"batch": self.batch, "inner": self.inner, "rate": self.map_rate, "pairs": self.pairs}
        maps = Maps(courses, energy, seeds=seeds, hidden=self.hidden, **how)
        judge = energy_game.judge(energy, validation)
        numbers, history = energy_game.play(
            energy, maps, self.recipe, judge=judge, witness=self.witness, keep=keep, name="ijkonet", progress=progress
        )
        numbers["flipped_share"] = maps.flipped()
        return Trained(energy, energy_game.for_each(numbers), history)
