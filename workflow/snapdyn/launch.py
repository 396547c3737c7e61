"""Start Snakemake so that an earlier crash does not matter: ``python -m snapdyn.launch [arguments]``.

An operating-system lock, held by the Snakemake process itself and gone with it however it ends, says
whether a run is alive. If none is, what a killed one left behind is cleared away: Snakemake's own lock,
jobs that still write (they notice and end; we wait), and incomplete outputs (made again).
"""

import fcntl
import os
import shutil
import sys
import time
from pathlib import Path

from snapdyn import run

REFUSED = 2


def main(arguments):
    """Replace this process by Snakemake with ``arguments``, or return an exit status if one runs already."""
    from snakemake.cli import parse_args

    _, settings = parse_args(arguments)
    ours = ["--rerun-incomplete"]
    if settings.cores is None and settings.jobs is None:
        ours += ["--cores", "all"]
    if not settings.dryrun:
        folder = Path(settings.directory or ".").resolve()
        state = folder / ".snakemake"
        state.mkdir(parents=True, exist_ok=True)
        if trouble := hold_lock(state / "snapdyn.lock") or clear_stale_locks(folder):
            print(trouble, file=sys.stderr)
            return REFUSED
        wait_for_orphans(folder / run.JOBS_LOCK)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "snakemake", *ours, *arguments])


def hold_lock(path):
    """Take the lock at ``path`` for this process and the program it turns into.

    Returns:
        None, or why it could not be had.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    if not _locked(handle):
        holder = os.read(handle, 32).decode() or "unknown"
        os.close(handle)
        return f"another run (process {holder}) is at work in this folder; wait for it to end, or stop it"
    os.ftruncate(handle, 0)
    os.write(handle, str(os.getpid()).encode())
    os.set_inheritable(handle, True)
    return None


def clear_stale_locks(folder):
    """Remove what Snakemake's own locking left in ``folder``, unless a Snakemake is alive there.

    Returns:
        None, or why that may not be done: somebody called ``snakemake`` itself.
    """
    locks = folder / ".snakemake" / "locks"
    if not locks.is_dir() or not any(locks.iterdir()):
        return None
    if alive := _snakemakes_in(folder):
        return f"snakemake (process {alive[0]}) is at work in this folder; wait for it to end, or stop it"
    shutil.rmtree(locks)
    print("removed the lock of an earlier run that was killed", file=sys.stderr)
    return None


def wait_for_orphans(path):
    """Wait until no job of an earlier run is left; each holds a shared lock on ``path``."""
    handle, said = os.open(path, os.O_RDWR | os.O_CREAT, 0o666), False
    while not _locked(handle):
        if not said:
            print("waiting for the jobs of an earlier run to end", file=sys.stderr)
        said = True
        time.sleep(0.2)
    os.close(handle)


def _locked(handle):
    """Take an exclusive lock if it is free."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _snakemakes_in(folder):
    import psutil  # comes with Snakemake

    def at_work(process):
        command = process.info["cmdline"] or []
        return process.info["cwd"] == str(folder) and "snakemake" in [Path(word).name for word in command[:3]]

    return [process.pid for process in psutil.process_iter(["cmdline", "cwd"]) if at_work(process)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
