"""Models of RecBole's that stop, or slow others down."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from nestrec_recbole.compat.once import wrap_once


def leave_anomaly_detection_off() -> None:
    """RecBole's SINE switches autograd's anomaly detection on where it is imported: with any sequential model.

    Every training of the process then looks for NaN after each operation, and takes up to twice as long.
    """
    import torch

    was_on = torch.is_anomaly_enabled()
    importlib.import_module("recbole.model.sequential_recommender.sine")
    torch.autograd.set_detect_anomaly(was_on)


def keep_ksr_in_float32() -> None:
    """KSR multiplies its relation embeddings, float64 as numpy made them, with float32 weights, and stops."""
    from recbole.model.sequential_recommender.ksr import KSR

    def in_float32(build: Callable[..., None]) -> Callable[..., None]:
        def run(self: KSR, config: Any, dataset: Any) -> None:
            build(self, config, dataset)
            self.relation_Matrix = self.relation_Matrix.float()

        return run

    wrap_once(KSR, "__init__", in_float32)
