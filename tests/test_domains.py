"""Datasets of two domains: what is split off, what is visible, and what may be recommended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_dataset
from recbole.data import create_dataset

from nestrec_recbole import NestRecError
from nestrec_recbole.convert import convert, join
from nestrec_recbole.data.atomic import read_header
from nestrec_recbole.layers.full_softmax import full_softmax
from nestrec_recbole.train.checkpoint import _given
from nestrec_recbole.train.prepare import prepare

# One user a line, oldest first: f is food, k is kitchen.
HISTORIES = {
    "a": "f1 k1 f2 k2 f3 k3 f4 k4 k5",
    "b": "k1 k2 f1 f2 k3 f5",
    "c": "f4 f3 k1 f2",
    "few": "k1 f1 k2 f2 k4",
    "alone": "f1 f2 f3 f4",
    "kitchen": "k1 k2 k3 k5",
}


def write(folder: Path, histories: dict[str, str] = HISTORIES, name: str = "shop") -> None:
    place = folder / name
    place.mkdir(parents=True)
    rows = [(user, item, 100 + t) for user, row in histories.items() for t, item in enumerate(row.split())]
    items = sorted({item for _, item, _ in rows})
    lines = ["user_id:token\titem_id:token\ttimestamp:float"] + [f"{u}\t{i}\t{t}" for u, i, t in reversed(rows)]
    (place / f"{name}.inter").write_text("\n".join(lines) + "\n")
    lines = ["item_id:token\tdomain:token"] + [f"{i}\t{'food' if i[0] == 'f' else 'kitchen'}" for i in items]
    (place / f"{name}.item").write_text("\n".join(lines) + "\n")


@pytest.fixture
def shop(tmp_path: Path, make_config: Any) -> Any:
    write(tmp_path / "data")

    def build(**settings: Any) -> Any:
        return create_dataset(make_config("FastSASRec", "shop", **{"target_domain": "food", **settings}))

    return build


def rows(part: Any) -> set[tuple[str, str, str]]:
    """User, history and target of each row, in tokens."""
    user, item = part.field2id_token["user_id"], part.field2id_token["item_id"]
    return {
        (str(user[u]), " ".join(item[part.items[s:e]]), str(item[part.items[e]]))
        for u, s, e in zip(part.users, part.starts, part.ends, strict=True)
    }


def expected(order: str = "strict") -> list[set[tuple[str, str, str]]]:
    """The same by hand: a loop over users."""
    train, valid, test = set(), set(), set()
    for user, text in HISTORIES.items():
        history = text.split()
        food = [i for i in history if i[0] == "f"]
        held = food[-2:] if len(food) >= 3 else []
        if order == "original":
            history = [i for i in history if i not in held] + held
        until = history.index(held[0]) if held else len(history)
        train |= {(user, " ".join(history[:t]), history[t]) for t in range(1, until)}
        for part, target in zip((valid, test), held, strict=False):
            part.add((user, " ".join(history[: history.index(target)]), target))
    return [train, valid, test]


@pytest.mark.parametrize("protocol", ["strict", "original"])
def test_the_split_is_that_of_a_loop_over_users(protocol: str, shop: Any) -> None:
    assert [rows(part) for part in shop(protocol=protocol).build()] == expected(protocol)


def test_nothing_of_the_source_that_is_later_than_the_target_is_visible(shop: Any) -> None:
    train, valid, test = (rows(part) for part in shop().build())
    assert ("a", "f1 k1 f2 k2 f3 k3", "f4") in test and ("a", "f1 k1 f2 k2", "f3") in valid
    assert not any("k4" in history or "k5" in history for _, history, _ in test | valid)
    seen = {item for user, history, target in train if user == "a" for item in (*history.split(), target)}
    assert seen == {"f1", "k1", "f2", "k2"}  # k3 is before the test target, and after the validation target


def test_original_shows_the_future_and_says_so(shop: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")  # RecBole sets that of all loggers, and leaves it so
    _, _, test = (rows(part) for part in shop(protocol="original").build())
    assert ("a", "f1 k1 f2 k2 k3 k4 k5 f3", "f4") in test
    assert "a leak" in caplog.text
    caplog.clear()
    shop()
    assert "leak" not in caplog.text


def test_target_alone_has_the_same_targets(shop: Any) -> None:
    """So that runs with and without the source domain can be compared user by user."""
    both, alone = shop().build(), shop(domains=["food"]).build()
    for one, other in zip(both[1:], alone[1:], strict=True):
        assert {(u, t) for u, _, t in rows(one)} == {(u, t) for u, _, t in rows(other)}
    assert not any("k" in history for _, history, _ in rows(alone[2]))
    assert shop(domains="food").item_num == 6  # f1..f5 and padding


def test_only_the_target_domain_is_rankable(shop: Any) -> None:
    dataset = shop()
    tokens = dataset.field2id_token["item_id"]
    assert sorted(tokens[dataset.rankable]) == sorted(t for t in tokens[1:] if t[0] == "f")
    assert not dataset.rankable[0] and shop(target_domain=None).rankable is None
    assert dataset.build()[2].rankable is not None


@pytest.mark.parametrize(
    ("model", "loss"), [("FastSASRec", "own"), ("FastSASRec", "all"), ("FastSASRec", "target"), ("NestRec", "own")]
)
def test_any_model_ranks_and_recommends_the_target_domain_only(
    model: str, loss: str, tmp_path: Path, make_config: Any
) -> None:
    from nestrec_recbole.recommend import Recommender

    write(tmp_path / "data")
    small = {"hidden_size": 16, "n_heads": 2, "inner_size": 32, "epochs": 1, "target_domain": "food"}
    small |= {"item_fields": {"domain": {"modality": "category"}}} if model == "NestRec" else {}
    trainer, (train, valid, test) = prepare(make_config(model, "shop", domain_loss=loss, metrics=["NDCG"], **small))
    trainer.fit(train, valid, verbose=False)
    trainer.evaluate(test)
    n_food = 5
    assert (trainer.ranks.rank <= n_food).all()
    lists = Recommender(trainer.model, test.dataset).recommend([["k1", "k2"], ["f1"]], k=20)
    assert [len(one) for one in lists] == [n_food, n_food - 1]
    assert all(token[0] == "f" for one in lists for token, _ in one)


def test_metrics_of_lists_count_the_target_domain(tmp_path: Path, make_config: Any) -> None:
    """All five items of the target domain are in each list: the catalogue is covered, evenly."""
    write(tmp_path / "data")
    settings = {"target_domain": "food", "metrics": ["NDCG", "ItemCoverage", "GiniIndex", "Novelty"], "topk": [5, 10]}
    trainer, (train, valid, test) = prepare(make_config("FastSASRec", "shop", epochs=1, **settings))
    trainer.fit(train, valid, verbose=False)
    values = trainer.evaluate(test)
    tokens = train.dataset.field2id_token["item_id"]
    counts = {tokens[item]: count for item, count in train.dataset.item_counter.items() if tokens[item][0] == "f"}
    assert values["itemcoverage@5"] == pytest.approx(5 / 6, abs=1e-4)  # RecBole counts the padding item
    assert values["giniindex@5"] == pytest.approx(1 / 6, abs=1e-4)  # of counts 0, n, n, n, n, n
    taken = [max(counts.get(f"f{number}", 0), 1) / sum(counts.values()) for number in range(1, 6)]
    assert values["novelty@5"] == pytest.approx(-np.log2(taken).mean(), abs=1e-4)


def test_own_domain_softmax_by_hand(shop: Any, make_config: Any) -> None:
    """Each target against the items of its domain: the plain softmax over that part of the catalogue."""
    _, (train, _, _) = prepare(make_config("FastSASRec", "shop", target_domain="food"))
    of_item = torch.from_numpy(train.dataset.domains.of_item)
    torch.manual_seed(0)
    states, table = torch.randn(6, 4, dtype=torch.float64), torch.randn(len(of_item), 4, dtype=torch.float64)
    targets = torch.tensor([1, 2, 3, 7, 8, 10])
    logits = states @ table.T
    others = (of_item != of_item[targets][:, None]).to(logits.device)
    value = -torch.log_softmax(logits.masked_fill(others, -torch.inf), dim=1)[torch.arange(6), targets]
    counted = value[of_item[targets] == 1].mean()
    for which, expected_loss in (
        ("own", value.mean()),
        ("target", counted),
        ("all", full_softmax(states, table, targets)),
    ):
        trainer, _ = prepare(make_config("FastSASRec", "shop", target_domain="food", domain_loss=which))
        torch.testing.assert_close(trainer.model.objective(states, table, targets), expected_loss)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target_domain": "fod"}, "unknown target_domain 'fod'; did you mean 'food'?"),
        ({"domains": ["fod"]}, "unknown domain in `domains` 'fod'; did you mean 'food'?"),
        ({"domain_field": "domian"}, "no column 'domian'"),
        ({"protocol": "orginal"}, "config key 'protocol' is 'orginal'; expected one of strict, original"),
        (
            {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "uni50"}},
            "eval_args.mode is 'uni50' for valid: its negatives are of all domains; set full",
        ),
        ({"loss": "gbce"}, "loss 'gbce' is over all domains; set domain_loss: all, or loss: full_softmax"),
        ({"eval_args": {"split": {"RS": [8, 1, 1]}, "order": "TO"}}, "target_domain: its split is leave-one-out"),
    ],
)
def test_bad_settings(settings: dict[str, Any], words: str, shop: Any) -> None:
    with pytest.raises(NestRecError) as caught:
        shop(**settings)
    assert words in str(caught.value)


@pytest.mark.parametrize("target", [0, "1"])
def test_domains_may_be_called_by_numbers(target: Any, shop: Any, tmp_path: Path) -> None:
    path = tmp_path / "data/shop/shop.item"
    path.write_text(path.read_text().replace("food", "0").replace("kitchen", "1"))
    dataset = shop(target_domain=target)
    assert {str(token)[0] for token in dataset.field2id_token["item_id"][dataset.rankable]} == {"fk"[int(target)]}
    alone = shop(target_domain=None, domains=[target])
    assert {str(token)[0] for token in alone.field2id_token["item_id"][1:]} == {"fk"[int(target)]}
    assert _given("target_domain", 0) == _given("target_domain", "0") == "0"
    assert _given("target_domain", None) is _given("hidden_items", 0.0) is None


def test_an_item_without_domain_is_named(shop: Any, tmp_path: Path) -> None:
    path = tmp_path / "data" / "shop" / "shop.item"
    path.write_text(path.read_text().replace("k3\tkitchen\n", ""))
    with pytest.raises(NestRecError, match=r"shop.item: item 'k3' has no 'domain'"):
        shop()


def test_pickles_of_unknown_order_are_refused_for_the_second_domain(
    tmp_path: Path, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TriGRec's pickles leave open which domain's last items came later; the first domain is put first."""
    import pickle

    from nestrec_recbole.convert import convert, pickles

    food, kitchen = {1: [1, 2, 3, 4]}, {1: [11, 12, 13, 14]}
    merged = {1: [1, 11, 2, 12, 13, 14]}, {1: [1, 11, 2, 12, 3, 4]}
    for name, content in (("food", food), ("kitchen", kitchen), ("f", merged[0]), ("k", merged[1])):
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(content))

    def build(first: str, second: str, target: str) -> Any:
        paths = [tmp_path / f"{name}.pkl" for name in (first, second)]
        corpus = pickles(paths, merged=[tmp_path / "f.pkl", tmp_path / "k.pkl"])
        convert(corpus, f"from_{first}", data_path=tmp_path / "data")
        return create_dataset(make_config("FastSASRec", f"from_{first}", target_domain=target))

    assert rows(build("food", "kitchen", "food").build()[2]) == {("1", "1 11 2 12 3", "4")}
    assert rows(build("kitchen", "food", "kitchen").build()[2]) == {("1", "1 11 2 12 13", "14")}
    with pytest.raises(NestRecError, match="convert the pickles again with 'kitchen' as first domain"):
        build("food", "kitchen", "kitchen")


