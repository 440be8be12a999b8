"""The item fields a model asks for, encoded where they are missing or stale."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nestrec_recbole.data.atomic import read_header
from nestrec_recbole.data.dataset import SequenceDataset
from nestrec_recbole.data.featurefiles import recipe_prefix, store_path, write_features
from nestrec_recbole.data.features import content_hash, feature_folder
from nestrec_recbole.encode.augment import alter_text
from nestrec_recbole.encode.columns import encode_column, warn_of_missing
from nestrec_recbole.encode.digests import FileDigests
from nestrec_recbole.encode.recipe import IMPORTED, Recipe
from nestrec_recbole.encode.reduce import Reduction
from nestrec_recbole.encode.shards import Engine, encode_inputs
from nestrec_recbole.encode.sources import Source, item_path, read_cells, read_source
from nestrec_recbole.errors import NestRecError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
MOST = 0.95  # of a column's values decide what it holds


def ensure_item_features(
    config: Any, training_items: Callable[[], Iterable[str]], engine: Engine | None = None
) -> dict[str, Path]:
    """Encode every field of ``config["item_fields"]`` that is not on disk yet or whose source has changed.

    ``item_fields`` maps a column of the ``.item`` file to ``{modality: ..., encoder: ..., ...}``, see
    :class:`nestrec_recbole.encode.recipe.Recipe`. Left empty it is filled from the file's header: columns of image
    paths become images, ``float`` columns and columns of numbers numbers, all others text. Where all is there, nothing
    is loaded: sources are hashed, image files only where their size or time has changed.

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
        No ``.item`` file, an unknown field or setting, a field that no item has, or an encoder that cannot be loaded.
    """
    recipes = read_recipes(config)
    engine = engine or Engine(progress=bool(config["show_progress"]))
    return {name: _ensure_field(config, name, recipe, training_items, engine) for name, recipe in recipes.items()}


def encode_fields(config: Any, names: Sequence[str], how: dict[str, Any], engine: Engine) -> list[Path]:
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

    Returns
    -------
    list of Path
        The stores, in the order of ``names``.
    """
    path = item_path(config)
    _require(path, config)
    header = read_header(path, config["field_separator"], config["encoding"])
    unknown_names = [name for name in names if name not in header]
    if unknown_names:
        raise NestRecError(f"{path} has no column {unknown_names[0]!r}; it has {', '.join(header)}")
    if "modality" in how:
        config["item_fields"] = dict.fromkeys(names, how)
    else:
        guessed = {name: guess(path, name, header[name], config) or {"modality": "text"} for name in names}
        config["item_fields"] = {name: {"modality": guessed[name]["modality"], **how} for name in names}
    return list(ensure_item_features(config, lambda: SequenceDataset(config).training_items(), engine).values())


def read_recipes(config: Any) -> dict[str, Recipe]:
    """Read ``item_fields``, filled from the header of the ``.item`` file where it is empty."""
    path, wanted = item_path(config), config["item_fields"]
    if wanted is None:
        _require(path, config)
        wanted = config["item_fields"] = _fields_from_header(path, config)
    if not isinstance(wanted, dict) or not wanted:
        raise NestRecError(f"item_fields is {wanted!r}: expected {{column: {{modality: text}}}} or another modality")
    return {name: Recipe.parse(name, how) for name, how in wanted.items()}


def guess(path: Path, name: str, kind: str, config: Any) -> dict[str, str] | None:
    """Modality and encoder of a column, by its type and its values; None where no item has one."""
    cells = read_cells(path, name, config)
    if not len(cells):
        return None
    if cells.str.lower().str.endswith(IMAGE_SUFFIXES).mean() > MOST:
        return {"modality": "image"}
    if kind == "float" or pd.to_numeric(cells, errors="coerce").notna().mean() > MOST:
        return {"modality": "number"}
    return {"modality": "text", "encoder": "minilm"}


def _fields_from_header(path: Path, config: Any) -> dict[str, dict[str, str]]:
    header = read_header(path, config["field_separator"], config["encoding"])
    names = [name for name, kind in header.items() if name != config["ITEM_ID_FIELD"] and kind != "float_seq"]
    guesses = {name: guess(path, name, header[name], config) for name in names}
    fields = {name: how for name, how in guesses.items() if how}
    if not fields:
        raise NestRecError(f"{path}: no column besides the id has a value; add a title, or use FastSASRec")
    return fields


def _require(path: Path, config: Any) -> None:
    if not path.is_file():
        raise NestRecError(
            f"{config['model']} needs item fields, but {path} does not exist; write it (item_id:token, "
            "title:token_seq, ...) or use FastSASRec, which needs ids only"
        )


