"""The page of an analysis: what it says of identifiability, eliminated terms and ratios."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from snapdyn import evaluation, models, pages, plotting
from snapdyn.config import Fit
from snapdyn.snapshots import Snapshots

DIAGNOSTICS = {
    "j_statistic": 12.0,
    "j_dof": 10.0,
    "j_p_value": 0.3,
    "condition_number": 47.0,
    "rank": 3.0,
    "cross_fitted": 1.0,
    "carrying_rows": 400.0,
    "largest_singular_value": 2.1,
    "smallest_singular_value": 0.05,
    models.WEAKEST + "x: y": 0.9,
    models.WEAKEST + "y: x": -0.4,
}
ELIMINATED = {"threshold": 4.0, "kept": 1.0, "j_rise": 3.2, "j_rise_dof": 2.0, "j_rise_p_value": 0.2}


class Said:
    """A model with nothing but diagnostics."""

    def __init__(self, diagnostics):
        self.diagnostics = diagnostics


def reported(diagnostics):
    """The rows that the evaluation makes of what a model says of itself."""
    cell = Snapshots.build(np.zeros((5, 2)), meta={"seed": 0})
    about = {"paper": "analyses", "experiment": "q", "dataset": "d", "method": "moments"}
    (frame,) = evaluation._specification_tests(about, [0], [cell], [Said(diagnostics)])
    return frame


def parameters(names, estimates, errors):
    return pd.DataFrame({"name": names, "estimate": estimates, "std_error": errors, "unit": "1", "seed": 0})


NAMES = ["x: x", "x: y", "y: x"]


def said(diagnostics, table):
    return "\n".join(pages.identifiability(reported(diagnostics), table))


def test_rank_singular_values_and_the_weakest_combination_are_named():
    text = said(DIAGNOSTICS, parameters(NAMES, [1.0, 2.0, 3.0], [0.1, 0.1, 0.1]))
    for part in ("rank 3 of 3", "2.1 to 0.05", "condition number 47", "moves `x: y`, `y: x`"):
        assert part in text
    assert "eliminated" not in text and "ratios" not in text and "too small" not in text and "heavy" not in text


def test_elimination_says_its_threshold_and_its_price():
    text = said(DIAGNOSTICS | ELIMINATED, parameters(NAMES, [1.0, 0.0, 0.0], [0.1, np.nan, np.nan]))
    assert "below 4 standard errors" in text and "1 of 3 are kept" in text
    assert "J rose by 3.2 on 2 degrees of freedom (p = 0.2;" in text


def test_ratios_and_doubtful_errors_are_said():
    table = parameters([f"{name} / D" for name in NAMES], [1.0, 2.0, 3.0], [0.1, 0.1, 0.1])
    text = said(DIAGNOSTICS | {"cross_fitted": 0.0, "carrying_rows": 7.0}, table)
    assert "**Only ratios to the diffusivity are known.**" in text
    assert "**The standard errors may be too small**" in text
    assert "**The tails are heavy**: the noise of one test function is carried by 7 rows." in text


def test_methods_without_a_report_have_no_paragraph():
    assert pages.identifiability(reported({"j_statistic": 1.0, "j_dof": 1.0, "j_p_value": 0.3}), None) == []


def test_dropped_terms_are_those_that_are_gone_in_every_seed():
    one = parameters(NAMES, [1.0, 0.0, 0.0], [0.1, np.nan, np.nan])
    two = parameters(NAMES, [1.0, 0.0, 2.0], [0.1, np.nan, 0.1]).assign(seed=1)
    assert pages.dropped(pd.concat([one, two])) == ["x: y"]
    assert pages.dropped(parameters(NAMES, [0.0, 1.0, 2.0], [0.1, np.nan, 0.1])) == []  # zero with an error stays


@pytest.mark.parametrize("gone", [True, False])
def test_the_page_lists_what_was_eliminated_instead_of_rows_of_zeros(gone):
    rng = np.random.default_rng(0)
    split = np.array(["train"] * 20 + ["test"] * 10, dtype=object)
    cells = Snapshots.build(rng.normal(size=(30, 2)), split=split, meta={"space": "plane", "axes": ["x", "y"]})
    fit = Fit("analyses", "q", "stationary", "d", "moments-sparse", 1)
    table = parameters(NAMES, [1.0, 0.0 if gone else 2.0, 3.0], [0.1, np.nan if gone else 0.1, 0.1])
    scores = pd.DataFrame(
        {"metric": ["weak_form_residual"], "t": [np.nan], "method": ["moments-sparse"], "value": [1.0]}
    )
    frame = pd.concat([scores, reported(DIAGNOSTICS | ELIMINATED)], ignore_index=True)
    answer = {"verdict": "yes", "null": "the best linear drift", "sentence": "Yes. It is."}
    text = pages.text(fit, cells, frame, table, answer)
    assert "**Better than the best linear drift: yes.** It is." in text and "doing nothing" not in text
    assert pages.facts(fit, cells, answer)["verdict"] == "better than the best linear drift: yes"
    assert ("Eliminated in every seed: `x: y`." in text) == gone
    assert ("| x: y | 2 |" in text) != gone
    assert "| x: x | 1 | 0.1 |" in text


SCORES = {"nll": 1.5, "components": 3.0, "integral": 1.0001, "w1_samples": 0.2, "w1_floor": 0.19}


def density_page(times=None, parameters=None, values=SCORES):
    rng = np.random.default_rng(0)
    split = np.array(["train"] * 20 + ["test"] * 10, dtype=object)
    t = None if times is None else np.resize(times, 30)
    meta = {"space": "plane", "axes": ["x", "y"], "time_unit": "day"}
    cells = Snapshots.build(rng.normal(size=(30, 2)), t=t, split=split, meta=meta)
    fit = Fit("analyses", "q", "density", "d", "gaussian-mixture", 1)
    frame = pd.DataFrame({"metric": list(values), "value": list(values.values()), "t": np.nan, "seed": 0})
    frame = pd.concat([frame.assign(method="gaussian-mixture"), frame[:1].assign(method="one-gaussian", value=2.5)])
    answer = {"verdict": "yes", "null": "one Gaussian", "sentence": "Better than one Gaussian: yes. Much."}
    table = parameters_of_none() if parameters is None else parameters
    return fit, cells, frame, table, answer


def parameters_of_none():
    return parameters(NAMES, [1.0] * 3, [0.1] * 3).iloc[:0]


def test_the_page_of_a_density_says_what_it_is():
    text = pages.text(*density_page())
    for part in (
        "**Better than one Gaussian: yes.** Much.",
        "## Scores (nll, held-out; lower is better)",
        "| gaussian-mixture | 1.5 |",
        "| one-gaussian | 2.5 |",
        "3 components",
        "integrates to 1.0001",
        "0.2 (W1) from the held-out rows; training rows are 0.19",
        "at any t, and `sample(n)`",
        "Draws from it, as many as held-out rows, are in `seed-*/predicted.parquet`",
    ):
        assert part in text, part
    assert "Parameters" not in text and "found from the density alone" not in text and "Transitions" not in text


def test_a_density_of_several_times_lists_them():
    text = pages.text(*density_page(times=[0.0, 2.5]))
    assert "at t, one of 0, 2.5, and `sample(n, t)`" in text and "Transitions" not in text


@pytest.mark.parametrize("found", [True, False])
def test_the_third_panel_holds_the_round_trip_or_says_that_there_is_none(found, style):
    table = parameters(NAMES, [1.0, 2.0, 3.0], [np.nan] * 3) if found else None
    fit, cells, frame, table, answer = density_page(parameters=table, values=SCORES | {"round_trip_residual": 0.1})
    text = pages.text(fit, cells, frame, table, answer)
    assert ("| x: y | 2 | – | – |" in text) == found
    shown = pages.arrange(cells, cells.select(split="test"), frame, table)
    facts = pages.facts(fit, cells, answer)
    assert facts["verdict"] == "better than one Gaussian: yes" and facts["drawn"] == "drawn from the density"
    with style:
        panel = plotting.page(shown, style, facts).axes[2]
    assert [text.get_text() for text in panel.texts] == ([] if found else [facts["no_parameters"]])
    assert [label.get_text() for label in panel.get_yticklabels()] == (NAMES if found else [])


def test_a_density_from_a_whole_drift_is_not_told_that_it_has_none():
    fit, cells, _, _, answer = density_page()
    assert "without a drift" in pages.facts(fit, cells, answer)["no_parameters"]
    learned = replace(fit, drift={"library": "custom", "known": ["-x", "-y"]})
    assert pages.facts(learned, cells, answer)["no_parameters"] == "the drift has no unknowns:\nno parameters"
