"""Files as numbered lines, for readings that say where something is wrong."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nestrec_recbole.errors import NestRecError

LONGEST_LINE = 16 << 20  # bytes; DuckDB holds two of them per thread


def check_files(paths: Sequence[str | Path]) -> tuple[Path, ...]:
    """Refuse what is not there or is no file.

    Raises
    ------
    NestRecError
        A path that is missing or a folder, or no path at all.
    """
    for path in map(Path, paths):
        if path.is_dir():
            raise NestRecError(f"{path}: is a folder; expected a file")
        if not path.is_file():
            raise NestRecError(f"{path}: file not found; check the path")
    if not paths:
        raise NestRecError("no source file was given")
    return tuple(map(Path, paths))


def extension(path: Path) -> str:
    """The extension of a file, or of what is packed in a ``.gz``."""
    return Path(path.name.removesuffix(".gz")).suffix


def open_bytes(path: Path) -> Any:
    """Open a file, unpacked if its name ends in ``.gz``."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")


def byte_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines of a file with their numbers from 1, without line ends and byte order mark.

    Raises
    ------
    NestRecError
        A line longer than 16 MiB, or a gzip stream that is cut off or damaged.
    """
    number = 0
    try:
        with open_bytes(path) as file:
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise NestRecError(f"{path}: line {number}: longer than {LONGEST_LINE >> 20} MiB; cut or remove it")
                yield number, line.removeprefix(b"\xef\xbb\xbf" if number == 1 else b"").rstrip(b"\r\n")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(f"{path}: line {number + 1}", error) from None


def check_sum(path: Path) -> None:
    """Compare a ``.gz`` with its own check sum, which DuckDB does not look at.

    Raises
    ------
    NestRecError
        When they differ.
    """
    try:
        with open_bytes(path) as file:
            while path.suffix == ".gz" and file.read(1 << 20):
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(str(path), error) from None


def _damaged(where: str, error: Exception) -> NestRecError:
    return NestRecError(f"{where}: the gzip stream is cut off or damaged ({error}); fetch the file again")


def check_line_ends(path: Path) -> None:
    """Refuse a file some of whose lines end with a carriage return and others not, which DuckDB cannot read.

    Raises
    ------
    NestRecError
        With the first line that does not end as the one before.
    """
    with open_bytes(path) as file:
        first = file.readline().endswith(b"\r\n")
        for number, line in enumerate(file, start=2):
            if line.endswith(b"\n") and line.endswith(b"\r\n") != first:
                ends = ("\\r\\n", "\\n") if first else ("\\n", "\\r\\n")
                raise NestRecError(
                    f"{path}: line {number}: ends with {ends[1]}, those before with {ends[0]}; make them the same"
                )


def decode(path: Path, number: int, line: bytes, encoding: str = "utf-8") -> str:
    """Text of a line."""
    try:
        return line.decode(encoding)
    except UnicodeDecodeError as error:
        why = f"not valid UTF-8 text ({error.reason} at byte {error.start + 1})"
        raise NestRecError(f"{path}: line {number}: {why}; convert the file to UTF-8") from None
