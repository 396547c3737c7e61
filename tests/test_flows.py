"""Flows of known energies: each scheme against its equation, and courses that keep rows, seeds and splits apart."""

import numpy as np
import pytest
import torch

from snapdyn import artifacts, energy_steps, flows, potentials

TAU = 0.01
SPEC = {
    "kind": "flow",
    "potentials": ["styblinski-tang", "flowers"],
    "interactions": [],
    "diffusivity": 0.0,
    "dim": 2,
    "n": 60,
    "steps": 3,
    "tau": TAU,
    "paired": False,
    "scheme": "explicit",
    "substeps": 50,
    "start": [-4.0, 4.0],
    "train": 0.5,
    "seeds": 1,
}
# potential -> mean displacement of a step, measured once with 20 000 particles of another program
MOVED = {
    "styblinski-tang": 0.167,
    "holder-table": 0.096,
    "flowers": 0.026,
    "oakley-ohagan": 0.235,
    "watershed": 0.017,
    "ishigami": 0.054,
    "friedman": 0.134,
    "sphere": 0.915,
    "bohachevsky": 0.653,
    "wavy-plateau": 0.167,
    "zigzag-ridge": 0.108,
    "double-exponential": 0.264,
    "relu": 0.426,
    "rotational": 0.728,
    "flat": 0.0,
}


def flow(potential="styblinski-tang", interaction=None, *, beta=0.0, dim=2, scheme="explicit", tau=TAU, **options):
    return flows.Flow(flows.FlowEnergy(dim, potential, interaction, beta), tau, 5, scheme, **options)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", potentials.POTENTIALS)
def test_explicit_populations_move_as_far_as_the_published_ones(name):
    x, _ = flow(name).paths(6000, rng())
    assert np.linalg.norm(np.diff(x, axis=0), axis=2).mean() == pytest.approx(MOVED[name], rel=0.03, abs=1e-12)


@pytest.mark.parametrize("scheme", flows.SCHEMES)
@pytest.mark.parametrize("dim", [2, 5])
def test_a_quadratic_potential_in_closed_form(scheme, dim):
    """sphere is -10 |v|^2: every step is a factor."""
    x = flow("sphere", dim=dim).begin(50, rng())
    y, residual = flow("sphere", dim=dim, scheme=scheme, substeps=7).advance(x)
    growth = {"explicit": 1 + 20 * TAU, "implicit": 1 / (1 - 20 * TAU), "substeps": (1 + 20 * TAU / 7) ** 7}[scheme]
    np.testing.assert_allclose(y, growth * x, rtol=1e-9, atol=1e-7)
    assert residual.max() <= flows.SOLVED


@pytest.mark.parametrize("interaction", [None, "styblinski-tang", "sphere"])
def test_the_implicit_step_solves_its_equation_and_the_explicit_one_does_not(interaction):
    moving = flow("oakley-ohagan", interaction, scheme="implicit")
    x = moving.begin(30, rng())
    y, residual = moving.advance(x)

    def failure(y):
        force = moving.energy.force(torch.from_numpy(y)[None])[0].numpy()
        return np.linalg.norm(y + TAU * force - x, axis=1)

    np.testing.assert_allclose(residual, failure(y), atol=1e-9)
    assert failure(y).max() < flows.SOLVED
    assert failure(flow("oakley-ohagan", interaction).advance(x)[0]).max() > 1e-3


def test_substeps_approach_the_flow_of_the_potential():
    """For oakley-ohagan, halving the small step halves the distance to the solution of x' = - grad V."""
    from scipy.integrate import solve_ivp

    x = flow().begin(20, rng())
    slope = potentials.build("oakley-ohagan").gradient
    exact = solve_ivp(lambda t, y: -slope(y.reshape(x.shape)).ravel(), (0, TAU), x.ravel(), rtol=1e-11, atol=1e-11)
    exact = exact.y[:, -1].reshape(x.shape)
    far, near = (
        np.abs(flow("oakley-ohagan", scheme="substeps", substeps=m).advance(x)[0] - exact).max() for m in (10, 20)
    )
    assert near < 2e-3 and far / near == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("scheme", flows.SCHEMES)
