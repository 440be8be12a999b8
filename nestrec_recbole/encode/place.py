"""Coordinates to features on the sphere: no seam at the date line, no stretching at the poles."""

from __future__ import annotations

import numpy as np
import pandas as pd


def encode_places(degrees: np.ndarray, n_scales: int = 6) -> np.ndarray:
    """Unit vectors, and their sines and cosines at doubling frequencies for what is near together.

    The inner product of two unit vectors is the cosine of the angle between the places; each scale halves the distance
    at which places look alike, from the size of the earth down to some hundred kilometres.

    Parameters
    ----------
    degrees : numpy.ndarray of shape (n, 2)
        Latitude and longitude.
    n_scales : int

    Returns
    -------
    numpy.ndarray of shape (n, 3 + 6 * n_scales), float32
    """
    latitude, longitude = np.radians(np.asarray(degrees, dtype=np.float64)).T
    point = np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)], axis=1
    )
    angles = (point[:, None, :] * np.pi * 2.0 ** np.arange(n_scales)[:, None]).reshape(len(point), -1)
    return np.column_stack([point, np.sin(angles), np.cos(angles)]).astype(np.float32)


def parse_places(cells: pd.Series) -> np.ndarray:
    """Latitude and longitude of cells such as ``48.2, 16.37`` or ``48.2 16.37``.

    Returns
    -------
    numpy.ndarray of shape (n, 2), float64
        NaN where a cell is no place on earth.
    """
    parts = cells.str.strip().str.split(r"\s*[,;\s]\s*", regex=True, expand=True, n=2).reindex(columns=range(3))
    degrees = np.stack([pd.to_numeric(parts[side], errors="coerce").to_numpy(np.float64) for side in range(2)], axis=1)
    good = parts[2].isna().to_numpy() & (np.abs(degrees) <= (90, 360)).all(axis=1)
    degrees[~good] = np.nan
    return degrees
