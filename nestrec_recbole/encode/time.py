"""Timestamps to features: where in the day, the week and the year, and how long ago."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nestrec_recbole.encode.number import fourier_features

DAY = 86_400.0
_MILLISECONDS = 1e11  # seconds up to here reach to the year 5138; milliseconds from here on begin in 1973


def encode_times(seconds: np.ndarray) -> np.ndarray:
    """Cyclic features plus elapsed time.

    Parameters
    ----------
    seconds : numpy.ndarray of shape (n,)
        Finite Unix times, UTC.

    Returns
    -------
    numpy.ndarray of shape (n, 24), float32
        Sine and cosine of the hour of the day, the day of the week and the time of the year, each running on
        continuously, then the Fourier features of the days since the first time, see
        :func:`nestrec_recbole.encode.number.fourier_features`.
    """
    x = np.asarray(seconds, dtype=np.float64)
    days = x / DAY
    year = np.array(np.floor(x), dtype="datetime64[s]").astype("datetime64[Y]")
    start = year.astype("datetime64[s]").astype(np.float64)
    length = (year + 1).astype("datetime64[s]").astype(np.float64) - start
    phases = np.stack([days, (days + 3) / 7, (x - start) / length], axis=1)  # 1970 began on a Thursday
    angles = 2 * np.pi * (phases % 1)
    return np.column_stack([np.sin(angles), np.cos(angles), fourier_features(days - days.min())]).astype(np.float32)


def parse_times(cells: pd.Series) -> np.ndarray:
    """Unix seconds of numbers (milliseconds are recognised by their size) and of dates such as ``2014-07-23``.

    Returns
    -------
    numpy.ndarray of shape (n,), float64
        NaN where a cell is neither, or beyond the year 9999.
    """
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64)
    numbers = np.where(np.abs(numbers) > _MILLISECONDS, numbers / 1000, numbers)
    dates = pd.to_datetime(cells.where(np.isnan(numbers)), errors="coerce", utc=True, format="ISO8601")
    known = dates.notna().to_numpy()
    numbers[known] = (dates[known] - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
    numbers[~(np.abs(numbers) < 253_402_300_800)] = np.nan
    return numbers
