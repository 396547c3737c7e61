"""A real SLURM of one node on loopback, with accounting and a GPU that needs no hardware, while a test runs.

Nothing of it outlives the process: the daemons are its children, run in the foreground, keep everything in one
folder and end with it. The one thing outside that folder is a link in /etc/slurm, since the steps of the executor
plugin look for the configuration nowhere else. By hand: ``python tests/slurm/cluster.py`` runs one until Ctrl-C.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

CPUS, MEMORY_MB = 2, 20000  # claimed, not measured: every machine then shows the same node
PACKAGES = {  # program -> Debian package
    "munged": "munge",
    "mariadbd": "mariadb-server-core",
    "my_print_defaults": "mariadb-client-core",  # mariadb-install-db calls it
    "slurmdbd": "slurmdbd",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "srun": "slurm-client",
}
SYSTEM_CONFIG = Path("/etc/slurm/slurm.conf")
NO_STARTS = Path("/usr/sbin/policy-rc.d")
LIBC = ctypes.CDLL(None)

SLURM_CONF = """
ClusterName=snapdyn
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
PlugStackConfig={folder}/plugstack.conf
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2
KillWait=3
ReturnToService=2
# memory is watched every second, and a job that takes more than it asked for is killed
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports[2]}
AccountingStoragePass={folder}/munge/socket
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=associations
AccountingStoreFlags=job_comment
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:pretended:1
PartitionName=cpu Nodes={host} Default=YES MaxTime=1-00:00:00
PartitionName=gpu Nodes={host} MaxTime=1-00:00:00
"""

# A character device and the flag are what makes SLURM set CUDA_VISIBLE_DEVICES.
GRES_CONF = """
AutoDetect=off
Name=gpu Type=pretended File={folder}/nvidia0 Flags=nvidia_gpu_env
"""

SLURMDBD_CONF = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={ports[2]}
CommunicationParameters=NoInAddrAny
SlurmUser=root
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
"""


class Unavailable(Exception):
    """Why there can be no SLURM here."""


@dataclass(frozen=True)
class Cluster:
    """A running SLURM; its commands work as on any cluster.

    Attributes:
        folder: where its daemons keep their state and their logs.
        cpus, memory_mb: of its one node, which has one GPU of the type ``pretended``.
        partitions, account: what jobs may name; the first partition is the default.
    """

    folder: Path
    cpus: int = CPUS
    memory_mb: int = MEMORY_MB
    partitions: tuple = ("cpu", "gpu")
    account: str = "lab"


@contextmanager
def running():
    """A :class:`Cluster`, gone at the end of the block with everything that runs on it.

    Raises:
        Unavailable: where SLURM is not installed and may not be, or would disturb another one.
    """
    ready()
    with ExitStack() as undo:
        folder = Path(tempfile.mkdtemp(prefix="snapdyn-slurm-"))
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        configure(folder)
        undo.callback(SYSTEM_CONFIG.unlink, missing_ok=True)
        start(folder, undo)
        undo.callback(drain)
        yield Cluster(folder)


def ready():
    """Check that there may be a SLURM of ours on this machine, and install what it lacks."""
    if sys.platform != "linux" or os.geteuid():
        raise Unavailable("SLURM's daemons need Linux and root, as in a container or on a virtual machine")
    ours = SYSTEM_CONFIG.is_symlink() and "snapdyn-slurm-" in os.readlink(SYSTEM_CONFIG)
    if not ours and (SYSTEM_CONFIG.exists() or SYSTEM_CONFIG.is_symlink()):
        raise Unavailable(f"{SYSTEM_CONFIG} exists: this machine has a SLURM already, which is left alone")
    if ours and SYSTEM_CONFIG.exists() and answers():  # else a killed test left it, and it is replaced
        raise Unavailable("another run of this test is at work")
    if "/usr/sbin" not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] += f"{os.pathsep}/usr/sbin"
    missing = sorted({package for program, package in PACKAGES.items() if not shutil.which(program)})
    if missing and not shutil.which("apt-get"):
        raise Unavailable(f"there is no apt-get here to install {', '.join(missing)} with")
    if missing:
        install(missing)
    if still := [program for program in PACKAGES if not shutil.which(program)]:
        raise Unavailable(f"apt-get installed {missing}, but {still} are not to be found")


def answers():
    """Whether a controller stands behind the configuration that is there."""
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(["scontrol", "ping"], capture_output=True, timeout=20).returncode == 0
    return False


def install(packages):
    """Install Debian packages without letting any of them start a service."""
    ours = not NO_STARTS.exists()
    if ours:
        NO_STARTS.write_text("#!/bin/sh\nexit 101\n")
        NO_STARTS.chmod(0o755)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
            done = subprocess.run(["apt-get", "-q", *arguments], env=environment, capture_output=True, text=True)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise Unavailable(f"apt-get could not install {', '.join(packages)}: {said[-1] if said else 'no word why'}")
    finally:
        if ours:
            NO_STARTS.unlink()


