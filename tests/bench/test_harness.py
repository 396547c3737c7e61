"""The benchmark's own rules: no ratio from unsteady numbers, no time for wrong answers, no stop for missing peers."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import energy_paths
import energy_step_paths
import harness
import plot
from harness import Case, Variant

from snapdyn import artifacts


class FakeClock:
    """CPU seconds that a variant claims to have used."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def costs(self, seconds):
        """A function that takes ``seconds``: one number, or one for each call, the last one from then on."""
        queue = list(np.atleast_1d(seconds))

        def call():
            self.now += queue.pop(0) if len(queue) > 1 else queue[0]
            return seconds

        return call


def rows_of(variants, **options):
    case = Case("path", "setting", variants, **options)
    return {row["variant"]: row for row in harness.measure(case, log=lambda line: None)}


def variant(clock, name, role, seconds, **options):
    function = clock.costs(seconds)
    return Variant(name, role, lambda: function, clock=clock, **options)


def test_ratio_is_of_medians_and_work_is_scaled():
    clock = FakeClock()
    rows = rows_of(
        [
            variant(clock, "mine", "ours", 2.0),
            variant(clock, "theirs", "peer", 3.0, pass_ratio=1.2, work=0.5),
            variant(clock, "aside", "context", 1.0, pass_ratio=9.0),
        ]
    )
    assert rows["theirs"]["ratio"] == pytest.approx(3.0) and rows["theirs"]["pass_ratio"] == 1.2
    assert rows["theirs"]["cpu_s"] == pytest.approx(6.0)
    assert math.isnan(rows["mine"]["ratio"]) and math.isnan(rows["aside"]["ratio"])
    assert math.isnan(rows["aside"]["pass_ratio"])


JUST, NOT_QUITE = [1, 1, 1, 1.6, 1.6, 1.6, 1.6], [1, 1, 1, 1.8, 1.8, 1.8, 1.8]  # warm-up, gauge, five rounds


@pytest.mark.parametrize(("calls", "given"), [(JUST, True), (NOT_QUITE, False)])
@pytest.mark.parametrize("side", ["ours", "peer"])
def test_no_ratio_where_best_and_median_disagree(calls, given, side):
    clock = FakeClock()
    seconds = {"ours": 1.0, "peer": 1.0} | {side: calls}
    rows = rows_of([variant(clock, role, role, seconds[role]) for role in ("ours", "peer")])
    assert math.isnan(rows["peer"]["ratio"]) != given
    assert ("no ratio" in rows["peer"]["note"]) != given


def test_missing_broken_and_wrong_peers_are_rows():
    def missing():
        import a_library_that_nobody_has  # noqa: F401

    def broken():
        raise RuntimeError("out of paper")

    def elsewhere():
        raise harness.Unavailable("needs a quantum computer")

    clock = FakeClock()
    rows = rows_of(
        [
            variant(clock, "mine", "ours", 1.0),
            Variant("missing", "peer", missing, clock=clock),
            Variant("broken", "peer", broken, clock=clock),
            Variant("elsewhere", "peer", elsewhere, clock=clock),
            variant(clock, "wrong", "peer", 0.25),
            variant(clock, "unchecked", "peer", 0.25, compare=False),
        ],
        error=lambda output: abs(output - 1.0),
        tolerance=0.1,
    )
    states = ["measured", "not installed", "failed", "not available", "wrong", "measured"]
    assert [row["status"] for row in rows.values()] == states and "quantum" in rows["elsewhere"]["note"]
    assert "out of paper" in rows["broken"]["note"] and "a_library_that_nobody_has" in rows["missing"]["note"]
    assert rows["wrong"]["accuracy"] == 0.75 and math.isnan(rows["wrong"]["cpu_s"])
    assert rows["unchecked"]["ratio"] == pytest.approx(0.25)


