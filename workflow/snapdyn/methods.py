"""The methods by name: what each needs, what it takes, and how to make it. Imports no torch itself.

A method is a class with ``fit(snapshots, *, rng, ...) -> model``. The table (:mod:`snapdyn.method_table`) says which
data it fits, so that a method that cannot work is refused when the graph is built, with one that can.
"""

import difflib
import importlib.util
import inspect
from dataclasses import dataclass
from pathlib import Path

from snapdyn import codebase
from snapdyn.method_table import METHODS


@dataclass(frozen=True)
class Facts:
    """What is known of a data set before any of it is read."""

    timed: bool
    dim: int | None = None
    paths: bool = False

    @property
    def kind(self):
        return "timed" if self.timed else "stationary"


def has_unknowns(drift):
    """Whether a drift entry of the config leaves numbers open; libraries from outside count as complete until built."""
    library = str(drift.get("library", ""))
    return library in ("polynomial", "affine") or bool(drift.get("terms") or drift.get("only"))


def misfit(name, facts, *, drift=None, diffusivity=None, options=None):
    """Why the method ``name`` cannot work on such data, as a sentence; None if it can.

    Args:
        options: what the config sets, where that decides what the method needs.
    """
    method = METHODS[name]
    if method.gives == "density":
        return _density_misfit(name, facts, drift, diffusivity, options)
    if method.data == "trajectories" and not facts.paths:
        return (
            f"{name} needs trajectories, but the rows of this data set have no order in time (only a simulated system "
            "can give trajectories: paths: {every: 0.01, records: 100})"
        )
    if method.data not in ("either", "trajectories", facts.kind):
        other = "has no times (give the data set a time_key)" if method.data == "timed" else "has times"
        return f"{name} needs {method.data} data, but the data set {other}"
    if method.gives == "energy":
        return _energy_misfit(name, facts, drift, diffusivity, options)
    if method.takes_drift and drift is None:
        return f"{name} needs a drift library, for example drift: {{library: polynomial, degree: 2}}"
    if method.takes_drift and drift.get("library") == "custom" and not drift.get("terms"):
        return (
            f"{name} looks for coefficients, but the custom library has no terms, for example "
            "{a: ['-x', '0'], b: ['0', '-y']}"
        )
    if method.takes_drift and diffusivity is None:
        joint = " or `unknown`" if method.joint_diffusivity else ""
        return f"{name} needs a diffusivity: a number above 0{joint}"
    if diffusivity == "unknown" and method.takes_drift and not method.joint_diffusivity:
        return f"{name} needs a known diffusivity, got `unknown`"
    if isinstance(diffusivity, list) and not method.matrix_diffusivity:
        able = [other for other, its in METHODS.items() if its.matrix_diffusivity and its.gives == "drift"]
        return f"{name} needs one number for the diffusivity, got a matrix; {', '.join(able)} take one"
    if not method.takes_drift and drift is not None and drift.get("library") != "affine":
        return f"{name} fits a linear drift only, so it takes no drift library"
    return None


def _energy_misfit(name, facts, drift, diffusivity, options):
    """:func:`misfit` of a method that gives an energy."""
    most = METHODS[name].most_axes
    if drift is not None:
        return f"{name} learns an energy, so it takes no drift library"
    if diffusivity is not None:
        noisy = "jkonet-star, jkonet-star-vu and ijkonet learn one"
        return f"{name} learns an energy, so it takes no diffusivity; {noisy}"
    if most and (facts.dim or 0) > most and not {"degree", "grid"} & set(options or {}):
        return (
            f"{name} has features for {most} dimensions at most, the data have {facts.dim}: set degree and grid to "
            "fewer, for example options: {degree: 2, grid: 2}, or take jkonet-star-v"
        )
    return None


def _density_misfit(name, facts, drift, diffusivity, options):
    """:func:`misfit` of a method that gives a density: it needs a drift only if it learns from one."""
    method = METHODS[name]
    learns = method.learns_from_dynamics(options)
    if facts.timed and (learns or method.data == "stationary"):
        return f"{name} needs stationary data, but the data set has times: it learns from dynamics at rest"
    if method.most_axes and (facts.dim or 0) > method.most_axes:
        return f"{name} works in {method.most_axes} dimensions at most, the data have {facts.dim}; take mixture-flow"
    if not learns:
        return None
    if drift is None or has_unknowns(drift):
        lacking = "a drift" if drift is None else "a drift without unknown numbers"
        return (
            f"{name} learns from the dynamics, so it needs {lacking}: a system, for example drift: {{library: hopf}}, "
            "or drift: {library: custom, known: ['y', '-x']} with no terms"
        )
    if not isinstance(diffusivity, (int, float, list) if method.matrix_diffusivity else (int, float)):
        return f"{name} learns from the dynamics, so it needs a known diffusivity: a number above 0"
    return None


