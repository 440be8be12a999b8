"""The dataset card of a results folder: what the data is, and its items with titles and pictures."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nestrec_recbole.bench.keys import data_hash
from nestrec_recbole.data.atomic import read_header
from nestrec_recbole.data.dataset import SequenceDataset
from nestrec_recbole.data.pictures import SUFFIXES
from nestrec_recbole.data.titles import item_titles
from nestrec_recbole.encode.items import read_recipes
from nestrec_recbole.encode.sources import item_path, read_cells
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.files import written_whole
from nestrec_recbole.fingerprints import data_files

_MILLISECONDS = 1e11


def write_card(config: Any, name: str, folder: Path) -> tuple[Path, str]:
    """Describe a dataset in ``folder/<name>-<8 hex digits of its hash>/``, unless it is there with these fields.

    Parameters
    ----------
    config : recbole.config.Config
        Of the dataset alone, for a model of this package.
    name : str
        What the suite calls it.
    folder : Path

    Returns
    -------
    path : Path
        Holds ``card.json`` and ``items.parquet``: item, title, train_count, has_text, has_image, image (relative to
        this folder, which holds the pictures as links or copies).
    hash : str
        Of files, filters and split.
    """
    files = data_files(config)
    digest = data_hash(config, files)
    place = folder / f"{name}-{digest[:8]}"
    modalities = _modalities(config)
    if not _says(place / "card.json", modalities):
        dataset = SequenceDataset(config)
        train, *_ = dataset.build()
        with written_whole(place) as draft:
            draft.mkdir()
            _items(config, train, modalities, draft).to_parquet(draft / "items.parquet", index=False)
            card = {"dataset": name, **_figures(dataset), "fields": modalities, "files": files}
            (draft / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return place, digest


def _says(card: Path, modalities: dict[str, str]) -> bool:
    """Whether there is a card, and of these fields."""
    return card.is_file() and json.loads(card.read_text(encoding="utf-8")).get("fields") == modalities


def _figures(dataset: SequenceDataset) -> dict[str, Any]:
    """Counts of all that is left after filters, before the split."""
    lengths = np.bincount(dataset.interactions()[0])
    lengths = lengths[lengths > 0]
    n_users, n_items, n = dataset.user_num - 1, dataset.item_num - 1, int(lengths.sum())
    spread = {"min": int(lengths.min()), "median": float(np.median(lengths)), "mean": float(lengths.mean())}
    first, last = _days(dataset)
    times = dataset.times
    return {
        "users": n_users,
        "items": n_items,
        "interactions": n if times is None else len(times),
        "density": n / (n_users * n_items),
        "history_length": {**spread, "max": int(lengths.max())},
        "first_time": first,
        "last_time": last,
    }


def _days(dataset: SequenceDataset) -> tuple[float | None, float | None]:
    """The first and the last time in seconds since 1970; None where the data has an order and no times."""
    if dataset.times is None:
        return None, None
    ends = dataset.times.min().item(), dataset.times.max().item()
    about = Path(dataset.dataset_path) / "dataset.json"
    if about.is_file():
        per_second = {"s": 1, "ms": 1000}.get(json.loads(about.read_text(encoding="utf-8")).get("time_unit"), 0)
    else:  # nobody says: seconds of the year 5138 are milliseconds of 1973
        per_second = 1000 if ends[1] > _MILLISECONDS else 1
    return (ends[0] / per_second, ends[1] / per_second) if per_second else (None, None)


def _modalities(config: Any) -> dict[str, str]:
    """Modality of each item field; none where there is no ``.item`` file, or nothing in it."""
    if not item_path(config).is_file():
        return {}
    try:
        return {field: recipe.modality for field, recipe in read_recipes(config).items()}
    except NestRecError:  # ids only, which is no fault of a dataset
        return {}


def _items(config: Any, train: SequenceDataset, modalities: dict[str, str], folder: Path) -> pd.DataFrame:
    """What is known of every item; its picture, if it has one, comes into ``folder``."""
    tokens = pd.Index(train.field2id_token[train.iid_field][1:].astype(str))
    if modalities:  # of imported fields there is no column
        columns = read_header(item_path(config), config["field_separator"], config["encoding"])
        modalities = {field: modality for field, modality in modalities.items() if field in columns}
    cells = {field: read_cells(item_path(config), field, config) for field in modalities}
    with_text = [token for field, modality in modalities.items() if modality == "text" for token in cells[field].index]
    of_images = [cells[field].to_dict() for field, modality in modalities.items() if modality == "image"]
    images = _keep_images(item_path(config).parent, of_images[0] if of_images else {}, tokens, folder / "images")
    titles = item_titles(config)
    return pd.DataFrame(
        {
            "item": tokens,
            "title": [titles.get(token) for token in tokens],
            "train_count": train.item_counts()[1:],
            "has_text": tokens.isin(with_text),
            "has_image": tokens.isin(images),
            "image": [images.get(token) for token in tokens],
        }
    )


def _keep_images(source: Path, cells: dict[str, str], tokens: pd.Index, folder: Path) -> dict[str, str]:
    """Link, or copy, the pictures of items into ``folder``: item to path beside the card."""
    found: dict[str, str] = {}
    for number, token in enumerate(tokens):
        file = source / cells.get(token, "")
        if token in cells and file.suffix.lower() in SUFFIXES and file.is_file():
            folder.mkdir(exist_ok=True)
            target = folder / f"{number}{file.suffix}"
            try:
                os.link(file, target)
            except OSError:  # another file system
                shutil.copyfile(file, target)
            found[token] = f"{folder.name}/{target.name}"
    return found
