"""Where a dataset is written: to a draft beside its place, which it takes as a whole."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nestrec_recbole.errors import NestRecError


def check_target(data_path: Path, name: str) -> Path:
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise NestRecError(f"dataset name {name!r}: expected letters, digits, '_', '-', '.' or '+'; it names a folder")
    target = data_path / name
    holds_something = target.exists() and any(target.iterdir() if target.is_dir() else [target])
    if holds_something and not (target / "dataset.json").is_file():
        raise NestRecError(f"{target}: not written by `nestrec convert`, and kept; choose another name or move it")
    return target


@contextmanager
def draft_of(target: Path) -> Iterator[Path]:
    """A folder beside the target that is gone afterwards, unless it has become the target."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-draft-", dir=target.parent))
    draft.chmod(0o755)  # mkdtemp makes it private; a dataset is as readable as any other folder
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def work_folder(place: Path | None, target: Path) -> Iterator[Path]:
    place = place or target.parent
    if not place.is_dir():
        raise NestRecError(f"temporary directory {place}: no such folder")
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-work-", dir=place))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def replace(target: Path, draft: Path) -> None:
    """Put the draft in the target's place; at no moment is the only good copy in danger."""
    if not target.exists():
        draft.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent)) / target.name
    target.rename(old)
    try:
        draft.rename(target)
    except OSError:
        old.rename(target)
        raise
    if (old / "features").is_dir():
        (old / "features").rename(target / "features")
    shutil.rmtree(old.parent)
