"""The file contract: what is written comes back, equal content is equal bytes, faults are told together."""

import json
import pickle
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from snapdyn import artifacts

META = {"dim": 2, "dataset": "toy", "seed": 0}


@pytest.fixture
def frame(rng):
    n = 7
    columns = {"row": np.arange(n), "t": np.full(n, np.nan), "split": ["train"] * n, "weight": np.ones(n)}
    return pd.DataFrame(columns | {f"x{i}": rng.normal(size=n) for i in range(2)})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "snapshots.parquet"


def write(frame, path, meta=META):
    artifacts.write(frame, path, "snapshots/1", meta)


def test_a_frame_comes_back_as_it_was(frame, path):
    write(frame[sorted(frame)[::-1]], path)
    back, meta = artifacts.read(path, "snapshots/1")
    pd.testing.assert_frame_equal(back, frame, check_dtype=True)  # the contract's column order, not ours
    assert meta == {"contract": "snapshots/1", **META}


def test_equal_content_is_equal_bytes_whatever_the_name_and_index(frame, path, tmp_path):
    write(frame, path)
    write(frame.set_axis(list("abcdefg")).rename_axis("cell"), tmp_path / "other.parquet")
    assert path.read_bytes() == (tmp_path / "other.parquet").read_bytes()
    assert set(pq.read_schema(path).metadata) == {artifacts.METADATA_KEY}  # nothing of pandas
    write(frame, tmp_path / "third.parquet", META | {"seed": 1})
    assert path.read_bytes() != (tmp_path / "third.parquet").read_bytes()


def spoilt(frame):
    """A frame with one fault of each kind."""
    frame = frame.drop(columns="weight").assign(colour="red", row=[0, 1, 2, 3, 4, 5, 5])
    frame["split"] = np.arange(7)
    frame.loc[[3, 5], "x1"] = [np.inf, np.nan]
    return frame


FAULTS = [
    "missing columns ['weight']",
    "unexpected columns ['colour']",
    "column 'split' must be string, got int64",
    "column 'x1' has 2 rows that are not finite, the first is row 3",
    "columns ['row'] must identify a row, 1 rows repeat",
]


def test_every_fault_is_told_at_once_on_writing(frame, path):
    with pytest.raises(artifacts.ContractError) as told:
        write(spoilt(frame), path)
    for fault in FAULTS:
        assert fault in str(told.value)
    assert not path.exists()


def test_every_fault_is_told_at_once_on_reading(frame, tmp_path):
    path = tmp_path / "foreign.parquet"
    table = pa.Table.from_pandas(spoilt(frame))
    meta = json.dumps({"contract": "snapshots/1", **META}).encode()
    pq.write_table(table.replace_schema_metadata({artifacts.METADATA_KEY: meta}), path)
    with pytest.raises(artifacts.ContractError, match="breaks its contract") as told:
        artifacts.read(path, "snapshots/1")
    for fault in FAULTS:
        assert fault in str(told.value)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda frame: frame.iloc[:0], "the table has no rows"),
        (lambda frame: frame.assign(split=["train"] * 6 + [None]), "column 'split' has 1 empty rows"),
        (lambda frame: frame.astype({"x0": np.float32}), "column 'x0' must be float64, got float32"),
        (lambda frame: frame.assign(x0="0.5"), "column 'x0' must be float64"),
    ],
)
def test_each_of_these_is_refused(frame, path, change, fault):
    with pytest.raises(artifacts.ContractError) as told:
        write(change(frame), path)
    assert fault in str(told.value)


@pytest.mark.parametrize("dim", [0, -1, 2.0, None])
def test_the_dimension_must_be_a_whole_number(frame, path, dim):
    with pytest.raises(artifacts.ContractError, match="'dim' must be a positive whole number"):
        write(frame, path, {"dim": dim})


def test_another_kind_or_version_is_refused(frame, path):
    write(frame, path)
    with pytest.raises(artifacts.ContractError, match="of kind 'snapshots/1', expected 'field/1'"):
        artifacts.read(path, "field/1")
    table = pq.read_table(path)
    newer = json.dumps({"contract": "snapshots/2", **META}).encode()
    pq.write_table(table.replace_schema_metadata({artifacts.METADATA_KEY: newer}), path)
    with pytest.raises(artifacts.ContractError, match="of kind 'snapshots/2', expected 'snapshots/1'"):
        artifacts.read(path, "snapshots/1")