def test_noise_has_the_variance_of_the_diffusivity(scheme):
    """Of sqrt(2 tau beta), beta being no standard deviation."""
    noisy = flow("flat", beta=0.2, scheme=scheme, substeps=4)
    x = np.zeros((20_000, 2))
    y, _ = noisy.advance(x, rng())
    np.testing.assert_allclose(np.cov(y.T, ddof=0), 2 * TAU * 0.2 * np.eye(2), atol=4 * 0.004 / 20_000**0.5)
    np.testing.assert_array_equal(noisy.advance(x)[0], x)  # without a generator there is none


def test_the_interactions_force_is_the_mean_over_the_others():
    energy, x = flows.FlowEnergy(2, "flat", "watershed"), torch.from_numpy(flow().begin(7, rng()))
    kernel = potentials.build("watershed").gradient
    expected = torch.zeros_like(x)
    for i in range(7):
        for j in (j for j in range(7) if j != i):
            z = (x[i] - x[j])[None]
            expected[i] += 0.5 * (kernel(z) - kernel(-z))[0] / 6
    torch.testing.assert_close(energy.force(x[None])[0], expected)
    torch.testing.assert_close(energy_steps.force(energy, x[None])[0], expected)
    # an energy's forces are equal and opposite, so the mean stays where it is; the raw function's are not
    moved, _ = flow("flat", "watershed").advance(x.numpy())
    np.testing.assert_allclose(moved.mean(0), x.mean(0).numpy(), atol=1e-12)
    raw = sum(kernel((x[i] - x[j])[None])[0] for i in range(7) for j in range(7) if i != j)
    assert raw.abs().max() > 1


def test_the_force_of_another_population():
    energy, x = flows.FlowEnergy(2, "flat", "sphere"), torch.from_numpy(flow().begin(5, rng()))
    cloud = x + 1
    torch.testing.assert_close(energy.force(x[None], cloud=cloud[None])[0], -20 * (x - cloud.mean(0)))


def test_unpaired_snapshots_share_nothing_and_paired_ones_all():
    frame, meta = flows.courses(SPEC, dataset="flow", seed=0)
    found = flows.unstacked(frame, meta)
    first = found["styblinski-tang"]
    assert list(found) == ["styblinski-tang", "flowers"] and first.meta["dataset"] == "flow/styblinski-tang"
    np.testing.assert_array_equal(first.times, [0, 0.01, 0.02, 0.03])
    slope = potentials.build("styblinski-tang").gradient

    def paired(snapshots, k):
        x, y = (snapshots.select(t=snapshots.times[j]).x for j in (k, k + 1))
        return np.allclose(y, x - TAU * slope(x), atol=1e-12)

    assert not any(paired(first, k) for k in range(3))
    assert not set(first.select(t=0).x[:, 0]) & set(found["flowers"].select(t=0).x[:, 0])
    same, meta = flows.courses(SPEC | {"paired": True}, dataset="flow", seed=0)
    first = flows.unstacked(same, meta)["styblinski-tang"]
    assert all(paired(first, k) for k in range(3))
    # particles keep their split
    assert (first.split.reshape(4, 60) == first.split[:60]).all()
    np.testing.assert_array_equal(first.row, np.arange(240))


def test_splits_take_their_share_of_every_snapshot():
    frame, _ = flows.courses(SPEC | {"train": 0.6}, dataset="flow", seed=0)
    shares = frame.groupby(["course", "t"])["split"].agg(lambda s: (s == "train").sum())
    assert (shares == 36).all() and len(shares) == 8
    assert (frame.groupby("course")["row"].nunique() == 240).all()


