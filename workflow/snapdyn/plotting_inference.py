"""Ink of :mod:`snapdyn.figures_inference`: frames in, figures out. Nothing is computed, shown or saved here."""

from snapdyn.plotting import canvas, interval, legend_below

TARGET = (0.91, 0.98)  # coverage that counts as right
NAMED = {"diffusivity": "D"}


def coverage(frame, style, facts):
    """Coverage of every parameter, rejections and p-values of J; one colour a data set."""
    style.need(frame["series"])
    figure, axes = canvas(3, width=3.4, height=3.0)
    covered, rejected, values = axes[0]
    series = list(facts["counts"])
    for name in series:
        mine = frame[frame["series"] == name]
        label = f"{style[name]['label']}, {facts['counts'][name]}"
        line = mine[mine["panel"] == "coverage"]
        interval(covered, line["x"], line, style, name, label=label)
        line = mine[mine["panel"] == "rejections"]
        interval(rejected, line["x"], line, style, name, label=label)
        line = mine[mine["panel"] == "p-values"]
        values.step(line["x"], line["y"], color=style[name]["colour"], linewidth=1.1, where="mid")
    covered.axhspan(*TARGET, color="0.93", zorder=0)
    covered.axhline(0.95, color="black", linestyle="--", linewidth=1)
    covered.set_xticks(range(len(facts["ticks"])), [NAMED.get(name, name) for name in facts["ticks"]])
    covered.set(title="coverage of 95 % intervals", ylabel="share that holds the truth")
    rejected.axhline(0.05, color="black", linestyle="--", linewidth=1)
    rejected.set_xlim(-0.6, len(series) - 0.4)
    rejected.set_xticks([])
    rejected.set_ylim(bottom=-0.01)
    rejected.set(title="J test at 5 %", ylabel="share of replicates rejected")
    values.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1)
    values.set_xlim(0, 1)
    values.set_ylim(0, 1)
    values.set(title="p-values of J", xlabel="p-value", ylabel="share of replicates below")
    legend_below(figure, axes)
    return figure


def misspecification(frame, style, facts):
    """Rejections against the number of points, one panel an equation, one line a dropped term."""
    style.need(frame["series"])
    figure, axes = canvas(len(facts["equations"]), width=3.4, height=3.0)
    for axis, equation in zip(axes[0], facts["equations"], strict=True):
        mine = frame[frame["panel"] == equation]
        series = style.order(mine["series"])
        for place, name in enumerate(series):
            line = mine[mine["series"] == name]
            aside = line["x"] * 1.05 ** (place - (len(series) - 1) / 2)
            interval(axis, aside, line, style, name, linestyle="-", linewidth=0.9)
        for level in (0.05, 0.95):
            axis.axhline(level, color="black", linestyle="--", linewidth=0.8)
        axis.set_xscale("log")
        axis.set_xticks(facts["ticks"], [f"{n / 1000:g}k" for n in facts["ticks"]])
        axis.set_xticks([], minor=True)
        axis.set_ylim(-0.03, 1.03)
        axis.set(title=f"terms of d{equation}/dt", xlabel="points N", ylabel="rejected by J at 5 %")
    legend_below(figure, axes)
    return figure


def cells_inference(frame, style, facts):
    """Intervals of all coefficients side by side, the diffusivity apart."""
    import matplotlib.pyplot as plt

    style.need(frame["series"])
    plt.close("all")
    figure, axes = plt.subplots(1, 2, figsize=(9.0, 3.2), width_ratios=[8, 1])
    for axis, panel in zip(axes, ("coefficients", "diffusivity"), strict=True):
        mine = frame[frame["panel"] == panel]
        series = style.order(mine["series"])
        for place, name in enumerate(series):
            line = mine[mine["series"] == name]
            interval(axis, line["x"] + 0.3 * (place - (len(series) - 1) / 2), line, style, name)
    axes[0].axhline(0, color="black", linewidth=0.6)
    axes[0].set_xticks(range(len(facts["names"])), facts["names"], rotation=90, fontsize=6)
    axes[0].set(title=f"linear drift; J / degrees of freedom = {facts['j_per_dof']}", ylabel="coefficient")
    axes[1].set_xticks([])
    axes[1].set_xlim(-0.6, 0.6)
    axes[1].set_ylim(bottom=0)
    axes[1].set(title="D")
    legend_below(figure, axes)
    return figure
