"""Comparisons: pairs that are asked for, ratios and gaps by hand, and what is refused before any job."""

import copy
import logging

import numpy as np
import pandas as pd
import pytest

from snapdyn import compared, comparisons, metrics

EXPERIMENTS = {
    "free": {"kind": "energy", "datasets": ["loose", "loose-large"], "methods": {"ijkonet-v": {}, "jkonet-star-v": {}}},
    "tied": {"kind": "energy", "datasets": ["tight"], "methods": {"ijkonet-v": {"steps": 3}}},
    "unpairing": {
        "kind": "comparison",
        "datasets": ["loose"],
        "methods": {"ijkonet-v": {}},
        "compare": {"metrics": ["w1"], "courses": ["flowers", "flat"], "datasets": {"loose": "tight"}},
    },
    "against-star": {
        "kind": "comparison",
        "datasets": ["loose", "loose-large"],
        "methods": {"ijkonet-v": {}},
        "compare": {"metrics": ["w1"], "courses": ["flowers", "flat"], "methods": {"ijkonet-v": "jkonet-star-v"}},
    },
}
DATASETS = {
    name: {"kind": "flow", "potentials": ["flowers", "flat", "relu"]}
    for name in ("loose", "loose-large", "tight", "spare")
}
ABOUT = {"paper": "jko", "experiment": "unpairing"}


def faults(name="unpairing", **changes):
    experiments = copy.deepcopy(EXPERIMENTS)
    compare = experiments[name]["compare"] | changes.pop("compare", {})
    experiments[name] |= {"compare": compare} | changes
    return "\n".join(compared.faults("here", name, experiments, DATASETS))


def scores(values, *, dataset, method="ijkonet-v", experiment="free", metric="w1"):
    """Rows of one course: ``values`` by seed are the means; every step has another number, which must not be used."""
    given = {"unit": "1", "split": "test", "n": 10, "dataset": dataset, "method": method, "experiment": experiment}
    parts = []
    for seed, value in enumerate(values):
        for t in (1.0, 2.0, np.nan):
            number = 1000 * t if np.isfinite(t) else value
            parts.append(metrics.rows({metric: number}, t=t, seed=seed, paper="jko", **given))
    return pd.concat(parts, ignore_index=True)


def compare(one, other, **spec):
    """The comparison of ``course -> values`` of unpaired with those of paired data."""
    frames = {
        "free": pd.concat([scores(values, dataset=f"loose/{course}") for course, values in one.items()]),
        "tied": pd.concat([scores(values, dataset=f"tight/{course}") for course, values in other.items()]),
    }
    pairs = compared.pairs(EXPERIMENTS, "unpairing")
    found = comparisons.run(frames, pairs, {"metrics": ["w1"], "courses": list(one)} | spec, **ABOUT)
    return found.set_index(["dataset", "metric", "seed"])["value"].sort_index()


def test_pairs_say_where_scores_come_from():
    (pair,) = compared.pairs(EXPERIMENTS, "unpairing")
    assert pair["one"] == {"experiment": "free", "dataset": "loose", "method": "ijkonet-v"}
    assert pair["other"] == {"experiment": "tied", "dataset": "tight", "method": "ijkonet-v"}
    found = compared.pairs(EXPERIMENTS, "against-star")
    assert [pair["other"]["method"] for pair in found] == ["jkonet-star-v"] * 2
    assert [pair["one"]["dataset"] for pair in found] == ["loose", "loose-large"]
    assert not compared.pairs(EXPERIMENTS, "unpairing", absent=["tight"])