def gives(name):
    """What a method gives: ``drift``, which every class from outside counts as, ``energy`` or ``density``."""
    return METHODS[name].gives if name in METHODS else "drift"


def giving(what):
    """Names of the methods that give ``what``."""
    return [name for name, method in METHODS.items() if method.gives == what]


def trains_many(name):
    """Whether a method trains many courses as one program: its class has ``fit_many``."""
    return gives(name) == "energy"


def fitting(facts, *, drift=None, diffusivity=None):
    """Names of the methods that would work on such data."""
    return [name for name in METHODS if misfit(name, facts, drift=drift, diffusivity=diffusivity) is None]


def all_of(facts, *, drift=None, diffusivity=None):
    """What ``methods: all`` stands for: the methods that fit, each estimator once."""
    return [name for name in fitting(facts, drift=drift, diffusivity=diffusivity) if METHODS[name].in_all]


def is_custom(name):
    """Whether ``name`` is the import path of a class from outside, such as ``my_methods:Mine``."""
    return ":" in name


def unknown(name):
    """A sentence about a name that is no method; None if it is one (or an import path)."""
    if name in METHODS or is_custom(name):
        return None
    near = difflib.get_close_matches(name, METHODS, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown method {name!r}{hint} (known: {list(METHODS)}, or an import path package.module:Class)"


def resolve(name):
    """The class behind a method's name or import path."""
    if is_custom(name):
        module, _, cls = name.partition(":")
        try:
            return getattr(importlib.import_module(module), cls)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"cannot import the method {name!r}: {error}. Is its folder on PYTHONPATH?") from None
    module, cls = METHODS[name].target.split(":")
    return getattr(importlib.import_module(f"snapdyn.{module}"), cls)


def takes_device(name):
    """Whether a method can use a GPU: its ``fit`` takes a device. Reads its source and imports nothing.

    A class from outside whose source is not at hand counts as one that can.
    """
    if not is_custom(name):
        module, cls = METHODS[name].target.split(":")
        return codebase.accepts(Path(__file__).with_name(f"{module}.py"), cls, "fit", "device")
    module, _, cls = name.partition(":")
    spec = importlib.util.find_spec(module)
    source = spec.origin if spec and str(spec.origin).endswith(".py") else None
    return codebase.accepts(source, cls, "fit", "device") if source else True


def contract_faults(cls):
    """What a class lacks to be a method, as sentences; empty if it has it all."""
    found = []
    fit = getattr(cls, "fit", None)
    if not callable(fit):
        return [f"{cls.__name__} has no method fit(snapshots, *, rng) that returns a model"]
    parameters = inspect.signature(fit).parameters
    positional = [p for p in parameters.values() if p.kind is not p.KEYWORD_ONLY and p.kind is not p.VAR_KEYWORD]
    if len(positional) != 2:
        found.append(f"{cls.__name__}.fit must take one positional argument, the snapshots, got {list(parameters)[1:]}")
    if "rng" not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        found.append(f"{cls.__name__}.fit must accept rng= (a numpy Generator), so that fits can be repeated")
    return found


def model_faults(model, *, stationary=False):
    """What a fitted model lacks: a way to move points, and for a stationary cloud what judges it.

    A density is asked for no movement: it is judged by its ``log_prob``.

    Args:
        stationary: whether it was fitted to one stationary cloud, where only the drift can be judged, on the
            saved model.
    """
    name = type(model).__name__
    if getattr(model, "kind", None) == "density":
        return []
    if stationary:
        lacking = [what for what in ("drift", "state", "from_state") if not callable(getattr(model, what, None))]
        return (
            [f"{name} lacks {lacking}: on a stationary cloud a model is judged by its drift(t, x)"] if lacking else []
        )
    if any(callable(getattr(model, what, None)) for what in ("velocity", "drift", "simulate")):
        return []
    return [f"{name} has none of velocity(t, x), drift(t, x), simulate(x0, times, rng)"]


