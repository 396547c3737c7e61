"""The blocks of the weak form and their sums over folds: three engines, one answer, and that of plain numpy."""

import numpy as np
import pytest
import torch
from moments_helpers import blocks_by_hand, mean_by_hand, noise_by_hand, ou

from snapdyn import drifts, systems, testfunctions, weakform

ENGINES = ["polynomial", "gram", "streaming"]
FULL = torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64)
CURVED = drifts.from_expressions({"a": ["-x", "sin(y)"], "b": ["0", "-y"]}, ["0.7*y", "exp(-x^2)"], axes=("x", "y"))
BIRTHS = drifts.Growth.from_expressions({"up": "x*y", "out": "y^2"}, "cos(x) - 3", axes=("x", "y"))


def made(seed, n=333):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 2)) * [1.0, 0.6] + [0.2, -0.4], rng.uniform(0.2, 3.0, n)


def cloud(monkeypatch, engine, terms, tests, x, weight=None, **options):
    """A cloud that has to take the given engine, over several chunks of which the last is short."""
    monkeypatch.setattr(weakform, "CHUNK", 40)
    if engine != "polynomial":
        monkeypatch.setattr(weakform, "polynomial_blocks", lambda *_: None)
    if engine == "streaming":
        monkeypatch.setattr(weakform, "GRAM_LIMIT", 0)
    found = weakform.Cloud(
        terms, tests, torch.from_numpy(x), None if weight is None else torch.from_numpy(weight), **options
    )
    kept = found.sums.second2
    assert (kept is None) == (engine == "streaming")
    if kept is not None:
        assert (kept.shape[-1] < found.blocks * tests.count) == (engine == "polynomial")  # monomials are fewer
    return found


CASES = {
    "linear drift": (ou().terms, None, None),
    "cubic drift": (systems.build("double-well", diffusivity=0.3).terms, None, None),
    "cubic drift, full noise": (systems.build("double-well", diffusivity=0.3).terms, FULL, None),
    "curved drift, full noise": (CURVED, FULL, None),
    "linear drift, births": (ou().terms, None, BIRTHS),
    "curved drift, full noise, births": (CURVED, FULL, BIRTHS),
}
POLYNOMIAL = {"linear drift", "cubic drift", "cubic drift, full noise"}


@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
@pytest.mark.parametrize(
    ("case", "engine"), [(c, e) for c in CASES for e in ENGINES if e != "polynomial" or c in POLYNOMIAL]
)
def test_means_and_noise_are_those_of_plain_numpy(monkeypatch, case, engine, weighted):
    (terms, noise, growth), (x, weight) = CASES[case], made(0)
    weight = weight if weighted else np.ones(len(x))
    tests = testfunctions.Monomials(torch.from_numpy(x), 3)
    given = weight if weighted else None
    found = cloud(monkeypatch, engine, terms, tests, x, given, folds=5, noise=noise, growth=growth, threads=2)
    values = blocks_by_hand(terms, tests, x, noise, growth, weight)
    assert values.shape[1:] == (found.blocks, tests.count)
    combine = torch.from_numpy(np.random.default_rng(1).normal(size=(2, found.blocks)))
    combined = np.einsum("rb,nba->nra", combine.numpy(), values)
    fold = np.concatenate([np.full(part.stop - part.start, k) for k, part in enumerate(found.folds)])
    assert len(fold) == len(x) and np.ptp(np.bincount(fold)) <= 1
    for chosen in ([0, 1, 2, 3, 4], [2], [0, 1, 4]):
        rows, index = np.isin(fold, chosen), torch.tensor(chosen)
        np.testing.assert_allclose(found.mean(index), mean_by_hand(values[rows], weight[rows]), rtol=1e-10, atol=1e-11)
        assert float(found.share(index)) == pytest.approx(weight[rows].sum() / weight.sum(), rel=1e-12)
        by_hand, size = noise_by_hand(combined[rows], weight[rows]), combine.shape[0] * tests.count
        covariance = found.noise(combine, index).reshape(size, size)
        np.testing.assert_allclose(covariance, by_hand, rtol=1e-9, atol=1e-10 * np.abs(by_hand).max())
    assert (found.mean(torch.tensor([2])) - found.mean(found.every)).abs().max() > 0.01


