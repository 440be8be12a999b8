"""RecBole's checkpoints and saved datasets, read without running what they hold."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from nestrec_recbole.compat.once import replace_once
from nestrec_recbole.errors import NestRecError

checkpoint_readers: dict[str, Callable[..., dict[str, Any]]] = {}
"""Readers of checkpoint formats other than RecBole's own, by suffix; each returns a dict of RecBole's shape."""

# RecBole's modules that read a checkpoint, their own or a pretrained model's.
READERS = (
    "recbole.trainer.trainer",
    "recbole.model.general_recommender.convncf",
    "recbole.model.general_recommender.nais",
    "recbole.model.general_recommender.neumf",
    "recbole.model.general_recommender.ract",
    "recbole.model.context_aware_recommender.kd_dagfm",
    "recbole.model.sequential_recommender.s3rec",
)


def load_checkpoint(path: str | os.PathLike[str], map_location: Any = None, **_: Any) -> dict[str, Any]:
    """Read a checkpoint of RecBole's or ours without running anything it holds.

    Parameters
    ----------
    path : str or Path
    map_location : torch.device or str, optional

    Returns
    -------
    dict
        With ``config``, ``state_dict``, ``other_parameter``, ...

    Raises
    ------
    NestRecError
        When the file is missing or damaged, or asks to call what a checkpoint has no use for.
    """
    from nestrec_recbole.unpickle import load_torch

    if not Path(path).is_file():
        raise NestRecError(f"{path}: no such checkpoint")
    reader = checkpoint_readers.get(Path(path).suffix, load_torch)
    return reader(path, map_location)


class _Torch:
    """The torch that those modules see: torch itself, with another ``load``."""

    load = staticmethod(load_checkpoint)

    def __getattr__(self, name: str) -> Any:
        import torch

        return getattr(torch, name)


def read_checkpoints_safely() -> None:
    """PyTorch >= 2.6 cannot read RecBole's checkpoints; the one before runs whatever code one holds."""
    import recbole.quick_start

    for name in READERS:
        importlib.import_module(name).torch = _Torch()  # type: ignore[attr-defined]
    for module in (recbole.quick_start, sys.modules["recbole.quick_start.quick_start"]):
        replace_once(module, "load_data_and_model", load_data_and_model)


def load_data_and_model(
    model_file: str, data_path: str | None = None, feature_path: str | None = None, logs: bool = True
) -> tuple[Any, ...]:
    """Load a saved model and the data it was trained on; RecBole's function, reading checkpoints safely.

    Parameters
    ----------
    model_file : str
    data_path, feature_path : str, optional
        Where datasets and features lie, if no longer where the checkpoint says.
    logs : bool
        Begin a log file in the current folder, as RecBole does.

    Returns
    -------
    tuple
        config, model, dataset, train_data, valid_data, test_data.
    """
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, init_logger, init_seed

    from nestrec_recbole.data.numbering import check_numbering

    checkpoint = load_checkpoint(model_file)
    config = checkpoint["config"]
    look_in(config, data_path, feature_path)
    init_seed(config["seed"], config["reproducibility"])
    if logs:
        init_logger(config)
    dataset = create_dataset(config)
    loaders = data_preparation(config, dataset)
    init_seed(config["seed"], config["reproducibility"])
    with unstarted(config):
        model = get_model(config["model"])(config, loaders[0]._dataset).to(config["device"])
    check_numbering(model, checkpoint.get("numbering"), model_file)
    model.load_state_dict(checkpoint["state_dict"])
    model.load_other_parameter(checkpoint.get("other_parameter"))
    return config, model, dataset, *loaders


@contextmanager
def unstarted(config: Any) -> Iterator[None]:
    """A model that is built here is loaded next, and need not compute what its item ids start from."""
    start = config["item_start"]
    if start is None:  # not one of ours
        yield
        return
    config["item_start"] = "random"
    try:
        yield
    finally:
        config["item_start"] = start


def look_in(config: Any, data_path: str | None, feature_path: str | None) -> None:
    """Let a config have its dataset and features elsewhere, where that is said."""
    if data_path is not None:
        config["data_path"] = os.path.join(data_path, config["dataset"])
    if feature_path is not None:
        config["feature_path"] = feature_path


def read_datasets_safely() -> None:
    """RecBole unpickles ``saved/<dataset>-*.pth`` wherever it finds one, and with it runs what it holds."""
    import pickle

    import recbole.data.utils

    from nestrec_recbole import unpickle

    recbole.data.utils.pickle = SimpleNamespace(load=unpickle.load, dump=pickle.dump)
