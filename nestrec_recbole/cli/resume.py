"""Go on with a training that was cut off."""

from __future__ import annotations

import argparse
from typing import Any

from nestrec_recbole.cli.places import add_places
from nestrec_recbole.cli.run import print_metrics

TAKES_MODELS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("checkpoint", help="saved/...-last.safetensors, kept with --checkpoint_last=True")
    add_places(parser)


def call(options: Any) -> int:
    """Run the verb."""
    from nestrec_recbole.train.resume import resume

    print_metrics(resume(options.checkpoint, options.data_path, options.feature_path))
    return 0
