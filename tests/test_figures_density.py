"""Figures of densities: what their frames hold is what the models and tables say, and drawings work."""

import types

import numpy as np
import pandas as pd
import pytest
import torch
from figure_helpers import check_drawn_from_its_frame

from snapdyn import density_frames, figures, figures_clusters, figures_density, hopfield, systems
from snapdyn.densities import MixtureFlow
from snapdyn.density_families import GaussianMixture
from snapdyn.density_models import DensityModel
from snapdyn.snapshots import Snapshots

SEEDS = 3


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    monkeypatch.setattr(density_frames, "CELLS", 60)
    monkeypatch.setattr(figures_density, "DRAWS", 3000)


def cloud_of(dataset, name="hopf", n=400, train=0.5, diffusivity=0.1, x=None, **options):
    """A ``snapshots/1`` frame of exact draws and its metadata."""
    system = systems.build(name, diffusivity=diffusivity, **options)
    x = system.sample(n, np.random.default_rng(0)) if x is None else x
    about = {"system": name, "diffusivity": diffusivity, "options": options, "names": list(system.parameters)}
    meta = {"dataset": dataset, "dim": x.shape[1], "axes": list(system.axes), "seed": 0, "system": about}
    split = np.where(np.arange(len(x)) < train * len(x), "train", "test").astype(object)
    return Snapshots.build(x, meta=meta, split=split).frame(), meta


def model_of(dataset, method, density, **more):
    model = DensityModel([density], axes=[f"x{k}" for k in range(density.dim)], **more)
    model.about = {"dataset": dataset, "method": method}
    return model


def ring(count=40, radius=1.0, width=0.25, stray=0):
    """Centroids around a circle, ``stray`` more of them far away."""
    angle = torch.arange(count, dtype=torch.float64) * 2 * torch.pi / count
    at = radius * torch.stack([angle.cos(), angle.sin()], 1)
    at = torch.cat([at, torch.full((stray, 2), 5.0, dtype=torch.float64)])
    weights = torch.cat([torch.zeros(count), torch.full((stray,), -20.0)]).double()
    return MixtureFlow.from_mixture(at, width**2 * torch.eye(2, dtype=torch.float64), weights)


def table(dataset, method, t=np.nan, **values):
    """``metrics/1`` rows: a metric's values, one a seed."""
    about = {"paper": "p", "experiment": "e", "dataset": dataset, "method": method, "split": "test", "t": t}
    return [
        about | {"seed": seed, "metric": metric, "value": value, "unit": "1", "n": 10}
        for metric, found in values.items()
        for seed, value in enumerate(found)
    ]


def history_of(dataset, method, **terms):
    rows = [
        {"seed": 0, "member": 0, "step": step, "term": term, "value": value, "split": "train"}
        for term, values in terms.items()
        for step, value in zip((100, 200), values, strict=True)
    ]
    said = {"seed": 0, "member": 0, "step": 0, "term": "loss", "value": 99.0, "split": "train"}
    return pd.DataFrame([*rows, said]), {"dataset": dataset, "method": method}


def files_of(clouds, models, rows, histories=(), parameters=()):
    return {
        "metrics": (pd.DataFrame(rows), {}),
        "parameters": (pd.DataFrame(list(parameters)), {}),
        "clouds": clouds,
        "cloud": clouds[0],
        "models": models,
        "histories": list(histories),
    }


SCORES = {"tv": [0.02, 0.03, 0.04], "score_rms_error": [0.1, 0.2, 0.3], "nll": [1.12, 1.13, 1.11]}
STEPS = {
    "adjusted_rand": [0.97, 0.98, 0.99],
    "denoising_factor": [2.0, 3.0, 4.0],
    "ridge_distance_before": [0.08, 0.09, 0.1],
    "ridge_distance_after": [0.03, 0.04, 0.05],
}
TRUTH = {"nll": [1.10, 1.10, 1.10]}


