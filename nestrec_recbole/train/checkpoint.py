"""Checkpoints: tensors and JSON in one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from recbole.utils import get_local_time
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nestrec_recbole.data.numbering import as_tensor, check_numbering
from nestrec_recbole.errors import NestRecError, first_line
from nestrec_recbole.files import written_whole
from nestrec_recbole.settings.roles import FILES, HELD_OUT, HISTORIES, KEPT_DOMAINS
from nestrec_recbole.settings.values import plain
from nestrec_recbole.train.parameters import set_other

FORMAT = "nestrec-1"


def write_checkpoint(path: str | Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write named tensors and a JSON-able description, whole or not at all.

    Raises
    ------
    NestRecError
        When there is no place for it.
    """
    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        with written_whole(path) as draft:
            save_file(contiguous, draft, metadata={"format": FORMAT, "about": json.dumps(about, default=str)})
    except (SafetensorError, OSError) as error:
        raise NestRecError(
            f"{path}: cannot be written ({first_line(error)}); make room, or set checkpoint_dir"
        ) from None


def read_checkpoint(path: str | os.PathLike[str], device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`write_checkpoint` wrote.

    Raises
    ------
    NestRecError
        When the file is missing, truncated or not one of ours.
    """
    with _opened(path, device) as (file, about):
        return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118


def read_about(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The description alone, as :func:`read_checkpoint`, in no time."""
    with _opened(path) as (_, about):
        return about


@contextmanager
def _opened(path: str | os.PathLike[str], device: str = "cpu") -> Iterator[tuple[Any, dict[str, Any]]]:
    try:
        with safe_open(path, framework="pt", device=device) as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise NestRecError(f"{path}: not a checkpoint of this version (expected format {FORMAT})")
            yield file, json.loads(metadata["about"])
    except FileNotFoundError:
        raise NestRecError(f"{path}: no such checkpoint") from None
    except (SafetensorError, OSError) as error:
        raise NestRecError(f"{path}: truncated or damaged checkpoint ({error}); use an earlier one") from None


# Settings that change what a model computes and no shape in it.
_UNSEEN_IN_SHAPES = (
    *("n_heads", "activation", "residual", "cosine", "inner_product", "mlp_activation", "item_table"),
    *("whitened_scale", "times_per_second"),
)
# Settings that say what training may see.
_HELD_OUT_BY = (*FILES, *KEPT_DOMAINS, *HELD_OUT, *HISTORIES)
TRAINED_ON = "trained_on"  # the tensor of the interactions that a training saw
_OF_LLM = ("titles", "title_tokens", "prompt")  # ... in `llm`


def load_weights(
    model: torch.nn.Module,
    tensors: dict[str, Tensor],
    about: dict[str, Any],
    path: str | os.PathLike[str],
    config: Any,
) -> None:
    """Load the ``model.*`` and ``other.*`` tensors of a checkpoint, refusing one of another model or dataset."""
    check_numbering(model, about.get("numbering"), path)
    compare_splits(path, about["config"], config)
    compare_settings(path, about["config"], config, _UNSEEN_IN_SHAPES)
    if config["llm"]:
        ours = {key: config["llm"].get(key) for key in _OF_LLM}  # one of RecBole's models has what it was given
        compare_settings(path, about["config"].get("llm") or {}, ours, _OF_LLM, "llm.")
    weights = weights_of(tensors)
    own = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    for name in sorted(own.keys() ^ weights.keys()):
        holder = "the model" if name in own else "the checkpoint"
        raise NestRecError(f"{path}: only {holder} has {name}; it was trained with another model or other settings")
    for name, shape in own.items():
        if tuple(weights[name].shape) != shape:
            found = tuple(weights[name].shape)
            raise NestRecError(f"{path}: {name} is {found}, the model has {shape}; another dataset or other settings")
    model.load_state_dict(weights)
    set_other(model, tensors)


def compare_settings(path: Any, theirs: Mapping[str, Any], ours: Any, keys: tuple[str, ...], inside: str = "") -> None:
    """Refuse a checkpoint whose settings ``keys`` are others than the model's, where both have them."""
    for key in keys:
        found, own = theirs.get(key), ours[key]
        if found is not None and own is not None and found != own:
            raise NestRecError(f"{path}: was trained with {inside}{key}: {found}, the model has {own}; set them equal")


def compare_splits(where: Any, theirs: Mapping[str, Any], config: Any) -> None:
    """Refuse a checkpoint of a training that was told otherwise what to leave out: it may know what is held out here.

    Raises
    ------
    NestRecError
    """
    ours = plain(config)
    for key in (key for key in _HELD_OUT_BY if key in theirs):
        found, own = (_given(key, settings.get(key)) for settings in (theirs, ours))
        if found != own:
            raise NestRecError(f"{where}: its {key} is {found}, here it is {own}: it may know what is held out")


def _given(key: str, value: Any) -> Any:
    """What a setting says, None where it says nothing; a domain may be called 0."""
    return (str(value) if key == "target_domain" and value is not None else value) or None


def model_tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    """The weights of a model under the names that a checkpoint gives them, and the tokens that its tables are of."""
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    return weights | {f"tokens.{name}": as_tensor(names) for name, names in getattr(model, "id_tokens", {}).items()}


def new_name(config: Any) -> str:
    """``<checkpoint_dir>/<model>-<time>-<random>.safetensors``: another name for runs that begin in the same second."""
    name = f"{config['model']}-{get_local_time()}-{secrets.token_hex(3)}.safetensors"
    return str(Path(config["checkpoint_dir"]) / name)


def weights_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What :func:`model_tensors` gave of a model's ``state_dict``."""
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
