r"""Energies from the first-order condition of the JKO step along optimal couplings: JKOnet*.

.. math:: L = \sum_k E_{\pi_k} \bigl| \tau_k (\nabla V(y) + \nabla W * \rho_{k+1}(y) + \beta\,\nabla\log\rho_{k+1}(y))
          + y - x \bigr|^2

Equation: ``first-order-condition``
"""

from dataclasses import replace

import torch
from torch import Tensor

from snapdyn.couplings import Table, about_plans, couple, refuse_growth
from snapdyn.courses import Courses, Draws
from snapdyn.energy_methods import EnergyMethod, Trained
from snapdyn.energy_training import Player, Recipe, train
from snapdyn.snapshot_scores import snapshot_scores

CLIP = 10.0  # of the norm of a member's gradient
MOST = 200  # rows of each time that a validation loss with an interaction takes: its pairs grow with their square
APART = 2**33  # between the seed of a member's networks and that of its batches


def condition(
    energy, x: Tensor, y: Tensor, tau, *, stamp=None, score=None, pull=None, anchor="target", substeps=1
) -> Tensor:
    """The residual tau (grad V + pull + beta score) + y - x of every row ``(members, n, dim)``; never reduced.

    Args:
        energy: an :class:`snapdyn.energies.Energy`.
        x, y: where rows come from and go to ``(members, n, dim)``.
        tau: length of the step, a number or one for each row ``(n,)`` or ``(members, n)``.
        stamp: of a timed potential, likewise.
        score: grad log rho at the anchor ``(members, n, dim)``.
        pull: grad W * rho at the anchor ``(members, n, dim)``.
        anchor: the end of a row at which the force stands: ``target``, as the implicit step has it, or ``source``.
        substeps: of a potential alone: how many steps lead from one end to the other, each of tau / substeps. Implicit
            steps are explicit ones seen from their end, so neither form has to solve anything.
    Equation: ``first-order-condition``
    """
    if substeps > 1:
        side, share = (1 if anchor == "target" else -1), torch.as_tensor(tau, dtype=x.dtype, device=x.device) / substeps
        z = y if anchor == "target" else x
        for _ in range(substeps):
            z = z + side * share[..., None] * energy.potential_gradient(z, stamp)
        return z - x if anchor == "target" else y - z
    at, total = (y if anchor == "target" else x), 0.0
    if energy.potential is not None:
        total = total + energy.potential_gradient(at, stamp)
    if pull is not None:
        total = total + pull
    if energy.diffusivity is not None:
        total = total + energy.diffusivity[:, None, None] * score
    tau = torch.as_tensor(tau, dtype=x.dtype, device=x.device)
    return tau[..., None] * total + y - x


def mean_square(residual: Tensor, weight: Tensor, other=None) -> Tensor:
    """Weighted mean of residual . other (of its square without) over the rows, by the rows' own sum of weights.

    Args:
        residual: ``(members, n, dim)``; weight: ``(members, n)``.
    Returns:
        ``(members,)``.
    """
    square = (residual * (residual if other is None else other)).sum(2)
    return (weight * square).sum(1) / weight.sum(1)


