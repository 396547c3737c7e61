"""The diffusivity that is found where the force is known: in units, near the truth, and wrong with a wrong force."""

import numpy as np
import pytest

from snapdyn import energy_evaluation, flows, known_force
from snapdyn.snapshots import Snapshots


def course(potential, diffusivity, n=1200):
    spec = {"potentials": [potential], "interactions": [], "diffusivity": diffusivity, "dim": 2, "n": n, "steps": 3}
    spec |= {"tau": 0.01, "paired": False, "scheme": "explicit", "substeps": 20, "start": [-4, 4], "train": 0.5}
    return flows.courses(spec, dataset="flow", seed=0)


def gaussians(beta, n=1500, tau=0.5):
    """Implicit steps of no force and the noise of beta, from a Gaussian: scores are known and plans nearly so."""
    rng = np.random.default_rng(0)
    clouds = [np.sqrt(1 + 2 * beta * tau * k) * rng.standard_normal((n, 2)) for k in range(3)]
    meta = {"dataset": "gaussians", "seed": 0}
    return Snapshots.build(np.concatenate(clouds), t=np.repeat(tau * np.arange(3), n), meta=meta)


def test_gaussians_that_spread_in_closed_form():
    """y - x = (1 - s_0 / s_1) y and the score is -y / s_1^2, so that beta is s_1^2 (1 - s_0 / s_1) / tau."""
    beta, tau = 0.4, 0.5
    found = known_force.diffusivity(gaussians(beta), force=lambda t, x: np.zeros_like(x))
    variances = 1 + 2 * beta * tau * np.arange(3)
    terms = [(1 - np.sqrt(a / b), b) for a, b in zip(variances[:-1], variances[1:], strict=True)]
    exact = sum(share for share, _ in terms) / sum(tau / b for _, b in terms)
    assert found == pytest.approx(exact, rel=0.1) and exact == pytest.approx(beta, rel=0.2)
    # a force that pulls as much as the noise pushes hides it
    held = known_force.diffusivity(gaussians(0.0), force=lambda t, x: beta * x)
    assert held == pytest.approx(beta, rel=0.1)


def test_steps_too_short_for_the_noise_to_show_leave_it_unknown():
    """A chance difference in spread counts as diffusion in proportion to 1 / tau."""
    long, short = (
        known_force.diffusivity(gaussians(0.0, tau=tau), force=lambda t, x: np.zeros_like(x)) for tau in (0.5, 0.01)
    )
    assert short == pytest.approx(50 * long, rel=1e-6) and abs(short) > 0.3


def test_it_stands_among_the_floors_where_it_is_asked_for():
    frame, meta = course("flowers", 0.1)
    found = energy_evaluation.floors(frame, meta, rng=np.random.default_rng(0), diffusivity=True)
    own = found[found["method"] == "known-force"].set_index("metric")["value"]
    (snapshots,) = flows.unstacked(frame, meta).values()
    assert own["absolute_error_diffusivity"] == abs(known_force.diffusivity(snapshots) - 0.1)
    assert abs(own["relative_error_diffusivity"]) == pytest.approx(10 * own["absolute_error_diffusivity"])
    plain = energy_evaluation.floors(frame, meta, rng=np.random.default_rng(0))
    assert "known-force" not in set(plain["method"])
