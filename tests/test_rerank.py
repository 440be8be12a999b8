"""Re-ranking against twenty plain lines, and lists for the users of a dataset."""

from __future__ import annotations

import json
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
from nestrec_recbole.recommend.rerank import chooser, item_features, item_information, rerank
from nestrec_recbole.recommend.users import histories_of, sample_users

CIRCLE = [[(start + step) % 12 for step in range(4 + start % 5)] for start in range(36)]


def reference(
    scores: list[float], items: list[int], features: np.ndarray, information: np.ndarray, k: int, d: float, n: float
) -> list[int]:
    """The rule of `rerank`, for one user, one candidate at a time."""
    allowed = [i for i, score in enumerate(scores) if score > -np.inf]

    def scaled(values: dict[int, float]) -> dict[int, float]:
        low, high = min(values.values()), max(values.values())
        return {i: (value - low) / max(high - low, 1e-12) for i, value in values.items()}

    relevance = scaled({i: scores[i] for i in allowed})
    news = scaled({i: float(information[items[i]]) for i in allowed})
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    chosen: list[int] = []
    while len(chosen) < min(k, len(allowed)):
        left = [i for i in allowed if i not in chosen]
        likeness = {i: max((unit[items[i]] @ unit[items[j]] for j in chosen), default=-1.0) for i in left}
        chosen.append(max(left, key=lambda i: (1 - d - n) * relevance[i] + n * news[i] - d * likeness[i]))
    return chosen


@pytest.mark.parametrize(("diversity", "novelty"), [(0.5, 0.0), (0.0, 0.5), (0.4, 0.3), (1.0, 0.0), (0.0, 1.0)])
def test_reranking_chooses_as_the_reference(diversity: float, novelty: float) -> None:
    torch.manual_seed(4)
    scores = torch.randn(20, 15)
    scores[3, :4], scores[4, :12] = -torch.inf, -torch.inf  # some may not be chosen; for one user fewer than k may
    items = torch.stack([torch.randperm(40)[:15] for _ in range(20)])
    features, information = torch.randn(40, 3), torch.rand(40)
    found = rerank(scores, items, features, information, 6, diversity, novelty)
    for row, places in enumerate(found.tolist()):
        arguments = scores[row].tolist(), items[row].tolist(), features.numpy(), information.numpy()
        expected = reference(*arguments, 6, diversity, novelty)
        assert places[: len(expected)] == expected
        assert len(set(places)) == 6  # nobody twice, whatever the weights


