"""Item tokens that no training changes: computed once, kept as float16 on disk, mapped into memory by all who train."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from logging import getLogger
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nestrec_recbole.errors import NestRecError
from nestrec_recbole.files import written_whole
from nestrec_recbole.processes import Processes


def tensors_hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over named tensors: names, types, shapes and numbers."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        array = np.ascontiguousarray(tensor.detach().cpu().numpy())
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def keep_tokens(path: Path, parts: Iterable[Tensor], shape: tuple[int, ...]) -> Tensor:
    """Tokens (n_items, q, width) out of a file, which the first of the processes that train together makes if need be.

    Parameters
    ----------
    path : Path
        Named by what the tokens are made of.
    parts : iterable of Tensor
        The tokens in order; read only where there is no file.
    shape : tuple of int

    Returns
    -------
    Tensor
        On the CPU, float16, mapped into memory: processes share it.

    Raises
    ------
    NestRecError
        When the file is damaged.
    """
    processes = Processes.current()
    if processes.is_first and not path.is_file():
        write_tokens(path, parts, shape)
        getLogger().info("item tokens are kept in %s", path)
    processes.wait()
    return open_tokens(path, shape)


def write_tokens(path: Path, parts: Iterable[Tensor], shape: tuple[int, ...]) -> None:
    """Write tokens (n_items, q, width), part after part, as float16, whole or not at all."""
    with written_whole(path) as draft:
        array = np.lib.format.open_memmap(draft, mode="w+", dtype=np.float16, shape=shape)
        at = 0
        for part in parts:
            array[at : at + len(part)] = part.cpu().numpy()
            at += len(part)
        array.flush()


def open_tokens(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Map tokens into memory.

    Raises
    ------
    NestRecError
        When the file is damaged.
    """
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)  # "r" would do, but torch has no read-only tensors
    except (ValueError, EOFError, OSError) as error:
        raise NestRecError(f"{path}: damaged item tokens ({error}); delete it, it will be made anew") from None
    if array.shape != shape or array.dtype != np.float16:
        raise NestRecError(
            f"{path}: holds {array.dtype} {array.shape}, expected float16 {shape}; delete it, it will be made anew"
        )
    return torch.from_numpy(array)
