"""ASHA: who trains how far, against the paper's algorithm for one worker; with several, with deaths, at its end."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nestrec_recbole.tune.budget import Plan
from nestrec_recbole.tune.cluster import require_ray
from nestrec_recbole.tune.space import parse_space
from nestrec_recbole.tune.trial import Task
from nestrec_recbole.tune.trial import Trial as TrialFile

require_ray()
from nestrec_recbole.tune.asha import Asha, GivenPoints  # noqa: E402
from nestrec_recbole.tune.running import make_strategy  # noqa: E402

EPOCHS, RUNGS = 18, (3, 6, 12)
Curve = list[float]  # best score so far, an entry per epoch


class Fake:
    """What Ray Tune does with trials of known curves: a step trains a trial for an epoch, or one tells an old one."""

    def __init__(
        self, curves: list[Curve], at_once: int, mode: str = "max", kill: Callable[[int], bool] | None = None
    ) -> None:
        self.scheduler = Asha(EPOCHS, len(curves), at_once)
        self.scheduler.set_search_properties("score", mode)
        self.curves, self.at_once, self.kill = curves, at_once, kill
        self.trials: list[Any] = []
        self.jobs: list[tuple[int, int]] = []  # (trial, epoch at which it was held, stopped or over)
        self.most = self.steps = 0
        self.search_alg = SimpleNamespace(is_finished=lambda: len(self.trials) == len(self.curves))

    def run(self) -> Fake:
        """Until all trials have ended; each takes its turn."""
        while True:
            self.start_some()
            running = [one for one in self.trials if one.status == "RUNNING"]
            self.most = max(self.most, len(running))
            if not running:
                assert self.search_alg.is_finished() and {one.status for one in self.trials} <= {"TERMINATED", "ERROR"}
                return self
            for trial in running:
                self.step(trial)

    def start_some(self) -> None:
        while True:
            if not self.search_alg.is_finished() and self.scheduler.has_room():
                number = len(self.trials)
                self.trials.append(SimpleNamespace(trial_id=f"t{number}", number=number, status="PENDING", trained=0))
                self.trials[-1].last_result = {}
                self.scheduler.on_trial_add(self, self.trials[-1])
            chosen = self.scheduler.choose_trial_to_run(self)
            if chosen is None:
                return
            assert chosen.status in ("PENDING", "PAUSED")
            chosen.status, chosen.told = "RUNNING", 0

    def step(self, trial: Any) -> None:
        self.steps += 1
        curve = self.curves[trial.number]
        if self.kill and self.kill(self.steps):
            self.scheduler.on_trial_error(self, trial)
            trial.status = "PENDING"
            self.scheduler.on_trial_add(self, trial)
            return
        if trial.status == "ERROR":  # given up
            return
        if trial.told < len(curve):
            trial.told += 1
            trial.trained = max(trial.trained, trial.told)
            trial.last_result = {"epoch": trial.told, "score": curve[trial.told - 1]}
            decision = self.scheduler.on_trial_result(self, trial, trial.last_result)
        else:
            decision = "STOP"  # Ray's, of what has ended by itself
        if decision == "STOP":
            self.jobs.append((trial.number, trial.told))
            self.stop_trial(trial)
        elif decision == "PAUSE":
            self.jobs.append((trial.number, trial.told))
            trial.status = "PAUSED"

    def stop_trial(self, trial: Any) -> None:
        if trial.status == "RUNNING":
            self.scheduler.on_trial_complete(self, trial, trial.last_result)
        else:
            self.scheduler.on_trial_remove(self, trial)
        trial.status = "TERMINATED"

    @property
    def trained(self) -> list[int]:
        return [one.trained for one in self.trials]


def made_up(n_trials: int, seed: int, ends: tuple[int, ...] = (EPOCHS,)) -> list[Curve]:
    draw = random.Random(seed)
    sizes = [draw.choice(ends) for _ in range(n_trials)]
    return [list(accumulate((draw.random() + epoch / 20 for epoch in range(size)), max)) for size in sizes]


def flat(*scores: float) -> list[Curve]:
    return [[score] * EPOCHS for score in scores]


def paper(curves: list[Curve]) -> list[tuple[int, int]]:
    """Algorithm 2 of Li et al. for one worker, with the trial that has just come to a rung before others."""
    if len(curves) < 3:
        return [(one, EPOCHS) for one in range(len(curves))]
    came: list[list[int]] = [[] for _ in RUNGS]
    passed: list[list[int]] = [[] for _ in RUNGS]
    jobs, begun, last = [], 0, -1

    def job() -> tuple[int, int] | None:
        """The next trial, and the rung to which it goes."""
        nonlocal begun
        for k in reversed(range(len(RUNGS))):
            order = sorted(came[k], key=lambda one: -curves[one][RUNGS[k] - 1])
            best = [one for one in order[: len(order) // 3] if one not in passed[k]]
            if best:
                chosen = last if last in best else best[0]
                passed[k].append(chosen)
                return chosen, k + 1
        if begun < len(curves):
            begun += 1
            return begun - 1, 0
        k = max(k for k in range(len(RUNGS)) if came[k])
        if passed[k]:
            return None
        passed[k].append(max(came[k], key=lambda one: curves[one][RUNGS[k] - 1]))
        return passed[k][0], k + 1

    while (found := job()) is not None:
        last, k = found
        if k < len(RUNGS):
            came[k].append(last)
        jobs.append((last, (*RUNGS, EPOCHS)[k]))
    return jobs


def stretches(jobs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Jobs of one trial in a row as one."""
    return [one for one, after in zip(jobs, [*jobs[1:], None], strict=True) if after is None or one[0] != after[0]]


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("n_trials", [1, 2, 3, 4, 8, 9, 27, 60])
def test_one_at_a_time_is_the_algorithm_of_the_paper(n_trials: int, mode: str) -> None:
    for seed in range(10):
        curves = made_up(n_trials, seed)
        found = Fake(curves if mode == "max" else [[-s for s in one] for one in curves], 1, mode).run()
        assert stretches(found.jobs) == stretches(paper(curves))
        assert found.most == 1 and max(found.trained) == EPOCHS


