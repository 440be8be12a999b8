"""Searching for the best settings of a model on validation data."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nestrec_recbole import settings as config_settings
from nestrec_recbole.errors import NestRecError, unknown
from nestrec_recbole.files import sha256_of, written_whole
from nestrec_recbole.plugin import tuning_space
from nestrec_recbole.train.prepare import configure, is_ours
from nestrec_recbole.tune.cluster import require_ray, running_ray
from nestrec_recbole.tune.space import Space, read_space
from nestrec_recbole.tune.trial import Task, Trial, own_arguments, shared_data

SCHEDULERS = ("asha", "median", "pbt", "none")
SEARCHERS = ("random", "optuna", "hyperopt")
FORMAT = 1


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes
    ----------
    model, dataset, metric : str
    settings : dict
        The best ones, with those that were given and ``epochs``; what ``run_recbole`` takes as ``config_dict``.
    score : float
        Of the best trial, on validation data.
    bigger : bool
        Whether a higher one is better.
    trials : list of Trial
        All that began, in the order in which they were chosen.
    space : Space
    """

    model: str
    dataset: str
    metric: str
    settings: dict[str, Any]
    score: float
    bigger: bool
    trials: list[Trial]
    space: Space

    @property
    def epochs(self) -> int:
        """How many epochs all trials took together."""
        return sum(len(trial.scores) for trial in self.trials)


def search(
    model: str,
    dataset: str,
    settings: Mapping[str, Any] | None = None,
    space: Space | str | Path | None = None,
    *,
    trials: int,
    epochs: int | None = None,
    scheduler: str = "asha",
    searcher: str = "random",
    seed: int = 2020,
    folder: str | Path,
    resume: bool = False,
    cpus: float = 1.0,
    gpus: float = 0.0,
    at_once: int | None = None,
    hours: float | None = None,
    address: str | None = None,
    say: Callable[[str], None] = print,
) -> Found:
    """Search for the settings with the best validation score; test data is not among what trials are given.

    Parameters
    ----------
    model, dataset : str
        As for ``run_recbole``.
    settings : mapping, optional
        Of every trial.
    space : Space or path, optional
        What is searched; by default ``properties/tune/<model>.yaml``.
    trials, epochs : int
        The budget: how many trials, and how long each trains at most (by default as the config says).
    scheduler : str
        ``asha`` stops trials that fall behind, ``median`` those below the median, ``none`` none; under ``pbt`` those
        behind copy the best ones and change on the way.
    searcher : str
        ``random``, ``optuna`` or ``hyperopt``.
    seed : int
        Of the points that are tried; that of training is a setting.
    folder : path
        Of the search: ``search.json`` and a folder per trial. On a cluster, all machines must see it.
    resume : bool
        Go on with the search that lies there, if one does.
    cpus, gpus : float
        Of a trial; parts of one are possible. What is there is shared out.
    at_once : int, optional
        Trials at the same time, at most.
    hours : float, optional
        No trial goes on after so long.
    address : str, optional
        Of a Ray cluster; by default one is started on this machine.
    say : callable
        Takes a line about each trial that has ended.

    Raises
    ------
    NestRecError
        When Ray is missing, a setting of the space is unknown or ill-typed, the folder holds another search, a trial
        asks for more than there is, or no trial could be trained.
    """
    require_ray()
    _check_plan(trials, epochs, scheduler, searcher, cpus, gpus, at_once)
    given = {**(settings or {}), **({} if epochs is None else {"epochs": epochs})}
    config = _config(model, dataset, given)
    config_settings.check_metrics(config)
    if scheduler == "pbt" and not is_ours(model):
        raise NestRecError(f"--scheduler pbt copies checkpoints; of {model}, a model of RecBole's, none can go on")
    space = space if isinstance(space, Space) else read_space(space if space is not None else tuning_space(model))
    space = space.checked(config.internal_config_dict)
    place = Path(folder).resolve()
    about: dict[str, Any] = {"model": model, "dataset": dataset, "settings": {**given, "epochs": config["epochs"]}}
    about |= {"metric": config["valid_metric"], "scheduler": scheduler, "searcher": searcher, "seed": seed}
    about |= {"space": [asdict(one) for one in space.dimensions], "data": _data(config)}
    _open_folder(place, about, resume)
    task = Task(
        model,
        dataset,
        {**given, "epochs": config["epochs"]},
        space,
        str(place / "trials"),
        bool(config["valid_metric_bigger"]),
        population=scheduler == "pbt",
        threads=max(1, int(cpus)),
    )
    with running_ray(address, cpus, gpus):
        from nestrec_recbole.tune.plan import Plan, run_trials

        plan = Plan(trials, config["epochs"], scheduler, searcher, seed, cpus, gpus, at_once, hours)
        places = run_trials(task, plan, shared_data(task, config), say)
    ran = [trial for trial in map(Trial.read, places) if trial]
    for checkpoint in (
        Path(task.folder).rglob("*.safetensors") if hours is None else ()
    ):  # else there may be more time later
        checkpoint.unlink()
    return _best(task, config["valid_metric"], ran)


