"""The language model at the top of the stack: a pretrained Qwen3 with LoRA, or a small one from a config."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nestrec_recbole.errors import NestRecError, first_line
from nestrec_recbole.layers.attention import attend
from nestrec_recbole.layers.packing import Layout, Packed
from nestrec_recbole.models.adapters import with_lora

TINY_LAYERS = 2
SAMPLED = 64  # numbers of each parameter that tell weights apart
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ATTENTIONS = ("sdpa", "flash_attention_2", "eager")


def build_llm(settings: dict[str, Any], width: int, heads: int, inner_width: int) -> Any:
    """Build the causal language model that reads item and user tokens.

    Parameters
    ----------
    settings : dict
        ``llm`` of ``properties/model/NestRec.yaml``. With a ``path``, pretrained weights: frozen under LoRA adapters
        where ``lora`` is set, frozen where ``learning_rate`` is 0, else trained whole, all but the embedding of text.
        Without one, a Qwen3 of ``width``.
    width, heads, inner_width : int
        Of the tiny model.

    Returns
    -------
    transformers.PreTrainedModel or peft.PeftModel
        Called with ``inputs_embeds`` (B, S, hidden), returns ``last_hidden_state`` (B, S, hidden).

    Raises
    ------
    NestRecError
        When the path holds no Qwen3, LoRA's settings fit nothing, or another setting makes no sense.
    """
    _check(settings)
    model = _load(settings) if settings["path"] else _tiny(settings, width, heads, inner_width)
    if settings["gradient_checkpointing"]:
        # The second is its name before transformers 5.20. Reentrant, it would need an input with a gradient.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if settings["lora"] is not None:
        return with_lora(model, settings["lora"])
    model.requires_grad_(not settings["path"] or settings["learning_rate"] != 0)
    model.get_input_embeddings().requires_grad_(False)
    return model


def read_tokens(llm: Any, tokens: Tensor, layout: Layout) -> Tensor:
    """What the language model makes of tokens (rows, width, hidden), laid out: of the same shape and type."""
    options: dict[str, Any] = {}
    packed = layout.packed
    if packed is not None:
        options = {"position_ids": packed.position[None], "packed": packed}
        if llm.config._attn_implementation == "flash_attention_2":
            ends = packed.boundaries()
            del options["packed"]
            options |= {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends}
            options |= {"max_length_q": packed.longest, "max_length_k": packed.longest}
    # Rows are padded on the right, where a causal model never looks: no attention mask is needed.
    hidden = llm(inputs_embeds=tokens.to(llm.dtype), use_cache=False, **options).last_hidden_state
    return hidden.to(tokens.dtype)


def weights_from_path(llm: nn.Module, settings: dict[str, Any]) -> frozenset[str]:
    """Names of parameters that stay as loaded from ``path``, so that no checkpoint needs them."""
    if not settings["path"]:
        return frozenset()
    return frozenset(name for name, parameter in llm.named_parameters() if not parameter.requires_grad)


def fingerprint(model: nn.Module, names: Collection[str]) -> str:
    """A hash of a few numbers of each of these parameters, by which other weights are told."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if name in names:
            flat = parameter.detach().flatten()
            some = flat[:: max(1, flat.numel() // SAMPLED)][:SAMPLED].float().cpu()
            digest.update(f"{name} {tuple(parameter.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()


def _check(settings: dict[str, Any]) -> None:
    for key, choices in {"dtype": DTYPES, "attention": ATTENTIONS}.items():
        if settings[key] not in choices:
            raise NestRecError(f"config key 'llm.{key}' is {settings[key]!r}; expected one of {', '.join(choices)}")
    if not settings["path"] and settings["config"] != "tiny":
        named = {"config": settings["config"], "path": settings["path"]}
        raise NestRecError(f"llm is {named!r}: expected {{config: tiny}} or {{path: folder or hub id}}")
    for key, or_else in {"layers": ", or nothing for all", "title_tokens": ""}.items():
        number = settings[key]
        if not (number is None and or_else) and (not isinstance(number, int) or number < 1 or number is True):
            raise NestRecError(f"config key 'llm.{key}' is {number!r}; expected a whole number from 1{or_else}")
    if settings["lora"] is not None and not isinstance(settings["lora"], dict):
        raise NestRecError(f"llm.lora is {settings['lora']!r}; expected keys of peft.LoraConfig, such as {{r: 16}}")
    if settings["packing"] and settings["attention"] == "eager":
        raise NestRecError("llm.packing has no eager attention; set llm.attention to sdpa or flash_attention_2")
    if settings["attention"] == "flash_attention_2" and settings["dtype"] == "fp32":
        raise NestRecError(
            "llm.attention: flash_attention_2 takes no fp32; set llm.dtype to bf16, or llm.attention to sdpa"
        )
    frozen = settings["learning_rate"] == 0
    if settings["dtype"] != "fp32" and not (settings["path"] and (settings["lora"] is not None or frozen)):
        raise NestRecError("llm.dtype bf16 is for frozen weights, and these are trained; set llm.path and llm.lora")


def _tiny(settings: dict[str, Any], width: int, heads: int, inner_width: int) -> Any:
    from transformers import AutoModel, Qwen3Config

    if settings["lora"] is not None:
        raise NestRecError("llm.lora adapts pretrained weights, and config: tiny has none; set llm.path, or remove it")
    config = Qwen3Config(
        vocab_size=1,  # tokens come as vectors
        hidden_size=width,
        intermediate_size=2 * inner_width // 3,  # SwiGLU has three matrices (Shazeer 2020)
        num_hidden_layers=settings["layers"] or TINY_LAYERS,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=width // heads,
        attention_dropout=0.0,
    )
    return AutoModel.from_config(config, attn_implementation=_attention(settings))


def _load(settings: dict[str, Any]) -> Any:
    from safetensors import SafetensorError
    from transformers import logging

    path, verbosity = settings["path"], logging.get_verbosity()
    logging.set_verbosity_error()  # it lists every weight of a layer that is left out; what is missing is checked here
    try:
        model, report = _read(settings)
    except ImportError as error:
        raise NestRecError(f"llm.attention {settings['attention']}: {first_line(error)}") from None
    except NestRecError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        is_folder = Path(path).is_dir()
        kind = "folder" if is_folder else "hub id"
        then = "" if is_folder else "; where the hub cannot be reached, name a folder with its files"
        raise NestRecError(
            f"llm.path {path!r}: cannot load Qwen3 from this {kind} ({first_line(error)}){then}"
        ) from None
    finally:
        logging.set_verbosity(verbosity)
    if report["missing_keys"]:
        missing = min(report["missing_keys"])
        raise NestRecError(f"llm.path {path!r}: its weights lack {missing}; get the files of the model again")
    return model


def _read(settings: dict[str, Any]) -> Any:
    from transformers import AutoConfig, Qwen3Model

    path, kept = settings["path"], settings["layers"]
    config = AutoConfig.from_pretrained(path)
    if config.model_type != "qwen3":
        raise NestRecError(f"llm.path {path!r} is a {config.model_type}, not a qwen3")
    if kept is not None:
        if kept > config.num_hidden_layers:
            raise NestRecError(f"llm.layers is {kept}, but {path!r} has {config.num_hidden_layers}")
        config.num_hidden_layers, config.layer_types = kept, config.layer_types[:kept]
    attention = _attention(settings)
    if attention == "packed_sdpa" and "sliding_attention" in config.layer_types:
        if settings["packing"]:
            raise NestRecError(f"llm.packing: {path!r} has layers that see a window only; set packing: False")
        attention = "sdpa"
    return Qwen3Model.from_pretrained(
        path,
        config=config,
        dtype=DTYPES[settings["dtype"]],  # whatever it was saved in
        attn_implementation=attention,
        output_loading_info=True,
    )


def _attention(settings: dict[str, Any]) -> str:
    """Name of the attention, under which transformers finds it; ours is told to it first.

    transformers' own would be given a mask where it is compiled, and so miss the fastest kernels.
    """
    from transformers import AttentionInterface

    if settings["attention"] != "sdpa":
        return settings["attention"]
    AttentionInterface.register("packed_sdpa", _packed_attention)
    return "packed_sdpa"


def _packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    scaling: float,
    dropout: float = 0.0,
    packed: Packed | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it, with arguments of which no other matters here; plainly causal if unpacked."""
    options: dict[str, Any] = {"scale": scaling, "dropout_p": dropout, "enable_gqa": query.shape[1] != key.shape[1]}
    if packed is None:
        out = attend(query, key, value, is_causal=True, **options)
    else:
        out = packed.attend(query, key, value, **options)
    return out.transpose(1, 2), None
