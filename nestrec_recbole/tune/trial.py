"""What a trial does: train at one point of a space and say after each epoch how good that is on validation data.

A trial is given data without test rows (:meth:`SequenceDataset.without_test`), so there is nothing it could look at.
Its folder holds ``trial.json``, which says how far it is, and the trainer's checkpoints, from which it goes on wherever
it was cut off: a point that was trained before, even by a search that was killed, is told again and not trained again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from nestrec_recbole.compat_tuning import ray_session
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.files import written_whole
from nestrec_recbole.memory import give_back, keep_little
from nestrec_recbole.process_state import events_in, without_arguments
from nestrec_recbole.settings.values import merged
from nestrec_recbole.train.checkpoint import read_checkpoint
from nestrec_recbole.train.optimisation import take_rates
from nestrec_recbole.train.prepare import configure, is_ours, prepare, read_data
from nestrec_recbole.train.trainer import last_checkpoint
from nestrec_recbole.tune.space import Point, Space

FAILED = "failed"  # in what is reported of a trial that had scores and then failed
MEMBER = "member"  # of a population: its number, in a point beside the settings
# Settings that are read with the data: where they are searched, every trial reads data of its own.
_READ_WITH_DATA = ("item_fields", "mask_near_duplicates")
Report = Callable[[int, float], None]


@dataclass(frozen=True)
class Task:
    """What all trials of a search have in common.

    Attributes
    ----------
    model, dataset : str
    settings : dict
        Of every trial, ``epochs`` among them; a point's go over them.
    space : Space
    folder : str
        Each trial gets a folder in it.
    bigger : bool
        Whether the higher score is the better one.
    population : bool
        Whether trials copy each other and change on the way.
    threads : int
        Of a trial.
    """

    model: str
    dataset: str
    settings: dict[str, Any]
    space: Space
    folder: str
    bigger: bool = True
    population: bool = False
    threads: int = 1

    def folder_of(self, point: Point) -> Path:
        """The folder of a point: its name comes from the settings alone, or is the number in a population."""
        if self.population:
            return Path(self.folder) / f"{MEMBER}-{point[MEMBER]}"
        text = json.dumps(self.space.flat(point), sort_keys=True, default=str)
        return Path(self.folder) / hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def epochs(self) -> int:
        """Of a trial, at most."""
        return int(self.settings["epochs"])

    def merged(self, point: Point) -> dict[str, Any]:
        """Every setting that is not a default, at a point."""
        return merged(self.settings, self.space.flat(point))


@dataclass
class Trial:
    """How far a trial is; ``trial.json``.

    Attributes
    ----------
    settings : dict
        Of the point, by their dotted names.
    point : dict
    scores : list of (int, float)
        Epoch, from 0, and validation score.
    status : str
        ``running`` (or stopped by the scheduler), ``finished`` or ``failed``.
    error : str or None
        Why it failed, in one line.
    seconds : float
        Wall-clock time of its training, in all processes that it took.
    valid : dict
        Every validation metric at the best epoch.
    """

    settings: dict[str, Any]
    point: Point
    scores: list[tuple[int, float]] = field(default_factory=list)
    status: str = "running"
    error: str | None = None
    seconds: float = 0.0
    valid: dict[str, float] = field(default_factory=dict)

    def best(self, bigger: bool, until: int | None = None) -> float:
        """The best score of the first so many."""
        return (max if bigger else min)(score for _, score in self.scores[:until])

    def best_epoch(self, bigger: bool) -> int:
        """The epoch of the best score, from 0."""
        best = self.best(bigger)
        return next(epoch for epoch, score in reversed(self.scores) if score == best)  # the last of equals was kept

    def write(self, folder: Path) -> None:
        """Write ``trial.json``, whole or not at all."""
        with written_whole(folder / "trial.json") as draft:
            draft.write_text(json.dumps(asdict(self), default=str) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Trial | None:
        """Read ``trial.json`` of a folder; None where there is none, or the machine went down while it was written.

        Raises
        ------
        NestRecError
            When the file is whole and says something else.
        """
        path = folder / "trial.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        try:
            trial = cls(**found)
            trial.scores = [(int(epoch), float(score)) for epoch, score in trial.scores]
        except (ValueError, TypeError) as error:
            raise NestRecError(
                f"{path}: not written by this program ({error}); remove its folder to train anew"
            ) from None
        return trial


def run_trial(task: Task, point: Point, data: Any, report: Report, start: Path | None = None) -> Trial:
    """Train at a point, or go on with it, reporting after each epoch.

    Parameters
    ----------
    task : Task
    point : dict
    data : SequenceDataset or None
        Without its test rows; None: the trial reads it itself, and drops them.
    report : callable
        (epoch from 0, best score so far) -> None. It may end the trial by an exception that is no error.
    start : Path, optional
        A checkpoint of another trial to go on from.

    Returns
    -------
    Trial
        ``failed`` where these settings do not work; what is no fault of theirs is raised.
    """
    folder = task.folder_of(point)
    trial = Trial.read(folder)
    if trial is None or (task.population and (start is not None or trial.status == "running")):
        trial = Trial(task.space.flat(point), point)
    if not task.population or trial.status != "running":
        for number, (epoch, _) in enumerate(trial.scores, start=1):
            report(epoch, trial.best(task.bigger, number))
        if trial.status != "running":
            return trial
    try:
        with events_in(folder):
            _train(task, trial, folder, data, report, start)
        trial.status = "finished"
    except NestRecError as error:
        trial.status, trial.error = "failed", str(error)
    trial.write(folder)
    return trial


def _train(task: Task, trial: Trial, folder: Path, data: Any, report: Report, start: Path | None) -> None:
    began = perf_counter() - trial.seconds
    trainer, train_data, valid_data = build(task, trial.point, data)
    trainer.saved_model_file = str(folder / "weights.safetensors")
    last = Path(last_checkpoint(trainer.saved_model_file))

    def note(epoch: int, score: float) -> None:
        trial.scores.append((epoch, float(score)))
        best = trial.best(task.bigger)
        if score == best:
            trial.valid = dict(trainer.best_valid_result or {})
        trial.status = "finished" if epoch + 1 >= task.epochs else "running"
        trial.seconds = perf_counter() - began
        trial.write(folder)
        give_back()
        report(epoch, best)

    if start is None and _is_whole(last):
        start = last
    if start is not None:
        own = trainer.saved_model_file
        trainer.resume_checkpoint(start)
        trainer.saved_model_file = own
        if task.population:  # whose settings are no longer those of the checkpoint
            take_rates(trainer)
        told = len(trial.scores)
        validated = [record for record in trainer.history if "valid_score" in record]
        trial.scores = [(int(record["epoch"]), record["valid_score"]) for record in validated]
        for number in range(told, 0 if task.population else len(trial.scores)):
            report(trial.scores[number][0], trial.best(task.bigger, number + 1))
    else:
        trial.scores = []
    trainer.fit(train_data, valid_data, verbose=False, show_progress=False, callback_fn=note)


def _is_whole(checkpoint: Path) -> bool:
    """Whether a trial can go on from a checkpoint: it cannot where the machine went down while it was written."""
    try:
        read_checkpoint(checkpoint)
    except NestRecError:
        return False
    return True


def build(task: Task, point: Point, data: Any) -> tuple[Any, Any, Any]:
    """The trainer of a point and its training and validation data; of test data there are no rows."""
    torch.set_num_threads(task.threads)
    keep_little()
    with without_arguments():
        config = make_config(task.model, task.dataset, task.merged(point), str(task.folder_of(point)))
        dataset = read_data(config).without_test() if data is None else data.under(config)
        trainer, (train_data, valid_data, _) = prepare(config, dataset)
    return trainer, train_data, valid_data


def make_config(model: str, dataset: str, settings: dict[str, Any], checkpoint_dir: str) -> Any:
    """The config of a trial: quiet, and keeping after each epoch what resuming needs."""
    quiet = {"state": "ERROR", "show_progress": False, "checkpoint_dir": checkpoint_dir}
    resumable = {"checkpoint_last": True} if is_ours(model) else {}
    return configure(model, dataset, {**settings, **quiet, **resumable})


def shared_data(task: Task, config: Any) -> Any:
    """The data that all trials can share, without its test rows; None where the space decides what is read.

    Interactions and item fields are numpy arrays, which Ray gives to all processes of a machine as one copy to read.
    """
    if {one.name.partition(".")[0] for one in task.space.dimensions} & set(_READ_WITH_DATA):
        return None
    data = read_data(config).without_test()
    data.keep_item_fields()
    return data


def objective(point: Point, task: Task, data: Any) -> None:
    """:func:`run_trial` inside a Ray Tune trial."""
    import ray

    session = ray_session()
    task.settings["gpu_id"] = ",".join(map(str, ray.get_gpu_ids()))  # RecBole would give each trial the first GPU
    if task.population:  # a point that was copied has the number of the member it came from
        point = {**point, MEMBER: int(session.get_context().get_trial_id().rpartition("_")[2])}
    folder = task.folder_of(point)
    last = Path(last_checkpoint(folder / "weights.safetensors"))

    def report(epoch: int, best: float) -> None:
        metrics = {"epoch": epoch + 1, "score": best}
        if not task.population or not last.is_file():  # a member of a search that was over is told again, not copied
            session.report(metrics)
            return
        copy = folder / "copy" / last.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.unlink(missing_ok=True)
        os.link(last, copy)  # the checkpoint's own name is soon another file's
        session.report(metrics, checkpoint=session.Checkpoint.from_directory(copy.parent))

    given = session.get_checkpoint() if task.population else None
    if given is None:
        trial = run_trial(task, point, data, report)
        if trial.status == "failed" and trial.scores and not task.population:
            session.report({"epoch": trial.scores[-1][0] + 1, "score": trial.best(task.bigger), FAILED: True})
        return
    with given.as_directory() as theirs:
        run_trial(task, point, data, report, Path(theirs) / last.name)
