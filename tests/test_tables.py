"""A user's table: read as it is, or refused with every fault named."""

import gzip

import numpy as np
import pandas as pd
import pytest

from snapdyn import artifacts, tables


@pytest.fixture
def frame(rng):
    x = rng.normal(size=(60, 3))
    day = np.repeat(["D0", "D2", "D10"], 20)
    return pd.DataFrame({"a": x[:, 0], "b": 1e3 * x[:, 1], "c": x[:, 2], "day": day, "w": 1.0})


def save(frame, path):
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if ".tsv" in path.name else ",")
    return path


def refusal(path, **options):
    with pytest.raises(tables.TableError) as error:
        tables.read_table(path, **options)
    return str(error.value)


@pytest.mark.parametrize("name", ["p.parquet", "p.csv", "p.csv.gz", "p.tsv"])
def test_reads_exactly_what_was_written(frame, tmp_path, name):
    path = save(frame, tmp_path / name)
    table = tables.read_table(path, columns=["c", "a"], time_key="day", weight_key="w")
    np.testing.assert_array_equal(table.x, frame[["c", "a"]])
    np.testing.assert_array_equal(table.times.values, np.repeat([0.0, 2, 10], 20))
    assert (table.axes, table.times.unit, table.notes) == (["c", "a"], "day", [])
    np.testing.assert_array_equal(table.weight, 1.0)


def test_snapshots_keep_the_users_coordinates_rows_and_unit(frame, tmp_path):
    path = save(frame, tmp_path / "p.csv")
    cloud = tables.table_snapshots(path, dataset="mine", seed=3, time_key="day", weight_key="w")
    np.testing.assert_array_equal(cloud.x, frame[["a", "b", "c"]])
    np.testing.assert_array_equal(cloud.row, np.arange(60))
    np.testing.assert_array_equal(cloud.times, [0, 2, 10])
    assert cloud.meta["axes"] == ["a", "b", "c"]
    assert cloud.meta["time_unit"] == "day"
    assert cloud.meta["source"]["labels"] == [[0.0, "D0"], [2.0, "D2"], [10.0, "D10"]]
    for t in cloud.times:
        assert (cloud.select(t=t).split == "train").sum() == 14  # floor(0.7 * 20)
    artifacts.write(cloud.frame(), tmp_path / "s.parquet", "snapshots/1", cloud.meta)
    back, meta = artifacts.read(tmp_path / "s.parquet", "snapshots/1")
    np.testing.assert_array_equal(back["x1"], frame["b"])
    assert meta["dim"] == 3


def test_the_split_depends_on_the_seed_alone(frame, tmp_path):
    path = save(frame, tmp_path / "p.csv")
    options = {"dataset": "d", "columns": ["a"], "time_key": "day"}
    first, again, other = (tables.table_snapshots(path, seed=seed, **options) for seed in (0, 0, 1))
    assert (first.split == again.split).all()
    assert (first.split != other.split).any()


def test_without_a_time_key_it_is_one_cloud(frame, tmp_path):
    cloud = tables.table_snapshots(save(frame, tmp_path / "p.csv"), dataset="d", seed=0, columns=["a", "b"])
    assert not cloud.timed
    assert cloud.meta["time_unit"] is None
    assert (cloud.split == "train").sum() == 42


def test_doubling_time_doubles_time_and_nothing_else(frame, tmp_path):
    frame["day"] = np.repeat([0.0, 2.5, 7.0], 20)
    options = {"dataset": "d", "seed": 0, "time_key": "day", "weight_key": "w"}
    once = tables.table_snapshots(save(frame, tmp_path / "p.csv"), **options)
    frame["day"] *= 2
    twice = tables.table_snapshots(save(frame, tmp_path / "q.csv"), **options)
    np.testing.assert_array_equal(twice.t, 2 * once.t)
    np.testing.assert_array_equal(twice.x, once.x)
    assert (twice.split == once.split).all()


def test_numeric_columns_are_taken_by_default_and_the_rest_is_named(frame, tmp_path):
    frame["note"] = "n"
    frame.to_csv(tmp_path / "p.csv")  # with the row numbers that pandas adds
    table = tables.read_table(tmp_path / "p.csv", time_key="day", weight_key="w")
    assert table.axes == ["a", "b", "c"]
    assert "['Unnamed: 0', 'note'] are not numbers or only count the rows; left out" in table.notes[0]


def test_named_index_levels_can_be_keys(frame, tmp_path):
    path = save(frame.set_index("day"), tmp_path / "p.parquet")
    assert tables.read_table(path, columns=["a"], time_key="day").times.unit == "day"