def _ensure_field(
    config: Any, name: str, recipe: Recipe, training_items: Callable[[], Iterable[str]], engine: Engine
) -> Path:
    folder, path = feature_folder(config), item_path(config)
    if recipe.encoder == IMPORTED:
        return imported_store(folder, name, recipe)
    _require(path, config)
    header = read_header(path, config["field_separator"], config["encoding"])
    if name not in header:
        raise NestRecError(f"item_fields: {path} has no column {name!r}; it has {', '.join(header)}")
    digests = FileDigests(folder / "digests.parquet")
    source = read_source(path, name, recipe, config, digests)
    identity = recipe.identity(digests)
    training = None
    if recipe.is_fitted:
        training = source.cells.index.isin(list(training_items()))
        identity["training"] = content_hash(source.cells.index[training], source.cells.index[training])
    store = store_path(folder, name, identity, source.sha256)
    if (store / "manifest.json").is_file():
        return store
    getLogger().info("encoding %s of %d items with %s into %s", name, len(source.cells), recipe.encoder, store)
    parts = folder / f".parts-{recipe_prefix(name, identity)[:-1]}"
    if recipe.is_model:
        views = _encode_by_model(source, recipe, identity, training, parts, engine)
    else:
        separator = config["seq_separator"] if header[name].endswith("_seq") else None
        column = encode_column(path, name, source.cells, recipe, separator)
        views = [Taken(column, np.arange(len(column)))]
    has_field = _rows_there(path, name, source, recipe, views[0])
    tokens = source.cells.index.to_numpy()[has_field].tolist()
    first, *others = (Taken(view.rows, view.place[has_field]) for view in views)
    about = {
        "field": name,
        "modality": recipe.modality,
        "encoder": recipe.encoder,
        "revision": identity["revision"],
        "settings": {key: identity[key] for key in identity if key not in ("modality", "encoder", "revision")},
        "normalised": recipe.is_model and not recipe.is_fitted,
        "sha256": source.sha256,
    }
    write_features(store, tokens, first, others, **about)
    shutil.rmtree(parts, ignore_errors=True)
    return store


@dataclass(frozen=True)
class Taken:
    """``rows[place]``, of which only the slices that are asked for are made.

    Attributes
    ----------
    rows : numpy.ndarray of shape (n_distinct, width)
    place : numpy.ndarray of shape (n,), int64
    """

    rows: np.ndarray
    place: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.place), self.rows.shape[1])

    @property
    def dtype(self) -> np.dtype:
        return self.rows.dtype

    def __getitem__(self, part: slice) -> np.ndarray:
        return self.rows[self.place[part]]


def imported_store(folder: Path, name: str, recipe: Recipe) -> Path:
    """Find the store that ``nestrec features --import`` has written for a field, the newest if one is being replaced.

    Raises
    ------
    NestRecError
        When there is none.
    """
    prefix = recipe_prefix(name, {"modality": recipe.modality, "encoder": IMPORTED})
    stores = sorted(folder.glob(f"{prefix}*"), key=lambda store: store.stat().st_mtime_ns)
    if not stores:
        raise NestRecError(
            f"{folder}: nothing has been imported as {name!r} of modality {recipe.modality}; run "
            f"`nestrec features {folder.parent.name} --import FILE --as {name} --modality {recipe.modality}`"
        )
    return stores[-1]


def _encode_by_model(
    source: Source, recipe: Recipe, identity: dict[str, Any], training: np.ndarray | None, parts: Path, engine: Engine
) -> list[Taken]:
    """Encode every view of every item, reduced where that is asked for."""
    inputs: list[Any] = list(source.pictures or source.cells)
    altered = [_alter(one, view) for view in range(1, recipe.views) for one in inputs]
    rows, place = encode_inputs(inputs + altered, recipe, identity, parts, engine)
    views = [Taken(rows, part) for part in np.split(place, recipe.views)]
    if training is not None:
        assert recipe.width is not None
        known = training & _is_there(views[0])
        fit = Reduction.fit(Taken(rows, views[0].place[known]), recipe.width, recipe.reduce == "whiten")
        reduced = fit.apply(rows).astype(np.float16)
        views = [Taken(reduced, view.place) for view in views]
    return views


def _alter(one: Any, view: int) -> Any:
    return alter_text(one, view) if isinstance(one, str) else one._replace(view=view)


def _is_there(view: Taken) -> np.ndarray:
    """False for the pictures that could not be read, and cells that could not be parsed: (n,) bool."""
    return ~np.isnan(view.rows[:, 0])[view.place]


def _rows_there(path: Path, name: str, source: Source, recipe: Recipe, view: Taken) -> np.ndarray:
    if recipe.modality == "text":
        return np.ones(len(view.place), dtype=bool)  # a text can always be encoded: NaN is for the store to refuse
    there = _is_there(view)
    if not there.any():
        raise NestRecError(f"{path}: no image of {name!r} can be read ({source.cells.iloc[0]}); check the files")
    if recipe.modality == "image" and not there.all():
        place = int(np.argmin(there))
        token, cell = source.cells.index[place], source.cells.iloc[place]
        warn_of_missing(path, name, int((~there).sum()), "no readable images", token, cell)
    return there
