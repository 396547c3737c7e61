"""Figures of energies: what their frames hold is what the models and tables say, and drawings work."""

import types

import numpy as np
import pandas as pd
import pytest
from energy_helpers import quadratic_model, rolling
from figure_helpers import check_drawn_from_its_frame, specified

from snapdyn import figures_cells, figures_energy, figures_interaction, flows
from snapdyn.figures_energy import HARD

METHODS = ("ijkonet-v", "ijkonet-prox", "jkonet-star-v")


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    monkeypatch.setattr(figures_energy, "SIDE", 15)
    monkeypatch.setattr(figures_interaction, "SIDE", 11)


def courses_of(dataset, potentials=("flowers", "sphere"), *, dim=2, n=60, **more):
    """A ``courses/1`` frame of one seed and its metadata."""
    spec = {"potentials": list(potentials), "interactions": [], "diffusivity": 0.0, "dim": dim, "n": n, "steps": 2}
    spec |= {"tau": 0.01, "paired": False, "scheme": "explicit", "substeps": 50, "start": [-4, 4], "train": 0.5}
    return flows.courses(spec | more, dataset=dataset, seed=0)


def table(dataset, method, *, t=np.nan, split="test", **values):
    """``metrics/1`` rows: a metric's values, one a seed."""
    about = {"paper": "p", "experiment": "e", "dataset": dataset, "method": method, "split": split, "t": t}
    return [
        about | {"seed": seed, "metric": metric, "value": value, "unit": "1", "n": 10}
        for metric, found in values.items()
        for seed, value in enumerate(found)
    ]


def metrics(*rows):
    return pd.DataFrame([row for part in rows for row in part]), {}


def knowing(dataset, method, snapshots, *, shift=0.0, c=0.0, seed=0, potential=True):
    """Stands in for a model: the true energy, its potential off by a constant, its kernel by ``c |z|^2 / 2``."""
    true, course = flows.flow_of(snapshots).energy, snapshots.meta["course"]

    def value(term, x):
        return term(figures_energy.tensor(x)).numpy()

    return types.SimpleNamespace(
        about={"dataset": f"{dataset}/{course}", "method": method, "seed": seed, "course": course},
        energy=types.SimpleNamespace(potential=potential or None, interaction=true.interaction),
        potential=lambda t, x: value(true.potential_value, x) + shift,
        interaction=lambda z: value(true.interaction.value, z) + c * np.square(z).sum(1) / 2,
        diffusivity=None,
    )


def potentials_files(potentials=("sphere", "flowers")):
    """Two seeds of a data set of two potentials, and one of another whose models are not drawn."""
    frame, meta = courses_of("potentials-unpaired", potentials)
    models, rows = [], []
    for place, (name, snapshots) in enumerate(flows.unstacked(frame, meta).items()):
        for method in METHODS:
            models += [knowing("potentials-unpaired", method, snapshots, shift=5 + seed, seed=seed) for seed in (0, 1)]
            rows += table(f"potentials-unpaired/{name}", method, l2_uvp=[0.1 + place, 0.3 + place], w1=[0.5, 0.6])
            rows += table(f"potentials-unpaired/{name}", method, t=0.01, l2_uvp=[99.0, 99.0])
            rows += table(f"potentials-unpaired/{name}", method, split="train", l2_uvp=[77.0])
        rows += table(f"potentials-unpaired/{name}", "no-movement", l2_uvp=[2.0, 2.0], w1=[1.0, 1.0])
        rows += table(f"potentials-unpaired/{name}", "truth", l2_uvp_bias=[0.01, 0.03], w1_floor=[0.4, 0.4], w1=[0.45])
    return {"metrics": metrics(rows), "courses": [(frame, meta)], "models": models, "beside": []}