def cycles():
    clouds, models, rows, histories = [], [], [], []
    for dataset, growth in (("limit-cycle", 1.0), ("van-der-pol", 2.0)):
        clouds.append(cloud_of(dataset, growth=growth))
        for method, width in (("mixture-flow-dynamics", 0.25), ("mixture-flow-plain", 0.5)):
            models.append(model_of(dataset, method, ring(radius=growth**0.5, width=width)))
            histories.append(history_of(dataset, method, loss=[3.0, 2.0], mass=[0.9, 0.99]))
            rows += table(dataset, method, **SCORES) + table(dataset, "truth", **TRUTH)
    return files_of(clouds, models, rows, histories)


def rings():
    clouds, models, rows = [], [], []
    for dataset, train in (("ring", 0.1), ("ring-large", 0.5)):
        clouds.append(cloud_of(dataset, train=train))
        for place, method in enumerate(figures_density.TRAININGS):
            models.append(model_of(dataset, method, ring(stray=place)))
            shifted = {name: np.array(values) + 0.005 * place for name, values in SCORES.items()}
            rows += table(dataset, method, **shifted) + table(dataset, "truth", **TRUTH)
        models.append(model_of(dataset, "gaussian-mixture", GaussianMixture([1.0], np.zeros((1, 2)), np.eye(2)[None])))
        rows += table(dataset, "gaussian-mixture", **SCORES)
    return files_of(clouds, models, rows)


def clusters(*methods):
    cloud = cloud_of("nine-clusters", "nine-clusters", n=3000, train=0.15, diffusivity=1.0)
    x = torch.from_numpy(Snapshots.from_frame(*cloud).select(split="train").x)
    own = {
        "mixture-flow-mle-sm": lambda: MixtureFlow.from_mixture(x, 0.0064 * torch.eye(2).double(), torch.zeros(len(x))),
        "mixture-flow-mle": lambda: MixtureFlow.from_mixture(x, 0.0128 * torch.eye(2).double(), torch.zeros(len(x))),
        "nine_clusters_cccp": lambda: clusters("mixture-flow-mle-sm", "mixture-flow-mle"),
        "hopfield": lambda: hopfield.mixture(x[:50].numpy(), 8.0, x.mean(0).numpy(), x.numpy().std(0)),
    }
    models, rows, histories = [], table("nine-clusters", "truth", **TRUTH), []
    for method in methods:
        said = {"inverse_temperature": 8.0} if method == "hopfield" else {}
        models.append(model_of("nine-clusters", method, own[method](), diagnostics=said))
        histories.append(history_of("nine-clusters", method, loss=[3.0, 2.0], validation=[3.1, 2.2]))
        rows += table("nine-clusters", method, **SCORES, **(STEPS if method != "hopfield" else {}))
    return files_of([cloud], models, rows, histories)


def lorenz():
    x = np.random.default_rng(0).normal([0, 0, 24], [8, 9, 8], (2000, 3))
    cloud = cloud_of("lorenz-density", "lorenz", diffusivity=12.5, x=x)
    gaussian = GaussianMixture([1.0], [[0.0, 0.0, 24.0]], np.diag([64.0, 81.0, 64.0])[None])
    rows, models = table("lorenz-density", "one-gaussian", nll=[9.5, 9.4, 9.6]), []
    for method, nll in (("mixture-flow-dynamics", 8.75), ("kde", 9.0)):
        models.append(model_of("lorenz-density", method, gaussian))
        rows += table("lorenz-density", method, nll=[nll] * 3, w1_samples=[2.0, 2.2, 2.4], w1_floor=[1.0, 1.1, 1.2])
    return files_of([cloud], models, rows)


def cells():
    rows = []
    for t, gaussian in ((0.0, [3.0, 3.2]), (2.0, [4.0, 4.2]), (np.nan, [3.5, 3.7])):
        for method in ("kde", "gaussian-mixture"):
            gain = 0.1 if method == "kde" else 0.2
            rows += table("embryoid-body", method, t=t, nll=[value - gain for value in gaussian])
            rows += table("embryoid-body", "one-gaussian", t=t, nll=gaussian)
    return {"metrics": (pd.DataFrame(rows), {})}


