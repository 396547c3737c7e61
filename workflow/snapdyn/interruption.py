"""What ends a job before its time: signals, and the death of the process that started it.

Only the standard library is imported here.
"""

import os
import signal
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

JOBS_LOCK = Path(".snakemake") / "snapdyn.jobs"  # shared by every running job; see snapdyn.launch
SIGNALS = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))]
PATIENCE = 10.0  # seconds that an interrupted job gets to put away what it has


class Interruption:
    """Signals as KeyboardInterrupt: at once, or where a loop says that its state is whole.

    Attributes:
        signal: name of the signal that asked this job to end, None if none did.
    """

    def __init__(self):
        self.signal = None
        self._waits, self._raised = False, None

    def __call__(self, number, frame):
        """The signal handler; further signals do not disturb a job that is already ending."""
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._since = signal.Signals(number).name, now
        if self._raised is None and not self._waits or now - self._since > PATIENCE:
            self._since = now
            self.now()

    def now(self):
        """Interrupt."""
        self._raised = True
        raise KeyboardInterrupt

    @contextmanager
    def waiting(self):
        """Let signals wait for the next look at ``signal``, or for the end of the block."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
        if self.signal:
            self.now()


@contextmanager
def by_signals():
    """Handle the signals that end a process, except those that somebody chose to ignore (``nohup``)."""
    interruption, before = Interruption(), {}
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, interruption)
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def with_parent(log):
    """Interrupt this process within about a second of the end of the one that ``SNAPDYN_PARENT`` names.

    A killed Snakemake leaves its jobs running, and they would write into the next run's results.
    """
    if "SNAPDYN_PARENT" not in os.environ:
        yield
        return
    parent, over = int(os.environ["SNAPDYN_PARENT"]), threading.Event()
    born = process_start(parent)

    def watch():
        while born is not None and process_start(parent) == born:
            if over.wait(1.0):
                return
        log.error("process %s, which started this job, is gone; so the job ends here", parent)
        os.kill(os.getpid(), signal.SIGTERM)
        if not over.wait(PATIENCE):
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def process_start(pid):
    """When process ``pid`` began, which tells it from a later one of that number; None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]  # a killed process may linger as a zombie
    except OSError:
        if Path("/proc/self").exists():
            return None
    import psutil

    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return process.create_time()
    return None


@contextmanager
def counted_as_running():
    """Hold a shared lock for as long as the job runs, so that the next launch can wait for orphans."""
    handle = None
    with suppress(ImportError, OSError):  # without flock, or outside a Snakemake folder, nobody waits
        import fcntl

        handle = JOBS_LOCK.open("a+")  # NFS shares a lock only of what is open for reading
        fcntl.flock(handle, fcntl.LOCK_SH)  # a launch holds the other kind for as long as it sweeps
    try:
        yield
    finally:
        if handle:
            handle.close()
