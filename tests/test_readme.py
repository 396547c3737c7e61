"""The README's own-data example, run as it stands there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import snapdyn
from snapdyn import artifacts, config, simulate, systems
from snapdyn.method_table import METHODS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def example_files(folder):
    """The files that the example names, with known laws."""
    import anndata

    rng = np.random.default_rng(0)
    days = np.repeat(["D0", "D2", "D10"], 150)
    gap = np.repeat([0.0, 2.0, 10.0], 150)[:, None]
    cells = rng.normal(size=(450, 5)) * [1, 0.8, 0.6, 0.5, 0.4] + 4 * np.exp(-0.3 * gap)
    adata = anndata.AnnData(rng.poisson(1.0, (450, 30)).astype(np.float32), obs=pd.DataFrame({"day": days}))
    adata.obs_names = [f"cell-{i}" for i in range(450)]
    adata.obsm["X_pca"] = cells
    adata.write_h5ad(folder / "cells.h5ad")

    ou = systems.build("ornstein-uhlenbeck", dim=2, diffusivity=0.5)
    times = [0, 0.2, 0.4, 0.6, 0.8]
    x, t = simulate.timed_snapshots(ou, 500, times, dt=0.01, seed=0, start=lambda n, rng: rng.normal(2, 1, (n, 2)))
    pd.DataFrame({"t": t, "a": x[:, 0], "b": x[:, 1]}).to_parquet(folder / "points.parquet")
    hopf = systems.build("hopf", diffusivity=0.1).sample(4000, rng)
    pd.DataFrame(hopf, columns=["x", "y"]).to_csv(folder / "cloud.csv", index=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which the example has been run with the command of the README's table."""
    folder = tmp_path_factory.mktemp("readme")
    example_files(folder)
    (folder / "mine.yaml").write_text(re.search(r"```yaml\n(.*?)```", README, re.S).group(1))
    command = re.search(r'`make run ARGS="([^"]*mine.yaml)"`', README).group(1)
    arguments = ["--snakefile", str(ROOT / "workflow" / "Snakefile"), *shlex.split(command)]
    done = subprocess.run(
        [sys.executable, "-m", "snapdyn.launch", *arguments], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_what_all_methods_are_is_said_of_energies():
    said = re.search(r"`methods: all` tries .*?asked for by name", README, re.S).group(0)
    energies = {name for name, method in METHODS.items() if method.gives == "energy"}
    assert energies & set(re.findall(r"`([\w-]+)`", said)) == {name for name in energies if METHODS[name].in_all}


def test_every_configuration_that_it_shows_is_accepted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example_files(tmp_path)
    shown = {"datasets": {}, "analyses": {}}
    for block in re.findall(r"```yaml\n(.*?)```", README, re.S):
        for key, value in yaml.safe_load(block).items():
            shown[key] = shown[key] | value if isinstance(value, dict) else value
    published = yaml.safe_load((ROOT / "config" / "default.yaml").read_text(encoding="utf-8"))
    whole = published | shown | {"datasets": published["datasets"] | shown["datasets"]}
    plan = config.Plan(whole, overlay=shown)
    asked = {fit.experiment for fit in plan.of(paper="analyses")}
    assert {"cells_drift", "law_at_rest", "cells_energy", "cells_day_3-ijkonet-tv"} <= asked


def test_every_analysis_has_a_page_and_a_verdict(finished):
    text = (finished / "results/mine/scorecard.md").read_text()
    for name in yaml.safe_load((finished / "mine.yaml").read_text())["analyses"]:
        page = (finished / f"results/mine/analyses/{name}/page.md").read_text()
        null = "the best linear drift" if name.startswith("cloud") else "doing nothing"
        assert re.search(rf"Better than {null}: (yes|no|cannot tell)", page)
        assert f"[{name}]" in text


def test_the_laws_come_out(finished):
    frame, _ = artifacts.read(finished / "results/mine/parameters.parquet", "parameters/1")
    cloud = frame.query("experiment == 'cloud_drift' and seed == 0").set_index("name")
    assert (abs(cloud["estimate"] - 1) < 4 * cloud["std_error"]).all()
    points = frame.query("experiment == 'points_drift' and seed == 0").set_index("name")
    truth = {"a: a": -1.0, "a: b": -0.4 + 0.8, "b: a": -0.4 - 0.8, "b: b": -1.0}
    for name, value in truth.items():
        assert abs(points.loc[name, "estimate"] - value) < 4.5 * points.loc[name, "std_error"], name


def test_the_python_lines_work(finished):
    folder = finished / "results/mine/analyses"
    model = snapdyn.load(folder / "cells_drift/seed-0/model.pt")
    x = np.zeros((3, model.dim))
    for call in (model.drift, model.velocity, model.score):
        assert call(np.full(3, 2.0), x).shape == (3, 5)
    assert model.log_prob(np.full(3, 2.0), x).shape == (3,)
    assert model.simulate(x, [0.0, 1.0]).shape == (2, 3, 5)
    cloud = snapdyn.load(folder / "cloud_drift/seed-0/model.pt")
    assert cloud.about["axes"] == ["x", "y"]
    with pytest.raises(NotImplementedError, match="drift only"):
        cloud.velocity(0.0, np.zeros((1, 2)))
