"""Items of a history that the catalogue does not know, read through the fields of a trained model."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestrec_recbole.convert.download import Limits, download
from nestrec_recbole.convert.text import clean_text
from nestrec_recbole.encode.items import read_recipes
from nestrec_recbole.encode.unseen import UnseenField, can_encode, encode_unseen
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.recommend.history import HistoryItem


@dataclass(frozen=True)
class Unseen:
    """Items as the fields of a model.

    Attributes
    ----------
    tokens : list of str
    fields : list of UnseenField
        In the order of the model's.
    missing : dict of str to list of str
        Item -> the fields that it lacks, where it lacks any.
    problems : list of str
        A line for each image that could not be had.
    """

    tokens: list[str]
    fields: list[UnseenField]
    missing: dict[str, list[str]]
    problems: list[str]

    def summary(self, n_items: int) -> str:
        """One line: how many of a history's items are new, and which of their fields are missing."""
        if not self.tokens:
            return f"all {n_items} items are in the catalogue"
        counts = Counter(name for names in self.missing.values() for name in names)
        lacking = ", ".join(f"{name} of {count}" for name, count in counts.items()) or "nothing"
        return f"{len(self.tokens)} of {n_items} items are not in the catalogue and were encoded; missing: {lacking}"


def encode_items(model: Any, dataset: Any, items: Sequence[HistoryItem], limits: Limits | None = None) -> Unseen:
    """Encode items as the catalogue was: their text as its first text field, their image as its first image field.

    What else the catalogue's items have (numbers, categories, further texts) is missing.

    Parameters
    ----------
    model : nestrec_recbole.models.base.SequenceModel
    dataset : nestrec_recbole.data.dataset.SequenceDataset
        Of the model.
    items : sequence of HistoryItem
        At least one; each item once.
    limits : Limits, optional
        Of the download of images.

    Raises
    ------
    NestRecError
        When the model knows items by their ids only, or nothing of an item can be read.
    """
    if not getattr(model, "needs_item_fields", False):
        name = type(model).__name__
        raise NestRecError(f"{_is_new(dataset, items[0])}, and {name} knows items by their ids only; leave it out")
    recipes = read_recipes(dataset.config)
    first = {recipe.modality: name for name, recipe in reversed(recipes.items()) if can_encode(recipe)}
    inputs: dict[str, list[Any]] = {name: [None] * len(items) for name in recipes}
    if "text" in first:
        inputs[first["text"]] = [clean_text(item.text) or None for item in items]
    problems: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        if "image" in first:
            inputs[first["image"]] = _find_images(items, Path(folder), limits, problems)
        fields = {name: encode_unseen(how, dataset.feature_paths[name], inputs[name]) for name, how in recipes.items()}
    missing = {}
    for number, item in enumerate(items):
        lacks = [name for name in fields if not fields[name].mask[number]]
        if first.get("image") in lacks and (item.image_url or item.image_path):
            what = item.image_url or item.image_path
            problems.setdefault(item.token, f"{item.where}: {what} cannot be read as an image")
        if len(lacks) == len(fields):
            raise NestRecError(_nothing_to_read(dataset, item, first, problems.get(item.token)))
        if lacks:
            missing[item.token] = lacks
    return Unseen([item.token for item in items], list(fields.values()), missing, list(problems.values()))


def _find_images(
    items: Sequence[HistoryItem], folder: Path, limits: Limits | None, problems: dict[str, str]
) -> list[Path | None]:
    """The image file of every item, fetched where it is a URL; what goes wrong is noted by item."""
    fetched = download({item.image_url for item in items if item.image_url}, folder, limits)
    found: list[Path | None] = []
    for item in items:
        image = fetched[item.image_url] if item.image_url else Path(item.image_path) if item.image_path else None
        if isinstance(image, str):
            problems[item.token] = f"{item.where}: {item.image_url} cannot be fetched: {image}"
        found.append(image if isinstance(image, Path) else None)
    return found


def _is_new(dataset: Any, item: HistoryItem) -> str:
    return f"{item.where}: item {item.token!r} is not in dataset {dataset.dataset_name!r}"


def _nothing_to_read(dataset: Any, item: HistoryItem, first: dict[str, str], problem: str | None) -> str:
    """Why an item cannot be read, and what would help."""
    keys = [key for modality, key in (("text", "combined_text"), ("image", "image_url")) if modality in first]
    if not keys:
        return f"{_is_new(dataset, item)}, and no field of the model can be encoded item by item; leave it out"
    advice = f"give {' or '.join(keys)}"
    return f"{problem or _is_new(dataset, item)}, and nothing else says what item {item.token!r} is; {advice}"
