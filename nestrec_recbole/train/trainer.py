"""RecBole's Trainer interface over batches by length, exact evaluation and checkpoints that can be trusted."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.trainer import Trainer
from recbole.utils import dict2str, early_stopping
from torch import Tensor

from nestrec_recbole.bars import progress_bar
from nestrec_recbole.data.features import feature_folder
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.fingerprints import data_files
from nestrec_recbole.layers.precision import autocast
from nestrec_recbole.processes import Processes
from nestrec_recbole.train.average import WeightAverage
from nestrec_recbole.train.causality import refuse_looking_ahead
from nestrec_recbole.train.checkpoint import (
    load_weights,
    model_tensors,
    new_name,
    read_checkpoint,
    write_checkpoint,
)
from nestrec_recbole.train.evaluation import ExactEvaluation, about_run
from nestrec_recbole.train.optimisation import RateFactor, build_optimizer
from nestrec_recbole.train.state import Position, capture, is_whole, restore
from nestrec_recbole.train.warmstart import Start, take_weights


class SequenceTrainer(ExactEvaluation, Trainer):
    """Trains and evaluates the models of this package; RecBole finds it as ``<Model>Trainer``.

    ``fit``, ``evaluate`` and ``resume_checkpoint`` keep RecBole's signatures and return values. Metrics carry both
    protocols: ``ndcg@10`` ranks seen items too (U, RecBole's default), ``ndcg@10_f`` leaves them out (F).

    Two files are kept per run: the best weights (``saved_model_file``) and, beside it, ``...-last`` with everything
    that resuming needs: weights, optimiser, schedule, random state, epoch and step. ``plot_curves`` adds a picture.

    Attributes
    ----------
    history : list of dict
        Of every epoch ``epoch, train_loss, train_seconds`` and, where it was validated, ``valid_score, valid_seconds``
        and each metric of the validation data as ``valid_<metric>``.
    """

    best_valid_score: float
    best_valid_result: dict[str, float] | None
    cur_step: int

    def __init__(self, config: Any, model: Any) -> None:
        super().__init__(config, model)
        self.processes = Processes.current()
        if self.processes.size > 1:  # dropout and negatives are drawn anew in each
            torch.manual_seed(config["seed"] + self.processes.rank)
        self.saved_model_file = self.processes.gather(new_name(config))[0]  # one name for all
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config["precision"] == "fp16")
        self.rate_factor = RateFactor(config)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self.rate_factor)
        self.n_steps = 0
        self.start = Start()
        if config["init_from"]:
            self.start = take_weights(model, config["init_from"], config)
            self.logger.info("%d tensors start from %s", len(self.start.names), self.start.path)
        self.processes.share(model.parameters())
        self.average = WeightAverage(model, config["ema_decay"]) if config["ema_decay"] else None
        if config["compile"]:
            for name in model.compiled:
                setattr(model, name, torch.compile(getattr(model, name), dynamic=True))
        self.first_batch = 0
        self.finished = False  # what was resumed had stopped early
        self.loss_so_far = (0.0, 0)  # sum over the targets of an epoch that is resumed, and their number
        self.history: list[dict[str, float]] = []

    # -- optimisation -------------------------------------------------------------------------------------------

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        return build_optimizer(self.model, self.config)

    def _train_epoch(
        self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False
    ) -> float:
        """One pass over every target; returns the mean loss per target position."""
        self.model.train()
        train_data.set_epoch(epoch_idx, self.first_batch)
        total, n_targets = torch.tensor(self.loss_so_far[0], device=self.device), self.loss_so_far[1]
        n_batches = len(train_data)  # not the same in every epoch: the cuts are drawn anew
        show_progress = show_progress and self.processes.is_first
        name = f"Train {epoch_idx:>4}"
        bar = progress_bar(train_data, total=n_batches, initial=self.first_batch, desc=name, shown=show_progress)
        accumulate = int(self.config["accumulation_steps"])
        save_every, due = int(self.config["checkpoint_steps"] or 0), False
        for place, batch in enumerate(bar, start=self.first_batch):
            own, of_all = train_data.n_targets(place)
            batch = _moved(batch, self.device)
            with autocast(self.config["precision"], self.device):
                loss = self.model.calculate_loss(batch)
            self._check_finite(loss, epoch_idx, place)
            due = due or bool(save_every and (place + 1) % save_every == 0)
            together = min(accumulate, n_batches - place // accumulate * accumulate)  # fewer at an epoch's end
            weight = own * self.processes.size / of_all if of_all else 1.0
            self.scaler.scale(loss * (weight / together)).backward()
            total, n_targets = total + loss.detach() * own, n_targets + own
            if (place + 1) % accumulate == 0 or place + 1 == n_batches:
                self._step()
                if due and place + 1 < n_batches:
                    self._check_finite(total, epoch_idx, place, at_once=True)
                    self._save_last(Position(epoch_idx, place + 1, (float(total), n_targets)))
                    due = False
            if place % 20 == 0 and show_progress:
                mean, rate = float(total) / max(n_targets, 1), n_targets / max(1e-9, bar.format_dict["elapsed"])
                bar.set_postfix_str(f"loss {mean:.3f}, {rate:,.0f} targets/s", refresh=False)
        self.first_batch, self.loss_so_far = 0, (0.0, 0)
        both = self.processes.sum(torch.stack([total.double(), torch.tensor(n_targets, device=self.device)]))
        self._check_finite(both[0], epoch_idx, n_batches - 1, at_once=True)  # before anything is saved of this epoch
        return float(both[0] / both[1].clamp(min=1))

    def _step(self) -> None:
        self.processes.average_gradients(self.model.parameters())
        self.scaler.unscale_(self.optimizer)
        if self.clip_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), **self.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        self.n_steps += 1

    def _check_finite(self, loss: Tensor, epoch: int, place: int, at_once: bool = False) -> None:
        """Stop on a loss that is no number; on a GPU, where that waits for it, every 50th step or ``at_once``."""
        if self.device.type != "cpu" and place % 50 and not at_once:
            return
        if not torch.isfinite(loss):
            raise NestRecError(
                f"the training loss is {float(loss.detach())} at epoch {epoch}, batch {place} (step {self.n_steps}); "
                "start again with a lower learning_rate, clip_grad_norm: {max_norm: 1.0} or precision: fp32. What was "
                "written before is left as it was"
            )

    # -- fit ----------------------------------------------------------------------------------------------------

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Callable[[int, float], None] | None = None,
    ) -> tuple[float, dict[str, float] | None]:
        """Train until ``epochs`` or early stopping on ``valid_metric``; as RecBole's ``Trainer.fit``.

        Returns
        -------
        best_valid_score : float
        best_valid_result : dict or None
        """
        self.start.refuse_what_is_held_out(train_data.dataset)
        refuse_looking_ahead(self.model, train_data.dataset)
        self.train_data = train_data
        self.rate_factor.steps_per_epoch = -(-len(train_data) // int(self.config["accumulation_steps"]))
        self.eval_collector.data_collect(train_data)
        if self.model.counted_items is not None:
            train_data.count_only(self.model.counted_items.cpu().numpy())
        if self.finished:
            return self.best_valid_score, self.best_valid_result
        self.model.keep_fixed(feature_folder(self.config).with_name("tokens"))
        for epoch in range(self.start_epoch, self.epochs):
            began = perf_counter()
            loss = self._train_epoch(train_data, epoch, show_progress=show_progress)
            self.train_loss_dict[epoch] = loss
            record = {"epoch": epoch, "train_loss": loss, "train_seconds": perf_counter() - began}
            if verbose:
                self.logger.info(self._generate_train_loss_output(epoch, began, perf_counter(), loss))
            self._add_train_loss_to_tensorboard(epoch, loss)
            self.wandblogger.log_metrics({"epoch": epoch, "train_loss": loss, "train_step": epoch}, head="train")
            stop = False
            with self.average.applied() if self.average is not None else nullcontext():
                if valid_data and self.eval_step > 0 and (epoch + 1) % self.eval_step == 0:
                    stop = self._validate(valid_data, epoch, record, verbose, saved, show_progress)
                elif saved and (not valid_data or self.eval_step <= 0):
                    self._save_checkpoint(epoch, verbose=verbose)
            self.history.append(record)
            if saved and (self.config["checkpoint_last"] or self.config["checkpoint_steps"]):
                self._save_last(Position(epoch + 1, finished=stop))
            if callback_fn and "valid_score" in record:  # last: what it is told of can be resumed
                callback_fn(epoch, record["valid_score"])
            if stop:
                break
        self._finish(saved)
        return (self.best_valid_score, self.best_valid_result) if valid_data else (-1, None)

    def _finish(self, saved: bool) -> None:
        """Draw the history beside the checkpoint; without one, leave the averaged weights in the model."""
        if self.average is not None and not saved:
            self.average.keep()
        if saved and self.processes.is_first:
            self.draw_curves()

    def _validate(
        self,
        valid_data: Any,
        epoch: int,
        record: dict[str, float],
        verbose: bool,
        saved: bool,
        show_progress: bool,
    ) -> bool:
        """Evaluate on validation data, keep the best weights, and say whether to stop."""
        began = perf_counter()
        score, result = self._valid_epoch(valid_data, show_progress=show_progress)
        record |= {"valid_score": score, "valid_seconds": perf_counter() - began}
        record |= {f"valid_{name}": value for name, value in result.items()}
        self.best_valid_score, self.cur_step, stop, better = early_stopping(
            score, self.best_valid_score, self.cur_step, max_step=self.stopping_step, bigger=self.valid_metric_bigger
        )
        self.rate_factor.note_validations_without_gain(self.cur_step)
        if verbose:
            self.logger.info("epoch %d validation: %s", epoch, dict2str(result))
        self.tensorboard.add_scalar("Valid_score", score, epoch)
        self.wandblogger.log_metrics({**result, "valid_step": epoch}, head="valid")
        if better:
            self.best_valid_result = result
            if saved:
                self._save_checkpoint(epoch, verbose=verbose)
        return stop

    # -- checkpoints --------------------------------------------------------------------------------------------

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """Keep the best weights."""
        path = kwargs.get("saved_model_file", self.saved_model_file)
        if self.processes.is_first:
            about = about_run(self, epoch) | {"first_batch": 0, "n_steps": self.n_steps}
            write_checkpoint(path, model_tensors(self.model) | self._trained_on, about)
            self.model.export(Path(path))
        self.processes.wait()

    def _save_last(self, position: Position) -> None:
        """Keep everything needed to go on from there."""
        if self.processes.is_first:
            tensors, about = capture(self, position)
            about = about_run(self, position.epoch) | about | {"data": self._data}
            tensors |= model_tensors(self.model) | self._trained_on
            write_checkpoint(last_checkpoint(self.saved_model_file), tensors, about)

    @cached_property
    def _trained_on(self) -> dict[str, Tensor]:
        """The interactions that these weights know, so that no training that starts from them is tested on one."""
        return self.start.and_these(self.train_data.dataset)

    @cached_property
    def _data(self) -> dict[str, str]:
        """What the data files are, by name."""
        return data_files(self.config)

    def resume_checkpoint(self, resume_file: str | os.PathLike[str]) -> None:
        """Go on where a ``...-last.safetensors`` checkpoint left off, as if never stopped: exactly, in one process.

        Raises
        ------
        NestRecError
            When the file is damaged, holds best weights only, or belongs to another model or dataset, or to this one as
            it was before its files were changed: what was held out may train now.
        """
        tensors, about = read_checkpoint(resume_file)
        for key in ("model", "dataset"):
            if about[key] != self.config[key]:
                raise NestRecError(f"{resume_file}: {key} is {about[key]!r}, the config says {self.config[key]!r}")
        if not is_whole(about):
            raise NestRecError(f"{resume_file}: holds weights only; resume from {last_checkpoint(resume_file)}")
        before = about.get("data", self._data)
        changed = sorted(name for name in before.keys() | self._data.keys() if before.get(name) != self._data.get(name))
        if changed:
            raise NestRecError(f"{resume_file}: {changed[0]} has changed since this training began; start it anew")
        load_weights(self.model, tensors, about, resume_file, self.config)
        restore(self, tensors, about)
        last = Path(resume_file)
        self.saved_model_file = str(last.with_name(last.name.replace("-last.", ".")))


def _moved(batch: Interaction, device: torch.device) -> Interaction:
    """Move a batch; from pinned memory to a GPU, without waiting for it."""
    return Interaction({name: column.to(device, non_blocking=True) for name, column in batch.interaction.items()})


def last_checkpoint(best: str | os.PathLike[str]) -> str:
    """The resumable checkpoint that lies beside the best weights of a run."""
    path = Path(best)
    return str(path.with_name(path.stem + "-last" + path.suffix))
