"""Reading pickles that others wrote, without letting them run code.

A pickle is a program: it may import any function, call it, and set attributes of whatever it can name. Here it may call
what makes arrays, tensors and data frames, and nothing else. RecBole's objects come as empty shells that are filled and
become real when the pickle has ended; any other name is text.
"""

from __future__ import annotations

import importlib
import io
import logging
import math
import os
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from types import SimpleNamespace
from typing import IO, Any, ClassVar

import numpy as np
import pandas as pd
import torch
from pandas.core.internals.managers import BlockManager
from scipy.sparse import sparray, spmatrix
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler

from nestrec_recbole.errors import NestRecError, first_line

_ARRAYS = {"numpy": ("dtype",), "numpy._core.multiarray": ("scalar",)}  # ndarray(...) takes any bytes for objects
_LAYERS = {"torch.nn.modules.container": ("ModuleDict", "ModuleList"), "torch.nn.modules.sparse": ("Embedding",)}
_SPARSE = {f"scipy.sparse._{kind}": (f"{kind}_matrix", f"{kind}_array") for kind in ("coo", "csc", "csr", "lil")}
_FRAMES = {
    "pandas._libs.internals": ("_unpickle_block",),
    "pandas.core.frame": ("DataFrame",),
    "pandas.core.indexes.base": ("Index", "_new_Index"),
    "pandas.core.indexes.range": ("RangeIndex",),
    "pandas.core.internals.managers": ("BlockManager",),
}
_TENSORS = {
    "torch": ("device", "Size"),
    "torch._utils": ("_rebuild_parameter", "_rebuild_tensor_v2"),
    "torch.utils.data.sampler": ("BatchSampler", "RandomSampler", "SequentialSampler"),
}
_BUILTIN = {"builtins": ("slice", "set", "frozenset"), "collections": ("OrderedDict",)}
_ALLOWED = {
    (module, name)
    for table in (_ARRAYS, _FRAMES, _TENSORS, _BUILTIN)
    for module, names in table.items()
    for name in names
}
_FILLED = (pd.DataFrame, BlockManager, OrderedDict, BatchSampler, RandomSampler, SequentialSampler)
_OLD_NAMES = {"numpy.core.multiarray": "numpy._core.multiarray"}  # of numpy 1
_SHELLED = {(module, name) for table in (_LAYERS, _SPARSE) for module, names in table.items() for name in names}
_SHELLS = ("recbole.config.", "recbole.data.", "recbole.model.layers", "recbole.sampler.")


class _Name(str):
    """What a pickle only mentions, such as a model's class, or must not have."""

    def __new__(cls, *args: Any) -> Any:
        """Be text; a pickle that makes an object of what it names comes here too, with the name for the class."""
        return str.__new__(cls, *args) if isinstance(cls, type) else cls()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NestRecError(f"it tries to call {self}, which no file of RecBole does; nothing was run")


class RestrictedUnpickler(pickle._Unpickler):  # the one in C cannot be kept from setting attributes of everything
    """An unpickler that knows arrays, tensors, data frames and the objects of RecBole's datasets, and nothing else."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def load(self) -> Any:
        """Read the pickle to its end, then make RecBole's objects of their shells."""
        self._shells: dict[type, type] = {}
        self._made: list[Any] = []
        loaded = super().load()
        for shell in self._made:
            object.__setattr__(shell, "__class__", self._shells[type(shell)])
        for filled in self._made:
            _put_back(filled)
        return loaded

    def find_class(self, module: str, name: str) -> Any:
        """Look up a name: itself if it is on the list, a shell of RecBole's class, else text that cannot be called."""
        module = _OLD_NAMES.get(module, module)
        if (module, name) in _ALLOWED:
            return getattr(importlib.import_module(module), name)
        if (module, name) in _STAND_INS:
            return _STAND_INS[module, name]
        if (module, name) in _SHELLED:
            return self._shell(getattr(importlib.import_module(module), name))
        if module.startswith((*_SHELLS, "recbole.utils.enum_type")):
            real = vars(importlib.import_module(module)).get(name)
            if isinstance(real, type) and real.__module__ == module:
                return real if issubclass(real, Enum) else self._shell(real)
        return _Name(f"{module}.{name}")

    def _shell(self, real: type) -> type:
        """A class whose objects can be filled and nothing else: whatever method of theirs runs gets nowhere."""

        def make(cls: type) -> Any:
            self._made.append(object.__new__(cls))
            return self._made[-1]

        def refuse(shell: Any, *args: Any, **kwargs: Any) -> None:
            raise NestRecError(f"it tries to call {real.__name__}, which no file of RecBole does; nothing was run")

        def look_up(shell: Any, name: str) -> Any:
            if name in ("__class__", "__dict__"):
                return object.__getattribute__(shell, name)
            raise AttributeError(name)

        methods = {"__new__": make, "__init__": refuse, "__getattribute__": look_up, "__getattr__": look_up}
        shell = type(real.__name__, (real,), methods)
        self._shells[shell] = real
        return shell

    def load_build(self) -> None:
        """Fill an object, if it is of a kind that is filled; a dtype must stay as numpy made it."""
        state, target = self.stack[-1], self.stack[-2]  # type: ignore[attr-defined]
        if type(target) in self._shells:
            known = isinstance(state, dict)
        elif isinstance(target, np.dtype):
            known = state == target.__reduce__()[2]
        elif isinstance(target, np.ndarray):
            known = target.size == 0 and _fits(state)  # once: what looks into an array must not outlive it
        else:
            known = isinstance(target, _FILLED)
        if not known:
            kind = type(target).__name__
            raise NestRecError(f"it tries to alter a {kind}, which no file of RecBole does; nothing was run")
        super().load_build()  # type: ignore[misc]

    dispatch[pickle.BUILD[0]] = load_build


