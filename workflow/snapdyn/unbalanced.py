r"""Transport between snapshots of a population that grows: one side keeps its weights, the other's may change.

.. math:: \min_{p, \pi \in \Pi(p, b)} \langle C, \pi\rangle + \lambda\,\mathrm{KL}(p\,|\,a)

Weights b of the side that is kept sum to 1, and so do those of the plan: how many particles a snapshot has in all,
which may be growth or the depth of sampling, changes nothing. By conditional gradients on the dual problem: every round
solves one balanced problem exactly, its potentials are averaged with those before at the best share, and both
problems' values bound what is left to gain. Where lambda is small beside the squared distances, rounds run out first.

Equation: ``semi-relaxed-plan``
"""

import numpy as np

from snapdyn import metrics

CLOSE = 1e-3  # gap between the problem and its dual at which a plan counts as solved, as a share of lambda
ROUNDS = 200


def relaxed_plan(x, y, *, a=None, b=None, strength, close=CLOSE, rounds=ROUNDS):
    """The plan from ``x``, whose weights may change at a price, to ``y``, whose weights stay.

    Args:
        x, y: positions ``(n, dim)`` and ``(m, dim)``.
        a, b: their weights, which sum to 1; even if left out.
        strength: lambda, in length^2; the larger, the less weights change.
        close, rounds: when to stop: at this gap as a share of lambda, or after so many balanced problems.
    Returns:
        the plan ``(n, m)``, whose sums over x are b; and the gap in length^2, by which its cost may still be above the
        least one: above ``close`` times the strength where the rounds ran out.
    Raises:
        ValueError: a strength that is not above 0; weights or positions that transport refuses.
    Equation: ``semi-relaxed-plan``
    """
    if not strength > 0:
        raise ValueError(f"expected a strength above 0 for the price of growth, got {strength!r}")
    n, m = len(x), len(y)
    a = metrics.marginal(np.ones(n) if a is None else a)
    b = metrics.marginal(np.ones(m) if b is None else b)
    f, g, p = np.zeros(n), np.zeros(m), a  # potentials with f + g <= C, and the weights that belong to them
    best = (np.inf, None)
    for _ in range(rounds):
        plan, (u, v) = metrics.transport_plan(x, y, order=2, a=p, b=b, with_potentials=True)
        cost = p @ u + b @ v  # the balanced problem's own value, by its potentials
        primal = cost + strength * _divergence(p, a)
        if primal < best[0]:
            best = (primal, plan)
        f, g = _nearest_best(f, g, u, v, a, b, strength)
        if best[0] - _dual(f, g, a, b, strength) <= close * strength:
            break
        p = _weights(f, a, strength)
    return best[1], float(best[0] - _dual(f, g, a, b, strength))


def _weights(f, a, strength):
    """The weights that are best for potentials f: a exp(-f / lambda), normalised."""
    kept = a > 0
    exponent = np.where(kept, -f / strength, -np.inf)
    p = a * np.exp(exponent - exponent.max())
    return p / p.sum()


def _divergence(p, a):
    kept = p > 0
    return float(p[kept] @ np.log(p[kept] / a[kept]))


def _dual(f, g, a, b, strength):
    """The value of the dual problem, below that of every plan."""
    from scipy.special import logsumexp

    return float(g @ b - strength * logsumexp(-f / strength, b=a))


def _nearest_best(f, g, u, v, a, b, strength):
    """The best potentials between two pairs of them; both obey the constraints, so what lies between does."""
    from scipy.optimize import minimize_scalar

    def loss(share):
        return -_dual(f + share * (u - f), g + share * (v - g), a, b, strength)

    share = minimize_scalar(loss, bounds=(0.0, 1.0), method="bounded", options={"xatol": 1e-3}).x
    return f + share * (u - f), g + share * (v - g)
