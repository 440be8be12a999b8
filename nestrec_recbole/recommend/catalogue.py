"""The items that a recommender knows by their tokens: their ids, and which of them may be listed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from logging import getLogger
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nestrec_recbole.errors import NestRecError


class Catalogue:
    """Items of a dataset, and others that are added after them.

    Parameters
    ----------
    dataset : recbole.data.dataset.Dataset
        Of the run that trained the model.

    Attributes
    ----------
    tokens : numpy.ndarray of shape (n_items,), object
        By id; the first is padding.
    id_of : dict of str to int
    """

    def __init__(self, dataset: Any) -> None:
        self._of = f"dataset {dataset.dataset_name!r}"
        self.tokens: np.ndarray = dataset.field2id_token[dataset.iid_field]
        self.id_of: dict[str, int] = dict(dataset.field2token_id[dataset.iid_field])
        rankable = getattr(dataset, "rankable", None)  # RecBole's own datasets have no domains
        self._unlisted = torch.from_numpy(np.arange(len(self.tokens)) == 0 if rankable is None else ~rankable)

    def __len__(self) -> int:
        """How many items there are, and padding."""
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        """Whether an item may stand in a history."""
        return token in self.id_of and token != "[PAD]"

    def append(self, tokens: Sequence[str]) -> None:
        """Let histories hold new items; none of them is listed until :meth:`list_too` says so."""
        self.id_of |= {token: len(self) + place for place, token in enumerate(tokens)}
        self.tokens = np.r_[self.tokens, np.array(tokens, dtype=object)]

    def list_too(self, tokens: Iterable[str]) -> None:
        """List these items like all others."""
        ids = [self.id_of[token] for token in tokens]
        n_more = max(ids, default=-1) + 1 - len(self._unlisted)
        self._unlisted = F.pad(self._unlisted, (0, max(0, n_more)), value=True)
        self._unlisted[ids] = False

    def unlisted(self, only: Iterable[str] | None, exclude: Iterable[str]) -> Tensor:
        """Which items may not be listed, all but ``only`` and those in ``exclude`` among them: (n_scored,) bool.

        Items after the last of them are not listed either. Unknown items are passed over: what is in stock, or is not,
        may be more than the model knows.

        Raises
        ------
        NestRecError
            When no item of ``only`` is known.
        """
        forbidden = torch.full((len(self._unlisted),), only is not None)
        for name, given in (("only", () if only is None else only), ("exclude", exclude)):
            refuse_text(name, given)
            tokens = [str(token) for token in given]
            known = [token for token in tokens if token in self]
            if name == "only" and tokens and not known:
                raise NestRecError(f"only: none of {len(tokens)} items is in {self._of}, {tokens[0]!r} the first")
            ids = self.ids(name, known)
            forbidden[[number for number in ids if number < len(forbidden)]] = name == "exclude"
        return self._unlisted | forbidden

    def ids(self, where: str, tokens: Iterable[str]) -> list[int]:
        """Ids of items.

        Raises
        ------
        NestRecError
            When one is unknown, or a single text is given in the place of a list; it names ``where``.
        """
        refuse_text(where, tokens)
        tokens = [str(token) for token in tokens]
        unknown = [token for token in tokens if token not in self]
        if unknown:
            raise NestRecError(f"{where}: item {unknown[0]!r} is not in {self._of}")
        return [self.id_of[token] for token in tokens]

    def known_parts(
        self, histories: list[list[str]], times: list[list[int]] | None
    ) -> tuple[list[list[str]], list[list[int]] | None]:
        """Histories, and their times, without the items that are unknown; a warning counts those."""
        kept = [[place for place, item in enumerate(history) if item in self] for history in histories]
        n_all = sum(map(len, histories))
        n_unknown = n_all - sum(map(len, kept))
        if n_unknown:
            getLogger().warning(
                "%d of %d interactions are with items that the model does not know, and are passed over; add_items "
                "lets it read them by their content",
                n_unknown,
                n_all,
            )
        parts = [[history[place] for place in places] for history, places in zip(histories, kept, strict=True)]
        if times is None:
            return parts, None
        return parts, [[of[place] for place in places] for of, places in zip(times, kept, strict=True)]

    def named(self, values: Tensor, items: Tensor) -> list[list[tuple[str, float]]]:
        """Lists (B, k) of scores and item ids as pairs of token and score; scores of -inf are left out."""
        return [
            [(str(self.tokens[i]), v) for i, v in zip(ids, vs, strict=True) if v > -np.inf]
            for ids, vs in zip(items.tolist(), values.tolist(), strict=True)
        ]


def refuse_text(name: str, given: Any) -> None:
    """A text is a sequence of texts, too."""
    if isinstance(given, str):
        what = "users" if name == "users" else "items"
        raise NestRecError(f"{name} is {given!r}: expected a list of {what}, not one")
