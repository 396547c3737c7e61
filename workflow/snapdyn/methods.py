"""The methods by name: what each needs, what it takes, and how to make it. Imports no torch itself.

A method is a class with ``fit(snapshots, *, rng, ...) -> model``. The table says which data it fits, so that
a method that cannot work is refused when the graph is built, with one that can.
"""

import difflib
import importlib.util
import inspect
from dataclasses import dataclass, field
from pathlib import Path

from snapdyn import codebase

KERNEL = {
    "bandwidth": "a number, one per axis, or density | score | divergence | wide",
    "probes": "how many data points the equation is checked at",
}
TESTS = {
    "tests": "test functions: monomials | gaussians | mixed | phases (for drifts with rotating drivers)",
    "degree": "highest degree of the test monomials",
    "harmonics": "highest angular mode of `phases`",
    "count": "how many `gaussians`",
    "width": "their width, in standard deviations of each axis",
    "growth": "birth rate of timed populations: {terms: {name: expression}, known: expression}",
    "iterations": "re-weighting steps",
}
OPTIMISER = {
    "starts": "random starting points",
    "low": "lower end of the starts, every coefficient",
    "high": "upper end of the starts",
    "rate": "first step size; falls linearly to 0",
    "batch": "probing points a step",
    "epochs": "passes over the probing points",
}


@dataclass(frozen=True)
class Method:
    """One line of the table of methods.

    Attributes:
        target: ``module:Class`` in snapdyn.
        data: ``stationary``, ``timed``, ``either`` of them, or ``trajectories``.
        does: one sentence for the table in the README.
        options: what the config may set, with a word on each.
        fixed: constructor arguments that make this method of its class.
        takes_drift: needs a drift library and a diffusivity.
        joint_diffusivity: accepts ``diffusivity: unknown``.
        matrix_diffusivity: accepts a matrix.
    """

    target: str
    data: str
    does: str
    options: dict = field(default_factory=dict)
    fixed: dict = field(default_factory=dict)
    takes_drift: bool = True
    joint_diffusivity: bool = False
    matrix_diffusivity: bool = False

    @property
    def module(self):
        return self.target.split(":")[0]


def _kernel(solver, convolved, does):
    extra = OPTIMISER if solver == "adam" else {}
    return Method(
        "fokker_planck:KernelMethod",
        "stationary",
        does,
        KERNEL | extra,
        {"solver": solver, "convolved": convolved},
    )


METHODS = {
    "kde-adam": _kernel("adam", False, "plain kernel score, the paper's optimiser (biased; for comparison)"),
    "kde-l1": _kernel("l1", False, "plain kernel score, exact L1 minimum (biased; for comparison)"),
    "kde-lstsq": _kernel("lstsq", False, "plain kernel score, closed form (biased; for comparison)"),
    "convolved-l1": _kernel("l1", True, "convolved equation, exact L1 minimum: no bandwidth bias"),
    "convolved-lstsq": _kernel("lstsq", True, "convolved equation, closed form: no bandwidth bias"),
    "moments": Method(
        "moments:Moments",
        "either",
        "optimally weighted moments: any affine drift, standard errors, a test of the model",
        TESTS,
        {"sparse": False, "threshold": None},
        joint_diffusivity=True,
        matrix_diffusivity=True,
    ),
    "moments-sparse": Method(
        "moments:Moments",
        "either",
        "the same, then drops terms of the library that are not needed, weakest first",
        TESTS | {"threshold": "a term stays if it exceeds this many standard errors"},
        {"sparse": True},
        joint_diffusivity=True,
        matrix_diffusivity=True,
    ),
    "kds": Method(
        "kds:KernelDeviation",
        "stationary",
        "kernel deviation from stationarity (KDS), exact minimum over pairs of points",
        {
            "bandwidth": KERNEL["bandwidth"],
            "statistic": "u (pairs of different points) or v (all pairs: biased, but always a minimum)",
            "points": "at most this many rows, drawn at random, since the cost is quadratic",
        },
    ),
    "affine-propagation": Method(
        "propagation:AffinePropagation",
        "timed",
        "linear drift and diffusivity between snapshots, carried exactly over any gap; standard errors",
        {"restarts": "starting points of the optimiser"},
        takes_drift=False,
    ),
    "sindy": Method(
        "trajectories:SparseRegression",
        "trajectories",
        "sparse regression of forward differences (SINDy, by pysindy): sees time, for reference",
        {
            "threshold": "smaller coefficients are set to 0; 0 keeps all",
            "ridge": "penalty on squared coefficients while thresholding",
            "order": "order of the forward difference, 1 or 2",
        },
    ),
}


