"""The shared loop: Adam and clipping against torch's own for each member, stopping, resuming to the same bits."""

import pytest
import torch
from torch import nn

from snapdyn import checkpoint
from snapdyn.energy_training import Player, Recipe, train
from snapdyn.networks import StackedMLP

TARGETS = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [10.0, -30.0]])


def network(seeds=(1, 2, 3)):
    return StackedMLP(2, 1, seeds=seeds, hidden=(5,))


def losses(net, x):
    return (net(x)[..., 0] - (x**2).sum(2)).square().mean(1)


def batches(members=3, n=40):
    return torch.randn(n, members, 16, 2, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9)])
def test_adam_and_clipping_are_those_of_torch_for_each_member(betas):
    net, xs, clip = network(), batches(), 0.7
    alone = [net.member(place) for place in range(3)]
    player = Player(net.parameters(), rate=0.01, betas=betas, clip=clip)
    for x in xs:
        assert player.descend(losses(net, x)).all()
    norms = []
    for place, single in enumerate(alone):
        optimiser = torch.optim.Adam(single.parameters(), lr=0.01, betas=betas)
        for x in xs:
            optimiser.zero_grad()
            losses(single, x[place : place + 1]).sum().backward()
            norms.append(float(torch.nn.utils.clip_grad_norm_(single.parameters(), clip)))
            optimiser.step()
        for ours, theirs in zip(net.parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(ours[place : place + 1], theirs, rtol=1e-4, atol=1e-5)
    assert max(norms) > 2 * clip > clip > min(norms)  # the bound was met by some steps and not by others


def test_the_norm_of_one_member_does_not_clip_another():
    weights = nn.Parameter(torch.zeros(2, 3))
    player = Player([weights], clip=1.0)
    player.descend((weights * torch.tensor([[1e3], [0.1]])).sum(1))
    torch.testing.assert_close(player.first.norm(dim=1) / 0.1, torch.tensor([1.0, 0.1 * 3**0.5]))


def test_a_parameter_may_have_a_pace_of_its_own():
    quick, slow = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2, 3))
    player = Player([quick, slow], paces=[10.0, 1.0], rate=0.01)
    player.descend(quick + slow.sum(1))
    torch.testing.assert_close(quick.detach(), torch.full((2,), -0.1))
    torch.testing.assert_close(slow.detach(), torch.full((2, 3), -0.01))


class Bowl:
    """Members' squared distances from their targets, with noise in the gradient from a generator."""

    def __init__(self, seed=0, rate=0.05, average=0.0, noise=0.5, members=3):
        self.place, self.targets, self.noise = nn.Parameter(torch.zeros(members, 2)), TARGETS[:members], noise
        self.player = Player([self.place], rate=rate, average=average)
        self.generator = torch.Generator().manual_seed(seed)

    def state(self):
        return self.generator.get_state()

    def restore(self, state):
        self.generator.set_state(state)

    def step(self, number, share):
        pull = self.noise * torch.randn(self.place.shape, generator=self.generator)
        loss = (self.place - self.targets).square().sum(1) + (pull * self.place).sum(1)
        return {"loss": loss}, self.player.descend(loss, share)

    def validate(self):
        return (self.place - self.targets).square().sum(1)

    def train(self, recipe, **how):
        how = {"validate": self.validate, "draws": [self]} | how
        return train([self.player], self.step, recipe, **how)


def test_each_member_stops_on_its_own_and_keeps_its_best_weights():
    bowl = Bowl()
    outcome = bowl.train(Recipe(steps=3000, every=5, patience=4))
    assert len(set(outcome.stopped)) == 3 and outcome.stopped[2] == max(outcome.stopped)  # the target far away
    assert all(kept == stopped - 20 for kept, stopped in zip(outcome.kept, outcome.stopped, strict=True))
    found = (bowl.place - TARGETS).square().sum(1).tolist()
    assert found == pytest.approx(outcome.validation)
    for member in range(3):
        rows = [row for row in outcome.history if row[0] == member]
        looks = {step: value for _, step, _, value, split in rows if split == "validation"}
        assert max(looks) == outcome.stopped[member] == max(step for _, step, *_ in rows)
        assert min(looks.values()) == looks[outcome.kept[member]] == pytest.approx(outcome.validation[member])
    assert outcome.diagnostics()[0].keys() == {"kept_step", "last_step", "validation_loss"}
    assert bowl.place.is_contiguous()


