"""Test whether one run is better than another: nestrec compare A B, checkpoints, folders or rows of a suite."""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "a", metavar="RUN_A", help="checkpoint, ranks (.parquet), folder of a run, or with --in a row of the suite"
    )
    parser.add_argument("b", metavar="RUN_B")
    parser.add_argument("--in", dest="folder", metavar="FOLDER", help="results folder of a suite")
    parser.add_argument("--dataset", help="where the rows were run on several")
    parser.add_argument("--metric", default="ndcg@10_f", help="one of single users (default: %(default)s)")


def call(options: Any) -> int:
    """Run the verb."""
    from nestrec_recbole.bench.compare import compare_runs

    print(compare_runs(options.a, options.b, options.metric, options.folder, options.dataset))
    return 0
