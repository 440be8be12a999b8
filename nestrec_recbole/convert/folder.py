"""Where a dataset is written: to a draft beside its place, which it takes as a whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nestrec_recbole.errors import NestRecError
from nestrec_recbole.files import flush, recover, replaced, temporary


def check_target(data_path: Path, name: str) -> Path:
    """The folder of a dataset, with what killed conversions left of it cleared away.

    Raises
    ------
    NestRecError
        When the name is none of a folder, or the folder holds what no conversion wrote, or does not say what one did.
    """
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise NestRecError(f"dataset name {name!r}: expected letters, digits, '_', '-', '.' or '+'; it names a folder")
    target = data_path / name
    recover(target, _carry_over)
    holds_something = target.exists() and any(target.iterdir() if target.is_dir() else [target])
    if holds_something and not (target / "dataset.json").is_file():
        raise NestRecError(f"{target}: not written by `nestrec convert`, and kept; choose another name or move it")
    if holds_something:
        _written(target)
    return target


@contextmanager
def draft_of(target: Path) -> Iterator[Path]:
    """A folder beside the target that is gone afterwards, unless it has become the target."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with temporary(target.parent, f".{target.name}.draft-") as draft:
        draft.mkdir()
        yield draft


@contextmanager
def work_folder(place: Path | None, target: Path) -> Iterator[Path]:
    """A folder for what a conversion needs on its way, which nobody else can read; gone afterwards.

    Parameters
    ----------
    place : Path, optional
        Where it lies; beside the target by default.
    target : Path
        The dataset's folder.

    Raises
    ------
    NestRecError
        When there is no such place.
    """
    place = place or target.parent
    if not place.is_dir():
        raise NestRecError(f"temporary directory {place}: no such folder")
    with temporary(place, f".{target.name}.work-") as work:
        work.mkdir(mode=0o700)
        yield work


def replace(target: Path, draft: Path) -> None:
    """Put the draft in the target's place; at no moment is the only good copy in danger."""
    flush(draft)
    replaced(target, draft, _carry_over)


def _carry_over(old: Path, target: Path) -> None:
    """Keep what an earlier conversion did not write: encoded features, settings, files of the user's own."""
    ours = {"dataset.json", *(name.partition("/")[0] for name in _written(old))}
    for entry in old.iterdir():
        if entry.name not in ours and not (target / entry.name).exists():
            entry.rename(target / entry.name)


def _written(folder: Path) -> list[str]:
    """The files that a conversion wrote, by its ``dataset.json``."""
    about = folder / "dataset.json"
    try:
        return list(json.loads(about.read_text(encoding="utf-8")).get("files", {}))
    except (ValueError, AttributeError):
        raise NestRecError(f"{about}: damaged, so that what is yours in that folder cannot be told; move it") from None
