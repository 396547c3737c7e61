"""The kernel methods over a range of bandwidths: the bias of the plain form, and its absence in the convolved."""

from dataclasses import replace

import numpy as np
import pandas as pd

from snapdyn import methods, models, recovery


def bandwidths(snapshots, fits, widths, *, device="cpu", threads=1):
    """Parameters of the kernel methods at every bandwidth, on one cloud and the same probes.

    One kernel pass a width serves the methods that share a design.

    Args:
        fits: of the same data set; their methods are kernel methods.
        widths: bandwidths, in the data's units.
    Returns:
        ``parameters/1`` rows whose method reads ``<method>/h=<width>``.
    """
    seed, parts = snapshots.meta["seed"], []
    x = snapshots.select(split="train").x
    for width in widths:
        designs = {}
        for fit in fits:
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
            theta = method.solve(*designs[shared], np.random.default_rng(seed))[0]
            model = models.DriftModel(method.drift, theta.cpu().numpy(), diffusivity=fit.diffusivity)
            about = replace(fit, method=f"{fit.method}/h={width:g}")
            parts.append(recovery.tidy_parameters(model, fit=about, seed=seed, truth=recovery.truth_of(snapshots)))
    return pd.concat(parts, ignore_index=True)
