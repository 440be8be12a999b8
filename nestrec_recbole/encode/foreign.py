"""Features that others have computed, brought in as feature stores."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nestrec_recbole.data.atomic import read_header
from nestrec_recbole.data.featurefiles import store_path, write_features
from nestrec_recbole.data.features import FeatureStore, content_hash, feature_folder
from nestrec_recbole.encode.digests import FileDigests
from nestrec_recbole.encode.recipe import ENCODERS, IMPORTED
from nestrec_recbole.encode.sources import item_path, read_column
from nestrec_recbole.errors import NestRecError, first_line, unknown

PLM_WIDTH = 768  # of UniSRec's files, which do not say
Features = tuple[list[str] | None, np.ndarray]  # item tokens, where the file names them, and (n, width)


def import_features(
    config: Any, file: str | Path, name: str, modality: str = "text", rows: str = "id", width: int | None = None
) -> FeatureStore:
    """Write the features of a file as the field ``name``, which ``item_fields`` then takes with ``encoder: imported``.

    Known are RecBole's atomic files with a ``float_seq`` column (``additional_feat_suffix``), UniSRec's ``.feat1CLS``,
    MMRec's ``image_feat.npy`` and any other ``.npy``, ``.npz``, and Parquet. A row of zeros, with which these formats
    say that there is none, counts as missing, as does null for a vector in Parquet.

    Parameters
    ----------
    config : recbole.config.Config
        Of the dataset.
    file : str or Path
    name, modality : str
        Of the field.
    rows : str
        What the rows of a file that names no items are: ``id``, row i is the item whose token is the number i, as in
        UniSRec and MMRec; ``order``, the items of the ``.item`` file in its order.
    width : int, optional
        Of ``.feat1CLS``; 768 by default.

    Returns
    -------
    FeatureStore

    Raises
    ------
    NestRecError
        When the file is not of these, or does not fit the dataset.
    """
    if modality not in ENCODERS:
        raise NestRecError(unknown("modality", modality, ENCODERS))
    file = Path(file)
    if not file.is_file():
        raise NestRecError(f"{file}: file not found")
    tokens, values = _of_dataset(file, _read(file, config, width), rows, config)
    folder = feature_folder(config)
    (digest,) = FileDigests(folder / "digests.parquet").of([file])
    read_as = f"{digest} {values.dtype} {values.shape[1]}"  # of a raw file, the width is what somebody says it is
    source = content_hash(tokens, repeat(read_as, len(tokens)))
    return write_features(
        store_path(folder, name, {"modality": modality, "encoder": IMPORTED}, source),
        tokens,
        values.astype(np.float16 if values.dtype == np.float16 else np.float32, copy=False),
        field=name,
        modality=modality,
        encoder=IMPORTED,
        revision=str(digest)[:16],
        settings={"file": file.name, "rows": rows},
        normalised=False,
        sha256=source,
    )


def _of_dataset(file: Path, found: Features, rows: str, config: Any) -> tuple[list[str], np.ndarray]:
    """Of a file's features those of the dataset's items, the first of each, where they are not all zero."""
    tokens, values = found
    if values.ndim != 2 or not values.size or values.dtype.kind not in "fiu":
        raise NestRecError(f"{file}: {values.dtype} of shape {values.shape}; expected numbers (n_items, width)")
    if tokens is None:
        tokens = _tokens_of_rows(file, len(values), rows, config)
    known = pd.Index(tokens).isin(read_column(item_path(config), config["ITEM_ID_FIELD"], config))
    if not known.any():
        raise NestRecError(f"{file}: none of its items ({tokens[0]!r}, ...) is in this dataset; see --rows")
    kept = (values != 0).any(axis=1) & known & ~pd.Index(tokens).duplicated()
    if not kept.any():
        raise NestRecError(f"{file}: all features are zero")
    return [token for token, is_kept in zip(tokens, kept, strict=True) if is_kept], values[kept]


def _tokens_of_rows(file: Path, n_rows: int, rows: str, config: Any) -> list[str]:
    if rows == "id":
        return [str(row) for row in range(n_rows)]
    tokens = read_column(item_path(config), config["ITEM_ID_FIELD"], config)
    if len(tokens) != n_rows:
        raise NestRecError(f"{file}: {n_rows} rows, but {item_path(config)} has {len(tokens)} items; see --rows")
    return tokens.tolist()


def _read(file: Path, config: Any, width: int | None) -> Features:
    read = {".npy": _read_npy, ".npz": _read_npz, ".parquet": _read_parquet}.get(file.suffix)
    try:
        if read is not None:
            return read(file)
        if file.suffix.startswith(".feat"):
            return _read_raw(file, width or PLM_WIDTH)
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise NestRecError(f"{file}: cannot be read ({first_line(error)})") from None
    return _read_atomic(file, config)


def _read_npy(file: Path) -> Features:
    return None, np.load(file, mmap_mode="r", allow_pickle=False)


def _read_npz(file: Path) -> Features:
    """One array of features, or one with an array of item tokens."""
    with np.load(file, allow_pickle=False) as arrays:
        tables = [name for name in arrays.files if arrays[name].ndim == 2]
        lists = [name for name in arrays.files if arrays[name].ndim == 1]
        if len(tables) != 1 or len(lists) > 1:
            names = ", ".join(arrays.files)
            raise NestRecError(f"{file}: arrays {names}; expected one (n, width), and at most one of n tokens")
        values = arrays[tables[0]]
        tokens = [str(token) for token in arrays[lists[0]]] if lists else None
    if tokens is not None and len(tokens) != len(values):
        raise NestRecError(f"{file}: {len(tokens)} tokens, but {len(values)} rows of features")
    return tokens, values


def _read_raw(file: Path, width: int) -> Features:
    """UniSRec's: the bytes of float32 rows, one below the other."""
    values = np.fromfile(file, dtype=np.float32)
    if len(values) % width:
        raise NestRecError(f"{file}: {len(values)} numbers are no rows of {width}; see --width")
    return None, values.reshape(-1, width)


