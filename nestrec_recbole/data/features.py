"""Feature arrays beside the atomic files: memory-mapped, described, and checked before they are used.

A store is a folder that never changes once it is there; how it comes to be: :mod:`nestrec_recbole.data.featurefiles`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from dataclasses import field as default
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from nestrec_recbole.errors import NestRecError

REDUCTION = "reduction.npy"
BLOCK = 1 << 24  # bytes of an array that are in memory together


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
    views : numpy.ndarray of shape (n_views - 1, n_items, width), float32, optional
        The same items encoded from altered inputs, for training to draw from.
    """

    name: str
    modality: str
    values: np.ndarray
    mask: np.ndarray
    views: np.ndarray | None = None


@dataclass(frozen=True)
class Manifest:
    """What an array is and what it was made from.

    Attributes
    ----------
    field, modality, encoder, revision
        The source field, its kind, who encoded it, and which version of that.
    settings : dict
        What else the encoder was told.
    normalised : bool
        Whether rows have unit length.
    sha256 : str
        Of the source values, see :func:`content_hash`.
    n_items, width, n_views, dtype
        Of the arrays; dtype is float16 or float32.
    checksums : dict of str to str
        SHA-256 of the item tokens and of the numbers in each array.
    """

    field: str
    modality: str
    encoder: str
    normalised: bool
    sha256: str
    n_items: int
    width: int
    dtype: str
    checksums: dict[str, str]
    revision: str = ""
    settings: dict[str, Any] = default(default_factory=dict)
    n_views: int = 1


