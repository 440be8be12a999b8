"""GatedFusionRec as it is by default against the published model, on ml-100k: ``python benchmarks/fusion.py``.

Leave-one-out, the whole catalogue, both protocols; validation chooses the epoch, the test data is evaluated once per
run. Titles, genres and years are the content. Width and depth are the same in all rows, so that what differs is how
they are trained. A run that is in ``results/fusion.json`` with the same settings is not run again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from typing import Any

import torch
from quality import table
from readme import HERE, put_table, read_results, write_results

from nestrec_recbole.bench.run import train

SHAPE = {"hidden_size": 64, "n_layers": 2, "n_heads": 2, "inner_size": 256}
EVERY_POSITION = {**SHAPE, "learning_rate": 0.002, "epochs": 20, "stopping_step": 5}
# An epoch of it has one target per user, a hundredth of the others: it is given more, and validated less often.
ORIGINAL = {"model": "GatedFusionRec", "preset": "original", **SHAPE, "eval_step": 5}
FITTED = {"cosine": True, "hidden_dropout_prob": 0.3, "learning_rate": 0.002, "epochs": 30, "stopping_step": 5}
RUNS: dict[str, dict[str, Any]] = {
    "FastSASRec, ids only": {"model": "FastSASRec", **EVERY_POSITION},
    "GatedFusionRec": {"model": "GatedFusionRec", **EVERY_POSITION},
    "GatedFusionRec, recency_scale: 0.5": {"model": "GatedFusionRec", "recency_scale": 0.5, **EVERY_POSITION},
    "preset: original": {**ORIGINAL, "learning_rate": 0.001, "epochs": 100, "stopping_step": 3},
    "preset: original, cosine scores, dropout 0.3": {**ORIGINAL, **FITTED},
}
COMMON = {"show_progress": False, "state": "ERROR", "plot_curves": False}


def run(name: str, seed: int, features: str | None) -> dict[str, Any]:
    """Train one of ``RUNS`` with a seed, and evaluate its test data."""
    settings = {**COMMON, **RUNS[name], "seed": seed, "feature_path": features}
    with tempfile.TemporaryDirectory() as folder:
        done, _, _ = train(settings.pop("model"), "ml-100k", {**settings, "checkpoint_dir": folder})
    curve = [record["valid_score"] for record in done.history if "valid_score" in record]
    about = {"run": name, "seed": seed, "settings": RUNS[name]}
    return {**about, "metrics": done.metrics, "valid": curve}


def main() -> None:
    """Run what is missing, and write the results; README's table too, if asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[2020])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--features", metavar="FOLDER", help="where encoded fields are kept")
    parser.add_argument("--readme", action="store_true", help="write README's table")
    options = parser.parse_args()
    sys.argv = sys.argv[:1]
    torch.set_num_threads(options.threads)
    done = read_results("fusion")["runs"] if (HERE / "results" / "fusion.json").is_file() else []
    for seed in options.seeds:
        for name in options.runs:
            if any((one["run"], one["seed"], one["settings"]) == (name, seed, RUNS[name]) for one in done):
                continue
            done = [one for one in done if (one["run"], one["seed"]) != (name, seed)]
            done.append(run(name, seed, options.features))
            done.sort(key=lambda one: (list(RUNS).index(one["run"]), one["seed"]))
            write_results("fusion", {"command": "python benchmarks/fusion.py", "runs": done})
            print(name, seed, done[-1]["metrics"], flush=True)
    if options.readme:
        put_table("fusion table", table(read_results("fusion")))
    print(table(read_results("fusion")))


if __name__ == "__main__":
    main()
