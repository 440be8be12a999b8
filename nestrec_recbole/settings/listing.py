"""What a model's settings are, in the words of the files that they have their defaults from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from recbole.utils import get_model

from nestrec_recbole.errors import NestRecError
from nestrec_recbole.settings.roles import SHARED
from nestrec_recbole.settings.shipped import RECBOLES, files_of, files_of_recboles, folder, is_ours


def list_settings(model: str, words: Sequence[str] = ()) -> str:
    """The settings of a model as YAML, with what their files say of them; each once, with the default that holds.

    That is the one of `nestrec run`, benchmarks and tuning; ``run_recbole`` gives RecBole's models RecBole's own.

    Parameters
    ----------
    model : str
        Ours or RecBole's.
    words : sequence of str
        Leave out settings that have none of them in their name, default or comment; case does not count.

    Raises
    ------
    NestRecError
        When there is no such model, or nothing has these words.
    """
    listed: set[str] = set()
    found = []
    for path, names in _files(model):
        entries = [entry for entry in _entries(path.read_text("utf-8")) if entry.name not in listed]
        entries = [entry for entry in entries if names is None or entry.name in names]
        listed |= {entry.name for entry in entries}
        if words:
            entries = [entry for entry in entries if any(word.lower() in entry.text.lower() for word in words)]
        if entries:
            texts = [entry.text if words else entry.heading + entry.text for entry in entries]
            found.append("\n".join([f"# {path}", *texts]))
    if not found:
        raise NestRecError(f"no setting of {model} has {' or '.join(map(repr, words))} in its name or comment")
    return "\n\n".join(found)


def _files(model: str) -> list[tuple[Path, Sequence[str] | None]]:
    """Those of a model's defaults, the ones that go over others first; which of their settings hold, None: all."""
    of_recbole: list[tuple[Path, Sequence[str] | None]] = [
        (RECBOLES / "dataset" / "sample.yaml", None),
        (RECBOLES / "overall.yaml", None),
    ]
    if is_ours(model):
        return [*((path, None) for path in reversed(files_of(model))), *of_recbole]
    try:
        get_model(model)
    except ValueError as error:
        raise NestRecError(str(error)) from None
    shared = folder() / "overall.yaml", SHARED
    return [*((path, None) for path in reversed(files_of_recboles(model))), shared, *of_recbole]


class _Entry(NamedTuple):
    name: str
    heading: str  # what stands above it and is no comment on it
    text: str


def _entries(text: str) -> Iterator[_Entry]:
    """The settings of a YAML file, each with the comment above it, which begins with a type, and all of its lines."""
    blocks = re.split(r"^(?=\w+\s*:)", text, flags=re.M)  # a block ends with what stands above the next
    above = blocks[0]
    for block in blocks[1:]:
        own = re.match(r".*(?:\n[ -].*)*", block)
        assert own is not None
        comment = above[above.find("# (") :] if "# (" in above else ""
        heading = above.removesuffix(comment).strip()
        yield _Entry(block.partition(":")[0].strip(), heading and f"\n{heading}\n", comment + own[0])
        above = block[own.end() :]
