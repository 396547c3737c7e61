"""JKOnet*: energies whose steps are known solve the condition and wrong ones do not; the loss against torch.func."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from snapdyn import checkpoint, couplings, energies, jkonet_star
from snapdyn.courses import Courses
from snapdyn.energies import Energy
from snapdyn.energy_training import Recipe
from snapdyn.jkonet_star import FirstOrder, JKOnetStar, condition, half_pulls, mean_square
from snapdyn.snapshots import Snapshots

TIMES = np.array([0.0, 0.5, 2.0])  # gaps of 1/2 and 3/2 in units of the clock
STIFF = torch.tensor([[1.2, 0.3], [0.3, 0.5]]).double()


class Quadratic(nn.Module):
    """x . A x / 2, turned by the stamp if it is timed: (1 + stamp / 2) times that."""

    def __init__(self, matrix, timed=False):
        super().__init__()
        self.matrix, self.inputs = nn.Parameter(matrix.clone()), 2 + timed

    def gradient(self, x, dim=None):
        slope = x[..., :2] @ self.matrix
        return slope if self.inputs == 2 else slope * (1 + 0.5 * x[..., 2:])


def snapshots(clouds, times=TIMES, split=None):
    x, t = np.concatenate(clouds), np.repeat(times[: len(clouds)], [len(c) for c in clouds])
    return Snapshots.build(x, t=t, split=split, meta={"axes": ["a", "b"], "dim": 2})


def exact_courses(n=120, *, stiff=STIFF, timed=False, members=1, explicit=False):
    """Pairs of steps in V = x . A x / 2, in internal units: the courses' centre and scale are 0 and 1."""
    clouds = []
    for member in range(members):
        found = [np.random.default_rng(member).standard_normal((n, 2))]
        for gap, end in zip(np.diff(TIMES), TIMES[1:], strict=True):
            matrix = stiff.numpy() * (0.5 + end / TIMES[-1] if timed else 1)
            step = np.eye(2) - gap * matrix if explicit else np.linalg.inv(np.eye(2) + gap * matrix)
            found.append(found[-1] @ step)
        clouds.append(found)
    x = [torch.from_numpy(np.stack(places)) for places in zip(*clouds, strict=True)]
    weight = [torch.full(places.shape[:2], 1 / n, dtype=torch.float64) for places in x]
    return Courses(x, weight, TIMES, 1.0, np.zeros((members, 2)), np.ones(members))


def first_order(courses, **how):
    return FirstOrder(couplings.couple(courses, anchor=how.get("anchor", "target")), None, courses, **how)


@pytest.mark.parametrize("timed", [False, True])
def test_the_true_energy_has_no_loss_and_wrong_ones_have(timed):
    courses = exact_courses(timed=timed)
    true = Energy(2, Quadratic(STIFF, timed))
    loss = first_order(courses)
    assert loss.whole(true) < 1e-20
    scale = float(
        sum((x[:, : y.shape[1]] - y).square().sum(2).mean() for x, y in zip(courses.x, courses.x[1:], strict=False))
    )
    refused = {
        "sign": (loss, Energy(2, Quadratic(-STIFF, timed))),
        "no factor": (loss, Energy(2, Quadratic(2 * STIFF, timed))),
        "anchor": (first_order(courses, anchor="source"), true),
        "backwards": (first_order(reordered(courses, [2, 1, 0])), true),
        "order of gaps": (first_order(courses_at(courses, [0.0, 1.5, 2.0])), true),
        "tau": (first_order(courses_at(courses, TIMES, clock=2.0)), true),
    }
    if timed:
        refused["stamp of the start"] = (shifted_stamps(courses), true)
        refused["no time"] = (loss, Energy(2, Quadratic(STIFF)))
    for name, (wrong, energy) in refused.items():
        assert wrong.whole(energy) > 0.02 * scale, name


def courses_at(courses, times, clock=1.0):
    return Courses(courses.x, courses.weight, np.array(times), clock, courses.centre, courses.scale)


def reordered(courses, order):
    return Courses([courses.x[k] for k in order], courses.weight, courses.times, 1.0, courses.centre, courses.scale)


def shifted_stamps(courses):
    loss = first_order(courses)
    for k, table in enumerate(loss.tables):
        table[..., 5] = courses.stamps[k]
    return loss


def test_explicit_data_satisfy_the_condition_at_the_source():
    courses = exact_courses(
        explicit=True, stiff=STIFF / 4
    )  # slow enough for the map to be the gradient of a convex one
    true = Energy(2, Quadratic(STIFF / 4))
    assert first_order(courses, anchor="source").whole(true) < 1e-20
    assert first_order(courses).whole(true) > 1e-3


