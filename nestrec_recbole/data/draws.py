"""Random numbers that depend on what they are drawn for, and on nothing that was drawn before."""

from __future__ import annotations

import numpy as np
import pandas as pd


def mix(numbers: np.ndarray) -> np.ndarray:
    """Scramble uint64 numbers one by one: the finaliser of SplitMix64 (Steele et al. 2014)."""
    numbers = numbers + np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def token_keys(tokens: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """A random uint64 for each token, seed and purpose, whatever the token's id or place."""
    keys, salt = (pd.util.hash_array(np.asarray(words, dtype=object)) for words in (tokens, [purpose]))
    return mix(keys ^ mix(salt ^ np.array([seed], dtype=np.int64).view(np.uint64)))


def uniform(keys: np.ndarray) -> np.ndarray:
    """Keys as numbers in [0, 1), float64."""
    return (keys >> np.uint64(11)) * 2.0**-53


def share_of(tokens: np.ndarray, share: float, seed: int, purpose: str) -> np.ndarray:
    """Which tokens belong to a share of them drawn by seed, (n,) bool; never the first, which is the padding."""
    if not share:
        return np.zeros(len(tokens), dtype=bool)
    drawn = uniform(token_keys(tokens, seed, purpose)) < share
    drawn[:1] = False
    return drawn
