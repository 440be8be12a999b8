"""Vision models, and the two sides of a CLIP: from open_clip, or from transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from nestrec_recbole.encode.weights import USE_OWN, device, inference, loading, refuse_missing_path, refuse_random
from nestrec_recbole.errors import NestRecError


class Towers(Protocol):
    """What encodes images, and text where the model has a side for it."""

    def image(self, images: Sequence[Any]) -> np.ndarray:
        """PIL images in RGB -> (n, width) float32."""

    def text(self, texts: Sequence[str]) -> np.ndarray:
        """Texts -> (n, width) float32, in the space of the images."""


def open_towers(encoder: str, revision: str | None = None) -> Towers:
    """Load ``open_clip:MODEL:TAG_OR_FILE`` or ``hf:ID_OR_FOLDER``.

    MODEL is a name that open_clip knows, or the JSON file of a model's configuration. What ``hf:`` names may be a CLIP
    or SigLIP, or an image model such as DINO, ResNet, ConvNeXt, ViT.

    Raises
    ------
    NestRecError
        When it cannot be loaded whole.
    """
    library, _, name = encoder.partition(":")
    with loading(encoder, USE_OWN):
        return _OpenClip(encoder, name) if library == "open_clip" else _Transformers(encoder, name, revision)


class _OpenClip:
    def __init__(self, encoder: str, name: str) -> None:
        import open_clip

        model, _, weights = name.partition(":")
        if not weights:
            raise NestRecError(f"encoder {encoder!r}: expected open_clip:MODEL:TAG_OR_FILE")
        if model.endswith(".json"):
            refuse_missing_path(encoder, model)
            open_clip.add_model_config(model)
            model = Path(model).stem
        self.model, self.prepare = open_clip.create_model_from_pretrained(model, weights, device=device())
        self.model.eval()
        self.tokenize = open_clip.get_tokenizer(model)

    def image(self, images: Sequence[Any]) -> np.ndarray:
        pixels = torch.stack([self.prepare(image) for image in images]).to(device())
        with inference():
            return self.model.encode_image(pixels).float().cpu().numpy()

    def text(self, texts: Sequence[str]) -> np.ndarray:
        with inference():
            return self.model.encode_text(self.tokenize(list(texts)).to(device())).float().cpu().numpy()


class _Transformers:
    def __init__(self, encoder: str, name: str, revision: str | None) -> None:
        from transformers import AutoModel

        refuse_missing_path(encoder, name)
        self.encoder, self.name, self.revision = encoder, name, revision
        # As saved, a half-precision ResNet would not take pixels, which are float32.
        options = {"revision": revision, "dtype": torch.float32, "output_loading_info": True}
        self.model, report = AutoModel.from_pretrained(name, **options)
        # Checkpoints of DINO and ViT often come without the pooler that the class has: then the class token counts.
        self.has_pooler = not any(key.startswith("pooler.") for key in report["missing_keys"])
        refuse_random(encoder, report, unused=("pooler.",))
        self.model.eval().to(device())
        self._prepare: Any = None
        self._tokenize: Any = None

    def image(self, images: Sequence[Any]) -> np.ndarray:
        if self._prepare is None:
            from transformers import AutoImageProcessor

            with loading(self.encoder, USE_OWN):
                self._prepare = AutoImageProcessor.from_pretrained(self.name, revision=self.revision)
        pixels = self._prepare(images=list(images), return_tensors="pt")["pixel_values"].to(device())
        with inference():
            if hasattr(self.model, "get_image_features"):
                features = self.model.get_image_features(pixel_values=pixels).pooler_output
            else:
                output = self.model(pixel_values=pixels)
                features = output.pooler_output if self.has_pooler else output.last_hidden_state[:, 0]
        return features.float().flatten(1).cpu().numpy()

    def text(self, texts: Sequence[str]) -> np.ndarray:
        if not hasattr(self.model, "get_text_features"):
            raise NestRecError(f"encoder {self.encoder!r} has no side for text; use a CLIP or SigLIP, or 'minilm'")
        if self._tokenize is None:
            from transformers import AutoTokenizer

            with loading(self.encoder, USE_OWN):
                self._tokenize = AutoTokenizer.from_pretrained(self.name, revision=self.revision)
        length = self.model.config.text_config.max_position_embeddings
        # SigLIP was trained on texts padded to full length, without a mask; CLIP does not look past the end of a text.
        options = {"padding": "max_length", "max_length": length, "truncation": True, "return_tensors": "pt"}
        ids = self._tokenize(list(texts), **options)["input_ids"].to(device())
        with inference():
            return self.model.get_text_features(input_ids=ids).pooler_output.float().cpu().numpy()
