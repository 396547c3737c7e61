r"""JKOnet: a potential whose predicted snapshots, not their conditions, are compared with the observed ones.

.. math:: \min_\xi \sum_k S_\varepsilon(\hat\rho_{k+1}, \rho_{k+1}), \qquad
          \hat\rho_{k+1} = \nabla\psi_k{}_\# \hat\rho_k, \qquad
          \psi_k = \arg\min_{\psi\ \mathrm{convex}} \int V_\xi(\nabla\psi)
          + \frac{1}{2\tau_k} |x - \nabla\psi|^2 \, d\hat\rho_k

Every step of the potential trains fresh maps from their start and differentiates through that training, which is why
the newer methods exist: this one is here to be compared with.

Equation: ``bilevel``, ``convex-network``
"""

from functools import partial

import torch
from torch import Tensor

from snapdyn import energy_steps, semidual
from snapdyn.convex_networks import ConvexNetworks
from snapdyn.courses import SPREAD, Draws
from snapdyn.energy_methods import EnergyMethod, Trained
from snapdyn.energy_training import EPSILON, Player, Recipe, train

CLIP = 10.0  # of the norm of a member's gradient
BETAS = (0.5, 0.9)  # of the maps' Adam
ROUNDS, TOLERANCE = 1000, 3e-4  # of Sinkhorn's algorithm; error of the marginals' norm
MOST = 500  # held-back rows of each time that the cost looks at: it grows with their square
FLATTEST = 0.1  # least curvature of the inner problem, in units of 1 / tau, where it is inverted
GRADIENTS = ("unrolled", "implicit")
APART = 2**33  # between the seed of a member's networks and that of its batches


class InnerProblem:
    """What the maps of one or more steps lower: the mean of V(y) + |y - x|^2 / (2 tau) over y = grad psi(x).

    Args:
        energy: a potential.
        shape: a :class:`snapdyn.convex_networks.ConvexNetworks`.
        gaps, stamps: of the steps ``(steps,)``, as tensors.
        count: steps of Adam; rate: its step size.
    Equation: ``bilevel``
    """

    def __init__(self, energy, shape, gaps, stamps, *, count=100, rate=1e-2):
        self.energy, self.shape, self.stamps, self.count, self.rate = energy, shape, stamps, count, rate
        self.tau = gaps[:, None, None]

    def pull(self, y: Tensor, x: Tensor) -> Tensor:
        """grad V(y) + (y - x) / tau ``(members, steps, n, dim)``: 0 at the solution."""
        stamps = self.stamps.repeat_interleave(y.shape[2])
        return self.energy.potential_gradient(y.flatten(1, 2), stamps).view(y.shape) + (y - x) / self.tau

    def slope(self, weights: Tensor, x: Tensor, *, graph=False) -> Tensor:
        """The gradient by the weights of the maps ``(members, steps, count)``; with a graph behind it if asked."""
        y = self.shape.gradient(weights, x)
        with torch.set_grad_enabled(graph):
            pull = self.pull(y, x) / x.shape[2]
        return torch.autograd.grad(y, weights, pull, create_graph=graph)[0]

    def adam(self, number):
        """Corrections of both running means at step ``number``, counted from 1."""
        return tuple(1 - beta**number for beta in BETAS)


class Unrolled(torch.autograd.Function):
    """The weights of the maps after all steps of Adam, as a function of where they carry from and of the potential.

    The way back goes through every step: Adam's own part is written out, the second derivatives of the problem times a
    vector come from one step's graph at a time, so that memory does not grow with the steps.
    """

    @staticmethod
    def forward(ctx, problem, start, x, *parameters):
        weights, path = start, []
        first, second = torch.zeros_like(start), torch.zeros_like(start)
        for number in range(1, problem.count + 1):
            weights = weights.detach().requires_grad_()
            with torch.enable_grad():
                slope = problem.slope(weights, x.detach())
            first = torch.lerp(slope, first, BETAS[0])
            second = torch.lerp(slope * slope, second, BETAS[1])
            path.append((weights.detach(), first, second))
            fix, fix_square = problem.adam(number)
            weights = weights.detach() - problem.rate * (first / fix) / ((second / fix_square).sqrt() + EPSILON)
        ctx.problem, ctx.path, ctx.x, ctx.parameters = problem, path, x.detach(), parameters
        return weights

    @staticmethod
    def backward(ctx, on_weights):
        problem, (keep, keep_square) = ctx.problem, BETAS
        on_first, on_second = torch.zeros_like(on_weights), torch.zeros_like(on_weights)
        on_x, on_parameters = torch.zeros_like(ctx.x), [torch.zeros_like(p) for p in ctx.parameters]
        for number in range(problem.count, 0, -1):
            weights, first, second = ctx.path[number - 1]
            fix, fix_square = problem.adam(number)
            root = (second / fix_square).sqrt()
            step = problem.rate / (fix * (root + EPSILON))
            on_first = on_first - step * on_weights
            per_root = on_weights * step * first / (root + EPSILON)
            on_second = on_second + torch.where(root > 0, per_root / (2 * fix_square * root), 0.0)
            with torch.enable_grad():
                weights, x = weights.requires_grad_(), ctx.x.clone().requires_grad_()
                slope = problem.slope(weights, x, graph=True)
                on_slope = (1 - keep) * on_first + 2 * (1 - keep_square) * slope.detach() * on_second
                found = torch.autograd.grad(
                    slope, (weights, x, *ctx.parameters), on_slope, allow_unused=True, materialize_grads=True
                )
            on_weights, on_x = on_weights + found[0], on_x + found[1]
            on_parameters = [total + one for total, one in zip(on_parameters, found[2:], strict=True)]
            on_first, on_second = keep * on_first, keep_square * on_second
        return None, None, on_x, *on_parameters


