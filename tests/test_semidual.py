"""The value of a potential with the inner problem solved: closed forms, the bound, and what it refuses."""

import numpy as np
import pytest
import torch
from energy_helpers import RATE, Quadratic, rolling

from snapdyn import semidual
from snapdyn.courses import Courses
from snapdyn.energies import Energy

TIMES = (0.0, 1.0, 3.0)


def carried(n=60):
    """One cloud carried by the exact implicit steps of a quadratic potential, the same particles at each time."""
    first = rolling(n, times=(0.0, 1.0), seed=3).x[:n]
    shrink = np.cumprod([np.ones(2)] + [1 / (1 + gap * RATE) for gap in np.diff(TIMES)], axis=0)
    snapshots = rolling(n, times=TIMES)
    return [type(snapshots).build(np.concatenate([first * s for s in shrink]), t=np.repeat(TIMES, n), meta={})]


def inside(courses, factor=1.0):
    """The quadratic potential in the units of one course, times a factor."""
    rate, centre = factor * courses.clock * RATE, courses.centre[0] / courses.scale[0]
    return Energy(2, potential=Quadratic(rate, rate * centre))


def stacked(snapshots):
    return Courses.stacked(snapshots, dtype=torch.float64)


def test_the_right_potential_reaches_the_bound_and_others_stay_below():
    courses = stacked(carried())
    bound = semidual.bounds(courses)
    value, residual = semidual.values(inside(courses), courses)
    assert abs(float(bound - value)) < 1e-6 * float(bound)
    assert residual.max() < 1e-3
    for factor in (0.7, 1.5):
        assert float(bound - semidual.values(inside(courses, factor), courses)[0]) > 0.01 * float(bound)


def test_the_value_of_a_quadratic_is_the_closed_form():
    courses = stacked(carried())
    rate = courses.clock * RATE
    centre, exact = courses.centre[0] / courses.scale[0], 0.0
    for k, tau in enumerate(courses.gaps):
        x, z = (courses.x[k + place][0].numpy() + centre for place in (0, 1))
        exact += (0.5 * rate / (1 + tau * rate) * x**2).sum(1).mean() - (0.5 * rate * z**2).sum(1).mean()
    value = float(semidual.values(inside(courses), courses)[0])
    assert value == pytest.approx(exact, abs=1e-6)  # the constant between both quadratics cancels


@pytest.mark.parametrize("timed", [False, True])
def test_no_network_passes_the_bound(timed):
    courses = stacked([rolling(80, seed=s).select(split="train") for s in range(3)])
    bound = semidual.bounds(courses)
    single = Courses.stacked([rolling(83, seed=s).select(split="train") for s in range(3)])  # weights of float32
    assert semidual.bounds(single).isfinite().all()
    energy = Energy.build(2, seeds=[4, 5, 6], timed=timed).double()
    with torch.no_grad():
        for weight in energy.parameters():
            weight.mul_(3)  # away from flat
    values = semidual.values(energy, courses)[0]
    assert (values <= bound + 1e-9).all()
    assert (values > -1e3).all()


def test_weights_are_those_of_the_population():
    snapshots = carried()[0]
    heavy = np.ones(len(snapshots.x))
    heavy[:10] = 5
    twice = type(snapshots).build(
        np.concatenate([snapshots.x, np.repeat(snapshots.x[:10], 4, axis=0)]),
        t=np.concatenate([snapshots.t, np.repeat(snapshots.t[:10], 4)]),
        meta={},
    )
    weighted = type(snapshots).build(snapshots.x, t=snapshots.t, weight=heavy, meta={})
    found = []
    for course in (weighted, twice):
        courses = stacked([course])
        unit = courses.energy_unit[0]
        value = semidual.values(inside(courses, 0.8), courses)[0]
        found.append([unit * float(value), unit * float(semidual.bounds(courses))])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)


@pytest.mark.parametrize("terms", [("interaction",), ("potential", "entropy"), ("potential", "interaction")])
def test_only_potentials_fall_apart(terms):
    with pytest.raises(ValueError, match="take the adversarial method"):
        semidual.check_potential(Energy.build(2, seeds=[1], terms=terms))


class Wells(torch.nn.Module):
    """V = 2 cos(6 x) + 2 cos(6 y): from most places Newton's method ends in the nearest well, not in the best one."""

    inputs = 2

    def forward(self, x):
        return 2 * torch.cos(6 * x).sum(-1, keepdim=True)

    def gradient(self, x, dim=None):
        return -12 * torch.sin(6 * x)

    def hessian(self, x, dim=None):
        return self.gradient(x), torch.diag_embed(-72 * torch.cos(6 * x))


def test_many_wells_do_not_lift_a_potential_over_the_bound():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(0.3, 0.3, (1, 60, 2)))
    y = torch.from_numpy(np.pi / 6 * np.array([1, -1])[rng.integers(0, 2, (1, 60, 2))])  # at the bottom of wells
    weight = [torch.full((1, 60), 1 / 60).double()] * 2
    courses = Courses([x, y], weight, np.array([0.0, 1.0]), 1.0, np.zeros((1, 2)), np.ones(1))
    energy = Energy(2, Wells())
    value, residual = semidual.values(energy, courses)
    assert float(value) <= float(semidual.bounds(courses)) and float(residual.max()) < 1e-3
    # from the particles' own places alone the value would be above it
    own, _ = semidual.energy_steps.implicit(energy, x, 1.0, None, tolerance=1e-4, dtype=x.dtype)
    cost = energy.potential_value(own) + (own - x).square().sum(-1) / 2
    assert float(cost.mean() - energy.potential_value(y).mean()) > float(semidual.bounds(courses))