class PlainUnpickler(pickle.Unpickler):
    """An unpickler of plain containers, texts and numbers: it can name nothing, so it can call nothing."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse."""
        raise NestRecError(f"it names {module}.{name}; expected dictionaries, lists and numbers; nothing was run")


def load_plain(path: str | os.PathLike[str]) -> Any:
    """Read a pickle of plain containers, texts and numbers.

    Raises
    ------
    NestRecError
        When the file is damaged, or names any class or function.
    """
    with _errors_name(path, otherwise="no pickle"), open(path, "rb") as file:
        return PlainUnpickler(file).load()


def load(file: IO[bytes], **_: Any) -> Any:
    """Like ``pickle.load``, restricted to what RecBole writes.

    Raises
    ------
    NestRecError
        When the file is damaged, or asks for anything else.
    """
    with _errors_name(getattr(file, "name", "the file")):
        return RestrictedUnpickler(file).load()


def load_torch(path: str | os.PathLike[str], map_location: Any = None) -> Any:
    """Like ``torch.load`` of a RecBole checkpoint, restricted to what RecBole writes.

    Raises
    ------
    NestRecError
        When the file is no checkpoint, or asks for anything a checkpoint does not hold.
    """
    with _errors_name(path), open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            raise NestRecError("not a RecBole checkpoint, or damaged")
        file.seek(0)
        if torch._C.PyTorchFileReader(file).has_record("constants.pkl"):  # type: ignore[attr-defined]  # torch would run it
            raise NestRecError("a TorchScript program, not a RecBole checkpoint; nothing was run")
        file.seek(0)
        reader = SimpleNamespace(Unpickler=RestrictedUnpickler, load=load, __name__=__name__)
        return torch.load(file, map_location=map_location, weights_only=False, pickle_module=reader)


@contextmanager
def _errors_name(path: str | os.PathLike[str], otherwise: str = "not written by RecBole") -> Iterator[None]:
    """Whatever goes wrong with a file is one line that names it."""
    try:
        yield
    except NestRecError as error:
        raise NestRecError(f"{os.fspath(path)}: {error}") from None
    except Exception as error:  # a damaged pickle can raise anything
        if isinstance(error, OSError) and error.filename is not None:  # no such file: it says so itself
            raise
        raise NestRecError(f"{os.fspath(path)}: damaged, or {otherwise} ({first_line(error)})") from error


def _put_back(loaded: Any) -> None:
    """Give an object of RecBole's what its pickle only mentions."""
    attributes = vars(loaded)
    if isinstance(loaded, (sparray, spmatrix)):
        _check_indices(loaded)
        return
    if "logger" in attributes:
        attributes["logger"] = logging.getLogger()
    if "collate_fn" in attributes:
        attributes["collate_fn"] = type(loaded).collate_fn.__get__(loaded)
    if "yaml_loader" in attributes:
        attributes["yaml_loader"] = loaded._build_yaml_loader()
    if "model_class" in attributes:
        attributes["model_class"] = _model_class(attributes["model_class"])
    for name in ("internal_config_dict", "external_config_dict", "final_config_dict"):
        settings = attributes.get(name, {})
        settings.update({k: _model_class(v) for k, v in settings.items() if isinstance(v, _Name)})


def _fits(state: Any) -> bool:
    """Tell whether a list of objects is as long as the array it is to fill; numpy does not look."""
    shape, cells = state[-4], state[-1]
    return not isinstance(cells, list) or (all(type(n) is int for n in shape) and len(cells) == math.prod(shape))


def _check_indices(matrix: Any) -> None:
    """Look where a matrix's indices lead, because scipy follows them without."""
    kind = type(matrix)
    known = not any(callable(getattr(kind, name, None)) for name in vars(matrix))
    if known and matrix.format == "lil":
        rows, values = ([len(row) if type(row) is list else -1 for row in part] for part in (matrix.rows, matrix.data))
        known = rows == values and len(rows) == matrix.shape[0] and -1 not in rows
    if not known:
        raise NestRecError(f"it tries to alter a {kind.__name__}, which no file of RecBole does; nothing was run")
    if matrix.format == "coo":
        matrix._check()
    else:
        (matrix.tocsr() if matrix.format == "lil" else matrix).check_format(full_check=True)


def _model_class(name: Any) -> Any:
    """The model's class of that name, RecBole's or the user's where it is imported; any other name stays text."""
    from recbole.model.abstract_recommender import AbstractRecommender

    module, _, attribute = str(name).rpartition(".")
    if module.startswith("recbole.model.") and module not in sys.modules:
        importlib.import_module(module)
    found = getattr(sys.modules.get(module), attribute, None)
    return found if isinstance(found, type) and issubclass(found, AbstractRecommender) else name


def _storage(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


# A bound method and a logger that RecBole's objects hold: text, put back at the end. An array yet to be filled.
_STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("builtins", "getattr"): lambda owner, name: _Name(name),
    ("logging", "getLogger"): lambda *name: _Name("logger"),
    ("numpy._core.multiarray", "_reconstruct"): lambda kind, shape, dtype: np.empty(0, np.int8),
    ("torch.storage", "_load_from_bytes"): _storage,
}
