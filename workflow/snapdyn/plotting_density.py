"""Ink of :mod:`snapdyn.figures_density`: frames in, figures out. Nothing is computed, shown or saved here."""

from snapdyn.plotting import by_snapshot, canvas, interval, legend_below
from snapdyn.plotting_maps import (
    DENSITY,
    arrows,
    centroids,
    colour_bar,
    comparison,
    density,
    energy,
    heat,
    log_scale,
    picked,
)

LINES = ("-", "--", ":")  # of data sets
TARGET = 3  # %, of the round trip


def _top(frame, panel):
    """The largest true density of a panel."""
    return picked(frame, panel, "truth")["low"].max()


def _curves(axis, mine, style, datasets, **labels):
    """Training curves: a colour a method, a dash a data set."""
    for name, line in mine.groupby("series", sort=True):
        dataset, _, method = name.partition("/")
        if method:
            look = LINES[datasets.index(dataset) % len(LINES)]
            axis.plot(line["x"], line["y"], look, linewidth=1, color=style[method]["colour"])
    for place, dataset in enumerate(datasets):
        axis.plot([], [], LINES[place % len(LINES)], color="black", linewidth=1, label=style[dataset]["label"])
    axis.set(xlabel="step", **labels)


def limit_cycle(frame, style, facts):
    """A row a system: true and learned density, energy, score, the plain recipe; below, training and distances."""
    datasets, (learned, plain) = facts["datasets"], facts["shown"]
    style.need(frame[frame["panel"].isin(["tv", "score error", "nll"])]["series"])
    style.need([*datasets, "centroids"])
    count = len(datasets)
    figure, axes = canvas(5, count + 1, width=2.6, height=2.4)
    for row, dataset in zip(axes, datasets, strict=False):
        panel = f"density: {dataset}"
        top, box = _top(frame, panel), picked(frame, panel, "truth")
        density(figure, row[0], frame, panel, "truth", top, bar=True)
        row[0].set(title=f"{style[dataset]['label']}: true", ylabel="y")
        for axis, method, title in ((row[1], learned, "learned from the drift"), (row[4], plain, "paper's loss")):
            if len(picked(frame, panel, method)):
                density(figure, axis, frame, panel, method, top)
                centroids(axis, frame, dataset, method, style)
                axis.set(title=title)
            else:
                axis.axis("off")
        if len(picked(frame, f"energy: {dataset}", learned)):
            energy(figure, row[2], frame, f"energy: {dataset}", learned)
            row[2].set(title="learned energy")
            arrows(row[3], frame, f"score: {dataset}", ["truth", learned], style, box)
            row[3].set(title="score, true and learned")
        for axis in row:
            axis.set_xlabel("x")
    loss, mass, tv, score, likelihood = axes[-1]
    _curves(loss, picked(frame, "loss"), style, datasets, title="training loss, each its own", ylabel="loss")
    loss.set_yscale("symlog", linthresh=1)  # ours is a logarithm, and goes below 0
    _curves(mass, picked(frame, "mass"), style, datasets, title="probability inside the box", ylabel="share")
    names = [style[dataset]["label"].removesuffix(" cycle") for dataset in datasets]
    comparison(tv, picked(frame, "tv"), style, names)
    tv.set(title="distance to the true density", ylabel="total variation")
    comparison(score, picked(frame, "score error"), style, names)
    score.set(title="error of the score", ylabel="relative RMS error")
    comparison(likelihood, picked(frame, "nll"), style, names)
    likelihood.set(title="likelihood", ylabel="-log p above the truth, nat")
    legend_below(figure, [axes[0, 1], axes[0, 3], *axes[-1]])
    return figure


def round_trip(frame, style, facts):
    """A column a parameter: estimates of every seed, and their errors."""
    names = facts["names"]
    style.need(frame["series"])
    figure, axes = canvas(len(names), 2, width=3.2, height=2.3)
    for (top, bottom), name, dataset in zip(axes.T, names, facts["datasets"], strict=True):
        mine = picked(frame, f"estimate: {name}")
        top.axhline(picked(mine, f"estimate: {name}", "truth")["y"].iloc[0], color="black", ls="--", lw=1, label="true")
        bottom.axhspan(0, TARGET, color="0.93", zorder=0)
        for method in facts["methods"]:
            for axis, panel in ((top, "estimate"), (bottom, "error")):
                line = picked(frame, f"{panel}: {name}", method)
                interval(axis, line["x"], line, style, method)
        for axis in (top, bottom):
            axis.set_xticks([])
            axis.set_xlim(-0.6, len(facts["methods"]) - 0.4)
        top.set(title=f"{style[dataset]['label']}: {name}", ylabel=name)
        log_scale(bottom)
        bottom.set(ylabel="relative error, %")
    legend_below(figure, axes[0])
    return figure


