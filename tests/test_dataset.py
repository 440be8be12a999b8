"""Index-only sequences: true time order, RecBole's rows, every target trained once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import write_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recbole.data import create_dataset, data_preparation
from recbole.data.dataset import SequentialDataset
from recbole.utils import get_model, get_trainer

import nestrec_recbole
from nestrec_recbole import NestRecError
from nestrec_recbole.data.loader import WindowLoader, cut_windows
from nestrec_recbole.train.prepare import prepare

ANYTIME = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def rows(dataset: Any) -> set[tuple[int, tuple[int, ...], int]]:
    """(user, history, target) of every row, from what the dataset gives out."""
    batch = dataset[np.arange(len(dataset))] if len(dataset) else None
    if batch is None:
        return set()
    lists, lengths = batch["item_id_list"].tolist(), batch["item_length"].tolist()
    cut = [tuple(items[:n]) for items, n in zip(lists, lengths, strict=True)]
    return set(zip(batch["user_id"].tolist(), cut, batch["item_id"].tolist(), strict=True))


def test_no_user_of_ml_100k_is_tested_on_an_old_item(make_config: Any) -> None:
    config = make_config("FastSASRec", "ml-100k")
    _, _, test = create_dataset(config).build()
    raw = pd.read_csv(f"{config['data_path']}/ml-100k.inter", sep="\t")
    raw.columns = ["user", "item", "rating", "time"]
    last = raw.groupby("user").time.max()
    users = test.field2id_token["user_id"][test.users].astype(int)
    assert len(users) == 943
    assert (test.times[test.ends] == last.loc[users].to_numpy()).all()


splits = st.sampled_from(
    [
        {"split": {"LS": "valid_and_test"}},
        {"split": {"LS": "valid_only"}},
        {"split": {"LS": "test_only"}},
        {"split": {"RS": [0.6, 0.2, 0.2]}},
        {"split": {"RS": [8, 1, 1]}, "group_by": "none"},
        {"split": {"RS": [0.5, 0.5, 0.0]}},
        {"split": {"TS": [0.7, 0.1, 0.2]}},
    ]
)


filters = st.fixed_dictionaries(
    {},
    optional={
        "user_inter_num_interval": st.sampled_from(["[2,inf)", "[3,8]", "[0,inf)"]),
        "item_inter_num_interval": st.sampled_from(["[2,inf)", "(0,5)", "[1,2];[4,9]"]),
        "val_interval": st.sampled_from([{"timestamp": "[5,inf)"}, {"timestamp": "(3,30]"}]),
        "rm_dup_inter": st.sampled_from(["first", "last"]),
        "filter_inter_by_user_or_item": st.booleans(),
    },
)


@ANYTIME
@given(
    data=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=2, max_size=8),
    split=splits,
    length=st.sampled_from([1, 3, 50]),
    filtering=filters,
    reads_items=st.booleans(),
    seed=st.integers(0, 99),
)
def test_rows_are_recboles_on_a_sorted_file(
    tmp_path_factory: Any, data: Any, split: Any, length: int, filtering: dict[str, Any], reads_items: bool, seed: int
) -> None:
    from recbole.config import Config

    if max(map(len, data)) < 3:
        return
    folder = tmp_path_factory.mktemp("d")
    clock = np.random.default_rng(seed).permutation(sum(map(len, data)) + 5)
    times, used = [], 0
    for sequence in data:
        times.append(sorted(clock[used : used + len(sequence)].tolist()))
        used += len(sequence)
    with open(write_dataset(folder, "d", data, times) / "d.item", "a") as file:
        file.write("i99\tnobody took it\t1999\n")
    of_items = {"item": ["item_id", "year"]} if reads_items else {}
    config_dict = {
        "data_path": str(folder),
        "MAX_ITEM_LIST_LENGTH": length,
        **filtering,
        "eval_args": {"order": "TO", "mode": "full", "group_by": "user", **split},
        "state": "ERROR",
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], **of_items},
    }
    ours_config = Config(model="FastSASRec", dataset="d", config_dict=dict(config_dict))
    config_dict["train_neg_sample_args"] = None
    theirs_config = Config(model="SASRec", dataset="d", config_dict=config_dict)
    try:
        ours = create_dataset(ours_config).build()
    except nestrec_recbole.NestRecError as error:
        assert re.search("left after filtering|two interactions", str(error))  # noqa: PT017
        return
    theirs = SequentialDataset(theirs_config).build()
    assert set(ours[0].field2id_token["item_id"]) == set(theirs[0].field2id_token["item_id"])
    for mine, reference in zip(ours, theirs, strict=True):
        assert rows(mine) == rows(reference)
        assert len(mine) == len(reference)


row = st.tuples(st.integers(0, 4), st.lists(st.integers(0, 9), min_size=1, max_size=7), st.integers(0, 9))


@ANYTIME
@given(parts=st.lists(st.lists(row, min_size=1, max_size=6), min_size=3, max_size=3))
def test_rows_of_benchmark_files_are_recboles(tmp_path_factory: Any, parts: Any) -> None:
    from recbole.config import Config

    place = tmp_path_factory.mktemp("data") / "d"
    place.mkdir()
    for name, lines in zip(("train", "valid", "test"), parts, strict=True):
        text = "".join(f"u{user}\t{' '.join(f'i{i}' for i in items)}\ti{item}\n" for user, items, item in lines)
        (place / f"d.{name}.inter").write_text("user_id:token\titem_id_list:token_seq\titem_id:token\n" + text)
    config_dict = {
        "data_path": str(place.parent),
        "benchmark_filename": ["train", "valid", "test"],
        "alias_of_item_id": ["item_id_list"],
        "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
        "state": "ERROR",
    }
    ours = create_dataset(Config(model="FastSASRec", dataset="d", config_dict=dict(config_dict))).build()
    config_dict["train_neg_sample_args"] = None
    theirs = SequentialDataset(Config(model="SASRec", dataset="d", config_dict=config_dict)).build()
    for mine, reference, lines in zip(ours, theirs, parts, strict=True):
        assert rows(mine) == rows(reference)
        assert len(mine) == len(reference) == len(lines)


@ANYTIME
@given(
    stretches=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 60)), min_size=1, max_size=6),
    length=st.integers(1, 20),
    seed=st.integers(0, 1000),
)
def test_windows_train_every_target_once_with_enough_context(stretches: Any, length: int, seed: int) -> None:
    table, at = [], 0
    for user, (before, targets) in enumerate(stretches):
        table.append((user, at, at + before, at + before + targets - 1))
        at += before + targets
    windows = cut_windows(np.array(table), length, np.random.default_rng(seed))
    trained = [t for _, _, first, last in windows.tolist() for t in range(first, last + 1)]
    assert sorted(trained) == [t for _, _, first, last in table for t in range(first, last + 1)]
    begins = {user: begin for user, begin, _, _ in table}
    for user, start, first, last in windows.tolist():
        assert 1 <= last - start <= length
        assert start >= begins[user]
        assert first - start >= min(-(-length // 2), first - begins[user])


def test_batches_hold_the_targets_of_their_windows(tmp_path: Any, make_config: Any) -> None:
    sequences = [list(range(n)) for n in (2, 3, 9, 40)]
    write_dataset(tmp_path / "data", "d", sequences)
    config = make_config("FastSASRec", "d", MAX_ITEM_LIST_LENGTH=8, train_batch_size=32)
    train, _, _ = create_dataset(config).build()
    loader = WindowLoader(config, train)
    pairs = []
    for batch in loader:
        history, target = batch["item_id_list"], batch["target_list"]
        assert history.numel() <= 32
        # each sequence counts upwards, so the item after an input is its target
        names = train.field2id_token["item_id"]
        for inputs, outputs in zip(history.tolist(), target.tolist(), strict=True):
            pairs += [(names[i], names[o]) for i, o in zip(inputs, outputs, strict=True) if o]
    assert all(int(o[1:]) == int(i[1:]) + 1 for i, o in pairs)
    assert len(pairs) == len(train)


def test_epochs_differ_and_can_be_replayed(tmp_path: Any, make_config: Any) -> None:
    write_dataset(tmp_path / "data", "d", [list(range(60))] * 4)
    train, _, _ = create_dataset(config := make_config("FastSASRec", "d", MAX_ITEM_LIST_LENGTH=8)).build()
    loader = WindowLoader(config, train)
    first, again, other = (np.concatenate(loader.plan(epoch)) for epoch in (0, 0, 1))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_a_row_takes_at_most_40_bytes(make_config: Any) -> None:
    whole = create_dataset(config := make_config("FastSASRec", "ml-100k"))
    train, _, _ = whole.build()
    columns = sum(column.nbytes for column in train.columns.values())
    shared = train.items.nbytes + train.times.nbytes + columns
    index = train.users.nbytes + train.starts.nbytes + train.ends.nbytes
    assert (shared + index) / len(train) <= 40
    assert config["MAX_ITEM_LIST_LENGTH"] == 50


@pytest.mark.parametrize("shuffle", [False, True])
def test_ties_keep_file_order_unless_shuffled(tmp_path: Any, make_config: Any, shuffle: bool) -> None:
    write_dataset(tmp_path / "data", "d", [list(range(30))], times=[[7] * 30])
    dataset = create_dataset(make_config("FastSASRec", "d", shuffle_ties=shuffle))
    dataset.build()
    assert (dataset.items.tolist() == sorted(dataset.items.tolist())) is not shuffle


def test_columns_may_have_other_names(tmp_path: Any, make_config: Any) -> None:
    place = write_dataset(tmp_path / "data", "named", [[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]])
    for kind in ("inter", "item"):
        file = place / f"named.{kind}"
        file.write_text(file.read_text().replace("item_id:", "movie_id:").replace("timestamp:", "when:"))
    names = {"ITEM_ID_FIELD": "movie_id", "TIME_FIELD": "when", "load_col": {"inter": ["user_id", "movie_id", "when"]}}
    for model in ("FastSASRec", "NestRec"):
        config = make_config(model, "named", epochs=1, **names)
        train, valid, test = data_preparation(config, create_dataset(config))
        trainer = get_trainer(config["MODEL_TYPE"], model)(config, get_model(model)(config, train.dataset))
        trainer.fit(train, valid, verbose=False, saved=False)
        trainer.evaluate(test, load_best_model=False)
        tokens = test.dataset.field2id_token["movie_id"][trainer.ranks.targets]
        assert sorted(tokens) == ["i3", "i4", "i5"]  # the last of each user, told by the column of times


def test_a_column_may_be_called_a_list(tmp_path: Any, make_config: Any) -> None:
    place = write_dataset(tmp_path / "data", "d", [[0, 1, 2, 3], [1, 2, 3, 0]])
    header, *lines = (place / "d.inter").read_text().splitlines()
    (place / "d.inter").write_text("\n".join([f"{header}\twish_list:float", *(f"{line}\t1" for line in lines)]) + "\n")
    columns = {"inter": ["user_id", "item_id", "timestamp", "wish_list"]}
    trainer, (_, valid, _) = prepare(make_config("FastSASRec", "d", load_col=columns))
    assert trainer.evaluate(valid, load_best_model=False)["ndcg@10"] > 0


@pytest.mark.parametrize("split", [{"RS": [0.8, 0.2]}, {"TS": [0.8, 0.2]}])
def test_ratios_are_three(split: dict[str, Any], tmp_path: Any, make_config: Any) -> None:
    write_dataset(tmp_path / "data", "d", [[0, 1, 2, 3]])
    with pytest.raises(NestRecError, match="expected three ratios, of training, validation and test"):
        create_dataset(make_config("FastSASRec", "d", eval_args={"split": split, "order": "TO"})).build()


@pytest.mark.parametrize(("times", "warned"), [([1, 2, 3, 4], True), ([1, 2, 2, 4], False)])
def test_ties_that_are_not_there_are_not_shuffled(
    times: list[int], warned: bool, tmp_path: Any, make_config: Any, caplog: pytest.LogCaptureFixture
) -> None:
    write_dataset(tmp_path / "data", "d", [[0, 1, 2, 3]], times=[times])
    create_dataset(make_config("FastSASRec", "d", shuffle_ties=True)).build()
    assert ("shuffle_ties changes nothing" in caplog.text) is warned


def written_out(folder: Path, **files: str) -> dict[str, Any]:
    """Benchmark files of (user, history, target), and the settings that read them."""
    place = folder / "data" / "d"
    place.mkdir(parents=True)
    for name, lines in files.items():
        (place / f"d.{name}.inter").write_text("user_id:token\titem_id_list:token_seq\titem_id:token\n" + lines)
    return {
        "benchmark_filename": list(files),
        "alias_of_item_id": ["item_id_list"],
        "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
    }


PARTS = {"train": "u\ta\tb\nv\tb\ta\n", "valid": "u\ta b\tc\n", "test": "u\ta b c\td\n"}


def test_nothing_is_filtered_out_of_benchmark_files(tmp_path: Path, make_config: Any) -> None:
    """What is test is told by where it stands in the table: with a row less, training would begin to eat it."""
    settings = written_out(tmp_path, **PARTS)
    (tmp_path / "data/d/d.item").write_text("item_id:token\tdomain:token\na\tk\nb\tf\nc\tf\nd\tf\n")
    with pytest.raises(NestRecError, match="'d': domains drops rows of its benchmark files"):
        create_dataset(make_config("FastSASRec", "d", **settings, domains=["f"]))
    for harmless in ({"domains": ["f", "k"]}, {"user_inter_num_interval": "[2,inf)"}):  # RecBole filters no such files
        kept = create_dataset(make_config("FastSASRec", "d", **settings, **harmless)).build()
        assert [len(part) for part in kept] == [2, 1, 1]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 0, 2, 1)])
def test_interactions_in_order_of_written_out_histories(
    order: tuple[int, ...], tmp_path: Path, make_config: Any
) -> None:
    lines = ["u\ta\tb\n", "v\tb\ta\n", "u\ta b\tc\n", "u\ta b c\td\n"]
    settings = written_out(tmp_path, **{**PARTS, "train": "".join(lines[number] for number in order)})
    train, *_ = create_dataset(make_config("FastSASRec", "d", **settings)).build()
    users, items = train.interactions(in_order=True)
    of = {name: [] for name in ("u", "v")}
    for user, item in zip(users, items, strict=True):
        of[train.field2id_token["user_id"][user]].append(train.field2id_token["item_id"][item])
    assert of == {"u": ["a", "b", "c", "d"], "v": ["b", "a"]} and (np.diff(users) != 0).sum() == 1


@pytest.mark.parametrize("left_out", [[], ["alias_of_item_id"], ["load_col"], ["alias_of_item_id", "load_col"]])
def test_benchmark_files_need_their_names_only(left_out: list[str], tmp_path: Path, make_config: Any) -> None:
    settings = {key: value for key, value in written_out(tmp_path, **PARTS).items() if key not in left_out}
    dataset = create_dataset(make_config("FastSASRec", "d", **settings))
    _, valid, test = dataset.build()
    assert dataset.item_num == 1 + 4  # histories and targets are the same items
    names = dataset.field2id_token["item_id"]
    assert [names[part.items[part.ends]].tolist() for part in (valid, test)] == [["c"], ["d"]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"alias_of_item_id": ["item_lst"]}, "alias_of_item_id 'item_lst'; did you mean 'item_id_list'"),
        (
            {"load_col": {"inter": ["user_id", "item_id"]}},
            "no column item_id_list:token_seq is read, of user_id, item_id",
        ),
    ],
)
def test_histories_that_are_not_read(given: dict[str, Any], message: str, tmp_path: Path, make_config: Any) -> None:
    settings = {"benchmark_filename": written_out(tmp_path, **PARTS)["benchmark_filename"], **given}
    with pytest.raises(NestRecError, match=message):
        create_dataset(make_config("FastSASRec", "d", **settings)).build()


def test_a_written_row_without_its_target(tmp_path: Path, make_config: Any) -> None:
    settings = written_out(tmp_path, **{**PARTS, "valid": "u\ta b\t\n"})
    with pytest.raises(NestRecError, match="row 3 lacks its user or its item"):
        create_dataset(make_config("FastSASRec", "d", **settings)).build()


def test_unused_columns_of_items_are_dropped(tmp_path: Path, make_config: Any) -> None:
    write_dataset(tmp_path / "data", "d", [[0, 1, 2, 3]])
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "year", "title"]}
    dataset = create_dataset(make_config("FastSASRec", "d", load_col=columns, unused_col={"item": ["year"]}))
    dataset.build()
    assert "title" in dataset.item_feat and "year" not in dataset.item_feat
    with pytest.raises(NestRecError, match=r"unknown column in unused_col.item 'yaer'; did you mean 'year'"):
        create_dataset(make_config("FastSASRec", "d", load_col=columns, unused_col={"item": ["yaer"]})).build()


@pytest.mark.parametrize(("separator", "encoding"), [("::", None), ("\xe9", None), ("\t", "utf-16"), ("|", "latin-1")])
def test_separators_and_encodings(separator: str, encoding: str | None, tmp_path: Path, make_config: Any) -> None:
    place = write_dataset(tmp_path / "data", "d", [[0, 1, 2, 3]], item_file=False)
    text = (
        (place / "d.inter")
        .read_text()
        .replace("\t", separator)
        .replace("u0", "\xfc\u0915" if encoding != "latin-1" else "\xfc")
    )
    (place / "d.inter").write_text(text, encoding=encoding or "utf-8")
    how = {"field_separator": separator, "encoding": encoding} if encoding else {"field_separator": separator}
    train, _, test = create_dataset(make_config("FastSASRec", "d", **how)).build()
    assert (len(train), len(test)) == (1, 1) and train.field2id_token["user_id"][1].startswith("\xfc")
    (place / "d.inter").write_text(text + separator.join("aib1") + "\n", encoding=encoding or "utf-8")
    with pytest.raises(NestRecError, match="line 6: 4 columns, expected 3"):
        create_dataset(make_config("FastSASRec", "d", **how))
