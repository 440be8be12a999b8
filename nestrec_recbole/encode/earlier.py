"""Features that a dataset had been encoded to before it changed: what is in it still need not be encoded again."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from nestrec_recbole.data.featurefiles import store_path
from nestrec_recbole.data.features import FeatureStore, feature_folder
from nestrec_recbole.encode.digests import FileDigests
from nestrec_recbole.encode.engine import input_key
from nestrec_recbole.encode.recipe import Recipe
from nestrec_recbole.encode.sources import item_path, read_source, require_items
from nestrec_recbole.errors import NestRecError


@dataclass(frozen=True)
class Earlier:
    """Rows of an earlier store.

    Attributes
    ----------
    rows : numpy.ndarray of shape (n, width), float16
    place : dict of str to int
        The row of a text or picture, by :func:`nestrec_recbole.encode.engine.input_key`.
    sha256 : str
        Of what that store was encoded from.
    """

    rows: np.ndarray
    place: dict[str, int]
    sha256: str


def read_earlier(
    config: Any, known_from: str, name: str, recipe: Recipe, identity: dict[str, Any], digests: FileDigests
) -> Earlier:
    """Read what a field was encoded to, in the same way, where the dataset lies as it was.

    Parameters
    ----------
    config : recbole.config.Config
        Of the dataset as it is.
    known_from : str
        The folder of datasets with the one of that name as it was.
    name : str
    recipe : Recipe
    identity : dict
        ``recipe.identity(digests)``.
    digests : FileDigests

    Raises
    ------
    NestRecError
        When there is none, or rows were made of more than one text or picture each.
    """
    if not recipe.is_model or recipe.is_fitted:
        raise NestRecError(
            f"{name}: nothing can be taken over from {known_from}: only what a model has made of one text or image "
            "each, and what is fitted to all items (pca, whiten) it has not; leave --known-from out"
        )
    before = copy.deepcopy(config)
    before["data_path"] = os.path.join(known_from, config["dataset"])
    path = item_path(before)
    require_items(path, before)
    source = read_source(path, name, recipe, before, digests)
    folders = [feature_folder(before)]
    before["feature_path"] = None
    folders += [feature_folder(before)]
    stores = [store_path(folder, name, identity, source.sha256) for folder in folders]
    store = next((store for store in stores if (store / "manifest.json").is_file()), None)
    if store is None:
        where = " and ".join(dict.fromkeys(map(str, folders)))
        raise NestRecError(
            f"{where}: {name} of {path} has not been encoded with {recipe.encoder} in this way; leave --known-from out"
        )
    opened = FeatureStore.open(store)
    found = opened.align(["[PAD]", *opened.items])  # whose arrays are checked
    views = [found.values[1:], *([] if found.views is None else found.views[:, 1:])]
    row = {item: number for number, item in enumerate(opened.items)}
    rows = [row.get(item, -1) for item in source.cells.index]
    place = {
        input_key(one): view * len(row) + number
        for view in range(recipe.views)
        for one, number in zip(source.inputs(view), rows, strict=True)
        if number >= 0
    }
    return Earlier(np.concatenate(views).astype(np.float16), place, source.sha256)