def test_names_a_missing_column_with_its_neighbours(frame, tmp_path):
    said = refusal(save(frame, tmp_path / "p.csv"), columns=["a", "B", "zzz"], time_key="dya")
    assert "no column 'B'; did you mean 'b'?; there are a, b, c, day, w" in said
    assert "no column 'zzz'; there are" in said
    assert "no column 'dya'; did you mean 'day'?" in said


@pytest.mark.parametrize("name", ["p.csv", "p.parquet"])
@pytest.mark.parametrize("columns", [["a", "b"], None])
def test_counts_text_in_a_number_column(frame, tmp_path, name, columns):
    frame["b"] = frame["b"].astype(object)
    frame.loc[[7, 12], "b"] = ["n.d.", "<5"]
    frame["b"] = frame["b"].astype(str)
    said = refusal(save(frame, tmp_path / name), columns=columns, time_key="day")
    assert "column 'b' has 2 rows of text where numbers are expected, the first is row 7 ('n.d.')" in said


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_counts_rows_that_are_not_finite(frame, tmp_path, bad):
    frame.loc[[4, 9, 30], "c"] = bad
    said = refusal(save(frame, tmp_path / "p.parquet"), columns=["a", "c"])
    assert "column 'c' has 3 rows that are NaN or inf, the first is row 4" in said


def test_all_faults_at_once(frame, tmp_path):
    frame.loc[3, "a"] = np.nan
    frame["b"] = 5.0
    frame.loc[0, "w"] = -1.0
    frame["day"] = frame["day"].replace({"D2": "late"})
    said = refusal(save(frame, tmp_path / "p.csv"), columns=["a", "b", "d"], time_key="day", weight_key="w")
    faults = [
        "no column 'd'",
        "column 'a' has 1 rows that are NaN",
        "constant columns ['b']",
        "time_key 'day': cannot order the time labels ['late']",
        "1 are negative, first row 0: -1",
    ]
    assert [fault for fault in faults if fault not in said] == []
    assert said.count("\n- ") == 5


def test_refuses_unusable_times(frame, tmp_path):
    lone = pd.concat([frame, frame.iloc[:1].assign(day="D11")])
    said = refusal(save(lone, tmp_path / "p.csv"), columns=["a"], time_key="day")
    assert "fewer than 2 cells at D11 (1); leave that time out or add cells" in said
    said = refusal(save(frame.assign(day=1.0), tmp_path / "q.csv"), columns=["a"], time_key="day")
    assert "all rows have the same time (1); expected at least two distinct times, or no time_key" in said
    said = refusal(save(frame.assign(day=[None] + [1.0] * 59), tmp_path / "r.csv"), time_key="day")
    assert "1 of 60 have none, the first is row 0" in said


def test_refuses_a_time_of_its_own_for_every_row_without_listing_them_all(tmp_path, rng):
    many = pd.DataFrame({"a": rng.normal(size=50_000), "t": rng.uniform(size=50_000)})
    said = refusal(save(many, tmp_path / "p.parquet"), time_key="t")
    assert "(1) and 49970 more; leave that time out" in said
    assert len(said) < 2000


def test_refuses_zero_bandwidth_and_notes_a_few_copies(frame, tmp_path):
    copies = frame.copy()
    copies.loc[20:30, ["a", "b", "c"]] = copies.loc[20, ["a", "b", "c"]].to_numpy(float)
    said = refusal(save(copies, tmp_path / "p.csv"), columns=["a", "b", "c"], time_key="day")
    assert "11 of 20 points at D2 are exact copies of another one, so the bandwidth would be zero" in said
    twice = pd.concat([frame, frame])
    assert "120 of 120 points at the cloud" in refusal(save(twice, tmp_path / "q.csv"), columns=["a", "b"])
    same_elsewhere = frame.copy()  # a cell that stays where it is is no duplicate
    same_elsewhere.loc[20:39, ["a", "b", "c"]] = frame.loc[0:19, ["a", "b", "c"]].to_numpy()
    path = save(same_elsewhere, tmp_path / "r.csv")
    assert tables.table_snapshots(path, dataset="d", seed=0, time_key="day", weight_key="w").meta["notes"] == []
    frame.loc[1, ["a", "b", "c"]] = frame.loc[0, ["a", "b", "c"]]
    few = tables.table_snapshots(save(frame, tmp_path / "s.csv"), dataset="d", seed=0, time_key="day", weight_key="w")
    assert few.meta["notes"] == ["2 of 20 points at D0 are exact copies of another one"]


@pytest.mark.parametrize("columns", [["a", "b"], None])
def test_refuses_constant_columns(frame, tmp_path, columns):
    frame["b"] = 1e9 + 1e-7 * np.arange(60) % 2e-7
    said = refusal(save(frame, tmp_path / "p.parquet"), columns=columns, weight_key="w")
    assert "constant columns ['b']: they carry no dynamics; leave them out" in said


