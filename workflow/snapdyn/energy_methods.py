"""Methods that learn the energy behind timed snapshots: one batched training for all courses of an experiment."""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch

from snapdyn import checkpoint, energy_models, reliability
from snapdyn.courses import Courses
from snapdyn.energies import Energy

JUDGED = 500  # training rows of each time at which a fitted energy's implicit step is judged
COLUMNS = ("member", "step", "term", "value", "split")


@dataclass(eq=False)
class Trained:
    """What a training gives for all its members.

    Attributes:
        energy: with as many members as there are courses, on any device.
        diagnostics: name -> number, for each member.
        history: rows ``(member, step, term, value, split)``, one loss term of one member at one step.
    """

    energy: Energy
    diagnostics: list
    history: list = field(default_factory=list)


class EnergyMethod:
    """Base of the methods that learn energies: what they share is data in, models out; how they train is their own.

    Args:
        axes, time_unit: of the data.
        terms: of ``potential``, ``interaction``, ``entropy``.
        timed: whether the potential depends on time.
        hidden: widths of the networks' hidden layers.
        steps, batch, rate: of the optimiser: steps at most, rows a step, step size.
        validation: share of the training rows that only decide when to stop, each member on its own; 0 trains all
            steps on all rows.
        shrink: whether the force is scaled down by its reliability, the share of it that two halves of the rows agree
            on, see :mod:`snapdyn.reliability`; potentials alone, three times the work.
        step, between: how the model predicts, see :class:`snapdyn.energy_models.EnergyModel`; the step whose condition
            was fitted if not given.
    """

    substeps = 1  # of the scheme between two observed times
    witness = None  # of the training under way, see fit_many

    def __init__(
        self,
        *,
        axes,
        time_unit=None,
        terms=("potential",),
        timed=False,
        hidden=(64, 64),
        steps=2000,
        batch=250,
        rate=1e-3,
        validation=0.15,
        shrink=False,
        step=None,
        between="scheme",
    ):
        self.axes, self.time_unit = list(axes), time_unit
        self.terms, self.timed, self.hidden = tuple(terms), bool(timed), tuple(hidden)
        for name, value in (
            ("steps", steps),
            ("batch", batch),
            *(("hidden", width) for width in self.hidden),
        ):
            if not (isinstance(value, int) and value >= 1):
                raise ValueError(f"expected a whole number, 1 or more, for {name}, got {value}")
        if not (rate > 0 and 0 <= validation < 1):
            raise ValueError(f"expected rate above 0 and validation in [0, 1), got {rate} and {validation}")
        for name, value, known in (("step", step, energy_models.STEPS), ("between", between, energy_models.BETWEEN)):
            if value not in known and (name, value) != ("step", None):
                raise ValueError(f"expected {name} of {known}, got {value!r}")
        if shrink and self.terms != ("potential",):
            raise ValueError(f"shrink: true is for a potential alone, got the terms {list(self.terms)}; leave it out")
        self.steps, self.batch, self.rate, self.validation, self.shrink = steps, batch, rate, validation, bool(shrink)
        self.step, self.between = step, between

    def train(self, courses, *, seeds, validation=None, device, keep, progress):
        """Train one energy for each course, side by side.

        Args:
            courses: :class:`snapdyn.courses.Courses` on the device.
            seeds: of each member's start and batches: a member depends on its own alone.
            validation: the rows that decide when to stop, in the same coordinates; None trains to the end.
            keep: a :class:`snapdyn.checkpoint.Checkpoint`.
            progress: function ``(iterable or total, label)`` that returns a bar like tqdm's.
        Returns:
            :class:`Trained`.
        """
        raise NotImplementedError

    def fresh(self, courses, seeds):
        """Networks before any training, on the device of the courses."""
        energy = Energy.build(courses.dim, seeds=seeds, terms=self.terms, timed=self.timed, hidden=self.hidden)
        return energy.to(courses.x[0].device)

    def fit(self, snapshots, *, rng, device="cpu", keep=checkpoint.NOWHERE, progress=None):
        """Fit the training rows of one course; see :class:`snapdyn.energy_models.EnergyModel`."""
        seeds = [int(rng.integers(2**31))]
        return self.fit_many([snapshots], seeds=seeds, device=device, keep=keep, progress=progress)[0]

    def fit_many(self, snapshots, *, seeds, device="cpu", keep=checkpoint.NOWHERE, progress=None, witness=None):
        """Fit the training rows of several courses as one program; courses of different sizes take one each.

        Args:
            snapshots: one :class:`snapdyn.snapshots.Snapshots` for each course.
            seeds: one for each course.
            device: ``cpu`` or ``cuda``.
            keep: a :class:`snapdyn.checkpoint.Checkpoint`: the courses of one size are a part of it.
            progress: see :meth:`train`.
            witness: ``(places, stacked courses) -> witness``, see :mod:`snapdyn.witness`; or None.
        Returns:
            a :class:`snapdyn.energy_models.EnergyModel` for each.
        """
        rows, seeds = [_usable(course) for course in snapshots], [int(seed) for seed in seeds]
        offers = {"device": device, "keep": keep, "progress": progress or _silent}
        found = self._trained(rows, seeds, witness=witness, **offers)
        if self.shrink:
            halved = [reliability.halves(course, seed) for course, seed in zip(rows, seeds, strict=True)]
            parts = [half for both in halved for half in both]
            of_halves = self._trained(parts, [own for seed in seeds for own in reliability.seeds(seed)], **offers)
            models = [self.model(**one) for one in of_halves]
            for place, one in enumerate(found):
                share = reliability.factor(rows[place], *models[2 * place : 2 * place + 2])
                one["diagnostics"]["reliability"] = share
                one["energy"].potential = one["energy"].potential.scaled(share)
        return [self.model(**one) for one in found]

    def _trained(self, rows, seeds, *, device, keep, progress, witness=None):
        """What :meth:`model` makes a model of, for each course."""
        groups = {}
        for place, course in enumerate(rows):
            groups.setdefault(_size(course), []).append(place)
        found = [None] * len(rows)
        for size, places in groups.items():
            own, chosen = [rows[place] for place in places], [seeds[place] for place in places]
            courses = Courses.stacked(own, device=device)
            self.witness = witness and witness(places, courses)

            def part(courses=courses, chosen=chosen):
                fitted, held = courses, None
                if self.validation:
                    fitted, held = held_back(courses, self.validation, chosen)
                offers = {"device": device, "keep": keep, "progress": progress}
                trained = self.train(fitted, seeds=chosen, validation=held, **offers)
                history = pd.DataFrame(trained.history, columns=COLUMNS)
                return trained.energy.cpu().state(), list(trained.diagnostics), history

            state, diagnostics, history = keep.part(f"courses of {size}", part)
            energy = Energy.from_state(state)
            for member, place in enumerate(places):
                mine = history[history["member"] == member].assign(member=0)
                about = {"energy": energy.member(member), "courses": courses, "member": member, "history": mine}
                found[place] = about | {"diagnostics": dict(diagnostics[member])}
        return found

    def model(self, energy, courses, member, diagnostics, history):
        """One member as a model, with what its implicit step is worth at the training rows."""
        explicit = getattr(self, "gradient_at", "target") == "source"
        step = self.step or ("explicit" if explicit else "implicit")
        model = energy_models.EnergyModel(
            energy,
            times=courses.times,
            clock=courses.clock,
            centre=courses.centre[member],
            scale=courses.scale[member],
            axes=self.axes,
            time_unit=self.time_unit,
            step=step,
            between=self.between,
            substeps=self.substeps,
            diagnostics=dict(diagnostics),
            history=history.to_dict("list") if len(history) else None,
        )
        if step == "implicit":
            model.diagnostics["step_residual"] = _step_residual(model, courses, member)
        return model


