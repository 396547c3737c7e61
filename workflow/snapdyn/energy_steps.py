r"""One step of a population in its energy: along the force where it stands, or to where the force brings it back.

The implicit step is the JKO scheme's: every particle minimises its own problem, so that y + tau grad V(y) = x.

.. math:: y = \arg\min_y \; \tau V(y) + \tfrac12 |y - x|^2

Everything is in the energy's own units; tau and the stamp are numbers or one value for each point.

Equation: ``jko-step``
"""

import copy

import torch
from torch import Tensor

SUFFICIENT = 1e-4  # share of the promised decrease that the line search asks for
LEAST = 0.05  # the smallest curvature of tau V + |y - x|^2 / 2 that Newton's step believes
HALVINGS = 30
MEMORY = 6  # rounds of an interaction that Anderson's mixing combines
ENTRIES = 2**23  # numbers that the second derivatives or the pairs of one block may need
LAYER = 64  # numbers a point that a network holds for each of its inputs, about


def explicit(energy, x: Tensor, tau, stamp=None, noise=None) -> Tensor:
    r"""The Euler-Maruyama step x - tau force(x) + sqrt(2 tau beta) noise.

    Args:
        energy: an :class:`snapdyn.energies.Energy`.
        x: the population ``(members, n, dim)``; if particles interact, with each other.
        tau: length of the step, a number or one for each point ``(n,)``.
        stamp: what a timed potential is asked at; for a step of the scheme, the stamp of its end.
        noise: standard normal numbers ``(members, n, dim)``; without an entropy term they move nothing.
    Equation: ``jko-step``
    """
    tau = _each(tau, x)[..., None]
    return _jumped(energy, x, tau, noise) - tau * force(energy, x, stamp)


@torch.no_grad()
def implicit(
    energy, x: Tensor, tau, stamp=None, *, noise=None, start=None, limit=50, tolerance=1e-6, dtype=torch.float64
) -> tuple[Tensor, Tensor]:
    r"""The proximal step by Newton's method, and how well each particle solves y + tau force(y) = x.

    The second derivatives are made positive by their eigenvalues and every step has to lower the objective, so a
    particle ends in a minimum on its way down from the start. An interaction's force is held while all particles are
    moved, and found anew from where they went.

    Args:
        energy, x, tau, stamp: see :func:`explicit`.
        noise: added to x before the step, sqrt(2 tau beta) times it: the drift-implicit Euler-Maruyama scheme.
        start: where to look from ``(members, n, dim)``; x if left out.
        limit: Newton steps, and rounds of the interaction, at most.
        tolerance: of the residual, at which a particle is done.
        dtype: to compute in; the answer has the type of x.
    Returns:
        y ``(members, n, dim)`` and the residuals |y + tau force(y) - x| ``(members, n)``: judge them, they are large
        where the step has no solution nearby.
    Equation: ``jko-step``
    """
    energy = _in_precision(energy, dtype)
    kind, tau = x.dtype, _each(tau, x).to(dtype)
    stamp = None if stamp is None else _each(stamp, x).to(dtype)
    x = _jumped(energy, x.to(dtype), tau[..., None], noise)
    y = x if start is None else start.to(dtype)
    if energy.interaction is None:
        y, residual = _proximal(energy, x, y, tau, stamp, limit, tolerance)
    else:
        y, residual = _with_interaction(energy, x, y, tau, stamp, limit, tolerance)
    return y.to(kind), residual.to(kind)


def force(energy, x: Tensor, stamp=None) -> Tensor:
    """grad V + grad W * rho of the population x ``(members, n, dim)``, in blocks that bound the memory."""
    stamp = None if stamp is None else _each(stamp, x)
    if energy.interaction is None:
        return energy.force(x, stamp)
    total = interaction_force(energy, x)
    return total if energy.potential is None else total + energy.potential_gradient(x, stamp)


