"""What RecBole's ``Config`` reads from and leaves in the process: command line and environment, kept as they were."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

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
