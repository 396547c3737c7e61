"""Figures of energies of cells: scores one step ahead and of snapshots held out whole, and the learned field."""

import numpy as np
import pandas as pd

from snapdyn.frames import rows
from snapdyn.snapshots import Snapshots

POINTS = 1200  # cells of a snapshot in a picture
OFF_THE_AXIS = ("reversed-moves",)  # three times as bad as standing still: in the tables only


def _scored(metrics, metric):
    """Held-out scores of methods and baselines; starts of a training apart, and moves turned round, stay out."""
    kept = metrics[(metrics["metric"] == metric) & (metrics["split"] == "test")]
    kept = kept[~kept["method"].str.contains("/start=") & ~kept["method"].isin(OFF_THE_AXIS)]
    return kept.drop_duplicates(["dataset", "method", "seed", "t"])


def _mean_sd(panel, series, x, values):
    """One mark: mean over splits and a standard deviation to both sides, none from one split."""
    values = np.asarray(values)
    sd = values.std(ddof=1) if len(values) > 1 else np.nan
    return rows(panel, series, [x], [values.mean()], values.mean() - sd, values.mean() + sd)


def _claims(files, metric, dataset, t=np.nan, *, comparable=False):
    """Published numbers of a metric on a data set: ``(method, value, spread, name)``.

    Args:
        t: of which time; that of all times without.
        comparable: leave out those of another protocol.
    """
    for claim in files.get("published", ()):
        here = claim["kind"] == "claim" and claim["metric"] == metric and claim["dataset"] == dataset
        here = here and (claim["comparable"] or not comparable)
        at = claim.get("t", np.nan)
        if here and claim["published"] is not None and (at == t or np.isnan([at, t]).all()):
            yield claim["method"], float(claim["published"]), float(claim.get("spread", np.nan)), claim.get("note", "")


def _published(panel, places, found):
    """Marks of published numbers: one to a method, the first that is given."""
    parts, labels = [], {}
    for method, value, spread, note in found:
        if method in labels:
            continue
        labels[method] = note
        parts.append(rows(panel, f"published: {method}", [places[method]], [value], value - spread, value + spread))
    return parts, labels


def cells_one_step(files):
    """Table 1 of iJKOnet as a figure: W1 one step ahead of every method and baseline, and published one-step numbers.

    Equation: ``wasserstein``, ``free-energy``
    """
    scores = _scored(pd.concat([table for table, _ in (files["metrics"], *files.get("beside", ()))]), "w1")
    parts, order, labels, ticks = [], {}, {}, {}
    for dataset, group in scores.groupby("dataset", sort=True):
        targets = np.sort(group["t"].dropna().unique())
        ticks[dataset] = [f"{t:g}" for t in targets]
        means = group[group["t"].isna()].groupby("method")["value"].mean()
        claims = list(_claims(files, "w1", dataset, comparable=True))
        # a published number of a method of ours stands in the method's own row
        values = means.to_dict()
        for method, value, *_ in claims:
            values.setdefault(method, value)
        order[dataset] = sorted(values, key=values.get)
        places = {method: place for place, method in enumerate(order[dataset])}
        for method, mine in group.groupby("method", sort=True):
            for place, t in enumerate(targets):
                parts.append(_mean_sd(f"steps: {dataset}", method, place, mine.loc[mine["t"] == t, "value"]))
            found = mine.loc[mine["t"].isna(), "value"]
            parts.append(_mean_sd(f"mean: {dataset}", method, places[method], found))
        found, said = _published(f"mean: {dataset}", places, claims)
        parts, labels = parts + found, labels | said
    splits = scores.groupby("dataset")["seed"].nunique().to_dict()
    facts = {"datasets": list(order), "order": order, "ticks": ticks, "labels": labels, "splits": splits}
    return pd.concat(parts, ignore_index=True), facts | {"seeds": _listed(splits)}


def _listed(splits):
    """``{"a": 5, "b": 1}`` -> ``a 5, b 1``."""
    return ", ".join(f"{name} {count}" for name, count in splits.items())


