"""A user's own data, from files in a folder to parameters, models and verdicts; and what cannot be used."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from workflow_helpers import dry_run, snakemake

import snapdyn
from snapdyn import artifacts, methods, models, simulate, systems, tables

MINE = """
run: mine
device: cpu
seeds: 1
datasets:
  wells: {kind: table, path: wells.csv}
  wells-tenfold: {kind: table, path: wells-tenfold.csv}
  cycle: {kind: table, path: cycle.parquet, columns: [x, y]}
  course: {kind: table, path: course.csv, time_key: when}
  slow-course: {kind: table, path: slow-course.parquet, time_key: when, time_unit: hour}
  shuffled: {kind: table, path: shuffled.csv, time_key: when}
  cells: {kind: h5ad, path: cells.h5ad, time_key: day, basis: X_latent}
analyses:
  wells: {dataset: wells, method: moments, drift: {library: polynomial, degree: 3}, diffusivity: 0.5}
  wells-tenfold: {dataset: wells-tenfold, method: moments, drift: {library: polynomial, degree: 3}, diffusivity: 50}
  cycle-density:
    dataset: cycle
    method: gaussian-mixture
    diffusivity: 0.1
    drift: {library: hopf}
    options: {components: 8}
  cycle-flow:
    dataset: cycle
    methods: [mixture-flow-dynamics, mixture-flow-mle, mixture-flow-sm, mixture-flow-mle-sm]
    diffusivity: 0.1
    drift: {library: custom, known: ["x*(1 - x^2 - y^2) + y", "y*(1 - x^2 - y^2) - x"]}
    options: {components: 40, steps: 1000, rate: 0.03, flow_steps: 2, hidden: 4}
  cycle:
    dataset: cycle
    method: moments
    diffusivity: 0.1
    drift:
      library: custom
      terms: {growth: ["x", "y"], saturation: ["-x*(x^2 + y^2)", "-y*(x^2 + y^2)"]}
      known: ["y", "-x"]
  course: {dataset: course, methods: all, drift: {library: affine}, diffusivity: unknown}
  slow-course: {dataset: slow-course, method: affine-propagation}
  shuffled: {dataset: shuffled, method: affine-propagation}
  cells: {dataset: cells, method: affine-propagation}
  own: {dataset: course, method: "pulling:Pull", options: {rate: 0.1}}
