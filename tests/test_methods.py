"""The registry of methods: what fits what, what a method must have, and methods from outside."""

import inspect
import re

import numpy as np
import pytest
import torch

from snapdyn import density_methods, energy_methods, fokker_planck, method_table, methods, moments, propagation
from snapdyn.snapshots import Snapshots

POLYNOMIAL, AFFINE = {"library": "polynomial", "degree": 2}, {"library": "affine"}
FROM_DATA = ["gaussian-mixture", "kde", "hopfield"]
FLOWS = ["mixture-flow", "mixture-flow-mle", "mixture-flow-sm", "mixture-flow-mle-sm"]
FROM_DYNAMICS = ["mixture-flow-dynamics", "mixture-flow-plain", "linear-mixture"]
DENSITIES = FROM_DATA + FLOWS
KNOWN = {"library": "custom", "known": ["-x", "-y"]}
SMALL = {"components": 4, "stacks": 1, "hidden": 4, "steps": 10, "batch": 20}
KERNEL = ["kde-adam", "kde-l1", "kde-lstsq", "convolved-l1", "convolved-lstsq"]


def cloud(n=400, times=None, seed=0):
    """Points at rest, or in a spiral towards the origin."""
    x, t = np.random.default_rng(seed).normal(size=(n, 2)), None
    if times is not None:
        t = np.resize(times, n)
        turn = np.stack([np.cos(t), np.sin(t), -np.sin(t), np.cos(t)], 1).reshape(n, 2, 2)
        x = np.exp(-0.5 * t)[:, None] * np.einsum("nij,nj->ni", turn, x * [1.0, 0.4] + [2.0, 0.0])
    return Snapshots.build(x, t=t, meta={"axes": ["x", "y"], "time_unit": "day"})


@pytest.mark.parametrize("name", methods.METHODS)
def test_options_are_those_of_the_class(name):
    method = methods.METHODS[name]
    cls = methods.resolve(name)
    classes = cls.__mro__[:-1] if method.gives == "energy" else [cls]  # its classes hand options on
    given = [p for one in classes for p in inspect.signature(one).parameters.values()]
    own = {p.name for p in given if p.kind is p.KEYWORD_ONLY}
    settable = own - set(method.fixed) - {"diffusivity", "axes", "time_unit"}
    if name in KERNEL and name != "kde-adam":
        settable -= set(method_table.OPTIMISER)  # nothing to optimise
    if name.startswith("mixture-flow-"):  # each training has options of its own
        assert set(method.options) < settable
    elif method.gives == "energy":  # a name fixes the terms; some of the base's options mean nothing to some methods
        assert set(method.options) <= settable and settable - set(method.options) <= {
            *method_table.ENERGY,
            *method_table.SHRINK,
            "terms",
            "timed",
        }
    else:
        assert set(method.options) == settable
    assert set(method.fixed) <= own
    assert methods.contract_faults(cls) == []
    if method.gives == "density":
        assert issubclass(cls, density_methods.DensityMethod) and method.takes_drift
    elif method.gives == "energy":
        assert issubclass(cls, energy_methods.EnergyMethod) and methods.trains_many(name)
        assert "seeds" in inspect.signature(cls.fit_many).parameters and not method.takes_drift
    else:
        assert method.takes_drift == ("drift" in inspect.signature(cls).parameters)
    assert all(method.options.values()) and method.does
    taken = set(inspect.signature(cls.fit).parameters)
    assert "rng" in taken and ("device" in taken) == methods.takes_device(name)


def test_names_make_what_they_say():
    drifts = {name: KNOWN if its.complete_drift else AFFINE for name, its in methods.METHODS.items()}
    made = {name: methods.make(name, axes=("x", "y"), drift=drifts[name], diffusivity=0.5) for name in drifts}
    for name in KERNEL:
        assert type(made[name]) is fokker_planck.KernelMethod
        assert made[name].convolved == name.startswith("convolved")
        assert made[name].solver == name.split("-")[1]
        assert made[name].bandwidth == ("wide" if made[name].convolved else "score")
    assert type(made["moments"]) is moments.Moments and made["moments"].diffusivity == 0.5
    assert type(made["affine-propagation"]) is propagation.AffinePropagation
    for name in FLOWS + FROM_DYNAMICS[:2]:
        assert made[name].training == methods.METHODS[name].fixed.get("training", "mle")
    assert methods.make("moments", axes=("x",), drift=AFFINE, diffusivity="unknown").diffusivity is None
    assert methods.make("kde-l1", axes=("x",), drift=AFFINE, diffusivity=1, options={"probes": 7}).probes == 7


