"""Training goes on where data have grown: rows of id tables are found by token, whatever their numbers are now."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_dataset

from nestrec_recbole import NestRecError
from nestrec_recbole.train.prepare import configure, prepare
from nestrec_recbole.train.trainer import last_checkpoint

Make = Callable[..., Any]
BEFORE = [[(start + step) % 9 for step in range(5)] for start in range(9)]
LATER = [*reversed([[*history, history[0]] for history in BEFORE]), [9, 10, 3, 4]]
QUICK = {"epochs": 1, "hidden_size": 8, "n_heads": 1}


@pytest.fixture
def make(make_config: Make, tmp_path: Path) -> Make:
    """A function (model, **settings) -> trainer and training data; ``write`` the files first."""

    def make_one(model: str, **settings: Any) -> tuple[Any, Any]:
        config = make_config(model, "shop", checkpoint_dir=str(tmp_path / "saved"), **{**QUICK, **settings})
        trainer, (train, valid, _) = prepare(config)
        if "init_from" not in settings:
            trainer.fit(train, valid)
        return trainer, train.dataset

    return make_one


def write(folder: Path, sequences: list[list[int]], named: Callable[[int], int] = lambda user: user) -> None:
    """The shop's files; ``named`` says which user the sequences are of, and lines come in the order of time."""
    place = folder / "data" / "shop"
    if not place.is_dir():
        write_dataset(folder / "data", "shop", [list(range(11))])
    rows = [(named(user), item, step) for user, items in enumerate(sequences) for step, item in enumerate(items)]
    lines = [f"u{user}\ti{item}\t{1_600_000_000 + step}" for user, item, step in rows]
    (place / "shop.inter").write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *lines]) + "\n")


def rows_by_token(trainer: Any, dataset: Any, table: str, field: str) -> dict[str, np.ndarray]:
    return dict(zip(dataset.field2id_token[field], trainer.model.state_dict()[table].numpy(), strict=True))


@pytest.mark.parametrize(
    ("model", "settings", "tables"),
    [
        ("FastSASRec", {}, {"item_embedding.weight": "item_id"}),
        (
            "MultimodalRec",
            {"item_fields": {"year": {"modality": "number"}}, "mlp_widths": [8], "use_users": True},
            {"id_embedding.weight": "item_id", "user_embedding.weight": "user_id"},
        ),
        ("NestRec", {"item_fields": {"year": {"modality": "number"}}}, {"id_embedding.weight": "item_id"}),
    ],
)
def test_what_is_known_keeps_its_rows(
    model: str, settings: dict[str, Any], tables: dict[str, str], make: Make, tmp_path: Path
) -> None:
    write(tmp_path, BEFORE)
    old, old_data = make(model, **settings)
    assert old.model.id_tables() == tables
    write(tmp_path, LATER, named=lambda user: 8 - user)
    fresh, new_data = make(model, **settings, init_from=old.saved_model_file)
    for table, field in tables.items():
        before, after = rows_by_token(old, old_data, table, field), rows_by_token(fresh, new_data, table, field)
        assert before.keys() < after.keys() and list(before) != list(after)[: len(before)]
        assert all(np.array_equal(before[token], after[token]) for token in before)
    others = {name: t for name, t in old.model.state_dict().items() if name not in tables}
    assert all(torch.equal(weight, fresh.model.state_dict()[name]) for name, weight in others.items())


def test_rows_of_new_items_are_those_of_a_fresh_model(make: Make, tmp_path: Path) -> None:
    write(tmp_path, BEFORE)
    old, _ = make("FastSASRec")
    write(tmp_path, LATER)
    (started, data), (fresh, _) = (make("FastSASRec", init_from=path) for path in (old.saved_model_file, None))
    rows, untouched = (rows_by_token(one, data, "item_embedding.weight", "item_id") for one in (started, fresh))
    same = {token for token in rows if np.array_equal(rows[token], untouched[token])}
    assert same == {"[PAD]", "i9", "i10"}


def test_features_that_stand_for_other_values(make: Make, tmp_path: Path) -> None:
    settings = {"item_fields": {"title": {"modality": "category"}}}
    write(tmp_path, BEFORE)
    old, _ = make("ItemQFormer", **settings)
    write(tmp_path, LATER)
    make("ItemQFormer", **settings, init_from=old.saved_model_file)
    items = tmp_path / "data" / "shop" / "shop.item"
    items.write_text(items.read_text().replace("thing number 1\t", "another thing\t"))
    with pytest.raises(NestRecError, match=r"item_fields\.title stand for other values"):
        make("ItemQFormer", **settings, init_from=old.saved_model_file)


