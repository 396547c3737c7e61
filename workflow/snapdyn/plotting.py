"""Ink: frames in, figures out. Nothing is computed, shown or saved here."""

import numpy as np
import yaml


class Style:
    """The look of every figure, as a context; colours and markers by name.

    Args:
        sheet: a matplotlib style sheet.
        colours: YAML of ``name -> {colour, marker, label}``.
    """

    def __init__(self, sheet, colours):
        self.sheet = str(sheet)
        with open(colours, encoding="utf-8") as file:
            self.entries = yaml.safe_load(file)

    def __enter__(self):
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import style

        self._context = style.context(self.sheet)
        self._context.__enter__()
        return self

    def __exit__(self, *error):
        return self._context.__exit__(*error)

    def need(self, names):
        """Refuse, naming all of them, series for which there is no entry."""
        if missing := sorted(set(names) - set(self.entries)):
            raise ValueError(f"config/plotting.yaml has no entry for {missing}; give each a colour, marker and label")

    def __getitem__(self, name):
        entry = self.entries.get(name) or self.entries["user"] | {"label": name}
        return entry

    def order(self, names):
        """Distinct names in the order of the file; unknown ones last."""
        places = {name: place for place, name in enumerate(self.entries)}
        return sorted(dict.fromkeys(names), key=lambda name: places.get(name, len(places)))

    def point(self, name, **more):
        """Keywords for a marker of this series."""
        entry = self[name]
        return {
            "color": entry["colour"],
            "marker": entry["marker"],
            "label": entry["label"],
            "linestyle": "none",
        } | more


def canvas(columns, rows=1, width=3.0, height=2.6):
    """A figure and its axes ``(rows, columns)``, each of this size in inches."""
    import matplotlib.pyplot as plt

    plt.close("all")
    figure, axes = plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False)
    return figure, axes


def interval(axis, x, line, style, name, **more):
    """Marks with their ranges, where they have any."""
    low, high = line["low"].to_numpy(), line["high"].to_numpy()
    y = line["y"].to_numpy()
    look = {"markersize": 4} | style.point(name, **more)
    if np.isnan(low).all():
        axis.plot(x, y, **look)
        return
    reach = np.clip(np.stack([y - low, high - y]), 0, None)
    axis.errorbar(x, y, reach, capsize=1.5, elinewidth=0.8, **look)


def interval_inside(axis, x, line, style, name, limits, **more):
    """The same on an axis with these limits: a triangle at the edge stands for a mark beyond it."""
    low, high = limits
    axis.set_ylim(low, high)
    inside = line["y"].between(low, high).to_numpy()
    interval(axis, x[inside], line[inside], style, name, **more)
    for out, marker, edge in ((line["y"] < low, "v", low), (line["y"] > high, "^", high)):
        if out.any():
            marks = axis.plot(
                x[out.to_numpy()], [edge] * out.sum(), marker, color=style[name]["colour"], markersize=4, clip_on=False
            )
            marks[0].set_in_layout(False)


