"""The van der Pol oscillator: the cycle that its rate runs round, and the energy that it gains and loses."""

import numpy as np
import torch
from scipy.integrate import solve_ivp

from snapdyn import simulate, systems


def test_without_noise_the_simulation_follows_the_equations():
    system = systems.build("van-der-pol", mu=1.3, diffusivity=0.1)
    start = np.array([[0.3, 2.5], [-0.2, 1.0]])
    x = torch.from_numpy(start.T.copy())
    found = simulate.integrate(
        system.rate, x, steps=6000, dt=5e-4, diffusivity=0.0, generator=torch.Generator(), scheme="heun"
    )
    for place, state in enumerate(start):

        def by_hand(_, z):
            return [z[1], 1.3 * (1 - z[0] ** 2) * z[1] - z[0]]

        exact = solve_ivp(by_hand, (0, 3), state, rtol=1e-10, atol=1e-12).y[:, -1]
        np.testing.assert_allclose(found[:, place].numpy(), exact, atol=2e-6)


def test_at_rest_what_the_damping_takes_is_what_the_noise_gives():
    """E[L phi] = 0 for phi = (x^2 + y^2) / 2, which is mu E[(1 - x^2) y^2] + 2 D = 0, and for phi = x y."""
    system, n = systems.build("van-der-pol", mu=1.0, diffusivity=0.1), 20_000
    x, y = simulate.stationary_cloud(system, n, dt=0.01, burn=25.0, seed=1, scheme="heun").T
    energy = (1 - x**2) * y**2 + 2 * 0.1
    product = y**2 + x * ((1 - x**2) * y - x)
    for change in (energy, product):
        assert abs(change.mean()) < 4.5 * change.std() / np.sqrt(n)
    assert abs((energy - 0.1).mean()) > 2.5 * energy.std() / np.sqrt(n)  # D taken for 2 D
    assert 1.9 < np.quantile(np.hypot(x, y), 0.5) < 2.4
