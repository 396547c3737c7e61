"""Timed snapshots of several populations as stacked tensors, in coordinates and time units of order one.

A *course* is a population seen at several times; the courses of an experiment (its seeds, its potentials) are the
members of one batched fit. Lengths are divided by one number for all axes, because transport distances compare axes;
times by the mean gap. Energies are learned in these units and mapped back (:attr:`Courses.energy_unit`).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SPREAD = 2.5  # standard deviation of positions inside; at 1, a softplus network stays nearly quadratic for long
BLOCK = 64  # batches drawn at a time


@dataclass(frozen=True, eq=False)
class Courses:
    """Stacked training rows; ``members`` courses with ``K + 1`` snapshots each.

    Attributes:
        x: for each time the positions ``(members, n_k, dim)``, standardised.
        weight: for each time the rows' weights ``(members, n_k)``, which sum to 1.
        times: observed times ``(K + 1,)`` in the user's unit.
        clock: the mean gap, the unit of time inside.
        centre: subtracted from positions ``(members, dim)``; scale: then divided by ``(members,)``.
    """

    x: list[Tensor]
    weight: list[Tensor]
    times: np.ndarray
    clock: float
    centre: np.ndarray
    scale: np.ndarray

    @classmethod
    def stacked(cls, courses, *, device="cpu", dtype=torch.float32):
        """From :class:`snapdyn.snapshots.Snapshots` of the same times and the same numbers of rows.

        Raises:
            ValueError: fewer than two times, or courses that differ in times, axes or numbers of rows.
        """
        times = courses[0].times
        if len(times) < 2:
            raise ValueError(f"an energy needs snapshots at two times at least, got {len(times)}")
        shapes = {tuple((float(t), int((c.t == t).sum())) for t in c.times) + (c.dim,) for c in courses}
        if len(shapes) > 1:
            raise ValueError(f"courses of one batch need the same times, rows at each time and axes, got {shapes}")
        centre = np.stack([np.average(c.x, axis=0, weights=c.weight) for c in courses])
        scale = np.array([np.sqrt(c.x.var(0).mean()) / SPREAD for c in courses])
        if not (scale > 0).all():
            raise ValueError("all rows are identical, so there is no length to measure motion by")
        x, weight = [], []
        for t in times:
            here = [c.select(t=t) for c in courses]
            place = [(h.x - m) / s for h, m, s in zip(here, centre, scale, strict=True)]
            mass = [h.weight / h.weight.sum() for h in here]
            for parts, out in ((place, x), (mass, weight)):
                out.append(torch.from_numpy(np.stack(parts)).to(device=device, dtype=dtype))
        return cls(x, weight, times, float(np.diff(times).mean()), centre, scale)

    @property
    def members(self):
        return len(self.centre)

    @property
    def dim(self):
        return self.centre.shape[1]

    @property
    def gaps(self):
        """tau of each step in units of the clock ``(K,)``."""
        return np.diff(self.times) / self.clock

    @property
    def stamps(self):
        """The observed times between -1 and 1 ``(K + 1,)``: what a network sees of time."""
        return 2 * (self.times - self.times[0]) / (self.times[-1] - self.times[0]) - 1

    @property
    def energy_unit(self):
        """length^2 / time of each member ``(members,)``: a potential inside times this is the user's."""
        return self.scale**2 / self.clock


class Draws:
    """Independent batches of rows, for each time and each member from the member's own generator.

    Args:
        courses: what to draw from.
        size: rows a batch; drawn with replacement, by weight.
        seeds: one for each member.
    """

    def __init__(self, courses, size, seeds):
        self.courses, self.size = courses, size
        self.generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        self.blocks = [None] * len(courses.x)
        self.used = [BLOCK] * len(courses.x)
        self.even = [bool((w == w[:, :1]).all()) for w in courses.weight]

    def batch(self, k: int) -> Tensor:
        """A fresh batch of snapshot ``k``: ``(members, size, dim)``."""
        x = self.courses.x[k]
        return x.gather(1, self.rows(k)[..., None].expand(-1, -1, x.shape[2]))

    def rows(self, k: int) -> Tensor:
        """The places in snapshot ``k`` of a fresh batch: ``(members, size)``."""
        if self.used[k] == BLOCK:
            self.blocks[k], self.used[k] = self._block(k), 0
        rows = self.blocks[k][:, self.used[k]]
        self.used[k] += 1
        return rows

    def _block(self, k):
        weight, shape = self.courses.weight[k], (BLOCK, self.size)
        rows = []
        for generator, w in zip(self.generators, weight.cpu(), strict=True):
            if self.even[k]:
                rows.append(torch.randint(len(w), shape, generator=generator))
            else:
                drawn = torch.multinomial(w.double(), BLOCK * self.size, replacement=True, generator=generator)
                rows.append(drawn.view(shape))
        return torch.stack(rows).to(weight.device)

    def state(self):
        """What a checkpoint needs to draw the same batches again."""
        return {"generators": [g.get_state() for g in self.generators], "blocks": self.blocks, "used": self.used}

    def restore(self, state):
        for generator, kept in zip(self.generators, state["generators"], strict=True):
            generator.set_state(kept)
        self.blocks, self.used = state["blocks"], list(state["used"])
