"""List the runs of benchmarks: row, dataset, seed, status, main metrics, seconds, when."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("folder", nargs="?", default="results", help="results, or those of a suite (default: results)")


def call(options: Any) -> int:
    """Run the verb."""
    from nestrec_recbole.bench.listing import list_runs

    print(list_runs(Path(options.folder)))
    return 0
