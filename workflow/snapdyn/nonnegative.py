"""Least squares over the simplex: weights that are not negative and add up to one.

Without the sum, the problem has a family of answers, one for each weight of a row that asks for it; they all have
the same direction. So min |A w| over the simplex is min z^T A^T A z / 2 - 1^T z over z >= 0, scaled to sum 1.
"""

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph


def exact(rows, *, flips=60):
    """The minimiser of |rows w| over w >= 0 with sum 1, to rounding.

    First by exchange of whole blocks: solve for the unknowns that are free, set free or fix at zero all those whose
    sign says so, and again; a few solutions are enough where most unknowns are positive. If that does not settle, or
    the columns are nearly dependent, by the active set method (Lawson and Hanson) on the triangular factor of a QR
    decomposition, which has the same minimiser and as few rows as unknowns.

    Args:
        rows: sparse ``(m, n)``.
    Returns:
        w ``(n,)``, and how it was found.
    Equation: ``linear-mixture``
    """
    rows, scale = _scaled(rows)
    if (found := _by_blocks(rows, 1 / scale, flips)) is not None:
        return _to_one(found / scale), "blocks"
    return _to_one(by_active_set(rows.toarray(), 1 / scale) / scale), "active set"


def by_active_set(rows, sums):
    """The minimiser of |rows w| over w >= 0 with ``sums @ w`` near 1, for a dense matrix; its scale is open."""
    from scipy.optimize import nnls

    heavy = np.linalg.norm(rows) / np.linalg.norm(sums) / np.sqrt(rows.shape[1])
    whole = np.vstack([np.column_stack([rows, np.zeros(len(rows))]), heavy * np.append(sums, 1.0)])
    triangle = np.linalg.qr(whole, mode="r")
    return nnls(triangle[:, :-1], triangle[:, -1], maxiter=30 * rows.shape[1])[0]


def band(rows):
    """Half the width of the band that ``rows^T rows`` fills when its unknowns are well ordered, and that order."""
    pattern = rows.copy()
    pattern.data = np.ones(len(pattern.data), dtype=np.float32)
    pattern = (pattern.T @ pattern).tocsr()
    order = csgraph.reverse_cuthill_mckee(pattern, symmetric_mode=True)
    place = np.argsort(order)
    entries = pattern.tocoo()
    return int(np.abs(place[entries.row] - place[entries.col]).max()), order


def _to_one(w):
    if not (np.isfinite(w).all() and w.sum() > 0):
        raise ValueError("no weight is left: nothing in the box is at rest; take a larger box")
    return w / w.sum()


def _scaled(rows):
    """The rows with columns of length 1, and what they were divided by."""
    scale = np.sqrt(np.asarray(rows.multiply(rows).sum(0)).ravel())
    scale[scale == 0] = 1.0
    return (rows @ sparse.diags(1 / scale)).tocsr(), scale


def _by_blocks(rows, sums, flips):
    """Block principal pivoting (Portugal, Judice and Vicente 1994); None where it does not end in ``flips`` steps."""
    width, order = band(rows)
    rows, sums = rows[:, order].tocsc(), sums[order]
    gram = (rows.T @ rows).tocsc()
    free = np.ones(len(sums), dtype=bool)
    fewest, chances = len(sums) + 1, 3
    for _ in range(flips):
        if (z := _solved(gram, sums, free)) is None:
            return None
        gradient = rows.T @ (rows @ z) - sums
        small = 1e-12 * np.abs(z).max()
        wrong = np.where(free, z < -small, gradient < -small)
        if not wrong.any():
            found = np.empty_like(z)
            found[order] = np.maximum(z, 0.0)
            return found
        if (count := wrong.sum()) < fewest:
            fewest, chances = count, 3
        elif chances:
            chances -= 1
        else:  # one at a time, the last: slow, and sure to end
            wrong = np.arange(len(wrong)) == np.flatnonzero(wrong)[-1]
        free ^= wrong
    return None


def _solved(gram, sums, free):
    """z, zero where not free, with gram z = sums among the free unknowns; None if they are nearly dependent."""
    from scipy.linalg import LinAlgError, cho_solve_banded, cholesky_banded

    chosen = np.flatnonzero(free)
    part = sparse.tril(gram[chosen][:, chosen]).tocoo()
    lower = part.row - part.col
    table = np.zeros((lower.max(initial=0) + 1, len(chosen)))
    table[lower, part.col] = part.data
    factor = None
    for ridge in (0.0, 1e-13, 1e-11):  # of columns of length 1: far below what the data of a lattice can tell
        table[0] += ridge
        try:
            factor = cholesky_banded(table, lower=True, check_finite=False)
            break
        except LinAlgError:
            continue
    if factor is None:
        return None
    z = np.zeros(len(free))
    z[chosen] = cho_solve_banded((factor, True), sums[chosen], check_finite=False)
    return z
