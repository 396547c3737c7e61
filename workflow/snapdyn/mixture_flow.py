"""Method ``mixture-flow``: the density estimator of the Fokker-Planck paper, in its four trainings."""

from dataclasses import replace

import numpy as np
import torch

from snapdyn import checkpoint, densities, density_training, scores, simulate
from snapdyn.density_methods import DensityMethod, box_around, standardisation

TRAININGS = ("dynamics", "mle", "score-matching", "combined")
STARTS = {  # start -> the trainings that can use it
    "data": ("mle", "score-matching", "combined"),
    "box": ("dynamics", "mle", "score-matching", "combined"),
    "linear": ("dynamics",),
    "linear-draws": ("dynamics",),
    "simulation": ("dynamics",),
}
FEW_AXES = 2  # in which the linear problem takes seconds, so that dynamics start from its solution
GENTLER = 0.3  # step size once the couplings are there, as a share of that of the mixture alone
# Of a start without data, in quarters of the box: the spread of the centroids, and the width of the Gaussians.
BOX_SPREAD, BOX_WIDTH = 1.0, 0.3
COUNTS = ("components", "hidden", "steps", "batch")  # options that must be 1 or more


class MixtureFlow(DensityMethod):
    """The latent mixture with couplings, trained from known dynamics or from data.

    Args:
        training: ``dynamics`` (the stationary equation of a complete drift), ``mle`` (likelihood),
            ``score-matching``, or ``combined`` (both).
        components, stacks, hidden: see :class:`snapdyn.densities.MixtureFlow`.
        start: centroids at random training rows (``data``), at random in the box (``box``), or on the grid that the
            linear problem finds (``linear``; see :mod:`snapdyn.linear_mixture`), at ``components`` draws from what it
            finds (``linear-draws``, the default of dynamics in two axes or one; in more it is ``box``), or at states
            simulated with the known drift (``simulation``); the last three with dynamics only.
        dt, burn: step and length of that simulation, in time units.
        loss: of dynamics, see :class:`snapdyn.density_training.Dynamics`.
        box: ``[[low, high], ..]`` that holds all states with margin; the data's range with a quarter more on both
            sides by default.
        share: of score matching beside likelihood, see :class:`snapdyn.density_training.Combined`.
        noise: of denoising score matching, see :class:`snapdyn.density_training.ScoreMatching`.
        validation: share of the training rows that decide when to stop; 0 trains to the end on all of them.
        steps: of the mixture alone, which is cheap and finds its place first.
        flow_steps: of mixture and couplings together, from there on, with a smaller step size.
        batch, rate, patience, penalty: see :class:`snapdyn.density_training.Recipe`.
    """

    def __init__(
        self,
        *,
        training="mle",
        components=64,
        stacks=None,
        hidden=200,
        start=None,
        loss="weighted-square",
        box=None,
        dt=None,
        burn=None,
        share=0.3,
        noise=0.0,
        validation=0.15,
        steps=3000,
        flow_steps=1000,
        batch=256,
        rate=1e-2,
        patience=10,
        penalty=0.0,
        **known,
    ):
        super().__init__(**known)
        if training not in TRAININGS:
            raise ValueError(f"expected a training of {TRAININGS}, got {training!r}")
        self.training, self.components, self.hidden, self.loss = training, components, hidden, loss
        self.stacks = (2 if len(self.axes) > 1 else 0) if stacks is None else stacks
        known_start = "linear-draws" if len(self.axes) <= FEW_AXES else "box"
        self.start = start or (known_start if training == "dynamics" else "data")
        able = [name for name, trainings in STARTS.items() if training in trainings]
        if self.start not in able:
            raise ValueError(f"expected a start of {able} with training: {training}, got {self.start!r}")
        if training == "dynamics" and (self.dynamics is None or self.diffusivity in (None, "unknown")):
            raise ValueError(
                "training: dynamics needs a drift without unknown numbers and its diffusivity, for example "
                "drift: {library: custom, known: ['-x']}, diffusivity: 0.5"
            )
        if self.start == "simulation" and not (dt and burn and isinstance(self.diffusivity, int | float)):
            raise ValueError(f"start: simulation needs dt, burn and a number for the diffusivity, got {dt}, {burn}")
        numbers = dict(zip(COUNTS, (components, hidden, steps, batch), strict=True))
        if few := {name: value for name, value in numbers.items() if not (isinstance(value, int) and value >= 1)}:
            raise ValueError(f"expected a whole number, 1 or more, for {', '.join(few)}, got {few}")
        if not (rate > 0 and 0 <= validation < 1):
            raise ValueError(f"expected rate above 0 and validation in [0, 1), got {rate} and {validation}")
        self.box, self.dt, self.burn = box, dt, burn
        self.share, self.noise, self.validation = share, noise, validation
        first = density_training.Recipe(
            steps=steps,
            batch=batch,
            rate=rate,
            patience=patience if training != "dynamics" else None,
            penalty=penalty,
        )
        self.recipes = {"mixture": first}
        if self.stacks and flow_steps:
            self.recipes["couplings"] = replace(first, steps=flow_steps, rate=GENTLER * rate)

    def fit(self, snapshots, *, rng, device="cpu", keep=checkpoint.NOWHERE, progress=None):
        """Fit in float32; see :meth:`snapdyn.density_methods.DensityMethod.fit`."""
        return super().fit(snapshots, rng=rng, device=device, keep=keep, progress=progress)

    def estimate(self, x, weight, *, rng, device, keep, progress, **how):
        seed = int(rng.integers(2**31))
        order = rng.permutation(len(x))
        held = round(self.validation * len(x)) if self.training != "dynamics" else 0
        rows, others = order[held:], order[:held]
        model, box = self._begun(x[rows], weight[rows], seed)
        model = model.to(device, torch.float32)
        objective = self._objective(x[rows], weight[rows], box, device)
        if held and np.ptp(weight) > 0:  # what decides when to stop has the data's law too
            others = rng.choice(others, held, p=weight[others] / weight[others].sum())
        others = torch.from_numpy(x[others]).to(device, torch.float32) if held else None
        history, behind = [], 0
        for phase, recipe in self.recipes.items():
            if phase == "couplings":
                model = model.with_couplings(self.stacks, self.hidden, torch.Generator().manual_seed(seed))
            how = {"seed": seed, "validation": others, "keep": keep, "progress": progress}
            rows = density_training.train(model, objective, recipe, name=f"{self.training}, {phase}", **how)
            history += [[behind + step, term, value] for step, term, value in rows]
            behind = history[-1][0]
        model = model.double().cpu()
        found = {term: value for _, term, value in history}  # the last value of each term
        said = {name: found[name] for name in ("loss", "validation", "mass") if name in found}
        steps, terms, values = zip(*history, strict=True)
        columns = {"member": [0] * len(history), "step": list(steps), "term": list(terms), "value": list(values)}
        return model, said | {"components": model.components, "steps": behind}, columns

    def _begun(self, x, weight, seed):
        """The model before training, in float64, and the box of dynamics."""
        generator, dim = torch.Generator().manual_seed(seed), x.shape[1]
        box = box_around(x, self.box, self.axes) if self.training == "dynamics" else None
        if box is None:
            centre, scale = standardisation(x, weight)
        else:  # dynamics alone: where the data lie is not looked at
            centre, scale = box.mean(1), np.ptp(box, axis=1) / 4
        place = {"centre": torch.from_numpy(centre), "scale": torch.from_numpy(scale)}
        if self.start.startswith("linear"):
            from snapdyn import linear_mixture

            try:
                found = linear_mixture.solve(self.dynamics.drift, self.dynamics.divergence, self.diffusivity, box)
            except ValueError as error:
                raise ValueError(f"{error}. Or begin without the linear problem: start: box or simulation") from None
        if self.start == "linear":
            model = densities.MixtureFlow(dim, len(found.centroids), **place).double()
            with torch.no_grad():
                model.centroids.copy_((found.centroids - place["centre"]) / place["scale"])
                model.set_covariance(found.covariance / place["scale"] / place["scale"][:, None])
                model.logits.copy_(found.weights.log())
            return model, box
        count = min(self.components, len(x)) if self.start == "data" else self.components
        model = densities.MixtureFlow(dim, count, **place).double()
        with torch.no_grad():
            if self.start == "box":
                model.centroids.copy_(BOX_SPREAD * torch.randn(count, dim, generator=generator, dtype=torch.float64))
                model.set_covariance(BOX_WIDTH**2 * torch.eye(dim))
                return model, box
            if self.start == "data":
                states = torch.from_numpy(x)[torch.multinomial(torch.from_numpy(weight), count, generator=generator)]
            elif self.start == "linear-draws":
                whole = densities.MixtureFlow.from_mixture(found.centroids, found.covariance, found.weights.log())
                states = whole.sample(count, generator)
            else:
                states = self._simulated(count, box, generator)
            model.centroids.copy_((states - place["centre"]) / place["scale"])
            wide = scores.bandwidth(model.centroids.numpy(), "density" if self.start == "data" else "likelihood")
            model.set_covariance(torch.from_numpy(wide).square().diag())
        return model, box

    def _simulated(self, n, box, generator):
        """States ``(n, dim)`` of independent trajectories of the known drift, which began anywhere in the box."""
        low, high = torch.from_numpy(box).T
        x = (low + (high - low) * torch.rand(n, len(box), generator=generator, dtype=torch.float64)).T.contiguous()

        def rate(x, out):
            out.copy_(self.dynamics.drift(x.T).T)

        how = {"steps": round(self.burn / self.dt), "dt": self.dt, "diffusivity": self.diffusivity, "scheme": "heun"}
        simulate.integrate(rate, x, generator=generator, **how)
        return x.T

    def _objective(self, x, weight, box, device):
        if self.training == "dynamics":
            box = torch.from_numpy(box).to(torch.float32)
            return density_training.Dynamics(self.dynamics, self.diffusivity, box, form=self.loss)
        x = torch.from_numpy(x).to(device, torch.float32)
        weight = torch.from_numpy(weight) if np.ptp(weight) > 0 else None
        if self.training == "mle":
            return density_training.Likelihood(x, weight)
        if self.training == "score-matching":
            return density_training.ScoreMatching(x, weight, noise=self.noise)
        return density_training.Combined(x, weight, share=self.share)
