"""Timed snapshots of a linear process: dX = (A X + b) dt + sqrt(2 D) dW, constant in time.

Means and covariances of a linear process obey closed equations, so they are carried from each snapshot to
the next exactly, however long the gap. The parameters are those under which the carried Gaussians come
closest to the next snapshot in relative entropy: a quasi-likelihood, consistent for the linear law and a
best linear summary of any other.
"""

import math

import numpy as np
import torch
from torch import Tensor

from snapdyn import models


def transition(matrix: Tensor, offset: Tensor, diffusivity: Tensor, gap: float):
    r"""Mean map and noise of a linear process over a time ``gap``, by block exponentials (Van Loan).

    .. math:: X_{t+\Delta} = F X_t + c + \xi, \quad F = e^{A\Delta}, \quad
              \mathrm{Cov}\,\xi = \int_0^\Delta e^{As}\, 2D\, e^{A^\top s}\, ds

    Args:
        matrix: A ``(dim, dim)`` in 1 / time. offset: b ``(dim,)``. diffusivity: D, scalar tensor.
    Returns:
        F ``(dim, dim)``, c ``(dim,)``, noise covariance ``(dim, dim)``.
    Equation: ``affine-propagation``
    """
    dim = len(matrix)
    # The block exponential holds e^{-A t} beside e^{A t} and loses all digits over long gaps; so it spans a
    # fraction of the gap, doubled until it is whole.
    stretch = float(torch.linalg.matrix_norm(matrix.detach(), 1)) * gap
    doublings = max(0, math.ceil(math.log2(max(stretch, 1e-300))))
    step = gap / 2**doublings
    identity, zero = torch.eye(dim).to(matrix), torch.zeros(dim, dim).to(matrix)
    spread = torch.cat([torch.cat([-matrix, 2 * diffusivity * identity], 1), torch.cat([zero, matrix.T], 1)])
    blocks = torch.matrix_exp(spread * step)
    carry = blocks[dim:, dim:].T
    noise = carry @ blocks[:dim, dim:]
    extended = torch.cat([torch.cat([matrix, offset[:, None]], 1), torch.zeros(1, dim + 1).to(matrix)])
    shift = torch.matrix_exp(extended * step)[:dim, dim]
    for _ in range(doublings):
        shift = carry @ shift + shift
        noise = carry @ noise @ carry.T + noise
        carry = carry @ carry
    return carry, shift, (noise + noise.T) / 2