DRIFTS = {"no drift": None, "affine": AFFINE, "polynomial": POLYNOMIAL, "known drift": KNOWN}
DIFFUSIVITIES = {"no D": None, "D": 0.5, "unknown D": "unknown"}


@pytest.mark.parametrize("kind", ["stationary", "timed", "trajectories"])
@pytest.mark.parametrize("drift", DRIFTS)
@pytest.mark.parametrize("diffusivity", DIFFUSIVITIES)
def test_the_table_of_what_fits_what(kind, drift, diffusivity):
    expected = set(DENSITIES)
    terms = drift in ("affine", "polynomial")
    if kind != "timed" and drift == "known drift" and diffusivity == "D":
        expected |= set(FROM_DYNAMICS)
    if kind != "timed" and terms and diffusivity == "D":
        expected |= {*KERNEL, "kds"}
        expected |= {"sindy"} if kind == "trajectories" else set()
    if terms and diffusivity != "no D":
        expected |= {"moments", "moments-sparse"}
    if kind == "timed" and drift in ("no drift", "affine"):
        expected.add("affine-propagation")
    if kind == "timed" and drift == "no drift" and diffusivity == "no D":
        expected |= set(methods.giving("energy"))
    facts = methods.Facts(timed=kind == "timed", dim=2, paths=kind == "trajectories")
    known = {"drift": DRIFTS[drift], "diffusivity": DIFFUSIVITIES[diffusivity]}
    assert set(methods.fitting(facts, **known)) == expected
    for name in methods.METHODS:
        reason = methods.misfit(name, facts, **known)
        assert (reason is None) == (name in expected)
        assert reason is None or name in reason


@pytest.mark.parametrize(
    ("name", "timed", "drift", "diffusivity", "said"),
    [
        ("affine-propagation", False, None, None, r"needs timed data, but the data set has no times .*time_key"),
        ("kde-l1", True, POLYNOMIAL, 0.5, "needs stationary data, but the data set has times"),
        ("moments", False, None, 0.5, "needs a drift library, for example drift: {library: polynomial, degree: 2}"),
        ("moments", True, AFFINE, None, "a number above 0 or `unknown`"),
        ("convolved-l1", False, AFFINE, None, "a number above 0$"),
        ("convolved-l1", False, AFFINE, "unknown", "needs a known diffusivity, got `unknown`"),
        ("affine-propagation", True, POLYNOMIAL, None, "fits a linear drift only"),
        ("kds", False, AFFINE, "unknown", "needs a known diffusivity, got `unknown`"),
        ("ijkonet-v", False, None, None, "needs timed data, but the data set has no times"),
        ("jkonet-star", True, AFFINE, None, "learns an energy, so it takes no drift library"),
        ("ijkonet-v", True, None, 0.5, "takes no diffusivity; jkonet-star, jkonet-star-vu and ijkonet learn one"),
        ("moments", False, KNOWN, 0.5, "looks for coefficients, but the custom library has no terms"),
        ("mixture-flow-dynamics", True, KNOWN, 0.5, "needs stationary data, but the data set has times"),
        ("mixture-flow-dynamics", False, None, 0.5, "so it needs a drift: a system, for example .*{library: hopf}"),
        (
            "linear-mixture",
            False,
            AFFINE,
            0.5,
            r"without unknown numbers: .*known: \['y', '-x'\]} with no terms",
        ),
        ("linear-mixture", False, KNOWN, "unknown", "needs a known diffusivity: a number above 0"),
        (
            "sindy",
            False,
            AFFINE,
            0.5,
            r"needs trajectories, but .* no order in time .*paths: {every: 0.01, r",
        ),
    ],
)
def test_a_misfit_says_what_is_missing(name, timed, drift, diffusivity, said):
    reason = methods.misfit(name, methods.Facts(timed), drift=drift, diffusivity=diffusivity)
    assert re.search(said, reason)


