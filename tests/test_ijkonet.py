"""The min-max against closed forms: affine transport between Gaussians, beta of an entropy, and the signs."""

import math

import numpy as np
import pytest
import torch

from snapdyn import checkpoint, energies, energy_game, energy_steps, ijkonet, ijkonet_prox
from snapdyn.courses import Courses
from snapdyn.energies import Energy
from snapdyn.snapshots import Snapshots

AXES = {"axes": ["x", "y"], "hidden": (32, 32), "validation": 0}
ROOT = np.array([[1.3, 0.4], [0.4, 0.6]])  # the map from N(0, 1) to N(SHIFT, ROOT^2) is SHIFT + ROOT x
SHIFT = np.array([0.5, -1.0])


def timed(*clouds):
    t = np.repeat(np.arange(len(clouds), dtype=float), [len(x) for x in clouds])
    return Snapshots.build(np.concatenate(clouds), t=t, meta={"dataset": "gaussians"})


def gaussians(seed=0, n=2000):
    """Independent samples of two Gaussians."""
    rng = np.random.default_rng(seed)
    return timed(rng.normal(size=(n, 2)), SHIFT + rng.normal(size=(n, 2)) @ ROOT)


def trained(method, snapshots, seeds, **offers):
    courses = Courses.stacked(snapshots)
    offers = {"keep": checkpoint.NOWHERE, "progress": None} | offers
    return courses, method.train(courses, seeds=seeds, **offers)


def errors(courses, energy, k=1):
    """Mean square of y + grad V(y) minus the exact inverse map, in units of the mean square of the whole move."""
    found = []
    for member in range(courses.members):
        y = courses.scale[member] * courses.x[k][member].numpy() + courses.centre[member]
        moved = y - (y - SHIFT) @ np.linalg.inv(ROOT)
        slope = energy.potential_gradient(courses.x[k], float(courses.stamps[k])).detach()[member].numpy()
        found.append(((courses.scale[member] * slope + moved) ** 2).sum() / (moved**2).sum())
    return np.array(found)


def adversary(**options):
    return ijkonet.IJKOnet(**AXES, **({"steps": 300, "rate": 5e-3, "inner": 5} | options))


def solver(**options):
    return ijkonet_prox.IJKOnetProx(**AXES, **({"steps": 300, "rate": 5e-3} | options))


@pytest.mark.slow
def test_both_find_the_affine_map_between_gaussians_and_agree():
    data, seeds = [gaussians(), gaussians(1)], [3, 4]
    courses, played = trained(adversary(steps=600), data, seeds)
    solved = trained(solver(steps=600), data, seeds)[1]
    assert errors(courses, played.energy).max() < 0.01
    assert errors(courses, solved.energy).max() < 0.01
    y = courses.x[1]
    one, other = (found.energy.potential_gradient(y).detach() for found in (played, solved))
    assert float((one - other).square().mean() / one.square().mean()) < 0.01
    assert [d["steps"] for d in played.diagnostics] == [600, 600]
    assert all(d["flipped_share"] == 0 for d in played.diagnostics)
    assert all(d["inner_residual"] < 1e-2 for d in solved.diagnostics)


@pytest.mark.slow
def test_an_energy_that_minimises_does_not_find_it(monkeypatch):
    right = energy_game.price
    monkeypatch.setattr(energy_game, "price", lambda *args, **options: -right(*args, **options))
    courses, found = trained(adversary(), [gaussians()], [3])
    assert errors(courses, found.energy).min() > 0.9


@pytest.mark.slow
def test_a_timed_potential_differs_from_step_to_step():
    """There and back again: no single potential does it, one for each step does."""
    rng = np.random.default_rng(2)
    start, end = (rng.normal(size=(2000, 2)) for _ in range(2))
    there = SHIFT + rng.normal(size=(2000, 2)) @ ROOT
    courses, found = trained(solver(timed=True, steps=500), [timed(start, there, end)], [3])
    back = courses.scale[0] * courses.x[2][0].numpy() + courses.centre[0]
    moved = back - (SHIFT + back @ ROOT)
    slope = courses.scale[0] * found.energy.potential_gradient(courses.x[2], 1.0).detach()[0].numpy()
    assert ((slope + moved) ** 2).sum() < 0.03 * (moved**2).sum()
    assert errors(courses, found.energy).max() < 0.03
    flat = trained(solver(steps=500), [timed(start, there, end)], [3])[1]
    assert errors(courses, flat.energy).min() > 0.3


