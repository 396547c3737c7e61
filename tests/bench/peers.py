"""The peers, each in its own stated form; imports of what may be missing stay inside.

Functions that need a library return the function to time; plain ones are timed themselves.
"""

import math
import os
import subprocess
import sys

import numpy as np
import torch


def naive_kde(x, probes, h, features, q):
    """The textbook composition: chunks of ``q`` probes against all data, expanded distances, out of place."""
    n, d = x.shape
    squares = (x * x).sum(1)
    values = torch.cat([x, features], 1)
    parts = []
    for start in range(0, len(probes), q):
        y = probes[start : start + q]
        distance = ((y * y).sum(1)[:, None] + squares[None] - 2 * y @ x.T).clamp_min(0)
        logits = -distance / (2 * h * h)
        top = logits.max(1, keepdim=True).values
        weights = torch.exp(logits - top)
        total = weights.sum(1)
        means = weights @ values / total[:, None]
        spread = (weights * distance).sum(1) / total
        log_prob = top[:, 0] + torch.log(total) - math.log(n) - d / 2 * math.log(2 * math.pi * h * h)
        ess = total * total / (weights * weights).sum(1)
        parts.append((log_prob, (means[:, :d] - y) / h**2, spread / h**4 - d / h**2, means[:, d:], ess))
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def exact_kde(x, probes, h, features):
    """The same from direct differences, for the check of a few probes."""
    n, d = x.shape
    away = x[None] - probes[:, None]
    distance = (away * away).sum(-1)
    logits = -distance / (2 * h * h)
    log_total = torch.logsumexp(logits, 1)
    weights = torch.exp(logits - log_total[:, None])
    return (
        log_total - math.log(n) - d / 2 * math.log(2 * math.pi * h * h),
        (weights[..., None] * away).sum(1) / h**2,
        (weights * distance).sum(1) / h**4 - d / h**2,
        weights @ features,
        1 / (weights * weights).sum(1),
    )


def kde_error(found, exact):
    """Largest error over the outputs: log p absolute, ESS relative, the others by their own spread."""
    worst = 0.0
    for k, (one, other) in enumerate(zip(found, exact, strict=True)):
        one = torch.as_tensor(one)[: len(other)]
        scale = {0: 1.0, 4: other}.get(k, other.std(0))
        worst = max(worst, float(((one - other) / scale).abs().max()))
    return worst


def sklearn_kde(x, probes, h):
    """KernelDensity at its defaults; the tree is built outside the timer."""
    from sklearn.neighbors import KernelDensity

    model = KernelDensity(bandwidth=h).fit(x.numpy())
    points = probes.numpy()
    return lambda: model.score_samples(points)


def scipy_kde(x, probes, h):
    """gaussian_kde; its kernel follows the data's covariance, so the same h is not the same density."""
    from scipy.stats import gaussian_kde

    model = gaussian_kde(x.numpy().T, bw_method=h / float(x.std()))
    points = probes.numpy().T
    return lambda: model.logpdf(points)


def keops_kde(x, probes, h, features):
    """PyKeOps symbolic tensors: one pass for the maximum, one for all sums."""
    from pykeops.torch import LazyTensor

    n, d = x.shape
    one = torch.ones(n, 1, dtype=x.dtype)
    values = torch.cat([one, x, (x * x).sum(1, keepdim=True), features], 1).contiguous()
    queries = probes.contiguous()

    def call():
        distance = ((LazyTensor(queries[:, None]) - LazyTensor(x[None])) ** 2).sum(-1)
        logits = -distance / (2 * h * h)
        top = logits.max(dim=1)
        weights = (logits - LazyTensor(top[:, None])).exp()
        sums = (weights * LazyTensor(values[None])).sum(1)
        squares = (2 * (logits - LazyTensor(top[:, None]))).exp().sum(1)
        total = sums[:, :1]
        means = sums[:, 1:] / total
        spread = means[:, d] - 2 * (queries * means[:, :d]).sum(1) + (queries * queries).sum(1)
        log_prob = (top + total.log())[:, 0] - math.log(n) - d / 2 * math.log(2 * math.pi * h * h)
        score = (means[:, :d] - queries) / h**2
        return log_prob, score, spread / h**4 - d / h**2, means[:, d + 1 :], (total**2 / squares)[:, 0]

    return call


