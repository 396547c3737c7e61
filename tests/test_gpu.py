"""Every method on a GPU gives the CPU's numbers: on a real one where there is one, on a pretended one everywhere."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from moments_helpers import linear_snapshots
from pretended_gpu import Marked, pretended

from snapdyn import methods, scores, simulate, studies, systems, testfunctions, weakform
from snapdyn.config import Fit
from snapdyn.moment_equations import MomentEquations
from snapdyn.snapshots import Snapshots

AFFINE = {"library": "affine"}
KEPT = {"library": "custom", "terms": {"a": ["x", "0"], "b": ["0", "y"]}, "known": ["0.1*y", "0"]}
HOPF = {"system": "hopf", "options": {}, "parameters": {}, "diffusivity": 0.5}  # for the truth that studies ask for
# Sums in another order: relative to the largest coefficient, for one that ends at a kink more than for a closed form
TOLERANCE, ROUGH = 1e-8, 1e-3
COARSE = 0.05  # nats, of a density that was trained in float32


@pytest.fixture(params=["pretended", "real"])
def gpu(request):
    """A context in which ``device="cuda"`` may be asked for."""
    if request.param == "pretended":
        return pretended

    @contextmanager
    def real():
        yield

    if not torch.cuda.is_available():
        pytest.skip("no GPU here; the pretended one stands in")
    return real


def cloud(n=600, *, times=None, weighted=False, records=None):
    if times is not None:
        return linear_snapshots(n, times, 0)
    rng = np.random.default_rng(0)
    meta = {"axes": ["x", "y"], "seed": 0, "system": HOPF}
    if records:
        meta["paths"] = {"every": 0.1, "records": records}
    weight = rng.uniform(0.5, 2.0, n) if weighted else None
    return Snapshots.build(rng.normal(size=(n, 2)) * [1.0, 0.8], weight=weight, meta=meta)


LINEAR = {"library": "custom", "known": ["-x", "-y"]}
PLAIN = {"components": 6, "hidden": 8, "steps": 20, "batch": 50}
SMALL = PLAIN | {"stacks": 2}
TRAINED = {"hidden": [8], "steps": 4, "batch": 20}
GAME = TRAINED | {"inner": 2}
TIMED = {"times": [0.0, 0.2, 0.4, 0.6]}
CASES = {  # what differs from the plain case: data, drift, diffusivity, options
    "moments": ({}, KEPT, 0.5, {}),
    "moments weighted": ({"weighted": True}, KEPT, 0.5, {}),
    "moments gaussians": ({}, KEPT, 0.5, {"tests": "gaussians"}),
    "moments mixed": ({}, KEPT, 0.5, {"tests": "mixed"}),
    "moments matrix": ({}, KEPT, [[0.5, 0.1], [0.1, 0.4]], {}),
    "moments timed": (TIMED, AFFINE, 0.3, {}),
    "moments unknown": (TIMED, AFFINE, "unknown", {}),
    "moments growth": (TIMED, AFFINE, 0.3, {"growth": {"terms": {}, "known": "0.1*y"}, "degree": 3}),
    "moments-sparse": ({}, KEPT, 0.5, {"threshold": 2}),
    "kde-adam": ({}, KEPT, 0.5, {"probes": 200, "starts": 2, "epochs": 5}),
    "kde-l1": ({}, KEPT, 0.5, {"probes": 200}),
    "kde-lstsq": ({"weighted": True}, KEPT, 0.5, {"probes": 200}),
    "convolved-l1": ({}, KEPT, 0.5, {"probes": 200}),
    "convolved-lstsq": ({"weighted": True}, KEPT, 0.5, {"probes": 200}),
    "kds": ({}, KEPT, 0.5, {}),
    "affine-propagation": (TIMED, None, None, {}),
    "sindy": ({"records": 6}, KEPT, 0.5, {}),
    "gaussian-mixture": ({"weighted": True}, KEPT, 0.5, {"components": 2}),
    "kde": ({"weighted": True}, KEPT, 0.5, {}),
    "kde timed": (TIMED, None, None, {}),
    "hopfield": ({}, KEPT, 0.5, {"patterns": 20}),
    "mixture-flow": (TIMED, None, None, SMALL),
    "mixture-flow-dynamics": ({}, LINEAR, 0.5, SMALL),
    "mixture-flow-plain": ({}, LINEAR, 0.5, PLAIN),
    "mixture-flow-mle": ({"weighted": True}, KEPT, 0.5, SMALL),
    "mixture-flow-sm": ({}, KEPT, 0.5, SMALL),
    "mixture-flow-sm noise": ({}, None, None, SMALL | {"noise": 0.1}),
    "mixture-flow-mle-sm": ({"weighted": True}, None, None, SMALL),
    "linear-mixture": ({}, LINEAR, 0.5, {}),
    "ijkonet": (TIMED, None, None, GAME),
    "ijkonet-v": (TIMED, None, None, GAME),
    "ijkonet-tv": (TIMED, None, None, GAME),
    "ijkonet-w": (TIMED, None, None, GAME),
    "ijkonet-vw": (TIMED, None, None, GAME),
    "ijkonet-prox": (TIMED, None, None, TRAINED),
    "jkonet-star": (TIMED, None, None, TRAINED),
    "jkonet-star-v": (TIMED, None, None, TRAINED),
    "jkonet-star-v-unbalanced": (TIMED, None, None, TRAINED),
    "jkonet-star-vu": (TIMED, None, None, TRAINED),
    "jkonet-star-tv": (TIMED, None, None, TRAINED),
    "ijkonet-prox-shrunk": (TIMED, None, None, TRAINED),
    "jkonet-star-v-shrunk": (TIMED, None, None, TRAINED),
    "jkonet-star-linear-source": (TIMED, None, None, {}),
    "jkonet-star-v-source": (TIMED, None, None, TRAINED),
    "jkonet-star-tv-source": (TIMED, None, None, TRAINED),
    "jkonet-star-tv-flow": (TIMED, None, None, TRAINED),
    "jkonet-star-linear": (TIMED, None, None, {"grid": 3}),
    "jkonet": (TIMED, None, None, GAME),
    "jkonet implicit": (TIMED, None, None, GAME | {"gradient": "implicit", "teacher_forcing": True}),
}


def test_every_method_has_a_case():
    assert {name.split()[0] for name in CASES} == set(methods.METHODS)


@pytest.mark.parametrize("case", CASES)
def test_a_method_gives_the_same_numbers(case, gpu):
    given, drift, diffusivity, options = CASES[case]
    name, data = case.split()[0], cloud(**given)

    def fitted(device):
        rng = np.random.default_rng(0)
        how = {"drift": drift, "diffusivity": diffusivity, "options": options, "device": device}
        model = methods.fit(name, data, rng=rng, **how)
        return model.parameters, model

    here, one = fitted("cpu")
    with gpu():
        there, two = fitted("cuda")
    if methods.gives(name) == "density":
        t = None if one.times is None else one.times[0]
        rough = COARSE if methods.takes_device(name) else TOLERANCE
        np.testing.assert_allclose(two.log_prob(t, data.x), one.log_prob(t, data.x), atol=rough)
        if methods.takes_device(name):
            return  # a training ends at other coefficients in the last digits that they have
    if methods.gives(name) == "energy":
        there, here = (model.drift(data.times[1], data.x) for model in (two, one))
        np.testing.assert_allclose(there, here, atol=COARSE * np.abs(here).max())
        return
    if here.empty:
        return
    size = here["estimate"].abs().max()
    rough = name.endswith(("adam", "l1"))
    np.testing.assert_allclose(there["estimate"], here["estimate"], atol=(ROUGH if rough else TOLERANCE) * size)
    np.testing.assert_allclose(there["std_error"], here["std_error"], rtol=1e-6)


def test_equations_with_phases_too(gpu):
    system = systems.build("gene-network")
    x = simulate.stationary_cloud(system, 400, dt=0.01, burn=1.0, per_trajectory=4, gap=0.1, seed=0)

    def equations(device):
        points = torch.from_numpy(x).to(device)
        tests = testfunctions.PhaseModes(points, 1, 2, axes=[4, 5, 6], phases=system.terms.phases)
        found = MomentEquations([weakform.Cloud(system.terms, tests, points, folds=3)], diffusivity=0.2)
        return [part.cpu() for part in (*found.system(), found.noise(found.start()))]

    here = equations("cpu")
    with gpu():
        for one, two in zip(equations("cuda"), here, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-10)


def test_the_kernel_pass_too(gpu):
    x = cloud().x

    def passed(device):
        data = torch.from_numpy(x).to(device)
        return scores.kernel_pass(data, data[:50], 0.4)

    here = passed("cpu")
    with gpu():
        for name in ("log_prob", "score", "laplacian", "sample_size"):
            there = getattr(passed("cuda"), name)
            assert there.device.type == "cuda"
            torch.testing.assert_close(there.cpu(), getattr(here, name), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind, spec", [("samples", {"sizes": [300, 600]}), ("bandwidth", {"bandwidths": [0.3, 0.6]})])
def test_studies_too(kind, spec, gpu):
    method, options = ("moments", {}) if kind == "samples" else ("kde-lstsq", {"probes": 200})
    identity = {"paper": "p", "experiment": "e", "kind": kind, "dataset": "d", "seeds": 1}
    fit = Fit(**identity, method=method, options=options, drift=KEPT, diffusivity=0.5)
    data = cloud()
    here = studies.run(kind, data, [fit], spec)[0]
    with gpu():
        there = studies.run(kind, data, [fit], spec, device="cuda")[0]
    np.testing.assert_allclose(there["estimate"], here["estimate"], rtol=1e-6)


def test_the_pretended_gpu_refuses_what_a_real_one_refuses():
    with pretended():
        here, there = torch.ones(3), torch.ones(3, device="cuda")
        assert there.device.type == (there + 1).device.type == there[here > 0].device.type == "cuda"
        assert there.cpu().device.type == here.to(there).cpu().device.type == "cpu"
        assert isinstance(torch.func.vmap(torch.sin)(there), Marked)
        assert (there * torch.tensor(2.0)).device.type == "cuda"  # a single number may come from the CPU
        with pytest.raises(RuntimeError, match="one device"):
            here + there
        with pytest.raises(RuntimeError, match="one device"):
            torch.einsum("i,i->", here, there)
        for convert in (np.asarray, torch.Tensor.numpy):
            with pytest.raises(TypeError, match=r"Tensor.cpu\(\) first"):
                convert(there)
    assert not isinstance(torch.ones(3, device="cpu"), Marked)