def test_domain_file_with_numpy_tokens(shop: Any) -> None:
    domains = shop().domains
    assert domains.names == ("food", "kitchen") and domains.target == 1 and domains.of_item[0] == 0
    assert np.bincount(domains.of_item).tolist() == [1, 5, 5]


def test_joining_two_datasets_on_their_users(tmp_path: Path, make_config: Any) -> None:
    """Users of one domain only stay, histories are merged in time, and equal ids are told apart."""
    from nestrec_recbole.cli import main

    data = tmp_path / "data"
    for name, interactions, items in (
        ("food", "u1\t1\t10 u1\t2\t30 u1\t3\t50 only\t1\t5 only\t2\t6", "1\ttea\t2 2\tsalt\t3 3\tcorn\t"),
        ("pots", "u1\t1\t20 u1\t7\t40", "1\ttea pot\tred 7\tpan\tblue"),
    ):
        (data / name).mkdir(parents=True)
        lines = ["user_id:token\titem_id:token\ttimestamp:float", *interactions.split(" ")]
        (data / name / f"{name}.inter").write_text("\n".join(lines) + "\n")
        fields = "price:float" if name == "food" else "colour:token"
        rows_of_items = items.replace(" pot", "_pot").split(" ")
        lines = [f"item_id:token\ttitle:token_seq\t{fields}", *rows_of_items]
        (data / name / f"{name}.item").write_text("\n".join(lines) + "\n")
    folders = [str(data / "food"), str(data / "pots")]
    assert main(["convert", "join", *folders, "--name", "both", "--data-path", str(data)]) == 0
    assert (data / "both" / "both.inter").read_text().splitlines()[1:] == [
        "only\tfood:1\t5", "only\tfood:2\t6",
        "u1\tfood:1\t10", "u1\tpots:1\t20", "u1\tfood:2\t30", "u1\tpots:7\t40", "u1\tfood:3\t50",
    ]  # fmt: skip
    header, *rows_read = (data / "both" / "both.item").read_text().splitlines()
    assert header.split("\t") == [
        "item_id:token", "domain:token", "title:token_seq", "price:float", "colour:token",
    ]  # fmt: skip
    assert rows_read[0].split("\t") == ["food:1", "food", "tea", "2.0", ""]
    assert rows_read[-1].split("\t") == ["pots:7", "pots", "pan", "", "blue"]
    dataset = create_dataset(make_config("FastSASRec", "both", target_domain="food"))
    assert rows(dataset.build()[2]) == {("u1", "food:1 pots:1 food:2 pots:7", "food:3")}


