"""What a search says while it goes on: a line per trial that has ended, with the time that is left."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

from ray import tune

from nestrec_recbole.durations import duration
from nestrec_recbole.tune.trial import Task


class Progress(tune.Callback):
    """Says a line per trial.

    Parameters
    ----------
    task : Task
    trials : int
        How many there will be.
    say : callable
        Takes a line.
    """

    def __init__(self, task: Task, trials: int, say: Callable[[str], None]) -> None:
        self.task, self.trials, self.say = task, trials, say
        self.began, self.ended, self.best = perf_counter(), 0, None

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say how good a trial was."""
        result = trial.last_result or {}
        score = result.get("score")
        if score is None:
            self._say(trial, "failed")
            return
        better = max if self.task.bigger else min
        self.best = score if self.best is None else better(score, self.best)
        self._say(trial, f"{score:.4f} after {result['epoch']} epochs (best {self.best:.4f})")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say that a trial's process died too often, or that it raised."""
        self._say(trial, "failed")

    def _say(self, trial: Any, outcome: str) -> None:
        self.ended += 1
        left = (perf_counter() - self.began) / self.ended * (self.trials - self.ended)
        settings = ", ".join(f"{name} {value}" for name, value in self.task.space.flat(trial.config).items())
        ahead = f", about {duration(left)} left" if self.ended < self.trials else ""
        self.say(f"[{self.ended}/{self.trials}] {outcome}{ahead}: {settings}")
