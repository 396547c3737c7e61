"""Ink of maps and scores of densities, for all figures that show them. Nothing is computed, shown or saved here."""

from matplotlib import colors, ticker

from snapdyn.plotting import interval

DENSITY, ENERGY, POTENTIAL = "Blues", "viridis_r", "viridis_r"
WIDE = 5  # times its smallest number that an axis has to span to be logarithmic
SMALL = 1e-3  # within which the axis of numbers that may be negative is linear
FAINT = 0.5  # power of the density in its colours, so that thin parts show
OVER = 1.1  # of the true density's peak: where the colours of a map end


def picked(frame, panel, series=None):
    """Rows of a panel, of one series or of all."""
    here = frame["panel"] == panel
    return frame[here] if series is None else frame[here & (frame["series"] == series)]


def heat(axis, mine, colours, top=None):
    """A map of a frame's values; with a ``top``, of values from 0 to there whose small ones are set off.

    Returns:
        what a colour bar is made of.
    """
    table = mine.pivot(index="y", columns="x", values="low")
    norm = colors.PowerNorm(FAINT, 0, top) if top else None
    mesh = axis.pcolormesh(
        table.columns, table.index, table, cmap=colours, norm=norm, shading="nearest", rasterized=True
    )
    axis.grid(False)
    axis.set_aspect("equal")
    axis.set_xlim(table.columns[0], table.columns[-1])
    axis.set_ylim(table.index[0], table.index[-1])
    return mesh


def colour_bar(figure, axis, mesh, label):
    """A narrow scale beside a map."""
    bar = figure.colorbar(mesh, ax=axis, fraction=0.05, pad=0.03)
    bar.set_label(label, fontsize=7)
    bar.ax.tick_params(labelsize=6.5)
    bar.locator = ticker.MaxNLocator(5)
    bar.update_ticks()
    return bar


def density(figure, axis, frame, panel, series, top, *, bar=False):
    """A map of p with the colours of ``top``, the largest value of the true one."""
    mesh = heat(axis, picked(frame, panel, series), DENSITY, OVER * top)
    if bar:
        colour_bar(figure, axis, mesh, "p, 1/length²")


def energy(figure, axis, frame, panel, series):
    """A map of -log p."""
    mesh = heat(axis, picked(frame, panel, series), ENERGY)
    colour_bar(figure, axis, mesh, "energy, nat")


def potential(figure, axis, frame, panel, facts):
    """Level sets of a potential on a grid, or its values at the data in two of their axes."""
    mine = picked(frame, panel)
    if mine["series"].iloc[0] == "grid":
        mesh = heat(axis, mine, POTENTIAL)
        table = mine.pivot(index="y", columns="x", values="low")
        axis.contour(table.columns, table.index, table, levels=12, colors="white", linewidths=0.6)
    else:
        mesh = axis.scatter(mine["x"], mine["y"], c=mine["low"], s=3, cmap=POTENTIAL, rasterized=True)
    colour_bar(figure, axis, mesh, facts["potential"])
    axis.set(title=panel, xlabel=facts["axes"][0], ylabel=facts["axes"][1])


def centroids(axis, frame, dataset, series, style):
    """Centroids of one method as dots; those outside of the axis stay outside."""
    mine = picked(frame, f"centroids: {dataset}", series)
    axis.plot(mine["x"], mine["y"], **style.point("centroids", markersize=2.5, markeredgewidth=0))


def arrows(axis, frame, panel, series, style, box, longest=0.11):
    """Fields on top of each other, at one scale.

    Args:
        box: a map whose extent they share.
        longest: true arrow, as a share of the axis.
    """
    true = picked(frame, panel, "truth")
    scale = max(true["low"].abs().max(), true["high"].abs().max()) / longest
    for name, width in zip(series, (0.009, 0.005), strict=False):
        mine = picked(frame, panel, name)
        axis.quiver(
            mine["x"],
            mine["y"],
            mine["low"],
            mine["high"],
            color=style[name]["colour"],
            alpha=0.45 if name == "truth" else 1,
            angles="xy",
            width=width,
            scale=scale,
            label="true score" if name == "truth" else None,
        )
    axis.set_aspect("equal")
    axis.set_xlim(box["x"].min(), box["x"].max())
    axis.set_ylim(box["y"].min(), box["y"].max())


def log_scale(axis):
    """A logarithmic axis with numbers written out, also where it covers less than a decade."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(ticker.NullFormatter())


def comparison(axis, mine, style, ticks, *, log=True, width=0.7):
    """Marks of every method in groups, one a data set."""
    series = [name for name in style.order(mine["series"]) if name != "none"]
    for place, name in enumerate(series):
        line = mine[mine["series"] == name]
        shift = width * ((place + 0.5) / len(series) - 0.5)
        interval(axis, line["x"] + shift, line, style, name)
    least, most = mine["low"].min(), mine["high"].max()
    if log and least > 0 and most > WIDE * least:
        log_scale(axis)
    elif log and (mine["y"] <= 0).any():
        axis.set_yscale("symlog", linthresh=SMALL)
    axis.set_xticks(range(len(ticks)) if len(ticks) > 1 else [], ticks if len(ticks) > 1 else [])
    axis.set_xlim(-0.6, len(ticks) - 0.4)
    for edge in range(1, len(ticks)):
        axis.axvline(edge - 0.5, color="0.8", linewidth=0.8)
