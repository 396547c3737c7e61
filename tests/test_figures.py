"""From a figure to its equation: every link of the chain exists, and drawings compute nothing."""

import inspect
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from snapdyn import (
    artifacts,
    figures,
    pages,
    plotting,
    plotting_clusters,
    plotting_density,
    plotting_genes,
    plotting_inference,
    plotting_maps,
    plotting_recovery,
)

ROOT = Path(__file__).parents[1]
PAPERS = [yaml.safe_load(path.read_text())["papers"] for path in sorted((ROOT / "config" / "papers").glob("*.yaml"))]
ENTRIES = [
    pytest.param(spec, id=f"{paper}/{name}")
    for papers in PAPERS
    for paper, content in papers.items()
    for name, spec in content["figures"].items()
]


@pytest.mark.parametrize("spec", ENTRIES)
def test_a_figure_leads_to_its_equations(spec):
    rules = (ROOT / "workflow" / "rules" / "figures.smk").read_text()
    assert re.search(rf"^rule {spec['rule']}:", rules, re.M)
    assert (ROOT / "workflow" / "scripts" / f"{spec['rule']}.py").exists()
    module, name = spec["function"].split(".")
    assert module == "figures"
    arrange, draw = figures.FIGURES[name]
    labels = re.findall(r"``([a-z0-9-]+)``", inspect.getdoc(arrange))
    notation = (ROOT / "workflow" / "snapdyn" / "NOTATION.md").read_text()
    for label in spec["equations"]:
        assert label in labels, f"{name}'s docstring does not name {label}"
        assert re.search(rf"^### `{label}`", notation, re.M), label
    assert callable(draw)


def test_every_method_and_baseline_has_a_colour(style):
    from snapdyn import baselines, methods

    style.need([*methods.METHODS, *baselines.BASELINES, "true-law", "linear-drift", "truth"])
    with pytest.raises(ValueError, match=r"no entry for \['nobody', 'nothing'\]"):
        style.need(["nothing", "moments", "nobody"])


def metrics_frame(datasets, methods, metric, values, t=np.nan):
    rows = [
        {"paper": "p", "experiment": "e", "dataset": d, "method": m, "seed": s, "split": "test", "t": t}
        | {"metric": metric, "value": v, "unit": "1", "n": 10}
        for d in datasets
        for m in methods
        for s, v in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_errors_are_root_mean_squares_with_the_range_of_seeds():
    frame = metrics_frame(["ou-2d"], ["moments"], "relative_rms_error", [0.03, 0.04])
    rows, facts = figures.ornstein_uhlenbeck({"metrics": (frame, {})})
    assert rows["y"].item() == pytest.approx(100 * np.sqrt((0.03**2 + 0.04**2) / 2))
    assert (rows["low"].item(), rows["high"].item()) == (pytest.approx(3), pytest.approx(4))
    assert facts == {"n": "10", "seeds": 2}


def test_bandwidth_errors_keep_their_sign():
    frame = metrics_frame(["lorenz"], ["kde-l1/h=3", "kde-l1/h=0.5"], "relative_error_sigma", [-0.1, -0.3])
    rows, _ = figures.bandwidth({"metrics": (frame, {}), "cloud": (None, {"system": {"names": ["sigma"]}})})
    assert rows["x"].tolist() == [0.5, 3.0] and np.allclose(rows["y"], -20)
    assert np.allclose(rows["high"] - rows["low"], 2 * 100 * np.std([-0.1, -0.3], ddof=1))


def test_forecast_figure_draws_what_its_frame_holds(style, tmp_path):
    parts = [metrics_frame(["cells"], ["no-movement", "resampling"], "w1", [1.0, 1.2], t=t) for t in (1.0, 2.0, np.nan)]
    rows, facts = figures.cells_drift({"metrics": (pd.concat(parts), {})})
    with style:
        figure = plotting.cells_drift(rows, style, facts)
        artifacts.save_figure(figure, tmp_path / "cells-drift", rows)
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "2", "mean"]
    assert {path.suffix for path in tmp_path.iterdir()} == {".pdf", ".png", ".parquet"}
    again = tmp_path / "again"
    with style:
        artifacts.save_figure(plotting.cells_drift(rows, style, facts), again, rows)
    for suffix in (".pdf", ".png", ".parquet"):
        assert (tmp_path / f"cells-drift{suffix}").read_bytes() == again.with_name(f"again{suffix}").read_bytes()


def test_page_lists_the_best_score_first():
    parts = [
        metrics_frame(["cells"], ["no-movement"], "w1", [2.0, 2.2]),
        metrics_frame(["cells"], ["mine"], "w1", [1.0]),
    ]
    table = pages.summary(pd.concat(parts))
    assert table.index.tolist() == ["mine", "no-movement"] and table["n_seeds"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "module",
    [
        plotting,
        plotting_recovery,
        plotting_inference,
        plotting_genes,
        plotting_maps,
        plotting_density,
        plotting_clusters,
    ],
)
def test_plotting_neither_computes_nor_saves(module):
    source = inspect.getsource(module)
    assert not re.search(r"savefig|plt\.show|\.mean\(|\.std\(|np\.sqrt", source)


def test_inputs_are_read_by_kind_and_lists_stay_lists(tmp_path):
    cloud = pd.DataFrame({"row": [0, 1], "t": np.nan, "split": "train", "weight": 1.0, "x0": [0.5, 1.5]})
    for name in ("a", "b"):
        artifacts.write(cloud, tmp_path / f"{name}.parquet", "snapshots/1", {"dim": 1, "dataset": name})
    paths = [str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")]
    files = figures.read({"cloud": paths[0], "clouds": paths})
    assert files["cloud"][1]["dataset"] == "a" and [meta["dataset"] for _, meta in files["clouds"]] == ["a", "b"]


def test_figures_of_densities_get_the_models_and_their_histories(tmp_path):
    from snapdyn import density_families, density_models, models

    gaussian = density_families.GaussianMixture([1.0], np.zeros((1, 2)), np.eye(2)[None])
    model = density_models.DensityModel([gaussian], axes=["x", "y"])
    models.save(model, tmp_path / "model.pt", method="kde", meta={"dataset": "ring"})
    history = pd.DataFrame(
        {"seed": [0], "member": [0], "step": [0], "term": ["loss"], "value": [1.0], "split": ["train"]}
    )
    about = {"dataset": "ring", "method": "kde"}
    artifacts.write(history, tmp_path / "history.parquet", "history/1", about)
    files = {"models": [str(tmp_path / "model.pt")], "histories": [str(tmp_path / "history.parquet")]}
    found = figures.read(files)
    (one,), ((frame, meta),) = found["models"], found["histories"]
    assert about.items() <= one.about.items() and about.items() <= meta.items()
    assert len(frame) == 1 and one.log_prob(None, np.zeros((1, 2))).item() == pytest.approx(-np.log(2 * np.pi))