def test_features_of_many_axes_have_to_be_asked_for():
    facts = methods.Facts(True, dim=5)
    assert "for 3 dimensions at most, the data have 5" in methods.misfit("jkonet-star-linear", facts)
    assert methods.misfit("jkonet-star-linear", facts, options={"degree": 2, "grid": 2}) is None
    assert methods.misfit("jkonet-star-linear", methods.Facts(True, dim=3)) is None


@pytest.mark.parametrize("kind", ["stationary", "timed", "trajectories"])
def test_what_the_table_allows_runs(kind):
    times = np.array([0.0, 0.5, 1.0]) if kind == "timed" else None
    data = cloud(900, times)
    if kind == "trajectories":
        data.meta["paths"] = {"every": 0.1, "records": 9}
    drift = {"library": "custom", "terms": {"a": ["x", "0"], "b": ["0", "y"]}}
    known = {"drift": AFFINE if kind == "timed" else drift, "diffusivity": 0.5}
    for name in methods.fitting(methods.Facts(kind == "timed", paths=kind == "trajectories"), **known):
        options = {"probes": 200, "starts": 2} if name == "kde-adam" else SMALL if "flow" in name else {}
        model = methods.fit(name, data, rng=np.random.default_rng(0), options=options, **known)
        assert methods.model_faults(model) == []
        if methods.METHODS[name].gives == "density":
            assert np.isfinite(model.log_prob(0.5 if times is not None else None, data.x[:3])).all()
            continue
        assert np.isfinite(model.parameters["estimate"]).all()
        assert np.isfinite(model.drift(0.0, data.x[:3])).all()


@pytest.mark.parametrize("name", DENSITIES)
def test_a_density_needs_no_drift_but_takes_one(name):
    made = [methods.make(name, axes=("x", "y"), drift=drift, diffusivity=0.5) for drift in (None, AFFINE)]
    assert made[0].drift is None and made[1].drift.count == 6
    turn = {"library": "custom", "known": ["y", "-x"]}
    dynamics = methods.make(name, axes=("x", "y"), drift=turn, diffusivity=0.5).dynamics
    assert made[1].dynamics is None and dynamics.drift(torch.ones(1, 2)).tolist() == [[1, -1]]


def test_a_training_decides_what_a_method_needs():
    learns, facts = {"training": "dynamics"}, methods.Facts(timed=False)
    assert "so it needs a drift" in methods.misfit("mixture-flow", facts, options=learns)
    assert methods.misfit("mixture-flow", facts, drift=KNOWN, diffusivity=1.0, options=learns) is None
    assert methods.misfit("mixture-flow", facts, drift=KNOWN, diffusivity=[[1.0]], options=learns) is None
    assert methods.misfit("mixture-flow", facts) is None
    hopf = {"library": "hopf"}
    assert methods.misfit("linear-mixture", facts, drift=hopf, diffusivity=1.0) is None
    assert "unknown numbers" in methods.misfit("linear-mixture", facts, drift=hopf | {"only": ["growth"]})
    wide = methods.Facts(timed=False, dim=5)
    assert "3 dimensions at most, the data have 5" in methods.misfit("linear-mixture", wide, drift=KNOWN, diffusivity=1)


def test_methods_all_takes_each_estimator_once():
    found = methods.all_of(methods.Facts(timed=False, dim=2), drift=KNOWN, diffusivity=1.0)
    assert set(found) == {*FROM_DATA, "mixture-flow", "linear-mixture"}


def test_unknown_names_are_answered_with_the_nearest():
    assert methods.unknown("moments") is None and methods.unknown("my_module:Mine") is None
    assert "did you mean 'moments'" in methods.unknown("moment")
    assert "did you mean 'convolved-lstsq'" in methods.unknown("convolved-lsq")
    said = methods.unknown("zebra")
    assert "did you mean" not in said and "kde-adam" in said and "package.module:Class" in said


class NoFit:
    pass


class Attribute:
    fit = "tightly"


class NoSnapshots:
    def fit(self, *, rng):
        pass


class TwoPositional:
    def fit(self, snapshots, other, *, rng):
        pass


class NoRng:
    def fit(self, snapshots):
        pass


class Nothing:
    def fit(self, other):
        return 3


class Worse:
    def fit(self, one, two):
        pass


class OpenEnded:
    def fit(self, snapshots, **anything):
        OpenEnded.got = set(anything)
        return Field(1.0)


