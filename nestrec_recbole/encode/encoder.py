"""What an encoder is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Encoder:
    """Turns a batch into features.

    Attributes
    ----------
    features : callable
        A batch of n inputs -> (n, width) float32.
    lengths : callable, optional
        n inputs -> their n lengths, where a batch costs what its longest input does: batches are made of like lengths.
    """

    features: Callable[[Sequence[Any]], np.ndarray]
    lengths: Callable[[Sequence[Any]], list[int]] | None = None

    def __call__(self, batch: Sequence[Any]) -> np.ndarray:
        """Features of a batch."""
        return self.features(batch)

    def in_batches(self, inputs: Sequence[Any], batch_size: int) -> np.ndarray:
        """Features of any number of inputs, (n, width) float32, longest first in batches of one size."""
        lengths = self.lengths(inputs) if self.lengths else [0] * len(inputs)
        order = np.argsort(-np.asarray(lengths), kind="stable")
        batches = [[inputs[i] for i in order[start : start + batch_size]] for start in range(0, len(order), batch_size)]
        values = np.concatenate([self.features(batch) for batch in batches])
        return values[np.argsort(order)]
