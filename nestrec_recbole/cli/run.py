"""Train and evaluate as RecBole's run_recbole: --model NestRec --dataset ml-100k --epochs=5."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from nestrec_recbole.settings.checks import check_known
from nestrec_recbole.settings.shipped import is_ours, keys_of_any_model, read_settings

TAKES_MODELS = True
TAKES_SETTINGS = True  # as --key=value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="YAML file of settings")


def call(options: Any) -> int:
    """Run the verb; RecBole's Config reads the settings that are left in ``sys.argv``."""
    from nestrec_recbole import run_recbole

    for path in options.config:
        read_settings(path)
    if not is_ours(options.model):  # whose settings RecBole does not check
        check_known((word.removeprefix("--").partition("=")[0] for word in sys.argv[1:]), keys_of_any_model())
    print_metrics(run_recbole(options.model, options.dataset, options.config or None))
    return 0


def print_metrics(result: dict[str, Any]) -> None:
    """Print the test metrics of a run, a line each; under ``torchrun`` the first process does."""
    from nestrec_recbole.processes import Processes

    if Processes.current().is_first:
        for name, value in (result["test_result"] or result["best_valid_result"] or {}).items():
            print(f"{name}\t{value}")
