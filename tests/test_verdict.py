"""The verdict: its bootstrap against brute force, its power, and its three answers."""

import json
from dataclasses import replace

import numpy as np
import pytest

from snapdyn import metrics, verdict
from snapdyn.snapshots import Snapshots

RATE, NOISE = 1.0, 0.5  # Ornstein-Uhlenbeck: dX = -RATE X dt + sqrt(2 NOISE) dW


def rng(seed=0):
    return np.random.default_rng(seed)


def ou_step(x, generator):
    """The exact transition over one unit of time."""
    scale = np.sqrt(NOISE / RATE * (1 - np.exp(-2 * RATE)))
    return x * np.exp(-RATE) + scale * generator.normal(size=x.shape)


def ou_cells(sizes, generator, start=3.0):
    """Held-out cells at t = 0, 1, ...: fresh particles at each time."""
    clouds = []
    for k, n in enumerate(sizes):
        x = start + generator.normal(size=(n, 2))
        for _ in range(k):
            x = ou_step(x, generator)
        clouds.append(x)
    t = np.repeat(np.arange(len(sizes), dtype=float), sizes)
    return Snapshots.build(np.concatenate(clouds), t=t, meta={})


def forecast(cells, move, seed=0):
    return verdict.Forecast(cells, [move(cells.select(t=t).x) for t in cells.times[:-1]], seed)


def gain(*forecasts, **options):
    return verdict.forecast_gain(list(forecasts), rng=rng(9), **({"replicates": 500} | options))


def test_the_true_model_is_better():
    generator = rng()
    cells = ou_cells((200, 230, 210), generator)
    answer = gain(forecast(cells, lambda x: ou_step(x, generator)))
    assert answer["verdict"] == "yes"
    assert 0 < answer["low"] < answer["gain"] < answer["high"]
    assert answer["gain"] == pytest.approx(answer["null_score"] - answer["model_score"])
    assert answer["n_cells"] == 640
    assert answer["n_seeds"] == 1
    assert answer["sentence"].startswith("Better than no movement: yes.")
    assert "one seed" in answer["sentence"]
    json.dumps(answer)


def test_labels_shuffled_over_times_are_refused():
    generator = rng(1)
    cells = ou_cells((300, 300, 300), generator)
    noise = replace(cells, t=generator.permutation(cells.t))
    answer = gain(forecast(noise, lambda x: ou_step(x, generator)))
    assert answer["verdict"] == "no"
    assert answer["high"] < answer["margin"]


def test_a_model_of_shuffled_labels_is_rarely_called_better():
    """What a fit to pure noise finds is a small random shift; it may earn no "yes" beyond chance."""
    called = []
    for seed in range(40):
        generator = rng(100 + seed)
        cells = ou_cells((60, 67), generator)
        noise = replace(cells, t=generator.permutation(cells.t))
        shift = 0.15 * generator.normal(size=2)
        called.append(gain(forecast(noise, lambda x, d=shift: x + d))["verdict"])
    assert called.count("yes") <= 3


def test_tiny_samples_cannot_tell():
    generator = rng(2)
    cells = ou_cells((6, 5), generator, start=0.8)
    answer = gain(forecast(cells, lambda x: ou_step(x, generator)))
    assert answer["verdict"] == "cannot tell"
    assert answer["low"] <= 0
    assert answer["high"] >= answer["margin"]


def test_no_movement_is_not_better_than_itself():
    answer = gain(forecast(ou_cells((50, 60), rng(3)), lambda x: x))
    assert answer["verdict"] == "no"
    assert answer["gain"] == answer["low"] == answer["high"] == 0


