"""How far an energy is from the true one while it learns: what a figure of training curves shows, and nobody else sees.

A witness looks at the energies of a training now and then. It draws no random numbers and changes no weights, so a
training with one ends with the same bits as without.

Equation: ``l2-uvp``, ``bw-uvp``
"""

from itertools import pairwise

import numpy as np
import torch

from snapdyn import energy_scores, flow_floors, flows

ROWS = 250  # held-out particles of each snapshot at most


def of(courses):
    """What :func:`snapdyn.methods.fit_many` takes as ``witness``: makes the witness of each batched program.

    Args:
        courses: one :class:`snapdyn.snapshots.Snapshots` of a known flow for each fit.
    Returns:
        ``(places, stacked) -> Witness``, of the courses that a program has; None where particles interact, whose force
        depends on everybody else's place.
    """
    if any(flows.flow_of(course).energy.interaction is not None for course in courses):
        return None
    return lambda places, stacked: Witness([courses[place] for place in places], stacked)


class Witness:
    """The scores of every member's energy on held-out rows.

    Args:
        courses: of each member.
        stacked: :class:`snapdyn.courses.Courses` that it learns from, whose units its energy has.
    """

    def __init__(self, courses, stacked):
        like, self.gaps, self.stamps = stacked.x[0], stacked.gaps, stacked.stamps
        self.x, self.force, self.variance = [], [], []
        for t in stacked.times:
            here = [course.select(t=t, split="test") for course in courses]
            few = min(ROWS, *(len(rows) for rows in here))
            if not few:
                raise ValueError(f"a witness needs held-out rows at every time, there are none at t = {t:g}")
            true = [flow_floors.true_force(flows.flow_of(course)) for course in courses]
            parts = list(zip(here, true, stacked.centre, stacked.scale, strict=True))
            inside = [(rows.x[:few] - centre) / scale for rows, _, centre, scale in parts]
            force = [stacked.clock / scale * force(t, rows.x[:few]) for rows, force, _, scale in parts]
            self.x.append(torch.from_numpy(np.stack(inside)).to(like))
            self.force.append(torch.from_numpy(np.stack(force)).to(like))
            self.variance.append(torch.tensor([energy_scores.total_variance(x) for x in inside]).to(like))

    @torch.no_grad()
    def __call__(self, energy):
        """``l2_uvp`` and ``bw_uvp`` after an explicit step, means over the steps: name -> ``(members,)``.

        Nothing for an energy with an interaction.
        """
        if energy.interaction is not None:
            return {}
        l2, bures = 0.0, 0.0
        for k, (x, y) in enumerate(pairwise(self.x)):
            gap, stamp = float(self.gaps[k]), float(self.stamps[k + 1])
            error = (energy.potential_gradient(y, stamp) - self.force[k + 1]).square().sum(2).mean(1)
            l2 = l2 + 100 * gap**2 * error / self.variance[k]
            moved = x - gap * energy.potential_gradient(x, stamp)
            pairs = zip(moved.double().cpu().numpy(), y.double().cpu().numpy(), strict=True)
            bures = bures + torch.tensor([energy_scores.bw_uvp(*pair) for pair in pairs])
        return {"l2_uvp": l2.double().cpu() / len(self.gaps), "bw_uvp": bures.double() / len(self.gaps)}