def carried(problem, start, x, gradient="unrolled") -> Tensor:
    """Where the trained maps carry the points ``x (members, steps, n, dim)``, with the chosen way back.

    Args:
        problem: an :class:`InnerProblem`; start: weights of its maps ``(members, steps, count)``.
        gradient: ``unrolled``, through every step of Adam; or ``implicit``, as if the problem were solved:
            dy = -(1 / tau + V'')^-1 (d grad V - dx / tau).
    Equation: ``bilevel``
    """
    if gradient == "unrolled":
        return problem.shape.gradient(Unrolled.apply(problem, start, x, *problem.energy.parameters()), x)
    with torch.no_grad():
        y = problem.shape.gradient(Unrolled.apply(problem, start, x), x)
        stamps = problem.stamps.repeat_interleave(x.shape[2])
        curve = problem.energy.potential_hessian(y.flatten(1, 2), stamps)[1].unflatten(1, y.shape[1:3])
        size, axes = torch.linalg.eigh(curve)
        size = (size + 1 / problem.tau).clamp_min(FLATTEST / problem.tau)
    pull = problem.pull(y, x)
    moved = ((pull - pull.detach())[..., None, :] @ axes / size[..., None, :]) @ axes.mT
    return y - moved[..., 0, :]


def entropic_cost(x: Tensor, y: Tensor, *, epsilon, a=None, b=None, debiased=False) -> Tensor:
    """S_epsilon of clouds ``(members, n, dim)`` and ``(members, m, dim)``: ``(members,)``.

    The plan is a minimum, so the cost's slope is that of the distances under a plan that is held (envelope theorem).

    Args:
        epsilon: weight of the plan's entropy relative to independent pairs, in length^2.
        a, b: weights of the points, even if left out.
        debiased: less half of what both clouds cost to themselves, so that equal clouds cost nothing.
    Equation: ``bilevel``
    """
    from ot.batch import solve_batch

    if debiased:
        own = [entropic_cost(z, z, epsilon=epsilon, a=w, b=w) for z, w in ((x, a), (y, b))]
        return entropic_cost(x, y, epsilon=epsilon, a=a, b=b) - sum(own) / 2
    cost = (x[:, :, None] - y[:, None]).square().sum(3)
    a, b = (torch.full_like(z[..., 0], 1 / z.shape[1]) if w is None else w for z, w in ((x, a), (y, b)))
    how = {"max_iter": ROUNDS, "tol": TOLERANCE, "method": "log_sinkhorn"}
    plan = solve_batch(cost.detach(), epsilon, a, b, **how).plan  # without a graph of all its rounds
    entropy = torch.xlogy(plan, plan).sum((1, 2)) - torch.xlogy(a, a).sum(1) - torch.xlogy(b, b).sum(1)
    return (plan * cost).sum((1, 2)) + epsilon * entropy


