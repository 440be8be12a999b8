"""Recommending for a history in a file, with items that no catalogue knows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_dataset
from PIL import Image

from nestrec_recbole import NestRecError, run_recbole
from nestrec_recbole.cli import main
from nestrec_recbole.recommend import Recommender
from nestrec_recbole.recommend.history import HistoryItem, read_history

CIRCLE = [[(start + step) % 12 for step in range(4 + start % 5)] for start in range(36)]
SMALL = {"hidden_size": 16, "n_heads": 2, "inner_size": 32}


def untrained(make_config: Any, tmp_path: Path, name: str, **settings: Any) -> Recommender:
    from recbole.data import create_dataset
    from recbole.utils import get_model, init_seed

    if not (tmp_path / "data").is_dir():
        write_dataset(tmp_path / "data", "circle", CIRCLE)
    config = make_config(name, "circle", **{**SMALL, **settings})
    init_seed(3, True)
    dataset = create_dataset(config)
    return Recommender(get_model(name)(config, dataset.build()[0]), dataset)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("ItemQFormer", {}),
        ("UserQFormer", {}),
        ("NestRec", {}),
        ("GatedFusionRec", {}),
        ("GatedFusionRec", {"width": 6, "reduce": "whiten", "views": 2}),
    ],
)
def test_a_new_item_is_read_by_its_fields(name: str, how: Any, make_config: Any, tmp_path: Path) -> None:
    """Without ids a new item of a known one's text is that item; ids of known items stay what they were."""
    fields = {"title": {"modality": "text", **how}}
    recommender = untrained(make_config, tmp_path, name, item_fields=fields, use_ids=False)
    known = recommender.recommend([["i1", "i5", "i2"]], k=50, exclude_seen=False)[0]
    new = HistoryItem("new", where="h: line 2", text="thing <b>number</b> 5")
    unseen = recommender.add_items([HistoryItem("i1", where="h: line 1"), new, new])
    assert (unseen.tokens, unseen.missing, unseen.problems) == (["new"], {}, [])
    found = recommender.recommend([["i1", "new", "i2"]], k=50, exclude_seen=False)[0]
    assert [token for token, _ in found] == [token for token, _ in known] and len(found) == 12
    assert [score for _, score in found] == pytest.approx([score for _, score in known], abs=1e-4)
    assert "i5" in dict(recommender.recommend([["i1", "new"]], k=50)[0])  # only what was seen itself is left out


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("ItemQFormer", {}),
        ("NestRec", {"recency_scale": 0.5, "cosine": True}),
        ("GatedFusionRec", {}),
        ("MultimodalRec", {}),
        ("MultimodalRec", {"history": True}),
    ],
)
def test_a_new_item_is_recommended_by_its_fields(name: str, how: Any, make_config: Any, tmp_path: Path) -> None:
    """Without ids a new item of a known one's text has that one's score."""
    fields = {"title": {"modality": "text"}}
    recommender = untrained(make_config, tmp_path, name, item_fields=fields, use_ids=False, **how)
    known = dict(recommender.recommend([["i1", "i2"]], k=50)[0])
    twin, other = (HistoryItem(f"new{i}", where="n", text=f"thing number {i}") for i in (5, 77))
    recommender.add_items([other])
    assert recommender.add_items([twin, HistoryItem("i7", where="n")], recommendable=True).tokens == ["new5"]
    ((lists, none),) = [recommender.recommend([["i1", "i2"], ["i1", "new5"]], k=50)]
    assert dict(lists) == pytest.approx(known | {"new5": known["i5"]}, abs=1e-3)  # and not new77
    assert "new5" not in dict(none)
    assert recommender.add_items([other], recommendable=True).tokens == []  # it was encoded before
    assert {"new5", "new77"} <= dict(recommender.recommend([["i1", "i2"]], k=50)[0]).keys()
    diverse = recommender.recommend([["i1", "i2"]], k=2, diversity=0.9, novelty=0.1)[0]
    assert {token for token, _ in diverse} != {"i5", "new5"}  # which are alike


def test_a_model_of_one_domain_recommends_nothing_new(make_config: Any, tmp_path: Path) -> None:
    place = write_dataset(tmp_path / "data", "circle", CIRCLE)
    header, *rows = (place / "circle.item").read_text().splitlines()
    cells = [f"{row}\t{'food' if number % 2 else 'kitchen'}" for number, row in enumerate(rows)]
    (place / "circle.item").write_text("\n".join([f"{header}\tdomain:token", *cells]) + "\n")
    recommender = untrained(
        make_config, tmp_path, "ItemQFormer", item_fields={"title": {"modality": "text"}}, target_domain="food"
    )
    new = [HistoryItem("new", where="n", text="a thing")]
    with pytest.raises(NestRecError, match="recommends items of domain 'food' only, and of new items none is known"):
        recommender.add_items(new, recommendable=True)
    assert recommender.add_items(new).tokens == ["new"]
    assert "new" not in dict(recommender.recommend([["i1", "new"]], k=50)[0])


