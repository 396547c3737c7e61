"""What the tests of the moments share: clouds to fit, and the blocks and equations in plain numpy, row by row."""

from dataclasses import replace

import numpy as np
import torch
from scipy.integrate import solve_ivp

from snapdyn import moment_equations, moments, systems, testfunctions, weakform
from snapdyn.snapshots import Snapshots


def ou(**changed):
    return systems.build(
        "ornstein-uhlenbeck", **({"diffusivity": 0.5, "rate": 1.0, "coupling": 0.4, "rotation": 0.8} | changed)
    )


def cloud_of(system, n, seed):
    return Snapshots.build(system.sample(n, np.random.default_rng(seed)), meta={"axes": list(system.axes)})


def fit(terms, snapshots, *, diffusivity, seed=0, **options):
    method = moments.Moments(terms, diffusivity=diffusivity, **options)
    return method.fit(snapshots, rng=np.random.default_rng(seed))


def gaussian_laws(times, rates, mean, covariance):
    """Means and covariances at ``times`` of a law that stays Gaussian; ``rates(m, C)`` are their derivatives."""
    dim = len(mean)

    def packed(_, state):
        change = rates(state[:dim], state[dim:].reshape(dim, dim))
        return np.concatenate([np.ravel(part) for part in change])

    start = np.concatenate([mean, np.ravel(covariance)])
    path = solve_ivp(packed, (times[0], times[-1]), start, t_eval=times, rtol=1e-10, atol=1e-12).y.T
    return [(state[:dim], state[dim:].reshape(dim, dim)) for state in path]


def drawn(laws, times, n, seed):
    """``n`` exact independent draws from the Gaussian law of each time."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.multivariate_normal(*law, n, method="cholesky") for law in laws])
    return Snapshots.build(x, t=np.repeat(times, n).astype(float), meta={})


def blocks_by_hand(terms, tests, x, noise=None, growth=None, weight=None):
    """phi, g_k . grad phi, (b_k - mean b_k)(phi - mean phi), the known parts together, and second derivatives.

    Returns:
        ``(n, blocks, tests)``.
    """
    points = torch.from_numpy(x)
    value, gradient, second = (part.numpy() for part in tests(points, noise))
    fields, known = terms.fields(points).numpy(), terms.known(points).numpy()
    parts = [value[:, None], np.einsum("nkd,nda->nka", fields, gradient)]
    rest = np.einsum("nd,nda->na", known, gradient)
    if growth is not None:
        share = np.full(len(x), 1 / len(x)) if weight is None else weight / weight.sum()
        rates = np.concatenate([growth.terms(points).numpy(), growth.known(points).numpy()[:, None]], 1)
        bred = (rates - share @ rates)[:, :, None] * (value - share @ value)[:, None]
        parts.append(bred[:, :-1])
        rest = rest + bred[:, -1]
    return np.concatenate([*parts, rest[:, None], second[:, None]], 1)


def mean_by_hand(values, weight):
    return np.tensordot(weight / weight.sum(), values, 1)


def noise_by_hand(values, weight, total=None):
    """sum_i w_i^2 (h_i - mean)(h_i - mean)' / (1 - sum_i w_i^2) of flattened ``values``, as a part of ``total``."""
    flat = values.reshape(len(values), -1)
    centred = flat - mean_by_hand(flat, weight)
    share = weight / weight.sum()
    part = 1 if total is None else weight.sum() / total
    return part**2 * (share[:, None] ** 2 * centred).T @ centred / (1 - (share**2).sum())


