"""Mixed precision, by its name in a config."""

from __future__ import annotations

import os

import torch

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
KERNELS = 64  # that oneDNN keeps; a batch needs some twenty


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which matrix products and attention are computed in this precision; ``fp32`` changes nothing.

    On a CPU oneDNN compiles a kernel for every shape, and batches have many. It would keep 1,024, between which freed
    memory cannot be joined again: several GiB in the end. What the environment says of it holds, and it is read once,
    at the first kernel of a process.
    """
    dtype = PRECISIONS[precision]
    if dtype is not None and device.type == "cpu":
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)
