"""Steps in an energy: against closed forms for quadratic terms, and what every proximal step must hold."""

import pytest
import torch
from torch import nn

from snapdyn import energy_steps
from snapdyn.energies import Energy


class Quadratic(nn.Module):
    """x . A x / 2 for each member; with ``pull`` also b . x t."""

    def __init__(self, matrices, pull=None):
        super().__init__()
        self.matrices, self.pull = nn.Parameter(matrices), pull
        self.inputs = matrices.shape[1] + (pull is not None)

    def forward(self, x):
        place = x[..., : self.matrices.shape[1]]
        value = 0.5 * (place * self.gradient(place)).sum(2, keepdim=True)
        return value if self.pull is None else value + ((place @ self.pull) * x[..., -1])[..., None]

    def gradient(self, x, dim=None):
        slope = x[..., : self.matrices.shape[1]] @ self.matrices
        return slope if x.shape[2] == self.matrices.shape[1] else slope + self.pull * x[..., -1:]

    def hessian(self, x, dim=None):
        return self.gradient(x), self.matrices[:, None].expand(-1, x.shape[1], -1, -1)


class DoubleWell(nn.Module):
    """(x_0^2 - 1)^2 + x_1^2 / 2."""

    inputs = 2

    def forward(self, x):
        return ((x[..., 0] ** 2 - 1) ** 2 + 0.5 * x[..., 1] ** 2)[..., None]

    def gradient(self, x, dim=None):
        return torch.stack([4 * x[..., 0] * (x[..., 0] ** 2 - 1), x[..., 1]], -1)

    def hessian(self, x, dim=None):
        curve = torch.stack([12 * x[..., 0] ** 2 - 4, torch.ones_like(x[..., 0])], -1)
        return self.gradient(x), torch.diag_embed(curve)


MATRICES = torch.tensor([[[2.0, 0.3], [0.3, 1.0]], [[0.5, 0.0], [0.0, 3.0]]]).double()
EYE = torch.eye(2).double()


def cloud(n=40, members=2, spread=2.0, seed=0):
    return spread * torch.randn(members, n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_both_steps_in_a_quadratic_potential_are_the_exact_maps():
    energy, x, tau = Energy(2, Quadratic(MATRICES)), cloud(), 0.7
    torch.testing.assert_close(energy_steps.explicit(energy, x, tau), x @ (EYE - tau * MATRICES))
    y, residual = energy_steps.implicit(energy, x, tau)
    torch.testing.assert_close(y, x @ torch.linalg.inv(EYE + tau * MATRICES))
    assert residual.max() < 1e-9
    for wrong in (EYE - tau * MATRICES, EYE + 0.5 * tau * MATRICES, torch.linalg.inv(EYE - tau * MATRICES)):
        assert (y - x @ torch.linalg.inv(wrong)).abs().max() > 0.1


def test_a_step_length_and_a_stamp_for_each_point():
    pull = torch.tensor([1.0, -2.0]).double()
    energy, x = Energy(2, Quadratic(MATRICES, pull)), cloud(3)
    assert energy.timed
    tau, stamp = torch.tensor([0.1, 0.5, 2.0]).double(), torch.tensor([-1.0, 0.0, 1.0]).double()
    y, residual = energy_steps.implicit(energy, x, tau, stamp)
    for place in range(3):
        right = x[:, place : place + 1] - tau[place] * stamp[place] * pull
        exact = right @ torch.linalg.inv(EYE + tau[place] * MATRICES)
        torch.testing.assert_close(y[:, place : place + 1], exact)
        alone, _ = energy_steps.implicit(energy, x[:, place : place + 1], tau[place], stamp[place])
        torch.testing.assert_close(alone, exact)
    assert residual.max() < 1e-9


def test_particles_that_attract_each_other():
    """W = z . B z / 2: the force is B (x - mean of the others), so both steps are linear in the whole cloud."""
    matrix = torch.tensor([[1.0, 0.2], [0.2, 0.4]]).double().expand(2, 2, 2)
    energy = Energy(2, Quadratic(MATRICES), Quadratic(matrix.clone()))
    x, tau, n = cloud(), 0.8, 40
    pair = (n / (n - 1)) * (torch.eye(n) - torch.full((n, n), 1 / n)).double()  # x -> x - mean of the others
    forces = [torch.kron(torch.eye(n).double(), MATRICES[m]) + torch.kron(pair, matrix[m]) for m in range(2)]
    exact = torch.stack([(torch.eye(2 * n).double() + tau * f).inverse() @ x[m].ravel() for m, f in enumerate(forces)])
    y, residual = energy_steps.implicit(energy, x, tau)
    torch.testing.assert_close(y, exact.view_as(y), atol=1e-5, rtol=0)
    assert residual.max() < 1e-6
    straight = torch.stack([x[m].ravel() - tau * f @ x[m].ravel() for m, f in enumerate(forces)]).view_as(x)
    torch.testing.assert_close(energy_steps.explicit(energy, x, tau), straight)
    alone, _ = energy_steps.implicit(Energy(2, Quadratic(MATRICES)), x, tau)
    assert (y - alone).abs().max() > 0.1


def test_blocks_change_nothing(monkeypatch):
    energy = Energy.build(2, seeds=[1, 2], terms=("potential", "interaction"), timed=True)
    x, stamp = cloud(21), torch.linspace(-1, 1, 21)
    whole = energy_steps.explicit(energy, x.float(), 0.5, stamp), energy_steps.implicit(energy, x, 0.5, stamp)[0]
    monkeypatch.setattr(energy_steps, "ENTRIES", 1)
    parts = energy_steps.explicit(energy, x.float(), 0.5, stamp), energy_steps.implicit(energy, x, 0.5, stamp)[0]
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=0)


