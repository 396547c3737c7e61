"""The kernel pass against automatic differentiation, and against what must not change its answer."""

import math

import numpy as np
import pytest
import torch

from snapdyn import scores


def cloud(n=70, dim=3, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(dim, dim))
    return torch.from_numpy(5 + rng.normal(size=(n, dim)) @ mixing)


def log_density(x, data, h, weights=None):
    """log p_h at one point by logsumexp."""
    h = torch.as_tensor(h, dtype=torch.float64).expand(len(x))
    logits = -0.5 * ((data - x) / h).square().sum(1)
    logits = logits if weights is None else logits + weights.log()
    mass = torch.tensor(len(data)).double() if weights is None else weights.sum()
    return torch.logsumexp(logits, 0) - mass.log() - 0.5 * len(x) * math.log(2 * math.pi) - h.log().sum()


def reference(data, probes, h, weights=None):
    """log p, score and divergence of the score by automatic differentiation."""

    def value(x):
        return log_density(x, data, h, weights)

    score = torch.func.vmap(torch.func.grad(value))(probes)
    trace = torch.func.vmap(torch.func.jacrev(torch.func.grad(value)))(probes).diagonal(dim1=1, dim2=2).sum(1)
    return torch.func.vmap(value)(probes), score, trace


def assert_same(one, two, tolerance=1e-10):
    for name in ("log_prob", "score", "laplacian", "means", "sample_size"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name), rtol=tolerance, atol=tolerance)


WIDTHS = {"narrow": 0.3, "wide": 2.0, "diagonal": [0.4, 1.0, 2.5]}


