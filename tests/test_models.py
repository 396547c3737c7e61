"""Fitted models: what they answer, how they simulate, and files that never run anything by themselves."""

import os

import numpy as np
import pytest
import torch
from scipy.linalg import expm, solve_continuous_lyapunov

import snapdyn
from snapdyn import artifacts, drifts, methods, models, propagation
from snapdyn.snapshots import Snapshots

META = {"dataset": "cloud", "axes": ["x", "y"], "space": "made up", "time_unit": "day"}


def described(spec, coefficients=None, **options):
    """A DriftModel of a drift library, as the registry would hand it over."""
    terms = drifts.build(spec, axes=("x", "y"), time_unit="day")
    if coefficients is None:
        coefficients = np.linspace(-1.0, -0.2, terms.count)
    model = models.DriftModel(terms, coefficients, **({"diffusivity": 0.3} | options))
    model.description = {"spec": spec, "axes": ["x", "y"], "time_unit": "day"}
    return model


def gaussian():
    errors = {"matrix": np.array([[0.1, 0.2], [0.3, 0.4]]), "offset": np.array([0.5, 0.6]), "diffusivity": 0.07}
    return propagation.AffineModel(
        np.array([[-1.0, 0.5], [-0.2, -0.7]]),
        np.array([0.3, -0.1]),
        0.3,
        errors=errors,
        start=(1.0, np.array([1.0, 2.0]), np.array([[0.5, 0.1], [0.1, 0.4]])),
        end=3.0,
        axes=["x", "y"],
        time_unit="day",
        diagnostics={"relative_entropy": 0.01},
    )


def there_and_back(model, path, **options):
    models.save(model, path, method="moments", meta=META)
    return models.load(path, **options)


def mine(*, axes, time_unit):
    """A drift library from outside, for ``test_models:mine``."""
    return drifts.affine(len(axes), axes=axes, time_unit=time_unit)


LIBRARIES = {
    "polynomial": {"library": "polynomial", "degree": 2},
    "affine": {"library": "affine"},
    "custom": {"library": "custom", "terms": {"a": ["-x", "0"], "b": ["0", "sin(y)"]}, "known": ["y", "-x"]},
    "system": {"library": "ornstein-uhlenbeck", "parameters": {"rotation": 0.5}},
}


@pytest.mark.parametrize("spec", LIBRARIES.values(), ids=LIBRARIES)
def test_a_drift_model_comes_back_as_it_was(tmp_path, spec):
    count = drifts.build(spec, axes=("x", "y")).count
    model = described(
        spec, std_error=np.full(count, 0.1), diffusivity_error=0.02, diagnostics={"j_statistic": 3.0, "j_dof": 4.0}
    )
    back = there_and_back(model, tmp_path / "model.pt")
    x = np.random.default_rng(0).normal(size=(9, 2))
    np.testing.assert_array_equal(back.drift(0.0, x), model.drift(0.0, x))
    np.testing.assert_array_equal(*(m.simulate(x, [0.0, 0.2, 0.5], np.random.default_rng(3)) for m in (back, model)))
    assert back.parameters.equals(model.parameters)
    assert back.diagnostics == model.diagnostics and back.dim == 2
    assert back.about == META | {"affine": None, "method": "moments"}


def test_a_model_without_errors_comes_back_without_them(tmp_path):
    back = there_and_back(described(LIBRARIES["affine"]), tmp_path / "model.pt")
    assert np.isnan(back.std_error).all() and back.diffusivity_error is None
    assert "diffusivity" not in back.parameters["name"].tolist()


NOISE = np.array([[0.5, 0.2], [0.2, 0.3]])


def test_a_model_with_noise_matrix_births_and_no_clock_comes_back_as_it_was(tmp_path):
    born = [("gamma", 0.8, 0.1), ("rest", -0.2, float("nan"))]
    for options in ({"diffusivity": NOISE, "growth": born}, {"diffusivity": 1.0, "clock": False}):
        model = described(LIBRARIES["affine"], std_error=np.full(6, 0.1), **options)
        back = there_and_back(model, tmp_path / "model.pt")
        assert back.parameters.equals(model.parameters) and back.clock == model.clock
        assert back.growth == model.growth or str(back.growth) == str(model.growth)  # NaN is not NaN
        np.testing.assert_array_equal(back.diffusivity, model.diffusivity)
        x = np.random.default_rng(0).normal(size=(9, 2))
        np.testing.assert_array_equal(*(m.simulate(x, [0.0, 0.5], np.random.default_rng(3)) for m in (back, model)))


