"""How well a drift explains one stationary cloud: the weak form on held-out points, against a linear drift.

For the true drift, the generator applied to any test function averages to zero over the cloud. "No movement"
means nothing here, so the null is the best linear (Ornstein-Uhlenbeck) drift with the same diffusivity.
"""

import numpy as np
import pandas as pd
import torch

from snapdyn import metrics, models, testfunctions, verdict

DEGREE = 4  # even: a cloud that is its own mirror image shows nothing beyond a linear drift to degree 3


def generator_residuals(drift, diffusivity, tests, x):
    r"""L phi_a at every point for unit-variance tests: ``(n, tests)``, in 1 / time.

    Args:
        drift: values f(x) ``(n, dim)``.
        diffusivity: D, a number or a matrix ``(dim, dim)``.
        tests: :mod:`snapdyn.testfunctions`, any of them.
    Equation: ``weak-form``
    """
    points = torch.from_numpy(np.ascontiguousarray(x))
    _, gradient, second = tests(points, torch.from_numpy(models.diffusion_matrix(diffusivity, points.shape[1])))
    values = torch.einsum("nd,ndk->nk", torch.from_numpy(np.ascontiguousarray(drift)), gradient)
    return (values + second).numpy()


def linear_drift(x, diffusivity):
    """The linear drift that keeps a cloud's mean and covariance at rest: -D C^-1 (x - m), with no rotation.

    Returns:
        a function of states ``(n, dim)``.
    """
    mean, covariance = x.mean(0), np.atleast_2d(np.cov(x.T, ddof=0))
    matrix = models.diffusion_matrix(diffusivity, x.shape[1])
    return lambda states: -np.linalg.solve(covariance, (states - mean).T).T @ matrix


def diffusivity_of(model, given):
    """D that goes with the model's drift: its own if it estimated one, else the one that was given."""
    own = getattr(model, "diffusivity", None)
    found = given if own is None else own
    if not isinstance(found, int | float | list | np.ndarray):
        raise ValueError(
            f"a drift for a stationary cloud is judged together with its diffusivity, got {found!r}: give the analysis "
            "a number, or the model an attribute `diffusivity`"
        )
    return np.asarray(found, dtype=np.float64)


def residual_pair(model, snapshots, diffusivity):
    """Residuals of the model and of the linear null at the held-out points, two arrays ``(n, tests)``."""
    train, test = snapshots.select(split="train").x, snapshots.select(split="test").x
    tests = testfunctions.Monomials(torch.from_numpy(train), DEGREE)
    null = linear_drift(train, diffusivity)
    ours = model.drift(np.zeros(len(test)), test)
    return (
        generator_residuals(ours, diffusivity, tests, test),
        generator_residuals(null(test), diffusivity, tests, test),
    )


def evaluate(pairs, *, identity, seeds, rows, rng):
    """Metrics and verdict of a method on stationary clouds.

    ``weak_form_residual`` is the root mean square over tests of mean(L phi) in units of its sampling noise: about
    1 for a drift that explains the cloud, however many points; larger for one that does not.

    Args:
        pairs: for each seed the two arrays of :func:`residual_pair`.
        rows: source rows of the held-out points of each seed.
    Returns:
        a ``metrics/1`` frame with the method and its null ``linear-drift``, and the verdict.
    """
    parts = []
    for seed, (ours, null) in zip(seeds, pairs, strict=True):
        for method, residuals in ((identity["method"], ours), ("linear-drift", null)):
            value = {"weak_form_residual": standardised(residuals)}
            about = identity | {"method": method, "seed": seed}
            parts.append(metrics.rows(value, split="test", unit="sampling noise", n=len(residuals), **about))
    answer = verdict.stationary_gain([p[0] for p in pairs], [p[1] for p in pairs], rows=rows, rng=rng)
    return pd.concat(parts, ignore_index=True), answer


def standardised(residuals):
    """Root mean square of the tests' mean residuals over their standard errors."""
    error = residuals.std(0, ddof=1) / np.sqrt(len(residuals))
    return float(np.sqrt(np.mean((residuals.mean(0) / np.maximum(error, 1e-300)) ** 2)))
