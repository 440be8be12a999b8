"""Fewer features: principal components, as they are or whitened."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nestrec_recbole.data.features import Rows, blocks
from nestrec_recbole.errors import NestRecError


@dataclass(frozen=True)
class Reduction:
    """``(x - mean) @ components``.

    Attributes
    ----------
    mean : numpy.ndarray of shape (n_features,)
    components : numpy.ndarray of shape (n_features, width)
    """

    mean: np.ndarray
    components: np.ndarray

    @classmethod
    def fit(cls, rows: Rows, width: int, whiten: bool, or_fewer: bool = False) -> Reduction:
        """Find the directions of largest variance.

        Parameters
        ----------
        rows : array of shape (n, n_features)
            Of training items only: what is tested must not shape the space it is tested in.
        width : int
        whiten : bool
            Scale each component to unit variance (WhitenRec, Zhang et al. 2024).
        or_fewer : bool
            Take as many directions as there are, where the rows span fewer than ``width``.

        Raises
        ------
        NestRecError
            When the rows span fewer than ``width`` directions and all are wanted.
        """
        n_rows, n_features = rows.shape
        mean = sum(block.sum(axis=0, dtype=np.float64) for _, block in blocks(rows)) / max(1, n_rows)
        scatter = np.zeros((n_features, n_features))
        for _, block in blocks(rows):
            centred = block - mean
            scatter += centred.T @ centred
        variance, directions = np.linalg.eigh(scatter / max(1, n_rows - 1))
        variance, directions = variance[::-1][:width], directions[:, ::-1][:, :width]
        rank = int((variance > 1e-10 * max(variance.max(), 1e-30)).sum())
        if or_fewer:
            variance, directions, width = variance[:rank], directions[:, :rank], rank
        if rank < width:
            raise NestRecError(f"{n_rows} training items span {rank} directions, but width is {width}; lower it")
        largest = directions[np.abs(directions).argmax(axis=0), np.arange(width)]
        directions = directions * np.sign(largest)  # eigenvectors have no sign of their own
        return cls(mean, directions / np.sqrt(variance) if whiten else directions)

    def as_array(self) -> np.ndarray:
        """Mean and components one below the other: (1 + width, n_features)."""
        return np.vstack([self.mean, self.components.T])

    @classmethod
    def from_array(cls, array: np.ndarray) -> Reduction:
        """What :meth:`as_array` gave."""
        return cls(array[0], array[1:].T)

    def apply(self, rows: Rows) -> np.ndarray:
        """Reduce rows (n, n_features) to (n, width) float32."""
        reduced = np.empty((rows.shape[0], self.components.shape[1]), dtype=np.float32)
        for start, block in blocks(rows):
            reduced[start : start + len(block)] = (block - self.mean) @ self.components
        return reduced
