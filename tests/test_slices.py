"""Metrics of users and slices, from ranks as they are saved, against loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nestrec_recbole import NestRecError
from nestrec_recbole.evaluate.metrics import row_values
from nestrec_recbole.evaluate.saved import metric_of_rows, metric_of_users, parse_metric, read_ranks, same_targets
from nestrec_recbole.evaluate.slices import by_history_length, by_popularity, slicings

RANKS = pd.DataFrame(
    {
        "user": ["u3", "u1", "u2", "u1"],
        "item": ["a", "b", "c", "zz"],
        "rank": [1, 3, 40, 2],
        "rank_unseen": [1, 2, 30, 1],
        "history_length": [1, 5, 50, 9],
        "tied": [False, True, False, False],
    }
)
ITEMS = pd.DataFrame(
    {
        "item": ["a", "b", "c"],
        "train_count": [9, 1, 0],
        "has_text": [True, False, True],
        "has_image": [False, False, True],
    }
)


def test_metrics_by_their_names() -> None:
    assert parse_metric("NDCG@10_f") == ("ndcg", 10, "rank_unseen", "")
    assert parse_metric("hit@5_c_new") == ("hit", 5, "rank_candidates", "new")
    assert metric_of_rows(RANKS, "mrr@10").tolist() == [1, 1 / 3, 0, 1 / 2]
    assert metric_of_rows(RANKS, "hit@1_f").tolist() == [1, 0, 0, 1]
    assert metric_of_rows(RANKS.assign(rank_candidates=[1, 1, 1, 2]), "hit@1_c").tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("coverage@10", "unknown metric of single users 'coverage'"),
        ("ndcgs@10", "did you mean 'ndcg'"),
        ("ndcg", "no value per user"),
        ("ndcg@0", "no value per user"),
        ("ndcg@10_c", "set `candidates`"),
        ("ndcg@10_cold", "do not say which rows are cold; set `hidden_items`"),
        ("ndcg@10_old", "no value per user"),
    ],
)
def test_metrics_that_no_user_has(name: str, said: str) -> None:
    with pytest.raises(NestRecError, match=said):
        metric_of_rows(RANKS, name)


def test_users_are_means_over_targets_and_seeds_in_one_order() -> None:
    other = RANKS.iloc[[2, 0, 3, 1]].assign(rank=[1, 1, 1, 3])  # another order of rows: u2, u3, u1, u1
    found = metric_of_users([RANKS, other], "mrr@10")
    assert found.columns.tolist() == ["u1", "u2", "u3"]
    assert found.loc[0].tolist() == pytest.approx([(1 / 3 + 1 / 2) / 2, 0, 1])
    assert found.loc[1].tolist() == pytest.approx([(1 + 1 / 3) / 2, 1, 1])
    assert same_targets(RANKS, other) and not same_targets(RANKS, other.iloc[1:])


def test_rows_that_count_by_hand() -> None:
    """u1 has a cold target and another: only the cold one counts, and who has none is nobody's user."""
    ranks = RANKS.assign(cold=[False, True, True, False])
    assert metric_of_rows(ranks, "mrr@10_cold").tolist() == [1 / 3, 0]
    found = metric_of_users([ranks, ranks.assign(rank=1)], "mrr@10_cold")
    assert found.to_dict("list") == {"u1": [1 / 3, 1], "u2": [0, 1]}
    with pytest.raises(NestRecError, match="'mrr@10_cold': no row counts in it"):
        metric_of_users([ranks.assign(cold=False)], "mrr@10_cold")


def test_seeds_of_other_targets_are_refused() -> None:
    with pytest.raises(NestRecError, match="not tested on the same users"):
        metric_of_users([RANKS, RANKS.assign(item=["a", "b", "c", "d"])], "mrr@10")


def test_slices_against_a_loop() -> None:
    random = np.random.default_rng(0)
    n_rows, n_items = 400, 60
    items = pd.DataFrame(
        {"item": [f"i{i}" for i in range(n_items)], "train_count": random.geometric(0.05, n_items) - 1}
    )
    items = items.assign(has_text=random.random(n_items) < 0.6)
    ranks = pd.DataFrame(
        {"item": random.choice(items["item"], n_rows), "history_length": random.integers(1, 80, n_rows)}
    )
    values = row_values("ndcg", random.integers(1, 20, n_rows), 10)
    found = {one.name: one for one in slicings(ranks, items)}
    assert set(found) == {"history length", "training interactions of the target", "text"}
    text = dict(zip(items["item"], items["has_text"], strict=True))
    for with_text in (False, True):
        own = [value for value, item in zip(values, ranks["item"], strict=True) if text[item] == with_text]
        assert found["text"].counts[int(with_text)] == len(own)
        assert found["text"].means(values)[int(with_text)] == pytest.approx(np.mean(own))
    bounds = [(1, 4), (5, 9), (10, 19), (20, 49), (50, 999)]
    for place, (low, high) in enumerate(bounds):
        own = [v for v, length in zip(values, ranks["history_length"], strict=True) if low <= length <= high]
        assert found["history length"].means(values)[place] == pytest.approx(np.mean(own))


def test_head_holds_half_and_items_of_one_count_go_together() -> None:
    counts = np.array([50, 20, 10, 10, 5, 3, 2, 0])  # 100 in all: 50 is half, 50 + 20 + 10 is 80
    found = by_popularity(counts, np.array([0, 1, 2, 3, 4, 6, 7, -1]))
    assert found.slice_of.tolist() == [0, 1, 1, 1, 2, 2, 3, 3]
    assert found.labels == ["head: 50 and more", "middle: 10 to 49", "tail: 1 to 9", "cold: none"]
    nothing = by_popularity(np.zeros(3, np.int64), np.array([0, 1]))
    assert nothing.slice_of.tolist() == [3, 3]


def test_slices_of_a_row_each() -> None:
    found = {one.name: one for one in slicings(RANKS, ITEMS)}
    assert found["time ties"].slice_of.tolist() == [0, 1, 0, 0]
    assert found["history length"].slice_of.tolist() == [0, 1, 4, 1]
    assert found["text"].slice_of.tolist() == [1, 0, 1, 0]  # an item that is not listed has neither
    assert found["image"].slice_of.tolist() == [0, 0, 1, 0]
    assert found["training interactions of the target"].slice_of.tolist() == [0, 2, 3, 3]
    assert np.isnan(found["history length"].means(np.ones(4))[2])
    assert [one.name for one in slicings(RANKS[["user", "item"]], None)] == []
    assert by_history_length(np.array([0])).slice_of.tolist() == [0]


def test_ranks_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(NestRecError, match=r"ranks.parquet: missing"):
        read_ranks(tmp_path / "ranks.parquet")
    (tmp_path / "ranks.parquet").write_text("user,item,rank\n")
    with pytest.raises(NestRecError, match="not a Parquet file"):
        read_ranks(tmp_path / "ranks.parquet")
    RANKS.drop(columns="rank_unseen").to_parquet(tmp_path / "ranks.parquet")
    with pytest.raises(NestRecError, match="no column 'rank_unseen'"):
        read_ranks(tmp_path / "ranks.parquet")