def scores_files():
    files = potentials_files()
    paired = [
        *table("potentials-paired/flowers", "ijkonet-v", l2_uvp=[0.2, 0.2], w1=[0.1, 0.1]),
        *table("potentials-paired/sphere", "ijkonet-v", l2_uvp=[0.2, 0.2], w1=[0.1, 0.1]),
        *table("potentials-paired/sphere", "truth", w1_floor=[0.0], w1=[1e-17], l2_uvp_bias=[0.04]),
        *table("potentials-implicit/sphere", "ijkonet-v", l2_uvp=[0.002], w1=[0.1]),
    ]
    return files | {"beside": [metrics(paired)]}


def training_files():
    histories = []
    for method, terms in (
        ("ijkonet-v", ("price", "gradient")),
        ("jkonet-star-v", ("loss", "l2_uvp")),
        ("jkonet-linear", ()),
    ):
        rows = [
            {"seed": seed, "member": member, "step": step, "term": term, "value": -1.0 + step / 100, "split": "train"}
            for seed in (0, 1)
            for member in (0, 1)
            for term in terms
            for step in range(10, 410, 10)
        ]
        said = {"seed": 0, "member": 0, "step": 0, "term": "loss", "value": 99.0, "split": "train"}
        meta = {"dataset": "potentials-unpaired", "method": method, "courses": ["sphere", "flowers"]}
        histories.append((pd.DataFrame([*rows, said]), meta))
    return {"histories": histories}


def dimension_files():
    files = {"courses": [courses_of("potentials-10d", ["flowers"], dim=10), courses_of("plain", ["flowers", "sphere"])]}
    rows = table("potentials-10d/flowers", "ijkonet-v", l2_uvp=[0.4, 0.6]) + table(
        "potentials-10d/flowers", "truth", l2_uvp_bias=[0.01]
    )
    flat = table("plain/flowers", "ijkonet-v", l2_uvp=[0.1]) + table("plain/sphere", "ijkonet-v", l2_uvp=[9.0])
    flat += table("plain/flowers", "jkonet-star-linear", l2_uvp=[0.2])  # not asked for in high dimension
    return files | {"metrics": metrics(rows), "beside": [metrics(flat)]}


CLAIM = {"kind": "claim", "dataset": "embryoid-body", "metric": "w1", "id": "a", "comparable": True}


def one_step_files():
    rows = []
    for method, shift in (("jkonet-star-tv", 0.0), ("no-movement", 1.0), ("jkonet-star-tv/start=1", 3.0)):
        for t in (1.0, 2.0, np.nan):
            rows += table("embryoid-body", method, t=t, w1=[0.6 + shift, 0.8 + shift], w2=[5.0, 5.0])
    rows += table("synthetic-course", "jkonet-star-tv", t=1.0, w1=[2.0])
    rows += table("synthetic-course", "jkonet-star-tv", w1=[2.0])
    beside = []
    for t in (1.0, 2.0, np.nan):
        beside += table("embryoid-body", "jkonet", t=t, w1=[1.2]) + table("embryoid-body", "no-movement", t=t, w1=[1.6])
    claims = [
        CLAIM | {"method": "jkonet-star-tv", "published": 0.623, "spread": 0.04, "note": "long words"},
        CLAIM | {"method": "reg-cnf", "published": 0.67, "note": "Reg. CNF"},
        CLAIM | {"method": "dmsb", "published": 0.5, "comparable": False},
        CLAIM | {"method": "dmsb", "published": 0.1, "metric": "w2"},
        CLAIM | {"method": "jkonet-star-tv", "published": 0.53, "kind": "target"},
    ]
    return {"metrics": metrics(rows), "beside": [metrics(beside)], "published": claims}


