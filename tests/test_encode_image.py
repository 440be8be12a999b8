"""Image encoders: equal to their libraries called directly, on models that the tests make; broken files are masked."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_dataset
from recbole.data import create_dataset

from nestrec_recbole import NestRecError

pytest.importorskip("open_clip")
pytest.importorskip("skimage")

from PIL import Image, ImageDraw

from nestrec_recbole.encode import shards
from nestrec_recbole.encode.augment import alter_image
from nestrec_recbole.encode.engine import Engine
from nestrec_recbole.encode.image import Picture, classic_features, open_image_encoder, open_picture
from nestrec_recbole.encode.recipe import Recipe
from nestrec_recbole.encode.shards import encode_inputs
from nestrec_recbole.encode.text import open_text_encoder
from nestrec_recbole.encode.towers import open_towers

SEQUENCES = [[0, 1, 2, 3, 4], [2, 3, 4, 5, 6], [4, 5, 6, 7, 8]]


def draw(colour: str, turn: int = 0, side: int = 64) -> Image.Image:
    image = Image.new("RGB", (side, side * 3 // 4), "white")
    ImageDraw.Draw(image).rectangle([side // 8, side // 8, side // 2, side // 3], fill=colour)
    return image.rotate(turn, fillcolor="white")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Picture]:
    folder = tmp_path_factory.mktemp("images")
    found = []
    for number, colour in enumerate(["red", "darkred", "blue", "green"]):
        draw(colour, 20 * number).save(folder / f"{number}.png")
        found.append(Picture(str(folder / f"{number}.png"), f"digest {number}"))
    return found


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A CLIP of random weights as open_clip keeps one: a configuration and a file of weights."""
    import open_clip

    folder = tmp_path_factory.mktemp("open_clip")
    vision = {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    shape = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    (folder / "nestrec-tiny.json").write_text(json.dumps(shape))
    open_clip.add_model_config(str(folder / "nestrec-tiny.json"))
    torch.manual_seed(0)
    torch.save(open_clip.create_model("nestrec-tiny").state_dict(), folder / "weights.pt")
    return f"open_clip:{folder}/nestrec-tiny.json:{folder}/weights.pt"


@torch.no_grad()
def test_open_clip_is_open_clip(clip_file: str, pictures: list[Picture]) -> None:
    import open_clip

    _, config, weights = clip_file.split(":")
    model, prepare = open_clip.create_model_from_pretrained(Path(config).stem, weights)
    images = torch.stack([prepare(Image.open(picture.path)) for picture in pictures])
    expected = model.eval().encode_image(images).numpy()
    assert open_image_encoder(Recipe("image", clip_file))(pictures) == pytest.approx(expected, abs=1e-6)
    texts = ["a red box", "blue"]
    expected = model.encode_text(open_clip.get_tokenizer(Path(config).stem)(texts)).numpy()
    found = open_text_encoder(Recipe("text", clip_file))(texts)
    assert found == pytest.approx(expected, abs=1e-6) and found.shape[1] == 24  # the images' space


def test_open_clip_with_weights_of_another_model_is_refused(clip_file: str, tmp_path: Path) -> None:
    _, config, weights = clip_file.split(":")
    state = torch.load(weights)
    del state["visual.proj"]
    torch.save(state, tmp_path / "gap.pt")
    with pytest.raises(NestRecError, match="cannot be loaded"):
        open_image_encoder(Recipe("image", f"open_clip:{config}:{tmp_path / 'gap.pt'}"))


def transformers_model(name: str) -> tuple[Any, Any]:
    """A model of random weights and the processor of its images."""
    import transformers as t

    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**tower, "image_size": 32, "patch_size": 8}
    words = {**tower, "vocab_size": 50, "max_position_embeddings": 16}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    stages = {"hidden_sizes": [8, 16], "depths": [1, 1]}
    torch.manual_seed(0)
    size = {"height": 32, "width": 32}
    plain = t.ViTImageProcessor(size=size)
    clip = t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    if name == "clip":
        config = t.CLIPConfig(text_config={**words, **ends}, vision_config=vision, projection_dim=24)
        return t.CLIPModel(config), clip
    if name == "siglip":
        return t.SiglipModel(
            t.SiglipConfig(text_config={**words, **ends}, vision_config=vision)
        ), t.SiglipImageProcessor(size=size)
    if name == "dinov2":
        return t.Dinov2Model(t.Dinov2Config(**vision)), clip
    if name == "vit":
        return t.ViTModel(t.ViTConfig(**vision)), plain
    if name == "resnet":
        config = t.ResNetConfig(embedding_size=8, layer_type="basic", **stages)
        return t.ResNetModel(config), t.ConvNextImageProcessor(size={"shortest_edge": 384})
    return t.ConvNextModel(t.ConvNextConfig(num_stages=2, **stages)), t.ConvNextImageProcessor(
        size={"shortest_edge": 384}
    )