class OneEach(torch.nn.Module):
    """The potential rate |x|^2 / 2 with one rate for every step (told by its stamp), or one for all."""

    inputs = 3

    def __init__(self, rates, shared):
        super().__init__()
        self.rates, self.shared = torch.nn.Parameter(torch.as_tensor(rates, dtype=torch.float64)), shared

    def rate(self, x):
        place = 0 * x[..., 2].long() if self.shared else torch.round(x[..., 2]).long()
        return self.rates[place][..., None]

    def forward(self, x):
        return 0.5 * self.rate(x) * x[..., :2].square().sum(-1, keepdim=True)

    def gradient(self, x, dim=None):
        return self.rate(x) * x[..., :2]

    def hessian(self, x, dim=None):
        return self.gradient(x), self.rate(x)[..., None] * torch.eye(2).to(x)


@pytest.mark.parametrize("shared", [False, True])
def test_potentials_of_each_step_are_problems_of_their_own(shared):
    """The loss is a sum over steps: the slope by the potential of step k sees the snapshots k and k + 1 alone."""
    energy = Energy(2, potential=OneEach([0.3, -0.2, 0.5], shared))
    generator = torch.Generator().manual_seed(0)
    clouds = [(1 + k) * torch.randn(1, 50, 2, generator=generator, dtype=torch.float64) for k in range(4)]

    def slope(clouds):
        stamps = torch.arange(3).double().repeat_interleave(50)
        y, residual = energy_steps.implicit(energy, torch.cat(clouds[:-1], 1), 1.0, stamps)
        assert residual.max() < 1e-5
        price = energy_game.price(energy, y, torch.cat(clouds[1:], 1), stamps, 50)
        return torch.autograd.grad(price.sum(), energy.potential.rates)[0]

    before = slope(clouds)
    for moved in range(4):
        changed = slope([3 * x + 1 if k == moved else x for k, x in enumerate(clouds)])
        differs = [k for k in range(3) if changed[k] != before[k]]
        assert differs == ([0] if shared else [k for k in (moved - 1, moved) if 0 <= k < 3])


FIRST, SECOND = 1.0, 1.25  # standard deviations before and after


def beta_of(courses):
    """Of the JKO step between isotropic Gaussians: minimise |s - s0|^2 / (2 tau) - beta log s over s."""
    return SECOND * (SECOND - FIRST) / courses.scale[0] ** 2


def spreading(n=4000, seed=0):
    rng = np.random.default_rng(seed)
    return timed(FIRST * rng.normal(size=(n, 2)), SECOND * rng.normal(size=(n, 2)))


@pytest.mark.parametrize(("share", "sign"), [(0.5, 1), (1.0, 0), (2.0, -1)])
def test_the_slope_by_beta_vanishes_at_the_right_one_alone(share, sign):
    """With the best map of each beta, the price grows with a beta that is too small and falls with one too large."""
    courses = Courses.stacked([spreading()])
    beta = share * beta_of(courses)
    scale, first = courses.scale[0], FIRST / courses.scale[0]
    best = 0.5 * (first + math.sqrt(first**2 + 4 * beta))  # standard deviation that the step of beta leads to
    growth = 2 * math.log(best / first) - 2 * math.log(SECOND / FIRST)
    energy = Energy.build(2, seeds=[0], terms=("entropy",))
    with torch.no_grad():
        energy.raw_diffusivity.fill_(math.log(math.expm1(beta)))
    x = courses.x[1]
    value = energy_game.price(energy, x, x, torch.zeros(x.shape[1]), x.shape[1], torch.tensor([[growth]]))
    (slope,) = torch.autograd.grad(value.sum(), energy.raw_diffusivity)
    assert np.sign(round(float(slope), 5)) == sign
    assert best * scale == pytest.approx(SECOND) or sign


@pytest.mark.slow
def test_a_short_fit_gives_beta():
    method = adversary(terms=("entropy",), steps=400, rate=2e-2)
    courses, found = trained(method, [spreading(), spreading(seed=1)], [3, 4])
    np.testing.assert_allclose(found.energy.diffusivity.detach() / beta_of(courses), 1, atol=0.15)
    history = [row for row in found.history if row[2] == "diffusivity"]
    assert {row[0] for row in history} == {0, 1}
    shrinks = timed(*reversed(np.split(spreading().x, 2)))
    none = trained(method, [shrinks], [3])[1].energy.diffusivity.detach()
    assert float(none) < 0.02 * beta_of(courses)


