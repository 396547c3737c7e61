"""The bilevel training: the inner problem's closed form, the outer gradient against differences, and its sign."""

import numpy as np
import pytest
import torch
from torch import nn

from snapdyn import checkpoint, jkonet, metrics
from snapdyn.courses import Courses
from snapdyn.energies import Energy
from snapdyn.jkonet import Bilevel, InnerProblem, JKOnet, Unrolled, carried, entropic_cost
from snapdyn.snapshots import Snapshots

STIFF = torch.tensor([[1.2, 0.3], [0.3, 0.5]])
TAUS = torch.tensor([0.4, 2.5])
SHIFT = np.array([1.0, -0.5])


class Quadratic(nn.Module):
    inputs = 2

    def __init__(self, matrix=STIFF):
        super().__init__()
        self.matrix = nn.Parameter(matrix.clone())

    def gradient(self, x, dim=None):
        return x @ self.matrix

    def hessian(self, x, dim=None):
        return x @ self.matrix, self.matrix.expand(*x.shape, 2)


def timed(*clouds):
    t = np.repeat(np.arange(len(clouds), dtype=float), [len(x) for x in clouds])
    return Snapshots.build(np.concatenate(clouds), t=t, meta={"dataset": "gaussians"})


def gaussians(seed=0, n=300, steps=1):
    """Independent samples of Gaussians that move and shrink."""
    rng = np.random.default_rng(seed)
    return timed(*(k * SHIFT + rng.normal(size=(n, 2)) * 0.8**k for k in range(steps + 1)))


def trained(method, snapshots, seeds, **offers):
    courses = Courses.stacked(snapshots)
    offers = {"keep": checkpoint.NOWHERE, "progress": None} | offers
    return courses, method.train(courses, seeds=seeds, **offers)


def test_the_inner_problem_of_a_quadratic_potential_is_its_proximal_map():
    problem = InnerProblem(Energy(2, Quadratic()), jkonet.ConvexNetworks(2), TAUS, TAUS, count=1000, rate=3e-3)
    x = 2.5 * torch.randn(1, 2, 250, 2, generator=torch.Generator().manual_seed(0))
    start = torch.stack([problem.shape.start(0, 1, k) for k in range(2)])[None]
    y = carried(problem, start, x, "implicit").detach()
    for k, tau in enumerate(TAUS):

        def missed(matrix, k=k):
            wanted = x[:, k] @ matrix
            return float((y[:, k] - wanted).square().sum() / (x[:, k] - wanted).square().sum())

        assert missed(torch.linalg.inv(torch.eye(2) + tau * STIFF)) < 0.02
        wrong = torch.eye(2) - tau * STIFF, torch.linalg.inv(torch.eye(2) + STIFF), torch.eye(2) + tau * STIFF
        assert min(missed(matrix) for matrix in wrong) > 0.1
    assert problem.pull(y, x).square().mean() < 0.01 * problem.pull(x, x).square().mean()


