"""Read the folder that ``nestrec benchmark`` writes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from nestrec_recbole.bench.attempt import FORMAT
from nestrec_recbole.bench.results import labels_of
from nestrec_recbole.errors import NestRecError, first_line, unknown
from nestrec_recbole.evaluate.saved import read_ranks

_NUMBER = (int, float)
_TYPES: dict[str, Any] = {
    **{"key": str, "row": str, "model": str, "dataset": str, "data": str, "seed": int, "status": str},
    **{"baseline": bool, "settings": dict, "config": dict, "metrics": dict, "valid": dict, "history": list},
    **{"seconds": dict, "environment": dict, "error": str, "code": str, "started": str, "command": str},
    **{"tuning": dict, "peak_memory_mib": _NUMBER, "parameters": int},
}
_NEEDED = ("key", "row", "model", "dataset", "data", "seed", "status")


@dataclass
class Record:
    """One run as ``run.json`` tells it; a failed one may lack all but its name, place and error."""

    folder: Path
    key: str
    row: str
    model: str
    dataset: str
    data: str
    seed: int
    status: str
    baseline: bool = False
    error: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    valid: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    tuning: dict[str, Any] = field(default_factory=dict)
    peak_memory_mib: float | None = None
    parameters: int | None = None
    code: str = ""
    started: str = ""
    command: str = ""

    @property
    def finished(self) -> bool:
        """Whether it has results."""
        return self.status == "finished"

    def validated(self, metric: str) -> float | None:
        """A metric on validation data, of the epoch whose weights were tested; None where it was not computed."""
        of_epoch = (one for one in self.history if one.get("epoch") == self.valid.get("epoch"))
        value = next(of_epoch, {}).get(f"valid_{metric}")
        return None if value is None else float(value)

    @cached_property
    def ranks(self) -> pd.DataFrame:
        """``ranks.parquet``: where every held-out target came out."""
        return read_ranks(self.folder / "ranks.parquet")


@dataclass
class DatasetCard:
    """One dataset as the runs saw it."""

    folder: Path
    card: dict[str, Any]
    items: pd.DataFrame | None


@dataclass
class Results:
    """A results folder, read.

    Attributes
    ----------
    folder : Path
    suite : dict
        ``suite.yaml``.
    version : str
        Of the package that wrote it.
    runs : list of Record
        In the order of the suite's rows, then by seed.
    data : dict
        Name of a folder under ``datasets/`` to what is in it.
    """

    folder: Path
    suite: dict[str, Any]
    version: str
    runs: list[Record]
    data: dict[str, DatasetCard]

    @property
    def name(self) -> str:
        """What the suite is called."""
        return str(self.suite.get("name") or self.folder.name)

    @property
    def planned(self) -> list[tuple[str, str, int]]:
        """(row, dataset, seed) of every run of the suite."""
        rows, datasets = list(self.suite.get("models") or {}), list(self.suite.get("datasets") or {})
        seeds = list(self.suite.get("seeds") or [])
        return [(str(row), str(data), seed) for data in datasets for row in rows for seed in seeds]

    @property
    def missing(self) -> list[tuple[str, str, int]]:
        """Those that have neither finished nor failed."""
        there = {(run.row, run.dataset, run.seed) for run in self.runs}
        return [one for one in self.planned if one not in there]


def read_results(folder: str | Path) -> Results:
    """Read a results folder: every run, finished or failed, and the datasets they saw.

    Raises
    ------
    NestRecError
        When it is no results folder, of another format, holds no run, or a file in it is broken.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NestRecError(f"{folder}: no such folder; `nestrec benchmark SUITE` writes one")
    head = folder / "results.json"
    if not head.is_file():
        raise NestRecError(f"{folder}: no results.json, so no results of `nestrec benchmark`; name the suite's folder")
    about = _read_json(head)
    _check_format(head, about)
    suite = _read_suite(folder / "suite.yaml")
    runs = [run for path in sorted(folder.glob("runs/*/run.json")) for run in _read_records(path.parent)]
    if not runs:
        raise NestRecError(f"{folder}: no runs in it yet; `nestrec benchmark` with the suite's file makes them")
    rows, datasets = list(suite.get("models") or {}), list(suite.get("datasets") or {})
    runs.sort(key=lambda run: (_place(run.dataset, datasets), run.data, _place(run.row, rows), run.seed))
    data = {name: _read_data(folder / "datasets" / name) for name in dict.fromkeys(run.data for run in runs)}
    return Results(folder, suite, str(about.get("nestrec_recbole", "")), runs, data)