def half_pulls(energy, cloud: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """grad W * rho at the rows of a cloud, twice: by its even and by its odd rows, without a row's action on itself.

    Both have the right mean and their errors are independent, so the product of two residuals has the mean of the
    square of the exact one, where the square of one residual would add the variance of grad W.

    Args:
        cloud: ``(members, n, dim)``, in random order; weight: ``(members, n)``.
    """
    forces = weight[:, None, :, None] * energy.pair_forces(cloud)  # 0 on the diagonal
    others = weight[:, None] * (1 - torch.eye(weight.shape[1]).to(weight))
    return tuple(forces[:, :, half::2].sum(2) / others[:, :, half::2].sum(2)[..., None] for half in (0, 1))


class FirstOrder:
    """The loss of JKOnet* on rows of every step.

    Args:
        rows: list of :class:`snapdyn.couplings.Rows`; scores: list ``(members, n, dim)`` at their anchors, or None.
        courses: the :class:`snapdyn.courses.Courses` of the rows.
        anchor, substeps: see :func:`condition`.
    Equation: ``first-order-condition``
    """

    def __init__(self, rows, scores, courses, *, anchor="target", substeps=1):
        self.dim, self.anchor, self.scored, self.substeps = courses.dim, anchor, scores is not None, substeps
        self.gaps, self.stamps = courses.gaps, courses.stamps[1:]
        self.tables, self.weights = [], [row.weight for row in rows]
        for k, row in enumerate(rows):
            even = torch.ones_like(row.weight)[..., None]
            columns = [row.x, row.y, self.gaps[k] * even, self.stamps[k] * even, *([scores[k]] if self.scored else [])]
            self.tables.append(torch.cat(columns, -1))

    def split(self, table):
        """Columns of a table ``(members, n, columns)``: x, y, tau, stamp, score."""
        dim = self.dim
        score = table[..., 2 * dim + 2 :] if self.scored else None
        return table[..., :dim], table[..., dim : 2 * dim], table[..., 2 * dim], table[..., 2 * dim + 1], score

    def loss(self, energy, table, weight):
        """Of rows ``(members, n, columns)``, of one time where particles interact: ``(members,)``."""
        x, y, tau, stamp, score = self.split(table)
        how = {"stamp": stamp if energy.timed else None, "score": score, "anchor": self.anchor}
        if energy.interaction is None:
            return mean_square(condition(energy, x, y, tau, substeps=self.substeps, **how), weight)
        pulls = half_pulls(energy, y if self.anchor == "target" else x, weight)
        one, other = (condition(energy, x, y, tau, pull=pull, **how) for pull in pulls)
        return mean_square(one, weight, other)

    def whole(self, energy):
        """The sum over all steps of all rows ``(members,)``; of :data:`MOST` of each where particles interact."""
        most = None if energy.interaction is None else MOST
        tables = zip(self.tables, self.weights, strict=True)
        return sum(self.loss(energy, table[:, :most], weight[:, :most]) for table, weight in tables)

    def batches(self, size, seeds, *, together):
        """Draws of rows, by weight: of all times together, or ``size / K`` of each."""
        if together:
            table, weight = torch.cat(self.tables, 1), torch.cat(self.weights, 1)
            return Draws(Table([table], [weight / weight.sum(1, keepdim=True)]), size, seeds)
        return Draws(Table(self.tables, self.weights), max(4, size // len(self.tables)), seeds)


def prepared(
    courses,
    held,
    *,
    anchor,
    scored,
    seeds,
    substeps=1,
    blur=0.0,
    block=None,
    unbalanced=None,
    weights="mass",
    score="mixture",
    keep,
    progress=None,
):
    """The losses of the training rows and of the rows held back, None without any.

    The plans and the scores are those of all rows together: half a cloud has another plan than the whole one. What is
    held back is the rows' anchors, where the force is fitted.

    Args:
        courses, held: :class:`snapdyn.courses.Courses` in the same coordinates; held may be None.
        scored: whether the scores are needed.
        seeds: of each member's scores.
        substeps: see :func:`condition`.
        blur, block, unbalanced, weights: see :func:`snapdyn.couplings.couple`.
        score: see :mod:`snapdyn.snapshot_scores`.
    Returns:
        two :class:`FirstOrder`, and the :class:`snapdyn.couplings.Rows` of all.
    """
    everything = courses if held is None else joined(courses, held)
    how = {"blur": blur, "block": block, "unbalanced": unbalanced, "weights": weights}
    rows = couple(everything, anchor=anchor, **how, keep=keep, progress=progress)
    end = 1 if anchor == "target" else 0
    scores = None
    if scored:
        seen = everything if weights == "mass" else even(everything)
        scores = snapshot_scores(seen, kind=score, seeds=seeds, keep=keep)[end : end + len(rows)]
    counts = [x.shape[1] for x in courses.x[end : end + len(rows)]]
    parts = [slice(None, count) for count in counts], [slice(count, None) for count in counts]
    losses = []
    for part in parts[: 1 if held is None else 2]:
        own = [row.part(rows_of) for row, rows_of in zip(rows, part, strict=True)]
        near = None if scores is None else [s[:, rows_of] for s, rows_of in zip(scores, part, strict=True)]
        losses.append(FirstOrder(own, near, courses, anchor=anchor, substeps=substeps))
    return losses[0], losses[1] if held is not None else None, rows


def even(courses) -> Courses:
    """The same rows, each as one particle: what snapshots are where weights are numbers of descendants."""
    return replace(courses, weight=[torch.full_like(w, 1 / w.shape[1]) for w in courses.weight])


def joined(courses, held) -> Courses:
    """The rows of both, those of ``courses`` first, each part with the weight that its number of rows has."""
    x = [torch.cat(both, 1) for both in zip(courses.x, held.x, strict=True)]
    weight = []
    for a, b in zip(courses.weight, held.weight, strict=True):
        n = a.shape[1] + b.shape[1]
        weight.append(torch.cat([a * (a.shape[1] / n), b * (b.shape[1] / n)], 1))
    return replace(courses, x=x, weight=weight)


def fit(
    energy,
    training,
    held,
    recipe,
    *,
    batch,
    seeds,
    rate=1e-3,
    clip=CLIP,
    average=0.0,
    witness=None,
    keep,
    progress=None,
):
    """Lower the loss of the training rows; each member keeps the weights that are best on the rows held back.

    Args:
        energy: an :class:`snapdyn.energies.Energy`, changed in place.
        training, held: :class:`FirstOrder`; held may be None.
        recipe: a :class:`snapdyn.energy_training.Recipe`.
        batch: rows a step; with an interaction that many in all, of each time an equal share.
        rate, clip, average: see :class:`snapdyn.energy_training.Player`.
        witness: see :mod:`snapdyn.witness`.
    Returns:
        the :class:`snapdyn.energy_training.Outcome`.
    """
    player = Player(energy.parameters(), paces=energy.paces(), rate=rate, clip=clip, average=average)
    draws = training.batches(batch, [seed + APART for seed in seeds], together=energy.interaction is None)

    def step(number, share):
        tables = [draws.batch(k) for k in range(len(draws.courses.x))]
        losses = [training.loss(energy, table, torch.ones_like(table[..., 0])) for table in tables]
        loss = sum(losses) / len(losses)
        said = {"loss": loss} | ({} if energy.diffusivity is None else {"diffusivity": energy.diffusivity})
        return said, player.descend(loss, share)

    def validate():
        return held.whole(energy) / len(held.tables)

    how = {"validate": validate if held else None, "draws": [draws], "keep": keep, "progress": progress}
    how |= {"witness": witness and (lambda: witness(energy))}
    return train([player], step, recipe, name="jkonet-star", **how)


class JKOnetStar(EnergyMethod):
    """Methods ``jkonet-star`` (all terms), ``-v``, ``-vu`` and ``-tv``: the terms decide.

    Snapshots are laws of mass one; what becomes of their mass stands among the notes on the data.

    Args:
        gradient_at: ``target``, the implicit step, or ``source``, the explicit one.
        substeps: steps between two observed times, for a potential alone; a time in between is then on the way.
        blur: entropy of the plans as a share of the variance of the data's axes; 0 for exact plans.
        block: particles of a plan, see :func:`snapdyn.couplings.couple`.
        unbalanced: for populations that grow: price of a change of the other ends' weights, as a share of the variance
            of the data's axes; none for balanced plans. A plan cannot tell movement from growth where both are smooth:
            it ascribes to growth what varies over more than sqrt(unbalanced / 2) standard deviations, be it either.
        weights: what prior weights of rows (``weight_key``) mean: ``mass``, wherever a row stands, or ``growth``, the
            number of descendants that a row has at the next time, which counts where it is a source.
        score: how scores are found, ``mixture`` or ``kernel``; only the entropy needs them.
        patience, every, fall: see :class:`snapdyn.energy_training.Recipe`.
        clip, average: see :class:`snapdyn.energy_training.Player`.
        known: what :class:`snapdyn.energy_methods.EnergyMethod` takes.
    """

    def __init__(
        self,
        *,
        gradient_at="target",
        substeps=1,
        blur=0.0,
        block=None,
        unbalanced=None,
        weights="mass",
        score="mixture",
        every=50,
        patience=10,
        fall=False,
        clip=CLIP,
        average=0.0,
        **known,
    ):
        super().__init__(**known)
        if not (isinstance(substeps, int) and substeps >= 1):
            raise ValueError(f"expected a whole number, 1 or more, for substeps, got {substeps!r}")
        if substeps > 1 and self.terms != ("potential",):
            raise ValueError(f"substeps: {substeps} needs an energy with a potential alone, got terms {self.terms}")
        refuse_growth(unbalanced, weights, blur)
        self.gradient_at, self.score, self.substeps = gradient_at, score, substeps
        self.plans = {"blur": blur, "block": block, "unbalanced": unbalanced, "weights": weights}
        self.recipe = Recipe(steps=self.steps, every=every, patience=patience, fall=fall)
        self.clip, self.average = clip, average

    def train(self, courses, *, seeds, validation=None, device, keep, progress):
        energy = self.fresh(courses, seeds)
        how = {"anchor": self.gradient_at, "substeps": self.substeps, "score": self.score, **self.plans}
        how |= {"scored": energy.diffusivity is not None, "seeds": seeds, "keep": keep, "progress": progress}
        training, held, rows = prepared(courses, validation, **how)
        how = {"rate": self.rate, "clip": self.clip, "average": self.average, "keep": keep, "progress": progress}
        how |= {"witness": self.witness}
        outcome = fit(energy, training, held, self.recipe, batch=self.batch, seeds=seeds, **how)
        diagnostics = outcome.diagnostics()
        for member, said in enumerate(diagnostics):
            said |= about_plans(rows, member, self.plans["unbalanced"])
            said["spread_of_pairs"] = float(sum(row.spread[member] for row in rows))
        return Trained(energy, diagnostics, outcome.history)


class JKOnetStarUnbalanced(JKOnetStar):
    """Method ``jkonet-star-v-unbalanced``: the same where a plan may change weights unless told otherwise."""

    def __init__(self, *, unbalanced=1.0, **known):
        super().__init__(unbalanced=unbalanced, **known)