def test_other_noise_and_other_births_are_other_blocks(monkeypatch):
    """The comparison above has to see each entry of the noise matrix, and growth with its sign."""
    x, _ = made(0)
    tests = testfunctions.Monomials(torch.from_numpy(x), 3)
    whole = cloud(monkeypatch, "polynomial", ou().terms, tests, x, noise=FULL)
    shorn = cloud(monkeypatch, "polynomial", ou().terms, tests, x, noise=FULL.diag().diag())
    away = (whole.mean(whole.every) - shorn.mean(shorn.every)).abs().amax(1)
    assert away[-1] > 0.1 and not away[:-1].any()
    born = cloud(monkeypatch, "gram", ou().terms, tests, x, growth=BIRTHS).mean(torch.tensor([0]))
    minus = drifts.Growth.from_expressions({"up": "-x*y", "out": "-y^2"}, "3 - cos(x)", axes=("x", "y"))
    died = cloud(monkeypatch, "gram", ou().terms, tests, x, growth=minus).mean(torch.tensor([0]))
    torch.testing.assert_close(died[4:6], -born[4:6], rtol=1e-12, atol=1e-12)
    assert (died[6] - born[6]).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["gaussians", "phases"])
@pytest.mark.parametrize("engine", ["gram", "streaming"])
def test_other_tests_than_monomials(monkeypatch, kind, engine):
    x, weight = made(2)
    points = torch.from_numpy(x)
    if kind == "gaussians":
        terms, tests = ou().terms, testfunctions.Gaussians.drawn(points, 7, 0.9, np.random.default_rng(0))
    else:
        x = np.c_[x, np.random.default_rng(3).normal(size=len(x))]
        terms = drifts.from_expressions({"a": ["y", "-x", "x^2"], "b": ["0", "0", "-z"]}, None, axes=("x", "y", "z"))
        tests = testfunctions.PhaseModes(torch.from_numpy(x), 2, 1, axes=(2,), phases=((0, 1),))
    found = cloud(monkeypatch, engine, terms, tests, x, weight, folds=3)
    values = blocks_by_hand(terms, tests, x)
    np.testing.assert_allclose(found.mean(found.every), mean_by_hand(values, weight), rtol=1e-10, atol=1e-11)
    combine = torch.from_numpy(np.random.default_rng(1).normal(size=(1, found.blocks)))
    by_hand = noise_by_hand(np.einsum("b,nba->na", combine[0].numpy(), values), weight)
    np.testing.assert_allclose(found.noise(combine, found.every)[0, :, 0], by_hand, rtol=1e-9, atol=1e-12)


def test_the_engine_is_chosen_by_what_there_is_to_keep(monkeypatch):
    x, _ = made(0)
    points = torch.from_numpy(x)
    tests = testfunctions.Monomials(points, 3)
    assert weakform.polynomial_blocks(ou().terms, tests, points) is not None
    assert weakform.polynomial_blocks(CURVED, tests, points) is None
    bumps = testfunctions.Gaussians.drawn(points, 5, 1.0, np.random.default_rng(0))
    assert weakform.polynomial_blocks(ou().terms, bumps, points) is None
    monkeypatch.setattr(weakform, "TERM_LIMIT", 100)
    assert weakform.polynomial_blocks(ou().terms, tests, points) is None
    kept = weakform.Cloud(ou().terms, tests, points)
    assert kept.sums.second2.shape[-1] == 6 * 9
    monkeypatch.setattr(weakform, "GRAM_LIMIT", 6 * 9 - 1)
    assert weakform.Cloud(ou().terms, tests, points).sums.second2 is None


@pytest.mark.parametrize("engine", ENGINES)
def test_sums_do_not_depend_on_threads(monkeypatch, engine):
    x, weight = made(4)
    tests = testfunctions.Monomials(torch.from_numpy(x), 3)
    combine = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 6)))
    one, three = (cloud(monkeypatch, engine, ou().terms, tests, x, weight, folds=4, threads=t) for t in (1, 3))
    assert one.mean(one.every).equal(three.mean(one.every))
    assert one.noise(combine, one.every).equal(three.noise(combine, one.every))


