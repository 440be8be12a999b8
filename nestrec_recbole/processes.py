"""Training in several processes, started by ``torchrun``: each does its part of every batch."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from nestrec_recbole.errors import NestRecError

VISIBLE = os.environ.get("CUDA_VISIBLE_DEVICES")  # as the user has it; RecBole's Config writes it
LONG = timedelta(hours=12)  # the others wait while the first encodes what is missing


def join_torchrun() -> torch.device | None:
    """Join the other processes if torchrun started this one; gloo on a CPU, NCCL on GPUs.

    Returns
    -------
    torch.device or None
        This process's device; None where there is no torchrun.

    Raises
    ------
    NestRecError
        When some of them have a GPU and others none.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) < 2 or "LOCAL_RANK" not in os.environ:
        return None
    has_gpu = torch.cuda.is_available()
    if not dist.is_initialized():
        store, rank, size = next(iter(rendezvous("env://", timeout=LONG)))
        agree_on_gpus(store, rank, size, has_gpu)
        backend = "nccl" if has_gpu else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=LONG)
    return torch.device("cuda" if has_gpu else "cpu")


def agree_on_gpus(store: Any, rank: int, size: int, has_gpu: bool) -> None:
    """Let every process know whether all have a GPU; where some have none, they would wait for each other for hours.

    Parameters
    ----------
    store : torch.distributed.Store
        Shared by the processes; ``get`` waits until a key is there.

    Raises
    ------
    NestRecError
        In all of them, when some have a GPU and others none.
    """
    store.set(f"nestrec-gpu-{rank}", str(int(has_gpu)))
    n_gpus = sum(int(store.get(f"nestrec-gpu-{one}")) for one in range(size))
    if 0 < n_gpus < size:
        raise NestRecError(
            f"{n_gpus} of {size} processes have a GPU: start as many as there are, or name them in gpu_id"
        )


def choose_gpu(given: str, is_default: bool = False) -> str:
    """Of the GPUs in ``gpu_id`` (``"2,3"``) the one of this process; where it names too few, the one of its number.

    A ``gpu_id`` that nobody has set gives way to ``CUDA_VISIBLE_DEVICES``, which RecBole overwrites with it.
    """
    if is_default and VISIBLE is not None:
        given = VISIBLE
    rank = int(os.environ.get("LOCAL_RANK", 0))
    if int(os.environ.get("WORLD_SIZE", 1)) < 2 or not given:
        return given
    named = given.split(",")
    return named[rank] if rank < len(named) else str(rank)


@dataclass(frozen=True)
class Processes:
    """One process among all that train together."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Processes:
        """The process group that has been joined, else this process alone."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def part_of(self, sequence: Any) -> Any:
        """The own part of a list or array: every ``size``-th entry from the ``rank``-th on."""
        return sequence[self.rank :: self.size]

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes, in one message."""
        if self.size == 1:
            return
        trained = [p for p in parameters if p.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        message = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(message)
        parts = message.div_(self.size).split([gradient.numel() for gradient in gradients])
        for parameter, part in zip(trained, parts, strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)

    def share(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give all processes the first one's parameters: what was computed on another kind of machine may differ."""
        for parameter in parameters if self.size > 1 else ():
            if parameter.requires_grad:
                dist.broadcast(parameter.data, 0)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the processes."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def gather(self, value: Any) -> list[Any]:
        """What every process has, in order of rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()
