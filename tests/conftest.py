"""Fixtures that every test file may use."""

import os
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def rng():
    """A numpy generator with a fixed seed."""
    return np.random.default_rng(20240229)


@pytest.fixture
def snapdyn_resources():
    """The folder of real data that SNAPDYN_RESOURCES names; tests that need it skip without."""
    folder = os.environ.get("SNAPDYN_RESOURCES")
    if not folder:
        pytest.skip("no real data: set SNAPDYN_RESOURCES to a folder that holds them (config/resources.yaml)")
    if not Path(folder).is_dir():
        pytest.fail(f"SNAPDYN_RESOURCES names {folder}, which is not a folder")
    return Path(folder)