def back_again():
    found = [
        {"dataset": "limit-cycle", "method": method, "seed": seed, "name": name, "estimate": value, "std_error": np.nan}
        | {"truth": 1.0, "unit": "1/time unit", "paper": "p", "experiment": "e"}
        for method, shift in (("mixture-flow-dynamics", 0.02), ("mixture-flow-plain", -0.4))
        for name in ("growth", "saturation")
        for seed, value in enumerate((1 + shift, 1 - shift / 2))
    ]
    return files_of([cloud_of("limit-cycle")], [], [], parameters=found)


MADE = {
    "limit_cycle": cycles,
    "round_trip": back_again,
    "density_training": rings,
    "nine_clusters": lambda: clusters("mixture-flow-mle-sm", "mixture-flow-mle"),
    "nine_clusters_cccp": lambda: clusters("mixture-flow-mle-sm", "mixture-flow-mle"),
    "hopfield_density": lambda: clusters("hopfield", "mixture-flow-mle"),
    "lorenz_density": lorenz,
    "cells_density": cells,
}


@pytest.mark.parametrize("name", MADE)
def test_every_figure_is_drawn_from_its_frame(name, style, tmp_path):
    check_drawn_from_its_frame(name, MADE[name], "fokker-planck-loss", style, tmp_path)


def of(frame, panel, series):
    return frame[(frame["panel"] == panel) & (frame["series"] == series)]


def mass(map_rows):
    """Sum of a map times the area of a cell."""
    x, y = (np.unique(map_rows[axis]) for axis in ("x", "y"))
    return map_rows["low"].sum() * (x[1] - x[0]) * (y[1] - y[0])


def test_maps_hold_densities_and_energies():
    frame, _ = figures_density.limit_cycle(cycles())
    for method in ("truth", "mixture-flow-dynamics"):
        assert mass(of(frame, "density: limit-cycle", method)) == pytest.approx(1, abs=0.01)
    density = of(frame, "density: limit-cycle", "mixture-flow-dynamics")["low"].to_numpy()
    energy = of(frame, "energy: limit-cycle", "mixture-flow-dynamics")["low"].to_numpy()
    assert energy.max() - energy.min() <= density_frames.DEPTH + 1e-9
    below = energy < energy.min() + density_frames.DEPTH - 1e-9
    assert below.mean() > 0.1 and np.allclose(np.exp(-energy[below]), density[below])


def test_arrows_are_the_score_where_there_is_anything_to_see():
    frame, _ = figures_density.limit_cycle(cycles())
    true = of(frame, "score: limit-cycle", "truth")
    x = true[["x", "y"]].to_numpy()
    square = np.square(x).sum(1)
    exact = (1 - square)[:, None] * x / 0.1  # grad of (r^2 / 2 - r^4 / 4) / D
    assert np.allclose(true[["low", "high"]], exact) and not np.allclose(true[["high", "low"]], exact)
    depth = (0.25 - (square / 2 - square**2 / 4)) / 0.1  # nats below the peak
    assert depth.max() < -np.log(density_frames.SEEN) + 1e-3
    learned = of(frame, "score: limit-cycle", "mixture-flow-dynamics")
    assert len(learned) == len(true) and learned[["x", "y"]].to_numpy() == pytest.approx(x)


def test_the_view_holds_what_can_be_seen():
    experiment = density_frames.Experiment(cycles())
    law = experiment.law("limit-cycle")
    (left, right), _ = density_frames.view(law)
    assert left == pytest.approx(-right) and law.box[0][0] <= left < -1.2
    wide = types.SimpleNamespace(log_prob=law.log_prob, box=((-9, 9), (-9, 9)))
    assert density_frames.view(wide)[0][1] < 2.2  # a box that is far too wide does not shrink the picture


def test_scores_are_the_tables_mean_and_range():
    frame, facts = figures_density.limit_cycle(cycles())
    mark = of(frame, "tv", "mixture-flow-dynamics").iloc[1]
    assert mark[["x", "y", "low", "high"]].tolist() == pytest.approx([1, 0.03, 0.02, 0.04])
    mark = of(frame, "nll", "mixture-flow-plain").iloc[0]
    assert mark[["y", "low", "high"]].tolist() == pytest.approx([0.02, 0.01, 0.03])
    line = of(frame, "loss", "limit-cycle/mixture-flow-plain")
    assert line["x"].tolist() == [100, 200] and line["y"].tolist() == [3.0, 2.0]  # not what is said at step 0
    assert facts["seeds"] == SEEDS


