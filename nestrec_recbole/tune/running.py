"""Ray Tune's side of a search: how points are chosen, which trials go on, and what runs them."""

from __future__ import annotations

import importlib.util
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search.basic_variant import BasicVariantGenerator

from nestrec_recbole.compat_tuning import ray_session
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.train.prepare import is_ours
from nestrec_recbole.tune.asha import REDUCTION_FACTOR, Asha, GivenPoints
from nestrec_recbole.tune.budget import Plan
from nestrec_recbole.tune.progress import Progress
from nestrec_recbole.tune.space import Dimension, Point, Space
from nestrec_recbole.tune.trial import MEMBER, Task, Trial, objective

MAX_FAILURES = 2  # a trial whose process dies goes on in a new one so many times


@dataclass(frozen=True)
class Strategy:
    """What Ray Tune chooses points and stops trials by.

    Attributes
    ----------
    searcher : object
    scheduler : TrialScheduler
    trials : int
        How many there will be: fewer than planned where the space has no more points.
    """

    searcher: Any
    scheduler: TrialScheduler
    trials: int


def make_strategy(task: Task, plan: Plan) -> Strategy:
    """Make a plan's strategy; nothing is written yet.

    Raises
    ------
    NestRecError
        When the searcher's package is missing, or the space has nothing for the scheduler to change.
    """
    points = starting_points(task, plan) if plan.searcher == "random" else []
    if plan.scheduler == "asha" and points and is_ours(task.model):
        asha = Asha(task.epochs, len(points), plan.at_once, task.settings.get("eval_step") or 1)
        return Strategy(GivenPoints(points, asha), asha, len(points))
    return Strategy(_searcher(plan, points), _scheduler(task, plan), len(points) or plan.trials)


def run_trials(task: Task, plan: Plan, strategy: Strategy, data: Any, say: Callable[[str], None]) -> list[Path]:
    """Run the trials of a search, or what is left of them.

    Returns
    -------
    list of Path
        The folders of the trials, in the order in which they were chosen.

    Raises
    ------
    NestRecError
        When Ray Tune itself fails.
    """
    scratch = Path(task.folder) / "ray"  # its own notes; ours are in trial.json, which nothing in it can execute
    shutil.rmtree(scratch, ignore_errors=True)
    progress = Progress(task, strategy.trials, say)
    try:
        results = _tuner(task, plan, strategy, data, progress, scratch).fit()
    except tune.TuneError as error:  # a traceback, what is wrong in its last line
        raise NestRecError(f"Ray Tune failed: {str(error).strip().splitlines()[-1]}; --resume goes on") from None
    ended = [results[number] for number in range(len(results))]
    errors = {result.path: result.error for result in ended if result.error is not None}
    folders = []
    for number, trial in enumerate(progress.trials):  # of one that never reported, a result does not say what it was
        point = trial.config | ({MEMBER: number} if task.population else {})
        folders.append(task.folder_of(point))
        if trial.path in errors:
            _note_error(task, point, errors[trial.path])
    shutil.rmtree(scratch, ignore_errors=True)
    return list(dict.fromkeys(folders))


def _tuner(task: Task, plan: Plan, strategy: Strategy, data: Any, progress: Progress, scratch: Path) -> tune.Tuner:
    trainable = tune.with_resources(
        tune.with_parameters(objective, task=task, data=data), {"CPU": plan.cpus, "GPU": plan.gpus}
    )
    session = ray_session()
    member = {MEMBER: tune.randint(0, strategy.trials)} if task.population else {}
    return tune.Tuner(
        trainable,
        param_space=domains(task.space) | member,
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max" if task.bigger else "min",
            search_alg=strategy.searcher,
            scheduler=strategy.scheduler,
            num_samples=strategy.trials,
            max_concurrent_trials=plan.at_once if plan.searcher != "random" else None,
            time_budget_s=plan.hours * 3600 if plan.hours else None,
            reuse_actors=True,
        ),
        run_config=session.RunConfig(
            name=scratch.name,
            storage_path=str(scratch.parent.resolve()),
            failure_config=session.FailureConfig(max_failures=MAX_FAILURES),
            # More than one: a copy may be taken of a checkpoint while the next is being written.
            checkpoint_config=session.CheckpointConfig(num_to_keep=4),
            callbacks=[progress],
            verbose=0,
        ),
    )


def starting_points(task: Task, plan: Plan) -> list[Point]:
    """The points of a random search, or of a population: where each member is now, if there is one already."""
    points = task.space.draw(plan.trials, plan.seed)
    if not task.population:
        return points
    members = [{**point, MEMBER: number} for number, point in enumerate(points)]
    known = [Trial.read(task.folder_of(point)) for point in members]
    return [trial.point if trial else point for trial, point in zip(known, members, strict=True)]


def domains(space: Space) -> dict[str, Any]:
    """A space as Ray's: choices by number, and every setting, with a meaning or without."""
    return {one.name: _domain(one) for one in space.dimensions}


def _domain(one: Dimension) -> Any:
    if one.kind == "choice":
        return tune.choice(list(range(len(one.values))))
    kind = {"uniform": tune.uniform, "loguniform": tune.loguniform, "quniform": tune.uniform}[one.kind]
    return kind(*one.values[:2])


def _searcher(plan: Plan, points: list[Point]) -> Any:
    if plan.searcher == "random":
        return BasicVariantGenerator(points_to_evaluate=points, max_concurrent=plan.at_once or 0)
    if importlib.util.find_spec(plan.searcher) is None:
        raise NestRecError(f"--search {plan.searcher} needs a package: pip install {plan.searcher}; or --search random")
    if plan.searcher == "optuna":
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        return OptunaSearch(seed=plan.seed)
    from ray.tune.search.hyperopt import HyperOptSearch

    return HyperOptSearch(random_state_seed=plan.seed)


def _scheduler(task: Task, plan: Plan) -> TrialScheduler:
    grace = math.ceil(task.epochs / 6)
    if plan.scheduler == "asha":  # a searcher learns from trials that have ended; a model of RecBole's cannot go on
        most = max(task.epochs, 2)
        return AsyncHyperBandScheduler("epoch", max_t=most, grace_period=grace, reduction_factor=REDUCTION_FACTOR)
    if plan.scheduler == "median":
        return MedianStoppingRule("epoch", grace_period=grace, min_samples_required=3)
    if plan.scheduler == "none":
        return FIFOScheduler()
    changing = [one for one in task.space.dimensions if one.kind != "choice" and not one.whole]
    if not changing:
        raise NestRecError("--scheduler pbt changes numbers that are no whole ones on the way; the space has none")
    return PopulationBasedTraining(
        "epoch",
        perturbation_interval=max(1, math.ceil(task.epochs / 10)),
        hyperparam_mutations={one.name: _domain(one) for one in changing},
        log_config=False,
    )


def _note_error(task: Task, point: Point, error: Exception) -> None:
    """Say in ``trial.json`` what Ray says of a trial that it gave up."""
    folder = task.folder_of(point)
    trial = Trial.read(folder) or Trial(task.space.flat(point), point)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    trial.status, trial.error = "failed", lines[-1] if lines else type(error).__name__
    trial.write(folder)
