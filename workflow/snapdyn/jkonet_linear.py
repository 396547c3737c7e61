r"""JKOnet* with energies that are linear in their unknowns: one ridge regression for each member.

With A the residual's slopes by the unknowns, tau times gradients of features (and the score, for the diffusivity),

.. math:: \hat\theta = -\Bigl(\lambda I + \sum_k E_{\pi_k}[A^\top A]\Bigr)^{-1} \sum_k E_{\pi_k}[A^\top (y - x)]

with the plan's weights on both sides.

Equation: ``first-order-condition``, ``linear-energy``
"""

import torch
from torch import Tensor

from snapdyn import features
from snapdyn.couplings import about_plans, couple, refuse_growth
from snapdyn.energies import Energy
from snapdyn.energy_methods import EnergyMethod, Trained
from snapdyn.features import FeaturePotential
from snapdyn.jkonet_star import even, joined
from snapdyn.snapshot_scores import snapshot_scores

RIDGE = 0.01
LADDER = tuple(10.0 ** (k / 2) for k in range(-12, 7))  # ridges among which rows held back choose
PAIRS = 2**22  # numbers of one block of pairs


def blank(courses, *, terms, box=None, degree=4, grid=10, width=0.5):
    """The energy with all unknowns zero, its features over the data's range.

    Args:
        courses: :class:`snapdyn.courses.Courses`.
        terms: of ``potential``, ``interaction``, ``entropy``.
        box: ``[low, high]`` of every axis in the user's coordinates; the range of each course's rows if left out.
        degree, grid, width: see :class:`snapdyn.features.FeaturePotential`. An interaction has them over differences
            up to half the box.
    """
    features.require_few(courses.dim, degree, grid)
    if box is None:
        everything = torch.cat(courses.x, 1).double().cpu()
        low, high = everything.amin(1), everything.amax(1)
    else:
        unit = courses.scale[:, None]
        low, high = (torch.from_numpy((value - courses.centre) / unit) for value in box)
    how, functions = {"degree": degree, "grid": grid, "width": width}, {}
    if "potential" in terms:
        functions["potential"] = FeaturePotential(low, high, **how)
    if "interaction" in terms:
        reach = (high - low) / 2
        functions["interaction"] = FeaturePotential(-reach, reach, **how)
    if "entropy" in terms:
        functions["raw_diffusivity"] = torch.zeros(len(low), dtype=torch.float64)
    return Energy(courses.dim, **functions).to(courses.x[0].device)


