r"""The free energy of a population: a potential, an interaction and an entropy, for many members side by side.

.. math:: J(\rho) = \int V\,d\rho + \tfrac12 \iint W(x - y)\,d\rho\,d\rho + \beta \int \rho \log \rho

W is even, and the factor 1/2 makes its force the mean of grad W over the population.

Equation: ``free-energy``
"""

import importlib

import torch
from torch import Tensor, nn
from torch.nn import functional

from snapdyn.networks import StackedMLP

STARTING_DIFFUSIVITY = 0.01  # in internal units
# Of a diffusivity's step size, in units of that of the networks: beta may have to fall or rise by orders of magnitude
# in the few hundred steps of an energy with pairs, and where it ends must not be where its steps ran out.
PACE = 10.0
# What a state may name as its family; without one it is a stacked network.
FAMILIES = {"features": "snapdyn.features:FeaturePotential"}


def loaded_function(state):
    """The potential or interaction that its own ``state()`` took apart; None stays None.

    Whatever is to stand for one has ``inputs``, ``forward``, ``gradient``, ``hessian``, ``state``, ``from_state``,
    ``member`` and ``scaled`` like :class:`snapdyn.networks.StackedMLP`.
    """
    if state is None or "family" not in state:
        return state and StackedMLP.from_state(state)
    if state["family"] not in FAMILIES:
        raise ValueError(f"unknown family of functions {state['family']!r}; there are {list(FAMILIES)}")
    module, name = FAMILIES[state["family"]].split(":")
    return getattr(importlib.import_module(module), name).from_state(state)