def test_what_was_measured_elsewhere_says_so_and_is_not_run():
    clock = FakeClock()
    rows = rows_of(
        [
            variant(clock, "mine", "ours", 2.0),
            Variant("theirs", "peer", None, 1.5, stated=5.0, note="measured elsewhere"),
        ],
        error=lambda output: 0.0,
    )
    row = rows["theirs"]
    assert row["status"] == "stated" and row["cpu_s"] == 5.0 and math.isnan(row["peak_mb"] + row["accuracy"])
    assert row["ratio"] == pytest.approx(2.5) and row["pass_ratio"] == 1.5 and row["note"] == "measured elsewhere"
    assert "not measured here" in harness.line(row) and "not measured here" not in harness.line(rows["mine"])


def test_best_of_takes_the_fastest():
    clock = FakeClock()
    rows = rows_of(
        [variant(clock, "mine", "ours", 1.0), *(variant(clock, f"q{q}", "context", q) for q in (4.0, 2.0, 3.0))],
        best_of={"best": (["q4.0", "q2.0", "q3.0"], 1.5)},
    )
    assert rows["best"]["ratio"] == pytest.approx(2.0) and "q2.0" in rows["best"]["note"]
    assert rows["best"]["role"] == "peer" and rows["best"]["pass_ratio"] == 1.5


def test_too_few_rounds_are_refused():
    with pytest.raises(ValueError, match="at least 5"):
        harness.measure(Case("path", "setting", []), rounds=3)


def test_interleaved():
    order, clock = [], FakeClock()

    def marked(name):
        def call():
            order.append(name)
            clock.now += 1.0

        return Variant(name, "context", lambda: call, clock=clock)

    rows_of([marked("a"), marked("b")])
    assert order == ["a", "a", "b", "b", *["a", "b"] * 5]  # warm-up and gauge, then rounds


def test_peak_memory_sees_an_array():
    with harness.peak_memory() as peak:
        np.ones(8_000_000).sum()
    if math.isnan(peak.megabytes):
        pytest.skip("no high-water mark on this system")
    assert 50 < peak.megabytes < 100


def test_rows_keep_the_contract(tmp_path):
    clock = FakeClock()
    case = Case("path", "setting", [variant(clock, "mine", "ours", 1.0), variant(clock, "theirs", "peer", 2.0)])
    frame = harness.frame(harness.measure(case, log=lambda line: None))
    artifacts.write(frame, tmp_path / "benchmark.parquet", "benchmark/1", {"conditions": harness.conditions()})
    back, meta = artifacts.read(tmp_path / "benchmark.parquet", "benchmark/1")
    assert list(back["variant"]) == ["mine", "theirs"] and meta["conditions"]["versions"]["numpy"] == np.__version__


def test_exponent_of_a_power_law():
    sizes = np.array([1e4, 3e4, 1e5])
    assert harness.exponent(sizes, 2e-6 * sizes**1.5) == pytest.approx(1.5)
    assert harness.exponent(sizes, [0.1, math.nan, 1.0]) == pytest.approx(1.0)
    assert math.isnan(harness.exponent(sizes, [0.1, math.nan, math.nan]))


def grown(path, setting, sizes):
    clock = FakeClock()
    return harness.measure(
        Case(path, setting, [variant(clock, f"N = {n}", "ours", n * 1e-6) for n in sizes]), log=lambda line: None
    )


def test_growth_is_drawn_from_the_rows(tmp_path):
    rows = grown("moments-growth", "3 unknowns", [10_000, 100_000]) + grown("transport", "n", [1000])
    rows[0]["status"] = "failed"
    frame = harness.frame(rows)
    assert list(plot.growth_rows(frame)["size"]) == [100_000]
    artifacts.write(frame, tmp_path / "benchmark.parquet", "benchmark/1", {})
    plot.main([str(tmp_path / "benchmark.parquet")])
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_drawn_without_growth_cases(tmp_path):
    assert not plot.draw(harness.frame(grown("transport", "n", [1000])), tmp_path / "growth.png")
    assert not (tmp_path / "growth.png").exists()


@pytest.mark.parametrize("paths", [energy_paths.training, energy_step_paths.steps])
def test_our_side_of_the_energies_still_runs(paths):
    """The hot paths reach into the library, whose changes no other test would tell them."""
    ours = [variant for case in paths(small=True) for variant in case.variants if variant.role == "ours"]
    assert len(ours) >= 3
    for variant in ours:
        variant.prepare()()
