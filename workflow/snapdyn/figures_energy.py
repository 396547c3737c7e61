"""Figures of energies learned from simulated flows: level sets, scores by potential and dimension, training."""

import numpy as np
import pandas as pd

from snapdyn import flows, frames
from snapdyn.frames import rows
from snapdyn.potentials import HARD  # shown apart, and first

SHOWN = ("jkonet-star-v", "ijkonet-v", "ijkonet-prox")  # whose level sets stand beside the true ones
SIDE = 61  # points of a map along each axis
ENDS = (0.002, 0.998)  # quantiles of the particles along each axis that a map reaches
ROOM = 0.08  # around them, as a share of their extent
NEAR = 0.05  # of a map's side: what is farther from all particles is without data
RANGE = (0.01, 0.99)  # quantiles of the true potential at the particles, between which colours and levels go
LEAST = 1.0  # length^2/time: the smallest range of colours, so that a flat potential does not show its rounding
# terms of histories that are shown -> the row that they stand in
TERMS = {"loss": "objective", "price": "objective", "gradient": "gradient", "l2_uvp": "l2_uvp", "bw_uvp": "bw_uvp"}
SMOOTH = 20  # points of a curve of the training at most


def by_course(metrics):
    """Mean rows of the scores on held-out particles, the data set's name cut into ``dataset`` and ``course``."""
    kept = metrics[metrics["t"].isna() & (metrics["split"] == "test")]
    kept = kept.drop_duplicates(["dataset", "method", "seed", "metric"])
    name = kept["dataset"].str.partition("/")
    return kept.assign(dataset=name[0], course=name[2])


def in_order(courses):
    """Names of courses, the hard potentials first and a course with an interaction where its potential is."""
    places = {name: place for place, name in enumerate(HARD)}
    return sorted(dict.fromkeys(courses), key=lambda name: (places.get(name.partition("+")[0], len(places)), name))


def of_first_seed(files):
    """Models of the first seed: ``(data set, method, course)`` -> model."""
    first = min(model.about["seed"] for model in files["models"])
    return {
        (model.about["dataset"].partition("/")[0], model.about["method"], model.about["course"]): model
        for model in files["models"]
        if model.about["seed"] == first
    }


def potentials_levels(files):
    """Fig. 1 of iJKOnet: the hard potentials, true and learned, each from the first data set and seed.

    Equation: ``free-energy``, ``test-potentials``, ``l2-uvp``
    """
    return _levels(files, lambda course: course in HARD)


def potentials_levels_all(files):
    """The same for all potentials of the first data set.

    Equation: ``free-energy``, ``test-potentials``, ``l2-uvp``
    """
    return _levels(files, lambda course: True)


def _levels(files, wanted):
    frame, meta = files["courses"][0]
    dataset = meta["dataset"]
    models, scores = of_first_seed(files), by_course(files["metrics"][0])
    found = {name: course for name, course in flows.unstacked(frame, meta).items() if wanted(name)}
    methods = [name for name in SHOWN if any(key[:2] == (dataset, name) for key in models)]
    mine = scores[(scores["dataset"] == dataset) & (scores["metric"] == "l2_uvp")]
    mine = mine[mine["seed"] == mine["seed"].min()].set_index(["course", "method"])["value"]
    parts = []
    for name in in_order(found):
        parts += _maps(found[name], name, {method: models[dataset, method, name] for method in methods})
        for method in methods:
            parts.append(rows(f"l2_uvp: {name}", method, [0], [mine[name, method]]))
        parts.append(rows(f"l2_uvp: {name}", "no-movement", [0], [mine[name, "no-movement"]]))
    facts = {"courses": in_order(found), "shown": ["truth", *methods], "dataset": dataset}
    facts |= {"n": f"{int((found[name].t == found[name].times[-1]).sum()):,}", "tau": f"{meta['flow']['tau']:g}"}
    return pd.concat(parts, ignore_index=True), facts | {"steps": meta["flow"]["steps"]}


