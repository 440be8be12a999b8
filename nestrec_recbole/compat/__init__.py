"""Repairs of RecBole 1.2.1 on current numpy, pandas, scipy, torch and ray.

Each repair is one function that says what breaks without it and does nothing where it is not needed, or where it has
been done: what has since been put around it stays. :func:`apply` runs them all; importing :mod:`nestrec_recbole` does
so.
"""

from __future__ import annotations

import importlib.util

from nestrec_recbole.compat.checkpoints import (
    checkpoint_readers,
    load_checkpoint,
    load_data_and_model,
    look_in,
    read_checkpoints_safely,
    read_datasets_safely,
    unstarted,
)
from nestrec_recbole.compat.literals import literal, read_literals_only
from nestrec_recbole.compat.measures import count_flops_in_place, get_flops, let_metrics_count
from nestrec_recbole.compat.models import keep_ksr_in_float32, leave_anomaly_detection_off
from nestrec_recbole.compat.packages import (
    fill_missing_in_place,
    import_without_ray,
    restore_dok_update,
    restore_numpy_names,
)

__all__ = [
    "RECBOLE",
    "apply",
    "checkpoint_readers",
    "get_flops",
    "literal",
    "load_checkpoint",
    "load_data_and_model",
    "look_in",
    "require_recbole",
    "unstarted",
]

RECBOLE = "1.2.1"


def require_recbole() -> None:
    """Check that the RecBole and pandas this package is made for are installed.

    Raises
    ------
    ImportError
        When RecBole is missing or of another version, or pandas is 3 or later.
    """
    if importlib.util.find_spec("recbole") is None:
        raise ImportError(f"nestrec_recbole needs RecBole: pip install --no-deps recbole=={RECBOLE}")
    import recbole

    if recbole.__version__ != RECBOLE:
        raise ImportError(
            f"nestrec_recbole is made for RecBole {RECBOLE}, found {recbole.__version__}: "
            f"pip install --no-deps recbole=={RECBOLE}"
        )
    import pandas as pd

    if int(pd.__version__.split(".")[0]) >= 3:
        raise ImportError(
            f"RecBole {RECBOLE} reads token sequences and missing values wrongly with pandas {pd.__version__}, "
            "some of it silently: pip install 'pandas<3'"
        )


def apply() -> None:
    """Run every repair; those that have been done are left as they are."""
    restore_numpy_names()
    import_without_ray()
    leave_anomaly_detection_off()
    keep_ksr_in_float32()
    restore_dok_update()
    fill_missing_in_place()
    read_literals_only()
    read_checkpoints_safely()
    read_datasets_safely()
    count_flops_in_place()
    let_metrics_count()
