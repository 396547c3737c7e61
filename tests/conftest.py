"""Fixtures that every test file may use."""

import os
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # as in every job: see snapdyn.run
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture
def rng():
    """A numpy generator with a fixed seed."""
    return np.random.default_rng(20240229)


@pytest.fixture
def style():
    """How figures look: the style sheet, and the marks of methods."""
    from snapdyn import plotting

    root = Path(__file__).parents[1]
    return plotting.Style(root / "workflow" / "snapdyn" / "paper.mplstyle", root / "config" / "plotting.yaml")


@pytest.fixture
def snapdyn_resources():
    """The folder of real data that SNAPDYN_RESOURCES names; tests that need it skip without."""
    folder = os.environ.get("SNAPDYN_RESOURCES")
    if not folder:
        pytest.skip("no real data: set SNAPDYN_RESOURCES to a folder that holds them (config/resources.yaml)")
    if not Path(folder).is_dir():
        pytest.fail(f"SNAPDYN_RESOURCES names {folder}, which is not a folder")
    return Path(folder)
