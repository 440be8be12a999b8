"""GatedFusionRec: its gate, its masks, the published model as a setting, and what it is given."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import write_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_models import CIRCLE, TINY_TEXT, build, histories
from torch import Tensor, nn

from nestrec_recbole import NestRecError
from nestrec_recbole.cli import main
from nestrec_recbole.data.featurefiles import recipe_prefix, write_features
from nestrec_recbole.data.loader import last_targets
from nestrec_recbole.layers.fields import FieldSum
from nestrec_recbole.layers.id_gate import IdGate
from nestrec_recbole.layers.unit import unit


def data_of(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", "circle", CIRCLE)


# -- gate -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**31), st.sampled_from([4, 6, 32]), st.sampled_from([0.1, 1.0, 100.0]))
@settings(max_examples=25, deadline=None)
def test_the_gate_is_a_share(seed: int, width: int, size: float) -> None:
    torch.manual_seed(seed)
    gate, content, ids = IdGate(width), torch.randn(5, width) * size, torch.randn(5, width)
    share = gate.share(content)
    assert gate.to_inner.out_features == width // 4
    assert ((share >= 0) & (share <= 1)).all()
    mixed = gate(content, ids, torch.ones(5, dtype=torch.bool))
    torch.testing.assert_close(mixed, (1 - share) * content + share * ids, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("bias", "is_id"), [(40.0, True), (-200.0, False)])
def test_the_limits_of_the_gate(bias: float, is_id: bool) -> None:
    torch.manual_seed(0)
    gate, content, ids = IdGate(8), torch.randn(5, 8), torch.randn(5, 8)
    nn.init.constant_(gate.to_share.bias, bias)
    mixed = gate(content, ids, torch.ones(5, dtype=torch.bool))
    torch.testing.assert_close(mixed, ids if is_id else content)
    assert torch.equal(gate(content, ids, torch.zeros(5, dtype=torch.bool)), content)


# -- fields ---------------------------------------------------------------------------------------------------------


def two_fields(raw: bool, width: int = 8) -> FieldSum:
    random = np.random.default_rng(0)
    values = [random.normal(size=(6, n)).astype(np.float32) for n in (5, 8)]
    masks = [np.arange(6) > 0, np.isin(np.arange(6), (2, 3))]
    torch.manual_seed(0)
    return FieldSum(values, masks, width, raw=raw)


@pytest.mark.parametrize("raw", [False, True])
def test_a_masked_field_changes_nothing(raw: bool) -> None:
    fields = two_fields(raw)
    before = fields()
    with torch.no_grad():
        fields.features_1[:, ~fields.mask[:, 1]] = 1e3
        assert torch.equal(fields(), before)
        fields.features_1[:, 2] = 1e3
        assert not torch.equal(fields()[2], before[2])
    text = F.normalize(fields.projections[0](fields.features()[0]), dim=-1)
    torch.testing.assert_close(before[[1, 4, 5]], text[[1, 4, 5]])  # the other field is not there
    assert not before[0].any()
    torch.testing.assert_close(before[1:].norm(dim=-1), torch.ones(5))


def test_raw_fields_are_projected_where_their_width_differs() -> None:
    fields = two_fields(raw=True)
    assert [isinstance(one, nn.Linear) for one in fields.projections] == [True, False]
    assert len(list(two_fields(raw=False).parameters())) == 4


# -- the published model --------------------------------------------------------------------------------------------


def reference_loss(model: Any, raw: list[Tensor], has: list[Tensor], batch: Any) -> Tensor:
    """The published model, in the plainest way there is: one history at a time, without padding."""
    total = sum(p(x) * h[:, None] for p, x, h in zip(model.fields.projections, raw, has, strict=True))
    content = total / total.norm(dim=1, keepdim=True).clamp(min=1e-12)
    gate = torch.sigmoid(model.gate.to_share(torch.relu(model.gate.to_inner(content))))
    counted = model.id_embedding.is_trained[:, None]
    mixed = torch.where(counted, (1 - gate) * content + gate * model.id_embedding.weight, content)
    fused = F.layer_norm(mixed, mixed.shape[-1:], model.norm.weight, model.norm.bias)
    states, targets = [], []
    for history, nexts in zip(batch["item_id_list"], batch["target_list"], strict=True):
        x = (fused[history[history > 0]] + model.position_embedding.weight[: int((history > 0).sum())])[None]
        for layer in model.transformer.layers:
            attended, _ = layer.self_attn(x, x, x)
            x = layer.norm1(x + attended)
            x = layer.norm2(x + layer.linear2(torch.relu(layer.linear1(x))))
        states.append(x[0, -1])
        targets.append(int(nexts[nexts > 0][-1]))
    losses = []
    scores = torch.stack(states) @ content[targets].T / 0.07
    for one in range(len(states)):
        others = [k for k in range(len(states)) if k == one or targets[k] != targets[one]]
        losses += [-torch.log_softmax(line[others], 0)[others.index(one)] for line in (scores[one], scores[:, one])]
    return torch.stack(losses).mean()


def test_the_preset_is_the_published_model(tmp_path: Path, make_config: Any) -> None:
    """Loss and gradient of a whole batch, against a reference that shares nothing but the weights."""
    data_of(tmp_path)
    given = {"preset": "original", "hidden_dropout_prob": 0.0, "n_layers": 2}
    config, model, (train, _, _) = build(make_config, "GatedFusionRec", **given)
    assert (config["loss"], config["temperature"], config["hidden_size"]) == ("info_nce", 0.07, 32)  # test_models.SMALL
    (batch,) = list(train)
    assert len(batch["item_length"]) == 36 and ((batch["target_list"] > 0).sum(dim=1) == 1).all()
    lengths = batch["item_length"]
    assert lengths.min() < lengths.max()  # some are padded
    assert (batch["target_list"][torch.arange(36), lengths - 1] > 0).all()  # the last of each
    fields = train.dataset.item_fields()
    raw, has = [torch.from_numpy(f.values) for f in fields], [torch.from_numpy(f.mask) for f in fields]
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(model.calculate_loss(batch), parameters.values())
    expected = reference_loss(model, raw, has, batch)
    torch.testing.assert_close(model.calculate_loss(batch), expected)
    for name, ours, theirs in zip(
        parameters, gradients, torch.autograd.grad(expected, parameters.values()), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


def test_what_a_user_sets_goes_over_the_preset(tmp_path: Path, make_config: Any) -> None:
    data_of(tmp_path)
    config = make_config("GatedFusionRec", "circle", preset="original", temperature=0.2, hidden_size=64)
    assert (config["temperature"], config["hidden_size"], config["n_layers"]) == (0.2, 64, 3)
    assert (config["targets"], config["symmetric"], config["item_table"]) == ("last", True, "content")
    config = make_config("GatedFusionRec", "circle")
    assert (config["targets"], config["symmetric"], config["item_table"]) == ("all", False, "fused")


def test_the_preset_learns(tmp_path: Path, make_config: Any) -> None:
    """It trains, is evaluated, and its states do see the whole history, while padding changes none."""
    from recbole.utils import get_trainer

    data_of(tmp_path)
    given = {"preset": "original", "epochs": 60, "eval_step": 20, "learning_rate": 0.003, "n_layers": 1}
    given["item_fields"] = {"year": {"modality": "category"}, "title": {"modality": "text"}}
    config, model, (train, valid, test) = build(make_config, "GatedFusionRec", **given)
    trainer = get_trainer(config["MODEL_TYPE"], "GatedFusionRec")(config, model)
    trainer.fit(train, valid, verbose=False)
    assert trainer.evaluate(test)["ndcg@10"] > 0.7
    with torch.no_grad():
        rows = [[1, 2, 3], [4, 5, 6, 7, 8]]
        together = model.full_sort_predict(histories(rows, width=9))
        alone = torch.cat([model.full_sort_predict(histories([row])) for row in rows])
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
        one, other = model.encode(histories([[1, 2, 3]])), model.encode(histories([[1, 2, 9]]))
        assert not torch.equal(one[:, :1], other[:, :1])


def test_one_target_per_history() -> None:
    stretches = np.array([[1, 0, 1, 6], [2, 7, 8, 9], [2, 12, 13, 15], [5, 16, 17, 17]])
    assert last_targets(stretches).tolist() == [[1, 0, 6, 6], [2, 12, 15, 15], [5, 16, 17, 17]]


# -- ids ------------------------------------------------------------------------------------------------------------


def test_items_without_a_history_rank_by_content(tmp_path: Path, make_config: Any) -> None:
    data_of(tmp_path)
    _, model, _ = build(make_config, "GatedFusionRec")
    model.eval()
    is_trained = model.id_embedding.is_trained
    fresh = int(is_trained.nonzero()[3])
    is_trained[fresh] = False
    before = model.item_table()
    with torch.no_grad():
        model.id_embedding.weight.normal_()
    after = model.item_table()
    assert torch.equal(before[fresh], after[fresh])
    assert (before != after).any(dim=1)[is_trained].all()


def test_ids_are_dropped_while_training_only(tmp_path: Path, make_config: Any) -> None:
    data_of(tmp_path)
    _, model, _ = build(make_config, "GatedFusionRec", id_dropout_prob=0.5)
    whole = model.eval().items()
    plain = model.norm(model.content())
    drawn = model.train().items()
    kept, dropped = ((drawn == other).all(dim=1) for other in (whole, plain))
    assert (kept | dropped).all() and 1 <= (kept & ~dropped).sum() <= 11


# -- what it is given -----------------------------------------------------------------------------------------------


def test_half_the_items_without_an_image(tmp_path: Path, make_config: Any, caplog: pytest.LogCaptureFixture) -> None:
    place = data_of(tmp_path)
    for item in range(0, 12, 2):
        Image.new("RGB", (40, 40), (20 * item, 90, 0)).save(place / f"{item}.png")
    rows = "".join(f"i{item}\t{'' if item % 2 else f'{item}.png'}\tthing {item}\n" for item in range(12))
    (place / "circle.item").write_text("item_id:token\timage:token\ttitle:token_seq\n" + rows)
    with caplog.at_level(logging.INFO):
        _, model, (train, _, _) = build(make_config, "GatedFusionRec", item_fields=None)
    assert "image: 6 of 12 items have none, which is masked" in caplog.text and "title: " not in caplog.text
    assert model.fields.mask.sum(dim=0).tolist() == [6, 12]
    model.calculate_loss(next(iter(train))).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_an_image_feature_of_another_dataset(tmp_path: Path, make_config: Any) -> None:
    place = data_of(tmp_path)
    imported = {"modality": "image", "encoder": "imported"}
    about = {"field": "image", **imported, "normalised": True, "sha256": "0" * 64}
    items = [f"movie {number}" for number in range(3)]
    write_features(place / "features" / f"{recipe_prefix('image', imported)}0", items, np.ones((3, 4), "f4"), **about)
    with pytest.raises(NestRecError, match="none of its 3 items is in this dataset; encode again"):
        build(make_config, "GatedFusionRec", item_fields={**TINY_TEXT, "image": imported})


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("--item_fields={}", "item_fields is {}: expected {column: {modality: text}}"),
        ("--item_fields={'image':{'modality':'image'}}", "column 'image' is not there; fields are title, year"),
        ("--preset=orginal", "unknown preset of GatedFusionRec 'orginal'; did you mean 'original'?"),
        ("--bidirectional=True", "would show every position its own target; set `targets: last`"),
        ("--targets=first", "config key 'targets' is 'first'; expected one of all, last"),
        ("--item_table=ids", "config key 'item_table' is 'ids'; expected one of fused, content"),
        ("--hidden_size=2", "the gate needs a whole number from 4"),
    ],
)
def test_bad_settings(setting: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data_of(tmp_path)
    given = ["--data_path=data", setting]
    assert main(["run", "--model", "GatedFusionRec", "--dataset", "circle", *given]) == 2
    assert words in capsys.readouterr().err


def test_no_item_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "data", "circle", CIRCLE, item_file=False)
    assert main(["run", "--model", "GatedFusionRec", "--dataset", "circle", "--data_path=data"]) == 2
    assert "GatedFusionRec needs item fields, but data/circle/circle.item does not exist" in capsys.readouterr().err


def test_an_item_without_fields_is_zero_in_half_precision_too() -> None:
    """And passes no gradient on that is no number: the scaler would skip every step."""
    fields = two_fields(raw=False)
    with torch.autocast("cpu", dtype=torch.float16):
        found = fields()
        assert not found[0].any()
        (1000 * found.sum()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in fields.parameters())


def test_no_gradient_of_a_vector_of_zeros_is_huge() -> None:
    zeros = torch.zeros(1, 4, requires_grad=True)
    unit(zeros).sum().backward()
    assert zeros.grad is not None and zeros.grad.abs().max() <= 1000.1
    torch.testing.assert_close(unit(torch.tensor([[3.0, 4.0]])), torch.tensor([[0.6, 0.8]]))