@pytest.mark.parametrize("weighted", [False, True])
def test_linearised_replicates_agree_with_brute_force(weighted):
    generator = rng(4)
    cells = ou_cells((45, 52), generator, start=1.5)
    if weighted:
        cells = replace(cells, weight=generator.uniform(0.5, 2, len(cells)))
    moved = ou_step(cells.select(t=0.0).x, generator)
    x, y = cells.select(t=0.0), cells.select(t=1.0)
    brute = []
    for _ in range(400):
        i, j = generator.integers(45, size=45), generator.integers(52, size=52)
        a, b = metrics.marginal(x.weight[i]), metrics.marginal(y.weight[j])
        null = metrics.wasserstein(x.x[i], y.x[j], a=a, b=b)
        brute.append(null - metrics.wasserstein(moved[i], y.x[j], a=a, b=b))
    answer = gain(verdict.Forecast(cells, [moved]), replicates=2000)
    width = (answer["high"] - answer["low"]) / (2 * 1.96)
    assert width == pytest.approx(np.std(brute), rel=0.15)


def test_coverage_of_the_interval():
    """The interval over cells holds the expected gain, at these sizes, about 95 times in 100."""
    answers = []
    for seed in range(80):
        cells = ou_cells((80, 90), rng(500 + seed))
        answers.append(gain(forecast(cells, lambda x: x - 1.5), replicates=300))
    expected = np.mean([answer["gain"] for answer in answers])
    inside = sum(answer["low"] <= expected <= answer["high"] for answer in answers)
    assert 68 <= inside <= 79


def test_cells_shared_by_seeds_are_drawn_together():
    generator = rng(5)
    cells = ou_cells((60, 70), generator, start=1.0)
    moved = ou_step(cells.select(t=0.0).x, generator)
    one = gain(verdict.Forecast(cells, [moved]))
    same = gain(*[verdict.Forecast(cells, [moved], seed) for seed in range(4)])
    distinct = [verdict.Forecast(replace(cells, row=cells.row + 1000 * k), [moved], k) for k in range(4)]
    width, width_same, width_distinct = (a["high"] - a["low"] for a in (one, same, gain(*distinct)))
    assert width_same > 0.9 * width  # the same cells four times tell nothing new
    assert width_distinct < 0.8 * width
    assert same["n_cells"] == 130


def test_seeds_that_disagree_widen_the_interval():
    cells = ou_cells((150, 160), rng(6), start=1.0)
    steady = gain(*[forecast(cells, lambda x: 0.6 * x, k) for k in range(4)])
    shaky = gain(*[forecast(cells, lambda x, k=k: 0.6 * x + (-1) ** k, k) for k in range(4)])
    assert shaky["high"] - shaky["low"] > 2 * (steady["high"] - steady["low"])


def test_large_snapshots_are_thinned():
    generator = rng(7)
    cells = ou_cells((120, 130, 40), generator)
    answer = gain(forecast(cells, lambda x: ou_step(x, generator)), max_points=100)
    assert answer["n_cells"] == 240
    assert answer["verdict"] == "yes"


def test_predictions_must_fit_the_cells():
    cells = ou_cells((5, 6, 7), rng())
    with pytest.raises(ValueError, match=r"\[\(5, 2\), \(6, 2\)\].*got \[\(5, 2\)\]"):
        verdict.Forecast(cells, [np.zeros((5, 2))])
    with pytest.raises(ValueError, match="one seed at least"):
        verdict.forecast_gain([], rng=rng())


# Stationary clouds: generator residuals r = f phi' + D phi'' of monomials, on a double well.


def double_well(n, generator, diffusivity=0.3):
    """Samples of the stationary law of dX = (X - X^3) dt + sqrt(2 D) dW."""
    grid = np.linspace(-2.5, 2.5, 4001)
    density = np.exp((grid**2 / 2 - grid**4 / 4) / diffusivity)
    cumulative = np.cumsum(density) / density.sum()
    return np.interp(generator.uniform(size=n), cumulative, grid)


def residuals(drift, x, diffusivity=0.3, degree=6):
    k = np.arange(1, degree + 1)
    return k * x[:, None] ** (k - 1) * drift(x)[:, None] + diffusivity * k * (k - 1) * x[:, None] ** np.maximum(
        k - 2, 0
    )


def cubic(x):
    return x - x**3


def linear(x):
    """The Ornstein-Uhlenbeck drift of the same variance, which is 0.3 / slope."""
    return -0.3 / 0.83 * x