def test_a_method_that_was_left_out_leaves_its_place_empty(style):
    files = cycles()
    files["models"] = [model for model in files["models"] if model.about["method"] != "mixture-flow-plain"]
    frame, facts = figures_density.limit_cycle(files)
    assert "mixture-flow-plain" not in set(of(frame, "tv", "mixture-flow-plain")["series"])
    with style:
        axes = figures.FIGURES["limit_cycle"][1](frame, style, facts).axes
    maps = [axis for axis in axes if axis.axison and axis.get_aspect() == 1]
    assert len(maps) == 8 and all(axis.get_xlabel() == "x" for axis in maps)


def test_centroids_in_empty_space_are_counted():
    frame, facts = figures_density.density_training(rings())
    for place, method in enumerate(figures_density.TRAININGS):
        row = of(frame, "astray: ring", method).iloc[0]
        assert (row["x"], row["y"]) == (40 + place, place)
    shares = of(frame, "centroids: ring", "mixture-flow-mle-sm")["low"]
    assert shares.sum() == pytest.approx(1)
    assert facts["sizes"] == {"ring": "40", "ring-large": "200"}
    assert len(of(frame, "data: ring", "cloud")) == 40


def test_the_ordering_is_counted_in_seeds():
    frame, facts = figures_density.density_training(rings())
    assert facts["ordering"].startswith("of 3 seeds with 40 points in 0 by held-out likelihood and 0 by held-out score")
    files = rings()
    metrics, _ = files["metrics"]
    both = (metrics["method"] == "mixture-flow-mle-sm") & (metrics["metric"] == "nll")
    metrics.loc[both & (metrics["dataset"] == "ring") & (metrics["seed"] < 2), "value"] = 1.0
    _, facts = figures_density.density_training(files)
    assert "of 3 seeds with 40 points in 2 by held-out likelihood and 0" in facts["ordering"]
    assert "of 3 seeds with 200 points in 0 by" in facts["ordering"]


def test_parameters_go_in_and_come_out():
    frame, facts = figures_density.round_trip(back_again())
    assert facts["names"] == ["growth", "saturation"] and facts["worst"] == "2"
    assert of(frame, "estimate: growth", "mixture-flow-plain")["y"].tolist() == pytest.approx([0.6, 1.2])
    assert of(frame, "error: growth", "mixture-flow-plain")["y"].tolist() == pytest.approx([40, 20])
    assert of(frame, "estimate: growth", "truth")["y"].unique().tolist() == [1.0]


def test_lorenz_is_shown_in_planes_and_scored_beside_the_best():
    frame, facts = figures_density.lorenz_density(lorenz())
    for plane in ("x-z", "x-y"):
        assert mass(of(frame, plane, "cloud")) == pytest.approx(1)
        assert 0.9 < mass(of(frame, plane, "mixture-flow-dynamics")) <= 1
    drawn = of(frame, "x-z", "mixture-flow-dynamics")
    assert np.average(drawn["y"], weights=drawn["low"]) == pytest.approx(24, abs=0.6)  # z, not y
    assert of(frame, "nll", "kde")["y"].item() == pytest.approx(0.25)
    assert of(frame, "nll", "mixture-flow-dynamics")["y"].item() == 0 and facts["best"] == "mixture-flow-dynamics"
    assert of(frame, "w1", "w1-floor")[["y", "low", "high"]].iloc[0].tolist() == pytest.approx([1.1, 1.0, 1.2])
    assert facts["gaussian"] == "0.75"


def test_cells_are_scored_beside_one_gaussian_with_the_mean_last():
    frame, facts = figures_density.cells_density(cells())
    line = of(frame, "embryoid-body", "kde")
    assert line["x"].tolist() == [0, 1, 2.5] and np.allclose(line["y"], -0.1) and np.allclose(line["low"], line["high"])
    ticks = frame[frame["series"].str.startswith("tick")]
    assert ticks["series"].tolist() == ["tick: 0", "tick: 2", "tick: mean"] and facts["splits"] == {"embryoid-body": 2}