def cells_held_out(files):
    """W2 to snapshots held out whole: from the one before, rolled out from the first, baselines, published numbers.

    Equation: ``wasserstein``, ``free-energy``
    """
    near, far = (_scored(files["metrics"][0], metric) for metric in ("w2", "w2_rolled"))
    parts, order, labels, ticks = [], {}, {}, {}
    for dataset, group in near.groupby("dataset", sort=True):
        times = np.sort(group["t"].dropna().unique())
        ticks[dataset] = times.tolist()
        claims = {t: list(_claims(files, "w2", dataset, t)) for t in times}
        values = group[group["t"].isna()].groupby("method")["value"].mean().to_dict()
        peers = {}
        for found in claims.values():
            for method, value, *_ in found:
                peers.setdefault(method, []).append(value)
        values |= {method: np.mean(found) for method, found in peers.items() if method not in values}
        order[dataset] = sorted(values, key=values.get)
        places = {method: place for place, method in enumerate(order[dataset])}
        rolled = far[far["dataset"] == dataset]
        for t in times:
            panel = f"t = {t:g}: {dataset}"
            for series, table in (("", group), ("rolled out: ", rolled)):
                for method, mine in table[table["t"] == t].groupby("method", sort=True):
                    if series and _the_same(mine, group):  # the first snapshot is the one before: one prediction
                        continue
                    parts.append(_mean_sd(panel, f"{series}{method}", places[method], mine["value"]))
            found, said = _published(panel, places, claims[t])
            parts, labels = parts + found, labels | said
    splits = near.groupby("dataset")["seed"].nunique().to_dict()
    facts = {"datasets": list(order), "order": order, "times": ticks, "labels": labels, "splits": splits}
    return pd.concat(parts, ignore_index=True), facts | {"seeds": _listed(splits)}


def _the_same(rolled, near):
    """Whether scores of one method and time equal its scores from the snapshot before, seed by seed."""
    both = rolled.merge(near, on=["method", "seed", "t"])
    return len(both) > 0 and bool((both["value_x"] == both["value_y"]).all())


def cells_field(files):
    """Cells in time, held-out ones predicted and observed, and the learned potential, of the best method.

    The potential of a step is drawn at the cells of its beginning and its end, of mean 0 over them.

    Equation: ``free-energy``
    """
    frame, meta = files["clouds"][0]
    cells, dataset = Snapshots.from_frame(frame, meta), meta["dataset"]
    fitted = {
        model.about["method"]: (model, Snapshots.from_frame(*predicted))
        for model, predicted in zip(files["models"], files["predictions"], strict=True)
        if model.about["dataset"] == dataset and getattr(model, "kind", None) == "energy"
    }
    scores = _scored(files["metrics"][0], "w2")
    scores = scores[(scores["dataset"] == dataset) & scores["t"].isna() & scores["method"].isin(fitted)]
    best = scores.groupby("method")["value"].mean().idxmin()
    model, predicted = fitted[best]
    parts, held, potentials = [], [], []
    for t in cells.times:
        parts.append(_points("cells", f"t = {t:g}", cells.select(t=t).x))
    observed = cells.select(split="train").times
    for t in (t for t in cells.times if t not in observed):
        panel = f"held out: t = {t:g}"
        parts.append(_points(panel, "cloud", cells.select(t=t).x))
        parts.append(_points(panel, "predicted", predicted.select(t=t, split="predicted").x))
        held.append(panel)
    steps = list(zip(observed[:-1], observed[1:], strict=True)) if model.timed else [(cells.times[0], cells.times[-1])]
    for start, end in steps:
        panel = f"potential: {start:g} to {end:g}"
        x = np.concatenate([_few(cells.select(t=t).x) for t in cells.times if start <= t <= end])
        value = model.potential(end, x)
        value = value - value.mean()
        parts.append(rows(panel, best, x[:, 0], x[:, 1], value, value))
        ends = np.quantile(value, [0.02, 0.98])
        parts.append(rows(f"range: {panel}", best, [0], [0], *ends))
        potentials.append(panel)
    unit = meta.get("time_unit") or "time"
    facts = {"times": [f"t = {t:g}" for t in cells.times], "held": held, "potentials": potentials, "best": best}
    facts |= {"axes": list(meta["axes"][:2]), "unit": f"potential, length²/{unit}", "time_unit": unit}
    return pd.concat(parts, ignore_index=True), facts | {"dataset": dataset, "score": f"{scores['value'].min():.3g}"}


def _few(x):
    return x[:POINTS]


def _points(panel, series, x):
    """At most :data:`POINTS` cells, their first two axes."""
    x = _few(x)
    return rows(panel, series, x[:, 0], x[:, 1])
