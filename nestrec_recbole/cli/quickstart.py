"""Train, evaluate and compare on MovieLens-100k in three minutes."""

from __future__ import annotations

import argparse
from typing import Any

TAKES_SETTINGS = True  # as --key=value, for all models
WRITES = "--folder says"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("--folder", default="runs/quickstart", help="where results go (default: %(default)s)")


def call(options: Any) -> int:
    """Run the verb."""
    from nestrec_recbole.bench.quickstart import quickstart
    from nestrec_recbole.cli.words import take_settings

    quickstart(options.folder, **take_settings())
    return 0