def _step_residual(model, courses, member):
    """The largest residual of the implicit step from training rows of every time but the last, in the data's unit."""
    worst = 0.0
    for k, x in enumerate(courses.x[:-1]):
        x = courses.centre[member] + courses.scale[member] * x[member, :JUDGED].double().cpu().numpy()
        model.simulate(x, courses.times[k : k + 2])
        worst = max(worst, model.step_residual)
    return worst


def held_back(courses, share, seeds):
    """Courses without a share of the rows of each time, and those rows, in the same coordinates.

    Args:
        share: of the rows of each time, in (0, 1); both parts keep two rows at least.
        seeds: of each member's choice.
    Returns:
        two :class:`snapdyn.courses.Courses`.
    """
    order = [np.random.default_rng([1, seed]) for seed in seeds]
    parts = ([], []), ([], [])
    for k, (x, weight) in enumerate(zip(courses.x, courses.weight, strict=True)):
        n = x.shape[1]
        count = max(2, round(share * n))
        if n - count < 2:
            raise ValueError(
                f"a share of {share:g} for validation leaves {n - count} of the {n} training rows at "
                f"t = {courses.times[k]:g}; set validation: 0, or give more rows"
            )
        shuffled = torch.stack([torch.from_numpy(rng.permutation(n)) for rng in order]).to(x.device)
        for rows, (places, masses) in zip((shuffled[:, count:], shuffled[:, :count]), parts, strict=True):
            mass = weight.gather(1, rows)
            places.append(x.gather(1, rows[..., None].expand(-1, -1, x.shape[2])))
            masses.append(mass / mass.sum(1, keepdim=True))
    fitted, held = (replace(courses, x=places, weight=masses) for places, masses in parts)
    return fitted, held


def _usable(snapshots):
    """The training rows that weigh something, if an energy can be learned from them."""
    data = snapshots.select(split="train")
    data = data.where(data.weight > 0)
    if len(data.times) < 2:
        raise ValueError(
            f"an energy needs training rows at two times at least, got {len(data.times)}; for one stationary cloud "
            "take a method that estimates its drift or density"
        )
    if few := [f"{t:g}: {int((data.t == t).sum())}" for t in data.times if (data.t == t).sum() < 2]:
        raise ValueError(f"an energy needs two training rows at each time at least, got {few}")
    return data


def _size(data):
    """What courses of one program share, as text."""
    counts = ", ".join(f"{int((data.t == t).sum())} at {t:g}" for t in data.times)
    return f"{counts}; {data.dim} axes"


def _silent(iterable_or_total, label):
    """A progress bar that shows nothing, for fits outside a job."""
    from tqdm import tqdm

    counted = isinstance(iterable_or_total, int)
    return tqdm(**{"total" if counted else "iterable": iterable_or_total}, desc=label, disable=True)
