"""Which token has which number: what tables of ids, as a model has learned them, are good for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nestrec_recbole.data.features import FeatureStore
from nestrec_recbole.errors import NestRecError

BASE = "llm.path"  # beside the fields: a hash of the weights that adapters were trained on
FEATURES = "item_fields."  # ... and of what the features of an item field stand for
DOMAINS = "domain_field"  # ... and of the names of the domains


def numbering(dataset: Any, fields: Iterable[str]) -> dict[str, str]:
    """A hash of the tokens of each field, such as ``item_id``, in the order of their numbers.

    RecBole numbers tokens as they come in the file: the same interactions in another order are other numbers.
    """
    return {name: _hash(dataset.field2id_token[name]) for name in fields}


def meanings(dataset: Any) -> dict[str, str]:
    """A hash of what the features of each item field stand for, of those whose encoder looked at all items for it."""
    found = {name: FeatureStore.open(path).meaning for name, path in getattr(dataset, "feature_paths", {}).items()}
    return {f"{FEATURES}{name}": meaning for name, meaning in found.items() if meaning}


def domain_numbering(dataset: Any) -> dict[str, str]:
    """A hash of the names of the domains, which are numbered in their order; nothing where there are none."""
    domains = getattr(dataset, "domains", None)
    return {} if domains is None else {DOMAINS: _hash(domains.names)}


def other_numbers(model: Any, saved: Mapping[str, str] | None) -> set[str]:
    """The fields of ids whose tokens had other numbers in a checkpoint, ``saved``, than they have for the model."""
    own, saved = getattr(model, "numbering", None) or {}, saved or {}
    return {name for name in own.keys() & saved.keys() & _tokens(model) if own[name] != saved[name]}


def check_numbering(
    model: Any, saved: Mapping[str, str] | None, path: str | os.PathLike[str], but: Set[str] = frozenset()
) -> None:
    """Refuse a checkpoint, ``saved``, of a model to which other tokens had these numbers; older ones do not say.

    Parameters
    ----------
    model : torch.nn.Module
    saved : dict of str to str, optional
    path : str or Path
        Of the checkpoint, or what else the message begins with.
    but : set of str
        Fields that are not looked at.

    Raises
    ------
    NestRecError
    """
    own, saved = getattr(model, "numbering", None) or {}, saved or {}
    for name in sorted((own.keys() & saved.keys()) - but):
        if own[name] == saved[name]:
            continue
        if name == BASE:
            raise NestRecError(f"{path}: {BASE} holds other weights than when this was trained; give it those it had")
        if name == DOMAINS:
            raise NestRecError(
                f"{path}: the items are of other domains than when this was trained; leave out what is new "
                "(`domains`), or train anew"
            )
        if name.startswith(FEATURES):
            raise NestRecError(
                f"{path}: the features of {name} stand for other values than when this was trained, because the items "
                "that it was fitted to are others; give it the same files, or train anew (`encoder: hash` of a "
                "category, `log1p` of a number and `reduce: truncate` of a text depend on no other items)"
            )
        raise NestRecError(
            f"{path}: the dataset has other values of {name!r}, or in another order, than when this was trained; give "
            "it the same files (--data-path), or go on with these by `init_from`"
        )


def as_tensor(tokens: Iterable[Any]) -> Tensor:
    """Tokens as bytes for a checkpoint, (n_bytes,) uint8."""
    return torch.from_numpy(np.frombuffer(_joined(tokens), dtype=np.uint8).copy())


def as_tokens(tensor: Tensor) -> pd.Index:
    """What :func:`as_tensor` was given."""
    return pd.Index(tensor.numpy().tobytes().decode().split("\n"), dtype=object)


def _tokens(model: Any) -> Set[str]:
    return getattr(model, "id_tokens", {}).keys()


def _joined(tokens: Iterable[Any]) -> bytes:
    return "\n".join(map(str, tokens)).encode()


def _hash(tokens: Iterable[Any]) -> str:
    return hashlib.sha256(_joined(tokens)).hexdigest()
