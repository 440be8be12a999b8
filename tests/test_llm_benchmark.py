"""benchmarks/llm.py: its reference, one target per row in plain loops, is an oracle for the model."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LAYERS, BuildNestRec
from torch.utils.flop_counter import FlopCounterMode

LORA = {"r": 4, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]}


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parent.parent / "benchmarks")
    return importlib.import_module("llm")


def test_equal_loss_on_the_last_target_of_each_history(
    benchmark: Any, build_nestrec: BuildNestRec, qwen3: Path
) -> None:
    """With weights that have learned: at first every loss is near the logarithm of the number of items."""
    llm = {"path": str(qwen3), "lora": LORA}
    model, trainer, train, valid = build_nestrec(llm, epochs=5, learning_rate=0.01, user_queries=2, item_queries=3)
    trainer.fit(train, valid, verbose=False, saved=False)
    model.eval()
    batch = valid.dataset.histories(np.arange(len(valid.dataset)), width=8)
    with torch.no_grad():
        states, wanted = model.user_states(batch), benchmark.reference_states(model, batch)
        ours, theirs = model.calculate_loss(batch), benchmark.reference_loss(model, batch)
    assert wanted.std(dim=0).max() > 0.1
    torch.testing.assert_close(states, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_flops_are_those_of_the_model(benchmark: Any, build_nestrec: BuildNestRec, qwen3: Path) -> None:
    """Linear layers against torch's counter, which sees the adapters too; attention by hand."""
    model, _, train, _ = build_nestrec({"path": str(qwen3), "lora": LORA})
    tokens, flops = benchmark.flops_per_epoch(model, train)
    lengths = [3 * int(length) for batch in train for length in batch["item_length"]]
    assert tokens == sum(lengths)
    with FlopCounterMode(display=False) as counter:
        model.llm(inputs_embeds=torch.randn(1, 200, 24, requires_grad=True)).last_hidden_state.sum().backward()
    counted = counter.get_flop_counts()["Global"]
    linear = sum(count for operator, count in counted.items() if operator in (torch.ops.aten.mm, torch.ops.aten.addmm))
    adapters = sum(p.numel() for name, p in model.llm.named_parameters() if "lora_" in name)
    seen = sum(length * (length + 1) // 2 for length in lengths)  # pairs of tokens
    # Two products of 4 heads x 8 numbers a pair and layer, two operations a number; thrice that with the backward pass.
    assert flops == (linear / 200 - 6 * adapters) * tokens + 3 * 2 * 2 * 32 * LAYERS * seen


def test_without_a_gpu_it_says_so(benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="this machine has no GPU"):
        benchmark.on_gpu(tmp_path)
