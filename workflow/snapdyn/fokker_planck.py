"""Drift parameters from one stationary cloud, through a kernel estimate of its density.

At each probing point the stationary Fokker-Planck equation is linear in the unknown coefficients:
``A theta + c = 0``. The *plain* design puts an estimated score into the equation and inherits the score's
bias; the *convolved* design is exact for every bandwidth, because it asks the smoothed density to obey the
smoothed equation. Either is solved by least squares, by the exact L1 minimum, or by the paper's optimiser.
"""

import numpy as np
import torch
from torch import Tensor

from snapdyn import checkpoint, drifts, models, scores


def plain_design(kernel: scores.KernelEstimate, drift: drifts.AffineDrift, probes: Tensor, diffusivity: float):
    r"""Rows of the stationary residual R = A theta + c with the estimated score put in.

    .. math:: A_{jk} = s_j\cdot g_k(x_j) + \nabla\cdot g_k(x_j), \quad
              c_j = s_j\cdot v + \nabla\cdot v - D(|s_j|^2 + \nabla\cdot s_j)

    Returns:
        ``A (q, count)`` and ``c (q,)`` in 1 / time.
    Equation: ``plain-design``, ``stationary-residual``
    """
    score = kernel.score
    design = torch.einsum("qd,qkd->qk", score, drift.fields(probes)) + drift.divergences(probes)
    rest = (score * drift.known(probes)).sum(1) + drift.known_divergence(probes)
    return design, rest - diffusivity * kernel.laplacian


def convolution_features(drift: drifts.AffineDrift, data: Tensor, inverse: Tensor) -> Tensor:
    """What the kernel pass has to average for :func:`convolved_design`: fields, and fields . H^-1 X.

    Args:
        inverse: 1 / h^2 per axis ``(dim,)``.
    Returns:
        ``(n, (count + 1) (dim + 1))``, the known part v last.
    """
    fields = torch.cat([drift.fields(data), drift.known(data)[:, None]], 1)
    along = torch.einsum("nkd,nd->nk", fields, data * inverse)
    return torch.cat([fields.flatten(1), along], 1)


def convolved_design(kernel: scores.KernelEstimate, drift: drifts.AffineDrift, probes, inverse, diffusivity):
    r"""Rows of the convolved equation, exact for every bandwidth.

    .. math:: A_{jk} = E[g_k(X)\cdot H^{-1}(X - x_j) \mid x_j], \quad
              c_j = E[v(X)\cdot H^{-1}(X - x_j) \mid x_j] - D\,\Delta p_h / p_h

    Args:
        kernel: a pass over :func:`convolution_features`.
    Returns:
        ``A (q, count)`` and ``c (q,)`` in 1 / time.
    Equation: ``convolved-design``
    """
    blocks = drift.count + 1
    fields = kernel.means[:, : blocks * drift.dim].unflatten(1, (blocks, drift.dim))
    along = kernel.means[:, blocks * drift.dim :]
    rows = along - torch.einsum("qkd,qd->qk", fields, probes * inverse)
    return rows[:, :-1], rows[:, -1] - diffusivity * kernel.laplacian


def least_squares(design: Tensor, rest: Tensor) -> Tensor:
    """The minimiser of |A theta + c|_2, by an orthogonal factorisation of the scaled columns.

    Equation: ``closed-form``
    """
    scale = design.norm(dim=0).clamp_min(torch.finfo(design.dtype).tiny)
    # gels, since gelsy starts from pivots that torch leaves uninitialised: its last bits differ from call to call
    return torch.linalg.lstsq(design / scale, -rest[:, None], driver="gels").solution[:, 0] / scale


