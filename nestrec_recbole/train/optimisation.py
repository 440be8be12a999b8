"""The optimiser that a config names, and how its learning rate goes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from nestrec_recbole.layers.ids import ItemIds
from nestrec_recbole.settings.rules import LEARNERS

OPTIMIZERS = dict(zip(LEARNERS, (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD), strict=True))


def build_optimizer(model: Any, config: Any) -> torch.optim.Optimizer:
    """Adam, AdamW or SGD over what is trained, fused; weight decay spares biases, norms and embeddings.

    Unfused, a step over a table of a million items takes nine times as long on a CPU, and memory for copies of it. The
    model says which parameters have a learning rate of their own: ``learning_rate_of(name)``, None for no other.
    """
    tables = {id(p) for part in model.modules() if isinstance(part, (nn.Embedding, ItemIds)) for p in part.parameters()}
    by_rate: dict[float, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            own = model.learning_rate_of(name)
            by_rate.setdefault(config["learning_rate"] if own is None else own, []).append((name, parameter))
    groups: list[dict[str, Any]] = []
    for rate, trained in by_rate.items():
        spared = [p for name, p in trained if p.ndim < 2 or id(p) in tables or "embedding" in name]
        decayed = [p for _, p in trained if not any(p is other for other in spared)]
        groups += [{"params": decayed, "lr": rate, "weight_decay": config["weight_decay"]}] if decayed else []
        groups += [{"params": spared, "lr": rate, "weight_decay": 0.0}] if spared else []
    return OPTIMIZERS[config["learner"].lower()](groups, lr=config["learning_rate"], fused=True)


class RateFactor:
    """What the learning rate is multiplied by at each optimiser step.

    Linear warm-up, then constant, a cosine or a line down to zero at the last epoch, or steps down.

    Attributes
    ----------
    steps_per_epoch : int or None
        Known once there is training data; until then the rate is constant.
    plateau : float
        Goes down while validation scores do not go up.
    """

    def __init__(self, config: Any) -> None:
        self.schedule, self.warm_up, self.epochs = config["schedule"], int(config["warmup_steps"]), config["epochs"]
        self.down, self.patience = config["schedule_factor"], config["schedule_patience"]
        self.steps_per_epoch: int | None = None
        self.plateau = 1.0

    def __call__(self, step: int) -> float:
        """Return the factor at an optimiser step, from 0."""
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        if self.schedule == "plateau":
            return self.plateau
        if self.schedule == "constant" or not self.steps_per_epoch:
            return 1.0
        if self.schedule == "step":
            return self.down ** (step // self.steps_per_epoch // self.patience)
        total = max(1, self.epochs * self.steps_per_epoch - self.warm_up)
        done = min(1.0, (step - self.warm_up) / total)
        return 0.5 * (1 + math.cos(math.pi * done)) if self.schedule == "cosine" else 1 - done

    def note_validations_without_gain(self, number: int) -> None:
        """Step down when there have been ``patience`` of them, and again after as many more."""
        if number and number % self.patience == 0:
            self.plateau *= self.down


def take_rates(trainer: Any) -> None:
    """Give a trainer that went on from a checkpoint the rates and the weight decay that its config says now."""
    fresh = build_optimizer(trainer.model, trainer.config)
    factor = trainer.rate_factor(trainer.schedule.last_epoch)
    for group, now in zip(trainer.optimizer.param_groups, fresh.param_groups, strict=True):
        group |= {"initial_lr": now["lr"], "lr": now["lr"] * factor, "weight_decay": now["weight_decay"]}
    trainer.schedule.base_lrs = [group["initial_lr"] for group in trainer.optimizer.param_groups]
