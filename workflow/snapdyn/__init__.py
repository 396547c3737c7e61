"""Dynamics from snapshots: the library behind the snapdyn workflow."""

__version__ = "0.1.0"


def load(path, *, trust=None):
    """Read a fitted model from ``path`` (a ``model.pt`` written by the workflow).

    The model answers ``drift(t, x)`` and, as far as its method has them, ``velocity(t, x)``,
    ``score(t, x)``, ``log_prob(t, x)``, ``potential(t, x)`` and ``simulate(x0, times)``, with
    ``t (batch,)`` in the data's time unit and ``x (batch, dim)`` in the data's coordinates.

    Args:
        trust: import path (``package.module:Class``) of a model class or a drift library from outside snapdyn
            that this file may name; nothing else is ever imported on a file's say-so.
    """
    from snapdyn import models

    return models.load(path, trust=trust)
