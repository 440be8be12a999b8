"""Ranks are exact, both protocols mean what they say, and RecBole's evaluator agrees."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.evaluator import Collector, Evaluator, metrics
from recbole.evaluator.collector import DataStruct
from recbole.utils import init_seed

from nestrec_recbole import NestRecError, run_recbole
from nestrec_recbole.bench import run as bench_run
from nestrec_recbole.data.dataset import SequenceDataset
from nestrec_recbole.evaluate import beyond
from nestrec_recbole.evaluate.beyond import (
    F1,
    AveragePopularity,
    GiniIndex,
    ItemCoverage,
    ShannonEntropy,
    TailPercentage,
    diversity,
    novelty,
    serendipity,
)
from nestrec_recbole.evaluate.metrics import RANK_METRICS, coverage, evaluate_ranks, row_values
from nestrec_recbole.evaluate.ranking import Ranks, count_before, rank_targets, seen_items
from nestrec_recbole.train.prepare import prepare

SEQUENCES = [[(5 * start + step * step) % 31 for step in range(3 + start % 11)] for start in range(50)]


@pytest.fixture
def test_split(tmp_path: Any, make_config: Any) -> tuple[Config, SequenceDataset]:
    write_dataset(tmp_path / "data", "small", SEQUENCES)
    config = make_config("FastSASRec", "small")
    return config, create_dataset(config).build()[2]


def scores_of(rows: SequenceDataset, levels: int | None = None) -> torch.Tensor:
    """A score for every user and item, (n_users, n_items); with few ``levels`` most of them tie."""
    random = torch.Generator().manual_seed(3)
    shape = (rows.user_num, rows.item_num)
    scores = torch.rand(shape, generator=random)
    return scores if levels is None else (scores * levels).floor()


def ranks_of(rows: SequenceDataset, table: torch.Tensor, **options: Any) -> Ranks:
    return rank_targets(lambda batch: table[batch["user_id"]].clone(), rows, **options)


def test_items_that_nobody_took_change_no_metric(tmp_path: Any, make_config: Any) -> None:
    """RecBole numbers every item of every file that it reads, so a model that reads ``.item`` would rank more."""
    item_file = write_dataset(tmp_path / "data", "small", SEQUENCES) / "small.item"
    with item_file.open("a") as file:
        file.writelines(f"new{number}\tnobody's\t1990\n" for number in range(40))
    wanted = ["NDCG", "MRR", "ItemCoverage", "GiniIndex", "Serendipity", "Novelty", "TailPercentage"]
    given = {"metrics": wanted, "topk": [5], "valid_metric": "NDCG@5", "candidates": 7}
    table, found, numbers, columns = None, [], [], {"inter": ["user_id", "item_id", "timestamp"]}
    for load_col in (columns, columns | {"item": ["item_id", "year"]}):
        config = make_config("FastSASRec", "small", load_col=load_col, **given)
        train, _, rows = create_dataset(config).build()
        table = scores_of(rows) if table is None else table
        above = torch.nn.functional.pad(table, (0, rows.item_num - table.shape[1]), value=2.0)
        trainer, loaders = prepare(config)
        trainer.model.full_sort_predict = lambda batch, above=above: above[batch["user_id"]].clone()
        trainer.train_data = loaders[0]
        found.append(trainer.evaluate(loaders[2], load_best_model=False))
        numbers.append(train.item_num)
    assert numbers[1] == numbers[0] + 40
    assert found[0] == found[1]
    assert 0 < found[0]["ndcg@5"] < 1
    assert found[0]["serendipity@5"] > 0


@settings(deadline=None)
@given(scores=hnp.arrays(np.float32, (4, 9), elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0])), target=st.integers(0, 8))
def test_rank_is_the_place_in_a_stable_sort(scores: np.ndarray, target: int) -> None:
    order = np.argsort(-scores, axis=1, kind="stable")
    expected = (order == target).argmax(axis=1) + 1
    chosen = torch.arange(9).repeat(4), torch.arange(4).repeat_interleave(9)
    item, row = (x[chosen[0] % 2 == 0] for x in chosen)  # all items of an even id
    before, even = count_before(torch.from_numpy(scores), torch.full((4,), target), row, item)
    assert (1 + before.numpy() == expected).all()
    ahead = [[i for i in line[: place - 1] if i % 2 == 0] for line, place in zip(order, expected, strict=True)]
    assert even.tolist() == [len(line) for line in ahead]


@pytest.mark.parametrize("levels", [None, 3])
def test_both_protocols_against_loops(levels: int | None, test_split: Any) -> None:
    _, rows = test_split
    table = scores_of(rows, levels)
    ranks = ranks_of(rows, table, k=5)
    for row, (user, target) in enumerate(zip(ranks.users, ranks.targets, strict=True)):
        history = set(rows.items[rows.starts[row] : rows.ends[row]].tolist())
        everything = sorted(range(1, rows.item_num), key=lambda item: (-float(table[user, item]), item))
        unseen = [item for item in everything if item == target or item not in history]
        assert ranks.rank[row] == everything.index(target) + 1
        assert ranks.rank_unseen[row] == unseen.index(target) + 1
        best = [float(table[user, item]) for item in everything[:5]]
        assert [float(table[user, item]) for item in ranks.top[row]] == best
        shown = set(ranks.top_unseen[row].tolist())
        assert not (shown & history) - {target} and 0 not in shown


def test_batches_do_not_matter(test_split: Any) -> None:
    _, rows = test_split
    table = scores_of(rows)
    whole, pieces = ranks_of(rows, table), ranks_of(rows, table, batch_size=7)
    assert all(np.array_equal(getattr(whole, name), getattr(pieces, name)) for name in vars(whole))


@pytest.mark.parametrize("metric", RANK_METRICS)
@pytest.mark.parametrize("levels", [None, 3])
def test_metrics_equal_recboles(metric: str, levels: int | None, test_split: Any, make_config: Any) -> None:
    """Of items that tie, the one of the smaller id ranks first; RecBole leaves that to chance, so it is told here."""
    _, rows = test_split
    exact = {"topk": [1, 5, 10], "metric_decimal_place": 15}
    config = make_config("FastSASRec", "small", metrics=[metric], valid_metric=f"{metric}@10", **exact)
    train, _, test = data_preparation(config, create_dataset(config))
    table = scores_of(rows, levels)
    untied = table.double() - 1e-9 * torch.arange(rows.item_num)
    collector = Collector(config)
    collector.data_collect(train)
    for batch in test:
        interaction, _, positive_u, positive_i = batch
        scores = untied[interaction["user_id"]].clone()
        scores[:, 0] = -torch.inf
        collector.eval_batch_collect(scores, interaction, positive_u, positive_i)
    theirs = Evaluator(config).evaluate(collector.get_data_struct())
    ours = evaluate_ranks(ranks_of(rows, table), [metric], [1, 5, 10])
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("model", ["GRU4Rec", "SASRec"])
def test_models_of_recbole_rank_as_recbole_says(model: str, tmp_path: Any) -> None:
    """What RecBole's evaluator finds for its own model is what ours finds for it."""
    from recbole.utils import get_model, get_trainer

    times = [list(range(len(items))) for items in SEQUENCES]  # RecBole holds them in float32: large ones would tie
    write_dataset(tmp_path / "data", "small", SEQUENCES, times)
    given = {"data_path": str(tmp_path / "data"), "train_neg_sample_args": None, "metric_decimal_place": 15}
    given |= {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "state": "ERROR", "show_progress": False}
    given |= {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}}
    given |= {"metrics": ["NDCG", "Recall", "MRR"], "topk": [5, 10], "valid_metric": "NDCG@10", "epochs": 2}
    config = Config(model=model, dataset="small", config_dict=given)
    init_seed(1, True)
    train, valid, test = data_preparation(config, create_dataset(config))
    trained = get_model(model)(config, train.dataset)
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, trained)
    trainer.fit(train, valid, verbose=False, saved=False)
    theirs = trainer.evaluate(test, load_best_model=False)
    ranks = rank_targets(trained.eval().full_sort_predict, SequenceDataset(config).build()[2])
    ours = evaluate_ranks(ranks, ["ndcg", "recall", "mrr"], [5, 10])
    assert {name: ours[name] for name in theirs} == pytest.approx(dict(theirs), abs=1e-9)


