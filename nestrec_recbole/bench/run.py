"""One run: a model trained and evaluated through RecBole's own pipeline, with what a table needs to know of it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from nestrec_recbole.data.dataset import SequenceDataset
from nestrec_recbole.evaluate.metrics import coverage, evaluate_ranks
from nestrec_recbole.evaluate.ranking import Ranks, rank_targets, write_ranks
from nestrec_recbole.files import written_whole
from nestrec_recbole.train.checkpoint import load_weights, read_checkpoint
from nestrec_recbole.train.prepare import configure, prepare

METRICS, TOPK = ("ndcg", "recall", "mrr"), (10,)


@dataclass
class Run:
    """What came of one model: test metrics, both protocols, and the curve of its training."""

    model: str
    seed: int
    metrics: dict[str, float]
    seconds: float
    history: list[dict[str, float]] = field(default_factory=list)
    checkpoint: str | None = None


def train(model: str, dataset: str, settings: dict[str, Any], checkpoint: Path | None = None) -> tuple[Run, Any, Any]:
    """Train any model, choose the epoch on validation data, and evaluate the test data once.

    With a ``checkpoint`` path, the weights are moved there and every user's ranks are written beside, as ``.parquet``.

    Returns
    -------
    run : Run
    trained : SequenceModel, or a model of RecBole's
        With its best weights.
    test : SequenceDataset
        The test split.
    """
    config = configure(model, dataset, settings)
    trainer, (train_data, valid_data, test_data) = prepare(config)
    began = perf_counter()
    trainer.fit(train_data, valid_data, verbose=False, show_progress=config["show_progress"])
    seconds = perf_counter() - began
    trained, test = trainer.model, test_data.dataset
    load_weights(trained, read_checkpoint(trainer.saved_model_file)[0], trainer.saved_model_file)
    ranks = rank_targets(trained.eval().full_sort_predict, test, k=max(TOPK), device=trainer.device)
    if checkpoint is not None:
        write_ranks(ranks, test, checkpoint.with_suffix(".parquet"))
        with written_whole(checkpoint) as draft:
            shutil.move(trainer.saved_model_file, draft)
    run = Run(model, config["seed"], test_metrics(ranks), seconds, trainer.history, str(checkpoint or ""))
    return run, trained, test


def test_metrics(ranks: Ranks) -> dict[str, float]:
    """NDCG, recall and MRR at 10 and coverage, protocols U and F."""
    values = evaluate_ranks(ranks, METRICS, TOPK)
    values["coverage@10"] = coverage(ranks.top, ranks.n_items)
    values["coverage@10_f"] = coverage(ranks.top_unseen, ranks.n_items)
    return values


def full_histories(dataset: SequenceDataset, rows: np.ndarray) -> list[list[str]]:
    """The whole histories of rows of a split, as item tokens, oldest first."""
    tokens = dataset.field2id_token[dataset.iid_field]
    return [[str(t) for t in tokens[dataset.items[dataset.starts[r] : dataset.ends[r]]]] for r in rows]
