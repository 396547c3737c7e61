r"""The value of the min-max with the inner problem solved: what a potential is worth on snapshots it has not seen.

The particles of a potential's JKO step do not see each other, so the best map is known point by point, and

.. math:: L(V) = \sum_k \Big[\int \min_y \Big(V(y) + \frac{|y - x|^2}{2\tau_k}\Big) d\rho_k(x)
          - \int V \, d\rho_{k+1}\Big] \le \sum_k \frac{W_2^2(\rho_k, \rho_{k+1})}{2\tau_k}

with equality for the potential whose steps lead from each snapshot to the next. The gap between both sides bounds
the mean square of the error in the potential's gradient, so on held-back rows it says when to stop.

Equation: ``semi-dual``
"""

import torch

from snapdyn import energy_steps, metrics


def check_potential(energy):
    """Refuse energies whose particles see each other.

    Raises:
        ValueError: the energy has no potential, or has an interaction or an entropy.
    """
    if energy.potential is None or energy.interaction is not None or energy.diffusivity is not None:
        raise ValueError(
            "the inner problem falls apart into one for each particle for a potential alone; with an interaction or an "
            "entropy take the adversarial method"
        )


@torch.no_grad()
def values(energy, courses):
    """L(V) of each member on the rows of ``courses``, in inner units of energy: ``(members,)``.

    Args:
        energy: a potential; a timed one is asked at the stamp of each step's end.
        courses: :class:`snapdyn.courses.Courses` in the units that the energy was learned in.
    Returns:
        the values, and the largest residual of an inner problem ``(members,)``.
    Equation: ``semi-dual``
    """
    check_potential(energy)
    total, worst = 0.0, torch.zeros(courses.members)
    for k, tau in enumerate(courses.gaps):
        x, stamp = courses.x[k], courses.stamps[k + 1]
        how = {"start": _best_start(energy, x, courses.x[k + 1], float(tau), stamp), "tolerance": 1e-4}
        y, residual = energy_steps.implicit(energy, x, float(tau), stamp, **how, dtype=x.dtype)
        cost = energy.potential_value(y, stamp) + (y - x).square().sum(-1) / (2 * float(tau))
        total = total + (courses.weight[k] * cost).sum(1)
        total = total - (courses.weight[k + 1] * energy.potential_value(courses.x[k + 1], stamp)).sum(1)
        worst = torch.maximum(worst, residual.amax(1).cpu())
    return total, worst


def _best_start(energy, x, targets, tau, stamp):
    """Of a particle's own place and the rows of the next snapshot, where its problem has the least value.

    Newton's method only goes down from there, so no value is above that of any map onto those rows, and the gap to the
    bound cannot be negative, however many wells the potential has.
    """
    there = energy.potential_value(targets, stamp)[:, None] + torch.cdist(x, targets).square() / (2 * tau)
    least, place = there.min(2)
    chosen = targets.gather(1, place[..., None].expand(-1, -1, x.shape[2]))
    return torch.where((least < energy.potential_value(x, stamp))[..., None], chosen, x)


def bounds(courses):
    """The largest value that any potential can have on these rows, the sum of W2^2 / (2 tau): ``(members,)``.

    Equation: ``semi-dual``
    """
    found = []
    pairs = list(zip(courses.x, courses.weight, strict=True))
    for member in range(courses.members):
        rows = [(x[member].cpu().numpy(), metrics.marginal(w[member].cpu().numpy())) for x, w in pairs]
        steps = zip(rows[:-1], rows[1:], courses.gaps, strict=True)
        cost = 0.0
        for (x, a), (y, b), tau in steps:
            most = max(len(x), len(y))  # all rows: a thinned cloud has another bound
            cost += metrics.wasserstein(x, y, order=2, a=a, b=b, max_points=most) ** 2 / (2 * tau)
        found.append(cost)
    return torch.tensor(found, dtype=torch.float64)
