"""One run: a model trained and evaluated through RecBole's own pipeline, with what a table needs to know of it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from nestrec_recbole.data.dataset import SequenceDataset
from nestrec_recbole.evaluate.beyond import diversity
from nestrec_recbole.evaluate.metrics import coverage, evaluate_ranks, recbole_metrics
from nestrec_recbole.evaluate.ranking import Ranks, rank_targets, write_ranks
from nestrec_recbole.evaluate.saved import ranks_beside
from nestrec_recbole.files import written_whole
from nestrec_recbole.train.checkpoint import load_weights, read_checkpoint
from nestrec_recbole.train.prepare import configure, prepare

METRICS = ("hit", "ndcg", "recall", "mrr")
LIST_METRICS = ("novelty", "serendipity", "averagepopularity", "giniindex")  # RecBole's names


@dataclass
class Run:
    """What came of one model: test metrics, both protocols, and the curve of its training."""

    model: str
    seed: int
    metrics: dict[str, float]
    seconds: float
    history: list[dict[str, float]] = field(default_factory=list)
    checkpoint: str | None = None


@dataclass
class Trained:
    """A model with the weights that validation chose, and how it ranks the test data.

    Attributes
    ----------
    trainer : SequenceTrainer
    test : SequenceDataset
        The test split.
    ranks : Ranks
    seconds : dict of str to float
        ``prepare``, ``train``, ``per_epoch`` (without validation) and ``evaluate``.
    """

    trainer: Any
    test: SequenceDataset
    ranks: Ranks
    seconds: dict[str, float]


def train_and_rank(model: str, dataset: str, settings: dict[str, Any]) -> Trained:
    """Train, choose the epoch on validation data, and rank the test data once."""
    began = perf_counter()
    config = configure(model, dataset, settings)
    trainer, (train_data, valid_data, test_data) = prepare(config)
    ready = perf_counter()
    trainer.fit(train_data, valid_data, verbose=False, show_progress=config["show_progress"])
    fitted = perf_counter()
    best = trainer.saved_model_file
    load_weights(trainer.model, *read_checkpoint(best), best, config)
    score, device = trainer.model.eval().full_sort_predict, trainer.device
    starts = perf_counter()
    ranks = rank_targets(
        score, test_data.dataset, k=max(config["topk"]), batch_size=config["eval_batch_size"], device=device
    )
    seconds = {"prepare": ready - began, "train": fitted - ready, "evaluate": perf_counter() - starts}
    epochs = [record["train_seconds"] for record in trainer.history]
    seconds["per_epoch"] = float(np.mean(epochs)) if epochs else 0.0
    return Trained(trainer, test_data.dataset, ranks, seconds)


def train(model: str, dataset: str, settings: dict[str, Any], checkpoint: Path | None = None) -> tuple[Run, Any, Any]:
    """Train any model, choose the epoch on validation data, and evaluate the test data once.

    With a ``checkpoint`` path, the weights are moved there and every user's ranks are written beside.

    Returns
    -------
    run : Run
    trained : SequenceModel, or a model of RecBole's
        With its best weights.
    test : SequenceDataset
        The test split.
    """
    done = train_and_rank(model, dataset, settings)
    trainer, seed = done.trainer, done.trainer.config["seed"]
    if checkpoint is not None:
        write_ranks(done.ranks, done.test, ranks_beside(checkpoint))
        with written_whole(checkpoint) as draft:
            shutil.move(trainer.saved_model_file, draft)
    metrics, seconds = metrics_of_ranks(done.ranks, trainer.config["topk"]), done.seconds["train"]
    return Run(model, seed, metrics, seconds, trainer.history, str(checkpoint or "")), trainer.model, done.test


def metrics_of_ranks(ranks: Ranks, topk: Sequence[int]) -> dict[str, float]:
    """``hit``, ``ndcg``, ``recall``, ``mrr`` and ``coverage`` at every k, protocols U and F: ``coverage@3_f``."""
    values = evaluate_ranks(ranks, METRICS, topk)
    for suffix, top in (("", ranks.top), ("_f", ranks.top_unseen)):
        values |= {f"coverage@{k}{suffix}": coverage(top[:, :k], ranks.n_items) for k in topk}
    return values


def all_metrics(done: Trained, content: np.ndarray | None = None) -> dict[str, float]:
    """Compute everything a table may ask for, both protocols, at every k of ``topk``.

    Parameters
    ----------
    done : Trained
    content : numpy.ndarray of shape (n_items, d), optional
        What items are, see :func:`nestrec_recbole.data.content.item_content`; without it there is no ``diversity``.

    Returns
    -------
    dict of str to float
        ``hit``, ``ndcg``, ``recall``, ``mrr``, ``coverage``, ``novelty``, ``serendipity``, ``averagepopularity``,
        ``giniindex`` and ``diversity``, as ``ndcg@10`` (U), ``ndcg@10_f`` (F) and, where targets were ranked among
        candidates too, ``ndcg@10_c``.
    """
    ranks, topk = done.ranks, done.trainer.config["topk"]
    values = metrics_of_ranks(ranks, topk)
    how = {"metrics": LIST_METRICS, "topk": topk, "metric_decimal_place": 12}
    unseen = replace(ranks, rank=ranks.rank_unseen, top=ranks.top_unseen)
    for suffix, own in (("", ranks), ("_f", unseen)):
        of_lists = recbole_metrics(own, how, done.trainer.train_data)
        if content is not None:
            at = diversity(own.top, content).mean(axis=0)
            of_lists |= {f"diversity@{k}": float(at[min(k, len(at)) - 1]) for k in topk}
        values |= {f"{name}{suffix}": value for name, value in of_lists.items()}
    return values


def full_histories(dataset: SequenceDataset, rows: np.ndarray) -> list[list[str]]:
    """The whole histories of rows of a split, as item tokens, oldest first."""
    tokens = dataset.field2id_token[dataset.iid_field]
    return [[str(t) for t in tokens[dataset.items[dataset.starts[r] : dataset.ends[r]]]] for r in rows]