def test_ratios_gaps_and_their_summary_by_hand():
    found = compare(
        {"flowers": [2.0, 4.0, 6.0], "flat": [3.0, 1.0, 2.0]}, {"flowers": [1.0, 8.0, 3.0], "flat": [1.0, 2.0, 1.0]}
    )
    assert found["loose/flowers", "w1_ratio"].tolist() == [2.0, 0.5, 2.0]
    assert found["loose/flat", "w1_ratio"].tolist() == [3.0, 0.5, 2.0]
    assert found["loose", "w1_ratio_median"].tolist() == [2.5, 0.5, 2.0]
    assert found["loose", "w1_lower"].tolist() == [0.0, 2.0, 0.0]
    # flowers: variances 4 and 13, means 4 and 4; flat: variances 1 and 1/3, means 2 and 4/3
    np.testing.assert_allclose(found["loose/flowers", "w1_gap"], np.array([1.0, -4.0, 3.0]) / np.sqrt(17))
    np.testing.assert_allclose(found["loose/flat", "w1_gap"], np.array([2.0, -1.0, 1.0]) / np.sqrt(4 / 3))
    np.testing.assert_allclose(found["loose", "w1_gap_worst"], found["loose/flat", "w1_gap"])


def test_the_worst_gap_is_that_of_the_farthest_mean_taken_as_positive():
    found = compare({"flowers": [5.0, 7.0], "flat": [1.0, 2.0]}, {"flowers": [5.5, 7.0], "flat": [3.0, 5.0]})
    np.testing.assert_allclose(found["loose", "w1_gap_worst"], np.array([2.0, 3.0]) / np.sqrt(2.5))
    assert (found["loose/flat", "w1_gap"] < 0).all()


def test_gaps_tell_what_differs_from_what_does_not():
    rng = np.random.default_rng(0)

    def worst(shift):
        draws = [compare_gap(rng.normal(size=5) + shift, rng.normal(size=5)) for _ in range(200)]
        return np.abs(draws)

    def compare_gap(one, other):
        return comparisons.gap(pd.DataFrame({"one": one, "other": other})).mean()

    assert (worst(0.0) > 2).mean() < 0.02  # agree: hardly ever beyond two spreads
    assert (worst(5.0) > 2).mean() > 0.95  # 3.5 spreads apart: hardly ever within


def test_no_ratio_to_nothing_and_no_gap_without_a_spread(caplog):
    with caplog.at_level(logging.INFO):
        found = compare({"flowers": [2.0, 4.0], "flat": [1.0, 1.0]}, {"flowers": [0.0, 8.0], "flat": [2.0, 4.0]})
    assert found["loose/flowers", "w1_ratio"].to_dict() == {1: 0.5}
    assert found["loose", "w1_ratio_median"].to_dict() == {1: (0.5 + 0.25) / 2}
    assert found["loose", "w1_lower"].tolist() == [1.0, 2.0] and np.isfinite(found).all()
    assert "loose/flowers: no ratio of w1 for seeds [0], which have a 0 below" in caplog.text
    alone = compare({"flowers": [2.0]}, {"flowers": [1.0]})
    assert alone.index.get_level_values("metric").tolist() == ["w1_ratio"]
    with pytest.raises(ValueError, match="unpairing: every score to compare with is 0"):
        compare({"flowers": [2.0]}, {"flowers": [0.0]})
    same = compare({"flowers": [2.0, 2.0]}, {"flowers": [1.0, 1.0]})
    assert set(same.index.get_level_values("metric")) == {"w1_ratio"}


def test_seeds_are_compared_with_themselves():
    found = compare({"flowers": [1.0, 2.0, 3.0]}, {"flowers": [1.0, 1.0]})
    assert found["loose/flowers", "w1_ratio"].to_dict() == {0: 1.0, 1: 2.0}


def test_data_sets_without_courses_are_compared_as_wholes():
    frames = {"free": scores([4.0], dataset="loose"), "tied": scores([2.0], dataset="tight")}
    pairs = compared.pairs(EXPERIMENTS, "unpairing")
    found = comparisons.run(frames, pairs, {"metrics": ["w1"], "courses": []}, **ABOUT)
    assert found[["dataset", "metric", "value"]].to_numpy().tolist() == [["loose", "w1_ratio", 2.0]]


