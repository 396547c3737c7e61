"""Ink of :mod:`snapdyn.figures_recovery`: frames in, figures out. Nothing is computed, shown or saved here."""

import numpy as np

from snapdyn.plotting import canvas, interval, interval_inside, legend_below

DASHED = {"predicted-error": "--", "moments-fit": ":"}


def _lines(axis, panel, style):
    """One line a series over a logarithmic axis, ranges beside each other; predictions without marks."""
    series = style.order(panel["series"])
    measured = [name for name in series if name not in DASHED]
    for name in series:
        line, entry = panel[panel["series"] == name], style[name]
        if name in DASHED:
            axis.plot(line["x"], line["y"], DASHED[name], color=entry["colour"], label=entry["label"])
            continue
        aside = line["x"] * 1.04 ** (measured.index(name) - (len(measured) - 1) / 2)
        interval(axis, aside, line, style, name, linestyle="-", linewidth=0.9)
    axis.set_xscale("log")
    axis.set_yscale("log")
    # the smallest error of any seed may be as good as none; the axis is for the others
    axis.set_ylim(bottom=0.4 * panel["y"].min())


def _ticks(axis, ticks):
    axis.set_xticks(ticks, [f"{tick:g}" if tick < 1000 else f"{tick / 1000:g}k" for tick in ticks])
    axis.set_xticks([], minor=True)


def lorenz_noise(frame, style, facts):
    """Error against noise, one panel a parameter."""
    style.need(frame["series"])
    figure, axes = canvas(len(facts["names"]), width=3.4, height=3.0)
    for axis, name in zip(axes[0], facts["names"], strict=True):
        _lines(axis, frame[frame["panel"] == name], style)
        _ticks(axis, facts["ticks"])
        axis.set(title=name, xlabel="noise D, length²/time", ylabel="relative error, %")
    legend_below(figure, axes)
    return figure


def lorenz_samples(frame, style, facts):
    """Error against the number of points, one panel a parameter."""
    style.need(frame["series"])
    figure, axes = canvas(len(facts["names"]), width=3.4, height=3.0)
    for axis, name in zip(axes[0], facts["names"], strict=True):
        _lines(axis, frame[frame["panel"] == name], style)
        _ticks(axis, facts["ticks"])
        power = frame[frame["panel"] == f"power: {name}"].iloc[0]
        error = rf" \pm {power['high'] - power['y']:.2f}" if np.isfinite(power["high"]) else ""
        title = rf"{name}: moments $\propto N^{{{power['y']:.2f}{error}}}$"
        axis.set(title=title, xlabel="points N", ylabel="relative error, %")
    legend_below(figure, axes)
    return figure


def lorenz_diffusivity(frame, style, facts):
    """Estimate over truth of every seed, one panel a parameter."""
    style.need(frame["series"])
    figure, axes = canvas(len(facts["names"]), width=2.8)
    for axis, name in zip(axes[0], facts["names"], strict=True):
        line = frame[frame["panel"] == name]
        axis.axhline(1, color="black", linestyle="--", linewidth=1, label="true")
        interval(axis, line["x"], line, style, "moments", markersize=3, label="estimate, 95 % interval")
        axis.set_xticks(range(len(facts["ticks"])), facts["ticks"])
        covered = frame[frame["panel"] == f"covered: {name}"].iloc[0]
        title = "D" if name == "diffusivity" else name
        axis.set(
            title=f"{title}: {covered['y'] * covered['x']:.0f} of {covered['x']:.0f} hold the truth",
            xlabel="true D, length²/time",
            ylabel="estimate / truth",
        )
    legend_below(figure, axes)
    return figure


def lorenz_library(frame, style, facts):
    """All coefficients, one panel an equation, and the z-scores."""
    style.need(frame[frame["panel"] != "exact support"]["series"])
    equations = facts["equations"]
    figure, axes = canvas(2, 2, width=5.2, height=2.7)
    axes = axes.ravel()
    for axis, equation in zip(axes, equations, strict=False):
        mine = frame[frame["panel"] == f"equation: {equation}"]
        truth = mine[mine["series"] == "truth"]
        reach = 1.5 * truth["y"].abs().max()
        axis.hlines(truth["y"], truth["x"] - 0.4, truth["x"] + 0.4, color="black", linewidth=1.2, label="true")
        series = [name for name in style.order(mine["series"]) if name != "truth"]
        for place, name in enumerate(series):
            line = mine[mine["series"] == name]
            aside = line["x"].to_numpy() + (place - (len(series) - 1) / 2) * 0.25
            interval_inside(axis, aside, line, style, name, (-reach, reach))
        axis.set_xticks(range(len(facts["terms"][equation])), [t.replace("^2", "²") for t in facts["terms"][equation]])
        axis.set(title=f"d{equation}/dt", ylabel="coefficient × size of term")
    scores, panel = axes[len(equations)], frame[frame["panel"] == "z-scores"]
    bars, normal = (panel[panel["series"] == name] for name in ("moments", "normal"))
    width = bars["x"].iloc[1] - bars["x"].iloc[0]
    scores.bar(bars["x"], bars["y"], width, color=style["moments"]["colour"], alpha=0.5)
    scores.plot(normal["x"], normal["y"], color="black", linewidth=1, label=style["normal"]["label"])
    spread = frame[frame["panel"] == "z-scores: RMS"].iloc[0]
    support = frame[(frame["panel"] == "exact support") & (frame["series"] == facts["dataset"])]
    found = [f"exact support in {row['y'] * row['x']:.0f} of {row['x']:.0f} seeds" for _, row in support.iterrows()]
    scores.set(
        title="\n".join([f"z-scores of {spread['x']:.0f} estimates, RMS {spread['y']:.2f}", *found]),
        xlabel="(estimate - truth) / standard error",
        ylabel="density",
    )
    for axis in axes[len(equations) + 1 :]:
        axis.axis("off")
    legend_below(figure, axes)
    return figure


def lorenz_trajectories(frame, style, facts):
    """Errors with and without the order of states: true terms, and the worst of the absent ones."""
    style.need(frame["series"])
    import matplotlib.pyplot as plt

    plt.close("all")
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.0), width_ratios=(2.6, 1, 1))
    true = frame[frame["panel"] == "true terms"]
    series = style.order(true["series"])
    for place, name in enumerate(series):
        line = true[true["series"] == name]
        interval(axes[0], line["x"] + (place - (len(series) - 1) / 2) * 0.15, line, style, name)
    axes[0].set_yscale("log")
    axes[0].set_ylim(bottom=0.3 * true["y"].min())
    axes[0].set_xticks(range(len(facts["terms"])), facts["terms"])
    axes[0].set(title="true terms", ylabel="relative error, %")
    labels = {"absent terms": "largest coefficient × size of term", "absent terms, z": "largest in its standard errors"}
    for axis, (panel, label) in zip(axes[1:], labels.items(), strict=True):
        mine = frame[frame["panel"] == panel]
        methods = [name for name in style.order(mine["series"]) if name != "normal"]
        for place, name in enumerate(methods):
            interval(axis, [place], mine[mine["series"] == name], style, name)
        for _, row in mine[mine["series"] == "normal"].iterrows():
            axis.axhline(
                row["y"],
                color="black",
                linestyle="--",
                linewidth=1,
                label=f"median largest of {facts['absent']} normals",
            )
        axis.set_xlim(-0.7, len(methods) - 0.3)
        axis.set_xticks([])
        axis.set_ylim(bottom=0)
        axis.set(title=f"the {facts['absent']} absent terms", ylabel=label)
    legend_below(figure, axes)
    return figure
