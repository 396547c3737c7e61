"""Trajectories in order, forward differences, and a sparse regression that agrees with pysindy's own."""

import warnings

import numpy as np
import pytest

from snapdyn import drifts, methods, simulate, systems, trajectories
from snapdyn.snapshots import Snapshots

AXES = ("x0", "x1")


def spiral(n=20_000, *, seed=0, every=0.05, records=50, **parameters):
    """Trajectories of a linear system whose rotation a cloud cannot show."""
    system = systems.build("ornstein-uhlenbeck", diffusivity=0.5, rotation=1.0, **parameters)
    paths = {"every": every, "records": records}
    return system, simulate.system_snapshots(
        system, n, dataset="spiral", seed=seed, spec={}, dt=0.025, burn=8.0, scheme="heun", paths=paths
    )


def fit(data, drift, **options):
    method = trajectories.SparseRegression(drift, diffusivity=0.5, **options)
    return method.fit(data, rng=np.random.default_rng(0))


@pytest.mark.parametrize("order", [1, 2])
def test_forward_differences_are_exact_for_polynomials_of_their_order(order):
    times = 0.3 * np.arange(7)
    curves = np.stack([times**k for k in range(order + 2)], -1)[None]
    slopes = np.stack([k * times ** max(k - 1, 0) for k in range(order + 2)], -1)[None, : 7 - order]
    rates = trajectories.forward_rates(curves, 0.3, order=order)
    np.testing.assert_allclose(rates[..., :-1], slopes[..., :-1], atol=1e-12)
    assert np.abs(rates[..., -1] - slopes[..., -1]).min() > 0.1  # one degree more is not


def test_given_the_state_a_forward_difference_has_the_drift_for_its_mean_and_a_centred_one_has_the_velocity():
    system, data = spiral(60_000, every=0.025)
    paths, every = trajectories.ordered_paths(data)
    matrix, covariance = system.matrix.numpy(), system.covariance.numpy()
    now = paths[:, 1:-2].reshape(-1, 2)

    def slope(rates):  # of the regression of rates on states
        return np.linalg.lstsq(now, rates.reshape(-1, 2), rcond=None)[0].T

    # a regression slope has this error: noise 2 D / every a row, over all rows
    error = np.sqrt(2 * 0.5 / every / len(now) / np.linalg.eigvalsh(covariance)[0])
    drift, velocity = -matrix, -matrix + 0.5 * np.linalg.inv(covariance)
    forward = slope(trajectories.forward_rates(paths, every, order=2)[:, 1:])
    centred = slope((paths[:, 2:-1] - paths[:, :-3]) / (2 * every))
    assert (np.abs(forward - drift) < 4 * error).all()
    assert (np.abs(centred - velocity) < 4 * error).all()
    assert np.abs(drift - velocity).max() > 20 * error


def test_errors_of_the_second_order_fall_with_the_square_of_the_time_between_records():
    """Of an exact linear flow, where the regression has no noise."""
    turn = np.array([[-0.5, 1.0], [-1.0, -0.5]])
    values, vectors = np.linalg.eig(turn)
    starts = np.random.default_rng(0).normal(size=(40, 2))
    error = {}
    for order in (1, 2):
        for every in (0.1, 0.05):
            steps = [(vectors @ np.diag(np.exp(values * every * k)) @ np.linalg.inv(vectors)).real for k in range(4)]
            data = flow_of(np.stack([starts @ step.T for step in steps], 1), every)
            found = fit(data, drifts.affine(2, axes=AXES), order=order).coefficients
            error[order, every] = np.abs(found.reshape(2, 3)[:, 1:] - turn).max()
    assert error[1, 0.1] / error[1, 0.05] == pytest.approx(2, rel=0.1)
    assert error[2, 0.1] / error[2, 0.05] == pytest.approx(4, rel=0.1)


def flow_of(paths, every):
    meta = {"axes": list(AXES), "paths": {"every": every, "records": paths.shape[1]}}
    return Snapshots.build(paths.reshape(-1, 2), meta=meta)


def test_a_linear_system_is_recovered_within_its_standard_errors():
    z = []
    for seed in range(6):
        system, data = spiral(seed=seed)
        model = fit(data, system.terms)
        z.append((model.coefficients - system.truth.numpy()) / model.std_error)
        assert (model.std_error < 0.1).all()
    assert np.abs(z).max() < 4
    assert 0.6 < np.sqrt(np.mean(np.square(z))) < 1.5


def test_paths_show_the_rotation_and_its_sense_which_the_order_of_records_decides():
    system, data = spiral()
    affine = drifts.affine(2, axes=AXES)

    def turn(data):  # half the antisymmetric part of the fitted matrix
        a = fit(data, affine)
        matrix, error = a.coefficients.reshape(2, 3)[:, 1:], a.std_error.reshape(2, 3)[:, 1:]
        return (matrix[0, 1] - matrix[1, 0]) / 2, np.hypot(*error[[0, 1], [1, 0]]) / 2

    found, error = turn(data)
    assert abs(found - 1.0) < 4 * error
    backwards = data.x.reshape(-1, 50, 2)[:, ::-1].reshape(-1, 2)
    found, error = turn(Snapshots.build(backwards, meta=data.meta))
    assert abs(found + 1.0) < 4 * error
    shuffled = Snapshots.build(np.random.default_rng(0).permutation(data.x), meta=data.meta)
    found = fit(shuffled, system.terms).coefficients
    assert np.abs(found - system.truth.numpy()).max() > 5  # a point jumps anywhere in no time