def legend_below(figure, axes):
    """One legend of everything in ``axes``, under the figure; in the order of first appearance."""
    handles = {}
    for axis in np.ravel(axes):
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    lines = -(-len(handles) // 5)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=-(-len(handles) // lines))


def start_paths(axis, frame, name):
    """The loss or one parameter against the updates of the plain recipe, a line a start, the truth dashed."""
    panel = frame[frame["panel"] == f"path: {name}"]
    for series, line in panel.groupby("series", sort=True):
        if series == "truth":
            axis.axhline(line["y"].iloc[0], color="black", linestyle="--", linewidth=1, label="true")
        else:
            axis.plot(line["x"], line["y"], linewidth=0.8, alpha=0.8)
    label = "mean |residual|, 1/time" if name == "loss" else name
    axis.set(title=f"plain recipe: {name}", xlabel="update", ylabel=label)


def lorenz(frame, style, facts):
    """Cloud, loss and parameter curves, attractors, and the error of every method at every size."""
    errors = [panel for panel in frame["panel"].unique() if panel.startswith("error")]
    style.need(frame[frame["panel"].isin(errors)]["series"])
    figure, axes = canvas(4, 2)
    top, bottom = axes
    cloud = frame[frame["panel"] == "cloud"]
    top[0].plot(cloud["x"], cloud["y"], ".", markersize=1, color=style["cloud"]["colour"], rasterized=True)
    top[0].set(title="unordered points", xlabel="x", ylabel="z")
    for axis, name in zip([top[1], top[2], top[3], bottom[0]], ["loss", *facts["names"]], strict=True):
        start_paths(axis, frame, name)
    for axis, name in zip(bottom[1:2], ["attractor"], strict=True):
        panel = frame[frame["panel"] == name]
        for series, line in panel.groupby("series", sort=False):
            entry = style[series]
            dashes = {"truth": "-", "moments": ":"}.get(series, "-")
            axis.plot(line["x"], line["y"], dashes, linewidth=0.5, color=entry["colour"], label=entry["label"])
        axis.set(title="noise-free attractor", xlabel="x", ylabel="z")
    for axis, panel in zip(bottom[2:], errors, strict=False):
        _errors(axis, frame[frame["panel"] == panel], style, facts["names"])
        axis.set(title=panel.removeprefix("error: "), ylabel="relative error, %")
    for axis in bottom[2 + len(errors) :]:
        axis.axis("off")
    legend_below(figure, bottom[1:])
    return figure


def _errors(axis, panel, style, names):
    series = style.order(panel["series"])
    for place, name in enumerate(series):
        line = panel[panel["series"] == name]
        shift = (place - (len(series) - 1) / 2) * 0.11
        interval(axis, line["x"] + shift, line, style, name)
    axis.set_yscale("log")
    axis.set_xticks(range(len(names)), names)


def bandwidth(frame, style, facts):
    """Error against kernel width, one panel a parameter."""
    style.need(frame["series"])
    panels = facts["names"]
    figure, axes = canvas(len(panels))
    for axis, panel in zip(axes[0], panels, strict=True):
        mine = frame[frame["panel"] == panel]
        for series, line in mine.groupby("series", sort=True):
            entry = style[series]
            axis.fill_between(line["x"], line["low"], line["high"], color=entry["colour"], alpha=0.18, linewidth=0)
            axis.plot(
                line["x"],
                line["y"],
                color=entry["colour"],
                marker=entry["marker"],
                markersize=3.5,
                label=entry["label"],
            )
        axis.axhline(0, color="black", linestyle="--", linewidth=1)
        axis.set_xscale("log")
        ticks = [0.3, 0.5, 1, 2, 3, 5, 8]
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_xticks([], minor=True)
        axis.set_yscale("symlog", linthresh=2)
        axis.set(title=panel, xlabel="kernel width h (units of the state)", ylabel="signed error, %")
    legend_below(figure, axes)
    return figure


def ornstein_uhlenbeck(frame, style, facts):
    """One bar-like mark a method, one panel a dimension."""
    style.need(frame["series"])
    panels = list(dict.fromkeys(frame["panel"]))
    figure, axes = canvas(len(panels), width=3.6)
    for axis, panel in zip(axes[0], panels, strict=True):
        mine = frame[frame["panel"] == panel]
        series = style.order(mine["series"])
        for place, name in enumerate(series):
            interval(axis, [place], mine[mine["series"] == name], style, name)
        axis.set_xticks([])
        axis.set_yscale("log")
        axis.set(title=panel, ylabel="relative error of the rates, %")
    legend_below(figure, axes)
    return figure


def by_snapshot(frame, style, splits, *, step, **labels):
    """Marks of every series for each snapshot and for their mean, one panel a data set.

    Args:
        frame: panels are data sets; series ``tick: ..`` name the places along x, the mean last.
        splits: data set -> how many random splits its marks stand for.
        step: between the marks of neighbouring series.
    """
    marks = frame[~frame["series"].str.startswith("tick: ")]
    style.need(marks["series"])
    panels = list(dict.fromkeys(frame["panel"]))
    figure, axes = canvas(len(panels), width=max(4.0, 7.0 / len(panels)), height=3.0)
    for axis, panel in zip(axes[0], panels, strict=True):
        mine = frame[frame["panel"] == panel]
        ticks = mine[mine["series"].str.startswith("tick: ")]
        series = style.order(marks[marks["panel"] == panel]["series"])
        for place, name in enumerate(series):
            line = mine[mine["series"] == name]
            interval(axis, line["x"] + (place - (len(series) - 1) / 2) * step, line, style, name)
        axis.axvline(ticks["x"].max() - 0.75, color="0.8", linewidth=0.8)
        axis.set_xticks(ticks["x"], ticks["series"].str.removeprefix("tick: "))
        count = splits[panel]
        axis.set(title=f"{panel} ({count} split{'s' if count > 1 else ''})", **labels)
    legend_below(figure, axes)
    return figure, axes[0]


def cells_drift(frame, style, facts):
    """W1 of every method for each transition, one panel a data set."""
    labels = {"xlabel": "predicted snapshot (t)", "ylabel": "W1 to the held-out snapshot"}
    figure, axes = by_snapshot(frame, style, facts["splits"], step=0.085, **labels)
    for axis in axes:
        axis.set_ylim(bottom=0)
    return figure


def page(frame, style, facts):
    """One analysis: data and predictions, scores beside their floors, parameters, and the potential of an energy."""
    maps = [panel for panel in dict.fromkeys(frame["panel"]) if panel.startswith("potential")]
    figure, axes = canvas(3 + len(maps), width=3.9, height=3.4)
    data, scores, numbers = axes[0][:3]
    if maps:
        from snapdyn import plotting_maps

        for axis, panel in zip(axes[0][3:], maps, strict=True):
            plotting_maps.potential(figure, axis, frame, panel, facts)
    for series, line in frame[frame["panel"] == "cells"].groupby("series", sort=True):
        entry = style["predicted" if series.startswith("predicted") else "cloud"]
        label = "held-out data" if series == "cloud" else facts["drawn"]
        data.plot(
            line["x"],
            line["y"],
            ".",
            markersize=2,
            alpha=0.6,
            color=entry["colour"],
            label=label,
            rasterized=True,
        )
    data.set(title=facts["title"], xlabel=facts["axes"][0], ylabel=facts["axes"][1])
    data.legend(loc="best", markerscale=3)
    panel = frame[frame["panel"] == "scores"]
    for place, (name, line) in enumerate(panel.groupby("series", sort=False)):
        entry = style[name]
        mark = {"marker": entry["marker"] or "|"}
        interval(scores, line["y"], line.assign(y=place, low=place, high=place), style, name, **mark)
        scores.plot(line[["low", "high"]].iloc[0], [place, place], color=entry["colour"], linewidth=1)
    labels = [style[name]["label"] for name in dict.fromkeys(panel["series"])]
    scores.set_yticks(range(len(labels)), labels)
    scores.invert_yaxis()
    scores.set(title=facts["verdict"], xlabel=facts["score"])
    panel = frame[frame["panel"] == "parameters"]
    for place, (_, line) in enumerate(panel.groupby("series", sort=False)):
        numbers.plot(line["y"], [place] * len(line), "o", markersize=3.5, color=style["user"]["colour"])
        if np.isfinite(line["low"]).all():
            numbers.plot(line[["low", "high"]].iloc[0], [place, place], color=style["user"]["colour"], linewidth=1)
    names = list(dict.fromkeys(panel["series"]))
    numbers.set_yticks(range(len(names)), names, fontsize=6 if len(names) > 15 else 7.5)
    if names:
        numbers.axvline(0, color="black", linewidth=0.6)
    numbers.invert_yaxis()
    numbers.set(title=facts["parameters"], xlabel=facts["parameter_axis"])
    if not names:
        numbers.axis("off")
        numbers.text(0.5, 0.5, facts["no_parameters"], ha="center", va="center", transform=numbers.transAxes)
    return figure