def test_other_metrics_come_from_recbole(tmp_path: Any, make_config: Any) -> None:
    from recbole.utils import get_model, get_trainer

    write_dataset(tmp_path / "data", "small", SEQUENCES)
    names = ["NDCG", "ItemCoverage", "AveragePopularity", "GiniIndex", "ShannonEntropy", "TailPercentage"]
    config = make_config("FastSASRec", "small", metrics=names, epochs=1, hidden_size=8)
    train, valid, test = data_preparation(config, create_dataset(config))
    trainer = get_trainer(config["MODEL_TYPE"], "FastSASRec")(config, get_model("FastSASRec")(config, train.dataset))
    trainer.fit(train, valid, verbose=False)
    result = trainer.evaluate(test)
    assert {f"{name.lower()}@10" for name in names} <= set(result)
    users_lists = trainer.ranks.top
    assert result["itemcoverage@10"] == pytest.approx(len(np.unique(users_lists)) / train.dataset.item_num, abs=1e-4)
    targets = train.dataset.items[train.dataset.ends]  # RecBole counts targets only
    counts = np.bincount(targets, minlength=train.dataset.item_num)
    for counted, ids in ((train.dataset.item_counter, targets), (train.dataset.user_counter, train.dataset.users)):
        assert counted == Counter(ids.tolist())
    lists = DataStruct()
    lists.set("rec.items", torch.from_numpy(users_lists.astype(np.int64)))
    lists.set("data.num_items", train.dataset.item_num)
    lists.set("data.count_items", train.dataset.item_counter)
    theirs_too = (metrics.ItemCoverage, metrics.ShannonEntropy, metrics.TailPercentage)
    for theirs in (metrics.AveragePopularity, metrics.GiniIndex, *theirs_too):  # of which we have our own
        assert theirs(config).calculate_metric(lists).items() <= result.items()
    assert result["averagepopularity@10"] == pytest.approx(counts[users_lists].mean(), abs=1e-3)


