"""Feature arrays beside the atomic files: memory-mapped, described, and checked before they are used."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nestrec_recbole.errors import NestRecError


@dataclass(frozen=True)
class ItemField:
    """One item field, aligned to RecBole's item ids.

    Attributes
    ----------
    name, modality : str
    values : numpy.ndarray of shape (n_items, width), float32
        Zero where the field is missing.
    mask : numpy.ndarray of shape (n_items,), bool
        True where the item has this field. Row 0, the padding item, never has.
    """

    name: str
    modality: str
    values: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Manifest:
    """What an array is and what it was made from.

    Attributes
    ----------
    field, modality, encoder, width, normalised
        The source field, its kind, who encoded it, how wide, and whether rows have unit length.
    sha256 : str
        Of the source values, see :func:`content_hash`.
    dtype : str
        float16 or float32.
    """

    field: str
    modality: str
    encoder: str
    width: int
    normalised: bool
    sha256: str
    dtype: str


def feature_folder(config: Any) -> Path:
    """``<feature_path>/<dataset>/features``: where the arrays of a dataset live."""
    return Path(config["feature_path"]) / config["dataset"] / "features"


def content_hash(tokens: Iterable[str], values: Iterable[str]) -> str:
    """SHA-256 over (item, source value) pairs, whatever their order in the file."""
    digest = hashlib.sha256()
    for token, value in sorted(zip(tokens, values, strict=True)):
        digest.update(f"{token}\x00{value}\x01".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class FeatureStore:
    """One ``features/<name>/`` folder: ``embeddings.npy``, ``items.txt`` (one item token a line), ``manifest.json``.

    Examples
    --------
    >>> store = FeatureStore.open("dataset_atomic/beauty/features/title")  # doctest: +SKIP
    >>> store.align(dataset.field2id_token["item_id"]).values.shape  # doctest: +SKIP
    (12102, 384)
    """

    path: Path
    manifest: Manifest
    items: list[str]
    embeddings: np.ndarray

    @classmethod
    def open(cls, path: str | Path) -> FeatureStore:
        """Open a store without reading its array into memory.

        Raises
        ------
        NestRecError
            When the folder is missing, incomplete, or its parts do not fit each other.
        """
        path = Path(path)
        try:
            manifest = Manifest(**json.loads((path / "manifest.json").read_text()))
            items = (path / "items.txt").read_text().splitlines()
            embeddings = np.load(path / "embeddings.npy", mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise NestRecError(
                f"{path}: no {Path(error.filename).name}; the feature is not encoded, run a model that names it in "
                "`item_fields`, or remove it there"
            ) from None
        except (ValueError, TypeError, KeyError) as error:
            raise NestRecError(f"{path}: damaged feature ({error}); delete the folder and encode again") from None
        if embeddings.shape != (len(items), manifest.width):
            raise NestRecError(
                f"{path}: embeddings.npy is {embeddings.shape}, but items.txt and manifest.json say "
                f"({len(items)}, {manifest.width}); delete the folder and encode again"
            )
        return cls(path, manifest, items, embeddings)

    @classmethod
    def write(cls, path: str | Path, items: Sequence[str], embeddings: np.ndarray, **about: Any) -> FeatureStore:
        """Write a store as a whole or not at all: to a temporary folder first, then renamed.

        Parameters
        ----------
        items : sequence of str
            Item tokens that have this field; items left out count as missing.
        embeddings : numpy.ndarray of shape (len(items), width)
        **about
            The remaining fields of :class:`Manifest`: field, modality, encoder, normalised, sha256.
        """
        path = Path(path)
        if not np.isfinite(embeddings).all():
            row = int(np.flatnonzero(~np.isfinite(embeddings).all(axis=1))[0])
            raise NestRecError(f"{path}: the features of item {items[row]!r} are not finite; check its source value")
        manifest = Manifest(width=embeddings.shape[1], dtype=str(embeddings.dtype), **about)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        try:
            np.save(draft / "embeddings.npy", embeddings)
            (draft / "items.txt").write_text("".join(f"{item}\n" for item in items))
            (draft / "manifest.json").write_text(json.dumps(asdict(manifest), indent=1) + "\n")
            if path.exists():
                shutil.rmtree(path)
            os.replace(draft, path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return cls.open(path)

    def align(self, tokens: Sequence[str]) -> ItemField:
        """Put rows in the order of RecBole's item ids.

        Parameters
        ----------
        tokens : sequence of str
            ``dataset.field2id_token[item field]``; entry 0 is the padding item.

        Raises
        ------
        NestRecError
            When a feature is not finite, or none of the items is known: the store is another dataset's.
        """
        row_of = {item: row for row, item in enumerate(self.items)}
        rows = np.array([-1] + [row_of.get(str(token), -1) for token in tokens[1:]])
        mask = rows >= 0
        if not mask.any():
            raise NestRecError(f"{self.path}: none of its {len(self.items)} items is in this dataset; encode again")
        values = np.zeros((len(rows), self.manifest.width), dtype=np.float32)
        values[mask] = self.embeddings[rows[mask]]
        if not np.isfinite(values).all():
            item = tokens[int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])]
            raise NestRecError(f"{self.path}: the features of item {item!r} are not finite; encode again")
        return ItemField(self.manifest.field, self.manifest.modality, values, mask)
