"""The nested stack with levels left out, on items it never saw, and looking at no more items than a step needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

from nestrec_recbole import NestRecError
from nestrec_recbole.models import itemqformer

N_KINDS, N_EACH = 6, 15
SMALL: dict[str, Any] = {"hidden_size": 32, "n_heads": 2, "inner_size": 64, "learning_rate": 0.01, "epochs": 8}
SMALL |= {"hidden_dropout_prob": 0.1, "eval_step": 8, "train_batch_size": 512, "MAX_ITEM_LIST_LENGTH": 10}


@pytest.fixture
def kinds(tmp_path: Path, make_config: Any) -> Any:
    """A function (model, settings) -> trainer and data. Users take items of one kind, in no order."""
    random = np.random.default_rng(0)
    place = tmp_path / "data" / "kinds"
    place.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(150):
        taken = random.permutation(N_EACH)[:8] + N_EACH * (user % N_KINDS)
        lines += [f"u{user}\ti{item}\t{60 * step}" for step, item in enumerate(taken)]
    (place / "kinds.inter").write_text("\n".join(lines) + "\n")
    rows = [f"i{item}\tkind{item // N_EACH}\tthing {item}" for item in range(N_KINDS * N_EACH)]
    (place / "kinds.item").write_text("item_id:token\tkind:token\ttitle:token_seq\n" + "\n".join(rows) + "\n")

    def build(model: str, **settings: Any) -> Any:
        fields = {} if model == "FastSASRec" else {"item_fields": {"kind": {"modality": "category"}}}
        config = make_config(model, "kinds", **{**SMALL, **fields, **settings})
        init_seed(1, True)
        train, valid, test = data_preparation(config, create_dataset(config))
        built = get_model(model)(config, train.dataset)
        return get_trainer(config["MODEL_TYPE"], model)(config, built), train, valid, test

    return build


def trained(built: Any) -> dict[str, float]:
    trainer, train, valid, test = built
    trainer.fit(train, valid, verbose=False)
    result: dict[str, float] = trainer.evaluate(test)
    return result


@pytest.mark.parametrize("model", ["ItemQFormer", "NestRec"])
def test_items_that_training_never_saw_are_found_by_their_content(model: str, kinds: Any) -> None:
    """15 items of the right kind among 90: by chance 1 in 15 is the one; by popularity an unseen item is never."""
    result = trained(kinds(model, hidden_items=0.2, valid_metric="NDCG@10_f_cold"))
    id_only = trained(kinds("FastSASRec", hidden_items=0.2))
    assert result["recall@10_f_cold"] > 0.6 and result["ndcg@10_f_cold"] > 0.25
    assert id_only["recall@10_f_cold"] < 0.3


@pytest.mark.parametrize("model", ["FastSASRec", "ItemQFormer", "NestRec"])
@pytest.mark.parametrize("loss", ["full_softmax", "sampled_softmax", "gbce", "info_nce"])
def test_hidden_items_have_no_say_in_training(loss: str, model: str, kinds: Any) -> None:
    """Whatever the weights and features of hidden items, loss and gradients are the same; and theirs are zero."""
    given = {"loss": loss, "n_negatives": 200, "hidden_dropout_prob": 0.0}
    given |= {} if model == "FastSASRec" else {"id_dropout_prob": 0.0}
    trainer, train, _, _ = kinds(model, hidden_items=0.2, **given)
    hidden = torch.from_numpy(train.dataset.hidden_items)
    table = trainer.model.item_embedding if model == "FastSASRec" else trainer.model.id_embedding
    batch = next(iter(train))
    losses = []
    for _ in range(2):
        torch.manual_seed(3)
        trainer.model.train().zero_grad()
        losses.append(trainer.model.calculate_loss(batch))
        losses[-1].backward()
        assert (table.weight.grad[hidden] == 0).all() and (table.weight.grad[~hidden][1:] != 0).any()
        with torch.no_grad():
            table.weight[hidden] += 100
            if model != "FastSASRec":
                trainer.model.fields.features_0[:, hidden] += 100
    assert losses[0] == losses[1]


def test_ids_of_items_without_history_add_nothing(kinds: Any) -> None:
    trainer, train, _, _ = kinds("NestRec", hidden_items=0.2)
    model, hidden = trainer.model.eval(), torch.from_numpy(train.dataset.hidden_items)
    with torch.no_grad():
        difference = model.item_tokens() - model.content_tokens()
    torch.testing.assert_close(difference[~hidden][:, 0], model.id_embedding.weight[~hidden], atol=1e-6, rtol=0)
    assert (difference[hidden] == 0).all()


@pytest.mark.parametrize("model", ["ItemQFormer", "UserQFormer", "NestRec"])
@pytest.mark.parametrize("loss", ["full_softmax", "sampled_softmax"])
def test_cosine_and_the_recent_mean(loss: str, model: str, kinds: Any) -> None:
    """States and items are of unit length; a state is that without the mean, and half the mean of what was read."""
    _, train, _, _ = kinds(model)
    plain = kinds(model, temperature=0.05, cosine=True)[0].model.eval()
    net = kinds(model, temperature=0.05, loss=loss, n_negatives=5, cosine=True, recency_scale=0.5)[0].model
    left_out = net.load_state_dict(plain.state_dict(), strict=False)
    assert set(left_out.missing_keys) == {"recency.scale", "recency.mean.decay"} and not left_out.unexpected_keys
    batch = next(iter(train))
    net.train().calculate_loss(batch).backward()
    assert net.recency.scale.grad.abs().min() > 0 and net.recency.mean.decay.grad != 0
    net.eval()
    with torch.no_grad():
        directions, table = plain.encode(batch), plain.item_table()
        torch.testing.assert_close(directions, unit(directions))
        torch.testing.assert_close(table, unit(plain.item_tokens().mean(dim=1)))
        states, read = net.encode(batch), table[batch["item_id_list"]]
        for step in range(read.shape[1]):
            weights = 0.5 ** torch.arange(step, -1, -1)
            mean = (weights[:, None] * read[:, : step + 1]).sum(dim=1)
            torch.testing.assert_close(states[:, step], unit(directions[:, step] + 0.5 * unit(mean)))


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1)


def with_some_and_with_all_items(net: Any, batch: Any) -> list[Any]:
    """Loss and gradients of a step that computes the items it looks at, and of one that computes all."""
    found = []
    for computes_items in (True, False):
        net.computes_items = computes_items
        net.zero_grad()
        torch.manual_seed(3)
        value = net.calculate_loss(batch)
        value.backward()
        found.append((value.detach(), {n: p.grad for n, p in net.named_parameters() if p.grad is not None}))
    return found


READ_FIELDS = ["ItemQFormer", "UserQFormer", "NestRec", "ItemPretraining", "GatedFusionRec", "MultimodalRec"]
SAMPLED = [(model, loss) for model in READ_FIELDS for loss in ("sampled_softmax", "gbce", "info_nce", "triplet")]


@pytest.mark.parametrize(("model", "loss"), [*SAMPLED, ("MultimodalRec", "pairs")])
def test_a_sampled_loss_needs_only_the_items_it_looks_at(
    model: str, loss: str, kinds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and gradients are those that come of computing every item."""
    given = {
        "loss": loss,
        "n_negatives": 5,
        "hidden_dropout_prob": 0.0,
        "id_dropout_prob": 0.0,
        "mask_known": loss != "full_softmax",
    }
    given |= {"reconstruction_weight": 0.0} if model == "ItemPretraining" else {}
    given |= {"history": True} if model == "MultimodalRec" else {}
    given |= {"history": False, "loss": "full_softmax", "negatives_per_positive": 1} if loss == "pairs" else {}
    trainer, train, _, _ = kinds(model, train_batch_size=30 if loss == "pairs" else 60, **given)
    net, batch = trainer.model.train(), next(iter(train))
    n_read: list[int] = []
    read = type(net.fields).forward

    def counted(fields: Any, items: Any) -> Any:
        n_read.append(net.n_items if isinstance(items, slice) else len(items))
        return read(fields, items)

    monkeypatch.setattr(type(net.fields), "forward", counted)
    some, every = with_some_and_with_all_items(net, batch)
    assert n_read[0] < 0.7 * net.n_items == 0.7 * n_read[1]
    torch.testing.assert_close(some, every, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("loss", ["sampled_softmax", "gbce", "info_nce", "triplet"])
def test_only_items_that_are_looked_at_are_made_unit(loss: str, kinds: Any) -> None:
    trainer, train, _, _ = kinds("FastSASRec", loss=loss, cosine=True, n_negatives=5, hidden_dropout_prob=0.0)
    net, batch = trainer.model.train(), next(iter(train))
    assert net.computes_items
    some, every = with_some_and_with_all_items(net, batch)
    torch.testing.assert_close(some, every, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_chunks_of_items_are_the_whole(kinds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, *_ = kinds("NestRec")
    model = trainer.model.eval()
    whole = model.item_table()
    monkeypatch.setattr(itemqformer, "CHUNK", 7)
    model.forget()
    torch.testing.assert_close(model.item_table(), whole)


def test_dropout_in_the_qformer_is_of_each_item(kinds: Any) -> None:
    """The queries that have read nothing are taken away from all items: theirs would be one noise in all."""
    model = kinds("ItemQFormer", qformer_dropout_prob=0.5)[0].model.train()
    nothing = torch.zeros(1, model.fields.mask.shape[1], model.width), torch.zeros_like(model.fields.mask[:1])
    one, other = (model._without_fields(*nothing) for _ in range(2))
    torch.testing.assert_close(one, other)
    assert model.item_qformer.training and not torch.equal(model.item_table(), (model.forget(), model.item_table())[1])


def test_a_stage_may_lie_on_another_device_than_the_model(kinds: Any) -> None:
    """Checkpoints are read on the CPU; here the model is of another type, which fails as another device does."""
    taken = kinds("UserQFormer")[0].model.state_dict()
    model = kinds("NestRec")[0].model.double()
    assert model.starting_from(taken)["to_state.weight"].dtype is torch.float32


ABLATIONS: dict[str, dict[str, Any]] = {
    "no user tokens": {"user_queries": 0},
    "no item q-former": {"item_layers": 0},
    "neither": {"user_queries": 0, "item_layers": 0},
    "no ids": {"use_ids": False},
    "no text": {"item_fields": {"kind": {"modality": "category"}}},
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_level_can_be_left_out(name: str, kinds: Any) -> None:
    built = kinds("NestRec", **{"id_dropout_prob": 0.0, **ABLATIONS[name]})
    trainer, train, *_ = built
    net = trainer.model
    for batch in train:
        net.calculate_loss(batch).backward()
    for parameter_name, parameter in net.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, parameter_name
    has_user_tokens = any(part.startswith("user_") for part, _ in net.named_parameters())
    assert has_user_tokens == ("user_queries" not in ABLATIONS[name])
    net.zero_grad()
    assert trained(built)["recall@10_f"] > 0.5


@torch.no_grad()
def test_without_the_item_qformer_an_item_is_the_mean_of_its_fields(kinds: Any) -> None:
    fields = {"kind": {"modality": "category"}, "title": {"modality": "category"}}
    trainer, *_ = kinds("ItemQFormer", item_layers=0, use_ids=False, item_fields=fields)
    net = trainer.model.eval()
    memory, mask = net.fields()
    item = 5
    expected = net.to_token(torch.stack([v for v, has in zip(memory[item], mask[item], strict=True) if has]).mean(0))
    assert net.item_tokens().shape == (net.n_items, 1, 32)
    torch.testing.assert_close(net.item_tokens()[item, 0], expected)


@torch.no_grad()
def test_without_user_tokens_the_state_is_the_last_item_token(kinds: Any) -> None:
    """The language model reads q tokens a step, and nothing else."""
    trainer, _, _, test = kinds("NestRec", user_queries=0, item_queries=3)
    net, lengths = trainer.model.eval(), []
    net.llm.register_forward_hook(lambda _, args, kwargs, out: lengths.append(out[0].shape[1]), with_kwargs=True)
    states = net.encode(test.dataset.histories(np.arange(4), width=7))
    assert lengths == [21] and states.shape == (4, 7, 32)


@pytest.mark.parametrize("model", ["UserQFormer", "UserPretraining"])
def test_models_of_user_tokens_need_some(model: str, kinds: Any) -> None:
    with pytest.raises(NestRecError, match="user_queries is 0"):
        kinds(model, user_queries=0)


@pytest.mark.parametrize("key", ["item_layers", "user_queries"])
def test_levels_have_no_negative_height(key: str, kinds: Any) -> None:
    with pytest.raises(NestRecError, match=f"{key}' is -1; expected a whole number from 0"):
        kinds("NestRec", **{key: -1})


@pytest.mark.parametrize("model", ["ItemQFormer", "NestRec"])
def test_items_without_any_field(model: str, kinds: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They train and rank, each by its id; without ids one line says that nothing tells them apart."""
    path = tmp_path / "data" / "kinds" / "kinds.item"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], "i3\t\tbare", "i4\t\tbare", *lines[6:]]) + "\n")
    trained(built := kinds(model, epochs=1, eval_step=1))
    assert "none of the item_fields" not in caplog.text
    without, train, *_ = kinds(model, use_ids=False)
    assert "2 of 90 items, 'i3' among them, have none of the item_fields and are all alike" in caplog.text
    one, other = (train.dataset.token2id("item_id", token) for token in ("i3", "i4"))
    for trainer, are_alike in ((built[0], False), (without, True)):
        with torch.no_grad():
            table = trainer.model.eval().item_table()
        assert torch.equal(table[one], table[other]) is are_alike and torch.isfinite(table).all()


def test_review_texts_are_a_field(tmp_path: Path, make_config: Any) -> None:
    """What users said of an item, out of training only, is the only thing known of it, and helps."""
    from nestrec_recbole.convert.amazon2023 import amazon2023
    from nestrec_recbole.convert.pipeline import convert

    random, words, reviews = np.random.default_rng(0), ["cat food", "violin strings", "garden hose"], []
    for user in range(90):
        for step, place in enumerate(random.permutation(10)[:6]):
            about = {"rating": 5.0, "timestamp": 1000 * (step + 1), "title": "", "text": f"good {words[user % 3]}"}
            reviews.append({"user_id": f"u{user}", "parent_asin": f"i{10 * (user % 3) + place}", **about})
    (tmp_path / "reviews.jsonl").write_text("".join(json.dumps(one) + "\n" for one in reviews))
    convert(amazon2023([tmp_path / "reviews.jsonl"], review_text=2), "said", data_path=tmp_path / "data")
    fields = {"review": {"modality": "text", "encoder": "minilm"}}
    given = {**SMALL, "epochs": 6, "eval_step": 6, "item_fields": fields, "use_ids": False}
    config = make_config("NestRec", "said", **given)
    init_seed(1, True)
    train, valid, test = data_preparation(config, create_dataset(config))
    net = get_model("NestRec")(config, train.dataset)
    assert trained((get_trainer(config["MODEL_TYPE"], "NestRec")(config, net), train, valid, test))["recall@10"] > 0.7


def test_whitened_fields_are_where_tokens_start(kinds: Any) -> None:
    """Every token has them, of the given length, zero for items without a field; no two directions go together."""
    net = kinds("NestRec", whitened_scale=0.3, hidden_size=4)[0].model.eval()
    plain = kinds("NestRec", hidden_size=4)[0].model.eval()
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("whitened")})
    vectors = net.whitened.vectors
    with torch.no_grad():
        torch.testing.assert_close(net.content_tokens() - plain.content_tokens(), vectors[:, None].expand(-1, 2, -1))
    torch.testing.assert_close(vectors[1:].norm(dim=1), torch.full((len(vectors) - 1,), 0.3))
    assert (vectors[0] == 0).all()
    read = net.fields.features()[0][1:] @ net.whitened.components  # N_KINDS of them: five directions, of which four
    torch.testing.assert_close(read.T @ read / (len(read) - 1), torch.eye(4), atol=1e-4, rtol=0)
    wider = kinds("NestRec", whitened_scale=0.3, hidden_size=8)[0].model
    assert (wider.whitened.vectors[1:, 5:] == 0).all() and (wider.whitened.vectors[1:, :5] != 0).any(dim=1).all()


def test_items_that_training_does_not_know_do_not_shape_the_whitened_space(kinds: Any) -> None:
    _, train, _, _ = kinds("NestRec", hidden_items=0.2)
    model = kinds("NestRec", hidden_items=0.2, whitened_scale=0.3)[0].model
    known, before = ~torch.from_numpy(train.dataset.hidden_items), model.whitened.components.clone()
    for rows, changes in ((~known, False), (known, True)):
        model.fields.features_0[:, rows] *= torch.rand(model.fields.features_0.shape[2])
        assert changes != torch.equal(model._whiten(0.3, known).components, before)


def test_the_whitened_space_is_that_of_the_checkpoint(kinds: Any) -> None:
    """What is loaded says what its directions are; an item that came later is where its like are."""
    trained, other = (kinds("NestRec", whitened_scale=0.3)[0].model for _ in range(2))
    trained.whitened.components.mul_(torch.tensor([1.0, -1.0] * 16))
    trained.load_state_dict(trained.state_dict())
    other.load_state_dict(trained.state_dict())
    assert torch.equal(other.whitened.vectors, trained.whitened.vectors)
    like = trained.fields.features_0[0, 1:2] * trained.fields.scales[0][1].clip(max=1e9) + trained.fields.scales[0][0]
    trained.add_items([like.float().numpy()], [np.ones(1, dtype=bool)])
    torch.testing.assert_close(trained.whitened.vectors[-1], trained.whitened.vectors[1])
