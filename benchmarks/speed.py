"""How much faster than RecBole, both sides in one run: ``python benchmarks/speed.py [--beauty FOLDER]``.

Two threads; RecBole's own classes at the same width, layers, history length and loss. Its training is timed on the
first batches and scaled to the epoch. ``FOLDER`` holds ``beauty/beauty.inter``, Amazon Beauty (2014, 5-core) as an
atomic file; without it what needs it is left out. Writes ``results/speed.json`` and README's table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from readme import put_table, read_results, write_results

import nestrec_recbole  # noqa: F401  # the repairs come first
from nestrec_recbole.evaluate.metrics import evaluate_ranks
from nestrec_recbole.evaluate.ranking import rank_targets
from nestrec_recbole.layers.full_softmax import full_softmax
from nestrec_recbole.layers.precision import autocast

THREADS = 2
SECONDS = 45  # of RecBole's training that are timed
SHAPE = {"hidden_size": 64, "inner_size": 256, "n_layers": 2, "n_heads": 2, "MAX_ITEM_LIST_LENGTH": 50}
COLUMNS = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "state": "ERROR", "show_progress": False}
LEAVE_ONE_OUT = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}}


def prepare(model: str, dataset: str, **settings: Any) -> tuple[Any, Any, tuple[Any, Any, Any]]:
    """A config, an untrained model and its loaders."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, init_seed

    recboles = {"train_neg_sample_args": None, "loss_type": "CE", "normalize_all": False} if model == "SASRec" else {}
    given = {**SHAPE, **COLUMNS, **LEAVE_ONE_OUT, **recboles, **settings}
    config = Config(model=model, dataset=dataset, config_dict=given)
    init_seed(config["seed"], True)
    splits = data_preparation(config, create_dataset(config))
    return config, get_model(model)(config, splits[0].dataset), splits


def seconds_per_epoch(model: str, dataset: str, limit: float | None = None, **settings: Any) -> tuple[float, float]:
    """Seconds of training per epoch, and the share of the epoch that was timed."""
    config, net, (train, _, _) = prepare(model, dataset, **settings)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    net.train()

    def step(batch: Any) -> None:
        optimizer.zero_grad()
        with autocast(config["precision"] or "fp32", net.device):
            loss = net.calculate_loss(batch)
        loss.backward()
        optimizer.step()

    for _, batch in zip(range(2), train, strict=False):  # warm up
        step(batch)
    n_batches, began = 0, perf_counter()
    for place, batch in enumerate(train, start=1):
        step(batch)
        n_batches = place
        if limit and perf_counter() - began > limit:
            break
    share = n_batches / len(train)
    return (perf_counter() - began) / share, share


def epoch(dataset: str, folder: dict[str, Any], **ours: Any) -> dict[str, Any]:
    """One epoch: every target once; ``ours`` are settings that RecBole's side does not have."""
    fast, _ = seconds_per_epoch("FastSASRec", dataset, **folder, **ours)
    repaired, share = seconds_per_epoch("SASRec", dataset, SECONDS, **folder)
    with torch.autograd.set_detect_anomaly(True):  # as RecBole's import of SINE leaves it
        theirs, share_of_theirs = seconds_per_epoch("SASRec", dataset, SECONDS, **folder)
    return {
        "ours": fast,
        "recbole": theirs,
        "recbole, anomaly detection off": repaired,
        "share of RecBole's epoch timed": share_of_theirs,
        "share of RecBole's epoch timed, anomaly detection off": share,
        "ratio": theirs / fast,
        "ratio, anomaly detection off": repaired / fast,
    }


