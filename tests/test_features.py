"""Item fields: encoded once, found again, aligned to ids, missing ones masked, damage refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.data import create_dataset

import nestrec_recbole.encode.shards as shards
from nestrec_recbole import NestRecError
from nestrec_recbole.data import features
from nestrec_recbole.data.featurefiles import DRAFT, write_features
from nestrec_recbole.data.features import FeatureStore, content_hash
from nestrec_recbole.encode import known as known_columns
from nestrec_recbole.encode import sources
from nestrec_recbole.encode.encoder import Encoder
from nestrec_recbole.encode.field import Taken
from nestrec_recbole.encode.recipe import Recipe
from nestrec_recbole.encode.text import open_text_encoder
from nestrec_recbole.layers import fields as fields_module
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
    expected = open_text_encoder(Recipe("text", "minilm"))(["thing number 4"])[0]
    assert title.values[place] == pytest.approx(expected, abs=1e-3)


def test_fields_are_encoded_once(dataset: Any, make_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def open_encoder(recipe: Recipe) -> Any:
        def encode(texts: list[str]) -> np.ndarray:
            calls.append(len(texts))
            return np.ones((len(texts), 3))

        return Encoder(encode)

    monkeypatch.setattr(shards, "open_encoder", open_encoder)
    create_dataset(make_config("NestRec", "small"))
    assert calls == []
    file = Path(dataset.config["data_path"]) / "small.item"
    file.write_text(file.read_text().replace("thing number 4", "another thing"))
    changed = create_dataset(make_config("NestRec", "small"))
    assert calls == [8]  # nine items, one without a title
    names = {store.name for store in changed.feature_paths.values()}
    stores = (path for path in changed.feature_paths["title"].parent.iterdir() if path.is_dir())
    assert {path.name for path in stores} == names  # the old one is gone


FIELDS = {"title": {"modality": "text", "encoder": "minilm"}, "year": {"modality": "number"}}
TAGS = {"title": {"modality": "category"}}


@pytest.mark.parametrize("fields", [None, FIELDS, TAGS])
def test_a_file_that_has_not_changed_is_not_read_again(
    fields: Any, dataset: Any, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_read, read = [], sources.read_columns
    monkeypatch.setattr(sources, "read_columns", lambda *args, **how: (n_read.append(1), read(*args, **how))[1])

    def find(**settings: Any) -> tuple[dict[str, Path], int]:
        n_read.clear()
        return create_dataset(make_config("NestRec", "small", item_fields=fields, **settings)).feature_paths, len(
            n_read
        )

    first, n = find()
    assert find() == (first, 0) and (n > 0 or fields != TAGS)  # the fixture has encoded title and year
    file, known = (Path(dataset.config["data_path"]) / name for name in ("small.item", "features/columns.json"))
    file.write_text(file.read_text().replace("thing number 4", "another thing"))
    changed, n = find()
    assert changed["title"] != first["title"] and n > 0 and find() == (changed, 0)
    known.write_text(known.read_text()[:40])  # damaged
    again, n = find()
    assert again == changed and n > 0 and find() == (changed, 0)
    assert find(seq_separator="t")[1] > 0 or fields != TAGS


def test_features_may_lie_where_nothing_can_be_written(
    dataset: Any, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(dataset.config["data_path"]) / "features"
    (folder / "columns.json").unlink()

    def refuse(path: Path) -> Any:
        raise PermissionError(path)

    monkeypatch.setattr(known_columns, "written_whole", refuse)
    assert create_dataset(make_config("NestRec", "small")).feature_paths == dataset.feature_paths


def test_content_hash_is_of_content_not_of_order() -> None:
    assert content_hash("ab", "xy") == content_hash("ba", "yx") != content_hash("ab", "yx")


def write_store(path: Path, n: int = 3, values: np.ndarray | None = None) -> FeatureStore:
    values = np.arange(n * 2, dtype=np.float32).reshape(n, 2) if values is None else values
    return write_features(path, [f"i{i}" for i in range(n)], values, **ABOUT)


def test_store_is_memory_mapped_and_aligned(tmp_path: Path) -> None:
    store = write_store(tmp_path / "title-0-0")
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
        (lambda folder: (folder / "manifest.json").write_text("[1]"), "damaged feature"),
        (lambda folder: np.save(folder / "embeddings.npy", np.zeros((2, 2), np.float32)), r"float32 \(2, 2\), but"),
        (lambda folder: np.save(folder / "embeddings.npy", np.zeros((3, 2))), r"float64 \(3, 2\), but manifest.json"),
        (lambda folder: np.save(folder / "embeddings.npy", np.array([{}], object)), "damaged feature"),
        (lambda folder: (folder / "embeddings.npy").write_bytes(b"\x93NUMPY"), "damaged feature"),
        (lambda folder: os.truncate(folder / "embeddings.npy", 140), "damaged feature"),
    ],
)
def test_damaged_store_is_refused(damage: Any, words: str, tmp_path: Path) -> None:
    write_store(tmp_path / "title-0-0")
    damage(tmp_path / "title-0-0")
    with pytest.raises(NestRecError, match=words):
        FeatureStore.open(tmp_path / "title-0-0")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("items.txt", lambda file: file.write_text("i0\n")),
        ("items.txt", lambda file: file.write_text("i1\ni0\ni2\n")),
        ("embeddings.npy", lambda file: np.save(file, np.ones((3, 2), np.float32))),
        ("views.npy", lambda file: np.save(file, np.ones((1, 3, 2), np.float32))),
    ],
)
def test_foreign_files_are_refused_when_they_are_read(name: str, change: Any, tmp_path: Path) -> None:
    """A file of the right shape out of another store: opening does not read it, using it does."""
    values = np.zeros((3, 2), np.float32)
    write_features(tmp_path / "title-0-0", ["i0", "i1", "i2"], values, [values + 2], **ABOUT)
    change(tmp_path / "title-0-0" / name)
    with pytest.raises(NestRecError, match=f"{name} is not the file that was written"):
        FeatureStore.open(tmp_path / "title-0-0").align(["[PAD]", "i0"])


def test_store_of_another_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NestRecError, match="none of its 3 items is in this dataset"):
        write_store(tmp_path / "title-0-0").align(["[PAD]", "a", "b"])


def test_features_that_are_no_numbers_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(NestRecError, match="the features of item 'i1' are not finite"):
        write_store(tmp_path / "title-0-0", values=np.array([[1.0, 2], [np.nan, 0], [1, 1]]))
    assert not list(tmp_path.iterdir())


def test_tokens_that_are_there_twice_or_not_of_one_line_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NestRecError, match="item 'a' is there twice"):
        write_features(tmp_path / "title-0-0", ["a", "b", "a"], np.ones((3, 2)), **ABOUT)
    with pytest.raises(NestRecError, match="a token has a line end in it"):
        write_features(tmp_path / "title-0-0", ["a", "b\nc"], np.ones((2, 2)), **ABOUT)


def test_new_store_takes_the_place_of_those_of_the_same_recipe(tmp_path: Path) -> None:
    reader = write_store(tmp_path / "title-1-a")
    write_store(tmp_path / "title-2-a")
    write_store(tmp_path / "title-1-b", n=5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["title-1-b", "title-2-a"]
    assert reader.embeddings[2].tolist() == [4, 5]  # what was open stays readable


def test_a_store_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    write_store(tmp_path / "title-0-0")
    before = (tmp_path / "title-0-0" / "embeddings.npy").stat().st_ino
    write_store(tmp_path / "title-0-0")
    assert (tmp_path / "title-0-0" / "embeddings.npy").stat().st_ino == before
    assert [path.name for path in tmp_path.iterdir()] == ["title-0-0"]


KILLED_WHILE_WRITING = """
import os, signal, sys, numpy as np
from nestrec_recbole.data import featurefiles
featurefiles._publish = lambda draft, path: os.kill(os.getpid(), signal.SIGKILL)
about = {"field": "title", "modality": "text", "encoder": "test", "normalised": False, "sha256": "0"}
featurefiles.write_features(sys.argv[1], ["i0"], np.ones((1, 2)), **about)
"""


def test_a_killed_writer_leaves_the_old_store_and_its_draft_is_cleaned_up(tmp_path: Path) -> None:
    write_store(tmp_path / "title-0-old")
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, str(tmp_path / "title-0-new")]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    (draft,) = tmp_path.glob(".draft-*")
    assert FeatureStore.open(tmp_path / "title-0-old").align(["[PAD]", "i1"]).values[1].tolist() == [2, 3]
    alive = tmp_path / draft.name.replace(f"-{draft.name.split('-')[-2]}-", f"-{os.getpid()}-")
    alive.mkdir()
    elsewhere = tmp_path / f"{DRAFT}another-machine-1-0"
    elsewhere.mkdir()
    write_store(tmp_path / "year-0-0")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"title-0-old", "year-0-0", alive.name, elsewhere.name}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_alignment_is_what_a_loop_would_do(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever tokens are called (line ends of other alphabets too), in whatever order, in blocks of any size."""
    token = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), min_size=1, max_size=4)
    known = data.draw(st.lists(token, min_size=1, max_size=12, unique=True))
    asked = data.draw(st.lists(st.sampled_from(known) | token, max_size=12, unique=True))
    asked = list(dict.fromkeys([*asked, known[0]]))
    values = np.arange(len(known) * 3, dtype=np.float32).reshape(-1, 3)
    path = tmp_path_factory.mktemp("store") / "title-0-0"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "BLOCK", data.draw(st.sampled_from([1, 24, 1 << 20])))
        store = write_features(path, known, values, [values + 100], **ABOUT)
        field = store.align(["[PAD]", *asked])
    assert store.items == known and field.views is not None
    for place, name in enumerate(asked, start=1):
        expected = values[known.index(name)] if name in known else np.zeros(3)
        assert (field.values[place] == expected).all() and field.mask[place] == (name in known)
        assert (field.views[0, place] == (expected + 100 if name in known else 0)).all()
    assert not field.mask[0] and not field.values[0].any()