class Rows(Protocol):
    """What is written: an array, or anything that is sliced like one."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


def feature_folder(config: Any) -> Path:
    """``<feature_path>/<dataset>/features``: where the arrays of a dataset live, by default beside its atomic files.

    Those of the dataset inside RecBole's package go to ``dataset_atomic/``.
    """
    root = config["feature_path"]
    if not root:
        root = Path(config["data_path"]).parent
        root = Path("dataset_atomic") if root.name == "dataset_example" else root
    return Path(root) / config["dataset"] / "features"


def content_hash(tokens: Iterable[str], values: Iterable[str]) -> str:
    """SHA-256 over (item, source value) pairs, whatever their order in the file."""
    digest = hashlib.sha256()
    for token, value in sorted(zip(tokens, values, strict=True)):
        digest.update(f"{token}\x00{value}\x01".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class FeatureStore:
    """One folder of features: ``embeddings.npy``, ``items.txt`` (one item token a line), ``manifest.json``.

    ``views.npy`` is there where the field has further views, ``reduction.npy`` where its features were reduced.

    Examples
    --------
    >>> store = FeatureStore.open("dataset_atomic/beauty/features/title-1f0c22ab-9d40e6b1")  # doctest: +SKIP
    >>> store.align(dataset.field2id_token["item_id"]).values.shape  # doctest: +SKIP
    (12102, 384)
    """

    path: Path
    manifest: Manifest
    embeddings: np.ndarray
    views: np.ndarray | None = None

    @classmethod
    def open(cls, path: str | Path) -> FeatureStore:
        """Open a store; neither tokens nor arrays are read before they are needed.

        Raises
        ------
        NestRecError
            When the folder is missing, incomplete, or its parts do not fit each other.
        """
        path = Path(path)
        try:
            manifest = Manifest(**json.loads((path / "manifest.json").read_text()))
            embeddings = np.load(path / "embeddings.npy", mmap_mode="r", allow_pickle=False)
            several = manifest.n_views > 1
            views = np.load(path / "views.npy", mmap_mode="r", allow_pickle=False) if several else None
        except FileNotFoundError as error:
            raise NestRecError(
                f"{path}: no {Path(error.filename).name}; the feature is not encoded: run `nestrec encode`, or a model "
                "that names it in `item_fields`"
            ) from None
        except (ValueError, TypeError, KeyError, EOFError) as error:
            raise NestRecError(f"{path}: damaged feature ({error}); delete the folder and encode again") from None
        rows = (manifest.n_items, manifest.width)
        shapes: dict[str, tuple[np.ndarray, tuple[int, ...]]] = {"embeddings.npy": (embeddings, rows)}
        if views is not None:
            shapes["views.npy"] = (views, (manifest.n_views - 1, *rows))
        for name, (array, shape) in shapes.items():
            if array.shape != shape or str(array.dtype) != manifest.dtype:
                raise NestRecError(
                    f"{path}: {name} is {array.dtype} {array.shape}, but manifest.json says {manifest.dtype} {shape}; "
                    "delete the folder and encode again"
                )
        return cls(path, manifest, embeddings, views)

    @property
    def meaning(self) -> str:
        """What features stand for, where the encoder looked at all items for it: a hash; else nothing."""
        return self.manifest.checksums.get(REDUCTION) or self.manifest.settings.get("values", "")

    @cached_property
    def items(self) -> list[str]:
        """The item token of each row.

        Raises
        ------
        NestRecError
            When the file is not the one that was written with the arrays.
        """
        text = (self.path / "items.txt").read_bytes()
        self._check("items.txt", hashlib.sha256(text).hexdigest())
        return text.decode().split("\n")[:-1]

    def reduction(self) -> np.ndarray:
        """What reduced the features, as :meth:`nestrec_recbole.data.reduction.Reduction.as_array` gives it.

        Raises
        ------
        NestRecError
            When it is not there, or is not the one that was written with the arrays.
        """
        try:
            array = np.load(self.path / REDUCTION, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            raise NestRecError(f"{self.path}: no {REDUCTION}; delete the folder and encode again") from None
        self._check(REDUCTION, hashlib.sha256(array.tobytes()).hexdigest())
        return array

    def align(self, tokens: Sequence[str]) -> ItemField:
        """Put rows in the order of RecBole's item ids, reading each array once, in blocks.

        Parameters
        ----------
        tokens : sequence of str
            ``dataset.field2id_token[item field]``; entry 0 is the padding item.

        Raises
        ------
        NestRecError
            When an array is not the one that was written, a feature is not finite, or no item is known: the store is
            another dataset's.
        """
        rows = pd.Index(self.items, dtype=object).get_indexer(np.asarray(tokens, dtype=object)[1:])
        mask = np.r_[False, rows >= 0]
        if not mask.any():
            raise NestRecError(f"{self.path}: none of its {len(self.items)} items is in this dataset; encode again")
        ids = np.zeros(self.manifest.n_items, dtype=np.int64)  # of each row; 0: of no item
        ids[rows[mask[1:]]] = np.flatnonzero(mask)
        values = self._gather("embeddings.npy", self.embeddings[None], ids, len(mask))[0]
        views = None if self.views is None else self._gather("views.npy", self.views, ids, len(mask))
        return ItemField(self.manifest.field, self.manifest.modality, values, mask, views)

    def _gather(self, name: str, arrays: np.ndarray, ids: np.ndarray, n_ids: int) -> np.ndarray:
        """Rows by item id, (n_arrays, n_ids, width) float32, of arrays (n_arrays, n_rows, width)."""
        digest = hashlib.sha256()
        found = np.zeros((len(arrays), n_ids, arrays.shape[2]), dtype=np.float32)
        for array, values in zip(arrays, found, strict=True):
            for start, block in blocks(array):
                digest.update(np.ascontiguousarray(block).data)
                self._refuse_infinite(block, start)
                place = ids[start : start + len(block)]
                values[place[place > 0]] = block[place > 0]
        self._check(name, digest.hexdigest())
        return found

    def _refuse_infinite(self, block: np.ndarray, start: int) -> None:
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            item = self.items[start + int(np.argmin(finite))]
            raise NestRecError(f"{self.path}: the features of item {item!r} are not finite; encode again")

    def _check(self, name: str, sha256: str) -> None:
        if self.manifest.checksums.get(name) != sha256:
            raise NestRecError(
                f"{self.path}: {name} is not the file that was written with manifest.json; delete the folder and "
                "encode again"
            )


def blocks(array: Rows) -> Iterator[tuple[int, np.ndarray]]:
    """Pieces (first row, rows) of an array, of at most ``BLOCK`` bytes each."""
    n_rows, width = array.shape
    step = max(1, BLOCK // max(1, width * array.dtype.itemsize))
    for start in range(0, n_rows, step):
        yield start, array[start : min(start + step, n_rows)]