def write_parts(folder: Path, **parts: list[str]) -> None:
    for part, lines in parts.items():
        text = "\n".join(["user_id:token\titem_id_list:token_seq\titem_id:token", *lines]) + "\n"
        (folder / "data" / "shop" / f"shop.{part}.inter").write_text(text)


BENCHMARK = {
    "benchmark_filename": ["train", "valid", "test"],
    "alias_of_item_id": ["item_id_list"],
    "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
}


def test_benchmark_files_that_are_split_otherwise(make: Make, tmp_path: Path) -> None:
    """The same tokens, numbered alike, but what was trained on is tested now."""
    rows = ["u1\ti1 i2\ti3", "u2\ti2 i3\ti4", "u3\ti4 i1\ti2"]
    write(tmp_path, BEFORE)
    write_parts(tmp_path, train=[*rows, "u1\ti1\ti2"], valid=rows[:1], test=rows[1:2])
    old, _ = make("FastSASRec", **BENCHMARK)
    trainer, train = make("FastSASRec", **BENCHMARK, init_from=old.saved_model_file)
    fit(trainer, train)  # what is validated was trained on here too, which the files say
    write_parts(tmp_path, train=["u1\ti1\ti2", *rows[2:]], valid=rows[:1], test=rows[1:2])
    trainer, train = make("FastSASRec", **BENCHMARK, init_from=old.saved_model_file)
    with pytest.raises(NestRecError, match=r"was trained on [1-9] interactions that are held out here"):
        fit(trainer, train)


def fit(trainer: Any, train: Any) -> None:
    from nestrec_recbole.data.loader import WindowLoader

    trainer.fit(WindowLoader(trainer.config, train, None, shuffle=True), None, saved=False)


@pytest.mark.parametrize("cut", [0, 1])
def test_files_that_are_older_than_the_checkpoint(cut: int, make: Make, tmp_path: Path) -> None:
    write(tmp_path, LATER)
    old, _ = make("FastSASRec")
    write(tmp_path, [history[: len(history) - cut] for history in LATER])
    trainer, train = make("FastSASRec", init_from=old.saved_model_file)
    if cut:
        with pytest.raises(NestRecError, match=r"was trained on .* interactions that are held out here"):
            fit(trainer, train)
    else:
        fit(trainer, train)


def test_what_started_from_a_checkpoint_knows_what_that_knew(make: Make, tmp_path: Path) -> None:
    write(tmp_path, BEFORE)
    first, _ = make("FastSASRec")
    write(tmp_path, [*LATER[:-1]])
    second, train = make("FastSASRec", init_from=first.saved_model_file)
    fit(second, train)
    second._save_checkpoint(0)
    write(tmp_path, [[item, *history[:-1]] for item, history in zip(range(9), BEFORE, strict=True)])
    third, train = make("FastSASRec", init_from=second.saved_model_file)
    with pytest.raises(NestRecError, match="interactions that are held out here"):
        fit(third, train)


def test_ties_are_shuffled_alike_whatever_comes_in(make: Make, tmp_path: Path) -> None:
    def order_of(sequences: list[list[int]]) -> list[str]:
        write(tmp_path, sequences)
        path = tmp_path / "data" / "shop" / "shop.inter"
        path.write_text("".join(re.sub(r"\t\d+$", "\t7", line) + "\n" for line in path.read_text().splitlines()))
        _, data = make("FastSASRec", shuffle_ties=True, epochs=1)
        user = data.field2token_id["user_id"]["u1"]
        return data.field2id_token["item_id"][data.items[data.owners == user]].tolist()

    once = order_of(BEFORE)
    assert sorted(once) != once and order_of([*BEFORE, [3, 4, 5]]) == once


@pytest.mark.parametrize("key", ["hidden_items", "eval_args"])
def test_weights_that_were_told_otherwise_what_to_leave_out(key: str, make: Make, tmp_path: Path) -> None:
    other = {"hidden_items": 0.3, "eval_args": {"split": {"LS": "test_only"}}}[key]
    write(tmp_path, LATER)
    trained, _ = make("FastSASRec", checkpoint_last=True)
    fresh, _ = make("FastSASRec", **{key: other}, init_from=None)
    with pytest.raises(NestRecError, match=f"its {key} is .*: it may know what is held out"):
        fresh.resume_checkpoint(str(last_checkpoint(trained.saved_model_file)))


def test_other_settings_of_the_same_model_are_told(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, BEFORE)
    caplog.set_level("WARNING")  # RecBole sets the root logger's, and leaves it so
    old, _ = make("FastSASRec", cosine=True, temperature=0.1)
    make("FastSASRec", cosine=True, temperature=0.1, learning_rate=0.1, init_from=old.saved_model_file)
    assert "other settings" not in caplog.text
    make("FastSASRec", cosine=True, temperature=0.2, init_from=old.saved_model_file)
    assert "was trained with other settings: temperature: 0.1, here 0.2" in caplog.text