def test_diversity_takes_one_of_a_kind_and_novelty_what_few_know() -> None:
    scores = torch.tensor([[5.0, 4.9, 4.8, 1.0]])
    items, features = torch.arange(4)[None], torch.eye(3)[[0, 0, 0, 1]]
    flat, known_by_few = torch.zeros(4), torch.tensor([0.0, 0.0, 9.0, 0.0])
    assert rerank(scores, items, features, flat, 2, 0.6, 0.0).tolist() == [[0, 3]]
    assert rerank(scores, items, features, flat, 2, 0.0, 0.0).tolist() == [[0, 1]]
    assert rerank(scores, items, features, known_by_few, 2, 0.0, 0.6).tolist() == [[2, 0]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """MultimodalRec after a few epochs on the circle of 12 items."""
    folder = tmp_path_factory.mktemp("trained")
    write_dataset(folder / "data", "circle", CIRCLE)
    settings: dict[str, Any] = {"data_path": str(folder / "data"), "checkpoint_dir": str(folder / "saved")}
    settings |= {"feature_path": str(folder / "data"), "item_fields": {"title": {"modality": "text"}}}
    settings |= {"epochs": 3, "learning_rate": 0.01, "show_progress": False, "state": "ERROR", "plot_curves": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # RecBole writes its log where it stands
        patch.setattr(sys, "argv", ["pytest"])
        run_recbole("MultimodalRec", "circle", config_dict=settings)
    (path,) = (folder / "saved").glob("*.safetensors")
    return str(path)


def test_histories_of_users_are_all_they_have_taken(checkpoint: str) -> None:
    dataset = Recommender.load(checkpoint).dataset
    histories, times = histories_of(dataset, ["u7", "u0"])
    assert histories == [[f"i{item}" for item in CIRCLE[user]] for user in (7, 0)]
    assert times is not None and times[1] == [1_600_000_000 + 60 * step for step in range(4)]
    drawn = sample_users(dataset, 5, seed=1)
    assert len(set(drawn)) == 5 and drawn == sample_users(dataset, 5, seed=1) != sample_users(dataset, 5, seed=2)
    assert len(sample_users(dataset, 1000)) == 36


def test_a_user_is_known_by_id_and_anybody_by_history(checkpoint: str) -> None:
    recommender = Recommender.load(checkpoint)
    history = [["i3", "i4"]]
    known = recommender.recommend(history, users=["u0"])[0]
    assert known != recommender.recommend(history, users=["u1"])[0] != recommender.recommend(history)[0]
    assert not {"i3", "i4"} & dict(known).keys()


def test_reranked_lists_are_more_diverse(checkpoint: str) -> None:
    recommender = Recommender.load(checkpoint)
    history = [["i3", "i4"]]
    plain, diverse = (recommender.recommend(history, k=4, diversity=weight)[0] for weight in (0.0, 0.9))
    assert [score for _, score in plain] == sorted((score for _, score in plain), reverse=True)
    assert plain[0] == diverse[0] and plain != diverse
    assert dict(diverse).items() <= dict(recommender.recommend(history, k=12)[0]).items()  # scores stay what they are
    everything = recommender.recommend(history, k=50, diversity=0.5, novelty=0.2)[0]
    assert len(everything) == 10 and not {"i3", "i4", "[PAD]"} & dict(everything).keys()


def test_novelty_needs_nothing_to_compare_items_by(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Recommender.load(checkpoint).dataset
    monkeypatch.setattr(dataset, "item_fields", list)
    choose = chooser(0.0, 0.5, lambda: item_features(object(), dataset), lambda: item_information(dataset))
    values, items = choose(torch.randn(2, dataset.item_num), 3)
    assert values.shape == items.shape == (2, 3)
    with pytest.raises(NestRecError, match="object has no vectors of items"):
        item_features(object(), dataset)


def test_what_lists_are_chosen_by_is_looked_up_once(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recommender = Recommender.load(checkpoint)
    first = recommender.recommend([["i3"]], k=2, diversity=0.3, novelty=0.1)
    monkeypatch.setattr(recommender.dataset, "build", None)
    monkeypatch.setattr(recommender.dataset, "item_fields", None)
    assert recommender.recommend([["i3"]], k=2, diversity=0.3, novelty=0.1) == first


def test_the_command_lists_users(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "who.txt").write_text("u5\n\nu1\n", encoding="utf-8-sig")
    for who in (["--users", "u5", "u1"], ["--users-file", str(tmp_path / "who.txt")]):
        assert main(["recommend", checkpoint, *who, "-k", "2"]) == 0
        lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
        assert [line[0] for line in lines] == ["u5", "u5", "u1", "u1"]
        assert not {line[1] for line in lines[:2]} & {f"i{item}" for item in CIRCLE[5]}
    assert main(["recommend", checkpoint, "--sample", "3", "-k", "1", "--diversity", "0.3", "--novelty", "0.2"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert main(["recommend", checkpoint, "i3", "i4", "-k", "2", "--diversity", "0.5"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("of", [["i3", "i4"], ["--users", "u5"], ["--similar", "i3"]])
def test_the_command_lists_what_may_be_listed(
    of: list[str], checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stock, sold_out = tmp_path / "stock.txt", tmp_path / "sold out.txt"
    stock.write_text("i1\ni2\ni7\nnever sold\n")
    sold_out.write_text("i2\n")
    ask = ["recommend", checkpoint, *of, "-k", "50", "--json"]

    def listed(*options: str) -> set[str]:
        assert main([*ask, *options]) == 0
        answer = json.loads(capsys.readouterr().out)
        answer = answer if isinstance(answer, dict) else answer[0]
        return {one["item"] for one in answer["recommendations"]}

    everything = listed()
    assert listed("--only", str(stock)) == everything & {"i1", "i2", "i7"}
    assert listed("--exclude", str(sold_out)) == everything - {"i2"}
    assert listed("--only", str(stock), "--exclude", str(sold_out)) == everything & {"i1", "i7"}
    assert main([*ask, "--only", str(stock)]) == 0
    assert "stock.txt: 1 of 4 items are unknown to the model" in capsys.readouterr().err
    stock.write_text("never sold\n")
    assert main([*ask, "--only", str(stock)]) == 2
    assert "stock.txt: the model knows none of its items, 'never sold' the first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "a history is item ids; or give one of"),
        (["i3", "--sample", "2"], "a history is item ids; or give one of"),
        (["--users", "u99"], "dataset 'circle': unknown user 'u99'; did you mean"),
        (["--users-file", "nobody.txt"], "nobody.txt: cannot be read"),
        (["--sample", "-1"], "a sample of -1 users"),
        (["i3", "--diversity", "0.8", "--novelty", "0.4"], "expected at least 0, together at most 1"),
    ],
)
def test_bad_requests(options: list[str], words: str, checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", checkpoint, *options]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_an_empty_file_of_users(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none.txt").write_text("\n")
    assert main(["recommend", checkpoint, "--users-file", str(tmp_path / "none.txt")]) == 2
    assert "names no user; expected an id a line" in capsys.readouterr().err


def test_a_single_interaction_is_a_history(tmp_path: Path, make_config: Any) -> None:
    from recbole.data import create_dataset

    write_dataset(tmp_path / "data", "short", [[1, 2, 3], [4]])
    dataset = create_dataset(make_config("FastSASRec", "short"))
    dataset.build()
    assert histories_of(dataset, ["u1", "u0"])[0] == [["i4"], ["i1", "i2", "i3"]]
    assert set(sample_users(dataset, 9)) == {"u0", "u1"}


def test_a_weight_that_is_no_number(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", checkpoint, "i3", "--diversity", "nan"]) == 2
    assert "diversity nan and novelty 0.0: expected at least 0" in capsys.readouterr().err