def test_a_course_depends_on_its_seed_and_name_alone():
    alone, _ = flows.courses(SPEC | {"potentials": ["flowers"]}, dataset="flow", seed=0)
    beside, _ = flows.courses(SPEC, dataset="flow", seed=0)
    beside = beside[beside["course"] == "flowers"].reset_index(drop=True)
    assert alone.equals(beside)
    # one step fewer leaves the snapshots before it as they were
    shorter, _ = flows.courses(SPEC | {"potentials": ["flowers"], "steps": 2}, dataset="flow", seed=0)
    columns = ["row", "t", "x0", "x1"]
    assert shorter[columns].equals(alone[columns].head(180))
    other, _ = flows.courses(SPEC | {"potentials": ["flowers"]}, dataset="flow", seed=1)
    assert not np.isin(alone["x0"], other["x0"]).any()


def test_courses_of_interactions():
    assert flows.names(["flat", "sphere"], ["relu"]) == {
        "flat+relu": ("flat", "relu"),
        "sphere+relu": ("sphere", "relu"),
    }
    assert list(flows.names(["flat", "flat"], ["relu", "flowers"])) == ["flat+relu", "flat+flowers"]
    assert flows.names(["flat"]) == {"flat": ("flat", None)}
    spec = SPEC | {"potentials": ["flat"], "interactions": ["sphere"], "diffusivity": 0.1}
    frame, meta = flows.courses(spec, dataset="flow", seed=0)
    (snapshots,) = flows.unstacked(frame, meta).values()
    energy = flows.flow_of(snapshots).energy
    assert energy.interaction.name == "sphere" and energy.diffusivity.item() == 0.1
    # particles repel each other
    spread = [snapshots.select(t=t).x.var(0).sum() for t in snapshots.times]
    assert spread[-1] > 1.5 * spread[0]


def test_the_file_keeps_its_contract_and_its_bytes(tmp_path):
    for name in ("one", "two"):
        frame, meta = flows.courses(SPEC, dataset="flow", seed=3)
        artifacts.write(frame, tmp_path / name, "courses/1", meta)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    back, meta = artifacts.read(tmp_path / "one", "courses/1")
    first = flows.unstacked(back, meta)["flowers"]
    again = flows.flow_of(first)
    assert (again.tau, again.steps, again.scheme, again.start) == (TAU, 3, "explicit", (-4.0, 4.0))
    x, y = again.population(500, 1, rng())[0], first.select(t=first.times[1]).x
    assert x.shape == (500, 2) and not np.isin(x, y).any()
    doubled = frame.assign(row=0)
    with pytest.raises(artifacts.ContractError, match=r"\['course', 'row'\] must identify a row"):
        artifacts.write(doubled, tmp_path / "three", "courses/1", meta)


def test_implicit_steps_that_end_at_a_kink_are_counted():
    """Valleys of the Holder table are kinks: particles that stop there have no gradient that vanishes."""
    frame, meta = flows.courses(
        SPEC | {"potentials": ["holder-table", "sphere"], "scheme": "implicit", "steps": 1}, dataset="flow", seed=0
    )
    assert flows.courses(SPEC, dataset="flow", seed=0)[1]["unsolved"] == {}
    assert 0 < meta["unsolved"]["holder-table"] < 0.8 and meta["unsolved"]["sphere"] == 0


def test_faults_are_refused():
    with pytest.raises(ValueError, match="scheme must be one of"):
        flow(scheme="heun")
    with pytest.raises(ValueError, match="expected tau > 0"):
        flow(tau=0.0)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        flow(beta=-1)
    with pytest.raises(ValueError, match="one for each of 3 potentials"):
        flows.names(["flat", "relu", "sphere"], ["relu", "flat"])
    with pytest.raises(ValueError, match="must differ"):
        flows.names(["flat", "flat"])
    with pytest.raises(ValueError, match=r"of 20 particles left for infinity in one step of tau = 1e\+308"):
        flow("styblinski-tang", tau=1e308).advance(flow().begin(20, rng()))