def test_the_hopfield_energy_is_one_curve_with_its_density():
    files = clusters("hopfield", "mixture-flow-mle")
    frame, facts = figures_clusters.hopfield_density(files)
    own, density = (of(frame, "energy", series)["y"].to_numpy() for series in ("hopfield-energy", "hopfield"))
    assert np.ptp(own) > 0.1 and np.allclose(own, density, atol=1e-10) and float(facts["gap"]) < 1e-10
    cloud = Snapshots.from_frame(*files["cloud"]).select(split="train")
    x = of(frame, "energy", "truth")[["x"]].to_numpy() * [1, 0]
    other = figures_clusters.network_energy(files["models"][0].at(), x, cloud, 4.0)
    assert np.ptp(other - density) > 0.01  # at another temperature it is another curve


def test_nine_clusters_show_their_centroids():
    frame, facts = figures_clusters.nine_clusters(clusters("mixture-flow-mle-sm", "mixture-flow-mle"))
    assert facts["centroids"] == 450 == len(of(frame, "centroids: nine-clusters", "mixture-flow-mle-sm"))
    assert facts["astray"] <= 2 and facts["n"] == "450"
    assert mass(of(frame, "density: nine-clusters", "mixture-flow-mle-sm")) == pytest.approx(1, abs=0.01)
    assert of(frame, "validation", "nine-clusters/mixture-flow-mle")["y"].tolist() == [3.1, 2.2]


def test_one_step_denoises_and_clusters():
    files = clusters("mixture-flow-mle-sm", "mixture-flow-mle")
    frame, facts = figures_clusters.nine_clusters_cccp(files)
    system = systems.build("nine-clusters", diffusivity=1.0)
    studied = "mixture-flow-mle-sm"
    before, after = (of(frame, *where)[["x", "y"]].to_numpy() for where in (("before", "cloud"), ("after", studied)))
    assert system.ridge_distance(after).mean() < 0.8 * system.ridge_distance(before).mean()
    arcs = frame[frame["panel"] == "ridge"][["x", "y"]].to_numpy()
    assert system.ridge_distance(arcs).max() < 1e-12
    groups = frame[(frame["panel"] == "clustered") & (frame["series"] != "stragglers")]
    true = system.component(groups[["x", "y"]].to_numpy())
    assert groups["series"].nunique() == 9 == facts["images"]
    assert all(len(set(true[groups["series"] == series])) == 1 for series in groups["series"].unique())
    assert len(of(frame, "images", "images")) == 9
    mark, scan = of(frame, "plateau", studied).iloc[0], of(frame, "scan", studied)
    inside = scan["x"].between(mark["low"], mark["high"])
    assert (scan["y"][inside] == 9).all() and mark["low"] < mark["x"] < mark["high"]
    beside = scan["y"].to_numpy()[np.flatnonzero(inside)[0] - 1]
    assert beside != 9 and f"{mark['x']:.3g}" == facts["temperature"]
    assert (facts["rand"], facts["factor"]) == ("0.980", "3")
    assert of(frame, "ridge distance", studied)["y"].tolist() == pytest.approx([0.09, 0.04])


def test_a_density_of_one_cluster_has_no_plateau(style):
    files = clusters("mixture-flow-mle-sm")
    wide = MixtureFlow.from_mixture(torch.zeros(2, 2).double(), torch.eye(2).double(), torch.zeros(2).double())
    files["models"] = [model_of("nine-clusters", "mixture-flow-mle-sm", wide)]
    frame, facts = figures_clusters.nine_clusters_cccp(files)
    assert facts["temperature"] == "(no plateau)" and not len(frame[frame["panel"] == "scan"])
    with style:
        axes = figures.FIGURES["nine_clusters_cccp"][1](frame, style, facts).axes
    assert [axis.get_xlabel() for axis in axes[:3]] == ["x"] * 3
