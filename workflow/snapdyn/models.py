"""Fitted models: what ``snapdyn.load`` returns, and how they are saved without pickles."""

import importlib
import warnings

import numpy as np
import pandas as pd
import torch

from snapdyn import artifacts, drifts

# A file may name only these; a class from outside is imported only when the caller asks for it by name.
CLASSES = {
    "drift": "snapdyn.models:DriftModel",
    "affine-gaussian-process": "snapdyn.propagation:AffineModel",
    "density": "snapdyn.density_models:DensityModel",
    "energy": "snapdyn.energy_models:EnergyModel",
}
WEAKEST = "weakest: "  # before the name of an unknown, in the diagnostics: its part in the combination seen worst
ESCAPE = 100.0
STEPS_PER_GAP = 200  # Euler-Maruyama steps between two requested times


def checked_diffusivity(value, dim):
    """A positive number, or a symmetric positive definite matrix ``(dim, dim)`` as a float array.

    Raises:
        ValueError: anything else.
    """
    try:
        found = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        found = np.array(np.nan)
    if np.isfinite(found).all():
        if found.ndim == 0 and found > 0:
            return float(found)
        if found.shape == (dim, dim) and np.array_equal(found, found.T) and (np.linalg.eigvalsh(found) > 0).all():
            return found
    raise ValueError(
        f"diffusivity must be a number above 0 or a symmetric positive definite matrix ({dim}, {dim}), got {value}"
    )


def diffusion_matrix(value, dim):
    """The diffusivity as a matrix ``(dim, dim)``: itself, or the number times the identity."""
    value = np.asarray(value, dtype=np.float64)
    return value * np.eye(dim) if value.ndim == 0 else value


class DriftModel:
    """A fitted drift f = v + sum_k theta_k g_k with diffusivity D, a number or a matrix.

    Attributes:
        drift_terms: the :class:`snapdyn.drifts.AffineDrift`.
        coefficients, std_error: ``(count,)``; standard errors are NaN where the method has none.
        diffusivity, diffusivity_error: D in length^2 / time; its error is None where D was given.
        growth: ``(name, estimate, std_error)`` of each coefficient of the birth rate.
        clock: False where only ratios to the diffusivity are known: the drift is in units in which D = 1.
        diagnostics: name -> number (loss, J statistic, ..).
        history: columns member, step, term, value of an iterative fit, or None.
    """

    kind = "drift"

    def __init__(
        self,
        drift,
        coefficients,
        *,
        diffusivity,
        std_error=None,
        diffusivity_error=None,
        growth=(),
        clock=True,
        diagnostics=None,
        history=None,
    ):
        self.drift_terms = drift
        self.coefficients = np.asarray(coefficients, dtype=np.float64)
        self.std_error = np.full(drift.count, np.nan) if std_error is None else np.asarray(std_error)
        self.diffusivity = float(diffusivity) if np.ndim(diffusivity) == 0 else np.asarray(diffusivity)
        self.diffusivity_error, self.growth, self.clock = diffusivity_error, list(growth), clock
        self.diagnostics, self.history = diagnostics or {}, history
        self.description = None  # how to rebuild the drift; set by the registry for models that are saved

    @property
    def dim(self):
        return self.drift_terms.dim

    @property
    def parameters(self):
        """Frame with name, estimate, std_error and unit of every estimated number."""
        names, units = list(self.drift_terms.names), list(self.drift_terms.units)
        estimates, errors = self.coefficients.tolist(), self.std_error.tolist()
        if not self.clock:
            names, units = [f"{name} / D" for name in names], [f"({unit}) / (length^2/time)" for unit in units]
        for name, value, error in self.growth:
            names, units = [*names, name], [*units, "1/time (times the term's own unit)"]
            estimates, errors = [*estimates, value], [*errors, error]
        if self.diffusivity_error is not None:
            names, units = [*names, "diffusivity"], [*units, "length^2/time"]
            estimates, errors = [*estimates, self.diffusivity], [*errors, self.diffusivity_error]
        return pd.DataFrame({"name": names, "estimate": estimates, "std_error": errors, "unit": units})

    def drift(self, t, x):
        """f(x) ``(n, dim)`` at states ``x (n, dim)``, in the data's length / time."""
        coefficients = torch.from_numpy(self.coefficients)
        return self.drift_terms(coefficients, torch.as_tensor(np.asarray(x, dtype=np.float64))).numpy()

    def _has_no(self, name):
        raise NotImplementedError(
            f"this method estimates the drift only, so there is no {name}(t, x); use drift(t, x), or a method "
            "that also estimates the density (affine-propagation for timed data)"
        )

    def velocity(self, t, x):
        self._has_no("velocity")

    def score(self, t, x):
        self._has_no("score")

    def log_prob(self, t, x):
        self._has_no("log_prob")

    def potential(self, t, x):
        self._has_no("potential")

    def simulate(self, x0, times, rng=None):
        """Carry ``x0 (n, dim)`` from ``times[0]`` to every time by Euler-Maruyama: ``(len(times), n, dim)``.

        A polynomial drift may carry points to infinity in finite time. A point that leaves the start's
        neighbourhood by more than ``ESCAPE`` standard deviations stays where it left it, with a warning.
        """
        rng = rng or np.random.default_rng(0)
        x, path = np.array(x0, dtype=np.float64), [np.array(x0, dtype=np.float64)]
        span = float(np.ptp(times))
        if np.ndim(self.diffusivity):
            matrix = self.diffusivity
            amplitude = np.linalg.cholesky(2 * matrix)
        else:
            matrix = np.eye(self.dim) * max(self.diffusivity, 0.0)  # an estimate near 0 may fall below
            amplitude = np.sqrt(2 * matrix)
        travelled = np.median(np.abs(self.drift(None, x)), axis=0) * span + np.sqrt(2 * np.diag(matrix) * span)
        centre, reach = x.mean(0), ESCAPE * np.maximum(x.std(0), travelled)
        inside = np.ones(len(x), dtype=bool)
        for gap in np.diff(times):
            dt = gap / STEPS_PER_GAP
            for _ in range(STEPS_PER_GAP):
                noise = rng.standard_normal(x.shape)[inside]
                here = x[inside]
                moved = here + dt * self.drift(None, here) + np.sqrt(dt) * noise @ amplitude.T
                stays = (np.abs(moved - centre) <= reach).all(1)
                x[inside] = np.where(stays[:, None], moved, here)
                inside[inside] = stays
            path.append(x.copy())
        if not inside.all():
            warnings.warn(f"{int((~inside).sum())} of {len(x)} points escaped under the fitted drift", stacklevel=2)
        return np.stack(path)

    def state(self):
        """Constructor arguments as tensors and plain values."""
        return {
            "drift": self.description,
            "coefficients": torch.from_numpy(self.coefficients),
            "std_error": torch.from_numpy(np.ascontiguousarray(self.std_error)),
            "diffusivity": self.diffusivity if np.ndim(self.diffusivity) == 0 else self.diffusivity.tolist(),
            "diffusivity_error": self.diffusivity_error,
            "growth": self.growth,
            "clock": self.clock,
            "diagnostics": self.diagnostics,
        }

    @classmethod
    def from_state(cls, state):
        spec = state["drift"]
        terms = drifts.build(spec["spec"], axes=spec["axes"], time_unit=spec["time_unit"])
        model = cls(
            terms,
            state["coefficients"].numpy(),
            diffusivity=state["diffusivity"],
            std_error=state["std_error"].numpy(),
            diffusivity_error=state["diffusivity_error"],
            growth=state["growth"],
            clock=state["clock"],
            diagnostics=state["diagnostics"],
        )
        model.description = spec
        return model


