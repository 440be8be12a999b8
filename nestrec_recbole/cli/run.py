"""Train and evaluate as RecBole's run_recbole: --model NestRec --dataset ml-100k --epochs=5."""

from __future__ import annotations

import argparse
from typing import Any

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
    print_metrics(run_recbole(options.model, options.dataset, options.config or None))
    return 0


def read_settings(path: str) -> dict[str, Any]:
    """Read a YAML file of settings.

    Raises
    ------
    NestRecError
        When it is no YAML, or not of ``key: value`` lines.
    """
    import yaml

    from nestrec_recbole.errors import NestRecError
    from nestrec_recbole.settings import yaml_loader

    with open(path, encoding="utf-8") as file:
        try:
            found = yaml.load(file, Loader=yaml_loader())
        except yaml.YAMLError as error:
            raise NestRecError(f"{path}: not valid YAML ({error})") from None
    if not isinstance(found, dict):
        raise NestRecError(f"{path}: expected `key: value` lines, found {type(found).__name__}")
    return found


def print_metrics(result: dict[str, Any]) -> None:
    """Print the test metrics of a run, a line each; under ``torchrun`` the first process does."""
    from nestrec_recbole.processes import Processes

    if Processes.current().is_first:
        for name, value in (result["test_result"] or result["best_valid_result"] or {}).items():
            print(f"{name}\t{value}")
