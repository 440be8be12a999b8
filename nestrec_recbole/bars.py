"""Progress bars that leave log files readable."""

import sys
from typing import Any

from tqdm import tqdm

_SECONDS = 30.0


def progress_bar(*args: Any, shown: bool, **options: Any) -> tqdm:
    """A bar of tqdm's on stderr; where that is a file or a pipe, it is written twice a minute, not ten times a second.

    Parameters
    ----------
    *args, **options
        tqdm's.
    shown : bool
        False: nothing is written.
    """
    is_live = sys.stderr.isatty() or "ipykernel" in sys.modules  # a terminal, or a notebook
    return tqdm(*args, disable=not shown, mininterval=0.1 if is_live else _SECONDS, **options)
