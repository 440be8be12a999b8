"""Train, evaluate and compare on MovieLens-100k in three minutes."""

from __future__ import annotations

import argparse
from typing import Any

WRITES = "--folder says"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("--folder", default="runs/quickstart", help="where results go (default: %(default)s)")


def call(options: Any) -> int:
    """Run the verb."""
    from nestrec_recbole.bench.quickstart import quickstart

    quickstart(options.folder)
    return 0