@pytest.mark.parametrize("encoder", ["fourier", "log1p"])
def test_numbers_that_others_change_the_features_of(encoder: str, make: Make, tmp_path: Path) -> None:
    settings = {"item_fields": {"year": {"modality": "number", "encoder": encoder}}}
    write(tmp_path, BEFORE)
    old, _ = make("ItemQFormer", **settings)
    items = tmp_path / "data" / "shop" / "shop.item"
    items.write_text(items.read_text() + "i99\tlate\t99999\n")
    if encoder == "log1p":
        make("ItemQFormer", **settings, init_from=old.saved_model_file)
    else:
        with pytest.raises(NestRecError, match=r"item_fields\.year stand for other values"):
            make("ItemQFormer", **settings, init_from=old.saved_model_file)


def test_what_is_held_out_of_pretraining_stays_so(make: Make, tmp_path: Path) -> None:
    settings = {"item_fields": {"year": {"modality": "number", "encoder": "log1p"}}, "held_out_items": 0.4}

    def held_out(**more: Any) -> set[str]:
        trainer, data = make("ItemPretraining", **settings, **more)
        return set(data.field2id_token["item_id"][trainer.model.held_out.numpy()])

    write(tmp_path, BEFORE)
    before = held_out()
    write(tmp_path, LATER)
    after = held_out(seed=7)
    assert before and after - {"i9", "i10"} == before


def test_domains_of_other_names(make: Make, tmp_path: Path) -> None:
    settings = {"target_domain": "shoes", "train_batch_size": 64}

    def name_domains(other: str) -> None:
        lines = [f"i{item}\t{'shoes' if item % 2 else other}" for item in range(11)]
        text = "\n".join(["item_id:token\tdomain:token", *lines]) + "\n"
        (tmp_path / "data" / "shop" / "shop.item").write_text(text)

    write(tmp_path, LATER)
    name_domains("office")
    old, _ = make("TriGRecUser", **settings)
    make("TriGRecUser", **settings, init_from=old.saved_model_file)
    name_domains("zoo")
    with pytest.raises(NestRecError, match="the items are of other domains than when this was trained"):
        make("TriGRecUser", **settings, init_from=old.saved_model_file)


def test_recboles_models_start_from_nothing(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, BEFORE)
    caplog.set_level("WARNING")
    config = make("FastSASRec")[0].config
    given = {"data_path": str(tmp_path / "data"), "epochs": 1, "show_progress": False, "state": "ERROR"}
    given |= {"train_neg_sample_args": None, "hidden_size": 8, "n_heads": 1, "n_layers": 1}
    with pytest.raises(NestRecError, match="init_from has no effect on GRU4Rec, a model of RecBole's"):
        prepare(configure("GRU4Rec", "shop", {**given, "init_from": config["checkpoint_dir"]}))
    prepare(configure("GRU4Rec", "shop", {**given, "cosine": True, "ema_decay": 0.9}))
    assert "no effect on GRU4Rec, a model of RecBole's: cosine, ema_decay" in caplog.text


def test_new_items_start_beside_what_they_are_taken_with(make: Make, tmp_path: Path) -> None:
    """Four groups; then the users of each take a new item of their own."""
    groups = [[*range(first, first + 5)] for first in (100, 200, 300, 400)]
    draws = np.random.default_rng(0)
    before = [draws.permutation(groups[user % 4]).tolist() for user in range(60)]
    later = [[*items, 500 + user % 4, *draws.permutation(groups[user % 4])[:3]] for user, items in enumerate(before)]
    write(tmp_path, before)
    settings = {"item_start": "cooccurrence", "hidden_size": 64, "epochs": 10, "learning_rate": 0.01}
    old, _ = make("FastSASRec", **settings)
    write(tmp_path, later)
    for start, is_beside in (("random", False), ("cooccurrence", True)):
        fresh, data = make("FastSASRec", **{**settings, "item_start": start}, init_from=old.saved_model_file)
        rows = rows_by_token(fresh, data, "item_embedding.weight", "item_id")
        vectors = {token: row / np.linalg.norm(row) for token, row in rows.items() if token != "[PAD]"}
        nearest = []
        for number in range(len(groups)):
            likeness = [np.mean([vectors[f"i{500 + number}"] @ vectors[f"i{item}"] for item in own]) for own in groups]
            nearest.append(int(np.argmax(likeness)) == number and likeness[number] > 0.15)
        assert all(nearest) is is_beside
