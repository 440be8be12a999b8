"""What RecBole's own models gain behind our door, both sides in one run: ``python benchmarks/baselines.py``.

One thread; RecBole's classes and settings on both sides, at the seed's first weights. Each side of each model has a
process of its own: reading and preparing the data with its peak memory, training (timed on the first batches, scaled to
the epoch), and ranking every test target. Seconds are of processor time, as others may share the machine. ``--data
FOLDER --dataset beauty`` takes another dataset than ml-100k. Writes ``results/baselines.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from statistics import median
from time import process_time
from typing import Any

import torch
from readme import HERE, put_table, read_results, write_results
from speed import COLUMNS, LEAVE_ONE_OUT, bytes_per_row, peak_memory

import nestrec_recbole  # noqa: F401  # the repairs come first
from nestrec_recbole.train.prepare import configure
from nestrec_recbole.train.prepare import prepare as through_the_door

MODELS = ("SASRec", "BERT4Rec", "GRU4Rec", "CORE")
SECONDS = 15  # of training that are timed
WHAT = ("prepare", "MiB", "bytes per row", "evaluate", "epoch")  # is compared


def recboles_own(config: Any) -> tuple[Any, tuple[Any, Any, Any]]:
    """What ``run_recbole`` does before it trains."""
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    init_seed(config["seed"], config["reproducibility"])
    loaders = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    model = get_model(config["model"])(config, loaders[0].dataset).to(config["device"])
    return get_trainer(config["MODEL_TYPE"], config["model"])(config, model), loaders


def measure(side: str, model: str, dataset: str, folder: str) -> dict[str, float]:
    """Seconds, memory and NDCG@10 of one side, which is ``ours`` or ``recbole``."""
    with tempfile.TemporaryDirectory() as checkpoints:
        metrics = {"metrics": ["NDCG"], "topk": [10], "valid_metric": "NDCG@10", "metric_decimal_place": 12}
        settings = {**COLUMNS, **LEAVE_ONE_OUT, **metrics, "checkpoint_dir": checkpoints, "normalize_all": False}
        config = configure(model, dataset, settings | ({"data_path": folder} if folder else {}))
        idle, began = peak_memory(), process_time()
        trainer, (train, _, test) = (through_the_door if side == "ours" else recboles_own)(config)
        found = {"prepare": process_time() - began, "MiB": peak_memory() - idle}
        found["bytes per row"] = bytes_per_row(train._dataset)
        trainer.evaluate(test, load_best_model=False)  # warm up
        seconds = []
        for _ in range(3):
            began = process_time()
            result = trainer.evaluate(test, load_best_model=False)
            seconds.append(process_time() - began)
        found |= {"evaluate": median(seconds), "ndcg": result["ndcg@10"]}
    return found | {"epoch": epoch(trainer, train)}


def epoch(trainer: Any, train: Any) -> float:
    """Seconds of an epoch, from its first batches."""
    trainer.model.train()
    began, n_batches = process_time(), 0
    for batch in train:
        trainer.optimizer.zero_grad()
        trainer.model.calculate_loss(batch).backward()
        trainer.optimizer.step()
        n_batches += 1
        if process_time() - began > SECONDS:
            break
    return (process_time() - began) * len(train) / n_batches


def in_own_process(*arguments: str) -> dict[str, float]:
    """Call :func:`measure` in a new process."""
    command = [sys.executable, "-W", "ignore", __file__, "--call", *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def table(results: dict[str, Any]) -> str:
    """Markdown, a line per model and dataset: RecBole's own way over ours."""
    lines = [
        "| | processor seconds to prepare | MiB | bytes per row | seconds to rank | seconds per epoch |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in results.items():
        if not isinstance(one, dict):
            continue
        ratios = (f"{one['ratio'][key]:.1f} x" for key in WHAT)
        lines.append(f"| {name} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure each model on both sides, print the ratios, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data", default="", metavar="FOLDER", help="holds the dataset's folder")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--call", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.argv = sys.argv[:1]
    torch.set_num_threads(1)
    if options.call:
        print(json.dumps(measure(*options.call)))
        return
    known = read_results("baselines") if (HERE / "results" / "baselines.json").exists() else {}
    results = {name: one for name, one in known.items() if isinstance(one, dict)}
    for model in options.models:
        sides = {side: in_own_process(side, model, options.dataset, options.data) for side in ("recbole", "ours")}
        sides["ratio"] = {key: sides["recbole"][key] / max(sides["ours"][key], 1e-9) for key in WHAT}
        results[f"{model} on {options.dataset}"] = sides
        print(model, json.dumps(sides), flush=True)
    write_results("baselines", {**results, "command": "python benchmarks/baselines.py"})
    put_table("baselines table", table(results))


if __name__ == "__main__":
    main()