def least_absolute(design: Tensor, rest: Tensor, *, iterations=200, tolerance=1e-10) -> Tensor:
    """The minimiser of |A theta + c|_1 by iteratively reweighted least squares.

    Equation: ``l1-loss``
    """
    theta = least_squares(design, rest)
    for _ in range(iterations):
        residual = design @ theta + rest
        epsilon = 1e-7 * residual.abs().median().clamp_min(torch.finfo(design.dtype).tiny)
        root = (residual.square() + epsilon.square()).pow(-0.25)  # square root of the weight 1 / |r|
        update = least_squares(design * root[:, None], rest * root)
        moved = ((update - theta).abs() / (theta.abs() + 1e-300)).max()
        theta = update
        if moved < tolerance:
            break
    return theta


def adam_paths(design, rest, starts, *, batch, epochs, rate, rng, record=50, keep=checkpoint.NOWHERE):
    """The paper's recipe: Adam on the L1 loss in small batches, every start side by side.

    The step size falls linearly to 0. The gradient of |a . theta + c| is sign(r) a, so one matrix product
    serves all starts.

    Args:
        design, rest: ``A (q, count)`` and ``c (q,)``.
        starts: initial coefficients ``(starts, count)``.
        record: keep every ``record``-th step.
        keep: a :class:`snapdyn.checkpoint.Checkpoint`; an interrupted run goes on from the step that it reached, to
            the same bits.
    Returns:
        the last coefficients ``(starts, count)``, the recorded steps ``(r,)``, the coefficients there
        ``(r, starts, count)`` and the loss over all probes ``(r, starts)``.
    Equation: ``l1-loss``
    """
    rows = len(design)
    order = np.concatenate([rng.permutation(rows)[: rows - rows % batch] for _ in range(epochs)])
    batches = torch.from_numpy(order.reshape(-1, batch)).to(design.device)
    total = len(batches)
    with keep.loop("adam", design, rest, starts, batches) as loop:
        zero = torch.zeros_like(starts)
        begun = {"theta": starts, "first": zero, "second": zero, "steps": [0], "path": starts[None]} | (
            loop.state or {}
        )
        theta, first, second = (begun[name].to(starts, copy=True) for name in ("theta", "first", "second"))
        steps, path = begun["steps"], list(begun["path"].to(starts, copy=True))

        def state():
            return {"theta": theta, "first": first, "second": second, "steps": steps, "path": torch.stack(path)}

        for step, members in enumerate(batches[loop.done :], loop.done + 1):
            a, c = design[members], rest[members]
            gradient = torch.sign(theta @ a.T + c) @ a / batch
            first.lerp_(gradient, 0.1)
            second.lerp_(gradient.square(), 0.001)
            unbiased = (second / (1 - 0.999**step)).sqrt_().add_(1e-8)
            theta -= rate * (1 - (step - 1) / total) / (1 - 0.9**step) * first / unbiased
            if step % record == 0 or step == total:
                steps.append(step)
                path.append(theta.clone())
            loop.tick(step, state)
    path = torch.stack(path)
    loss = torch.stack([(design @ stop.T + rest[:, None]).abs().mean(0) for stop in path])
    return theta, np.array(steps), path, loss


