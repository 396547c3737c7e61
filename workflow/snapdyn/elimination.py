"""Which unknowns are needed at all: elimination of the weakest, and the difference of J between nested models."""

import math

import numpy as np
import torch
from scipy import stats

BATCH = 0.34  # share of the doubtful unknowns that is dropped between two fits


def eliminate(equations, solution, threshold, iterations=10, always=()):
    """Drop unknowns that are not needed, weakest first, until each exceeds ``threshold`` standard errors.

    Dropping one moves the others along their covariance. After a share of the doubtful ones has gone, the survivors are
    fitted anew, since the weights and the covariance belong to the old estimate; and so on until none falls below the
    threshold.

    Args:
        always: indices of unknowns that stay, however uncertain.
    Returns:
        indices of the kept unknowns, and their solution.
    Raises:
        ValueError: a threshold that leaves too little.
    Equation: ``elimination``
    """
    kept = np.arange(equations.unknowns)
    while len(kept):
        theta, covariance, survivors = solution.estimate, solution.covariance, np.arange(len(kept))
        doubtful = (np.abs(theta) / np.sqrt(np.diag(covariance)) <= threshold).sum()
        for _ in range(max(1, math.ceil(doubtful * BATCH))):
            z = np.where(np.isin(kept[survivors], always), np.inf, np.abs(theta) / np.sqrt(np.diag(covariance)))
            weakest = int(np.argmin(z))
            if z[weakest] > threshold:
                break
            column = covariance[:, weakest] / covariance[weakest, weakest]
            theta = np.delete(theta - column * theta[weakest], weakest)
            covariance = covariance - np.outer(column, covariance[weakest])
            covariance = np.delete(np.delete(covariance, weakest, 0), weakest, 1)
            survivors = np.delete(survivors, weakest)
        if len(survivors) == len(kept):
            break
        kept = kept[survivors]
        if len(kept):
            start = torch.from_numpy(theta).to(equations.clouds[0].x)
            try:
                solution = equations.restricted(kept).solve(iterations, start)
            except ValueError as error:
                raise ValueError(
                    f"a threshold of {threshold:g} standard errors leaves {len(kept)} of {equations.unknowns} "
                    "unknowns, with which the equations cannot be met at all: take a lower one"
                ) from error
    return kept, solution


def j_difference(restricted, full):
    """Whether the unknowns that ``restricted`` sets to zero are needed: the rise of J, its degrees of freedom, p.

    Equation: ``j-test``
    """
    rise, dof = restricted.j_statistic - full.j_statistic, restricted.j_dof - full.j_dof
    return rise, dof, float(stats.chi2.sf(max(rise, 0.0), dof)) if dof else math.nan
