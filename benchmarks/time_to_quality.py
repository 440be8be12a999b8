"""Time to the best validation NDCG@10 of RecBole's SASRec, ml-100k: ``python benchmarks/time_to_quality.py``.

Both sides train to their own early stop, once per seed: RecBole's SASRec with RecBole's defaults and full
cross-entropy, our FastSASRec with the same width, layers and history length, from random item vectors and from those of
what is taken together (``item_start: cooccurrence``). What counts is the number of epochs until
ours reaches RecBole's best; the seconds of an epoch, validation included, are timed apart, one side after the other
with two threads, because RecBole's training takes hours: with ``--folder`` it goes on where an earlier run was cut off.
What is in ``results/time_to_quality.json`` already is not run again unless it is named with ``--again``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from readme import HERE, put_table, read_results, write_results
from speed import LEAVE_ONE_OUT, SHAPE

import nestrec_recbole  # noqa: F401  # the repairs come first
from nestrec_recbole.files import written_whole

THEIRS = {"train_neg_sample_args": None, "loss_type": "CE", "normalize_all": False}
OURS = {"learning_rate": 0.002, "epochs": 60}  # of 0.002 and 0.004, the better on seed 1's validation data
SIDES: dict[str, dict[str, Any]] = {
    "SASRec": THEIRS,
    "FastSASRec": OURS,
    "FastSASRec, item_start: cooccurrence": {**OURS, "item_start": "cooccurrence"},
}
COMMON = {
    **SHAPE,
    **LEAVE_ONE_OUT,
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "metrics": ["NDCG", "Recall"],
    "topk": [10],
    "valid_metric": "NDCG@10",
    "state": "ERROR",
    "show_progress": False,
}


STOPPING = ("start_epoch", "cur_step", "best_valid_score", "saved_model_file")  # of RecBole's trainer


def train(side: str, seed: int, folder: Path | None = None, **settings: Any) -> dict[str, Any]:
    """Train one of ``SIDES`` to its early stop; every epoch's validation score, and the test scores of the best one.

    RecBole's side leaves its state in ``folder`` after each epoch, and begins with the state that it finds there.
    """
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    model = side.partition(",")[0]
    with ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        given = {**COMMON, **SIDES[side], "seed": seed, "checkpoint_dir": str(place), **settings}
        config = Config(model=model, dataset="ml-100k", config_dict=given)
        init_seed(seed, True)
        train_data, valid_data, test_data = data_preparation(config, create_dataset(config))
        net = get_model(model)(config, train_data.dataset)
        trainer = get_trainer(config["MODEL_TYPE"], model)(config, net)
        curve: list[float] = []
        state = place / f"{side}-{seed}.pth"
        if side == "SASRec" and state.is_file():
            known = torch.load(state, weights_only=True)
            curve += known["curve"]
            net.load_state_dict(known["net"])
            trainer.optimizer.load_state_dict(known["optimizer"])
            train_data.generator.set_state(known["order"])
            torch.set_rng_state(known["dropout"])
            for name in STOPPING:
                setattr(trainer, name, known[name])
        ends: list[float] = [perf_counter()]

        def note(epoch: int, score: float) -> None:
            curve.append(round(float(score), 4))
            if folder and side == "SASRec":
                trainer.best_valid_score = float(trainer.best_valid_score)  # numpy's is not loaded as weights only
                known = {name: getattr(trainer, name) for name in STOPPING} | {"start_epoch": epoch + 1, "curve": curve}
                known |= {"net": net.state_dict(), "optimizer": trainer.optimizer.state_dict()}
                known |= {"order": train_data.generator.get_state(), "dropout": torch.get_rng_state()}
                with written_whole(state) as draft:
                    torch.save(known, draft)
            ends.append(perf_counter())
            print(side, seed, epoch, score, f"{ends[-1] - ends[-2]:.1f} s", flush=True)

        trainer.fit(train_data, valid_data, verbose=False, callback_fn=note)
        test = trainer.evaluate(test_data)
    seconds = [after - before for before, after in pairwise(ends)]
    return {"curve": curve, "test": {k: float(v) for k, v in test.items()}, "seconds": seconds}


def time_epochs() -> dict[str, float]:
    """Seconds of an epoch and its validation: RecBole's first one, and the mean of nine of ours after the first."""
    torch.set_num_threads(2)
    theirs = train("SASRec", 1, epochs=1)["seconds"][0]
    ours = train("FastSASRec", 1, epochs=10)["seconds"][1:]
    return {"recbole": theirs, "ours": sum(ours) / len(ours)}


def epochs_until(curve: list[float], score: float) -> int | None:
    """How many epochs until a curve reaches a score."""
    return next((number for number, value in enumerate(curve, start=1) if value >= score), None)


def table(results: dict[str, Any]) -> str:
    """Markdown, a line per seed."""
    seconds = results["seconds per epoch"]
    lines = [
        "| seed | ours | RecBole's best validation NDCG@10 | RecBole: epochs, seconds | ours: epochs, seconds | ratio "
        "| test NDCG@10, RecBole | ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    pairs = [(seed, side) for seed in results["SASRec"] for side in list(SIDES)[1:] if seed in results.get(side, {})]
    for seed, side in pairs:
        theirs, ours = results["SASRec"][seed], results[side][seed]
        best = max(theirs["curve"])
        n_theirs, n_ours = epochs_until(theirs["curve"], best), epochs_until(ours["curve"], best)
        if n_theirs is None or n_ours is None:
            lines.append(f"| {seed} | {side} | {best:.4f} | {n_theirs} | not reached | | | |")
            continue
        took, took_ours = n_theirs * seconds["recbole"], n_ours * seconds["ours"]
        lines.append(
            f"| {seed} | {side} | {best:.4f} | {n_theirs}, {took:.0f} | {n_ours}, {took_ours:.0f} "
            f"| {took / took_ours:.0f} x | {theirs['test']['ndcg@10']:.4f} | {ours['test']['ndcg@10']:.4f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, and write the results and README's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = [*SIDES, "timing"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--again", nargs="+", choices=parts, default=[], help="run anew what is there already")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=2, help="of the training to the early stop")
    parser.add_argument("--folder", type=Path, help="where RecBole's training leaves its state, to go on from there")
    options = parser.parse_args()
    sys.argv = sys.argv[:1]
    path = HERE / "results" / "time_to_quality.json"
    results = read_results("time_to_quality") if path.is_file() else {}
    for side in SIDES:
        runs = results.setdefault(side, {})
        for seed in options.seeds if side in options.parts else ():
            if side in options.again or str(seed) not in runs:
                torch.set_num_threads(options.threads)
                run = train(side, seed, options.folder)
                runs[str(seed)] = {"curve": run["curve"], "test": run["test"]}
                write_results("time_to_quality", results)
    if "timing" in options.parts and ("timing" in options.again or "seconds per epoch" not in results):
        results["seconds per epoch"] = time_epochs()
    write_results("time_to_quality", {**results, "command": "python benchmarks/time_to_quality.py"})
    if all(results.get(name) for name in ("SASRec", "FastSASRec", "seconds per epoch")):
        put_table("time to quality table", table(results))
        print(table(results))


if __name__ == "__main__":
    main()
