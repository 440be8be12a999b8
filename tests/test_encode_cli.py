"""``nestrec encode`` and ``nestrec features``; features of others; a cluster."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import write_dataset
from PIL import Image
from recbole.data import create_dataset

from nestrec_recbole import NestRecError
from nestrec_recbole.cli import main
from nestrec_recbole.data.features import FeatureStore
from nestrec_recbole.encode import shards
from nestrec_recbole.encode.engine import input_key, open_encoder
from nestrec_recbole.encode.foreign import import_features

SEQUENCES = [[0, 1, 2, 3, 4], [2, 3, 4, 5, 6], [4, 5, 6, 7, 8]]
VALUES = np.arange(36, dtype=np.float32).reshape(9, 4) + 1
WHERE = ["--data-path", "data"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", "small", SEQUENCES)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert main([*arguments, *WHERE]) == 0
    return capsys.readouterr().out.splitlines()


def test_encode_list_and_look(place: Path, capsys: pytest.CaptureFixture[str], make_config: Any) -> None:
    (title,) = run(capsys, "encode", "--dataset", "small", "--field", "title", "--with", "minilm", "--width", "32")
    (year,) = run(capsys, "encode", "--dataset", "small", "--field", "year")
    manifest = FeatureStore.open(title).manifest
    assert (manifest.width, manifest.normalised, manifest.n_items) == (32, True, 8)
    fields = {"title": {"modality": "text", "width": 32}, "year": {"modality": "number"}}
    dataset = create_dataset(make_config("ItemQFormer", "small", item_fields=fields))
    assert sorted(path.name for path in dataset.feature_paths.values()) == sorted([Path(title).name, Path(year).name])
    head, *lines = [line.split("\t") for line in run(capsys, "features", "small")]
    rows = {line[1]: dict(zip(head, line, strict=True)) for line in lines}
    assert rows["title"]["state"] == "fresh" and rows["title"]["coverage"] == "88.9%"
    assert (rows["title"]["norm least"], rows["title"]["largest"]) == ("1.000", "1.000")
    assert (rows["year"]["encoder"], rows["year"]["items"], rows["year"]["width"]) == ("fourier", "7", "18")
    near = run(capsys, "features", "small", "--neighbours", "title")
    assert len(near) == 5 * 4 and sum(not line.startswith("  ") for line in near) == 5
    assert all("thing number" in line for line in near)
    item = place / "small.item"
    item.write_text(item.read_text().replace("thing number 4", "another"))
    states = [line.split("\t")[4] for line in run(capsys, "features", "small")[1:]]
    assert states == ["stale", "fresh"]


def test_where_nothing_can_be_written_no_encoder_is_loaded(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "open_encoder", lambda recipe: pytest.fail("loaded"))
    command = ["encode", "--dataset", "small", "--field", "title", "--with", "minilm", *WHERE]
    assert main([*command, "--feature-path", "data/small/small.item"]) == 2
    assert "Not a directory" in (said := capsys.readouterr().err) and "--feature-path says where it writes" in said


def test_an_encoder_that_is_not_there_leaves_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", "--dataset", "small", "--field", "title", "--with", "no/such", *WHERE]) == 2
    assert "no/such" in capsys.readouterr().err
    assert not list(place.rglob(".parts*"))


def test_components_by_command_are_those_by_model(
    place: Path, capsys: pytest.CaptureFixture[str], make_config: Any
) -> None:
    how = ["--with", "minilm", "--reduce", "whiten", "--width", "3"]
    (path,) = run(capsys, "encode", "--dataset", "small", "--field", "title", *how)
    fields = {"title": {"modality": "text", "reduce": "whiten", "width": 3}}
    dataset = create_dataset(make_config("ItemQFormer", "small", item_fields=fields))
    assert dataset.feature_paths["title"].name == Path(path).name
    assert not FeatureStore.open(path).manifest.normalised


def test_nearest_neighbours_are_those_of_a_full_table(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [-1, 0]], dtype=np.float32)
    np.savez("toy.npz", ids=np.array([f"i{row}" for row in range(5)]), features=values)
    run(capsys, "features", "small", "--import", "toy.npz", "--as", "toy")
    groups = np.split(np.array(run(capsys, "features", "small", "--neighbours", "toy")), 5)
    (group,) = (one for one in groups if one[0].startswith("i0\t"))
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    expected = sorted(((unit[0] @ unit[row], row) for row in range(1, 5)), reverse=True)[:3]
    found = [one.split("\t")[:2] for one in group[1:]]
    assert found == [[f"  {cosine:.3f}", f"i{row}"] for cosine, row in expected]


def write_foreign(kind: str, tokens: list[str]) -> str:
    if kind == "float_seq":
        lines = [f"{token}\t{' '.join(map(str, row))}" for token, row in zip(tokens, VALUES, strict=True)]
        Path("small.emb").write_text("iid:token\titem_emb:float_seq\n" + "\n".join(lines) + "\n")
        return "small.emb"
    if kind == "npz":
        np.savez("f.npz", ids=np.array(tokens), features=VALUES)
        return "f.npz"
    if kind == "parquet lists":
        pd.DataFrame({"item": tokens, "vector": list(VALUES)}).to_parquet("f.parquet")
        return "f.parquet"
    if kind == "parquet columns":
        pd.DataFrame({"item": tokens, **{f"x{k}": VALUES[:, k] for k in range(4)}}).to_parquet("f.parquet")
        return "f.parquet"
    if kind == "npy order":
        np.save("f.npy", VALUES)
        return "f.npy"
    by_number = np.zeros((9, 4), dtype=np.float32)
    by_number[[int(token.removeprefix("i")) for token in tokens]] = VALUES
    if kind == "feat1CLS":
        by_number.tofile("small.feat1CLS")
        return "small.feat1CLS"
    np.save("image_feat.npy", by_number)
    return "image_feat.npy"


@pytest.mark.parametrize(
    "kind", ["float_seq", "npz", "parquet lists", "parquet columns", "npy order", "feat1CLS", "image_feat.npy"]
)
def test_features_of_others(kind: str, place: Path, capsys: pytest.CaptureFixture[str], make_config: Any) -> None:
    by_number = kind in ("feat1CLS", "image_feat.npy")
    if by_number:  # their item tokens are numbers
        for file in (place / "small.item", place / "small.inter"):
            file.write_text(file.read_text().replace("\ti", "\t").replace("\ni", "\n").replace("\ntem", "\nitem"))
        text = (place / "small.inter").read_text().replace("\ttem_id", "\titem_id")
        (place / "small.inter").write_text(text)
    tokens = [line.split("\t")[0] for line in (place / "small.item").read_text().splitlines()[1:]]
    options = ["--rows", "order"] if kind == "npy order" else ["--width", "4"] if kind == "feat1CLS" else []
    arguments = ["--import", write_foreign(kind, tokens), "--as", "theirs", "--modality", "image", *options]
    out = run(capsys, "features", "small", *arguments)
    assert out[-1] == "item_fields: {theirs: {modality: image, encoder: imported}}"
    how = {"theirs": {"modality": "image", "encoder": "imported"}}
    dataset = create_dataset(make_config("ItemQFormer", "small", item_fields=how))
    (field,) = dataset.item_fields()
    ids = [dataset.field2token_id["item_id"][token] for token in tokens]
    assert (field.values[ids] == VALUES).all() and field.mask[ids].all() and not field.mask[0]


def test_imported_again_is_replaced_and_zeros_are_missing(place: Path, make_config: Any) -> None:
    config, ids = make_config("ItemQFormer", "small"), np.array([f"i{row}" for row in range(9)])
    np.savez("f.npz", ids=ids, features=VALUES)
    import_features(config, "f.npz", "theirs")
    values = VALUES.copy()
    values[3] = 0
    np.savez("f.npz", ids=ids, features=values)
    store = import_features(config, "f.npz", "theirs")
    assert store.items == [f"i{row}" for row in range(9) if row != 3]
    assert [path.name for path in store.path.parent.iterdir() if path.is_dir()] == [store.path.name]


def test_null_for_a_vector_is_missing(place: Path, make_config: Any) -> None:
    vectors = [None if row in (0, 3) else values for row, values in enumerate(VALUES)]
    pd.DataFrame({"item": [f"i{row}" for row in range(9)], "vector": vectors}).to_parquet("f.parquet")
    store = import_features(make_config("ItemQFormer", "small"), "f.parquet", "theirs")
    assert store.items == [f"i{row}" for row in range(9) if row not in (0, 3)]
    assert (np.asarray(store.embeddings) == np.delete(VALUES, [0, 3], axis=0)).all()
    pd.DataFrame({"item": ["i0"], "vector": [None]}).to_parquet("f.parquet")
    with pytest.raises(NestRecError, match=r"f\.parquet: .* expected numbers \(n_items, width\)"):
        import_features(make_config("ItemQFormer", "small"), "f.parquet", "theirs")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda: np.save("f.npy", np.ones(3)), r"float64 of shape \(3,\); expected numbers \(n_items, width\)"),
        (lambda: np.save("f.npy", np.array([[{}]], object)), "cannot be read"),
        (lambda: Path("f.npy").write_text("no array"), "cannot be read"),
        (lambda: np.save("f.npy", np.ones((3, 2))), r"none of its items \('0', \.\.\.\) is in this dataset"),
        (lambda: None, "file not found"),
    ],
)
def test_files_that_are_no_features(write: Any, words: str, place: Path, make_config: Any) -> None:
    write()
    config = make_config("ItemQFormer", "small")
    with pytest.raises(NestRecError, match=words):
        import_features(config, "f.npy", "theirs")


@pytest.mark.parametrize(
    ("value", "words"), [(0, "all features are zero"), (np.nan, "the features of item 'i0' are not finite")]
)
def test_numbers_that_are_no_features(value: float, words: str, place: Path, make_config: Any) -> None:
    np.savez("f.npz", ids=np.array(["i0", "i1"]), features=np.full((2, 3), value))
    with pytest.raises(NestRecError, match=words):
        import_features(make_config("ItemQFormer", "small"), "f.npz", "theirs")


def test_a_damaged_archive_is_one_line(place: Path, make_config: Any) -> None:
    Path("f.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(NestRecError, match=r"f\.npz: cannot be read"):
        import_features(make_config("ItemQFormer", "small"), "f.npz", "theirs")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("small.emb", b"iid:token\tx:float_seq\ni0\t1 2\ni1\t1\n", "item 'i1' has 1 features, the first has 2"),
        ("small.emb", b"iid:token\tx:float_seq\ni0\t1 b\n", "could not convert string to float"),
        ("small.emb", b"iid:token\tx:float\ni0\t1\n", "neither .npy, .npz, .parquet, .feat1CLS, nor an atomic file"),
        ("small.feat1CLS", b"\0" * 4 * 7, "7 numbers are no rows of 768; see --width"),
        ("f.parquet", b"nothing", "cannot be read"),
    ],
)
def test_files_of_others_that_are_damaged(name: str, content: bytes, words: str, place: Path, make_config: Any) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(NestRecError, match=words):
        import_features(make_config("ItemQFormer", "small"), name, "theirs")


def test_files_may_call_items_otherwise(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in place.glob("small.i*"):
        file.write_text(file.read_text().replace("item_id:", "asin:"))
    called = ["--data-path", "data", "--ITEM_ID_FIELD=asin"]
    assert main(["encode", "--dataset", "small", "--field", "title", *called]) == 0
    assert main(["features", "small", *called]) == 0
    assert "\tminilm\t" in capsys.readouterr().out


@pytest.mark.parametrize("field", ["title", "image"])
def test_what_has_been_encoded_before_is_taken_over(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a dataset that has grown only new texts and images are read; the features are those of encoding all."""

    def write(folder: str, numbers: dict[str, int]) -> None:
        place = tmp_path / folder / "small"
        place.mkdir(parents=True)
        for item, number in numbers.items():
            Image.new("RGB", (32, 32), (8 * number, 255 - 8 * number, 90)).save(place / f"{item}.png")
        lines = [f"{item}\tthing number {number}\t{item}.png\n" for item, number in numbers.items()]
        (place / "small.item").write_text("item_id:token\ttitle:token_seq\timage:token\n" + "".join(lines))

    def encode(folder: str, *more: str) -> tuple[Path, set[str]]:
        read: set[str] = set()

        def open_counting(recipe: Any) -> Any:
            opened = open_encoder(recipe)

            def in_batches(inputs: Any, size: int) -> Any:
                read.update(map(input_key, inputs))
                return opened.in_batches(inputs, size)

            return SimpleNamespace(in_batches=in_batches)

        monkeypatch.setattr(shards, "open_encoder", open_counting)
        assert main([*command, "--data-path", folder, *more]) == 0, capsys.readouterr().err
        return Path(capsys.readouterr().out.strip()), read

    command = ["encode", "--dataset", "small", "--field", field, "--views", "2"]
    write("data", {f"i{number}": number for number in range(8)})
    now = {"new": 20, "i3": 3, "i5": 21, **{f"i{number}": number for number in (7, 0, 1, 2)}, "twin": 4}
    write("now", now)
    _, known = encode("data")
    taken, read = encode("now", "--known-from", "data", "--feature-path", "taken")
    again, every = encode("now", "--feature-path", "again")
    assert read == every - known and 2 <= len(read) < len(every) / 2 and taken.name == again.name
    over, anew = FeatureStore.open(taken), FeatureStore.open(again)
    assert over.items == anew.items == list(now) and over.manifest.settings["taken_over_from"]
    assert over.embeddings == pytest.approx(anew.embeddings, abs=2e-3)
    assert over.views == pytest.approx(anew.views, abs=2e-3)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--field", "title"], "title of data/small/small.item has not been encoded with minilm in this way"),
        (["--field", "year"], "year: nothing can be taken over from data"),
        (["--field", "title", "--reduce", "pca", "--width", "2"], "title: nothing can be taken over from data"),
    ],
)
def test_nothing_to_take_over(
    more: list[str], words: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "now", "small", SEQUENCES)
    given = ["--data-path", "now", "--known-from", "data"]
    assert main(["encode", "--dataset", "small", *more, *given]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["encode", "--dataset", "small", "--field", "title", "--widht=3"], "unknown config key 'widht'"),
        (["encode", "--dataset", "small", "--field", "titel"], "column 'titel' is not there; fields are title, year"),
        (["encode", "--dataset", "small", "--field", "item_id"], "column 'item_id' is what items are called; fields"),
        (["encode", "--dataset", "smal", "--field", "title"], "smal.item does not exist"),
        (["encode", "--dataset", "small", "--field", "title", "--modality", "sound"], "expected {modality: text or"),
        (["encode", "--dataset", "small", "--field", "title", "--with", "./no"], "encoder './no': no such folder"),
        (["features", "small", "--neighbours", "title"], "0 features are called 'title'; there are none yet"),
        (["features", "small", "--import", "x.npy"], "--import needs --as FIELD"),
        (["features", "small", "--import", "x.npy", "--as", "x"], "x.npy: file not found"),
    ],
)
def test_bad_input(arguments: list[str], words: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, *WHERE]) == 2
    assert words in capsys.readouterr().err
    assert not [path for path in (place / "features").glob("*") if path.suffix != ".parquet"]