def held_out_files(first=1.0):
    """``first``: factor of the roll-out at the first held-out time, 1 where it starts at the snapshot before."""
    rows, name = [], "embryoid-body-two-out"
    for method, value in (("ijkonet-tv", 1.0), ("previous", 0.9)):
        for t in (1.0, 3.0, np.nan):
            rows += table(name, method, t=t, w2=[value, value + 0.2])
            if method == "ijkonet-tv":
                far = first if t == 1.0 else 2.0
                rows += table(name, method, t=t, w2_rolled=[far * value, far * (value + 0.2)])
    about = CLAIM | {"dataset": name, "metric": "w2"}
    claims = [
        about | {"method": "ijkonet-tv", "t": 1, "published": 0.983, "spread": 0.037},
        about | {"method": "ijkonet-tv", "t": 3, "published": 0.849},
        about | {"method": "dmsb", "t": 3, "published": 1.45, "note": "DMSB"},
    ]
    return {"metrics": metrics(rows), "published": claims}


def field_files(timed=True):
    cells = rolling(n=50, times=(0.0, 1.0, 2.0, 3.0, 4.0))
    cells.split[:] = np.where(np.isin(cells.t, [1.0, 3.0]), "test", "train")
    models, predictions, rows = [], [], []
    for method, score in (("ijkonet-v", 2.0), ("jkonet-star-tv", 1.0)):
        model = quadratic_model(times=(0.0, 2.0, 4.0), timed=timed)
        model.about = {"dataset": "rolling", "method": method}
        models.append(model)
        held = cells.select(split="test")
        moved = held.frame().assign(split="predicted", x0=held.x[:, 0] + 0.1 * score)
        predictions.append((moved, cells.meta))
        rows += table("rolling", method, w2=[score]) + table("rolling", method, t=1.0, w2=[score])
    frame = cells.frame(), cells.meta
    return {"metrics": metrics(rows), "clouds": [frame], "models": models, "predictions": predictions}


def interaction_files():
    rows, models, courses, parameters = [], [], [], []
    for dataset, beta in (("interactions", 0.0), ("interactions-noisy", 0.1)):
        kernels = {"interactions": ["wavy-plateau", "sphere"], "diffusivity": beta}
        frame, meta = courses_of(dataset, ["sphere", "flowers"], **kernels)
        courses.append((frame, meta))
        for name, snapshots in flows.unstacked(frame, meta).items():
            for method, c, potential in (
                ("ijkonet-vw", 3.0, True),
                ("ijkonet-w", 0.0, False),
                ("jkonet-star", -2.0, True),
            ):
                models.append(knowing(dataset, method, snapshots, c=c, potential=potential))
                scores = {"l2_uvp": [0.5, 0.7], "l2_uvp_interaction": [0.2, 0.4], "w1": [0.1, 0.1]}
                rows += table(f"{dataset}/{name}", method, **scores)
            rows += table(f"{dataset}/{name}", "truth", l2_uvp_bias=[0.01]) + table(
                f"{dataset}/{name}", "no-movement", l2_uvp=[4.0]
            )
            about = {"dataset": f"{dataset}/{name}", "method": "jkonet-star", "name": "diffusivity", "truth": beta}
            parameters += [about | {"seed": seed, "estimate": beta + 0.02 * (1 + seed)} for seed in (0, 1)]
    files = {"metrics": metrics(rows), "courses": courses, "models": models}
    return files | {"parameters": (pd.DataFrame(parameters), {})}


def force_files():
    """An experiment on time and, beside it, one that is not."""
    timed = [
        *table("three/sphere", "ijkonet-v", l2_uvp=[0.2, 0.4], l2_uvp_elsewhere=[0.2, 0.2], l2_uvp_apart=[0.0, 0.0]),
        *table("three/sphere", "ijkonet-tv", l2_uvp=[0.1, 0.1], l2_uvp_elsewhere=[0.9, 0.8], l2_uvp_apart=[0.7, 0.7]),
        *table("three/sphere", "no-movement", l2_uvp=[2.0, 2.0]),
        *table("three/sphere", "truth", l2_uvp_bias=[0.05, 0.05]),
    ]
    beside = table("potentials-growth/flowers", "jkonet-star-v", l2_uvp=[0.3, 0.3], l2_uvp_elsewhere=[0.3, 0.3])
    return {"metrics": metrics(timed), "beside": [metrics(beside)]}


