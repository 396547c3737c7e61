"""A function of one variable at many points, from a table: value and two derivatives at nodes, quintics between.

A network that sees one axis only is such a function. Where there are many more points than nodes, the table costs
less than the network, and the error is checked against the network itself before the table is used.
"""

import torch

NODES = 512
WORTH = 8  # points for each node, from which a table pays
ROUGHEST = 1e-7  # largest error of a second derivative in the middle of an interval, as a share of the largest one

# rows: what value, slope h and curve h^2 / 2 at both ends give to the powers 0 to 5 of the place in the interval
_QUINTIC = torch.tensor(
    [
        [1.0, 0.0, 0.0, -10.0, 15.0, -6.0],
        [0.0, 1.0, 0.0, -6.0, 8.0, -3.0],
        [0.0, 0.0, 1.0, -3.0, 3.0, -1.0],
        [0.0, 0.0, 0.0, 10.0, -15.0, 6.0],
        [0.0, 0.0, 0.0, -4.0, 7.0, -3.0],
        [0.0, 0.0, 0.0, 1.0, -2.0, 1.0],
    ],
    dtype=torch.float64,
)


def evaluated(function, x):
    """Value, first and second derivative ``(3, n, k)`` of ``function`` at ``x (n,)`` from a table.

    None where a table does not pay or is too rough; in float32 the differences of neighbours are rounding.

    Args:
        function: points ``(m,)`` to value, first and second derivative ``(3, m, k)``.
    Equation: ``hermite-quintic``
    """
    if len(x) < WORTH * NODES or x.dtype != torch.float64:
        return None
    low, high = x.min(), x.max()
    step = (high - low) / (NODES - 1)
    if not step > 0:
        return None
    nodes = torch.linspace(0, 1, NODES, dtype=x.dtype, device=x.device) * (high - low) + low
    table = function(nodes) * torch.stack([torch.ones_like(step), step, step**2 / 2])[:, None, None]
    ends = torch.cat([table[:, :-1], table[:, 1:]])
    powers = torch.einsum("ep,enk->npk", _QUINTIC.to(x.device), ends)

    def between(x):
        place = (x - low) / step
        left = place.long().clamp_(0, NODES - 2)
        u, c = (place - left)[:, None], powers[left].unbind(1)
        value = ((((c[5] * u + c[4]) * u + c[3]) * u + c[2]) * u + c[1]) * u + c[0]
        slope = (((5 * c[5] * u + 4 * c[4]) * u + 3 * c[3]) * u + 2 * c[2]) * u + c[1]
        curve = ((20 * c[5] * u + 12 * c[4]) * u + 6 * c[3]) * u + 2 * c[2]
        return torch.stack([value, slope / step, curve / step**2])

    middles = (nodes[:-1] + nodes[1:]) / 2
    exact = function(middles)
    error = (between(middles) - exact).abs().amax((1, 2)) / exact.abs().amax((1, 2)).clamp_min(1e-300)
    return between(x) if float(error.max()) < ROUGHEST else None