@pytest.mark.parametrize("at_once", [2, 3, 8, 50])
def test_several_at_once(at_once: int) -> None:
    for seed in range(10):
        curves = made_up(27, seed)
        found = Fake(curves, at_once).run()
        assert found.most <= at_once
        assert max(found.trained) == EPOCHS and set(found.trained) <= {*RUNGS, EPOCHS}
        for number, place in enumerate(RUNGS):  # no one of the final best third is left behind
            came = [one for one in range(27) if found.trained[one] >= place]
            best = sorted(came, key=lambda one: -curves[one][place - 1])[: len(came) // 3]
            assert all(found.trained[one] > place for one in best), number


def test_decisions_in_order() -> None:
    found = Fake(flat(0.9, 0.8, 0.7, 0.3, 0.2, 0.1, 0.05, 0.04, 0.03), 1).run()
    assert found.jobs == [
        *((0, 3), (1, 3), (2, 3), (0, 6)),  # the first does not go on before there are three, and then waits again
        *((3, 3), (4, 3), (5, 3), (1, 6)),  # with six, the second is among the best third
        *((6, 3), (7, 3), (8, 3), (2, 6), (0, 12)),  # of three at the second rung, one goes on
        (0, 18),  # and nobody else will come
    ]
    assert found.trained == [18, 6, 6, 3, 3, 3, 3, 3, 3]
    assert Fake(flat(0.1, 0.2, 0.3), 1).run().jobs[:3] == [(0, 3), (1, 3), (2, 6)]  # the last does not wait
    assert Fake(flat(0.5, 0.5, 0.5), 1).run().trained == [18, 3, 3]  # of equals, the first
    assert Fake(flat(float("nan"), float("nan"), 0.1), 1).run().trained == [3, 3, 18]


def test_who_cannot_get_there_is_stopped_and_does_not_wait() -> None:
    found = Fake(flat(0.9, 0.8, 0.7, 0.6, 0.5, 0.4), 1)
    statuses = []
    on_result = found.scheduler.on_trial_result

    def told(controller: Any, trial: Any, result: dict[str, Any]) -> str:
        statuses.append((trial.number, on_result(controller, trial, result)))
        return statuses[-1][1]

    found.scheduler.on_trial_result = told
    found.run()
    assert [one for one in statuses if one[1] != "CONTINUE"] == [
        *((0, "PAUSE"), (1, "PAUSE"), (2, "STOP")),  # of six, two can pass
        *((0, "PAUSE"), (3, "STOP"), (4, "STOP"), (5, "STOP"), (1, "PAUSE")),  # two have, and neither is one of three
        *((0, "PAUSE"), (0, "STOP")),  # nobody else will come: the best goes on, until its 18 epochs are over
    ]


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_death_changes_nothing(at_once: int) -> None:
    for seed in range(5):
        curves = made_up(12, seed)
        draw = random.Random(seed)
        found = Fake(curves, at_once, kill=lambda step, draw=draw: draw.random() < 0.1).run()  # type: ignore[misc]
        if at_once == 1:
            assert found.trained == Fake(curves, at_once).run().trained
        assert max(found.trained) == EPOCHS


def test_trials_that_end_early_count_at_later_rungs() -> None:
    early = [[0.5] * 4, [0.4] * 5, [0.3] * 4, [0.2] * 4]
    found = Fake([*early, *flat(0.9, 0.1, 0.1, 0.1)], 1).run()
    assert found.trained[4] == 18  # alone at the second rung, but better than those that ended before it
    for seed in range(10):
        assert max(Fake(made_up(20, seed, ends=(1, 4, 9, 18)), 2).run().trained) > RUNGS[1]


def test_trials_without_a_score() -> None:
    found = Fake([[], *flat(0.1, 0.2, 0.3), []], 1)
    found.scheduler.on_trial_complete(found, SimpleNamespace(trial_id="t9", status="RUNNING"), {"done": True})
    assert found.scheduler.on_trial_result(found, SimpleNamespace(trial_id="t9"), {"done": True}) == "CONTINUE"
    assert found.run().trained == [0, 3, 3, 18, 0]


def test_a_trial_that_is_given_up() -> None:
    found = Fake(flat(0.9, 0.1, 0.2), 1)
    found.start_some()
    for _ in range(RUNGS[0]):
        found.step(found.trials[0])
    assert found.trials[0].status == "PAUSED"
    found.trials[0].status = "ERROR"
    assert found.run().trained == [3, 3, 18]  # at the end, the best of those that are left
    late = Fake(flat(0.9, 0.1, 0.2), 1)
    late.kill = lambda step: [setattr(one, "status", "ERROR") for one in late.trials if one.trained == 5] and False
    assert late.run().trained[0] == 5 and late.trials[0].status == "ERROR"  # the others had been stopped: it ends


def test_a_trial_that_fails_after_it_led_takes_nobody_s_place() -> None:
    found = Fake(flat(0.9, 0.5, 0.4, 0.3, 0.2, 0.1), 1)
    on_result = found.scheduler.on_trial_result

    def told(controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if trial.number == 0 and result["epoch"] == 7:
            result["failed"] = True
        return on_result(controller, trial, result)

    found.scheduler.on_trial_result = told
    assert sorted(found.run().trained[1:]) == [3, 3, 3, 3, 18] and found.trained[:2] == [7, 18]


@pytest.mark.parametrize("epochs", [1, 2, 3, 4, 7, 100])
def test_rungs(epochs: int) -> None:
    places = [rung.epoch for rung in Asha(epochs, 9).rungs]
    assert places == {1: [], 2: [1], 3: [1, 2], 4: [1, 2, 3], 7: [2, 3, 5], 100: [17, 34, 67]}[epochs]
    assert Asha(epochs, 2).rungs == []  # nobody to compare with
    validated = [rung.epoch for rung in Asha(epochs, 9, eval_step=5).rungs]
    assert validated == {7: [5], 100: [20, 35, 70]}.get(epochs, [])


def test_epochs_that_are_not_evaluated() -> None:
    scheduler = Asha(EPOCHS, 3)
    scheduler.set_search_properties("score", "max")
    trials = [SimpleNamespace(trial_id=str(number), status="RUNNING") for number in range(3)]
    for trial in trials:
        scheduler.on_trial_add(None, trial)
    told = [scheduler.on_trial_result(None, one, {"epoch": 4, "score": 0.1 * n}) for n, one in enumerate(trials)]
    assert told == ["PAUSE", "PAUSE", "CONTINUE"]
    assert scheduler.on_trial_result(None, trials[2], {"epoch": 8, "score": 0.3}) == "PAUSE"
    assert [len(rung.scores) for rung in scheduler.rungs] == [3, 1, 0]


def test_what_ray_saves_holds_no_scheduler() -> None:
    assert "scheduler" not in GivenPoints([{"x": 1}], Asha(EPOCHS, 1)).get_state()


@pytest.mark.parametrize(
    ("model", "searcher", "waits"),
    [("FastSASRec", "random", True), ("FastSASRec", "hyperopt", False), ("SASRec", "random", False)],
)
def test_trials_wait_where_they_can_go_on(model: str, searcher: str, waits: bool) -> None:
    """A model of RecBole's would train anew, and a searcher would learn of few trials before the end."""
    task = Task(model, "x", {"epochs": EPOCHS}, parse_space({"learning_rate": {"uniform": [0.1, 0.2]}}), "nowhere")
    made = make_strategy(task, Plan(5, EPOCHS, "asha", searcher, at_once=2))
    assert isinstance(made.scheduler, Asha) == isinstance(made.searcher, GivenPoints) == waits
    assert made.trials == 5


def test_progress_tells_of_who_waits_and_of_who_ended(tmp_path: Path) -> None:
    from nestrec_recbole.tune.progress import Progress

    space = parse_space({"learning_rate": {"uniform": [0.1, 0.2]}})
    task = Task("FastSASRec", "x", {"epochs": EPOCHS}, space, str(tmp_path))
    lines: list[str] = []
    progress = Progress(task, 5, lines.append)
    last = [{"epoch": 3, "score": 0.5}, {"epoch": 3, "score": 0.4}, {"epoch": 1, "score": 0.9}, {}, {}]
    trials = [
        SimpleNamespace(trial_id=str(n), status="PAUSED", config={"learning_rate": 0.1 + n / 100}, last_result=result)
        for n, result in enumerate(last)
    ]
    trials[2].last_result["failed"] = True
    early = TrialFile(task.space.flat(trials[4].config), trials[4].config, status="failed", error="loss is nan")
    early.write(task.folder_of(trials[4].config))
    for _ in range(2):
        progress.on_step_end(0, trials[:2])
    trials[0].last_result = {"epoch": 18, "score": 0.6}
    for trial in trials:
        progress.on_trial_complete(0, trials, trial)
    told = [line.partition(":")[0].partition(", about")[0] for line in lines]
    assert told == [
        "[1/5] 0.5000 after 3 epochs, waits (best 0.5000)",
        "[2/5] 0.4000 after 3 epochs, waits (best 0.5000)",
        "[2/5] 0.6000 after 18 epochs (best 0.6000)",
        "[3/5] failed",
        "[4/5] ended before its first validation",
        "[5/5] failed",
    ]
