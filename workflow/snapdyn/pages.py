"""The page of one analysis: what it plots, and what it says in words."""

import numpy as np
import pandas as pd

SHOWN_POINTS = 1500
FEW_ROWS = 25
WEAKEST = "weakest: "  # as in snapdyn.models, which imports torch
SHOWN_PARAMETERS = 40
MAP, MAPS = "potential", 4
PREDICTIONS = "Predictions of the held-out rows are in"


def _rows(panel, series, x, y, low=np.nan, high=np.nan):
    return pd.DataFrame(
        {
            "panel": panel,
            "series": series,
            "x": np.asarray(x, dtype=np.float64),
            "y": y,
            "low": low,
            "high": high,
        }
    )


def score_name(metrics):
    """The metric that the page shows: ``nll`` of densities, ``w1`` of moves in time, else the weak-form residual."""
    there = set(metrics["metric"])
    return next((name for name in ("nll", "w1") if name in there), "weak_form_residual")


def summary(metrics):
    """Mean and standard deviation over seeds of the page's score, best first."""
    mine = metrics[(metrics["metric"] == score_name(metrics)) & metrics["t"].isna()]
    by = mine.groupby("method")["value"]
    table = pd.DataFrame({"mean": by.mean(), "sd": by.std(ddof=1).fillna(0.0), "n_seeds": by.size()})
    return table.sort_values("mean")


def estimates(parameters):
    """Mean estimate over seeds with the larger of its mean standard error and the spread over seeds."""
    by = parameters.groupby("name", sort=False)
    table = pd.DataFrame({"estimate": by["estimate"].mean(), "std_error": by["std_error"].mean()})
    table["spread"] = by["estimate"].std(ddof=1)
    table["unit"] = by["unit"].first()
    return table


def dropped(parameters):
    """Names of the terms that elimination removed in every seed: exactly zero, without an error."""
    gone = (parameters["estimate"] == 0) & parameters["std_error"].isna()
    always = gone.groupby(parameters["name"], sort=False).all()
    return list(always.index[always])


def arrange(cells, predicted, metrics, parameters, field=None):
    """The page as a ``figure/1`` frame: panels ``cells``, ``scores`` and ``parameters``, and the maps of a potential.

    Args:
        cells, predicted: snapshots of the first seed.
        metrics, parameters: of all seeds.
        field: frame and metadata of a learned energy at the cells of the first seed, see
            :func:`snapdyn.energy_frames.field`.
    """
    held_out, second = cells.select(split="test"), min(1, cells.dim - 1)
    parts = []
    for series, points in (("cloud", held_out), ("predicted", predicted)):
        shown = points.x[np.linspace(0, len(points) - 1, min(SHOWN_POINTS, len(points))).astype(int)]
        parts.append(_rows("cells", series, shown[:, 0], shown[:, second]))
    for method, line in summary(metrics).iterrows():
        parts.append(_rows("scores", method, [0.0], line["mean"], line["mean"] - line["sd"], line["mean"] + line["sd"]))
    for name, line in estimates(parameters)[:SHOWN_PARAMETERS].iterrows():
        reach = 1.96 * line["std_error"]
        parts.append(
            _rows(
                "parameters",
                name,
                [0.0],
                line["estimate"],
                line["estimate"] - reach,
                line["estimate"] + reach,
            )
        )
    if field is not None:
        parts += maps(*field)
    return pd.concat(parts, ignore_index=True)


def maps(frame, meta):
    """The potential as panels: on its grids in a plane, else at the data in their first two axes.

    Of a potential that depends on time there is one for each step, at most :data:`MAPS`, evenly chosen.
    """
    if "potential" not in frame:
        return []
    rows, second = meta["rows"], min(1, meta["dim"] - 1)
    shown = frame.iloc[rows:] if meta["side"] else frame.iloc[:rows]
    times, parts = shown["t"].unique(), []
    if meta["timed"] and not meta["side"]:
        times = np.sort(times)[1:]  # no step ends at the first
    if not meta["timed"]:  # the same everywhere: one grid, or all rows
        times, shown = [np.nan], shown[shown["t"].isna() | (shown["t"] == times[0])] if meta["side"] else shown
    for t in np.asarray(times)[np.linspace(0, len(times) - 1, min(MAPS, len(times))).astype(int)]:
        mine = shown if np.isnan(t) else shown[shown["t"] == t]
        if not meta["side"]:
            mine = mine.iloc[np.linspace(0, len(mine) - 1, min(SHOWN_POINTS, len(mine))).astype(int)]
        title, series = MAP if np.isnan(t) else f"{MAP} at t = {t:g}", "grid" if meta["side"] else "cells"
        parts.append(_rows(title, series, mine["x0"], mine[f"x{second}"].to_numpy(), mine["potential"].to_numpy()))
    return parts


