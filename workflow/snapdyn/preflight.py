"""What a run needs and this machine lacks: a GPU, files from elsewhere, the network, an executor, room on the disk.

Imports no torch, and asks nothing of the network unless a file is missing.
"""

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from snapdyn import resources

TIMEOUT = 4.0  # seconds that a server gets to answer
ROOM = 2**31  # bytes; below this a run may well fill the disk


@cache
def gpu_fault():
    """Why ``device: cuda`` cannot be had here, as one sentence; None if it can.

    Asked of torch in a process of its own: torch is large, and a process that has once talked to a GPU keeps
    some of its memory for as long as it lives, here for the whole run.
    """
    code = "from snapdyn import run\ntry: run.choose_device('cuda')\nexcept (ValueError, ImportError) as e: print(e)"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if asked.returncode:
        return (asked.stderr.strip().splitlines() or [f"torch ended with status {asked.returncode}"])[-1]
    return asked.stdout.strip() or None


def absent_files(names, declared, folders):
    """What would have to be fetched for the resources ``names``: one entry for each that no local folder holds.

    Returns:
        ``name -> lines`` that say which files, with which checksum, go where.
    """
    found = {}
    for name in resources.missing(names, declared, folders):
        looked = ", ".join(str(folder) for folder in folders)
        found[name] = [f"resource {name} is not in {looked}; any one of these would do:"]
        for form in declared[name].forms:
            places = [f"put {file.file} (SHA-256 {file.sha256}) at {folders[-1] / file.file}" for file in form.files]
            found[name].append("  " + " and ".join(places))
    return found


def addresses(names, declared):
    """Every public address of the resources ``names``."""
    return [url for name in names for form in declared[name].forms for file in form.files for url in file.urls]


def unreachable(url, timeout=TIMEOUT):
    """Why ``url`` does not answer, or None if it does. Nothing is downloaded."""
    import requests

    try:
        answer = requests.head(url, timeout=timeout, allow_redirects=True)
    except (requests.RequestException, OSError) as error:
        return f"no answer ({type(error).__name__})"
    return None if answer.ok else f"it answers {answer.status_code} {answer.reason}"


def fetching(names, declared):
    """Whether the addresses of missing resources answer, as lines."""
    urls = addresses(names, declared)
    if not urls:
        return ["it has no public address"]
    answers = {url: unreachable(url) for url in urls}
    return [f"the run will try {url}: " + (answer or "it answers") for url, answer in answers.items()]


def room(folder):
    """Bytes free where ``folder`` is or will be."""
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def size(folder):
    """Bytes in all files under ``folder``."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
