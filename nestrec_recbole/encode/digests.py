"""What files hold, as SHA-256, without reading them again while size and time of change are the same."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from nestrec_recbole.files import sha256_of, written_whole

_COLUMNS = ["path", "size", "mtime_ns", "sha256"]


class FileDigests:
    """SHA-256 of files, kept in one Parquet file; asking again costs a ``stat`` per file.

    Parameters
    ----------
    path : Path
        Where they are kept. The file is a cache: it may be deleted at any time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, tuple[int, int, str]] | None = None

    def of(self, files: Sequence[Path]) -> list[str | None]:
        """SHA-256 of each file; None where there is no file."""
        known = self._read()
        found: list[str | None] = []
        changed = False
        for file in files:
            name = str(file.absolute())
            try:
                about = os.stat(name)
                if not stat.S_ISREG(about.st_mode):  # a device or a pipe may never end
                    found.append(None)
                    continue
                size, when, digest = known.get(name, (-1, -1, ""))
                if (size, when) != (about.st_size, about.st_mtime_ns):
                    digest = sha256_of(name)
                    known[name] = (about.st_size, about.st_mtime_ns, digest)
                    changed = True
                found.append(digest)
            except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in its name
                found.append(None)
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:
                    raise
                found.append(None)
        if changed:
            self._write(known)
        return found

    def of_tree(self, path: Path) -> str:
        """One digest of a file, or of all files of a folder that are not hidden, with their names."""
        inside = [f for f in path.rglob("*") if f.is_file() and not _is_hidden(f.relative_to(path))]
        files = sorted(inside) if path.is_dir() else [path]
        digest = hashlib.sha256()
        for file, sha256 in zip(files, self.of(files), strict=True):
            digest.update(f"{file.relative_to(path).as_posix()}\x00{sha256}\x01".encode())
        return digest.hexdigest()[:16]

    def _read(self) -> dict[str, tuple[int, int, str]]:
        if self._known is None:
            try:
                table = pd.read_parquet(self.path)[_COLUMNS]
                rows = table.itertuples(index=False, name=None)
                self._known = {name: (size, when, sha256) for name, size, when, sha256 in rows}
            except (OSError, ValueError, KeyError):  # none yet, or damaged: a cache is made anew
                self._known = {}
        return self._known

    def _write(self, known: dict[str, tuple[int, int, str]]) -> None:
        table = pd.DataFrame([(name, *about) for name, about in known.items()], columns=_COLUMNS)
        with suppress(OSError), written_whole(self.path) as draft:  # where nothing may be written, it is done again
            table.to_parquet(draft)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
