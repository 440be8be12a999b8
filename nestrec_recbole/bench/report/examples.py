"""Recommendations to the same few users from every model, with titles and, where there are any, pictures."""

from __future__ import annotations

import base64
import io
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nestrec_recbole.bench.report.results import DatasetCard, Record
from nestrec_recbole.bench.report.rows import Group
from nestrec_recbole.data.pictures import TYPES
from nestrec_recbole.errors import NestRecError, first_line

N_USERS = 4  # of each kind
N_PICTURES, SIDE = 200, 80


def examples(group: Group, data: DatasetCard, unseen: bool) -> dict[str, Any]:
    """Histories, targets and lists of a few users, under each row's first seed.

    Half of the users are drawn from all, half from those whose target at least one model lists; by a fixed seed.

    Parameters
    ----------
    group : Group
    data : DatasetCard
    unseen : bool
        Show the lists under F, which leave out what the user has seen; else those under U.

    Returns
    -------
    dict
        ``users``, ``titles`` and ``pictures`` (data URIs) by item; no users where no run has lists.
    """
    firsts = {row.name: row.finished[0] for row in group.finished}
    files = ("ranks.parquet", "lists.parquet")
    runs = {name: run for name, run in firsts.items() if all((run.folder / file).is_file() for file in files)}
    if not runs:
        return {"users": [], "titles": {}, "pictures": {}}
    rank, column = ("rank_unseen", "items_unseen") if unseen else ("rank", "items")
    ranks = {name: run.ranks.drop_duplicates("user").set_index("user") for name, run in runs.items()}
    chosen = _choose([of_run[rank] for of_run in ranks.values()])
    lists = {name: _read_lists(run, list(chosen)) for name, run in runs.items()}
    first = next(iter(runs))
    users, shown = [], []
    for user, why in chosen.items():
        if not all(user in of_run.index for of_run in lists.values()):
            continue
        target, history = str(ranks[first].loc[user, "item"]), _tokens(lists[first].loc[user, "history"])
        listed = {name: _tokens(of_run.loc[user, column]) for name, of_run in lists.items()}
        places = {name: int(of_run.loc[user, rank]) for name, of_run in ranks.items()}
        about = {"user": str(user), "why": why, "target": target, "history": history}
        users.append({**about, "lists": listed, "ranks": places})
        shown += [target, *history, *chain.from_iterable(listed.values())]
    return {"users": users, **_about_items(list(dict.fromkeys(shown)), data)}


def _choose(ranks: list[pd.Series]) -> dict[str, str]:
    """A few users -> why they are shown."""
    random = np.random.default_rng(0)
    everyone = ranks[0].index
    for of_run in ranks[1:]:
        everyone = everyone.intersection(of_run.index, sort=False)
    everyone = everyone.sort_values()
    best = np.min([of_run.loc[everyone] for of_run in ranks], axis=0)
    listed = random.permutation(everyone[best <= 10])[:N_USERS]
    anyone = random.permutation(everyone.difference(listed))[:N_USERS]
    found = dict.fromkeys(listed, "drawn from the users whose target a model lists")
    return found | dict.fromkeys(anyone, "drawn from all other users")


def _read_lists(run: Record, users: list[str]) -> pd.DataFrame:
    path = run.folder / "lists.parquet"
    try:
        lists = pd.read_parquet(path, filters=[("user", "in", users)])
    except (OSError, ValueError) as error:
        raise NestRecError(f"{path}: not a Parquet file ({first_line(error)}); run it again") from None
    for column in ("user", "history", "items", "items_unseen"):
        if column not in lists:
            raise NestRecError(f"{path}: no column {column!r}; run it again")
    return lists.drop_duplicates("user").set_index("user")


def _tokens(items: Any) -> list[str]:
    return [str(item) for item in items]


def _about_items(shown: list[str], data: DatasetCard) -> dict[str, dict[str, str]]:
    if data.items is None:
        return {"titles": {}, "pictures": {}}
    items = data.items[data.items["item"].isin(shown)].set_index("item")
    titles = items["title"].dropna().astype(str).to_dict() if "title" in items else {}
    pictures: dict[str, str] = {}
    places = items["image"].dropna().to_dict() if "image" in items else {}
    for item in shown:
        if item in places and len(pictures) < N_PICTURES and (picture := _thumbnail(places[item], data.folder)):
            pictures[item] = picture
    return {"titles": titles, "pictures": pictures}


def _thumbnail(name: str, folder: Path) -> str | None:
    """A small JPEG as a data URI; None where it cannot be had."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None
    try:
        from PIL import Image
    except ImportError:  # of the extra `vision`
        return None
    try:
        with Image.open(path, formats=list(TYPES)) as image:
            small = image.convert("RGB")
        small.thumbnail((SIDE, SIDE))
    except (OSError, ValueError, Image.DecompressionBombError):  # no picture, or a broken one
        return None
    out = io.BytesIO()
    small.save(out, "JPEG", quality=72)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
