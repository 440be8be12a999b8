"""What features a dataset has, and whether they make sense: coverage, norms, nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nestrec_recbole.data.featurefiles import DRAFT
from nestrec_recbole.data.features import FeatureStore, blocks, feature_folder
from nestrec_recbole.data.vectors import unit_rows
from nestrec_recbole.encode.digests import FileDigests
from nestrec_recbole.encode.recipe import IMPORTED, Recipe
from nestrec_recbole.encode.sources import item_path, read_column, read_source
from nestrec_recbole.errors import NestRecError


@dataclass(frozen=True)
class Summary:
    """One store, in figures.

    Attributes
    ----------
    store : FeatureStore
    state : str
        ``fresh``, ``stale`` (the source has changed since), ``imported``, or ``no source`` (the column is gone).
    coverage : float
        Share of the items of the ``.item`` file that have the field; NaN without that file.
    norms : tuple of float
        Least, mean and largest length of a row.
    """

    store: FeatureStore
    state: str
    coverage: float
    norms: tuple[float, float, float]


def summarise(config: Any) -> list[Summary]:
    """Summarise every store of a dataset, by name.

    Raises
    ------
    NestRecError
        When a store is damaged.
    """
    stores = _stores(feature_folder(config))
    path = item_path(config)
    n_items = read_column(path, config["ITEM_ID_FIELD"], config).nunique() if path.is_file() else 0
    return [
        Summary(
            store,
            _state(store, path, config),
            store.manifest.n_items / n_items if n_items else np.nan,
            _norms(store),
        )
        for store in stores
    ]


def find_store(config: Any, name: str) -> FeatureStore:
    """Open the store of a name, or, where there is but one, of a field.

    Raises
    ------
    NestRecError
        When there is none, or more than one.
    """
    folder = feature_folder(config)
    stores = _stores(folder)
    found = [store for store in stores if name in (store.path.name, store.manifest.field)]
    if len(found) != 1:
        there = ", ".join(store.path.name for store in found or stores) or "none yet: run `nestrec encode`"
        raise NestRecError(f"{folder}: {len(found)} features are called {name!r}; there are {there}")
    return found[0]


def neighbours(store: FeatureStore, n_items: int = 5, k: int = 3) -> list[tuple[str, list[tuple[str, float]]]]:
    """Find the nearest items of a few, by cosine, for a look at whether they are alike.

    Parameters
    ----------
    store : FeatureStore
    n_items : int
        Items looked at, the same each time.
    k : int
        Neighbours of each.

    Returns
    -------
    list of (item, list of (neighbour, cosine))
    """
    n_rows = store.manifest.n_items
    chosen = np.sort(np.random.default_rng(0).permutation(n_rows)[:n_items])
    queries = unit_rows(np.asarray(store.embeddings[chosen], dtype=np.float32))
    cosine = np.empty((len(chosen), n_rows), dtype=np.float32)
    for start, block in blocks(store.embeddings):
        cosine[:, start : start + len(block)] = queries @ unit_rows(block.astype(np.float32)).T
    cosine[np.arange(len(chosen)), chosen] = -np.inf
    nearest = np.argsort(-cosine, axis=1, kind="stable")[:, : min(k, n_rows - 1)]
    items = store.items
    return [
        (items[row], [(items[other], float(near[other])) for other in others])
        for row, others, near in zip(chosen, nearest, cosine, strict=True)
    ]


def unfinished(config: Any) -> list[tuple[Path, int]]:
    """Folders of encodings that were broken off, or are under way, with their bytes."""
    folders = [*feature_folder(config).glob(".parts-*"), *feature_folder(config).glob(f"{DRAFT}*")]
    return [(folder, sum(file.stat().st_size for file in folder.iterdir())) for folder in sorted(folders)]


def _stores(folder: Path) -> list[FeatureStore]:
    return [FeatureStore.open(path) for path in sorted(folder.glob("[!.]*")) if path.is_dir()]


def _state(store: FeatureStore, path: Path, config: Any) -> str:
    manifest = store.manifest
    if manifest.encoder == IMPORTED:
        return "imported"
    try:
        digests = FileDigests(feature_folder(config) / "digests.parquet")
        source = read_source(path, manifest.field, Recipe(manifest.modality, manifest.encoder), config, digests)
    except NestRecError:
        return "no source"
    return "fresh" if source.sha256 == manifest.sha256 else "stale"


def _norms(store: FeatureStore) -> tuple[float, float, float]:
    lengths = [np.linalg.norm(block.astype(np.float32), axis=1) for _, block in blocks(store.embeddings)]
    joined = np.concatenate(lengths)
    return float(joined.min()), float(joined.mean()), float(joined.max())
