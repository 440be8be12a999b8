"""A results folder: one folder per run under its key, written whole; what it says to the next call."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nestrec_recbole.bench.attempt import FORMAT
from nestrec_recbole.bench.suite import Suite
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.files import locked, written_whole
from nestrec_recbole.version import __version__

Place = tuple[str, str, int]  # row, dataset, seed
Labels = Callable[["int | None"], "list[dict[str, Any]]"]  # of the rows that share a run, by its threads
# What a run is called, which its key does not depend on; rows that come to the same settings share a run.
LABELS = ("row", "dataset", "data", "baseline", "settings", "tuning", "command")


class ResultsFolder:
    """``<results>/<suite>/``: ``runs/`` holds the runs of the suite as it is now, ``earlier/`` what it was before.

    Attributes
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, suite: Suite) -> None:
        """Make the folder, or take up one of this version.

        Raises
        ------
        NestRecError
            When it was written by another version, or for another suite, or is no results folder.
        """
        about = {"format": FORMAT, "nestrec_recbole": __version__, "suite": suite.name}
        file = self.path / "results.json"
        if not file.is_file() and self.path.is_dir() and any(self.path.glob("[!.]*")):
            raise NestRecError(f"{self.path}: holds other files and no results.json; give another --results")
        if file.is_file():
            found = _read_json(file)
            for key, value in about.items():
                if found.get(key) != value:
                    raise NestRecError(
                        f"{file}: {key} is {found.get(key)!r}, here it is {value!r}; give another --results, or move "
                        f"{self.path} away"
                    )
        else:
            _write(file, json.dumps(about, indent=1) + "\n")
        _write(self.path / "suite.yaml", suite.as_yaml())

    @contextmanager
    def held(self) -> Iterator[Path]:
        """Keep other calls out, and give a folder for drafts that goes when the block ends.

        Raises
        ------
        NestRecError
            When another process is at work here.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with locked(self.path / ".lock", f"{self.path}: {{}} is at work here; wait for it, or give another --results"):
            drafts = self.path / ".drafts"
            shutil.rmtree(drafts, ignore_errors=True)  # of a call that was killed
            drafts.mkdir()
            try:
                yield drafts
            finally:
                shutil.rmtree(drafts, ignore_errors=True)

    def bring_up_to_date(self, wanted: Mapping[Place, str | None], labels: Mapping[str, Labels]) -> None:
        """Let ``runs/`` hold, of the runs there are, those that are wanted, as they are called now.

        The others wait in ``earlier/``.

        Parameters
        ----------
        wanted : mapping
            (row, dataset, seed) of the whole suite to key; where that is None, what there is stays.
        labels : mapping
            Key to what a run of so many threads is called now, by one row or several.
        """
        runs, earlier = self.path / "runs", self.path / "earlier"
        runs.mkdir(exist_ok=True)
        for file in sorted(runs.glob("*/run.json")):
            about = _read_run(file)
            stay = [one for one in labels_of(about) if wanted.get(_place(about, one), "") is None]
            if about["key"] in labels or stay:
                self.label(about["key"], labels.get(about["key"]), stay)
            else:
                _move(file.parent, earlier)
        for key, now in labels.items():
            if (earlier / key / "run.json").is_file() and not (runs / key).exists():
                _move(earlier / key, runs)
                self.label(key, now)

    def status(self, key: str) -> str | None:
        """``finished`` or ``failed``; None where there is no such run."""
        file = self.path / "runs" / key / "run.json"
        return _read_json(file)["status"] if file.is_file() else None

    def label(self, key: str, labels: Labels | None, others: Sequence[dict[str, Any]] = ()) -> None:
        """Say what a run that is there is called: the rows that share it, each with its settings and command."""
        file = self.path / "runs" / key / "run.json"
        found = _read_json(file)
        threads = (found.get("environment") or {}).get("threads")  # its command repeats it as it was
        first, *more = (labels(threads) if labels else []) + list(others)
        now = {**_without(found, "also"), **first}
        now |= {"also": more} if more else {}
        if now != found:
            _write(file, json.dumps(now, indent=1) + "\n")

    def publish(self, key: str, files: Mapping[str, bytes]) -> None:
        """Write the files of a run, all of them or none."""
        with written_whole(self.path / "runs" / key) as draft:
            draft.mkdir()
            for name, content in files.items():
                (draft / name).write_bytes(content)


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """What ``run.json`` of every run in a results folder says, in the order of row, dataset and seed.

    A run that rows share is there once for each.

    Raises
    ------
    NestRecError
        When a file is damaged or of another format.
    """
    found = [_read_run(file) for file in sorted(folder.glob("runs/*/run.json"))]
    each = [{**_without(about, "also"), **label} for about in found for label in labels_of(about)]
    return sorted(each, key=lambda about: (about["dataset"], about["row"], about["seed"]))


def labels_of(about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a run is called, by every row that shares it."""
    return [{name: about[name] for name in LABELS if name in about}, *about.get("also", [])]


def _without(about: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in about.items() if name != key}


def _place(about: Mapping[str, Any], label: Mapping[str, Any]) -> Place:
    return label["row"], label["dataset"], about["seed"]


def _read_run(file: Path) -> dict[str, Any]:
    about = _read_json(file)
    if about.get("format") != FORMAT:
        raise NestRecError(
            f"{file}: format {about.get('format')!r}, expected {FORMAT}; give another --results, or move it away"
        )
    return about


def _move(folder: Path, to: Path) -> None:
    to.mkdir(exist_ok=True)
    if (to / folder.name).exists():
        shutil.rmtree(to / folder.name)
    os.replace(folder, to / folder.name)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise NestRecError(f"{file}: not valid JSON ({error}); remove {file.parent}") from None
    if not isinstance(found, dict):
        raise NestRecError(f"{file}: expected an object, found {type(found).__name__}; remove {file.parent}")
    return found


def _write(file: Path, text: str) -> None:
    with written_whole(file) as draft:
        draft.write_text(text, encoding="utf-8")
