"""Timed clouds that roll down a known potential, energies in closed form, and a method that trains next to nothing."""

import numpy as np
import torch

from snapdyn.energies import Energy
from snapdyn.energy_methods import EnergyMethod, Trained
from snapdyn.energy_models import EnergyModel
from snapdyn.snapshots import Snapshots

RATE = np.array([0.5, 1.5])  # V = (rate_1 x^2 + rate_2 y^2) / 2, in 1 / time


class Quadratic(torch.nn.Module):
    """x.rates.x / 2 + slope.x times 1 + the last input, where there is one: what a network is to an energy."""

    def __init__(self, rates, slope=(0.0, 0.0), timed=False):
        super().__init__()
        self.register_buffer("rates", torch.as_tensor(rates, dtype=torch.float64))
        self.register_buffer("slope", torch.as_tensor(slope, dtype=torch.float64))
        self.dim, self.inputs = len(self.rates), len(self.rates) + timed

    def factor(self, x):
        return 1 + x[..., self.dim :].sum(-1, keepdim=True)

    def forward(self, x):
        z = x[..., : self.dim]
        return self.factor(x) * (0.5 * self.rates * z.square() + self.slope * z).sum(-1, keepdim=True)

    def gradient(self, x, dim=None):
        return self.factor(x) * (self.rates * x[..., : self.dim] + self.slope)

    def hessian(self, x, dim=None):
        curve = self.factor(x)[..., None] * torch.diag(self.rates)
        return self.gradient(x), curve.expand(*x.shape[:2], self.dim, self.dim)


def quadratic_model(*, rate=RATE, times=(0.0, 2.0, 3.0), scale=3.0, centre=(1.0, -2.0), timed=False, **more):
    """The model whose potential is V = rate.x^2 / 2 in user units, whatever the units inside; times 1 + its stamp."""
    clock, centre = float(np.diff(times).mean()), np.array(centre)
    inside = clock * np.asarray(rate), clock * np.asarray(rate) * centre / scale
    rest = {name: more.pop(name) for name in ("interaction", "raw_diffusivity") if name in more}
    energy = Energy(2, potential=Quadratic(*inside, timed=timed), **rest)
    about = {"times": times, "clock": clock, "centre": centre, "scale": scale, "axes": ["x", "y"]}
    return EnergyModel(energy, **about, **more)


def rolling(n=400, times=(0.0, 1.0, 2.0, 3.0), *, seed=0, train=0.6, scale=1.0):
    """Fresh particles at every time, carried by exact implicit steps of the quadratic potential."""
    rng, shrink, x = np.random.default_rng(seed), np.ones(2), []
    for gap in np.diff(times, prepend=times[0]):
        shrink = shrink / (1 + gap * RATE)
        x.append(scale * shrink * (2 * rng.standard_normal((n, 2)) + 1))
    t = np.repeat(times, n)
    split = np.full(len(t), "test", dtype=object)
    split[np.tile(np.arange(n) < train * n, len(times))] = "train"
    meta = {"axes": ["x", "y"], "time_unit": "day", "seed": seed, "dataset": "rolling", "space": "data units", "dim": 2}
    return Snapshots.build(np.concatenate(x), t=t, split=split, meta=meta)


class Untrained(EnergyMethod):
    """Fresh networks as they are; it notes how many rows it was given and where it was."""

    def fit(self, snapshots, *, rng, device="cpu", **offers):
        return super().fit(snapshots, rng=rng, device=device, **offers)

    def train(self, courses, *, seeds, validation=None, device, keep, progress):
        seen = sum(x.shape[1] for x in courses.x)
        held = 0 if validation is None else sum(x.shape[1] for x in validation.x)
        said = [{"rows": seen, "held": held, "members": courses.members} for _ in seeds]
        history = [(member, 0, "loss", float(seen), "train") for member in range(len(seeds))]
        return Trained(self.fresh(courses, seeds), said, history)
