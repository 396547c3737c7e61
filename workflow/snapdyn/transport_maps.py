r"""Maps that carry each snapshot of a course to the next: the identity plus a network, for many members side by side.

.. math:: T(x, s) = x + g(x, s), \qquad
          H(T_\# \rho) = H(\rho) + \int \log |\det \nabla_x T| \, d\rho

The last layer of g starts at 0, so that every map starts as the identity, with determinant 1.

Equation: ``push-forward-entropy``
"""

import torch
from torch import Tensor, nn

from snapdyn.networks import StackedMLP

LEAST_DETERMINANT = 1e-6  # a map that folds there has no logarithm; below, nothing pulls on it
DETERMINANTS = 3  # up to so many axes the determinant is written out


class TransportMaps(nn.Module):
    """One map for each member, which sees the time stamp of the snapshot that it starts from.

    Args:
        dim: number of axes.
        seeds: one for each member.
        hidden: widths of the hidden layers.
    """

    def __init__(self, dim, *, seeds, hidden=(64, 64)):
        super().__init__()
        self.dim = dim
        self.move = StackedMLP(dim + 1, dim, seeds=seeds, hidden=hidden, activation="selu", last=0.0)

    def _stamped(self, x, stamp):
        stamp = torch.as_tensor(stamp, dtype=x.dtype, device=x.device)
        return torch.cat([x, stamp.expand(x.shape[:-1])[..., None]], -1)

    def forward(self, x: Tensor, stamp) -> Tensor:
        """T(x, stamp) ``(members, n, dim)``; stamp: a number, or one for each point ``(n,)``."""
        return x + self.move(self._stamped(x, stamp))

    def with_log_det(self, x: Tensor, stamp) -> tuple[Tensor, Tensor, Tensor]:
        """The map, the logarithm of the size of its Jacobian's determinant, and where it turns space inside out.

        Returns:
            T(x, stamp) ``(members, n, dim)``, log |det| ``(members, n)``, and whether det < 0 ``(members, n)``: the
            logarithm does not tell, and a map that flips is no optimal one.
        Equation: ``push-forward-entropy``
        """
        moved, slopes = self.move.jacobian(self._stamped(x, stamp), self.dim)
        log_det, flipped = log_abs_det(slopes + torch.eye(self.dim).to(slopes))
        return x + moved, log_det, flipped


def log_abs_det(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """log |det| of ``(..., dim, dim)``, not below that of :data:`LEAST_DETERMINANT`, and where det < 0."""
    floor = torch.tensor(LEAST_DETERMINANT).to(matrices)
    if matrices.shape[-1] > DETERMINANTS:
        sign, size = torch.linalg.slogdet(matrices)
        return size.clamp_min(floor.log()), sign < 0
    det = _determinant(matrices)  # a tenth of the time of many small factorisations
    return det.abs().clamp_min(floor).log(), det < 0


def _determinant(a):
    if a.shape[-1] == 1:
        return a[..., 0, 0]
    if a.shape[-1] == 2:
        return a[..., 0, 0] * a[..., 1, 1] - a[..., 0, 1] * a[..., 1, 0]
    return (a[..., 0, :] * torch.linalg.cross(a[..., 1, :], a[..., 2, :])).sum(-1)