def energy(fit, frame, meta, metrics):
    """What a learned energy is, in words."""
    said = []
    if "potential" in frame:
        values = frame["potential"].iloc[: meta["rows"]]
        clock = meta.get("time_unit") or "time unit"
        said.append(
            f"Over the data its potential spans {values.quantile(0.05):.3g} to {values.quantile(0.95):.3g} "
            f"length²/{clock} (5 to 95 %; 0 at the data's centre)."
        )
    values = metrics[metrics["method"] == fit.method].groupby("metric")["value"].median()
    if "step_residual" in values:
        said.append(f"Its implicit steps are solved to {values['step_residual']:.1e} (largest residual, data units).")
    grid = f", then on a grid of {meta['side']} by {meta['side']} points" if meta["side"] else ""
    said.append(
        f"`seed-*/field.parquet` holds the potential and the drift at every row of the data{grid}; "
        "`seed-*/in-between.parquet` holds the rows of every time on their way to the next, and one mean gap after the "
        "last. The model answers `potential(t, x)`, `drift(t, x)` and `simulate(x0, times)`."
    )
    return ["", "## The energy", "", " ".join(said)]


NO_DRIFT = "a density without a drift to look for:\nno parameters"
SCORES = {
    "density": "held-out negative log-likelihood, nats (lower is better)",
    "forecast": "W1 one step ahead (mean of transitions)",
    "interpolation": "W1 at held-out snapshots (mean)",
    "stationary": "held-out weak-form residual (1 = noise)",
}


def better(fit, answer):
    """The verdict's question and answer; to stand still is what doing nothing means for moves in time alone."""
    null = answer["null"] if fit.kind in ("density", "stationary") else "doing nothing"
    return f"better than {null}: {answer['verdict']}"


def facts(fit, cells, answer):
    """What the drawing needs to know besides the frame."""
    density = fit.kind == "density"
    without = "the drift has no unknowns:\nno parameters" if fit.drift else NO_DRIFT
    names = cells.meta["axes"]
    clock = cells.meta.get("time_unit") or "time unit"
    return {
        "title": f"{fit.experiment}: {fit.method} on {fit.dataset}",
        "axes": [names[0], names[min(1, len(names) - 1)]],
        "verdict": better(fit, answer),
        "score": SCORES[fit.kind],
        "drawn": "drawn from the density" if density else "predicted",
        "parameters": "coefficients that the density gives" if density else "parameters, 95 % intervals",
        "no_parameters": without if density else "",
        "parameter_axis": f"estimate (data units, per {clock})",
        "potential": f"V, length²/{clock}",
    }


def specification(metrics):
    """What the J test says, for methods that have one: a paragraph, or nothing."""
    p = metrics.loc[metrics["metric"] == "j_p_value", "value"]
    if p.empty:
        return []
    ratio = metrics.loc[metrics["metric"] == "j_per_dof", "value"].median()
    said = (
        f"Specification test: J / degrees of freedom {ratio:.3g}; p = {p.median():.2g} from products of different "
        "folds (medians over seeds)."
    )
    if p.median() < 0.01:
        said += (
            " **No coefficients satisfy all moment equations**: look for a missing term, a wrong diffusivity, rows "
            "that are not independent, or gaps that are too long. Standard errors below do not cover that."
        )
    return ["", said]


def identifiability(metrics, parameters):
    """What the data determine, and what elimination did to it, as paragraphs; nothing for methods without a report."""
    values = metrics.groupby("metric")["value"].median()
    if "rank" not in values:
        return []
    count = parameters["name"].nunique()
    lines = [
        "",
        "## What the data determine",
        "",
        f"Median over seeds: rank {values['rank']:.0f} of {count}; singular values of the whitened, column-scaled "
        f"system {values['largest_singular_value']:.3g} to {values['smallest_singular_value']:.3g}, condition number "
        f"{values['condition_number']:.3g}.",
    ]
    weakest = {name.removeprefix(WEAKEST): v for name, v in values.items() if name.startswith(WEAKEST)}
    order = sorted(weakest, key=lambda name: -abs(weakest[name]))[:4]
    lines.append("The combination that is seen worst moves " + ", ".join(f"`{name}`" for name in order) + ".")
    if values["cross_fitted"] < 1:
        lines += [
            "",
            "**The standard errors may be too small**: there are too few rows for so many unknowns to learn weights "
            "and slopes from other rows. Give more data or a smaller library.",
        ]
    if values["carrying_rows"] < FEW_ROWS:
        lines += [
            "",
            "**The tails are heavy**: the noise of one test function is carried by "
            f"{values['carrying_rows']:.0f} rows. Estimates and errors may be off; try `tests: gaussians`, or a lower "
            "degree.",
        ]
    if "threshold" in values:
        lines += [
            "",
            f"Terms below {values['threshold']:g} standard errors were eliminated: {values['kept']:.0f} of {count} are "
            f"kept. J rose by {values['j_rise']:.3g} on {values['j_rise_dof']:.0f} degrees of freedom "
            f"(p = {values['j_rise_p_value']:.2g}; a small p says that something needed was dropped).",
        ]
    if parameters["name"].str.endswith(" / D").any():
        lines += [
            "",
            "**Only ratios to the diffusivity are known.** A stationary cloud without a known part of the drift has no "
            "clock: drift and diffusivity may be scaled together. Give the diffusivity, a known part, or times.",
        ]
    return lines