def test_metrics_by_hand() -> None:
    ranks = np.array([1, 3, 10, 11])
    assert row_values("ndcg", ranks, 10) == pytest.approx([1, 0.5, 1 / np.log2(11), 0])
    assert row_values("mrr", ranks, 10) == pytest.approx([1, 1 / 3, 0.1, 0])
    assert row_values("recall", ranks, 3).tolist() == [1, 1, 0, 0]
    assert row_values("precision", ranks, 10) == pytest.approx([0.1, 0.1, 0.1, 0])
    assert row_values("f1", ranks, 10) == pytest.approx([2 / 11, 2 / 11, 2 / 11, 0])  # precision 0.1, recall 1
    assert coverage(np.array([[1, 2], [2, 3]]), n_items=5) == 0.75
    assert coverage(np.array([[1, 0], [4, 0]]), n_items=5) == 0.5  # padded


def test_f1_of_several_relevant_items_by_hand() -> None:
    hits = torch.tensor([[1, 0, 1, 4], [0, 0, 0, 2]])  # of three listed items; the last column: how many there are
    struct = DataStruct()
    struct.set("rec.topk", hits)
    struct.set("rec.items", torch.ones(2, 3, dtype=torch.int64))
    found = F1({"topk": [1, 3], "metric_decimal_place": 9}).calculate_metric(struct)
    at_1 = 2 * 1 * 0.25 / (1 + 0.25)  # precision 1, recall a quarter
    at_3 = 2 * (2 / 3) * 0.5 / (2 / 3 + 0.5)
    assert found == pytest.approx({"f1@1": at_1 / 2, "f1@3": at_3 / 2})


def test_scores_that_are_no_numbers_do_not_rank_first(test_split: Any) -> None:
    _, rows = test_split
    table = scores_of(rows)
    table[int(rows.users[0])] = torch.nan
    with pytest.raises(NestRecError, match="scores are not numbers"):
        ranks_of(rows, table)


