"""Altered texts and images, encoded as further views of an item for training to draw from.

Encoders are frozen, so what a view is must be settled before training. Each is drawn from the content and its number
alone: the same run after run, wherever the item is in the file.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

SHARE = 0.1  # of the words deleted, and of the words swapped
LEAST_AREA = 0.6  # of an image that a crop keeps
JITTER = 0.3  # brightness, contrast and colour change by at most this factor
BLUR = 1.5  # largest radius in pixels of a 224-pixel image


def alter_text(text: str, view: int) -> str:
    """Delete a tenth of the words and swap a tenth of them with others, at random (Wei and Zou, 2019, EDA).

    A text of one word stays as it is.
    """
    words = text.split()
    if len(words) < 2:
        return text
    draw = _generator(text, view)
    kept = [word for word in words if draw.random() >= SHARE] or words[:1]
    for _ in range(max(1, round(SHARE * len(kept)))):
        one, other = draw.integers(len(kept), size=2)
        kept[one], kept[other] = kept[other], kept[one]
    return " ".join(kept)


def alter_image(image: Any, digest: str, view: int) -> Any:
    """Crop, flip, change colours and blur, at random.

    Parameters
    ----------
    image : PIL image, RGB
    digest : str
        Of its file.
    view : int

    Returns
    -------
    PIL image, RGB
        The crop's size, not scaled back: encoders resize what they get.
    """
    from PIL import ImageEnhance, ImageFilter, ImageOps

    draw = _generator(digest, view)
    size = np.array(image.size)
    crop = np.maximum(1, np.round(size * np.sqrt(draw.uniform(LEAST_AREA, 1)))).astype(int)
    left, top = draw.integers(0, size - crop + 1).tolist()
    image = image.crop((left, top, left + int(crop[0]), top + int(crop[1])))
    if draw.random() < 0.5:
        image = ImageOps.mirror(image)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = change(image).enhance(draw.uniform(1 - JITTER, 1 + JITTER))
    if draw.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(draw.uniform(0, BLUR) * max(image.size) / 224))
    return image


def _generator(content: str, view: int) -> np.random.Generator:
    seed = hashlib.sha256(f"{view}\x00{content}".encode()).digest()
    return np.random.default_rng(int.from_bytes(seed[:8], "little"))