def _check_plan(
    trials: int, epochs: int | None, scheduler: str, searcher: str, cpus: float, gpus: float, at_once: int | None
) -> None:
    if scheduler not in SCHEDULERS:
        raise NestRecError(unknown("scheduler", scheduler, SCHEDULERS))
    if searcher not in SEARCHERS:
        raise NestRecError(unknown("searcher", searcher, SEARCHERS))
    for name, value in {"trials": trials, "epochs": epochs, "at_once": at_once}.items():
        if value is not None and value < 1:
            raise NestRecError(f"{name} is {value}; expected a whole number from 1")
    if cpus <= 0 or gpus < 0:
        raise NestRecError(f"a trial asks for {cpus:g} CPUs and {gpus:g} GPUs; expected CPUs above 0, GPUs from 0")
    if scheduler == "pbt" and searcher != "random":
        raise NestRecError(f"--scheduler pbt chooses its own points; leave --search {searcher} out")


def _config(model: str, dataset: str, settings: dict[str, Any]) -> Any:
    """The config of the search; RecBole takes the choice of GPUs into the environment, where Ray looks for them."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    quiet = {"state": "ERROR", "show_progress": False}
    try:
        with own_arguments():
            return configure(model, dataset, {**settings, **quiet})
    finally:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def _data(config: Any) -> dict[str, str]:
    """What the interactions are, by their hashes."""
    files = sorted(Path(config["data_path"]).glob(f"{config['dataset']}*.inter"))
    return {path.name: sha256_of(path) for path in files}


def _open_folder(folder: Path, about: dict[str, Any], resume: bool) -> None:
    """Claim a folder for a search, or find that it is this one's."""
    path = folder / "search.json"
    about = json.loads(json.dumps({"format": FORMAT, **about}, default=str))
    if path.is_file():
        if not resume:
            raise NestRecError(
                f"{folder} holds a search already; --resume goes on with it, --folder names another place"
            )
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
            differs = [key for key in about if there.get(key) != about[key]]
        except (ValueError, AttributeError):
            raise NestRecError(f"{path}: not written by this program; name another --folder") from None
        if differs:
            how = _difference(there.get(differs[0]), about[differs[0]])
            raise NestRecError(f"{folder} holds another search: its {differs[0]} differs ({how})")
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise NestRecError(f"{folder} is not empty and holds no search; name another --folder")
    with written_whole(path) as draft:
        draft.write_text(json.dumps(about, indent=1) + "\n")


def _difference(there: Any, now: Any) -> str:
    if isinstance(there, dict) and isinstance(now, dict):
        key = next(key for key in {**there, **now} if there.get(key) != now.get(key))
        return f"{key}: {there.get(key)!r} there, {now.get(key)!r} now"
    if isinstance(there, list):
        return "see its search.json"
    return f"{there!r} there, {now!r} now"


def _best(task: Task, metric: str, trials: list[Trial]) -> Found:
    scored = [trial for trial in trials if trial.scores]
    if not scored:
        why = next((trial.error for trial in trials if trial.error), "none came to the end of its first epoch")
        raise NestRecError(f"no trial could be trained: {why}")
    best = (max if task.bigger else min)(scored, key=lambda trial: trial.best(task.bigger))
    settings = task.merged(best.point)
    return Found(task.model, task.dataset, metric, settings, best.best(task.bigger), task.bigger, trials, task.space)