def test_company_does_not_change_when_a_member_stops():
    together, recipe = Bowl(noise=0.0), Recipe(steps=3000, every=5, patience=4)
    outcome = together.train(recipe)
    single = Bowl(noise=0.0, members=1)
    assert single.train(recipe).stopped == outcome.stopped[:1]
    assert torch.equal(single.place[0], together.place[0])


def test_without_validation_all_steps_are_taken_and_the_last_weights_kept():
    bowl = Bowl(noise=0.0)
    outcome = bowl.train(Recipe(steps=40, every=30, patience=1), validate=None)
    assert outcome.validation is None and outcome.kept == outcome.stopped == [40] * 3
    assert {step for _, step, *_ in outcome.history} == {30, 40}
    assert torch.equal(bowl.place, bowl.player.weights)


def test_the_mean_of_the_weights_is_what_is_judged():
    plain, mean = Bowl(), Bowl(average=0.99)
    recipe = Recipe(steps=2000, every=100, patience=None)
    for bowl in (plain, mean):
        bowl.outcome = bowl.train(recipe)
    assert torch.equal(plain.player.weights[0], mean.player.weights[0])
    assert sum(mean.outcome.validation[:2]) < 0.5 * sum(plain.outcome.validation[:2])
    assert mean.validate().tolist() == pytest.approx(mean.outcome.validation)


def test_the_rate_falls_where_it_is_to():
    assert Recipe(steps=10).share(9) == 1.0
    falling = Recipe(steps=10, fall=True)
    assert falling.share(1) == 1.0 and falling.share(10) < 0.05


def test_a_member_that_is_no_longer_finite_stops_and_the_others_go_on():
    class Broken(Bowl):
        def step(self, number, share):
            loss = (self.place - self.targets).square().sum(1)
            if number > 50:
                loss = loss * torch.tensor([1.0, float("nan"), 1.0])
            return {"loss": loss}, self.player.descend(loss, share)

    bowl = Broken()
    outcome = bowl.train(Recipe(steps=2000, every=10, patience=20))
    assert outcome.stopped[1] == 60 and outcome.kept[1] in (10, 20, 30, 40, 50)
    assert torch.isfinite(bowl.place).all() and outcome.stopped[2] > 100
    with pytest.raises(ValueError, match=r"not finite up to step 60 for the members \[1\] of 3.*smaller rate"):
        Broken().train(Recipe(steps=2000, every=10), validate=None)


class Stop(Exception):
    pass


def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    recipe = Recipe(steps=300, every=10, patience=6, fall=True)
    whole = Bowl(average=0.9)
    expected = whole.train(recipe)
    assert max(expected.stopped) > 133
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoint, "SHARE", 0)

    class Interrupted(Bowl):
        def step(self, number, share):
            if number == 134:
                raise Stop
            return super().step(number, share)

    path = tmp_path / "partial.pt"
    with pytest.raises(Stop):
        Interrupted(average=0.9).train(recipe, keep=checkpoint.Checkpoint(path))
    again = Bowl(average=0.9, seed=77)  # the generator's state comes from the file
    kept = checkpoint.Checkpoint(path)
    assert "step 133" in kept.summary()
    found = again.train(recipe, keep=kept)
    assert torch.equal(again.place, whole.place)
    assert (found.history, found.kept, found.stopped) == (expected.history, expected.kept, expected.stopped)


def test_players_need_one_number_of_members():
    with pytest.raises(ValueError, match="one number of members"):
        Player([nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(3))])
