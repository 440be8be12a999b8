"""What the charts draw, as plain values: curves, means, and the metric in slices of the held-out targets."""

from __future__ import annotations

from typing import Any

import numpy as np

from nestrec_recbole.bench.report.results import DatasetCard, Record
from nestrec_recbole.bench.report.rows import Group, RowResult
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.evaluate.saved import metric_of_rows, rows_of_metric
from nestrec_recbole.evaluate.slices import slicings


def chart_rows(group: Group) -> list[dict[str, Any]]:
    """Means, costs and curves of every row with results."""
    return [
        {
            "name": row.name,
            "means": {metric: row.mean(metric) for metric in sorted({m for run in row.finished for m in run.metrics})},
            "train": row.seconds("train"),
            "curves": [_curve(run) for run in row.finished if run.history],
        }
        for row in group.finished
    ]


def _curve(run: Record) -> dict[str, Any]:
    scored = [epoch for epoch in run.history if epoch.get("valid_score") is not None]
    return {
        "seed": run.seed,
        "epochs": [epoch["epoch"] + 1 for epoch in run.history],
        "loss": [epoch.get("train_loss") for epoch in run.history],
        "scored": [epoch["epoch"] + 1 for epoch in scored],
        "score": [epoch["valid_score"] for epoch in scored],
    }


def chart_slices(group: Group, data: DatasetCard, metric: str) -> list[dict[str, Any]]:
    """The metric of every row in every slice, each averaged over seeds; rows without ranks are left out.

    Slices that nobody falls into are left out, and divisions that leave a single slice.
    """
    found: dict[str, dict[str, Any]] = {}
    for row in group.finished:
        try:
            of_row = _slices_of(row, data, metric)
        except NestRecError:
            continue  # the table says why
        for name, (labels, counts, means) in of_row.items():
            filled = counts > 0
            if filled.sum() < 2:
                continue
            kept = [label for label, some in zip(labels, filled, strict=True) if some]
            of = dict(zip(kept, means[filled].tolist(), strict=True))
            one = found.setdefault(name, {"name": name, "labels": kept, "counts": counts[filled].tolist(), "rows": []})
            one["rows"].append({"name": row.name, "values": [of.get(label) for label in one["labels"]]})
    return list(found.values())


def _slices_of(row: RowResult, data: DatasetCard, metric: str) -> dict[str, tuple[list[str], np.ndarray, np.ndarray]]:
    runs = [
        (slicings(rows_of_metric(run.ranks, metric), data.items), metric_of_rows(run.ranks, metric))
        for run in row.finished
    ]
    return {
        slicing.name: (
            slicing.labels,
            slicing.counts,
            np.mean([of_run[place].means(values) for of_run, values in runs], axis=0),
        )
        for place, slicing in enumerate(runs[0][0])
    }