def evaluation(folder: dict[str, Any]) -> dict[str, Any]:
    """Rank every test target of Beauty with one model, by RecBole's trainer, loader and evaluator, and by ours."""
    from recbole.trainer import Trainer

    metrics = {"metrics": ["NDCG", "Recall"], "topk": [10], "valid_metric": "NDCG@10"}
    config, _, (_, _, test) = prepare("SASRec", "beauty", eval_batch_size=1024, **metrics, **folder)
    _, net, (_, _, split) = prepare("FastSASRec", "beauty", **folder)
    net.eval()
    trainer = Trainer(config, net)
    recbole, ours = [], []
    for _ in range(3):
        net.forget()
        began = perf_counter()
        theirs = trainer.evaluate(test, load_best_model=False)
        recbole.append(perf_counter() - began)
        net.forget()
        began = perf_counter()
        ranks = rank_targets(net.full_sort_predict, split.dataset, k=0)
        ours.append(perf_counter() - began)
    values = evaluate_ranks(ranks, ["ndcg", "recall"], [10])
    return {
        "ours": median(ours),
        "recbole": median(recbole),
        "ratio": median(recbole) / median(ours),
        "largest difference of a metric": max(abs(values[name] - value) for name, value in theirs.items()),
    }


def read_synthetic(model: str, folder: str) -> dict[str, float]:
    """Seconds and peak memory of reading and preparing the synthetic file, less those of a process that only starts."""
    idle = peak_memory()
    began = perf_counter()
    _, _, (train, _, _) = prepare(model, "synthetic", data_path=folder)
    seconds = perf_counter() - began
    return {"seconds": seconds, "MiB": peak_memory() - idle, "bytes per row": bytes_per_row(train.dataset)}