def test_adam_is_that_of_torch():
    problem = InnerProblem(Energy(2, Quadratic()).double(), jkonet.ConvexNetworks(2, (4, 3)), TAUS, TAUS, count=7)
    start = torch.stack([problem.shape.start(0, 1, k) for k in range(2)])[None].double()
    x = torch.randn(1, 2, 9, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = start.clone().requires_grad_()
    adam = torch.optim.Adam([weights], lr=1e-2, betas=(0.5, 0.9))
    for _ in range(7):
        y = problem.shape.gradient(weights, x)
        lost = 0.5 * ((y @ STIFF.double()) * y).sum(3) + (y - x).square().sum(3) / (2 * TAUS[:, None])
        adam.zero_grad()
        lost.mean(2).sum().backward()
        adam.step()
    torch.testing.assert_close(Unrolled.apply(problem, start, x), weights.detach(), rtol=1e-8, atol=1e-10)


def test_the_cost_lies_between_that_of_the_best_and_of_all_pairs():
    rng = np.random.default_rng(0)
    x, y = (torch.from_numpy(rng.normal(size=(2, n, 2))) for n in (30, 40))
    w2 = [metrics.wasserstein(a.numpy(), b.numpy(), order=2) ** 2 for a, b in zip(x, y, strict=True)]
    far = (x[:, :, None] - y[:, None]).square().sum(3).mean((1, 2))
    torch.testing.assert_close(entropic_cost(x, y, epsilon=1e3), far, rtol=1e-2, atol=0)
    sharp = entropic_cost(x, y, epsilon=0.01)
    assert (sharp > torch.tensor(w2)).all() and (sharp - torch.tensor(w2)).max() < 0.05
    weight = torch.rand(2, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    doubled = torch.cat([x, x], 1), torch.cat([weight, weight], 1) / (2 * weight.sum(1, keepdim=True))
    whole = entropic_cost(x, y, epsilon=0.5, a=weight / weight.sum(1, keepdim=True))
    torch.testing.assert_close(entropic_cost(doubled[0], y, epsilon=0.5, a=doubled[1]), whole, rtol=1e-3, atol=0)
    assert (entropic_cost(x, y, epsilon=0.5) - whole).abs().min() > 0.01


def test_a_cost_that_is_not_debiased_wants_a_cloud_too_small():
    """Of shares of a Gaussian cloud, sqrt(1 - epsilon / (2 variance)) is the best; debiased, the cloud itself."""
    y = torch.randn(1, 1500, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = (y - y.mean()) / y.std(correction=0)
    for debiased, best in ((False, 0.75**0.5), (True, 1.0)):
        costs = [float(entropic_cost(y * best * s, y, epsilon=0.5, debiased=debiased)) for s in (0.95, 1.0, 1.05)]
        assert costs[1] < min(costs[0], costs[2])
        assert abs(costs[0] - costs[2]) < 0.2 * (min(costs[0], costs[2]) - costs[1])
        assert not debiased or abs(costs[1]) < 1e-6


def tiny(monkeypatch, **options):
    """A bilevel problem in double precision, and its loss as a function of how far the potential moves."""
    monkeypatch.setattr(jkonet, "TOLERANCE", 1e-13)
    monkeypatch.setattr(jkonet, "ROUNDS", 5000)
    courses = Courses.stacked([gaussians(seed, n=20, steps=2) for seed in (0, 1)], dtype=torch.float64)
    energy = Energy.build(2, seeds=[0, 1], hidden=(5, 4)).double()
    own = list(energy.parameters())
    how = {"seeds": [0, 1], "cost": {"epsilon": 1.0}, "batch": 8, "count": 6, "rate": 0.05, "hidden": (4, 3)} | options
    aside = [torch.randn(p.shape, generator=torch.Generator().manual_seed(k)).to(p) for k, p in enumerate(own)]

    def loss(far=0.0):
        with torch.no_grad():
            torch._foreach_add_(own, aside, alpha=far)
        found = Bilevel(energy, courses, **how).loss(3).sum()
        with torch.no_grad():
            torch._foreach_add_(own, aside, alpha=-far)
        return found

    def slope():
        found = torch.autograd.grad(loss(), own, materialize_grads=True)
        return float(sum((one * way).sum() for one, way in zip(found, aside, strict=True)))

    return loss, slope


@pytest.mark.parametrize(("forced", "debiased"), [(True, False), (False, False), (True, True)])
def test_the_outer_gradient_is_that_of_differences(forced, debiased, monkeypatch):
    loss, slope = tiny(monkeypatch, forced=forced, cost={"epsilon": 1.0, "debiased": debiased})
    far = 1e-5
    expected = float((loss(far) - loss(-far)).detach()) / (2 * far)
    assert slope() == pytest.approx(expected, rel=1e-5)
    right = Unrolled.backward

    def without_path(ctx, on_weights):
        return (None, None, None, *right(ctx, on_weights)[3:])

    monkeypatch.setattr(Unrolled, "backward", staticmethod(without_path))
    assert (slope() == pytest.approx(expected, rel=1e-3)) == forced  # maps see where the step before led
    monkeypatch.setattr(Unrolled, "backward", staticmethod(lambda ctx, on: (None, None, *right(ctx, -on)[2:])))
    assert slope() != pytest.approx(expected, rel=0.1)


def test_both_gradients_agree_where_the_inner_problem_is_solved():
    energy, tau = Energy(2, Quadratic()), torch.tensor([0.7])
    problem = InnerProblem(energy, jkonet.ConvexNetworks(2), tau, tau, count=1000, rate=3e-3)
    x = 2.5 * torch.randn(1, 1, 100, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = Unrolled.apply(problem, problem.shape.start(0, 1, 0)[None, None], x)
        y = problem.shape.gradient(y, x)
    lent = InnerProblem(energy, Lent(y), tau, tau, count=0)
    y = carried(lent, problem.shape.start(0, 1, 0)[None, None], x, "implicit")
    by_matrix, by_x = torch.autograd.grad((y * way).sum(), (energy.potential.matrix, x))
    solve = torch.linalg.inv(torch.eye(2) + tau * STIFF)
    torch.testing.assert_close(by_x, way @ solve, rtol=1e-4, atol=1e-4)
    expected = -tau * torch.einsum("msni,msnj->ij", y.detach(), way @ solve)
    torch.testing.assert_close(by_matrix, expected, rtol=1e-4, atol=1e-2)


class Lent:
    """Maps that carry to where they are told."""

    def __init__(self, y):
        self.y = y

    def gradient(self, weights, x):
        return self.y


def method(**options):
    options = {"steps": 60, "batch": 60, "rate": 1e-2, "inner": 50, "map_rate": 0.02, "hidden": (16, 16)} | options
    return JKOnet(axes=["x", "y"], **({"validation": 0} | options))


def moved(courses, energy):
    """Energy distance of the carried snapshot to the next, as a share of that without any step."""
    from snapdyn.energy_game import energy_distance
    from snapdyn.energy_steps import implicit

    x, y = courses.x[:2]
    y_hat = implicit(energy, x, 1.0)[0].detach()
    even = courses.weight
    return energy_distance(y_hat, y, *even[:2]) / energy_distance(x, y, *even[:2])


@pytest.mark.slow
@pytest.mark.parametrize("gradient", jkonet.GRADIENTS)
def test_a_short_fit_carries_a_gaussian_to_the_next(gradient):
    courses, found = trained(method(gradient=gradient), [gaussians(), gaussians(1)], [3, 4])
    assert moved(courses, found.energy).max() < 0.1
    assert all(0 < said["inner_residual"] < 2 for said in found.diagnostics)
    losses = [value for member, _, term, value, _ in found.history if (member, term) == (1, "loss")]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_an_energy_of_the_wrong_sign_does_not(monkeypatch):
    right = Bilevel.loss
    monkeypatch.setattr(Bilevel, "loss", lambda self, number: -right(self, number))
    courses, found = trained(method(steps=20), [gaussians()], [3])
    assert moved(courses, found.energy).min() > 1


def test_an_interrupted_fit_ends_in_the_same_bits(tmp_path):
    how = {"steps": 6, "every": 2, "inner": 4, "batch": 20}
    data, held = [gaussians(n=60, steps=2)], Courses.stacked([gaussians(5, n=40, steps=2)])
    whole = trained(method(**how), data, [3], validation=held)[1]

    class Stopped(Exception):
        pass

    class Impatient:
        steps = 0

        def __call__(self, total, label):
            return self

        def update(self, n=1):
            self.steps += n
            if self.steps == 4:
                raise Stopped

        def close(self):
            pass

    keep = checkpoint.Checkpoint(tmp_path / "kept.pt")
    with pytest.raises(Stopped):
        trained(method(**how), data, [3], validation=held, keep=keep, progress=Impatient())
    again = trained(method(**how), data, [3], validation=held, keep=keep)[1]
    assert again.history == whole.history and again.diagnostics == whole.diagnostics
    for one, other in zip(again.energy.parameters(), whole.energy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_members_depend_on_their_own_seeds():
    how = {"steps": 3, "inner": 4, "batch": 20, "every": 1}
    data = [gaussians(n=60), gaussians(1, n=60)]
    both = trained(method(**how), data, [3, 4])[1].energy.potential.weights[0]
    alone = trained(method(**how), data[1:], [4])[1].energy.potential.weights[0]
    torch.testing.assert_close(alone[0], both[1], rtol=1e-4, atol=1e-5)


def test_only_training_rows_are_seen(rng):
    """Rows of the test split may be anywhere: not one number changes."""
    data = gaussians(n=60)
    split = np.where(np.arange(len(data.x)) % 3 == 0, "test", "train")
    far = np.where((split == "test")[:, None], 100.0, data.x)
    fits = []
    for x in (data.x, far):
        own = Snapshots.build(x, t=data.t, split=split, meta={"axes": ["x", "y"], "dim": 2})
        fits.append(method(steps=3, inner=4, batch=20, validation=0.2).fit(own, rng=np.random.default_rng(0)))
    one, other = (fit.velocity(0.0, data.x[:5]) for fit in fits)
    assert np.array_equal(one, other)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="gradient"):
        method(gradient="exact")
    with pytest.raises(ValueError, match="epsilon above 0"):
        method(epsilon=0.0)
    with pytest.raises(ValueError, match="potential alone"):
        trained(method(terms=("potential", "entropy")), [gaussians(n=30)], [0])