"""

OWN_METHOD = '''"""Everything is pulled towards where the last snapshot lies."""


class Pull:
    def __init__(self, rate=1.0):
        self.rate = rate

    def fit(self, snapshots, *, rng):
        last = snapshots.select(split="train", t=snapshots.times[-1])
        return Pulled(last.x.mean(axis=0), self.rate)


class Pulled:
    def __init__(self, centre, rate):
        self.centre, self.rate = centre, rate

    def velocity(self, t, x):
        return self.rate * (self.centre - x)
'''

LAW = systems.build("ornstein-uhlenbeck", dim=2, rate=0.1, rotation=0.1, coupling=0.3, diffusivity=0.05)


def time_course(n, rng):
    """``n`` points at each of three days, relaxing from afar, in any order; and their times as numbers."""
    x, t = simulate.timed_snapshots(
        LAW, n, [0, 2, 10], dt=0.02, seed=1, start=lambda n, rng: rng.normal(3, 0.5, (n, 2))
    )
    order = rng.permutation(len(x))
    x, t = x[order], t[order]
    return pd.DataFrame({"when": [f"D{day:g}" for day in t], "batch": "one", "a": x[:, 0], "b": x[:, 1]}), t


def own_files(folder):
    """Clouds and courses with known laws, in the shapes in which people keep them."""
    rng = np.random.default_rng(1)
    well = systems.build("double-well", diffusivity=0.5).sample(4000, rng)[:, 0]
    pd.DataFrame({"x": well}).to_csv(folder / "wells.csv", index=False)
    pd.DataFrame({"x": 10 * well}).to_csv(folder / "wells-tenfold.csv", index=False)
    x, y = systems.build("hopf", diffusivity=0.1).sample(4000, rng).T
    pd.DataFrame({"angle": np.arctan2(y, x), "x": x, "y": y}).to_parquet(folder / "cycle.parquet")

    course, t = time_course(250, rng)
    course.to_csv(folder / "course.csv", index=False)
    course.assign(when=2 * t).to_parquet(folder / "slow-course.parquet")
    write_h5ad(folder / "cells.h5ad", course["when"], latent=course[["a", "b"]].to_numpy())
    noise, _ = time_course(600, rng)
    noise.assign(when=rng.permutation(noise["when"])).to_csv(folder / "shuffled.csv", index=False)
    (folder / "pulling.py").write_text(OWN_METHOD)
    (folder / "mine.yaml").write_text(MINE)


def write_h5ad(path, day, *, latent=None, shift=0):
    import anndata

    names = [f"cell-{i}" for i in range(len(day))]
    counts = np.random.default_rng(0).poisson(2.0, (len(day), 20)) - shift
    adata = anndata.AnnData(counts.astype(np.float32), obs=pd.DataFrame({"day": list(day)}, index=names))
    if latent is not None:
        adata.obsm["X_latent"] = latent
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.write_h5ad(path)


def results(name, *files):
    return [f"results/mine/analyses/{name}/{file}" for file in files]


TRAININGS = ("dynamics", "mle", "sm", "mle-sm")
TARGETS = [
    *(file for name in ("wells", "wells-tenfold", "slow-course") for file in results(name, "parameters.parquet")),
    *(file for name in ("wells", "cycle", "shuffled", "course-moments") for file in results(name, "verdict.json")),
    *(file for name in ("course-affine-propagation", "own", "cells") for file in results(name, "page.png")),
    *(file for name in ("cycle-density", "course-kde") for file in results(name, "page.png")),
    *(file for name in TRAININGS for file in results(f"cycle-flow-mixture-flow-{name}", "verdict.json")),
    *results("cycle", "parameters.parquet"),
]


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A folder of own data in which the analyses are done, started from elsewhere by the ``snakemake`` program."""
    folder = tmp_path_factory.mktemp("mine")
    own_files(folder)
    program = [str(Path(sys.executable).with_name("snakemake"))]
    where = ["--directory", folder, "--cores", "2", *TARGETS, "--configfile", folder / "mine.yaml"]
    outcome = snakemake(tmp_path_factory.mktemp("elsewhere"), *where, program=program)
    assert outcome.status == 0, outcome.said[-3000:]
    return folder


def parameters(folder, name):
    frame, _ = artifacts.read(folder / f"results/mine/analyses/{name}/seed-0/parameters.parquet", "parameters/1")
    return frame.set_index("name")


def verdict(folder, name):
    return json.loads((folder / f"results/mine/analyses/{name}/verdict.json").read_text())


def assert_within_errors(found, truth, errors=4):
    assert set(found.index) == set(truth)
    for name, value in truth.items():
        line = found.loc[name]
        assert 0 < line["std_error"] < 1 and abs(line["estimate"] - value) < errors * line["std_error"], name


# What comes out


def test_a_polynomial_drift_of_a_stationary_cloud(mine):
    assert_within_errors(parameters(mine, "wells"), {"x: 1": 0, "x: x": 1, "x: x^2": 0, "x: x^3": -1})
    answer = verdict(mine, "wells")
    assert answer["verdict"] == "yes" and answer["null"] == "the best linear drift"


def test_terms_written_by_hand_beside_a_known_part(mine):
    assert_within_errors(parameters(mine, "cycle"), {"growth": 1, "saturation": 1})
    assert verdict(mine, "cycle")["verdict"] == "yes"


def test_a_linear_drift_of_a_course_with_labels_and_unequal_gaps(mine):
    found = parameters(mine, "course-affine-propagation")
    truth = {f"{one}: {two}": -LAW.matrix[i, j].item() for i, one in enumerate("ab") for j, two in enumerate("ab")}
    assert_within_errors(found, truth | {"a: 1": 0, "b: 1": 0, "diffusivity": LAW.diffusivity})
    assert verdict(mine, "course-affine-propagation")["verdict"] == "yes"


