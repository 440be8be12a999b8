"""Searching for the best settings of a model on validation data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nestrec_recbole import own_models
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.files import locked, sha256_of, written_whole
from nestrec_recbole.fingerprints import base_files, data_files
from nestrec_recbole.plugin import tuning_space
from nestrec_recbole.process_state import keeping_visible_gpus, without_arguments
from nestrec_recbole.settings.checks import check_metrics
from nestrec_recbole.settings.values import merged
from nestrec_recbole.train.prepare import configure, is_ours
from nestrec_recbole.tune.budget import Plan
from nestrec_recbole.tune.cluster import require_ray, running_ray
from nestrec_recbole.tune.space import Space, read_space
from nestrec_recbole.tune.trial import Task, Trial, shared_data

FORMAT = 2  # of search.json


@dataclass(frozen=True)
class SearchResult:
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
    settings: Mapping[str, Any] | None,
    space: Space | str | Path | None,
    plan: Plan,
    *,
    folder: str | Path,
    resume: bool = False,
    address: str | None = None,
    say: Callable[[str], None] = print,
) -> SearchResult:
    """Search for the settings with the best validation score; test data is not among what trials are given.

    Parameters
    ----------
    model, dataset : str
        As for ``run_recbole``.
    settings : mapping or None
        Of every trial.
    space : Space, path or None
        What is searched; None: ``properties/tune/<model>.yaml``.
    plan : Plan
        The budget, and how it is spent.
    folder : path
        Of the search: ``search.json`` and a folder per trial. On a cluster, all machines must see it.
    resume : bool
        Go on with the search that lies there, if one does.
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
    folder = Path(folder).resolve()
    config, task = _task(model, dataset, dict(settings or {}), space, plan, folder)
    about = _about(task, plan, config)
    _check_folder(folder, about, resume)
    with running_ray(address, plan.cpus, plan.gpus):
        from nestrec_recbole.tune.running import make_strategy, run_trials

        strategy, data = make_strategy(task, plan), shared_data(task, config)
        folder.mkdir(parents=True, exist_ok=True)  # after all that can refuse
        with locked(folder / ".lock", f"{folder}: {{}} searches here; wait for it, or name another --folder"):
            _claim(folder, about)
            folders = run_trials(task, plan, strategy, data, say)
    if plan.hours is None:  # else there may be more time later
        _drop_checkpoints(task)
    return _best(task, config["valid_metric"], [trial for trial in map(Trial.read, folders) if trial])


def _task(
    model: str, dataset: str, settings: dict[str, Any], space: Space | str | Path | None, plan: Plan, folder: Path
) -> tuple[Any, Task]:
    """The config of a search, and what its trials have in common."""
    given = merged(settings, {} if plan.epochs is None else {"epochs": plan.epochs})
    with keeping_visible_gpus(), without_arguments():  # Ray looks for GPUs in the environment
        config = configure(model, dataset, {**given, "state": "ERROR", "show_progress": False})
    check_metrics(config)
    if plan.population and not is_ours(model):
        raise NestRecError(f"--scheduler pbt copies checkpoints; of {model}, a model of RecBole's, none can go on")
    space = space if isinstance(space, Space) else read_space(space if space is not None else tuning_space(model))
    names = [one.name for one in space.dimensions]
    defaults = {**config.internal_config_dict, "item_fields": config["item_fields"]}  # which is none by default
    outer = sorted({name.partition(".")[0] for name in names if "." in name} - given.keys())
    around = {name: defaults[name] for name in outer if isinstance(defaults.get(name), dict)}
    return config, Task(
        model,
        dataset,
        {**around, **given, "epochs": config["epochs"]},
        space.checked(defaults),
        str(folder / "trials"),
        bool(config["valid_metric_bigger"]),
        population=plan.population,
        threads=max(1, int(plan.cpus)),
    )


def _about(task: Task, plan: Plan, config: Any) -> dict[str, Any]:
    """What makes a search this one and no other, as ``search.json`` has it."""
    about = {
        "format": FORMAT,
        "model": task.model,
        "dataset": task.dataset,
        "settings": task.settings,
        "metric": config["valid_metric"],
        "scheduler": plan.scheduler,
        "searcher": plan.searcher,
        "seed": plan.seed,
        "space": [asdict(one) for one in task.space.dimensions],
        "data": data_files(config),
        "models": own_models.digests(),
        "llm": base_files(config["llm"]),
        "init_from": sha256_of(config["init_from"]) if config["init_from"] else None,
    }
    return json.loads(json.dumps(about, default=str))


def _check_folder(folder: Path, about: dict[str, Any], resume: bool) -> None:
    """Refuse a folder of anything else than this search; an empty one is free."""
    path = folder / "search.json"
    if not path.is_file():
        if folder.is_dir() and any(folder.glob("[!.]*")):
            raise NestRecError(f"{folder} is not empty and holds no search; name another --folder")
        return
    if not resume:
        raise NestRecError(f"{folder} holds a search already; --resume goes on with it, --folder names another place")
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        differs = [key for key in about if there.get(key) != about[key]]
    except (ValueError, AttributeError):
        raise NestRecError(f"{path}: not written by this program; name another --folder") from None
    if differs:
        how = _difference(there.get(differs[0]), about[differs[0]])
        raise NestRecError(f"{folder} holds another search: its {differs[0]} differs ({how})")


def _claim(folder: Path, about: dict[str, Any]) -> None:
    """Say in a folder whose search it holds."""
    with written_whole(folder / "search.json") as draft:
        draft.write_text(json.dumps(about, indent=1) + "\n")


def _drop_checkpoints(task: Task) -> None:
    """Remove what only resuming needs."""
    for checkpoint in Path(task.folder).rglob("*.safetensors"):
        checkpoint.unlink()


def _difference(there: Any, now: Any) -> str:
    if isinstance(there, dict) and isinstance(now, dict):
        key = next(key for key in {**there, **now} if there.get(key) != now.get(key))
        return f"{key}: {there.get(key)!r} there, {now.get(key)!r} now"
    if isinstance(there, list):
        return "see its search.json"
    return f"{there!r} there, {now!r} now"


def _best(task: Task, metric: str, trials: list[Trial]) -> SearchResult:
    scored = [trial for trial in trials if trial.scores]
    if not scored:
        why = next((trial.error for trial in trials if trial.error), "none came to the end of its first epoch")
        raise NestRecError(f"no trial could be trained: {why}")
    lasting = [trial for trial in scored if trial.status != "failed"] or scored
    best = (max if task.bigger else min)(lasting, key=lambda trial: trial.best(task.bigger))
    settings = task.merged(best.point)
    score = best.best(task.bigger)
    return SearchResult(task.model, task.dataset, metric, settings, score, task.bigger, trials, task.space)
