"""The training loop of the energy methods: many members side by side, each stopped on its own.

A step of a method lowers the losses of all members at once; since no member's loss depends on another's weights, the
gradient of their sum is everybody's own. What Adam and the clipping of gradients do is done for each member.
"""

import math
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from snapdyn import checkpoint

EPSILON = 1e-8  # of Adam


class Player:
    """Networks that lower one loss by Adam, a learner for each member.

    Their weights become views of one tensor ``(members, count)``, so that a step of Adam is a few operations however
    many weights there are.

    Args:
        parameters: all with the members as first axis.
        paces: what the step size is multiplied by for each of them; 1 if left out.
        rate: step size.
        betas: decay of the running means of gradient and squared gradient.
        clip: largest norm of a member's gradient; None for no bound.
        average: decay of the running mean of the weights, which is what is judged and kept; 0 for the weights
            themselves.
    """

    def __init__(self, parameters, *, paces=None, rate=1e-3, betas=(0.9, 0.999), clip=None, average=0.0):
        parameters = list(parameters)
        paces = paces or [1.0] * len(parameters)
        learned = [(p, pace) for p, pace in zip(parameters, paces, strict=True) if p.requires_grad]
        self.parameters = [p for p, _ in learned]
        members = {len(p) for p in self.parameters}
        if len(members) != 1:
            raise ValueError(f"expected parameters with one number of members as first axis, got {sorted(members)}")
        self.rate, self.betas, self.clip, self.average = rate, betas, clip, average
        self.weights = torch.cat(
            [p.detach().flatten(1) if p.ndim > 1 else p.detach()[:, None] for p in self.parameters], 1
        )
        self._place(self.weights)
        even = all(pace == 1.0 for _, pace in learned)
        self.pace = None if even else torch.cat([torch.full_like(p[0].flatten(), pace) for p, pace in learned])
        self.first, self.second = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        self.mean = self.weights.clone() if average else None
        self.count = 0

    @property
    def members(self):
        return len(self.weights)

    def _place(self, flat):
        """Let the parameters be views of ``flat``."""
        left = 0
        for parameter in self.parameters:
            right = left + parameter[0].numel()
            parameter.data = flat[:, left:right].view(parameter.shape)
            left = right

    def descend(self, losses: Tensor, share=1.0) -> Tensor:
        """One step of Adam down the losses ``(members,)``, of ``share`` times the rate.

        Returns:
            which members' gradients were finite ``(members,)``; the others have not moved.
        """
        slopes = torch.autograd.grad(losses.sum(), self.parameters, materialize_grads=True)
        with torch.no_grad():
            slope = torch.cat([s.reshape(self.members, -1) for s in slopes], 1)
            norm = slope.norm(dim=1, keepdim=True)
            finite = torch.isfinite(norm)
            if self.clip:
                slope *= (self.clip / norm).clamp_max(1.0)
            slope = torch.where(finite, slope, 0.0)
            self.count += 1
            (keep, keep_square), count = self.betas, self.count
            self.first.lerp_(slope, 1 - keep)
            self.second.mul_(keep_square).addcmul_(slope, slope, value=1 - keep_square)
            spread = (self.second / (1 - keep_square**count)).sqrt_().add_(EPSILON)
            step = torch.where(finite, self.first / spread, 0.0)
            if self.pace is not None:
                step *= self.pace
            self.weights.add_(step, alpha=-share * self.rate / (1 - keep**count))
            if self.average:
                self.mean.lerp_(self.weights, 1 - min(self.average, count / (count + 10)))
        return finite[:, 0]

    @property
    def judged(self):
        """The weights that count ``(members, count)``: the running mean where there is one."""
        return self.weights if self.mean is None else self.mean

    @contextmanager
    def shown(self):
        """A context in which the networks have the weights that count."""
        self._place(self.judged)
        try:
            yield
        finally:
            self._place(self.weights)

    def finish(self, flat):
        """Give the networks weights of their own, ``flat (members, count)``."""
        self._place(flat)
        for parameter in self.parameters:
            parameter.data = parameter.data.clone()

    def state(self):
        """What a checkpoint needs to go on."""
        kept = {name: getattr(self, name) for name in ("weights", "first", "second", "mean")}
        return kept | {"count": self.count}

    def restore(self, state):
        self.count = state["count"]
        for name in ("weights", "first", "second", "mean"):
            if state[name] is not None:
                getattr(self, name).copy_(state[name])


@dataclass(frozen=True)
class Recipe:
    """How long to train.

    Attributes:
        steps: at most.
        every: steps between two looks at the validation loss; each is a row of the history.
        patience: looks without a better one before a member stops; None for never.
        fall: whether the rate falls to 0 as a cosine, or stays.
    """

    steps: int = 2000
    every: int = 50
    patience: int | None = 10
    fall: bool = False

    def share(self, step):
        """The rate of step ``step``, counted from 1, as a share of the player's own."""
        return 0.5 * (1 + math.cos(math.pi * (step - 1) / self.steps)) if self.fall else 1.0


@dataclass(eq=False)
class Outcome:
    """What :func:`train` leaves beside the weights.

    Attributes:
        history: rows ``(member, step, term, value, split)``.
        kept: the step whose weights each member keeps, a list of numbers.
        validation: the validation loss there, or None.
        stopped: the step at which each member stopped, or the last one.
    """

    history: list
    kept: list
    validation: list | None
    stopped: list

    def diagnostics(self):
        """One mapping for each member, name -> number."""
        found = [{"kept_step": float(k), "last_step": float(s)} for k, s in zip(self.kept, self.stopped, strict=True)]
        if self.validation is not None:
            for said, loss in zip(found, self.validation, strict=True):
                said["validation_loss"] = loss
        return found


