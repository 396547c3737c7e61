"""Every split with every start: who trains, and the two spreads of their scores."""

import numpy as np
import pandas as pd
import pytest
from energy_helpers import quadratic_model, rolling

from snapdyn import artifacts, crossed, metrics

ABOUT = {"paper": "jko", "experiment": "e", "dataset": "d", "method": "m"}


def test_members_begin_with_their_own_start_and_meet_every_other():
    assert crossed.members(3) == [(0, 0), (1, 1), (2, 2)]
    found = crossed.members(3, 2)
    assert found == [(0, 0), (0, 1), (1, 1), (1, 0), (2, 0), (2, 1)]
    assert set(crossed.members(5, 5)) == {(split, start) for split in range(5) for start in range(5)}


def table(values):
    """One mean for each split (row) and start (column)."""
    parts = [
        metrics.rows(
            {"w1": value, "w2": 1.0}, seed=split, split="test", unit="m", n=4, **ABOUT | {"method": f"m/start={start}"}
        )
        for split, row in enumerate(values)
        for start, value in enumerate(row)
    ]
    return pd.concat(parts, ignore_index=True)


def test_spreads_are_those_of_a_table_of_sums():
    """Splits add 0 and 1, starts add 0, 3 and 6: nothing else."""
    frame = crossed.spreads(table(np.add.outer([0.0, 1.0], [0.0, 3.0, 6.0])), identity=ABOUT)
    found = frame.set_index("metric")["value"]
    assert found["w1_sd_over_splits"] == pytest.approx(np.sqrt(0.5))
    assert found["w1_sd_over_starts"] == pytest.approx(3.0)
    assert found["w2_sd_over_starts"] == 0 and set(frame["n"]) == {6} and set(frame["unit"]) == {"m"}
    assert crossed.spreads(table([[1.0, 2.0]]), identity=ABOUT).empty


def test_every_start_is_scored_under_a_name_of_its_own():
    data = rolling(50)
    fitted = [(0, quadratic_model(times=(0.0, 1.0, 2.0, 3.0))), (4, quadratic_model(rate=[0.0, 0.0]))]
    frame = crossed.score(fitted, data, identity=ABOUT | {"seed": 2}, rng=np.random.default_rng(0))
    assert artifacts.problems(frame, "metrics/1", {}) == []
    w1 = frame[(frame["metric"] == "w1") & frame["t"].isna()].set_index("method")["value"]
    assert set(w1.index) == {"m/start=0", "m/start=4"} and w1["m/start=0"] < w1["m/start=4"]
