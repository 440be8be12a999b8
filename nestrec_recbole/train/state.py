"""What going on with a training needs beside the weights: each part is taken from a trainer and given back to one.

A part is tensors and what JSON can say, under names of its own; the two functions of a part stand together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from nestrec_recbole.settings.values import is_plain

Tensors = dict[str, Tensor]
About = dict[str, Any]


@dataclass(frozen=True)
class Position:
    """Where a training is to go on.

    Attributes
    ----------
    epoch : int
        From 0.
    first_batch : int
        Of that epoch.
    loss_so_far : tuple of float and int
        Sum over the targets of the batches before it, and their number.
    finished : bool
        It has stopped early, and is not to go on.
    """

    epoch: int
    first_batch: int = 0
    loss_so_far: tuple[float, int] = (0.0, 0)
    finished: bool = False


def capture(trainer: Any, position: Position) -> tuple[Tensors, About]:
    """Everything but the weights and what ``about_run`` says.

    Parameters
    ----------
    trainer : nestrec_recbole.train.trainer.SequenceTrainer
    position : Position

    Returns
    -------
    tensors : dict of str to Tensor
    about : dict
        For JSON.
    """
    tensors: Tensors = {}
    about: About = asdict(position) | {"n_steps": trainer.n_steps}
    for take, _ in _PARTS:
        own_tensors, own_about = take(trainer)
        tensors |= own_tensors
        about |= own_about
    return tensors, about


def restore(trainer: Any, tensors: Tensors, about: About) -> None:
    """Give a fresh trainer what :func:`capture` and ``about_run`` took from another."""
    for _, give in _PARTS:
        give(trainer, tensors, about)
    trainer.start_epoch = about["epoch"]
    for name in ("first_batch", "finished", "n_steps", "cur_step", "best_valid_score", "best_valid_result", "history"):
        setattr(trainer, name, about[name])
    if trainer.processes.is_first:  # the sum over all processes has the batches before once
        trainer.loss_so_far = tuple(about["loss_so_far"])


def is_whole(about: About) -> bool:
    """Whether a checkpoint holds more than the best weights."""
    return "groups" in about


def _take_optimizer(trainer: Any) -> tuple[Tensors, About]:
    state = trainer.optimizer.state_dict()
    named = {
        f"optimizer.{index}.{name}": torch.as_tensor(value)
        for index, values in state["state"].items()
        for name, value in values.items()
    }
    return named, {"groups": state["param_groups"]}


def _give_optimizer(trainer: Any, tensors: Tensors, about: About) -> None:
    state: dict[int, Tensors] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    # Whether its steps are fused is for this version to say, not for the one that wrote the checkpoint.
    fused = {"fused": trainer.optimizer.param_groups[0]["fused"]}
    groups = [group | fused for group in about["groups"]]
    trainer.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _take_schedule(trainer: Any) -> tuple[Tensors, About]:
    # The rate follows the config that goes on, which may say more epochs: its function is not kept.
    schedule = {k: v for k, v in trainer.schedule.state_dict().items() if is_plain(v)} | {"lr_lambdas": [None]}
    return {}, {"schedule": schedule, "plateau_factor": trainer.rate_factor.plateau}


def _give_schedule(trainer: Any, tensors: Tensors, about: About) -> None:
    trainer.schedule.load_state_dict(about["schedule"])
    trainer.rate_factor.plateau = about["plateau_factor"]


def _take_scaler(trainer: Any) -> tuple[Tensors, About]:
    return {}, {"scaler": trainer.scaler.state_dict()}


def _give_scaler(trainer: Any, tensors: Tensors, about: About) -> None:
    trainer.scaler.load_state_dict(about["scaler"])


def _take_average(trainer: Any) -> tuple[Tensors, About]:
    if trainer.average is None:
        return {}, {"n_averaged": 0}
    averages = {f"average.{name}": tensor for name, tensor in trainer.average.averages.items()}
    return averages, {"n_averaged": trainer.average.n_updates}


def _give_average(trainer: Any, tensors: Tensors, about: About) -> None:
    if trainer.average is not None and about["n_averaged"]:  # else `ema_decay` is new, and begins with the weights
        trainer.average.n_updates = about["n_averaged"]
        for name, average in trainer.average.averages.items():
            average.copy_(tensors[f"average.{name}"])


def _take_random(trainer: Any) -> tuple[Tensors, About]:
    numbers = {"random.torch": torch.get_rng_state()}
    if trainer.device.type == "cuda":
        numbers["random.cuda"] = torch.cuda.get_rng_state(trainer.device)
    return numbers, {}


def _give_random(trainer: Any, tensors: Tensors, about: About) -> None:
    if not trainer.processes.is_first:  # only the first's are kept
        return
    torch.set_rng_state(tensors["random.torch"])
    if "random.cuda" in tensors and trainer.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["random.cuda"], trainer.device)


_PARTS: tuple[tuple[Callable[[Any], tuple[Tensors, About]], Callable[[Any, Tensors, About], None]], ...] = (
    (_take_optimizer, _give_optimizer),
    (_take_schedule, _give_schedule),
    (_take_scaler, _give_scaler),
    (_take_average, _give_average),
    (_take_random, _give_random),
)
