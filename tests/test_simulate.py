"""Simulations: the law of the discrete chain, its order, and clouds that depend on the seed alone."""

import gc
import math

import numpy as np
import pytest
import torch
from scipy import stats

from snapdyn import models, simulate, systems, trajectories

RATE, NOISE = 1.5, 0.6  # a scalar linear process has variance NOISE / RATE


def decay(x, out):
    torch.mul(x, -RATE, out=out)


def run_chain(n, *, steps, dt, start=0.0, seed=0, diffusivity=NOISE, **options):
    x = torch.full((1, n), start, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    return simulate.integrate(decay, x, steps=steps, dt=dt, diffusivity=diffusivity, generator=generator, **options)


class Clock(systems.System):
    """dx = dt from 0: a state tells its own age; with noise, its particle as well."""

    axes = ("x", "y")

    def __init__(self, diffusivity=0.0):
        self.diffusivity = diffusivity

    def rate(self, x, out):
        out[0].fill_(1.0)
        out[1].zero_()

    def initial(self, n, generator, device):
        x = super().initial(n, generator, device)
        x[0] = 0.0
        return x


@pytest.mark.parametrize("dt", [0.1, 0.4])
def test_the_variance_is_that_of_the_discrete_chain(dt):
    n = 100_000
    x = run_chain(n, steps=round(8 / dt), dt=dt)
    chain, continuous = NOISE / RATE / (1 - RATE * dt / 2), NOISE / RATE
    error = math.sqrt(2 / n)
    assert abs(x.var() / chain - 1) < 4 * error
    assert abs(x.var() / continuous - 1) > 10 * error  # the step shows: the test can tell the two apart
    assert abs(x.mean()) < 4 * math.sqrt(chain / n)


def test_the_chain_of_a_linear_system_has_its_own_lyapunov_covariance():
    """C = (I - A dt) C (I - A dt)^T + 2 D dt I, off the continuous one by O(dt)."""
    system, dt, n = systems.build("ornstein-uhlenbeck", diffusivity=0.5), 0.2, 60_000
    x = simulate.stationary_cloud(system, n, dt=dt, burn=12.0, seed=1)
    step = np.eye(2) - system.matrix.numpy() * dt
    size = np.eye(4) - np.kron(step, step)
    chain = np.linalg.solve(size, 2 * 0.5 * dt * np.eye(2).ravel()).reshape(2, 2)
    error = np.sqrt((np.outer(np.diag(chain), np.diag(chain)) + chain**2) / n)
    assert (np.abs(np.cov(x.T) - chain) < 4.5 * error).all()
    assert (np.abs(np.diag(np.cov(x.T) - system.covariance.numpy())) > 8 * np.diag(error)).all()


def test_the_weak_error_falls_in_proportion_to_the_step():
    n, steps = 200_000, np.array([0.4, 0.2, 0.1])
    wrong = [abs(run_chain(n, steps=round(6 / dt), dt=dt, seed=3).var().item() / (NOISE / RATE) - 1) for dt in steps]
    slope = np.polyfit(np.log(steps), np.log(wrong), 1)[0]
    assert 0.85 < slope < 1.35


def test_heuns_scheme_is_of_second_order_with_the_variance_of_its_own_chain():
    n, wrong = 200_000, []
    for step in (0.6, 0.3):  # times the rate
        dt = step / RATE
        x = run_chain(n, steps=round(8 / dt), dt=dt, seed=5, scheme="heun")
        chain = 2 * step * (1 - step / 2) ** 2 / (1 - (1 - step + step**2 / 2) ** 2)
        found = x.var().item() / (NOISE / RATE)
        assert abs(found / chain - 1) < 4 * math.sqrt(2 / n)
        wrong.append(abs(found - 1))
    assert 1.6 < math.log2(wrong[0] / wrong[1]) < 2.8
    x = run_chain(3, steps=4, dt=0.1, start=2.0, diffusivity=0.0, scheme="heun")
    np.testing.assert_allclose(x.numpy(), 2.0 * (1 - 0.1 * RATE + (0.1 * RATE) ** 2 / 2) ** 4, rtol=1e-14)


def test_schemes_are_named_where_they_are_used():
    hopf = systems.build("hopf", diffusivity=0.2)
    run = simulate.system_snapshots(hopf, 50, dataset="d", seed=0, spec={}, dt=0.05, burn=0.5, scheme="heun")
    assert run.meta["equations"] == ["sde", "stochastic-heun"]
    other = simulate.stationary_cloud(hopf, 50, dt=0.05, burn=0.5, seed=0)
    assert np.abs(run.x - other).max() > 1e-6
    with pytest.raises(ValueError, match="unknown scheme 'milstein'; there are .*euler-maruyama"):
        simulate.stationary_cloud(hopf, 50, dt=0.05, burn=0.5, seed=0, scheme="milstein")


def test_without_noise_it_is_the_euler_scheme():
    x = run_chain(5, steps=7, dt=0.1, start=2.0, diffusivity=0.0)
    np.testing.assert_allclose(x.numpy(), 2.0 * (1 - 0.1 * RATE) ** 7, rtol=1e-14)
    assert run_chain(5, steps=0, dt=0.1, start=2.0).eq(2.0).all()


def test_increments_of_different_steps_are_independent():
    """Noise is drawn for many steps at once; a block used twice would double the variance of pairs of steps."""
    still = Clock(diffusivity=0.5)
    steps = 2 * simulate.NOISE_STEPS + 3
    x, generator = torch.zeros(2, 50_000, dtype=torch.float64), torch.Generator().manual_seed(0)
    simulate.integrate(still.rate, x, steps=steps, dt=0.01, diffusivity=0.5, generator=generator)
    assert abs(x[1].var() / (steps * 0.01) - 1) < 4 * math.sqrt(2 / 50_000)
    assert stats.kstest(x[1].numpy() / math.sqrt(steps * 0.01), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(x)[0, 1]) < 4 / math.sqrt(50_000)


def test_the_levels_of_an_increment_have_the_moments_of_the_normal_law():
    levels = simulate._levels(torch.device("cpu"))
    assert len(levels) == 2**16 and levels.dtype == torch.float64 and (levels.diff() > 0).all()
    assert (levels + levels.flip(0)).abs().max() < 1e-9
    even = [(levels**k).mean().item() for k in (2, 4, 6)]
    assert even[0] == pytest.approx(1, abs=1e-12)
    assert even[1:] == pytest.approx([3, 15], rel=1e-3)
    assert np.abs(levels.numpy() - stats.norm.ppf((np.arange(2**16) + 0.5) / 2**16))[9:-9].max() < 1e-3


def test_increments_are_normal_level_by_level_and_from_one_to_the_next():
    """Four increments share a random word, and a call's next ones follow it: none knows of another."""
    draw = simulate._increments(torch.zeros(3, 33_331, dtype=torch.float64), 2, torch.Generator().manual_seed(4))
    z = np.concatenate([torch.stack(draw()).flatten().numpy().copy() for _ in range(3)])
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert stats.kstest(1.02 * z, "norm").pvalue < 1e-3
    level = np.searchsorted(simulate._levels(torch.device("cpu")).numpy(), z)
    counts = np.bincount(level // 16, minlength=2**12)
    assert len(counts) == 2**12 and stats.chisquare(counts).pvalue > 1e-3
    for power in (1, 2):
        for lag in (1, 2, 3, 4, 33_331, 99_993, 199_986):  # neighbours, axes, steps, draws
            assert abs(np.corrcoef(z[lag:] ** power, z[:-lag] ** power)[0, 1]) < 4.5 / math.sqrt(len(z) - lag)


def cloud(system=None, n=500, **changed):
    system = system or systems.build("lorenz", diffusivity=12.5)
    return simulate.stationary_cloud(system, n, **({"dt": 0.01, "burn": 0.5, "seed": 7} | changed))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_cloud():
    assert cloud().tobytes() == cloud().tobytes()
    other = cloud(seed=8)
    assert not np.isin(other, cloud()).any()
    assert cloud().shape == (500, 3) and cloud().dtype == np.float64


def test_blocks_are_independent_and_do_not_depend_on_what_follows(monkeypatch):
    monkeypatch.setattr(simulate, "BLOCK", 200)
    one, two = cloud(n=200), cloud(n=600)
    assert len(np.unique(two[:, 0])) == 600  # no block repeats another's noise
    assert np.isin(one[:, 0], two[:, 0]).all()
    monkeypatch.setattr(simulate, "BLOCK", 300)
    assert not np.isin(cloud(n=600), two).all()


def test_records_of_a_trajectory_are_a_gap_apart_and_shuffled():
    x = cloud(Clock(), n=3000, per_trajectory=3, gap=0.4, burn=1.0)
    ages, counts = np.unique(x[:, 0].round(9), return_counts=True)
    np.testing.assert_allclose(ages, [1.0, 1.4, 1.8])
    np.testing.assert_array_equal(counts, 1000)
    assert len(np.unique(x[:, 1])) == 1000  # a thousand particles, three records each
    assert stats.spearmanr(np.arange(3000), x[:, 0]).pvalue > 1e-3
    particle = np.unique(x[:, 1], return_inverse=True)[1]
    beside = (np.diff(particle) == 0).mean()
    assert beside < 0.01  # records of one particle do not stand together


def test_a_number_that_is_no_multiple_of_the_records_is_kept():
    assert len(cloud(Clock(), n=10, per_trajectory=4, gap=0.1)) == 10


def test_a_run_that_leaves_the_finite_numbers_is_refused():
    with pytest.raises(ValueError, match=r"\d+ of 50 trajectories left the finite numbers; take a smaller dt than 0.5"):
        cloud(n=50, dt=0.5, burn=50.0)


def test_memory_does_not_grow_with_the_number_of_steps():
    """Tensors alive within step 10 and step 700 hold the same number of bytes, and the state is moved in place."""
    held, places = {}, set()

    def rate(x, out):
        rate.step += 1
        places.add((x.data_ptr(), out.data_ptr()))
        if rate.step in (10, 700):
            alive = {o.data_ptr(): o.untyped_storage().nbytes() for o in gc.get_objects() if type(o) is torch.Tensor}
            held[rate.step] = sum(alive.values())
        out.zero_()

    rate.step = 0
    gc.collect()
    x = torch.zeros(3, 1000, dtype=torch.float64)
    simulate.integrate(rate, x, steps=701, dt=1e-3, diffusivity=1.0, generator=torch.Generator().manual_seed(0))
    assert held[700] <= held[10] + 4 * x.nbytes
    assert len(places) == 1


def test_progress_wraps_the_blocks(monkeypatch):
    monkeypatch.setattr(simulate, "BLOCK", 100)
    seen = []
    cloud(n=250, burn=0.02, progress=lambda blocks: seen.append(len(blocks)) or blocks)
    assert seen == [3]


def test_timed_snapshots_are_fresh_populations_at_their_own_times():
    system = systems.build("ornstein-uhlenbeck", diffusivity=0.5)
    times, n, dt = [1.0, 1.5, 3.0], 20_000, 0.01
    centre = np.array([3.0, -1.0])
    x, t = simulate.timed_snapshots(
        system, n, times, dt=dt, seed=2, start=lambda n, rng: centre + 0.1 * rng.normal(size=(n, 2))
    )
    np.testing.assert_array_equal(np.unique(t, return_counts=True)[1], n)
    step = np.eye(2) - system.matrix.numpy() * dt
    for time in times:
        here, gone = x[t == time], round((time - times[0]) / dt)
        expected = np.linalg.matrix_power(step, gone) @ centre
        assert (np.abs(here.mean(0) - expected) < 4.5 * here.std(0) / np.sqrt(n)).all()
    first, second = (np.linalg.matrix_power(step, 50) @ (x[t == 1.0] - centre).T).T, x[t == 1.5]
    assert abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 4 / np.sqrt(n)  # not the same particles
    again, _ = simulate.timed_snapshots(system, 50, times, dt=dt, seed=2)
    assert again.tobytes() == simulate.timed_snapshots(system, 50, times, dt=dt, seed=2)[0].tobytes()


def test_a_time_that_no_whole_number_of_steps_reaches_is_reached_all_the_same():
    x, t = simulate.timed_snapshots(Clock(), 10, [0.0, 0.25, 1.0], dt=0.1, seed=0)
    for time in (0.0, 0.25, 1.0):
        np.testing.assert_allclose(x[t == time, 0], time, rtol=1e-12)


def test_points_or_whole_trajectories_are_held_out():
    hopf = systems.build("hopf", diffusivity=0.5)
    everything = simulate.system_snapshots(hopf, 300, dataset="ring", seed=4, spec={})
    some = simulate.system_snapshots(hopf, 300, dataset="ring", seed=4, spec={}, train=0.8)
    np.testing.assert_array_equal(some.x, everything.x)
    assert set(everything.split) == {"train"} and (some.split == "train").sum() == 240
    paths = {"every": 0.05, "records": 10}
    moving = simulate.system_snapshots(
        hopf, 300, dataset="ring", seed=4, spec={}, dt=0.05, burn=1.0, paths=paths, train=0.8
    )
    kept = trajectories.ordered_paths(moving.select(split="train"))[0]
    held = trajectories.ordered_paths(moving.select(split="test"))[0]
    assert kept.shape == (24, 10, 2) and held.shape == (6, 10, 2)


def test_system_snapshots_draw_exactly_or_simulate_and_say_what_they_are():
    hopf = systems.build("hopf", diffusivity=0.2)
    exact = simulate.system_snapshots(hopf, 300, dataset="ring", seed=4, spec={"name": "hopf"})
    np.testing.assert_array_equal(exact.x, hopf.sample(300, np.random.default_rng(4)))
    assert not exact.timed and set(exact.split) == {"train"}
    wanted = {"name": "hopf", "parameters": hopf.parameters, "names": ["growth", "saturation"], "diffusivity": 0.2}
    assert exact.meta["system"] == wanted
    assert (exact.meta["dataset"], exact.meta["dim"], exact.meta["axes"]) == ("ring", 2, ["x", "y"])
    run = simulate.system_snapshots(hopf, 300, dataset="ring", seed=4, spec={}, dt=0.05, burn=1.0)
    np.testing.assert_array_equal(run.x, simulate.stationary_cloud(hopf, 300, dt=0.05, burn=1.0, seed=4))
    for given in ({}, {"dt": 0.01}):
        with pytest.raises(ValueError, match="butterfly: this system has no exact sampler, so give dt and burn"):
            lorenz = systems.build("lorenz", diffusivity=1.0)
            simulate.system_snapshots(lorenz, 10, dataset="butterfly", seed=0, spec={}, **given)


def test_a_simulated_cloud_has_the_law_of_the_exact_one():
    system = systems.build("hopf", diffusivity=0.3)
    run = cloud(system, n=4000, burn=8.0, dt=0.01)
    exact = system.sample(4000, np.random.default_rng(0))
    assert stats.ks_2samp(np.hypot(*run.T), np.hypot(*exact.T)).pvalue > 1e-3
    assert stats.ks_2samp(np.hypot(*cloud(system, n=4000, burn=0.1).T), np.hypot(*exact.T)).pvalue < 1e-6


def test_the_gene_network_keeps_to_its_range_and_its_activated_form_does_not():
    ranges = [(3.9, 12.4), (0.19, 2.3), (1.15, 5.0)]  # p, b, r

    def within(**options):
        system = systems.build("gene-network", diffusivity=1e-4, **options)
        x = simulate.stationary_cloud(system, 600, dt=0.05, burn=40.0, seed=0, scheme="heun")
        assert (x[:, 4:] > 0).all()
        assert np.abs(np.hypot(x[:, :4:2], x[:, 1:4:2]) - 1).max() < 0.05  # five standard deviations
        genes = zip(x.T[4:], ranges, strict=True)
        return all(low * 0.97 < gene.min() and gene.max() < high * 1.03 for gene, (low, high) in genes)

    assert within()
    assert not within(activation=True)


def test_attractors_of_the_true_drift_are_at_their_floor_and_a_wrong_one_is_not():
    system = systems.build("lorenz", diffusivity=12.5)

    def distances(factor):
        model = models.DriftModel(system.terms, factor * system.truth.numpy(), diffusivity=12.5)
        return simulate.attractor_distances(system, model, seed=3, n=300, burn=6.0, dt=5e-3)

    found = distances(np.ones(3))
    assert found["attractor_w1"] == pytest.approx(found["attractor_w1_floor"], rel=1e-9)
    assert distances(np.array([1.0, 0.7, 1.0]))["attractor_w1"] > 2 * found["attractor_w1_floor"]
    assert list(distances(np.array([-10.0, 1.0, -5.0]))) == ["attractor_w1_floor"]  # it runs to infinity


def test_paths_are_whole_trajectories_in_the_order_of_time(monkeypatch):
    monkeypatch.setattr(simulate, "BLOCK", 30)
    paths = {"every": 0.4, "records": 5}
    system = Clock(diffusivity=0.0)
    system.parameters = {}
    data = simulate.system_snapshots(
        system, 200, dataset="clock", seed=1, spec={}, dt=0.1, burn=1.0, scheme="heun", paths=paths
    )
    age, particle = (data.x[:, k].reshape(40, 5) for k in (0, 1))
    np.testing.assert_allclose(age, np.broadcast_to(1.0 + 0.4 * np.arange(5), (40, 5)))
    assert (particle == particle[:, :1]).all() and len(np.unique(particle)) == 40
    assert data.meta["paths"] == paths and not data.timed
    np.testing.assert_array_equal(data.row, np.arange(200))
    loose = simulate.stationary_cloud(system, 200, dt=0.1, burn=1.0, seed=1, per_trajectory=5, gap=0.4)
    np.testing.assert_allclose(np.sort(loose[:, 1]), np.sort(data.x[:, 1]))  # the same states without their order


@pytest.mark.parametrize(
    "changed",
    [{"n": 201}, {"dt": 0.3}, {"dt": None}, {"paths": {"every": 0.05, "records": 5}}],
    ids=["n", "dt", "exact sampler", "every"],
)
def test_paths_that_do_not_add_up_are_refused(changed):
    given = {"n": 200, "dt": 0.1, "paths": {"every": 0.4, "records": 5}} | changed
    hopf = systems.build("hopf", diffusivity=0.2)
    with pytest.raises(ValueError, match="ring: paths need a dt of which every is a multiple, and an n that"):
        simulate.system_snapshots(hopf, given.pop("n"), dataset="ring", seed=0, spec={}, burn=1.0, **given)