def numpy_moments(x, diffusivity, degree=4, iterations=3):
    """Moments of the Lorenz system as one would write them down: all gradients in memory, np.cov per step."""
    centre, scale = x.mean(0), x.std(0, ddof=1)
    z = (x - centre) / scale
    n, d = x.shape
    powers = [p for p in np.ndindex(*(degree + 1,) * d) if 0 < sum(p) <= degree]
    gradients, laplacians = np.empty((n, len(powers), d)), np.zeros((n, len(powers)))
    for a, power in enumerate(powers):
        for j in range(d):
            others = np.prod([z[:, i] ** power[i] for i in range(d) if i != j], axis=0)
            p = power[j]
            gradients[:, a, j] = p * z[:, j] ** max(p - 1, 0) * others / scale[j]
            laplacians[:, a] += p * (p - 1) * z[:, j] ** max(p - 2, 0) * others / scale[j] ** 2
    a, b, c = x.T
    zero = np.zeros(n)
    known = np.stack([zero, -b - a * c, a * b], 1)
    fields = np.stack([np.stack([b - a, zero, zero], 1), np.stack([zero, a, zero], 1), np.stack([zero, zero, -c], 1)])
    regressors = np.einsum("nad,knd->nak", gradients, fields)
    rest = np.einsum("nad,nd->na", gradients, known) + diffusivity * laplacians
    matrix, target = regressors.mean(0), -rest.mean(0)
    norm = np.linalg.norm(matrix, axis=1)
    theta = np.linalg.lstsq(matrix / norm[:, None], target / norm, rcond=None)[0]
    for _ in range(iterations):
        covariance = np.cov((regressors @ theta + rest).T)
        size = np.sqrt(np.diag(covariance))
        values, vectors = np.linalg.eigh(covariance / np.outer(size, size))
        keep = values > 1e-10 * values[-1]
        whiten = (vectors[:, keep] / np.sqrt(values[keep])).T / size
        theta = np.linalg.lstsq(whiten @ matrix, whiten @ target, rcond=None)[0]
    gap = whiten @ (matrix @ theta - target)
    information = (whiten @ matrix).T @ (whiten @ matrix)
    return theta, np.sqrt(np.diag(np.linalg.inv(information)) / n), n * gap @ gap


def eager_lorenz(start, steps, dt, diffusivity, seed=0):
    """Euler-Maruyama as a loop over steps in torch, float64."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.from_numpy(np.ascontiguousarray(start))
    amplitude = math.sqrt(2 * diffusivity * dt)
    for _ in range(steps):
        x, y, z = state.unbind(1)
        drift = torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], 1)
        state = state + drift * dt + amplitude * torch.randn(state.shape, dtype=state.dtype, generator=generator)
    return state.numpy()


def torchsde_lorenz(start, steps, dt, diffusivity):
    """torchsde, Euler, diagonal noise, float32."""
    import torchsde

    class Lorenz(torch.nn.Module):
        noise_type, sde_type = "diagonal", "ito"

        def f(self, t, state):
            x, y, z = state.unbind(1)
            return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], 1)

        def g(self, t, state):
            return torch.full_like(state, math.sqrt(2 * diffusivity))

    system, state = Lorenz(), torch.from_numpy(start.astype(np.float32))
    times = torch.tensor([0.0, steps * dt])

    def call():
        with torch.no_grad():
            return torchsde.sdeint(system, state, times, dt=dt, method="euler")[-1].numpy()

    return call


def _jax_drift():
    import jax.numpy as jnp

    def drift(state):
        x, y, z = state[..., 0], state[..., 1], state[..., 2]
        return jnp.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], -1)

    return drift


def jax_lorenz(start, steps, dt, diffusivity):
    """JAX, lax.scan over steps with threefry keys, float32."""
    import jax
    import jax.numpy as jnp

    drift, amplitude = _jax_drift(), math.sqrt(2 * diffusivity * dt)
    state = jnp.asarray(start, jnp.float32)

    @jax.jit
    def run(state, key):
        def step(state, key):
            return state + dt * drift(state) + amplitude * jax.random.normal(key, state.shape), None

        return jax.lax.scan(step, state, jax.random.split(key, steps))[0]

    return lambda: np.asarray(run(state, jax.random.key(0)).block_until_ready())


def diffrax_lorenz(start, steps, dt, diffusivity):
    """diffrax, Euler, jit and vmap over trajectories, UnsafeBrownianPath, float32."""
    import diffrax
    import jax
    import jax.numpy as jnp
    import lineax

    drift, amplitude = _jax_drift(), math.sqrt(2 * diffusivity)
    state = jnp.asarray(start, jnp.float32)

    @jax.jit
    @jax.vmap
    def run(state, key):
        path = diffrax.UnsafeBrownianPath(shape=(3,), key=key)
        noise = diffrax.ControlTerm(lambda t, y, args: lineax.DiagonalLinearOperator(amplitude * jnp.ones(3)), path)
        terms = diffrax.MultiTerm(diffrax.ODETerm(lambda t, y, args: drift(y)), noise)
        adjoint = diffrax.DirectAdjoint()
        solution = diffrax.diffeqsolve(
            terms, diffrax.Euler(), 0.0, steps * dt, dt, state, max_steps=steps + 8, adjoint=adjoint
        )
        return solution.ys[-1]

    keys = jax.random.split(jax.random.key(0), len(start))
    return lambda: np.asarray(run(state, keys).block_until_ready())


def pot_emd2(x, y):
    """The network simplex of POT on the squared cost, cost matrix included."""
    import ot

    weight = np.full(len(x), 1 / len(x))
    return lambda: math.sqrt(ot.emd2(weight, weight, ot.dist(x, y), numItermax=100_000_000))


def assignment(x, y):
    """scipy's assignment: equal sizes and weights only."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    def call():
        cost = cdist(x, y, "sqeuclidean")
        return math.sqrt(cost[linear_sum_assignment(cost)].mean())

    return call


def child(code):
    """Run ``code`` in a Python process of its own."""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONWARNINGS": "ignore"})
