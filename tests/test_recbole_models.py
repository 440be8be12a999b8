"""RecBole's own models train and evaluate under our repairs: every sequential one, and the usual general ones."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from ml100k_slice import write_slice
from recbole.model import sequential_recommender
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.quick_start import run_recbole

import nestrec_recbole  # noqa: F401

pytestmark = pytest.mark.recbole


def sequential_models() -> list[str]:
    """The names of the model classes in RecBole's sequential modules."""
    found = []
    for module in pkgutil.iter_modules(sequential_recommender.__path__):
        members = vars(importlib.import_module(f"{sequential_recommender.__name__}.{module.name}"))
        found += [
            name
            for name, member in members.items()
            if name.lower() == module.name and isinstance(member, type) and issubclass(member, AbstractRecommender)
        ]
    return found


SEQUENTIAL = sequential_models()
GENERAL = ["Pop", "ItemKNN", "BPR", "LightGCN", "NGCF", "NeuMF", "MultiVAE", "EASE"]
FAILS: dict[str, tuple[type[Exception], str]] = {}

SMALL = {
    "epochs": 1,
    "train_batch_size": 2048,
    "eval_batch_size": 4096,
    "MAX_ITEM_LIST_LENGTH": 10,
    "topk": [10],
    "metrics": ["Recall", "NDCG"],
    "valid_metric": "NDCG@10",
    "show_progress": False,
    "state": "ERROR",
    "embedding_size": 16,
    "hidden_size": 16,
    "inner_size": 32,
    "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class", "release_year"]},
}
SETTINGS: dict[str, dict[str, Any]] = {}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_slice(folder, n_users=80, longest=20)
    return folder


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole sleeps for a second to report the processor's load at the end of a run."""
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval=None: 0.0)


def run(model: str, data: Path, **settings: Any) -> dict[str, float]:
    negatives = {} if model not in SEQUENTIAL else {"train_neg_sample_args": None}
    settings = {**SMALL, **negatives, "data_path": str(data), **SETTINGS.get(model, {}), **settings}
    return run_recbole(model=model, dataset="slice", config_dict=settings, saved=False)["test_result"]


@pytest.mark.parametrize("model", [name for name in SEQUENTIAL + GENERAL if name not in FAILS])
def test_model_trains_and_evaluates(model: str, data: Path) -> None:
    result = run(model, data)
    assert sorted(result) == ["ndcg@10", "recall@10"]
    assert all(np.isfinite(value) and 0 <= value <= 1 for value in result.values()), result


def test_every_sequential_module_holds_one_model() -> None:
    modules = [module.name for module in pkgutil.iter_modules(sequential_recommender.__path__)]
    assert sorted(name.lower() for name in SEQUENTIAL) == sorted(modules)
