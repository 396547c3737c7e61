r"""The loop of the min-max that learns an energy: one player carries the snapshots, the other prices where they end.

.. math:: \max_J \min_{T_0, \dots, T_{K-1}} \sum_k \Big[J(T_{k\#} \rho_k) - J(\rho_{k+1})
          + \frac{1}{2\tau_k} \int |x - T_k(x)|^2 d\rho_k(x)\Big]

The carrier minimises, the energy *maximises*: it is made dear where the carried snapshots end and cheap where the
observed ones are, until both agree. The transport cost has no energy in it, so the energy's step needs the first two
terms alone. Many members play side by side, each with its own batches, its own clipped gradient and its own end.

Equation: ``inverse-jko``
"""

import copy
from dataclasses import dataclass

import torch

from snapdyn import checkpoint, semidual


@dataclass(frozen=True)
class Recipe:
    """How the energy learns.

    Attributes:
        steps: of its optimiser, at most.
        batch: rows of each snapshot a step.
        rate: step size of Adam.
        clip: largest norm of the gradient of one member, over all its networks.
        average: decay of the running mean of the weights, which is what is judged and returned: two players circle
            around their solution, and the mean stands in the middle.
        every: steps between two looks at held-back rows.
        patience: looks without a better value after which a member has ended; None for never.
    """

    steps: int = 2000
    batch: int = 250
    rate: float = 1e-3
    clip: float = 10.0
    average: float = 0.99
    every: int = 50
    patience: int | None = 10


def price(energy, y, x, stamps, batch, growth=None, pairs=8):
    """What the energy asks for the carried points minus the observed ones, summed over the steps: ``(members,)``.

    Args:
        y, x: carried and observed points of all K ends in one row ``(members, K batch, dim)``.
        stamps: of each point ``(K batch,)``.
        growth: entropy of the carried minus that of the observed law for each step ``(members, K)``; only needed with
            an entropy term.
        pairs: partners of each point in the estimate of an interaction.
    Equation: ``inverse-jko``
    """
    steps, total = y.shape[1] // batch, 0.0
    if energy.potential is not None:
        value = energy.potential_value(torch.cat([y, x], 1), torch.cat([stamps, stamps]))
        there, here = value.split(y.shape[1], 1)
        total = total + steps * (there.mean(1) - here.mean(1))
    if energy.interaction is not None:
        total = total + paired_interaction(energy, y, batch, pairs) - paired_interaction(energy, x, batch, pairs)
    if energy.diffusivity is not None:
        total = total - energy.diffusivity * growth.sum(1)
    return total


def paired_interaction(energy, x, batch, pairs):
    """Half the mean of W over pairs of points of one snapshot, summed over the snapshots: ``(members,)``.

    Each point is paired with the ``pairs`` after it in its batch, whose order is random: as unbiased as all pairs.
    """
    steps = x.shape[1] // batch
    return 0.5 * steps * energy.kernel(_differences(x, batch, pairs).flatten(1, 3)).mean(1)


def paired_force(energy, x, batch, pairs):
    """``batch`` times the gradient of :func:`paired_interaction` by the points ``(members, K batch, dim)``."""
    apart = _differences(x, batch, pairs)
    slope = energy.kernel_gradient(apart.flatten(1, 3)).view(apart.shape)
    back = torch.stack([slope[:, place].roll(place + 1, 2) for place in range(slope.shape[1])], 1)
    return 0.5 * (slope - back).mean(1).flatten(1, 2)


def _differences(x, batch, pairs):
    """x_i - x_(i + s) for s = 1, 2, ... within each snapshot: ``(members, pairs, K, batch, dim)``."""
    x = x.unflatten(1, (-1, batch))
    return torch.stack([x - x.roll(-shift, 2) for shift in range(1, min(pairs, batch - 1) + 1)], 1)


def clip_each(parameters, limit):
    """Scale the gradients of each member down to the norm ``limit``; returns the norms before ``(members,)``."""
    norms = torch.stack([p.grad.flatten(1).square().sum(1) if p.ndim > 1 else p.grad.square() for p in parameters])
    norm = norms.sum(0).sqrt()
    share = (limit / norm.clamp_min(limit)).nan_to_num()
    for p in parameters:
        p.grad.mul_(share.view(-1, *[1] * (p.ndim - 1)))
    return norm


class SemiDual:
    """Judge of potentials: how far :func:`snapdyn.semidual.values` on held-back rows is below its bound."""

    term = "semi_dual_gap"

    def __init__(self, courses):
        self.courses, self.bound = courses, semidual.bounds(courses)

    def __call__(self, energy, carrier):
        return self.bound - semidual.values(energy, self.courses)[0].double().cpu()


class CarriedDistance:
    """Judge of energies with an interaction or an entropy: energy distance of the carried held-back rows to the next.

    The carrier answers the energy, so where its answer misses the next snapshot, the energy still asks for a change.
    """

    term = "energy_distance"

    def __init__(self, courses):
        self.courses = courses

    @torch.no_grad()
    def __call__(self, energy, carrier):
        rows, total = self.courses, 0.0
        for k in range(len(rows.gaps)):
            y = carrier.carried(rows.x[k], k)
            total = total + energy_distance(y, rows.x[k + 1], rows.weight[k], rows.weight[k + 1])
        return total.double().cpu()


