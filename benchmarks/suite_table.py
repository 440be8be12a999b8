"""The latest results of a suite on benchmarks/README.md: ``python benchmarks/suite_table.py results/smoke``.

Writes ``benchmarks/results/suite-<name>.json``, which holds means over seeds; the page's table is made from it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml
from readme import HERE, put_table, read_results, write_results

from nestrec_recbole.bench.results import read_runs

PAGE = HERE / "README.md"


def summarise(folder: Path) -> dict[str, Any]:
    """Means over seeds of every row in a results folder, with what they were measured on."""
    suite = yaml.safe_load((folder / "suite.yaml").read_text(encoding="utf-8"))
    runs = read_runs(folder)
    rows = []
    for dataset in suite["datasets"]:
        for row in suite["models"]:
            own = [run for run in runs if (run["dataset"], run["row"]) == (dataset, row)]
            done = [run for run in own if run["status"] == "finished"]
            means = {m: sum(run["metrics"][m] for run in done) / len(done) for m in suite["metrics"]} if done else {}
            about = {"dataset": dataset, "row": row, "seeds": sorted(run["seed"] for run in done), "metrics": means}
            rows.append({**about, "failed": [run["error"] for run in own if run["status"] == "failed"]})
    environments = sorted({run["environment"]["machine"] for run in runs if run["status"] == "finished"})
    return {
        "command": f"nestrec benchmark {suite['name']}",
        "suite": suite["name"],
        "metrics": suite["metrics"],
        "date": max(run["started"] for run in runs)[:10],
        "machines": environments,
        "code": sorted({run["code"] for run in runs}),
        "rows": rows,
    }


def table(results: dict[str, Any]) -> str:
    """Markdown: when and on what, then a line per row."""
    metrics = results["metrics"]
    lines = [
        f"`{results['command']}`, {results['date']}, {'; '.join(results['machines'])}, {', '.join(results['code'])}",
        "",
        f"| dataset | model | {' | '.join(metrics)} | seeds |",
        "|---" * (len(metrics) + 3) + "|",
    ]
    for row in results["rows"]:
        cells = [f"{row['metrics'][name]:.4f}" if row["metrics"] else "" for name in metrics]
        seeds = ", ".join(map(str, row["seeds"])) or f"failed: {'; '.join(row['failed']) or 'not run'}"
        lines.append(f"| {row['dataset']} | {row['row']} | {' | '.join(cells)} | {seeds} |")
    return "\n".join(lines)


def main() -> None:
    """Summarise a results folder, and write the page's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="results of a suite, such as results/smoke")
    results = summarise(parser.parse_args().folder)
    write_results(f"suite-{results['suite']}", results)
    put_table(f"{results['suite']} table", table(read_results(f"suite-{results['suite']}")), PAGE)


if __name__ == "__main__":
    main()
