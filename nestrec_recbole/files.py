"""Files and folders that are written whole or not at all, and what is in them.

What is being written lies beside its place under a hidden name that says whose it is. What a killed process left there
goes when the same is written again: at once where the process was one of this machine, and after a week where it was
another's, whose processes cannot be seen from here.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from nestrec_recbole.errors import NestRecError

try:
    import fcntl
except ImportError:  # not on Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

FORGOTTEN = 7 * 24 * 3600  # seconds after which another machine's draft counts as abandoned


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to; it takes the place of ``path`` when the block ends well.

    A reader sees the old file or the new one, never a part, and so does who comes after a loss of power; after an error
    the old one is as it was. The path may be made a folder: a reader then sees the old one, the new one, or for a
    moment none.

    Examples
    --------
    >>> with written_whole("notes.txt") as draft:  # doctest: +SKIP
    ...     draft.write_text("all of it")
    """
    path = Path(os.path.realpath(path))  # what a link points to is replaced, not the link
    path.parent.mkdir(parents=True, exist_ok=True)
    recover(path)
    with temporary(path.parent, f".{path.name}.draft-") as draft:
        yield draft
        flush(draft)
        replaced(path, draft)


@contextmanager
def locked(path: Path, complaint: str) -> Iterator[None]:
    """Hold the lock of a file, which says whose it is; it ends with the block, or with the process.

    Raises
    ------
    NestRecError
        When another process holds it: ``complaint``, with that process for its ``{}``.
    """
    with open(path, "a+") as file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise NestRecError(complaint.format(file.read() or "another process")) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} of {socket.gethostname()}")
        file.flush()
        yield


@contextmanager
def temporary(folder: Path, prefix: str) -> Iterator[Path]:
    """A path in a folder that is this process's alone; what is there when the block ends goes.

    Its name is ``<prefix><host>-<process>-<random>``. Those of killed processes go when the block begins.
    """
    for left in abandoned(folder, prefix):
        remove(left)
    path = _own_path(folder, prefix)
    try:
        yield path
    finally:
        remove(path)


Carry = Callable[[Path, Path], None]


def replaced(path: Path, draft: Path, carry: Carry | None = None) -> None:
    """Put a draft in a path's place.

    Parameters
    ----------
    path, draft : Path
    carry : callable, optional
        Given the folder that was there, out of the way, and the new one: moves over what is to stay. Called again by
        :func:`recover` where a process was killed in it.
    """
    if not (draft.is_dir() and path.exists()):  # a folder takes no other's place
        os.replace(draft, path)
        return
    old = _own_path(path.parent, f".{path.name}.old-")
    os.rename(path, old)
    try:
        os.rename(draft, path)
    except OSError:
        os.rename(old, path)
        raise
    if carry is not None:
        carry(old, path)
    _discard(old, path)


def recover(path: Path, carry: Carry | None = None) -> None:
    """Clear away what killed processes left of writing a path; bring back, or end, what was being replaced."""
    for old in abandoned(path.parent, f".{path.name}.old-"):
        if path.exists():
            if carry is not None:
                carry(old, path)
            _discard(old, path)
        else:
            with suppress(OSError):  # another process was first
                os.rename(old, path)
    for draft in abandoned(path.parent, f".{path.name}.draft-"):
        remove(draft)


def _discard(old: Path, path: Path) -> None:
    """Remove what a path was before, under the name of a draft: what is left of it by a kill is carried nowhere."""
    dropped = _own_path(path.parent, f".{path.name}.draft-")
    os.rename(old, dropped)
    remove(dropped)


def abandoned(folder: Path, prefix: str) -> list[Path]:
    """The paths of :func:`temporary` whose processes are gone, as far as can be told from here."""
    return [path for path in folder.glob(f"{glob.escape(prefix)}*") if _is_abandoned(path, prefix)]


def _is_abandoned(path: Path, prefix: str) -> bool:
    named = re.fullmatch(r"(.+)-(\d+)-[0-9a-f]+", path.name.removeprefix(prefix))
    if named is None:
        return False
    host, process = named.groups()
    if host == socket.gethostname():
        return not psutil.pid_exists(int(process))
    try:
        return time.time() - path.stat().st_mtime > FORGOTTEN
    except FileNotFoundError:  # its process has ended
        return False


def flush(path: Path) -> None:
    """Have the disk hold a file, or every file of a folder, before it gets its name."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with open(file, "rb+") as opened:
                os.fsync(opened.fileno())


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it, as far as it is there, is ours, and nobody else is at it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _own_path(folder: Path, prefix: str) -> Path:
    return folder / f"{prefix}{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}"