PROBE = """
import sys, time
from nestrec_recbole.data.features import FeatureStore
def resident(): return int(open("/proc/self/statm").read().split()[1]) * 4096
before, began = resident(), time.perf_counter()
store = FeatureStore.open(sys.argv[1])
print(time.perf_counter() - began, resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs /proc")
def test_opening_reads_neither_tokens_nor_arrays(tmp_path: Path) -> None:
    n_items = 200_000
    rows = Taken(np.ones((1, 256), np.float16), np.zeros(n_items, int))
    write_features(tmp_path / "title-0-0", [str(i) for i in range(n_items)], rows, **ABOUT)
    output = subprocess.run(
        [sys.executable, "-c", PROBE, str(tmp_path / "title-0-0")], capture_output=True, check=True, text=True
    )
    seconds, n_bytes = map(float, output.stdout.split())
    assert n_bytes < 5e6 < 256 * 2 * n_items  # the array alone has 100 MB
    assert seconds < 0.5


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


def test_views_are_drawn_per_item_while_training_and_left_out_in_evaluation() -> None:
    random = np.random.default_rng(0)
    field, altered = (random.normal(size=(400, 3)).astype(np.float32) for _ in range(2))
    mask = np.arange(400) > 0
    torch.manual_seed(0)
    fields = FieldTokens([field], [mask], ["text"], width=8, views=[altered[None]])
    plain = FieldTokens([field], [mask], ["text"], width=8)
    plain.load_state_dict(fields.state_dict())
    assert torch.equal(fields.eval()()[0], plain()[0])
    other = FieldTokens([field], [mask], ["text"], width=8, views=[altered[None]])
    other.load_state_dict(fields.state_dict())
    other.features_0 = other.features_0.flip(0)
    first, second = fields()[0], other.eval()()[0]
    drawn = fields.train()()[0]
    is_first = (drawn == first).all(dim=(1, 2))
    assert (is_first | (drawn == second).all(dim=(1, 2))).all()
    assert 120 < is_first.sum() < 280  # a fair coin per item
    assert not torch.equal(drawn, fields()[0])  # and another one at the next step


def test_standardising_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    field, mask = random.normal(3, 2, (50, 4)).astype(np.float16), random.random(50) > 0.3
    whole = standardise(field, mask)
    monkeypatch.setattr(fields_module, "BLOCK", 7)
    np.testing.assert_allclose(standardise(field, mask), whole, rtol=1e-6, atol=1e-7)
    rows = field[mask].astype(np.float64)
    np.testing.assert_allclose(whole[mask], (rows - rows.mean(0)) / rows.std(0), rtol=1e-5, atol=1e-6)
