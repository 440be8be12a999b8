"""Benchmark files: what RecBole and our dataset load from them, and that a leak is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nestrec_recbole import NestRecError
from nestrec_recbole.convert import Filters, Options, Split, convert, sequences, table
from nestrec_recbole.convert.leaks import refuse_leaks
from nestrec_recbole.convert.splits import SPLITS
from nestrec_recbole.convert.staging import Staging

Rows = dict[str, list[dict[str, str]]]


def write_events(path: Path, n_users: int = 30, n_items: int = 12, length: int = 9) -> Path:
    """Users of different lengths; times rise within a user, and users overlap in time."""
    random = np.random.default_rng(0)
    lines = ["user_id,item_id,timestamp,rating"]
    for user in range(n_users):
        items = random.permutation(n_items)[: 2 + user % length]
        lines += [f"u{user},i{item},{100 * step + user},{1 + (user + step) % 5}" for step, item in enumerate(items)]
    path.write_text("\n".join(lines) + "\n")
    return path


def split_of(tmp_path: Path, split: Split, **filters: Any) -> Rows:
    source = tmp_path / "events.csv"
    if not source.exists():
        write_events(source)
    convert(table([source], rating="rating"), "d", Options(Filters(**filters), split=split), tmp_path)
    return {part: read_rows(tmp_path / "d" / f"d.{part}.inter") for part in split.parts}


def read_rows(path: Path) -> list[dict[str, str]]:
    header, *lines = path.read_text().splitlines()
    names = [column.split(":")[0] for column in header.split("\t")]
    return [dict(zip(names, line.split("\t"), strict=True)) for line in lines]


def targets(rows: list[dict[str, str]]) -> set[tuple[str, str]]:
    return {(row["user_id"], row["item_id"]) for row in rows}


def known(rows: list[dict[str, str]]) -> set[tuple[str, str]]:
    """(user, item) of the histories."""
    return {(row["user_id"], item) for row in rows for item in row["item_id_list"].split()}


def test_leave_one_out(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("u a b c d\nv a b\nw c\n")
    options = Options(split=Split("leave_one_out", max_history=2))
    report = convert(sequences(tmp_path / "s.txt"), "d", options, tmp_path)
    rows = {part: (tmp_path / "d" / f"d.{part}.inter").read_text().splitlines()[1:] for part in report["split"]["rows"]}
    assert rows == {"train": ["u\ta\tb\t1"], "valid": ["u\ta b\tc\t2"], "test": ["u\tb c\td\t3", "v\ta\tb\t1"]}


def test_temporal_cuts_everybody_at_the_same_moments(tmp_path: Path) -> None:
    rows = split_of(tmp_path, Split("temporal", (0.6, 0.2, 0.2)))
    times = {part: [int(row["timestamp"]) for row in found] for part, found in rows.items()}
    assert max(times["train"]) < min(times["valid"]) <= max(times["valid"]) < min(times["test"])
    total = sum(map(len, split_of(tmp_path, Split("temporal", (0.6, 0.2, 0.2), rows="pairs")).values()))
    assert total == len(read_rows(tmp_path / "d" / "d.inter"))


def test_stratified_temporal_cuts_each_user(tmp_path: Path) -> None:
    rows = split_of(tmp_path, Split("stratified_temporal", (0.5, 0.25, 0.25), rows="pairs"))
    of_user = {part: sum(row["user_id"] == "u6" for row in found) for part, found in rows.items()}
    assert of_user == {"train": 4, "valid": 2, "test": 2}  # u6 has eight


def test_user_holds_whole_users_out(tmp_path: Path) -> None:
    rows = split_of(tmp_path, Split("user", (0.6, 0.2, 0.2)))
    users = {part: {row["user_id"] for row in found} for part, found in rows.items()}
    assert [len(users[part]) for part in ("train", "valid", "test")] == [18, 6, 6]
    assert not users["train"] & users["valid"] and not (users["train"] | users["valid"]) & users["test"]
    assert len(rows["test"]) == 6  # the last item of each, from all before it
    (row,) = [row for row in rows["test"] if row["user_id"] == max(users["test"])]
    history = [r["item_id"] for r in read_rows(tmp_path / "d" / "d.inter") if r["user_id"] == row["user_id"]]
    assert [*row["item_id_list"].split(), row["item_id"]] == history


def test_new_users_against_known_users(tmp_path: Path) -> None:
    rows = split_of(tmp_path, Split("new_users", (0.6, 0.2, 0.2)))
    users = {part: {row["user_id"] for row in found} for part, found in rows.items()}
    assert len(users["test_new"]) == 6 and len(users["test"]) == 24
    assert not users["test_new"] & (users["train"] | users["valid"] | users["test"])
    assert users["train"] <= users["valid"] <= users["test"]


def test_item_holds_items_out_of_all_training_histories(tmp_path: Path) -> None:
    rows = split_of(tmp_path, Split("item", (0.5, 0.25, 0.25)))
    items = {part: {item for _, item in targets(found)} for part, found in rows.items()}
    trained = items["train"] | {item for _, item in known(rows["train"])}
    assert len(trained) == 6 and not trained & (items["valid"] | items["test"])
    assert {item for _, item in known(rows["test"])} <= trained


def test_stratified_by_column_keeps_the_shares(tmp_path: Path) -> None:
    rows = split_of(tmp_path, Split("stratified_by_column", (0.5, 0.25, 0.25), column="rating", rows="pairs"))
    rating = {(r["user_id"], r["item_id"]): r["rating"] for r in read_rows(tmp_path / "d" / "d.inter")}
    for value in set(rating.values()):
        total = sum(each == value for each in rating.values())
        trained = sum(rating[pair] == value for pair in targets(rows["train"]))
        assert abs(trained - total / 2) <= 1
    with pytest.raises(NestRecError, match="unknown column to stratify by 'ratng'; did you mean 'rating'"):
        split_of(tmp_path, Split("stratified_by_column", column="ratng"))


EVENTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 9)), min_size=5, max_size=40)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(events=EVENTS, seed=st.integers(0, 3))
@pytest.mark.parametrize("kind", SPLITS)
def test_histories_are_what_came_before(kind: str, events: list[Any], seed: int, tmp_path: Path) -> None:
    """Whatever the corpus, a split is written without a leak or not at all."""
    lines = "".join(f"u{u},i{i},{t},{t % 2}\n" for u, i, t in events)
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp,rating\n" + lines)
    column = "rating" if kind == "stratified_by_column" else None
    try:
        rows = split_of(tmp_path, Split(kind, column=column), deduplicate="first", seed=seed)
    except NestRecError as error:
        if "no row is left for" not in str(error):
            raise
        return
    place = {}
    for row in read_rows(tmp_path / "d" / "d.inter"):
        place[row["user_id"], row["item_id"]] = len(place)
    held_out = {pair for part, found in rows.items() if part != "train" for pair in targets(found)}
    for part, found in rows.items():
        for row in found:
            history = [place[row["user_id"], item] for item in row["item_id_list"].split()]
            assert history == sorted(history) and history[-1] < place[row["user_id"], row["item_id"]]
        if part == "train":
            assert not (known(found) | targets(found)) & held_out


@pytest.mark.parametrize(
    ("kind", "parts", "words"),
    [
        ("user", ["u\ta\tb\t1", "v\ta\tb\t1", "u\ta b\tc\t2"], "user_id u of d.test.inter is in d.train.inter too"),
        ("item", ["u\ta\tb\t1", "v\ta\tc\t1", "w\ta\tb\t2"], "item_id b of d.test.inter is in d.train.inter too"),
        ("item", ["u\tc\tb\t1", "v\ta\tc\t1", "w\ta\td\t2"], "of d.valid.inter is in a history of d.train.inter"),
        ("temporal", ["u\ta\tb\t5", "v\ta\tc\t5", "w\ta\td\t9"], "later than what d.valid.inter predicts at 5"),
        ("stratified_temporal", ["u\ta\tb\t6", "u\ta\tc\t5", "w\ta\td\t9"], "of user u at 6 is later"),
        ("stratified_by_column", ["u\ta\tb\t1", "u\ta\tc\t2", "u\ta\tb\t3"], "item_id u, b of d.test.inter"),
        ("leave_one_out", ["u\ta\tb\t1", "v\ta\tc\t2", "u\ta\tb\t1"], "timestamp u, b, 1.0 of d.test.inter"),
    ],
)
def test_a_leak_fails_loudly(kind: str, parts: list[str], words: str, tmp_path: Path) -> None:
    files = {part: tmp_path / f"d.{part}.inter" for part in ("train", "valid", "test")}
    header = "user_id:token\titem_id_list:token_seq\titem_id:token\ttimestamp:float\n"
    for path, line in zip(files.values(), parts, strict=True):
        path.write_text(header + line + "\n")
    with Staging(tmp_path, "500MB") as staging, pytest.raises(NestRecError, match="leak: .*" + words):
        refuse_leaks(staging, kind, files)


def test_repeated_interactions_leak(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp,rating\n" + "u,a,1,1\n" * 4)
    with pytest.raises(NestRecError, match=r"leak: .* remove repeated interactions"):
        split_of(tmp_path, Split("leave_one_out"))
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kind": "random"}, "unknown split 'random'"),
        ({"kind": "user", "ratios": (1.0, 0.0, 0.0)}, "expected three positive numbers"),
        ({"kind": "user", "column": "rating"}, "stratified_by_column takes one"),
        ({"kind": "stratified_by_column"}, "stratified_by_column takes one"),
        ({"kind": "user", "rows": "pears"}, "did you mean 'pairs'"),
        ({"kind": "user", "max_history": 0}, "max_history is 0"),
    ],
)
def test_splits_that_make_no_sense(given: dict[str, Any], words: str) -> None:
    with pytest.raises(NestRecError, match=words):
        Split(**given)


def test_temporal_needs_times_and_lists_need_plain_ids(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("u a b c\n")
    with pytest.raises(NestRecError, match="this corpus has no times"):
        convert(sequences(tmp_path / "s.txt"), "d", Options(split=Split("temporal")), tmp_path)
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp,rating\nu,a b,1,1\nu,c,2,1\nu,d,3,1\nu,e,4,1\n")
    with pytest.raises(NestRecError, match="an item id holds a space"):
        split_of(tmp_path, Split("leave_one_out"))
    assert len(split_of(tmp_path, Split("leave_one_out", rows="pairs"))["train"]) == 2


NO_NEGATIVES: dict[str, dict[str, Any]] = {"FastSASRec": {}, "SASRec": {"train_neg_sample_args": None}}


@pytest.mark.parametrize("model", list(NO_NEGATIVES))
@pytest.mark.parametrize("kind", ["temporal", "user", "new_users", "item"])
def test_recbole_loads_what_was_written(kind: str, model: str, tmp_path: Path, make_config: Callable[..., Any]) -> None:
    """FastSASRec comes with our dataset, SASRec with RecBole's, which adds nothing to rows that are written out."""
    from recbole.data import create_dataset
    from recbole.data.dataset import SequentialDataset

    write_events(tmp_path / "e.csv")
    split = Split(kind, (0.5, 0.25, 0.25))
    report = convert(table([tmp_path / "e.csv"]), "d", Options(split=split), tmp_path / "data")
    config = make_config(model, "d", **report["split"]["settings"], **NO_NEGATIVES[model])
    dataset = create_dataset(config) if model == "FastSASRec" else SequentialDataset(config)
    for part, loaded in zip(split.parts, dataset.build(), strict=False):
        rows = read_rows(tmp_path / "data" / "d" / f"d.{part}.inter")
        assert len(loaded) == len(rows) == report["split"]["rows"][part]
        batch = loaded[np.arange(len(rows))]
        users, items = (loaded.field2id_token[field] for field in ("user_id", "item_id"))
        for row, user, target, history in zip(
            rows, batch["user_id"], batch["item_id"], batch["item_id_list"], strict=True
        ):
            assert (users[user], items[target]) == (row["user_id"], row["item_id"])
            assert items[history[history > 0].numpy()].tolist() == row["item_id_list"].split()


def test_a_general_model_of_recbole_loads_pairs(tmp_path: Path, make_config: Callable[..., Any]) -> None:
    from recbole.data import create_dataset

    write_events(tmp_path / "e.csv")
    options = Options(split=Split("stratified_temporal", rows="pairs"))
    report = convert(table([tmp_path / "e.csv"]), "d", options, tmp_path / "data")
    config = make_config("BPR", "d", **report["split"]["settings"])
    parts = create_dataset(config).build()
    assert [len(part) for part in parts] == list(report["split"]["rows"].values())
