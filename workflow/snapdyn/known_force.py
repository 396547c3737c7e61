"""What can be known of the noise at all: the diffusivity that the condition of JKOnet* finds where the force is given.

A method that learns potential and diffusivity together errs by the plans between finite samples, by their scores and by
its potential. This reference has the first two and not the third. It is no lower bound: two finite clouds differ in
their spread by chance, which divided by a short step looks like much diffusion or its opposite. A potential that is
learned takes such a chance difference up; one that is given cannot.
"""

import numpy as np
import torch

from snapdyn import couplings, flow_floors, flows, snapshot_scores
from snapdyn.courses import Courses


def diffusivity(snapshots, *, seed=0, force=None):
    r"""The beta of the least first-order loss with the true force, over the training rows of all steps of one course.

    .. math:: \hat\beta = -\frac{\sum_k E[\tau_k s \cdot (\tau_k F(y) + y - x)]}{\sum_k E |\tau_k s|^2}, \qquad
              s = \nabla \log \rho_{k+1}(y)

    Args:
        snapshots: of :func:`snapdyn.flows.unstacked`.
        seed: of the mixtures that the scores are taken from.
        force: another force ``(t, x (n, dim)) -> (n, dim)`` in length / time; the true one if not given.
    Returns:
        in length^2 / time; it may be negative, as only least squares may.
    Equation: ``first-order-condition``
    """
    force = force or flow_floors.true_force(flows.flow_of(snapshots))
    courses = Courses.stacked([snapshots.select(split="train")], dtype=torch.float64)
    scores = snapshot_scores.snapshot_scores(courses, seeds=[seed])[1:]
    scale, centre, above, below = courses.scale[0], courses.centre[0], 0.0, 0.0
    for k, (rows, score) in enumerate(zip(couplings.couple(courses), scores, strict=True)):
        tau = courses.times[k + 1] - courses.times[k]
        x, y = (centre + scale * part[0].numpy() for part in (rows.x, rows.y))
        pull, weight = tau * score[0].numpy() / scale, rows.weight[0].numpy()[:, None]
        above += (weight * pull * (tau * force(courses.times[k + 1], y) + y - x)).sum()
        below += (weight * np.square(pull)).sum()
    return float(-above / below)
