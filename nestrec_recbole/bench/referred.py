"""Files that a suite names: settings, as ``nestrec tune`` writes its best ones, and spaces of rows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nestrec_recbole.bench.keys import PROTOCOL
from nestrec_recbole.bench.resolve import REFERENCE, resolve
from nestrec_recbole.bench.suite import DatasetSpec, ModelSpec, Suite, read_yaml
from nestrec_recbole.errors import NestRecError

Files = dict[tuple[str, str | None], Path]  # (row, the dataset under its `on`) to file


def read_referred(found: Mapping[str, Any], beside: Path) -> tuple[dict[str, Any], Files, list[str]]:
    """Put the settings of a file where a suite names the file, and find its rows' spaces.

    Parameters
    ----------
    found : mapping
        What the suite's file says, well-formed.
    beside : Path
        The folder of the suite's file; paths are relative to the working directory, or else to this folder.

    Returns
    -------
    found : dict
    files : dict
        What came from where.
    wrong : list of str
        A line for every file that is not there, or says something else.
    """
    files: Files = {}
    wrong: list[str] = []

    def settings(own: Any, row: str, on: str | None) -> Any:
        if not isinstance(own, str):
            return own
        where = f"models.{row}.{'settings' if on is None else f'on.{on}'}"
        try:
            files[row, on] = _find(own, beside)
            said, twice = read_yaml(files[row, on])
        except NestRecError as error:
            wrong.append(f"{where}: {error}")
            return {}
        wrong.extend(f"{where}: {own}: {line}" for line in twice)
        return {key: value for key, value in said.items() if key != "seed"}  # of the search; a suite has its own

    models = {}
    for name, about in found["models"].items():
        own = dict(about or {})
        row = str(name)
        if isinstance(own.get("settings"), str):
            own["settings"] = settings(own["settings"], row, None)
        if own.get("on"):
            own["on"] = {on: settings(of, row, str(on)) for on, of in own["on"].items()}
        if own.get("space"):
            try:
                own["space"] = str(_find(own["space"], beside))
            except NestRecError as error:
                wrong.append(f"models.{row}.space: {error}")
                del own["space"]
        models[name] = own
    return {**found, "models": models}, files, wrong


def _find(named: str, beside: Path) -> Path:
    for path in (Path(named), beside / named):
        if path.is_file():
            return path
    raise NestRecError(f"{named}: no such file, neither here nor beside the suite")


def drop_protocol(suite: Suite, files: Files) -> tuple[Suite, list[str]]:
    """Leave out of settings from files what a dataset decides, once it is what the dataset says.

    Returns
    -------
    suite : Suite
    wrong : list of str
        A line for every key that says something else than the dataset.
    """
    wrong: list[str] = []

    def without(settings: dict[str, Any], row: ModelSpec, on: str | None) -> dict[str, Any]:
        if (row.name, on) not in files:
            return settings
        for data in suite.datasets:
            if on in (None, data.name):
                where = f"models.{row.name}: {files[row.name, on]}"
                wrong.extend(f"{where}: {line}" for line in _other_protocol(suite, data, settings))
        return {key: value for key, value in settings.items() if key not in PROTOCOL}

    rows = [
        replace(
            row,
            settings=without(row.settings, row, None),
            on={name: without(own, row, name) for name, own in row.on.items()},
        )
        for row in suite.rows
    ]
    return replace(suite, rows=tuple(rows)), wrong


def _other_protocol(suite: Suite, data: DatasetSpec, settings: Mapping[str, Any]) -> Iterator[str]:
    own = {key: value for key, value in suite.settings_of_data(data).items() if key in PROTOCOL}
    for key in settings:
        if key not in PROTOCOL:
            continue
        try:
            there = _resolved(data, own, key)
        except (ValueError, OSError):  # which is said of the dataset
            return
        try:
            differs = _resolved(data, {**own, key: settings[key]}, key) != there
        except (ValueError, OSError):  # does not even go with the rest
            differs = True
        if differs:
            yield f"{key} is {settings[key]!r}, but {there!r} on {data.name}; tune under the protocol of the suite"


def _resolved(data: DatasetSpec, settings: Mapping[str, Any], key: str) -> Any:
    value = resolve(REFERENCE, data.dataset, settings)[key]
    return os.path.realpath(value) if key == "data_path" else value
