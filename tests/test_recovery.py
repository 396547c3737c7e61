"""Recovery studies: tidy rows under their contracts, and every score against a number worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from snapdyn import artifacts, drifts, models, recovery, systems
from snapdyn.config import Fit
from snapdyn.snapshots import Snapshots

TRUTH = {"sigma": 10.0, "rho": 28.0, "beta": 2.5}


def asked(method="moments", **changed):
    about = {"paper": "p", "experiment": "e", "kind": "recovery", "dataset": "d", "method": method, "seeds": 2}
    return Fit(**(about | changed))


def lorenz(estimates, **options):
    terms = systems.build("lorenz", diffusivity=12.5).terms
    return models.DriftModel(terms, estimates, **({"diffusivity": 12.5} | options))


def assert_contract(frame, kind):
    assert artifacts.problems(frame, kind, {}) == []


def test_parameters_stand_beside_their_truth():
    model = lorenz([11.0, 28.0, 2.0], std_error=[0.5, 0.1, 0.2], diffusivity_error=0.3)
    frame = recovery.tidy_parameters(model, fit=asked(), seed=4, truth=TRUTH)
    assert_contract(frame, "parameters/1")
    assert frame["name"].tolist() == ["sigma", "rho", "beta", "diffusivity"]
    np.testing.assert_array_equal(frame["truth"], [10.0, 28.0, 2.5, np.nan])
    np.testing.assert_array_equal(frame["estimate"], [11.0, 28.0, 2.0, 12.5])
    assert set(frame["seed"]) == {4} and set(frame["method"]) == {"moments"}
    assert "truth" not in model.parameters  # the model's own frame is left alone
    assert recovery.tidy_parameters(model, fit=asked(), seed=4)["truth"].isna().all()


class Bare:
    """A model from outside without parameters, history or diagnostics."""

    def drift(self, t, x):
        return -x


def test_a_model_without_parameters_has_no_rows_but_their_columns():
    frame = recovery.tidy_parameters(Bare(), fit=asked(), seed=0)
    assert len(frame) == 0
    assert list(frame) == list(recovery.tidy_parameters(lorenz([1, 2, 3]), fit=asked(), seed=0))
    history = recovery.tidy_history(Bare(), seed=0)
    assert_contract(history, "history/1")
    assert history[["term", "value"]].to_numpy().tolist() == [["done", 1.0]]


def test_histories_are_paths_or_diagnostics_with_what_else_is_known():
    direct = recovery.tidy_history(lorenz([1, 2, 3], diagnostics={"j_statistic": 3.0, "j_dof": 4.0}), seed=7)
    assert_contract(direct, "history/1")
    assert direct["term"].tolist() == ["j_statistic", "j_dof"] and set(direct["step"]) == {0}
    path = {"member": [0, 1, 0, 1], "step": [0, 0, 5, 5], "term": ["loss"] * 4, "value": [4.0, 3.0, 2.0, 1.0]}
    both = recovery.tidy_history(lorenz([1, 2, 3], history=path), seed=7, extra={"attractor_w1": 0.5})
    assert_contract(both, "history/1")
    assert both["value"].tolist() == [4.0, 3.0, 2.0, 1.0, 0.5]
    assert both["term"].tolist() == ["loss"] * 4 + ["attractor_w1"]
    assert set(both["seed"]) == {7} and set(both["split"]) == {"train"}


def scored(*models_and_fits, histories=None, truth=TRUTH):
    parameters = pd.concat(
        [recovery.tidy_parameters(model, fit=fit, seed=seed, truth=truth) for model, fit, seed in models_and_fits]
    )
    frame = recovery.score(parameters, histories or {}, {"d": 500})
    assert_contract(frame, "metrics/1")
    return frame.set_index(["method", "seed", "metric"])["value"], frame


def test_errors_are_relative_signed_and_in_standard_errors():
    value, frame = scored((lorenz([11.0, 27.3, 2.5], std_error=[0.5, 0.35, np.nan]), asked(), 3))
    at = value["moments", 3]
    assert at["relative_error_sigma"] == pytest.approx(0.1)
    assert at["relative_error_rho"] == pytest.approx(-0.025)
    assert at["relative_error_beta"] == 0.0
    assert at["z_sigma"] == pytest.approx(2.0) and at["z_rho"] == pytest.approx(-2.0)
    assert "z_beta" not in at  # no standard error, no z
    size = np.sqrt((10.0**2 + 28.0**2 + 2.5**2) / 3)
    assert at["relative_rms_error"] == pytest.approx(np.sqrt((1.0 + 0.7**2) / 3) / size)
    assert set(frame["n"]) == {500} and set(frame["split"]) == {"train"} and frame["t"].isna().all()


def test_a_negative_truth_keeps_the_sign_of_the_error():
    value, _ = scored((lorenz([1.0, -3.0, 2.0]), asked(), 0), truth={"sigma": 1.0, "rho": -2.0, "beta": 2.0})
    assert value["moments", 0]["relative_error_rho"] == pytest.approx(-0.5)


def test_what_has_no_truth_is_not_scored():
    value, _ = scored((lorenz([11.0, 28.0, 2.5], diffusivity_error=0.1), asked(), 0))
    assert not any("diffusivity" in name for name in value["moments", 0].index)


def test_a_truth_of_zero_has_no_relative_error_but_stops_nothing():
    value, _ = scored((lorenz([10.0, 28.0, 0.1], std_error=[1.0, 1.0, 0.1]), asked(), 0), truth=TRUTH | {"beta": 0.0})
    at = value["moments", 0]
    assert "relative_error_beta" not in at and at["z_beta"] == pytest.approx(1.0)
    assert at["relative_error_sigma"] == 0.0


def test_the_optimiser_is_measured_against_the_exact_minimum_of_the_same_seed():
    parts = [
        (lorenz([10.0, 28.0, 2.0]), asked("kde-adam"), 0),
        (lorenz([10.0, 28.56, 2.0]), asked("kde-l1"), 0),
        (lorenz([99.0, 99.0, 99.0]), asked("kde-l1"), 1),
        (lorenz([10.0, 28.0, 2.0]), asked("kde-adam"), 2),
    ]
    value, _ = scored(*parts)
    assert value["kde-adam", 0]["relative_gap_to_l1"] == pytest.approx(0.02)
    assert "relative_gap_to_l1" not in value["kde-adam", 2]  # nothing to compare with
    assert "relative_gap_to_l1" not in value["kde-l1", 0]


def test_the_j_test_and_attractors_come_from_the_history_of_the_same_seed():
    def history(seed, statistic, **extra):
        model = lorenz([1, 2, 3], diagnostics={"j_statistic": statistic, "j_dof": 8.0, "j_p_value": 0.4})
        return recovery.tidy_history(model, seed=seed, extra=extra)

    histories = {("d", "moments"): pd.concat([history(0, 16.0, attractor_w1=0.7), history(1, 4.0)])}
    value, _ = scored((lorenz([10, 28, 2.5]), asked(), 0), (lorenz([10, 28, 2.5]), asked(), 1), histories=histories)
    assert value["moments", 0]["j_per_dof"] == 2.0 and value["moments", 1]["j_per_dof"] == 0.5
    assert value["moments", 0]["j_p_value"] == 0.4
    assert value["moments", 0]["attractor_w1"] == 0.7 and "attractor_w1" not in value["moments", 1]


def simulated(n=1500, seed=5):
    system = systems.build("hopf", diffusivity=0.5)
    about = {"system": "hopf", "options": {}, "parameters": system.parameters, "diffusivity": 0.5}
    meta = {"axes": ["x", "y"], "seed": seed, "system": about}
    return Snapshots.build(system.sample(n, np.random.default_rng(seed)), meta=meta)


def test_the_truth_is_that_of_the_system_that_made_the_cloud():
    assert recovery.truth_of(simulated()) == {"growth": 1.0, "saturation": 1.0}
    assert drifts.build({"library": "hopf"}, axes=("x", "y")).names == ("growth", "saturation")


def test_the_truth_in_another_library_is_the_coefficients_that_give_the_same_drift():
    cubic = recovery.truth_of(simulated(), {"library": "polynomial", "degree": 3})
    present = {"x: x": 1, "x: x^3": -1, "x: x y^2": -1, "x: y": 1}
    present |= {"y: y": 1, "y: y^3": -1, "y: x^2 y": -1, "y: x": -1}
    assert len(cubic) == 20
    for name, value in cubic.items():
        assert value == pytest.approx(present.get(name, 0.0), abs=1e-8) and (value == 0.0) == (name not in present)
    assert recovery.truth_of(simulated(), {"library": "polynomial", "degree": 2}) == {}  # no coefficients do
    assert recovery.truth_of(simulated(), {"library": "custom", "known": ["y", "-x"]}) == {}  # nothing is unknown
    joint = recovery.truth_of(simulated(), {"library": "hopf"}, "unknown")
    assert joint == {"growth": 1.0, "saturation": 1.0, "diffusivity": 0.5}


def test_intervals_and_absolute_errors_are_counted():
    model = lorenz([10.3, 28.0, 0.05], std_error=[0.1, 1.0, 0.1])
    value, _ = scored((model, asked(), 0), truth=TRUTH | {"beta": 0.0})
    at = value["moments", 0]
    assert at["covered"] == pytest.approx(2 / 3) and at["covered_sigma"] == 0.0 and at["covered_rho"] == 1.0
    assert at["within_three_errors"] == 0.0 and at["worst_z"] == pytest.approx(3.0)
    assert at["max_absolute_error"] == pytest.approx(0.3) and at["median_absolute_error"] == pytest.approx(0.05)
    assert at["entries_within_tenth"] == 2.0 and at["absolute_error_beta"] == pytest.approx(0.05)
    assert "support_exact" not in at


@pytest.mark.parametrize(
    ("estimate", "error", "exact"),
    [([10.0, 28.0, 0.0], [1.0, 1.0, np.nan], 1.0), ([10.0, 0.0, 0.0], [1.0, np.nan, np.nan], 0.0),
     ([10.0, 28.0, 0.1], [1.0, 1.0, 0.01], 0.0)],
)  # fmt: skip
def test_a_support_is_exact_if_the_true_terms_and_no_others_are_kept(estimate, error, exact):
    fit = asked("moments-sparse")
    value, _ = scored((lorenz(estimate, std_error=error), fit, 0), truth=TRUTH | {"beta": 0.0})
    assert value["moments-sparse", 0]["support_exact"] == exact


def test_moments_are_compared_with_kds_on_the_same_seed():
    parts = [
        (lorenz([10.1, 28.0, 2.5]), asked(), 0),
        (lorenz([10.2, 28.0, 2.5]), asked("kds"), 0),
        (lorenz([90.0, 28.0, 2.5]), asked("kds"), 1),
        (lorenz([10.1, 28.0, 2.5]), asked(), 2),
    ]
    value, _ = scored(*parts)
    assert value["moments", 0]["error_over_kds"] == pytest.approx(0.5)
    assert "error_over_kds" not in value["moments", 2]
    value, _ = scored(*parts[:2], truth=TRUTH | {"sigma": 0.0, "rho": 28.0})  # absolute errors beside a true zero
    assert value["moments", 0]["error_over_kds"] == pytest.approx(10.1 / 10.2)


def test_a_study_says_its_own_size():
    assert recovery.size_of("moments/n=2000/without x: y", 7) == 2000 and recovery.size_of("moments", 7) == 7
