"""How a feature store comes to be, and what it is called.

The name of a store holds the field, a hash of how it was encoded, and a hash of what it was encoded from:
``features/title-1f0c22ab-9d40e6b1/``. So two models that want one field from two encoders have a folder each, and a
changed source makes a new one. A folder is written under a hidden name and renamed: readers see all of it or nothing.
What it takes the place of (the same field and encoder, other sources) goes after that; who has it open keeps it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nestrec_recbole.data.features import REDUCTION, FeatureStore, Manifest, Rows, blocks
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.files import flush, remove, temporary

DRAFT = ".draft-"


def recipe_prefix(name: str, recipe: dict[str, Any]) -> str:
    """``<field>-<hash of the recipe>-``: how the names of all stores of a field by one encoder begin."""
    text = json.dumps({"field": name, **recipe}, sort_keys=True)
    return f"{re.sub(r'[^A-Za-z0-9_]', '_', name)}-{hashlib.sha256(text.encode()).hexdigest()[:8]}-"


def store_path(folder: Path, name: str, recipe: dict[str, Any], sha256: str) -> Path:
    """Where the store of a field lies.

    Parameters
    ----------
    name : str
        The field.
    recipe : dict
        Everything but the sources that decides what the arrays are: modality, encoder, settings.
    sha256 : str
        Of the sources, see :func:`content_hash`.
    """
    return folder / f"{recipe_prefix(name, recipe)}{sha256[:8]}"


def write_features(
    path: str | Path,
    items: Sequence[str],
    embeddings: Rows,
    views: Sequence[Rows] = (),
    reduction: np.ndarray | None = None,
    **about: Any,
) -> FeatureStore:
    """Write a store as a whole or not at all; one that is there already is what would be written, and stays.

    Parameters
    ----------
    path : str or Path
        See :func:`store_path`.
    items : sequence of str
        Item tokens that have this field; items left out count as missing.
    embeddings : array of shape (len(items), width)
    views : sequence of arrays, each of shape (len(items), width)
        Further views of the same items.
    reduction : numpy.ndarray, optional
        By which the encoder's features became these, for items that come later.
    **about
        The remaining fields of :class:`Manifest`: field, modality, encoder, normalised, sha256, ...

    Raises
    ------
    NestRecError
        When a feature is not finite, an item is there twice, or a token is not one line.
    """
    path = Path(path)
    tokens = _one_line_each(items, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary(path.parent, DRAFT) as draft:
        draft.mkdir()
        checksums = _write_arrays(draft, items, embeddings, views, reduction)
        (draft / "items.txt").write_bytes(tokens)
        checksums["items.txt"] = hashlib.sha256(tokens).hexdigest()
        manifest = Manifest(
            n_items=len(items),
            width=embeddings.shape[1],
            dtype=str(embeddings.dtype),
            n_views=1 + len(views),
            checksums=checksums,
            **about,
        )
        (draft / "manifest.json").write_text(json.dumps(asdict(manifest), indent=1) + "\n")
        flush(draft)
        _publish(draft, path)
    return FeatureStore.open(path)


def _one_line_each(items: Sequence[str], path: Path) -> bytes:
    """The text of ``items.txt``, whose line i is the token of row i."""
    if len(set(items)) < len(items):
        raise NestRecError(f"{path}: item {pd.Index(items)[pd.Index(items).duplicated()][0]!r} is there twice")
    tokens = "".join(f"{item}\n" for item in items).encode()
    if tokens.count(b"\n") > len(items):
        raise NestRecError(f"{path}: a token has a line end in it; item tokens are one line each")
    return tokens


def _write_arrays(
    draft: Path, items: Sequence[str], embeddings: Rows, views: Sequence[Rows], reduction: np.ndarray | None
) -> dict[str, str]:
    """Write the arrays of a store; return the SHA-256 of the numbers in each."""
    checksums = {"embeddings.npy": _save(draft / "embeddings.npy", [embeddings], items, embeddings.shape)}
    if views:
        checksums["views.npy"] = _save(draft / "views.npy", views, items, (len(views), *embeddings.shape))
    if reduction is not None:
        np.save(draft / REDUCTION, reduction, allow_pickle=False)
        checksums[REDUCTION] = hashlib.sha256(reduction.tobytes()).hexdigest()
    return checksums


def _save(path: Path, arrays: Sequence[Rows], items: Sequence[str], shape: tuple[int, ...]) -> str:
    """Write arrays one below the other; return the SHA-256 of their numbers."""
    digest = hashlib.sha256()
    about = {"descr": np.lib.format.dtype_to_descr(arrays[0].dtype), "fortran_order": False, "shape": shape}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, about)
        for array in arrays:
            for start, block in blocks(array):
                finite = np.isfinite(block).all(axis=1)
                if not finite.all():
                    item = items[start + int(np.argmin(finite))]
                    raise NestRecError(
                        f"{path.parent.parent}: the features of item {item!r} are not finite; check its value"
                    )
                numbers = np.ascontiguousarray(block)
                digest.update(numbers.data)
                numbers.tofile(file)
    return digest.hexdigest()


def _publish(draft: Path, path: Path) -> None:
    """Rename a finished draft, then remove the stores that it takes the place of."""
    try:
        os.rename(draft, path)
    except OSError:
        if not path.is_dir():
            raise
        return  # another process was first, with the same
    for old in path.parent.glob(f"{path.name.rpartition('-')[0]}-*"):
        if old != path:
            with suppress(FileNotFoundError):  # another process removes it too
                os.rename(old, draft)  # out of readers' sight at once
                remove(draft)
