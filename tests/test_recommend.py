"""From a checkpoint to item tokens and titles."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_dataset

from nestrec_recbole import NestRecError, run_recbole
from nestrec_recbole.cli import main
from nestrec_recbole.recommend import Recommender
from nestrec_recbole.recommend.users import histories_of

CIRCLE = [[(start + step) % 12 for step in range(4 + start % 5)] for start in range(36)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """FastSASRec that knows the circle of 12 items by heart."""
    folder = tmp_path_factory.mktemp("trained")
    write_dataset(folder / "data", "circle", CIRCLE)
    settings = {"data_path": str(folder / "data"), "checkpoint_dir": str(folder / "saved"), "hidden_dropout_prob": 0.0}
    settings |= {"epochs": 60, "eval_step": 20, "learning_rate": 0.01, "show_progress": False, "state": "ERROR"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # RecBole writes its log where it stands
        patch.setattr(sys, "argv", ["pytest"])
        run_recbole("FastSASRec", "circle", config_dict=settings)
    (path,) = (folder / "saved").glob("*.safetensors")
    return str(path)


def test_recommends_the_next_item(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    recommender = Recommender.load(checkpoint)
    lists = recommender.recommend([["i3", "i4"], ["i10", "i11", "i0"]], k=3)
    assert [found[0][0] for found in lists] == ["i5", "i1"]
    assert all([score for _, score in found] == sorted((s for _, s in found), reverse=True) for found in lists)
    assert recommender.titles()["i5"] == "thing number 5" and "i3" not in recommender.titles()
    assert main(["recommend", checkpoint, "i3", "i4", "-k", "1"]) == 0
    token, score, title = capsys.readouterr().out.split("\t")
    assert (token, title) == ("i5", "thing number 5\n") and float(score) > 0


def test_many_histories_are_scored_some_at_a_time(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recommender = Recommender.load(checkpoint)
    histories = [[f"i{start}", f"i{(start + 1) % 12}"] for start in range(12)]
    together = recommender.recommend(histories, k=3)
    monkeypatch.setattr("nestrec_recbole.recommend.topk.CPU_SCORES", 30)
    in_pairs = recommender.recommend(histories, k=3)
    assert [[token for token, _ in found] for found in in_pairs] == [[token for token, _ in f] for f in together]


def test_seen_items_are_left_out_unless_wanted(checkpoint: str) -> None:
    recommender = Recommender.load(checkpoint)
    history = [f"i{(step + 7) % 12}" for step in range(11)]  # all but i6, which comes next
    assert [token for token, _ in recommender.recommend([history], k=50)[0]] == ["i6"]
    everything = recommender.recommend([history], k=50, exclude_seen=False)[0]
    assert len(everything) == 12 and "[PAD]" not in dict(everything)
    assert recommender.recommend([]) == []


@pytest.mark.parametrize(
    ("histories", "k", "words"),
    [
        ([[]], 3, "history 0 is empty"),
        ([["i1"], ["i1", "x9"]], 3, "history 1: item 'x9' is not in dataset 'circle'"),
        ([["[PAD]"]], 3, r"item '\[PAD\]' is not in dataset"),
        ([["i1"]], 0, "k is 0"),
        ([["i1"]], 1.5, "k is 1.5"),
        ([["i1"]], True, "k is True"),
        (["i1", "i2"], 3, "history 0 is 'i1': expected a list of items"),
    ],
)
def test_bad_requests(histories: Any, k: int, words: str, checkpoint: str) -> None:
    with pytest.raises(NestRecError, match=words):
        Recommender.load(checkpoint).recommend(histories, k=k)


def test_lists_hold_only_what_they_may(checkpoint: str) -> None:
    recommender = Recommender.load(checkpoint)
    every = recommender.recommend([["i1", "i2"]], k=50)[0]
    fewer = recommender.recommend([["i1", "i2"]], k=50, exclude=["i5", "i7"])[0]
    assert fewer == [one for one in every if one[0] not in ("i5", "i7")]
    given = {"only": (item for item in ["i3", "i2", "i4", "i5"]), "exclude": ["i5"]}
    assert {item for item, _ in recommender.recommend([["i1", "i2"]], k=50, **given)[0]} == {"i3", "i4"}
    assert recommender.recommend([["i1", "i2"]], only=[]) == [[]]
    assert recommender.recommend([["i1", "i2"]], only=np.array(["i3"]), exclude=np.array(["i4"]))[0][0][0] == "i3"
    assert [item for item, _ in recommender.recommend([["i1"]], only=["i3", "i99"], exclude=["i98"])[0]] == ["i3"]
    with pytest.raises(NestRecError, match="only: none of 1 items is in dataset 'circle', 'i99' the first"):
        recommender.recommend([["i1"]], only=["i99"])


def test_users_by_all_they_have_taken(checkpoint: str) -> None:
    recommender = Recommender.load(checkpoint)
    histories, times = histories_of(recommender.dataset, ["u1", "u3"])
    lists = recommender.recommend_users(["u1", "u3"], k=3, exclude_seen=False)
    expected = recommender.recommend(histories, k=3, times=times, users=["u1", "u3"], exclude_seen=False)
    assert lists == dict(zip(("u1", "u3"), expected, strict=True))


def test_every_history_has_its_user(checkpoint: str) -> None:
    recommender = Recommender.load(checkpoint)
    with pytest.raises(NestRecError, match="1 users for 2 histories"):
        recommender.recommend([["i1"], ["i2"]], users=["u1"])
    with pytest.raises(NestRecError, match="unknown user '7'"):
        recommender.recommend([["i1"]], users=[7])  # type: ignore[list-item]


def test_a_forward_has_no_more_histories_than_evaluation(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recommender = Recommender.load(checkpoint)
    recommender.dataset.config["eval_batch_size"] = 2
    predict, sizes = recommender.model.full_sort_predict, []
    monkeypatch.setattr(recommender.model, "full_sort_predict", lambda i: sizes.append(len(i)) or predict(i))
    recommender.recommend([["i1"]] * 5, k=1)
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize("model", ["FastSASRec", "SASRec"])
def test_items_that_have_other_numbers_by_now(model: str, tmp_path: Path) -> None:
    """RecBole numbers items as they come in the file: the same lines in another order are other items."""
    from nestrec_recbole.bench.run import train

    place = write_dataset(tmp_path / "data", "circle", CIRCLE)
    settings = {"data_path": str(tmp_path / "data"), "checkpoint_dir": str(tmp_path), "epochs": 1, "state": "ERROR"}
    path = tmp_path / "kept.safetensors"
    train(model, "circle", {**settings, "show_progress": False, "plot_curves": False}, path)
    Recommender.load(path)
    head, *rows = (place / "circle.inter").read_text().splitlines()
    (place / "circle.inter").write_text("\n".join([head, *sorted(rows)]) + "\n")
    with pytest.raises(NestRecError, match="or in another order"):
        Recommender.load(path)


def test_a_checkpoint_carries_its_own_settings(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["server", "--hidden_size=32", "--port=80"])
    assert Recommender.load(checkpoint).model.transformer.norm.weight.shape == (64,)


def test_data_is_found_from_other_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint says where the data was from the folder that trained it."""
    write_dataset(tmp_path / "data", "circle", CIRCLE)
    settings = {"data_path": "data", "epochs": 1, "show_progress": False, "state": "ERROR", "plot_curves": False}
    run_recbole("FastSASRec", "circle", config_dict=settings)
    (path,) = (tmp_path / "saved").glob("*.safetensors")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert len(Recommender.load(f"../saved/{path.name}").recommend([["i3"]], k=2)[0]) == 2