class KernelMethod:
    """Drift parameters by a kernel design and a solver; the base of six registered methods.

    Args:
        drift: the affine drift whose coefficients are wanted.
        diffusivity: D, known, in length^2 / time.
        convolved: the bandwidth-exact design instead of the plain one.
        solver: ``adam``, ``l1`` or ``lstsq``.
        bandwidth: a number, one per axis, or a rule of :func:`snapdyn.scores.bandwidth`.
        probes: how many data points to probe at.
        starts, low, high, rate, batch, epochs: the optimiser's protocol (``adam`` only): random starts
            uniform on [low, high] in every coefficient; the estimate is the median of the starts.
    """

    def __init__(
        self,
        drift,
        *,
        diffusivity,
        convolved,
        solver,
        bandwidth=None,
        probes=5000,
        starts=8,
        low=0.0,
        high=40.0,
        rate=0.05,
        batch=2,
        epochs=2,
    ):
        self.drift, self.diffusivity, self.convolved, self.solver = drift, diffusivity, convolved, solver
        self.bandwidth = bandwidth if bandwidth is not None else ("wide" if convolved else "score")
        self.probes, self.starts, self.low, self.high = probes, starts, low, high
        self.rate, self.batch, self.epochs = rate, batch, epochs

    def design(self, x, *, rng, weight=None, device="cpu", threads=1, precision="float64"):
        """The rows ``A, c`` at probes drawn from the data ``x (n, dim)``, and the bandwidths."""
        h = scores.bandwidth(x, self.bandwidth)
        chosen = rng.permutation(len(x))[: self.probes]
        data = torch.from_numpy(x).to(device, getattr(torch, precision))
        probes = data[torch.from_numpy(chosen).to(device)]
        inverse = torch.from_numpy(h).to(data).pow(-2)
        features = convolution_features(self.drift, data, inverse) if self.convolved else None
        weights = None if weight is None or np.ptp(weight) == 0 else torch.from_numpy(weight).to(data)
        kernel = scores.kernel_pass(data, probes, h, features=features, weights=weights, threads=threads)
        if self.convolved:
            rows = convolved_design(kernel, self.drift, probes, inverse, self.diffusivity)
        else:
            rows = plain_design(kernel, self.drift, probes, self.diffusivity)
        return *(row.double() for row in rows), kernel, h

    def solve(self, design, rest, rng, keep=checkpoint.NOWHERE):
        """Coefficients ``(count,)`` and, for the optimiser, its recorded paths."""
        if self.solver == "lstsq":
            return least_squares(design, rest), None
        if self.solver == "l1":
            return least_absolute(design, rest), None
        starts = torch.from_numpy(rng.uniform(self.low, self.high, (self.starts, self.drift.count))).to(design)
        protocol = {"batch": self.batch, "epochs": self.epochs, "rate": self.rate}
        theta, *paths = adam_paths(design, rest, starts, **protocol, rng=rng, keep=keep)
        return theta.median(0).values, paths

    def fit(self, snapshots, *, rng, device="cpu", threads=1, precision="float64", keep=checkpoint.NOWHERE):
        """Fit the training rows of one stationary cloud; see :class:`snapdyn.models.DriftModel`."""
        data = snapshots.select(split="train")
        x = data.x
        count = self.drift.count
        if min(self.probes, len(x)) <= count:
            raise ValueError(
                f"{count} unknown coefficients need more than {count} probing points, got "
                f"{min(self.probes, len(x))}: give more data, or a smaller drift library"
            )
        design, rest, kernel, h = self.design(
            x, rng=rng, weight=data.weight, device=device, threads=threads, precision=precision
        )
        rank = int(torch.linalg.matrix_rank(design / design.norm(dim=0).clamp_min(1e-300), rtol=1e-8))
        if rank < count:
            raise ValueError(
                f"these data determine only {rank} of {count} unknown coefficients: fix some of them, or take "
                "a smaller drift library"
            )
        theta, paths = self.solve(design, rest, rng, keep)
        return models.DriftModel(
            self.drift,
            theta.cpu().numpy(),
            diffusivity=self.diffusivity,
            diagnostics={
                "loss": float((design @ theta + rest).abs().mean()),
                "median_sample_size": float(kernel.sample_size.median()),
                "bandwidth": float(np.exp(np.log(h).mean())),
            },
            history=_history(self.drift.names, paths),
        )


def _history(names, paths):
    """The recorded paths as rows (member, step, term, value)."""
    if paths is None:
        return None
    steps, path, loss = paths
    terms = {"loss": loss} | {name: path[:, :, k] for k, name in enumerate(names)}
    members = np.arange(path.shape[1])
    return {
        "member": np.tile(np.tile(members, len(steps)), len(terms)),
        "step": np.tile(np.repeat(steps, len(members)), len(terms)),
        "term": np.repeat(list(terms), len(steps) * len(members)),
        "value": np.concatenate([values.cpu().numpy().reshape(-1) for values in terms.values()]),
    }
