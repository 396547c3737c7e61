"""Which combinations of the unknowns a system of moment equations determines, and which change nothing visible."""

from dataclasses import dataclass

import numpy as np
import torch

from snapdyn.moment_equations import ROUNDING, whitening

VISIBLE = 3.0  # standard errors by which both halves of the data must agree on a direction


@dataclass(frozen=True)
class Identifiability:
    """Which combinations of the unknowns the data can tell.

    Attributes:
        names: of the unknowns.
        singular_values: of the whitened, column-scaled system, largest first ``(unknowns,)``.
        weakest: the combination of scaled unknowns that is seen worst, a unit vector ``(unknowns,)``.
        directions: combinations that change nothing, unit vectors ``(gauge, unknowns)``.
    """

    names: list
    singular_values: np.ndarray
    weakest: np.ndarray
    directions: np.ndarray

    @property
    def rank(self):
        """Number of combinations that the data show."""
        return len(self.names) - len(self.directions)

    @property
    def touched(self):
        """Names of the unknowns that a direction without effect moves, in their order."""
        if not len(self.directions):
            return []
        share = np.abs(self.directions) / np.abs(self.directions).max(1, keepdims=True)
        return [name for name, most in zip(self.names, share.max(0), strict=True) if most > 0.3]

    def report(self):
        """One sentence a direction, and the numbers."""
        condition = self.singular_values[0] / max(self.singular_values[-1], np.finfo(float).tiny)
        lines = [
            f"rank {self.rank} of {len(self.names)}; singular values of the scaled system "
            f"{self.singular_values[0]:.3g} to {self.singular_values[-1]:.3g}, condition number {condition:.3g}"
        ]
        for direction in self.directions:
            largest = np.argsort(-np.abs(direction))[:6]
            parts = [f"{direction[k]:+.2f} {self.names[k]!r}" for k in largest if abs(direction[k]) > 0.1]
            lines.append("no effect along " + " ".join(parts))
        return lines


def identify(equations, theta, names, threshold=VISIBLE):
    """What the data can tell of each combination of the unknowns.

    The whitened design M is estimated on two halves of the data. One half names the direction w that is weakest
    beside its own noise, and what M w looks like there; along a direction that the population determines, the other
    half agrees. Along a gauge direction (a field that leaves the density alone) M w is nothing but each half's own
    noise. Directions are tried from the weakest, up to the first that is seen.

    Args:
        equations: :class:`snapdyn.moment_equations.MomentEquations` with two folds or more.
        theta: the estimate, for the weights.
        threshold: agreement, in standard errors, below which a direction counts as undetermined.
    Equation: ``gauge``
    """
    design, tiny = equations.system()[0], torch.finfo(theta.dtype).tiny
    noise = equations.noise(theta)
    size = noise.diagonal().clamp_min(tiny)
    # Near some estimates a combination of equations has no noise, and would drown all others: add that of M itself.
    signs = torch.from_numpy(np.random.default_rng(0).choice([-1.0, 1.0], len(names))).to(theta)
    other = equations.noise_along(signs / (design / size.sqrt()[:, None]).norm(dim=0).clamp_min(tiny))
    root = whitening(noise + other / (other.diagonal() / size).mean().clamp_min(tiny))
    whole = root @ design
    scale = whole.norm(dim=0).clamp_min(tiny)
    # A column that is all noise is as long as any other once it is scaled: only its scatter over the folds tells.
    folds = [root @ equations.system(fold[None])[0] / scale for fold in equations.every]
    _, spread, turn = torch.linalg.svd(torch.cat([fold - whole / scale for fold in folds]), full_matrices=False)
    basis = turn.T / spread.clamp_min(1e-8 * spread[0])  # every column as noisy as the next, and independently so
    halves = [root @ equations.system(equations.every[side::2])[0] / scale for side in (0, 1)]
    found = []
    for one, two in (halves, halves[::-1]):
        left, _, right = torch.linalg.svd(one @ basis, full_matrices=False)
        blind = []
        for image, combination in zip(left.T.flip(0), right.flip(0), strict=True):
            direction = torch.nn.functional.normalize(basis @ combination, dim=0)
            agreement = image @ two @ direction
            error = (2 * image @ root @ equations.noise_along(direction / scale) @ root.T @ image).clamp_min(0).sqrt()
            if agreement > max(threshold * error, ROUNDING):
                break
            blind.append(direction)
        found.append(blind)
    # each half must find one: a weak direction may fail by chance
    fewer = min(found, key=len)
    singular = torch.linalg.svdvals(whole / scale)
    faintest = torch.linalg.svd(whole / scale @ basis, full_matrices=False)[2][-1]
    weakest = torch.nn.functional.normalize(basis @ faintest, dim=0)
    directions = torch.stack(fewer) if fewer else whole.new_zeros(0, len(names))
    return Identifiability(list(names), *(part.cpu().numpy() for part in (singular, weakest, directions)))
