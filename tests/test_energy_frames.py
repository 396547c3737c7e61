"""What a user gets of a learned energy: its field at the data and on a grid, cells on their way, and a page."""

import numpy as np
import pandas as pd
import pytest
from energy_helpers import RATE, Quadratic, quadratic_model, rolling

from snapdyn import artifacts, energy_frames, metrics, pages, plotting
from snapdyn.config import Fit
from snapdyn.energies import Energy
from snapdyn.energy_models import EnergyModel
from snapdyn.snapshots import Snapshots

TIMES = (0.0, 2.0, 3.0)
DATA = rolling(30, TIMES)
GRID = energy_frames.SIDE**2


def test_the_field_stands_at_every_row_and_on_a_grid():
    frame, meta = energy_frames.field(quadratic_model(), DATA)
    assert artifacts.problems(frame, "field/1", meta) == []
    assert (len(frame), meta["rows"], meta["side"]) == (90 + GRID, 90, energy_frames.SIDE)
    x = frame[["x0", "x1"]].to_numpy()
    np.testing.assert_allclose(frame[["drift0", "drift1"]], -RATE * x, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(frame["t"][:90], DATA.t)
    assert frame["t"][90:].isna().all()
    assert (x[90:].min(0) < DATA.x.min(0)).all() and (x[90:].max(0) > DATA.x.max(0)).all()


def test_a_field_in_time_has_a_grid_for_every_step():
    frame, meta = energy_frames.field(quadratic_model(timed=True), DATA)
    assert meta["timed"] and frame["t"][90:].unique().tolist() == [2.0, 3.0]
    one, two = (frame[90:][frame["t"][90:] == t]["potential"].to_numpy() for t in (2.0, 3.0))
    np.testing.assert_allclose(two, 1.5 * one, rtol=1e-9, atol=1e-9)


def test_on_a_grid_the_population_of_the_time_pulls():
    model = quadratic_model(interaction=Quadratic(1.5 * np.ones(2)))
    frame, _ = energy_frames.field(model, DATA)
    grid = frame[90:][frame["t"][90:] == 3.0]
    x = grid[["x0", "x1"]].to_numpy()
    pull = -RATE * x - (x - DATA.select(t=3.0).x.mean(0))
    np.testing.assert_allclose(grid[["drift0", "drift1"]], pull, rtol=1e-9, atol=1e-9)


def test_an_interaction_alone_has_a_drift_and_no_map():
    energy = Energy(2, interaction=Quadratic(np.ones(2)))
    model = EnergyModel(energy, times=TIMES, clock=1.5, centre=np.zeros(2), scale=1.0, axes=["x", "y"])
    frame, meta = energy_frames.field(model, DATA)
    assert "potential" not in frame and artifacts.problems(frame, "field/1", meta) == []
    assert pages.maps(frame, meta) == []


def test_rows_on_their_way():
    moved = energy_frames.on_the_way(quadratic_model(), DATA, np.random.default_rng(0))
    assert moved.times.tolist() == [0.5, 1.0, 1.5, 2.25, 2.5, 2.75, 4.5]
    start = DATA.select(t=2.0).x
    np.testing.assert_allclose(moved.select(t=2.5).x, start / (1 + 0.5 * RATE), rtol=1e-6, atol=1e-8)
    last = DATA.select(t=3.0).x
    np.testing.assert_allclose(moved.select(t=4.5).x, last / (1 + 1.5 * RATE), rtol=1e-6, atol=1e-8)
    assert artifacts.problems(moved.frame(), "snapshots/1", {"dim": 2}) == []
    assert set(moved.row % moved.meta["row_stride"]) == set(DATA.row)


def measured():
    about = {"paper": "analyses", "experiment": "q", "dataset": "d", "split": "test", "n": 5, "unit": "1", "seed": 0}
    parts = [metrics.rows({"w1": w1}, method=m, **about) for m, w1 in (("ijkonet-v", 0.2), ("no-movement", 0.4))]
    return pd.concat([*parts, metrics.rows({"step_residual": 1e-8}, method="ijkonet-v", **about)], ignore_index=True)


@pytest.mark.parametrize(
    ("timed", "maps"), [(False, ["potential"]), (True, ["potential at t = 2", "potential at t = 3"])]
)
@pytest.mark.parametrize("plane", [True, False])
def test_the_page_maps_the_potential(tmp_path, timed, maps, plane, style):
    data, model = DATA, quadratic_model(timed=timed)
    if not plane:
        x = np.column_stack([DATA.x, DATA.x[:, :1]])
        data = Snapshots.build(x, t=DATA.t, split=DATA.split, meta=DATA.meta | {"axes": ["x", "y", "z"], "dim": 3})
        potential = Quadratic(np.ones(3), np.zeros(3), timed=timed)
        about = {"times": TIMES, "clock": 1.5, "centre": np.zeros(3), "scale": 1.0, "axes": ["x", "y", "z"]}
        model = EnergyModel(Energy(3, potential=potential), **about)
    field = energy_frames.field(model, data)
    fit = Fit("analyses", "q", "forecast", "d", "ijkonet-v", 1)
    frame = pages.arrange(data, data.select(split="test"), measured(), model.parameters, field)
    assert artifacts.problems(frame, "figure/1", {}) == []
    assert [panel for panel in dict.fromkeys(frame["panel"]) if panel.startswith("potential")] == maps
    answer = {"verdict": "yes", "sentence": "Better than no movement: yes. It is.", "null": "no movement"}
    with style:
        figure = plotting.page(frame, style, pages.facts(fit, data, answer))
        titles = [axis.get_title() for axis in figure.axes]
        artifacts.save_figure(figure, tmp_path / "page", frame)
    assert set(maps) <= set(titles)
    text = pages.text(fit, data, measured(), model.parameters, answer, field)
    assert "## The energy" in text and "solved to 1.0e-08" in text
    assert ("grid of 61 by 61" in text) == plane
