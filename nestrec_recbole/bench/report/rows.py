"""Rows of the table: runs of one model on one dataset over seeds, and each row against the best baseline."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from nestrec_recbole.bench.report.results import Record, Results
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.evaluate.saved import metric_of_users, parse_metric, same_targets
from nestrec_recbole.evaluate.significance import Comparison, compare, holm, verdict

USUAL = ("ndcg@10", "ndcg@10_f", "recall@10", "recall@10_f")


@dataclass
class RowResult:
    """One model on one dataset, over all its seeds.

    Attributes
    ----------
    against : RowResult or None
        What this row is compared with: of the baselines, or where there are none of all rows, the one that is best on
        validation data. (Against the best on test data chance alone would find rows worse than it.)
    comparison : Comparison or None
        None where the row was not tested; ``untested`` says why.
    p : float or None
        Adjusted for all comparisons of the table (Holm).
    """

    name: str
    runs: list[Record]
    against: RowResult | None = None
    comparison: Comparison | None = None
    untested: str = ""
    p: float | None = None

    @property
    def finished(self) -> list[Record]:
        """Runs that have results."""
        return [run for run in self.runs if run.finished]

    @property
    def failed(self) -> list[Record]:
        """Runs that have an error instead."""
        return [run for run in self.runs if not run.finished]

    @property
    def baseline(self) -> bool:
        """Whether the suite calls it one."""
        return self.runs[0].baseline

    @property
    def seeds(self) -> list[int]:
        """Seeds of the finished runs."""
        return [run.seed for run in self.finished]

    @property
    def verdict(self) -> str:
        """What the test says of the row: see :func:`~nestrec_recbole.evaluate.significance.verdict`."""
        if self.comparison is None or self.p is None:
            return ""
        return verdict(self.comparison.difference, self.p)

    def values(self, metric: str) -> list[float]:
        """A metric of every finished run that has it."""
        return [float(run.metrics[metric]) for run in self.finished if run.metrics.get(metric) is not None]

    def mean(self, metric: str) -> float | None:
        """Mean over seeds; None where no run has it."""
        return _mean(self.values(metric))

    def validated(self, metric: str) -> float | None:
        """Mean over seeds on validation data, of the epochs whose weights were tested; None where no run has it."""
        return _mean([value for run in self.finished if (value := run.validated(metric)) is not None])

    def spread(self, metric: str) -> float | None:
        """Standard deviation between seeds; None where there is one seed only."""
        values = self.values(metric)
        return float(np.std(values, ddof=1)) if len(values) > 1 else None

    @property
    def tuning(self) -> str:
        """What tuning the row got, in words: ``20 trials, 214 epochs``, or why it got none."""
        got = self.runs[0].tuning
        if not got.get("trials"):
            return f"not tuned: {got['why']}" if got.get("why") else "not tuned"
        epochs = f", {got['epochs']} epochs" if got.get("epochs") else ""
        return f"{got['trials']} trial{'s' * (got['trials'] != 1)}{epochs}"

    def seconds(self, name: str) -> float | None:
        """Mean over seeds of ``train``, ``per_epoch``, ``evaluate`` or ``prepare``."""
        return _mean([run.seconds[name] for run in self.finished if run.seconds.get(name) is not None])

    @property
    def peak_memory_mib(self) -> float | None:
        """The largest of the seeds."""
        return max((run.peak_memory_mib for run in self.finished if run.peak_memory_mib is not None), default=None)

    @property
    def parameters(self) -> int | None:
        """How many the model has."""
        return next((run.parameters for run in self.finished if run.parameters is not None), None)


@dataclass
class Group:
    """The rows of one dataset, best first by the metric that is tested, those without results last."""

    data: str
    label: str
    rows: list[RowResult]
    published: list[dict[str, Any]] = field(default_factory=list)

    @property
    def finished(self) -> list[RowResult]:
        """Rows with results, best first."""
        return [row for row in self.rows if row.finished]


def group_rows(results: Results) -> list[Group]:
    """Gather runs into rows, rows into datasets, and compare each row with what it is tested ``against``."""
    tested = metrics_of(results)[0]
    groups = []
    for data, of_data in groupby(results.runs, key=lambda run: run.data):
        runs = list(of_data)
        rows = [RowResult(name, list(of_row)) for name, of_row in groupby(runs, key=lambda run: run.row)]
        rows.sort(key=lambda row: -_or(row.mean(tested), -np.inf))
        groups.append(Group(data, _label(results, data), rows, _published(results, runs[0].dataset)))
    for group in groups:
        _compare_rows(group.finished, tested)
    compared = [row for group in groups for row in group.rows if row.comparison]
    for row, p in zip(compared, holm([row.comparison.p for row in compared if row.comparison]), strict=True):
        row.p = p
    return groups


def metrics_of(results: Results) -> list[str]:
    """Columns of the table, the one that is tested first: as the suite says, else the usual ones that runs have."""
    if results.suite.get("metrics"):
        return [str(name) for name in results.suite["metrics"]]
    had = {name for run in results.runs for name in run.metrics}
    return [name for name in USUAL if name in had] or sorted(had)[:4] or ["ndcg@10"]


def spoken(metric: str) -> str:
    """``ndcg@10_f`` as it is printed: ``NDCG@10 F``."""
    name, _, rest = metric.partition("@")
    upper = {"ndcg": "NDCG", "mrr": "MRR", "map": "MAP"}
    cutoff, _, suffix = rest.partition("_")
    protocol = {"": " U", "f": " F", "c": " of candidates"}.get(suffix, f" {suffix}")
    if not suffix and name not in ("hit", "recall", "ndcg", "mrr", "map", "precision"):
        protocol = ""  # of lists; RecBole has them under U only
    return f"{upper.get(name, name[:1].upper() + name[1:])}{'@' if rest else ''}{cutoff}{protocol}"


def _compare_rows(rows: list[RowResult], metric: str) -> None:
    among = [row for row in rows if row.baseline] or rows
    # Rows come best on test data first: that is what is left where none was validated.
    reference = max(among, key=lambda row: _or(row.validated(metric), -np.inf), default=None)
    for row in rows:
        if reference is None or row is reference:
            continue
        row.against = reference
        try:
            row.comparison = compare_rows(row.finished, reference.finished, metric)
        except NestRecError as error:
            row.untested = str(error)


def compare_rows(a: list[Record], b: list[Record], metric: str) -> Comparison:
    """Compare the runs of one row with those of another, over users, and over seeds where both have several.

    Raises
    ------
    NestRecError
        When they saw other data or other test users, or ranks are missing or have not that metric.
    """
    parse_metric(metric)
    if a[0].data != b[0].data and a[0].data and b[0].data:  # of ranks alone it is not known
        raise NestRecError(f"{a[0].row} saw {a[0].data} and {b[0].row} saw {b[0].data}; only runs on one data compare")
    if not same_targets(a[0].ranks, b[0].ranks):
        raise NestRecError(
            f"{a[0].row} was tested on {len(a[0].ranks)} rows and {b[0].row} on {len(b[0].ranks)}, not the same "
            "(user, item) pairs; run both with the same data and splits"
        )
    first, second = (metric_of_users([run.ranks for run in runs], metric) for runs in (a, b))
    return compare(first.to_numpy(), second[first.columns].to_numpy())


def _label(results: Results, data: str) -> str:
    name = next(run.dataset for run in results.runs if run.data == data)
    return name if len({run.data for run in results.runs if run.dataset == name}) == 1 else data


def _published(results: Results, dataset: str) -> list[dict[str, Any]]:
    found = (results.suite.get("published") or {}).get(dataset) or []
    return [one for one in found if isinstance(one, dict) and "model" in one]


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _or(value: float | None, other: float) -> float:
    return other if value is None or not np.isfinite(value) else value
