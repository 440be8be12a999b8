"""What reading an ``.item`` file has told of its columns, kept so that an unchanged file is not read again."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from nestrec_recbole.data.features import feature_folder
from nestrec_recbole.encode.sources import item_path
from nestrec_recbole.files import sha256_of, written_whole

VERSION = 1  # of what is said of a column


class KnownColumns:
    """Facts about the columns of a dataset's ``.item`` file; they hold while it is the same, read in the same way.

    Parameters
    ----------
    config : recbole.config.Config

    Attributes
    ----------
    path : Path
        ``columns.json`` beside the features. The file is a cache: it may be deleted at any time.
    """

    def __init__(self, config: Any) -> None:
        self.path = feature_folder(config) / "columns.json"
        read_by = ("ITEM_ID_FIELD", "field_separator", "seq_separator", "encoding")
        self._of = [VERSION, _digest(item_path(config)), *(config[name] for name in read_by)]

    def get(self, name: str, fact: str, default: Any = None) -> Any:
        """What is known of a column; ``default`` where it is not."""
        return self._read().get(name, {}).get(fact, default)

    def put(self, facts: dict[str, dict[str, Any]]) -> None:
        """Keep facts about columns, by name; what was said of another content of the file goes."""
        columns = self._read()
        columns |= {name: {**columns.get(name, {}), **more} for name, more in facts.items()}
        with suppress(OSError), written_whole(self.path) as draft:  # where nothing may be written, it is read again
            draft.write_text(json.dumps({"of": self._of, "columns": columns}, indent=1) + "\n", encoding="utf-8")

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            columns = {name: dict(facts) for name, facts in found["columns"].items()}
            return columns if found["of"] == self._of else {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none yet, or damaged: a cache is made anew
            return {}


def _digest(path: Path) -> str:
    about = path.stat()
    return _digest_at(path, about.st_size, about.st_mtime_ns)


@lru_cache
def _digest_at(path: Path, size: int, mtime_ns: int) -> str:
    """SHA-256 of a file, which is read once by a process that asks for several columns."""
    return sha256_of(path)
