"""Weights that cannot be had are an error that says what to do; none are ever made up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from nestrec_recbole.errors import NestRecError, first_line

USE_MINILM = "use 'minilm', which needs no download"
USE_OWN = "use 'minilm' for text and 'classic' for images, which need no download"
LEAVE_OUT = "leave the field out of `item_fields`"


@contextmanager
def loading(encoder: str, instead: str) -> Iterator[None]:
    """Turn whatever goes wrong while weights are loaded into one line with the two ways out.

    Parameters
    ----------
    encoder : str
        As the user named it.
    instead : str
        The other way out.
    """
    try:
        yield
    except NestRecError:
        raise
    except ImportError as error:
        raise NestRecError(
            f"encoder {encoder!r}: the package {error.name} is missing; pip install 'nestrec_recbole[vision]', "
            f"or {instead}"
        ) from None
    except Exception as error:  # OSError of the hub, RuntimeError of open_clip, SafetensorError of safetensors, ...
        raise NestRecError(
            f"encoder {encoder!r} cannot be loaded ({first_line(error)[:200]}); give a local folder or file with its "
            f"weights, or {instead}"
        ) from error


@contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars of transformers', for what is loaded a second time."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def refuse_random(encoder: str, report: dict[str, Any], unused: tuple[str, ...] = ()) -> None:
    """Refuse a model of which transformers has made up a part, because the checkpoint lacks it or it does not fit.

    Parameters
    ----------
    encoder : str
        As the user named it.
    report : dict
        What ``from_pretrained(..., output_loading_info=True)`` gives besides the model.
    unused : tuple of str
        Beginnings of the names of weights that the features do not depend on.

    Raises
    ------
    NestRecError
        Names the first such weight.
    """
    mismatched = {entry[0] for entry in report["mismatched_keys"]}
    made_up = sorted(name for name in {*report["missing_keys"], *mismatched} if not name.startswith(unused))
    if made_up:
        raise NestRecError(
            f"encoder {encoder!r}: its checkpoint lacks {len(made_up)} weights, {made_up[0]} first, which would be "
            "random; give a folder with all of them, or another encoder"
        )


def refuse_missing_path(encoder: str, path: str) -> None:
    """Refuse what can only be a path and is not there, before a hub is asked for it."""
    if not Path(path).exists() and (path.startswith((".", "~")) or Path(path).is_absolute() or path.count("/") > 1):
        raise NestRecError(f"encoder {encoder!r}: no such folder")


def device() -> str:
    """Where encoders run."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def inference() -> Iterator[None]:
    """No gradients; on a GPU in half precision, which is what features are kept in."""
    with torch.inference_mode(), torch.autocast("cuda", torch.float16, enabled=device() == "cuda"):
        yield
