"""Item fields: encoded once, found again, aligned to ids, missing ones masked, damage refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_dataset
from recbole.data import create_dataset

import nestrec_recbole.encode.items as items
from nestrec_recbole import NestRecError
from nestrec_recbole.data.features import FeatureStore, content_hash
from nestrec_recbole.encode.number import encode_numbers
from nestrec_recbole.encode.text import encode_texts
from nestrec_recbole.layers.fields import FieldTokens, standardise

SEQUENCES = [[0, 1, 2, 3, 4], [2, 3, 4, 5, 6], [4, 5, 6, 7, 8]]
ABOUT = {"field": "title", "modality": "text", "encoder": "test", "normalised": False, "sha256": "0"}


@pytest.fixture
def dataset(tmp_path: Path, make_config: Any) -> Any:
    write_dataset(tmp_path / "data", "small", SEQUENCES)
    return create_dataset(make_config("NestRec", "small"))


def test_fields_are_found_in_the_header_and_aligned_to_ids(dataset: Any) -> None:
    title, year = dataset.item_fields()
    assert (title.name, title.modality, title.values.shape) == ("title", "text", (10, 384))
    assert (year.name, year.modality, year.values.shape) == ("year", "number", (10, 18))
    tokens = dataset.field2id_token["item_id"]
    has_title = [token != "[PAD]" and int(token[1:]) % 7 != 3 for token in tokens]  # see write_dataset
    has_year = [token != "[PAD]" and int(token[1:]) % 5 != 2 for token in tokens]
    assert title.mask.tolist() == has_title and year.mask.tolist() == has_year
    assert not title.values[~title.mask].any()
    place = tokens.tolist().index("i4")
    assert title.values[place] == pytest.approx(encode_texts(["thing number 4"], progress=False)[0], abs=1e-3)


def test_fields_are_encoded_once(dataset: Any, make_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def encode(texts: list[str], *args: Any, **options: Any) -> np.ndarray:
        calls.append(len(texts))
        return np.ones((len(texts), 3))

    monkeypatch.setattr(items, "encode_texts", encode)
    create_dataset(make_config("NestRec", "small"))
    assert calls == []
    file = Path(dataset.config["data_path"]) / "small.item"
    file.write_text(file.read_text().replace("thing number 4", "another thing"))
    create_dataset(make_config("NestRec", "small"))
    assert calls == [8]  # nine items, one without a title


def test_content_hash_is_of_content_not_of_order() -> None:
    assert content_hash("ab", "xy") == content_hash("ba", "yx") != content_hash("ab", "yx")


def write_store(path: Path, n: int = 3, values: np.ndarray | None = None) -> FeatureStore:
    values = np.arange(n * 2, dtype=np.float32).reshape(n, 2) if values is None else values
    return FeatureStore.write(path, [f"i{i}" for i in range(n)], values, **ABOUT)


def test_store_is_memory_mapped_and_aligned(tmp_path: Path) -> None:
    store = write_store(tmp_path / "title")
    assert isinstance(store.embeddings, np.memmap)
    field = store.align(["[PAD]", "i2", "new", "i0"])
    assert field.values.tolist() == [[0, 0], [4, 5], [0, 0], [0, 1]]
    assert field.mask.tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "embeddings.npy").unlink(), "no embeddings.npy; the feature is not encoded"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "damaged feature"),
        (lambda folder: (folder / "manifest.json").write_text('{"field": 1}'), "damaged feature"),
        (lambda folder: (folder / "items.txt").write_text("i0\n"), r"embeddings.npy is \(3, 2\), but items.txt"),
        (lambda folder: np.save(folder / "embeddings.npy", np.array([{}], object)), "damaged feature"),
        (lambda folder: (folder / "embeddings.npy").write_bytes(b"\x93NUMPY"), "damaged feature"),
    ],
)
def test_damaged_store_is_refused(damage: Any, words: str, tmp_path: Path) -> None:
    write_store(tmp_path / "title")
    damage(tmp_path / "title")
    with pytest.raises(NestRecError, match=words):
        FeatureStore.open(tmp_path / "title")


def test_store_of_another_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NestRecError, match="none of its 3 items is in this dataset"):
        write_store(tmp_path / "title").align(["[PAD]", "a", "b"])


def test_features_that_are_no_numbers_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(NestRecError, match="the features of item 'i1' are not finite"):
        write_store(tmp_path / "title", values=np.array([[1.0, 2], [np.nan, 0], [1, 1]]))
    assert not list(tmp_path.iterdir())


def test_store_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_store(tmp_path / "title")
    write_store(tmp_path / "title", n=5)
    assert FeatureStore.open(tmp_path / "title").embeddings.shape == (5, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["title"]
    assert json.loads((tmp_path / "title/manifest.json").read_text())["width"] == 2


def test_text_embeddings_know_what_is_alike() -> None:
    texts = ["Star Wars", "Return of the Jedi", "Pride and Prejudice", "Star Wars"]
    embeddings = encode_texts(texts, progress=False)
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(np.ones(4), abs=1e-5)
    assert (embeddings[0] == embeddings[3]).all()
    assert embeddings[0] @ embeddings[1] > embeddings[0] @ embeddings[2]


@pytest.mark.parametrize("encoder", ["no/such/folder", "./nowhere"])
def test_unknown_text_encoder_is_one_line(encoder: str) -> None:
    with pytest.raises(NestRecError, match="no such folder"):
        encode_texts(["a"], encoder)


def test_number_code_keeps_arithmetic() -> None:
    values = np.array([1930.0, 1995, 1996, 2020])
    codes = encode_numbers(values)
    near, far = np.linalg.norm(codes[1] - codes[2]), np.linalg.norm(codes[1] - codes[3])
    assert near < far / 2
    assert codes[:, -2] * values.std() + values.mean() == pytest.approx(values, abs=1e-3)  # invertible
    assert np.isfinite(encode_numbers(np.array([5.0, 5.0]))).all()


def test_standardised_features() -> None:
    random = np.random.default_rng(0)
    field = random.normal(3, 2, (50, 4)).astype(np.float32)
    field[:, 3] = 7  # constant: says nothing
    mask = np.arange(50) > 4
    scaled = standardise(field, mask)
    assert scaled[mask][:, :3].mean(0) == pytest.approx(np.zeros(3), abs=1e-5)
    assert scaled[mask][:, :3].std(0) == pytest.approx(np.ones(3), abs=1e-5)
    assert not scaled[~mask].any() and not scaled[:, 3].any()


def test_field_tokens_have_one_token_a_field() -> None:
    random = np.random.default_rng(0)
    fields = [random.normal(size=(6, width)).astype(np.float32) for width in (3, 5)]
    masks = [np.arange(6) > 0, np.arange(6) > 3]
    tokens, mask = FieldTokens(fields, masks, ["text", "number"], width=8)()
    assert tokens.shape == (6, 2, 8) and mask.sum().item() == 7