def energy_distance(x, y, a, b):
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of two weighted clouds for each member: ``(members,)``."""

    def mean(one, other, left, right):
        return torch.einsum("mi,mij,mj->m", left, torch.cdist(one, other), right)

    return 2 * mean(x, y, a, b) - mean(x, x, a, a) - mean(y, y, b, b)


def judge(energy, courses):
    """The judge that fits the terms of the energy; None without held-back rows."""
    if courses is None:
        return None
    alone = energy.interaction is None and energy.diffusivity is None
    return SemiDual(courses) if alone else CarriedDistance(courses)


def play(energy, carrier, recipe, *, judge=None, witness=None, keep=checkpoint.NOWHERE, name="energy", progress=None):
    """Play until every member has ended and leave the best averaged weights in ``energy``.

    Args:
        energy: an :class:`snapdyn.energies.Energy`.
        carrier: the other player; has ``answer(energy)`` (come nearer to the best maps), ``round(energy)`` (a batch:
            carried and observed points, stamps, growth of entropy, as :func:`price` takes them), ``follow(decay)``
            (average its weights too), ``price_options`` and ``state()``, ``restore(state)``.
        judge: function ``(energy, carrier) -> (members,)``, less is better, with a name ``term``; without one the
            last average stays.
        witness: function ``energy -> {name: (members,)}`` whose numbers join the history, see :mod:`snapdyn.witness`.
        keep: a :class:`snapdyn.checkpoint.Checkpoint`.
        progress: ``(total, label) -> tqdm``, to show how far it is.
    Returns:
        a mapping of numbers for each member, and the history: rows ``[member, step, term, value, split]``, of each
        member until it has ended.
    Raises:
        ValueError: a loss of a member at play is no longer finite.
    Equation: ``inverse-jko``
    """
    weights = list(energy.parameters())
    members = len(weights[0])
    groups = [{"params": [p], "lr": pace * recipe.rate} for p, pace in zip(weights, energy.paces(), strict=True)]
    optimiser = torch.optim.Adam(groups, maximize=True)
    mean, best = copy.deepcopy(energy), copy.deepcopy(energy)
    least = torch.full((members,), torch.inf, dtype=torch.float64)
    chosen, stale = torch.zeros(members, dtype=torch.long), torch.zeros(members, dtype=torch.long)
    clipped, rows = torch.zeros(members, dtype=torch.float64), []
    tensors = [*weights, *mean.parameters(), *best.parameters(), least, chosen, stale, clipped]

    def state():
        own = {"tensors": tensors, "adam": optimiser.state_dict()["state"], "rows": rows}
        return own | {"carrier": carrier.state()}

    with keep.loop(name, *weights) as loop:
        if kept := loop.state:
            with torch.no_grad():
                for tensor, value in zip(tensors, kept["tensors"], strict=True):
                    tensor.copy_(value)
            optimiser.load_state_dict(optimiser.state_dict() | {"state": kept["adam"]})
            carrier.restore(kept["carrier"])
            rows = kept["rows"]
        bar = progress(recipe.steps, name) if progress else None
        if bar is not None:
            bar.update(loop.done)
        done = loop.done
        for step in range(loop.done + 1, recipe.steps + 1):
            going = torch.ones_like(stale).bool() if recipe.patience is None else stale < recipe.patience
            if not going.any():
                break
            carrier.answer(energy)
            optimiser.zero_grad()
            batch = carrier.round(energy)
            value = price(energy, **batch)
            value.sum().backward()
            norm = clip_each(weights, recipe.clip).cpu()
            lost = ~torch.isfinite(norm)
            if bad := (lost & going).nonzero().flatten().tolist():
                raise ValueError(
                    f"{name}: the price or its gradient is not finite at step {step} for the members {bad}: take "
                    f"smaller rates (now {recipe.rate:g} for the energy), or look for rows far away from all others"
                )
            if lost.any():  # members that have ended: they stand still
                for weight in weights:
                    weight.grad[lost] = 0.0
            clipped += norm > recipe.clip
            optimiser.step()
            decay = min(recipe.average, step / (step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(list(mean.parameters()), [w.detach() for w in weights], 1 - decay)
            carrier.follow(decay)
            done = step
            if step % recipe.every == 0 or step == recipe.steps:
                found = {"price": value.detach().double().cpu(), "gradient": norm.double()}
                if mean.diffusivity is not None:
                    found["diffusivity"] = mean.diffusivity.detach().double().cpu()
                playing = going.nonzero().flatten().tolist()
                rows += [[m, step, term, float(v[m]), "train"] for term, v in found.items() for m in playing]
                seen = witness(mean) if witness else {}
                rows += [[m, step, term, float(v[m]), "test"] for term, v in seen.items() for m in playing]
                if judge is not None:
                    seen = judge(mean, carrier)
                    rows += [[m, step, judge.term, float(seen[m]), "validation"] for m in playing]
                    better = going & (seen < least)
                    stale += (going & ~better).long()
                    least.copy_(torch.where(better, seen, least))
                    chosen[better] = step
                    _copy(best, mean, better)
            if bar is not None:
                bar.update()
            loop.tick(step, state)
        if bar is not None:
            bar.close()
    if judge is None:
        best, chosen = mean, torch.full_like(chosen, done)
    _copy(energy, best, torch.ones(members, dtype=torch.bool))
    numbers = {"steps": chosen.double(), "clipped_share": clipped / max(done, 1)}
    return numbers | ({} if judge is None else {judge.term: least}), rows


@torch.no_grad()
def _copy(to, source, members):
    """The weights of some members of ``source`` into ``to``."""
    for own, other in zip(to.parameters(), source.parameters(), strict=True):
        own[members] = other[members]


def for_each(numbers):
    """A mapping of numbers for each member as one mapping a member."""
    members = len(next(iter(numbers.values())))
    return [{name: float(value[member]) for name, value in numbers.items()} for member in range(members)]
