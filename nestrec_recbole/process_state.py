"""What RecBole reads from and leaves in the process: command line, environment and event files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_GPUS = "CUDA_VISIBLE_DEVICES"


@contextmanager
def without_arguments() -> Iterator[None]:
    """``Config`` takes any process's ``--key=value`` arguments for settings; within, there are none."""
    argv, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = argv


@contextmanager
def keeping_visible_gpus() -> Iterator[None]:
    """``Config`` puts ``gpu_id`` into ``CUDA_VISIBLE_DEVICES``; afterwards, that is what it was before.

    Else every later run would have that GPU, and Ray would look for no other.
    """
    before = os.environ.get(_GPUS)
    try:
        yield
    finally:
        os.environ.pop(_GPUS, None)
        if before is not None:
            os.environ[_GPUS] = before


@contextmanager
def events_in(folder: Path) -> Iterator[None]:
    """RecBole's trainers write TensorBoard's events where the process stands; within, they write them to a folder.

    The threads that write, which RecBole leaves running, end with the block.
    """
    import recbole.trainer.trainer as theirs
    from torch.utils.tensorboard import SummaryWriter

    before, writers = theirs.get_tensorboard, []

    def get_tensorboard(logger: object) -> SummaryWriter:
        writers.append(SummaryWriter(str(folder / "tensorboard")))
        return writers[-1]

    theirs.get_tensorboard = get_tensorboard
    try:
        yield
    finally:
        theirs.get_tensorboard = before
        for writer in writers:
            writer.close()