@pytest.mark.parametrize("name", ["clip", "siglip", "dinov2", "vit", "resnet", "convnext"])
@torch.no_grad()
def test_transformers_models_are_transformers(name: str, pictures: list[Picture], tmp_path: Path) -> None:
    model, processor = transformers_model(name)
    model.eval().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    found = open_image_encoder(Recipe("image", f"hf:{tmp_path}"))(pictures)
    pixels = processor(images=[Image.open(p.path) for p in pictures], return_tensors="pt")["pixel_values"]
    if name in ("clip", "siglip"):
        expected = model.get_image_features(pixel_values=pixels).pooler_output
    else:
        expected = model(pixel_values=pixels).pooler_output.flatten(1)
    assert found == pytest.approx(expected.numpy(), abs=1e-5)


@pytest.mark.parametrize("name", ["clip", "resnet", "convnext"])
@pytest.mark.parametrize("saved_as", [torch.float16, torch.bfloat16])
def test_models_saved_in_half_precision(
    name: str, saved_as: torch.dtype, pictures: list[Picture], tmp_path: Path
) -> None:
    model, processor = transformers_model(name)
    for folder, dtype in (("half", saved_as), ("whole", torch.float32)):  # the same weights
        model.to(dtype).save_pretrained(tmp_path / folder)
        processor.save_pretrained(tmp_path / folder)
    half, whole = (open_image_encoder(Recipe("image", f"hf:{tmp_path / f}"))(pictures) for f in ("half", "whole"))
    assert (half == whole).all()


