"""When a step of a history was: how long after the one before, and where in the day, the week and the year."""

import math

import torch
from torch import Tensor, nn

DAY, WEEK, YEAR = 86_400, 604_800, 31_556_952  # seconds
N_FREQUENCIES = 4


class TimeEmbedding(nn.Module):
    """Elapsed and cyclic time as vectors, (B, T) -> (B, T, width).

    Elapsed time is read as its logarithm, with sines and cosines of it at doubling frequencies; hour, weekday and day
    of the year as angles (UTC). What a step says depends on it and the one before only.

    Parameters
    ----------
    width : int
    per_second : float
        Units of time in a second: 1000 where times are in milliseconds.
    """

    def __init__(self, width: int, per_second: float = 1.0):
        super().__init__()
        self.per_second = per_second
        self.project = nn.Linear(1 + 2 * N_FREQUENCIES + 6, width)
        nn.init.normal_(self.project.weight, std=0.02)
        nn.init.zeros_(self.project.bias)

    def forward(self, times: Tensor) -> Tensor:
        """Embed times (B, T), int64: float32 could not tell two minutes apart."""
        gap = torch.diff(times, dim=1, prepend=times[:, :1]).clamp(min=0)
        size = torch.log1p(gap.float() / self.per_second)[..., None] / math.log(YEAR)  # (B, T, 1): a year is 1
        octaves = 2.0 ** torch.arange(N_FREQUENCIES, device=times.device)
        cycles = [times % round(cycle * self.per_second) / (cycle * self.per_second) for cycle in (DAY, WEEK, YEAR)]
        angles = torch.cat([math.pi * size * octaves, 2 * math.pi * torch.stack(cycles, dim=-1)], dim=-1)
        return self.project(torch.cat([size, angles.sin(), angles.cos()], dim=-1))