def test_labels_order_by_their_numbers_and_units_are_carried(mine):
    frame, meta = artifacts.read(mine / "results/mine/data/course/seed-0/snapshots.parquet", "snapshots/1")
    assert sorted(frame["t"].unique()) == [0, 2, 10] and meta["time_unit"] == "day"
    assert parameters(mine, "course-affine-propagation").loc["a: b", "unit"] == "[a]/[b]/day"
    page = (mine / "results/mine/analyses/course-affine-propagation/page.md").read_text()
    assert "Transitions (day): 0 to 2, 2 to 10." in page and "columns ['batch'] are not numbers" in page


def test_the_same_course_at_half_the_speed(mine):
    """Times t and 2t: drift and D halve, and the predictions are the same."""
    fast, slow = parameters(mine, "course-affine-propagation"), parameters(mine, "slow-course")
    assert list(fast.index) == list(slow.index)
    for column in ("estimate", "std_error"):
        np.testing.assert_allclose(slow[column], fast[column] / 2, rtol=0, atol=1e-2 * slow["std_error"].min())
    assert set(slow["unit"].str.rpartition("/")[2]) == {"hour", "time"}
    moved = [
        artifacts.read(mine / results(name, "seed-0/predicted.parquet")[0], "snapshots/1")[0]
        for name in ("course-affine-propagation", "slow-course")
    ]
    np.testing.assert_allclose(moved[1][["x0", "x1"]], moved[0][["x0", "x1"]], atol=1e-3)
    np.testing.assert_array_equal(moved[1]["t"], 2 * moved[0]["t"])


def test_a_column_times_ten_changes_coefficients_as_their_units_say(mine):
    plain, tenfold = parameters(mine, "wells"), parameters(mine, "wells-tenfold")
    factor = np.array([10, 1, 1 / 10, 1 / 100])  # of 1, x, x^2, x^3 in dx/dt
    for column in ("estimate", "std_error"):
        assert (abs(tenfold[column] - factor * plain[column]) < 1e-2 * factor * plain["std_error"]).all()


def test_shuffled_labels_are_not_worth_a_model(mine):
    answer = verdict(mine, "shuffled")
    assert answer["verdict"] == "no" and answer["null"] == "no movement"


def test_models_load_and_say_what_the_tables_say(mine):
    model = snapdyn.load(mine / results("wells", "seed-0/model.pt")[0])
    x = np.linspace(-1.5, 1.5, 7)[:, None]
    powers = x ** np.arange(4)
    np.testing.assert_allclose(model.drift(0.0, x)[:, 0], powers @ parameters(mine, "wells")["estimate"], rtol=1e-12)
    assert abs(model.drift(0.0, x) - (x - x**3)).max() < 0.5
    course = snapdyn.load(mine / results("course-affine-propagation", "seed-0/model.pt")[0])
    assert course.about["time_unit"] == "day" and course.about["axes"] == ["a", "b"]
    assert course.simulate(np.zeros((5, 2)), [0.0, 1.0, 3.0]).shape == (3, 5, 2)


def test_a_density_of_a_cloud_and_the_drift_that_it_gives(mine):
    """A ring is no Gaussian; eight of them are near enough to it for the coefficients to show."""
    answer = verdict(mine, "cycle-density")
    assert answer["verdict"] == "yes" and answer["null"] == "one Gaussian" and 0.3 < answer["gain"] < 0.6
    found = parameters(mine, "cycle-density")
    assert list(found.index) == ["growth", "saturation"] and found["std_error"].isna().all()
    assert ((found["estimate"] > 0.4) & (found["estimate"] < 1.2)).all()
    model = snapdyn.load(mine / results("cycle-density", "seed-0/model.pt")[0])
    x = np.array([[1.0, 0.0], [0.0, 0.0]])
    assert np.ptp(model.log_prob(None, x)) > 1 and model.about["method"] == "gaussian-mixture"
    assert abs(np.linalg.norm(model.sample(2000), axis=1).mean() - 1) < 0.1
    frame, _ = artifacts.read(mine / results("cycle-density", "metrics.parquet")[0], "metrics/1")
    values = frame[frame["method"] == "gaussian-mixture"].set_index("metric")["value"]
    assert values["integral"] == pytest.approx(1, abs=1e-3) and values["components"] == 8
    drawn, _ = artifacts.read(mine / results("cycle-density", "seed-0/predicted.parquet")[0], "snapshots/1")
    assert len(drawn) == 1200 and values["w1_samples"] < 2 * values["w1_floor"]
    assert "growth" in (mine / results("cycle-density", "page.md")[0]).read_text()


