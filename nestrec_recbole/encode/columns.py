"""Whole columns to features, for encoders that need no model: numbers, categories, times, places."""

from __future__ import annotations

import hashlib
import re
from logging import getLogger
from pathlib import Path

import numpy as np
import pandas as pd

from nestrec_recbole.encode.category import SparseRows, encode_categories
from nestrec_recbole.encode.number import encode_numbers
from nestrec_recbole.encode.place import encode_places, parse_places
from nestrec_recbole.encode.recipe import Recipe
from nestrec_recbole.encode.time import encode_times, parse_times
from nestrec_recbole.errors import NestRecError

COMMA = r",\s*"  # as `nestrec convert` joins lists
_EXPECTED = {"number": "a number", "time": "a Unix time or a date", "place": "a latitude and a longitude"}


def encode_column(
    path: Path, name: str, cells: pd.Series, recipe: Recipe, separator: str | None
) -> np.ndarray | SparseRows:
    """Encode the cells of a column.

    Parameters
    ----------
    path : Path
        The ``.item`` file, for what is said of it.
    name : str
        The field.
    cells : pandas.Series of n str, by item token
        None of them empty.
    recipe : Recipe
    separator : str, optional
        Between the values of a cell, where the column is a sequence; see :func:`separator_of`.

    Returns
    -------
    numpy.ndarray or SparseRows of shape (n, width), float32
        NaN where a cell is not of this modality; a warning names the first.

    Raises
    ------
    NestRecError
        When no cell is.
    """
    if recipe.modality == "category":
        values = [_split(cell, separator) if separator else [cell] for cell in cells]
        try:
            return encode_categories(values, recipe.encoder, recipe.width)
        except NestRecError as error:
            raise NestRecError(f"{path}: {name!r} has {error}") from None
    parsed = _parse(recipe.modality, cells)
    good = np.isfinite(parsed).all(axis=1)
    expected = _EXPECTED[recipe.modality]
    if not good.any():
        raise NestRecError(f"{path}: no value of {name!r} is {expected} (item {cells.index[0]!r}: {cells.iloc[0]!r})")
    if not good.all():
        place = int(np.argmin(good))
        warn_of_missing(path, name, int((~good).sum()), f"not {expected}", cells.index[place], cells.iloc[place])
    known = _encode(parsed[good], recipe)
    encoded = np.full((len(cells), known.shape[1]), np.nan, dtype=np.float32)
    encoded[good] = known
    return encoded


def taken_from_all(cells: pd.Series, recipe: Recipe) -> str:
    """A hash of what an encoder takes from the whole column, a mean say; nothing where it reads each cell by itself."""
    if recipe.modality != "time" and recipe.encoder not in ("fourier", "standardise", "min_max"):
        return ""
    parsed = _parse(recipe.modality, cells)
    values = parsed[np.isfinite(parsed).all(axis=1), 0]
    figures = (values.mean(), values.std(), values.min(), values.max(), np.log1p(np.abs(values)).mean())
    return hashlib.sha256(" ".join(f"{figure:.9g}" for figure in figures).encode()).hexdigest()


def separator_of(cells: pd.Series, given: str) -> str:
    """What separates the values of a column's cells: ``given``; commas, where that is a space and a cell has one."""
    return COMMA if given == " " and cells.str.contains(",", regex=False).any() else given


def warn_of_missing(path: Path, name: str, n_cells: int, why: str, token: str, cell: str) -> None:
    """Say that cells count as missing, and name the first."""
    where = f"item {token!r}: {cell!r}"
    getLogger().warning("%s: %s: %d values are %s and count as missing (%s)", path, name, n_cells, why, where)


def _split(cell: str, separator: str) -> list[str]:
    values = re.split(COMMA, cell) if separator == COMMA else cell.split(separator)
    return [value for value in values if value] or [cell]


def _parse(modality: str, cells: pd.Series) -> np.ndarray:
    if modality == "place":
        return parse_places(cells)
    if modality == "time":
        return parse_times(cells)[:, None]
    return pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64)[:, None]


def _encode(values: np.ndarray, recipe: Recipe) -> np.ndarray:
    if recipe.modality == "place":
        return encode_places(values)
    if recipe.modality == "time":
        return encode_times(values[:, 0])
    return encode_numbers(values[:, 0], recipe.encoder)
