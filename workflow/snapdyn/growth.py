r"""Rates at which the particles of a flow divide, or die where they are negative.

A step of a growing population lets every particle divide first and its descendants move, so that the law of the next
snapshot, one particle one row, is that of the moved particles, each weighted by what it left behind,

.. math:: \rho_{k+1} \propto S_\#\bigl(e^{\tau g}\rho_k\bigr), \qquad
          M_{k+1} = M_k\,\mathbb E_{\rho_k} e^{\tau g}

with S the step of the flow: the first-order splitting of d/dt rho = div(rho grad V) + g rho.

Equation: ``flow-growth``
"""

from dataclasses import dataclass

import numpy as np

KINDS = ("even", "front")


@dataclass(frozen=True)
class Growth:
    """A growth rate g(x), in 1 / time.

    Attributes:
        kind: ``even``, the same rate everywhere, so that numbers change and the law does not; or ``front``, the rate
            times a sigmoid of the first axis.
        rate: of particles far to the right, or of all; negative ones die.
        width: of the front, in length: g = rate / (1 + exp(-x0 / width)).
    """

    kind: str
    rate: float
    width: float = 1.0

    def __post_init__(self):
        if self.kind not in KINDS or not (np.isfinite(self.rate) and self.width > 0):
            raise ValueError(
                f"expected growth of kind {' or '.join(KINDS)} with a finite rate and a width above 0, got {self}"
            )

    def __call__(self, x):
        """g ``(n,)`` at positions ``(n, dim)``."""
        if self.kind == "even":
            return np.full(len(x), float(self.rate))
        from scipy.special import expit

        return self.rate * expit(x[:, 0] / self.width)

    @property
    def most(self):
        """A bound that no particle's rate exceeds."""
        return float(self.rate if self.kind == "even" else max(self.rate, 0.0))


def growth_of(spec):
    """The :class:`Growth` of a data set's config, None without any."""
    spec = spec.get("growth")
    return None if spec is None else Growth(spec["kind"], spec["rate"], spec.get("width", 1.0))