def gaussian_step(beta=0.3, stiff=1.0, tau=0.8, start=2.0):
    """Spread after a JKO step of N(0, start^2) in V = a x^2 / 2 with entropy: s (1 + tau a) - tau beta / s = start."""
    return (start + np.sqrt(start**2 + 4 * (1 + tau * stiff) * tau * beta)) / (2 * (1 + tau * stiff))


def test_a_gaussian_with_entropy_against_its_exact_step():
    beta, tau, start = 0.3, 0.8, 2.0
    end = gaussian_step(beta, 1.0, tau, start)
    assert 0.5 < end / start < 0.95
    x = start * torch.randn(1, 50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, raw = x * end / start, torch.tensor([beta], dtype=torch.float64).expm1().log()
    energy = Energy(2, Quadratic(torch.eye(2).double()), raw_diffusivity=raw)
    assert condition(energy, x, y, tau, score=-y / end**2).abs().max() < 1e-12
    for wrong in (y / end**2, -x / start**2, -y / end, torch.zeros_like(y)):
        assert condition(energy, x, y, tau, score=wrong).square().sum(2).mean() > 1e-3


def test_a_quadratic_interaction_against_its_exact_step():
    """W = c z^2 / 2: the force is c (y - mean), so a step shrinks the cloud about its mean by 1 + tau c."""
    x = 1 + torch.randn(1, 4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centre, tau, strength = x.mean(1, keepdim=True), 0.8, 0.7
    y = centre + (x - centre) / (1 + tau * strength)
    energy = Energy(2, interaction=Quadratic(strength * torch.eye(2).double()))
    few, even = y[:, :600], torch.ones(1, 600).double()
    residuals = [condition(energy, x[:, :600], few, tau, pull=pull) for pull in half_pulls(energy, few, even)]
    assert abs(mean_square(residuals[0], even, residuals[1])) < 2e-3
    for factor in (2.0, 0.5, -1.0):  # the energy is 1/2 of the double integral, with no factor 2 in the force
        wrong = Energy(2, interaction=Quadratic(factor * strength * torch.eye(2).double()))
        one, other = (condition(wrong, x[:, :600], few, tau, pull=pull) for pull in half_pulls(wrong, few, even))
        assert mean_square(one, even, other) > 0.03


def batch_of(members=2, n=6, scored=True, seed=3):
    generator = torch.Generator().manual_seed(seed)
    shape = (members, n, 2 + 2 + 2 + 2 * scored)
    table = torch.randn(shape, generator=generator, dtype=torch.float64)
    return table, torch.rand(members, n, generator=generator, dtype=torch.float64) + 0.1


@pytest.mark.parametrize("anchor", couplings.ANCHORS)
@pytest.mark.parametrize("terms", [("potential",), ("potential", "entropy"), ("potential", "interaction", "entropy")])
@pytest.mark.parametrize("timed", [False, True])
def test_the_loss_is_that_of_torch_func(terms, timed, anchor):
    """One point and one member at a time, every gradient by automatic differentiation, against the batched formula."""
    energy = Energy.build(2, seeds=[1, 2], terms=terms, timed=timed, hidden=(5, 4)).double()
    table, weight = batch_of()
    courses = exact_courses(20, members=2)
    loss = FirstOrder(couplings.couple(courses), [torch.zeros_like(x) for x in courses.x[1:]], courses, anchor=anchor)
    ours = loss.loss(energy, table, weight)
    found = [alone(energy.member(m), table[m], weight[m], timed, anchor) for m in range(2)]
    torch.testing.assert_close(ours, torch.stack([value for value, _ in found]))
    slopes = torch.autograd.grad(ours.sum(), list(energy.parameters()), materialize_grads=True)
    for place, (name, _) in enumerate(energy.named_parameters()):
        torch.testing.assert_close(slopes[place], torch.cat([one[name] for _, one in found]), msg=name)


def alone(single, table, weight, timed, anchor):
    """Loss and gradient of one member, written as the formula says."""
    parameters = {name: value.detach() for name, value in single.named_parameters()}

    def potential(parameters, at, stamp):
        def value(at):
            entry = torch.cat([at, stamp[None]]) if timed else at
            own = {name[10:]: v for name, v in parameters.items() if name.startswith("potential.")}
            return functional_call(single.potential, own, (entry[None, None],))[0, 0, 0]

        return grad(value)(at)

    def interaction(parameters, z):
        own = {name[12:]: v for name, v in parameters.items() if name.startswith("interaction.")}

        def even(z):
            value = lambda z: functional_call(single.interaction, own, (z[None, None],))[0, 0, 0]  # noqa: E731
            return 0.5 * (value(z) + value(-z))

        return grad(even)(z)

    def value(parameters):
        x, y, tau, stamp, score = (
            table[:, :2], table[:, 2:4], table[:, 4, None], table[:, 5], table[:, 6:]
        )  # fmt: skip
        at = y if anchor == "target" else x
        force = vmap(potential, (None, 0, 0))(parameters, at, stamp)
        if single.diffusivity is not None:
            force = force + torch.nn.functional.softplus(parameters["raw_diffusivity"]) * score
        residuals = []
        for half in (0, 1):
            pull = torch.zeros_like(at)
            if single.interaction is not None:
                rows = []
                for i in range(len(at)):
                    others = [j for j in range(half, len(at), 2) if j != i]
                    pulls = torch.stack([weight[j] * interaction(parameters, at[i] - at[j]) for j in others])
                    rows.append(pulls.sum(0) / weight[others].sum())
                pull = torch.stack(rows)
            residuals.append(tau * (force + pull) + y - x)
        return (weight * (residuals[0] * residuals[1]).sum(1)).sum() / weight.sum()

    return value(parameters), grad(value)(parameters)


def test_halves_of_a_batch_are_unbiased_where_its_square_is_not():
    energy = Energy.build(2, seeds=[5], terms=("interaction",), hidden=(8,)).double()
    with torch.no_grad():
        for weight in energy.interaction.weights:
            weight *= 4
    cloud = torch.randn(1, 500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        exact = energy.interaction_gradient(cloud, cloud.clone()).square().sum(2).mean()
        generator, values = torch.Generator().manual_seed(1), []
        for _ in range(3000):
            rows = torch.randint(500, (8,), generator=generator)
            one, other = half_pulls(energy, cloud[:, rows], torch.ones(1, 8).double())
            values.append([(one * other).sum(2).mean(), (0.5 * (one + other)).square().sum(2).mean()])
    halves, square = torch.tensor(values).T
    error = halves.std() / 3000**0.5
    assert abs(halves.mean() - exact) < 4 * error
    assert square.mean() - exact > 10 * error


def test_rows_held_back_have_the_plan_and_the_scores_of_all():
    courses = exact_courses(60)
    own = Courses([x[:, :40] for x in courses.x], [w[:, :40] * 1.5 for w in courses.weight], *tail(courses))
    other = Courses([x[:, 40:] for x in courses.x], [w[:, 40:] * 3 for w in courses.weight], *tail(courses))
    training, held, rows = jkonet_star.prepared(
        own, other, anchor="target", scored=True, score="kernel", seeds=[0], keep=checkpoint.NOWHERE
    )
    whole = couplings.couple(courses)
    for k in (0, 1):
        torch.testing.assert_close(rows[k].x, whole[k].x)
        torch.testing.assert_close(training.tables[k][..., :2], whole[k].x[:, :40])
        torch.testing.assert_close(held.tables[k][..., 2:4], courses.x[k + 1][:, 40:])
        torch.testing.assert_close(training.weights[k].sum(1), torch.ones(1).double())
        torch.testing.assert_close(held.weights[k].sum(1), torch.ones(1).double())


def tail(courses):
    return courses.times, courses.clock, courses.centre, courses.scale


def method(**how):
    return JKOnetStar(axes=["a", "b"], **({"steps": 600, "every": 25, "rate": 3e-3} | how))


def trained(courses, **how):
    offers = {"device": "cpu", "keep": checkpoint.NOWHERE, "progress": None}
    return method(**how).train(courses, seeds=list(range(courses.members)), validation=None, **offers)


def single(courses):
    """In the precision that fits have."""
    return Courses([x.float() for x in courses.x], [w.float() for w in courses.weight], *tail(courses))


def test_a_network_finds_the_gradient_of_a_quadratic_potential():
    courses = exact_courses(300, members=2)
    found = trained(single(courses), hidden=(32, 32), terms=("potential",), fall=True)
    with torch.no_grad():
        for x in courses.x[1:]:
            truth = x @ STIFF
            ours = found.energy.potential_gradient(x.float())
            assert (ours - truth).square().sum(2).mean() < 0.01 * truth.square().sum(2).mean()
            assert (-ours - truth).square().sum(2).mean() > truth.square().sum(2).mean()
    assert len(found.diagnostics) == 2 and found.diagnostics[0]["pairs"] == 600
    losses = [value for member, _, term, value, split in found.history if member == 0 and split == "train"]
    assert losses[-1] < 0.05 * losses[0]


@pytest.mark.parametrize("terms", [("potential", "interaction", "entropy"), ("interaction",)])
def test_all_terms_train_together(terms):
    courses = single(exact_courses(60, members=2))
    found = trained(courses, terms=terms, steps=40, every=20, batch=24, score="kernel")
    losses = [value for _, _, term, value, _ in found.history if term == "loss"]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    betas = [value for _, _, term, value, _ in found.history if term == "diffusivity"]
    assert (found.energy.diffusivity is not None) == ("entropy" in terms) == bool(betas)
    assert min(betas, default=0) >= 0


def test_beta_has_a_pace_of_its_own():
    """The first step of Adam is as long as its step size, whatever the slope."""
    courses = single(exact_courses(60, members=2))
    before = method(terms=("potential", "entropy")).fresh(courses, [0, 1])
    after = trained(courses, terms=("potential", "entropy"), steps=1, rate=1e-3, score="kernel").energy
    moved = (after.raw_diffusivity - before.raw_diffusivity).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, energies.PACE * 1e-3), rtol=0.01, atol=0)
    slowly = (after.potential.weights[1] - before.potential.weights[1]).abs().max()
    torch.testing.assert_close(slowly, torch.tensor(1e-3), rtol=0.01, atol=0)


def test_fits_are_the_same_twice_and_members_depend_on_their_own_seeds():
    courses = single(exact_courses(60, members=2))
    first, again = (trained(courses, steps=30).energy.potential.weights[0] for _ in range(2))
    assert torch.equal(first, again)
    place = courses.centre[:1], courses.scale[:1]
    one = Courses([x[:1] for x in courses.x], [w[:1] for w in courses.weight], courses.times, courses.clock, *place)
    torch.testing.assert_close(trained(one, steps=30).energy.potential.weights[0], first[:1], rtol=1e-4, atol=1e-5)


def test_early_stopping_keeps_what_is_best_on_rows_held_back():
    rng = np.random.default_rng(0)
    clouds = [rng.standard_normal((40, 2)) for _ in range(3)]  # nothing moves: all that is fitted is noise
    split = np.tile(np.repeat(["train", "test"], [30, 10]), 3)
    everything = snapshots(clouds, split=split)
    courses = Courses.stacked([everything.select(split="train")])
    held = Courses.stacked([everything.select(split="test")])
    fitter = method(steps=3000, every=20, patience=5, hidden=(64, 64), rate=1e-2)
    found = fitter.train(courses, seeds=[0], validation=held, device="cpu", keep=checkpoint.NOWHERE, progress=None)
    said = found.diagnostics[0]
    assert said["kept_step"] == said["last_step"] - 100 < 2900
    looks = [value for *_, value, split in found.history if split == "validation"]
    assert min(looks) == pytest.approx(said["validation_loss"])


def test_recipes_reach_the_loop():
    fitter = method(steps=7, every=3, patience=2, fall=True)
    assert fitter.recipe == Recipe(steps=7, every=3, patience=2, fall=True)


@pytest.mark.parametrize("anchor", ["target", "source"])
def test_substeps_of_a_quadratic_potential_find_its_flow(anchor):
    """Rows x, y with y = e^{-1} x are one unit of time of V = |x|^2 / 2; a whole step would need another energy."""
    energy = Energy(2, Quadratic(torch.eye(2).double()))
    x = torch.randn(1, 50, 2, generator=torch.Generator().manual_seed(0)).double()
    y, tau = x * np.exp(-1.0), torch.ones(1, 50).double()
    gone = {}
    for count in (1, 10, 100):
        gone[count] = condition(energy, x, y, tau, anchor=anchor, substeps=count).abs().max() / x.abs().max()
    assert gone[100] < 0.015 and gone[10] < 0.15 < 0.25 < gone[1]
    backward = condition(Energy(2, Quadratic(-torch.eye(2).double())), x, y, tau, anchor=anchor, substeps=100)
    assert backward.abs().max() / x.abs().max() > 0.5


def test_substeps_are_for_a_potential_alone():
    with pytest.raises(ValueError, match="needs an energy with a potential alone"):
        JKOnetStar(axes=["x"], terms=("potential", "entropy"), substeps=4)