@pytest.mark.parametrize("training", TRAININGS)
def test_every_training_on_a_table_of_ones_own(mine, training):
    name = f"cycle-flow-mixture-flow-{training}"
    answer = verdict(mine, name)
    assert answer["verdict"] == "yes" and answer["null"] == "one Gaussian"
    model = snapdyn.load(mine / results(name, "seed-0/model.pt")[0])
    ring, middle = model.log_prob(None, np.array([[0.0, 1.0], [0.0, 0.0]]))
    assert ring > middle + 1


def test_a_density_of_every_day(mine):
    assert verdict(mine, "course-kde")["null"] == "one Gaussian at each time"
    model = snapdyn.load(mine / results("course-kde", "seed-0/model.pt")[0])
    assert model.times == [0, 2, 10] and len(model.densities) == 3
    with pytest.raises(ValueError, match="no density at t = 5, .* observed are 0, 2, 10"):
        model.log_prob(5.0, np.zeros((2, 2)))


def test_all_methods_that_fit_are_tried(mine):
    for method in ("moments", "affine-propagation"):
        frame, _ = artifacts.read(mine / results(f"course-{method}", "metrics.parquet")[0], "metrics/1")
        assert {method, "no-movement", "affine-gaussian", "resampling"} <= set(frame["method"])
        assert verdict(mine, f"course-{method}")["verdict"] in ("yes", "no", "cannot tell")


def test_cells_in_a_basis_of_their_own(mine):
    frame, meta = artifacts.read(mine / "results/mine/data/cells/seed-0/snapshots.parquet", "snapshots/1")
    assert meta["axes"] == ["latent 1", "latent 2"] and "X_latent of cells.h5ad" in meta["space"]
    same = parameters(mine, "course-affine-propagation")["estimate"]  # the same points, in the same order
    np.testing.assert_allclose(parameters(mine, "cells")["estimate"], same, atol=1e-3)
    assert (mine / results("cells", "page.png")[0]).stat().st_size > 5000


# A method of the user's own


def test_a_method_from_a_file_of_the_folder_gets_scores_and_a_verdict(mine):
    frame, _ = artifacts.read(mine / results("own", "metrics.parquet")[0], "metrics/1")
    assert {"pulling:Pull", "no-movement"} <= set(frame["method"])
    answer = verdict(mine, "own")
    assert answer["verdict"] == "yes" and answer["verdict"] in (mine / results("own", "page.md")[0]).read_text()
    assert len(parameters(mine, "own")) == 0  # it has none
    with pytest.raises(ValueError, match="no state"):
        snapdyn.load(mine / results("own", "seed-0/model.pt")[0])


def test_editing_it_reruns_it_and_nothing_else(mine):
    before = (mine / "pulling.py").read_text()
    (mine / "pulling.py").write_text(before + "\n# a remark\n")
    jobs = dry_run(mine, *TARGETS, "--configfile", "mine.yaml")
    (mine / "pulling.py").write_text(before)
    assert {job.rule for job in jobs} == {"fit_analysis", "gather_analysis", "evaluate_analysis", "page"}
    assert {job.wildcards["analysis"] for job in jobs} == {"own"}


LIBRARY = """from snapdyn import drifts


def well(axes, time_unit):
    return drifts.from_expressions({"slope": ["x"], "barrier": ["-x^3"]}, None, axes=axes, time_unit=time_unit)
"""