def test_no_movement_stands_beside_every_number():
    one, other, still = {"flowers": [2.0, 4.0], "flat": [1.0, 3.0]}, [4.0, 8.0], [1.0, 2.0]
    frames = {
        "free": pd.concat(
            [scores(values, dataset=f"loose/{course}") for course, values in one.items()]
            + [scores(still, dataset=f"loose/{course}", method="no-movement") for course in one]
        ),
        "tied": pd.concat([scores(other, dataset=f"tight/{course}") for course in one]),
    }
    spec = {"metrics": ["w1"], "courses": list(one)}
    found = comparisons.run(frames, compared.pairs(EXPERIMENTS, "unpairing"), spec, **ABOUT)
    assert set(found["method"]) == {"ijkonet-v"} and not found.duplicated(["dataset", "metric", "seed"]).any()
    found = found.set_index(["dataset", "metric", "seed"])["value"].sort_index()
    # both fits are worse than standing still, which their ratio does not tell
    assert found["loose/flowers", "w1_ratio"].tolist() == [0.5, 0.5]
    assert found["loose/flowers", "w1_ratio_still"].tolist() == [0.25, 0.25]
    assert found["loose", "w1_ratio_median_still"].tolist() == [0.25, 0.25]
    assert found["loose", "w1_lower_still"].tolist() == [2.0, 2.0]
    assert {"w1_gap_still", "w1_gap_worst_still"} <= set(found.index.get_level_values("metric"))


def test_scores_that_are_not_there_are_named():
    with pytest.raises(
        ValueError, match=r"expected l2_uvp of ijkonet-v on loose/flat .* free, found of these \['w1'\]"
    ):
        compare({"flat": [1.0]}, {"flat": [1.0]}, metrics=["l2_uvp"])
    with pytest.raises(ValueError, match="on loose/relu .* found of these nothing"):
        compare({"flat": [1.0]}, {"flat": [1.0]}, courses=["relu"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"compare": None}, "here.compare: an experiment of kind comparison needs it"),
        ({"methods": {}}, "here.methods: say whose scores"),
        ({"methods": {"ijkonet-v": {"steps": 3}}}, "here.methods.ijkonet-v: a comparison fits nothing"),
        ({"compare": {"courses": ["flwers"]}}, "unknown course of loose 'flwers'; did you mean 'flowers'?"),
        ({"compare": {"datasets": {"loose": "tigth"}}}, "unknown data set 'tigth'; did you mean 'tight'?"),
        ({"compare": {"datasets": {"losse": "tight"}}}, "unknown data set 'losse'; did you mean 'loose'?"),
        ({"compare": {"methods": {"ijkonet": "ijkonet-v"}}}, "unknown method of this experiment 'ijkonet'; did you"),
        ({"compare": {"methods": {"ijkonet-v": "jkonet-star-v"}}}, "no experiment of this run fits 'jkonet-star-v' on"),
        ({"methods": {"ijkonet": {}}}, "fits 'ijkonet' on data set 'loose'; did you mean 'ijkonet-v'?"),
        ({"datasets": ["spare"]}, "fits 'ijkonet-v' on data set 'spare'; leave that data set out here, or have it"),
        ({"compare": {"datasets": {}}}, "ijkonet-v on loose would be compared with itself"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_job(changes, said):
    if changes.get("compare", {}) is None:
        experiments = {"unpairing": EXPERIMENTS["unpairing"] | changes}
        found = "\n".join(compared.faults("here", "unpairing", experiments, DATASETS))
    else:
        found = faults(**changes)
    assert said in found and bool(said) == bool(found)


def test_a_pair_that_two_experiments_fit_is_refused():
    twice = EXPERIMENTS | {"again": EXPERIMENTS["tied"]}
    (said,) = compared.faults("here", "unpairing", twice, DATASETS)
    assert said == "here: 'ijkonet-v' on data set 'tight' is fitted by several experiments: ['tied', 'again']"
