"""Weights to start from: those of another stage, or of the same model on the data as they were before."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from logging import getLogger
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nestrec_recbole.data.identity import keys_of
from nestrec_recbole.data.numbering import as_tokens, check_numbering, other_numbers
from nestrec_recbole.encode.recipe import Recipe
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.models.itemstart import in_basis_of
from nestrec_recbole.settings.shipped import files_of, read_settings
from nestrec_recbole.settings.values import plain
from nestrec_recbole.train.checkpoint import (
    TRAINED_ON,
    compare_settings,
    compare_splits,
    read_checkpoint,
    weights_of,
)

_OF_LOSS = ("loss", "temperature", "learn_temperature", "seen_bias")
_OF_PARTS = ("n_heads", "whitened_scale")  # which change what a part of a model comes to, and no shape in it


@dataclass(frozen=True)
class Start:
    """What a training begins with.

    Attributes
    ----------
    path : str
        The checkpoint, where there is one.
    names : tuple of str
        What was taken of its weights.
    trained_on : numpy.ndarray of uint64
        The interactions it was trained on, and those before it; of an older checkpoint, which does not say, nothing.
    """

    path: str = ""
    names: tuple[str, ...] = ()
    trained_on: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))

    def and_these(self, training: Any) -> dict[str, Tensor]:
        """The interactions that a training from here knows, as a checkpoint keeps them."""
        if not hasattr(training, "rows"):  # RecBole's own dataset
            return {}
        _, known = keys_of(training)
        known = np.union1d(known, self.trained_on) if len(self.trained_on) else known
        return {TRAINED_ON: torch.from_numpy(known.view(np.int64))}

    def refuse_what_is_held_out(self, training: Any) -> None:
        """Refuse a start that knows what is validated or tested by now; ``training`` is the training split.

        Raises
        ------
        NestRecError
        """
        if not len(self.trained_on) or not hasattr(training, "rows"):
            return
        held_out = np.setdiff1d(*keys_of(training))
        n_known = len(np.intersect1d(held_out, self.trained_on))
        if n_known:
            raise NestRecError(
                f"init_from {self.path}: was trained on {n_known:,} interactions that are held out here (the files "
                "have changed otherwise than by what came later, or are split otherwise); train anew"
            )


def take_weights(model: Any, path: str | os.PathLike[str], config: Any) -> Start:
    """Start a model from a checkpoint: what the model says it takes of the weights; the others stay.

    Items, and users where the model knows them by id, may be others than when the checkpoint was trained, or be
    numbered otherwise, as in files that were converted anew with what has come in since. Then rows of id tables are
    found by token; rows of those that are new stay as they are, or with ``item_start: cooccurrence`` come to lie beside
    the trained ones of what is taken with the same items.

    Returns
    -------
    Start
        Its ``refuse_what_is_held_out`` is to be asked once the data are there.

    Raises
    ------
    NestRecError
        When the checkpoint is of another dataset, of other item fields, or was split otherwise, has nothing for this
        model, or a shape differs.
    """
    tensors, about = read_checkpoint(path)
    where = f"init_from {path}"
    if about["dataset"] != config["dataset"]:
        raise NestRecError(f"{where}: trained on dataset {about['dataset']!r}, not on {config['dataset']!r}")
    compare_splits(where, about["config"], config)
    weights, saved = weights_of(tensors), about.get("numbering")
    if saved is None:
        raise NestRecError(f"{where}: does not say which items it knows, as checkpoints of old did; train anew")
    changed = other_numbers(model, saved) & {name.removeprefix("tokens.") for name in tensors}
    check_numbering(model, saved, where, but=changed)
    for name in changed:
        is_alike = name == model.ITEM_ID and config["item_start"] == "cooccurrence"
        _move_rows(model, weights, name, as_tokens(tensors[f"tokens.{name}"]), is_alike)
    own, taken = model.state_dict(), model.starting_from(weights)
    if not taken:
        raise NestRecError(f"{where}: of {about['model']} this model has no part")
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
            what = "give both equal settings"
            if changed and found[1:] == wanted[1:] and name not in model.id_tables():
                what += f", or name it in {type(model).__name__}.id_tables(), if its rows are items or users"
            raise NestRecError(f"{where}: {name} is {found}, the model has {wanted}; {what}")
    model.load_state_dict(taken, strict=False)
    if about["model"] == config["model"]:
        _warn_of_other_settings(where, about["config"], config)
    trained_on = tensors.get(TRAINED_ON, torch.zeros(0, dtype=torch.int64))
    return Start(str(path), tuple(sorted(taken)), trained_on.numpy().view(np.uint64))


def _move_rows(model: Any, weights: dict[str, Tensor], field: str, tokens: pd.Index, is_alike: bool) -> None:
    """Put the rows of a field's tables where the model has them; ``tokens`` says whose they were.

    Where the model's rows are alike for what is taken alike, ``is_alike``, those of new ones stay so.
    """
    trained = {name for name, _ in model.named_parameters()}  # not what is known of items by other means
    places = torch.from_numpy(tokens.get_indexer(pd.Index(model.id_tokens[field], dtype=object)))
    known = places >= 0
    for name in (name for name, of in model.id_tables().items() if of == field and name in weights):
        own = model.state_dict()[name]
        if weights[name].shape[1:] == own.shape[1:] and len(weights[name]) == len(tokens):  # else its shape is refused
            moved = own.detach().cpu().clone()
            moved[known] = weights[name][places[known]].to(moved)
            if is_alike and name in trained and moved.ndim == 2 and not known.all():
                moved[~known] = in_basis_of(moved[known], own.detach().cpu()[known], moved[~known])
            weights[name] = moved
    n_known, n_own, n_theirs = int(known.sum()) - 1, len(known) - 1, len(tokens) - 1  # but the padding
    getLogger().info("%s: %d of %d were there in training (which had %d)", field, n_known, n_own, n_theirs)


def _warn_of_other_settings(where: str, theirs: dict[str, Any], config: Any) -> None:
    """Weights do not say what was made of them: a temperature, a cosine."""
    ours = plain(config)
    keys = (*_OF_LOSS, *(key for path in files_of(config["model"])[1:] for key in read_settings(path)))
    others = [
        f"{key}: {theirs[key]}, here {ours[key]}"
        for key in dict.fromkeys(keys)
        if key in theirs and key in ours and theirs[key] != ours[key]
    ]
    if others:
        getLogger().warning("%s: was trained with other settings: %s", where, "; ".join(others))


def _recipes(item_fields: dict[str, Any] | None) -> list[tuple[str, Recipe]]:
    return [(name, Recipe.parse(name, how)) for name, how in (item_fields or {}).items()]
