"""Ink of :mod:`snapdyn.figures_energy`: frames in, figures out. Nothing is computed, shown or saved here."""

import numpy as np
from matplotlib import ticker

from snapdyn.plotting import canvas, interval, interval_inside, legend_below
from snapdyn.plotting_maps import POTENTIAL, log_scale, picked

LEVELS = 10  # lines of equal potential in a map
COLUMN = 6  # potentials below each other
HALF = 0.38  # width of the marks of one potential, to either side of its place
SCORES = {"l2_uvp": "L²-UVP, %", "w1": "W1, length"}
ERRORS = {"l2_uvp": "L²-UVP, %", "bw_uvp": "BW-UVP, %"}  # along a training
FORCE_TITLES = {"l2_uvp": "force", "l2_uvp_elsewhere": "at other steps' snapshots", "l2_uvp_apart": "between steps"}
METRIC_TITLES = {"l2_uvp": "error of the force", "w1": "one step ahead"}
ROUNDING = 1e-8  # a score below it is 0: a triangle at the edge of a logarithmic axis
ABOVE = 2  # times the largest score that an axis reaches, and as far below the smallest
DECADES = 100  # times its smallest number that an axis spans before its ticks are whole decades


def potentials_levels(frame, style, facts):
    """A row a potential, the true one first; potentials beyond the sixth begin further columns."""
    courses, shown = facts["courses"], facts["shown"]
    style.need(shown)
    blocks = -(-len(courses) // COLUMN)
    height = -(-len(courses) // blocks)
    figure, axes = canvas(blocks * len(shown), height, width=1.55, height=1.62)
    for axis in axes.flat:
        axis.axis("off")
    for place, name in enumerate(courses):
        block, row = divmod(place, height)
        span = picked(frame, f"range: {name}").iloc[0]
        for column, method in enumerate(shown):
            axis = axes[row, block * len(shown) + column]
            axis.axis("on")
            mesh = _level_sets(axis, frame, name, method, span)
            if row == 0:
                title = "true" if method == "truth" else style[method]["label"].replace(", ", ",\n")
                axis.set_title(title, fontsize=8)
            if column == 0:
                axis.set_ylabel(name, fontsize=8)
            else:
                score = picked(frame, f"l2_uvp: {name}", method)["y"].iloc[0]
                axis.set_xlabel(f"L²-UVP {short(score)} %", fontsize=7, labelpad=2)
            if column == len(shown) - 1:
                bar = figure.colorbar(mesh, ax=axis, fraction=0.06, pad=0.04)
                bar.ax.tick_params(labelsize=6)
                bar.locator = ticker.MaxNLocator(4)
                bar.update_ticks()
        still = picked(frame, f"l2_uvp: {name}", "no-movement")["y"].iloc[0]
        axes[row, block * len(shown)].set_xlabel(f"not moving: {short(still)} %", fontsize=7, labelpad=2)
    return figure


def _level_sets(axis, frame, name, method, span):
    """One potential: colours and lines at the true one's levels, hatched where there are no data."""
    mine = picked(frame, f"potential: {name}", method)
    table = mine.pivot(index="y", columns="x", values="low")
    x, y = table.columns.to_numpy(), table.index.to_numpy()
    levels = np.linspace(span["low"], span["high"], LEVELS)
    mesh = axis.pcolormesh(
        x, y, table, cmap=POTENTIAL, vmin=span["low"], vmax=span["high"], shading="nearest", rasterized=True
    )
    axis.contour(x, y, table, levels=levels, colors="white", linewidths=0.5)
    bare = picked(frame, f"potential: {name}", "without data").pivot(index="y", columns="x", values="low")
    if bare.to_numpy().any():
        axis.contourf(x, y, bare, levels=[0.5, 1.5], colors="white", alpha=0.65)
        hatch = axis.contourf(x, y, bare, levels=[0.5, 1.5], colors="none", hatches=["/////"])
        hatch.set_edgecolor("0.75")
        hatch.set_linewidth(0)
    axis.grid(False)
    axis.tick_params(labelbottom=False, labelleft=False, length=0)
    axis.set_aspect("auto")
    return mesh


def short(value):
    """Two digits of a number, without an exponent while it is readable."""
    return f"{value:.2g}" if 1e-3 <= abs(value) < 100 or value == 0 else f"{value:.0e}".replace("e-0", "e-")


def potentials_scores(frame, style, facts):
    """A row a data set; error of the force on the left, distance one step ahead on the right."""
    marks = frame[~frame["panel"].str.startswith("seeds of")]
    style.need(marks["series"])
    rows_, ticks = facts["rows"], facts["ticks"]
    figure, axes = canvas(2, len(rows_), width=6.2, height=2.7)
    for row, name in zip(axes, rows_, strict=True):
        for axis, metric in zip(row, SCORES, strict=True):
            panel = f"{metric}: {name}"
            by_course(axis, frame, panel, style, ticks[name], hard=facts["hard"][name])
            axis.set(title=f"{name}: {METRIC_TITLES[metric]}", ylabel=SCORES[metric])
    legend_below(figure, axes)
    return figure


def forces_only(frame, style, facts):
    """A panel a data set and score of the force."""
    style.need(frame[~frame["panel"].str.startswith("seeds of")]["series"])
    panels = [(name, metric) for name, shown in facts["shown"].items() for metric in shown]
    columns = min(3, len(panels))
    figure, axes = canvas(columns, -(-len(panels) // columns), width=4.0, height=2.9)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (name, metric) in zip(axes.flat, panels, strict=False):
        by_course(axis, frame, f"{metric}: {name}", style, facts["ticks"][name])
        axis.set(title=f"{name}: {FORCE_TITLES[metric]}", ylabel="L²-UVP, %")
    legend_below(figure, axes)
    return figure


def by_course(axis, frame, panel, style, ticks, *, hard=0, log=True):
    """Marks of every series at every course, with a dot for each seed.

    Args:
        ticks: names of the courses.
        hard: how many of them stand left of a darker line.
        log: whether the axis is logarithmic; if so, a triangle at its lower edge is a 0.
    """
    mine, count = picked(frame, panel), len(ticks)
    series = [name for name in style.order(mine["series"]) if name != "truth"]
    limits = _limits(mine["y"])
    if log:
        logarithmic(axis, limits)
    for place, name in enumerate(series):
        shift = HALF * (2 * (place + 0.5) / len(series) - 1)
        line, seeds = mine[mine["series"] == name], picked(frame, f"seeds of {panel}", name)
        axis.plot(seeds["x"] + shift, seeds["y"], ".", markersize=2.5, alpha=0.5, color=style[name]["colour"])
        bare = line.assign(low=np.nan, high=np.nan)
        if log:
            interval_inside(axis, line["x"] + shift, bare, style, name, limits, markersize=4.5)
        else:
            interval(axis, line["x"] + shift, bare, style, name, markersize=4.5)
    axis.set_xticks(range(count), ticks, rotation=40, ha="right", rotation_mode="anchor", fontsize=7)
    axis.set_xlim(-0.6, count - 0.4)
    axis.grid(False, axis="x")
    for edge in range(1, count):
        axis.axvline(edge - 0.5, color="0.5" if edge == hard else "0.9", linewidth=0.7)


def _limits(values):
    """Of a logarithmic axis that holds all numbers but those that are 0."""
    kept = values[values > ROUNDING]
    return (kept.min() / ABOVE, kept.max() * ABOVE) if len(kept) else (ROUNDING, 1.0)


def logarithmic(axis, limits):
    """A logarithmic axis whose ticks suit what it spans."""
    log_scale(axis) if limits[1] < DECADES * limits[0] else axis.set_yscale("log")


def potentials_training(frame, style, facts):
    """A column a method: what it minimises, the size of its gradient, its errors; a line a potential."""
    import matplotlib

    style.need(facts["methods"])
    colours = dict(zip(facts["hard"], matplotlib.colormaps["Dark2"].colors, strict=False))
    figure, axes = canvas(max(len(facts["methods"]), 1), len(ERRORS) + 2, width=3.2, height=2.2)
    for column, method in zip(axes.T, facts["methods"], strict=False):
        for axis, kind in zip(column, ("objective", "gradient", *ERRORS), strict=True):
            mine = picked(frame, f"{kind}: {method}")
            if not len(mine):
                axis.axis("off")
                continue
            for course in facts["courses"]:
                line = mine[mine["series"] == course]
                known = course in colours
                look = {"color": colours.get(course, "0.8"), "linewidth": 1.2 if known else 0.7, "zorder": 2 + known}
                label = course if known else "other potentials"
                axis.plot(line["x"], line["y"], marker="." if len(line) == 1 else "", label=label, **look)
            term = picked(frame, f"term: {method}")["series"].iloc[0]
            label = {"objective": f"{term} (scaled units)", "gradient": "norm of the gradient", **ERRORS}[kind]
            axis.set(xlabel="step", ylabel=label)
            axis.set_xlim(left=0)
            if (mine["y"] > 0).all():
                logarithmic(axis, (mine["y"].min(), mine["y"].max()))
            elif kind == "objective":
                axis.set_yscale("symlog", linthresh=max(1e-6, float(mine["y"].abs().median())))
                axis.margins(y=0.1)
        column[0].set_title(style[method]["label"])
    legend_below(figure, axes)
    return figure


def potentials_dimension(frame, style, facts):
    """One panel a potential, one line a method."""
    style.need(frame["series"])
    columns = 3
    figure, axes = canvas(columns, -(-len(facts["courses"]) // columns), width=2.9, height=2.4)
    for axis in axes.flat[len(facts["courses"]) :]:
        axis.axis("off")
    for axis, name in zip(axes.flat, facts["courses"], strict=False):
        mine = picked(frame, name)
        series = style.order(mine["series"])
        for place, method in enumerate(series):
            line = mine[mine["series"] == method]
            aside = line["x"] * 1.04 ** (place - (len(series) - 1) / 2)
            dashes = "--" if method in ("no-movement", "step-bias") else "-"
            interval(axis, aside, line, style, method, linestyle=dashes, linewidth=0.9)
        axis.set_xscale("log")
        logarithmic(axis, (mine["low"].min(), mine["high"].max()))
        axis.set_xticks(facts["ticks"], [f"{d:g}" for d in facts["ticks"]])
        axis.set_xticks([], minor=True)
        axis.set(title=name, xlabel="dimension", ylabel="L²-UVP, %")
    legend_below(figure, axes)
    return figure
