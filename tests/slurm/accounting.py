"""What SLURM itself says about the jobs that it ran, and what Snakemake saw of them."""

import re
import subprocess
from dataclasses import dataclass
from datetime import datetime

FIELDS = "JobIDRaw,Comment,State,ReqTRES,AllocTRES,TimelimitRaw,Submit,Start,End,ElapsedRaw,Partition,Account,WorkDir"


@dataclass(frozen=True)
class Record:
    """One job in SLURM's accounting.

    Attributes:
        comment: the executor plugin's name for it: the rule and its wildcards, or the group.
        asked, got: ``cpu``, ``mem`` (MB) and ``gres/gpu`` as numbers.
        minutes: its time limit; None if the partition's.
        start, end: None while there is none.
    """

    job: int
    comment: str
    state: str
    asked: dict
    got: dict
    minutes: int | None
    submit: datetime
    start: datetime | None
    end: datetime | None
    seconds: int
    partition: str
    account: str
    folder: str

    @property
    def gpus(self):
        return self.asked.get("gres/gpu", 0)

    @property
    def mem_mb(self):
        return self.asked["mem"]


def records():
    """Every job of this cluster, in the order of submission."""
    command = ["sacct", "--allocations", "--noheader", "--parsable2", "--starttime=now-1days", f"--format={FIELDS}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sorted((_record(*line.split("|")) for line in said.splitlines()), key=lambda record: record.job)


def _record(job, comment, state, asked, got, minutes, submit, start, end, seconds, *rest):
    times = [_time(text) for text in (submit, start, end)]
    limit = int(minutes) if minutes.isdecimal() else None
    return Record(
        int(job), comment, state.split()[0], _amounts(asked), _amounts(got), limit, *times, int(seconds), *rest
    )


def _amounts(text):
    """``cpu=1,mem=4000M`` as numbers, memory in MB."""
    pairs = (part.split("=", 1) for part in text.split(",") if part)
    units = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}
    return {name: float(n[:-1]) * units[n[-1]] if n[-1] in units else int(n) for name, n in pairs}


def _time(text):
    return None if text in ("", "None", "Unknown") else datetime.fromisoformat(text)


def finished(folder):
    """Every job that Snakemake saw end: when it began and ended, and its SLURM job if it had one to itself."""
    found = []
    for log in (folder / ".snakemake/log").glob("*.snakemake.log"):
        stamp, begun, sent = None, {}, {}
        for line in log.read_text().splitlines():
            if re.fullmatch(r"\[\w{3} \w{3} +\d+ [\d:]{8} \d{4}\]", line):
                stamp = datetime.strptime(line, "[%a %b %d %H:%M:%S %Y]")
            elif job := re.match(r" +jobid: (\S+)", line):
                begun[job[1]] = stamp
            elif job := re.match(r"Job (\S+) has been submitted with SLURM jobid (\d+)", line):
                sent[job[1]] = int(job[2])
            elif job := re.match(r"Finished jobid: (\S+)", line):
                found.append((begun[job[1]], stamp, sent.get(job[1])))
    return found


def own_seconds(folder):
    """Seconds that each script itself took, imports included."""
    logs = (folder / "results/slurm-test/logs").rglob("*.log")
    return {log: float(re.search(r"done in ([\d.]+) s", log.read_text())[1]) for log in logs}
