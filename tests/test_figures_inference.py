"""The figures of recovery, calibration and the gene network: the numbers in their frames, on tables made by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

from snapdyn import (
    artifacts,
    figures,
    figures_genes,
    figures_inference,
    figures_recovery,
    frames,
    recovery,
    simulate,
    systems,
)

LORENZ = {"sigma": 10.0, "rho": 28.0, "beta": 8 / 3}


def parameters(dataset, method, truth, errors, std_error):
    """``parameters/1`` rows: ``errors (seeds, names)`` and ``std_error (names,)`` or a number, NaN for none."""
    errors = np.atleast_2d(errors)
    std_error = np.broadcast_to(std_error, errors.shape)
    return pd.DataFrame(
        [
            {"paper": "p", "experiment": "e", "dataset": dataset, "method": method, "seed": seed, "name": name}
            | {"estimate": value + errors[seed, k], "std_error": std_error[seed, k], "truth": value, "unit": "1"}
            for seed in range(len(errors))
            for k, (name, value) in enumerate(truth.items())
        ]
    )


def study_rows(dataset, method, values, n, metric="j_rejects"):
    return pd.DataFrame(
        [
            {"paper": "p", "experiment": "e", "dataset": dataset, "method": method, "seed": seed, "split": "train"}
            | {"t": np.nan, "metric": metric, "value": float(value), "unit": "1", "n": n}
            for seed, value in enumerate(values)
        ]
    )


def scored(tables, sizes, *more):
    """What the files of a figure hold of metrics and parameters."""
    table = pd.concat(tables, ignore_index=True)
    metrics = pd.concat([recovery.score(table, {}, sizes), *more], ignore_index=True)
    return {"metrics": (metrics, {}), "parameters": (table, {})}


def lorenz_cloud(dataset, diffusivity, rng, n=200):
    cloud = pd.DataFrame(rng.normal([0, 0, 24], [8, 9, 8], (n, 3)), columns=["x0", "x1", "x2"])
    about = {"system": "lorenz", "diffusivity": diffusivity, "names": list(LORENZ), "parameters": LORENZ}
    return cloud, {"dataset": dataset, "dim": 3, "axes": ["x", "y", "z"], "system": about}


@pytest.fixture
def drawn(style):
    """``(name, files) -> axes, frame, facts``: draws a figure as its rule does."""

    def drawing(name, files):
        arrange, draw = figures.FIGURES[name]
        frame, facts = arrange(files)
        assert not artifacts.problems(frame, "figure/1", {})
        with style:
            figure = draw(frame, style, facts)
            figure.canvas.draw()
        return figure.axes, frame, facts

    return drawing


def only(frame, panel, series):
    return frame[(frame["panel"] == panel) & (frame["series"] == series)]


# The statistics


def test_a_share_has_its_wilson_interval():
    row = frames.share("p", "s", 3, [True] * 19 + [False]).iloc[0]
    z, n, p = recovery.Z95, 20, 0.95
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    assert (row["x"], row["y"]) == (3, 0.95)
    assert (row["low"], row["high"]) == (pytest.approx(centre - reach, rel=1e-6), pytest.approx(centre + reach))


@pytest.mark.parametrize("hits", [[0.0] * 5, [1.0] * 5])
def test_a_share_of_none_or_all_lies_in_its_interval(hits):
    row = frames.share("p", "s", 0, hits).iloc[0]
    assert row["low"] <= row["y"] <= row["high"] and row["high"] - row["low"] > 0.3


@pytest.mark.parametrize("power", [-0.5, 0.0, -1.0])
def test_the_power_of_an_exact_law(power, rng):
    sizes = np.array([1000, 2000, 5000, 20000])
    errors = rng.normal(size=(6, 1)) * 3 * sizes**power
    found, std_error, line = frames.power_law(sizes, errors)
    assert found == pytest.approx(power, abs=1e-12) and std_error < 1e-12
    assert np.allclose(line, np.sqrt(np.mean(errors**2, 0)))


def test_the_error_of_the_power_knows_that_sizes_share_their_rows(rng):
    """Means of the first n of the same draws, as the studies take them: the power scatters as much as it says."""
    sizes = np.array([100, 200, 400, 800, 1600])
    means = np.cumsum(rng.normal(size=(300, 10, 1600)), axis=2)[:, :, sizes - 1] / sizes
    found, stated, naive = [], [], []
    for errors in means:
        power, std_error, line = frames.power_law(sizes, errors)
        left = np.log(np.sqrt(np.mean(errors**2, 0)) / line)
        found.append(power)
        stated.append(std_error)
        naive.append(np.sqrt(np.sum(left**2) / 3 / np.sum((np.log(sizes) - np.log(sizes).mean()) ** 2)))
    assert np.mean(found) == pytest.approx(-0.5, abs=0.02)
    assert np.sqrt(np.mean(np.square(stated))) == pytest.approx(np.std(found), rel=0.2)
    assert np.sqrt(np.mean(np.square(naive))) < 0.75 * np.std(found)  # what a line through the points would say


def test_one_seed_gives_a_power_without_an_error():
    assert np.isnan(frames.power_law(np.array([1.0, 4.0]), [[1.0, 0.5]])[1])


def test_intervals_are_divided_by_their_scale():
    table = parameters("d", "moments", {"a": -4.0, "b": 2.0}, [[0.4, 0.0]], [0.2, np.nan])
    frame = frames.intervals("p", "s", [0, 1], table, table["truth"].to_numpy())
    assert frame["y"].tolist() == [pytest.approx(0.9), 1.0]
    assert frame["high"][0] - frame["low"][0] == pytest.approx(2 * recovery.Z95 * 0.2 / 4)
    assert frame[["low", "high"]].iloc[1].isna().all()


def test_terms_are_ordered_and_sized():
    assert frames.factors("x: x z^2") == [("x", 1), ("z", 2)] and frames.factors("y: 1") == []
    names = ["y: 1", "x: y^2", "x: x y", "x: x^2", "x: z", "x: 1", "x: x z"]
    assert frames.library_order(names) == ["x: 1", "x: z", "x: x^2", "x: x y", "x: x z", "x: y^2", "y: 1"]
    cloud = pd.DataFrame({"x0": [1.0, -2.0], "x1": [3.0, 1.0]})
    assert frames.monomial_size("u: u v^2", cloud, ["u", "v"]) == pytest.approx(np.sqrt((81 + 4) / 2))
    assert frames.monomial_size("v: 1", cloud, ["u", "v"]) == 1


def test_jitter_parts_the_seeds():
    places = frames.jitter(pd.Series([7, 3, 7, 5]), 0.6)
    assert np.allclose(places, [0.2, -0.2, 0.2, 0.0])


# Recovery


@pytest.fixture
def noisy(rng):
    clouds = [lorenz_cloud("lorenz-d50", 50.0, rng), lorenz_cloud("lorenz", 12.5, rng)]
    tables = [
        parameters("lorenz", "moments", LORENZ, [[0.3, 0.1, 0.1], [0.4, 0.1, 0.1]], [0.2, 0.1, 0.1]),
        parameters("lorenz", "kde-l1", LORENZ, [[3.0, 1, 1], [4.0, 1, 1]], np.nan),
        parameters("lorenz-d50", "moments", LORENZ, [[-1.0, 0.1, 0.1]], [0.5, 0.1, 0.1]),
    ]
    return scored(tables, {"lorenz": 20000, "lorenz-d50": 20000}) | {"cloud": clouds[1], "clouds": clouds}


def test_noise_figure_has_root_mean_squares_at_their_noise(noisy, drawn):
    axes, frame, facts = drawn("lorenz_noise", noisy)
    line = only(frame, "sigma", "moments")
    assert line["x"].tolist() == [12.5, 50.0]
    assert np.allclose(line["y"], [100 * np.sqrt((0.03**2 + 0.04**2) / 2), 10.0])
    assert np.allclose(line[["low", "high"]].iloc[0], [3, 4])
    assert np.allclose(only(frame, "sigma", "predicted-error")["y"], [2.0, 5.0])
    assert set(frame["series"]) == {"moments", "kde-l1", "predicted-error"}
    assert facts["ticks"] == [12.5, 50.0] and facts["n"] == "20,000" and facts["seeds"] == 2
    assert [axis.get_title() for axis in axes] == list(LORENZ)


def test_samples_figure_fits_the_power(rng, drawn):
    sizes, seeds = [1000, 4000, 16000], rng.normal(size=(4, 3))
    tables = [
        parameters("lorenz-large", f"{method}/n={n}", LORENZ, seeds * n**power, error)
        for n in sizes
        for method, power, error in (("moments", -0.5, n**-0.5), ("kde-l1", 0.0, np.nan))
    ]
    files = scored(tables, {"lorenz-large": 16000}) | {"cloud": lorenz_cloud("lorenz-large", 12.5, rng)}
    axes, frame, facts = drawn("lorenz_samples", files)
    assert only(frame, "power: rho", "moments")["y"].item() == pytest.approx(-0.5)
    assert np.allclose(only(frame, "beta", "moments-fit")["y"], only(frame, "beta", "moments")["y"])
    assert np.ptp(only(frame, "beta", "kde-l1")["y"]) < 1e-9
    predicted = only(frame, "sigma", "predicted-error")
    assert predicted["x"].tolist() == sizes and np.allclose(predicted["y"], 100 * np.array(sizes) ** -0.5 / 10)
    assert "-0.50" in axes[0].get_title() and facts["ticks"] == sizes


def test_a_size_at_which_a_seed_was_refused_is_not_in_the_power(rng):
    sizes = [1000, 4000, 16000]
    tables = [parameters("lorenz-large", f"moments/n={n}", LORENZ, [[n**-0.5] * 3] * 2, 1.0) for n in sizes]
    tables[0] = tables[0][tables[0]["seed"] == 0].assign(estimate=lambda t: t["truth"] + 5)  # bad, and alone
    files = scored(tables, {"lorenz-large": 16000}) | {"cloud": lorenz_cloud("lorenz-large", 12.5, rng)}
    frame = figures_recovery.lorenz_samples(files)[0]
    assert only(frame, "power: rho", "moments")["y"].item() == pytest.approx(-0.5)
    assert len(only(frame, "rho", "moments")) == 3


def test_diffusivity_figure_shows_every_seed_over_its_truth(rng, drawn):
    clouds = [lorenz_cloud("large", 12.5, rng), lorenz_cloud("small", 2.0, rng)]
    tables = [
        parameters("large", "moments", LORENZ | {"diffusivity": 12.5}, [[0, 0, 0, 1.25], [0, 0, 0, -0.1]], 0.5),
        parameters("small", "moments", LORENZ | {"diffusivity": 2.0}, [[0, 0, 0, 0.2], [0, 0, 0, 0.2]], 0.2),
    ]
    files = scored(tables, {"large": 8000, "small": 8000}) | {"cloud": clouds[0], "clouds": clouds}
    axes, frame, facts = drawn("lorenz_diffusivity", files)
    line = only(frame, "diffusivity", "moments")
    assert np.allclose(line["y"], [1.1, 1.1, 1.1, 0.992]) and facts["ticks"] == ["2", "12.5"]
    assert np.allclose(line["x"].round(), [0, 0, 1, 1]) and line["x"].nunique() == 4
    assert np.allclose((line["high"] - line["low"])[2:], 2 * recovery.Z95 * 0.5 / 12.5)
    assert only(frame, "covered: diffusivity", "moments")["y"].item() == 0.75  # 1.25 is 2.5 standard errors
    assert axes[0].get_title() == "D: 3 of 4 hold the truth"


QUADRATIC = [f"{a}: {m}" for a in "xyz" for m in ("1", "x", "y", "z", "x^2", "x y", "x z", "y^2", "y z", "z^2")]
TRUE = {"x: x": -10.0, "x: y": 10.0, "y: x": 28.0, "y: y": -1.0, "y: x z": -1.0, "z: z": -8 / 3, "z: x y": 1.0}
LIBRARY = dict.fromkeys(QUADRATIC, 0.0) | TRUE


def sparse(dataset, keeps):
    """Elimination that keeps these terms in each seed."""
    table = parameters(dataset, "moments-sparse", LIBRARY, np.zeros((len(keeps), 30)), 0.01)
    kept = np.concatenate([[name in keep for name in LIBRARY] for keep in keeps])
    return table.assign(
        estimate=np.where(kept, table["estimate"], 0.0), std_error=np.where(kept, table["std_error"], np.nan)
    )


@pytest.fixture
def library(rng):
    true = list(TRUE)
    clouds = [lorenz_cloud("lorenz", 12.5, rng), lorenz_cloud("lorenz-large", 12.5, rng)]
    z = rng.normal(size=(20, 30))
    tables = [
        parameters("lorenz-large", "moments", LIBRARY, 0.05 * z, 0.05),
        parameters("lorenz-large", "kds", LIBRARY, np.full((20, 30), 0.3), np.nan),
        sparse("lorenz-large", [true] * 3 + [true[1:]]),
        sparse("lorenz", [true[1:], true]),
    ]
    files = scored(tables, {"lorenz": 20000, "lorenz-large": 100000})
    return files | {"cloud": clouds[0], "clouds": clouds}, z, clouds[1][0]


def test_library_figure_sizes_its_terms_and_drops_what_was_eliminated(library, drawn):
    files, z, cloud = library
    axes, frame, facts = drawn("lorenz_library", files)
    size = np.sqrt(np.mean((cloud["x0"] * cloud["x2"]) ** 2))
    place = facts["terms"]["y"].index("x z")
    truth = only(frame, "equation: y", "truth").set_index("x")["y"]
    assert truth[place] == pytest.approx(-size) and (truth != 0).sum() == 3
    mine = only(frame, "equation: y", "moments").set_index("x").loc[place]
    assert mine["y"] == pytest.approx((-1 + 0.05 * z[0, QUADRATIC.index("y: x z")]) * size)
    assert mine["high"] - mine["low"] == pytest.approx(2 * recovery.Z95 * 0.05 * size)
    assert sorted(only(frame, "equation: y", "moments-sparse")["x"]) == sorted(
        facts["terms"]["y"].index(name) for name in ("x", "y", "x z")
    )
    assert len(only(frame, "equation: z", "kds")) == 10


def test_library_figure_has_the_scores_of_the_largest_cloud(library, drawn):
    files, z, _ = library
    axes, frame, facts = drawn("lorenz_library", files)
    bars = only(frame, "z-scores", "moments")
    assert bars["y"].sum() * 0.5 == pytest.approx(1)
    assert bars.loc[bars["x"] == 0.25, "y"].item() == pytest.approx(np.mean((z >= 0) & (z < 0.5)) / 0.5)
    assert only(frame, "z-scores", "normal")["y"].max() == pytest.approx(1 / np.sqrt(2 * np.pi))
    assert only(frame, "z-scores: RMS", "moments")["y"].item() == pytest.approx(np.sqrt(np.mean(z**2)))
    assert only(frame, "exact support", "lorenz-large")["y"].item() == 0.75
    assert "exact support in 3 of 4 seeds" in axes[3].get_title()
    assert facts["support"] == "1 of 2 seeds at N = 20,000; 3 of 4 seeds at N = 100,000" and facts["seeds"] == 20


def test_trajectories_figure_takes_the_worst_of_the_absent_terms(rng, drawn):
    cloud, meta = lorenz_cloud("lorenz-paths", 12.5, rng)
    meta |= {"paths": {"every": 0.01, "records": 100}}
    errors = np.zeros((2, 30))
    errors[:, [QUADRATIC.index(name) for name in TRUE]] = 0.01
    errors[:, QUADRATIC.index("x: z^2")] = [0.01, -0.03]  # small, but of a large term
    errors[:, QUADRATIC.index("x: 1")] = 0.05
    errors[:, QUADRATIC.index("x: x")] = [3.0, 4.0]
    std_error = np.full(30, 0.02)
    std_error[QUADRATIC.index("x: 1")] = 0.01
    tables = [parameters("lorenz-paths", method, LIBRARY, errors, std_error) for method in ("sindy", "moments")]
    files = scored(tables, {"lorenz-paths": 20000}) | {"cloud": (cloud, meta)}
    axes, frame, facts = drawn("lorenz_trajectories", files)
    true = only(frame, "true terms", "sindy")
    assert true["y"].iloc[0] == pytest.approx(100 * np.sqrt((0.3**2 + 0.4**2) / 2)) and len(true) == 7
    assert only(frame, "true terms", "predicted: sindy")["y"].iloc[0] == pytest.approx(0.2)
    size = np.sqrt(np.mean(cloud["x2"] ** 4))
    assert only(frame, "absent terms", "sindy")["high"].item() == pytest.approx(0.03 * size)
    assert only(frame, "absent terms, z", "moments")["y"].item() == pytest.approx(5.0)
    assert facts["absent"] == 23 and facts["paths"] == 2 and facts["every"] == 0.01


def test_the_largest_of_many_normals(rng):
    assert figures_recovery._largest_normal(1) == pytest.approx(0.67449, abs=1e-5)
    drawn = np.abs(rng.normal(size=(20000, 23))).max(1)
    assert figures_recovery._largest_normal(23) == pytest.approx(np.median(drawn), abs=0.02)


# Inference


@pytest.fixture
def replicates():
    truth = {"s00": 1.0, "s01": 0.4}
    errors = np.zeros((40, 2))
    errors[:4, 0] = 3.0  # four of forty intervals of s00 miss
    tables = [
        parameters("ou-replicates", "moments/n=5000", truth, errors, 1.0),
        parameters("lorenz-large", "moments/n=20000", LORENZ, np.zeros((3, 3)), 1.0),
    ]
    p = (np.arange(40) + 0.5) / 40
    more = [
        study_rows("ou-replicates", "moments/n=5000", p < 0.05, 5000),
        study_rows("ou-replicates", "moments/n=5000", p, 5000, "j_p_value"),
        study_rows("ou-replicates", "moments/n=5000", [0.0] * 40 + [1.0], 5000, "refused"),
        study_rows("lorenz-large", "moments/n=20000", [0, 0, 0], 20000),
        study_rows("lorenz-large", "moments/n=20000", [0.2, 0.5, 0.8], 20000, "j_p_value"),
    ]
    return scored(tables, {"ou-replicates": 500000, "lorenz-large": 100000}, *more)


def test_coverage_figure_counts_intervals_and_rejections(replicates, drawn):
    axes, frame, facts = drawn("coverage", replicates)
    covered = only(frame, "coverage", "ou-replicates")
    assert covered["y"].tolist() == [0.9, 1.0] and facts["ticks"][:2] == ["s00", "s01"]
    expected = frames.share("coverage", "ou-replicates", 0, [True] * 36 + [False] * 4)
    assert np.allclose(covered.iloc[0][["low", "high"]].astype(float), expected[["low", "high"]])
    assert only(frame, "rejections", "ou-replicates")["y"].item() == 2 / 40
    steps = only(frame, "p-values", "ou-replicates")
    assert np.allclose(steps["x"], steps["y"], atol=0.01)  # uniform by construction
    assert facts["counts"] == {"ou-replicates": "40 of 5,000 points", "lorenz-large": "3 of 20,000 points"}
    assert (facts["refused"], facts["fits"]) == (1, "41")
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["s00", "s01", "beta", "rho", "sigma"]


def test_many_p_values_are_thinned(replicates, rng):
    metrics = replicates["metrics"][0]
    p = study_rows("ou-replicates", "moments/n=5000", rng.uniform(size=1000) ** 3, 5000, "j_p_value")
    kept = metrics[~((metrics["metric"] == "j_p_value") & (metrics["dataset"] == "ou-replicates"))]
    frame = figures_inference.coverage({"metrics": (pd.concat([kept, p]), {})})[0]
    steps = only(frame, "p-values", "ou-replicates")
    assert len(steps) == 200
    assert np.abs(steps["x"] - steps["y"] ** 3).max() < 0.06  # the quantiles of a cubed uniform
    assert np.abs(steps["x"] - steps["y"]).max() > 0.3


def test_misspecification_figure_has_a_line_for_every_model(drawn):
    rates = {"complete": [0, 1, 0, 0], "without x: y": [1, 1, 1, 0], "without z: x y": [1, 1, 1, 1]}
    tests = [
        study_rows("lorenz", f"moments/n={n}/{label}", hits, n) for n in (2000, 10000) for label, hits in rates.items()
    ]
    refused = study_rows("lorenz", "moments/n=2000/complete", [0, 0, 0, 0, 1], 2000, "refused")
    axes, frame, facts = drawn("misspecification", {"metrics": (pd.concat([*tests, refused]), {})})
    assert facts["equations"] == ["x", "z"] and facts["ticks"] == [2000, 10000]
    assert only(frame, "x", "complete")["y"].tolist() == [0.25, 0.25] == only(frame, "z", "complete")["y"].tolist()
    assert only(frame, "x", "without x: y")["x"].tolist() == [2000, 10000]
    assert only(frame, "x", "without x: y")["y"].tolist() == [0.75, 0.75]
    assert only(frame, "x", "without z: x y").empty
    expected = frames.share("x", "s", 0, [1, 1, 1, 0])
    assert np.allclose(only(frame, "x", "without x: y")[["low", "high"]], expected[["low", "high"]].to_numpy())
    assert (facts["refused"], facts["fits"], facts["seeds"]) == (1, "5", 4)


# The gene network


def gene_about(diffusivity=1e-4):
    system = systems.build("gene-network", diffusivity=diffusivity)
    about = {"system": "gene-network", "options": {}, "diffusivity": diffusivity}
    return about | {"names": list(system.parameters), "parameters": system.parameters}


def test_a_cloud_under_the_true_drift_is_the_systems_own():
    about = gene_about()
    found = figures_genes.regenerated(about, about["parameters"], n=20, burn=0.4)
    system = systems.build("gene-network", diffusivity=1e-4)
    generator = torch.Generator().manual_seed(0)
    x = system.initial(20, generator, "cpu")
    simulate.integrate(system.rate, x, steps=20, dt=0.02, diffusivity=1e-4, generator=generator, scheme="heun")
    assert np.allclose(found, x.T.numpy(), rtol=0, atol=1e-10)
    wrong = figures_genes.regenerated(about, about["parameters"] | {"b: PBR": -1.0}, n=20, burn=0.4)
    assert np.abs(wrong - found)[:, 5].max() > 0.1


def test_states_that_go_to_infinity_are_left_out():
    about = {"system": "lorenz", "diffusivity": 1.0}
    assert figures_genes.regenerated(about, {"sigma": -1e4, "rho": 1e4, "beta": -1e3}, n=5, burn=5.0).shape == (0, 3)


@pytest.fixture
def genes(rng):
    about = gene_about()
    truth = about["parameters"]
    away = np.zeros((2, 21))
    away[:, 0], away[1, 1] = 5.0, 0.2
    dropped = parameters("gene-network-50k", "moments-sparse", truth, np.zeros((2, 21)), 0.01)
    dropped["std_error"] = dropped["std_error"].where(dropped["truth"] != 0)
    tables = [
        parameters("gene-network-50k", "kde-adam", truth, away, np.nan),
        parameters("gene-network-50k", "moments", truth, 0.5 * away, 0.05),
        dropped,
    ]
    steps = pd.DataFrame(
        [
            {"seed": 0, "member": member, "step": step, "term": term, "value": 1.0 / (1 + step), "split": "train"}
            for member in range(3)
            for step in (0, 50)
            for term in ("loss", *truth, "attractor_w1")
        ]
    )
    more = [
        study_rows("gene-network-50k", method, [value, 2 * value], 50000, metric)
        for method, value in (("kde-adam", 10.0), ("moments-sparse", 0.3))
        for metric, value in (("attractor_w1", value), ("attractor_w1_floor", 0.3))
    ]
    cloud = pd.DataFrame(np.abs(rng.normal(1.0, 0.2, (100, 7))), columns=[f"x{k}" for k in range(7)])
    meta = {"dataset": "gene-network-50k", "dim": 7, "axes": list(systems.GeneNetwork.axes), "system": about}
    files = scored(tables, {"gene-network-50k": 50000}, *more)
    return files | {"cloud": (cloud, meta), "clouds": [(cloud, meta)], "history": (steps, {})}


def test_gene_network_figure(genes, monkeypatch, drawn):
    here, far = np.full((100, 7), 1.0), np.full((100, 7), 1.0)
    far[:75, 4] = 50.0  # three in four have another p

    def clouds(about, estimates, *, n):
        return far if estimates["p: P"] == 5.0 else here

    monkeypatch.setattr(figures_genes, "regenerated", clouds)
    axes, frame, facts = drawn("gene_network", genes)
    assert only(frame, "outside: p-b", "kde-adam")["y"].item() == 0.75
    assert only(frame, "outside: r-b", "kde-adam")["y"].item() == 0
    assert only(frame, "outside: p-b", "moments-sparse")["y"].item() == 0
    assert only(frame, "outside: p-b", "cloud")["y"].item() == 0 and len(only(frame, "p-b", "cloud")) == 100
    assert only(frame, "median: p-b", "kde-adam")["x"].item() == 50
    entries = [panel.removeprefix("path: ") for panel in frame["panel"].unique() if panel.startswith("path: b")]
    assert set(entries) == set(facts["entries"]) and len(entries) == 7
    assert only(frame, "path: b: PBR", "truth")["y"].tolist() == [1, 1] and facts["starts"] == 3
    assert only(frame, "attractor", "kde-adam")["y"].item() == pytest.approx(np.sqrt(250))
    titles = [axis.get_title() for axis in axes]
    assert titles[8:15] == [f"plain recipe: {name}" for name in facts["entries"]]


def test_gene_network_figure_without_a_cloud_that_stays(genes, monkeypatch, drawn):
    monkeypatch.setattr(figures_genes, "regenerated", lambda about, estimates, *, n: np.empty((0, 7)))
    axes, frame, _ = drawn("gene_network", genes)
    assert only(frame, "outside: p-b", "kde-adam")["y"].item() == 1
    assert [text.get_text() for text in axes[1].texts] == ["100% outside"]


def test_gene_network_parameters_figure(genes, drawn):
    axes, frame, facts = drawn("gene_network_parameters", genes)
    panel = "gene-network-50k"
    assert only(frame, panel, "truth")["y"].sum() == 4 and len(only(frame, panel, "moments")) == 42
    mine = only(frame, panel, "moments").iloc[0]
    assert round(mine["x"]) == 0 and mine["y"] == 2.5
    assert mine["high"] - mine["low"] == pytest.approx(2 * recovery.Z95 * 0.05)
    assert only(frame, f"within: {panel}", "kde-adam")["y"].item() == 19.5  # 20 and 19 of 21
    assert only(frame, f"within: {panel}", "moments-sparse")["y"].item() == 21
    off = [line for line in axes[0].lines if line.get_marker() == "^"]
    assert len(off) == 1 and off[0].get_ydata().tolist() == [3.0, 3.0]  # kde-adam finds 5 in both seeds
    assert "19.5" in axes[0].get_title() and "N = 50,000" in axes[0].get_title()


def test_cells_inference_shows_mean_intervals_and_the_verdict_of_j(drawn):
    truth = {"x0: 1": 1.0, "x0: x0": -1.0, "diffusivity": 0.5}
    tables = [parameters("cells", method, truth, [[0.1, 0, 0], [0.3, 0, 0]], 0.1) for method in ("moments", "kds")]
    tests = [study_rows("cells", "moments", [90.0, 96.0], 100, "j_per_dof")]
    tests.append(study_rows("cells", "moments", [0.0, 1e-9], 100, "j_p_value"))
    _, frame, facts = drawn("cells_inference", scored(tables, {"cells": 100}, *tests))
    first = frame.query("series == 'moments' and panel == 'coefficients' and x == 0").iloc[0]
    assert first["y"] == pytest.approx(1.2) and first["high"] - first["y"] == pytest.approx(1.96 * 0.1, rel=1e-3)
    assert facts["names"] == ["x0: 1", "x0: x0"] and facts["unknowns"] == 3 and facts["splits"] == 2
    assert facts["j_per_dof"] == "93" and facts["j_p_value"] == "1e-09"
    assert set(frame.query("panel == 'diffusivity'")["y"]) == {0.5}