def test_reviews_are_not_joined(tmp_path: Path) -> None:
    """They were chosen for the split of one side, and may be of what is predicted in the other."""
    for name in ("food", "pots"):
        write_dataset(tmp_path, name, [[0, 1, 2]])
        path = tmp_path / name / f"{name}.item"
        header, *lines = path.read_text().splitlines()
        path.write_text("\n".join([f"{header}\treview:token_seq", *(f"{line}\tfine" for line in lines)]) + "\n")
    folders = [tmp_path / "food", tmp_path / "pots"]
    for options, there in (({"review_text": 3}, False), ({}, True)):
        for folder in folders:
            (folder / "dataset.json").write_text(json.dumps({"time_unit": "s", "options": options}))
        convert(join(folders), "both", data_path=tmp_path)
        assert ("review" in read_header(tmp_path / "both" / "both.item")) is there


def test_pictures_of_joined_datasets_are_found(tmp_path: Path) -> None:
    from nestrec_recbole.cli import main

    data = tmp_path / "data"
    for name, image in (("food", "images/1.png"), ("pots", "/elsewhere/7.png")):
        (data / name).mkdir(parents=True)
        rows = [f"u{user}\t{name}{user}\t{user}" for user in range(3)]
        lines = ["user_id:token\titem_id:token\ttimestamp:float", *rows]
        (data / name / f"{name}.inter").write_text("\n".join(lines) + "\n")
        lines = ["item_id:token\timage:token", f"{name}0\t{image}", f"{name}1\t", f"{name}2\t"]
        (data / name / f"{name}.item").write_text("\n".join(lines) + "\n")
    folders = [str(data / "food"), str(data / "pots")]
    assert main(["convert", "join", *folders, "--name", "both", "--data-path", str(data)]) == 0
    rows_read = [line.split("\t") for line in (data / "both" / "both.item").read_text().splitlines()[1:]]
    images = {row[0]: row[2] for row in rows_read}
    assert images["food0"] == str(data / "food" / "images/1.png") and images["pots0"] == "/elsewhere/7.png"
    assert images["food1"] == images["pots2"] == ""


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (["food", "nowhere"], "nowhere/nowhere.inter: file not found"),
        (["food", "food"], "2 datasets and the domains food, food; expected two, a name each"),
        (["food", "places"], "they cannot be merged in time"),
    ],
)
def test_joins_that_cannot_be(
    folders: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from nestrec_recbole.cli import main

    for name in ("food", "places"):
        write(tmp_path, name=name)
    (tmp_path / "places" / "dataset.json").write_text('{"time_unit": "place in the history"}')
    paths = [str(tmp_path / name) for name in folders]
    assert main(["convert", "join", *paths, "--name", "both", "--data-path", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize("model", ["GRU4Rec", "BERT4Rec", "BPR"])
def test_models_of_recbole_are_ranked_over_the_target_domain(model: str, tmp_path: Path, make_config: Any) -> None:
    """By the same targets, and with no item of the source domain before them or in their lists."""
    from nestrec_recbole.evaluate.metrics import coverage
    from nestrec_recbole.evaluate.ranking import rank_targets
    from nestrec_recbole.recommend import Recommender

    write(tmp_path / "data")
    sampled = {} if model == "BPR" else {"train_neg_sample_args": None}
    trainer, (train, valid, test) = prepare(make_config(model, "shop", epochs=1, target_domain="food", **sampled))
    trainer.fit(train, valid, verbose=False, show_progress=False)
    ranks = rank_targets(trainer.model.full_sort_predict, test.dataset, k=10)
    tokens = test.dataset.field2id_token["item_id"]
    assert {str(tokens[i]) for i in ranks.targets} == {target for _, _, target in expected()[2]}
    assert (ranks.rank <= 5).all() and {str(t)[0] for t in tokens[np.unique(ranks.top)]} == {"f"}
    assert ranks.n_items == 6 and coverage(ranks.top, ranks.n_items) == 1  # of what may be recommended
    if model != "BPR":  # which knows users by id
        lists = Recommender(trainer.model, test.dataset).recommend([["k1", "k2"]], k=20)
        assert {token[0] for token, _ in lists[0]} == {"f"} and len(lists[0]) == 5


def test_tuning_sees_no_test_item_and_the_same_training_histories(shop: Any) -> None:
    dataset = shop()
    whole, rest = dataset.build()[0], dataset.without_test().build()[0]
    assert rows(whole) == rows(rest)
    one, other = (d.domains.training_histories(d.owners, d.items, 5)[1] for d in (whole, rest))
    np.testing.assert_array_equal(one, other)


def test_the_first_line_of_an_item_says_its_domain(tmp_path: Path, make_config: Any) -> None:
    write(tmp_path / "data")
    with open(tmp_path / "data/shop/shop.item", "a") as file:
        file.write("f1\tkitchen\n")
    dataset = create_dataset(make_config("FastSASRec", "shop", target_domain="food"))
    dataset.build()
    assert dataset.rankable[dataset.field2token_id["item_id"]["f1"]]