def _maps(snapshots, name, models):
    """Maps of the true and the learned potentials of one course, all of mean 0 over where particles arrived."""
    arrived = snapshots.x[snapshots.t > snapshots.times[0]]
    low, high = np.quantile(arrived, ENDS, axis=0)
    sides = np.linspace(low - ROOM * (high - low), high + ROOM * (high - low), SIDE).T
    places = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 2)
    true = flows.flow_of(snapshots).energy.potential_value
    levelled = {"truth": lambda x: true(tensor(x)).numpy()}
    levelled |= {method: lambda x, model=model: model.potential(None, x) for method, model in models.items()}
    parts = []
    for method, value in levelled.items():
        level = value(arrived)
        if method == "truth":
            least, most = np.quantile(level - level.mean(), RANGE)
            least, most = least - max(0, LEAST - most + least) / 2, most + max(0, LEAST - most + least) / 2
            parts.append(rows(f"range: {name}", "truth", [0], [(least + most) / 2], least, most))
        values = value(places) - level.mean()
        parts.append(rows(f"potential: {name}", method, places[:, 0], places[:, 1], values, values))
    seen = _distance(places, arrived) < NEAR * (sides[:, -1] - sides[:, 0]).max()
    parts.append(rows(f"potential: {name}", "without data", places[:, 0], places[:, 1], ~seen * 1.0, ~seen * 1.0))
    return parts


def tensor(x):
    """Points as a tensor."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(x))


def _distance(places, x):
    """From each place to the nearest of the points ``x (n, dim)``."""
    from scipy.spatial import cKDTree

    return cKDTree(x).query(places)[0]


def potentials_scores(files):
    """Every method on every potential: error of the force, and distance one step ahead, beside what bounds them.

    Equation: ``l2-uvp``, ``step-bias``, ``wasserstein``
    """
    tables = [by_course(metrics) for metrics, _ in (*files["beside"], files["metrics"])]
    # experiments on the same data share its row
    table = pd.concat(tables).drop_duplicates(["dataset", "course", "method", "seed", "metric"])
    parts, ticks, seen = [], {}, set()
    for one in tables:
        own = [name for name in dict.fromkeys(one["dataset"]) if name not in seen]
        seen |= set(own)
        if not own:
            continue
        counts = {name: table[table["dataset"] == name]["course"].nunique() for name in own}
        # data sets of one potential stand beside those of the largest
        largest = max(own, key=counts.get)
        for dataset in sorted(own, key=lambda name: (-counts[name], name)):
            mine = table[table["dataset"] == dataset]
            row = largest if counts[dataset] == 1 else dataset
            for course in in_order(mine["course"]):
                place = len(ticks.setdefault(row, []))
                ticks[row].append(course if row == dataset else f"{course}, {_difference(dataset, row)}")
                parts += scores_at(row, place, mine[mine["course"] == course])
    facts = {"rows": list(ticks), "ticks": ticks, "hard": {row: sum(n in HARD for n in t) for row, t in ticks.items()}}
    return pd.concat(parts, ignore_index=True), facts | {"seeds": most_seeds(*tables)}


def forces_only(files):
    """Errors of forces by course: at their own snapshots, and what else an experiment says about them.

    For a potential that depends on time also at the snapshots of other steps, and how far those of different steps lie
    apart.

    Equation: ``l2-uvp``, ``common-force``, ``step-bias``
    """
    tables = [by_course(metrics) for metrics, _ in (files["metrics"], *files["beside"])]
    table, parts, ticks, shown = pd.concat(tables, ignore_index=True), [], {}, {}
    for dataset in dict.fromkeys(table["dataset"]):
        mine = table[table["dataset"] == dataset]
        # only an experiment on time has these for methods with and without it
        timed = mine["method"].str.contains("-tv").any()
        shown[dataset] = [metric for metric in OF_FORCES if metric == "l2_uvp" or timed]
        ticks[dataset] = in_order(mine["course"])
        for place, course in enumerate(ticks[dataset]):
            parts += scores_at(dataset, place, mine[mine["course"] == course], metrics=shown[dataset])
    facts = {"ticks": ticks, "shown": shown, "seeds": most_seeds(*tables)}
    return pd.concat(parts, ignore_index=True), facts


OF_FORCES = ("l2_uvp", "l2_uvp_elsewhere", "l2_uvp_apart")
BOUNDS = {("l2_uvp", "truth", "l2_uvp_bias"): "step-bias", ("w1", "truth", "w1_floor"): "another-sample"}
BOUNDS |= {("w1", "truth", "w1"): "true-energy"}


def scores_at(row, place, mine, metrics=("l2_uvp", "w1")):
    """Marks of one course: mean and seeds of every method, and what bounds them.

    Args:
        row: the panels' name behind their metric.
        mine: of :func:`by_course`, one course.
    """
    parts = []
    for metric in metrics:
        found = mine[(mine["metric"] == metric) & (mine["method"] != "truth")]
        for method, group in found.groupby("method", sort=True):
            parts.append(frames.mean_range(f"{metric}: {row}", method, place, group["value"].to_numpy()))
            parts.append(rows(f"seeds of {metric}: {row}", method, place, group["value"]))
    for (metric, method, name), series in BOUNDS.items():
        found = mine[(mine["metric"] == name) & (mine["method"] == method)]["value"]
        if metric in metrics and len(found):
            parts.append(rows(f"{metric}: {row}", series, [place], [found.mean()]))
    return parts


def _difference(dataset, other):
    """What a data set's name says beyond that of another: ``potentials-implicit`` beside ``..-paired``: implicit."""
    return "-".join(word for word in dataset.split("-") if word not in other.split("-"))


