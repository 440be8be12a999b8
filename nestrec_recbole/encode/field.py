"""One item field: its features found, or encoded and written."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np

from nestrec_recbole.data.atomic import read_header
from nestrec_recbole.data.featurefiles import recipe_prefix, store_path, write_features
from nestrec_recbole.data.features import content_hash, feature_folder
from nestrec_recbole.data.reduction import Reduction
from nestrec_recbole.encode.category import SparseRows
from nestrec_recbole.encode.columns import encode_column, separator_of, taken_from_all, warn_of_missing
from nestrec_recbole.encode.digests import FileDigests
from nestrec_recbole.encode.earlier import Earlier, read_earlier
from nestrec_recbole.encode.engine import Engine
from nestrec_recbole.encode.known import KnownColumns
from nestrec_recbole.encode.recipe import IMPORTED, Recipe, downloaded_revision
from nestrec_recbole.encode.shards import encode_inputs
from nestrec_recbole.encode.sources import Source, item_path, read_source, require_field, require_items
from nestrec_recbole.errors import NestRecError


def ensure_field(
    config: Any,
    name: str,
    recipe: Recipe,
    training_items: Callable[[], Iterable[str]],
    engine: Engine,
    known_from: str | None = None,
) -> Path:
    """Find the store of a field; encode what it holds where it is not there, or not from these sources.

    Parameters are those of :func:`nestrec_recbole.encode.items.ensure_item_features` and of ``encode_fields`` there.

    Raises
    ------
    NestRecError
        As there.
    """
    folder, path = feature_folder(config), item_path(config)
    if recipe.encoder == IMPORTED:
        return _imported_store(folder, name, recipe)
    require_items(path, config)
    header = read_header(path, config["field_separator"], config["encoding"])
    require_field(path, name, header, config)
    digests = FileDigests(folder / "digests.parquet")
    known, is_sequence = KnownColumns(config), header[name].endswith("_seq")
    if (found := _known_store(folder, name, recipe, is_sequence, known, digests)) is not None:
        return found
    source = read_source(path, name, recipe, config, digests)
    identity, training = recipe.identity(digests), None
    if recipe.is_fitted:
        training = source.cells.index.isin(list(training_items()))
        identity["training"] = content_hash(source.cells.index[training], source.cells.index[training])
    facts = {} if recipe.modality == "image" else {"sha256": source.sha256}
    if recipe.modality == "category":
        facts["separator"] = separator_of(source.cells, config["seq_separator"])
        identity["separator"] = facts["separator"] if is_sequence else None
    store = store_path(folder, name, identity, source.sha256)
    if not (store / "manifest.json").is_file():
        earlier = read_earlier(config, known_from, name, recipe, identity, digests) if known_from else None
        _encode(_Field(store, path, name, source, recipe, identity, earlier), training, engine)
    if facts:
        known.put({name: facts})
    return store


@dataclass(frozen=True)
class _Field:
    """What is encoded: column ``name`` of the file ``path``, into ``store``."""

    store: Path
    path: Path
    name: str
    source: Source
    recipe: Recipe
    identity: dict[str, Any]
    earlier: Earlier | None = None


def _encode(field: _Field, training: np.ndarray | None, engine: Engine) -> None:
    """Encode a field and write its store."""
    cells, recipe = field.source.cells, field.recipe
    getLogger().info("encoding %s of %d items with %s into %s", field.name, len(cells), recipe.encoder, field.store)
    if recipe.is_model:
        parts = field.store.parent / f".parts-{recipe_prefix(field.name, field.identity)[:-1]}"
        parts.mkdir(parents=True, exist_ok=True)  # where nothing can be written, no encoder need be loaded
        try:
            views, reduction = _encode_by_model(field, training, parts, engine)
        except BaseException:
            if not any(parts.iterdir()):
                parts.rmdir()
            raise
        _write(field, views, reduction)
        shutil.rmtree(parts, ignore_errors=True)
    else:
        column = encode_column(field.path, field.name, cells, recipe, field.identity.get("separator"))
        _write(field, [Taken(column, np.arange(len(column)))])


@dataclass(frozen=True)
class Taken:
    """``rows[place]``, of which only the slices that are asked for are made.

    Attributes
    ----------
    rows : numpy.ndarray or SparseRows of shape (n_distinct, width)
    place : numpy.ndarray of shape (n,), int64
    """

    rows: np.ndarray | SparseRows
    place: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.place), self.rows.shape[1])

    @property
    def dtype(self) -> np.dtype:
        return self.rows.dtype

    def __getitem__(self, part: slice) -> np.ndarray:
        return self.rows[self.place[part]]


def _known_store(
    folder: Path, name: str, recipe: Recipe, is_sequence: bool, known: KnownColumns, digests: FileDigests
) -> Path | None:
    """The store of a field whose column has been read before, without reading it again; None where it must be read."""
    sha256, separator = known.get(name, "sha256"), known.get(name, "separator")
    is_category = recipe.modality == "category"
    if recipe.modality == "image" or recipe.is_fitted or sha256 is None or (is_category and separator is None):
        return None
    identity = recipe.identity(digests)
    if is_category:
        identity["separator"] = separator if is_sequence else None
    store = store_path(folder, name, identity, sha256)
    return store if (store / "manifest.json").is_file() else None


def _imported_store(folder: Path, name: str, recipe: Recipe) -> Path:
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
    field: _Field, training: np.ndarray | None, parts: Path, engine: Engine
) -> tuple[list[Taken], Reduction | None]:
    """Encode every view of every item, reduced where that is asked for."""
    recipe = field.recipe
    inputs = [one for view in range(recipe.views) for one in field.source.inputs(view)]
    rows, place = encode_inputs(inputs, recipe, field.identity, parts, engine, field.earlier)
    views = [Taken(rows, part) for part in np.split(place, recipe.views)]
    if training is None:
        return views, None
    assert recipe.width is not None
    known = training & _is_there(views[0])
    fit = Reduction.fit(Taken(rows, views[0].place[known]), recipe.width, recipe.reduce == "whiten")
    reduced = fit.apply(rows).astype(np.float16)
    return [Taken(reduced, view.place) for view in views], fit


def _is_there(view: Taken) -> np.ndarray:
    """False for the pictures that could not be read, and cells that could not be parsed: (n,) bool."""
    return ~np.isnan(view.rows[:][:, 0])[view.place]


def _write(field: _Field, views: list[Taken], reduction: Reduction | None = None) -> None:
    """Write the items that turned out to have the field."""
    recipe, identity = field.recipe, field.identity
    has_field = _has_field(field, views[0])
    first, *others = (Taken(view.rows, view.place[has_field]) for view in views)
    settings = {key: identity[key] for key in identity if key not in ("modality", "encoder", "revision")}
    values = first.rows.values if isinstance(first.rows, SparseRows) else taken_from_all(field.source.cells, recipe)
    settings |= {"values": values} if values else {}
    settings |= {"taken_over_from": field.earlier.sha256} if field.earlier else {}
    write_features(
        field.store,
        field.source.cells.index.to_numpy()[has_field].tolist(),
        first,
        others,
        None if reduction is None else reduction.as_array(),
        field=field.name,
        modality=recipe.modality,
        encoder=recipe.encoder,
        revision=identity["revision"] or (downloaded_revision(recipe.encoder) if recipe.is_model else ""),
        settings=settings,
        normalised=recipe.is_model and not recipe.is_fitted,
        sha256=field.source.sha256,
    )


def _has_field(field: _Field, view: Taken) -> np.ndarray:
    if field.recipe.modality in ("text", "category"):
        return np.ones(len(view.place), dtype=bool)  # they can always be encoded: NaN is for the store to refuse
    there, cells = _is_there(view), field.source.cells
    if not there.any():
        raise NestRecError(f"{field.path}: no image of {field.name!r} can be read ({cells.iloc[0]}); check the files")
    if field.recipe.modality == "image" and not there.all():
        place = int(np.argmin(there))
        n_missing = int((~there).sum())
        warn_of_missing(field.path, field.name, n_missing, "no readable images", cells.index[place], cells.iloc[place])
    return there