@dataclass(eq=False)
class _Progress:
    """What changes from look to look; tensors ``(members,)``."""

    rows: list = field(default_factory=list)  # (step, split, term, values) of every look
    sums: dict = field(default_factory=dict)
    summed: int = 0
    best: Tensor | None = None  # validation loss
    weights: list | None = None  # of each player, where that was
    kept: Tensor | None = None
    stale: Tensor | None = None
    stopped: Tensor | None = None  # step, 0 for those at work
    lost: Tensor | None = None  # whose gradient was not finite since the last look
    over: bool = False


def train(
    players,
    step,
    recipe,
    *,
    validate=None,
    witness=None,
    draws=(),
    keep=checkpoint.NOWHERE,
    name="train",
    progress=None,
):
    """Take steps until all members have stopped, and leave each with the weights that were best on validation rows.

    A member that stops keeps its best weights, whatever the others do. One whose gradient is no longer finite stops
    there, too. Without validation everybody takes all steps and keeps the last weights.

    Args:
        players: list of :class:`Player`.
        step: ``(number, share) -> (losses, finite)``: takes one step of the method, ``share`` of the players' rates;
            returns term -> losses ``(members,)`` for the history, and which members' gradients were finite
            ``(members,)``.
        validate: ``() -> losses (members,)`` of the players' weights as they are.
        witness: ``() -> {name: (members,)}`` of those weights, for the history alone, see :mod:`snapdyn.witness`.
        draws: whatever else has a state that decides the steps, each with ``state()`` and ``restore(state)``.
        keep: a :class:`snapdyn.checkpoint.Checkpoint`: a training that is interrupted goes on to the same bits.
        progress: ``(total, label) -> tqdm``.
    Returns:
        :class:`Outcome`.
    Raises:
        ValueError: a member's gradient is not finite before there are weights to keep.
    """
    members, device = players[0].members, players[0].weights.device
    empty = torch.zeros(members, dtype=torch.long, device=device)
    at = _Progress(kept=empty, stale=empty, stopped=empty, lost=empty > 0)

    def state():
        return {
            "players": [player.state() for player in players],
            "draws": [draw.state() for draw in draws],
            "at": vars(at),
        }

    with keep.loop(name, *(player.weights for player in players)) as loop:
        if loop.state:
            for own, kept in ((players, loop.state["players"]), (draws, loop.state["draws"])):
                for one, value in zip(own, kept, strict=True):
                    one.restore(value)
            at = _Progress(**_moved(loop.state["at"], device))
        bar = progress(recipe.steps, name) if progress else None
        if bar is not None:
            bar.update(loop.done)
        number = loop.done
        while number < recipe.steps and not at.over:
            number += 1
            losses, finite = step(number, recipe.share(number))
            for term, values in losses.items():
                values = values.detach()
                at.sums[term] = at.sums[term] + values if term in at.sums else values.clone()
            at.summed, at.lost = at.summed + 1, at.lost | ~finite
            if number % recipe.every == 0 or number == recipe.steps:
                _give_up(at, players, number, name)
                _look(at, players, recipe, validate, witness, number)
                at.over = bool((at.stopped > 0).all())
            if bar is not None:
                bar.update()
            loop.tick(number, state)
        if bar is not None:
            bar.close()
    for place, player in enumerate(players):
        player.finish(player.judged if at.weights is None else at.weights[place])
    stopped = torch.where(at.stopped > 0, at.stopped, number)
    history = [
        [member, when, term, value, split]
        for when, split, term, values in at.rows
        for member, value in enumerate(values.tolist())
        if when <= stopped[member] and math.isfinite(value)
    ]
    kept = at.kept if validate else torch.full_like(at.kept, number)
    return Outcome(history, kept.tolist(), at.best.tolist() if at.best is not None else None, stopped.tolist())


def _give_up(at, players, number, name):
    """Stop members whose gradients were not finite, if they have weights to keep."""
    lost = at.lost & (at.stopped == 0)
    without = lost & (at.kept == 0)
    if bool(without.any()):
        raise ValueError(
            f"{name}: the loss or its gradient is not finite up to step {number} for the members "
            f"{without.nonzero()[:, 0].tolist()} of {len(lost)}: take a smaller rate (now "
            f"{', '.join(f'{player.rate:g}' for player in players)}), or look for rows far away from all others"
        )
    at.stopped, at.lost = torch.where(lost, number, at.stopped), torch.zeros_like(at.lost)


def _look(at, players, recipe, validate, witness, number):
    at.rows += [(number, "train", term, values / at.summed) for term, values in at.sums.items()]
    at.sums, at.summed = {}, 0
    with ExitStack() as stack, torch.no_grad():
        for player in players:
            stack.enter_context(player.shown())
        at.rows += [(number, "test", term, values) for term, values in (witness() if witness else {}).items()]
        if validate is None:
            return
        found = validate().detach()
    at.rows.append((number, "validation", "loss", found))
    if at.best is None:
        at.best = torch.full_like(found, torch.inf)
        at.weights = [player.judged.clone() for player in players]
    at_work = at.stopped == 0
    better = at_work & (found < at.best)
    at.best = torch.where(better, found, at.best)
    at.kept = torch.where(better, number, at.kept)
    at.weights = [
        torch.where(better[:, None], player.judged, held) for player, held in zip(players, at.weights, strict=True)
    ]
    at.stale = torch.where(better, 0, at.stale + 1)
    if recipe.patience is not None:
        at.stopped = torch.where(at_work & (at.stale >= recipe.patience), number, at.stopped)


def _moved(value, device):
    if isinstance(value, dict):
        return {key: _moved(entry, device) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_moved(entry, device) for entry in value]
    return value.to(device) if torch.is_tensor(value) else value
