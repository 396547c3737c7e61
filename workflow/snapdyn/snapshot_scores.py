"""Scores of snapshots, grad log rho, at points of theirs: by kernels or by a Gaussian mixture, never by a density.

A density that is floored where it is small has no slope there, and one that drops small components depends on the
unit of length; the gradient of a log-density has neither fault.
"""

import numpy as np
import torch

from snapdyn import checkpoint, density_methods, scores

KINDS = ("mixture", "kernel")


def snapshot_scores(courses, *, kind="mixture", components=None, bandwidth="score", seeds, keep=checkpoint.NOWHERE):
    """The score of every snapshot at its own rows.

    Args:
        courses: :class:`snapdyn.courses.Courses`.
        kind: ``mixture``, a Gaussian mixture with full covariances; or ``kernel``, which leaves each point out of its
            own estimate.
        components: of the mixture; the smallest BIC decides where it is not given.
        bandwidth: of the kernels, see :func:`snapdyn.scores.bandwidth`.
        seeds: of each member's mixtures.
        keep: a :class:`snapdyn.checkpoint.Checkpoint`.
    Returns:
        a list of scores ``(members, n_k, dim)``, one for each time, in units of the courses.
    Equation: ``kde-score``, ``full-mixture``
    """
    if kind not in KINDS:
        raise ValueError(f"expected scores by one of {KINDS}, got {kind!r}")
    found, members = [], courses.members
    with keep.loop(f"scores, {kind}, {components}, {bandwidth}", *courses.x, *courses.weight) as loop:
        found += loop.state or []
        for number in range(loop.done, members * len(courses.x)):
            k, member = divmod(number, members)
            x, weight = courses.x[k][member].double().cpu(), courses.weight[k][member].double().cpu()
            if kind == "kernel":
                found.append(_by_kernels(x, weight, bandwidth))
            else:
                found.append(_by_mixture(x, weight, components, seeds[member]))
            loop.tick(number + 1, lambda: found)
    rows = (found[k * members : (k + 1) * members] for k in range(len(courses.x)))
    return [torch.stack(part).to(courses.x[0]) for part in rows]


def _by_kernels(x, weight, bandwidth):
    even = bool((weight == weight[0]).all())
    h = scores.bandwidth(x.numpy(), bandwidth)
    own = torch.arange(len(x))
    return scores.kernel_pass(x, x, h, weights=None if even else weight, own=own, sample_size=False).score


def _by_mixture(x, weight, components, seed):
    how = {"rng": np.random.default_rng(seed), "progress": density_methods.silent}
    method = density_methods.GaussianMixture(axes=[], components=components)
    density, _, _ = method.estimate(x.numpy(), (weight / weight.mean()).numpy(), **how)
    return density.derivatives(x)[1]