def test_refuses_no_rows_and_repeated_names(frame, tmp_path):
    assert "the table has no rows; its columns are ['a', 'b'" in refusal(save(frame[:0], tmp_path / "p.csv"))
    assert "['a'] more than once" in refusal(save(frame, tmp_path / "q.csv"), columns=["a", "a"])
    said = refusal(save(frame, tmp_path / "q.csv"), columns=["a", "w"], weight_key="w")
    assert "['w'] cannot be a coordinate and time_key or weight_key at once" in said


def test_refuses_weights_that_are_none(frame, tmp_path):
    frame.loc[:19, "w"] = 0.0
    said = refusal(save(frame, tmp_path / "p.csv"), columns=["a"], time_key="day", weight_key="w")
    assert "all weights are zero at D0" in said
    frame.loc[5, "w"] = np.nan
    said = refusal(save(frame, tmp_path / "q.csv"), columns=["a"], time_key="day", weight_key="w")
    assert "column 'w' has 1 rows that are NaN or inf, the first is row 5" in said


def test_a_file_must_be_what_its_name_says(frame, tmp_path):
    parquet, csv = save(frame, tmp_path / "p.parquet"), save(frame, tmp_path / "p.csv")
    assert "not a readable parquet" in refusal(csv.rename(tmp_path / "c.parquet"))
    assert "named .csv but holds parquet data; expected text" in refusal(parquet.rename(tmp_path / "d.csv"))
    (tmp_path / "e.csv").write_bytes(bytes(range(256)) * 20)
    assert "named .csv but holds binary data" in refusal(tmp_path / "e.csv")
    (tmp_path / "f.csv.gz").write_bytes(b"a,b\n1,2\n")
    assert "named .csv.gz but cannot be read as such" in refusal(tmp_path / "f.csv.gz")
    (tmp_path / "g.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 10_000)[:-20])
    assert "named .csv.gz but cannot be read as such" in refusal(tmp_path / "g.csv.gz")
    (tmp_path / "h.csv").write_bytes(b"a,b\n\xff\xfe,2\n")
    assert "cannot be read as such" in refusal(tmp_path / "h.csv")
    (tmp_path / "i.csv").write_bytes(b"")
    assert "the file is empty" in refusal(tmp_path / "i.csv")
    assert "no such file" in refusal(tmp_path / "j.csv")
    (tmp_path / "k.xlsx").write_bytes(b"PK")
    assert "expected a name that ends in one of .parquet, .csv" in refusal(tmp_path / "k.xlsx")


def test_truncated_parquet(frame, tmp_path):
    path = save(frame, tmp_path / "p.parquet")
    path.write_bytes(path.read_bytes()[:-30])
    assert "not a readable parquet file" in refusal(path)


def test_mass_that_changes_is_reported_with_its_ratios(frame, tmp_path):
    fewer = frame.drop(index=range(20, 30), columns="w")
    cloud = tables.table_snapshots(save(fewer, tmp_path / "p.csv"), dataset="d", seed=0, time_key="day")
    (note,) = cloud.meta["notes"]
    assert "mass changes between snapshots; the number of cells" in note
    assert "D0: 20 (1), D2: 10 (0.5), D10: 20 (1)" in note
    frame.loc[40:, "w"] = 2.0
    path = save(frame, tmp_path / "q.csv")
    cloud = tables.table_snapshots(path, dataset="d", seed=0, time_key="day", weight_key="w")
    assert "the summed weight at each time" in cloud.meta["notes"][0]
    assert "D0: 20 (1), D2: 20 (1), D10: 40 (2)" in cloud.meta["notes"][0]


def test_a_split_that_leaves_nothing_to_train_on(frame, tmp_path):
    path = save(frame.drop(columns="w"), tmp_path / "p.csv")
    with pytest.raises(ValueError, match=r"train = 0.01 leaves no cell to train on at D0, D2, D10; raise it"):
        tables.table_snapshots(path, dataset="d", seed=0, time_key="day", train=0.01)
    with pytest.raises(ValueError, match=r"in \(0, 1\], got 1.5"):
        tables.table_snapshots(path, dataset="d", seed=0, time_key="day", train=1.5)


def test_reads_the_embryoid_body_table(snapdyn_resources):
    path = snapdyn_resources / "embryoid_body" / "pcs_5d.parquet"
    axes = [f"z{i}" for i in range(1, 6)]
    cloud = tables.table_snapshots(path, dataset="eb", seed=0, columns=axes, time_key="time", train=0.6)
    there = pd.read_parquet(path)
    np.testing.assert_array_equal(cloud.x, there[axes].to_numpy(np.float64))
    assert [len(cloud.select(t=t, split="train")) for t in cloud.times] == [1428, 2497, 1966, 2199, 1999]
    assert "0: 2381 (1), 1: 4163 (1.75)" in cloud.meta["notes"][-1]
