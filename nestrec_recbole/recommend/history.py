"""A history as JSON lines: one item each, oldest first, also items that no catalogue knows."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nestrec_recbole.errors import NestRecError, first_line, unknown

KEYS = ("parent_asin", "combined_text", "image_url", "image_path")


@dataclass(frozen=True)
class HistoryItem:
    """One line of a history file.

    Attributes
    ----------
    token : str
        The item's id.
    text, image_url, image_path : str
        Empty where they are not given. The text is read as the first text field of a model.
    where : str
        File and line, for what is said of it.
    """

    token: str
    text: str = ""
    image_url: str = ""
    image_path: str = ""
    where: str = "items"

    def with_more(self, other: HistoryItem) -> HistoryItem:
        """The same with what only the other one, of the same item, says."""
        has_image = self.image_url or self.image_path
        image = {} if has_image else {"image_url": other.image_url, "image_path": other.image_path}
        return replace(self, text=self.text or other.text, **image)


def read_history(path: str | Path) -> list[HistoryItem]:
    """Read lines of ``{"parent_asin": ..., "combined_text": ..., "image_url": ... or "image_path": ...}``.

    All but ``parent_asin`` may be left out; paths are relative to the file. Empty lines are passed over.

    Raises
    ------
    NestRecError
        When the file cannot be read or has no item; when a line is not JSON, has an unknown key, no ``parent_asin``, a
        value that is no text, or two images.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise NestRecError(f"{path}: cannot be read ({error.strerror}); expected a file of JSON lines") from None
    items = [_read_line(line, path, number) for number, line in enumerate(lines, start=1) if line.strip()]
    if not items:
        raise NestRecError(f"{path}: no item in it; expected a JSON line for each, oldest first")
    return items


def _read_line(line: bytes, path: Path, number: int) -> HistoryItem:
    where = f"{path}: line {number}"
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:  # of the JSON, or of its encoding
        raise NestRecError(f"{where}: not valid JSON ({first_line(error)}); expected one object a line") from None
    return item_of(found, where, path.parent)


def item_of(found: Any, where: str, folder: Path) -> HistoryItem:
    """An item from a dict with the keys of a history file; paths of images are relative to ``folder``.

    Raises
    ------
    NestRecError
        As :func:`read_history`.
    """
    if not isinstance(found, dict):
        raise NestRecError(f"{where}: {type(found).__name__} found; expected an object with {', '.join(KEYS)}")
    for key, value in found.items():
        _check(where, key, value)
    texts = {key: (found.get(key) or "").strip() for key in KEYS}
    if not texts["parent_asin"]:
        raise NestRecError(f"{where}: no parent_asin; expected the item's id")
    if texts["image_url"] and texts["image_path"]:
        raise NestRecError(f"{where}: image_url and image_path are both there; give one of the two")
    image_path = str(folder / texts["image_path"]) if texts["image_path"] else ""
    return HistoryItem(texts["parent_asin"], texts["combined_text"], texts["image_url"], image_path, where)


def _check(where: str, key: str, value: Any) -> None:
    if key not in KEYS:
        raise NestRecError(f"{where}: {unknown('key', key, KEYS)}")
    if value is not None and not isinstance(value, str):
        raise NestRecError(f"{where}: {key} is {value!r} ({type(value).__name__}); expected a text")
