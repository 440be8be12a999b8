"""A results folder as one static page, and as tables for papers."""

from __future__ import annotations

from pathlib import Path

from nestrec_recbole.bench.report.page import render
from nestrec_recbole.bench.report.results import read_results
from nestrec_recbole.bench.report.rows import group_rows, metrics_of
from nestrec_recbole.bench.report.summary import not_done, unlike_the_suite
from nestrec_recbole.bench.report.tables import as_csv, as_latex, as_markdown, costs_as_csv
from nestrec_recbole.files import written_whole

__all__ = ["write_report"]


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` and tables into a results folder.

    Equal runs give equal ``table.csv``, ``table.md`` and ``table.tex``, to the byte; what they cost, which is never the
    same twice, is in ``costs.csv``.

    Parameters
    ----------
    folder : str or Path
        What ``nestrec benchmark`` wrote: ``<results>/<suite>``.

    Returns
    -------
    Path
        Of ``report.html``: one file that needs no network.

    Raises
    ------
    NestRecError
        When it is no results folder, of another format, holds no run, or a file in it is broken.
    """
    results = read_results(folder)
    groups, metrics = group_rows(results), metrics_of(results)
    notes = " ".join(filter(None, [not_done(results), unlike_the_suite(results)]))
    texts = {
        "table.csv": as_csv(groups, metrics),
        "table.md": as_markdown(groups, metrics, notes),
        "table.tex": as_latex(groups, metrics, notes),
        "costs.csv": costs_as_csv(groups),
        "report.html": render(results, groups),
    }
    for name, text in texts.items():
        with written_whole(results.folder / name) as draft:
            draft.write_text(text, encoding="utf-8", newline="\n")
    return results.folder / "report.html"