def test_files_that_are_no_artifacts_are_named(frame, path, tmp_path):
    with pytest.raises(artifacts.ContractError, match="no such file"):
        artifacts.read(path, "snapshots/1")
    write(frame, path)
    content = path.read_bytes()
    for name, wrong in {
        "cut.parquet": content[:-20],
        "text.parquet": b"t,x0\n0,1\n",
        "empty.parquet": b"",
    }.items():
        (tmp_path / name).write_bytes(wrong)
        with pytest.raises(artifacts.ContractError, match=f"{name} is not a readable parquet file"):
            artifacts.read(tmp_path / name, "snapshots/1")
    frame.to_parquet(tmp_path / "foreign.parquet")
    with pytest.raises(artifacts.ContractError, match="carries no snapdyn metadata"):
        artifacts.read(tmp_path / "foreign.parquet", "snapshots/1")


def test_a_write_that_fails_leaves_what_was_there(frame, path, monkeypatch):
    write(frame, path)
    before = path.read_bytes()

    def half(table, where, **options):
        where.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(artifacts.pq, "write_table", half)
    with pytest.raises(OSError, match="disk full"):
        write(frame.iloc[:3], path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_text_and_json_replace_whole_files(tmp_path):
    artifacts.write_json({"b": 1, "a": [2]}, tmp_path / "facts.json")
    assert (tmp_path / "facts.json").read_text() == '{\n "a": [\n  2\n ],\n "b": 1\n}\n'
    with pytest.raises(TypeError):
        artifacts.write_json({"b": object()}, tmp_path / "facts.json")
    assert json.loads((tmp_path / "facts.json").read_text()) == {"a": [2], "b": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_results_are_as_readable_as_any_file(frame, path, tmp_path):
    (tmp_path / "plain").touch()
    write(frame, path)
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_checkpoint_bytes_do_not_depend_on_their_name(tmp_path):
    import torch

    state = {"weights": {"w": torch.arange(3.0)}, "dim": 2}
    for name in ("model.pt", "quite-another-name.pt"):
        artifacts.save_model(state, tmp_path / name)
    assert (tmp_path / "model.pt").read_bytes() == (tmp_path / "quite-another-name.pt").read_bytes()
    back = artifacts.load_model(tmp_path / "model.pt")
    assert back["dim"] == 2 and torch.equal(back["weights"]["w"], state["weights"]["w"])


class Trap:
    def __reduce__(self):
        return (sys.exit, ("unpickled!",))


def test_a_pickle_is_refused_and_not_run(tmp_path):
    import torch

    (tmp_path / "trap.pkl").write_bytes(pickle.dumps(Trap(), protocol=2))
    torch.save({"model": Trap()}, tmp_path / "trap.pt")
    (tmp_path / "empty.pt").touch()
    for name in ("trap.pkl", "trap.pt", "empty.pt"):
        with pytest.raises(artifacts.ContractError, match=f"{name} is not a checkpoint"):
            artifacts.load_model(tmp_path / name)
    with pytest.raises(artifacts.ContractError, match="no such file"):
        artifacts.load_model(tmp_path / "absent.pt")


def test_figures_are_repeatable_and_keep_their_numbers(tmp_path):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    numbers = pd.DataFrame(
        {"panel": "a", "series": "s", "x": [0.0, 1.0], "y": [1.0, 2.0], "low": np.nan, "high": np.nan}
    )
    for name in ("one", "two"):
        figure = Figure()
        figure.subplots().plot(numbers["x"], numbers["y"])
        artifacts.save_figure(figure, tmp_path / name, numbers)
    for suffix in (".pdf", ".png", ".parquet"):
        one, two = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("one", "two"))
        assert one == two
    pd.testing.assert_frame_equal(artifacts.read(tmp_path / "one.parquet", "figure/1")[0], numbers)
