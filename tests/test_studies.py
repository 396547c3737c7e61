"""Studies: every version of a cloud is a fit of its own, under a name that says which."""

import numpy as np
import pandas as pd
import pytest

from snapdyn import artifacts, checkpoint, methods, studies, systems
from snapdyn.config import Fit
from snapdyn.snapshots import Snapshots

KNOWN = {"drift": {"library": "hopf"}, "diffusivity": 0.5}


def asked(method="moments", **changed):
    about = {"paper": "p", "experiment": "e", "kind": "samples", "dataset": "d", "method": method, "seeds": 2}
    return Fit(**(about | KNOWN | changed))


def simulated(n=1500, seed=5):
    system = systems.build("hopf", diffusivity=0.5)
    about = {"system": "hopf", "options": {}, "parameters": system.parameters, "diffusivity": 0.5}
    meta = {"axes": ["x", "y"], "seed": seed, "system": about}
    return Snapshots.build(system.sample(n, np.random.default_rng(seed)), meta=meta)


def put(kind, data, fits, **spec):
    parameters, tests = studies.run(kind, data, fits, spec)
    assert artifacts.problems(parameters, "parameters/1", {}) == []
    assert artifacts.problems(tests, "metrics/1", {}) == []
    return parameters, tests


def alone(fit, data, seed, **options):
    return methods.fit(fit.method, data, rng=np.random.default_rng(seed), options=fit.options | options, **KNOWN)


def test_bandwidths_are_a_fit_at_each_width():
    data = simulated()
    fits = [asked(m, options={"probes": 400}) for m in ("kde-l1", "kde-lstsq", "convolved-lstsq")]
    parameters, tests = put("bandwidth", data, fits, bandwidths=[0.3, 0.8])
    assert set(parameters["method"]) == {f"{fit.method}/h={h:g}" for fit in fits for h in (0.3, 0.8)}
    assert (parameters["seed"] == 5).all() and parameters["truth"].tolist() == [1.0, 1.0] * 6
    losses = tests[tests["metric"] == "loss"].set_index("method")["value"]
    for fit in fits:
        for h in (0.3, 0.8):
            model = alone(fit, data, 5, bandwidth=h)
            name = f"{fit.method}/h={h:g}"
            found = parameters[parameters["method"] == name]["estimate"]
            np.testing.assert_allclose(found, model.coefficients, rtol=1e-9)
            assert losses[name] == pytest.approx(model.diagnostics["loss"])


KERNELS = [asked(method, options={"probes": 400}) for method in ("kde-l1", "kde-lstsq", "convolved-lstsq")]


@pytest.mark.parametrize(
    ("kind", "fits", "spec", "stop"),
    [
        ("bandwidth", KERNELS, {"bandwidths": [0.3, 0.8]}, 2),
        ("samples", [asked()], {"sizes": [400, 1500]}, 1),
        ("coverage", [asked()], {"size": 300, "replicates": 4}, 3),
    ],
)
def test_an_interrupted_study_goes_on_to_the_same_bytes(tmp_path, monkeypatch, kind, fits, spec, stop):
    data, where = simulated(), tmp_path / "partial/study.pt"

    def written(name, **options):
        found = studies.run(kind, data, fits, spec, **options)
        for frame, what in zip(found, ("parameters/1", "metrics/1"), strict=True):
            artifacts.write(frame, tmp_path / f"{name}-{what[0]}.parquet", what)
        return [(tmp_path / f"{name}-{first}.parquet").read_bytes() for first in "pm"]

    made, really = [], checkpoint.Checkpoint.part

    def part(keep, name, make):
        def counted():
            if len(made) == stop:
                raise KeyboardInterrupt
            made.append(name)
            return make()

        return really(keep, name, counted)

    keep = checkpoint.Checkpoint(where, "one")
    whole = written("whole")
    monkeypatch.setattr(checkpoint.Checkpoint, "part", part)
    with pytest.raises(KeyboardInterrupt):
        written("stopped", keep=keep)
    keep.save()
    stop, before = None, list(made)
    assert written("continued", keep=checkpoint.Checkpoint(where, "one")) == whole
    tests = artifacts.read(tmp_path / "whole-m.parquet", "metrics/1")[0]
    assert before and len(set(made)) == len(made) == len(tests[["method", "seed"]].drop_duplicates())


def test_sizes_are_the_first_rows():
    data = simulated()
    parameters, tests = put("samples", data, [asked()], sizes=[400, 1500, 9999])
    assert set(parameters["method"]) == {"moments/n=400", "moments/n=1500"}  # no more than there is
    for n in (400, 1500):
        found = parameters[parameters["method"] == f"moments/n={n}"]
        np.testing.assert_array_equal(found["estimate"], alone(asked(), data.where(np.arange(n)), 5).coefficients)
        assert set(tests[tests["method"] == f"moments/n={n}"]["n"]) == {n}
    errors = parameters.groupby("method")["std_error"].mean()
    assert errors["moments/n=400"] > 1.5 * errors["moments/n=1500"]


def test_replicates_are_disjoint_parts_numbered_on():
    data = simulated()
    parameters, tests = put("coverage", data, [asked()], size=300, replicates=4)
    assert sorted(set(parameters["seed"])) == [20, 21, 22, 23]  # seed 5 of four replicates each
    third = parameters[parameters["seed"] == 22]["estimate"]
    np.testing.assert_array_equal(third, alone(asked(), data.where(np.arange(600, 900)), 22).coefficients)
    assert sorted(set(put("coverage", data, [asked()], size=700, replicates=40)[0]["seed"])) == [200, 201]


def test_a_missing_term_is_seen_and_the_complete_model_is_not():
    system = systems.build("double-well", diffusivity=0.3)
    about = {"system": "double-well", "options": {}, "parameters": system.parameters, "diffusivity": 0.3}
    x = system.sample(6000, np.random.default_rng(1))
    data = Snapshots.build(x, meta={"axes": ["x", "y"], "seed": 1, "system": about})
    fit = asked(drift={"library": "polynomial", "degree": 3}, diffusivity=0.3, options={"degree": 4})
    parameters, tests = put("misspecification", data, [fit], sizes=[6000])
    rejects = tests[tests["metric"] == "j_rejects"].set_index("method")["value"]
    assert set(parameters["method"]) == set(rejects.index) and len(rejects) == 4  # three terms, and all of them
    assert rejects["moments/n=6000/complete"] == 0.0
    assert rejects["moments/n=6000/without x: x"] == rejects["moments/n=6000/without x: x^3"] == 1.0
    without = parameters[parameters["method"] == "moments/n=6000/without x: x"]
    assert set(without["name"]) == {"x: x^3", "y: y"}


def test_a_refusal_is_counted_and_does_not_end_the_study():
    """A full affine drift hides a rotation: refused whatever the size, beside a method that is not."""
    refused = asked(drift={"library": "affine"})
    parameters, tests = put("samples", simulated(), [refused, asked("kds", options={"bandwidth": 0.5})], sizes=[1000])
    said = tests[tests["metric"] == "refused"].set_index("method")["value"]
    assert said.to_dict() == {"moments/n=1000": 1.0, "kds/n=1000": 0.0}
    assert set(parameters["method"]) == {"kds/n=1000"}
    with pytest.raises(ValueError, match="samples: every fit was refused"):
        put("samples", simulated(), [refused], sizes=[500, 1000])


def test_studies_of_the_same_cloud_give_the_same_rows():
    one, two = (put("samples", simulated(), [asked()], sizes=[500]) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        pd.testing.assert_frame_equal(a, b)
