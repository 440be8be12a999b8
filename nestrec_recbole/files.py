"""Files and folders that are written whole or not at all, and what is in them."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil


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

    A reader sees the old file or the new one, never a part; after an error the old one is as it was. The path may be
    made a folder: a reader then sees the old one, the new one, or for a moment none.

    Examples
    --------
    >>> with written_whole("notes.txt") as draft:  # doctest: +SKIP
    ...     draft.write_text("all of it")
    """
    path = Path(os.path.realpath(path))  # what a link points to is replaced, not the link
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    for left in path.parent.glob(f".{glob.escape(path.name)}-*"):  # by a process that was killed
        owner = left.name.rpartition("-")[2]
        if owner.isdecimal() and not psutil.pid_exists(int(owner)):
            _remove(left)
    _remove(draft)  # of a process that had this number
    try:
        yield draft
        if draft.is_dir() and path.exists():  # a folder takes no other's place
            old = draft.with_name(f".{path.name}-old-{os.getpid()}")
            os.replace(path, old)
            os.replace(draft, path)
            _remove(old)
        else:
            os.replace(draft, path)
    finally:
        _remove(draft)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
