"""What was run, as lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nestrec_recbole.bench.report.results import Record, read_results
from nestrec_recbole.bench.report.rows import metrics_of
from nestrec_recbole.errors import NestRecError


def list_runs(folder: Path) -> str:
    """Tab-separated lines, one for every run of every suite in a folder.

    Raises
    ------
    NestRecError
        When there are no results in it.
    """
    places = [file.parent for file in sorted([*folder.glob("results.json"), *folder.glob("*/results.json")])]
    found = [read_results(place) for place in places if any(place.glob("runs/*/run.json"))]
    if not found:
        raise NestRecError(f"{folder}: no runs here; `nestrec benchmark SUITE --results {folder}` makes some")
    lines = ["suite\tdataset\trow\tseed\tstatus\tmetrics\tseconds\tstarted\tkey"]
    for results in found:
        metrics = metrics_of(results)
        lines += ["\t".join((results.name, *_cells(run, metrics))) for run in results.runs]
    return "\n".join(lines)


def _cells(run: Record, metrics: Sequence[str]) -> tuple[str, ...]:
    said, seconds = run.error, ""
    if run.finished:
        said = ", ".join(f"{name} {run.metrics[name]:.4f}" for name in metrics if name in run.metrics)
        seconds = f"{sum(run.seconds.get(part, 0.0) for part in ('prepare', 'train', 'evaluate')):.1f}"
    return (run.dataset, run.row, str(run.seed), run.status, said, seconds, run.started, run.key)
