r"""What scores on flows of known energies mean: the truth's own, those of standing still, and their floors.

The implicit condition, which energies are learned with, fits the steps x -> y of a population exactly with the force
(x - y) / tau at y. For data of another scheme that is not the true force there, and learning converges to its *bias*:

.. math:: 100\,\frac{\mathbb E_{x\sim\rho_k} |x - y - \tau F(y)|^2}{\mathrm{Var}\,\rho_k}

Where particles divide, every prediction, a learned energy's as well as the truth's, gives each row the weight of its
true descendants: what is judged is how rows move, not how many they become.

Equation: ``step-bias``
"""

from dataclasses import replace

import numpy as np
import torch

from snapdyn import energy_scores, energy_steps, flows, metrics
from snapdyn.energy_scores import Scores

PARTICLES = 20_000  # of the bias
COSTLY = 2000  # at most, where steps are solved for
PAIRED = 500  # at most, where particles interact


def true_force(flow):
    """The force ``(t, x (n, dim)) -> (n, dim)`` of a flow's energy, in length / time."""
    return lambda t, x: energy_steps.force(flow.energy, torch.from_numpy(np.ascontiguousarray(x))[None])[0].numpy()


def true_interaction(flow):
    """grad W * rho of a flow's energy in a population ``(n, dim) -> (n, dim)``, in length / time; 0 without one."""
    if flow.energy.interaction is None:
        return np.zeros_like
    return lambda x: energy_steps.interaction_force(flow.energy, torch.from_numpy(np.ascontiguousarray(x))[None])[
        0
    ].numpy()


def true_move(flow, scheme, rng):
    """One step ``(x, start, end) -> (n, dim)`` with the true energy by a scheme, with noise where the flow has any."""
    return lambda x, start, end: replace(flow, tau=float(end - start), scheme=scheme).advance(x, rng)[0]


def true_descendants(flow):
    """How many descendants a row has in a step, ``x (n, dim) -> (n,)``; None where no particle divides."""
    return None if flow.growth is None else flow.descendants


def step_bias(flow, *, rng, n=PARTICLES):
    """``l2_uvp_bias`` of every step: ``l2_uvp`` of the exact implicit fit to unlimited data of the flow.

    A step's noise is left out: it is what the entropy accounts for.

    Args:
        n: particles that stand for unlimited data; at most :data:`PAIRED` with an interaction, and at most
            :data:`COSTLY` with implicit steps, whose bias is 0 but for particles that end at a kink.
    Returns:
        list of :class:`snapdyn.energy_scores.Scores`.
    Equation: ``step-bias``
    """
    if flow.energy.interaction is not None:
        n = min(n, PAIRED)
    if flow.scheme == "implicit":
        n = min(n, COSTLY)
    force, found, x = true_force(flow), [], flow.begin(n, rng)
    for k, end in enumerate(flow.times[1:], 1):
        y, _ = flow.advance(x)
        how = {"tau": flow.tau, "variance": energy_scores.total_variance(x)}
        if flow.growth is not None:
            how["weight"] = flow.descendants(x)
        value = energy_scores.l2_uvp((x - y) / flow.tau, force(end, y), **how)
        found.append(Scores(float(end), {"l2_uvp_bias": value}, n))
        if flow.growth is not None:
            x = flow.population(n, k, rng)[0]
        else:
            x = y if flow.energy.diffusivity is None else flow.advance(x, rng)[0]
    return found


def mass_ratios(snapshots):
    """``mass_ratio`` of every step where particles divide: how many times the rows of before come after."""
    counts = [int((snapshots.t == t).sum()) for t in snapshots.times]
    pairs = zip(snapshots.times[1:], counts[:-1], counts[1:], strict=True)
    return [Scores(float(t), {"mass_ratio": after / before}, before) for t, before, after in pairs]


def step_floor(snapshots, *, rng, split="test", max_points=metrics.MAX_POINTS):
    """``w1_floor`` of every step: what the exact law would score.

    Unpaired, the distance from the target rows to as many independent particles of the same law as would be moved.
    Paired, the score of the true step of the whole population: 0 without noise.
    """
    flow, paired = flows.flow_of(snapshots), snapshots.meta["flow"]["paired"]
    found = []
    for k, (start, end) in enumerate(zip(snapshots.times[:-1], snapshots.times[1:], strict=True)):
        source, target = snapshots.select(t=start), snapshots.select(t=end, split=split)
        kept = source.split == split
        best = flow.advance(source.x, rng)[0][kept] if paired else flow.population(kept.sum(), k + 1, rng)[0]
        distance = energy_scores.step_distance(snapshots, best, target.x, max_points=max_points)
        found.append(Scores(float(end), {"w1_floor": distance}, min(len(target), max_points)))
    return found


def reference_scores(snapshots, *, rng, split="test", max_points=metrics.MAX_POINTS):
    """Scores of one course that need no learning, by method.

    Args:
        snapshots: of :func:`snapdyn.flows.unstacked`.
        max_points: see :func:`snapdyn.metrics.wasserstein`.
    Returns:
        ``truth``: one-step scores of the true energy by an explicit and by an implicit step, ``w1_floor``,
        ``l2_uvp_bias`` and, where particles divide, ``mass_ratio``; ``no-movement``: those of a force of 0. Each a list
        of :class:`snapdyn.energy_scores.Scores`. Where particles interact, ``no-movement`` has the kernel of 0 too, and
        ``truth`` takes no implicit steps.
    """
    flow, sizes = flows.flow_of(snapshots), {"split": split, "max_points": max_points}
    interacting, weighed = flow.energy.interaction is not None, sizes | {"weigh": true_descendants(flow)}
    truth = energy_scores.step_scores(snapshots, true_move(flow, "explicit", rng), **weighed)
    if not interacting:
        truth += energy_scores.step_scores(snapshots, true_move(flow, "implicit", rng), suffix="_implicit", **weighed)
    truth += [*step_floor(snapshots, rng=rng, **sizes), *step_bias(flow, rng=rng)]
    if flow.growth is not None:
        truth += mass_ratios(snapshots)
    rows = {"split": split, "most": energy_scores.CROWD if interacting else None}
    still = [
        *energy_scores.force_scores(snapshots, lambda t, x: np.zeros_like(x), true_force(flow), **rows),
        *energy_scores.step_scores(snapshots, lambda x, start, end: x, **weighed),
    ]
    if interacting:
        still += energy_scores.interaction_scores(snapshots, np.zeros_like, true_interaction(flow), **rows)
    return {"truth": truth, "no-movement": still}
