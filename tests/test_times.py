"""Times as people write them, and the labels that nobody can order."""

import datetime

import numpy as np
import pandas as pd
import pytest

from snapdyn.times import parse_times


@pytest.mark.parametrize(
    ("labels", "values", "unit"),
    [
        ([0, 2.5, 7], [0, 2.5, 7], None),
        (["0", "2.5", "7"], [0, 2.5, 7], None),
        (["D10", "D2", "D0", "D2"], [10, 2, 0, 2], "day"),
        (["day 3", "Day 10", "day_0"], [3, 10, 0], "day"),
        (["t=1.5", "t=0"], [1.5, 0], None),
        (["12h", "0 h", "1hr"], [12, 0, 1], "hour"),
        (["t=12h", "t=3h"], [12, 3], "hour"),
        (["E8.5", "E10"], [8.5, 10], "day"),
        (["week 2", "wk10"], [2, 10], "week"),
        (["30min", "5 min"], [30, 5], "minute"),
        (["stage4", "stage12"], [4, 12], None),
        (["D-1", "D0", "D7"], [-1, 0, 7], "day"),
        (["day-0", "day-3"], [0, 3], "day"),
        ([np.datetime64("2024-01-03"), np.datetime64("2024-01-01T12:00")], [1.5, 0], "day"),
        ([datetime.date(2024, 2, 28), datetime.date(2024, 3, 1)], [0, 2], "day"),
        (["2024-02-28", "2024-03-01"], [0, 2], "day"),
    ],
)
def test_reads(labels, values, unit):
    times = parse_times(labels)
    np.testing.assert_array_equal(times.values, values)
    assert times.unit == unit
    assert list(times.labels) == sorted(set(times.values))


@pytest.mark.parametrize(
    "column",
    [
        pd.Categorical([7, 0, 2.5, 0]),
        pd.Categorical([7, 0, 2.5, 0], categories=[7, 0, 2.5], ordered=True),
        pd.Categorical(["D7", "D0", "D2.5", "D0"], categories=["D7", "D2.5", "D0"], ordered=True),
        pd.Series(["D7", "D0", "D2.5", "D0"], dtype="string"),
        pd.Series([7, 0, 2.5, 0], dtype="Float64", index=[9, 9, 3, 1]),
    ],
    ids=["numeric categories", "misordered", "label categories", "string dtype", "nullable"],
)
def test_only_the_numbers_order(column):
    np.testing.assert_array_equal(parse_times(column).values, [7, 0, 2.5, 0])


def test_keeps_the_original_labels_and_names_times_by_them():
    times = parse_times(["D7", "D0", "D10"])
    assert times.labels == {0.0: "D0", 7.0: "D7", 10.0: "D10"}
    assert times.name(7.0) == "D7"
    assert parse_times([0, 7], unit="days").name(7.0) == "7 day"


def test_the_unit_comes_from_the_caller_where_the_labels_have_none():
    assert parse_times([0, 1], unit="days").unit == "day"
    assert parse_times([0, 1], unit="pseudotime").unit == "pseudotime"
    assert parse_times(["D0", "D1"], unit="day").unit == "day"
    with pytest.raises(ValueError, match="say 'day' but the unit given is 'hours'"):
        parse_times(["D0", "D1"], unit="hours")


def test_a_mapping_speaks_for_labels_that_do_not():
    times = parse_times(["late", "early", "late"], times={"early": 0, "late": 4.5}, unit="week")
    np.testing.assert_array_equal(times.values, [4.5, 0, 4.5])
    assert (times.unit, times.labels) == ("week", {0.0: "early", 4.5: "late"})
    np.testing.assert_array_equal(parse_times([2.0, 1.0], times={1: 10, 2: 20}).values, [20, 10])
    with pytest.raises(ValueError, match=r"no number for \['late'\]; it knows \['early'\]"):
        parse_times(["late", "early"], times={"early": 0})
    with pytest.raises(ValueError, match=r"must give numbers, it does not for \['late'\]"):
        parse_times(["late", "early"], times={"early": 0, "late": [4]})


@pytest.mark.parametrize(
    ("labels", "what"),
    [
        (["early", "late"], r"cannot order the time labels \['early', 'late'\]"),
        (["D0", "late"], r"cannot order the time labels \['late'\]"),
        (["mouse1_D3", "mouse2_D7"], "cannot order"),
        ([True, False], "cannot order"),
        (["inf", "1"], r"cannot order the time labels \['inf'\]"),
        (["12h", "1d"], r"mix units or prefixes, for example \['12h', '1d'\]"),
        (["E8.5", "D3"], "mix units or prefixes"),
        (["0", "D7"], "mix units or prefixes"),
        (["10m", "2m"], "expected one unit"),
        (["D-3", "D-1"], "cannot tell a hyphen from a minus sign"),
    ],
)
def test_refuses_what_cannot_be_ordered_and_says_what_to_do(labels, what):
    with pytest.raises(ValueError, match=what) as error:
        parse_times(labels)
    assert "give a numeric column, or a mapping `times: {label: number}`" in str(error.value)


def test_lists_the_first_few_and_counts_the_rest():
    with pytest.raises(ValueError, match=r"\['a', 'b', 'c', 'd', 'e'\] and 3 more"):
        parse_times(list("abcdefgh"))


@pytest.mark.parametrize("labels", [[0, 1, None], ["D0", "D1", None], pd.Categorical(["D0", "D1", None])])
def test_refuses_missing_times(labels):
    with pytest.raises(ValueError, match="1 of 3 have none, the first is row 2; fill them in"):
        parse_times(labels)


def test_refuses_infinite_times():
    with pytest.raises(ValueError, match=r"expected finite times, got \['inf'\]"):
        parse_times([0, 1, np.inf])
