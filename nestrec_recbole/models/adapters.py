"""LoRA adapters of the language model, through PEFT: checked, and written where PEFT finds them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from torch import nn

from nestrec_recbole.errors import NestRecError, first_line, unknown
from nestrec_recbole.files import written_whole


def adapter_folder(checkpoint: str | Path) -> Path:
    """Where the adapters of a checkpoint lie: ``<checkpoint without its suffix>-adapter``."""
    path = Path(checkpoint)
    return path.with_name(f"{path.stem}-adapter")


def write_adapters(model: Any, folder: Path) -> None:
    """Write the adapters of a model in PEFT's format, whole or not at all; nothing where it has none.

    ``PeftModel.from_pretrained(base, folder)`` loads them. The base is ``Qwen3Model.from_pretrained(llm.path)``, with
    its first ``llm.layers`` layers where that is set.
    """
    if hasattr(model, "peft_config"):
        with written_whole(folder) as draft:
            model.save_pretrained(draft, save_embedding_layers=False)


def with_lora(model: Any, lora: dict[str, Any]) -> Any:
    """Freeze a model and put LoRA adapters on it (Hu et al. 2022).

    Parameters
    ----------
    model : transformers.PreTrainedModel
    lora : dict
        Keys of :class:`peft.LoraConfig`.

    Returns
    -------
    peft.PeftModel

    Raises
    ------
    NestRecError
        On an unknown key, a target that matches no module, or what PEFT itself refuses.
    """
    from peft import LoraConfig, get_peft_model

    known = [field.name for field in dataclasses.fields(LoraConfig)]
    for key in lora:
        if key not in known:
            raise NestRecError(unknown("config key", f"llm.lora.{key}", [f"llm.lora.{name}" for name in known]))
    task = lora.get("task_type")
    if task not in (None, "FEATURE_EXTRACTION"):
        raise NestRecError(f"llm.lora.task_type is {task!r}: vectors are read here, no text is made; remove it")
    _check_targets(model, lora.get("target_modules"))
    try:
        return get_peft_model(model, LoraConfig(**lora))  # freezes all but the adapters
    except (ValueError, TypeError) as error:
        raise NestRecError(f"llm.lora: {first_line(error)}") from None


def _check_targets(model: nn.Module, targets: Any) -> None:
    """Every target must match a module; PEFT passes over those that match nothing where another matches."""
    if targets is None or targets == "all-linear":
        return
    names = [name for name, _ in model.named_modules()]
    linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if isinstance(targets, str):
        matches = {targets: any(re.fullmatch(targets, name) for name in names)}
    else:
        matches = {one: any(f".{name}".endswith(f".{one}") for name in names) for one in targets}
    for target, found in matches.items():
        if not found:
            known = ", ".join(sorted(linear))
            raise NestRecError(f"llm.lora.target_modules: {target!r} matches nothing in the model; it has {known}")
