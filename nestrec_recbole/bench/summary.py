"""A results folder in plain tables: every run, and means over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from nestrec_recbole.bench.progress import markdown
from nestrec_recbole.bench.results import read_runs
from nestrec_recbole.errors import NestRecError


def overview(folder: Path, metrics: Sequence[str]) -> str:
    """Markdown: means over seeds, row by row; a row whose runs all failed says why."""
    lines = []
    for (dataset, row), runs in _by_row(folder):
        done = [run for run in runs if run["status"] == "finished"]
        failed = [run["error"] for run in runs if run["status"] == "failed"]
        cells = [f"{sum(run['metrics'][m] for run in done) / len(done):.4f}" if done else "" for m in metrics]
        note = f"{len(failed)} of {len(runs)} failed: {failed[0]}" if failed else ""
        lines.append([dataset, row, *cells, ", ".join(str(run["seed"]) for run in done), note])
    return markdown(["dataset", "model", *metrics, "seeds", "failed"], lines)


def list_runs(folder: Path) -> str:
    """Tab-separated lines, one for every run of every suite in a folder.

    Raises
    ------
    NestRecError
        When there are no results in it.
    """
    folders = [file.parent for file in sorted([*folder.glob("results.json"), *folder.glob("*/results.json")])]
    if not folders:
        raise NestRecError(f"{folder}: no results here; `nestrec benchmark SUITE --results {folder}` makes some")
    lines = ["suite\tdataset\trow\tseed\tstatus\tmetrics\tseconds\tstarted\tkey"]
    for place in folders:
        metrics = yaml.safe_load((place / "suite.yaml").read_text(encoding="utf-8"))["metrics"]
        lines += ["\t".join(map(str, (place.name, *_cells(run, metrics)))) for run in read_runs(place)]
    return "\n".join(lines)


def count_failed(folder: Path) -> int:
    """How many runs of a results folder failed."""
    return sum(run["status"] == "failed" for run in read_runs(folder))


def _cells(run: dict[str, Any], metrics: Sequence[str]) -> tuple[Any, ...]:
    said, seconds = run["error"], ""
    if run["status"] == "finished":
        said = ", ".join(f"{name} {run['metrics'][name]:.4f}" for name in metrics)
        seconds = f"{sum(run['seconds'][part] for part in ('prepare', 'train', 'evaluate')):.1f}"
    return (run["dataset"], run["row"], run["seed"], run["status"], said, seconds, run["started"], run["key"])


def _by_row(folder: Path) -> list[tuple[tuple[str, str], list[dict[str, Any]]]]:
    """The runs of each row on each dataset, in the order of the suite."""
    suite = yaml.safe_load((folder / "suite.yaml").read_text(encoding="utf-8"))
    rows, datasets = list(suite["models"]), list(suite["datasets"])

    def place(run: dict[str, Any]) -> tuple[int, int]:
        return datasets.index(run["dataset"]), rows.index(run["row"])

    runs = sorted(read_runs(folder), key=lambda run: (*place(run), run["seed"]))
    return [((datasets[d], rows[r]), list(own)) for (d, r), own in groupby(runs, key=place)]
