"""Which token has which number: what tables of ids, as a model has learned them, are good for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from typing import Any

from nestrec_recbole.errors import NestRecError

BASE = "llm.path"  # beside the fields: a hash of the weights that adapters were trained on


def numbering(dataset: Any, fields: Iterable[str]) -> dict[str, str]:
    """A hash of the tokens of each field, such as ``item_id``, in the order of their numbers.

    RecBole numbers tokens as they come in the file: the same interactions in another order are other numbers.
    """
    return {name: _hash(dataset.field2id_token[name]) for name in fields}


def check_numbering(model: Any, saved: Mapping[str, str] | None, path: str | os.PathLike[str]) -> None:
    """Refuse a checkpoint, ``saved``, of a model to which other tokens had these numbers; older ones do not say.

    Raises
    ------
    NestRecError
    """
    own, saved = getattr(model, "numbering", None) or {}, saved or {}
    for name in sorted(own.keys() & saved.keys()):
        if own[name] != saved[name] and name == BASE:
            raise NestRecError(f"{path}: {BASE} holds other weights than when this was trained; give it those it had")
        if own[name] != saved[name]:
            raise NestRecError(
                f"{path}: the dataset has other values of {name!r}, or in another order, than when this was trained; "
                "give it the same files, or train anew"
            )


def _hash(tokens: Iterable[Any]) -> str:
    return hashlib.sha256("\n".join(map(str, tokens)).encode()).hexdigest()
