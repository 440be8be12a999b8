"""Users and items that training never sees, and what is said of them afterwards."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_dataset
from ml100k_slice import write_slice
from recbole.data import create_dataset

from nestrec_recbole import NestRecError, run_recbole
from nestrec_recbole.cli import main
from nestrec_recbole.data.dataset import SequenceDataset
from nestrec_recbole.data.loader import WindowLoader
from nestrec_recbole.evaluate.metrics import evaluate_ranks
from nestrec_recbole.evaluate.ranking import rank_targets

SEQUENCES = [[(5 * start + step * step) % 31 for step in range(3 + start % 11)] for start in range(50)]
HIDES = {"hidden_items": 0.2, "hidden_users": 0.3}


@pytest.fixture
def small(tmp_path: Path, make_config: Any) -> Any:
    write_dataset(tmp_path / "data", "small", SEQUENCES)
    return lambda **given: make_config("FastSASRec", "small", **given)


def rows(dataset: SequenceDataset) -> list[tuple[str, tuple[str, ...], str]]:
    """(user, history, target) of every row, as tokens."""
    users, items = (dataset.field2id_token[name] for name in ("user_id", "item_id"))
    spans = zip(dataset.users, dataset.starts, dataset.ends, strict=True)
    return [(users[u], tuple(items[dataset.items[s:e]]), items[dataset.items[e]]) for u, s, e in spans]


def test_training_is_what_it_would_be_without_them(small: Any) -> None:
    """Rows of all others, with the hidden items struck out; validation and test stay as they are."""
    whole = create_dataset(small()).build()
    config = small(**HIDES)
    parts = create_dataset(config).build()
    train = parts[0]
    new = set(train.field2id_token["user_id"][train.hidden_users])
    cold = set(train.field2id_token["item_id"][train.hidden_items])
    assert 5 < len(new) < 25 and 2 < len(cold) < 12
    expected = []
    for user, history, target in rows(whole[0]):
        left = tuple(item for item in history if item not in cold)
        if user not in new and target not in cold and left:
            expected.append((user, left, target))
    assert rows(train) == expected
    assert [rows(part) for part in parts[1:]] == [rows(part) for part in whole[1:]]
    assert any(set(history) & cold for _, history, _ in rows(parts[2]))
    seen, targets = set(), []
    loader = WindowLoader(config, train)
    for batch in loader:
        seen |= set(batch["item_id_list"].unique().tolist())
        targets += batch["target_list"][batch["target_list"] > 0].tolist()
    names = train.field2id_token["item_id"]
    assert not (set(names[sorted(seen | set(targets))]) & cold)
    assert sorted(names[targets]) == sorted(target for _, _, target in expected)
    assert (train.item_counts()[train.hidden_items] == 0).all()
    assert not set(create_dataset(config).training_items()) & cold
    assert len(train.times) == len(train.items) == len(train.columns["timestamp"])


def test_who_is_hidden_depends_on_token_and_seed(small: Any) -> None:
    hidden = [create_dataset(small(**HIDES, hidden_seed=seed, seed=other)) for seed, other in ((1, 1), (1, 2), (2, 1))]
    for field in ("hidden_users", "hidden_items"):
        one, same, other = (getattr(dataset, field) for dataset in hidden)
        assert np.array_equal(one, same) and not np.array_equal(one, other) and not one[0]


def test_groups_of_rows_by_hand(small: Any) -> None:
    test = create_dataset(small(**HIDES, candidates=3)).build()[2]
    table = torch.rand(test.user_num, test.item_num, generator=torch.Generator().manual_seed(0))
    ranks = rank_targets(lambda batch: table[batch["user_id"]].clone(), test)
    values = evaluate_ranks(ranks, ["mrr"], [10])
    by_row = np.where(ranks.rank_unseen <= 10, 1 / ranks.rank_unseen, 0)
    cold, new = test.hidden_items[ranks.targets], test.hidden_users[ranks.users]
    assert values["mrr@10_f"] == pytest.approx(by_row.mean())
    assert values["mrr@10_f_cold"] == pytest.approx(by_row[cold].mean())
    assert values["mrr@10_f_warm"] == pytest.approx(by_row[~cold].mean())
    assert values["mrr@10_f_new"] == pytest.approx(by_row[new].mean())
    assert values["mrr@10_f_known"] == pytest.approx(by_row[~new].mean())
    assert values["mrr@10_c_new"] == pytest.approx((1 / ranks.rank_candidates[new]).mean())
    plain = evaluate_ranks(
        rank_targets(lambda b: table[b["user_id"]], create_dataset(small()).build()[2]), ["mrr"], [10]
    )
    assert plain == {name: values[name] for name in ("mrr@10", "mrr@10_f")}


def test_the_original_protocol_as_settings(small: Any) -> None:
    """Ranked among 100, for users that training knows and for those it does not."""
    given: dict[str, Any] = {"data_path": "data", "epochs": 1, "state": "ERROR", "show_progress": False}
    given |= {"hidden_users": 0.3, "candidates": 9, "topk": [1, 10], "valid_metric": "MRR@10_c_known"}
    result = run_recbole("FastSASRec", "small", config_dict=given, saved=False)
    assert round(result["best_valid_score"], 4) == result["best_valid_result"]["mrr@10_c_known"]
    assert {"mrr@10_c_new", "mrr@10_c_known", "ndcg@10_f_new", "hit@1_c_new"} <= set(result["test_result"])


def test_nothing_left_to_train_on(small: Any) -> None:
    with pytest.raises(NestRecError, match="nothing is left to train on without the hidden users and items"):
        create_dataset(small(hidden_users=1.0)).build()


def test_the_protocol_that_ships(small: Any, tmp_path: Path) -> None:
    """Its settings are good ones, and what they promise is there."""
    path = Path(__file__).resolve().parent.parent / "properties" / "protocol" / "candidates.yaml"
    write_slice(tmp_path / "data", n_users=60, longest=20)
    given = [f"--{key}={value}" for key, value in {"data_path": "data", "epochs": 1, "show_progress": False}.items()]
    command = ["run", "--model", "FastSASRec", "--dataset", "slice", "--config", str(path), *given]
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert main(command) == 0
    names = {line.split("\t")[0] for line in printed.getvalue().splitlines()}
    assert {"mrr@100_c", "mrr@100_c_new", "mrr@100_c_known", "ndcg@10_c_new", "hit@1_f_known"} <= names
