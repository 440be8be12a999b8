"""Candidate pools and items that may not be recommended: drawn and ranked as plain loops would."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.data import create_dataset

from nestrec_recbole import NestRecError, run_recbole
from nestrec_recbole.data.dataset import SequenceDataset
from nestrec_recbole.evaluate import candidates
from nestrec_recbole.evaluate.candidates import candidates_of, distinct, draw_candidates
from nestrec_recbole.evaluate.metrics import evaluate_ranks
from nestrec_recbole.evaluate.ranking import rank_targets, write_ranks

SEQUENCES = [[(5 * start + step * step) % 31 for step in range(3 + start % 11)] for start in range(50)]


@pytest.fixture
def splits(tmp_path: Path, make_config: Any) -> list[SequenceDataset]:
    write_dataset(tmp_path / "data", "small", SEQUENCES)
    return create_dataset(make_config("FastSASRec", "small", candidates=7)).build()


def scores_of(rows: SequenceDataset, levels: int) -> torch.Tensor:
    scores = torch.rand(rows.user_num, rows.item_num, generator=torch.Generator().manual_seed(3))
    return (scores * levels).floor()


def taken_by(user: int) -> set[str]:
    return {f"i{item}" for item in SEQUENCES[user]}


@pytest.mark.parametrize("n", [1, 4, 11])
def test_candidates_are_what_the_user_never_took(n: int, splits: list[SequenceDataset]) -> None:
    for rows in splits[1:]:
        rows.rankable = np.arange(rows.item_num) % 4 != 1
        names = rows.field2id_token["item_id"]
        drawn = draw_candidates(rows, n, seed=5)
        assert drawn.shape == (len(rows), n) and drawn.dtype == np.int32
        for user, items in zip(rows.field2id_token["user_id"][rows.users], drawn, strict=True):
            assert len(set(items)) == n and rows.rankable[items].all() and items.min() > 0
            assert not set(names[items]) & taken_by(int(user[1:]))


def test_a_draw_depends_on_seed_user_and_target_only(splits: list[SequenceDataset], make_config: Any) -> None:
    _, valid, test = splits
    drawn = draw_candidates(test, 6, seed=5)
    assert np.array_equal(drawn, draw_candidates(test, 6, seed=5))
    assert not np.array_equal(drawn, draw_candidates(test, 6, seed=6))
    some = test.select(np.arange(len(test))[::-3])  # other rows, in another order
    assert np.array_equal(draw_candidates(some, 6, seed=5), drawn[::-3])
    assert not np.array_equal(draw_candidates(valid, 6, seed=5)[: len(drawn)], drawn)


def test_other_ids_draw_the_same_items(tmp_path: Path, make_config: Any, splits: list[SequenceDataset]) -> None:
    """The same interactions written in another order: RecBole numbers users and items anew."""
    lines = (tmp_path / "data" / "small" / "small.inter").read_text().splitlines()
    (tmp_path / "data" / "other").mkdir()
    (tmp_path / "data" / "other" / "other.inter").write_text(
        "\n".join([lines[0], *sorted(lines[1:], reverse=True)]) + "\n"
    )
    other = create_dataset(make_config("FastSASRec", "other")).build()[2]
    found = []
    for rows in (splits[2], other):
        users, items = (rows.field2id_token[name] for name in ("user_id", "item_id"))
        drawn = items[draw_candidates(rows, 6, seed=5)]
        found.append({user: list(names) for user, names in zip(users[rows.users], drawn, strict=True)})
    assert found[0] == found[1]
    assert not np.array_equal(splits[2].field2id_token["item_id"], other.field2id_token["item_id"])


@settings(deadline=None)
@given(sizes=st.lists(st.integers(5, 60), min_size=1, max_size=6), n=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_distinct_numbers(sizes: list[int], n: int, seed: int) -> None:
    keys = np.random.default_rng(seed).integers(0, 2**64, len(sizes), dtype=np.uint64)
    drawn = distinct(keys, np.array(sizes), n)
    for size, numbers in zip(sizes, drawn, strict=True):
        assert len(set(numbers.tolist())) == n and numbers.min() >= 0 and numbers.max() < size


@pytest.mark.parametrize(("size", "n"), [(5, 3), (13, 3)])  # most are drawn, few are
def test_every_set_is_as_likely_as_the_others(size: int, n: int) -> None:
    keys = np.random.default_rng(0).integers(0, 2**64, 60_000, dtype=np.uint64)
    drawn = np.sort(distinct(keys, np.full(len(keys), size), n), axis=1)
    counts = Counter(map(tuple, drawn.tolist()))
    n_sets = {5: 10, 13: 286}[size]
    expected = len(keys) / n_sets
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    assert len(counts) == n_sets
    assert abs(chi_squared - (n_sets - 1)) < 4 * np.sqrt(2 * (n_sets - 1))


def test_candidates_are_drawn_once_for_a_split(splits: list[SequenceDataset], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = splits[1].select(np.arange(5))
    first = candidates_of(rows)
    assert first is not None and np.array_equal(first, draw_candidates(rows, 7, 2020))
    assert candidates_of(rows) is first and not first.flags.writeable
    monkeypatch.setattr(candidates, "KEPT", 0)
    monkeypatch.setitem(rows.config.final_config_dict, "candidate_seed", 5)
    another = candidates_of(rows)
    assert np.array_equal(another, draw_candidates(rows, 7, 5)) and candidates_of(rows) is not another
    monkeypatch.setitem(rows.config.final_config_dict, "candidates", 0)
    assert candidates_of(rows) is None


@pytest.mark.parametrize("levels", [3, 10**6])
@pytest.mark.parametrize("hides", [False, True])
def test_ranks_against_loops(levels: int, hides: bool, splits: list[SequenceDataset]) -> None:
    rows = splits[2]
    targets = rows.items[rows.ends]
    may = (np.arange(rows.item_num) % 3 != 0) | np.isin(np.arange(rows.item_num), targets[::2])
    if hides:
        rows = rows.select(np.flatnonzero(may[targets]))
        rows.rankable = may
    may = may if hides else np.ones(rows.item_num, dtype=bool)
    table = scores_of(rows, levels)
    ranks = rank_targets(lambda batch: table[batch["user_id"]].clone(), rows, k=40, batch_size=9)
    pools = draw_candidates(rows, 7, 2020)
    for row, (user, target) in enumerate(zip(ranks.users, ranks.targets, strict=True)):
        history = set(rows.items[rows.starts[row] : rows.ends[row]].tolist())
        order = sorted(range(1, rows.item_num), key=lambda item: (-float(table[user, item]), item))
        everything = [item for item in order if may[item]]
        unseen = [item for item in everything if item == target or item not in history]
        pool = [item for item in order if item == target or item in pools[row]]
        assert ranks.rank[row] == everything.index(target) + 1
        assert ranks.rank_unseen[row] == unseen.index(target) + 1
        assert ranks.rank_candidates is not None and ranks.rank_candidates[row] == pool.index(target) + 1
        assert set(ranks.top[row]) == set(everything)
        listed = [item for item in everything if item not in history]
        assert ranks.top_unseen[row, : len(listed)].astype(bool).all()
        assert set(ranks.top_unseen[row]) - {0} == set(listed)


def test_metrics_and_file_of_ranks(splits: list[SequenceDataset], tmp_path: Path) -> None:
    rows = splits[2]
    table = scores_of(rows, 10**6)
    ranks = rank_targets(lambda batch: table[batch["user_id"]].clone(), rows)
    assert ranks.rank_candidates is not None
    values = evaluate_ranks(ranks, ["mrr", "recall"], [3, 8])
    assert values["mrr@8_c"] == pytest.approx((1 / ranks.rank_candidates).mean())
    assert values["recall@3_c"] == pytest.approx((ranks.rank_candidates <= 3).mean())
    assert values["recall@3_c"] >= values["recall@3_f"]
    write_ranks(ranks, rows, tmp_path / "ranks.parquet")
    written = pd.read_parquet(tmp_path / "ranks.parquet")
    assert list(written) == ["user", "item", "rank", "rank_unseen", "rank_candidates"]
    assert (written["rank_candidates"] == ranks.rank_candidates).all()


def test_a_user_with_too_few_items_left(splits: list[SequenceDataset]) -> None:
    with pytest.raises(NestRecError, match=r"candidates is 25, but user 'u\d+' has \d+ items left to draw from"):
        draw_candidates(splits[2], 25, seed=5)


def test_targets_that_may_not_be_recommended(splits: list[SequenceDataset]) -> None:
    rows = splits[2]
    rows.rankable = np.arange(rows.item_num) != rows.items[rows.ends][0]
    with pytest.raises(NestRecError, match=r"\d+ targets, 'i\d+' among them, are items that may not be recommended"):
        rank_targets(lambda batch: torch.zeros(len(batch), rows.item_num), rows)


def test_validation_among_candidates_chooses(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", "small", SEQUENCES)
    given: dict[str, Any] = {"data_path": "data", "epochs": 2, "state": "ERROR", "show_progress": False}
    given |= {"candidates": 9, "topk": [5, 10], "valid_metric": "NDCG@5_c"}
    result = run_recbole("FastSASRec", "small", config_dict=given, saved=False)
    assert round(result["best_valid_score"], 4) == result["best_valid_result"]["ndcg@5_c"]
    assert 1 / 10 <= result["test_result"]["mrr@10_c"] <= 1 == result["test_result"]["recall@10_c"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"valid_metric": "NDCG@10_c"}, "but candidates is 0"),
        ({"valid_metric": "NDCG@10_x"}, "then nothing, _f or _c, then"),
        ({"valid_metric": "NDCG@10_f_cold"}, "but hidden_items is 0"),
        ({"valid_metric": "NDCG@10_new"}, "but hidden_users is 0"),
        ({"hidden_items": 1.5}, "expected a number from 0 to 1"),
        ({"candidates": -1}, "expected a whole number from 0"),
    ],
)
def test_bad_settings(given: dict[str, Any], words: str, make_config: Any, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", "small", SEQUENCES)
    with pytest.raises(NestRecError, match=words):
        make_config("FastSASRec", "small", **given)