def test_the_streaming_engine_asks_again_for_another_combination(monkeypatch):
    x, _ = made(5)
    tests = testfunctions.Monomials(torch.from_numpy(x), 2)
    found = cloud(monkeypatch, "streaming", ou().terms, tests, x, folds=2)
    one, two = torch.eye(6).double()[:1], torch.eye(6).double()[1:2]
    first, second = found.noise(one, found.every), found.noise(two, found.every)
    assert not torch.allclose(first, second)
    assert found.noise(one, found.every).equal(first)
    passes = []
    monkeypatch.setattr(weakform.Cloud, "_combined", lambda *_: passes.append(1))
    found.noise(one, torch.tensor([1]))  # other folds of the same combination come from the same pass
    assert not passes


@pytest.mark.parametrize("text", ["abs(x - 2.5) + x - 2.5", "tanh(40*(x - 3))", "exp(-(x - 3)^2/0.02)"])
def test_a_field_that_lives_far_from_most_rows_is_no_polynomial(text):
    """Flat wherever 9 of 10 rows are: random points alone would call two of these a constant."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 0.7, 4500), rng.normal(3, 0.1, 500)])
    x = np.stack([rng.permutation(x), rng.normal(size=5000)], 1)
    terms = drifts.from_expressions({"a": [text, "0"], "b": ["0", "y"]}, None, axes=("x", "y"))
    tests = testfunctions.Monomials(torch.from_numpy(x), 2)
    found = weakform.Cloud(terms, tests, torch.from_numpy(x))
    expected = mean_by_hand(blocks_by_hand(terms, tests, x), np.ones(5000))
    np.testing.assert_allclose(found.mean(found.every), expected, rtol=1e-10, atol=1e-10)
    if "exp" not in text:
        assert drifts.polynomial_fields(terms, tests.centre, tests.scale) is not None


def test_a_row_of_weight_zero_is_not_there_and_whole_weights_are_repetitions():
    x, _ = made(6, 90)
    tests = testfunctions.Monomials(torch.from_numpy(x), 2)
    times = torch.arange(90) % 4
    weighted = weakform.Cloud(ou().terms, tests, torch.from_numpy(x), times.double())
    repeated = weakform.Cloud(ou().terms, tests, torch.from_numpy(x).repeat_interleave(times, 0))
    torch.testing.assert_close(weighted.mean(weighted.every), repeated.mean(repeated.every), rtol=1e-12, atol=1e-12)
    kept = torch.from_numpy(x)[times > 0]
    without = weakform.Cloud(ou().terms, tests, kept, times[times > 0].double())
    combine = torch.ones(1, 6).double()
    torch.testing.assert_close(
        weighted.noise(combine, weighted.every), without.noise(combine, without.every), rtol=1e-9, atol=1e-12
    )


def test_a_constant_rate_of_growth_changes_nothing():
    x, _ = made(7)
    tests = testfunctions.Monomials(torch.from_numpy(x), 2)
    one, two = (
        weakform.Cloud(
            ou().terms,
            tests,
            torch.from_numpy(x),
            growth=drifts.Growth.from_expressions({"a": "x", "one": "1"}, known, axes=("x", "y")),
        )
        for known in ("y", "y + 40")
    )
    torch.testing.assert_close(one.mean(one.every), two.mean(two.every), rtol=1e-11, atol=1e-11)
    assert one.mean(one.every)[5].abs().max() < 1e-14  # the coefficient of a constant has no block


def test_rows_that_carry_the_noise_are_counted():
    """All of them where every row says the same amount, one where a single row far out says it all."""
    terms = drifts.from_expressions({"a": ["1"]}, None, axes=("x",))
    even = torch.tensor([-1.0, 1.0]).double().repeat(50)[:, None]

    def rows(x):
        found = weakform.Cloud(terms, testfunctions.Monomials(x, 1), x, folds=2)
        return float(found.carrying_rows(torch.tensor([1.0, 0, 0, 0]).double()))  # of the values themselves

    assert rows(even) == pytest.approx(100)
    lonely = torch.cat([1e-3 * even, torch.full((1, 1), 10.0).double()])
    assert rows(lonely) == pytest.approx(1, abs=0.05)