def most_seeds(*tables):
    """The largest number of seeds of any method on any data set."""
    return int(max(table.groupby(["dataset", "method"])["seed"].nunique().max() for table in tables))


def potentials_training(files):
    """How the training of every method went: its loss or price, its gradient, and its errors, first seed.

    Equation: ``free-energy``, ``l2-uvp``, ``bw-uvp``
    """
    parts, methods = [], []
    names = {meta["dataset"]: meta for _, meta in files["histories"]}
    dataset = next(iter(names))
    for history, meta in (one for one in files["histories"] if one[1]["dataset"] == dataset):
        curves = history[(history["seed"] == history["seed"].min()) & (history["step"] > 0)]
        terms = [term for term in TERMS if (curves["term"] == term).any()]
        if not terms:
            continue  # solved at once: there is no training
        methods.append(meta["method"])
        for place, term in enumerate(terms):
            for member, line in curves[curves["term"] == term].groupby("member", sort=True):
                line, course = thinned(line, SMOOTH), meta["courses"][int(member)]
                panel = f"{TERMS[term]}: {meta['method']}"
                parts.append(rows(panel, course, line["step"], line["value"]))
            if TERMS[term] == "objective":
                parts.append(rows(f"term: {meta['method']}", term, [0], [place]))
    frame = pd.concat(parts, ignore_index=True) if parts else rows("objective", "none", [], [])
    courses = in_order(frame.loc[frame["panel"].str.startswith("objective"), "series"])
    return frame, {"methods": methods, "dataset": dataset, "courses": courses, "hard": list(HARD)}


def thinned(line, most):
    """Means of ``step`` and ``value`` over consecutive parts of a curve, so that few points remain."""
    if len(line) <= most:
        return line[["step", "value"]]
    part = np.arange(len(line)) * most // len(line)
    return line[["step", "value"]].groupby(part).mean()


def potentials_dimension(files):
    """Error of the force against the dimension, one panel a potential.

    Equation: ``l2-uvp``, ``step-bias``
    """
    dim = {meta["dataset"]: meta["dim"] for _, meta in files["courses"]}
    own = by_course(files["metrics"][0])
    own = own[own["dataset"].isin(dim)]
    courses, methods = in_order(own["course"]), set(own["method"])
    tables = [own]
    for metrics, _ in files["beside"]:
        table = by_course(metrics)
        first = next((name for name in dim if name in set(table["dataset"])), None)
        tables.append(table[(table["dataset"] == first) & table["course"].isin(courses)])
    table = pd.concat(tables, ignore_index=True)
    table = table[table["method"].isin(methods)].assign(dim=table["dataset"].map(dim))
    parts = []
    for name in courses:
        mine = table[table["course"] == name]
        for metric, series in (("l2_uvp", None), ("l2_uvp_bias", "step-bias")):
            found = mine[mine["metric"] == metric]
            for (method, place), group in found.groupby(["method", "dim"], sort=True):
                parts.append(frames.mean_range(name, series or method, place, group["value"].to_numpy()))
    facts = {"courses": courses, "ticks": sorted(table["dim"].unique().tolist()), "seeds": most_seeds(table)}
    return pd.concat(parts, ignore_index=True), facts
