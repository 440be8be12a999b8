"""The quickstart's table over several seeds: ``python benchmarks/quickstart_seeds.py`` (three minutes a seed).

Writes ``benchmarks/results/quickstart.json``; README's table is made from it (``--readme`` puts it there).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from readme import put_table, read_results, write_results

from nestrec_recbole.bench.quickstart import quickstart

COLUMNS = ("ndcg@10", "ndcg@10_f", "recall@10", "recall@10_f", "mrr@10", "mrr@10_f", "coverage@10")


def run(seeds: list[int], threads: int) -> dict[str, Any]:
    """Run the quickstart once per seed."""
    torch.set_num_threads(threads)
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            runs += quickstart(Path(folder) / str(seed), seed=seed)
    return {
        "command": f"python benchmarks/quickstart_seeds.py --seeds {' '.join(map(str, seeds))}",
        "runs": [{"model": r.model, "seed": r.seed, "metrics": r.metrics, "seconds": r.seconds} for r in runs],
    }


def table(results: dict[str, Any]) -> str:
    """Markdown: mean over seeds, and the smallest and largest NDCG@10."""
    lines = [
        "| model | NDCG@10 U | F | Recall@10 U | F | MRR@10 U | F | coverage | NDCG@10 U, worst to best seed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for model in dict.fromkeys(run["model"] for run in results["runs"]):
        metrics = [run["metrics"] for run in results["runs"] if run["model"] == model]
        means = [f"{sum(m[name] for m in metrics) / len(metrics):.4f}" for name in COLUMNS]
        scores = sorted(m["ndcg@10"] for m in metrics)
        lines.append(f"| {model} | {' | '.join(means)} | {scores[0]:.4f} to {scores[-1]:.4f} |")
    return "\n".join(lines)


def main() -> None:
    """Run the seeds, unless only README is asked for, and write the results and README's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--readme", action="store_true", help="only write README's table anew, from the results")
    options = parser.parse_args()
    if not options.readme:
        write_results("quickstart", run(options.seeds, options.threads))
    put_table("quickstart table", table(read_results("quickstart")))
    print(table(read_results("quickstart")))


if __name__ == "__main__":
    main()
