"""The table of results as CSV (everything, to the last digit), Markdown and LaTeX (what a paper prints)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from typing import Any

from nestrec_recbole.bench.report.rows import Group, RowResult, spoken

# What every printed test has to say.
OF_USERS = "Of one seed the test knows users only: it tells trained networks apart, and models as far as seeds agree."
_MARKS = {"better": "†", "worse": "‡"}


def as_csv(groups: list[Group], metrics: list[str]) -> str:
    """One line a row, with the tuning it got and the test's outcome."""
    return _csv([_csv_cells(group, row, metrics) for group in groups for row in group.rows])


def costs_as_csv(groups: list[Group]) -> str:
    """One line a row: seconds (means over seeds) and memory (the largest)."""
    return _csv([_costs(group, row) for group in groups for row in group.rows])


def _csv(lines: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def as_markdown(groups: list[Group], metrics: list[str], missing: str = "") -> str:
    """A Markdown table with a line on what the marks mean, and one on what is missing."""
    head = ["dataset", "model", *map(spoken, metrics), "seeds"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for group in groups:
        for row in group.rows:
            cells = _cells(group, row, metrics, bold=lambda text: f"**{text}**")
            names = [_in_markdown(group.label), _in_markdown(row.name)]
            lines.append(f"| {' | '.join([*names, *cells, _seeds(row)])} |")
    notes = [_note(groups, metrics), *(["", _in_markdown(missing)] if missing else [])]
    return "\n".join([*lines, "", *notes]) + "\n"


def as_latex(groups: list[Group], metrics: list[str], missing: str = "") -> str:
    """A ``tabular`` for the package booktabs, with the same lines below."""
    head = ["", *map(spoken, metrics), "seeds"]
    lines = ["% \\usepackage{booktabs}", f"\\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", "\\toprule"]
    lines.append(" & ".join(map(_in_latex, head)) + " \\\\")
    for group in groups:
        lines += ["\\midrule", f"\\multicolumn{{{len(head)}}}{{l}}{{\\textit{{{_in_latex(group.label)}}}}} \\\\"]
        for row in group.rows:
            cells = _cells(group, row, metrics, bold=lambda text: f"\\textbf{{{text}}}")
            cells = [cell.replace("†", "$^\\dagger$").replace("‡", "$^\\ddagger$") for cell in cells]
            lines.append(" & ".join([_in_latex(row.name), *cells, _in_latex(_seeds(row))]) + " \\\\")
    note = _in_latex(_note(groups, metrics)).replace("†", "$^\\dagger$").replace("‡", "$^\\ddagger$")
    notes = [note, *(["", _in_latex(missing)] if missing else [])]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "", *notes]) + "\n"


def best_of(group: Group, metric: str) -> float | None:
    """The best mean of a metric on a dataset, as it is printed."""
    values = [round(mean, 4) for row in group.rows if (mean := row.mean(metric)) is not None]
    is_bias = metric.startswith(("giniindex", "averagepopularity"))
    return (min if is_bias else max)(values, default=None)


def _cells(group: Group, row: RowResult, metrics: list[str], bold: Callable[[str], str]) -> list[str]:
    cells = []
    for place, metric in enumerate(metrics):
        mean = row.mean(metric)
        text = "-" if mean is None else f"{mean:.4f}"
        if mean is not None and round(mean, 4) == best_of(group, metric):
            text = bold(text)
        cells.append(text + (_MARKS.get(row.verdict, "") if place == 0 else ""))
    return cells


def _csv_cells(group: Group, row: RowResult, metrics: list[str]) -> dict[str, Any]:
    found = row.comparison
    cells: dict[str, Any] = {"dataset": group.label, "row": row.name, "model": row.runs[0].model}
    cells |= {"baseline": row.baseline, "seeds": " ".join(map(str, row.seeds)), "failed": len(row.failed)}
    for metric in metrics:
        cells |= {metric: row.mean(metric), f"{metric}_std": row.spread(metric)}
    cells["against"] = row.against.name if row.against else None
    cells["verdict"] = row.verdict
    for name in ("n_users", "difference", "low", "high", "p", "p_users", "p_seeds", "effect", "better", "worse"):
        cells[name] = getattr(found, name) if found else None
    cells["p_holm"] = row.p
    tuning = {f"tuning_{name}": row.runs[0].tuning.get(name) for name in ("trials", "epochs")}
    return {**cells, **tuning, "parameters": row.parameters}


def _costs(group: Group, row: RowResult) -> dict[str, Any]:
    seconds = {f"seconds_{name}": row.seconds(name) for name in ("prepare", "train", "per_epoch", "evaluate")}
    return {"dataset": group.label, "row": row.name, **seconds, "peak_memory_mib": row.peak_memory_mib}


def _seeds(row: RowResult) -> str:
    failed = f", {len(row.failed)} failed" if row.failed else ""
    return f"{len(row.seeds)}{failed}"


def _note(groups: list[Group], metrics: list[str]) -> str:
    references = {row.against.name for group in groups for row in group.rows if row.against}
    if not references:
        return "Means over seeds. Nothing was tested."
    has_baselines = any(row.baseline for group in groups for row in group.rows)
    against = "the baseline" if has_baselines else "the row"
    made = [row.comparison for group in groups for row in group.rows if row.comparison]
    of_users = f" {OF_USERS}" if any(one.p_seeds is None for one in made) else ""
    return (
        f"Means over seeds. † better and ‡ worse than {against} that is best on validation data, in "
        f"{spoken(metrics[0])}: p < 0.05 after Holm's correction over the table, by a paired permutation test over "
        f"users and, where there are several seeds, by a t-test over users and seeds too.{of_users}"
    )


def _in_markdown(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", " ".join(text.split()))


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"}}


def _in_latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(text.split()))
