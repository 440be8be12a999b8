"""Reading pickles that others wrote, without letting them run code.

A pickle is a program: it may import any function and call it. Here every name it may call is listed, RecBole's classes
come as empty shells that take a state and cannot be called, and any other name is text.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from types import SimpleNamespace
from typing import IO, Any

import torch
from recbole.config import Config

from nestrec_recbole.errors import NestRecError

_ARRAYS = {"numpy": ("dtype", "ndarray"), "numpy._core.multiarray": ("_reconstruct", "scalar")}
_SPARSE = {
    f"scipy.sparse._{kind}": (f"{kind}_matrix", f"{kind}_array")
    for kind in ("bsr", "coo", "csc", "csr", "dia", "dok", "lil")
}
_FRAMES = {
    "pandas._libs.internals": ("_unpickle_block",),
    "pandas.core.frame": ("DataFrame",),
    "pandas.core.indexes.base": ("Index", "_new_Index"),
    "pandas.core.indexes.range": ("RangeIndex",),
    "pandas.core.internals.managers": ("BlockManager",),
}
_TENSORS = {
    "torch": ("device", "Size"),
    "torch._utils": ("_rebuild_parameter", "_rebuild_sparse_tensor", "_rebuild_tensor_v2"),
    "torch.utils.data.sampler": ("BatchSampler", "RandomSampler", "SequentialSampler"),
}
_ALLOWED = {
    (module, name)
    for table in (_ARRAYS, _SPARSE, _FRAMES, _TENSORS, {"builtins": ("slice", "set", "frozenset")})
    for module, names in table.items()
    for name in names
}
_OLD_NAMES = {"numpy.core.multiarray": "numpy._core.multiarray"}  # of numpy 1
_SHELLS = ("recbole.config.", "recbole.data.", "recbole.sampler.")


class _Name(str):
    """What a pickle only mentions, such as a model's class, or must not have."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NestRecError(f"the file tries to call {self}, which no file of RecBole does; it was not run")


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that knows arrays, tensors, data frames and the objects of RecBole's datasets, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Look up a name: itself if it is on the list, a shell of RecBole's classes, else text that cannot be called."""
        module = _OLD_NAMES.get(module, module)
        if (module, name) in _ALLOWED:
            return getattr(importlib.import_module(module), name)
        special = _SPECIAL.get((module, name))
        if special is not None:
            return special
        if module.startswith("recbole.utils.enum_type") and name.isidentifier():
            return getattr(importlib.import_module("recbole.utils.enum_type"), name)
        if module.startswith(_SHELLS) and name.isidentifier():
            return _shell(module, name)
        return _Name(f"{module}.{name}")


def load(file: IO[bytes], **_: Any) -> Any:
    """Like ``pickle.load``, restricted to what RecBole writes."""
    return RestrictedUnpickler(file).load()


def load_torch(path: str | os.PathLike[str], map_location: Any = None) -> Any:
    """Like ``torch.load`` of a RecBole checkpoint, restricted to what RecBole writes.

    Raises
    ------
    NestRecError
        When the file is no checkpoint, or asks for anything a checkpoint does not hold.
    """
    if not zipfile.is_zipfile(path):
        raise NestRecError(f"{os.fspath(path)}: not a RecBole checkpoint, or damaged")
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise NestRecError(f"{os.fspath(path)}: a TorchScript program, not a RecBole checkpoint; it was not run")
    reader = SimpleNamespace(Unpickler=RestrictedUnpickler, load=load, __name__=__name__)
    try:
        return torch.load(path, map_location=map_location, weights_only=False, pickle_module=reader)
    except (pickle.UnpicklingError, RuntimeError, TypeError, AttributeError) as error:
        raise NestRecError(f"{os.fspath(path)}: cannot be read as a RecBole checkpoint: {error}") from error


def _shell(module: str, name: str) -> Any:
    """A subclass of RecBole's that can be filled and not called, and becomes the real class once it is filled."""
    real = getattr(importlib.import_module(module), name, None)
    if not (isinstance(real, type) and real.__module__ == module):
        return _Name(f"{module}.{name}")

    def refuse(self: Any, *args: Any, **kwargs: Any) -> None:
        raise NestRecError(f"the file tries to call {module}.{name}, which no file of RecBole does; it was not run")

    def fill(self: Any, state: dict[str, Any]) -> None:
        self.__class__ = real
        vars(self).update(state)
        if real is Config:
            _restore_config(self)

    return type(name, (real,), {"__init__": refuse, "__setstate__": fill})


def _restore_config(config: Config) -> None:
    """Put back the classes that a saved config mentions by name: those of RecBole, or the user's if they are imported."""
    config.yaml_loader = config._build_yaml_loader()
    for settings in (config.internal_config_dict, config.final_config_dict):
        for key, value in settings.items():
            if isinstance(value, _Name):
                module, _, name = value.rpartition(".")
                if module.startswith("recbole.model."):
                    importlib.import_module(module)
                settings[key] = getattr(sys.modules.get(module), name, None)


def _collate_function(owner: Any, name: str) -> Any:
    """All that RecBole's data loaders need of ``getattr``: their own collate function."""
    if name != "collate_fn" or not isinstance(owner, torch.utils.data.DataLoader):
        raise NestRecError(f"the file asks for {name!r} of a {type(owner).__name__}; it was not run")
    return owner.collate_fn


def _storage(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


def _logger(name: str | None = None) -> logging.Logger:
    return logging.getLogger(name)


_SPECIAL: dict[tuple[str, str], Any] = {
    ("builtins", "getattr"): _collate_function,
    ("collections", "OrderedDict"): OrderedDict,
    ("logging", "getLogger"): _logger,
    ("torch.storage", "_load_from_bytes"): _storage,
}
