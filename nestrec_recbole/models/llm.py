"""The language model at the top of the stack: a pretrained Qwen3 with LoRA, or a small one from a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nestrec_recbole.errors import NestRecError

TINY_LAYERS = 2


def build_llm(settings: dict[str, Any], width: int, heads: int, inner_width: int) -> Any:
    """Build the causal language model that reads item and user tokens.

    Parameters
    ----------
    settings : dict
        ``{"config": "tiny"}``: a Qwen3 of ``width``, two layers, trained whole; or
        ``{"path": folder or Hugging Face id, "lora": {...}}``: pretrained weights, frozen, with LoRA adapters
        (the keys of :class:`peft.LoraConfig`).
    width, heads, inner_width : int
        Of the tiny model.

    Returns
    -------
    transformers.PreTrainedModel or peft.PeftModel
        Called with ``inputs_embeds`` (B, S, hidden), returns ``last_hidden_state`` (B, S, hidden).

    Raises
    ------
    NestRecError
        When the path holds no Qwen3, or the settings name neither.
    """
    from transformers import Qwen3Config, Qwen3Model

    if not settings.get("path"):
        if settings.get("config") != "tiny":
            raise NestRecError(f"llm is {settings!r}: expected {{config: tiny}} or {{path: folder or hub id}}")
        tiny = Qwen3Config(
            vocab_size=1,  # tokens come as vectors
            hidden_size=width,
            intermediate_size=2 * inner_width // 3,  # SwiGLU has three matrices (Shazeer 2020)
            num_hidden_layers=TINY_LAYERS,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=width // heads,
            attention_dropout=0.0,
        )
        model = Qwen3Model(tiny)
        model.embed_tokens.requires_grad_(False)
        return model
    return _with_lora(_load(settings["path"], Qwen3Model), settings.get("lora"))


def _load(path: str, model_class: Any) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path)
        if config.model_type != "qwen3":
            raise NestRecError(f"llm.path {path!r} is a {config.model_type}, not a qwen3")
        return model_class.from_pretrained(path, dtype=torch.float32)  # whatever it was saved in
    except OSError as error:
        reason = str(error).splitlines()[0]
        kind = "folder" if Path(path).exists() else "hub id"
        raise NestRecError(f"llm.path {path!r}: cannot load Qwen3 from this {kind} ({reason})") from None


def _with_lora(model: Any, lora: dict[str, Any] | None) -> Any:
    model.requires_grad_(False)
    if not lora:
        return model
    from peft import LoraConfig, get_peft_model

    try:
        return get_peft_model(model, LoraConfig(**lora))
    except (ValueError, TypeError) as error:
        raise NestRecError(f"llm.lora: {error}") from None
