"""Ink of :mod:`snapdyn.figures_cells`: frames in, figures out. Nothing is computed, shown or saved here."""

import numpy as np
from matplotlib import lines, ticker

from snapdyn.plotting import canvas, interval
from snapdyn.plotting_maps import POTENTIAL, picked

ROW = 0.19  # height of a method's row in inches
LEAST = 2.8  # inches: the height of a panel of few rows
EDGE = 0.15  # around the cells, in their standard deviations
SPREAD = 0.7  # of the marks of one transition
PUBLISHED = {"marker": "D", "markersize": 4, "markerfacecolor": "none", "linestyle": "none", "color": "black"}


def _named(style, labels, method):
    """What a method is called: by the style, or as it was published."""
    return style[method]["label"] if method in style.entries else labels.get(method) or method


def _across(axis, line, style, name, **look):
    """One mark of a row with its range along x."""
    y, x = line["x"].to_numpy(), line["y"].to_numpy()
    entry = style[name]
    marker = entry["marker"] or "|"
    if not line["low"].isna().all():
        axis.hlines(y, line["low"], line["high"], color=look.get("color", entry["colour"]), linewidth=0.8)
    axis.plot(x, y, **({"marker": marker, "color": entry["colour"], "markersize": 5, "linestyle": "none"} | look))


def _ranking(axis, mine, style, order, labels):
    """A row a method, the best on top; hollow marks are rolled out, black diamonds are published."""
    for series, line in mine.groupby("series", sort=True):
        kind, _, method = series.rpartition(": ")
        if kind == "published":
            _across(axis, line, style, method, **PUBLISHED)
        elif kind:
            _across(axis, line, style, method, markerfacecolor="white")
        else:
            _across(axis, line, style, method)
    axis.set_yticks(range(len(order)), [_named(style, labels, method) for method in order], fontsize=7)
    axis.set_ylim(len(order) - 0.4, -0.6)


def _log(axis):
    """A logarithmic axis along x with numbers written out."""
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axis.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axis.xaxis.set_minor_locator(ticker.NullLocator())


def _kinds(figure, frame, kinds):
    """A legend of what marks stand for, under the figure; without published ones where there are none."""
    if not frame["series"].str.startswith("published: ").any():
        kinds = {label: look for label, look in kinds.items() if label != "published"}
    handles = [lines.Line2D([], [], label=label, **({"linestyle": "none"} | look)) for label, look in kinds.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))


def _count(splits):
    return f"{splits} seed{'s' if splits > 1 else ''}"


def cells_one_step(frame, style, facts):
    """A row a data set: W1 of every transition on the left, the mean with published numbers on the right."""
    style.need(series for series in frame["series"] if not series.startswith("published: "))
    longest = max(len(order) for order in facts["order"].values())
    figure, axes = canvas(2, len(facts["datasets"]), width=4.6, height=max(LEAST, ROW * longest))
    for (steps, mean), dataset in zip(axes, facts["datasets"], strict=True):
        mine = picked(frame, f"steps: {dataset}")
        series = style.order(mine["series"])
        for place, name in enumerate(series):
            line = mine[mine["series"] == name]
            interval(steps, line["x"] + SPREAD * ((place + 0.5) / len(series) - 0.5), line, style, name)
        ticks = facts["ticks"][dataset]
        steps.set_xticks(range(len(ticks)), ticks)
        steps.set_xlim(-0.5, len(ticks) - 0.5)
        steps.grid(False, axis="x")
        for edge in range(1, len(ticks)):
            steps.axvline(edge - 0.5, color="0.85", linewidth=0.8)
        steps.set_ylim(bottom=0)
        title = f"{dataset} ({_count(facts['splits'][dataset])})"
        steps.set(title=title, xlabel="predicted snapshot (t)", ylabel="W1 to the held-out snapshot")
        order = facts["order"][dataset]
        _ranking(mean, picked(frame, f"mean: {dataset}"), style, order, facts["labels"])
        mean.set(title="mean over the transitions", xlabel="W1")
    kinds = {"measured here": {"marker": "o", "color": "0.3"}, "published": PUBLISHED}
    _kinds(figure, frame, kinds)
    return figure