def test_rows_of_the_parameters_say_what_they_are():
    model = described(LIBRARIES["affine"], diffusivity=0.3, diffusivity_error=0.02, growth=[("gamma", 0.8, 0.1)])
    table = model.parameters.set_index("name")
    assert table.index[-2:].tolist() == ["gamma", "diffusivity"] and len(table) == 8
    assert table.loc["gamma", ["estimate", "std_error"]].tolist() == [0.8, 0.1]
    assert table.loc["gamma", "unit"].startswith("1/time") and table.loc["diffusivity", "unit"] == "length^2/time"
    ratios = described(LIBRARIES["affine"], diffusivity=1.0, clock=False).parameters
    assert ratios["name"][1] == "x: x / D" and ratios["unit"][1] == "([x]/[x]/day) / (length^2/time)"
    assert "diffusivity" not in ratios["name"].tolist()


@pytest.mark.parametrize("value", [0.3, 1, "0.3", NOISE, NOISE.tolist(), np.eye(2)])
def test_a_diffusivity_is_a_positive_number_or_matrix(value):
    found = models.checked_diffusivity(value, 2)
    assert isinstance(found, float) if np.ndim(value) == 0 else found.shape == (2, 2) and found.dtype == np.float64


@pytest.mark.parametrize(
    "value",
    [0, -0.1, np.nan, np.inf, None, "much", [0.1, 0.2], [[1.0]], np.eye(3), -np.eye(2), [[1, 2], [2, 1]]]
    + [[[1, 0.2], [0.1, 1]], [[1, 1], [1, 1]], [[1, np.nan], [np.nan, 1]], [[1, 0], [0, np.inf]], [[1, 0], [0]]],
)
def test_anything_else_is_no_diffusivity(value):
    with pytest.raises(ValueError, match=r"a number above 0 or a symmetric positive definite matrix \(2, 2\), got "):
        models.checked_diffusivity(value, 2)


def test_a_gaussian_process_comes_back_as_it_was(tmp_path):
    model = gaussian()
    back = there_and_back(model, tmp_path / "model.pt")
    x, t = np.random.default_rng(0).normal(size=(9, 2)), np.linspace(1, 3, 9)
    for name in ("drift", "velocity", "score", "log_prob"):
        np.testing.assert_array_equal(getattr(back, name)(t, x), getattr(model, name)(t, x))
    np.testing.assert_array_equal(*(m.simulate(x, [1.0, 2.5], np.random.default_rng(3)) for m in (back, model)))
    assert back.parameters.equals(model.parameters)
    assert back.end == 3.0 and back.diagnostics == model.diagnostics
    assert type(snapdyn.load(tmp_path / "model.pt")) is propagation.AffineModel


def test_what_a_method_fits_can_be_saved(tmp_path):
    x = np.random.default_rng(0).normal(size=(600, 2))
    cloud = Snapshots.build(x, meta=META)
    timed = Snapshots.build(x, t=np.repeat([0.0, 1.0, 2.0], 200), meta=META)
    spec = {"library": "custom", "terms": {"a": ["x", "0"], "b": ["0", "y"]}}
    known = {"drift": spec, "diffusivity": 0.5}
    for name, data, options in (
        ("moments", cloud, known),
        ("convolved-l1", cloud, known),
        ("affine-propagation", timed, {}),
    ):
        model = methods.fit(name, data, rng=np.random.default_rng(0), **options)
        back = there_and_back(model, tmp_path / f"{name}.pt")
        np.testing.assert_array_equal(back.drift(0.0, x[:5]), model.drift(0.0, x[:5]))


def test_drift_is_affine_in_the_coefficients_and_ignores_time():
    model = described(LIBRARIES["affine"], [0.5, -1.0, 2.0, 0.0, 0.3, -0.7])
    x = np.array([[1.0, 2.0], [-1.0, 0.5]])
    expected = np.array([[0.5 - x[0, 0] + 2 * x[0, 1], 0.3 * x[0, 0] - 0.7 * x[0, 1]]])
    np.testing.assert_allclose(model.drift(None, x[:1]), expected)
    np.testing.assert_array_equal(model.drift(np.array([0.0, 9.0]), x), model.drift(0.0, x))
    assert model.drift(0.0, x.astype(int)).dtype == np.float64


def test_a_drift_model_says_what_it_has_not():
    model = described(LIBRARIES["affine"])
    for name in ("velocity", "score", "log_prob", "potential"):
        with pytest.raises(NotImplementedError, match=rf"drift only, so there is no {name}\(t, x\); use drift\(t, x\)"):
            getattr(model, name)(0.0, np.zeros((1, 2)))


def test_a_gaussian_process_has_no_potential_but_does_not_deny_its_density():
    with pytest.raises(NotImplementedError, match="potential") as told:
        gaussian().potential(2.0, np.zeros((1, 2)))
    assert "drift only" not in str(told.value)