def density_training(frame, style, facts):
    """A row a size: data and three trainings; below, the true density and every method's scores."""
    datasets, scored = facts["datasets"], ["nll", "score error", "tv"]
    style.need(frame[frame["panel"].isin(scored)]["series"])
    figure, axes = canvas(4, len(datasets) + 1, width=2.7, height=2.5)
    truth, top = picked(frame, "density", "truth"), _top(frame, "density")
    edges = {"xlim": (truth["x"].min(), truth["x"].max()), "ylim": (truth["y"].min(), truth["y"].max())}
    for row, dataset in zip(axes, datasets, strict=False):
        cloud = picked(frame, f"data: {dataset}")
        row[0].plot(cloud["x"], cloud["y"], ".", markersize=1.5, color=style["cloud"]["colour"], rasterized=True)
        row[0].set(title=f"{facts['sizes'][dataset]} points", ylabel="y", aspect="equal", **edges)
        for axis, method in zip(row[1:], facts["trainings"], strict=True):
            if not len(picked(frame, f"density: {dataset}", method)):
                axis.axis("off")
                continue
            density(figure, axis, frame, f"density: {dataset}", method, top)
            centroids(axis, frame, dataset, method, style)
            astray = picked(frame, f"astray: {dataset}", method).iloc[0]
            training = style[method]["label"].partition(", ")[2]
            axis.set_title(f"{training}: {astray['y']:.0f} of {astray['x']:.0f} astray")
    last = axes[-1]
    density(figure, last[0], frame, "density", "truth", top, bar=True)
    last[0].set(title="true density", ylabel="y")
    labels = {
        "nll": "-log p above the truth, nat",
        "score error": "relative RMS error",
        "tv": "total variation",
    }
    titles = {"nll": "likelihood", "score error": "error of the score", "tv": "distance to the true density"}
    ticks = [f"{facts['sizes'][dataset]} points" for dataset in datasets]
    for axis, panel in zip(last[1:], scored, strict=True):
        comparison(axis, picked(frame, panel), style, ticks)
        axis.set(title=titles[panel], ylabel=labels[panel])
    legend_below(figure, [axes[0, 1], *last[1:]])
    return figure


def lorenz_density(frame, style, facts):
    """A row a plane: histograms of the simulation and of draws from the densities; beside them, scores."""
    style.need(frame[frame["panel"].isin(["nll", "w1"])]["series"])
    shown = facts["shown"]
    figure, axes = canvas(len(shown) + 1, 2, width=3.1, height=2.7)
    for row, (across, up) in zip(axes, facts["planes"], strict=True):
        panel = f"{across}-{up}"
        top = picked(frame, panel, "cloud")["low"].max()
        for axis, name in zip(row, shown, strict=False):
            mesh = heat(axis, picked(frame, panel, name), DENSITY, top)
            title = f"simulation, {facts['n']} points" if name == "cloud" else style[name]["label"]
            axis.set(title=title, xlabel=across, ylabel=up, aspect="auto")
        colour_bar(figure, row[len(shown) - 1], mesh, "p, 1/length²")
    likelihood, distance = axes[:, -1]
    comparison(likelihood, picked(frame, "nll"), style, [""], log=False)
    likelihood.set(title="likelihood", ylabel="-log p above the best, nat")
    comparison(distance, picked(frame, "w1"), style, [""], log=False)
    distance.set_ylim(bottom=0)
    distance.set(title="draws against held-out points", ylabel="W1")
    legend_below(figure, axes[:, -1])
    return figure


def cells_density(frame, style, facts):
    """Likelihood above one Gaussian for each snapshot, one panel a data set."""
    labels = {"xlabel": "snapshot (t)", "ylabel": "-log p less one Gaussian's, nat"}
    figure, axes = by_snapshot(frame, style, facts["splits"], step=0.13, **labels)
    for axis in axes:
        axis.axhline(0, color="black", linewidth=0.8)
    return figure