def test_newton_ends_in_a_minimum_where_the_problem_has_several():
    energy, tau = Energy(2, DoubleWell()), 3.0
    x = cloud(200, spread=0.7)
    x[:, :20, 0] *= 1e-3  # next to the ridge, where the second derivative is negative
    y, residual = energy_steps.implicit(energy, x, tau)
    assert residual.max() < 1e-6
    _, curve = energy.potential_hessian(y)
    assert (torch.linalg.eigvalsh(EYE + tau * curve) > 0).all()
    after = tau * energy.potential_value(y) + 0.5 * (y - x).square().sum(2)
    assert (after <= tau * energy.potential_value(x) + 1e-12).all()
    assert (y[..., 0].sign() == x[..., 0].sign()).double().mean() > 0.95


def test_fitted_networks_are_solved_and_keep_their_precision():
    energy, x = Energy.build(3, seeds=[1, 2, 3], timed=True), torch.randn(3, 50, 3)
    with torch.no_grad():
        for weight in energy.potential.weights:
            weight *= 3
    y, residual = energy_steps.implicit(energy, x, 2.0, 0.5)
    assert y.dtype == residual.dtype == torch.float32 and residual.max() < 2e-6
    torch.testing.assert_close((y + 2.0 * energy.force(y, 0.5) - x).detach(), torch.zeros_like(x), atol=2e-5, rtol=0)
    assert next(energy.parameters()).dtype == torch.float32
    fast, _ = energy_steps.implicit(energy, x, 2.0, 0.5, dtype=torch.float32, tolerance=1e-5)
    assert (fast - y).norm(dim=2).median() < 1e-5
    warm, found = energy_steps.implicit(energy, x, 2.0, 0.5, start=y, limit=0)
    torch.testing.assert_close(warm, y)
    assert found.max() < 1e-5


def test_what_has_no_solution_says_so():
    """V = -x^2, tau = 1: the objective -x^2 / 2 has no minimum."""
    energy, x = Energy(2, Quadratic(-2 * EYE.expand(2, 2, 2).clone())), cloud()
    y, residual = energy_steps.implicit(energy, x, 1.0, limit=5)
    assert torch.isfinite(y).all() and (residual > 0.1).all()


def test_noise_is_added_before_the_implicit_and_beside_the_explicit_step():
    raw = torch.tensor([0.3, 0.6]).double().expm1().log()  # beta, back through softplus
    energy, x, noise = Energy(2, Quadratic(MATRICES), raw_diffusivity=raw), cloud(), cloud(seed=1, spread=1.0)
    jump = (2 * 0.5 * torch.tensor([0.3, 0.6]).double())[:, None, None].sqrt() * noise
    with torch.no_grad():
        torch.testing.assert_close(
            energy_steps.explicit(energy, x, 0.5, noise=noise), x @ (EYE - 0.5 * MATRICES) + jump
        )
    y, _ = energy_steps.implicit(energy, x, 0.5, noise=noise)
    torch.testing.assert_close(y, (x + jump) @ torch.linalg.inv(EYE + 0.5 * MATRICES))
    still = Energy(2, Quadratic(MATRICES))
    torch.testing.assert_close(energy_steps.explicit(still, x, 0.5, noise=noise), energy_steps.explicit(still, x, 0.5))


@pytest.mark.parametrize("terms", [("interaction",), ("entropy",)])
def test_an_energy_without_a_potential(terms):
    energy, x = Energy.build(2, seeds=[1, 2], terms=terms), cloud(15).float()
    y, residual = energy_steps.implicit(energy, x, 0.5)
    assert residual.max() < 2e-6
    assert torch.equal(y, x) == (terms == ("entropy",))