def density(fit, cells, metrics):
    """What a fitted density is, in words; nothing for other methods."""
    if fit.kind != "density":
        return []
    values = metrics[metrics["method"] == fit.method].groupby("metric")["value"].median()
    said = []
    if "components" in values:
        said.append(f"{values['components']:.0f} components (median over seeds).")
    if "bandwidth" in values:
        said.append(f"Kernel width {values['bandwidth']:.3g} (geometric mean over axes).")
    if "integral" in values:
        said.append(f"It integrates to {values['integral']:.4f} over the plane.")
    if "w1_samples" in values:
        said.append(
            f"Its draws are {values['w1_samples']:.3g} (W1) from the held-out rows; training rows are "
            f"{values['w1_floor']:.3g} from them."
        )
    if "round_trip_residual" in values:
        said.append(
            "The parameters below were found from the density alone, by the stationary Fokker-Planck equation at its "
            "own draws; they have no standard errors, and the spread over seeds is what there is to judge them by."
        )
    when = ", t" if cells.timed else ""
    there = f"t, one of {', '.join(f'{t:g}' for t in cells.times)}" if cells.timed else "any t"
    usage = f"`log_prob(t, x)`, `score(t, x)`, `energy(t, x)` at {there}, and `sample(n{when})`"
    return ["", "## The density", "", " ".join([*said, f"The model below answers {usage}."])]


def text(fit, cells, metrics, parameters, answer, field=None):
    """The page in words, as Markdown; arguments as for :func:`arrange`."""
    name = score_name(metrics)
    n = {split: int((cells.split == split).sum()) for split in ("train", "test")}
    lines = [
        f"# {fit.experiment}",
        "",
        f"`{fit.method}` on `{fit.dataset}` ({fit.seeds} seeds; {n['train']} training and {n['test']} held-out rows; "
        f"coordinates: {cells.meta['space']}).",
        "",
        f"**B{better(fit, answer)[1:]}.** {answer['sentence'].partition('. ')[2]}",
        "",
    ]
    if fit.kind == "interpolation":
        held = ", ".join(f"{t:g}" for t in cells.meta["hold_out"])
        lines += [f"Held-out times ({cells.meta.get('time_unit') or 'time unit'}): {held}.", ""]
    elif cells.timed and fit.kind != "density":
        steps = ", ".join(f"{a:g} to {b:g}" for a, b in zip(cells.times[:-1], cells.times[1:], strict=True))
        lines += [f"Transitions ({cells.meta.get('time_unit') or 'time unit'}): {steps}.", ""]
    notes = cells.meta.get("notes", [])
    lines += ["## Notes on the data", "", *(f"- {note}" for note in notes), ""] if notes else []
    lines += [
        f"## Scores ({name}, held-out; lower is better)",
        "",
        "| method | mean | sd over seeds | seeds |",
    ]
    lines += ["| --- | --- | --- | --- |"]
    for method, line in summary(metrics).iterrows():
        lines.append(f"| {method} | {line['mean']:.4g} | {line['sd']:.2g} | {int(line['n_seeds'])} |")
    lines += density(fit, cells, metrics)
    if field is not None:
        lines += energy(fit, *field, metrics)
    lines += specification(metrics)
    lines += identifiability(metrics, parameters)
    if len(parameters):
        lines += ["", "## Parameters", "", "| name | estimate | standard error | spread over seeds | unit |"]
        lines += ["| --- | --- | --- | --- | --- |"]
    table, gone = estimates(parameters), dropped(parameters)
    for parameter, line in table.drop(gone).iterrows():
        shown = [f"{line[key]:.4g}" if np.isfinite(line[key]) else "–" for key in ("estimate", "std_error", "spread")]
        lines.append(f"| {parameter} | {' | '.join(shown)} | {line['unit']} |")
    if gone:
        lines += ["", "Eliminated in every seed: " + ", ".join(f"`{name}`" for name in gone) + "."]
    trust = f", trust={fit.method!r}" if ":" in fit.method else ""
    made = "Draws from it, as many as held-out rows, are in" if fit.kind == "density" else PREDICTIONS
    lines += [
        "",
        f"Load the model with `snapdyn.load('seed-0/model.pt'{trust})`"
        f"{', if its class has state() and from_state()' if trust else ''}. {made} `seed-*/predicted.parquet`.",
    ]
    return "\n".join(lines) + "\n"