def interaction_force(energy, x: Tensor) -> Tensor:
    """grad W * rho of the population itself, without the points' action on themselves ``(members, n, dim)``."""
    rows = max(1, ENTRIES // (x.shape[0] * x.shape[1] * LAYER))
    return torch.cat([energy.interaction_gradient(part, x, same=True) for part in x.split(rows, 1)], 1)


def _each(value, x):
    """A number, or one for each point, for every member: ``(members, n)``."""
    return torch.as_tensor(value, dtype=x.dtype, device=x.device).expand(x.shape[:2])


def _jumped(energy, x, tau, noise):
    if noise is None or energy.diffusivity is None:
        return x
    return x + (2 * tau * energy.diffusivity[:, None, None].to(x)).sqrt() * noise.to(x)


def _in_precision(energy, dtype):
    own = {value.dtype for value in (*energy.parameters(), *energy.buffers()) if value.is_floating_point()}
    return energy if own <= {dtype} else copy.deepcopy(energy).to(dtype)


def _proximal(energy, x, y, tau, stamp, limit, tolerance):
    """:func:`implicit` without an interaction: blocks of particles on their own."""
    if energy.potential is None:
        return x, torch.zeros_like(x[..., 0])
    rows = max(1, ENTRIES // (x.shape[0] * x.shape[2] * LAYER))
    stamps = [None] * -(-x.shape[1] // rows) if stamp is None else stamp.split(rows, 1)
    blocks = zip(x.split(rows, 1), y.split(rows, 1), tau.split(rows, 1), stamps, strict=True)
    found = [_newton(energy, *block, limit, tolerance) for block in blocks]
    return tuple(torch.cat(parts, 1) for parts in zip(*found, strict=True))


def _newton(energy, x, y, tau, stamp, limit, tolerance):
    best, residual = y.clone(), torch.full_like(tau, torch.inf)
    # the particles at work: for each member as many, those that are done only fill up
    rows = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
    for done in range(limit + 1):
        slope, curve = energy.potential_hessian(y, stamp)
        slope = tau[..., None] * slope + y - x
        size = slope.norm(dim=2)
        best.scatter_(1, _wide(rows, y), y)
        residual.scatter_(1, rows, size)
        at_work = size > tolerance
        count = int(at_work.sum(1).max())
        if not count or done == limit:
            break
        if 2 * count <= at_work.shape[1]:
            order = (~at_work).int().argsort(dim=1, stable=True)[:, :count]
            rows, tau, size, at_work = (value.gather(1, order) for value in (rows, tau, size, at_work))
            stamp = None if stamp is None else stamp.gather(1, order)
            x, y, slope = (value.gather(1, _wide(order, value)) for value in (x, y, slope))
            curve = curve.gather(1, order[..., None, None].expand(-1, -1, *curve.shape[2:]))
        step = _descent(tau[..., None, None] * curve, slope) * at_work[..., None]
        moved = _searched(energy, x, y, tau, stamp, step, slope)
        if torch.equal(moved, y):
            break
        y = moved
    return best, residual


def _wide(rows, value):
    return rows[..., None].expand(-1, -1, value.shape[2])


def _descent(curve, slope):
    """- H^-1 slope for H = 1 + curve, whose eigenvalues count by their size and at least :data:`LEAST`."""
    eye = torch.eye(slope.shape[2]).to(slope)
    matrix = curve + eye
    bent = torch.linalg.cholesky_ex(matrix - LEAST * eye).info > 0
    if bent.any():
        values, vectors = torch.linalg.eigh(matrix[bent])
        matrix = matrix.clone()
        matrix[bent] = (vectors * values.abs().clamp_min(LEAST)[:, None]) @ vectors.transpose(1, 2)
    return -torch.linalg.solve(matrix, slope)


def _searched(energy, x, y, tau, stamp, step, slope):
    """y plus as much of the step as lowers the objective enough, by halving; nothing where none of it does."""

    def objective(place):
        return tau * energy.potential_value(place, stamp) + 0.5 * (place - x).square().sum(2)

    before = objective(y)
    promised = (step * slope).sum(2)
    rounding = 8 * torch.finfo(y.dtype).eps * (1 + before.abs())
    share = torch.ones_like(before)
    for _ in range(HALVINGS):
        after = objective(y + share[..., None] * step)
        enough = after <= before + SUFFICIENT * share * promised + rounding
        if enough.all():
            break
        share = torch.where(enough, share, share / 2)
    return y + torch.where(enough, share, 0.0)[..., None] * step


def _with_interaction(energy, x, y, tau, stamp, limit, tolerance):
    """Rounds of :func:`_proximal` with the interaction's force held, each member's sped up by Anderson's mixing."""
    best, least = y, torch.full_like(tau, torch.inf)
    places, moves = [], []
    for _ in range(limit):
        held = tau[..., None] * interaction_force(energy, y)
        own = 0.0 if energy.potential is None else tau[..., None] * energy.potential_gradient(y, stamp)
        residual = (y + own + held - x).norm(dim=2)
        better = (residual.square().mean(1) < least.square().mean(1))[:, None]
        best, least = torch.where(better[..., None], y, best), torch.where(better, residual, least)
        if (least <= tolerance).all():
            break
        moved, _ = _proximal(energy, x - held, y, tau, stamp, limit, 0.1 * tolerance)
        places, moves = [*places, y.flatten(1)][-MEMORY:], [*moves, (moved - y).flatten(1)][-MEMORY:]
        y = _mixed(torch.stack(places, 2), torch.stack(moves, 2)).view_as(y)
    return best, least


def _mixed(places, moves):
    """The next place from the last places and the moves found there ``(members, numbers, count)``: the combination
    whose move is smallest, and that move.

    With all moves alike there is nothing to combine, and the ridge leaves the last place plus its move.
    """
    change, gone = moves.diff(dim=2), places.diff(dim=2)
    if not change.shape[2]:
        return (places + moves)[..., 0]
    gram = change.transpose(1, 2) @ change
    size = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None].clamp_min(torch.finfo(moves.dtype).tiny)
    right = change.transpose(1, 2) @ moves[..., -1:]
    share = torch.linalg.solve(gram + 1e-10 * size * torch.eye(gram.shape[1]).to(gram), right)
    return places[..., -1] + moves[..., -1] - ((gone + change) @ share)[..., 0]
