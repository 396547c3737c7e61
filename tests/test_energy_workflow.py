"""Energies through the workflow: simulated flows, all splits by one training, snapshots held out whole, own data."""

import numpy as np
import pandas as pd
import pytest
import yaml
from energy_helpers import rolling
from workflow_helpers import contents, snakemake

import snapdyn
from snapdyn import artifacts, models

SMALL = {"steps": 4, "hidden": [8], "batch": 20}
GAME = SMALL | {"inner": 2, "every": 2}
COURSE = {"kind": "synthetic", "times": [0, 1, 2, 3], "cells_per_time": 40, "n_genes": 60, "n_pcs": 2, "seeds": 2}
CONFIG = {
    "run": "tiny",
    "device": "cpu",
    "datasets": {
        "hills": {"kind": "flow", "potentials": ["styblinski-tang", "flowers"], "n": 60, "steps": 2, "seeds": 2},
        "course": COURSE,
        "course-without-2": COURSE | {"hold_out": [2], "seeds": 1},
        "points": {"kind": "table", "path": "points.csv", "time_key": "day", "columns": ["x", "y"]},
    },
    "papers": {
        "jko": {
            "title": "tiny",
            "figures": {},
            "experiments": {
                "potentials": {"kind": "energy", "datasets": ["hills"], "methods": {"ijkonet": GAME}},
                "one-step": {"kind": "forecast", "datasets": ["course"], "inits": 2, "methods": {"ijkonet-tv": GAME}},
                "left-out": {
                    "kind": "interpolation",
                    "datasets": ["course-without-2"],
                    "methods": {"jkonet-star-tv": SMALL, "affine-propagation": {}},
                },
            },
        }
    },
    "analyses": {"mine": {"dataset": "points", "method": "jkonet-star-v", "seeds": 1, "options": SMALL}},
}
FITS = "results/tiny/fits/jko"
TABLES = [
    f"{FITS}/{name}/{kind}.parquet"
    for name in CONFIG["papers"]["jko"]["experiments"]
    for kind in ("metrics", "parameters")
]
PAGE = "results/tiny/analyses/mine/page.png"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which all of it has run once."""
    folder = tmp_path_factory.mktemp("energies")
    data = rolling(60, train=1.0)
    frame = pd.DataFrame({"day": data.t, "x": data.x[:, 0], "y": data.x[:, 1]})
    frame.to_csv(folder / "points.csv", index=False)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))
    outcome = asked(folder)
    assert outcome.status == 0, outcome.said[-3000:]
    return folder


def asked(folder, *more):
    return snakemake(folder, *TABLES, PAGE, "--cores", "2", *more, "--configfile", "tiny.yaml")


def table(folder, experiment, kind="metrics"):
    return artifacts.read(folder / FITS / experiment / f"{kind}.parquet", f"{kind}/1")[0]


def test_a_second_run_has_nothing_to_do(folder):
    assert "Nothing to be done" in asked(folder, "--dry-run").said


def test_flows_are_scored_beside_truth_and_floors(folder):
    frame = table(folder, "potentials")
    assert set(frame["dataset"]) == {"hills/styblinski-tang", "hills/flowers"}
    by = frame.groupby("method")["metric"].agg(set)
    assert {"l2_uvp", "l2_uvp_interaction", "bw_uvp", "w1", "absolute_error_diffusivity"} <= by["ijkonet"]
    assert "w1_implicit" not in by["ijkonet"] and by["known-force"] == {"absolute_error_diffusivity"}
    assert {"w1", "w1_implicit", "w1_floor", "l2_uvp_bias"} <= by["truth"] and {"l2_uvp", "w1"} <= by["no-movement"]
    mean = frame[(frame["metric"] == "l2_uvp") & (frame["method"] == "ijkonet")].groupby(["dataset", "seed"])
    assert mean["t"].agg(lambda t: t.isna().sum()).tolist() == [1] * 4
    assert not frame.duplicated().any()
    found = table(folder, "potentials", "parameters")
    assert list(found["name"]) == ["diffusivity"] * 4 and (found["truth"] == 0).all()


def test_one_training_gave_every_model(folder):
    place = folder / FITS / "potentials/hills/ijkonet/models.pt"
    many = models.load_many(place)
    assert [(model.about["seed"], model.about["course"]) for model in many] == [
        (seed, course) for seed in range(2) for course in ("styblinski-tang", "flowers")
    ]
    with pytest.raises(ValueError, match="holds 4 models of one training"):
        snapdyn.load(place)
    history, meta = artifacts.read(place.with_name("history.parquet"), "history/1")
    assert set(zip(history["seed"], history["member"], strict=True)) == {(s, m) for s in range(2) for m in range(2)}
    assert meta["courses"] == ["styblinski-tang", "flowers"]


def test_splits_and_starts_are_crossed_and_their_spreads_told_apart(folder):
    frame = table(folder, "one-step")
    means = frame[frame["t"].isna() & (frame["metric"] == "w1")].set_index(["method", "seed"])["value"]
    crossed = means[["ijkonet-tv/start=0", "ijkonet-tv/start=1"]].unstack("seed").to_numpy()
    assert crossed.shape == (2, 2) and len(np.unique(crossed)) == 4
    assert means["ijkonet-tv", 0] == means["ijkonet-tv/start=0", 0]
    assert means["ijkonet-tv", 1] == means["ijkonet-tv/start=1", 1]
    spread = frame.set_index("metric")["value"]
    assert spread["w1_sd_over_splits"] == pytest.approx(np.sqrt(crossed.var(axis=1, ddof=1).mean()))
    assert spread["w1_sd_over_starts"] == pytest.approx(np.sqrt(crossed.var(axis=0, ddof=1).mean()))
    assert {"no-movement", "ot-10-nearest", "train-floor", "true-law"} <= set(frame["method"])


def test_held_out_snapshots_are_scored_beside_what_needs_no_model(folder):
    frame = table(folder, "left-out")
    assert set(frame["t"].dropna()) == {2.0}
    rivals = {"previous", "next", "ot-interpolation", "affine-half", "gaussian-midpoint", "half-and-half", "two-halves"}
    assert set(frame["method"]) == rivals | {"jkonet-star-tv", "affine-propagation", "true-law"}
    assert {"w1", "w2", "w1_rolled", "w2_rolled"} <= set(frame[frame["method"] == "jkonet-star-tv"]["metric"])
    fitted = snapdyn.load(folder / FITS / "left-out/course-without-2/jkonet-star-tv/seed-0/model.pt")
    assert fitted.times.tolist() == [0, 1, 3]


def test_an_analysis_gives_model_field_way_and_page(folder):
    mine = folder / "results/tiny/analyses/mine"
    model = snapdyn.load(mine / "seed-0/model.pt")
    field, meta = artifacts.read(mine / "seed-0/field.parquet", "field/1")
    x = field[["x0", "x1"]].to_numpy()
    np.testing.assert_allclose(model.potential(None, x), field["potential"])
    assert meta["rows"] == 240 and meta["side"]
    between = artifacts.read(mine / "seed-0/in-between.parquet", "snapshots/1")[0]
    assert {0.25, 0.5, 0.75, 4.0} <= set(between["t"])
    text = (mine / "page.md").read_text()
    assert "## The energy" in text and "doing nothing" in text and (mine / "page.png").exists()
    panels = artifacts.read(mine / "page.parquet", "figure/1")[0]["panel"]
    assert {"cells", "scores", "potential"} <= set(panels)


def test_any_number_of_cores_gives_the_same_bytes(folder):
    before = contents(folder / FITS / "one-step/course/ijkonet-tv")
    target = f"{FITS}/one-step/course/ijkonet-tv/models.pt"
    outcome = snakemake(folder, target, "--cores", "1", "--forcerun", "fit_together", "--configfile", "tiny.yaml")
    assert outcome.status == 0, outcome.said[-2000:]
    after = contents(folder / FITS / "one-step/course/ijkonet-tv")
    assert after["models.pt"] == before["models.pt"] and after["history.parquet"] == before["history.parquet"]