@pytest.mark.parametrize("name", ["ItemPretraining", "NestRec", "GatedFusionRec"])
def test_new_items_change_nothing_for_known_ones(name: str, make_config: Any, tmp_path: Path) -> None:
    fields = {"year": {"modality": "number"}, "title": {"modality": "text"}}
    recommender = untrained(make_config, tmp_path, name, item_fields=fields)
    before = recommender.recommend([["i1", "i5"], ["i7"]], k=50)
    unseen = recommender.add_items([HistoryItem("new", where="h: line 1", text="another thing")])
    assert unseen.missing == {"new": ["year"]}
    assert unseen.summary(3) == "1 of 3 items are not in the catalogue and were encoded; missing: year of 1"
    assert recommender.recommend([["i1", "i5"], ["i7"]], k=50) == before
    assert recommender.recommend([["i1", "new"]]) != recommender.recommend([["i1"]])
    recommender.add_items([HistoryItem("newer", where="h: line 1", text="thing")])  # and again
    assert len(recommender.recommend([["newer", "new", "i1"]], k=50)[0]) == 11


def test_titles_in_a_prompt_stay_with_their_items(make_config: Any, tmp_path: Path, qwen3: Path) -> None:
    llm = {"path": str(qwen3), "prompt": "I have bought:", "titles": "title"}
    recommender = untrained(make_config, tmp_path, "NestRec", llm=llm, MAX_ITEM_LIST_LENGTH=10)
    before = recommender.recommend([["i1", "i5"]], k=50)
    recommender.add_items([HistoryItem("new", where="h: line 1", text="another thing")])
    assert recommender.recommend([["i1", "i5"]], k=50) == before
    assert recommender.recommend([["i1", "new"]], k=50)[0][0][1] != before[0][0][1]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """GatedFusionRec after an epoch, on titles and pictures."""
    folder = tmp_path_factory.mktemp("trained")
    place = write_dataset(folder / "data", "circle", CIRCLE)
    for item in range(0, 12, 2):  # half of them
        pixels = np.full((40, 40, 3), 20 * item, dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{item}.png")
    rows = "".join(f"i{item}\tthing number {item}\t{'' if item % 2 else f'{item}.png'}\n" for item in range(12))
    (place / "circle.item").write_text("item_id:token\ttitle:token_seq\timage:token\n" + rows)
    settings = {**SMALL, "data_path": str(folder / "data"), "checkpoint_dir": str(folder / "saved"), "epochs": 1}
    settings |= {"item_fields": {"title": {"modality": "text"}, "image": {"modality": "image"}}}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["pytest"])
        run_recbole("GatedFusionRec", "circle", config_dict={**settings, "show_progress": False, "state": "ERROR"})
    (path,) = (folder / "saved").glob("*.safetensors")
    return str(path)


def write_lines(*lines: Any) -> str:
    text = "".join(f"{line if isinstance(line, (str, bytes)) else json.dumps(line)}\n" for line in lines)
    Path("history.jsonl").write_text(text)
    return "history.jsonl"


