"""What RecBole asks of numpy, scipy, pandas and ray and no longer finds there."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from nestrec_recbole.compat.once import wrap_once


def restore_numpy_names() -> None:
    """``Config`` uses names that numpy 2 dropped: every run stops at ``np.float_``."""
    for name, now in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
        if name not in vars(np):
            setattr(np, name, now)


def restore_dok_update() -> None:
    """LightGCN, NGCF, GCMC, SpectralCF and NCL fill their graph through ``dok_matrix._update``, gone from scipy."""
    from scipy.sparse import dok_matrix

    if not hasattr(dok_matrix, "_update"):
        dok_matrix._update = lambda self, entries: self._dict.update(entries)


def fill_missing_in_place() -> None:
    """``df[column].fillna(inplace=True)`` does nothing under pandas' copy-on-write: NaN reaches the tensors."""
    import pandas as pd
    from recbole.data.dataset import Dataset

    def in_place(method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with pd.option_context("mode.copy_on_write", False), warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of pandas 3, which is refused
                return method(*args, **kwargs)

        return run

    for name in ("_load_feat", "_fill_nan"):
        wrap_once(Dataset, name, in_place)


def import_without_ray() -> None:
    """``recbole.quick_start`` imports ray (seconds) and reports by keywords, which today's ``tune.report`` refuses."""
    with _placeholder_for_ray():
        quick_start = importlib.import_module("recbole.quick_start.quick_start")
    quick_start.tune = SimpleNamespace(report=_report_to_tune)  # type: ignore[attr-defined]


@contextmanager
def _placeholder_for_ray() -> Iterator[None]:
    if "ray" in sys.modules or "recbole.quick_start.quick_start" in sys.modules:
        yield
        return
    ray = ModuleType("ray")
    ray.tune = ModuleType("ray.tune")  # type: ignore[attr-defined]
    sys.modules.update({"ray": ray, "ray.tune": ray.tune})
    try:
        yield
    finally:
        for name in ("ray", "ray.tune"):
            if sys.modules.get(name) in (ray, ray.tune):
                del sys.modules[name]


def _report_to_tune(**metrics: Any) -> None:
    """Report to the Ray Tune trial this process runs, if it runs one."""
    if "ray.tune" in sys.modules:
        from ray import tune

        tune.report(metrics)
