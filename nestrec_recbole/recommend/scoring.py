"""Scores of the catalogue for histories of item ids, or for users, as any model gives them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nestrec_recbole.errors import NestRecError
from nestrec_recbole.models.base import SequenceModel

Columns = dict[str, list[list[int]]]


def reads_histories(model: Any) -> bool:
    """Whether a model ranks for histories; others, such as BPR, rank for the users that they were trained on."""
    return hasattr(model, "ITEM_SEQ")


def history_columns(model: Any, dataset: Any, rows: list[list[int]], times: Sequence[Sequence[int]] | None) -> Columns:
    """What a model reads of histories of item ids: these and, if it wants them, times, a list for each history.

    A model of users and items reads nothing of them.

    Raises
    ------
    NestRecError
        When times are wanted and missing or do not fit, or the model reads places, of which a history says nothing.
    """
    if not reads_histories(model):
        return {}
    if dataset.config["coordinates"]:
        raise NestRecError("the model was trained with coordinates, which recommend() does not take; train without")
    timed = {"exact_time_list": _fitting(times, rows)} if dataset.config["use_times"] else {}
    return {model.ITEM_SEQ: rows, **timed}


def score_histories(model: Any, dataset: Any, columns: Columns, users: Tensor | None = None) -> Tensor:
    """Scores (B, n_items) of histories, or of users, float32, on the model's device.

    Parameters
    ----------
    model : recbole.model.abstract_recommender.AbstractRecommender
    dataset : nestrec_recbole.data.dataset.SequenceDataset
        Of the model.
    columns : dict of str to list of lists
        See :func:`history_columns`. The model reads the last ``MAX_ITEM_LIST_LENGTH`` of each; of none, users alone.
    users : Tensor (B,), int64, optional

    Raises
    ------
    NestRecError
        When the model reads what a history does not say.
    """
    if not columns:
        if users is None:
            raise NestRecError(
                f"{type(model).__name__} reads no history: give users that were there in training (--users)"
            )
        scores = model.full_sort_predict(Interaction({dataset.uid_field: users}).to(model.device))
        return scores.float().view(len(users), -1)
    lengths = torch.tensor([min(len(row), model.max_seq_length) for row in columns[model.ITEM_SEQ]])
    fields = {model.ITEM_SEQ_LEN: lengths}
    if users is not None:
        fields[model.USER_ID] = users
    for name, lists in columns.items():
        ends = [torch.tensor(one[-length:]) for one, length in zip(lists, lengths.tolist(), strict=True)]
        fields[name] = pad_sequence(ends, batch_first=True)
    if not isinstance(model, SequenceModel):  # RecBole's are built for histories of one width
        items = fields[model.ITEM_SEQ]
        fields[model.ITEM_SEQ] = F.pad(items, (0, model.max_seq_length - items.shape[1]))
    try:
        scores = model.full_sort_predict(Interaction(fields).to(model.device))
    except KeyError as error:
        reader, column = type(model).__name__, error.args[0]
        if users is None and column == model.USER_ID:
            raise NestRecError(f"{reader} needs to know whose history it is: give users") from None
        if column in dataset.field2type or str(column).endswith(dataset.config["LIST_SUFFIX"]):
            raise NestRecError(f"{reader} reads {column!r}, which a history of items does not say") from None
        raise
    return scores.float().view(len(lengths), -1)


def leave_out(scores: Tensor, histories: list[list[int]]) -> None:
    """Set the scores (B, n) of what is in a history to -inf; items that came last and are not recommended have none."""
    kept = [[item for item in history if item < scores.shape[1]] for history in histories]
    rows = torch.repeat_interleave(torch.arange(len(kept)), torch.tensor([len(items) for items in kept]))
    items = torch.tensor([item for items in kept for item in items], dtype=torch.int64)
    scores[rows.to(scores.device), items.to(scores.device)] = -torch.inf


def _fitting(times: Sequence[Sequence[int]] | None, rows: list[list[int]]) -> list[list[int]]:
    """Times as lists, one for each history and as long as it."""
    if times is None or [len(one) for one in times] != [len(row) for row in rows]:
        raise NestRecError(
            "the model was trained with use_times: give `times`, one for every item of every history; on the command "
            "line, name users of the dataset (--users), whose times are known"
        )
    return [list(one) for one in times]