@torch.no_grad()
def test_a_vit_without_pooler_gives_its_class_token(pictures: list[Picture], tmp_path: Path) -> None:
    import transformers as t

    _, processor = transformers_model("vit")
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = t.ViTModel(t.ViTConfig(image_size=32, patch_size=8, **shape), add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    pixels = processor(images=[Image.open(p.path) for p in pictures], return_tensors="pt")["pixel_values"]
    expected = model(pixel_values=pixels).last_hidden_state[:, 0]
    found = open_image_encoder(Recipe("image", f"hf:{tmp_path}"))(pictures)
    assert found == pytest.approx(expected.numpy(), abs=1e-5)


@torch.no_grad()
def test_the_text_side_of_a_clip(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    model, processor = transformers_model("clip")
    model.eval().save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "red": 3, "box": 4, "blue": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>").save_pretrained(tmp_path)
    found = open_text_encoder(Recipe("text", f"hf:{tmp_path}"))(["red box", "blue"])
    for text, ids in (("red box", [1, 3, 4, 2]), ("blue", [1, 5, 2])):
        expected = model.get_text_features(input_ids=torch.tensor([ids])).pooler_output[0]
        assert found[0 if "red" in text else 1] == pytest.approx(expected.numpy(), abs=1e-5)


def test_weights_that_are_missing_are_never_random(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model, _ = transformers_model("clip")
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NestRecError, match=r"lacks 1 weights, visual_projection.weight first, which would be random"):
        open_towers(f"hf:{tmp_path}")


def test_classic_features_know_colours_and_shapes() -> None:
    red, dark, blue, large = classic_features([draw("red"), draw("darkred"), draw("blue"), draw("red", side=200)])
    assert red.shape == (644,) and red.dtype == np.float32
    colours, gradients = slice(0, 320), slice(320, 644)
    assert np.linalg.norm(red[colours]) == pytest.approx(1, abs=1e-5)
    assert red[colours] @ large[colours] > red[colours] @ blue[colours]
    assert red[gradients] @ dark[gradients] > 0.95  # the same shape
    turned = classic_features([draw("red", 45)])[0]
    assert red[gradients] @ turned[gradients] < red[gradients] @ large[gradients]
    assert np.isfinite(classic_features([Image.new("RGB", (5, 3))])).all()


def test_broken_files_are_no_picture_and_change_nothing_else(pictures: list[Picture], tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    whole = Path(pictures[0].path).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    broken = [Picture(str(tmp_path / name), name) for name in ("text.jpg", "cut.png", "none.png")]
    encode = open_image_encoder(Recipe("image", "classic"))
    found = encode([broken[0], pictures[0], *broken[1:], pictures[1]])
    assert np.isnan(found).all(axis=1).tolist() == [True, False, True, True, False]
    assert (found[[1, 4]] == encode(pictures[:2])).all()


def test_pictures_are_upright_and_on_white(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert open_picture(Picture(str(tmp_path / "clear.png"), "")).getpixel((0, 0)) == (255, 255, 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.new("RGB", (8, 4)).save(tmp_path / "side.jpg", exif=exif)
    assert open_picture(Picture(str(tmp_path / "side.jpg"), "")).size == (4, 8)
    Image.new("P", (4, 4)).save(tmp_path / "palette.gif")
    assert open_picture(Picture(str(tmp_path / "palette.gif"), "")).mode == "RGB"


def test_altered_pictures_are_the_same_each_time_and_differ_by_view() -> None:
    image = draw("red", side=120)
    views = [alter_image(image, "digest", view) for view in range(1, 6)]
    assert alter_image(image, "digest", 1).tobytes() == views[0].tobytes() != alter_image(image, "x", 1).tobytes()
    assert len({view.tobytes() for view in views}) == 5
    for view in views:
        assert 0.59 < view.size[0] * view.size[1] / (image.size[0] * image.size[1]) <= 1
    assert alter_image(Image.new("RGB", (1, 1)), "digest", 1).size == (1, 1)


def test_images_of_a_dataset(pictures: list[Picture], tmp_path: Path, make_config: Any, caplog: Any) -> None:
    """A column of paths becomes an image field: missing, broken and absent images are masked, equal ones equal."""
    place = write_dataset(tmp_path / "data", "small", SEQUENCES)
    (place / "images").mkdir()
    for number, picture in enumerate(pictures):
        shutil.copy(picture.path, place / f"images/{number}.png")
    shutil.copy(pictures[0].path, place / "images/copy.png")
    (place / "images/broken.png").write_text("no image")
    cells = ["images/0.png", "images/1.png", "", "images/copy.png", "images/broken.png", "images/gone.png"]
    lines = [f"i{number}\t{cell}\n" for number, cell in enumerate(cells)]
    (place / "small.item").write_text("item_id:token\timage:token\n" + "".join(lines))
    dataset = create_dataset(make_config("ItemQFormer", "small"))
    (field,) = dataset.item_fields()
    ids = [dataset.field2token_id["item_id"][f"i{number}"] for number in range(6)]
    assert (field.modality, field.mask[ids].tolist()) == ("image", [True, True, False, True, False, False])
    assert (field.values[ids[0]] == field.values[ids[3]]).all()
    assert "2 values are no readable images and count as missing (item 'i4': 'images/broken.png')" in caplog.text
    shutil.copy(pictures[2].path, place / "images/gone.png")
    later = create_dataset(make_config("ItemQFormer", "small"))
    assert later.item_fields()[0].mask[ids[5]]  # a new file makes the field stale
    assert create_dataset(make_config("ItemQFormer", "small")).feature_paths == later.feature_paths


KILLED_WHILE_ENCODING = """
import os, signal, sys
from pathlib import Path
from nestrec_recbole.encode import shards
from nestrec_recbole.encode.image import Picture
from nestrec_recbole.encode.recipe import Recipe
encode_shard, calls = shards.encode_shard, []
def encode_or_die(*arguments):
    calls.append(arguments)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return encode_shard(*arguments)
shards.encode_shard = encode_or_die
pictures = [Picture(str(path), path.name) for path in sorted(Path(sys.argv[1]).iterdir())]
engine = shards.Engine(batch_size=1, progress=False)
shards.encode_inputs(pictures, Recipe("image", "classic"), {}, Path(sys.argv[2]), engine)
"""


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    for number in range(10):
        draw("red", 10 * number).save(tmp_path / f"images/{number}.png")
    command = [sys.executable, "-c", KILLED_WHILE_ENCODING, str(tmp_path / "images"), str(tmp_path / "parts")]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    assert len(list((tmp_path / "parts").glob("*.npy"))) == 2
    encoded: list[int] = []
    encode_shard = shards.encode_shard

    def counted(encoder: Any, shard: Any, *rest: Any) -> np.ndarray:
        encoded.append(len(shard))
        return encode_shard(encoder, shard, *rest)

    monkeypatch.setattr(shards, "encode_shard", counted)
    pictures = [Picture(str(path), path.name) for path in sorted((tmp_path / "images").iterdir())]
    recipe, engine = Recipe("image", "classic"), Engine(batch_size=1, progress=False)
    resumed, place = encode_inputs(pictures, recipe, {}, tmp_path / "parts", engine)
    assert encoded == [2, 2, 2]  # ten pictures in shards of two: two were finished
    whole, same_place = encode_inputs(pictures, recipe, {}, tmp_path / "afresh", engine)
    assert resumed.tobytes() == whole.tobytes() and (place == same_place).all()
