"""Run the workflow from tests: in a folder of its own, at sizes of seconds, and watched."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
SNAKEFILE = ROOT / "workflow" / "Snakefile"
CONTENT = (".parquet", ".png", ".pdf", ".pt", ".json", ".md")

# Every experiment and every method of the papers at a size of seconds; only the sizes are changed.
TINY = """
run: tiny
device: cpu
datasets:
  lorenz: {n: 5000, dt: 0.005, burn: 1, seeds: 1}
  lorenz-large: {n: 5000, dt: 0.005, burn: 1, seeds: 1}
  lorenz-d05: {n: 500, dt: 0.005, burn: 5, seeds: 1}
  lorenz-d2: {n: 500, dt: 0.005, burn: 5, seeds: 1}
  lorenz-d50: {n: 500, dt: 0.005, burn: 5, seeds: 1}
  lorenz-d2-large: {n: 2000, dt: 0.005, burn: 5, seeds: 1}
  lorenz-d50-large: {n: 2000, dt: 0.005, burn: 5, seeds: 1}
  lorenz-replicates: {n: 2000, dt: 0.005, burn: 5, seeds: 1}
  lorenz-paths: {n: 2000, dt: 0.005, burn: 5, seeds: 1}
  ou-replicates: {n: 4000, seeds: 1}
  gene-network-50k: {n: 3000, burn: 10, seeds: 1}
  gene-network-200k: {n: 3000, dt: 0.02, burn: 10, seeds: 1}
  ou-2d: {n: 400, seeds: 1}
  ou-5d: {n: 400, seeds: 1}
  limit-cycle: {n: 400, seeds: 1}
  van-der-pol: {n: 400, dt: 0.02, burn: 5, seeds: 1}
  ring: {n: 400, train: 0.5, seeds: 1}
  nine-clusters: {n: 800, seeds: 1}
  lorenz-density: {n: 400, dt: 0.005, burn: 5, seeds: 1}
  potentials-unpaired: {n: 40, steps: 2, seeds: 1}
  potentials-paired: {n: 40, steps: 2, seeds: 1}
  synthetic-course: {times: [0, 1, 2], cells_per_time: 30, n_genes: 60, n_pcs: 2, seeds: 1}
papers:
  fokker-planck-loss:
    experiments:
      lorenz:
        datasets: [lorenz]
        attractor: []
        methods:
          kde-adam: {probes: 50, starts: 2, epochs: 1}
          kde-l1: {probes: 50}
          kde-lstsq: {probes: 50}
          convolved-l1: {probes: 50}
          convolved-lstsq: {probes: 50}
      bandwidth:
        bandwidths: [1, 3]
        seeds: 1
        methods:
          kde-l1: {probes: 50}
          kde-lstsq: {probes: 50}
          convolved-l1: {probes: 50}
          convolved-lstsq: {probes: 50}
      ornstein-uhlenbeck: {datasets: [ou-2d]}
      lorenz-noise: {methods: {kde-l1: {probes: 50}, convolved-l1: {probes: 50}}}
      lorenz-samples: {sizes: [500, 2000], methods: {kde-l1: {probes: 50}, convolved-l1: {probes: 50}}}
      misspecification: {sizes: [1000, 5000]}
      coverage:
        replicates:
          ou-replicates: {size: 1000, count: 4}
          lorenz-replicates: {size: 500, count: 4}
          lorenz-large: {size: 2000, count: 2}
      gene-network:
        datasets: [gene-network-50k]
        attractor: [moments]
        methods:
          kde-adam: {probes: 50, starts: 2, epochs: 1}
          convolved-l1: {probes: 100}
          moments: {degree: 2, harmonics: 2}
          moments-sparse: {degree: 2, harmonics: 2}
      limit-cycle:
        methods:
          mixture-flow-dynamics: {components: 8, steps: 4, flow_steps: 2, hidden: 4}
          mixture-flow-plain: {components: 8, steps: 4}
          linear-mixture: {width: 0.2}
      ring-data:
        datasets: [ring]
        methods:
          mixture-flow-mle: {components: 8, steps: 4, flow_steps: 2, hidden: 4}
          mixture-flow-sm: {components: 8, steps: 4, flow_steps: 2, hidden: 4}
          mixture-flow-mle-sm: {components: 8, steps: 4, flow_steps: 2, hidden: 4}
          gaussian-mixture: {components: 3}
      nine-clusters:
        methods:
          mixture-flow-mle-sm: {components: 60, steps: 4, flow_steps: 2, hidden: 4}
          mixture-flow-mle: {components: 8, steps: 4, flow_steps: 2, hidden: 4}
          gaussian-mixture: {components: 9}
      hopfield:
        methods:
          hopfield: {patterns: 40}
          mixture-flow-mle: {components: 8, steps: 4, flow_steps: 2, hidden: 4}
      lorenz-density:
        methods:
          mixture-flow-dynamics: {components: 8, steps: 4, flow_steps: 2, hidden: 4}
          mixture-flow-mle: {components: 8, steps: 4, flow_steps: 2, hidden: 4}
          gaussian-mixture: {components: 3}
      cells-density:
        datasets: [synthetic-course]
        methods:
          mixture-flow-mle: {components: 8, steps: 4, flow_steps: 2, hidden: 4}
          gaussian-mixture: {components: 2}
  jko:
    experiments:
      potentials-paired:
        datasets: [potentials-paired]
        methods:
          <<: &on-potentials
            ijkonet-v: {hidden: [8], steps: 4, batch: 20, inner: 2, every: 2}
            ijkonet-prox: {hidden: [8], steps: 4, batch: 20}
            jkonet-star-v: {hidden: [8], steps: 4, batch: 20}
          jkonet-star-v-source: {hidden: [8], steps: 4, batch: 20}
      potentials-unpaired:
        datasets: [potentials-unpaired]
        methods:
          <<: *on-potentials
          ijkonet-prox-shrunk: {hidden: [8], steps: 4, batch: 20}
          jkonet-star-v-shrunk: {hidden: [8], steps: 4, batch: 20}
      unpairing: {datasets: [potentials-unpaired]}
      against-star: {datasets: [potentials-unpaired]}
      eb-one-step:
        datasets: [synthetic-course]
        inits: 1
        methods:
          jkonet-star-tv: {hidden: [8], steps: 4, batch: 20}
          jkonet-star-tv-source: {hidden: [8], steps: 4, batch: 20}
          jkonet-star-tv-flow: {hidden: [8], steps: 4, batch: 20}
          ijkonet-v: {hidden: [8], steps: 4, batch: 20, inner: 2, every: 2}
          ijkonet-tv: {hidden: [8], steps: 4, batch: 20, inner: 2, every: 2}
          ijkonet-prox: {hidden: [8], steps: 4, batch: 20}
      # The demo runs these two; here they would add jobs of kinds that the others have, and only that.
      eb-leave-two-out: {datasets: []}
      interaction: {datasets: []}