def test_simulations_have_the_law_of_the_process():
    matrix, noise, n = np.array([[-1.0, 0.6], [-0.6, -0.8]]), 0.3, 4000
    model = described(LIBRARIES["affine"], [0.0, *matrix[0], 0.0, *matrix[1]], diffusivity=noise)
    rng = np.random.default_rng(0)
    start = np.array([2.0, -1.0]) + 0.1 * rng.normal(size=(n, 2))
    path = model.simulate(start, [5.0, 5.7, 12.0], rng)
    np.testing.assert_array_equal(path[0], start)
    assert path.shape == (3, n, 2)
    mean = expm(0.7 * matrix) @ start.mean(0)
    np.testing.assert_allclose(path[1].mean(0), mean, atol=4 * np.sqrt(0.3 / n))
    rest = solve_continuous_lyapunov(matrix, -2 * noise * np.eye(2))
    error = np.sqrt((np.outer(np.diag(rest), np.diag(rest)) + rest**2) / n)
    assert (np.abs(np.cov(path[2].T) - rest) < 4.5 * error + 0.02 * np.abs(rest)).all()
    assert np.abs(np.cov(path[2].T) - rest / 2).max() > 10 * error.max()


def test_simulations_under_a_noise_matrix_have_its_covariance():
    """A short step from one point spreads by 2 D t, a long one to the solution of A C + C A' + 2 D = 0."""
    matrix, n = np.array([[-1.0, 0.7], [-0.7, -1.6]]), 4000
    model = described(LIBRARIES["affine"], [0.0, *matrix[0], 0.0, *matrix[1]], diffusivity=NOISE)
    path = model.simulate(np.zeros((n, 2)), [0.0, 0.01, 8.0], np.random.default_rng(0))
    for x, expected in ((path[1], 2 * NOISE * 0.01), (path[2], solve_continuous_lyapunov(matrix, -2 * NOISE))):
        spread = np.diag(expected)
        error = np.sqrt((np.outer(spread, spread) + expected**2) / n)
        assert (np.abs(np.cov(x.T) - expected) < 4 * error + 0.02 * np.abs(expected)).all()
        isotropic = np.trace(expected) / 2 * np.eye(2)
        assert (np.abs(np.cov(x.T) - isotropic) > 6 * error).any()
    one, two = (
        described(LIBRARIES["affine"], diffusivity=d).simulate(path[2], [0.0, 0.3], np.random.default_rng(1))
        for d in (0.4, 0.4 * np.eye(2))
    )
    np.testing.assert_allclose(one, two, rtol=1e-12)


def test_an_estimate_of_no_noise_simulates_none():
    """Around zero an estimated diffusivity may fall below it."""
    ends = [
        described(LIBRARIES["affine"], diffusivity=d, diffusivity_error=0.1).simulate(np.ones((3, 2)), [0.0, 1.0])[-1]
        for d in (-0.01, 0.0)
    ]
    np.testing.assert_array_equal(*ends)
    assert np.ptp(ends[0], axis=0).max() == 0


