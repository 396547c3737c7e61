"""Fitted densities, one for each observed time: what :func:`snapdyn.load` returns for methods that estimate one."""

import importlib

import numpy as np
import pandas as pd
import torch

# What a file may name: the families of densities.
FAMILIES = {
    "mixture-flow": "snapdyn.densities:MixtureFlow",
    "gaussian-mixture": "snapdyn.density_families:GaussianMixture",
    "kde": "snapdyn.density_families:KernelDensity",
}
ROWS, PAIRS = 4096, 2**23  # points, and points times components, at a time, so that memory stays flat


def parameter_table(name=(), estimate=(), std_error=(), unit=()):
    """The frame of a model's parameters, one row a number."""
    columns = {"name": name, "estimate": estimate, "std_error": std_error, "unit": unit}
    kinds = {"name": object, "estimate": np.float64, "std_error": np.float64, "unit": object}
    return pd.DataFrame({key: np.array(values, kinds[key]) for key, values in columns.items()})


def saved_density(density):
    """Family and state of a density: what :func:`loaded_density` takes."""
    return {"family": density.family, "state": density.state()}


def loaded_density(saved):
    """The density that :func:`saved_density` took apart."""
    if saved["family"] not in FAMILIES:
        raise ValueError(f"unknown family of densities {saved['family']!r}; there are {list(FAMILIES)}")
    module, name = FAMILIES[saved["family"]].split(":")
    return getattr(importlib.import_module(module), name).from_state(saved["state"])


def rows_at_once(density):
    """How many points a density is to be asked at once; one that cuts its work into tiles may be asked them all."""
    tiled = getattr(density, "tiled", False)
    return ROWS if tiled else max(64, min(ROWS, PAIRS // density.components))


class DensityModel:
    """Normalised densities of a stationary cloud, or of every observed time.

    Everything is in the data's coordinates; arrays in, arrays out.

    Attributes:
        densities: one density for each time, or one for a stationary cloud.
        times: the observed times, sorted; None for a stationary cloud.
        axes: names of the coordinates.
        parameters: frame with name, estimate, std_error and unit of the drift's coefficients that were found from the
            density alone; empty where there are none.
        diagnostics: name -> number.
        history: columns member, step, term, value of an iterative fit, or None.
    """

    kind = "density"

    def __init__(self, densities, *, axes, times=None, parameters=None, diagnostics=None, history=None):
        self.densities, self.axes = list(densities), list(axes)
        self.times = None if times is None else [float(t) for t in times]
        wanted = 1 if self.times is None else len(self.times)
        if len(self.densities) != wanted:
            raise ValueError(f"expected {wanted} densities, one for each time, got {len(self.densities)}")
        self.parameters = parameter_table() if parameters is None else parameters
        self.diagnostics, self.history = diagnostics or {}, history

    @property
    def dim(self):
        return len(self.axes)

    def at(self, t=None):
        """The density at the observed time ``t``; at rest it is the same at all times.

        Raises:
            ValueError: a time that was not observed.
        """
        if self.times is None:
            return self.densities[0]
        observed = ", ".join(f"{time:g}" for time in self.times)
        if t is None:
            raise ValueError(f"this model has a density for each observed time: say which of {observed}")
        try:
            t = float(t)
        except (TypeError, ValueError):
            raise ValueError(f"expected one observed time, a number of {observed}, got {t!r}") from None
        near = [place for place, time in enumerate(self.times) if np.isclose(time, t, rtol=1e-9, atol=0)]
        if not near:
            raise ValueError(
                f"there is no density at t = {t:g}, since no snapshot was seen then: observed are {observed}"
            )
        return self.densities[near[0]]

    def _evaluated(self, t, x, function, shape):
        """``function(density, points)`` at every point, a block of one time after another."""
        x = np.asarray(x, dtype=np.float64)
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"expected points (n, {self.dim}), one column for each of {self.axes}, got {x.shape}")
        if self.times is None or t is None:
            groups = [(self.at(t), np.arange(len(x)))]
        elif np.shape(t) not in ((), (len(x),)):
            raise ValueError(f"expected one time, or one for each of the {len(x)} points, got shape {np.shape(t)}")
        else:
            try:
                t = np.broadcast_to(np.asarray(t, dtype=np.float64), len(x))
            except ValueError:
                raise ValueError(f"expected times as numbers, of {self.times}, got {t!r}") from None
            groups = [(self.at(time), np.flatnonzero(t == time)) for time in np.unique(t)]
        out = np.empty((len(x), *shape))
        for density, rows in groups:
            step = rows_at_once(density)
            for start in range(0, len(rows), step):
                block = rows[start : start + step]
                with torch.no_grad():
                    out[block] = function(density, torch.from_numpy(x[block])).numpy()
        return out

    def log_prob(self, t, x):
        """log p(t, x) ``(n,)`` in nats at ``x (n, dim)``; ``t`` one observed time, or one for each point."""
        return self._evaluated(t, x, lambda density, points: density.log_prob(points), ())

    def energy(self, t, x):
        """-log p(t, x) ``(n,)`` in nats."""
        return -self.log_prob(t, x)

    def score(self, t, x):
        """grad log p ``(n, dim)``, in 1 / length."""
        return self._evaluated(t, x, lambda density, points: density.derivatives(points)[1], (self.dim,))

    def divergence(self, t, x):
        """div score, the Laplacian of log p, ``(n,)``, in 1 / length^2."""
        return self._evaluated(t, x, lambda density, points: density.derivatives(points)[2], ())

    def cccp(self, x, temperature=1.0, t=None):
        """One step of the concave-convex procedure for ``x (n, dim)``: denoised points, or at higher temperatures the
        middles of their clusters; for densities that have it.

        Equation: ``cccp``
        """
        if not hasattr(self.densities[0], "cccp"):
            raise NotImplementedError(
                f"a density of the family {self.densities[0].family!r} has no cccp(x, temperature); mixture-flow and "
                "linear-mixture have"
            )
        return self._evaluated(t, x, lambda density, points: density.cccp(points, temperature), (self.dim,))

    def sample(self, n, t=None, rng=None):
        """``n`` independent draws ``(n, dim)`` from the density at ``t``; without ``rng`` always the same ones."""
        rng = rng or np.random.default_rng(0)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        with torch.no_grad():
            return self.at(t).sample(n, generator).double().numpy()

    def _has_no(self, name):
        raise NotImplementedError(
            f"this method estimates the density only, so there is no {name}; use log_prob(t, x), score(t, x) or "
            "sample(n, t), or a method that estimates the drift (moments, affine-propagation)"
        )

    def drift(self, t, x):
        self._has_no("drift(t, x)")

    def velocity(self, t, x):
        self._has_no("velocity(t, x)")

    def potential(self, t, x):
        self._has_no("potential(t, x)")

    def simulate(self, x0, times, rng=None):
        self._has_no("simulate(x0, times)")

    def state(self):
        """Constructor arguments as tensors and plain values; the history stays behind."""
        return {
            "densities": [saved_density(density) for density in self.densities],
            "times": self.times,
            "axes": self.axes,
            "parameters": {name: self.parameters[name].tolist() for name in self.parameters},
            "diagnostics": {name: float(value) for name, value in self.diagnostics.items()},
        }

    @classmethod
    def from_state(cls, state):
        densities = [loaded_density(saved) for saved in state["densities"]]
        rest = {name: state[name] for name in ("times", "axes", "diagnostics")}
        return cls(densities, parameters=parameter_table(**state["parameters"]), **rest)
