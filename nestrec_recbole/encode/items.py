"""The item fields a model asks for, encoded where they are missing or stale."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

import pandas as pd

from nestrec_recbole.data.atomic import read_header
from nestrec_recbole.data.dataset import SequenceDataset
from nestrec_recbole.data.pictures import SUFFIXES
from nestrec_recbole.encode.engine import Engine
from nestrec_recbole.encode.field import ensure_field
from nestrec_recbole.encode.known import KnownColumns
from nestrec_recbole.encode.recipe import IMPORTED, Recipe
from nestrec_recbole.encode.reviews import check_reviews
from nestrec_recbole.encode.sources import item_path, read_cells, require_field, require_items
from nestrec_recbole.errors import NestRecError

# Counts and means over all time, the time that is to be predicted included: no field unless one is named.
TOTALS = ("average_rating", "rating_number", *(f"{what}_number" for what in ("view", "comment", "thumbup", "share")))
TOTALS += tuple(f"{what}_number" for what in ("coin", "favorite", "barrage"))
MOST = 0.95  # of a column's values decide what it holds


def ensure_item_features(
    config: Any, training_items: Callable[[], Iterable[str]], engine: Engine | None = None
) -> dict[str, Path]:
    """Encode every field of ``config["item_fields"]`` that is not on disk yet or whose source has changed.

    ``item_fields`` maps a column of the ``.item`` file to ``{modality: ..., encoder: ..., ...}``, see
    :class:`nestrec_recbole.encode.recipe.Recipe`. Left empty it is filled from the file's header: columns of image
    paths become images, ``float`` columns and columns of numbers numbers, all others text. Where all is there, nothing
    is loaded nor read: the ``.item`` file and images are hashed, and only where their size or time has changed.

    Parameters
    ----------
    config : recbole.config.Config
    training_items : callable
        Gives the tokens of the items that have an interaction in the training split; called if a field is to be
        reduced by ``pca`` or ``whiten``.
    engine : Engine, optional
        What to encode on; this process by default.

    Returns
    -------
    dict of str to Path
        The store of each field.

    Raises
    ------
    NestRecError
        No ``.item`` file, an unknown field or setting, a field that no item has, an encoder that cannot be loaded, or
        reviews under another split than they were made for.
    """
    recipes = read_recipes(config)
    check_reviews(config, recipes)
    engine = engine or Engine(progress=bool(config["show_progress"]))
    return {name: ensure_field(config, name, recipe, training_items, engine) for name, recipe in recipes.items()}


def encode_fields(
    config: Any, names: Sequence[str], how: dict[str, Any], engine: Engine, known_from: str | None = None
) -> list[Path]:
    """Encode fields of a dataset, all in one way; what is there already stays.

    Parameters
    ----------
    config : recbole.config.Config
        Its ``item_fields`` become these.
    names : sequence of str
        Columns of the ``.item`` file.
    how : dict
        As in ``item_fields``; without a modality each field gets that of its values.
    engine : Engine
    known_from : str, optional
        A folder of datasets with this one as it was, encoded in the same way: of a text or image that was there the
        features are taken over, see :mod:`nestrec_recbole.encode.earlier`.

    Returns
    -------
    list of Path
        The stores, in the order of ``names``.
    """
    path = item_path(config)
    require_items(path, config)
    header = read_header(path, config["field_separator"], config["encoding"])
    for name in names:
        require_field(path, name, header, config)
    if "modality" in how:
        config["item_fields"] = dict.fromkeys(names, how)
    else:
        guessed = {name: guess(path, name, header[name], config) or {"modality": "text"} for name in names}
        config["item_fields"] = {name: {"modality": guessed[name]["modality"], **how} for name in names}
    recipes = read_recipes(config)

    def training_items() -> Iterable[str]:
        return SequenceDataset(config).training_items()

    return [ensure_field(config, name, recipe, training_items, engine, known_from) for name, recipe in recipes.items()]


def read_recipes(config: Any) -> dict[str, Recipe]:
    """Read ``item_fields``, filled from the header of the ``.item`` file where it is empty."""
    path, wanted = item_path(config), config["item_fields"]
    if wanted is None:
        require_items(path, config)
        wanted = config["item_fields"] = _fields_from_header(path, config)
    if not isinstance(wanted, dict) or not wanted:
        raise NestRecError(f"item_fields is {wanted!r}: expected {{column: {{modality: text}}}} or another modality")
    recipes = {name: Recipe.parse(name, how) for name, how in wanted.items()}
    header = read_header(path, config["field_separator"], config["encoding"]) if path.is_file() else {}
    for name, recipe in recipes.items():
        if header.get(name) == "float_seq" and recipe.encoder != IMPORTED:
            raise NestRecError(f"item_fields.{name}: {_of_vectors(name, config)}")
    return recipes


def guess(path: Path, name: str, kind: str, config: Any) -> dict[str, str] | None:
    """Modality and encoder of a column, by its type and its values; None where no item has one."""
    cells = read_cells(path, name, config)
    if not len(cells):
        return None
    if cells.str.contains("://").mean() > MOST:
        getLogger().info("%s: %s holds addresses and is left out; `nestrec convert` fetches images", path, name)
        return None
    if cells.str.lower().str.endswith(SUFFIXES).mean() > MOST:
        return {"modality": "image"}
    if kind == "float" or pd.to_numeric(cells, errors="coerce").notna().mean() > MOST:
        return {"modality": "number"}
    return {"modality": "text", "encoder": "minilm"}


def _of_vectors(name: str, config: Any) -> str:
    how = f"nestrec features {config['dataset']} --import FILE --as {name}"
    return f"{name}:float_seq holds vectors, which are imported, not encoded: `{how}`"


def _fields_from_header(path: Path, config: Any) -> dict[str, dict[str, str]]:
    header = read_header(path, config["field_separator"], config["encoding"])
    names = [name for name, kind in header.items() if name != config["ITEM_ID_FIELD"] and kind != "float_seq"]
    for name in (name for name, kind in header.items() if kind == "float_seq"):
        getLogger().warning("%s: %s", path, _of_vectors(name, config))
    known, guesses = KnownColumns(config), {}
    for name in (name for name in names if name not in TOTALS):
        guessed = known.get(name, "guess")
        guesses[name] = guess(path, name, header[name], config) or {} if guessed is None else guessed
    fields = {name: how for name, how in guesses.items() if how}
    if not fields:
        raise NestRecError(f"{path}: no column besides the id has a value; add a title, or use FastSASRec")
    if any(known.get(name, "guess") is None for name in guesses):
        known.put({name: {"guess": guessed} for name, guessed in guesses.items()})
    return fields
