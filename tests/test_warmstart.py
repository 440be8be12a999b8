"""Training goes on where data have grown: rows of id tables are found by token, whatever their numbers are now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_dataset

from nestrec_recbole import NestRecError
from nestrec_recbole.train.prepare import prepare

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


def test_splits_of_which_it_is_not_known_what_is_later(make: Make, tmp_path: Path) -> None:
    settings = {"benchmark_filename": ["train", "valid", "test"], "alias_of_item_id": ["item_id_list"]}
    settings["load_col"] = {"inter": ["user_id", "item_id_list", "item_id"]}
    rows = ["u1\ti1 i2\ti3", "u2\ti2 i3\ti1", "u3\ti1\ti2"]
    write(tmp_path, BEFORE)

    def write_parts(lines: list[str]) -> None:
        text = "\n".join(["user_id:token\titem_id_list:token_seq\titem_id:token", *lines]) + "\n"
        for part in ("train", "valid", "test"):
            (tmp_path / "data" / "shop" / f"shop.{part}.inter").write_text(text)

    write_parts(rows)
    old, _ = make("FastSASRec", **settings)
    write_parts(rows[::-1])
    with pytest.raises(NestRecError, match="benchmark_filename does not say whether what is held out now was in them"):
        make("FastSASRec", **settings, init_from=old.saved_model_file)
