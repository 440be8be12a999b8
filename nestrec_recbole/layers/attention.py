"""Scaled dot-product attention, where torch's kernels for it are slow or end."""

from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MOST = 65_535  # rows of a batch that an attention kernel takes: the size of CUDA's grid


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
    """Attention of queries (B, heads, n, d) to keys and values (B, heads, m, d), for a batch of any size.

    ``mask`` broadcasts to (B, heads, n, m), True where a query sees a key; ``options`` are those of torch's
    `scaled_dot_product_attention`. Under autocast a CPU computes it in float32: its kernels take three times as long in
    bfloat16, the backward one four times.
    """
    if query.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        with torch.autocast("cpu", enabled=False):
            return attend(query.float(), key.float(), value.float(), mask, **options)
    if len(query) <= MOST:
        return F.scaled_dot_product_attention(query, key, value, mask, **options)
    masks = mask.split(MOST) if mask is not None and mask.ndim == 4 and len(mask) > 1 else repeat(mask)
    parts = zip(query.split(MOST), key.split(MOST), value.split(MOST), masks, strict=False)
    return torch.cat([F.scaled_dot_product_attention(*part, **options) for part in parts])
