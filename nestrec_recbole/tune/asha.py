"""Asynchronous successive halving (ASHA, Li et al. 2020), under which trials wait at a rung and may go on later.

Ray's ``AsyncHyperBandScheduler`` decides about a trial once, when it comes to a rung, and lets the first ones pass, as
there is nothing yet to compare them with. Here a trial passes when it is in the best third of all that have come to
its rung; else it waits, and passes once it is, before any new trial begins. Trials go on from their own folders, so
that Ray keeps nothing of one that waits. What a trial reports again when it goes on, or after its process was killed,
was counted the first time. After a killed search all that trials have reported is told again, in the order in which
they began: one at a time, decisions are the same; of several, one that had passed may wait now.
"""

from __future__ import annotations

import math
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from nestrec_recbole.tune.space import Point
from nestrec_recbole.tune.trial import FAILED

REDUCTION_FACTOR = 3  # one of so many passes


class Rung:
    """The trials that have come as far as an epoch.

    Parameters
    ----------
    epoch : int
        From 1.

    Attributes
    ----------
    scores : dict of str to float
        Of each trial when it came, higher is better.
    promoted : set of str
    """

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.scores: dict[str, float] = {}
        self.promoted: set[str] = set()

    def ranked(self) -> list[str]:
        """Every trial, the best first; of equals, the one that came first."""
        return sorted(self.scores, key=self.scores.__getitem__, reverse=True)

    def holds(self, name: str) -> bool:
        """Whether a trial has come and not passed."""
        return name in self.scores and name not in self.promoted

    def promotable(self) -> list[str]:
        """Trials of the best third that have not passed yet, the best first."""
        return [name for name in self.ranked()[: len(self.scores) // REDUCTION_FACTOR] if name not in self.promoted]


class Asha(FIFOScheduler):
    """Lets the best third of the trials pass rungs at a sixth, a third and two thirds of their epochs.

    Not at a ninth and a third, as powers of three would have it: after two epochs of 18, models lead that soon stand
    still; and those that came too early to a rung to be compared with many cost less where another one follows soon.

    Parameters
    ----------
    epochs : int
        Of a trial, at most.
    trials : int
        How many there will be. One that is behind a third of so many at a rung is stopped and waits no longer; fewer
        than three are not compared.
    at_once : int or None
        Trials, at most; None: as many as there is room for.
    eval_step : int
        Epochs from one validation to the next: rungs are at those that are validated.
    """

    _supports_buffered_results = False  # no trial trains on before it is decided about

    def __init__(self, epochs: int, trials: int, at_once: int | None = None, eval_step: int = 1) -> None:
        super().__init__()
        sixths = (1, 2, 4) if trials >= REDUCTION_FACTOR else ()
        places = {eval_step * math.ceil(epochs * share / (6 * eval_step)) for share in sixths}
        self.rungs = [Rung(epoch) for epoch in sorted(places) if epoch < epochs]
        self.epochs, self.at_once, self._sign = epochs, at_once, 1.0
        self._prospects = max(1, trials // REDUCTION_FACTOR)
        self._trials: dict[str, Trial] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Take over which metric is compared, and whether ``max`` or ``min`` is best."""
        self._sign = -1.0 if mode == "min" else 1.0
        return super().set_search_properties(metric, mode, **spec)

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Note a trial, which may be one that begins again as its process has died."""
        self._trials[trial.trial_id] = trial

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Decide whether a trial trains on, waits or is stopped."""
        if self.metric not in result:  # it failed before its first epoch
            return self.CONTINUE
        if result.get(FAILED):
            self._forget(trial)
            return self.STOP
        if result["epoch"] >= self.epochs:
            return self.STOP
        for rung in self.rungs:
            if rung.epoch > result["epoch"]:
                break
            rung.scores.setdefault(trial.trial_id, self._value(result))
            if trial.trial_id in rung.promotable():
                rung.promoted.add(trial.trial_id)
            if rung.holds(trial.trial_id):
                return self.STOP if self._is_hopeless(trial) else self.PAUSE
        return self.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Let a trial that has ended early by itself count at all later rungs, where it would have come with this."""
        if self.metric in result and not result.get(FAILED) and not self._holder(trial):
            for rung in self.rungs:
                rung.scores.setdefault(trial.trial_id, self._value(result))
                rung.promoted.add(trial.trial_id)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Choose the trial that trains next where there is room; stop those that wait for nothing."""
        for trial in self._in("ERROR"):
            self._forget(trial)
        for trial in self._in("PAUSED"):
            if self._is_hopeless(trial):
                tune_controller.stop_trial(trial)
        if self.at_once is None or sum(not self._holder(one) for one in self._in("PENDING", "RUNNING")) < self.at_once:
            for rung, trial in self._promotable():
                rung.promoted.add(trial.trial_id)
                return trial
        pending = self._in("PENDING")
        if pending:  # before new ones, those that have passed a rung, or whose processes died
            return min(pending, key=lambda one: not any(one.trial_id in rung.scores for rung in self.rungs))
        if not self._in("RUNNING") and tune_controller.search_alg.is_finished():
            return self._end(tune_controller)
        return None

    def has_room(self) -> bool:
        """Whether a new trial may begin."""
        if self.at_once is None:
            return True
        return len(self._in("PENDING", "RUNNING")) < self.at_once and not self._promotable()

    def debug_string(self) -> str:
        """How many trials have come to each rung and passed it."""
        told = [f"epoch {rung.epoch}: {len(rung.promoted)} of {len(rung.scores)}" for rung in self.rungs]
        return f"ASHA: {', '.join(told)}"

    def _end(self, tune_controller: Any) -> Trial | None:
        """When no trial trains and none will come: the best of a rung if it still waits, or stop all that wait."""
        for rung in reversed(self.rungs):
            for name in rung.ranked()[:1]:
                if rung.holds(name) and self._trials[name].status == Trial.PAUSED:
                    rung.promoted.add(name)
                    return self._trials[name]
        for trial in self._in("PAUSED"):
            tune_controller.stop_trial(trial)
        return None

    def _forget(self, trial: Trial) -> None:
        """Let a trial that failed, or was given up, take nobody's place."""
        for rung in self.rungs:
            rung.scores.pop(trial.trial_id, None)

    def _promotable(self) -> list[tuple[Rung, Trial]]:
        """Who waits and may pass, those that are farthest first."""
        found = [(rung, self._trials[name]) for rung in reversed(self.rungs) for name in rung.promotable()]
        return [(rung, trial) for rung, trial in found if trial.status == Trial.PAUSED]

    def _is_hopeless(self, trial: Trial) -> bool:
        """Whether a trial is behind so many at its rung that it cannot pass, however bad all others will be."""
        rung = self._holder(trial)
        return rung is not None and rung.ranked().index(trial.trial_id) >= self._prospects

    def _holder(self, trial: Trial) -> Rung | None:
        """The rung at which a trial waits, or waited last."""
        return next((rung for rung in self.rungs if rung.holds(trial.trial_id)), None)

    def _in(self, *statuses: str) -> list[Trial]:
        """Trials in the order in which they came."""
        return [trial for trial in self._trials.values() if trial.status in statuses]

    def _value(self, result: dict[str, Any]) -> float:
        score = self._sign * float(result[self.metric])
        return -math.inf if math.isnan(score) else score


class GivenPoints(BasicVariantGenerator):
    """Gives points one after the other, as :class:`Asha` has room for new trials.

    Parameters
    ----------
    points : list of dict
    scheduler : Asha
    """

    def __init__(self, points: list[Point], scheduler: Asha) -> None:
        super().__init__(points_to_evaluate=points)
        self.scheduler = scheduler

    def next_trial(self) -> Trial | None:
        """The next trial, or None."""
        return super().next_trial() if self.scheduler.has_room() else None

    def get_state(self) -> dict[str, Any]:
        """What Ray saves, without the scheduler."""
        return {name: value for name, value in super().get_state().items() if name != "scheduler"}
