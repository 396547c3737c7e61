"""Learned energies of simulated flows, all courses of all seeds, against the energies that made the data."""

from dataclasses import replace

import numpy as np
import pandas as pd

from snapdyn import energy_scores, flow_floors, flows, known_force, metrics, recovery

STREAM = 7  # of the random numbers of predictions, beside those that made the data


def members(tables):
    """``(seed, course, snapshots)`` of every course of every seed, in the order of the files.

    Args:
        tables: ``courses/1`` frames with their metadata, one a seed.
    """
    return [
        (int(meta["seed"]), name, snapshots)
        for frame, meta in tables
        for name, snapshots in flows.unstacked(frame, meta).items()
    ]


def parameters(fit, seed, snapshots, model):
    """``parameters/1`` rows of one course: the diffusivity, where it is learned, beside the true one."""
    truth = {"diffusivity": float(snapshots.meta["flow"]["diffusivity"])}
    own = replace(fit, dataset=snapshots.meta["dataset"])
    return recovery.tidy_parameters(model, fit=own, seed=seed, truth=truth)


def score(fit, seed, snapshots, model):
    """Every score of one learned energy.

    ``l2_uvp`` of its force; ``w1`` and ``bw_uvp`` one explicit step ahead from held-out rows, and ``w1_implicit`` and
    ``bw_uvp_implicit`` by the step that energies are learned with; ``absolute_error_diffusivity`` where it is learned;
    and what the training says of itself. Where particles interact, their populations are crowds of
    :data:`snapdyn.energy_scores.CROWD` rows, ``l2_uvp_interaction`` judges the kernel, and no implicit steps are
    taken, each of which would need the forces of many populations; elsewhere ``l2_uvp_elsewhere`` and ``l2_uvp_apart``
    say whether all steps have one energy.
    """
    identity = {"paper": fit.paper, "experiment": fit.experiment, "dataset": snapshots.meta["dataset"]}
    identity |= {"method": fit.method, "seed": seed}
    flow = flows.flow_of(snapshots)

    acting, interacting = flow.energy.interaction is not None, model.energy.interaction is not None

    def move(step):
        stepping, rng = model.with_step(step), np.random.default_rng([seed, STREAM])

        def moved(x, start, end):
            crowds = np.array_split(x, -(-len(x) // energy_scores.CROWD) if interacting else 1)
            return np.concatenate([stepping.simulate(crowd, [start, end], rng)[1] for crowd in crowds])

        return moved

    def force(t, x):
        return -model.drift(t, x)

    true, sizes = flow_floors.true_force(flow), {"most": energy_scores.CROWD if acting or interacting else None}
    weigh = flow_floors.true_descendants(flow)
    found = [
        *energy_scores.force_scores(snapshots, force, true, **sizes),
        *energy_scores.step_scores(snapshots, move("explicit"), weigh=weigh),
    ]
    if acting or interacting:
        pull = model.interaction_force if interacting else np.zeros_like
        found += energy_scores.interaction_scores(snapshots, pull, flow_floors.true_interaction(flow), **sizes)
    else:
        found += energy_scores.common_scores(snapshots, force, true)
    if not interacting:
        found += energy_scores.step_scores(snapshots, move("implicit"), weigh=weigh, suffix="_implicit")
    parts = [energy_scores.frame(found, unit=snapshots.meta["space"], identity=identity)]
    values = {name: float(value) for name, value in model.diagnostics.items()}
    if model.diffusivity is not None:
        values |= _diffusivity_errors(model.diffusivity, snapshots)
    n = int((snapshots.split == "train").sum())
    if values:
        units = energy_scores.units(values, snapshots.meta["space"])
        parts.append(metrics.rows(values, split="train", unit=units, n=n, **identity))
    return pd.concat(parts, ignore_index=True)


def _diffusivity_errors(found, snapshots):
    """Its absolute error in length^2 / time, and its relative one where there is noise at all."""
    true = float(snapshots.meta["flow"]["diffusivity"])
    values = {"absolute_error_diffusivity": abs(found - true)}
    if true:
        values["relative_error_diffusivity"] = float(metrics.relative_error(found, true))
    return values


def floors(frame, meta, *, rng, diffusivity=False, progress=iter):
    """What needs no learning on every course of one seed: ``truth`` with its floors, and ``no-movement``.

    Args:
        frame, meta: ``courses/1``.
        diffusivity: whether to say what error it has where the force is known (method ``known-force``), which takes
            optimal plans and scores.
        progress: wraps the list of courses.
    Returns:
        a ``metrics/1`` frame of the paper ``shared``.
    """
    parts = []
    for snapshots in progress(list(flows.unstacked(frame, meta).values())):
        identity = {"paper": "shared", "experiment": "floors", "dataset": snapshots.meta["dataset"]}
        for method, scores in flow_floors.reference_scores(snapshots, rng=rng).items():
            about = identity | {"method": method, "seed": int(meta["seed"])}
            parts.append(energy_scores.frame(scores, unit=snapshots.meta["space"], identity=about))
        if diffusivity:
            found = known_force.diffusivity(snapshots, seed=int(meta["seed"]))
            values, n = _diffusivity_errors(found, snapshots), int((snapshots.split == "train").sum())
            about = identity | {"method": "known-force", "seed": int(meta["seed"])}
            units = energy_scores.units(values, snapshots.meta["space"])
            parts.append(metrics.rows(values, split="train", unit=units, n=n, **about))
    return pd.concat(parts, ignore_index=True)
