"""Methods for config/slurm-test.yaml that get into trouble when told to; otherwise both fit a linear drift.

Files in the folder of the run give the orders: ``hold`` keeps :class:`Stubborn` busy, ``mended`` lets :class:`Broken`
work.
"""

import logging
import mmap
import os
import time
from pathlib import Path

import numpy as np
import torch

log = logging.getLogger(__name__)
BLOCK = 2**28  # bytes
MAPPED = 36 * BLOCK  # more than fit_analysis asks for at first, less than what it asks for next


class Linear:
    """A drift towards the mean, at the rates at which a reversible cloud with this spread rests."""

    def __init__(self, mean, rates):
        self.mean, self.rates = mean, rates

    def drift(self, t, x):
        return -(x - self.mean) @ self.rates.T

    def state(self):
        return {"mean": torch.from_numpy(self.mean), "rates": torch.from_numpy(self.rates)}

    @classmethod
    def from_state(cls, state):
        return cls(state["mean"].numpy(), state["rates"].numpy())


def fitted(snapshots):
    x = snapshots.select(split="train").x
    return Linear(x.mean(0), np.linalg.inv(np.cov(x.T)))


class Stubborn:
    """Waits as long as it is told to; on a cluster it then takes more memory than its rule asks for at first.

    Before that it does a part of its work that an interrupted fit need not do again; ``parts`` has a line each time.
    """

    def fit(self, snapshots, *, rng, keep):
        keep.part("first half", first_half)
        held = time.monotonic()
        while Path("hold").exists() and time.monotonic() - held < 300:
            if time.monotonic() - held < 0.2:
                log.info("holding")
            time.sleep(0.2)
        if "SLURM_JOB_ID" in os.environ:
            take_memory(seconds=4)
        return fitted(snapshots)


def first_half():
    with open("parts", "a") as file:
        file.write(f"job {os.environ.get('SLURM_JOB_ID')}\n")
    return 1.0


def take_memory(seconds):
    """Have ``MAPPED`` bytes resident for some seconds, as SLURM counts: one block of a file, mapped many times."""
    with open("block", "wb+") as file:
        file.truncate(BLOCK)
        maps = [mmap.mmap(file.fileno(), BLOCK, access=mmap.ACCESS_READ) for _ in range(MAPPED // BLOCK)]
        touched = sum(len(view[:: mmap.PAGESIZE]) for view in maps)
        log.info("taking %d MB", touched * mmap.PAGESIZE // 2**20)
        time.sleep(seconds)
    Path("block").unlink()


class Broken:
    """Cannot work until somebody mends it."""

    def fit(self, snapshots, *, rng):
        if not Path("mended").exists():
            raise ValueError("this method is broken until a file called 'mended' lies beside the results")
        return fitted(snapshots)
