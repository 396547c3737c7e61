"""Ink of :mod:`snapdyn.figures_clusters`: frames in, figures out. Nothing is computed, shown or saved here."""

from snapdyn.plotting import canvas, legend_below
from snapdyn.plotting_maps import arrows, centroids, comparison, density, energy, picked

CLUSTERS = 9
ROOM = 0.15  # around the points, in their units
LABELS = ("#2166ac", "#b2182b", "#1b7837", "#e08214", "#762a83", "#35978f", "#e7298a", "#bf812d", "#4d4d4d")
OWN = {"linestyle": (0, (2, 2)), "linewidth": 1.2}  # the network's own energy, on top of
WIDE = {"linewidth": 4, "alpha": 0.4}  # that of the density


def nine_clusters(frame, style, facts):
    """True and learned density, centroids, energy; score, training, likelihood and score error of every method."""
    dataset, studied = facts["dataset"], facts["studied"]
    style.need(frame[frame["panel"].isin(["nll", "score error"])]["series"])
    panel = f"density: {dataset}"
    truth = picked(frame, panel, "truth")
    figure, axes = canvas(4, 2, width=2.9, height=2.6)
    (true, learned, dots, height), (field, loss, likelihood, score) = axes
    top = truth["low"].max()
    density(figure, true, frame, panel, "truth", top)
    true.set(title="true density", ylabel="y")
    density(figure, learned, frame, panel, studied, top, bar=True)
    learned.set(title=f"learned: {style[studied]['label'].partition(', ')[2]}")
    cloud = picked(frame, "data")
    dots.plot(cloud["x"], cloud["y"], ".", markersize=1.5, color=style["cloud"]["colour"], rasterized=True)
    centroids(dots, frame, dataset, studied, style)
    edges = {"xlim": (truth["x"].min(), truth["x"].max()), "ylim": (truth["y"].min(), truth["y"].max())}
    dots.set(title=f"data and {facts['centroids']} centroids", aspect="equal", **edges)
    energy(figure, height, frame, f"energy: {dataset}", studied)
    height.set(title="learned energy")
    arrows(field, frame, f"score: {dataset}", ["truth", studied], style, truth, longest=0.06)
    field.set(title="score, true and learned", ylabel="y")
    for term, look in (("loss", ":"), ("validation", "-")):
        for name, line in picked(frame, term).groupby("series", sort=True):
            method = name.partition("/")[2]
            if method:
                loss.plot(line["x"], line["y"], look, linewidth=1, color=style[method]["colour"])
        loss.plot([], [], look, color="black", linewidth=1, label=f"{term}, each its own")
    loss.set(title="training", xlabel="step", ylabel="loss")
    comparison(likelihood, picked(frame, "nll"), style, [""])
    likelihood.set(title="likelihood", ylabel="-log p above the truth, nat")
    comparison(score, picked(frame, "score error"), style, [""])
    score.set(title="error of the score", ylabel="relative RMS error")
    legend_below(figure, axes[1, 1:])
    return figure


