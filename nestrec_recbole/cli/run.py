"""Train and evaluate one model, ours or RecBole's: --model NestRec --dataset ml-100k --epochs=5."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nestrec_recbole.errors import NestRecError
from nestrec_recbole.settings.shipped import is_ours, read_settings

TAKES_MODELS = True
TAKES_SETTINGS = True  # as --key=value
GOES_ON = "; with --checkpoint_last=True, `nestrec resume <checkpoint>-last.safetensors` goes on after the last epoch"
WRITES = "--checkpoint_dir=FOLDER and --feature_path=FOLDER say"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="YAML file of settings")


def call(options: Any) -> int:
    """Run the verb; RecBole's Config reads the settings that are left in ``sys.argv``.

    One of RecBole's models is trained as RecBole trains it, on the data, splits and metrics that ours have.
    """
    from nestrec_recbole import run_recbole

    for path in options.config:
        if not Path(path).is_file():
            raise NestRecError(f"--config {path}: no such file")
    given = [read_settings(path) for path in options.config]
    if is_ours(options.model):
        print_metrics(run_recbole(options.model, options.dataset, options.config or None))
    else:
        print_metrics(_run_recboles(options.model, options.dataset, {k: v for one in given for k, v in one.items()}))
    return 0


def _run_recboles(model: str, dataset: str, settings: dict[str, Any]) -> dict[str, Any]:
    from recbole.utils import init_logger

    from nestrec_recbole.train.prepare import configure, prepare

    config = configure(model, dataset, settings)
    init_logger(config)
    trainer, (train, valid, test) = prepare(config)
    _, best = trainer.fit(train, valid, show_progress=config["show_progress"])
    return {"test_result": trainer.evaluate(test), "best_valid_result": best}


def print_metrics(result: dict[str, Any]) -> None:
    """Print the test metrics of a run, a line each; under ``torchrun`` the first process does."""
    from nestrec_recbole.processes import Processes

    if Processes.current().is_first:
        for name, value in (result["test_result"] or result.get("best_valid_result") or {}).items():
            print(f"{name}\t{value}")
