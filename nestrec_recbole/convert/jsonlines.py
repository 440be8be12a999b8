"""Files of one JSON object a line."""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nestrec_recbole.convert.lines import LONGEST_LINE, byte_lines, decode, open_bytes
from nestrec_recbole.convert.sources import Record, Source, file_list, struct
from nestrec_recbole.errors import NestRecError


@dataclass(frozen=True)
class JsonLines(Source):
    """One JSON object a line, ``.jsonl`` or ``.jsonl.gz``; ``columns`` are read as text, ``nested`` ones as JSON."""

    columns: tuple[str, ...]
    nested: tuple[str, ...] = ()

    def sql(self) -> str:
        """See :class:`Source`."""
        kinds = (
            struct(self.columns)[:-1] + ", " + struct(self.nested, "JSON")[1:] if self.nested else struct(self.columns)
        )
        return (
            f"read_json({file_list(self.files)}, columns = {kinds}, format = 'newline_delimited', records = true, "
            f"maximum_object_size = {LONGEST_LINE})"
        )

    def walk(self) -> Iterator[Record]:
        """See :class:`Source`."""
        return json_records(self.files)

    def prepared(self, folder: Path) -> Source:
        """See :class:`Source`."""
        return replace(self, files=tuple(without_mark(path, folder) for path in self.files))


@dataclass(frozen=True)
class JsonObjects(Source):
    """One JSON object a line, whatever its keys; a single column ``json``."""

    def sql(self) -> str:
        """See :class:`Source`."""
        return f"read_ndjson_objects({file_list(self.files)}, maximum_object_size = {LONGEST_LINE})"

    def walk(self) -> Iterator[Record]:
        """See :class:`Source`."""
        return json_records(self.files)

    def prepared(self, folder: Path) -> Source:
        """See :class:`Source`."""
        return replace(self, files=tuple(without_mark(path, folder) for path in self.files))


def without_mark(path: Path, folder: Path) -> Path:
    """The file, or a copy without its byte order mark, which DuckDB's JSON reader refuses."""
    try:
        with open_bytes(path) as file:
            if file.read(3) != b"\xef\xbb\xbf":
                return path
            copy = copy_in(folder, path)
            with open(copy, "wb") as target:
                shutil.copyfileobj(file, target)
            return copy
    except (EOFError, OSError, zlib.error):
        return path  # DuckDB and the second reading say what is wrong with it


def copy_in(folder: Path, path: Path) -> Path:
    """Where a copy of a file goes."""
    return folder / f"{hashlib.sha256(str(path).encode()).hexdigest()[:16]}.jsonl"


def json_records(files: Sequence[Path]) -> Iterator[Record]:
    """Parse one line after the other; blank lines are none."""
    for path in files:
        for number, line in byte_lines(path):
            if line.strip(b" \t\r"):
                yield f"{path}: line {number}", _parse_object(path, number, line)


def _parse_object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    text = decode(path, number, line)
    try:
        found = json.loads(text, object_pairs_hook=_without_repeats, parse_int=str, parse_float=str)
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        why = "holds half of a surrogate pair, which is no text"
    except RecursionError:
        why = "is nested too deeply"
    except ValueError as error:
        why = f"is not valid JSON ({error})"
    else:
        if isinstance(found, dict):
            return found
        why = f"is {text[:40]!r}, expected a JSON object {{...}}"
    raise NestRecError(f"{path}: line {number}: the line {why}; fix or remove it")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    repeated = [key for place, key in enumerate(keys) if key in keys[:place]]
    if repeated:
        raise ValueError(f"key {repeated[0]!r} appears twice")
    return dict(pairs)