class ByHand:
    """The moment equations of one or several clouds in numpy, from every residual of every row.

    Args:
        clouds: the :class:`snapdyn.weakform.Cloud` objects whose rows, weights and folds are meant.
    """

    def __init__(self, clouds, times=None, diffusivity=None):
        self.times, self.folds = times, len(clouds[0].folds)
        self.parts = []
        for cloud in clouds:
            blocks = blocks_by_hand(
                cloud.drift, cloud.tests, cloud.x.numpy(), cloud.noise_matrix, cloud.growth, cloud.weight.numpy()
            )
            columns, rest, second = blocks[:, 1:-2], blocks[:, -2], blocks[:, -1]
            if diffusivity is None:
                columns = np.concatenate([columns, second[:, None]], 1)
            else:
                rest = rest + diffusivity * second
            fold = np.empty(cloud.n, dtype=int)
            for k, rows in enumerate(cloud.folds):
                fold[rows] = k
            self.parts.append((blocks[:, 0], columns.transpose(0, 2, 1), rest, cloud.weight.numpy(), fold))

    def roles(self):
        """For every equation, (factor of phi, factor of L phi) of each cloud."""
        if self.times is None:
            return [[(0.0, 1.0)]]
        change = np.eye(len(self.times))[:-1] - np.eye(len(self.times))[1:]
        integral = moment_equations.quadrature(self.times)  # has a test of its own
        return [list(zip(*row, strict=True)) for row in zip(change, integral, strict=True)]

    def system(self, folds=None, part=False):
        folds = range(self.folds) if folds is None else folds
        design, rest = 0.0, 0.0
        for s, (value, columns, known, weight, fold) in enumerate(self.parts):
            rows = np.isin(fold, list(folds))
            share = weight[rows] / (weight.sum() if part else weight[rows].sum())
            on_value, on_generator = np.array([roles[s] for roles in self.roles()]).T
            design = design + np.multiply.outer(on_generator, np.tensordot(share, columns[rows], 1))
            rest = rest + np.outer(on_value, share @ value[rows]) + np.outer(on_generator, share @ known[rows])
        return design.reshape(-1, design.shape[-1]), -rest.ravel()

    def noise(self, theta, folds=None, part=False, bare=False):
        """Covariance of M theta - q, or of M theta alone where ``bare``."""
        folds, total = range(self.folds) if folds is None else folds, 0.0
        for s, (value, columns, known, weight, fold) in enumerate(self.parts):
            rows = np.isin(fold, list(folds))
            generator = columns @ theta + (0 if bare else known)
            stacked = np.stack([(0 if bare else v) * value + g * generator for v, g in (r[s] for r in self.roles())], 1)
            total = total + noise_by_hand(stacked[rows], weight[rows], weight.sum() if part else None)
        return total

    def efficient(self, theta, iterations):
        """Estimate, standard errors and J with weights from all rows."""
        design, rest = self.system()
        for _ in range(iterations):
            inverse = np.linalg.inv(self.noise(theta))
            bread = np.linalg.inv(design.T @ inverse @ design)
            theta = bread @ design.T @ inverse @ rest
        residual = design @ theta - rest
        return theta, np.sqrt(np.diag(bread)), residual @ inverse @ residual

    def cross_fitted(self, theta):
        """One step of the cross-fitted estimate from ``theta``, and the covariance there.

        theta itself is the estimate where the step leads nowhere.
        """
        bread = target = scatter = 0.0
        for fold in range(self.folds):
            others = [k for k in range(self.folds) if k != fold]
            weight = np.linalg.inv(self.noise(theta, others)) @ self.system(others)[0]
            design, rest = self.system([fold], part=True)
            bread = bread + weight.T @ design
            target = target + weight.T @ rest
            scatter = scatter + weight.T @ self.noise(theta, [fold], part=True) @ weight
        inverse = np.linalg.inv(bread)
        return inverse @ target, inverse @ scatter @ inverse.T


def equations(terms, x, degree, *, diffusivity, folds=weakform.FOLDS):
    """The equations of one stationary cloud."""
    points = torch.from_numpy(x)
    tests = testfunctions.Monomials(points, degree)
    return moment_equations.MomentEquations(
        [weakform.Cloud(terms, tests, points, folds=folds)], diffusivity=diffusivity
    )


def wilson(hits, trials, z=3.0):
    """Interval of a rate after ``hits`` in ``trials`` (Wilson), at ``z`` standard errors."""
    rate, spread = hits / trials, z**2 / trials
    centre, half = rate + spread / 2, z * np.sqrt(rate * (1 - rate) / trials + spread / (4 * trials))
    return (centre - half) / (1 + spread), (centre + half) / (1 + spread)


WELL = {
    "x: x": ["x", "0"],
    "x: x^3": ["x^3", "0"],
    "y: y": ["0", "y"],
    "x: 1": ["1", "0"],
    "x: x^2": ["x^2", "0"],
    "x: y^2": ["y^2", "0"],
    "y: 1": ["0", "1"],
    "y: x": ["0", "x"],
    "y: y^2": ["0", "y^2"],
    "y: y^3": ["0", "y^3"],
}


def wells(n, seed):
    return cloud_of(systems.build("double-well", diffusivity=0.3), n, seed)


# Timed snapshots of dX = (A X + b) dt + sqrt(2 D) dW, drawn exactly.
MATRIX, OFFSET, NOISE = np.array([[-1.0, 0.6], [-0.4, -0.7]]), np.array([0.5, -0.2]), 0.3


def linear_snapshots(n, times, seed, noise=NOISE):
    def rates(mean, covariance):
        flow = MATRIX @ covariance
        return MATRIX @ mean + OFFSET, flow + flow.T + 2 * noise * np.eye(2)

    laws = gaussian_laws(times, rates, [2.0, 1.0], np.diag([0.25, 0.09]))
    data = drawn(laws, times, n, seed)
    return replace(data, meta=data.meta | {"axes": ["x", "y"], "time_unit": "day"})


def truth_of_linear():
    return np.concatenate([np.r_[OFFSET[i], MATRIX[i]] for i in range(2)])