def make(name, *, axes, time_unit=None, drift=None, diffusivity=None, options=None):
    """An unfitted method.

    Args:
        axes: names of the coordinates.
        drift: drift library of the config, for methods that take one.
        diffusivity: number or ``"unknown"``.
        options: what the config sets.
    Raises:
        ValueError: a class that breaks the contract, or options that it does not take.
    """
    options = dict(options or {})
    cls = resolve(name)
    if faults := contract_faults(cls):
        raise ValueError("; ".join(faults))
    taken = inspect.signature(cls).parameters.values()
    allowed = [p.name for p in taken] if is_custom(name) else list(METHODS[name].options)
    open_ended = is_custom(name) and any(p.kind is p.VAR_KEYWORD for p in taken)
    if not open_ended and (extra := sorted(set(options) - set(allowed))):
        raise ValueError(f"{name} has no options {extra}; it takes {allowed}")
    if is_custom(name):
        return cls(**options)
    method = METHODS[name]
    if method.gives == "density":
        known = _dynamics(drift, axes, time_unit, diffusivity) | {"diffusivity": diffusivity}
        return cls(axes=axes, time_unit=time_unit, **known, **method.fixed, **options)
    if method.takes_drift:
        from snapdyn import drifts

        terms = drifts.build(drift, axes=axes, time_unit=time_unit)
        if isinstance(options.get("growth"), dict):
            options["growth"] = drifts.Growth.from_expressions(**options["growth"], axes=axes)
        return cls(terms, diffusivity=diffusivity, **method.fixed, **options)
    return cls(axes=axes, time_unit=time_unit, **method.fixed, **options)


def _dynamics(drift, axes, time_unit, diffusivity):
    """A drift entry as a density's method takes it: the terms to look for, and the whole drift where it is known."""
    if drift is None:
        return {}
    from snapdyn import drifts

    terms = drifts.build(drift, axes=axes, time_unit=time_unit)
    whole = drifts.complete(drift, axes=axes, time_unit=time_unit, diffusivity=diffusivity)
    return {"drift": terms, "dynamics": whole}


def fit(
    name,
    snapshots,
    *,
    rng,
    drift=None,
    diffusivity=None,
    options=None,
    precision="float64",
    device="cpu",
    threads=1,
    keep=None,
    progress=None,
):
    """Fit the method ``name`` to ``snapshots`` and return its model.

    The method gets the device, the threads, the precision, ``keep`` (where a long fit leaves what it has done so
    far, see :class:`snapdyn.checkpoint.Checkpoint`) and ``progress`` (which makes a bar like tqdm's of an iterable or
    a total, and a label) if its ``fit`` takes them. Models that name their
    drift library carry its description, so that they can be rebuilt from a file.
    """
    axes, time_unit = snapshots.meta["axes"], snapshots.meta.get("time_unit")
    method = make(name, axes=axes, time_unit=time_unit, drift=drift, diffusivity=diffusivity, options=options)
    accepted = inspect.signature(method.fit).parameters
    offers = {"rng": rng, "device": device, "threads": threads, "precision": precision}
    offers |= {name: offer for name, offer in (("keep", keep), ("progress", progress)) if offer}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    model = method.fit(snapshots, **{k: v for k, v in offers.items() if open_ended or k in accepted})
    if faults := model_faults(model):
        raise ValueError("; ".join(faults))
    if hasattr(model, "description"):
        model.description = {"spec": drift, "axes": list(axes), "time_unit": time_unit}
    return model


def fit_many(name, courses, *, seeds, options=None, device="cpu", keep=None, progress=None, witness=None):
    """Fit the method ``name`` to many courses as one program; see :func:`trains_many`.

    Args:
        courses: one :class:`snapdyn.snapshots.Snapshots` for each, of the same axes.
        seeds: of each fit.
        options, device, keep, progress: as for :func:`fit`.
        witness: see :mod:`snapdyn.witness`.
    Returns:
        a model for each course.
    """
    axes, time_unit = courses[0].meta["axes"], courses[0].meta.get("time_unit")
    method = make(name, axes=axes, time_unit=time_unit, options=options)
    offers = {"keep": keep, "progress": progress, "witness": witness}
    offers = {name: offer for name, offer in offers.items() if offer}
    return method.fit_many(courses, seeds=seeds, device=device, **offers)
