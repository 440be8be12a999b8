"""Where a step of a history was: a place on the sphere."""

import torch
from torch import Tensor, nn

N_SCALES = 6


class PlaceEmbedding(nn.Module):
    """Latitude and longitude as vectors, (B, T) and (B, T) -> (B, T, width).

    A place is read as its unit vector, with sines and cosines of that at doubling frequencies for what is near
    together: no seam at the date line, no stretching at the poles. Like item fields of modality ``place``.

    Parameters
    ----------
    width : int
    """

    def __init__(self, width: int):
        super().__init__()
        self.project = nn.Linear(3 + 6 * N_SCALES, width)
        nn.init.normal_(self.project.weight, std=0.02)
        nn.init.zeros_(self.project.bias)

    def forward(self, latitude: Tensor, longitude: Tensor) -> Tensor:
        """Embed places, in degrees."""
        up, round_ = torch.deg2rad(latitude), torch.deg2rad(longitude)
        point = torch.stack([up.cos() * round_.cos(), up.cos() * round_.sin(), up.sin()], dim=-1)  # (B, T, 3)
        scales = torch.pi * 2.0 ** torch.arange(N_SCALES, device=point.device)
        angles = (point[..., None, :] * scales[:, None]).flatten(-2)
        return self.project(torch.cat([point, angles.sin(), angles.cos()], dim=-1))
