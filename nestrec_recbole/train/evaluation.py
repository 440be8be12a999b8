"""How every trainer here evaluates: the whole catalogue, exactly, both protocols."""

from __future__ import annotations

from collections import OrderedDict
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.utils import calculate_valid_score

from nestrec_recbole.data.dataset import SequenceDataset
from nestrec_recbole.data.loader import WholeSplit
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.evaluate.metrics import RANK_METRICS, evaluate_ranks, recbole_metrics
from nestrec_recbole.evaluate.ranking import Ranks, rank_targets, write_ranks
from nestrec_recbole.evaluate.saved import ranks_beside
from nestrec_recbole.processes import Processes
from nestrec_recbole.settings.values import plain
from nestrec_recbole.train.checkpoint import load_weights, read_checkpoint
from nestrec_recbole.train.curves import plot_curves


class ExactEvaluation:
    """Mixin for RecBole's trainers: the whole catalogue is ranked, exactly and under both protocols.

    Attributes
    ----------
    ranks : Ranks or None
        Of the split that was evaluated last.
    ranks_file : Path or None
        Where :meth:`evaluate` writes them; None: beside the checkpoint.
    train_data : object or None
        Its ``dataset`` is the training split; needed by metrics that look at more than ranks.
    """

    ranks: Ranks | None = None
    ranks_file: Path | None = None
    train_data: Any = None
    config: Any
    model: Any
    device: torch.device
    saved_model_file: str
    history: list[dict[str, float]]
    valid_metric: str
    logger: Any
    wandblogger: Any

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> tuple[float, dict[str, float]]:
        result = self._evaluate(valid_data, show_progress)
        if self.valid_metric.lower() not in result:
            raise NestRecError(
                f"valid_metric {self.valid_metric!r} is not computed: it is of lists under _f, or no validation row is "
                f"in its group; computed are {', '.join(result)}"
            )
        return calculate_valid_score(result, self.valid_metric), self._rounded(result)

    def draw_curves(self) -> None:
        """Draw the history beside the checkpoint, where ``plot_curves`` says so."""
        if self.config["plot_curves"] and self.history:
            picture = Path(self.saved_model_file).with_suffix(".png")
            try:
                plot_curves({self.config["model"]: self.history}, picture)
            except OSError as error:  # what has been trained is worth more
                getLogger().warning("%s: cannot be written (%s)", picture, error)

    def _write_ranks(self, dataset: SequenceDataset) -> None:
        """Write the ranks of a split, where ``save_ranks`` says so."""
        if not self.config["save_ranks"] or self.ranks is None or not Processes.current().is_first:
            return
        file = self.ranks_file or ranks_beside(self.saved_model_file)
        try:
            write_ranks(self.ranks, dataset, file)
        except OSError as error:
            getLogger().warning("%s: cannot be written (%s)", file, error)
        else:
            self.logger.info("the ranks of every target are in %s", file)

    @torch.no_grad()
    def evaluate(
        self, eval_data: Any, load_best_model: bool = True, model_file: str | None = None, show_progress: bool = False
    ) -> OrderedDict[str, float] | None:
        """Evaluate as RecBole's ``Trainer.evaluate``; full ranking is exact and carries both protocols.

        The ranks of every row are kept in ``self.ranks``. Of the best weights of this run they are written too, see
        ``save_ranks``.

        Parameters
        ----------
        eval_data : recbole.data.dataloader.AbstractDataLoader
            Validation or test data.
        load_best_model : bool
            Evaluate the weights of a checkpoint, which the model keeps.
        model_file : str, optional
            That checkpoint; the best of this run by default.
        show_progress : bool
            Draw a bar of the rows.

        Returns
        -------
        dict of str to float, or None
            Metric to value, such as ``ndcg@10`` and ``ndcg@10_f``; None where there are no rows.

        Raises
        ------
        NestRecError
            When a score is NaN, a checkpoint does not fit, or a metric needs training data that is not there.
        """
        if not eval_data or not len(eval_data.dataset):
            return None
        if load_best_model:
            path = model_file or self.saved_model_file
            load_weights(self.model, *read_checkpoint(path), path, self.config)
            self.logger.info("evaluating the weights of %s", path)
        rounded = self._rounded(self._evaluate(eval_data, show_progress))
        if isinstance(eval_data, (FullSortEvalDataLoader, WholeSplit)):
            if load_best_model and model_file is None:
                self._write_ranks(eval_data.dataset)
            self.wandblogger.log_eval_metrics(rounded, head="eval")
        elif self.config["save_ranks"] and load_best_model:
            why = "eval_args.mode draws candidates as RecBole does, whose ranks are not kept: runs cannot be compared"
            getLogger().warning("%s user by user; with mode: full and `candidates: 100` they can", why)
        return rounded

    def _rounded(self, result: dict[str, float]) -> OrderedDict[str, float]:
        """For people. What an epoch is chosen by is not rounded: small differences count, and equal scores go on."""
        places = self.config["metric_decimal_place"]
        return OrderedDict((name, round(value, places)) for name, value in result.items())

    @torch.no_grad()
    def _evaluate(self, eval_data: Any, show_progress: bool) -> dict[str, float]:
        """As :meth:`evaluate`, of the weights as they are."""
        if not isinstance(eval_data, (FullSortEvalDataLoader, WholeSplit)):
            theirs: Any = super()
            found: dict[str, float] = theirs.evaluate(eval_data, load_best_model=False, show_progress=show_progress)
            return found
        self.model.eval()
        dataset: SequenceDataset = eval_data.dataset
        topk, wanted = self.config["topk"], [metric.lower() for metric in self.config["metrics"]]
        needs_lists = not set(wanted) <= set(RANK_METRICS)
        self.ranks = rank_targets(
            self.model.full_sort_predict,
            dataset,
            k=max(topk) if needs_lists else 0,
            batch_size=self.config["eval_batch_size"],
            device=self.device,
            show_progress=show_progress,
        )
        result = evaluate_ranks(self.ranks, [metric for metric in wanted if metric in RANK_METRICS], topk)
        if needs_lists and self.train_data is None:
            raise NestRecError(
                f"metrics {', '.join(self.config['metrics'])} need the training data; set trainer.train_data"
            )
        if needs_lists:
            result |= recbole_metrics(self.ranks, self.config, self.train_data)
        result |= getattr(self.model, "report", dict)()
        return result


def about_run(trainer: Any, epoch: int) -> dict[str, Any]:
    """What a checkpoint says of the run it is of, beside its tensors."""
    return {
        "config": plain(trainer.config),
        "model": trainer.config["model"],
        "dataset": trainer.config["dataset"],
        "numbering": getattr(trainer.model, "numbering", None),
        "epoch": epoch,
        "cur_step": trainer.cur_step,
        "best_valid_score": trainer.best_valid_score,
        "best_valid_result": trainer.best_valid_result,
        "history": trainer.history,
    }
