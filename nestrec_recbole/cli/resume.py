"""Go on with a training that was cut off."""

from __future__ import annotations

import argparse
from typing import Any

from nestrec_recbole.cli.places import add_places
from nestrec_recbole.cli.run import print_metrics

TAKES_MODELS = True
GOES_ON = "; the same command goes on after the last epoch"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("checkpoint", help="saved/...-last.safetensors, kept with --checkpoint_last=True")
    parser.add_argument("--epochs", type=int, help="train to this epoch instead")
    parser.add_argument("--stopping-step", type=int, help="validations without a gain until training stops, instead")
    add_places(parser)


def call(options: Any) -> int:
    """Run the verb."""
    from nestrec_recbole.train.resume import resume

    print_metrics(
        resume(options.checkpoint, options.data_path, options.feature_path, options.epochs, options.stopping_step)
    )
    return 0
