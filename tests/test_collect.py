"""Tables of many jobs become one, whatever the order in which they came."""

import subprocess
import sys

import pytest

from snapdyn import artifacts, collect, metrics


def write(folder, name, seed, method="m", value=1.0):
    about = {"paper": "p", "experiment": "e", "dataset": "d", "method": method, "seed": seed}
    frame = metrics.rows({"w2": value, "w1": value}, **about, split="test", unit="PC", n=3)
    artifacts.write(frame, folder / f"{name}.parquet", "metrics/1")
    return folder / f"{name}.parquet"


def test_the_order_of_jobs_and_files_leaves_no_trace(tmp_path):
    paths = [write(tmp_path, name, seed) for name, seed in (("c", 2), ("a", 0), ("b", 1))]
    frame, meta = collect.concatenate(paths, "metrics/1")
    assert frame["seed"].tolist() == [0, 0, 1, 1, 2, 2]
    assert frame["metric"].tolist() == ["w1", "w2"] * 3
    assert meta == {"tables": 3}
    artifacts.write(frame, tmp_path / "one.parquet", "metrics/1", meta)
    renamed = [write(tmp_path / "elsewhere", name, seed) for name, seed in (("z", 0), ("y", 2), ("x", 1))]
    again, meta = collect.concatenate(renamed, "metrics/1")
    artifacts.write(again, tmp_path / "two.parquet", "metrics/1", meta)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_parameters_keep_their_gaps(tmp_path):
    import numpy as np
    import pandas as pd

    about = {"paper": "p", "experiment": "e", "dataset": "d", "method": "m", "seed": [1, 0], "name": "a"}
    numbers = {"estimate": [1.0, 2.0], "std_error": [np.nan, 0.1], "truth": np.nan, "unit": "1"}
    artifacts.write(pd.DataFrame(about | numbers), tmp_path / "p.parquet", "parameters/1")
    frame, _ = collect.concatenate([tmp_path / "p.parquet"], "parameters/1")
    assert frame["estimate"].tolist() == [2.0, 1.0]
    assert frame["std_error"].isna().tolist() == [False, True]


def test_all_faults_are_named_at_once(tmp_path):
    good = write(tmp_path, "good", 0)
    (tmp_path / "bad.parquet").write_text("not a table")
    paths = [good, tmp_path / "bad.parquet", tmp_path / "absent.parquet"]
    with pytest.raises(artifacts.ContractError, match=r"absent\.parquet: no such file(.|\n)*bad\.parquet is not"):
        collect.concatenate(paths, "metrics/1")
    with pytest.raises(ValueError, match="at least, got none"):
        collect.concatenate([], "metrics/1")


def test_moving_tables_never_imports_torch():
    code = "import sys; from snapdyn import collect, scorecard, metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