"""

# Python reads this file at every start: no job reaches the network, and each says what it has imported.
WATCH = """
import atexit, json, os, socket, sys, time

def refuse(*arguments, **options):
    raise OSError("the network is blocked by the test")

def connect(self, address, really=socket.socket.connect):
    return really(self, address) if self.family == socket.AF_UNIX else refuse()

socket.socket.connect = socket.socket.connect_ex = connect
socket.getaddrinfo = refuse

@atexit.register
def tell():
    job = getattr(sys.modules["__main__"], "snakemake", None)
    if job is None:
        return
    named = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    ours = {name: file for name, file in named.items() if name.startswith("snapdyn.")}
    record = {"rule": job.rule, "wildcards": dict(job.wildcards.items()), "torch": "torch" in named, "modules": ours}
    name = f"{os.getpid()}-{time.time_ns()}.json"  # process numbers come back in long runs
    with open(os.path.join(os.environ["SNAPDYN_TEST_WATCH"], name), "w") as file:
        json.dump(record, file)
"""


@dataclass
class Outcome:
    """How a Snakemake ended: its status, what it said, and the jobs that it lists."""

    status: int
    out: str
    err: str

    @property
    def said(self):
        return self.out + self.err

    @property
    def jobs(self):
        return list(_jobs(self.out))


@dataclass
class Job:
    """One job as Snakemake lists it in a dry run."""

    rule: str
    fields: dict = field(default_factory=dict)

    def list(self, name):
        return [part for part in self.fields.get(name, "").split(", ") if part]

    @property
    def wildcards(self):
        return dict(part.split("=", 1) for part in self.list("wildcards"))

    @property
    def about(self):
        return self.rule, tuple(sorted(self.wildcards.items()))


def _jobs(text):
    job = None
    for line in text.splitlines():
        if begin := re.fullmatch(r"(?:local)?rule (\w+):", line):
            job = Job(begin[1])
        elif job and (entry := re.fullmatch(r"    (\w+): (.*)", line)):
            job.fields[entry[1]] = entry[2]
        elif job:
            yield job
            job = None
    if job:
        yield job


def copy_repository(target):
    """The repository as it stands here, tracked or not, without what is ignored."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:  # unpacked from an archive
        left_out = shutil.ignore_patterns(".git", ".venv", ".snakemake", "results", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, target, ignore=left_out)
        return target
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def surroundings(watch=None):
    """Variables for a run that nothing outside the test can touch; ``watch`` is a folder for its jobs' records."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SNAPDYN_", "SNAKEMAKE_", "PYTHONPATH"))}
    if watch:
        watch.mkdir(exist_ok=True)
        (watch / "sitecustomize.py").write_text(WATCH)
        kept |= {"PYTHONPATH": str(watch), "SNAPDYN_TEST_WATCH": str(watch)}
    return kept


def records(watch):
    """What the jobs of a watched run imported."""
    return [json.loads(path.read_text()) for path in sorted(watch.glob("*.json"))]


def snakemake(folder, *arguments, snakefile=SNAKEFILE, watch=None, program=("-m", "snakemake")):
    """Run Snakemake in ``folder`` and wait for it."""
    command = [sys.executable, *program, "--snakefile", str(snakefile), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=surroundings(watch), capture_output=True, text=True)
    return Outcome(done.returncode, done.stdout, done.stderr)


def dry_run(folder, *arguments, **options):
    """The jobs that Snakemake would run."""
    outcome = snakemake(folder, "--dry-run", *arguments, **options)
    assert outcome.status == 0, outcome.said[-3000:]
    return outcome.jobs


def contents(folder):
    """Path -> checksum of everything under ``folder`` whose bytes are promised."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.suffix in CONTENT and not path.name.endswith(".provenance.json")
    }