def gaussian_log_prob(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Log-density in nats ``(n,)`` of a Gaussian at ``x (n, dim)``."""
    return torch.distributions.MultivariateNormal(mean, covariance_matrix=covariance).log_prob(x)


def _unpack(theta: Tensor, dim: int):
    matrix = theta[: dim * dim].view(dim, dim)
    return matrix, theta[dim * dim : -1], theta[-1].exp()


def quasi_likelihood(theta: Tensor, means: Tensor, covariances: Tensor, gaps, shares: Tensor) -> Tensor:
    """Mean relative entropy of the next snapshot's Gaussian to the carried one, per gap and dimension, in nats.

    Args:
        theta: A row by row, b, log D: ``(dim^2 + dim + 1,)``.
        means, covariances: of the snapshots, ``(times, dim)`` and ``(times, dim, dim)``.
        gaps: time between snapshots ``(times - 1,)``.
        shares: weight of each gap ``(times - 1,)``.
    Equation: ``affine-propagation``
    """
    dim = means.shape[1]
    matrix, offset, diffusivity = _unpack(theta, dim)
    total = 0.0
    for k, gap in enumerate(gaps):
        carry, shift, noise = transition(matrix, offset, diffusivity, float(gap))
        mean = carry @ means[k] + shift
        covariance = carry @ covariances[k] @ carry.T + noise
        factor = torch.linalg.cholesky(covariance)
        target = torch.linalg.cholesky(covariances[k + 1])
        ratio = torch.linalg.solve_triangular(factor, target, upper=False)
        gone = torch.linalg.solve_triangular(factor, (means[k + 1] - mean)[:, None], upper=False)
        logs = factor.diagonal().log().sum() - target.diagonal().log().sum()
        total = total + shares[k] * (0.5 * (ratio.square().sum() + gone.square().sum() - dim) + logs)
    return total / dim


class AffinePropagation:
    """Method ``affine-propagation``: f = A x + b and isotropic D from timed snapshots.

    Fitted in centred coordinates of unit size and mapped back, standard errors included. These are
    first-order errors of independent cells (delta method on the snapshot means and covariances); for cells
    that do not follow a linear law they are the errors of the best linear summary.

    Args:
        restarts: starting points of the optimiser; the best end point is kept.
    """

    def __init__(self, *, axes, time_unit=None, restarts=4):
        self.axes, self.time_unit, self.restarts = list(axes), time_unit, restarts

    def fit(self, snapshots, *, rng):
        """Fit the training rows of at least two snapshots; see :class:`AffineModel`."""
        data = snapshots.select(split="train")
        times, dim = data.times, data.dim
        if len(times) < 2:
            raise ValueError(f"affine-propagation needs at least two snapshots, got {len(times)}")
        small = [f"{t:g}: {(data.t == t).sum()}" for t in times if (data.t == t).sum() <= dim]
        if small:
            raise ValueError(
                f"a covariance in {dim} dimensions needs more than {dim} training cells at each time, got {small}; "
                "use fewer components or pool times"
            )
        centre, scale = data.x.mean(0), float(data.x.std(0).mean())
        if not scale > 0:
            raise ValueError(f"all {len(data)} training cells are identical, so they have no spread to explain")
        clock = float(np.diff(times).mean())
        z = (data.x - centre) / scale
        clouds = [(torch.from_numpy(z[data.t == t]), torch.from_numpy(data.weight[data.t == t])) for t in times]
        means, covariances = map(torch.stack, zip(*(_moments(*cloud) for cloud in clouds), strict=True))
        gaps = np.diff(times) / clock
        counts = np.array([len(cloud[0]) for cloud in clouds[1:]], dtype=np.float64)
        shares = torch.from_numpy(counts / counts.sum())

        theta, loss = self._optimise(means, covariances, gaps, shares, rng)
        covariance = _sandwich(theta, clouds, means, covariances, gaps, shares)
        return AffineModel.from_standard(
            theta,
            covariance,
            centre=centre,
            scale=scale,
            clock=clock,
            start=(float(times[0]), means[0], covariances[0]),
            end=float(times[-1]),
            axes=self.axes,
            time_unit=self.time_unit,
            loss=loss,
        )

    def _optimise(self, means, covariances, gaps, shares, rng):
        from scipy.optimize import minimize

        dim = means.shape[1]
        scale = covariances.diagonal(dim1=1, dim2=2).mean()

        def objective(values):
            theta = torch.from_numpy(values).requires_grad_()
            try:
                loss = quasi_likelihood(theta, means, covariances, gaps, shares)
                (slope,) = torch.autograd.grad(loss, theta)
            except torch.linalg.LinAlgError:  # a trial step beyond positive definite: send the search back
                return 1e10, np.zeros_like(values)
            if not (torch.isfinite(loss) and torch.isfinite(slope).all()):
                return 1e10, np.zeros_like(values)
            return loss.item(), slope.numpy()

        best = None
        for restart in range(self.restarts):
            matrix = -0.3 * np.eye(dim) + (restart > 0) * 0.2 * rng.standard_normal((dim, dim))
            noise = np.log(0.3 * float(scale) * 2.0 ** -(restart % 3))
            start = np.concatenate([matrix.ravel(), np.zeros(dim), [noise]])
            bounds = [(None, None)] * (dim * dim + dim) + [(np.log(1e-8 * float(scale)), None)]
            found = minimize(
                objective,
                start,
                jac=True,
                method="L-BFGS-B",
                bounds=bounds,
                options={"maxiter": 2000, "maxfun": 4000},
            )
            if best is None or found.fun < best.fun:
                best = found
        if not best.fun < 1e9:
            raise ValueError("no linear process could be fitted: the covariance of some snapshot is singular")
        return torch.from_numpy(best.x), float(best.fun)


def _moments(z, weight):
    share = weight / weight.sum()
    mean = share @ z
    centred = z - mean
    return mean, centred.T @ (share[:, None] * centred)


def _sandwich(theta, clouds, means, covariances, gaps, shares):
    """Covariance of theta by the delta method: d theta = -H^-1 (d gradient / d moments) d moments."""
    dim, times = means.shape[1], len(means)
    size = dim + dim * dim

    def split(flat):
        flat = flat.view(times, size)
        return flat[:, :dim], flat[:, dim:].view(times, dim, dim)

    def slope(theta, flat):
        m, c = split(flat)
        return torch.func.grad(quasi_likelihood)(theta, m, (c + c.transpose(1, 2)) / 2, gaps, shares)

    flat = torch.cat([means, covariances.flatten(1)], 1).flatten()
    hessian, mixed = torch.func.jacrev(slope, argnums=(0, 1))(theta, flat)
    noise = torch.zeros(len(flat), len(flat)).to(theta)
    for k, (z, weight) in enumerate(clouds):
        share = weight / weight.sum()
        centred = z - means[k]
        influence = torch.cat([centred, (centred[:, :, None] * centred[:, None, :]).flatten(1)], 1)
        influence[:, dim:] -= covariances[k].flatten()
        part = slice(k * size, (k + 1) * size)
        weighted = share[:, None] * influence
        noise[part, part] = weighted.T @ weighted
    inverse = torch.linalg.pinv((hessian + hessian.T) / 2, hermitian=True, rtol=1e-10)
    return inverse @ mixed @ noise @ mixed.T @ inverse


class AffineModel(models.DriftModel):
    """A fitted linear process. Its Gaussian law is known at every time from the first snapshot's Gaussian.

    ``log_prob``, ``score`` and ``velocity`` are those of that Gaussian law, not of the data.
    """

    kind = "affine-gaussian-process"

    def __init__(self, matrix, offset, diffusivity, *, errors, start, end, axes, time_unit, diagnostics):
        from snapdyn import drifts

        self.matrix, self.offset = np.asarray(matrix), np.asarray(offset)
        self.start, self.end, self.axes, self.time_unit = start, end, list(axes), time_unit
        # the polynomial library lists, equation by equation, the constant and then the axes
        arrange = lambda a, b: np.concatenate([np.r_[b[i], a[i]] for i in range(len(b))])  # noqa: E731
        super().__init__(
            drifts.affine(len(self.offset), axes=self.axes, time_unit=time_unit),
            arrange(self.matrix, self.offset),
            diffusivity=diffusivity,
            std_error=arrange(errors["matrix"], errors["offset"]),
            diffusivity_error=errors["diffusivity"],
            diagnostics=diagnostics,
        )
        self.errors = errors

    @classmethod
    def from_standard(cls, theta, covariance, *, centre, scale, clock, start, end, axes, time_unit, loss):
        """Map a fit in z = (x - centre) / scale and time / clock back to the user's units.

        Equation: ``affine-units``
        """
        dim = len(centre)
        matrix, offset, diffusivity = _unpack(theta, dim)
        a = matrix.numpy() / clock
        b = scale * offset.numpy() / clock - a @ centre
        # b depends on the fitted A through the centre, so its error does too
        back = np.zeros((dim * dim + dim + 1,) * 2)
        back[: dim * dim, : dim * dim] = np.eye(dim * dim) / clock
        for i in range(dim):
            row = dim * dim + i
            back[row, i * dim : (i + 1) * dim] = -centre / clock
            back[row, row] = scale / clock
        d = float(diffusivity) * scale**2 / clock
        back[-1, -1] = d
        errors = np.sqrt(np.clip(np.diag(back @ covariance.numpy() @ back.T), 0, None))
        time, mean, spread = start
        return cls(
            a,
            b,
            d,
            errors={
                "matrix": errors[: dim * dim].reshape(dim, dim),
                "offset": errors[dim * dim : -1],
                "diffusivity": float(errors[-1]),
            },
            start=(time, scale * mean.numpy() + centre, scale**2 * spread.numpy()),
            end=end,
            axes=axes,
            time_unit=time_unit,
            diagnostics={"relative_entropy": loss},
        )

    def _transition(self, gap):
        parts = transition(
            torch.from_numpy(self.matrix),
            torch.from_numpy(self.offset),
            torch.tensor(self.diffusivity, dtype=torch.float64),
            gap,
        )
        return [part.numpy() for part in parts]

    def law(self, t):
        """Mean and covariance at time ``t`` of the process started from the first snapshot's Gaussian."""
        time, mean, covariance = self.start
        if t < time:
            raise ValueError(f"the process starts at t = {time:g}, asked for t = {t:g}")
        carry, shift, noise = self._transition(float(t) - time)
        return carry @ mean + shift, carry @ covariance @ carry.T + noise

    def _by_time(self, t, x, function):
        x = np.asarray(x, dtype=np.float64)
        t = np.broadcast_to(np.asarray(t, dtype=np.float64), (len(x),))
        values = None
        for time in np.unique(t):
            rows = t == time
            part = function(x[rows], *self.law(time))
            values = np.empty((len(x), *part.shape[1:])) if values is None else values
            values[rows] = part
        return values

    def log_prob(self, t, x):
        def at(x, mean, covariance):
            return gaussian_log_prob(*map(torch.from_numpy, (x, mean, covariance))).numpy()

        return self._by_time(t, x, at)

    def score(self, t, x):
        return self._by_time(t, x, lambda x, mean, covariance: -np.linalg.solve(covariance, (x - mean).T).T)

    def velocity(self, t, x):
        """u = f - D s: what carries the Gaussian law. Equation: ``probability-flow``"""
        return self.drift(t, x) - self.diffusivity * self.score(t, x)

    def potential(self, t, x):
        raise NotImplementedError("a linear process has no potential(t, x) in general; use drift, velocity or log_prob")

    def simulate(self, x0, times, rng=None):
        """Exact draws of the linear process from ``x0`` at ``times[0]``: ``(len(times), n, dim)``."""
        rng = rng or np.random.default_rng(0)
        path = [np.array(x0, dtype=np.float64)]
        for gap in np.diff(times):
            carry, shift, noise = self._transition(float(gap))
            draws = rng.multivariate_normal(np.zeros(self.dim), noise, len(x0), method="eigh")
            path.append(path[-1] @ carry.T + shift + draws)
        return np.stack(path)

    def state(self):
        time, mean, covariance = self.start
        return {
            "matrix": torch.from_numpy(self.matrix),
            "offset": torch.from_numpy(self.offset),
            "diffusivity": self.diffusivity,
            "errors": {
                "matrix": torch.from_numpy(np.ascontiguousarray(self.errors["matrix"])),
                "offset": torch.from_numpy(np.ascontiguousarray(self.errors["offset"])),
                "diffusivity": self.errors["diffusivity"],
            },
            "start": [time, torch.from_numpy(np.asarray(mean)), torch.from_numpy(np.asarray(covariance))],
            "end": self.end,
            "axes": self.axes,
            "time_unit": self.time_unit,
            "diagnostics": self.diagnostics,
        }

    @classmethod
    def from_state(cls, state):
        time, mean, covariance = state["start"]
        errors = state["errors"]
        return cls(
            state["matrix"].numpy(),
            state["offset"].numpy(),
            state["diffusivity"],
            errors=errors | {name: errors[name].numpy() for name in ("matrix", "offset")},
            start=(time, mean.numpy(), covariance.numpy()),
            end=state["end"],
            axes=state["axes"],
            time_unit=state["time_unit"],
            diagnostics=state["diagnostics"],
        )