def test_seen_items_are_the_whole_history(tmp_path: Any, make_config: Any) -> None:
    write_dataset(tmp_path / "data", "long", [list(range(40)), list(range(40))])
    rows = create_dataset(make_config("FastSASRec", "long", MAX_ITEM_LIST_LENGTH=5)).build()[2]
    row, items = seen_items(rows, np.array([1, 0]))
    assert np.bincount(row).tolist() == [39, 39]
    assert set(items[row == 0]) == set(rows.items[rows.starts[1] : rows.ends[1]])


def test_novelty_by_hand() -> None:
    counts = np.array([0, 4, 2, 1, 0, 1])  # 8 interactions: 1, 2, 3, 3 and 3 bits
    values = novelty(np.array([[1, 2], [3, 4]]), counts)
    assert values.tolist() == [[1, 1.5], [3, 3]]


def test_lists_that_end_early_count_with_what_they_hold() -> None:
    counts, short = np.array([0, 4, 2, 1, 1]), np.array([[1, 2, 0], [3, 0, 0]])
    assert novelty(short, counts).tolist() == [[1, 1.5, 1.5], [3, 3, 3]]
    assert serendipity(short, short == 3, counts).tolist() == [[0, 0, 0], [0.5, 0.25, 0.5 / 3]]
    features = np.array([[0, 0], [1, 0], [0, 1], [1, 0], [1, 0]])
    assert diversity(short, features).tolist() == [[0, 1, 1], [0, 0, 0]]
    struct = DataStruct()
    struct.set("rec.items", torch.from_numpy(short))
    struct.set("data.num_items", 5)
    struct.set("data.count_items", dict(enumerate(counts)))
    how = {"topk": [1, 3], "metric_decimal_place": 9}
    assert AveragePopularity(how).calculate_metric(struct) == {"averagepopularity@1": 2.5, "averagepopularity@3": 2.0}
    # Of five numbers, the padding's among them, two are listed once each: (2 * 4 - 6 + 2 * 5 - 6) / (5 * 2).
    assert GiniIndex(how).calculate_metric(struct)["giniindex@1"] == pytest.approx(0.6)
    assert ItemCoverage(how).calculate_metric(struct) == {"itemcoverage@1": 0.4, "itemcoverage@3": 0.6}
    assert ShannonEntropy(how).calculate_metric(struct)["shannonentropy@3"] == pytest.approx(np.log(3) / 3)
    for ratio, at_3 in ((0.25, 1 / 2), (2, 3 / 4)):  # item 3; items 2, 3 and 4
        found = TailPercentage({**how, "tail_ratio": ratio}).calculate_metric(struct)
        assert found == {"tailpercentage@1": 0.5, "tailpercentage@3": at_3}


