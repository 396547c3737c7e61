"""Verdicts are computed: every branch, the statistics behind them, and the file of published claims."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from snapdyn import artifacts, comparisons, energy_scores, metrics, scorecard

PUBLISHED = Path(__file__).parents[1] / "resources" / "published"


def claim(**changes):
    base = {"id": "c", "kind": "claim", "source": "Table 1", "experiment": "e", "dataset": "d", "method": "m"}
    base |= {"metric": "w1", "statistic": "mean", "published": 1.0, "direction": "lower", "comparable": True}
    return base | changes


def measured(values, **changes):
    about = {"paper": "p", "experiment": "e", "dataset": "d", "method": "m", "split": "test"} | changes
    metric, t = about.pop("metric", "w1"), about.pop("t", np.nan)
    parts = [metrics.rows({metric: v}, seed=seed, t=t, unit="PC", n=9, **about) for seed, v in enumerate(values)]
    return pd.concat(parts, ignore_index=True)


def card(one, frame=None, parameters=None, **options):
    paper = {"paper": "p", "title": "T", "arxiv": "0", "version": "v1", "claims": [one]}
    table = scorecard.build(frame, parameters, [paper], **options)
    assert artifacts.problems(table, "scorecard/1", {}) == []
    return table.iloc[0]


def verdict(one, values, **options):
    return card(one, measured(values), **options)["verdict"]


@pytest.mark.parametrize(
    ("values", "changes", "expected"),
    [
        ([0.8, 0.81, 0.79], {}, "better"),
        ([0.99, 1.0, 1.01], {}, "reproduced"),
        ([1.049] * 3, {}, "reproduced"),  # within 5 %
        ([1.051] * 3, {}, "short"),
        ([1.2, 1.0, 1.4], {}, "reproduced"),  # within twice our own standard error
        ([1.2, 1.21, 1.19], {}, "short"),
        ([1.2, 1.21, 1.19], {"spread": 0.5, "n": 9}, "reproduced"),  # within theirs
        ([0.8, 0.81, 0.79], {"spread": 0.5, "n": 9}, "reproduced"),
        ([1.2] * 3, {"direction": "higher"}, "better"),
        ([0.96] * 3, {"direction": "higher"}, "reproduced"),
        ([0.9] * 3, {"direction": "higher"}, "short"),
        ([0.3] * 3, {"direction": "band", "band": [0.2, 0.4], "published": None}, "reproduced"),
        ([0.1] * 3, {"direction": "band", "band": [0.2, 0.4], "published": None}, "short"),
        ([0.5] * 3, {"direction": "band", "band": [0.2, 0.4], "published": None}, "short"),
    ],
)
def test_the_rule(values, changes, expected):
    assert verdict(claim(**changes), values) == expected


def test_targets_are_met_or_missed():
    target = claim(kind="target", source=scorecard.TARGET_SOURCE, published=0.006)
    assert verdict(target, [0.002, 0.0025, 0.003]) == "better"
    assert verdict(target, [0.006] * 3) == "reproduced"
    assert verdict(target, [0.02] * 3) == "short"
    assert verdict(target, [0.004, 0.006, 0.0083]) == "short"  # within noise of the bar is not at the bar
    assert verdict(target | {"direction": "higher"}, [0.0061] * 3) == "better"


def test_fewer_than_three_seeds_are_never_better():
    row = card(claim(), measured([0.5, 0.51]))
    assert (row["verdict"], row["n_seeds"]) == ("reproduced", 2)
    assert "2 seeds only" in row["note"]
    single = card(claim(), measured([0.5]))
    assert single["verdict"] == "reproduced"
    assert np.isnan(single["ours_spread"])
    assert verdict(claim(), [1.2]) == "short"


def test_not_comparable_says_why_and_shows_the_number():
    row = card(claim(comparable=False, reason="another split"), measured([0.5] * 3))
    assert (row["verdict"], row["ours"]) == ("not comparable", 0.5)
    assert "another split" in row["note"]


def test_a_demo_shows_numbers_without_verdicts():
    row = card(claim(), measured([0.5] * 3), full=False)
    assert (row["verdict"], row["ours"]) == ("not comparable", 0.5)
    assert "demo size" in row["note"]
    assert card(claim(), None, full=False)["verdict"] == "not run"


def test_not_run_has_its_reason():
    row = card(claim(), measured([1.0], dataset="other"))
    assert (row["verdict"], row["n_seeds"]) == ("not run", 0)
    assert "not part of this run" in row["note"]
    assert np.isnan(row["ours"])
    skipped = card(claim(), None, skipped={"e/d": "the resource x is missing"})
    assert skipped["verdict"] == "not run"
    assert "the resource x is missing" in skipped["note"]
    both = card(claim(comparable=False, reason="another split"), None)
    assert both["verdict"] == "not run"
    assert "not comparable: another split" in both["note"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"published": 0.5}, "impossible as published"),
        ({"published": 0.5, "spread": 0.4, "n": 4}, "reproduced"),  # 0.1 beyond, standard error 0.2
        ({"published": 0.5, "spread": 0.04, "n": 4}, "impossible as published"),
        ({"published": 0.7}, "short"),
        ({"published": 0.7, "direction": "higher"}, "impossible as published"),
        ({"published": 0.5, "direction": "higher"}, "better"),
    ],
)
def test_beyond_an_exact_bound(changes, expected):
    bounded = claim(floor={"kind": "entropy", "value": 0.6, "bound": True}, **changes)
    assert verdict(bounded, [0.9, 0.91, 0.89]) == expected
    unbounded = claim(floor={"kind": "do nothing", "value": 0.6}, **changes)
    assert verdict(unbounded, [0.9, 0.91, 0.89]) != "impossible as published"


def test_unpublished_spread_is_noted():
    assert "spread not published" in card(claim(), measured([1.0] * 3))["note"]
    assert "spread not published" not in card(claim(spread=0.1, n=3), measured([1.0] * 3))["note"]


def test_only_the_right_rows_count():
    frame = pd.concat(
        [
            measured([1.0, 2.0, 3.0]),
            measured([50.0], t=1.0),
            measured([60.0], method="other"),
            measured([70.0], experiment="other"),
            measured([80.0], metric="w2"),
            measured([90.0], split="train"),
        ]
    )
    row = card(claim(split="test"), frame)
    assert (row["ours"], row["n_seeds"], row["ours_spread"]) == (2.0, 3, 1.0)
    assert card(claim(t=1.0), frame)["ours"] == 50.0


@pytest.mark.parametrize("statistic", ["mean", "rms", "median"])
def test_spread_over_root_n_is_the_standard_error(statistic):
    rng = np.random.default_rng(0)
    draws = rng.normal(1.0, 0.3, size=(4000, 25))
    values = [scorecard.summarise(row, statistic) for row in draws]
    scatter = np.std([value for value, _, _ in values])
    predicted = np.mean([spread / np.sqrt(n) for _, spread, n in values])
    assert predicted == pytest.approx(scatter, rel=0.1)


def test_statistics_over_seeds():
    assert scorecard.summarise(np.array([3.0, 4.0]), "rms")[0] == pytest.approx(np.sqrt(12.5))
    assert scorecard.summarise(np.array([1.0, 2.0, 9.0]), "median")[0] == 2
    assert scorecard.summarise(np.zeros(3), "rms") == (0.0, 0.0, 3)


def test_floors_come_from_metrics_and_standard_errors():
    frame = pd.concat([measured([1.0] * 3), measured([0.4, 0.6], method="resampling", experiment="baselines")])
    row = card(claim(floor={"kind": "resampling", "metric": "w1", "method": "resampling"}), frame)
    assert (row["floor"], row["floor_kind"]) == (0.5, "resampling")
    about = {"paper": "p", "experiment": "e", "dataset": "d", "method": "moments", "name": "a", "unit": "1"}
    numbers = {"seed": [0, 1], "estimate": 1.0, "std_error": [0.3, 0.4], "truth": -10.0}
    floor = {"kind": "standard error", "std_error_of": "a", "method": "moments"}
    row = card(claim(floor=floor), frame, pd.DataFrame(about | numbers))
    assert row["floor"] == pytest.approx(np.sqrt(12.5) / 100)
    assert np.isnan(card(claim(floor=floor), frame)["floor"])


def test_the_published_files_are_sound_and_every_claim_has_a_row():
    papers = scorecard.read_published(PUBLISHED)
    claims = [one for paper in papers for one in paper["claims"]]
    table = scorecard.build(None, None, papers)
    assert table["claim"].tolist() == [one["id"] for one in claims]
    assert set(table["verdict"]) == {"not run"}
    assert (table["note"] != "").all()
    assert artifacts.problems(table, "scorecard/1", {}) == []


def test_every_figure_of_the_fokker_planck_paper_has_a_claim():
    paper = next(p for p in scorecard.read_published(PUBLISHED) if p["paper"] == "fokker-planck-loss")
    assert (paper["arxiv"], paper["version"]) == ("2502.17690", "v2")
    sources = " ".join(one["source"] for one in paper["claims"])
    for figure in (2, 3, 5, 6, 7, 8, 9, 10):  # 1 and 4 are drawings of the idea
        assert f"Fig. {figure}" in sources
    assert "A^+ b" in sources
    assert "convexity" in sources
    targets = {one["id"]: one["published"] for one in paper["claims"] if one["kind"] == "target"}
    assert targets["target-moments-20k-sigma"] == 0.006
    assert targets["target-moments-100k-beta"] == 0.0045
    assert targets["target-convolved-rho"] == 0.006
    assert targets["target-genes-count"] == 17
    assert targets["target-limit-cycle"] == 0.03
    assert targets["target-limit-cycle-linear"] == 0.002
    assert len(targets) == 71


PEERS = {"trajectorynet", "reg-cnf", "dsb", "i-cfm", "sb-cfm", "ot-cfm", "nlsb", "mioflow", "dmsb", "mmsb"}


def test_claims_speak_of_what_the_configuration_runs():
    """A misspelt data set or method would leave its claim "not run" for ever."""
    for paper in scorecard.read_published(PUBLISHED):
        config = PUBLISHED.parents[1] / "config" / "papers" / f"{paper['paper']}.yaml"
        experiments = yaml.safe_load(config.read_text())["papers"][paper["paper"]]["experiments"]
        configured = {
            (name, dataset, method)
            for name, experiment in experiments.items()
            for dataset in experiment["datasets"]
            for method in experiment["methods"]
        }
        # a study labels its methods with the version of the data: moments/n=2000; a flow's course follows its data set
        claimed = {
            (one["experiment"], one["dataset"].split("/")[0], one["method"].split("/")[0])
            for one in paper["claims"]
            if one["comparable"] or one["method"] not in PEERS
        }
        assert {key for key in claimed if key[0] in experiments} <= configured
        assert claimed & configured


STEPS = {f"{name}{how}" for name in ("w1", "bw_uvp") for how in ("", "_implicit")}
FORCE = {f"l2_uvp{of}" for of in ("", "_interaction", "_elsewhere", "_apart", "_bias")}
DIFFUSIVITY = {f"{kind}_error_diffusivity" for kind in ("absolute", "relative")}
DISTANCES = {"w1", "w2"}
WRITTEN = {
    "energy": STEPS | FORCE | DIFFUSIVITY | {"w1_floor", "mass_ratio", *energy_scores.PURE, *energy_scores.LENGTHS},
    "forecast": DISTANCES | {f"{name}_{of}" for name in DISTANCES for of in ("sd_over_splits", "sd_over_starts")},
    "interpolation": DISTANCES | {f"{name}_rolled" for name in DISTANCES},
}
COMPARED = ("ratio", "gap", *comparisons.summary({"c": pd.DataFrame({"one": [1.0, 2.0], "other": [2.0, 1.0]})}))


def test_claims_on_energies_speak_of_metrics_that_are_written():
    """And so do their floors: a misspelt metric, or one that a comparison does not make, is never found."""
    (paper,) = scorecard.read_published(PUBLISHED / "jko.yaml")
    config = yaml.safe_load((PUBLISHED.parents[1] / "config" / "papers" / "jko.yaml").read_text())
    experiments, checked = config["papers"]["jko"]["experiments"], set()
    for one in paper["claims"]:
        if (experiment := experiments.get(one["experiment"])) is None:
            continue
        kind = experiment["kind"]
        of = experiment.get("compare", {}).get("metrics", ())
        if kind == "comparison":
            known = {f"{name}_{what}{still}" for name in of for what in COMPARED for still in ("", "_still")}
        else:
            known = WRITTEN[kind]
        asked = {one["metric"], one.get("floor", {}).get("metric", one["metric"])}
        assert asked <= known, (one["id"], asked - known)
        checked.add(kind)
    assert checked == {*WRITTEN, "comparison"}


def test_the_lorenz_claims_as_a_run_would_fill_them():
    names = {"paper": "fokker-planck-loss", "experiment": "lorenz", "dataset": "lorenz", "split": "train"}
    errors = {("kde-adam", "sigma"): -0.25, ("kde-adam", "rho"): -0.027, ("kde-lstsq", "sigma"): -0.2}
    errors |= {("kde-l1", "sigma"): -0.25, ("moments", "sigma"): 0.003}
    parts = [
        measured([v, v * 1.01, v * 0.99], **names, method=method, metric=f"relative_error_{name}")
        for (method, name), v in errors.items()
    ]
    papers = scorecard.read_published(PUBLISHED / "fokker-planck-loss.yaml")
    verdicts = scorecard.build(pd.concat(parts), None, papers).set_index("claim")["verdict"]
    assert verdicts["fig2-sigma"] == "short"
    assert verdicts["fig2-rho"] == "reproduced"
    assert verdicts["fig2-beta"] == "not run"
    assert verdicts["closed-form-sign"] == "not comparable"
    assert verdicts["convexity-guarantee"] == "short"
    assert verdicts["target-moments-20k-sigma"] == "better"


def test_faults_in_a_published_file_are_named_together(tmp_path):
    bad = [
        claim(id="a", statistic="mode", methd="x"),
        claim(id="a", comparable=False),
        claim(id="b", published=None),
        claim(id="c", direction="band", band=[1]),
        claim(id="d", kind="target"),
        claim(id="e", floor={"kind": "x"}),
        {"id": "f"},
    ]
    paper = {"paper": "p", "title": "T", "arxiv": "0", "claims": bad, "surprise": 1}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(paper))
    with pytest.raises(ValueError) as error:
        scorecard.read_published(tmp_path)
    message = str(error.value)
    for part in (
        "p.yaml: missing ['version']",
        "unknown keys ['surprise']",
        "statistic must be one of ['mean', 'rms', 'median'], got 'mode'",
        "unknown keys ['methd']",
        "no reason is given",
        "comparable to what?",
        "band: [low, high]",
        "exactly the targets",
        "floor needs kind",
        "p.yaml: f: missing",
        "the id 'a' is used 2 times",
    ):
        assert part in message


def test_markdown_is_for_people():
    frame = measured([0.0061, 0.0059, 0.006], metric="relative_error_a")
    target = claim(id="t", kind="target", source=scorecard.TARGET_SOURCE, metric="relative_error_a")
    claims = [claim(floor={"kind": "exact | bound", "value": 0.25}), target | {"published": 0.006}]
    paper = {"paper": "p", "title": "T", "arxiv": "0", "version": "v1", "claims": claims}
    text = scorecard.to_markdown(scorecard.build(frame, None, [paper]))
    assert "2 claims: 1 reproduced, 1 not run." in text
    assert text.index("## What p claims") < text.index("## Targets for p")
    assert "| 0.6 % | 0.6 ± 0.01 % (n = 3) |" in text
    assert "0.25 (exact \\| bound)" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in tables} == {10}


def test_an_own_run_lists_no_claims_that_it_did_not_ask_for():
    def paper(name, *ids):
        claims = [claim(id=one, experiment="elsewhere" if one.startswith("other") else "e") for one in ids]
        return {"paper": name, "title": "T", "arxiv": "0", "version": "v1", "claims": claims}

    frame = scorecard.build(measured([0.25, 0.26, 0.25]), None, [paper("p", "a", "other-b"), paper("q", "other-c")])
    whole, own = scorecard.to_markdown(frame), scorecard.to_markdown(frame, own=True)
    assert "What q claims" in whole and "left out" not in whole
    assert "What q claims" not in own and "their claims are left out: q (1)." in own
    assert "other-b" in own  # a paper that was asked keeps what it is short of
    nothing = scorecard.to_markdown(scorecard.build(None, None, [paper("p", "a"), paper("q", "other-c")]), own=True)
    assert nothing.splitlines()[2].endswith("left out: p (1), q (1).") and "|" not in nothing
