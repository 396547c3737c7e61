"""Figures of interactions, of diffusivities that are learned, and of what unpaired data cost."""

import numpy as np
import pandas as pd

from snapdyn import comparisons, figures_energy, flows, frames
from snapdyn.figures_energy import by_course, in_order, of_first_seed
from snapdyn.frames import rows

PAIRS = 4000  # differences of two particles, over which kernels are made alike
REACH = 0.95  # quantile of their size along an axis that a kernel is drawn to
METRICS = ("l2_uvp_interaction", "l2_uvp")
LINE = 81  # points of a cut
SIDE = 51  # points of a map along each axis


def differences(snapshots):
    """Differences ``(PAIRS, dim)`` of two particles of the same snapshot, over all snapshots but the first."""
    rng, parts = np.random.default_rng(0), []
    later = snapshots.times[1:]
    for t in later:
        x = snapshots.select(t=t).x
        i, j = rng.integers(len(x), size=(2, PAIRS // len(later)))
        parts.append((x[i] - x[j])[i != j])
    return np.concatenate(parts)


def gauge(learned, true, z):
    r"""The c and the level that bring ``learned - c |z|^2 / 2 - level`` nearest to ``true`` at the differences z.

    With a potential beside it an interaction is known up to c |z|^2 / 2 only: while the population's mean m stays, a
    potential with -c |x - m|^2 / 2 more undoes it.

    Args:
        learned, true: kernels at ``z (n, dim)``.
    """
    design = np.stack([0.5 * np.square(z).sum(1), np.ones(len(z))], 1)
    (c, level), *_ = np.linalg.lstsq(design, learned - true, rcond=None)
    return float(c), float(level)


def interaction_kernels(files):
    """Fig. 3 of iJKOnet: true and learned kernels, as level sets and along the first axis, first data set and seed.

    Equation: ``free-energy``, ``even-kernel``, ``l2-uvp``
    """
    return _kernels_of(files, 0)


def interaction_kernels_noisy(files):
    """Fig. 4 of iJKOnet: the same of the last data set, whose particles diffuse.

    Equation: ``free-energy``, ``even-kernel``, ``l2-uvp``
    """
    return _kernels_of(files, -1)


def _kernels_of(files, place):
    frame, meta = files["courses"][place]
    dataset, models = meta["dataset"], of_first_seed(files)
    scores = by_course(files["metrics"][0])
    scores = scores[(scores["dataset"] == dataset) & (scores["seed"] == scores["seed"].min())]
    # the error of the interaction's own force where it was measured, of the whole force else
    metric = next(name for name in METRICS if (scores["metric"] == name).any())
    scores = scores[scores["metric"] == metric].set_index(["course", "method"])["value"]
    courses = flows.unstacked(frame, meta)
    names = in_order(courses)
    methods = dict.fromkeys(key[1] for key, model in models.items() if key[0] == dataset and _interacts(model))
    parts = []
    for name in names:
        parts += _kernels(name, courses[name], {method: models[dataset, method, name] for method in methods})
        parts += [rows(f"score: {name}", method, [0], [scores[name, method]]) for method in methods]
    facts = {"courses": names, "methods": list(methods), "dataset": dataset, "shown": ["truth", *methods]}
    facts |= {"diffusivity": f"{meta['flow']['diffusivity']:g}", "n": f"{meta['flow']['n']:,}"}
    return pd.concat(parts, ignore_index=True), facts


def _interacts(model):
    return model.energy.interaction is not None


def _kernels(name, snapshots, models):
    """Cuts and maps of the true kernel and of learned ones, with their free quadratic part as in the true one."""
    z = differences(snapshots)
    half = np.quantile(np.abs(z), REACH, axis=0)
    line = np.zeros((LINE, z.shape[1]))
    line[:, 0] = np.linspace(-half[0], half[0], LINE)
    sides = [np.linspace(-end, end, SIDE) for end in half[:2]]
    places = np.zeros((SIDE**2, z.shape[1]))
    places[:, :2] = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, 2)
    kernel = flows.flow_of(snapshots).energy.interaction

    def true(z):
        return kernel.value(figures_energy.tensor(z)).numpy()

    at = true(z)
    level, parts = at.mean(), []
    low, high = np.quantile(true(places) - level, [0, 1])
    parts.append(rows(f"range: {name}", "truth", [0], [0], low, max(high, low + 1e-9)))
    for method, value in {"truth": true, **{method: model.interaction for method, model in models.items()}}.items():
        free = method != "truth" and models[method].energy.potential is not None
        c, away = gauge(value(z), at, z) if free else (0.0, float((value(z) - at).mean()))
        parts.append(rows(f"gauge: {name}", method, [0], [c]))
        for panel, points, x, y in (
            ("cut", line, line[:, 0], None),
            ("kernel", places, places[:, 0], places[:, 1]),
        ):
            values = value(points) - away - level - 0.5 * c * np.square(points).sum(1)
            mark = (values, np.nan, np.nan) if y is None else (y, values, values)
            parts.append(rows(f"{panel}: {name}", method, x, *mark))
        if free:
            raw = value(line) - away - level
            parts.append(rows(f"cut: {name}", f"as learned: {method}", line[:, 0], raw))
    return parts


def interaction_scores(files):
    """Errors of the whole force and of the interaction's part of it, and the diffusivities learned with them.

    Equation: ``l2-uvp``, ``step-bias``, ``free-energy``
    """
    scores = by_course(files["metrics"][0])
    parts, ticks = [], {}
    for dataset in sorted(set(scores["dataset"])):
        mine = scores[scores["dataset"] == dataset]
        ticks[dataset] = in_order(mine["course"])
        for place, course in enumerate(ticks[dataset]):
            here = mine[mine["course"] == course]
            for metric in METRICS:
                parts += figures_energy.scores_at(dataset, place, here, metrics=[metric])
    learned, found = _diffusivities(files["parameters"][0])
    facts = {"datasets": list(ticks), "ticks": ticks, "learned": learned, "truth": found}
    facts["metrics"] = [metric for metric in METRICS[::-1] if (scores["metric"] == metric).any()]
    return pd.concat([*parts, *_betas(files["parameters"][0], ticks)], ignore_index=True), facts | {
        "seeds": figures_energy.most_seeds(scores)
    }


def diffusivity_recovered(files):
    """Diffusivities that methods learn beside the true one, on every course and seed.

    Equation: ``free-energy``
    """
    table = files["parameters"][0]
    table = table[table["name"] == "diffusivity"]
    name = table["dataset"].str.partition("/")
    ticks = {dataset: in_order(name[2][name[0] == dataset]) for dataset in sorted(set(name[0]))}
    learned, truth = _diffusivities(table)
    facts = {"datasets": list(ticks), "ticks": ticks, "learned": learned, "truth": truth}
    frame = pd.concat(_betas(table, ticks), ignore_index=True)
    return frame, facts | {"seeds": int(table.groupby(["dataset", "method"])["seed"].nunique().max())}


def _diffusivities(table):
    """Data sets in which a diffusivity is learned, and the true one of each."""
    table = table[table["name"] == "diffusivity"]
    truth = table.assign(dataset=table["dataset"].str.partition("/")[0]).groupby("dataset", sort=False)["truth"].first()
    return list(truth.index), {name: f"{value:g}" for name, value in truth.items()}


def _betas(table, ticks):
    """Estimates of the diffusivity: the mean of each method and course, each seed, and the truth."""
    table = table[table["name"] == "diffusivity"]
    name = table["dataset"].str.partition("/")
    table, parts = table.assign(dataset=name[0], course=name[2]), []
    for (dataset, course), mine in table.groupby(["dataset", "course"], sort=True):
        place = ticks[dataset].index(course)
        parts.append(rows(f"diffusivity: {dataset}", "truth", [place], [mine["truth"].iloc[0]]))
        for method, group in mine.groupby("method", sort=True):
            parts.append(frames.mean_range(f"diffusivity: {dataset}", method, place, group["estimate"].to_numpy()))
            parts.append(rows(f"seeds of diffusivity: {dataset}", method, place, group["estimate"]))
    return parts


RATIOS = ("l2_uvp_ratio", "bw_uvp_ratio", "w1_ratio")


def unpairing_ratios(files):
    """Table 2 of iJKOnet: scores of unpaired data over those of paired data, ours by seed, and as published.

    No movement on unpaired data stands beside, over the same scores of paired data.

    Equation: ``score-ratio``, ``l2-uvp``, ``bw-uvp``, ``wasserstein``
    """
    table = files["metrics"][0]
    still = table["metric"].str.endswith("_still")
    table = table.assign(metric=table["metric"].str.removesuffix("_still"))
    table = table.assign(method=table["method"].mask(still, comparisons.STILL))
    table = table[table["metric"].isin(RATIOS) & table["t"].isna() & table["dataset"].str.contains("/")]
    name = table["dataset"].str.partition("/")
    table = table.assign(dataset=name[0], course=name[2])
    claims = [claim for claim in files["published"] if claim["metric"] in RATIOS and claim["kind"] == "claim"]
    parts, ticks = [], {}
    for dataset in dict.fromkeys(table["dataset"]):
        mine = table[table["dataset"] == dataset]
        ticks[dataset] = in_order(mine["course"])
        for place, course in enumerate(ticks[dataset]):
            for (metric, method), group in mine[mine["course"] == course].groupby(["metric", "method"], sort=True):
                values = group["value"].to_numpy()
                panel = f"{metric}: {dataset}"
                parts.append(rows(panel, method, [place], [np.median(values)], values.min(), values.max()))
            for claim in claims:
                if claim["dataset"] == f"{dataset}/{course}":
                    panel = f"{claim['metric']}: {dataset}"
                    parts.append(rows(panel, f"published: {claim['method']}", [place], [float(claim["published"])]))
    facts = {"datasets": list(ticks), "ticks": ticks, "metrics": [m for m in RATIOS if (table["metric"] == m).any()]}
    seeds = int(table.groupby(["dataset", "course", "metric", "method"])["seed"].nunique().max())
    return pd.concat(parts, ignore_index=True), facts | {"seeds": seeds}