def save(model, path, *, method, meta):
    """Write a fitted model; a model of a class without ``state()`` leaves a note in its place.

    Args:
        method: name of the method, or import path of the user's class.
        meta: metadata of the snapshots it was fitted to; data set, axes, space, time unit and the way back to genes
            are kept as ``about``.
    """
    artifacts.save_model(_packed(model, method, meta), path)


def save_many(fitted, path, *, method, metas, about):
    """Write many fitted models into one file, for :func:`load_many`.

    Args:
        metas: of the snapshots that each was fitted to, see :func:`save`.
        about: a mapping of plain values for each, kept beside that.
    """
    packed = [_packed(model, method, meta, more) for model, meta, more in zip(fitted, metas, about, strict=True)]
    artifacts.save_model({"kind": "many", "models": packed}, path)


def _packed(model, method, meta, more=None):
    kept = {key: meta.get(key) for key in ("dataset", "axes", "space", "time_unit", "affine")}
    cls = type(model)
    if isinstance(model, DriftModel) and model.kind == "drift" and model.description is None:
        raise ValueError(
            "this model's drift has no description, so the file could not be loaded again: fit it through "
            "methods.fit, or set model.description = {'spec': .., 'axes': .., 'time_unit': ..}"
        )
    return {
        "kind": getattr(model, "kind", "custom"),
        "origin": f"{cls.__module__}:{cls.__qualname__}",
        "about": kept | {"method": method} | (more or {}),
        "state": model.state() if callable(getattr(model, "state", None)) else None,
    }


def load_if_saved(path, *, trust=None):
    """:func:`load`, but None for the note that a model without ``state()`` leaves."""
    return None if artifacts.load_model(path).get("state") is None else load(path, trust=trust)


def load(path, *, trust=None):
    """Read a model written by :func:`save`; see :func:`snapdyn.load`."""
    saved = artifacts.load_model(path)
    if not isinstance(saved, dict) or "kind" not in saved:
        raise artifacts.ContractError(f"{path} is a checkpoint, but not of a snapdyn model")
    if saved["kind"] == "many":
        raise ValueError(
            f"{path} holds {len(saved['models'])} models of one training; load seed-0/model.pt beside it, or all of "
            "them with snapdyn.models.load_many(path)"
        )
    return _unpacked(saved, path, trust)


def load_many(path):
    """The models of a file of :func:`save_many`, in order; what was said of each stands in its ``about``."""
    saved = artifacts.load_model(path)
    if not isinstance(saved, dict) or saved.get("kind") != "many":
        raise artifacts.ContractError(f"{path} does not hold the models of one training; load it with snapdyn.load")
    return [_unpacked(one, path, None) for one in saved["models"]]


def _unpacked(saved, path, trust):
    origin, about = saved["origin"], saved["about"]
    target = CLASSES.get(saved["kind"])
    if saved["state"] is None:
        raise ValueError(
            f"{path}: the model class {origin!r} has no state() and from_state(), so it was not saved; add both, "
            "or use the predictions beside this file"
        )
    if target is None:
        if trust not in (origin, about["method"]):
            raise ValueError(
                f"{path} was fitted by the class {origin!r} from outside snapdyn; to import it, call "
                f"snapdyn.load(path, trust={origin!r})"
            )
        target = origin
    library = saved["state"]["drift"]["spec"]["library"] if saved["kind"] == "drift" else ""
    if ":" in library and trust != library:
        raise ValueError(
            f"{path} was fitted with the drift library {library!r} from outside snapdyn; to import it, call "
            f"snapdyn.load(path, trust={library!r})"
        )
    module, name = target.split(":")
    model = getattr(importlib.import_module(module), name).from_state(saved["state"])
    model.about = about
    return model