class Bilevel:
    """The outer loss of one energy.

    Args:
        energy: a potential; courses: :class:`snapdyn.courses.Courses`; seeds: of each member's starts and batches.
        cost: what :func:`entropic_cost` takes.
        forced: whether every step starts at the observed snapshot, or where the step before led.
        gradient: see :func:`carried`.
        batch, hidden: rows of each snapshot, widths of the maps; inner: what :class:`InnerProblem` takes.
    Equation: ``bilevel``
    """

    def __init__(
        self, energy, courses, *, seeds, cost, forced=False, gradient="unrolled", batch=250, hidden=(64, 64), **inner
    ):
        self.energy, self.seeds, self.forced, self.gradient, self.inner = energy, seeds, forced, gradient, inner
        self.cost, self.shape = partial(entropic_cost, **cost), ConvexNetworks(courses.dim, hidden)
        self.draws = Draws(courses, batch, [seed + APART for seed in seeds])
        self.gaps, self.stamps = (torch.as_tensor(n).to(courses.x[0]) for n in (courses.gaps, courses.stamps[1:]))
        self.residual = torch.zeros(courses.members)

    def loss(self, number):
        """The sum of the costs of all steps ``(members,)``, on fresh batches and by fresh maps."""
        seen = [self.draws.batch(k) for k in range(len(self.draws.courses.x))]
        steps, members = len(seen) - 1, len(self.seeds)
        start = torch.stack([self.shape.start(seed, number) for seed in self.seeds])  # the same for all steps
        start = start.to(seen[0])[:, None].expand(-1, steps, -1)
        missed = []

        def carry(steps, x):
            problem = InnerProblem(self.energy, self.shape, self.gaps[steps], self.stamps[steps], **self.inner)
            y = carried(problem, start[:, steps], x, self.gradient)
            with torch.no_grad():
                missed.append((problem.tau * problem.pull(y, x)).square().sum(3).mean((1, 2)))
            return y

        if self.forced:
            found = carry(slice(None), torch.stack(seen[:-1], 1))
        else:
            parts, x = [], seen[0][:, None]
            for k in range(steps):
                x = carry(slice(k, k + 1), x)
                parts.append(x)
            found = torch.cat(parts, 1)
        self.residual = (sum(missed) / len(missed)).sqrt().cpu()
        costs = self.cost(found.flatten(0, 1), torch.stack(seen[1:], 1).flatten(0, 1))
        return costs.view(members, steps).sum(1)

    @torch.no_grad()
    def judge(self, courses):
        """The same of other rows ``(members,)``, carried by the scheme's own steps, as the model predicts."""
        total, x, weight = 0.0, None, None
        for k, tau in enumerate(courses.gaps):
            if x is None or self.forced:
                x, weight = (part[k][:, :MOST] for part in (courses.x, courses.weight))
            stamp = courses.stamps[k + 1]
            x, _ = energy_steps.implicit(self.energy, x, float(tau), stamp, tolerance=1e-4, dtype=x.dtype)
            y, other = (part[k + 1][:, :MOST] for part in (courses.x, courses.weight))
            a, b = (mass / mass.sum(1, keepdim=True) for mass in (weight, other))
            total = total + self.cost(x, y, a=a, b=b)
        return total

    def state(self):
        """What a checkpoint needs to go on; the maps' starts follow from the number of the step."""
        return {"draws": self.draws.state(), "residual": self.residual}

    def restore(self, state):
        self.draws.restore(state["draws"])
        self.residual = state["residual"]


class JKOnet(EnergyMethod):
    """Method ``jkonet``, for a potential alone.

    Args:
        inner, map_rate: steps of the maps for each step of the potential, and their size.
        epsilon, debiased: see :func:`entropic_cost`; epsilon as a share of the variance of the data's axes.
        teacher_forcing: whether every step starts at the observed snapshot; else errors add up, as in the paper.
        gradient: see :func:`carried`.
        clip: largest norm of a member's gradient.
        every, patience: see :class:`snapdyn.energy_training.Recipe`.
        options: see :class:`snapdyn.energy_methods.EnergyMethod`.
    Equation: ``bilevel``
    """

    def __init__(
        self,
        *,
        inner=100,
        map_rate=1e-2,
        epsilon=0.1,
        debiased=False,
        teacher_forcing=False,
        gradient="unrolled",
        clip=CLIP,
        every=50,
        patience=10,
        **options,
    ):
        super().__init__(**options)
        if gradient not in GRADIENTS:
            raise ValueError(f"expected gradient of {GRADIENTS}, got {gradient!r}")
        if not (isinstance(inner, int) and inner >= 1 and epsilon > 0):
            raise ValueError(f"expected inner to be 1 or more and epsilon above 0, got {inner} and {epsilon}")
        self.recipe, self.clip = Recipe(self.steps, every=every, patience=patience), clip
        self.outer = {"cost": {"epsilon": epsilon * SPREAD**2, "debiased": debiased}, "forced": teacher_forcing}
        self.outer |= {"gradient": gradient, "batch": self.batch, "count": inner, "rate": map_rate}

    def train(self, courses, *, seeds, validation=None, device="cpu", keep, progress):
        energy = self.fresh(courses, seeds)
        semidual.check_potential(energy)
        outer = Bilevel(energy, courses, seeds=seeds, **self.outer)
        player = Player(energy.parameters(), rate=self.rate, clip=self.clip)

        def step(number, share):
            loss = outer.loss(number)
            return {"loss": loss}, player.descend(loss, share)

        validate = None if validation is None else lambda: outer.judge(validation)
        seen = self.witness and (lambda: self.witness(energy))
        how = {"witness": seen, "draws": [outer], "keep": keep, "progress": progress}
        outcome = train([player], step, self.recipe, validate=validate, name="jkonet", **how)
        diagnostics = outcome.diagnostics()
        for said, residual in zip(diagnostics, outer.residual.tolist(), strict=True):
            said["inner_residual"] = residual
        return Trained(energy, diagnostics, outcome.history)
