"""Drift parameters from trajectories: sparse regression of differences in time on the fields (SINDy).

The reference that sees what a cloud hides, the order of states in time. Rates are *forward* differences: given
the state, they have the drift for their mean. Centred differences, which serve for smooth curves, have the
velocity f - D s instead, because half of such a difference looks back in time.
"""

import numpy as np
import torch

from snapdyn import models

# order of the error in the time between records -> weights of a record and its successors, over that time
FORWARD = {1: (-1.0, 1.0), 2: (-1.5, 2.0, -0.5)}


def ordered_paths(snapshots):
    """Trajectories ``(trajectories, records, dim)`` from the row numbers, and the time between records.

    Raises:
        ValueError: data without an order in time, or trajectories that miss records.
    """
    paths = snapshots.meta.get("paths")
    if paths is None:
        raise ValueError(
            "this method needs trajectories, but these rows have no order in time; simulate the system with "
            "paths: {every: 0.01, records: 100}, or take a method for clouds"
        )
    records, order = paths["records"], np.argsort(snapshots.row, kind="stable")
    rows = snapshots.row[order]
    whole = len(rows) % records == 0 and (rows[::records] % records == 0).all()
    if not (whole and (rows.reshape(-1, records) == rows[::records, None] + np.arange(records)).all()):
        raise ValueError(f"trajectories have {records} records each, but of some of them rows are missing")
    return snapshots.x[order].reshape(-1, records, snapshots.dim), paths["every"]


def forward_rates(paths, every, *, order):
    """Forward differences of the records that have enough successors, in length / time.

    Args:
        paths: ``(trajectories, records, dim)``.
        every: time between records.
        order: 1 for (X' - X) / every, with mean f + O(every); 2 for three records, with mean f + O(every^2).
    Returns:
        ``(trajectories, records - order, dim)``.
    Equation: ``forward-difference``
    """
    kept = paths.shape[1] - order
    return sum(weight * paths[:, k : k + kept] for k, weight in enumerate(FORWARD[order])) / every


def clustered_errors(design, residual, groups):
    """Standard errors ``(count,)`` of least squares whose residuals are independent between groups only.

    Args:
        design: ``(rows, count)``, the rows of a group together.
        residual: ``(rows,)``.
        groups: how many groups of equally many rows; with one, there is nothing to tell errors from.
    Equation: ``forward-difference``
    """
    if groups < 2:
        return np.full(design.shape[1], np.nan)
    scale = np.linalg.norm(design, axis=0)
    factor = np.linalg.qr(design / scale, mode="r")
    inverse = np.linalg.inv(factor.T @ factor)
    pull = (design / scale * residual[:, None]).reshape(groups, -1, design.shape[1]).sum(1) @ inverse
    return np.sqrt(groups / (groups - 1) * np.square(pull).sum(0)) / scale


class SparseRegression:
    """Drift parameters by sequentially thresholded least squares of forward rates, with pysindy's optimiser.

    All equations are stacked, so that a coefficient may stand in several of them; for a library without such
    ties this is SINDy equation by equation.

    Args:
        drift: the affine drift whose coefficients are wanted.
        diffusivity: D in length^2 / time: what the model simulates with; the regression does without.
        threshold: coefficients below it are set to 0 and the others fitted again; 0 keeps all. Standard errors
            are those of the last fit, as if its terms had been chosen beforehand.
        ridge: weight of the squared coefficients while thresholding; the last fit is without.
        order: of the forward difference, 1 or 2.
    """

    def __init__(self, drift, *, diffusivity, threshold=0.0, ridge=0.0, order=2):
        if order not in FORWARD:
            raise ValueError(f"order must be one of {list(FORWARD)}, got {order!r}")
        self.drift, self.diffusivity = drift, diffusivity
        self.threshold, self.ridge, self.order = threshold, ridge, order

    def fit(self, snapshots, *, rng):
        """Fit the training rows, whole trajectories; see :class:`snapdyn.models.DriftModel`."""
        from pysindy.optimizers import STLSQ  # slow to import, and no other method needs it

        paths, every = ordered_paths(snapshots.select(split="train"))
        if paths.shape[1] <= self.order:
            raise ValueError(f"differences of order {self.order} need more than {self.order} records a trajectory")
        rates = forward_rates(paths, every, order=self.order)
        states = torch.from_numpy(paths[:, : rates.shape[1]].reshape(-1, snapshots.dim).copy())
        # one row for every record and equation
        design = self.drift.fields(states).transpose(1, 2).flatten(0, 1).numpy()
        target = rates.reshape(-1) - self.drift.known(states).numpy().reshape(-1)
        size = np.maximum(np.linalg.norm(design, axis=0), np.finfo(float).tiny)
        rank = np.linalg.matrix_rank(np.linalg.qr(design / size, mode="r"), rtol=1e-8)
        if rank < self.drift.count:
            raise ValueError(
                f"these data determine only {rank} of {self.drift.count} unknown coefficients: fix some of them, or "
                "take a smaller drift library"
            )
        regression = STLSQ(threshold=self.threshold, alpha=self.ridge).fit(design, target)
        coefficients = np.asarray(regression.coef_).reshape(-1)
        kept = coefficients != 0
        errors = np.full(len(kept), np.nan)
        errors[kept] = clustered_errors(design[:, kept], target - design @ coefficients, len(paths))
        return models.DriftModel(
            self.drift,
            coefficients,
            diffusivity=self.diffusivity,
            std_error=errors,
            diagnostics={"kept": float(kept.sum()), "trajectories": float(len(paths))},
        )
