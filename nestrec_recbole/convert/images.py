"""Images of items: found, verified, perhaps re-encoded, and listed; what is no good is listed with the reason."""

from __future__ import annotations

import math
import os
import shutil
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nestrec_recbole.convert.staging import Staging
from nestrec_recbole.data.pictures import TYPES
from nestrec_recbole.errors import NestRecError, unknown

FORMATS = ("jpeg", "png", "webp")
_QUALITY = 90


@dataclass(frozen=True)
class Images:
    """Where images come from and what becomes of them.

    Attributes
    ----------
    folder : Path, optional
        Holds ``<item_id>.<extension>``.
    download : bool
        Fetch the URLs that the corpus knows. Without it they are listed as they are.
    min_size : int
        Pixels of the shorter side at least.
    copy : bool
        Copy good images into ``images/``; downloaded ones always are.
    resize : int, optional
        Longest side in pixels at most; implies re-encoding.
    format : str, optional
        Re-encode as ``jpeg``, ``png`` or ``webp``.
    """

    folder: Path | None = None
    download: bool = False
    min_size: int = 32
    copy: bool = False
    resize: int | None = None
    format: str | None = None

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMATS:
            raise NestRecError(unknown("image format", self.format, FORMATS))
        if self.min_size < 1 or (self.resize is not None and self.resize < 1):
            raise NestRecError(f"image sizes are {self.min_size} and {self.resize}; expected pixels from 1")
        if self.folder is not None and not self.folder.is_dir():
            raise NestRecError(f"{self.folder}: no such folder of images")
        if self.folder is None and not self.download and (self.copy or self.resize or self.format):
            raise NestRecError("no images to copy or alter: name their folder (--images), or --download-images")
        if self.folder is not None and self.download:
            raise NestRecError("images come from a folder or from their URLs; give one of the two")


def collect_images(
    staging: Staging, images: Images, draft: Path, cache: Path, with_urls: bool
) -> dict[str, int] | None:
    """Write ``images.tsv`` (item, image), ``images_bad.tsv`` (item, image, reason) and perhaps ``images/``.

    An image is a path: within the dataset where it was copied there, else absolute. It is a URL where images were
    neither given nor downloaded. Paths become the table ``pictures`` (``item_id, image``) too.

    Parameters
    ----------
    staging : Staging
        Has ``catalogue``, the items that occur, and ``raw_items``.
    images : Images
    draft : Path
        Folder of the dataset that is being written.
    cache : Path
        Where downloads are kept, so that a later call goes on from there.
    with_urls : bool
        The column ``image`` of ``raw_items``, if there is one, holds URLs.

    Returns
    -------
    dict or None
        ``listed`` and ``bad``; None where there are no images.
    """
    urls = _urls(staging) if with_urls else []
    bad: list[tuple[str, str, str]] = []
    if images.folder is not None:
        found = _in_folder(staging, images.folder)
    elif images.download and urls:
        from nestrec_recbole.convert.download import download

        fetched = download({url for _, url in urls}, cache)
        found = [(item, path) for item, url in urls if isinstance(path := fetched[url], Path)]
        bad = [(item, url, str(fetched[url])) for item, url in urls if not isinstance(fetched[url], Path)]
    else:
        if urls:
            _write(draft / "images.tsv", ("item_id:token", "image:token"), urls)
        return {"listed": len(urls), "bad": 0} if urls else None
    target = draft / "images" if images.copy or images.resize or images.format or images.download else None
    if target:
        target.mkdir()
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:  # filters are one for all threads
        warnings.simplefilter("ignore")
        checked = list(
            pool.map(partial(_check, images=images, target=target), *zip(*found, strict=True)) if found else []
        )
    good = [(item, str(image)) for (item, _), (image, reason) in zip(found, checked, strict=True) if not reason]
    bad += [(item, str(path), reason) for (item, path), (_, reason) in zip(found, checked, strict=True) if reason]
    _write(draft / "images.tsv", ("item_id:token", "image:token"), good)
    staging.insert("pictures", {"item_id": [item for item, _ in good], "image": [image for _, image in good]})
    if bad:
        _write(draft / "images_bad.tsv", ("item_id:token", "image:token", "reason:token_seq"), sorted(bad))
    return {"listed": len(good), "bad": len(bad)}


def _urls(staging: Staging) -> list[tuple[str, str]]:
    if "image" not in staging.columns("raw_items"):
        return []
    one = "SELECT item_id, regexp_replace(trim(image), '\\s', '', 'g') AS image FROM raw_items"
    return staging.run(f"SELECT * FROM ({one}) WHERE image <> '' ORDER BY item_id")


def _in_folder(staging: Staging, folder: Path) -> list[tuple[str, Path]]:
    """Images whose name without extension is an item's id; of several the first by name."""
    by_item: dict[str, Path] = {}
    for entry in sorted(os.listdir(folder)):
        by_item.setdefault(Path(entry).stem, folder.resolve() / entry)
    items = [item for (item,) in staging.run("SELECT item_id FROM catalogue ORDER BY item_id")]
    return [(item, by_item[item]) for item in items if item in by_item]


def _check(item: str, path: Path, images: Images, target: Path | None) -> tuple[Path | None, str]:
    """Where a good image lies, or why it is not good."""
    try:
        from PIL import Image
    except ImportError:
        raise NestRecError("images need Pillow: pip install nestrec_recbole[vision]") from None
    try:
        with Image.open(path, formats=list(TYPES)) as image:  # other formats can start programs
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                return None, f"{image.width} x {image.height} pixels; expected {Image.MAX_IMAGE_PIXELS:,} at most"
            if min(image.size) < images.min_size:
                return None, f"{image.width} x {image.height} pixels; expected {images.min_size} at least"
            image.load()  # all of it: a file that is cut off opens without complaint
            if target is None:
                return path, ""
            return _place(item, path, image, images, target), ""
    except Exception as error:  # a damaged image can raise anything
        return None, f"cannot be read as an image: {' '.join(str(error).split())[:200] or type(error).__name__}"


def _place(item: str, path: Path, image: Any, images: Images, target: Path) -> Path:
    """Copy an image into the dataset, re-encoded if asked for; returns its path within the dataset."""
    from PIL import ImageOps

    encoding = images.format or (image.format.lower() if images.resize else None)
    stem = quote(item, safe=" ")
    if encoding is None:
        name = stem + TYPES[image.format]
        shutil.copyfile(path, target / name)
        return Path("images", name)
    if encoding not in FORMATS:
        encoding = "png"
    upright = ImageOps.exif_transpose(image)
    upright = upright.convert("RGB" if encoding == "jpeg" or "A" not in upright.getbands() else "RGBA")
    if images.resize:
        upright.thumbnail((images.resize, images.resize))
    name = stem + TYPES[encoding.upper()]
    upright.save(target / name, format=encoding, quality=_QUALITY)
    return Path("images", name)


def _write(path: Path, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for row in (header, *rows):
            file.write("\t".join(" ".join(cell.split()) for cell in row) + "\n")
