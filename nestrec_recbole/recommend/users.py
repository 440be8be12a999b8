"""The users of a dataset: their ids, what they have taken, and a few of them at random."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nestrec_recbole.data.dataset import SequenceDataset
from nestrec_recbole.errors import NestRecError, unknown

_FEWEST = ("user_inter_num_interval", "item_inter_num_interval")


def user_ids(dataset: SequenceDataset, users: Sequence[str]) -> np.ndarray:
    """Ids of user tokens: (n,) int64.

    Raises
    ------
    NestRecError
        When a user is not in the dataset.
    """
    known = dataset.field2token_id[dataset.uid_field]
    tokens = [str(user) for user in users]
    strange = [user for user in tokens if user not in known or user == "[PAD]"]
    if strange:
        others = f" ({len(strange)} of {len(tokens)} are)" if len(strange) > 1 else ""
        names = [str(user) for user in known if user != "[PAD]"]
        where, newer = f"dataset {dataset.dataset_name!r}", "load_histories (--histories-in)"
        raise NestRecError(
            f"{where}: {unknown('user', strange[0], names)}{others}; who came after training is in newer files, {newer}"
        )
    return np.array([known[user] for user in tokens], dtype=np.int64)


def histories_of(dataset: SequenceDataset, users: Sequence[str]) -> tuple[list[list[str]], list[list[int]] | None]:
    """All items that users have taken, oldest first, held-out ones too, and when; times only where the data has them.

    Raises
    ------
    NestRecError
        When a user is not in the dataset, or has no interaction there.
    """
    _require_ours(dataset)
    starts, stops = dataset.rows.whole_histories(user_ids(dataset, users))
    if (starts == stops).any():
        nobody = users[int((starts == stops).argmax())]
        raise NestRecError(f"dataset {dataset.dataset_name!r}: user {nobody!r} has no interaction; leave it out")
    parts = [slice(int(start), int(stop)) for start, stop in zip(starts, stops, strict=True)]
    tokens = dataset.field2id_token[dataset.iid_field]
    times = None if dataset.times is None else [dataset.times[part].tolist() for part in parts]
    return [tokens[dataset.items[part]].astype(str).tolist() for part in parts], times


def as_now(dataset: SequenceDataset, data_path: str | Path) -> SequenceDataset:
    """The same dataset in another folder, with what has come in since, read by the settings of the first.

    All interactions count: how many a user or an item must have was for training to say.
    """
    _require_ours(dataset)
    config = copy.deepcopy(dataset.config)
    config["data_path"] = os.path.join(data_path, config["dataset"])
    for name in (*_FEWEST, "item_fields", "hidden_items", "hidden_users"):
        config[name] = None
    found = SequenceDataset(config)
    found.index()
    return found


def _require_ours(dataset: Any) -> None:
    if not isinstance(dataset, SequenceDataset):
        raise NestRecError(
            f"dataset {dataset.dataset_name!r} was read by RecBole, for its own checkpoint: give histories as items"
        )


def sample_users(dataset: SequenceDataset, n: int, seed: int = 0) -> list[str]:
    """Tokens of so many users that have a history, drawn at random by seed; all of them where there are no more."""
    if n < 1:
        raise NestRecError(f"a sample of {n} users: expected a whole number from 1")
    _require_ours(dataset)
    users = np.unique(dataset.owners)
    drawn = np.random.default_rng(seed).choice(users, min(n, len(users)), replace=False)
    return dataset.field2id_token[dataset.uid_field][drawn].astype(str).tolist()


def read_ids(path: str | Path, of: str) -> list[str]:
    """Tokens of a text file, one a line, ``of`` users or items; empty lines are passed over.

    Raises
    ------
    NestRecError
        When the file is not there, is no UTF-8 text, or names none.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise NestRecError(f"{path}: cannot be read as text ({error}); expected an id of {of}s a line") from None
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise NestRecError(f"{path}: names no {of}; expected an id a line")
    return ids
