"""Numbers to features that keep their arithmetic: near numbers near, sizes comparable across magnitudes."""

from __future__ import annotations

import numpy as np


def encode_numbers(values: np.ndarray, n_frequencies: int = 8) -> np.ndarray:
    """Fourier features at log-spaced frequencies, plus the standardised value and its signed logarithm.

    With ``z = (x - mean) / std``, the features are ``sin(2^k z), cos(2^k z)`` for ``k = -2 .. n_frequencies - 3``,
    ``z``, and the standardised ``sign(x) log(1 + |x|)``. By the angle-sum identities each sine and cosine pair of a sum
    is a rotation of the pair of a summand, so a linear layer can add a constant; ``z`` makes the code invertible.

    Parameters
    ----------
    values : numpy.ndarray of shape (n,)
        Finite numbers.
    n_frequencies : int
        Octaves of frequencies.

    Returns
    -------
    numpy.ndarray of shape (n, 2 * n_frequencies + 2), float32
    """
    x = np.asarray(values, dtype=np.float64)
    z = _standardise(x)
    angles = z[:, None] * 2.0 ** np.arange(-2, n_frequencies - 2)
    size = _standardise(np.sign(x) * np.log1p(np.abs(x)))
    return np.column_stack([np.sin(angles), np.cos(angles), z, size]).astype(np.float32)


def _standardise(x: np.ndarray) -> np.ndarray:
    spread = x.std()
    return (x - x.mean()) / (spread if spread > 0 else 1.0)