def cells_held_out(frame, style, facts):
    """A row a data set, a column a held-out time: every method, baseline and published number."""
    mine = [series.removeprefix("rolled out: ") for series in frame["series"] if not series.startswith("published: ")]
    style.need(mine)
    columns = max(len(times) for times in facts["times"].values())
    longest = max(len(order) for order in facts["order"].values())
    figure, axes = canvas(columns, len(facts["datasets"]), width=4.2, height=max(LEAST, ROW * longest))
    for row, dataset in zip(axes, facts["datasets"], strict=True):
        for axis in row[len(facts["times"][dataset]) :]:
            axis.axis("off")
        for axis, t in zip(row, facts["times"][dataset], strict=False):
            _ranking(axis, picked(frame, f"t = {t:g}: {dataset}"), style, facts["order"][dataset], facts["labels"])
            _log(axis)
            title = f"{dataset}, t = {t:g} ({_count(facts['splits'][dataset])})"
            axis.set(title=title, xlabel="W2 to all cells of the snapshot")
            if axis is not row[0]:
                axis.tick_params(labelleft=False)
    kinds = {
        "from the snapshot before": {"marker": "o", "color": "0.3"},
        "rolled out from the first": {"marker": "o", "color": "0.3", "markerfacecolor": "white"},
        "published": PUBLISHED,
    }
    _kinds(figure, frame, kinds)
    return figure


def cells_field(frame, style, facts):
    """Cells coloured by time, held-out cells under predicted ones, and cells coloured by potential."""
    import matplotlib

    style.need(["cloud", "predicted", facts["best"]])
    panels = ["cells", *facts["held"], *facts["potentials"]]
    columns = min(3, len(panels))
    figure, axes = canvas(columns, -(-len(panels) // columns), width=3.0, height=2.9)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    places = np.linspace(0.05, 0.95, len(facts["times"]))
    colours = dict(zip(facts["times"], matplotlib.colormaps["plasma"](places), strict=True))
    drawn = frame[frame["panel"].isin(panels)]
    view = {
        name: (drawn[at].min() - EDGE * drawn[at].std(), drawn[at].max() + EDGE * drawn[at].std())
        for name, at in (("xlim", "x"), ("ylim", "y"))
    }
    dots = {"linestyle": "none", "marker": ".", "markersize": 2, "rasterized": True}
    for axis, panel in zip(axes.flat, panels, strict=False):
        mine = picked(frame, panel)
        axis.set(xlabel=facts["axes"][0], ylabel=facts["axes"][1], **view)
        if panel in facts["potentials"]:
            ends = picked(frame, f"range: {panel}").iloc[0]
            look = {"s": 3, "cmap": POTENTIAL, "vmin": ends["low"], "vmax": ends["high"], "rasterized": True}
            mesh = axis.scatter(mine["x"], mine["y"], c=mine["low"], linewidths=0, **look)
            bar = figure.colorbar(mesh, ax=axis, location="bottom", fraction=0.05, pad=0.03)
            bar.set_label(facts["unit"], fontsize=7)
            bar.ax.tick_params(labelsize=6.5)
            axis.set_title(panel.replace("potential:", "potential, t ="))
            continue
        for series, line in mine.groupby("series", sort=False):
            label = {"cloud": "observed", "predicted": "predicted"}.get(series, series)
            colour = colours[series] if series in colours else style[series]["colour"]
            axis.plot(line["x"], line["y"], color=colour, label=label, alpha=0.6, **dots)
        axis.set_title("observed cells" if panel == "cells" else panel)
        axis.legend(loc="best", markerscale=4, fontsize=6.5, handletextpad=0.1)
    figure.suptitle(f"{facts['dataset']}: {style[facts['best']]['label']}", fontsize=9.5)
    return figure
