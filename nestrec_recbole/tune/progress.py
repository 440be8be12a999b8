"""What a search says while it goes on: a line per trial that waits or has ended, with the time that is left."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

from ray import tune

from nestrec_recbole.durations import duration
from nestrec_recbole.tune.trial import FAILED, Task, Trial


class Progress(tune.Callback):
    """Says a line when a trial begins to wait, and one when it has ended.

    Parameters
    ----------
    task : Task
    trials : int
        How many there will be.
    say : callable
        Takes a line.

    Attributes
    ----------
    trials : list of ray.tune.experiment.Trial
        Those that there are so far, in the order in which they were chosen.
    """

    def __init__(self, task: Task, trials: int, say: Callable[[str], None]) -> None:
        self.task, self.n_trials, self.say = task, trials, say
        self.trials: list[Any] = []
        self.began, self.best = perf_counter(), None
        self.told: dict[str, int] = {}  # trial to the epochs that it had when it was told of last

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Say how good the trials are that wait, once."""
        self.trials = trials
        for trial in trials:
            if trial.status == "PAUSED" and trial.trial_id not in self.told:
                self._say_score(trial, ", waits")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say how good a trial was, unless it has only waited since that was said."""
        result = trial.last_result or {}
        if result.get(FAILED):
            self._say(trial, 0, "failed")
        elif "score" not in result:
            written = Trial.read(self.task.folder_of(trial.config))
            failed = written is not None and written.status == "failed"
            self._say(trial, 0, "failed" if failed else "ended before its first validation")
        elif self.told.get(trial.trial_id) != result["epoch"]:
            self._say_score(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say that a trial's process died too often, or that it raised."""
        self._say(trial, 0, "failed")

    def _say_score(self, trial: Any, after: str = "") -> None:
        score, epochs = trial.last_result["score"], trial.last_result["epoch"]
        better = max if self.task.bigger else min
        self.best = score if self.best is None else better(score, self.best)
        self._say(trial, epochs, f"{score:.4f} after {epochs} epochs{after} (best {self.best:.4f})")

    def _say(self, trial: Any, epochs: int, outcome: str) -> None:
        self.told[trial.trial_id] = epochs
        n = len(self.told)
        left = (perf_counter() - self.began) / n * (self.n_trials - n)
        settings = ", ".join(f"{name} {value}" for name, value in self.task.space.flat(trial.config).items())
        ahead = f", about {duration(left)} left" if n < self.n_trials else ""
        self.say(f"[{n}/{self.n_trials}] {outcome}{ahead}: {settings}")
