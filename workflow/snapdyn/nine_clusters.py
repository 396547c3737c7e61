"""Nine curved clusters on a 3 x 3 grid, with an exact law, exact labels and an exact ridge."""

import math

import numpy as np
import torch

from snapdyn import drifts
from snapdyn.system import System

ANGLES = (0.9, 2.6)  # that an arc sweeps, in radians, at least and at most
BLOCK = 4096  # points whose distances to all nodes are in memory at once


class NineClusters(System):
    """Overdamped motion f = k grad log p in a landscape of nine curved clusters, the mobility k unknown.

    Each cluster is an arc of a circle under Gaussian noise. By definition the law is the mixture of equal
    isotropic Gaussians with centres along the arcs, so density, score and draws are in closed form. A true
    mobility equal to the diffusivity leaves that law at rest. Nothing else is known, so of mobility and
    diffusivity only the ratio shows.

    Args:
        spacing: distance between neighbouring clusters.
        length: of every arc; less than ``spacing``, so that the clusters lie apart.
        width: standard deviation of the noise around an arc.
        nodes: centres along each arc.
        shape_seed: of the directions and curvatures of the arcs.
    Raises:
        ValueError: clusters that touch, or nodes so far apart that a cluster falls into beads.
    Equation: ``nine-clusters``
    """

    axes = ("x", "y")
    has_density = True

    def __init__(self, *, diffusivity, spacing=2.0, length=1.1, width=0.08, nodes=50, shape_seed=0):
        if not 0 < 10 * width <= spacing - length:
            raise ValueError(
                f"clusters that overlap have no unambiguous labels: spacing - length = {spacing - length:g} must be "
                f"at least 10 width = {10 * width:g}, and width above 0"
            )
        if not (length > 0 and nodes >= 2 and length / (nodes - 1) <= width):
            raise ValueError(
                f"nodes at most one width apart make a smooth cluster: length / (nodes - 1) must be above 0 and at "
                f"most {width}, got length {length} and {nodes} nodes"
            )
        self.diffusivity, self.width = diffusivity, width
        self.parameters = {"mobility": float(diffusivity)}
        self._lay_out(spacing, length, nodes, np.random.default_rng(shape_seed))
        self.terms = drifts.AffineDrift(
            2,
            tuple(self.parameters),
            ("length^2/time unit",),
            lambda x: self.score(None, x)[:, None],
            lambda x: self._laplacian(x)[:, None],
            torch.zeros_like,
            lambda x: torch.zeros_like(x[:, 0]),
        )

    def _lay_out(self, spacing, length, nodes, rng):
        """Centres, radii and middle directions of the circles; the nodes ``(9 nodes, 2)``, cluster by cluster."""
        middles = spacing * np.stack(np.meshgrid([-1, 0, 1], [1, 0, -1]), -1).reshape(9, 2)
        self.half_angle = rng.uniform(*ANGLES, 9) / 2
        self.radius = length / (2 * self.half_angle)
        self.direction = rng.uniform(-np.pi, np.pi, 9)
        angles = self.direction[:, None] + self.half_angle[:, None] * np.linspace(-1, 1, nodes)
        arcs = self.radius[:, None, None] * np.stack([np.cos(angles), np.sin(angles)], -1)
        towards = np.stack([np.cos(self.direction), np.sin(self.direction)], 1)
        off = self.radius * np.sin(self.half_angle) / self.half_angle  # from a circle's centre to its arc's
        self.circle = middles - off[:, None] * towards
        self.nodes = torch.from_numpy((arcs + self.circle[:, None]).reshape(-1, 2))

    @property
    def box(self):
        room = 8 * self.width
        low, high = self.nodes.min(0).values - room, self.nodes.max(0).values + room
        return tuple(zip(low.tolist(), high.tolist(), strict=True))

    def _logits(self, x):
        """Logarithms of the densities of the nodes at ``x (n, 2)``, up to a constant: ``(n, 9 nodes)``."""
        return -0.5 * (x[:, None] - self.nodes.to(x)).square().sum(2) / self.width**2

    def log_prob(self, t, x):
        parts = [torch.logsumexp(self._logits(block), 1) for block in x.split(BLOCK)]
        return torch.cat(parts) - math.log(len(self.nodes) * 2 * math.pi * self.width**2)

    def _weights(self, x):
        return torch.softmax(self._logits(x), 1)

    def score(self, t, x):
        parts = [self._weights(block) @ self.nodes.to(x) - block for block in x.split(BLOCK)]
        return torch.cat(parts) / self.width**2

    def _laplacian(self, x):
        """div s = trace of the nodes' covariance under their weights / width^4 - 2 / width^2 ``(n,)``."""
        traces = []
        for block in x.split(BLOCK):
            weights, nodes = self._weights(block), self.nodes.to(x)
            away = nodes - (weights @ nodes)[:, None]
            traces.append((weights * away.square().sum(2)).sum(1))
        return torch.cat(traces) / self.width**4 - 2 / self.width**2

    def rate(self, x, out):
        out.copy_(self.score(None, x.T).T).mul_(self.parameters["mobility"])

    def sample(self, n, rng):
        chosen = rng.integers(len(self.nodes), size=n)
        return self.nodes.numpy()[chosen] + self.width * rng.standard_normal((n, 2))

    def initial(self, n, generator, device):
        """Draws from the law itself: the clusters are so far apart that no simulation would mix them."""
        chosen = torch.randint(len(self.nodes), (n,), generator=generator, device=device)
        return self.nodes.to(device)[chosen].T + self.width * super().initial(n, generator, device)

    def component(self, x):
        """The most probable cluster of each point ``(n, 2)``: 0 to 8 ``(n,)``, row by row from the top left."""
        x = torch.as_tensor(x, dtype=torch.float64)
        likely = [torch.logsumexp(self._logits(block).unflatten(1, (9, -1)), 2).argmax(1) for block in x.split(BLOCK)]
        return torch.cat(likely).numpy()

    def ridge_distance(self, x):
        """Distance ``(n,)`` of each point ``(n, 2)`` to the nearest arc, exactly: to its circle, or to its ends."""
        away = np.asarray(x, dtype=np.float64)[:, None] - self.circle
        angle = np.arctan2(away[..., 1], away[..., 0]) - self.direction
        angle = (angle + np.pi) % (2 * np.pi) - np.pi
        end = self.direction + self.half_angle * np.where(angle < 0, -1, 1)
        to_end = away - self.radius[:, None] * np.stack([np.cos(end), np.sin(end)], -1)
        inside = np.abs(angle) <= self.half_angle
        to_circle = np.abs(np.linalg.norm(away, axis=-1) - self.radius)
        return np.where(inside, to_circle, np.linalg.norm(to_end, axis=-1)).min(1)
