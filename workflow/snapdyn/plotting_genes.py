"""Ink of :mod:`snapdyn.figures_genes`: frames in, figures out. Nothing is computed, shown or saved here."""

from snapdyn.plotting import canvas, interval, interval_inside, legend_below, start_paths

ENTRIES = (-2.0, 3.0)  # of the axis of entries; the true ones are 0 and 1
WITHIN = 0.1  # of the truth: what the paper calls found


def gene_network(frame, style, facts):
    """Clouds in two planes, loss and entries of all starts, noise-free clouds."""
    figure, axes = canvas(4, 4, height=2.4)
    shown = ["cloud", *facts["regenerated"]]
    style.need([*shown, *frame[frame["panel"] == "attractor"]["series"]])
    for row, (across, up) in zip(axes, facts["planes"], strict=False):
        for axis, name in zip(row, shown, strict=False):
            panel = frame[(frame["panel"] == f"{across}-{up}") & (frame["series"] == name)]
            gone = frame[(frame["panel"] == f"outside: {across}-{up}") & (frame["series"] == name)]["y"].iloc[0]
            middle = frame[(frame["panel"] == f"median: {across}-{up}") & (frame["series"] == name)]
            colour = style[name]["colour"]
            axis.plot(panel["x"], panel["y"], ".", markersize=1.5, color=colour, rasterized=True)
            title = "data" if name == "cloud" else f"from {style[name]['label']}"
            axis.set(title=title, xlabel=across, ylabel=up, xlim=facts["limits"][across], ylim=facts["limits"][up])
            if gone > 0:
                said = [f"{gone:.0%} outside"]
                said += [f"median {across} {row['x']:.1f}, {up} {row['y']:.1f}" for _, row in middle.iterrows()]
                axis.text(0.03, 0.04, "\n".join(said), fontsize=7, va="bottom", transform=axis.transAxes)
    distance, loss = axes[0, 3], axes[1, 3]
    mine = frame[frame["panel"] == "attractor"]
    series = style.order(mine["series"])
    for place, name in enumerate(series):
        interval(distance, [place], mine[mine["series"] == name], style, name)
    distance.set_xticks([])
    distance.set_xlim(-0.7, len(series) - 0.3)
    distance.set_yscale("log")
    distance.set(title="noise-free clouds", ylabel="W1 to the true one")
    paths = ["loss", *facts["entries"]]
    for axis, name in zip([loss, *axes[2:].ravel()], paths, strict=False):
        start_paths(axis, frame, name)
    for axis in axes[2:].ravel()[len(facts["entries"]) :]:
        axis.axis("off")
    legend_below(figure, axes)
    return figure


def gene_network_parameters(frame, style, facts):
    """All entries, one panel a data set; triangles at the edge stand for marks beyond it."""
    panels = list(facts["sizes"])
    style.need(frame[frame["panel"].isin(panels)]["series"])
    figure, axes = canvas(1, len(panels), width=10.5, height=3.0)
    for axis, panel in zip(axes[:, 0], panels, strict=True):
        mine = frame[frame["panel"] == panel]
        truth = mine[mine["series"] == "truth"]
        axis.hlines(truth["y"], truth["x"] - 0.42, truth["x"] + 0.42, color="black", linewidth=1.2, label="true")
        series = [name for name in style.order(mine["series"]) if name != "truth"]
        found = []
        for name in series:
            line = mine[mine["series"] == name]
            interval_inside(axis, line["x"].to_numpy(), line, style, name, ENTRIES, markersize=3)
            near = frame[(frame["panel"] == f"within: {panel}") & (frame["series"] == name)]["y"].iloc[0]
            found.append(f"{style[name]['label']} {near:.1f}")
        axis.set_xticks(range(len(facts["names"])), [name.replace(": ", "\n") for name in facts["names"]])
        axis.set_xlim(-0.6, len(facts["names"]) - 0.4)
        for place in range(7, len(facts["names"]), 7):
            axis.axvline(place - 0.5, color="0.7", linewidth=0.8)
        axis.set(
            title=f"N = {facts['sizes'][panel]}; within {WITHIN:g} of the truth, of {len(facts['names'])}: "
            + ", ".join(found),
            ylabel="entry",
        )
    legend_below(figure, axes)
    return figure