@pytest.mark.slow
def test_a_cluster_encodes_the_same_to_the_byte(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two workers of a local Ray cluster, several shards; texts by a real model."""
    ray = pytest.importorskip("ray")
    lines = [f"i{i}\t{'word ' * (i % 6)}thing number {i % 40}\n" for i in range(60)]
    (place / "small.item").write_text("item_id:token\ttitle:token_seq\n" + "".join(lines))
    command = ["encode", "--dataset", "small", "--field", "title", "--batch-size", "1"]
    (local,) = run(capsys, *command, "--feature-path", "here")
    try:
        (cluster,) = run(capsys, *command, "--feature-path", "there", "--engine", "ray", "--workers", "2")
        broken = ["encode", "--dataset", "small", "--field", "title", "--engine", "ray", "--with", "./no", *WHERE]
        assert main(broken) == 2
        assert "encoder './no': no such folder" in capsys.readouterr().err
    finally:
        ray.shutdown()
    assert Path(local).name == Path(cluster).name
    for name in ("embeddings.npy", "items.txt", "manifest.json"):
        assert (Path(local) / name).read_bytes() == (Path(cluster) / name).read_bytes()


def test_features_of_a_dataset_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features", "nosuch", "--data-path", "data"]) == 2
    assert "unknown dataset 'nosuch'" in capsys.readouterr().err