@pytest.mark.parametrize(
    ("cls", "said"),
    [
        (NoFit, [r"NoFit has no method fit(snapshots, *, rng) that returns a model"]),
        (Attribute, ["Attribute has no method fit"]),
        (NoSnapshots, ["one positional argument, the snapshots, got ['rng']"]),
        (TwoPositional, ["one positional argument, the snapshots, got ['snapshots', 'other', 'rng']"]),
        (NoRng, ["NoRng.fit must accept rng= (a numpy Generator)"]),
        (Worse, ["one positional argument", "must accept rng="]),
        (OpenEnded, []),
    ],
)
def test_what_a_broken_method_lacks_is_said_all_at_once(cls, said):
    faults = methods.contract_faults(cls)
    assert len(faults) == len(said)
    for fault, part in zip(faults, said, strict=True):
        assert part in fault
    if said:
        with pytest.raises(ValueError) as told:
            methods.make(f"test_methods:{cls.__name__}", axes=("x", "y"))
        assert all(part in str(told.value) for part in said)


class Field:
    """A linear field towards the origin."""

    def __init__(self, rate):
        self.rate = rate

    def velocity(self, t, x):
        return -self.rate * x


class Toy:
    """The rate at which the spread of two snapshots shrinks: a method in a dozen lines, from outside."""

    def __init__(self, *, factor=1.0):
        self.factor = factor

    def fit(self, snapshots, *, rng):
        data = snapshots.select(split="train")
        first, last = (data.select(t=t).x for t in data.times[[0, -1]])
        rate = np.log(first.std() / last.std()) / (data.times[-1] - data.times[0])
        self.draw = rng.integers(1 << 30)
        return Field(self.factor * rate)


class Empty:
    def fit(self, snapshots, *, rng):
        return object()


def test_a_method_from_outside_fits_by_its_import_path():
    still = cloud(4000, [0.0])
    data = Snapshots.joined(
        [still, Snapshots.build(still.x * np.exp(-1.4), t=np.full(4000, 2.0), meta=still.meta)],
        meta=still.meta,
        split="train",
    )
    model = methods.fit("test_methods:Toy", data, rng=np.random.default_rng(0), options={"factor": 2.0})
    assert model.rate == pytest.approx(1.4, rel=1e-9)
    assert methods.is_custom("test_methods:Toy") and not methods.is_custom("moments")


def test_a_method_gets_what_it_asks_for():
    methods.fit("test_methods:OpenEnded", cloud(), rng=np.random.default_rng(0), threads=3)
    assert OpenEnded.got == {"rng", "device", "threads", "precision"}
    methods.fit("test_methods:OpenEnded", cloud(), rng=np.random.default_rng(0), keep=object(), progress=print)
    assert {"keep", "progress"} <= OpenEnded.got


def test_a_model_that_answers_nothing_is_refused():
    with pytest.raises(ValueError, match=r"object has none of velocity\(t, x\), drift\(t, x\), simulate"):
        methods.fit("test_methods:Empty", cloud(), rng=np.random.default_rng(0))


@pytest.mark.parametrize("name", ["no_such_module:Mine", "test_methods:NoSuchClass", "test_methods:Toy:fit"])
def test_an_import_path_that_leads_nowhere_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}.*PYTHONPATH"):
        methods.resolve(name)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_methods:Toy", {"factr": 2.0}),
        ("moments", {"degre": 3}),
        ("kde-l1", {"solver": "adam"}),
        ("kde-l1", {"rate": 0.1}),
        ("affine-propagation", {"probes": 3}),
    ],
)
def test_options_that_a_method_does_not_take_are_refused_in_words(name, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        methods.make(name, axes=("x", "y"), drift=AFFINE, diffusivity=0.5, options=options)


def test_fits_of_the_registry_carry_the_description_of_their_drift():
    data = cloud(times=[0.0, 0.5, 1.0])
    model = methods.fit("moments", data, rng=np.random.default_rng(0), drift=AFFINE, diffusivity=0.5)
    assert model.description == {"spec": AFFINE, "axes": ["x", "y"], "time_unit": "day"}
    assert model.parameters["unit"][0] == "[x]/day"


def test_on_a_stationary_cloud_a_model_must_have_a_drift_and_be_kept():
    class Moving:
        def velocity(self, t, x):
            return x

    assert methods.model_faults(Moving()) == []
    assert "['drift', 'state', 'from_state']" in methods.model_faults(Moving(), stationary=True)[0]