@pytest.mark.parametrize("model", ["FastSASRec", "BPR"])
def test_a_catalogue_that_is_shorter_than_the_lists(model: str, tmp_path: Any) -> None:
    write_dataset(tmp_path / "data", "tiny", [[0, 1, 2, 3, 4], [1, 2, 3, 4, 5], [2, 3, 4, 5, 0]])
    settings = {"data_path": "data", "metrics": ["NDCG", "Novelty", "AveragePopularity", "GiniIndex", "ItemCoverage"]}
    settings |= {"epochs": 1, "state": "ERROR", "show_progress": False, "valid_metric": "NDCG@10"}
    settings |= {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    found, _, _ = bench_run.train(model, "tiny", {**settings, "checkpoint_dir": str(tmp_path / "saved")})
    assert np.isfinite(list(found.metrics.values())).all()


def test_a_valid_metric_that_no_row_has(tmp_path: Any, make_config: Any) -> None:
    write_dataset(tmp_path / "data", "small", SEQUENCES)
    trainer, (train_data, valid, _) = prepare(
        make_config("FastSASRec", "small", metrics=["NDCG", "Novelty"], valid_metric="Novelty@10_f", epochs=1)
    )
    with pytest.raises(NestRecError, match="'novelty@10_f' is not computed"):
        trainer.fit(train_data, valid, verbose=False)


def test_serendipity_by_hand() -> None:
    counts = np.array([0, 4, 2, 1, 3])  # by popularity: 1, 4, 2, 3
    values = serendipity(np.array([[3, 1], [1, 3]]), np.array([[True, False], [False, True]]), counts)
    # Item 3 is fourth of four by popularity: first in the list it is 3/4 ahead, second 2/4. Item 1 is never ahead.
    assert values.tolist() == [[0.75, 0.375], [0, 0.25]]


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_diversity_by_hand(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beyond, "ROWS", rows)
    features = np.array([[0, 0], [2, 0], [0, 3], [-1, 0], [1, 0], [0, 0], [0, 0]])
    found = diversity(np.array([[1, 4], [1, 2], [1, 3]]), features)
    assert found.tolist() == [[0, 0], [0, 1], [0, 2]]
    assert diversity(np.array([[1, 2, 3]]), features)[0] == pytest.approx([0, 1, (1 + 2 + 1) / 3])
    assert diversity(np.array([[5, 6, 1]]), features)[0] == pytest.approx([0, 1, 1])  # nothing is known of 5 and 6


@pytest.mark.parametrize("model", ["FastSASRec", "BPR"])
def test_metrics_beyond_accuracy_are_settings(model: str, tmp_path: Any) -> None:
    write_dataset(tmp_path / "data", "small", SEQUENCES)
    names = ["NDCG", "Novelty", "Serendipity"]
    settings = {"data_path": "data", "metrics": names, "epochs": 1, "state": "ERROR", "show_progress": False}
    settings |= {"valid_metric": "NDCG@10", "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    result = run_recbole(model, "small", config_dict=settings, saved=False)["test_result"]
    assert 1 < result["novelty@10"] < 10 and 0 <= result["serendipity@10"] < 1


def test_diversity_is_a_setting(tmp_path: Any) -> None:
    write_dataset(tmp_path / "data", "small", SEQUENCES)
    settings = {"data_path": "data", "feature_path": "data", "metrics": ["NDCG", "Diversity"], "topk": [1, 5, 10]}
    settings |= {"epochs": 1, "state": "ERROR", "show_progress": False}
    result = run_recbole("FastSASRec", "small", config_dict=settings, saved=False)["test_result"]
    assert result["diversity@1"] == 0 and 0 < result["diversity@5"] < 1


@pytest.mark.parametrize("mode", ["uni20", "pop20", "uni100", "pop100", "uni999"])
def test_sampled_protocols_are_recboles(mode: str, tmp_path: Any, make_config: Any) -> None:
    """Ranks among 20 drawn items: no lower than among all, and all models are ranked by the same draw."""
    from recbole.utils import get_model, get_trainer

    write_dataset(tmp_path / "data", "small", SEQUENCES)
    args = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}
    settings = {"epochs": 3, "hidden_size": 16, "metrics": ["NDCG", "Recall", "Novelty"]}
    found = {}
    for kind in ("full", mode):
        config = make_config("FastSASRec", "small", eval_args={**args, "mode": kind}, **settings)
        init_seed(1, True)
        train, valid, test = data_preparation(config, create_dataset(config))
        init_seed(1, True)
        trainer = get_trainer(config["MODEL_TYPE"], "FastSASRec")(
            config, get_model("FastSASRec")(config, train.dataset)
        )
        trainer.fit(train, valid, verbose=False)
        found[kind] = trainer.evaluate(test)
    assert found[mode]["recall@10"] >= found["full"]["recall@10"]
    assert 0 < found[mode]["ndcg@10"] <= 1 and found[mode]["novelty@10"] > 0


def test_progress_is_shown_of_the_rows(test_split: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _, rows = test_split
    ranks_of(rows, scores_of(rows))
    assert capsys.readouterr().err == ""
    ranks_of(rows, scores_of(rows), batch_size=3, show_progress=True)
    assert f"{len(rows)}/{len(rows)}" in capsys.readouterr().err
