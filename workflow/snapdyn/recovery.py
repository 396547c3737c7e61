"""Recovery studies: the same question put to many simulated data sets, and the answers against the truth."""

import numpy as np
import pandas as pd

from snapdyn import metrics

NO_PARAMETERS = {"name": np.array([], object), "estimate": [], "std_error": [], "unit": np.array([], object)}


def truth_of(snapshots):
    """name -> true value, from the system that simulated ``snapshots``."""
    return snapshots.meta["system"]["parameters"]


def tidy_parameters(model, *, fit, seed, truth=None):
    """The ``parameters/1`` rows of one fitted model, none if it has no parameters; NaN: no truth, no error."""
    frame = getattr(model, "parameters", pd.DataFrame(NO_PARAMETERS)).copy()
    frame["truth"] = frame["name"].map(truth or {}).astype(np.float64)
    about = {"paper": fit.paper, "experiment": fit.experiment, "dataset": fit.dataset, "method": fit.method}
    for place, (name, value) in enumerate((about | {"seed": seed}).items()):
        frame.insert(place, name, value)
    frame["seed"] = frame["seed"].astype(np.int64)
    return frame


def tidy_history(model, *, seed, extra=None):
    """The ``history/1`` rows of one fit: its recorded path, or the diagnostics of a direct solution.

    Args:
        extra: further numbers about the fit, as terms at step 0 of member 0.
    """
    recorded = getattr(model, "history", None)
    if recorded is None:
        terms = getattr(model, "diagnostics", None) or {"done": 1.0}
        recorded = {"member": 0, "step": 0, "term": list(terms), "value": [float(v) for v in terms.values()]}
    more = {"member": 0, "step": 0, "term": list(extra or {}), "value": list((extra or {}).values())}
    frame = pd.concat([pd.DataFrame(part) for part in (recorded, more) if len(part["term"])], ignore_index=True)
    frame.insert(0, "seed", seed)
    frame["split"] = "train"
    whole = dict.fromkeys(("seed", "member", "step"), np.int64)
    return frame[["seed", "member", "step", "term", "value", "split"]].astype(whole)


def score(parameters, histories, sizes):
    """Metrics of a recovery experiment.

    Per seed and parameter: signed ``relative_error_<name>`` and, with standard errors, ``z_<name>``. Per seed
    over all parameters: ``relative_rms_error``. For the paper's optimiser: ``relative_gap_to_l1``, how far
    its end point is from the exact L1 minimum of the same loss, as a share of the parameters' size. For moments:
    ``j_per_dof`` and ``j_p_value``. Where asked for: ``attractor_w1``, the distance between noise-free clouds
    under the found and the true parameters, and ``attractor_w1_floor`` between two clouds of the true ones.

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
        values = {}
        known = group[np.isfinite(group["truth"])]
        sized = known[known["truth"] != 0]
        errors = metrics.relative_error(sized["estimate"].to_numpy(), sized["truth"].to_numpy())
        values |= {f"relative_error_{name}": e for name, e in zip(sized["name"], errors, strict=True)}
        scale = np.sqrt(np.mean(known["truth"] ** 2))
        values["relative_rms_error"] = float(np.sqrt(np.mean((known["estimate"] - known["truth"]) ** 2)) / scale)
        with_error = known[np.isfinite(known["std_error"])]
        for line in with_error.itertuples():
            values[f"z_{line.name}"] = (line.estimate - line.truth) / line.std_error
        identity = dict(zip(keys, about, strict=True))
        if about[3] == "kde-adam":
            values |= _gap_to_l1(parameters, identity, known)
        history = histories.get((about[2], about[3]))
        if history is not None:
            values |= _from_history(history[history["seed"] == about[4]])
        n = sizes[about[2]]
        parts.append(metrics.rows(values, split="train", unit="1", n=n, **identity))
    return pd.concat(parts, ignore_index=True)


def _gap_to_l1(parameters, identity, mine):
    same = identity | {"method": "kde-l1"}
    rows = np.logical_and.reduce([parameters[key] == value for key, value in same.items()])
    if not rows.any():
        return {}
    exact = parameters[rows].set_index("name")["estimate"].reindex(mine["name"]).to_numpy()
    return {
        "relative_gap_to_l1": float(np.abs(mine["estimate"].to_numpy() - exact).max() / np.abs(mine["truth"]).max())
    }


def _from_history(mine):
    terms = mine.drop_duplicates("term").set_index("term")["value"]
    found = {name: terms[name] for name in ("attractor_w1", "attractor_w1_floor") if name in terms}
    if "j_statistic" in terms:
        found |= {"j_per_dof": terms["j_statistic"] / terms["j_dof"], "j_p_value": terms["j_p_value"]}
    return found
