"""What RecBole's models learn outside their weights, as tensors: counts, similarity matrices, cached embeddings."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from nestrec_recbole.errors import NestRecError

PREFIX = "other."
_LAYOUT = PREFIX + "layout"  # bytes of JSON: where each tensor belongs


def other_tensors(model: Any) -> dict[str, Tensor]:
    """What ``model.other_parameter()`` holds, as tensors named ``other.*``; nothing where it holds nothing.

    Raises
    ------
    NestRecError
        When it holds something that is neither numbers nor made of them.
    """
    own = {name: value for name, value in model.other_parameter().items() if not isinstance(value, nn.Module)}
    if not own:  # modules are among the weights
        return {}
    tensors: dict[str, Tensor] = {}
    layout = {name: _put(value, tensors, f"{type(model).__name__}.{name}") for name, value in own.items()}
    tensors[_LAYOUT] = torch.frombuffer(bytearray(json.dumps(layout).encode()), dtype=torch.uint8)
    return tensors


def set_other(model: Any, tensors: dict[str, Tensor]) -> None:
    """Give a model back what :func:`other_tensors` took; nothing else of ``tensors`` is looked at."""
    for name in [name for name in vars(model) if name.startswith("restore_")]:
        setattr(model, name, None)  # what graph models remember from their last evaluation, with other weights
    if _LAYOUT not in tensors:
        return
    layout = json.loads(bytes(tensors[_LAYOUT].cpu().tolist()))
    model.load_other_parameter({name: _take(how, tensors, model.device) for name, how in layout.items()})


def _put(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """Describe a value in JSON, and put its numbers among the tensors."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"plain": value}
    if isinstance(value, Tensor):
        return {"tensor": _add(value.detach().to_dense() if value.layout != torch.strided else value.detach(), tensors)}
    if isinstance(value, (np.ndarray, np.generic)):
        return {"array": _add(torch.from_numpy(np.array(value)), tensors), "matrix": isinstance(value, np.matrix)}
    if sp.issparse(value):
        rows = value.tocsr()
        parts = [_add(torch.from_numpy(part.copy()), tensors) for part in (rows.data, rows.indices, rows.indptr)]
        return {"sparse": parts, "shape": list(rows.shape), "format": value.format}
    if isinstance(value, (list, tuple)):
        return {"list": [_put(one, tensors, name) for one in value], "tuple": isinstance(value, tuple)}
    if isinstance(value, dict) and all(isinstance(key, (int, np.integer)) for key in value):
        return {"ids": [int(key) for key in value], "of": [_put(one, tensors, name) for one in value.values()]}
    raise NestRecError(f"{name} is a {type(value).__name__}, which a checkpoint cannot hold")


def _take(how: dict[str, Any], tensors: dict[str, Tensor], device: Any) -> Any:
    if "tensor" in how:
        return tensors[how["tensor"]].to(device)
    if "array" in how:
        array = tensors[how["array"]].cpu().numpy()
        return np.asmatrix(array) if how["matrix"] else array
    if "sparse" in how:
        parts = tuple(tensors[name].cpu().numpy() for name in how["sparse"])
        return sp.csr_matrix(parts, shape=how["shape"]).asformat(how["format"])
    if "list" in how:
        values = [_take(one, tensors, device) for one in how["list"]]
        return tuple(values) if how["tuple"] else values
    if "ids" in how:
        return {key: _take(one, tensors, device) for key, one in zip(how["ids"], how["of"], strict=True)}
    return how["plain"]


def _add(tensor: Tensor, tensors: dict[str, Tensor]) -> str:
    name = f"{PREFIX}{len(tensors)}"
    tensors[name] = tensor
    return name
