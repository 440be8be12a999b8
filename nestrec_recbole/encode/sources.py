"""What a field is encoded from: cells of the ``.item`` file, and the image files that they name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nestrec_recbole.data.atomic import read_columns
from nestrec_recbole.data.features import content_hash
from nestrec_recbole.encode.augment import alter_text
from nestrec_recbole.encode.digests import FileDigests
from nestrec_recbole.encode.image import Picture
from nestrec_recbole.encode.recipe import Recipe
from nestrec_recbole.errors import NestRecError


@dataclass(frozen=True)
class Source:
    """The items that have a field, and what it is.

    Attributes
    ----------
    cells : pandas.Series of str
        By item token; none of them empty.
    pictures : list of Picture, optional
        The image files that the cells name.
    sha256 : str
        Of cells or image files.
    """

    cells: pd.Series
    sha256: str
    pictures: list[Picture] | None = None

    def inputs(self, view: int = 0) -> list[str | Picture]:
        """What an encoder reads of each item: as it is, or altered for a further view."""
        if self.pictures is not None:
            return [picture._replace(view=view) for picture in self.pictures]
        return [alter_text(cell, view) if view else cell for cell in self.cells]


def item_path(config: Any) -> Path:
    """``<data_path>/<dataset>/<dataset>.item``, whether it is there or not."""
    return Path(config["data_path"]) / f"{config['dataset']}.item"


def require_field(path: Path, name: str, header: Mapping[str, str], config: Any) -> None:
    """Raise NestRecError unless the column ``name`` of an ``.item`` file with this header may be an item field."""
    item_id = config["ITEM_ID_FIELD"]
    if name not in header or name == item_id:
        problem = "is what items are called" if name == item_id else "is not there"
        known = ", ".join(column for column in header if column != item_id)
        raise NestRecError(f"item_fields: {path}: column {name!r} {problem}; fields are {known}")


def require_items(path: Path, config: Any) -> None:
    """Refuse a dataset without an ``.item`` file, where a model needs one."""
    if not path.is_file():
        raise NestRecError(
            f"{config['model']} needs item fields, but {path} does not exist; write it (item_id:token, "
            "title:token_seq, ...) or use FastSASRec, which needs ids only"
        )


def read_column(path: Path, name: str, config: Any) -> pd.Series:
    """Read one column of an atomic file as it is: str, NaN where a cell is empty."""
    return read_columns(path, [name], separator=config["field_separator"], encoding=config["encoding"])[name]


def read_cells(path: Path, name: str, config: Any) -> pd.Series:
    """Non-empty cells of a field by item token; the first line of an item counts, as in RecBole."""
    id_field = config["ITEM_ID_FIELD"]
    table = read_columns(
        path, [id_field, name], separator=config["field_separator"], encoding=config["encoding"]
    ).drop_duplicates(id_field)
    cells = table.set_index(id_field)[name]
    cells = cells[cells.notna() & cells.index.notna()].str.strip()
    return cells[cells != ""]


def read_source(path: Path, name: str, recipe: Recipe, config: Any, digests: FileDigests) -> Source:
    """Read what a field is encoded from.

    Raises
    ------
    NestRecError
        When no item has the field, or none of its images is there.
    """
    cells = read_cells(path, name, config)
    if not len(cells):
        raise NestRecError(f"{path}: no item has a value for {name!r}; remove it from `item_fields`")
    if recipe.modality != "image":
        return Source(cells, content_hash(cells.index, cells))
    files = [path.parent / cell for cell in cells]
    found = digests.of(files)
    pictures = [Picture(str(file.absolute()), digest or "") for file, digest in zip(files, found, strict=True)]
    if not any(found):
        raise NestRecError(f"{files[0]}: no such image, nor any other of {name!r}; paths are relative to {path.parent}")
    return Source(cells, content_hash(cells.index, [picture.digest for picture in pictures]), pictures)
