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
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.utils import get_model

from nestrec_recbole import run_recbole

pytestmark = [pytest.mark.recbole, pytest.mark.filterwarnings("ignore:distutils Version classes")]
sequential = importlib.import_module("recbole.model.sequential_recommender")  # after our repairs
MODULES = [module.name for module in pkgutil.iter_modules(sequential.__path__)]


def sequential_models() -> list[str]:
    """The names of the model classes in RecBole's sequential modules."""
    found = []
    for module in MODULES:
        members = vars(importlib.import_module(f"{sequential.__name__}.{module}"))
        found += [
            name
            for name, member in members.items()
            if name.lower() == module and isinstance(member, type) and issubclass(member, AbstractRecommender)
        ]
    return found


SEQUENTIAL = sequential_models()
GENERAL = ["Pop", "ItemKNN", "BPR", "LightGCN", "NGCF", "NeuMF", "MultiVAE", "EASE"]

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
LAST_ITEMS = {"split": {"LS": "valid_and_test"}, "order": "TO"}
SAMPLED = {"eval_args": {**LAST_ITEMS, "mode": "uni20"}, "mlp_hidden_size": [16]}
PRETRAINED = {
    "eval_args": {**LAST_ITEMS, "mode": "full"},
    "load_col": {
        "inter": ["user_id", "item_id", "timestamp"],
        "kg": ["head_id", "relation_id", "tail_id"],
        "link": ["item_id", "entity_id"],
        "ent": ["ent_id", "ent_emb"],
        "rel": ["rel_id", "rel_emb"],
    },
    "additional_feat_suffix": ["ent", "rel"],
    "alias_of_entity_id": ["ent_id"],
    "alias_of_relation_id": ["rel_id"],
    "preload_weight": {"ent_id": "ent_emb", "rel_id": "rel_emb"},
    "kg_embedding_size": 16,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "DIN": SAMPLED,
    "DIEN": {**SAMPLED, "MAX_ITEM_LIST_LENGTH": 4},
    "GRU4RecKG": PRETRAINED,
    "KSR": PRETRAINED,
    "NeuMF": {"mlp_hidden_size": [16]},
    "S3Rec": {"pretrain_epochs": 1, "save_step": 1, "MAX_ITEM_LIST_LENGTH": 5},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    place = write_slice(folder, n_users=80, longest=20)
    facts = [line.split("\t") for line in (place / "slice.kg").read_text().splitlines()[1:]]
    entities = {name for head, _, tail in facts for name in (head, tail)}
    write_embeddings(place / "slice.ent", entities)
    write_embeddings(place / "slice.rel", {relation for _, relation, _ in facts})
    return folder


def write_embeddings(path: Path, names: set[str]) -> None:
    """Write what a knowledge graph's own training would have found: here, noise."""
    kind, noise = path.suffix[1:], np.random.default_rng(0).normal(size=(len(names), 16))
    rows = [f"{name}\t{' '.join(f'{x:.3f}' for x in row)}" for name, row in zip(sorted(names), noise, strict=True)]
    path.write_text("\n".join([f"{kind}_id:token\t{kind}_emb:float_seq", *rows]) + "\n")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole sleeps for a second to report the processor's load at the end of a run."""
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval=None: 0.0)


def run(model: str, data: Path, **settings: Any) -> dict[str, float]:
    negatives = {} if hasattr(get_model(model), "input_type") else {"train_neg_sample_args": None}
    settings = {**SMALL, **negatives, "data_path": str(data), **SETTINGS.get(model, {}), **settings}
    return run_recbole(model=model, dataset="slice", config_dict=settings, saved=False)["test_result"]


@pytest.mark.parametrize("model", [name for name in SEQUENTIAL + GENERAL if name != "S3Rec"])
def test_model_trains_and_evaluates(model: str, data: Path) -> None:
    result = run(model, data)
    assert sorted(result) == ["ndcg@10", "recall@10"]
    assert all(np.isfinite(value) and 0 <= value <= 1 for value in result.values()), result


def test_s3rec_trains_in_two_stages(data: Path) -> None:
    run("S3Rec", data)
    (file,) = Path("saved").glob("S3Rec-slice-1.pth")
    result = run("S3Rec", data, train_stage="finetune", pre_model_path=str(file))
    assert all(0 <= value <= 1 for value in result.values())


def test_every_sequential_module_holds_one_model() -> None:
    assert sorted(name.lower() for name in SEQUENTIAL) == sorted(MODULES)