def test_simulations_repeat_with_their_generator():
    model, start = described(LIBRARIES["affine"]), np.random.default_rng(0).normal(size=(5, 2))
    before = start.copy()
    one, two, other = (model.simulate(start, [0, 1], np.random.default_rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - other)[1].min() > 0
    np.testing.assert_array_equal(start, before)  # the caller's array is left alone


@pytest.mark.parametrize("start", [np.zeros((1, 2)), np.ones((300, 2)), np.c_[np.linspace(-1, 1, 300), np.zeros(300)]])
@pytest.mark.filterwarnings("error")
def test_points_that_start_together_move_all_the_same(start):
    """One point, copies of one point, and points on a line: none of them has escaped."""
    model = described(LIBRARIES["affine"], np.zeros(6), diffusivity=0.5)
    end = model.simulate(start, [0.0, 2.0], np.random.default_rng(0))[-1]
    gone = end - start
    assert np.abs(gone).min() > 0
    if len(start) > 1:
        assert (np.abs(gone.var(0) / 2.0 - 1) < 0.4).all()


def test_points_that_run_away_are_left_where_they_left_and_counted():
    model = described({"library": "polynomial", "degree": 3}, diffusivity=1e-6)
    model.coefficients = np.zeros(model.drift_terms.count)
    model.coefficients[model.drift_terms.names.index("x: x^3")] = 1.0  # x grows without bound in finite time
    start = np.array([[0.01, 0.0], [0.02, 0.5], [3.0, 1.0]])
    with pytest.warns(UserWarning, match="1 of 3 points escaped"):
        path = model.simulate(start, [0.0, 1.0, 2.0], np.random.default_rng(0))
    assert np.isfinite(path).all()
    np.testing.assert_allclose(path[-1, :2, 1], start[:2, 1], atol=0.02)


class Swirl:
    """A model from outside: turns the plane at a given speed."""

    def __init__(self, speed):
        self.speed = speed

    def velocity(self, t, x):
        return self.speed * np.stack([-x[:, 1], x[:, 0]], 1)

    def state(self):
        return {"speed": self.speed, "drift": torch.arange(3.0)}  # a name that our own models use for something else

    @classmethod
    def from_state(cls, state):
        return cls(state["speed"])


class Mute:
    """A model from outside that cannot be saved."""

    def drift(self, t, x):
        return -x


def test_a_model_from_outside_needs_trust_by_name(tmp_path):
    path = tmp_path / "model.pt"
    models.save(Swirl(2.0), path, method="my_methods:Mine", meta=META)
    for trust in (None, "test_models:Other", "os:system", ""):
        with pytest.raises(ValueError, match=r"'test_models:Swirl' from outside snapdyn.*trust='test_models:Swirl'"):
            snapdyn.load(path, trust=trust)
    for trust in ("test_models:Swirl", "my_methods:Mine"):
        model = snapdyn.load(path, trust=trust)
        assert type(model).__name__ == "Swirl" and model.about["method"] == "my_methods:Mine"
        np.testing.assert_allclose(model.velocity(0.0, np.array([[1.0, 0.0]])), [[0.0, 2.0]])


def test_a_model_without_state_leaves_a_note(tmp_path):
    path = tmp_path / "model.pt"
    models.save(Mute(), path, method="my_methods:Mine", meta=META)
    with pytest.raises(ValueError, match=r"'test_models:Mute' has no state\(\) and from_state\(\), so it was"):
        snapdyn.load(path, trust="test_models:Mute")


def test_a_drift_library_from_outside_needs_trust_as_well(tmp_path):
    """Nothing is imported on a file's say-so, not through the description of a drift either."""
    path = tmp_path / "model.pt"
    models.save(described({"library": "test_models:mine"}), path, method="moments", meta=META)
    with pytest.raises(ValueError, match="'test_models:mine' from outside snapdyn"):
        snapdyn.load(path)
    assert snapdyn.load(path, trust="test_models:mine").parameters["name"].tolist()[0] == "x: 1"


def test_a_forged_file_imports_nothing(tmp_path, monkeypatch):
    (tmp_path / "poison.py").write_text("import os\nos.environ['POISONED'] = '1'\ndef drift(**_):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("POISONED", raising=False)
    forged = described(LIBRARIES["affine"])
    forged.description = {"spec": {"library": "poison:drift"}, "axes": ["x", "y"], "time_unit": None}
    models.save(forged, tmp_path / "drift.pt", method="moments", meta=META)
    state = {"kind": "unheard-of", "origin": "poison:drift", "about": {"method": "moments"}, "state": {}}
    artifacts.save_model(state, tmp_path / "origin.pt")
    for name in ("drift.pt", "origin.pt"):
        with pytest.raises(ValueError, match="poison:drift"):
            snapdyn.load(tmp_path / name)
    assert "POISONED" not in os.environ


def test_files_that_are_no_models_are_refused_in_words(tmp_path):
    text, wrong, listed, empty = (tmp_path / f"{name}.pt" for name in ("text", "wrong", "listed", "empty"))
    text.write_text("not a checkpoint")
    empty.write_bytes(b"")
    torch.save({"weights": torch.zeros(3)}, wrong)
    torch.save([torch.zeros(3)], listed)
    for path in (text, empty):
        with pytest.raises(artifacts.ContractError, match="is not a checkpoint of tensors and plain values"):
            snapdyn.load(path)
    for path in (wrong, listed):
        with pytest.raises(artifacts.ContractError, match="is a checkpoint, but not of a snapdyn model"):
            snapdyn.load(path)
    with pytest.raises(artifacts.ContractError, match="no such file"):
        snapdyn.load(tmp_path / "nowhere.pt")
    torch.save({"model": Mute()}, text)  # a pickled object is never unpickled
    with pytest.raises(artifacts.ContractError, match="is not a checkpoint of tensors"):
        snapdyn.load(text)


def test_a_model_whose_drift_has_no_description_is_not_saved_for_nothing(tmp_path):
    """Without it the file could not be loaded again; better to hear of that when it is written."""
    model = models.DriftModel(drifts.affine(2, axes=("x", "y")), np.zeros(6), diffusivity=1.0)
    with pytest.raises(ValueError, match="description|library"):
        models.save(model, tmp_path / "model.pt", method="moments", meta=META)