def test_from_a_file_to_text_and_json(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (50, 50), "red").save("red.png")
    lines = [{"parent_asin": "i3", "image_url": None}, {"parent_asin": "B0", "combined_text": "a red thing"}, ""]
    lines += [{"parent_asin": "B1", "image_path": "red.png"}]
    path = write_lines(*lines)
    assert main(["recommend", checkpoint, "--history-file", path, "-k", "3"]) == 0
    said = capsys.readouterr()
    rows = [line.split("\t") for line in said.out.splitlines()]
    assert len(rows) == 3 and all(title == f"thing number {item[1:]}" for item, _, title in rows)
    assert "nestrec: 2 of 3 items are not in the catalogue" in said.err and "image of 1, title of 1" in said.err
    assert main(["recommend", checkpoint, "--history-file", path, "-k", "3", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["history"][0] == {"item": "i3", "title": "thing number 3", "known": True}
    assert answer["history"][1] == {"item": "B0", "title": "a red thing", "known": False}
    assert answer["missing"] == {"B0": ["image"], "B1": ["title"]}
    assert [[one["item"], f"{one['score']:.4f}", one["title"]] for one in answer["recommendations"]] == rows


def test_new_items_in_a_file_are_recommended(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("new.jsonl").write_text(json.dumps({"parent_asin": "B1", "combined_text": "thing number 9"}) + "\n")
    assert main(["recommend", checkpoint, "i1", "i2", "-k", "50", "--new-items", "new.jsonl"]) == 0
    out, err = capsys.readouterr()
    (line,) = [line for line in out.splitlines() if line.startswith("B1\t")]
    assert line.endswith("\tthing number 9") and len(out.splitlines()) == 11
    assert "1 of 1 items are not in the catalogue and were encoded" in err
    assert main(["recommend", checkpoint, "--sample", "2", "-k", "50", "--new-items", "new.jsonl", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert all("B1" in {one["item"] for one in user["recommendations"]} for user in answer)


def test_images_that_cannot_be_had_are_said_and_masked(
    checkpoint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (50, 50), "red").save("red.png")
    Path("broken.png").write_bytes(b"no image")
    text = {"combined_text": "a red thing"}
    lines = [{"parent_asin": "i2", "image_url": "http://localhost:1/known.png"}]  # not asked for
    lines += [{"parent_asin": "B0", "image_url": "http://localhost:1/x.png", **text}]
    lines += [{"parent_asin": "B1", "image_path": "broken.png", **text}]
    assert main(["recommend", checkpoint, "--history-file", write_lines(*lines)]) == 0
    first, second, last = capsys.readouterr().err.splitlines()[-3:]
    assert first.startswith("nestrec: history.jsonl: line 2: http://localhost:1/x.png cannot be fetched: localhost is ")
    assert second == "nestrec: history.jsonl: line 3: broken.png cannot be read as an image"
    assert last.endswith("missing: image of 2")

    def fetch(urls: Any, folder: Path, limits: Any) -> dict[str, Path]:
        return {url: Path("red.png") for url in urls}

    monkeypatch.setattr("nestrec_recbole.recommend.unseen.download", fetch)
    recommender = Recommender.load(checkpoint)
    by_url = HistoryItem("B2", where="line 1", image_url="http://shop.test/red.png")
    assert recommender.add_items([by_url, HistoryItem("B3", where="line 2", image_path="red.png")]).missing == {
        "B2": ["title"],
        "B3": ["title"],
    }
    features = recommender.model.fields.features()[1]
    assert torch.equal(features[-1], features[-2]) and features[-1].abs().sum() > 0


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (['{"parent_asin": "i1"', "{}"], "line 1: not valid JSON (Expecting ',' delimiter"),
        ([{"parent_asin": "i1"}, ["i2"]], "line 2: list found; expected an object with parent_asin, "),
        ([{"parent_asin": "i1", "combined_txt": "a"}], "line 1: unknown key 'combined_txt'; did you mean 'combined_te"),
        ([{"combined_text": "a"}], "line 1: no parent_asin"),
        ([{"parent_asin": 7}], "line 1: parent_asin is 7 (int); expected a text"),
        ([{"parent_asin": "a", "image_url": "http://a.b/c", "image_path": "c"}], "are both there; give one of the two"),
        (["", " "], "history.jsonl: no item in it"),
        ([{"parent_asin": "i1"}, {"parent_asin": "B0"}], "line 2: item 'B0' is not in dataset 'circle', and nothing"),
        ([{"parent_asin": "B0", "combined_text": " <p> "}], "says what item 'B0' is; give combined_text or image_url"),
        ([{"parent_asin": "B0", "image_url": "http://localhost:1/a"}], "cannot be fetched: localhost is "),
        ([{"parent_asin": "B0", "image_path": "none.png"}], "line 1: none.png cannot be read as an image, and nothing"),
    ],
)
def test_bad_lines(lines: list[Any], words: str, checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", checkpoint, "--history-file", write_lines(*lines)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nestrec: ")]
    assert words in line and "history.jsonl" in line


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(NestRecError, match=r"none\.jsonl: cannot be read"):
        read_history(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"parent_asin": "i1"}\n{"parent_asin": "\xe9"}\n')
    with pytest.raises(NestRecError, match=r"latin\.jsonl: line 2: not valid JSON"):
        read_history(tmp_path / "latin.jsonl")


def test_ids_or_a_file(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["i1", "--history-file", write_lines({"parent_asin": "i1"})]):
        assert main(["recommend", checkpoint, *more]) == 2
        assert "give one of --history-file" in capsys.readouterr().err


def test_models_of_ids_read_nothing_new(make_config: Any, tmp_path: Path) -> None:
    recommender = untrained(make_config, tmp_path, "FastSASRec")
    assert recommender.add_items([HistoryItem("i1", where="h: line 1")]).tokens == []
    with pytest.raises(NestRecError, match="h: line 2: item 'B0' is not in dataset 'circle', and FastSASRec knows"):
        recommender.add_items([HistoryItem("B0", where="h: line 2", text="a thing")])


def test_fields_of_whole_columns_cannot_be_given(make_config: Any, tmp_path: Path) -> None:
    fields = {"year": {"modality": "number"}, "title": {"modality": "category"}}
    recommender = untrained(make_config, tmp_path, "GatedFusionRec", item_fields=fields)
    with pytest.raises(NestRecError, match="no field of the model can be encoded item by item"):
        recommender.add_items([HistoryItem("B0", where="h: line 2", text="a thing")])
