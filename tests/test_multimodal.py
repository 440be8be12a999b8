"""MultimodalRec: what it is told to read is what it reads, and anybody with a history gets scores."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import write_dataset
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed
from test_models import histories

from nestrec_recbole import NestRecError, run_recbole
from nestrec_recbole.data.features import ItemField
from nestrec_recbole.layers.fusion import FUSIONS
from nestrec_recbole.models.multimodalrec import fields_read

CIRCLE = [[(start + step) % 12 for step in range(4 + start % 5)] for start in range(36)]
FIELDS = {
    "title": {"modality": "text"},
    "year": {"modality": "number"},
    "tag": {"modality": "category"},
    "image": {"modality": "image"},
}
SMALL = {"hidden_size": 16, "n_heads": 2, "inner_size": 32, "mlp_widths": [16, 8]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The circle with titles, years, a tag, and pictures of every other item."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    place = write_dataset(folder, "circle", CIRCLE)
    header, *rows = (place / "circle.item").read_text().splitlines()
    lines = [header + "\ttag:token\timage:token\tcover:token"]
    for number, row in enumerate(rows):
        picture = f"{number}.png" if number % 2 else ""
        if picture:
            pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / picture)
        lines.append(f"{row}\t{'odd' if number % 3 else 'even'}\t{picture}\t{picture}")
    (place / "circle.item").write_text("\n".join(lines) + "\n")
    return folder


def build(make_config: Any, data: Path, **settings: Any) -> tuple[Any, Any, Any]:
    given = {"data_path": str(data), "feature_path": str(data), "item_fields": FIELDS, **SMALL}
    config = make_config("MultimodalRec", "circle", **{**given, **settings})
    init_seed(config["seed"], True)
    loaders = data_preparation(config, create_dataset(config))
    return config, get_model("MultimodalRec")(config, loaders[0].dataset), loaders


@pytest.mark.parametrize("history", [False, True])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_trains_all_its_weights_and_sees_no_future(
    fusion: str, history: bool, make_config: Any, data: Path
) -> None:
    # Two texts and two images: attention to a single token has nothing to learn of its queries and keys.
    fields = {**FIELDS, "tag": {"modality": "text"}, "cover": {"modality": "image"}}
    _, model, (train, _, _) = build(make_config, data, fusion=fusion, history=history, item_fields=fields)
    for batch in train:
        model.calculate_loss(batch).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []
    with torch.no_grad():
        model.eval()
        one, other = (model.encode(histories([[1, 2, 3, *rest]])) for rest in ([4, 5, 6], [9, 10, 11]))
    assert torch.equal(one[:, :3], other[:, :3]) and not torch.equal(one[:, 3:], other[:, 3:])


def test_the_history_variant_scores_by_inner_product_and_learns_the_circle(make_config: Any, data: Path) -> None:
    settings = {"epochs": 60, "eval_step": 20, "learning_rate": 0.01, "hidden_dropout_prob": 0.0}
    config, model, (train, valid, test) = build(make_config, data, history=True, fusion="cross_modal", **settings)
    trainer = get_trainer(config["MODEL_TYPE"], "MultimodalRec")(config, model)
    trainer.fit(train, valid, verbose=False)
    assert trainer.evaluate(test)["ndcg@10"] > 0.95
    batch = histories([[1, 2, 3], [4, 5]])
    with torch.no_grad():
        expected = model.user_states(batch) @ model.item_table().T
        torch.testing.assert_close(model.full_sort_predict(batch)[:, 1:], expected[:, 1:])


@torch.no_grad()
def test_users_have_ids_and_those_who_have_none_their_history(make_config: Any, data: Path) -> None:
    _, model, _ = build(make_config, data)
    model.eval()
    model.user_embedding.weight[2:] = torch.randn(len(model.user_embedding.weight) - 2, 16)
    batch = histories([[1, 2, 3], [1, 2, 3], [1, 2, 3]])
    nobody = model.full_sort_predict(batch)
    batch.interaction["user_id"] = torch.tensor([1, 2, 3])  # the first was never trained: zero, as at the start
    scores = model.full_sort_predict(batch)
    assert torch.equal(scores[0], nobody[0])
    assert not torch.allclose(scores[1], scores[2]) and not torch.allclose(scores[1, 1:], nobody[1, 1:])
    other = model.full_sort_predict(histories([[4, 5, 6]]))
    assert not torch.allclose(other[:, 1:], nobody[:1, 1:])


def test_a_user_who_was_not_trained_stays_at_zero(make_config: Any, data: Path) -> None:
    config, model, (train, _, _) = build(make_config, data, epochs=2, user_dropout_prob=0.0)
    trained = torch.from_numpy(np.unique(train.dataset.users)).long()
    get_trainer(config["MODEL_TYPE"], "MultimodalRec")(config, model).fit(train, verbose=False, saved=False)
    moved = model.user_embedding.weight.abs().sum(dim=1) > 0
    assert moved[trained].all() and moved.sum() == len(trained)


def test_without_user_ids_it_does_not_matter_who_it_is(make_config: Any, data: Path) -> None:
    _, model, _ = build(make_config, data, use_users=False)
    model.eval()
    batch = histories([[1, 2, 3]])
    nobody = model.full_sort_predict(batch)
    batch.interaction["user_id"] = torch.tensor([4])
    assert torch.equal(model.full_sort_predict(batch), nobody)


def test_known_items_and_the_target_are_no_negatives(make_config: Any, data: Path) -> None:
    """If a user has taken all that is drawn, the loss is that of the positives alone."""
    _, model, (train, _, _) = build(make_config, data, contrastive_weight=0.0, negatives_per_positive=4)
    model.eval()
    batch = next(iter(train))
    seen = torch.from_numpy(train.dataset.interactions()[1])
    states, targets, _ = model.at_targets(model.encode(batch), batch)
    model.sampler.forward = lambda n: seen[:1].expand(n)
    model.known.forward = lambda users, items: torch.ones_like(items, dtype=torch.bool)
    positive = model.scorer(states, model.item_table(), targets[:, None])[:, 0]
    expected = F.softplus(-positive).sum() / (5 * len(targets))
    torch.testing.assert_close(model.calculate_loss(batch), expected)


def test_alignment_is_between_items_that_have_both(make_config: Any, data: Path) -> None:
    _, model, (train, _, _) = build(make_config, data, contrastive_weight=0.5)
    model.eval()
    tokens, mask = model.fields()
    names = list(FIELDS)
    text, image = names.index("title"), names.index("image")
    both = (mask[:, text] & mask[:, image]).nonzero()[:, 0]
    assert 2 <= len(both) < 6
    a, b = F.normalize(tokens[both, text], dim=-1), F.normalize(tokens[both, image], dim=-1)
    logits, own = a @ b.T / model.alignment_temperature(), torch.arange(len(both))
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(model.alignment(torch.arange(13).repeat(2, 1)), expected)
    lonely = (~mask[:, image]).nonzero()
    assert model.alignment(lonely).item() == 0.0
    model.sampler.forward = lambda n: torch.ones(n, dtype=torch.int64)
    batch = next(iter(train))
    weighted = model.calculate_loss(batch) - model._pair_loss(model.scorer, batch, model.draw(batch)[0])
    torch.testing.assert_close(weighted, 0.5 * model.alignment(batch["target_list"]))


@torch.no_grad()
def test_modalities_can_be_switched_off(make_config: Any, data: Path) -> None:
    def scores(**settings: Any) -> torch.Tensor:
        _, model, _ = build(make_config, data, **settings)
        model.eval()
        for field in [] if model.fields is None else model.fields.features():
            field.mul_(2)  # what is read makes a difference
        return model.full_sort_predict(histories([[1, 2, 3]]))[:, 1:]

    _, model, _ = build(make_config, data, modalities="text", mlp_widths=8)  # one stands for a list of one
    assert len(model.fields.widths) == 1
    _, model, _ = build(make_config, data, modalities=["text", "number"])
    assert len(model.fields.widths) == 2 and not model.alignment_weight
    _, model, _ = build(make_config, data, modalities=[])
    assert model.fields is None and model.fusion.reading.attention is not None
    assert torch.isfinite(scores(modalities=[])).all()
    assert torch.isfinite(scores(use_ids=False, modalities=["image"])).all()  # half of the items are without


@torch.no_grad()
@pytest.mark.parametrize("history", [False, True])
def test_items_that_came_later_are_read_by_their_fields(history: bool, make_config: Any, data: Path) -> None:
    """A copy of an item without a history in the training data is what the item is; the catalogue stays as it is."""
    _, model, _ = build(make_config, data, modalities=["text", "image"], history=history)
    model.eval()
    model.id_embedding.is_trained[2] = False
    table = model.item_table()
    fields = [field.values[2:3] for field in build(make_config, data)[2][0].dataset.item_fields()]
    masks = [field.mask[2:3] for field in build(make_config, data)[2][0].dataset.item_fields()]
    model.add_items(fields, masks)
    longer = model.item_table()
    torch.testing.assert_close(longer[:-1], table)
    torch.testing.assert_close(longer[-1], table[2])
    assert torch.isfinite(model.full_sort_predict(histories([[1, len(table)]]))[:, 1:]).all()
    with pytest.raises(NestRecError, match="has none of the fields that this model reads"):
        model.add_items(fields, [mask & False for mask in masks])
    with pytest.raises(NestRecError, match="cannot read items that are not in its catalogue"):
        build(make_config, data, modalities=[])[1].add_items(fields, masks)


def test_end_to_end_with_all_metrics(data: Path) -> None:
    settings = {"data_path": str(data), "feature_path": str(data), "item_fields": FIELDS, **SMALL, "epochs": 2}
    settings |= {"fusion": "cross_modal", "negatives": "inverse_popularity", "show_progress": False, "state": "ERROR"}
    settings |= {"metrics": ["NDCG", "Precision", "Recall", "F1", "MAP", "MRR", "ItemCoverage", "Novelty", "Diversity"]}
    result = run_recbole("MultimodalRec", "circle", config_dict=settings)["test_result"]
    names = "ndcg precision recall f1 map mrr itemcoverage novelty diversity"
    assert {f"{name}@10" for name in names.split()} <= set(result)
    assert result["f1@10"] == pytest.approx(2 * result["recall@10"] / 11, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fusion": "sum"}, "'fusion' is 'sum'; expected one of concat, gated, attention, cross_modal"),
        ({"fusion": "cross_modal", "modalities": ["text"]}, "needs tokens of text and of image, not of text, id only"),
        ({"modalities": ["audio"]}, "unknown modality of item_fields 'audio'; known: category, image, number, text"),
        ({"modalities": [], "use_ids": False}, "nothing is known of an item"),
        ({"loss": "gbce"}, "loss: gbce has no effect on pairs, which BCE trains; set history: True"),
        ({"negatives": "in_batch"}, "negatives: in_batch has no effect on pairs"),
        ({"negatives": "inverse"}, "'negatives' is 'inverse'; expected one of uniform, popularity, inverse_popularity"),
        ({"mlp_norm": "group"}, "'mlp_norm' is 'group'; expected one of none, layer, batch"),
        ({"mlp_activation": "relu6"}, "'mlp_activation' is 'relu6'; expected one of relu"),
        ({"mlp_init": "zeros"}, "'mlp_init' is 'zeros'; expected one of xavier_uniform"),
        ({"mlp_widths": []}, "'mlp_widths' is .*; expected list of int"),
        ({"mlp_widths": [8, 0]}, "mlp_widths is .*; expected whole numbers from 1"),
        ({"negatives_per_positive": 0}, "'negatives_per_positive' is 0"),
        ({"user_dropout_prob": 1.5}, "'user_dropout_prob' is 1.5; expected a number from 0 to 1"),
        ({"contrastive_weight": -1.0}, "'contrastive_weight' is -1.0; expected a number from 0"),
    ],
)
def test_bad_settings(settings: dict[str, Any], words: str, make_config: Any, data: Path) -> None:
    with pytest.raises(NestRecError, match=words):
        build(make_config, data, **settings)


def test_a_constant_field_is_named_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    mask = np.array([False, True, True, True])
    same = ItemField("price", "number", np.array([[0.0], [3.0], [3.0], [3.0]], dtype=np.float32), mask)
    other = ItemField("title", "text", np.eye(4, dtype=np.float32), mask)
    with caplog.at_level(logging.WARNING):
        assert fields_read([same, other], None) == [1]
    assert "price is the same for all items that have it" in caplog.text and "title" not in caplog.text