def ratio_files():
    rows = [
        *table("potentials-unpaired/sphere", "ijkonet-v", l2_uvp_ratio=[2.0, 8.0, 3.0], w1_ratio=[1.0, 1.1, 0.9]),
        *table("potentials-unpaired/flowers", "ijkonet-v", l2_uvp_ratio=[20.0, 80.0, 30.0], l2_uvp_gap=[1.0, 1.0, 1.0]),
        *table("potentials-unpaired", "ijkonet-v", l2_uvp_ratio_median=[5.0]),
        *table("potentials-unpaired/flowers", "ijkonet-v", l2_uvp_ratio_still=[10.0, 12.0, 11.0]),
    ]
    about = {"kind": "claim", "dataset": "potentials-unpaired/flowers", "metric": "l2_uvp_ratio", "method": "ijkonet-v"}
    return {"metrics": metrics(rows), "published": [about | {"published": 297}]}


MADE = {
    "potentials_levels": potentials_files,
    "potentials_levels_all": lambda: potentials_files((*HARD[:4], "sphere", "flat", "relu")),
    "potentials_scores": scores_files,
    "potentials_training": training_files,
    "potentials_dimension": dimension_files,
    "forces_only": force_files,
    "cells_one_step": one_step_files,
    "cells_held_out": held_out_files,
    "cells_field": field_files,
    "interaction_kernels": interaction_files,
    "interaction_kernels_noisy": interaction_files,
    "interaction_scores": interaction_files,
    "diffusivity_recovered": interaction_files,
    "unpairing_ratios": ratio_files,
}


@pytest.mark.parametrize("name", MADE)
def test_every_figure_is_drawn_from_its_frame(name, style, tmp_path):
    check_drawn_from_its_frame(name, MADE[name], "jko", style, tmp_path)


def test_every_figure_of_the_paper_is_tested_here():
    assert {spec["function"].removeprefix("figures.") for spec in specified("jko")} <= set(MADE)


def of(frame, panel, series):
    return frame[(frame["panel"] == panel) & (frame["series"] == series)]


def test_potentials_that_differ_by_a_constant_are_one_picture():
    frame, facts = figures_energy.potentials_levels_all(potentials_files())
    assert facts["courses"] == ["flowers", "sphere"] and facts["shown"][0] == "truth"
    for name in facts["courses"]:
        true = of(frame, f"potential: {name}", "truth")
        for method in METHODS:
            learned = of(frame, f"potential: {name}", method)
            assert np.allclose(learned[["x", "y", "low", "high"]], true[["x", "y", "low", "high"]])
        span = of(frame, f"range: {name}", "truth").iloc[0]
        assert true["low"].min() <= span["low"] < 0 < span["high"] <= true["low"].max()
    assert of(frame, "l2_uvp: sphere", "ijkonet-v")["y"].item() == pytest.approx(0.1)  # the first seed's mean row
    only, facts = figures_energy.potentials_levels(potentials_files())
    assert facts["courses"] == ["flowers"] and len(only) < len(frame)


def test_places_far_from_all_particles_are_marked():
    files = potentials_files(("sphere",))
    frame, meta = files["courses"][0]
    frame.loc[(frame["x0"] > 0) & (frame["x1"] > 0), ["x0", "x1"]] *= -1
    bare = of(figures_energy.potentials_levels_all(files)[0], "potential: sphere", "without data")
    inside = bare[(bare["x"] > 1) & (bare["y"] > 1)]
    assert inside["low"].all() and not bare[(bare["x"] < -1) & (bare["y"] < -1)]["low"].all()


def test_a_flat_potential_has_colours_of_some_width():
    frame, _ = figures_energy.potentials_levels_all(potentials_files(("flat",)))
    span = of(frame, "range: flat", "truth").iloc[0]
    assert (span["low"], span["high"]) == (-figures_energy.LEAST / 2, figures_energy.LEAST / 2)


