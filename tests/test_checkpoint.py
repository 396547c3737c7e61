"""A job that is stopped goes on where it was, to the same bits; what is foreign or broken is not used."""

import logging
import os
import signal
import time
import types

import numpy as np
import pandas as pd
import pytest
import torch

from snapdyn import checkpoint, fokker_planck
from snapdyn.checkpoint import NOWHERE, Checkpoint
from snapdyn.interruption import Interruption


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results/demo/partial/toy/job.pt"


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Save at every opportunity."""
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", 0.0)


FRAME = pd.DataFrame(
    {
        "name": ["a", "ü"],
        "estimate": [0.1 + 0.2, -0.0],
        "truth": [np.nan, np.inf],
        "seed": [2**62, -1],
        "empty": ["", "x"],
    }
)
VALUES = {
    "frame": FRAME,
    "none of its rows": FRAME.iloc[:0],
    "pair": (FRAME, None),
    "tensor": torch.linspace(0, 1, 7, dtype=torch.float32),
    "plain": [1, 2.5, "three", True, {"four": 4}],
    "generator": np.random.default_rng(0).bit_generator.state,
}


def same(left, right):
    if isinstance(left, pd.DataFrame):
        pd.testing.assert_frame_equal(left, right, check_exact=True)
        return np.signbit(left["estimate"]).tolist() == np.signbit(right["estimate"]).tolist()
    if isinstance(left, tuple):
        return all(map(same, left, right))
    return torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right


@pytest.mark.parametrize("name", VALUES)
def test_a_part_comes_back_as_it_was_and_is_not_made_again(path, name):
    assert same(Checkpoint(path, "one").part("seed-0", lambda: VALUES[name]), VALUES[name])
    again = Checkpoint(path, "one")
    assert same(again.part("seed-0", lambda: pytest.fail("made again")), VALUES[name])
    assert again.part("seed-1", lambda: 1) == 1


def test_what_a_file_cannot_hold_is_refused_when_it_is_made(path):
    with pytest.raises(TypeError, match="plain values can be kept, got set"):
        Checkpoint(path, "one").part("seed-0", lambda: {"a": {1, 2}})


def test_another_identity_starts_anew_and_says_so(path, caplog):
    caplog.set_level(logging.INFO)
    Checkpoint(path, "one").part("seed-0", lambda: 1)
    assert Checkpoint(path, "another").part("seed-0", lambda: 2) == 2
    assert "is not used: code, parameters, inputs or device have changed" in caplog.text


def job(folder, content="1", **params):
    """What a job is made of, as far as it decides the results."""
    (folder / "toy.csv").write_text(content)
    given = types.SimpleNamespace(
        rule="toy",
        wildcards={"seed": "3"},
        params={"degree": 2} | params,
        input=[folder / "toy.csv"],
        log=["logs/a.log"],
    )
    return types.SimpleNamespace(snakemake=given, interrupted=None, log=None)


def test_the_identity_is_all_that_decides_the_results(tmp_path):
    changes = [{}, {"content": "2"}, {"degree": 3}, {"more": [1.0]}]
    found = [checkpoint.of(job(tmp_path, **change), "cpu") for change in changes]
    found.append(checkpoint.of(job(tmp_path), "cuda"))
    assert len({keep.identity for keep in found}) == len(changes) + 1
    assert checkpoint.of(job(tmp_path), "cpu").identity == found[0].identity
    assert str(found[0].path) == "partial/a.pt"


class Trap:
    def __reduce__(self):
        return pytest.fail, ("unpickled!",)


def spoil(path, how):
    content = path.read_bytes()
    if how == "trap":
        torch.save({"identity": "one", "parts": {"seed-0": Trap()}, "loops": []}, path)
    elif how == "other":
        torch.save({"identity": "one", "parts": 3, "loops": None}, path)
    elif how == "flipped":
        place = content.index(b"precious")
        path.write_bytes(content[:place] + b"Q" + content[place + 1 :])
    else:
        path.write_bytes({"cut": content[:-50], "empty": b"", "text": b"hello"}[how])


@pytest.mark.parametrize("how", ["trap", "other", "flipped", "cut", "empty", "text"])
def test_a_broken_or_foreign_file_is_not_used(path, how, caplog):
    Checkpoint(path, "one").part("seed-0", lambda: "precious")
    spoil(path, how)
    assert Checkpoint(path, "one").part("seed-0", lambda: "made anew") == "made anew"
    assert f"{path} is not used" in caplog.text
    assert Checkpoint(path, "one").part("seed-0", lambda: pytest.fail("made again")) == "made anew"


def test_a_finished_job_leaves_nothing(path, tmp_path):
    (tmp_path / "results/demo/metrics.parquet").parent.mkdir(parents=True)
    (tmp_path / "results/demo/metrics.parquet").touch()
    keep = Checkpoint(path, "one")
    keep.part("seed-0", lambda: 1)
    assert path.exists()
    keep.clear()
    assert [file.name for file in (tmp_path / "results/demo").iterdir()] == ["metrics.parquet"]
    Checkpoint(path, "one").clear()  # nothing there is nothing to say


def test_a_disk_that_refuses_stops_no_job(path, monkeypatch, caplog):
    from snapdyn import artifacts

    def full(state, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifacts, "save_state", full)
    keep = Checkpoint(path, "one")
    assert keep.part("seed-0", lambda: 1) == 1
    assert "no checkpoint: [Errno 28] No space left" in caplog.text and keep.summary() == ""


# Loops


def count(keep, until, name="count", about=()):
    """Sum of squares by a loop; returns it and the steps that this attempt took."""
    with keep.loop(name, *about) as loop:
        state = loop.state or {"total": torch.zeros((), dtype=torch.float64)}
        total, taken = state["total"], []
        for step in range(loop.done + 1, until + 1):
            total += step**2
            taken.append(step)
            if step == 701:
                os.kill(os.getpid(), signal.SIGTERM)
            loop.tick(step, lambda: state)
    return float(total), taken


@pytest.fixture
def interruption(monkeypatch):
    """Signals are told; only they save."""
    monkeypatch.setattr(checkpoint, "SECONDS", 1e9)
    told, before = Interruption(), signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, told)
    yield told
    signal.signal(signal.SIGTERM, before)


def test_a_signal_waits_for_the_end_of_a_step_and_the_next_attempt_goes_on(path, interruption):
    keep = Checkpoint(path, "one", interruption=interruption)
    with pytest.raises(KeyboardInterrupt):
        keep.part("seed-0", lambda: count(keep, 1000)[0])
    assert interruption.signal == "SIGTERM" and keep.summary() == "count up to step 701"
    keep = Checkpoint(path, "one")
    total, taken = keep.part("seed-0", lambda: count(keep, 1000))
    assert taken == list(range(702, 1001)) and total == sum(step**2 for step in range(1001))
    keep.save()
    assert Checkpoint(path, "one").summary() == "1 finished parts"  # the loop of a finished part is forgotten


def test_a_signal_outside_of_loops_interrupts_at_once_and_a_second_does_not_disturb(interruption):
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.05)


def test_a_loop_that_never_asks_is_interrupted_by_a_later_signal(interruption, monkeypatch):
    monkeypatch.setattr("snapdyn.interruption.PATIENCE", 0.05)
    with pytest.raises(KeyboardInterrupt), interruption.waiting():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)


def test_a_failure_within_a_step_keeps_the_last_whole_one(path):
    def fail(keep):
        with keep.loop("count") as loop:
            total = torch.zeros(())
            state = {"total": total}
            for step in range(1, 10):
                total += step
                if step == 5:
                    raise ZeroDivisionError
                loop.tick(step, lambda: state)

    keep = Checkpoint(path, "one")
    with pytest.raises(ZeroDivisionError):
        fail(keep)
    keep.save()
    with Checkpoint(path, "one").loop("count") as loop:
        assert loop.done == 4 and loop.state["total"] == 10


def test_a_loop_about_other_numbers_starts_anew(path, caplog):
    caplog.set_level(logging.INFO)
    keep = Checkpoint(path, "one")
    count(keep, 5, about=[torch.ones(3)])
    keep.save()
    assert count(Checkpoint(path, "one"), 5, about=[torch.ones(3)]) == (55, [])
    assert count(Checkpoint(path, "one"), 5, about=[torch.zeros(3)]) == (55, [1, 2, 3, 4, 5])
    assert count(Checkpoint(path, "one"), 5, about=[torch.ones(3, dtype=torch.int64)])[1]
    assert "kept is for other numbers" in caplog.text


def test_loops_do_not_nest(path):
    keep = Checkpoint(path, "one")
    with pytest.raises(ValueError, match="'inner' inside the loop 'outer'"), keep.loop("outer"), keep.loop("inner"):
        pass


def adam(keep, seed=3):
    rng = np.random.default_rng(seed)
    design, rest = (torch.from_numpy(rng.standard_normal(shape)) for shape in ((600, 3), 600))
    starts = torch.from_numpy(rng.uniform(0, 4, (4, 3)))
    *found, loss = fokker_planck.adam_paths(design, rest, starts, batch=2, epochs=2, rate=0.05, rng=rng, keep=keep)
    return [*found, loss, rng.bit_generator.state]


def ending_after(stop, interruption, tick=checkpoint.Loop.tick):
    def ask(loop, done, give):
        if done == stop:
            interruption.signal = "SIGTERM"
        tick(loop, done, give)

    return ask


def test_the_papers_optimiser_goes_on_to_the_same_bits(path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SECONDS", 1e9)
    whole, steps = adam(NOWHERE), []
    for stop in (1, 49, 50, 51, 333, 599):
        keep = Checkpoint(path, "one")
        monkeypatch.setattr(checkpoint.Loop, "tick", ending_after(stop, keep.interruption))
        with pytest.raises(KeyboardInterrupt):
            adam(keep)
        steps.append(keep.summary())
    assert steps == [f"adam up to step {stop}" for stop in (1, 49, 50, 51, 333, 599)]
    monkeypatch.undo()
    found = adam(Checkpoint(path, "one"))
    for one, other in zip(whole[:-1], found[:-1], strict=True):
        assert np.array_equal(np.asarray(one), np.asarray(other))
    assert whole[-1] == found[-1]


def test_keeping_costs_next_to_nothing(path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SECONDS", 10.0)
    keep, took = Checkpoint(path, "one"), {}
    for name, where in (("plain", NOWHERE), ("kept", keep), ("plain again", NOWHERE), ("kept again", keep)):
        began = time.process_time()
        adam(where)
        took[name] = time.process_time() - began
    assert min(took["kept"], took["kept again"]) < 1.25 * min(took["plain"], took["plain again"])