def stationary(model, null, **options):
    return verdict.stationary_gain(model, null, rng=rng(9), **({"replicates": 500} | options))


def test_the_true_drift_beats_the_linear_one():
    x = double_well(3000, rng())
    answer = stationary(residuals(cubic, x), residuals(linear, x))
    assert answer["verdict"] == "yes"
    assert abs(answer["model_score"]) < 0.05 * answer["null_score"]
    assert answer["null"] == "the best linear drift"


def test_a_wrong_drift_and_the_null_itself_are_refused():
    x = double_well(3000, rng(1))
    assert stationary(residuals(lambda x: -x, x), residuals(linear, x))["verdict"] == "no"
    assert stationary(residuals(linear, x), residuals(linear, x))["verdict"] == "no"


def test_few_points_cannot_tell():
    x = double_well(12, rng(2))
    assert stationary(residuals(cubic, x), residuals(linear, x))["verdict"] == "cannot tell"


def test_the_score_is_free_of_noise_bias():
    """Averaged over clouds, the true drift scores 0 and not K / n."""
    scores = []
    for seed in range(300):
        r = residuals(cubic, double_well(400, rng(1000 + seed)), degree=2)
        scores.append(stationary(r, r, replicates=1)["model_score"])
    assert abs(np.mean(scores)) < 3 * np.std(scores) / np.sqrt(len(scores)) < 0.5 * 2 / 400


def test_replicates_are_centred_on_the_gain():
    """Also where model and null are unequally noisy: what the replicates add is taken off again."""
    generator = rng(3)
    model, null = 3 * generator.normal(size=(100, 20)), generator.normal(size=(100, 20)) + 0.5
    answer = stationary(model, null, replicates=2000)
    middle, width = (answer["low"] + answer["high"]) / 2, answer["high"] - answer["low"]
    assert abs(middle - answer["gain"]) < 0.15 * width


def test_constant_test_functions_carry_no_information():
    x = double_well(500, rng(4))
    r0, r1 = residuals(linear, x), residuals(cubic, x)
    padded = [np.column_stack([r, np.zeros(len(r))]) for r in (r1, r0)]
    assert stationary(*padded)["gain"] == pytest.approx(stationary(r1, r0)["gain"])


def test_seeds_of_a_cloud_may_share_points():
    x = double_well(800, rng(5))
    r0, r1 = residuals(linear, x), residuals(cubic, x)
    shared = stationary([r1, r1], [r0, r0], rows=[np.arange(800)] * 2)
    apart = stationary([r1, r1], [r0, r0])
    assert shared["n_cells"] == 800
    assert apart["n_cells"] == 1600
    assert shared["n_seeds"] == apart["n_seeds"] == 2
    assert shared["high"] - shared["low"] > apart["high"] - apart["low"]


def test_residuals_must_pair():
    with pytest.raises(ValueError, match="at the same points"):
        stationary(np.zeros((5, 2)), np.zeros((6, 2)))
    with pytest.raises(ValueError, match="two held-out points"):
        stationary(np.zeros((1, 2)), np.zeros((1, 2)))


@pytest.mark.parametrize(
    ("gains", "expected"), [((0.02, 0.9), "yes"), ((-0.5, 0.04), "no"), ((-0.1, 0.4), "cannot tell")]
)
def test_each_answer_says_why(gains, expected):
    low, high = gains
    replicates = np.linspace(low, high, 2001)[:, None]
    middle = (low + high) / 2
    answer = verdict.decide(
        np.array([1.0]),
        np.array([1.0 - middle]),
        replicates,
        rng=rng(),
        margin=0.05,
        null="nothing",
        score="score",
        n_cells=3,
    )
    assert answer["verdict"] == expected
    assert f"Better than nothing: {expected}." in answer["sentence"]
    reason = {"yes": "above 0", "no": "upper end is below 0.05", "cannot tell": "reaches from no gain"}
    assert reason[expected] in answer["sentence"]
