"""The prices of the min-max, its estimates of an interaction, and the gradient of each member by itself."""

import pytest
import torch
from energy_helpers import rolling

from snapdyn import energy_game, ijkonet
from snapdyn.courses import Courses
from snapdyn.energies import Energy

EVERYTHING = ("potential", "interaction", "entropy")
BATCH, STEPS, SEEDS = 6, 2, [3, 4]


def energy(terms=EVERYTHING, timed=False):
    return Energy.build(2, seeds=SEEDS, terms=terms, timed=timed, hidden=(5, 4)).double()


def cloud(seed):
    return torch.randn(2, STEPS * BATCH, 2, generator=torch.Generator().manual_seed(seed)).double()


def test_the_price_is_the_energy_of_the_carried_minus_that_of_the_observed():
    full, y, x = energy(timed=True), cloud(0), cloud(1)
    growth = torch.tensor([[0.1, 0.2], [-0.3, 0.1]]).double()
    stamps = torch.tensor([-0.2, 1.0]).double().repeat_interleave(BATCH)
    found = energy_game.price(full, y, x, stamps, BATCH, growth, pairs=BATCH - 1)
    exact = -full.diffusivity.double() * growth.sum(1)
    for k, stamp in enumerate((-0.2, 1.0)):
        for points, sign in ((y, 1), (x, -1)):
            here = points[:, k * BATCH : (k + 1) * BATCH]
            apart = [here[:, i] - here[:, j] for i in range(BATCH) for j in range(BATCH) if i != j]
            half = full.kernel(torch.stack(apart, 1)).mean(1) / 2
            exact = exact + sign * (full.potential_value(here, stamp).mean(1) + half)
    torch.testing.assert_close(found, exact)


def test_fewer_pairs_are_unbiased():
    half, draws = energy(("interaction",)), [cloud(seed) for seed in range(400)]
    few = torch.stack([energy_game.paired_interaction(half, x, BATCH, 1) for x in draws]).mean(0)
    all_pairs = torch.stack([energy_game.paired_interaction(half, x, BATCH, BATCH - 1) for x in draws])
    assert ((few - all_pairs.mean(0)).abs() < 0.2 * all_pairs.std(0)).all()


