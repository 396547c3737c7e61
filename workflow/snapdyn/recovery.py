"""Recovery studies: the same question put to many simulated data sets, and the answers against the truth."""

import re

import numpy as np
import pandas as pd

from snapdyn import metrics

Z95 = 1.959964  # half-width of a 95 % interval in standard errors

NO_PARAMETERS = {"name": np.array([], object), "estimate": [], "std_error": [], "unit": np.array([], object)}


def truth_of(snapshots, drift=None, diffusivity=None):
    """name -> true value of what a fit looks for, from the system that simulated ``snapshots``.

    Args:
        drift: the library of the fit; the system's own terms by default. Its coefficients are those that give the
            true drift at random points, if there are any.
        diffusivity: ``"unknown"`` where D is estimated as well.
    """
    about = snapshots.meta["system"]
    if "parameters" not in about:  # a synthetic course has a law, but no parameters of that kind
        return {}
    own = drift is None or drift["library"] == about["system"]
    found = dict(about["parameters"]) if own else _projected(about, drift, snapshots.meta["axes"])
    return found | ({"diffusivity": about["diffusivity"]} if diffusivity == "unknown" else {})


def _projected(about, drift, axes):
    import torch

    from snapdyn import drifts, systems

    system = systems.of(about)
    terms = drifts.build(drift, axes=axes)
    if not terms.count:
        return {}
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((20 * terms.count + 100, system.dim)))
    fields, target = terms.fields(x), system.drift(0.0, x) - terms.known(x)
    design = fields.transpose(1, 2).reshape(-1, terms.count).numpy()
    target = target.reshape(-1).numpy()
    exact = np.linalg.lstsq(design, target, rcond=None)[0]
    if np.abs(design @ exact - target).max() > 1e-8 * np.abs(target).max():
        return {}
    return dict(zip(terms.names, np.where(np.abs(exact) < 1e-9, 0.0, exact).tolist(), strict=True))


def tidy_parameters(model, *, fit, seed, truth=None):
    """The ``parameters/1`` rows of one fitted model, none if it has no parameters; NaN: no truth, no error."""
    frame = getattr(model, "parameters", pd.DataFrame(NO_PARAMETERS)).copy()
    frame["truth"] = frame["name"].map(truth or {}).astype(np.float64)
    about = {"paper": fit.paper, "experiment": fit.experiment, "dataset": fit.dataset, "method": fit.method}
    for place, (name, value) in enumerate((about | {"seed": seed}).items()):
        frame.insert(place, name, value)
    frame["seed"] = frame["seed"].astype(np.int64)
    return frame


def tidy_history(model, *, seed, member=None, extra=None):
    """The ``history/1`` rows of one fit: its recorded path, or the diagnostics of a direct solution.

    Args:
        member: number to give all rows, where the fit does not say it.
        extra: further numbers about the fit, as terms at step 0 of member 0.
    """
    recorded = getattr(model, "history", None)
    if recorded is None:
        terms = getattr(model, "diagnostics", None) or {"done": 1.0}
        recorded = {"member": 0, "step": 0, "term": list(terms), "value": [float(v) for v in terms.values()]}
    more = {"member": 0, "step": 0, "term": list(extra or {}), "value": list((extra or {}).values())}
    frame = pd.concat([pd.DataFrame(part) for part in (recorded, more) if len(part["term"])], ignore_index=True)
    frame.insert(0, "seed", seed)
    if member is not None:
        frame["member"] = member
    frame["split"] = frame["split"].fillna("train") if "split" in frame else "train"
    whole = dict.fromkeys(("seed", "member", "step"), np.int64)
    return frame[["seed", "member", "step", "term", "value", "split"]].astype(whole)


def test_statistics(diagnostics):
    """What a fit says of its own quality: J over its degrees of freedom, its p-value, whether it rejects at 5 %.

    Methods without a J test give their loss.
    """
    if "j_statistic" not in diagnostics:
        return {"loss": diagnostics.get("loss", np.nan)}
    p = diagnostics["j_p_value"]
    return {
        "j_per_dof": diagnostics["j_statistic"] / max(diagnostics["j_dof"], 1.0),
        "j_p_value": p,
        "j_rejects": float(p < 0.05),
    }


def size_of(method, default):
    """How many rows a method of a study saw: ``moments/n=2000`` says so itself."""
    found = re.search(r"/n=(\d+)", method)
    return int(found[1]) if found else default