def test_scores_stand_by_potential_with_the_hard_ones_first():
    frame, facts = figures_energy.potentials_scores(scores_files())
    assert facts["rows"] == ["potentials-paired", "potentials-unpaired"]
    assert facts["ticks"]["potentials-paired"] == ["flowers", "sphere", "sphere, implicit"]
    assert facts["hard"] == {"potentials-paired": 1, "potentials-unpaired": 1}
    mark = of(frame, "l2_uvp: potentials-unpaired", "ijkonet-v").iloc[0]  # of flowers, the second in the files
    assert mark[["x", "y", "low", "high"]].tolist() == pytest.approx([0, 1.2, 1.1, 1.3])
    seeds = of(frame, "seeds of l2_uvp: potentials-unpaired", "ijkonet-v")
    assert seeds["y"].tolist() == pytest.approx([1.1, 1.3, 0.1, 0.3])  # neither steps nor training rows
    assert of(frame, "l2_uvp: potentials-unpaired", "step-bias")["y"].tolist() == pytest.approx([0.02, 0.02])
    assert of(frame, "w1: potentials-unpaired", "another-sample")["y"].tolist() == pytest.approx([0.4, 0.4])
    assert of(frame, "w1: potentials-unpaired", "true-energy")["y"].tolist() == pytest.approx([0.45, 0.45])
    assert of(frame, "l2_uvp: potentials-paired", "ijkonet-v")["y"].tolist() == pytest.approx([0.2, 0.2, 0.002])


def test_experiments_on_the_same_data_share_a_row():
    files = potentials_files()
    files["beside"] = [metrics(table("potentials-unpaired/flowers", "jkonet", l2_uvp=[5.0, 7.0]))]
    frame, facts = figures_energy.potentials_scores(files)
    assert facts["ticks"] == {"potentials-unpaired": ["flowers", "sphere"]}
    assert of(frame, "l2_uvp: potentials-unpaired", "jkonet")[["x", "y"]].to_numpy().tolist() == [[0, 6]]
    assert of(frame, "l2_uvp: potentials-unpaired", "ijkonet-v")["x"].tolist() == [0, 1]


def test_curves_of_the_training_keep_their_means():
    frame, facts = figures_energy.potentials_training(training_files())
    assert facts["methods"] == ["ijkonet-v", "jkonet-star-v"] and facts["courses"] == ["flowers", "sphere"]
    line = of(frame, "objective: ijkonet-v", "flowers")
    assert len(line) == figures_energy.SMOOTH
    assert line["x"].tolist()[:2] == [15, 35] and np.allclose(line["y"], -1 + line["x"] / 100)
    assert of(frame, "objective: jkonet-star-v", "sphere")["y"].max() < 99  # not what is said at step 0
    assert not (frame["panel"] == "gradient: jkonet-star-v").any()
    assert len(of(frame, "l2_uvp: jkonet-star-v", "sphere")) == figures_energy.SMOOTH
    assert not (frame["panel"] == "l2_uvp: ijkonet-v").any()


def test_forces_at_other_steps_are_shown_where_time_is_the_question():
    frame, facts = figures_energy.forces_only(force_files())
    assert facts["shown"] == {"three": list(figures_energy.OF_FORCES), "potentials-growth": ["l2_uvp"]}
    assert of(frame, "l2_uvp_elsewhere: three", "ijkonet-tv")["y"].tolist() == pytest.approx([0.85])
    assert of(frame, "l2_uvp: three", "step-bias")["y"].tolist() == pytest.approx([0.05])
    assert not (frame["panel"] == "l2_uvp_elsewhere: potentials-growth").any()


def test_dimensions_come_from_the_data():
    frame, facts = figures_energy.potentials_dimension(dimension_files())
    assert facts["courses"] == ["flowers"] and facts["ticks"] == [2, 10]
    line = of(frame, "flowers", "ijkonet-v")
    assert line["x"].tolist() == [2, 10] and line["y"].tolist() == pytest.approx([0.1, 0.5])
    assert "jkonet-star-linear" not in set(frame["series"])


