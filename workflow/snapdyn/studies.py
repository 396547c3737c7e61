"""Studies: one question put to many versions of a cloud (kernel widths, sizes, replicates, missing terms).

Every study turns one cloud into ``parameters/1`` and ``metrics/1`` rows whose method says which version they belong
to, such as ``moments/n=2000``.
"""

import logging
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from snapdyn import checkpoint, methods, metrics, models, recovery

log = logging.getLogger(__name__)


def bandwidths(snapshots, fits, *, bandwidths, device="cpu", threads=1, keep=checkpoint.NOWHERE):
    """The kernel methods at every width, on one cloud and the same probes: ``<method>/h=<width>``.

    One kernel pass a width serves the methods that share a design.

    Args:
        fits: of the same data set; their methods are kernel methods.
        bandwidths: in the data's units.
    """
    seed, parts = snapshots.meta["seed"], []
    x = snapshots.select(split="train").x
    for width in bandwidths:
        designs = {}

        def found(fit, about, width=width, designs=designs):
            method = methods.make(
                fit.method,
                axes=snapshots.meta["axes"],
                drift=fit.drift,
                diffusivity=fit.diffusivity,
                options=fit.options | {"bandwidth": width},
            )
            shared = method.convolved, method.probes
            if shared not in designs:
                rng = np.random.default_rng(seed)
                designs[shared] = method.design(x, rng=rng, device=device, threads=threads)[:2]
            design, rest = designs[shared]
            theta = method.solve(design, rest, np.random.default_rng(seed), keep)[0]
            loss = {"loss": float((design @ theta + rest).abs().mean())}
            model = models.DriftModel(method.drift, theta.cpu().numpy(), diffusivity=fit.diffusivity, diagnostics=loss)
            return _rows(model, snapshots, fit, about, seed)

        for fit in fits:
            about = replace(fit, method=f"{fit.method}/h={width:g}")
            parts.append(keep.part(f"{about.method}/seed-{seed}", partial(found, fit, about)))
    return parts


def sizes(snapshots, fits, *, sizes, **how):
    """Every method on the first ``n`` rows of the cloud, for every size: ``<method>/n=<n>``.

    Args:
        how: device, threads and ``keep`` of :func:`snapdyn.methods.fit`.
    """
    rows = snapshots.select(split="train")
    return [
        _fit(rows.where(np.arange(n)), fit, f"{fit.method}/n={n}", snapshots.meta["seed"], **how)
        for n in sizes
        if n <= len(rows)
        for fit in fits
    ]


def coverage(snapshots, fits, *, size, replicates, **how):
    """Every method on disjoint parts of the cloud: independent replicates, numbered on from seed to seed.

    Args:
        size: rows of a replicate.
        replicates: how many to take from one cloud, at most as many as it holds.
    """
    rows = snapshots.select(split="train")
    first = snapshots.meta["seed"] * replicates
    return [
        _fit(rows.where(np.arange(k * size, (k + 1) * size)), fit, f"{fit.method}/n={size}", first + k, **how)
        for k in range(min(replicates, len(rows) // size))
        for fit in fits
    ]


def misspecification(snapshots, fits, *, sizes, **how):
    """The true terms of the library, and all but one of them, at every size: does J notice?

    Methods read ``<method>/n=<n>/complete`` and ``<method>/n=<n>/without <term>``.
    """
    rows, found = snapshots.select(split="train"), []
    for fit in fits:
        truth = recovery.truth_of(snapshots, fit.drift)
        support = [name for name, value in truth.items() if value != 0]
        kept = {"complete": support} | {f"without {term}": [t for t in support if t != term] for term in support}
        for n in (n for n in sizes if n <= len(rows)):
            for label, only in kept.items():
                narrowed = replace(fit, drift=fit.drift | {"only": only})
                name = f"{fit.method}/n={n}/{label}"
                found.append(_fit(rows.where(np.arange(n)), narrowed, name, snapshots.meta["seed"], **how))
    return found


STUDIES = {
    "bandwidth": bandwidths,
    "samples": sizes,
    "coverage": coverage,
    "misspecification": misspecification,
}


def _rows(model, snapshots, fit, about, seed):
    """Parameters and test statistics of one fitted model, under the names of ``about``."""
    parameters = recovery.tidy_parameters(
        model, fit=about, seed=seed, truth=recovery.truth_of(snapshots, fit.drift, fit.diffusivity)
    )
    return parameters, _tests(recovery.test_statistics(model.diagnostics) | {"refused": 0.0}, snapshots, about, seed)


def _tests(values, snapshots, about, seed):
    identity = {name: getattr(about, name) for name in ("paper", "experiment", "dataset", "method")}
    return metrics.rows(values, split="train", unit="1", n=len(snapshots), seed=seed, **identity)


def _fit(part, fit, name, seed, *, keep=checkpoint.NOWHERE, **how):
    """One fit of a study. A method that refuses a version of the data is counted, not the end of the study."""
    about = replace(fit, method=name)

    def found():
        try:
            model = methods.fit(
                fit.method,
                part,
                rng=np.random.default_rng(seed),
                drift=fit.drift,
                diffusivity=fit.diffusivity,
                options=fit.options,
                keep=keep,
                **how,
            )
        except ValueError as refusal:
            log.info("%s, seed %d: refused: %s", name, seed, refusal)
            return None, _tests({"refused": 1.0}, part, about, seed)
        return _rows(model, part, fit, about, seed)

    return keep.part(f"{name}/seed-{seed}", found)


def run(kind, snapshots, fits, spec, *, device="cpu", threads=1, keep=checkpoint.NOWHERE):
    """Put the study ``kind`` to one cloud.

    Args:
        fits: of this data set, one for each method.
        spec: what the experiment says of the study (``bandwidths``, ``sizes``, ..).
        keep: where finished fits are kept until the whole job is done.
    Returns:
        a ``parameters/1`` frame and a ``metrics/1`` frame of test statistics.
    """
    found = STUDIES[kind](snapshots, fits, **spec, device=device, threads=threads, keep=keep)
    parameters, tests = zip(*found, strict=True)
    if not any(frame is not None for frame in parameters):
        raise ValueError(f"{kind}: every fit was refused; the log says why")
    return pd.concat(parameters, ignore_index=True), pd.concat(tests, ignore_index=True)