def test_a_drift_library_from_a_file_is_imported_only_if_trusted(mine, tmp_path, monkeypatch, rng):
    (tmp_path / "laws.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(tmp_path)
    cloud = tables.table_snapshots(mine / "wells.csv", dataset="wells", seed=0)
    model = methods.fit("moments", cloud, rng=rng, drift={"library": "laws:well"}, diffusivity=0.5)
    models.save(model, tmp_path / "model.pt", method="moments", meta=cloud.meta)
    with pytest.raises(ValueError, match="trust='laws:well'"):
        snapdyn.load(tmp_path / "model.pt")
    again = snapdyn.load(tmp_path / "model.pt", trust="laws:well")
    np.testing.assert_array_equal(again.drift(0.0, cloud.x), model.drift(0.0, cloud.x))


# What cannot be used


def test_what_does_not_fit_is_refused_with_what_would(mine):
    wrong = {
        "run": "wrong",
        "datasets": {"wells": {"kind": "table", "path": "wells.csv"}},
        "analyses": {
            "still": {"dataset": "wells", "method": "affine-propagation"},
            "frozen": {"dataset": "wells", "method": "moments", "drift": {"library": "affine"}, "diffusivity": 0},
            "lost": {"dataset": "wells", "method": "nowhere:Method"},
            "strange": {"dataset": "wells", "method": "moments", "drift": {"library": "nowhere:f"}, "diffusivity": 1},
        },
    }
    drift = {"drift": {"library": "affine"}, "diffusivity": 1}
    wrong["datasets"]["course"] = {"kind": "table", "path": "course.csv", "time_key": "when"}
    wrong["analyses"]["timed"] = {"dataset": "course", "method": "convolved-l1", **drift}
    (mine / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    outcome = snakemake(mine, "--cores", "1", "analyses", "--configfile", "wrong.yaml")
    assert outcome.status and not (mine / "results/wrong").exists() and "Traceback" not in outcome.said
    for text in (
        "analyses.still: affine-propagation needs timed data",
        "analyses.timed: convolved-l1 needs stationary data, but the data set has times; these would fit: ['moments'",
        "analyses.frozen.diffusivity: got 0",
        "analyses.lost: cannot find the module of 'nowhere:Method'",
        "analyses.strange.drift.library: cannot find the module of 'nowhere:f'",
    ):
        assert outcome.said.count(text) == 1, text


BAD = {  # data set -> what is said about it
    "column": "no column 'bb'; did you mean 'b'",
    "text": "column 'b' has 1 rows of text where numbers are expected, the first is row 5 ('n/k')",
    "nan": "column 'a' has 2 rows that are NaN or inf, the first is row 7",
    "none": "the table has no rows",
    "one": "fewer than 2 cells at 1 (1)",
    "copies": "40 of 40 points at 1 are exact copies of another one",
    "constant": "constant columns ['b']",
    "not-parquet": "is named .parquet but is not a readable parquet file",
    "not-h5ad": "is not an HDF5 file, whatever its name says",
    "key": "no column of obs 'hour'; there are day",
    "labels": "cannot order the time labels ['early', 'late']",
    "negative": "expected raw counts (whole numbers, 0 or more), got",
    "halves": "expected raw counts (whole numbers, 0 or more), got",
    "infinite": "column 'b' has 1 rows that are NaN or inf, the first is row 3",
    "truncated": "is named .parquet but is not a readable parquet file",
}


def bad_files(folder):
    rng = np.random.default_rng(1)
    good = pd.DataFrame({"t": np.repeat([0.0, 1.0], 40), "a": rng.normal(size=80), "b": rng.normal(size=80)})
    good.to_csv(folder / "good.csv", index=False)
    good.astype({"b": object}).replace({"b": {good["b"][5]: "n/k"}}).to_csv(folder / "text.csv", index=False)
    good.assign(a=good["a"].where(~good.index.isin([7, 9]))).to_parquet(folder / "nan.parquet")
    good.iloc[:0].to_csv(folder / "none.csv", index=False)
    good.iloc[:41].to_csv(folder / "one.csv", index=False)
    good.assign(a=good["a"].where(good["t"] == 0, 1.5), b=good["b"].where(good["t"] == 0, 1.5)).to_csv(
        folder / "copies.csv", index=False
    )
    good.assign(b=3.0).to_csv(folder / "constant.csv", index=False)
    for name in ("not.parquet", "not.h5ad"):
        (folder / name).write_text("a,b\n1,2\n")
    write_h5ad(folder / "cells.h5ad", np.repeat(["D0", "D1"], 30))
    write_h5ad(folder / "stages.h5ad", np.repeat(["early", "late"], 30))
    write_h5ad(folder / "negative.h5ad", np.repeat(["D0", "D1"], 30), shift=1)
    write_h5ad(folder / "halves.h5ad", np.repeat(["D0", "D1"], 30), shift=-0.5)
    good.assign(b=good["b"].where(good.index != 3, np.inf)).to_parquet(folder / "infinite.parquet")
    (folder / "truncated.parquet").write_bytes((folder / "nan.parquet").read_bytes()[:-100])


def bad_configuration():
    def table(file, **more):
        return {"kind": "table", "path": file, "time_key": "t", **more}

    def cells(file, **more):
        return {"kind": "h5ad", "path": file, "time_key": "day", "min_genes": 1, **more}

    datasets = {
        "good": table("good.csv"),
        "column": table("good.csv", columns=["a", "bb"]),
        "nan": table("nan.parquet"),
        "not-parquet": table("not.parquet"),
        "not-h5ad": cells("not.h5ad"),
        "key": cells("cells.h5ad", time_key="hour"),
        "labels": cells("stages.h5ad"),
        "negative": cells("negative.h5ad"),
        "halves": cells("halves.h5ad"),
        "infinite": table("infinite.parquet"),
        "truncated": table("truncated.parquet"),
        **{name: table(f"{name}.csv") for name in ("text", "none", "one", "copies", "constant")},
    }
    analyses = {name: {"dataset": name, "method": "affine-propagation"} for name in datasets}
    library = {"drift": {"library": "polynomial", "degree": 8}, "diffusivity": 1}
    analyses["many"] = {"dataset": "good", "method": "moments", **library}
    return {"run": "bad", "device": "cpu", "seeds": 1, "datasets": datasets, "analyses": analyses}


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """A folder of data with one fault each, and one without, after a run that was told to keep going."""
    folder = tmp_path_factory.mktemp("bad")
    bad_files(folder)
    (folder / "bad.yaml").write_text(yaml.safe_dump(bad_configuration()))
    wanted = [f"results/bad/analyses/{name}/seed-0/parameters.parquet" for name in [*BAD, "many", "good"]]
    outcome = snakemake(folder, "--cores", "2", "--keep-going", *wanted, "--configfile", "bad.yaml")
    assert outcome.status
    return folder, outcome


@pytest.mark.parametrize("name", BAD)
def test_bad_data_give_one_clear_error_and_no_output(bad, name):
    folder, outcome = bad
    log = (folder / f"results/bad/logs/import_own/{name}/seed-0.log").read_text()
    assert outcome.err.count(f"(log: results/bad/logs/import_own/{name}/seed-0.log)") == 1
    assert BAD[name] in outcome.err and BAD[name] in log and "failed after" in log
    for kind in ("data", "analyses"):
        assert not [path for path in (folder / f"results/bad/{kind}/{name}").rglob("*") if path.is_file()]


def test_more_unknowns_than_the_data_can_determine(bad):
    folder, outcome = bad
    said = "90 unknowns cannot be determined from 56 rows"
    log = (folder / "results/bad/logs/fit_analysis/many/seed-0.log").read_text()
    assert outcome.err.count(said) == 1 and said in log and "a smaller drift library" in log
    assert not [path for path in (folder / "results/bad/analyses/many").rglob("*") if path.is_file()]


def test_what_does_not_depend_on_them_goes_on(bad):
    folder, outcome = bad
    frame, _ = artifacts.read(folder / "results/bad/analyses/good/seed-0/parameters.parquet", "parameters/1")
    assert len(frame) == 7 and outcome.said.count("Error in rule") == len(BAD) + 1
