"""Images to embeddings: by a frozen model, or by colour histograms and gradients, which need no weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nestrec_recbole.data.pictures import TYPES
from nestrec_recbole.encode.augment import alter_image
from nestrec_recbole.encode.encoder import Encoder
from nestrec_recbole.encode.recipe import Recipe
from nestrec_recbole.encode.towers import open_towers
from nestrec_recbole.encode.weights import LEAVE_OUT, loading
from nestrec_recbole.errors import NestRecError

SIDE = 96  # pixels that an image is resized to for the classic features
CELL = 24
BINS = 4  # per colour channel


class Picture(NamedTuple):
    """An image file, named so that what it holds is known before it is read.

    Attributes
    ----------
    path : str
    digest : str
        SHA-256 of the file.
    view : int
        0: as it is; from 1: altered, see :func:`nestrec_recbole.encode.augment.alter_image`.
    """

    path: str
    digest: str
    view: int = 0


def open_image_encoder(recipe: Recipe) -> Encoder:
    """Load an encoder: a batch of n pictures -> (n, width) float32, NaN where a file is no readable image.

    Raises
    ------
    NestRecError
        When it cannot be loaded whole: names what is missing and the ways out.
    """
    with loading(recipe.encoder, LEAVE_OUT):
        import PIL.Image  # noqa: F401  # the packages for images are an extra
    if recipe.encoder == "classic":
        with loading("classic", LEAVE_OUT):
            import skimage.feature  # noqa: F401
        features: Callable[[Sequence[Any]], np.ndarray] = classic_features
    else:
        features = open_towers(recipe.encoder, recipe.revision).image

    def encode(pictures: Sequence[Picture]) -> np.ndarray:
        """Features (n, width) float32 of n pictures; NaN for a file that is no readable image."""
        from PIL import Image

        images = [open_picture(picture) for picture in pictures]
        readable = np.array([image is not None for image in images])
        # A grey image keeps the batch as it is, so that a broken file changes nothing about the others' features.
        values = features([image or Image.new("RGB", (SIDE, SIDE), (128, 128, 128)) for image in images])
        if not np.isfinite(values[readable]).all():
            raise NestRecError(f"encoder {recipe.encoder!r} gives features that are not finite; use another")
        values[~readable] = np.nan
        return values

    return Encoder(encode)


def open_picture(picture: Picture) -> Any:
    """Read an image as RGB, upright, on white where it is transparent; None if it cannot be read."""
    from PIL import Image, ImageOps

    try:
        with Image.open(picture.path, formats=list(TYPES)) as file:  # other formats can start programs
            image = ImageOps.exif_transpose(file).convert("RGBA")
    except Exception:  # a damaged image can raise anything
        return None
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return alter_image(image, picture.digest, picture.view) if picture.view else image


def classic_features(images: Sequence[Any]) -> np.ndarray:
    """Colour histograms and histograms of oriented gradients (Dalal and Triggs, 2005), each of unit length.

    Parameters
    ----------
    images : sequence of n PIL images, RGB

    Returns
    -------
    numpy.ndarray of shape (n, 644), float32
        The square roots, whose inner products compare histograms well, of the shares of 64 colours in the image and in
        each of its quarters (320); then 9 orientations of gradients in blocks of 2 x 2 of the 4 x 4 cells (324).
    """
    return np.stack([_classic(image) for image in images])


def _classic(image: Any) -> np.ndarray:
    from skimage.feature import hog

    pixels = np.asarray(image.resize((SIDE, SIDE)), dtype=np.uint8)
    half = SIDE // 2
    quarters = [pixels[top : top + half, left : left + half] for top in (0, half) for left in (0, half)]
    colours = np.concatenate([_histogram(part) for part in (pixels, *quarters)])
    grey = pixels.astype(np.float64) @ (0.299, 0.587, 0.114)
    gradients = hog(grey, orientations=9, pixels_per_cell=(CELL, CELL), cells_per_block=(2, 2))
    return np.concatenate([_unit(np.sqrt(colours)), _unit(gradients)]).astype(np.float32)


def _histogram(pixels: np.ndarray) -> np.ndarray:
    """Share of each of the 64 colours among pixels (h, w, 3)."""
    channels = pixels.reshape(-1, 3).astype(np.int64) * BINS // 256
    code = channels @ (BINS * BINS, BINS, 1)
    return np.bincount(code, minlength=BINS**3) / len(code)


def _unit(values: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(values)
    return values / length if length else values
