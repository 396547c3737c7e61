"""SLURM jobs of a killed run: found and cancelled before the next run of that folder begins.

Snakemake forgets its SLURM jobs when it is killed, but SLURM does not. They would write into the next run's results,
and one that still waits in the queue holds no lock that could be waited for.
"""

import getpass
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

# The executor plugin names every job of a run alike: a UUID, after the user's prefix if there is one.
RUN_ID = re.compile(r"(?:.*_)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def cancel_leftovers(folder, patience=120):
    """Cancel the jobs that an earlier run in ``folder`` left in SLURM's queue, and wait until they are gone.

    Args:
        patience: seconds after which jobs that do not go are given up.
    Returns:
        None, or why it could not be done.
    """
    if not (folder / ".snakemake" / "slurm_logs").is_dir() or not shutil.which("squeue"):
        return None
    began, told = time.monotonic(), set()
    try:
        while found := leftovers(folder):
            if new := [job for job in found if job not in told]:
                print(f"cancelling {len(new)} SLURM jobs that an earlier run left: {' '.join(new)}", file=sys.stderr)
                _slurm("scancel", *new)
                told.update(new)
            if time.monotonic() - began > patience:
                return f"jobs of an earlier run do not end: {' '.join(found)}; look at `squeue --me` and try again"
            time.sleep(0.5)
    except (OSError, subprocess.SubprocessError) as error:
        why = (getattr(error, "stderr", None) or str(error)).strip()
        return f"SLURM does not answer ({why}), and jobs of an earlier run may be in its queue; try again when it does"
    return None


def leftovers(folder):
    """Ids of this user's queued and running jobs that a Snakemake submitted from ``folder``."""
    listed = _slurm("squeue", "--noheader", f"--user={getpass.getuser()}", "--format=%i|%j|%Z")
    jobs = (line.split("|", 2) for line in listed.splitlines() if line.count("|") >= 2)
    return [job for job, name, place in jobs if RUN_ID.fullmatch(name) and Path(place).resolve() == folder]


def _slurm(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
