"""What the tests of tuning share: a dataset of walks round a circle, a space, and small trials."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from nestrec_recbole.cli import main
from nestrec_recbole.tune.space import parse_space
from nestrec_recbole.tune.trial import Task

SMALL = {
    "hidden_size": 8,
    "inner_size": 16,
    "n_layers": 1,
    "train_batch_size": 128,
    "topk": [3],
    "valid_metric": "NDCG@3",
}
SPACE = {
    "learning_rate": {"choice": [0.02, 0.01, 0.003, 0.0001]},
    "hidden_dropout_prob": {"uniform": [0.0, 0.2]},
}
EPOCHS = 4


def walks(shuffled_ends: bool = False) -> list[list[int]]:
    """Every user walks round a circle of 12 items; the first sees all of them, so ids do not depend on the ends."""
    found = [[(start + step) % 12 for step in range(13 if start == 0 else 5 + start % 4)] for start in range(40)]
    if shuffled_ends:
        found = [walk if user == 0 else [*walk[:-1], (walk[-1] + 5) % 12] for user, walk in enumerate(found)]
    return found


def in_order(sequences: list[list[int]]) -> list[list[int]]:
    return [[1_600_000_000 + 60 * step for step in range(len(one))] for one in sequences]


def make_task(settings: dict[str, Any], folder: Path, **more: Any) -> Task:
    space = parse_space(SPACE).checked({"learning_rate": 0.001, "hidden_dropout_prob": 0.1})
    return Task("FastSASRec", "circle", {**settings, "epochs": EPOCHS}, space, str(folder), **more)


def ignore(epoch: int, score: float) -> None:
    """Report to nobody."""


class Cut(BaseException):
    """What ends a trial as a killed process ends."""


def cut_at(last: int) -> Callable[[int, float], None]:
    def report(epoch: int, score: float) -> None:
        if epoch == last:
            raise Cut

    return report


def tune(circle: dict[str, Any], folder: Path, *more: str, space: dict[str, Any] | None = None) -> int:
    path = folder.parent / "space.yaml"
    path.write_text(yaml.safe_dump(space or SPACE, sort_keys=False))
    given = [f"--{name}={value}" for name, value in circle.items()]
    options = ["--space", str(path), "--folder", str(folder), "--epochs", str(EPOCHS)]
    return main(["tune", "--model", "FastSASRec", "--dataset", "circle", *options, *given, *more])
