"""What the data determine and what they cannot: gauge directions are found, others never flagged."""

import numpy as np
import pytest
import torch
from moments_helpers import cloud_of, equations, fit, linear_snapshots, ou

from snapdyn import drifts, identifiability, moment_equations, systems

GAUGE = "do not determine all {} unknowns: a combination of .*{}.*in `known:`"
SWIRL = drifts.from_expressions(
    {"growth": ["x", "y"], "saturation": ["-x*(x^2+y^2)", "-y*(x^2+y^2)"], "turn": ["y", "-x"]}, None, axes=("x", "y")
)


@pytest.mark.parametrize("seed", range(4))
def test_a_rotation_that_the_cloud_cannot_show_is_refused(seed):
    with pytest.raises(ValueError, match=GAUGE.format(6, "'x0: x1', 'x1: x0'")):
        fit(drifts.affine(2, axes=("x0", "x1")), cloud_of(ou(), 2000, seed), diffusivity=0.5, seed=seed)
    hopf = systems.build("hopf", diffusivity=0.5)
    with pytest.raises(ValueError, match=GAUGE.format(3, "'turn'")):
        fit(SWIRL, cloud_of(hopf, 2000, seed), diffusivity=0.5, seed=seed)


def identified(terms, x, degree, names=None, diffusivity=0.5):
    found = equations(terms, x, degree, diffusivity=diffusivity)
    theta = torch.from_numpy(found.solve().efficient)
    return found, identifiability.identify(found, theta, names or terms.names)


def test_gauge_directions_are_found_and_named():
    """Of a linear drift: R C^-1 x with antisymmetric R, which turns along the level sets of N(0, C)."""
    ranks = []
    for seed in range(20):
        system = ou()
        found, known = identified(
            drifts.affine(2, axes=("x0", "x1")), system.sample(2000, np.random.default_rng(seed)), 3
        )
        ranks.append(known.rank)
        turn = np.array([[0, 1], [-1, 0]]) @ np.linalg.inv(system.covariance.numpy())
        design, rest = found.system()
        root = moment_equations.whitening(found.noise(torch.from_numpy(found.solve().efficient)))
        exact = np.concatenate([[0.0, *row] for row in turn]) * (root @ design).norm(dim=0).numpy()
        for direction in known.directions:
            assert abs(direction @ exact) / np.linalg.norm(exact) > 0.95
            assert np.linalg.norm(direction) == pytest.approx(1)
        if known.rank == 5:
            assert {"x0: x1", "x1: x0"} <= set(known.touched) <= {"x0: x1", "x1: x0", "x0: x0", "x1: x1"}
    assert ranks.count(5) >= 18 and min(ranks) >= 4

    hopf, ranks = systems.build("hopf", diffusivity=0.5), []
    for seed in range(20):
        _, known = identified(SWIRL, hopf.sample(2000, np.random.default_rng(seed)), 4)
        ranks.append(known.rank)
        assert ("turn" in known.touched) == (known.rank < 3)
        assert (np.abs(known.directions[:, 2]) > 0.8).all() and abs(known.weakest[2]) > 0.8
        assert len(known.singular_values) == 3 and (np.diff(known.singular_values) <= 0).all()
    assert ranks.count(2) >= 18 and min(ranks) >= 2


def test_three_rotations_of_three_axes():
    system, found = ou(dim=3), []
    for seed in range(5):
        x = system.sample(2000, np.random.default_rng(seed))
        found.append(identified(drifts.affine(3, axes=("x0", "x1", "x2")), x, 3)[1].rank)
    assert found.count(12 - 3) >= 4 and min(found) >= 9


def test_fields_that_are_nothing_or_the_same_are_gauge():
    x = ou().sample(1000, np.random.default_rng(0))
    plain = {"a": ["-x", "0"], "b": ["0", "-y"], "c": ["-y", "-x"]}
    for name, field in (("nothing", ["0", "0"]), ("twice", ["2*x", "0"])):
        terms = drifts.from_expressions(plain | {name: field}, ["0.8*y", "-0.8*x"], axes=("x", "y"))
        _, known = identified(terms, x, 4)
        assert known.rank == 3 and name in known.touched
        assert "b" not in known.touched and "c" not in known.touched


def test_nothing_is_flagged_where_all_is_determined():
    """No knob decides alone: the registered systems, from few rows to many, and the numbers of the report."""
    for name in ("ornstein-uhlenbeck", "hopf", "double-well"):
        system = systems.build(name, diffusivity=0.5)
        for n, seed in ((500, 0), (500, 1), (2000, 2), (2000, 3), (20000, 4)):
            _, known = identified(system.terms, system.sample(n, np.random.default_rng(seed)), 4)
            assert known.rank == len(known.names) and known.touched == [] and len(known.directions) == 0
    (line,) = known.report()
    top, low = known.singular_values[[0, -1]]
    assert line == (
        f"rank 3 of 3; singular values of the scaled system {top:.3g} to {low:.3g}, condition number {top / low:.3g}"
    )


def test_the_report_names_the_direction():
    known = identifiability.Identifiability(
        ["a", "b", "c"], np.array([1.0, 0.5, 0.01]), np.array([0.0, 0.0, 1.0]), np.array([[0.05, -0.8, 0.6]])
    )
    assert known.rank == 2 and known.touched == ["b", "c"]
    rank, direction = known.report()
    assert rank.startswith("rank 2 of 3; singular values") and rank.endswith("1 to 0.01, condition number 100")
    assert direction == "no effect along -0.80 'b' +0.60 'c'"


def test_a_refusal_reports_rank_singular_values_and_direction():
    with pytest.raises(
        ValueError, match="rank 2 of 3; singular values .* condition number .*; no effect along .*'turn'"
    ):
        fit(SWIRL, cloud_of(systems.build("hopf", diffusivity=0.5), 2000, 0), diffusivity=0.5)
    fine = fit(ou().terms, cloud_of(ou(), 1000, 0), diffusivity=0.5).diagnostics
    assert fine["rank"] == 3 and 1 <= fine["condition_number"] < 10


@pytest.mark.parametrize("seed", range(4))
def test_what_the_data_determine_is_not_refused(seed):
    """The same rotation in time, or beside a known one; and a full cubic library along one axis."""
    moved = linear_snapshots(1000, [0.0, 0.3, 0.6], seed)
    assert fit(drifts.affine(2, axes=("x", "y")), moved, diffusivity="unknown", seed=seed).diffusivity > 0
    assert len(fit(ou().terms, cloud_of(ou(), 1000, seed), diffusivity=0.5, seed=seed).coefficients) == 3
    one = ou(dim=1)
    found = fit(drifts.polynomial(1, 3, axes=("x0",)), cloud_of(one, 3000, seed), diffusivity=0.5, seed=seed, degree=6)
    assert (np.abs(found.coefficients - [0, -1, 0, 0]) < 4.5 * found.std_error).all()
