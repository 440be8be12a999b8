"""What RecBole measures: metrics that are counts, and the FLOPs of a model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from logging import Logger
from typing import Any

from nestrec_recbole.compat.once import replace_once, wrap_once


def let_metrics_count() -> None:
    """Metrics of coverage, popularity and the like stop: numbers and counters are moved to the CPU as if tensors."""
    from recbole.evaluator.collector import Collector

    def of_tensors(move: Callable[..., Any]) -> Callable[..., Any]:
        def get_data_struct(self: Collector) -> Any:
            held = self.data_struct._data_dict
            counts = {name: held.pop(name) for name in list(held) if not hasattr(held[name], "cpu")}
            struct = move(self)
            held.update(counts)
            struct._data_dict.update(counts)
            return struct

        return get_data_struct

    wrap_once(Collector, "get_data_struct", of_tensors)


def count_flops_in_place() -> None:
    """RecBole counts FLOPs on a deep copy: models need twice the memory, and those whose ``predict`` asserts stop."""
    import recbole.utils
    import recbole.utils.utils

    for module in (recbole.utils, recbole.utils.utils, sys.modules["recbole.quick_start.quick_start"]):
        replace_once(module, "get_flops", get_flops)


def get_flops(
    model: Any, dataset: Any, device: Any, logger: Logger, transform: Callable[..., Any], verbose: bool = False
) -> float:
    """Multiply-adds of predicting for one row, as RecBole's function of this name counts them.

    Counts are kept in hooks on the model itself, which leaves as it came; a model that cannot predict counts 0.
    """
    import torch
    from recbole.utils import ModelType
    from thop.profile import register_hooks
    from torch import nn

    if model.type == ModelType.DECISIONTREE or type(model).__name__ == "Pop":
        return 1
    rules = {**register_hooks, nn.Embedding: _count_embedding, nn.LayerNorm: _count_norm}
    counted = [module for module in model.modules() if type(module) in rules]
    before = [(module, dict(vars(module))) for module in model.modules()]
    hooks = []
    try:
        row = transform(dataset, dataset[torch.tensor([1])].to(device))
        model.eval()
        for module in counted:
            module.total_ops = torch.zeros(1, dtype=torch.float64)
            hooks.append(module.register_forward_hook(rules[type(module)]))
        with torch.no_grad():
            model.predict(row)
        return _sum_of_outermost(model, set(counted))
    except Exception as error:  # a figure for the log is no reason to stop a training
        logger.warning("FLOPs not counted: %s in %s.predict: %s", type(error).__name__, type(model).__name__, error)
        return 0
    finally:
        for hook in hooks:
            hook.remove()
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)


def _count_norm(module: Any, inputs: Any, output: Any) -> None:
    module.total_ops += 2 * inputs[0].numel()


def _count_embedding(module: Any, inputs: Any, output: Any) -> None:
    module.total_ops += inputs[0].numel() * output.shape[-1]


def _sum_of_outermost(module: Any, counted: set[Any]) -> float:
    """Sum the counts, not going into a module that has one of its own."""
    from torch import nn

    total = float(module.total_ops) if module in counted else 0.0
    for child in module.children():
        if child in counted and not isinstance(child, (nn.Sequential, nn.ModuleList)):
            total += float(child.total_ops)
        else:
            total += _sum_of_outermost(child, counted)
    return total