def pair_design(function, x: Tensor, cloud: Tensor, weight: Tensor, *, same: bool) -> Tensor:
    """The mean over a cloud of grad of every feature at x - y, made odd as an even W has it.

    Features are products over the axes, so the sum over the cloud is one matrix product for each point.

    Args:
        function: :class:`snapdyn.features.FeaturePotential` over a box that is symmetric around 0, one member.
        x: points ``(n, dim)``; cloud: ``(m, dim)``, with weights ``(m,)``.
        same: the cloud is x itself, whose points do not act on themselves.
    Returns:
        ``(n, dim, count)``.
    """
    dim = function.inputs
    widest = max(function.degree + 1, function.grid) ** max(dim - 1, 1)
    rows = max(1, PAIRS // (len(cloud) * widest))
    parts = []
    for place in x.split(rows):
        z = (place[:, None] - cloud).reshape(1, -1, dim)
        families = []
        for table in function.tables(z):
            table = table.view(3, len(place), len(cloud), dim, -1)
            number = table.shape[-1]
            slopes = []
            for axis in range(dim):
                own = [table[int(i == axis), :, :, i] for i in range(dim)]
                left = features.outer(own[:-1]) if dim > 1 else torch.ones_like(own[0][..., :1])
                slopes.append((left.transpose(1, 2) @ (weight[:, None] * own[-1])).flatten(1))
            families.append(_odd(torch.stack(slopes, 1), dim, number, powers=function.degree and not families))
        parts.append(function.joined(families))
    left_out = weight[: len(x)] if same else torch.zeros(len(x)).to(weight)
    return torch.cat(parts) / (1 - left_out)[:, None, None]


def _odd(slopes, dim, number, *, powers):
    """The part of gradients ``(n, dim, number^dim)`` at z that changes sign with z."""
    if powers:
        total = features.outer([2.0 ** torch.arange(number).to(slopes)] * dim).log2().round()  # of the exponents
        return slopes * (total % 2 == 0)
    shape = slopes.shape
    return 0.5 * (slopes + slopes.view(*shape[:2], *[number] * dim).flip(tuple(range(2, dim + 2))).reshape(shape))


def designs(energy, member, rows, courses, scores, *, anchor="target"):
    """For every step, slopes of the residual by the unknowns ``(n dim, count)``, the residual at zero, and weights.

    Args:
        energy: of :func:`blank`.
        rows: list of :class:`snapdyn.couplings.Rows`.
        courses: whose snapshots are the clouds that interact; rows and scores are theirs.
        scores: list ``(members, n, dim)`` at the anchors, or None.
    Equation: ``first-order-condition``
    """
    potential = energy.potential and energy.potential.member(member).to(rows[0].x.device)
    interaction = energy.interaction and energy.interaction.member(member).to(rows[0].x.device)
    found = []
    for k, row in enumerate(rows):
        at = (row.y if anchor == "target" else row.x)[member].double()
        columns = []
        if potential is not None:
            columns.append(potential.design(at[None])[0])
        if interaction is not None:
            weight = row.weight[member].double()
            columns.append(pair_design(interaction, at, at, weight, same=True))
        if scores is not None:
            columns.append(scores[k][member].double()[..., None])
        slopes = courses.gaps[k] * torch.cat(columns, 2)
        moved = (row.y[member].double() - row.x[member].double()).flatten()
        found.append((slopes.flatten(0, 1).detach(), moved, row.weight[member].double().repeat_interleave(at.shape[1])))
    return found


class Normal:
    """The normal equations of one member, for any ridge.

    Args:
        parts: of :func:`designs`; penalty: of each unknown ``(count,)`` for a ridge of 1.
    """

    def __init__(self, parts, penalty):
        self.parts, self.penalty = parts, penalty
        self.gram = sum((w[:, None] * a).T @ a for a, _, w in parts)
        self.right = -sum((w[:, None] * a).T @ moved for a, moved, w in parts)

    def solve(self, ridge, free=None):
        """The unknowns ``(count,)``; those that are not free are 0."""
        free = torch.ones_like(self.penalty, dtype=torch.bool) if free is None else free
        matrix = self.gram[free][:, free] + torch.diag(ridge * self.penalty[free])
        # every unknown in units in which its own curvature is 1: powers of different degrees differ by orders
        scale = matrix.diagonal().clamp_min(torch.finfo(matrix.dtype).tiny).rsqrt()
        scaled, right = matrix * scale[:, None] * scale, self.right[free] * scale
        factor, info = torch.linalg.cholesky_ex(scaled)
        if info == 0:
            found = torch.cholesky_solve(right[:, None], factor)[:, 0]
        else:  # without a ridge, features may be copies of each other: the smallest solution
            found = torch.linalg.lstsq(scaled, right[:, None], driver="gelsd").solution[:, 0]
        theta = torch.zeros_like(self.right)
        theta[free] = found * scale
        return theta

    def solve_with_noise(self, ridge, last):
        """As :meth:`solve`; if the last unknown is a diffusivity, it is 0 where it would be below."""
        theta = self.solve(ridge)
        if last and theta[-1] < 0:
            free = torch.ones_like(theta, dtype=torch.bool)
            free[-1] = False
            theta = self.solve(ridge, free)
        return theta


def loss(parts, theta):
    """The sum over steps of the weighted mean square of the residual."""
    return float(sum((w * (a @ theta + moved).square()).sum() for a, moved, w in parts))


def solve(energy, rows, courses, scores, *, anchor="target", ridge=RIDGE, held=None):
    """Put the unknowns of every member into ``energy``.

    Args:
        energy, rows, courses, scores, anchor: see :func:`designs`.
        ridge: weight of the squared coefficients, in the coordinates of the features with a step of 1; None lets rows
            held back choose from :data:`LADDER`.
        held: for each step which rows are held back, a slice of them.
    Returns:
        diagnostics, one mapping for each member.
    Equation: ``first-order-condition``
    """
    diagnostics = []
    for member in range(courses.members):
        parts = designs(energy, member, rows, courses, scores, anchor=anchor)
        penalty = _penalty(energy, member).to(parts[0][0].device)
        own, other = (_selected(parts, held, courses.dim, inside) for inside in (False, True))
        equations, last = Normal(own, penalty), scores is not None
        if ridge is None:
            losses = {value: loss(other, equations.solve_with_noise(value, last)) for value in LADDER}
            chosen = min(losses, key=losses.get)
        else:
            chosen = ridge
        theta = equations.solve_with_noise(chosen, last)
        _placed(energy, member, theta)
        said = {"features": float(len(theta)), "ridge": float(chosen), "loss": loss(own, theta)}
        if held is not None:
            said["validation_loss"] = loss(other, theta)
        diagnostics.append(said)
    return diagnostics


def _selected(parts, held, dim, inside):
    """The rows that are held back, or the others, with weights that sum to 1 over points again."""
    if held is None:
        return [] if inside else parts
    found = []
    for (slopes, moved, weight), rows in zip(parts, held, strict=True):
        mask = torch.zeros(len(weight) // dim, dtype=torch.bool, device=weight.device)
        mask[rows] = True
        mask = (mask if inside else ~mask).repeat_interleave(dim)
        found.append((slopes[mask], moved[mask], weight[mask] * (dim / weight[mask].sum())))
    return found


def _penalty(energy, member):
    """What a ridge of 1 adds to each unknown's curvature: 1 in coordinates in which the box is [-4, 4]^d."""
    parts = []
    for function in (energy.potential, energy.interaction):
        if function is not None:
            square = function.slope[member].square().mean()  # an energy is a length^2
            parts.append(square.expand(function.coefficients.shape[1]))
    if energy.raw_diffusivity is not None:
        parts.append(torch.zeros(1).to(parts[0] if parts else torch.zeros(1, dtype=torch.float64)))
    return torch.cat(parts)


def _placed(energy, member, theta):
    with torch.no_grad():
        left = 0
        for function in (energy.potential, energy.interaction):
            if function is not None:
                right = left + function.coefficients.shape[1]
                function.coefficients[member] = theta[left:right]
                left = right
        if energy.raw_diffusivity is not None:
            energy.raw_diffusivity[member] = theta[-1].expm1().log()


class JKOnetLinear(EnergyMethod):
    """Method ``jkonet-star-linear``: features instead of networks, solved and not trained.

    Args:
        gradient_at: ``target``, the implicit step, or ``source``, the explicit one, which is what the published code
            of the linear variant does and its networks do not.
        ridge: see :func:`solve`; ``validation`` lets rows held back choose.
        degree, grid, width, box: see :func:`blank`.
        blur, block, unbalanced, weights, score: as for :class:`snapdyn.jkonet_star.JKOnetStar`.
        known: what :class:`snapdyn.energy_methods.EnergyMethod` takes; ``validation`` only decides the ridge.
    """

    def __init__(
        self,
        *,
        gradient_at="target",
        ridge=RIDGE,
        degree=4,
        grid=10,
        width=0.5,
        box=None,
        blur=0.0,
        block=None,
        unbalanced=None,
        weights="mass",
        score="mixture",
        validation=None,
        **known,
    ):
        chosen = ridge == "validation"
        share = (0.15 if chosen else 0.0) if validation is None else validation
        super().__init__(validation=share, **known)
        if self.timed:
            raise ValueError("jkonet-star-linear has no potential that depends on time: take jkonet-star-tv")
        if chosen and not share or not chosen and not ridge >= 0:
            raise ValueError(
                f"expected a ridge of 0 or more, or `validation` and a share of rows for it, got {ridge!r} and {share}"
            )
        features.require_few(len(self.axes), degree, grid)
        self.gradient_at, self.ridge = gradient_at, None if chosen else float(ridge)
        self.basis = {"degree": degree, "grid": grid, "width": width, "box": box}
        refuse_growth(unbalanced, weights, blur)
        self.plans = {"blur": blur, "block": block, "unbalanced": unbalanced, "weights": weights}
        self.score = score

    def train(self, courses, *, seeds, validation=None, device, keep, progress):
        everything = courses if validation is None else joined(courses, validation)
        energy = blank(everything, terms=self.terms, **self.basis)
        rows = couple(everything, anchor=self.gradient_at, **self.plans, keep=keep, progress=progress)
        end, scores, held = (1 if self.gradient_at == "target" else 0), None, None
        if energy.raw_diffusivity is not None:
            seen = everything if self.plans["weights"] == "mass" else even(everything)
            scores = snapshot_scores(seen, kind=self.score, seeds=seeds, keep=keep)[end : end + len(rows)]
        if validation is not None:
            held = [slice(x.shape[1], None) for x in courses.x[end : end + len(rows)]]
        how = {"anchor": self.gradient_at, "ridge": self.ridge, "held": held}
        diagnostics = solve(energy, rows, everything, scores, **how)
        for member, said in enumerate(diagnostics):
            said |= about_plans(rows, member, self.plans["unbalanced"])
        return Trained(energy, diagnostics)