def test_published_numbers_stand_in_the_row_of_their_method():
    frame, facts = figures_cells.cells_one_step(one_step_files())
    order = facts["order"]["embryoid-body"]
    # by what was measured here, where it was; what is of another protocol stays out
    assert order == ["reg-cnf", "jkonet-star-tv", "jkonet", "no-movement"]
    mark = of(frame, "mean: embryoid-body", "published: jkonet-star-tv").iloc[0]
    assert mark[["x", "y", "low", "high"]].tolist() == pytest.approx([1, 0.623, 0.583, 0.663])
    assert of(frame, "mean: embryoid-body", "published: reg-cnf")["y"].item() == 0.67
    assert facts["labels"]["reg-cnf"] == "Reg. CNF"
    ours = of(frame, "mean: embryoid-body", "jkonet-star-tv").iloc[0]
    sd = np.std([0.6, 0.8], ddof=1)
    assert ours[["x", "y", "low", "high"]].tolist() == pytest.approx([1, 0.7, 0.7 - sd, 0.7 + sd])
    assert not frame["series"].str.contains("start=").any()
    assert not of(frame, "mean: synthetic-course", "jkonet-star-tv")["low"].notna().any()  # of one split


def test_held_out_snapshots_show_both_ways_there():
    frame, facts = figures_cells.cells_held_out(held_out_files())
    name = "embryoid-body-two-out"
    assert facts["order"][name] == ["previous", "ijkonet-tv", "dmsb"] and facts["times"][name] == [1.0, 3.0]
    assert of(frame, f"t = 3: {name}", "rolled out: ijkonet-tv")["y"].item() == pytest.approx(2.2)
    assert not len(of(frame, f"t = 1: {name}", "rolled out: ijkonet-tv"))  # there it is the same prediction
    assert of(frame, f"t = 1: {name}", "published: ijkonet-tv")["y"].item() == 0.983
    assert of(frame, f"t = 3: {name}", "published: ijkonet-tv")["y"].item() == 0.849
    assert not len(of(frame, f"t = 1: {name}", "published: dmsb"))
    assert of(frame, f"t = 3: {name}", "ijkonet-tv")["y"].item() == pytest.approx(1.1)
    later, _ = figures_cells.cells_held_out(held_out_files(first=1.5))  # observed ones lie between
    assert of(later, f"t = 1: {name}", "rolled out: ijkonet-tv")["y"].item() == pytest.approx(1.65)


def test_the_field_is_that_of_the_best_method():
    frame, facts = figures_cells.cells_field(field_files())
    assert facts["best"] == "jkonet-star-tv" and facts["score"] == "1"
    assert facts["held"] == ["held out: t = 1", "held out: t = 3"]
    assert facts["potentials"] == ["potential: 0 to 2", "potential: 2 to 4"]
    shift = of(frame, "held out: t = 3", "predicted")["x"].to_numpy() - of(frame, "held out: t = 3", "cloud")["x"]
    assert np.allclose(shift, 0.1)
    values = frame[frame["panel"] == "potential: 0 to 2"]
    assert len(values) == 150 and values["low"].mean() == pytest.approx(0, abs=1e-9)
    _, facts = figures_cells.cells_field(field_files(timed=False))
    assert facts["potentials"] == ["potential: 0 to 4"]


