"""Go on with a training that was cut off."""

from __future__ import annotations

import argparse
from typing import Any

from nestrec_recbole.cli.run import print_metrics

TAKES_MODELS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("checkpoint", help="saved/...-last.safetensors, kept with --checkpoint_last=True")


def call(options: Any) -> int:
    """Run the verb."""
    from nestrec_recbole.train.resume import resume

    print_metrics(resume(options.checkpoint))
    return 0