@dataclass(frozen=True)
class Facts:
    """What is known of a data set before any of it is read."""

    timed: bool
    dim: int | None = None
    paths: bool = False

    @property
    def kind(self):
        return "timed" if self.timed else "stationary"


def misfit(name, facts, *, drift=None, diffusivity=None):
    """Why the method ``name`` cannot work on such data, as a sentence; None if it can."""
    method = METHODS[name]
    if method.data == "trajectories" and not facts.paths:
        return (
            f"{name} needs trajectories, but the rows of this data set have no order in time (only a simulated system "
            "can give trajectories: paths: {every: 0.01, records: 100})"
        )
    if method.data not in ("either", "trajectories", facts.kind):
        other = "has no times (give the data set a time_key)" if method.data == "timed" else "has times"
        return f"{name} needs {method.data} data, but the data set {other}"
    if method.takes_drift and drift is None:
        return f"{name} needs a drift library, for example drift: {{library: polynomial, degree: 2}}"
    if method.takes_drift and diffusivity is None:
        joint = " or `unknown`" if method.joint_diffusivity else ""
        return f"{name} needs a diffusivity: a number above 0{joint}"
    if diffusivity == "unknown" and method.takes_drift and not method.joint_diffusivity:
        return f"{name} needs a known diffusivity, got `unknown`"
    if isinstance(diffusivity, list) and not method.matrix_diffusivity:
        able = [other for other, its in METHODS.items() if its.matrix_diffusivity]
        return f"{name} needs one number for the diffusivity, got a matrix; {', '.join(able)} take one"
    if not method.takes_drift and drift is not None and drift.get("library") != "affine":
        return f"{name} fits a linear drift only, so it takes no drift library"
    return None


def fitting(facts, *, drift=None, diffusivity=None):
    """Names of the methods that would work on such data."""
    return [name for name in METHODS if misfit(name, facts, drift=drift, diffusivity=diffusivity) is None]


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

    Args:
        stationary: whether it was fitted to one stationary cloud, where only the drift can be judged, on the
            saved model.
    """
    name = type(model).__name__
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
    if method.takes_drift:
        from snapdyn import drifts

        terms = drifts.build(drift, axes=axes, time_unit=time_unit)
        if isinstance(options.get("growth"), dict):
            options["growth"] = drifts.Growth.from_expressions(**options["growth"], axes=axes)
        return cls(terms, diffusivity=diffusivity, **method.fixed, **options)
    return cls(axes=axes, time_unit=time_unit, **options)


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
):
    """Fit the method ``name`` to ``snapshots`` and return its model.

    The method gets the device, the threads, the precision and ``keep`` (where a long fit leaves what it has done so
    far, see :class:`snapdyn.checkpoint.Checkpoint`) if its ``fit`` takes them. Models that name their
    drift library carry its description, so that they can be rebuilt from a file.
    """
    axes, time_unit = snapshots.meta["axes"], snapshots.meta.get("time_unit")
    method = make(name, axes=axes, time_unit=time_unit, drift=drift, diffusivity=diffusivity, options=options)
    accepted = inspect.signature(method.fit).parameters
    offers = {"rng": rng, "device": device, "threads": threads, "precision": precision}
    offers |= {"keep": keep} if keep else {}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    model = method.fit(snapshots, **{k: v for k, v in offers.items() if open_ended or k in accepted})
    if faults := model_faults(model):
        raise ValueError("; ".join(faults))
    if hasattr(model, "description"):
        model.description = {"spec": drift, "axes": list(axes), "time_unit": time_unit}
    return model
