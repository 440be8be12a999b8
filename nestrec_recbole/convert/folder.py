"""Where a dataset is written: to a draft beside its place, which it takes as a whole."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from nestrec_recbole.errors import NestRecError


def check_target(data_path: Path, name: str) -> Path:
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise NestRecError(f"dataset name {name!r}: expected letters, digits, '_', '-', '.' or '+'; it names a folder")
    target = data_path / name
    _recover(target)
    holds_something = target.exists() and any(target.iterdir() if target.is_dir() else [target])
    if holds_something and not (target / "dataset.json").is_file():
        raise NestRecError(f"{target}: not written by `nestrec convert`, and kept; choose another name or move it")
    return target


@contextmanager
def draft_of(target: Path) -> Iterator[Path]:
    """A folder beside the target that is gone afterwards, unless it has become the target."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-draft-{os.getpid()}-", dir=target.parent))
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
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-work-{os.getpid()}-", dir=place))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def replace(target: Path, draft: Path) -> None:
    """Put the draft in the target's place; at no moment is the only good copy in danger."""
    if not target.exists():
        draft.rename(target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-{os.getpid()}-", dir=target.parent)) / target.name
    target.rename(old)
    try:
        draft.rename(target)
    except OSError:
        old.rename(target)
        raise
    _carry_over(old, target)
    shutil.rmtree(old.parent)


def _carry_over(old: Path, target: Path) -> None:
    """Keep what an earlier conversion did not write: encoded features, settings, files of the user's own."""
    written = json.loads((old / "dataset.json").read_text(encoding="utf-8")).get("files", {})
    ours = {"dataset.json", *(name.partition("/")[0] for name in written)}
    for entry in old.iterdir():
        if entry.name not in ours and not (target / entry.name).exists():
            entry.rename(target / entry.name)


def _recover(target: Path) -> None:
    """Clear away what conversions left that were killed; bring back the dataset if it was on its way."""
    for left in target.parent.glob(f".{glob.escape(target.name)}-*-*"):
        kind, _, owner = left.name.removeprefix(f".{target.name}-").partition("-")
        owner = owner.partition("-")[0]
        if kind not in ("draft", "work", "old") or not owner.isdecimal() or psutil.pid_exists(int(owner)):
            continue
        if kind == "old" and not target.exists() and (left / target.name).is_dir():
            (left / target.name).rename(target)
        shutil.rmtree(left, ignore_errors=True)