def test_the_free_part_of_a_kernel_is_found_and_taken_away():
    frame, facts = figures_interaction.interaction_kernels(interaction_files())
    assert facts["dataset"] == "interactions" and facts["courses"] == ["flowers+sphere", "sphere+wavy-plateau"]
    for name in facts["courses"]:
        true = of(frame, f"cut: {name}", "truth")
        for method, c in (("ijkonet-vw", 3.0), ("jkonet-star", -2.0)):
            assert of(frame, f"gauge: {name}", method)["y"].item() == pytest.approx(c)
            assert np.allclose(of(frame, f"cut: {name}", method)["y"], true["y"])
            bent = of(frame, f"cut: {name}", f"as learned: {method}")["y"].to_numpy() - true["y"].to_numpy()
            assert np.ptp(bent - c * true["x"].to_numpy() ** 2 / 2) == pytest.approx(0, abs=1e-8)
        kernel = of(frame, f"kernel: {name}", "jkonet-star")["low"].to_numpy()
        assert np.allclose(kernel, of(frame, f"kernel: {name}", "truth")["low"])
    assert of(frame, "score: sphere+wavy-plateau", "jkonet-star")["y"].item() == 0.2  # of the interaction alone
    _, noisy = figures_interaction.interaction_kernels_noisy(interaction_files())
    assert noisy["dataset"] == "interactions-noisy" and noisy["diffusivity"] == "0.1"


def test_without_a_potential_nothing_of_a_kernel_is_free():
    files = interaction_files()
    files["models"] = [model for model in files["models"] if model.about["method"] == "ijkonet-w"]
    for model in files["models"]:
        true = model.interaction
        model.interaction = lambda z, true=true: true(z) + np.square(z).sum(1)
    frame, facts = figures_interaction.interaction_kernels(files)
    assert facts["methods"] == ["ijkonet-w"] and of(frame, "gauge: sphere+wavy-plateau", "ijkonet-w")["y"].item() == 0
    bent = of(frame, "cut: sphere+wavy-plateau", "ijkonet-w")["y"].to_numpy()
    assert np.ptp(bent - of(frame, "cut: sphere+wavy-plateau", "truth")["y"].to_numpy()) > 1


def test_diffusivities_stand_beside_the_true_ones():
    frame, facts = figures_interaction.diffusivity_recovered(interaction_files())
    assert facts["truth"] == {"interactions": "0", "interactions-noisy": "0.1"} and facts["seeds"] == 2
    mark = of(frame, "diffusivity: interactions-noisy", "jkonet-star").iloc[1]
    assert mark[["x", "y", "low", "high"]].tolist() == pytest.approx([1, 0.13, 0.12, 0.14])
    assert of(frame, "diffusivity: interactions-noisy", "truth")["y"].tolist() == [0.1, 0.1]
    scores, facts = figures_interaction.interaction_scores(interaction_files())
    assert facts["ticks"]["interactions"] == ["flowers+sphere", "sphere+wavy-plateau"]
    assert of(scores, "l2_uvp: interactions", "ijkonet-vw")["y"].tolist() == pytest.approx([0.6, 0.6])
    assert of(scores, "l2_uvp_interaction: interactions", "ijkonet-vw")["y"].tolist() == pytest.approx([0.3, 0.3])
    assert facts["metrics"] == ["l2_uvp", "l2_uvp_interaction"]
    assert not scores["panel"].str.startswith("w1").any()


def test_ratios_are_medians_beside_published_ones():
    frame, facts = figures_interaction.unpairing_ratios(ratio_files())
    assert facts["ticks"] == {"potentials-unpaired": ["flowers", "sphere"]} and facts["seeds"] == 3
    assert facts["metrics"] == ["l2_uvp_ratio", "w1_ratio"]
    ours = of(frame, "l2_uvp_ratio: potentials-unpaired", "ijkonet-v")
    assert ours[["x", "y", "low", "high"]].to_numpy() == pytest.approx(np.array([[0, 30, 20, 80], [1, 3, 2, 8]]))
    still = of(frame, "l2_uvp_ratio: potentials-unpaired", "no-movement")
    assert still[["x", "y", "low", "high"]].to_numpy().tolist() == [[0, 11, 10, 12]]
    stated = of(frame, "l2_uvp_ratio: potentials-unpaired", "published: ijkonet-v")
    assert stated[["x", "y"]].iloc[0].tolist() == [0, 297]
