"""Files that are there whole or not at all, and what to say when a disk refuses them.

Only the standard library is imported here: a launch looks at its folders before anything else is loaded.
"""

import errno
import os
import tempfile
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

UNFINISHED = ".unfinished-"  # part of every temporary name, so that a later run can tell what a killed job left

_ELSEWHERE = "or work on another disk (the folder results may be a link to one)"
_SPACE = f"Free some space, {_ELSEWHERE}"
_RIGHTS = f"Make it writable, {_ELSEWHERE}"
REMEDIES = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EROFS: _RIGHTS,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EFBIG: "Raise the limit on the size of a file (ulimit -f)",
}


class WriteError(OSError):
    """A file could not be written; the message says which, why, and what to do."""


def explained(error, path):
    """``error``, met on writing ``path``, as a :class:`WriteError` that a user can act upon."""
    what = os.strerror(error.errno) if error.errno else str(error)
    remedy = REMEDIES.get(error.errno, "See to that disk or folder")
    told = WriteError(f"cannot write {path}: {what}. {remedy}. Finished results are kept: the same command goes on")
    told.errno = error.errno
    return told


@contextmanager
def replacing(path):
    """A temporary name beside ``path`` that takes its place only if the block succeeds.

    Raises:
        WriteError: for whatever the operating system refuses.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}{UNFINISHED}", suffix=path.suffix)
        temporary = Path(name)
        os.close(handle)
        yield temporary
        _settle(temporary)
        os.replace(temporary, path)
    except WriteError:
        raise
    except OSError as error:
        raise explained(error, path) from error
    finally:
        if temporary:
            with suppress(OSError):  # a disk that became read-only keeps it; the next launch sweeps
                temporary.unlink(missing_ok=True)


def _settle(path):
    """Give a new file the usual rights, and wait for the disk: some tell of a full disk no earlier."""
    os.chmod(path, 0o666 & ~_umask())  # mkstemp is private; results are not
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask():
    current = os.umask(0)
    os.umask(current)
    return current


def trouble_with(folder):
    """Why nothing can be written to ``folder``, as a sentence; None if all is well. A new folder is made."""
    folder = Path(folder)
    if folder.is_symlink() and not folder.exists():
        return f"{folder} is a link to {os.readlink(folder)}, which is not there; mount that disk, or remove the link"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**16))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return str(explained(error, f"to {folder}"))
    return None


def sweep(folder):
    """Remove what killed jobs left half-written under ``folder``; only when no job is alive.

    Returns:
        the paths that are gone.
    """
    gone, folder = [], Path(folder)
    linked = [path for path in folder.glob("*") if path.is_symlink() and path.is_dir()]  # a run on another disk
    for parent, _, names in chain(*map(os.walk, [folder, *linked])):
        for name in names:
            if name.startswith(".") and UNFINISHED in name:
                with suppress(OSError):
                    (path := Path(parent, name)).unlink()
                    gone.append(path)
    return gone
