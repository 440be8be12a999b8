"""The item fields a model asks for, encoded where they are missing or stale."""

from __future__ import annotations

from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nestrec_recbole.data.atomic import read_columns, read_header
from nestrec_recbole.data.features import FeatureStore, content_hash, feature_folder
from nestrec_recbole.encode.number import encode_numbers
from nestrec_recbole.encode.text import encode_texts
from nestrec_recbole.errors import NestRecError


def ensure_item_features(config: Any) -> None:
    """Encode every field of ``config["item_fields"]`` that is not on disk yet or whose source has changed.

    ``item_fields`` maps a column of the ``.item`` file to ``{modality: text | number, encoder: ...}``. Left empty it is
    filled from the file's header: ``float`` columns and columns of numbers become numbers, all others text.

    Raises
    ------
    NestRecError
        No ``.item`` file, an unknown field or modality, or a field that no item has.
    """
    path = Path(config["data_path"]) / f"{config['dataset']}.item"
    if not path.is_file():
        raise NestRecError(
            f"{config['model']} needs item fields, but {path} does not exist; write it (item_id:token, "
            "title:token_seq, ...) or use FastSASRec, which needs ids only"
        )
    header = read_header(path, config["field_separator"], config["encoding"])
    if config["item_fields"] is None:
        config["item_fields"] = _fields_from_header(path, header, config)
    if not isinstance(config["item_fields"], dict) or not config["item_fields"]:
        raise NestRecError(
            f"item_fields is {config['item_fields']!r}: expected {{column: {{modality: text or number}}}}"
        )
    for field, how in config["item_fields"].items():
        if field not in header:
            raise NestRecError(f"item_fields: {path} has no column {field!r}; it has {', '.join(header)}")
        if not isinstance(how, dict) or how.get("modality") not in ("text", "number"):
            raise NestRecError(f"item_fields.{field} is {how!r}: expected {{modality: text}} or {{modality: number}}")
        _ensure_field(config, path, field, how)


def _ensure_field(config: Any, path: Path, field: str, how: dict[str, str]) -> None:
    cells = _read_cells(path, field, config)
    encoder = how.get("encoder", "minilm") if how["modality"] == "text" else "fourier"
    about = {"field": field, "modality": how["modality"], "encoder": encoder, "normalised": how["modality"] == "text"}
    store = feature_folder(config) / field
    fresh = content_hash(cells.index, cells)
    if (store / "manifest.json").is_file():
        manifest = FeatureStore.open(store).manifest
        if (manifest.sha256, manifest.encoder, manifest.modality) == (fresh, encoder, how["modality"]):
            return
    if not len(cells):
        raise NestRecError(f"{path}: no item has a value for {field!r}; remove it from `item_fields`")
    getLogger().info("encoding %s of %d items with %s into %s", field, len(cells), encoder, store)
    if how["modality"] == "text":
        values = encode_texts(cells.tolist(), encoder, progress=bool(config["show_progress"])).astype(np.float16)
    else:
        cells = _keep_numbers(path, field, cells)
        values = encode_numbers(cells.to_numpy(dtype=np.float64))
    FeatureStore.write(store, [str(token) for token in cells.index], values, sha256=fresh, **about)


def _read_cells(path: Path, field: str, config: Any) -> pd.Series:
    """Non-empty cells of a field by item token; the first line of an item counts, as in RecBole."""
    id_field = config["ITEM_ID_FIELD"]
    table = read_columns(
        path, [id_field, field], separator=config["field_separator"], encoding=config["encoding"]
    ).drop_duplicates(id_field)
    cells = table.set_index(id_field)[field]
    cells = cells[cells.notna() & cells.index.notna()].str.strip()
    return cells[cells != ""]


def _keep_numbers(path: Path, field: str, cells: pd.Series) -> pd.Series:
    """Cells that are finite numbers; the others count as missing, with a warning that names the first."""
    numbers = pd.to_numeric(cells, errors="coerce").replace([np.inf, -np.inf], np.nan)
    bad = cells[numbers.isna()]
    if len(bad) == len(cells):
        raise NestRecError(f"{path}: no value of {field!r} is a number (item {cells.index[0]!r}: {cells.iloc[0]!r})")
    if len(bad):
        where = f"item {bad.index[0]!r}: {bad.iloc[0]!r}"
        getLogger().warning("%s: %s: %d values are no numbers and count as missing (%s)", path, field, len(bad), where)
    return numbers.dropna()


def _fields_from_header(path: Path, header: dict[str, str], config: Any) -> dict[str, dict[str, str]]:
    fields: dict[str, dict[str, str]] = {}
    for field, kind in header.items():
        if field == config["ITEM_ID_FIELD"] or kind == "float_seq":
            continue
        cells = _read_cells(path, field, config)
        if len(cells):
            numeric = kind == "float" or pd.to_numeric(cells, errors="coerce").notna().mean() > 0.95
            fields[field] = {"modality": "number"} if numeric else {"modality": "text", "encoder": "minilm"}
    if not fields:
        raise NestRecError(f"{path}: no column besides the id has a value; add a title, or use FastSASRec")
    return fields
