"""Ink of :mod:`snapdyn.figures_interaction`: frames in, figures out. Nothing is computed, shown or saved here."""

import numpy as np

from snapdyn.plotting import canvas, legend_below
from snapdyn.plotting_energy import HALF, by_course, logarithmic, short
from snapdyn.plotting_maps import POTENTIAL, colour_bar, picked

LEVELS = 9  # lines of equal value in a map of a kernel
BEYOND = 0.25  # of the true kernel's range: how far a cut's axis reaches past it
ROOM = 1.5  # times the largest ratio that an axis reaches, and as far below the smallest
FORCES = {"l2_uvp": "whole force", "l2_uvp_interaction": "the interaction's force"}
RATIO_LABELS = {"l2_uvp_ratio": "L²-UVP", "bw_uvp_ratio": "BW-UVP", "w1_ratio": "W1"}


def interaction_kernels(frame, style, facts):
    """A row a course: cuts along the first axis, then level sets of the true and of every learned kernel."""
    courses, shown = facts["courses"], facts["shown"]
    style.need(shown)
    figure, axes = canvas(1 + len(shown), len(courses), width=2.0, height=1.7)
    for row, (cut, *maps), name in zip(range(len(courses)), axes, courses, strict=True):
        span = picked(frame, f"range: {name}").iloc[0]
        for series in shown:
            line, entry = picked(frame, f"cut: {name}", series), style[series]
            true = {"color": "black", "linewidth": 1.8, "alpha": 0.5}
            look = true if series == "truth" else {"color": entry["colour"], "linewidth": 1.1}
            cut.plot(line["x"], line["y"], label=entry["label"], **look)
            raw = picked(frame, f"cut: {name}", f"as learned: {series}")
            cut.plot(raw["x"], raw["y"], ":", color=entry["colour"], linewidth=0.8)
        room = BEYOND * (span["high"] - span["low"])
        cut.set_ylim(span["low"] - room, span["high"] + room)
        cut.set_title(name, fontsize=8)
        cut.set(xlabel="difference along x0" if row == len(courses) - 1 else "", ylabel="W")
        for axis, series in zip(maps, shown, strict=True):
            table = picked(frame, f"kernel: {name}", series).pivot(index="y", columns="x", values="low")
            look = {"cmap": POTENTIAL, "vmin": span["low"], "vmax": span["high"], "shading": "nearest"}
            mesh = axis.pcolormesh(table.columns, table.index, table, rasterized=True, **look)
            levels = np.linspace(span["low"], span["high"], LEVELS)
            axis.contour(table.columns, table.index, table, levels=levels, colors="white", linewidths=0.5)
            axis.grid(False)
            axis.tick_params(labelbottom=False, labelleft=False, length=0)
            if row == 0:
                title = "true" if series == "truth" else style[series]["label"].replace(", ", ",\n")
                axis.set_title(title, fontsize=8)
            if series != "truth":
                score = picked(frame, f"score: {name}", series)["y"].iloc[0]
                free = picked(frame, f"gauge: {name}", series)["y"].iloc[0]
                said = f", c = {free:.2g}" if len(picked(frame, f"cut: {name}", f"as learned: {series}")) else ""
                axis.set_xlabel(f"L²-UVP {short(score)} %{said}", fontsize=7, labelpad=2)
        colour_bar(figure, maps[-1], mesh, "W, length²/time")
    cut.plot([], [], ":", color="0.3", linewidth=0.8, label="as learned, with c |z|²/2")
    legend_below(figure, axes[:, 0])
    return figure


def interaction_scores(frame, style, facts):
    """A row a data set: errors of the forces, and the diffusivity where it is learned."""
    datasets, metrics = facts["datasets"], facts["metrics"]
    style.need(frame["series"])
    figure, axes = canvas(len(metrics) + bool(facts["learned"]), len(datasets), width=4.2, height=3.3)
    for row, name in zip(axes, datasets, strict=True):
        for axis, metric in zip(row, metrics, strict=False):
            by_course(axis, frame, f"{metric}: {name}", style, facts["ticks"][name])
            axis.set(title=f"{name}: {FORCES[metric]}", ylabel="L²-UVP, %")
        if name in facts["learned"]:
            _recovered(row[-1], frame, name, style, facts)
        elif facts["learned"]:
            row[-1].axis("off")
    legend_below(figure, axes)
    return figure


def diffusivity_recovered(frame, style, facts):
    """A panel a data set: diffusivities of every method at every course, the true one as a line."""
    style.need(frame["series"])
    datasets = facts["datasets"]
    figure, axes = canvas(min(2, len(datasets)), -(-len(datasets) // 2), width=4.6, height=2.9)
    for axis in axes.flat[len(datasets) :]:
        axis.axis("off")
    for axis, name in zip(axes.flat, datasets, strict=False):
        _recovered(axis, frame, name, style, facts)
    legend_below(figure, axes)
    return figure


def _recovered(axis, frame, name, style, facts):
    by_course(axis, frame, f"diffusivity: {name}", style, facts["ticks"][name], log=False)
    true = picked(frame, f"diffusivity: {name}", "truth")
    for x, y in zip(true["x"], true["y"], strict=True):
        first = x == true["x"].iloc[0]
        axis.hlines(y, x - 0.5, x + 0.5, color="black", linewidth=1, linestyle="--", label="true" if first else None)
    axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
    axis.set(title=f"{name}: diffusivity, true {facts['truth'][name]}", ylabel="β, length²/time")


def unpairing_ratios(frame, style, facts):
    """A row a data set, a column a metric: our ratios with their seeds, published ones as diamonds."""
    style.need(series for series in frame["series"] if not series.startswith("published: "))
    metrics, datasets = facts["metrics"], facts["datasets"]
    figure, axes = canvas(len(metrics), len(datasets), width=3.2, height=2.7)
    for row, dataset in zip(axes, datasets, strict=True):
        ticks = facts["ticks"][dataset]
        for axis, metric in zip(row, metrics, strict=True):
            mine = picked(frame, f"{metric}: {dataset}")
            ours = [name for name in style.order(mine["series"]) if not name.startswith("published: ")]
            for place, name in enumerate(ours):
                line = mine[mine["series"] == name]
                shift = HALF * (2 * (place + 0.5) / len(ours) - 1) * 0.7
                reach = np.stack([line["y"] - line["low"], line["high"] - line["y"]])
                axis.errorbar(line["x"] + shift, line["y"], reach, capsize=2, markersize=4.5, **style.point(name))
            stated = mine[mine["series"].str.startswith("published: ")]
            look = {"markerfacecolor": "none", "color": "black", "markersize": 4.5}
            axis.plot(stated["x"], stated["y"], "D", label="published", **look)
            axis.axhline(1, color="0.6", linewidth=0.8)
            ends = mine["low"].fillna(mine["y"]).min() / ROOM, mine["high"].fillna(mine["y"]).max() * ROOM
            logarithmic(axis, ends)
            axis.set_ylim(min(1 / ROOM, ends[0]), max(ROOM, ends[1]))
            axis.set_xticks(range(len(ticks)), ticks, rotation=40, ha="right", rotation_mode="anchor", fontsize=7)
            axis.set_xlim(-0.6, len(ticks) - 0.4)
            axis.set(title=f"{dataset}: {RATIO_LABELS[metric]}", ylabel="unpaired / paired")
    legend_below(figure, axes)
    return figure
