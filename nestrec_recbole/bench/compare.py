"""Two runs, or two rows of a suite over their seeds, compared user by user."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nestrec_recbole.bench.report.results import Record, read_ranks_file, read_results, read_run
from nestrec_recbole.bench.report.rows import RowResult, compare_rows, spoken
from nestrec_recbole.bench.report.summary import p_value
from nestrec_recbole.bench.report.tables import OF_USERS
from nestrec_recbole.errors import NestRecError, unknown
from nestrec_recbole.evaluate.saved import ranks_beside
from nestrec_recbole.evaluate.significance import LEVEL, Comparison, verdict


def compare_runs(a: str, b: str, metric: str, folder: str | None = None, dataset: str | None = None) -> str:
    """Say in a few lines whether one is better than the other.

    Parameters
    ----------
    a, b : str
        Folders of runs (``<results>/<suite>/runs/<key>``), checkpoints with their ranks beside them, files of ranks
        (``.parquet``), or names of rows in ``folder``, over all their seeds.
    metric : str
        Such as ``ndcg@10_f``.
    folder : str, optional
        A results folder.
    dataset : str, optional
        Which of its datasets, where there are several.

    Raises
    ------
    NestRecError
        When a run is not there or failed, or the two were not tested on the same data and users.

    Examples
    --------
    >>> a, b = "runs/quickstart/NestRec.safetensors", "runs/quickstart/FastSASRec.safetensors"
    >>> print(compare_runs(a, b, "ndcg@10_f"))  # doctest: +SKIP
    """
    sides = [_row(name, folder, dataset) for name in (a, b)]
    found = compare_rows(sides[0].finished, sides[1].finished, metric)
    return "\n".join(_lines(sides, found, metric))


def _row(name: str, folder: str | None, dataset: str | None) -> RowResult:
    if (Path(name) / "run.json").is_file():
        return _checked(RowResult(name, [read_run(name)]))
    if Path(name).suffix in (".parquet", ".safetensors"):
        path = Path(name) if Path(name).suffix == ".parquet" else ranks_beside(name)
        return RowResult(name, [read_ranks_file(path)])
    if folder is None:
        raise NestRecError(
            f"{name}: no folder of a run (no run.json in it); rows of a suite need --in FOLDER, ranks end in .parquet"
        )
    runs = read_results(folder).runs
    known = list(dict.fromkeys(run.row for run in runs))
    if name not in known:
        raise NestRecError(f"{folder}: {unknown('row', name, known)}")
    return _checked(RowResult(name, _of_dataset([run for run in runs if run.row == name], dataset)))


def _of_dataset(runs: list[Record], dataset: str | None) -> list[Record]:
    known = list(dict.fromkeys(run.data for run in runs))
    if dataset is not None:
        chosen = [run for run in runs if dataset in (run.dataset, run.data)]
        if not chosen:
            raise NestRecError(unknown("dataset", dataset, {run.dataset for run in runs}))
        runs = chosen
    if len({run.data for run in runs}) > 1:
        raise NestRecError(f"row {runs[0].row!r} was run on {', '.join(known)}; choose one with --dataset")
    return runs


def _checked(row: RowResult) -> RowResult:
    if not row.finished:
        raise NestRecError(f"{row.name}: no run of it finished ({row.failed[0].error or 'no reason was recorded'})")
    return row


def _lines(sides: Sequence[RowResult], found: Comparison, metric: str) -> list[str]:
    names = [row.finished[0].row for row in sides]
    if names[0] == names[1]:
        seeds_known = all(row.finished[0].key for row in sides)
        names = [f"{row.finished[0].row} (seed {row.seeds[0]})" if seeds_known else row.name for row in sides]
    width = max(map(len, names))
    data = next((f" on {row.finished[0].data}" for row in sides if row.finished[0].data), "")
    lines = [f"{spoken(metric)}{data}, {found.n_users:,} users, paired"]
    for letter, name, row, mean in zip("AB", names, sides, (found.mean_a, found.mean_b), strict=True):
        lines.append(f"{letter}  {name:<{width}}  {mean:.4f}  {_seeds(row, metric)}")
    relative = f" ({found.difference / found.mean_b:+.1%})" if found.mean_b else ""
    test = f"{p_value(found.p_users)} (permutation test over users, two-sided)"
    if found.p_seeds is not None:
        test += f", {p_value(found.p_seeds)} (t-test over users and seeds)"
    lines.append(
        f"A - B  {found.difference:+.4f}{relative}, {1 - LEVEL:.0%} confidence interval "
        f"{found.low:+.4f} to {found.high:+.4f}, {test}"
    )
    equal = 1 - found.better - found.worse
    lines.append(
        f"effect d_z {found.effect:+.3f}; A is higher for {found.better:.1%} of the users, lower for "
        f"{found.worse:.1%}, the same for {equal:.1%}"
    )
    means = (found.mean_a, found.mean_b)
    shown = [float(np.mean(row.values(metric) or [mean])) for row, mean in zip(sides, means, strict=True)]
    if max(abs(shown[0] - found.mean_a), abs(shown[1] - found.mean_b)) > 5e-5:
        lines.append(
            f"users have several rows each, and count once here; over all rows, as in the table, A has {shown[0]:.4f} "
            f"and B {shown[1]:.4f}"
        )
    judged = verdict(found.difference, found.p)
    between = "from" if judged == "not distinguished" else "than"
    of_users = f" {OF_USERS}" if found.p_seeds is None else ""
    return [*lines, f"A, {names[0]}, is {judged} {between} B, {names[1]}.{of_users}"]


def _seeds(row: RowResult, metric: str) -> str:
    values, n_seeds = row.values(metric), len(row.finished)
    if n_seeds < 2:
        return "1 seed: the spread between seeds is unknown"
    if len(values) < n_seeds:  # the suite did not ask for this metric, which the ranks give all the same
        return f"{n_seeds} seeds"
    return f"{n_seeds} seeds, {min(values):.4f} to {max(values):.4f}"