def nine_clusters_cccp(frame, style, facts):
    """Points before and after one step at T = 1 and at the chosen T; below, how T was chosen, and what it is worth."""
    studied, scored = facts["studied"], ["adjusted rand", "ridge distance", "scan"]
    style.need(frame[frame["panel"].isin(scored)]["series"])
    figure, axes = canvas(3, 2, width=3.2, height=2.8)
    (before, after, clustered), (scan, rand, ridge) = axes
    points = picked(frame, "before")
    dots = {"markersize": 2, "rasterized": True}
    before.plot(points["x"], points["y"], ".", color=style["cloud"]["colour"], **dots)
    before.set(title=f"{len(points):,} held-out points", ylabel="y")
    moved = picked(frame, "after", studied)
    after.plot(moved["x"], moved["y"], ".", color=style[studied]["colour"], **dots)
    after.set(title=f"after one step, T = 1: distance / {facts['factor']}")
    for axis in (before, after):
        for _, arc in frame[frame["panel"] == "ridge"].groupby("series", sort=True):
            axis.plot(arc["x"], arc["y"], color="black", linewidth=0.8, label="true ridges")
    for series, mine in picked(frame, "clustered").groupby("series", sort=False):
        name, _, label = series.partition(" ")
        colour = LABELS[int(label) % len(LABELS)] if name == "cluster" else style["cloud"]["colour"]
        clustered.plot(mine["x"], mine["y"], ".", **dots, color=colour)
    images = picked(frame, "images")
    clustered.plot(
        images["x"], images["y"], **style.point("images", markersize=10, markeredgecolor="white", markeredgewidth=0.6)
    )
    clustered.set(title=f"labels of one step, T = {facts['temperature']}")
    edges = {f"{axis}lim": (points[axis].min() - ROOM, points[axis].max() + ROOM) for axis in ("x", "y")}
    for axis in axes[0]:
        axis.set(aspect="equal", xlabel="x", **edges)
    _scanned(scan, frame, style)
    comparison(rand, picked(frame, "adjusted rand"), style, [""], log=False)
    rand.axhline(1, color="black", linestyle="--", linewidth=0.8)
    rand.set(title="labels against the true clusters", ylabel="adjusted Rand index")
    comparison(ridge, picked(frame, "ridge distance"), style, ["before", "after"], log=False)
    ridge.set_ylim(bottom=0)
    ridge.set(title="distance to the ridge", ylabel="RMS distance, length")
    legend_below(figure, axes)
    return figure


def _scanned(axis, frame, style):
    """Distinct images against T, the plateau marked."""
    for name, line in picked(frame, "scan").groupby("series", sort=True):
        axis.plot(line["x"], line["y"], color=style[name]["colour"], linewidth=1.2)
    for _, mark in picked(frame, "plateau").iterrows():
        colour = style[mark["series"]]["colour"]
        axis.plot([mark["low"], mark["high"]], [mark["y"]] * 2, color=colour, linewidth=5, alpha=0.3)
        axis.plot(mark["x"], mark["y"], "o", color=colour, markersize=4)
    axis.axhline(CLUSTERS, color="black", linestyle="--", linewidth=0.8, label="true clusters")
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.set(title="one step, without labels", xlabel="temperature T", ylabel="distinct images")


def hopfield_density(frame, style, facts):
    """True density, Hopfield density with its patterns, latent mixture; energies along a line; likelihoods."""
    dataset, energies = facts["dataset"], picked(frame, "energy")
    style.need([*energies["series"], *picked(frame, "nll")["series"]])
    panel = f"density: {dataset}"
    shown = [name for name in ("truth", "hopfield", "latent-mixture") if len(picked(frame, panel, name))]
    top = picked(frame, panel, "truth")["low"].max()
    figure, axes = canvas(3, 2, width=3.1, height=2.6)
    maps, (one, all_of_them, likelihood) = axes
    for axis, name in zip(maps, shown, strict=False):
        density(figure, axis, frame, panel, name, top, bar=name == shown[-1])
        centroids(axis, frame, dataset, name, style)
        axis.set(title="true density" if name == "truth" else style[name]["label"])
    maps[0].set_ylabel("y")
    for axis in maps[len(shown) :]:
        axis.axis("off")
    for name in style.order(energies["series"]):
        mine, entry = energies[energies["series"] == name], style[name]
        own = name == "hopfield-energy"
        label = entry["label"] if own else f"-log p / β, {entry['label']}"
        look = {"color": entry["colour"], "label": label}
        if name.startswith("hopfield"):
            one.plot(mine["x"], mine["y"], **look, **(OWN if own else WIDE))
        if not own:
            all_of_them.plot(
                mine["x"], mine["y"], linewidth=1.2, **look | {"label": None if name == "hopfield" else label}
            )
    one.set(title="Hopfield energy along y = 0", xlabel="x", ylabel="energy above its lowest")
    all_of_them.set(title="-log p / β along y = 0", xlabel="x", ylabel="above its lowest")
    comparison(likelihood, picked(frame, "nll"), style, [""])
    likelihood.set(title="likelihood", ylabel="-log p above the truth, nat")
    legend_below(figure, axes)
    return figure