@pytest.mark.slow
@pytest.mark.parametrize("start", [1e-4, 1.0])
def test_where_beta_ends_is_not_where_its_steps_ran_out(start, monkeypatch):
    """From a hundred times too little and from ten times too much, in the few steps that energies with pairs have."""
    monkeypatch.setattr(energies, "STARTING_DIFFUSIVITY", start)
    courses, found = trained(adversary(terms=("entropy",), steps=300, rate=1e-2), [spreading()], [3])
    np.testing.assert_allclose(found.energy.diffusivity.detach() / beta_of(courses), 1, atol=0.2)


@pytest.mark.slow
def test_particles_that_attract_each_other():
    """W = a z^2 / 2 draws a cloud to its mean: a step shrinks it by 1 + a."""
    rng, a = np.random.default_rng(0), 0.25
    clouds = [rng.uniform(-3, 3, (1500, 2)) / (1 + a) ** k for k in range(2)]
    courses, found = trained(adversary(terms=("interaction",), steps=150, batch=150, pairs=3), [timed(*clouds)], [3])
    y = courses.x[1]
    force, exact = found.energy.interaction_gradient(y[:, :300], y).detach(), a * (y[:, :300] - y.mean(1))
    assert float((force - exact).square().mean() / exact.square().mean()) < 0.05


@pytest.mark.slow
def test_each_member_ends_by_itself_and_keeps_its_best():
    seeds, data = [3, 4], [gaussians(n=300), gaussians(1, n=300)]
    held = Courses.stacked([gaussians(7, n=200), gaussians(8, n=200)])
    method = solver(every=20, patience=2, steps=400, rate=2e-2)
    courses = Courses.stacked(data)
    found = method.train(courses, seeds=seeds, validation=held, keep=checkpoint.NOWHERE, progress=None)
    for member in range(2):
        looks = {row[1]: row[3] for row in found.history if row[0] == member and row[4] == "validation"}
        chosen = found.diagnostics[member]["steps"]
        own = [step for step in looks if step <= chosen + 2 * 20]
        assert chosen == min(own, key=looks.get)
        assert found.diagnostics[member]["semi_dual_gap"] == looks[chosen]
        alone = method.train(
            Courses.stacked(data[member : member + 1]),
            seeds=seeds[member : member + 1],
            validation=Courses.stacked([gaussians(7 + member, n=200)]),
            keep=checkpoint.NOWHERE,
            progress=None,
        )
        assert alone.diagnostics[0]["steps"] == chosen
        y = courses.x[1]
        own = found.energy.potential_gradient(y)[member]
        torch.testing.assert_close(
            alone.energy.potential_gradient(y[member : member + 1])[0], own, rtol=0.05, atol=2e-3
        )


@pytest.mark.parametrize("terms", [("potential",), ("potential", "interaction", "entropy")])
@pytest.mark.parametrize("make", [adversary, solver])
def test_an_interrupted_fit_ends_in_the_same_bits(tmp_path, make, terms):
    if make is solver and len(terms) > 1:
        with pytest.raises(ValueError, match="adversarial"):
            trained(make(terms=terms), [gaussians(n=60)], [3])
        return
    method = make(terms=terms, steps=40, batch=30, every=10)
    data, held = [gaussians(n=60)], Courses.stacked([gaussians(5, n=60)])
    whole = trained(method, data, [3], validation=held)[1]

    class Stopped(Exception):
        pass

    class Impatient:
        def __init__(self):
            self.steps = 0

        def __call__(self, total, label):
            return self

        def update(self, n=1):
            self.steps += n
            if self.steps == 23:
                raise Stopped

        def close(self):
            pass

    keep = checkpoint.Checkpoint(tmp_path / "kept.pt")
    with pytest.raises(Stopped):
        trained(method, data, [3], validation=held, keep=keep, progress=Impatient())
    again = trained(method, data, [3], validation=held, keep=keep)[1]
    assert again.history == whole.history and again.diagnostics == whole.diagnostics
    for one, other in zip(again.energy.parameters(), whole.energy.parameters(), strict=True):
        assert torch.equal(one, other)