def _read_parquet(file: Path) -> Features:
    """A column of item tokens, then one column of lists, or a column per feature."""
    table = pd.read_parquet(file)
    first, *others = table.columns
    tokens = table[first].astype(str).tolist()
    if len(others) == 1 and table[others[0]].dtype == object:
        vectors = table.set_axis(tokens)[others[0]].dropna()
        return vectors.index.tolist(), _stack(file, vectors.tolist(), vectors.index)
    return tokens, table[others].to_numpy()


def _read_atomic(file: Path, config: Any) -> Features:
    """RecBole's: a token column, and a ``float_seq`` column."""
    header = read_header(file, config["field_separator"], config["encoding"])
    tokens = [name for name, kind in header.items() if kind == "token"]
    vectors = [name for name, kind in header.items() if kind == "float_seq"]
    if len(vectors) != 1 or not tokens:
        raise NestRecError(
            f"{file}: neither .npy, .npz, .parquet, .feat1CLS, nor an atomic file with a token and a float_seq column"
        )
    table = pd.DataFrame({name: read_column(file, name, config) for name in (tokens[0], vectors[0])}).dropna()
    separator = config["seq_separator"]
    try:
        rows = [np.array(cell.split(separator), dtype=np.float32) for cell in table[vectors[0]]]
    except ValueError as error:
        raise NestRecError(f"{file}: {vectors[0]}: {error}") from None
    names = table[tokens[0]].tolist()
    return names, _stack(file, rows, names)


def _stack(file: Path, rows: Sequence[Any], tokens: Sequence[str]) -> np.ndarray:
    """Rows of one length as an array (n, width)."""
    for token, row in zip(tokens, rows, strict=True):
        if len(row) != len(rows[0]):
            raise NestRecError(f"{file}: item {token!r} has {len(row)} features, the first has {len(rows[0])}")
    return np.stack([np.asarray(row, dtype=np.float32) for row in rows]) if rows else np.zeros((0, 0))
