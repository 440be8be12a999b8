"""Named runs over seeds, for ``quality.py`` and ``fusion.py``: what is missing is run, what is there is kept.

Validation data choose the epoch, the test data is evaluated once per run. A run that is in the results with the same
settings is not run again; those of other settings are dropped.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from readme import HERE, put_table, read_results, write_results

from nestrec_recbole.bench.run import train
from nestrec_recbole.settings.shipped import load_preset

COLUMNS = ("ndcg@10", "ndcg@10_f", "recall@10", "recall@10_f", "mrr@10", "coverage@10")
QUIET = {"plot_curves": False, "show_progress": False, "state": "ERROR"}
Runs = Mapping[str, dict[str, Any]]


def parser(about: str | None, runs: Runs) -> argparse.ArgumentParser:
    """The options that these scripts have in common."""
    options = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", nargs="+", choices=list(runs), default=list(runs))
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--threads", type=int, default=2)
    return options


def run(name: str, seed: int, settings: dict[str, Any], places: dict[str, Any]) -> dict[str, Any]:
    """Train with a seed, ``model`` and ``dataset`` among the settings, and evaluate the test data."""
    given = {**QUIET, **places, **settings, "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        done, _, _ = train(given.pop("model"), given.pop("dataset"), {**given, "checkpoint_dir": folder})
    curve = [record["valid_score"] for record in done.history if "valid_score" in record]
    return {"run": name, "seed": seed, "settings": settings, "metrics": done.metrics, "valid": curve}


def written_out(runs: Runs) -> Runs:
    """Runs with the settings of their presets, by which a result is known again."""
    return {name: {**load_preset(own["model"], own.get("preset")), **own} for name, own in runs.items()}


def fill(results: str, command: str, runs: Runs, options: argparse.Namespace, places: dict[str, Any]) -> None:
    """Run what ``options`` name and ``results/<results>.json`` lacks; write it after each, and the page's table."""
    runs = written_out(runs)
    sys.argv = sys.argv[:1]
    torch.set_num_threads(options.threads)
    known = read_results(results)["runs"] if (HERE / "results" / f"{results}.json").is_file() else []
    done = [one for one in known if runs.get(one["run"]) == one["settings"]]
    for seed in options.seeds:
        for name in options.runs:
            if any((one["run"], one["seed"]) == (name, seed) for one in done):
                continue
            found = run(name, seed, runs[name], places)
            done.append(found)
            done.sort(key=lambda one: (list(runs).index(one["run"]), one["seed"]))
            write_results(results, {"command": command, "runs": done})
            print(name, seed, found["metrics"], flush=True)
    put_table(f"{results} table", table(read_results(results)))


def table(results: dict[str, Any]) -> str:
    """Markdown: means over seeds, and NDCG@10 of every seed."""
    lines = [
        "| run | valid NDCG@10 | test NDCG@10 U | F | Recall@10 U | F | MRR@10 U | coverage | NDCG@10 F by seed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(one["run"] for one in results["runs"]):
        runs: Sequence[dict[str, Any]] = [one for one in results["runs"] if one["run"] == name]
        means = [sum(one["metrics"][key] for one in runs) / len(runs) for key in COLUMNS]
        valid = sum(max(one["valid"]) for one in runs) / len(runs)
        by_seed = ", ".join(f"{one['metrics']['ndcg@10_f']:.4f}" for one in runs)
        lines.append(f"| {name} | {valid:.4f} | {' | '.join(f'{mean:.4f}' for mean in means)} | {by_seed} |")
    return "\n".join(lines)