def test_nothing_is_written_and_data_may_have_moved(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "far" / "model.safetensors"
    moved.parent.mkdir()
    moved.write_bytes(Path(checkpoint).read_bytes())
    write_dataset(tmp_path / "elsewhere", "circle", CIRCLE)
    monkeypatch.chdir(moved.parent)
    monkeypatch.setattr("nestrec_recbole.plugin._near", lambda checkpoint, place: "/nowhere/circle")
    assert main(["recommend", str(moved), "i3", "i4", "-k", "1"]) == 2
    assert "or set `data_path`" in capsys.readouterr().err
    assert main(["recommend", str(moved), "i3", "i4", "-k", "1", "--data_path", str(tmp_path / "elsewhere")]) == 0
    assert capsys.readouterr().out.startswith("i5\t")
    assert [path.name for path in moved.parent.iterdir()] == ["model.safetensors"]


def test_ids_that_begin_with_a_dash_go_behind_two(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["recommend", checkpoint, "-abc"])
    assert "items that begin with - go behind --" in capsys.readouterr().err
    assert main(["recommend", checkpoint, "-k", "2", "--", "i3", "-abc"]) == 2
    assert "item '-abc' is not in dataset" in capsys.readouterr().err
    assert main(["recommend", checkpoint, "-k", "1", "--", "i3", "i4"]) == 0
    assert capsys.readouterr().out.startswith("i5\t")


def test_seen_items_are_listed_where_asked(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    listed = []
    for more in ([], ["--with-seen"]):
        assert main(["recommend", checkpoint, "i3", "i4", "-k", "50", *more]) == 0
        listed.append({line.split("\t")[0] for line in capsys.readouterr().out.splitlines()})
    assert listed[1] - listed[0] == {"i3", "i4"} and listed[0] < listed[1]
    assert main(["recommend", checkpoint, "i3", "--similar", "--with-seen"]) == 2
    assert "--similar is of no history" in capsys.readouterr().err


def write_later(folder: Path) -> Path:
    """The circle's data some days on: users in another order, a new user, a new item, and one step more for each."""
    later = [[(start + step) % 12 for step in range(5 + start % 5)] for start in range(36)]
    place = write_dataset(folder, "circle", [*later, [5, 6, 12], [12]])
    lines = (place / "circle.inter").read_text().splitlines()
    (place / "circle.inter").write_text("\n".join([lines[0], *sorted(lines[1:], reverse=True)]) + "\n")
    return folder


def test_histories_as_they_are_now(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    later = str(write_later(tmp_path / "later"))
    caplog.set_level("WARNING")  # RecBole sets the root logger's, and leaves it so
    recommender = Recommender.load(checkpoint)
    before = recommender.recommend_users(["u0"], k=1)["u0"][0][0]
    recommender.load_histories(later)
    lists = recommender.recommend_users(["u36", "u0", "u37"], k=1)
    assert before == "i4" and [found[0][0] for found in lists.values() if found] == ["i7", "i5"] and not lists["u37"]
    once = (item for item in ["i7", "i5"])  # users that are known, and those that are not, are asked apart
    assert [found[0][0] for found in recommender.recommend_users(["u36", "u0"], k=1, only=once).values()] == [
        "i7",
        "i5",
    ]
    assert main(["recommend", checkpoint, "--users", "u36", "u37", "-k", "1", "--histories-in", later]) == 0
    assert [line.split("\t")[:2] for line in capsys.readouterr().out.splitlines()] == [["u36", "i7"]]
    assert "2 of 4 interactions are with items that the model does not know" in caplog.text
    assert main(["recommend", checkpoint, "i1", "--histories-in", later]) == 2
    assert "--histories-in is of users" in capsys.readouterr().err


def test_a_checkpoint_says_what_to_do_with_newer_data(checkpoint: str, tmp_path: Path) -> None:
    with pytest.raises(NestRecError, match=r"other values of 'item_id'.*go on with these by `init_from`"):
        Recommender.load(checkpoint, str(write_later(tmp_path / "later")))


def test_similar_items_against_a_plain_reading(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    recommender = Recommender.load(checkpoint)
    tokens, vectors = recommender.item_vectors()
    assert sorted(tokens) == sorted(f"i{number}" for number in range(12)) and vectors.dtype == np.float32
    unit = dict(zip(tokens, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), strict=True))
    lists = recommender.similar_items(["i3", "i7"], k=20, exclude=["i1"])
    for item, found in zip(["i3", "i7"], lists, strict=True):
        cosines = {other: float(unit[item] @ unit[other]) for other in tokens if other not in (item, "i1")}
        assert [token for token, _ in found] == sorted(cosines, key=lambda token: -cosines[token])
        assert dict(found) == pytest.approx(cosines, abs=1e-5)
    assert recommender.similar_items(["i3"], only=["i3"]) == [[]] and recommender.similar_items([]) == []
    assert main(["recommend", checkpoint, "i3", "i7", "--similar", "-k", "1"]) == 0
    lines = [line.split("\t")[:2] for line in capsys.readouterr().out.splitlines()]
    assert lines == [["i3", recommender.similar_items(["i3"], k=1)[0][0][0]], ["i7", lines[1][1]]]
    with pytest.raises(NestRecError, match="items: item 'i99' is not in dataset 'circle'"):
        recommender.similar_items(["i99"])


def test_vectors_are_what_scores_are_made_of(checkpoint: str) -> None:
    recommender = Recommender.load(checkpoint)
    tokens, vectors = recommender.item_vectors()
    scores = dict(recommender.recommend([["i3", "i4"]], k=50)[0])
    items = torch.tensor([[recommender.catalogue.id_of["i3"], recommender.catalogue.id_of["i4"]]])
    with torch.no_grad():
        state = recommender.model.encode({recommender.model.ITEM_SEQ: items})[0, -1].numpy()
    assert scores == pytest.approx({t: float(state @ v) for t, v in zip(tokens, vectors, strict=True) if t in scores})


@pytest.mark.parametrize("name", ["users", "items", "only", "exclude"])
def test_one_text_is_no_list(name: str, checkpoint: str) -> None:
    recommender = Recommender.load(checkpoint)
    ask: dict[str, Any] = {"users": recommender.recommend_users, "items": recommender.similar_items}
    what = "users" if name == "users" else "items"
    with pytest.raises(NestRecError, match=f"{name} is 'i11': expected a list of {what}, not one"):
        ask[name]("i11") if name in ask else recommender.recommend([["i1"]], **{name: "i11"})