def score(parameters, histories, sizes):
    """Metrics of a recovery experiment.

    Per seed and parameter: signed ``relative_error_<name>`` and, with standard errors, ``z_<name>`` and
    ``covered_<name>`` (whether the 95 % interval holds the truth). Per seed over all parameters:
    ``relative_rms_error``; ``median_absolute_error`` and ``max_absolute_error``; ``entries_within_tenth``, how many
    are within 0.1 of the truth; ``covered``, the share of intervals that hold the truth; ``within_three_errors``,
    whether all are within three standard errors; ``worst_z``, the largest error in standard errors. Where terms were
    dropped: ``support_exact``, whether the true ones and no others were kept. For the paper's optimiser:
    ``relative_gap_to_l1``, how far its end point is from the exact L1 minimum of the same loss, as a share of the
    parameters' size. For moments: ``j_per_dof``, ``j_p_value`` and ``j_rejects``; and ``error_over_kds``, the RMS error
    as a share of that of KDS on the same points. Where asked for: ``attractor_w1``, the distance between noise-free
    clouds under the found and the true parameters, and ``attractor_w1_floor`` between two clouds of the true ones.

    Args:
        parameters: the ``parameters/1`` rows of every data set and method.
        histories: ``(dataset, method) -> history/1 frame``.
        sizes: data set -> number of points.
    Returns:
        a ``metrics/1`` frame; ``split`` is train, since the truth is known.
    """
    keys = ["paper", "experiment", "dataset", "method", "seed"]
    parts = []
    for about, group in parameters.groupby(keys, sort=True):
        identity = dict(zip(keys, about, strict=True))
        known = group[np.isfinite(group["truth"])]
        values = _errors(known) | _intervals(known, sparse=about[3].startswith("moments-sparse"))
        if about[3] == "kde-adam":
            values |= _gap_to_l1(parameters, identity, known)
        if about[3] == "moments":
            values |= _error_over_kds(parameters, identity, known)
        history = histories.get((about[2], about[3]))
        if history is not None:
            values |= _from_history(history[history["seed"] == about[4]])
        n = size_of(about[3], sizes[about[2]])
        if values:
            parts.append(metrics.rows(values, split="train", unit="1", n=n, **identity))
    return pd.concat(parts, ignore_index=True)


def _errors(known):
    """Distances between estimates and truth."""
    if known.empty:
        return {}
    sized = known[known["truth"] != 0]
    errors = metrics.relative_error(sized["estimate"].to_numpy(), sized["truth"].to_numpy())
    values = {f"relative_error_{name}": e for name, e in zip(sized["name"], errors, strict=True)}
    away = (known["estimate"] - known["truth"]).abs().to_numpy()
    scale = np.sqrt(np.mean(known["truth"] ** 2))
    values["relative_rms_error"] = float(np.sqrt(np.mean(away**2)) / scale)
    values |= {f"absolute_error_{name}": e for name, e in zip(known["name"], away, strict=True)}
    return values | {
        "median_absolute_error": float(np.median(away)),
        "max_absolute_error": float(away.max()),
        "entries_within_tenth": float((away <= 0.1).sum()),
    }


def _intervals(known, *, sparse):
    """What the standard errors promise, beside what happened; dropped terms have none."""
    stated = known[np.isfinite(known["std_error"])]
    values = {}
    if len(stated):
        z = ((stated["estimate"] - stated["truth"]) / stated["std_error"]).to_numpy()
        values |= {f"z_{name}": v for name, v in zip(stated["name"], z, strict=True)}
        values |= {f"covered_{name}": float(abs(v) < Z95) for name, v in zip(stated["name"], z, strict=True)}
        values |= {
            "covered": float((np.abs(z) < Z95).mean()),
            "within_three_errors": float((np.abs(z) < 3).all()),
            "worst_z": float(np.abs(z).max()),
        }
    if sparse:
        kept = np.isfinite(known["std_error"]).to_numpy()
        values["support_exact"] = float((kept == (known["truth"] != 0).to_numpy()).all())
    return values


def _beside(parameters, identity, method, mine):
    """Estimates of another method of the same parameters and seed, None without it."""
    rows = np.logical_and.reduce([parameters[key] == value for key, value in (identity | {"method": method}).items()])
    if not rows.any():
        return None
    return parameters[rows].set_index("name")["estimate"].reindex(mine["name"]).to_numpy()


def _error_over_kds(parameters, identity, mine):
    """RMS error as a share of KDS's: of relative errors, or of errors where some parameters are truly zero."""
    other = _beside(parameters, identity, "kds", mine)
    if other is None or mine.empty:
        return {}
    truth = mine["truth"].to_numpy()
    scale = np.ones_like(truth) if (truth == 0).any() else truth
    ours, theirs = (metrics.rms((found - truth) / scale) for found in (mine["estimate"].to_numpy(), other))
    return {"error_over_kds": ours / theirs}


def _gap_to_l1(parameters, identity, mine):
    exact = _beside(parameters, identity, "kde-l1", mine)
    if exact is None:
        return {}
    return {
        "relative_gap_to_l1": float(np.abs(mine["estimate"].to_numpy() - exact).max() / np.abs(mine["truth"]).max())
    }


def _from_history(mine):
    terms = mine.drop_duplicates("term").set_index("term")["value"]
    found = {name: terms[name] for name in ("attractor_w1", "attractor_w1_floor") if name in terms}
    if "j_statistic" in terms:
        found |= test_statistics(terms)
    return found
