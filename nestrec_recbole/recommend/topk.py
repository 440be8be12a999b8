"""Recommend from a trained model: item tokens in, item tokens out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from nestrec_recbole.data.dataset import SequenceDataset
from nestrec_recbole.data.titles import item_titles
from nestrec_recbole.encode.unseen import UnseenField
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.evaluate.ranking import CPU_SCORES, FEWEST, GPU_SCORES
from nestrec_recbole.recommend.catalogue import Catalogue, refuse_text
from nestrec_recbole.recommend.history import HistoryItem, item_of
from nestrec_recbole.recommend.rerank import chooser, item_features, item_information
from nestrec_recbole.recommend.scoring import history_columns, leave_out, reads_histories, score_histories
from nestrec_recbole.recommend.similar import nearest
from nestrec_recbole.recommend.unseen import Unseen, encode_items
from nestrec_recbole.recommend.users import as_now, histories_of, user_ids


class Recommender:
    """A trained model with its catalogue.

    Parameters
    ----------
    model : nestrec_recbole.models.base.SequenceModel
        Or one of RecBole's. One that reads no history, such as BPR, knows users by their ids: it recommends for those
        that were there in training, and what they took since changes nothing but what is left out.
    dataset : nestrec_recbole.data.dataset.SequenceDataset
        Of the run that trained the model: it holds the item tokens.

    Attributes
    ----------
    catalogue : nestrec_recbole.recommend.catalogue.Catalogue
        The items, by token and by id.
    histories : nestrec_recbole.data.dataset.SequenceDataset
        Where users have taken what: ``dataset``, or what :meth:`load_histories` has read.

    Examples
    --------
    >>> recommender = Recommender.load("runs/quickstart/NestRec.safetensors")  # doctest: +SKIP
    >>> recommender.recommend([["50", "181", "172"]], k=2)  # doctest: +SKIP
    [[('174', 5.1), ('173', 4.8)]]
    """

    def __init__(self, model: Any, dataset: Any) -> None:
        self.model, self.dataset = model.eval(), dataset
        self.histories = dataset
        self.catalogue = Catalogue(dataset)
        self._added: list[list[UnseenField]] = []

    @classmethod
    def load(cls, path: str | Path, data_path: str | None = None, feature_path: str | None = None) -> Recommender:
        """Load a checkpoint and the dataset it was trained on; nothing is written.

        Parameters
        ----------
        path : str or Path
        data_path, feature_path : str, optional
            Where datasets and features lie, if no longer where the checkpoint says.
        """
        from recbole.quick_start import load_data_and_model

        _, model, dataset, *_ = load_data_and_model(str(path), data_path, feature_path, logs=False)
        return cls(model, dataset)

    def load_histories(self, data_path: str | Path) -> None:
        """Take what users took, new ones too, from the dataset as it is now, in another folder than the training's.

        Items that the model does not know, unless they are added, are passed over. The model stays as it is.

        Parameters
        ----------
        data_path : str or Path
            A folder of datasets, such as files that were converted anew, with a folder of the dataset's name.

        Raises
        ------
        NestRecError
            When there is none, or it cannot be read as the training's was.
        """
        self.histories = as_now(self.dataset, data_path)

    def add_items(self, items: Sequence[HistoryItem | dict[str, str]], recommendable: bool = False) -> Unseen:
        """Let histories hold items that are not in the catalogue, which are encoded now.

        Parameters
        ----------
        items : sequence of HistoryItem, or of dict
            Dicts have the keys of a history file: ``parent_asin``, ``combined_text``, ``image_url`` or ``image_path``.
            Items that are known already are not read again.
        recommendable : bool
            Recommend these items too, by their content: they have no history that an id could have learned from.

        Returns
        -------
        Unseen
            The others, which fields they lack, and why.

        Raises
        ------
        NestRecError
            When the model knows items by their ids only, or nothing of an item can be read; when items are to be
            recommended by a model of one target domain, to which no new item belongs.
        """
        if recommendable and getattr(self.model, "rankable", None) is not None:
            domain = self.dataset.config["target_domain"]
            raise NestRecError(f"the model recommends items of domain {domain!r} only, and of new items none is known")
        given = [
            one if isinstance(one, HistoryItem) else item_of(one, f"item {number}", Path())
            for number, one in enumerate(items)
        ]
        new: dict[str, HistoryItem] = {}
        for item in given:
            if item.token not in self.catalogue:
                new[item.token] = new[item.token].with_more(item) if item.token in new else item
        unseen = Unseen([], [], {}, [])
        if new:
            unseen = encode_items(self.model, self.dataset, list(new.values()))
            self._append(unseen)
        if recommendable:
            self.catalogue.list_too(item.token for item in given if self._is_added(item.token))
        return unseen

    def _is_added(self, token: str) -> bool:
        return self.catalogue.id_of[token] >= self.dataset.item_num

    def _append(self, unseen: Unseen) -> None:
        self.model.add_items([one.values for one in unseen.fields], [one.mask for one in unseen.fields])
        self.catalogue.append(unseen.tokens)
        self._added.append(unseen.fields)
        for derived in ("_features", "_information"):
            vars(self).pop(derived, None)

    @torch.no_grad()
    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        exclude_seen: bool = True,
        times: Sequence[Sequence[int]] | None = None,
        users: Sequence[str] | None = None,
        diversity: float = 0.0,
        novelty: float = 0.0,
        only: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
    ) -> list[list[tuple[str, float]]]:
        """Top-k items for histories of item tokens, oldest first.

        Parameters
        ----------
        histories : sequence of sequences of str
            At least one item each; only the last ``MAX_ITEM_LIST_LENGTH`` are read by the model.
        k : int
            Items per list; fewer where the catalogue has no more.
        exclude_seen : bool
            Leave out the items of the history, all of them.
        times : sequence of sequences of int, optional
            When each item was taken; for models trained with ``use_times``, in the unit of their data.
        users : sequence of str, optional
            Whose histories they are, users of the dataset; for models that know users by their ids. Without, all are
            new to them.
        diversity, novelty : float
            Above 0: choose among the first hundred items one by one, so that they are unlike each other, or little
            known, see :func:`nestrec_recbole.recommend.rerank.rerank`.
        only, exclude : iterable of str, optional
            Items that alone may be listed, such as those in stock; and items that may not. Those that the model does
            not know are passed over; that it knows none of ``only`` is an error.

        Returns
        -------
        list of lists of (item token, score)
            Best first.

        Raises
        ------
        NestRecError
            On an empty history, an unknown item or user, weights out of range, times that are missing or do not fit the
            histories, or a model that was trained with ``coordinates``.
        """
        _positive(k)
        unlisted = self.catalogue.unlisted(only, exclude).to(self.model.device)
        choose = chooser(diversity, novelty, lambda: self._features, lambda: self._information)
        if users is not None and len(users) != len(histories):
            raise NestRecError(f"there are {len(users)} users for {len(histories)} histories; expected as many")
        rows = [self._read(number, history) for number, history in enumerate(histories)]
        columns = history_columns(self.model, self.dataset, rows, times)
        known_users = None if users is None else torch.from_numpy(self._user_ids(users))
        most = CPU_SCORES if unlisted.device.type == "cpu" else GPU_SCORES
        at_once = min(self.dataset.config["eval_batch_size"], max(FEWEST, most // len(self.catalogue)))
        lists: list[list[tuple[str, float]]] = []
        for start in range(0, len(rows), at_once):
            part = slice(start, start + at_once)
            own = None if known_users is None else known_users[part]
            of_part = {name: column[part] for name, column in columns.items()}
            scores = score_histories(self.model, self.dataset, of_part, own)[:, : len(unlisted)]
            scores[:, unlisted] = -torch.inf
            if exclude_seen:
                leave_out(scores, rows[part])
            scores = scores.cpu() if diversity or novelty else scores  # as what lists are re-ranked by
            lists += self.catalogue.named(*choose(scores, min(k, scores.shape[1] - 1)))
        return lists

    def recommend_users(self, users: Sequence[str], k: int = 10, **how: Any) -> dict[str, list[tuple[str, float]]]:
        """Top-k items for users of the dataset, by all that they have taken, what was held out too.

        Parameters
        ----------
        users : sequence of str
        k : int
        how
            What :meth:`recommend` takes besides histories, times and users.

        Returns
        -------
        dict of str to list of (item token, score)
            Each user's list, best first; empty where a user took nothing that the model knows, or was not there in the
            training of a model that reads no history.

        Raises
        ------
        NestRecError
            When a user is not in the dataset, or has no interaction there; else as :meth:`recommend`.
        """
        refuse_text("users", users)
        how |= {
            name: list(how[name]) for name in ("only", "exclude") if isinstance(how.get(name), Iterator)
        }  # used twice
        histories, times = self.catalogue.known_parts(*histories_of(self.histories, users))
        lists: dict[str, list[tuple[str, float]]] = {user: [] for user in users}
        reads = reads_histories(self.model)
        known = self.dataset.field2token_id[self.dataset.uid_field].keys() if reads else self._trained_users
        for are_known in (True, False) if reads else (True,):
            rows = [row for row, user in enumerate(users) if histories[row] and (str(user) in known) is are_known]
            part = [users[row] for row in rows]
            timed = None if times is None else [times[row] for row in rows]
            own = part if are_known else None
            found = self.recommend([histories[row] for row in rows], k, times=timed, users=own, **how)
            lists.update(zip(part, found, strict=True))
        strange = [] if reads else [user for user in users if str(user) not in known]
        if strange:
            getLogger().warning(
                "%s reads no history, and %d of %d users were not there in training, such as %r: their lists are empty",
                *(type(self.model).__name__, len(strange), len(users), strange[0]),
            )
        return lists

    @cached_property
    def _trained_users(self) -> set[str]:
        """Tokens of the users whose interactions the model was trained on."""
        tokens = self.dataset.field2id_token[self.dataset.uid_field]
        if isinstance(self.dataset, SequenceDataset):  # RecBole's own leaves nobody out of training
            tokens = tokens[np.unique(self.dataset.build()[0].interactions()[0])]
        return set(tokens.astype(str))

    def _user_ids(self, users: Sequence[str]) -> np.ndarray:
        """Ids of users (n,), whom a model that reads no history was trained on."""
        ids = user_ids(self.dataset, users)
        strange = [] if reads_histories(self.model) else [one for one in users if str(one) not in self._trained_users]
        if strange:
            raise NestRecError(
                f"user {strange[0]!r} was not there in training, and {type(self.model).__name__} reads no history; "
                f"leave out such users ({len(strange)} of {len(users)})"
            )
        return ids

    @torch.no_grad()
    def item_vectors(self) -> tuple[list[str], np.ndarray]:
        """The items and their vectors (n, d), float32, as the model ranks them, such as for a nearest-neighbour index.

        Where a model has ``encode``, its score is the inner product of a history's state and an item's vector.

        Raises
        ------
        NestRecError
            When the model has no vectors of items.
        """
        if not hasattr(self.model, "item_table"):
            raise NestRecError(f"{type(self.model).__name__} has no vectors of items; a model of this package does")
        table = self.model.remember("item_table", self.model.item_table).detach().float().cpu()
        return [str(token) for token in self.catalogue.tokens[1:]], table[1 : len(self.catalogue)].numpy()

    def similar_items(
        self, items: Sequence[str], k: int = 10, only: Iterable[str] | None = None, exclude: Iterable[str] = ()
    ) -> list[list[tuple[str, float]]]:
        """The items that a model has learned to be most like each of some items, by the cosine of their vectors.

        Parameters
        ----------
        items : sequence of str
        k : int
            Items per list; fewer where the catalogue has no more. An item is not in its own list.
        only, exclude : iterable of str, optional
            As of :meth:`recommend`.

        Returns
        -------
        list of lists of (item token, similarity)
            Most similar first.

        Raises
        ------
        NestRecError
            When an item is unknown, or the model has no vectors of items.
        """
        unlisted = self.catalogue.unlisted(only, exclude)
        ids = torch.tensor(self.catalogue.ids("items", items), dtype=torch.long)
        table = F.pad(torch.from_numpy(self.item_vectors()[1]), (0, 0, 1, 0))
        unlisted = F.pad(unlisted, (0, len(table) - len(unlisted)), value=True)
        return self.catalogue.named(*nearest(table, ids, _positive(k), unlisted))

    @cached_property
    def _features(self) -> torch.Tensor:
        """What items are compared by."""
        return item_features(self.model, self.dataset, self._added)

    @cached_property
    def _information(self) -> torch.Tensor:
        known = item_information(self.dataset)  # a new item is as little known as one that was taken once
        return F.pad(known, (0, len(self.catalogue) - len(known)), value=float(known.max()))

    def _read(self, number: int, history: Sequence[str]) -> list[int]:
        ids = self.catalogue.ids(f"history {number}", history)
        if not ids:
            raise NestRecError(f"history {number} is empty: expected at least one item")
        return ids

    def titles(self, field: str | None = None) -> dict[str, str]:
        """Item token to title: column ``field`` of the ``.item`` file, or its first column named like a title."""
        return item_titles(self.dataset.config, field)


def _positive(k: int) -> int:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise NestRecError(f"k is {k!r}: expected a whole number from 1")
    return k