def peak_memory() -> float:
    """MiB that this process has held at most; getrusage's figure would be the parent's at the start."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def bytes_per_row(split: Any) -> float:
    """Bytes that a training split holds for each of its rows."""
    if hasattr(split, "starts"):
        arrays = [split.items, split.times, split.users, split.starts, split.ends]
        held = sum(a.nbytes for a in arrays) + sum(c.nbytes for c in split.columns.values())
    else:
        held = sum(column.nbytes for column in split.inter_feat.interaction.values())
    return held / len(split)


def reading(n: int) -> dict[str, Any]:
    """Read and prepare ``n`` synthetic interactions, each side in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "synthetic"
        place.mkdir()
        random = np.random.default_rng(0)
        users, items = random.integers(0, n // 50, n), (random.pareto(1.0, n) * 500).astype(int) % 100_000
        rows = zip(users.tolist(), items.tolist(), (1_600_000_000 + random.integers(0, 10**8, n)).tolist(), strict=True)
        with open(place / "synthetic.inter", "w") as file:
            file.write("user_id:token\titem_id:token\ttimestamp:float\n")
            file.writelines(f"{u}\t{i}\t{t}\n" for u, i, t in rows)
        ours, recbole = (in_own_process("read_synthetic", model, folder) for model in ("FastSASRec", "SASRec"))
    return {
        "interactions": n,
        "ours": ours["seconds"],
        "recbole": recbole["seconds"],
        "ratio": recbole["seconds"] / ours["seconds"],
        "MiB": {"ours": ours["MiB"], "recbole": recbole["MiB"], "ratio": recbole["MiB"] / ours["MiB"]},
        "bytes per row": {
            "ours": ours["bytes per row"],
            "recbole": recbole["bytes per row"],
            "ratio": recbole["bytes per row"] / ours["bytes per row"],
        },
    }


def loss_memory(n_items: int = 1_000_000, n_positions: int = 4096, width: int = 64) -> dict[str, Any]:
    """Memory that the loss itself takes, beside its inputs and their gradients."""
    states = torch.randn(n_positions, width, requires_grad=True)
    table = torch.randn(n_items, width, requires_grad=True)
    states.grad, table.grad = torch.zeros_like(states), torch.zeros_like(table)
    other = torch.zeros_like(table)  # the gradient that is on its way to table.grad
    before = peak_memory()
    del other
    full_softmax(states, table, torch.randint(1, n_items, (n_positions,))).backward()
    ours = peak_memory() - before
    plain = 2 * n_positions * n_items * 4 / 2**20  # logits and their gradient, computed
    return {"MiB": ours, "plain MiB, computed": plain, "ratio": plain / max(ours, 1.0)}


def in_own_process(name: str, *arguments: str) -> dict[str, Any]:
    """Call a function of this file in a new process."""
    command = [sys.executable, __file__, "--call", name, *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def table(results: dict[str, Any]) -> str:
    """Markdown of the ratios."""
    lines = ["| | ours | RecBole | ratio |", "|---|---|---|---|"]
    names = {
        "epoch of ml-100k": "seconds per epoch, ml-100k",
        "epoch of Beauty": "seconds per epoch, Beauty",
        "epoch of Beauty, sampled softmax": "the same, ours with sampled softmax",
        "epoch of Beauty, bfloat16": "the same, ours with the full softmax in bfloat16",
        "evaluation of Beauty": "seconds to rank all test targets, Beauty",
        "reading": "seconds to read and prepare 5 million interactions",
    }
    for key, name in names.items():
        if key in results:
            r = results[key]
            lines.append(f"| {name} | {r['ours']:.1f} | {r['recbole']:.1f} | {r['ratio']:.0f} x |")
            if "ratio, anomaly detection off" in r:
                theirs, ratio = r["recbole, anomaly detection off"], r["ratio, anomaly detection off"]
                lines.append(f"| ... RecBole without SINE's anomaly detection | | {theirs:.1f} | {ratio:.0f} x |")
    if "reading" in results:
        memory, row = results["reading"]["MiB"], results["reading"]["bytes per row"]
        lines.append(
            f"| ... peak memory, MiB | {memory['ours']:.0f} | {memory['recbole']:.0f} | {memory['ratio']:.0f} x |"
        )
        lines.append(
            f"| ... bytes per training row | {row['ours']:.0f} | {row['recbole']:.0f} | {row['ratio']:.0f} x |"
        )
    if "loss" in results:
        r = results["loss"]
        plain = f"{r['plain MiB, computed']:.0f} (plain, computed)"
        name = "MiB of the softmax over a million items, 4,096 positions"
        lines.append(f"| {name} | {r['MiB']:.0f} | {plain} | {r['ratio']:.0f} x |")
    return "\n".join(lines)


def main() -> None:
    """Time what is asked for, and write the results and README's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beauty", metavar="FOLDER", help="holds beauty/beauty.inter")
    parser.add_argument("--only", nargs="+", help="parts to time anew; the others stay as they were")
    parser.add_argument("--interactions", type=int, default=5_000_000, help="synthetic, to read")
    parser.add_argument("--call", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.argv = sys.argv[:1]
    torch.set_num_threads(THREADS)
    if options.call:
        name, *arguments = options.call
        print(json.dumps(globals()[name](*arguments)))
        return
    tasks: dict[str, Callable[[], dict[str, Any]]] = {"epoch of ml-100k": lambda: epoch("ml-100k", {})}
    if options.beauty:
        folder = {"data_path": options.beauty}
        tasks["epoch of Beauty"] = lambda: epoch("beauty", folder)
        tasks["epoch of Beauty, sampled softmax"] = lambda: epoch(
            "beauty", folder, loss="sampled_softmax", n_negatives=1024
        )
        tasks["epoch of Beauty, bfloat16"] = lambda: epoch("beauty", folder, precision="bf16")
        tasks["evaluation of Beauty"] = lambda: evaluation(folder)
    tasks["reading"] = lambda: reading(options.interactions)
    tasks["loss"] = lambda: in_own_process("loss_memory")
    results = read_results("speed") if options.only else {}
    for name, task in tasks.items():
        if options.only and name not in options.only:
            continue
        results[name] = task()
        print(name, json.dumps(results[name]), flush=True)
    command = "python benchmarks/speed.py" + (" --beauty FOLDER" if options.beauty else "")
    write_results("speed", {**results, "command": command})
    put_table("speed table", table(read_results("speed")))


if __name__ == "__main__":
    main()