def test_rows_go_by_their_number_and_not_by_their_place():
    system, data = spiral(1000)
    moved = data.where(np.random.default_rng(1).permutation(1000))
    paths, every = trajectories.ordered_paths(moved)
    assert every == 0.05 and paths.shape == (20, 50, 2)
    np.testing.assert_array_equal(paths.reshape(-1, 2), data.x)
    np.testing.assert_array_equal(fit(moved, system.terms).coefficients, fit(data, system.terms).coefficients)


def test_it_is_pysindys_own_regression_with_another_way_to_difference():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pysindy

    _, data = spiral(2000)
    library = drifts.polynomial(2, 2, axes=AXES)
    paths, every = trajectories.ordered_paths(data)
    rates = trajectories.forward_rates(paths, every, order=2)
    for threshold in (0.0, 0.3):
        peer = pysindy.SINDy(
            feature_library=pysindy.PolynomialLibrary(degree=2), optimizer=pysindy.STLSQ(threshold, alpha=0.0)
        )
        peer.fit(list(paths[:, :-2]), t=every, x_dot=list(rates))
        model = fit(data, library, threshold=threshold)
        np.testing.assert_allclose(model.coefficients, peer.coefficients().reshape(-1), rtol=1e-8, atol=1e-10)
    assert 0 < model.diagnostics["kept"] < 12
    np.testing.assert_array_equal(np.isnan(model.std_error), model.coefficients == 0)


def test_the_threshold_finds_the_terms_of_a_system():
    _, data = spiral(coupling=0.0, dim=2)
    model = fit(data, drifts.polynomial(2, 2, axes=AXES), threshold=0.4)
    found = dict(zip(model.drift_terms.names, model.coefficients, strict=True))
    assert {name for name, value in found.items() if value} == {"x0: x0", "x0: x1", "x1: x0", "x1: x1"}


def test_errors_are_those_of_independent_groups():
    rng = np.random.default_rng(0)
    design = rng.normal(size=(60, 2)) * [1e-3, 1e3]
    shared = np.repeat(rng.normal(size=12), 5)
    bread = np.linalg.inv(design.T @ design)
    pull = np.stack([design[k : k + 5].T @ shared[k : k + 5] for k in range(0, 60, 5)])
    expected = np.sqrt(np.diag(bread @ (12 / 11 * pull.T @ pull) @ bread))
    np.testing.assert_allclose(trajectories.clustered_errors(design, shared, 12), expected, rtol=1e-8)
    one = np.ones((60, 1))  # of a mean: residuals that a group shares count once
    assert trajectories.clustered_errors(one, shared, 12) > 1.8 * trajectories.clustered_errors(one, shared, 60)
    assert np.isnan(trajectories.clustered_errors(one, shared, 1)).all()


def test_what_has_no_order_or_misses_records_is_refused():
    system, data = spiral(1000)
    cloud = Snapshots.build(data.x, meta={"axes": list(AXES)})
    with pytest.raises(ValueError, match=r"needs trajectories, but these rows have no order in time.*paths:"):
        fit(cloud, system.terms)
    for keep in (np.arange(999), np.arange(1, 1000), np.r_[0:25, 75:1000], np.r_[0:10, 10, 10:49, 50:1000]):
        with pytest.raises(ValueError, match="50 records each, but of some of them rows are missing"):
            fit(data.where(keep), system.terms)
    assert trajectories.ordered_paths(data.where(np.r_[0:50, 100:1000]))[0].shape == (19, 50, 2)
    short = flow_of(data.x[:40].reshape(20, 2, 2), 0.05)
    with pytest.raises(ValueError, match="order 2 need more than 2 records"):
        fit(short, system.terms)
    with pytest.raises(ValueError, match=r"order must be one of \[1, 2\], got 3"):
        fit(data, system.terms, order=3)
    twice = drifts.from_expressions({"a": ["x0", "0"], "b": ["2*x0", "0"], "c": ["0", "0*x1"]}, None, axes=AXES)
    with pytest.raises(ValueError, match="these data determine only 1 of 3 unknown coefficients"):
        fit(data, twice)


def test_the_registry_refuses_it_on_anything_but_trajectories():
    known = {"drift": {"library": "affine"}, "diffusivity": 0.5}
    for timed in (False, True):
        said = methods.misfit("sindy", methods.Facts(timed), **known)
        assert "sindy needs trajectories" in said and "paths: {every" in said
        assert "sindy" not in methods.fitting(methods.Facts(timed), **known)
    assert "sindy" in methods.fitting(methods.Facts(False, paths=True), **known)
    assert "kds" in methods.fitting(methods.Facts(False, paths=True), **known)  # the records are a cloud, too
