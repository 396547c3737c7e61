"""Systems with a known law: one drift in three forms, and densities that the drift leaves at rest."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

from snapdyn import systems

# Parameters away from their defaults, so that a forgotten factor shows.
MADE = {
    "lorenz": ("lorenz", {"diffusivity": 2.0, "sigma": 9.0, "rho": 25.0, "beta": 2.2}),
    "ou-2": ("ornstein-uhlenbeck", {"diffusivity": 0.7, "rate": 1.3, "coupling": -0.3, "rotation": 1.1}),
    "ou-4": ("ornstein-uhlenbeck", {"diffusivity": 0.4, "dim": 4, "rate": 0.8, "coupling": 0.5, "rotation": 0.6}),
    "hopf": ("hopf", {"diffusivity": 0.3, "growth": 1.4, "saturation": 0.8, "turn": 2.0}),
    "double-well": ("double-well", {"diffusivity": 0.4, "slope": 1.3, "barrier": 0.9, "stiffness": 1.7}),
    "genes": ("gene-network", {"diffusivity": 1e-4}),
    "genes, activated": ("gene-network", {"diffusivity": 1e-4, "activation": True}),
    "van-der-pol": ("van-der-pol", {"diffusivity": 0.2, "mu": 1.4}),
    "clusters": ("nine-clusters", {"diffusivity": 0.3, "spacing": 2.2, "width": 0.11, "nodes": 20, "shape_seed": 3}),
}
GENES = ["genes", "genes, activated"]
WITH_DENSITY = [name for name in MADE if name not in ("lorenz", "van-der-pol", *GENES)]
PLANAR = ["ou-2", "hopf", "double-well"]


def made(name, **changed):
    registered, parameters = MADE[name]
    return systems.build(registered, **(parameters | changed))


def points(system, n=60, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, system.dim)))


def by_hand(name, x):
    """The drift of ``MADE[name]`` in numpy, straight from the formula."""
    p = MADE[name][1]
    if name == "lorenz":
        a, b, c = x.T
        return np.stack([p["sigma"] * (b - a), a * (p["rho"] - c) - b, a * b - p["beta"] * c], 1)
    if name == "hopf":
        a, b = x.T
        radial = p["growth"] - p["saturation"] * (a**2 + b**2)
        return np.stack([a * radial + p["turn"] * b, b * radial - p["turn"] * a], 1)
    if name == "double-well":
        a, b = x.T
        return np.stack([p["slope"] * a - p["barrier"] * a**3, -p["stiffness"] * b], 1)
    if name == "van-der-pol":
        a, b = x.T
        return np.stack([b, p["mu"] * (1 - a**2) * b - a], 1)
    if name == "clusters":
        away = made(name).nodes.numpy() - x[:, None]
        near = np.exp(-((away**2).sum(2)) / (2 * p["width"] ** 2))
        return p["diffusivity"] * (near[..., None] * away).sum(1) / near.sum(1)[:, None] / p["width"] ** 2
    if name in GENES:
        return genes_by_hand(x, activation=p.get("activation", False))
    dim = x.shape[1]
    matrix = np.zeros((dim, dim))
    for i in range(dim):
        for j in range(dim):
            turn = p["rotation"] * ((j == i + 1) - (i == j + 1))
            matrix[i, j] = -p["rate"] * p["coupling"] ** abs(i - j) + turn
    return x @ matrix.T


def genes_by_hand(x, *, activation):
    """The gene network with its phases as angles."""
    x1, y1, x2, y2, p, b, r = x.T
    q1, q2 = x1**2 + y1**2, x2**2 + y2**2
    one, two = np.pi / 100, np.sqrt(2) * np.pi / 100
    bcr = 10 * np.sin(np.arctan2(y1, x1)) ** 30 / (1 + b**2)
    cd40 = 5 * np.sin(np.arctan2(y2, x2)) ** 30 / (1 + b**2)
    irf4 = r**2 / (1 + r**2) if activation else 1 / (1 + r**2)
    return np.stack(
        [
            x1 * (1 - q1) + one * y1,
            y1 * (1 - q1) - one * x1,
            x2 * (1 - q2) + two * y2,
            y2 * (1 - q2) - two * x2,
            1e-6 - p + 9 * (1 / (1 + b**2) + irf4),
            2 - (1 + bcr) * b + 100 / ((1 + p**2) * (1 + b**2) * (1 + r**2)),
            0.1 - r + cd40 + 2.6 * irf4,
        ],
        1,
    )


def stationary_residual(system, x, diffusivity):
    """s.f + div f - D (|s|^2 + div s), the divergence of the score by automatic differentiation."""
    x = x.clone().requires_grad_()
    score = torch.autograd.grad(system.log_prob(None, x).sum(), x, create_graph=True)[0]
    trace = sum(torch.autograd.grad(score[:, j].sum(), x, retain_graph=True)[0][:, j] for j in range(system.dim))
    drift, divergence = system.drift(None, x), system.divergence(None, x)
    return ((score * drift).sum(1) + divergence - diffusivity * (score.square().sum(1) + trace)).detach()


def plane(system, edge=5.0, n=400):
    """Midpoints of a grid over the plane, the log-density there, and the area of a cell."""
    middle = (np.arange(n) + 0.5) * 2 * edge / n - edge
    grid = torch.from_numpy(np.stack(np.meshgrid(middle, middle, indexing="ij"), -1).reshape(-1, 2))
    return grid, system.log_prob(None, grid).numpy(), (2 * edge / n) ** 2


@pytest.mark.parametrize("name", MADE)
def test_drift_rate_and_terms_at_the_truth_are_one_function(name):
    system = made(name)
    x = points(system)
    out = torch.full((system.dim, len(x)), torch.nan, dtype=torch.float64)
    system.rate(x.T.contiguous(), out)
    expected = by_hand(name, x.numpy())
    for found in (system.drift(None, x), out.T, system.terms(system.truth, x)):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)
    wrong = system.truth * 1.1
    assert np.abs(system.terms(wrong, x).numpy() - expected).max() > 0.05
    assert list(system.parameters) == list(system.terms.names)


@pytest.mark.parametrize("name", MADE)
def test_divergence_is_the_trace_of_the_jacobian(name):
    system = made(name)
    x = points(system, 20, seed=1)
    one = torch.func.vmap(torch.func.jacrev(lambda p: system.drift(None, p[None])[0]))(x)
    trace = one.diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(system.divergence(None, x), trace, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [*PLANAR, "clusters"])
def test_densities_integrate_to_one(name):
    for diffusivity in (0.1, 1.0):
        _, log_prob, area = plane(made(name, diffusivity=diffusivity))
        assert np.exp(log_prob).sum() * area == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_the_score_leaves_the_density_at_rest_and_a_wrong_diffusivity_does_not(name):
    system = made(name)
    x = points(system, seed=2)
    assert stationary_residual(system, x, system.diffusivity).abs().max() < 1e-9
    for wrong in (0.5, 2.0):  # D taken for 2 D, or the reverse
        assert stationary_residual(system, x, wrong * system.diffusivity).abs().mean() > 0.3


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_score_is_the_gradient_of_log_prob_and_keeps_no_graph(name):
    system = made(name)
    x = points(system, 10)
    step = 1e-6 * torch.eye(system.dim, dtype=torch.float64)
    slopes = [(system.log_prob(None, x + e) - system.log_prob(None, x - e)) / 2e-6 for e in step]
    found = system.score(None, x)
    torch.testing.assert_close(found, torch.stack(slopes, 1), rtol=1e-6, atol=1e-6)
    assert not found.requires_grad and not x.requires_grad


@pytest.mark.parametrize("name", PLANAR)
def test_exact_draws_have_the_entropy_of_the_density(name):
    system = made(name)
    _, log_prob, area = plane(system)
    probability = np.exp(log_prob) * area
    entropy = -(probability * log_prob).sum()
    spread = np.sqrt((probability * (log_prob + entropy) ** 2).sum())
    found = -system.log_prob(None, torch.from_numpy(system.sample(20000, np.random.default_rng(3)))).mean().item()
    assert abs(found - entropy) < 4 * spread / np.sqrt(20000)
    doubled = made(name, diffusivity=2 * system.diffusivity).sample(20000, np.random.default_rng(3))
    wrong = -system.log_prob(None, torch.from_numpy(doubled)).mean().item()
    assert abs(wrong - entropy) > 20 * spread / np.sqrt(20000)


def distribution(system, name):
    """A one-dimensional summary of the draws, and its distribution function by quadrature of the density."""

    def density(*at):
        return float(system.log_prob(None, torch.tensor([at], dtype=torch.float64)).exp())

    if name == "hopf":  # the radius
        grid = np.linspace(0, 4, 400)
        values = np.array([2 * np.pi * r * density(r, 0.0) for r in grid])
        summary = lambda x: np.hypot(*x.T)  # noqa: E731
    else:  # the first axis, the second integrated out
        grid = np.linspace(-6, 6, 400)
        across = quad(lambda y: density(0.3, y), -8, 8)[0] / density(0.3, 0.0)
        values = np.array([density(a, 0.0) for a in grid]) * across
        summary = lambda x: x[:, 0]  # noqa: E731
    below = np.concatenate([[0], np.cumsum((values[1:] + values[:-1]) / 2 * np.diff(grid))])
    assert below[-1] == pytest.approx(1, abs=1e-3)
    return summary, lambda q: np.interp(q, grid, below)


@pytest.mark.parametrize("name", ["hopf", "double-well"])
def test_exact_draws_follow_the_density(name):
    system = made(name)
    summary, below = distribution(system, name)
    assert stats.kstest(summary(system.sample(5000, np.random.default_rng(4))), below).pvalue > 1e-3
    doubled = made(name, diffusivity=2 * system.diffusivity)
    assert stats.kstest(summary(doubled.sample(5000, np.random.default_rng(4))), below).pvalue < 1e-4


def test_the_angles_of_hopf_and_the_two_axes_of_the_double_well_carry_nothing_more():
    angle = np.arctan2(*made("hopf").sample(5000, np.random.default_rng(5)).T)
    assert stats.kstest(angle, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3
    x, y = made("double-well").sample(5000, np.random.default_rng(6)).T
    assert stats.kstest(y, stats.norm(0, np.sqrt(0.4 / 1.7)).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(x**2, y**2)[0, 1]) < 4 / np.sqrt(5000)


@pytest.mark.parametrize("name", ["ou-2", "ou-4"])
def test_the_covariance_of_the_linear_system_solves_lyapunov(name):
    system = made(name)
    a, s, d = system.matrix.numpy(), system.covariance.numpy(), system.diffusivity
    identity = np.eye(system.dim)
    np.testing.assert_allclose(a @ s + s @ a.T, 2 * d * identity, atol=1e-12)
    assert np.abs(a @ s + s @ a.T - d * identity).max() > 0.1
    np.testing.assert_allclose(system.drift(None, torch.from_numpy(identity)).numpy(), -a.T, atol=1e-14)
    x = system.sample(40000, np.random.default_rng(7))
    for i in range(system.dim):
        for j in range(system.dim):
            error = np.sqrt((s[i, i] * s[j, j] + s[i, j] ** 2) / len(x))
            assert abs((x[:, i] * x[:, j]).mean() - s[i, j]) < 4.5 * error


def test_in_one_dimension_the_variance_is_d_over_the_rate():
    system = systems.build("ornstein-uhlenbeck", dim=1, rate=1.6, diffusivity=0.4)
    assert system.covariance.item() == pytest.approx(0.4 / 1.6, rel=1e-12)
    x = torch.tensor([[0.3], [-1.0]], dtype=torch.float64)
    expected = stats.norm(0, np.sqrt(0.25)).logpdf(x[:, 0].numpy())
    np.testing.assert_allclose(system.log_prob(None, x).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("name", WITH_DENSITY)
def test_what_claims_to_set_the_clock_makes_the_diffusivity_visible(name):
    """With D a further unknown, the rows of the exact stationary residual must still have full rank.

    The turn of the Hopf form runs along the level sets of its density, the double well has no known part, and for
    a linear system the Lyapunov equation has one equation less than there are entries of S and D.
    """
    system = made(name)
    x = points(system).requires_grad_()
    score = torch.autograd.grad(system.log_prob(None, x).sum(), x, create_graph=True)[0]
    trace = sum(torch.autograd.grad(score[:, j].sum(), x, retain_graph=True)[0][:, j] for j in range(system.dim))
    fields = torch.einsum("nd,nkd->nk", score, system.terms.fields(x)) + system.terms.divergences(x)
    rows = torch.cat([fields, -(score.square().sum(1) + trace)[:, None]], 1).detach()
    seen = torch.linalg.matrix_rank(rows / rows.norm(dim=0), rtol=1e-9) == rows.shape[1]
    assert system.terms.fixes_clock == bool(seen)


def test_the_known_parts_of_lorenz_and_van_der_pol_set_the_clock():
    assert made("lorenz").terms.fixes_clock and made("van-der-pol").terms.fixes_clock


@pytest.mark.parametrize("name", GENES)
def test_the_unknown_entries_of_the_gene_network_are_a_matrix_by_rows(name):
    """Every entry multiplies its own product of Hill factors in its own equation, and nothing else."""
    system = made(name)
    x = points(system, 12, seed=3)
    p, b, r = 1 / (1 + x[:, 4:].numpy().T ** 2)
    for row, (gene, strength) in enumerate(zip("pbr", (9, 100, 2.6), strict=True)):
        up = 1 - r if name == "genes, activated" and gene != "b" else r
        columns = {"P": p, "B": b, "R": up, "PB": p * b, "PR": p * up, "BR": b * up, "PBR": p * b * up}
        assert system.terms.names[7 * row : 7 * row + 7] == tuple(f"{gene}: {column}" for column in columns)
        for place, column in enumerate(columns.values()):
            expected = np.zeros((12, 7))
            expected[:, 4 + row] = strength * column
            found = system.terms.fields(x)[:, 7 * row + place].numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-13)
    assert [name for name, value in system.parameters.items() if value == 1] == ["p: B", "p: R", "b: PBR", "r: R"]
    assert sorted(set(system.parameters.values())) == [0.0, 1.0] and system.terms.fixes_clock


@pytest.mark.parametrize("name", GENES)
def test_every_divergence_of_the_gene_network_is_that_of_automatic_differentiation(name):
    terms, x = made(name).terms, points(made(name), 8, seed=4)

    def trace(field):
        return torch.func.vmap(torch.func.jacrev(field))(x).diagonal(dim1=-2, dim2=-1).sum(-1)

    known = trace(lambda point: terms.known(point[None])[0])
    torch.testing.assert_close(terms.known_divergence(x), known, rtol=1e-12, atol=1e-12)
    each = trace(lambda point: terms.fields(point[None])[0])
    torch.testing.assert_close(terms.divergences(x), each, rtol=1e-12, atol=1e-12)
    silent = x.clone()
    silent[:, 1] = 0  # no BCR: its share of the divergence is seen
    assert (terms.known_divergence(x) - terms.known_divergence(silent) + 4 * x[:, 1] ** 2).abs().max() > 0.1


def test_the_drivers_are_powers_of_a_sine_and_finite_at_the_poles():
    system, out = made("genes"), torch.empty(7, 4, dtype=torch.float64)
    x = torch.ones(4, 7, dtype=torch.float64)
    x[:, :2] = torch.tensor([[0.0, 1.0], [0.0, -2.0], [1.0, 0.0], [1.0, 1.0]])
    system.rate(x.T.contiguous(), out)
    bcr = torch.tensor([10.0, 10.0, 0.0, 10 * 0.5**15], dtype=torch.float64) / 2
    torch.testing.assert_close(2 - (1 + bcr) + 100 / 8, out[5], rtol=1e-13, atol=1e-13)
    assert torch.isfinite(system.divergence(None, x)).all()
    inside = np.sin(np.arctan2(1.0, 1.0) ** 30)  # the power as it is printed
    assert abs(inside - 0.5**15) > 1e-4


def test_the_two_gene_networks_differ_in_the_equations_of_p_and_r_alone():
    x = points(made("genes"), 10)
    differ = (made("genes").drift(None, x) - made("genes, activated").drift(None, x)).abs() > 1e-9
    assert differ[:, [4, 6]].all() and not differ[:, [0, 1, 2, 3, 5]].any()


def test_the_gene_network_starts_with_its_oscillators_at_rest_and_its_genes_above_zero():
    system, n = made("genes", diffusivity=0.2), 20_000
    x = system.initial(n, torch.Generator().manual_seed(0), "cpu").numpy()
    assert x.shape == (7, n) and (x[4:] > 0).all() and (np.std(np.log(x[4:]), axis=1) > 0.3).all()
    exact = made("hopf", diffusivity=0.2, growth=1.0, saturation=1.0).sample(n, np.random.default_rng(1))
    for plane in (x[:2], x[2:4]):
        assert stats.ks_2samp(np.hypot(*plane), np.hypot(*exact.T)).pvalue > 1e-3
        assert stats.kstest(np.arctan2(*plane), stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3
        wider = made("hopf", diffusivity=0.3, growth=1.0, saturation=1.0).sample(n, np.random.default_rng(1))
        assert stats.ks_2samp(np.hypot(*plane), np.hypot(*wider.T)).pvalue < 1e-4
    assert abs(np.corrcoef(x[0], x[2])[0, 1]) < 4 / np.sqrt(n)


def test_a_potential_descends():
    system = made("double-well")
    x = points(system, 20).requires_grad_()
    slope = torch.autograd.grad(system.potential(None, x).sum(), x)[0]
    torch.testing.assert_close(-slope, system.drift(None, x.detach()))


@pytest.mark.parametrize("name", MADE)
def test_the_configuration_knows_which_systems_have_exact_draws(name):
    from snapdyn import checks

    assert made(name).has_density == (MADE[name][0] in checks.EXACT_SAMPLERS)


def test_a_system_without_a_density_says_so():
    lorenz = made("lorenz")
    with pytest.raises(NotImplementedError, match="Lorenz has no stationary density"):
        lorenz.log_prob(None, points(lorenz))
    with pytest.raises(NotImplementedError, match="no exact sampler: simulate it"):
        lorenz.sample(3, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("name", "parameters", "said"),
    [
        ("lorentz", {}, "did you mean 'lorenz'"),
        ("ornstein-uhlenbek", {}, "did you mean 'ornstein-uhlenbeck'"),
        ("zebra", {}, r"known: \['lorenz'"),
        ("lorenz", {"sigm": 1.0}, r"no parameters \['sigm'\].*sigma"),
        ("hopf", {"growht": 1.0, "trun": 1.0}, r"\['growht', 'trun'\]"),
        ("hopf", {"diffusivity": 0.0}, "above 0, got 0"),
        ("hopf", {"diffusivity": -1.0}, "above 0, got -1"),
        ("hopf", {"diffusivity": float("nan")}, "above 0, got nan"),
    ],
)
def test_the_registry_refuses_and_says_what_would_do(name, parameters, said):
    with pytest.raises(ValueError, match=said):
        systems.build(name, **parameters)


def test_a_single_well_is_a_double_well_without_its_barrier():
    system = systems.build("double-well", slope=-1.0, diffusivity=0.5)
    _, log_prob, area = plane(system)
    assert np.exp(log_prob).sum() * area == pytest.approx(1, abs=1e-5)


def test_a_misspelt_parameter_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'sigma'"):
        systems.build("lorenz", sigm=1.0)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("ornstein-uhlenbeck", {"coupling": 1.5}),
        ("ornstein-uhlenbeck", {"rate": -1.0}),
        ("hopf", {"saturation": -1.0}),
        ("double-well", {"barrier": 0.0}),
        ("double-well", {"stiffness": -1.0}),
        ("van-der-pol", {"mu": 0.0}),
        ("nine-clusters", {"spacing": 1.5}),
        ("nine-clusters", {"width": 0.0}),
        ("nine-clusters", {"nodes": 10}),
        ("nine-clusters", {"length": -1.0}),
    ],
)
def test_parameters_without_a_stationary_law_are_refused(name, parameters):
    with pytest.raises(ValueError, match=next(iter(parameters))):
        systems.build(name, **parameters)