def configure(folder):
    """Write the configuration, the key and the devices of a cluster in ``folder``."""
    for name in ("munge", "state", "spool", "log"):
        (folder / name).mkdir(mode=0o755)
    facts = {
        "folder": folder,
        "host": socket.gethostname().partition(".")[0],
        "ports": free_ports(3),
        "cpus": CPUS,
        "memory": MEMORY_MB,
    }
    for name, text in (("slurm.conf", SLURM_CONF), ("gres.conf", GRES_CONF), ("slurmdbd.conf", SLURMDBD_CONF)):
        (folder / name).write_text(text.format(**facts))
    (folder / "slurmdbd.conf").chmod(0o600)
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    (folder / "plugstack.conf").touch()
    (folder / "munge" / "key").write_bytes(os.urandom(1024))
    (folder / "munge" / "key").chmod(0o400)
    os.mknod(folder / "nvidia0", 0o600 | 0o020000, os.makedev(195, 0))
    SYSTEM_CONFIG.parent.mkdir(exist_ok=True)
    SYSTEM_CONFIG.unlink(missing_ok=True)
    SYSTEM_CONFIG.symlink_to(folder / "slurm.conf")


def free_ports(count):
    """Ports that nobody listens on."""
    with ExitStack() as held:
        servers = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in servers]


def start(folder, undo):
    """Start the daemons in the order in which they need each other; ``undo`` stops them in reverse."""
    munge, database = folder / "munge", folder / "database"

    def daemon(*command, **environment):
        name = Path(command[0]).name
        with open(folder / "log" / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                command,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us, who then stop them in order
                preexec_fn=end_with_parent,
            )
        undo.callback(stop, process)
        return process

    def until(what, answers, process, seconds=60):
        deadline = time.monotonic() + seconds
        while not answers():
            if process.poll() is not None or time.monotonic() > deadline:
                name = Path(process.args[0]).name
                log = (folder / "log" / f"{name}.log").read_text(errors="replace")
                raise RuntimeError(f"{what} did not come up within {seconds} s; {name} said:\n{log[-3000:]}")
            time.sleep(0.1)

    def says(*command, **answer):
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode == 0 and (not answer or answer["word"] in done.stdout)

    files = [f"--{kind}={munge / name}" for kind, name in (("key-file", "key"), ("socket", "socket"))]
    files += [f"--pid-file={munge / 'pid'}", f"--log-file={munge / 'log'}", f"--seed-file={munge / 'seed'}"]
    munged = daemon("munged", "--foreground", *files)
    until("munge", lambda: says("munge", "--no-input", f"--socket={munge / 'socket'}"), munged)

    as_root = ["--no-defaults", "--user=root", f"--datadir={database}"]
    made = ["mariadb-install-db", *as_root, "--auth-root-authentication-method=socket", "--skip-test-db"]
    subprocess.run(made, check=True, capture_output=True)
    listening = folder / "database.socket"
    small = ["--skip-networking", "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=2"]
    mariadbd = daemon("mariadbd", *as_root, f"--socket={listening}", f"--pid-file={folder / 'database.pid'}", *small)
    until("the database", listening.exists, mariadbd)

    config = {"SLURM_CONF": str(folder / "slurm.conf")}
    slurmdbd = daemon("slurmdbd", "-D", **config, MYSQL_UNIX_PORT=str(listening))
    until("accounting", lambda: says("sacctmgr", "-n", "show", "cluster"), slurmdbd)
    account = Cluster.account
    for words in (
        ["cluster", "snapdyn"],
        ["account", account, "Description=test", "Organization=test", "Cluster=snapdyn"],
        ["user", "root", f"Account={account}", "Cluster=snapdyn"],
    ):
        subprocess.run(["sacctmgr", "-i", "add", *words], capture_output=True)  # an error if it is there already
    if not says("sacctmgr", "-n", "show", "assoc", "user=root", "format=account", word=account):
        raise RuntimeError(f"the account {account} could not be added to SLURM's accounting")

    slurmctld = daemon("slurmctld", "-D", **config)
    until("the controller", lambda: says("scontrol", "ping", word="UP"), slurmctld)
    slurmd = daemon("slurmd", "-D", **config)
    until("the node", lambda: says("sinfo", "--noheader", "--format=%T", word="idle"), slurmd)


def end_with_parent():
    """Let the kernel stop this process when its parent is gone, even by SIGKILL."""
    pr_set_pdeathsig = 1
    LIBC.prctl(pr_set_pdeathsig, signal.SIGTERM)


def stop(process):
    """Stop one daemon of ours."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def drain(seconds=30):
    """Cancel all jobs and wait until none is left."""
    subprocess.run(["scancel", "--user=root"], capture_output=True)
    deadline = time.monotonic() + seconds
    while subprocess.run(["squeue", "--noheader"], capture_output=True, text=True).stdout.strip():
        if time.monotonic() > deadline:
            return
        time.sleep(0.2)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with running() as cluster:
            print(
                f"SLURM is up: try sinfo, sbatch, sacct. Logs are in {cluster.folder}/log. Ctrl-C ends it.", flush=True
            )
            signal.pause()
    except KeyboardInterrupt:
        pass
    except Unavailable as reason:
        sys.exit(f"no SLURM: {reason}")
