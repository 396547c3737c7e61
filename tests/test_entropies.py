"""Entropies by nearest neighbours against laws whose entropy is known."""

import math

import numpy as np
import pytest

from snapdyn import entropies
from snapdyn.courses import Courses
from snapdyn.snapshots import Snapshots


def gaussian_entropy(cov):
    return 0.5 * np.linalg.slogdet(2 * math.pi * math.e * np.atleast_2d(cov))[1]


@pytest.mark.parametrize(("dim", "n", "off"), [(1, 4000, 0.05), (2, 4000, 0.05), (5, 4000, 0.12)])
def test_gaussians(dim, n, off):
    rng = np.random.default_rng(dim)
    mix = rng.normal(size=(dim, dim)) + 2 * np.eye(dim)
    x = rng.normal(size=(n, dim)) @ mix.T
    assert abs(entropies.differential_entropy(x) - gaussian_entropy(mix @ mix.T)) < off


def test_uniforms_and_the_unit_of_length():
    x = np.random.default_rng(0).uniform(-4, 4, size=(4000, 2))
    found = entropies.differential_entropy(x)
    assert abs(found - 2 * math.log(8)) < 0.05
    assert entropies.differential_entropy(10 * x) - found == pytest.approx(2 * math.log(10))


def test_the_error_shrinks_with_the_cloud():
    errors = []
    for n in (100, 6400):
        draws = [np.random.default_rng(seed).normal(size=(n, 2)) for seed in range(8)]
        errors.append(np.mean([abs(entropies.differential_entropy(x) - gaussian_entropy(np.eye(2))) for x in draws]))
    assert errors[1] < errors[0] / 3


def test_weights_stand_for_rows():
    """A uniform cloud that is weighted like a Gaussian has the Gaussian's entropy, not the uniform's."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-5, 5, size=(20_000, 2))
    weight = np.exp(-0.5 * (x**2).sum(1))
    exact = gaussian_entropy(np.eye(2))
    assert abs(entropies.differential_entropy(x, weight) - exact) < 0.06
    assert abs(entropies.differential_entropy(x) - exact) > 1
    assert entropies.differential_entropy(x, 3 * weight) == pytest.approx(entropies.differential_entropy(x, weight))


def test_weights_that_say_nothing_about_the_place_change_little():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(5000, 2))
    even = entropies.differential_entropy(x)
    assert abs(entropies.differential_entropy(x, rng.uniform(0.5, 1.5, size=5000)) - even) < 0.06
    assert entropies.differential_entropy(x, np.full(5000, 0.2)) == pytest.approx(even)


def test_repeated_rows_are_one_heavier_row():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(4000, 2))
    again = x[rng.integers(0, 4000, 8000)]
    assert np.isfinite(entropies.differential_entropy(again))
    assert abs(entropies.differential_entropy(again) - gaussian_entropy(np.eye(2))) < 0.1
    assert entropies.differential_entropy(np.repeat(x, 7, axis=0)) == pytest.approx(entropies.differential_entropy(x))
    dropped = np.concatenate([x, 100 + rng.normal(size=(50, 2))]), np.r_[np.ones(4000), np.zeros(50)]
    assert entropies.differential_entropy(*dropped) == pytest.approx(entropies.differential_entropy(x))


@pytest.mark.parametrize(
    ("x", "weight", "said"),
    [
        (np.zeros((100, 2)), None, "different places, got 1 among 100 rows"),
        (np.arange(10.0).reshape(5, 2), None, "more than 5"),
        (np.zeros(4), None, "got shapes"),
        (np.zeros((4, 2)), np.ones(3), "got shapes"),
        (np.full((9, 2), np.nan), None, "finite"),
        (np.zeros((9, 2)), -np.ones(9), "not negative"),
    ],
)
def test_refusals(x, weight, said):
    with pytest.raises(ValueError, match=said):
        entropies.differential_entropy(x, weight)


def test_of_courses():
    rng = np.random.default_rng(4)
    t = np.repeat([0.0, 1.0], 2000)
    courses = []
    for factor in (1.0, 3.0):
        x = rng.normal(size=(4000, 2)) * np.where(t == 0, 1, factor)[:, None]
        courses.append(Snapshots.build(x, t=t, meta={"dataset": "grows"}))
    found = entropies.snapshot_entropies(Courses.stacked(courses))
    assert found.shape == (2, 2)
    assert abs(found[0, 1] - found[0, 0]) < 0.1
    assert abs(found[1, 1] - found[1, 0] - 2 * math.log(3)) < 0.1
