"""Weights to start from: those of another stage, or of the same model on the data as they were before."""

from __future__ import annotations

import os
from logging import getLogger
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from nestrec_recbole.data.numbering import as_tokens, check_numbering, other_numbers
from nestrec_recbole.encode.recipe import Recipe
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.settings.roles import FILES, HELD_OUT, HISTORIES, KEPT_DOMAINS
from nestrec_recbole.train.checkpoint import compare_settings, read_checkpoint, weights_of

# Settings that say what training may see.
_HELD_OUT_BY = (*FILES, *KEPT_DOMAINS, *HELD_OUT, *HISTORIES)
_OF_PARTS = ("n_heads", "whitened_scale")  # which change what a part of a model comes to, and no shape in it


def take_weights(model: Any, path: str | os.PathLike[str], config: Any) -> list[str]:
    """Start a model from a checkpoint: what the model says it takes of the weights; the others stay.

    Items, and users where the model knows them by id, may be others than when the checkpoint was trained, or be
    numbered otherwise, as in files that were converted anew with what has come in since. Then rows of id tables are
    found by token; rows of those that are new stay as they are.

    Returns
    -------
    list of str
        The names of what was taken.

    Raises
    ------
    NestRecError
        When the checkpoint is of another dataset, of other item fields, or was trained on what is held out here, has
        nothing for this model, or a shape differs.
    """
    tensors, about = read_checkpoint(path)
    where = f"init_from {path}"
    if about["dataset"] != config["dataset"]:
        raise NestRecError(f"{where}: trained on dataset {about['dataset']!r}, not on {config['dataset']!r}")
    for key in _HELD_OUT_BY:
        theirs, ours = (_given(key, one) for one in (about["config"].get(key), config[key]))
        if theirs != ours:
            raise NestRecError(f"{where}: its {key} is {theirs}, here it is {ours}: it may know what is held out")
    weights, saved = weights_of(tensors), about.get("numbering")
    changed = other_numbers(model, saved) & {name.removeprefix("tokens.") for name in tensors}
    if changed and config["benchmark_filename"]:  # by time, what is held out now is later than what trained then
        raise NestRecError(
            f"{where}: was trained on other data, and benchmark_filename does not say whether what is held out now was "
            "in them; train anew"
        )
    check_numbering(model, saved, where, but=changed)
    for field in changed:
        _move_rows(model, weights, field, as_tokens(tensors[f"tokens.{field}"]))
    own, taken = model.state_dict(), model.starting_from(weights)
    if not taken:
        raise NestRecError(f"{where}: a {about['model']}, of which this model has no part")
    compare_settings(where, about["config"], config, _OF_PARTS)
    theirs, ours = (_recipes(fields) for fields in (about["config"].get("item_fields"), config["item_fields"]))
    if theirs != ours and any(name.startswith("fields.") for name in taken):
        names = (", ".join(name for name, _ in recipes) for recipes in (theirs, ours))
        raise NestRecError(
            "{}: its item_fields are {}, here they are {}, or they are encoded otherwise; give both equal "
            "item_fields".format(where, *names)
        )
    for name, weight in taken.items():
        if weight.shape != own[name].shape:
            found, wanted = tuple(weight.shape), tuple(own[name].shape)
            raise NestRecError(f"{where}: {name} is {found}, the model has {wanted}; give both equal settings")
    model.load_state_dict(taken, strict=False)
    return sorted(taken)


def _move_rows(model: Any, weights: dict[str, Tensor], field: str, tokens: pd.Index) -> None:
    """Put the rows of a field's tables where the model has them; ``tokens`` says whose they were."""
    places = torch.from_numpy(tokens.get_indexer(pd.Index(model.id_tokens[field], dtype=object)))
    known = places >= 0
    for name in (name for name, of in model.id_tables().items() if of == field and name in weights):
        own = model.state_dict()[name]
        if weights[name].shape[1:] == own.shape[1:] and len(weights[name]) == len(tokens):  # else its shape is refused
            moved = own.detach().cpu().clone()
            moved[known] = weights[name][places[known]].to(moved)
            weights[name] = moved
    n_known, n_own, n_theirs = int(known.sum()) - 1, len(known) - 1, len(tokens) - 1  # but the padding
    getLogger().info("%s: %d of %d were there in training (which had %d)", field, n_known, n_own, n_theirs)


def _recipes(item_fields: dict[str, Any] | None) -> list[tuple[str, Recipe]]:
    return [(name, Recipe.parse(name, how)) for name, how in (item_fields or {}).items()]


def _given(key: str, value: Any) -> Any:
    """What a setting says, None where it says nothing; a domain may be called 0."""
    return (str(value) if key == "target_domain" and value is not None else value) or None
