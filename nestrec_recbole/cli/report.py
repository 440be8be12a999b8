"""Make the report of a results folder anew: nestrec report FOLDER."""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("folder", help="what `nestrec benchmark` wrote: results/<suite>")


def call(options: Any) -> int:
    """Run the verb."""
    from nestrec_recbole.bench.report import write_report

    print(write_report(options.folder))
    return 0