class Energy(nn.Module):
    """Terms of a free energy in internal units; those that are None are absent.

    Args:
        dim: number of axes.
        potential: network (or see :data:`FAMILIES`) of ``dim`` inputs, or of ``dim + 1``, the last of which is the
            time stamp.
        interaction: network of ``dim`` inputs, made even.
        raw_diffusivity: ``(members,)``, mapped to beta >= 0 by softplus.
    """

    def __init__(self, dim, potential=None, interaction=None, raw_diffusivity=None):
        super().__init__()
        self.dim, self.potential, self.interaction = dim, potential, interaction
        self.raw_diffusivity = None if raw_diffusivity is None else nn.Parameter(raw_diffusivity)

    @classmethod
    def build(cls, dim, *, seeds, terms=("potential",), timed=False, hidden=(64, 64)):
        """Fresh networks for each seed.

        Args:
            terms: of ``potential``, ``interaction``, ``entropy``.
            timed: whether the potential depends on time.
        """
        if unknown := sorted(set(terms) - {"potential", "interaction", "entropy"}) or not terms:
            raise ValueError(f"expected terms of potential, interaction, entropy; got {unknown or terms}")
        networks = {}
        if "potential" in terms:
            networks["potential"] = StackedMLP(dim + timed, 1, seeds=seeds, hidden=hidden)
        if "interaction" in terms:
            networks["interaction"] = StackedMLP(dim, 1, seeds=[seed + 2**31 for seed in seeds], hidden=hidden)
        if "entropy" in terms:
            start = torch.full((len(seeds),), STARTING_DIFFUSIVITY, dtype=torch.float64).expm1().log()
            networks["raw_diffusivity"] = start.float()
        return cls(dim, **networks)

    @property
    def timed(self):
        return self.potential is not None and self.potential.inputs > self.dim

    @property
    def diffusivity(self):
        """beta ``(members,)``, or None."""
        return None if self.raw_diffusivity is None else functional.softplus(self.raw_diffusivity)

    def paces(self):
        """The step size of each of ``parameters()`` in units of the networks' own."""
        return [PACE if p is self.raw_diffusivity else 1.0 for p in self.parameters()]

    def _stamped(self, x, stamp):
        if not self.timed:
            return x
        stamp = torch.as_tensor(stamp, dtype=x.dtype, device=x.device)
        return torch.cat([x, stamp.expand(*x.shape[:-1])[..., None]], -1)

    def potential_value(self, x: Tensor, stamp=None) -> Tensor:
        """V ``(members, n)`` at ``x (members, n, dim)``; stamp: a number, or one for each point ``(n,)``."""
        return self.potential(self._stamped(x, stamp))[..., 0]

    def potential_gradient(self, x: Tensor, stamp=None) -> Tensor:
        """grad V ``(members, n, dim)``."""
        return self.potential.gradient(self._stamped(x, stamp), self.dim)

    def potential_hessian(self, x: Tensor, stamp=None) -> tuple[Tensor, Tensor]:
        """grad V and the second derivatives ``(members, n, dim, dim)``."""
        return self.potential.hessian(self._stamped(x, stamp), self.dim)

    def interaction_gradient(self, x: Tensor, others: Tensor, *, same=False) -> Tensor:
        """mean over ``others (members, m, dim)`` of grad W (x - y): ``(members, n, dim)``.

        Args:
            same: ``others`` is ``x`` itself, whose points do not act on themselves.
        """
        n = x.shape[1]
        if same and others is x:
            return self.pair_forces(x).sum(2) / (n - 1)
        z = x[:, :, None] - others[:, None]
        force = self._even_gradient(z.flatten(1, 2)).unflatten(1, (n, others.shape[1]))
        return force.sum(2) / (others.shape[1] - same)  # grad W(0) = 0, since W is even

    def kernel(self, z: Tensor) -> Tensor:
        """W ``(members, n)`` at differences ``z (members, n, dim)`` of two positions."""
        return self._even(z)

    def pair_forces(self, x: Tensor) -> Tensor:
        """grad W (x_i - x_j) for all pairs ``(members, n, n, dim)``: 0 on the diagonal, for half of what two clouds
        cost, since the point mirrored at the origin is another pair."""
        n = x.shape[1]
        raw = self.interaction.gradient((x[:, :, None] - x[:, None]).flatten(1, 2)).unflatten(1, (n, n))
        return 0.5 * (raw - raw.transpose(1, 2))

    def kernel_gradient(self, z: Tensor) -> Tensor:
        """grad W ``(members, n, dim)`` at such differences."""
        return self._even_gradient(z)

    def _even(self, z):
        return 0.5 * (self.interaction(z) + self.interaction(-z))[..., 0]

    def _even_gradient(self, z):
        return 0.5 * (self.interaction.gradient(z) - self.interaction.gradient(-z))

    def force(self, x: Tensor, stamp=None, cloud=None) -> Tensor:
        """grad of the first variation without the entropy: grad V + grad W * rho, ``(members, n, dim)``.

        Args:
            cloud: the population ``(members, m, dim)`` that interacts; ``x`` itself if left out.
        """
        total = 0.0
        if self.potential is not None:
            total = total + self.potential_gradient(x, stamp)
        if self.interaction is not None:
            total = total + self.interaction_gradient(x, x if cloud is None else cloud, same=cloud is None)
        return total if torch.is_tensor(total) else torch.zeros_like(x)

    def state(self):
        """Constructor arguments as tensors and plain values."""
        kept = {"dim": self.dim}
        for name in ("potential", "interaction"):
            network = getattr(self, name)
            kept[name] = None if network is None else network.state()
        raw = self.raw_diffusivity
        kept["raw_diffusivity"] = None if raw is None else raw.detach().cpu().clone()
        return kept

    @classmethod
    def from_state(cls, state):
        functions = {name: loaded_function(state[name]) for name in ("potential", "interaction")}
        return cls(state["dim"], **functions, raw_diffusivity=state["raw_diffusivity"])

    def member(self, place):
        """One of the members, as a stack of one."""
        networks = {
            name: getattr(self, name) and getattr(self, name).member(place) for name in ("potential", "interaction")
        }
        raw = self.raw_diffusivity
        return Energy(
            self.dim, **networks, raw_diffusivity=None if raw is None else raw.detach()[place : place + 1].clone()
        )