@pytest.mark.parametrize("pairs", [1, 3, BATCH - 1])
def test_the_force_of_pairs_is_the_slope_of_their_energy(pairs):
    half, x = energy(("interaction",)), cloud(2).requires_grad_()
    value = energy_game.paired_interaction(half, x, BATCH, pairs)
    (slope,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(energy_game.paired_force(half, x, BATCH, pairs), BATCH * slope)


@pytest.mark.parametrize("terms", [("potential",), ("interaction",), ("potential", "entropy"), EVERYTHING])
def test_the_maps_follow_the_slope_of_the_whole_loss(terms):
    """One pass through the maps with known slopes gives what differentiating the loss as written gives."""
    courses = Courses.stacked([rolling(50, times=(0.0, 1.0, 3.0), seed=s) for s in SEEDS], dtype=torch.float64)
    full = energy(terms)
    carrier = ijkonet.Maps(courses, full, seeds=SEEDS, batch=BATCH, inner=1, pairs=2, hidden=(5, 4))
    carrier.maps.double()
    with torch.no_grad():
        for weight in carrier.maps.parameters():
            weight.add_(0.1)
    same = ijkonet.Draws(courses, BATCH, [seed + ijkonet.BATCHES for seed in SEEDS])
    before = [w.detach().clone() for w in carrier.maps.parameters()]
    carrier.answer(full)
    ours = [w.grad.clone() for w in carrier.maps.parameters()]
    with torch.no_grad():
        for weight, value in zip(carrier.maps.parameters(), before, strict=True):
            weight.copy_(value)
    total = 0.0
    for k, tau in enumerate(courses.gaps):
        x = same.batch(k)
        y, log_det, _ = carrier.maps.with_log_det(x, float(courses.stamps[k]))
        total = total + ((y - x) ** 2).sum(2).mean(1).sum() / (2 * tau)
        if full.potential is not None:
            total = total + full.potential_value(y).mean(1).sum()
        if full.interaction is not None:
            total = total + energy_game.paired_interaction(full, y, BATCH, 2).sum()
        if full.diffusivity is not None:
            total = total - (full.diffusivity.detach() * log_det.mean(1)).sum()
    exact = torch.autograd.grad(total, list(carrier.maps.parameters()))
    for one, other in zip(ours, exact, strict=True):
        torch.testing.assert_close(one, other)


def test_each_member_is_clipped_by_itself():
    parameters = [torch.nn.Parameter(torch.zeros(3, 2, 2)), torch.nn.Parameter(torch.zeros(3))]
    parameters[0].grad = torch.tensor([1.0, 30.0, 0.0])[:, None, None].expand(3, 2, 2).clone()
    parameters[1].grad = torch.tensor([0.0, 80.0, 5.0])
    norm = energy_game.clip_each(parameters, 10.0)
    torch.testing.assert_close(norm, torch.tensor([2.0, 100.0, 5.0]))
    torch.testing.assert_close(parameters[0].grad[:, 0, 0], torch.tensor([1.0, 3.0, 0.0]))
    torch.testing.assert_close(parameters[1].grad, torch.tensor([0.0, 8.0, 5.0]))


class Two:
    """Two members whose potential is asked at one point a round; the second one's is not a number from ``when`` on."""

    price_options = {}

    def __init__(self, when):
        self.rounds, self.when = 0, when

    def answer(self, energy):
        pass

    def round(self, energy):
        self.rounds += 1
        y = torch.full((2, 1, 2), 0.3)
        if self.rounds >= self.when:
            y[1] = torch.nan
        return {"y": y, "x": -torch.full((2, 1, 2), 0.3), "stamps": torch.zeros(1), "batch": 1}

    def follow(self, decay):
        pass

    def state(self):
        return {}


class Looks:
    """The first member is better at every look, the second after its first look never."""

    term = "judged"

    def __init__(self):
        self.number = 0

    def __call__(self, energy, carrier):
        self.number += 1
        return torch.tensor([-float(self.number), float(self.number)]).double()


def played(when, **how):
    torch.manual_seed(0)
    recipe = energy_game.Recipe(steps=20, every=2, **how)
    game = Energy.build(2, seeds=SEEDS, terms=("potential",), hidden=(5, 4))
    return game, *energy_game.play(game, Two(when), recipe, judge=Looks(), witness=lambda e: {"seen": torch.ones(2)})


def test_a_member_that_has_ended_is_out_of_the_game():
    """It writes no more rows, and what becomes of its weights stops nobody."""
    _, _, rows = played(when=9, patience=3)  # the second member ends at the look of step 8
    for term in ("price", "gradient", "judged", "seen"):
        steps = {member: [row[1] for row in rows if row[0] == member and row[2] == term] for member in (0, 1)}
        assert steps == {0: list(range(2, 21, 2)), 1: [2, 4, 6, 8]}
    alone, numbers, same = played(when=100, patience=3)
    broken = played(when=9, patience=3)
    assert same == rows and numbers["steps"].tolist() == broken[1]["steps"].tolist() == [20, 2]
    for one, other in zip(alone.parameters(), broken[0].parameters(), strict=True):
        assert torch.isfinite(other).all() and torch.equal(one, other)
    for when, patience in ((8, 3), (9, None)):
        with pytest.raises(ValueError, match=rf"not finite at step {when} for the members \[1\]"):
            played(when, patience=patience)


def test_energy_distance():
    x, even = cloud(5), torch.full((2, STEPS * BATCH), 1 / (STEPS * BATCH)).double()
    assert energy_game.energy_distance(x, x, even, even).abs().max() < 1e-12
    a, b = torch.zeros(1, 1, 2), torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])
    half = torch.full((1, 2), 0.5)
    assert float(energy_game.energy_distance(a, b, torch.ones(1, 1), half)) == pytest.approx(2 * 2.5 - 2.5)
    assert (energy_game.energy_distance(x, x + 1, even, even) > 0.1).all()