@pytest.mark.parametrize("h", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("weighted", [False, True])
def test_density_score_and_divergence_are_those_of_logsumexp(h, weighted):
    data = cloud()
    probes = torch.cat([data[:5] + 0.2, cloud(8, seed=1)])
    weights = torch.from_numpy(np.random.default_rng(2).uniform(0.1, 3, len(data))) if weighted else None
    found = scores.kernel_pass(data, probes, h, weights=weights)
    log_prob, score, trace = reference(data, probes, h, weights)
    torch.testing.assert_close(found.log_prob, log_prob, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.score, score, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.divergence, trace, rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(found.laplacian, score.square().sum(1) + trace, rtol=1e-10, atol=1e-9)
    other = reference(data, probes, 1.1 * torch.as_tensor(h, dtype=torch.float64), weights)
    assert (found.score - other[1]).abs().max() > 0.01


@pytest.mark.parametrize("h", WIDTHS.values(), ids=WIDTHS)
def test_posterior_means_and_sample_sizes_are_weighted_sums(h):
    data, probes = cloud(), cloud(9, seed=1)
    features = torch.from_numpy(np.random.default_rng(3).normal(size=(len(data), 4)))
    found = scores.kernel_pass(data, probes, h, features=features)
    width = torch.as_tensor(h, dtype=torch.float64).expand(3)
    weights = torch.softmax(-0.5 * ((probes[:, None] - data[None]) / width).square().sum(2), 1)
    torch.testing.assert_close(found.means, weights @ features, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.sample_size, 1 / weights.square().sum(1), rtol=1e-9, atol=1e-9)
    assert scores.kernel_pass(data, probes, h, sample_size=False).sample_size is None
    assert scores.kernel_pass(data, probes, h).means.shape == (9, 0)


@pytest.mark.parametrize("tile", [(1, 1), (2, 7), (5, 70), (1000, 1000)])
@pytest.mark.parametrize("own", [False, True])
def test_tiles_do_not_change_the_answer(monkeypatch, tile, own):
    data = cloud()
    probes, own = (data[3:20], torch.arange(3, 20)) if own else (cloud(17, seed=1), None)
    weights = torch.linspace(0.2, 2, len(data)).double()
    whole = scores.kernel_pass(data, probes, 0.7, features=data**2, weights=weights, own=own)
    monkeypatch.setattr(scores, "TILE", {"cpu": tile})
    assert_same(scores.kernel_pass(data, probes, 0.7, features=data**2, weights=weights, own=own), whole)


def test_threads_do_not_change_a_bit(monkeypatch):
    monkeypatch.setattr(scores, "TILE", {"cpu": (4, 16)})
    data, probes = cloud(), cloud(30, seed=1)
    one, four = (scores.kernel_pass(data, probes, 0.7, features=data, threads=n) for n in (1, 4))
    assert_same(one, four, 0.0)


@pytest.mark.parametrize("h", [0.05, 0.5, 3.0])
def test_leaving_one_out_is_deleting_it(h):
    data = cloud(40)
    chosen = torch.tensor([0, 7, 39])
    features = data.square()
    found = scores.kernel_pass(data, data[chosen], h, own=chosen, features=features)
    for row, i in enumerate(chosen.tolist()):
        keep = torch.arange(len(data)) != i
        without = scores.kernel_pass(data[keep], data[i : i + 1], h, features=features[keep])
        for name in ("log_prob", "score", "laplacian", "means", "sample_size"):
            found_here = getattr(found, name)[row]
            torch.testing.assert_close(found_here, getattr(without, name)[0], rtol=1e-9, atol=1e-9)
    with_itself = scores.kernel_pass(data, data[chosen], h)
    assert (with_itself.log_prob - found.log_prob).abs().min() > 1e-3


def test_leaving_out_a_weighted_point_is_deleting_it():
    data, weights = cloud(40), torch.linspace(0.5, 3, 40).double()
    found = scores.kernel_pass(data, data[5:6], 0.8, weights=weights, own=torch.tensor([5]))
    keep = torch.arange(40) != 5
    without = scores.kernel_pass(data[keep], data[5:6], 0.8, weights=weights[keep])
    assert_same(found, without, 1e-9)


def test_the_twin_of_a_left_out_point_stays():
    data = torch.cat([cloud(10), cloud(10)[:1]])
    found = scores.kernel_pass(data, data[:1], 0.01, own=torch.tensor([0]))
    assert found.score.abs().max() < 1e-6 and found.sample_size.item() == pytest.approx(1)


def test_one_data_point_has_the_score_of_a_gaussian():
    centre, h = torch.tensor([[1.0, -2.0]]).double(), torch.tensor([0.5, 2.0]).double()
    probes = torch.tensor([[0.0, 0.0], [3.0, -2.5]]).double()
    found = scores.kernel_pass(centre, probes, h)
    torch.testing.assert_close(found.score, (centre - probes) / h**2)
    torch.testing.assert_close(found.divergence, -(h**-2).sum().expand(2))
    normal = torch.distributions.MultivariateNormal(centre[0], torch.diag(h**2))
    torch.testing.assert_close(found.log_prob, normal.log_prob(probes))
    torch.testing.assert_close(found.sample_size, torch.ones(2).double())
    with pytest.raises(ValueError, match="leaving one out needs at least two data points, got 1"):
        scores.kernel_pass(centre, centre, 1.0, own=torch.tensor([0]))


def test_whole_weights_are_repetitions():
    data, times = cloud(30), torch.from_numpy(np.random.default_rng(4).integers(1, 5, 30))
    probes, features = cloud(6, seed=1), cloud(30, 2, seed=5)
    weighted = scores.kernel_pass(data, probes, 0.7, weights=times.double(), features=features)
    repeated = scores.kernel_pass(
        data.repeat_interleave(times, 0), probes, 0.7, features=features.repeat_interleave(times, 0)
    )
    for name in ("log_prob", "score", "laplacian", "means"):
        torch.testing.assert_close(getattr(weighted, name), getattr(repeated, name), rtol=1e-10, atol=1e-10)
    twice = scores.kernel_pass(data, probes, 0.7, weights=2 * times.double(), features=features)
    assert_same(twice, weighted)


@pytest.mark.parametrize("h", [0.7, 0.002])
def test_a_point_of_weight_zero_is_not_there(h):
    """Also where it is the nearest one and the kernel is far narrower than the way to the next."""
    data = cloud(30)
    weights = torch.ones(30).double()
    weights[4] = 0.0
    found = scores.kernel_pass(data, data[4:5], h, weights=weights)
    keep = torch.arange(30) != 4
    assert_same(found, scores.kernel_pass(data[keep], data[4:5], h), 1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_probes_far_away_see_the_nearest_point_and_stay_finite(dtype):
    data = cloud(50).to(dtype)
    direction = torch.tensor([1.0, 0.5, -2.0]).to(dtype)
    near, far = data[:3] + 1e-3, data.mean(0) + torch.tensor([[10.0], [300.0]]).to(dtype) * direction
    found = scores.kernel_pass(data, torch.cat([near, far]), 0.02)
    for name in ("log_prob", "score", "laplacian", "sample_size"):
        assert torch.isfinite(getattr(found, name)).all(), name
    probe = far[-1:].double()
    closest = (data.double() - probe).square().sum(1).min()
    assert found.log_prob[-1] == pytest.approx(-0.5 * closest.item() / 0.02**2, rel=1e-3)
    mean = probe + 0.02**2 * found.score[-1].double()  # of the data, under the kernel weights
    assert (mean - data.double()).norm(dim=1).min() < 0.5 * (mean - probe).norm()


@pytest.mark.parametrize(("dtype", "h"), [(torch.float64, 1e-8), (torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_a_kernel_narrower_than_the_digits_stays_finite(dtype, h):
    """Rounding of |x|^2 / h^2 then exceeds every exponent, so weights are noise; they must not be infinite."""
    data = (8 * cloud(300)).to(dtype)
    found = scores.kernel_pass(data, data[:50] + 0.5, h)
    for name in ("log_prob", "score", "laplacian", "sample_size"):
        assert torch.isfinite(getattr(found, name)).all(), name


def test_single_precision_is_close_to_double():
    data, probes = cloud(400), cloud(50, seed=1)
    h = 0.4 * data.std(0)
    double = scores.kernel_pass(data, probes, h, features=data.square())
    single = scores.kernel_pass(data.float(), probes.float(), h.float(), features=data.square().float())
    assert single.score.dtype == torch.float32
    crowded = double.sample_size > 3
    assert crowded.sum() > 20
    for name, size in (("score", 1.0), ("laplacian", 10.0), ("means", 50.0), ("log_prob", 1.0)):
        wrong = (getattr(single, name).double() - getattr(double, name))[crowded].abs().max()
        assert wrong < 2e-4 * size, name


def test_a_shifted_and_scaled_cloud_has_the_shifted_and_scaled_score():
    data, probes = cloud(60), cloud(10, seed=1)
    scale, shift = torch.tensor([10.0, 0.1, 3.0]).double(), torch.tensor([1e4, -7.0, 0.0]).double()
    h = torch.tensor([0.5, 0.7, 0.9]).double()
    plain = scores.kernel_pass(data, probes, h)
    moved = scores.kernel_pass(data * scale + shift, probes * scale + shift, h * scale)
    torch.testing.assert_close(moved.score * scale, plain.score, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(moved.log_prob + scale.log().sum(), plain.log_prob, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(moved.sample_size, plain.sample_size, rtol=1e-8, atol=1e-8)


def test_the_score_of_a_gaussian_cloud_converges_to_that_of_the_smoothed_gaussian():
    h, probes = 0.5, torch.linspace(-1.5, 1.5, 13)[:, None].double() * torch.tensor([[1.0, -0.5]]).double()
    exact = -probes / (1 + h * h)
    error = {}
    for n in (500, 8000):
        draws = [torch.from_numpy(np.random.default_rng(s).normal(size=(n, 2))) for s in range(8)]
        wrong = torch.stack([scores.kernel_pass(data, probes, h).score - exact for data in draws])
        error[n] = wrong.square().mean().sqrt().item()
    assert error[8000] < 0.05
    assert 2.5 < error[500] / error[8000] < 6.5  # the root of 16
    unsmoothed = wrong + exact - -probes  # against the score of the data's own law: a bias stays
    assert unsmoothed.square().mean().sqrt() > 0.1


def test_normal_scale_bandwidths_are_the_textbook_ones():
    x = np.random.default_rng(0).normal(size=(1000, 1)) * 3
    spread = x.std(ddof=1)
    assert scores.normal_scale_bandwidth(x, derivative=0)[0] == pytest.approx(1.0592 * spread * 1000**-0.2, rel=1e-4)
    assert scores.normal_scale_bandwidth(x)[0] == pytest.approx((4 / 5) ** (1 / 7) * spread * 1000 ** (-1 / 7))
    widths = [scores.normal_scale_bandwidth(x, derivative=r)[0] for r in (0, 1, 2)]
    assert widths == sorted(widths)
    plane = np.random.default_rng(1).normal(size=(1000, 2)) * [1.0, 5.0]
    expected = plane.std(0, ddof=1) * (4 / (1000 * 6)) ** (1 / 8)
    np.testing.assert_allclose(scores.normal_scale_bandwidth(plane), expected)


def test_bandwidth_rules_and_numbers():
    x = np.random.default_rng(0).normal(size=(500, 2)) * [1.0, 3.0]
    share = np.clip(np.sqrt(2) * (1000 / len(x)) ** (1 / x.shape[1]), 0.4, 2.0)
    np.testing.assert_allclose(scores.bandwidth(x, "wide"), share * x.std(0, ddof=1))
    for rule, derivative in (("density", 0), ("score", 1), ("divergence", 2)):
        np.testing.assert_allclose(scores.bandwidth(x, rule), scores.normal_scale_bandwidth(x, derivative=derivative))
    np.testing.assert_array_equal(scores.bandwidth(x, 3), [3.0, 3.0])
    np.testing.assert_array_equal(scores.bandwidth(x, [0.5, 2]), [0.5, 2.0])


@pytest.mark.parametrize(
    ("x", "rule", "said"),
    [
        (np.ones((20, 2)), "score", "an axis without spread or a cloud of identical points gives 0"),
        (np.c_[np.arange(20.0), np.ones(20)], "wide", r"above 0, got \[.*, 0.0\].*drop the constant axis"),
        (np.ones((1, 2)), "score", "above 0"),
        (np.ones((5, 2)), 0.0, r"above 0, got \[0.0, 0.0\]"),
        (np.ones((5, 2)), [-1.0, 1.0], "above 0"),
        (np.ones((5, 2)), float("nan"), "above 0"),
        (np.ones((5, 2)), "scott", r"unknown bandwidth rule 'scott'; use a number or one of \['density'"),
    ],
)
@pytest.mark.filterwarnings("ignore:Degrees of freedom", "ignore:invalid value")
def test_bandwidths_that_cannot_be_are_refused(x, rule, said):
    with pytest.raises(ValueError, match=said):
        scores.bandwidth(x, rule)


def test_a_list_of_widths_of_the_wrong_length_is_refused_in_words():
    with pytest.raises(ValueError, match="one per axis|for each axis|2 axes"):
        scores.bandwidth(np.random.default_rng(0).normal(size=(9, 2)), [1.0, 1.0, 1.0])


@pytest.mark.parametrize("h", [0.0, -1.0, float("nan"), [1.0, 0.0, 1.0]])
def test_the_pass_refuses_a_bandwidth_that_is_not_positive(h):
    with pytest.raises(ValueError, match="bandwidth must be positive and finite"):
        scores.kernel_pass(cloud(), cloud(2), h)


@pytest.mark.parametrize("dim", [2, 5])
def test_wide_kernels_hold_about_a_thousand_neighbours_in_the_middle(rng, dim):
    x = rng.normal(size=(20000, dim)) * np.arange(1, dim + 1)
    kernel = scores.kernel_pass(torch.from_numpy(x), torch.zeros(1, dim).double(), scores.bandwidth(x, "wide"))
    assert 700 < float(kernel.sample_size) < 8000


def test_the_likelihood_chooses_the_width():
    """Near the normal-scale rule for a Gaussian cloud; much narrower for two far lumps, as held-out points confirm."""
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(1500, 2)) * [1.0, 10.0]
    ratio = scores.likelihood_bandwidth(plain) / scores.normal_scale_bandwidth(plain, derivative=0)
    assert 0.7 < ratio[0] < 1.5
    assert ratio[0] == pytest.approx(ratio[1])
    lumps, others = (0.1 * rng.normal(size=(1000, 2)) + 5 * rng.integers(2, size=(1000, 1)) for _ in range(2))

    def likelihood(rule):
        pair = [torch.from_numpy(x) for x in (lumps, others)]
        return float(scores.kernel_pass(*pair, scores.bandwidth(lumps, rule)).log_prob.mean())

    assert likelihood("likelihood") > likelihood("density") + 1
    by_hand = [np.exp(likelihood(factor * scores.normal_scale_bandwidth(lumps, derivative=0))) for factor in (0.01, 1)]
    assert likelihood("likelihood") > np.log(max(by_hand))
