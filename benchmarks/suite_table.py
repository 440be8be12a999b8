"""The latest results of a suite on benchmarks/README.md: ``python benchmarks/suite_table.py results/smoke``.

Keeps the suite's ``table.md`` in ``benchmarks/results/suite-<name>.json``, with date, machine, seeds and code.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from readme import put_table, read_results, write_results

from nestrec_recbole.bench.report import results as suite_results
from nestrec_recbole.bench.report.rows import group_rows, metrics_of
from nestrec_recbole.bench.report.tables import as_markdown
from nestrec_recbole.bench.suite import find_suite, read_yaml
from nestrec_recbole.settings.roles import DATA_PLACE, FEATURE_PLACE


def summarise(folder: Path) -> dict[str, Any]:
    """The table of a results folder, and what it was measured on."""
    found = suite_results.read_results(folder)
    done = [run for run in found.runs if run.finished]
    return {
        "suite": found.name,
        "given": given_on_top(folder, found.name),
        "date": max(run.started for run in found.runs)[:10],
        "ran_on": sorted({f"{run.environment['machine']}, {run.environment['device']}" for run in done}),
        "seeds": sorted({run.seed for run in done}),
        "code": sorted({run.code for run in done}),
        "table": as_markdown(group_rows(found), metrics_of(found)),
    }


def given_on_top(folder: Path, name: str) -> dict[str, Any]:
    """The settings that a shipped suite was run with and does not state itself, places left out."""
    ran, shipped = (read_yaml(path)[0] for path in (folder / "suite.yaml", find_suite(name)))
    stated = shipped.get("settings", {})
    return {
        key: value
        for key, value in ran.get("settings", {}).items()
        if key not in (*DATA_PLACE, *FEATURE_PLACE) and stated.get(key) != value
    }


def table(results: dict[str, Any]) -> str:
    """Markdown: when, on what and with which seeds, then the table."""
    seeds = ", ".join(map(str, results["seeds"]))
    given = ",".join(f"{key}={value}" for key, value in results.get("given", {}).items())
    command = f"nestrec benchmark {results['suite']}{f' --override {given}' if given else ''}"
    about = f"`{command}`, {results['date']}, {'; '.join(results['ran_on'])}, seeds {seeds}, "
    return f"{about}code {', '.join(results['code'])}:\n\n{results['table'].strip()}"


def main() -> None:
    """Summarise a results folder, and write the page's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="results of a suite, such as results/smoke")
    results = summarise(parser.parse_args().folder)
    write_results(f"suite-{results['suite']}", results)
    put_table(f"{results['suite']} table", table(read_results(f"suite-{results['suite']}")))


if __name__ == "__main__":
    main()
