"""Start Snakemake so that an earlier crash does not matter: ``python -m snapdyn.launch [arguments]``.

An operating-system lock, held by the process that is Snakemake and gone with it however it ends, says whether a
run is alive. If none is, what a killed one left behind is cleared away: Snakemake's own lock, jobs that still
write (they notice and end; we wait), jobs in the queue of a cluster (cancelled), half-written files, and incomplete
outputs (made again).
"""

import errno
import fcntl
import os
import platform
import shutil
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from snapdyn import interruption, slurm, writing

REFUSED = 2
LOCK = Path(".snakemake") / "snapdyn.lock"
# As often as this allows Snakemake goes through all waiting jobs again, even if nothing has changed. Every second, as
# it does by itself, takes a quarter of a core from a run of some hundred jobs.
SELDOM = ["--max-jobs-per-timespan", "1000/60s"]


def main(arguments):
    """Run Snakemake with ``arguments``; returns an exit status."""
    from snakemake import cli

    _, settings = cli.parse_args(arguments)
    sys.argv = ["snakemake", *our_options(settings), *arguments]  # Snakemake's log repeats it
    for name in [name for name in sys.modules if name.partition(".")[0] == "snapdyn"]:
        del sys.modules[name]  # the workflow brings its own, which need not be the one that was installed
    if settings.dryrun:
        return ended(cli.main)
    folder = Path(settings.directory or ".").resolve()
    if trouble := prepare(folder):
        print(trouble, file=sys.stderr)
        return REFUSED
    with taking_jobs_along() as signals:
        status = ended(cli.main)
    forget_timers()
    with suppress(OSError):
        (folder / LOCK).write_text("")  # a name that stays is that of a run which was killed
    if signals and status:
        print(
            f"interrupted by {signals[0]}: finished results and the progress of long fits are kept; "
            "the same command goes on from there",
            file=sys.stderr,
        )
        return 128 + getattr(signal, signals[0])
    if status and (trouble := writing.trouble_with(folder / ".snakemake")):
        print(trouble, file=sys.stderr)  # Snakemake itself has less to say about a full disk
    return status


def our_options(settings):
    """What is asked of Snakemake before the user's own arguments, which win.

    Args:
        settings: the user's arguments, as Snakemake parses them.
    """
    found = ["--rerun-incomplete"]
    if settings.cores is None and settings.jobs is None:
        found += ["--cores", "all"]
    if settings.executor in (None, "local"):
        found += SELDOM
    return found


def ended(program):
    """The exit status of ``program``."""
    try:
        program(sys.argv[1:])
    except SystemExit as end:
        return end.code or 0
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def forget_timers():
    """Cancel what Snakemake meant to look at later, for which this process would wait otherwise."""
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.cancel()


def prepare(folder):
    """Make sure that this process is alone in ``folder`` and can write there, and clear away what others left.

    Returns:
        None, or why that may not be done.
    """
    state, results = folder / ".snakemake", folder / "results"
    if trouble := writing.trouble_with(state):
        return trouble
    if (results.exists() or results.is_symlink()) and (trouble := writing.trouble_with(results)):
        return trouble
    held = hold_lock(folder / LOCK)
    if trouble := held or clear_stale_locks(folder) or slurm.cancel_leftovers(folder):
        return trouble
    with without_orphans(folder / interruption.JOBS_LOCK):
        writing.sweep(results)
    return None


@contextmanager
def taking_jobs_along():
    """End the jobs, and Snakemake with them, when this process is asked to end.

    Left to itself Snakemake waits for them, hours if need be, on SIGTERM, and on a SIGINT that reaches nobody else
    throws away what they finish. It also sets handlers of its own, so signals are noticed underneath: Python
    writes the number of each to a pipe.

    Yields:
        a list of the names of the signals that came.
    """
    names, (source, sink) = [], os.pipe()
    os.set_blocking(sink, False)
    before = signal.set_wakeup_fd(sink, warn_on_full_buffer=False)
    handlers = {number: signal.getsignal(number) for number in interruption.SIGNALS}
    handlers = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}
    for number in set(handlers) - {signal.SIGINT}:
        # one interrupt is enough: it comes as SIGINT, from below, unless that is ignored
        signal.signal(number, (lambda *_: None) if signal.SIGINT in handlers else signal.default_int_handler)

    def follow():
        while number := os.read(source, 1)[0]:
            if number not in handlers:
                continue
            if not names and number != signal.SIGINT:
                os.kill(os.getpid(), signal.SIGINT)
            names.append(signal.Signals(number).name)
            _end_jobs()

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield names
    finally:
        signal.set_wakeup_fd(before)
        os.write(sink, b"\0")
        follower.join()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _end_jobs():
    """Ask every job that runs on this machine to end; it puts away what it has."""
    import psutil  # comes with Snakemake

    for child in psutil.Process().children(recursive=True):
        try:
            if any("/.snakemake/scripts/" in word for word in child.cmdline()):
                child.terminate()
        except psutil.Error:
            continue  # it has ended by itself


def hold_lock(path):
    """Take the lock at ``path`` until this process ends.

    Returns:
        None, or why it could not be had.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    if not _locked(handle):
        time.sleep(0.1)  # it may just have been taken, and not say yet by whom
        holder = os.pread(handle, 300, 0).decode() or "unknown"
        os.close(handle)
        return f"another run (process {holder}) is at work in this folder; wait for it to end, or stop it"
    last = os.pread(handle, 300, 0).decode()
    if (path.parent / "slurm_logs").is_dir() and last and not last.endswith(f" on {platform.node()}"):
        os.close(handle)  # some file systems know no locks between hosts, so the free lock proves nothing
        return (
            f"the last run here, process {last}, did not end by itself and may still be at work there, with jobs in "
            f"the cluster's queue; start on that host, or make sure that it is gone and delete {path}"
        )
    os.ftruncate(handle, 0)
    os.write(handle, f"{os.getpid()} on {platform.node()}".encode())
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


@contextmanager
def without_orphans(path):
    """Wait until no job of an earlier run is left, and let none begin; each holds a shared lock on ``path``."""
    handle, said = os.open(path, os.O_RDWR | os.O_CREAT, 0o666), False
    while not _locked(handle):
        if not said:
            print("waiting for the jobs of an earlier run to end", file=sys.stderr)
        said = True
        time.sleep(0.2)
    try:
        yield
    finally:
        os.close(handle)


def _locked(handle):
    """Take an exclusive lock if it is free; where the file system knows no locks it counts as free."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise
        print("this file system has no locks: make sure that nobody else runs in this folder", file=sys.stderr)
    return True


def _snakemakes_in(folder):
    import psutil

    def at_work(process):
        command = process.info["cmdline"] or []
        ours = process.info["cwd"] == str(folder) and "snakemake" in [Path(word).name for word in command[:3]]
        return ours and "--target-jobs" not in command  # that is a job of a Snakemake, on this node of a cluster

    return [process.pid for process in psutil.process_iter(["cmdline", "cwd"]) if at_work(process)]


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:  # before Snakemake had begun
        sys.exit(128 + signal.SIGINT)