def read_run(folder: str | Path) -> Record:
    """Read the ``run.json`` of one run; of rows that share it, as the first calls it.

    Raises
    ------
    NestRecError
        When it is missing, of another format, or a field is missing or of the wrong type.
    """
    return _read_records(folder)[0]


def read_ranks_file(path: str | Path) -> Record:
    """A run of which nothing is known but its ranks, such as ``nestrec run``, ``pipeline`` and ``quickstart`` leave.

    Raises
    ------
    NestRecError
        As :func:`~nestrec_recbole.evaluate.saved.read_ranks`.
    """
    path = Path(path)
    name = path.parent.name if path.stem == "ranks" else path.stem.removesuffix("-ranks")
    record = Record(path.parent, key="", row=name, model="", dataset="", data="", seed=0, status="finished")
    record.ranks = read_ranks(path)
    return record


def _read_records(folder: str | Path) -> list[Record]:
    """One run, once for each row that shares it."""
    path = Path(folder) / "run.json"
    if not path.is_file():
        raise NestRecError(f"{path}: missing; expected the folder of a run, such as results/<suite>/runs/<key>")
    found = _read_json(path)
    _check_format(path, found)
    return [_record(path, {**found, **label}) for label in labels_of(found)]


def _record(path: Path, found: dict[str, Any]) -> Record:
    known = {one.name for one in fields(Record)}
    given = {key: value for key, value in found.items() if key in known and value is not None}
    for name in _NEEDED:
        if name not in given:
            raise NestRecError(f"{path}: no field {name!r}; run it again with `nestrec benchmark`")
    for name, value in given.items():
        expected = _TYPES[name] if isinstance(_TYPES[name], tuple) else (_TYPES[name],)
        if not isinstance(value, expected):
            named = " or ".join(one.__name__ for one in expected)
            raise NestRecError(f"{path}: field {name!r} is {value!r} ({type(value).__name__}); expected {named}")
    if given["status"] not in ("finished", "failed"):
        raise NestRecError(f"{path}: {unknown('status', given['status'], ('finished', 'failed'))}")
    return Record(folder=path.parent, **given)


def _place(name: str, names: list[str]) -> tuple[int, str]:
    return (names.index(name), name) if name in names else (len(names), name)


def _check_format(path: Path, found: dict[str, Any]) -> None:
    if found.get("format") != FORMAT:
        by = f", written by nestrec_recbole {found['nestrec_recbole']}" if "nestrec_recbole" in found else ""
        raise NestRecError(
            f"{path}: format {found.get('format')!r}{by}; this version reads format {FORMAT}: "
            "use that version, or run the suite again into another folder"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON and of UTF-8
        raise NestRecError(f"{path}: not valid JSON ({first_line(error)}); run the suite again") from None
    if not isinstance(found, dict):
        raise NestRecError(f"{path}: expected a JSON object, found {type(found).__name__}; run the suite again")
    return found


def _read_suite(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise NestRecError(f"{path}: not valid YAML ({first_line(error)})") from None
    return found if isinstance(found, dict) else {}


def _read_data(folder: Path) -> DatasetCard:
    card, items = folder / "card.json", folder / "items.parquet"
    return DatasetCard(
        folder, _read_json(card) if card.is_file() else {}, _read_items(items) if items.is_file() else None
    )


def _read_items(path: Path) -> pd.DataFrame:
    try:
        items = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise NestRecError(f"{path}: not a Parquet file ({first_line(error)}); run the suite again") from None
    for column in ("item", "train_count"):
        if column not in items:
            raise NestRecError(f"{path}: no column {column!r}; run the suite again")
    return items.assign(item=items["item"].astype(str))
