"""Numbers to features; the default keeps their arithmetic: near numbers near, sizes comparable across magnitudes."""

from __future__ import annotations

import numpy as np


def encode_numbers(values: np.ndarray, encoder: str = "fourier") -> np.ndarray:
    """Encode a column of numbers.

    Parameters
    ----------
    values : numpy.ndarray of shape (n,)
        Finite numbers.
    encoder : str
        ``fourier`` (:func:`fourier_features`), ``standardise`` (mean 0, deviation 1), ``min_max`` (0 to 1), ``log1p``
        (``sign(x) log(1 + |x|)``) or ``none``.

    Returns
    -------
    numpy.ndarray of shape (n, width), float32
        Width 1, but for ``fourier``.
    """
    x = np.asarray(values, dtype=np.float64)
    if encoder == "fourier":
        return fourier_features(x)
    if encoder == "standardise":
        x = _standardise(x)
    elif encoder == "min_max":
        spread = x.max() - x.min()
        x = (x - x.min()) / (spread if spread > 0 else 1.0)
    elif encoder == "log1p":
        x = _signed_log(x)
    return x[:, None].astype(np.float32)


def fourier_features(x: np.ndarray, n_frequencies: int = 8) -> np.ndarray:
    """Fourier features at log-spaced frequencies, plus the standardised value and its signed logarithm.

    With ``z = (x - mean) / std``, the features are ``sin(2^k z), cos(2^k z)`` for ``k = -2 .. n_frequencies - 3``,
    ``z``, and the standardised ``sign(x) log(1 + |x|)``. By the angle-sum identities each sine and cosine pair of a sum
    is a rotation of the pair of a summand, so a linear layer can add a constant; ``z`` makes the code invertible.

    Parameters
    ----------
    x : numpy.ndarray of shape (n,)
    n_frequencies : int
        Octaves of frequencies.

    Returns
    -------
    numpy.ndarray of shape (n, 2 * n_frequencies + 2), float32
    """
    z = _standardise(x)
    angles = z[:, None] * 2.0 ** np.arange(-2, n_frequencies - 2)
    size = _standardise(_signed_log(x))
    return np.column_stack([np.sin(angles), np.cos(angles), z, size]).astype(np.float32)


def _signed_log(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * np.log1p(np.abs(x))


def _standardise(x: np.ndarray) -> np.ndarray:
    spread = x.std()
    return (x - x.mean()) / (spread if spread > 0 else 1.0)
