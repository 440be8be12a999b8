"""The contract that every sequential model of this package keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_dataset
from recbole.data.interaction import Interaction

import nestrec_recbole  # noqa: F401
from nestrec_recbole.models.catalogue_cache import CatalogueCache
from nestrec_recbole.plugin import MODELS

CIRCLE = [[(start + step) % 12 for step in range(4 + start % 5)] for start in range(36)]
SMALL = {"hidden_size": 32, "n_heads": 2, "inner_size": 64}
TINY_TEXT = {"title": {"modality": "text"}, "year": {"modality": "number"}}


@pytest.fixture(params=MODELS)
def built(request: Any, tmp_path: Any, make_config: Any) -> Any:
    """A model on a dataset where every user walks round a circle of 12 items: the next item is always known."""
    write_dataset(tmp_path / "data", "circle", CIRCLE)
    add_domains(tmp_path / "data" / "circle" / "circle.item")
    return build(make_config, request.param)


def add_domains(path: Path) -> None:
    """Give items a domain: even or odd."""
    header, *rows = path.read_text().splitlines()
    rows = [f"{row}\t{'odd' if int(row.split(chr(9))[0][1:]) % 2 else 'even'}" for row in rows]
    path.write_text("\n".join([f"{header}\tdomain:token", *rows]) + "\n")


def build(make_config: Any, name: str, n_pretraining: int = 1, **settings: Any) -> Any:
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, init_seed

    extra: dict[str, Any] = {} if name == "FastSASRec" or "TriGRec" in name else {"item_fields": TINY_TEXT}
    extra |= {"target_domain": "even", "probe_users": 10} if "TriGRec" in name else {}
    extra |= {"held_out_items": 0.0} if name == "ItemPretraining" else {}
    extra |= {"init_from": pretrained_items(make_config, n_pretraining)} if name == "UserPretraining" else {}
    config = make_config(name, "circle", **{**SMALL, **extra, **settings})
    init_seed(config["seed"], True)
    train, valid, test = data_preparation(config, create_dataset(config))
    return config, get_model(name)(config, train.dataset), (train, valid, test)


def pretrained_items(make_config: Any, epochs: int) -> str:
    """A checkpoint of ItemPretraining on the circle."""
    from recbole.utils import get_trainer

    settings = {"epochs": epochs, "eval_step": epochs, "learning_rate": 0.01, "hidden_dropout_prob": 0.0}
    config, model, (train, valid, _) = build(make_config, "ItemPretraining", **settings)
    trainer = get_trainer(config["MODEL_TYPE"], "ItemPretraining")(config, model)
    trainer.fit(train, valid, verbose=False)
    return trainer.saved_model_file


def histories(rows: list[list[int]], width: int | None = None) -> Interaction:
    width = width or max(map(len, rows))
    padded = torch.zeros(len(rows), width, dtype=torch.long)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return Interaction({"item_id_list": padded, "item_length": torch.tensor([len(r) for r in rows])})


@pytest.mark.parametrize("name", MODELS)
def test_histories_are_encoded_in_the_precision_of_training(name: str, make_config: Any, tmp_path: Path) -> None:
    """Items and scores are float32: scores in half the bits would tie."""
    write_dataset(tmp_path / "data", "circle", CIRCLE)
    add_domains(tmp_path / "data" / "circle" / "circle.item")
    models = [build(make_config, name, precision=precision)[1].eval() for precision in ("fp32", "bf16")]
    batch = histories([[1, 2, 3, 4], [5, 6]])
    batch.update(Interaction({"user_id": torch.tensor([1, 2])}))
    with torch.no_grad():
        full, half = [model.full_sort_predict(batch) for model in models]
        tables = [model.remember("item_table", model.item_table) for model in models]
    assert half.dtype is torch.float32 and not torch.equal(full, half)
    torch.testing.assert_close(full, half, atol=0.02 * float(full[full > -torch.inf].abs().max()), rtol=0.02)
    assert torch.equal(*tables)


@torch.no_grad()
def test_no_token_of_the_future_is_visible(built: Any) -> None:
    _, model, _ = built
    model.eval()
    one, other = histories([[1, 2, 3, 4, 5, 6]]), histories([[1, 2, 3, 9, 10, 11]])
    states, changed = model.encode(one), model.encode(other)
    assert torch.equal(states[:, :3], changed[:, :3])
    assert not torch.equal(states[:, 3:], changed[:, 3:])


@torch.no_grad()
def test_the_last_states_are_those_of_the_last_steps(built: Any) -> None:
    _, model, _ = built
    model.eval()
    batch = histories([[1, 2, 3], [4, 5, 6, 7, 8], [9], [2, 4]], width=7)
    last = model.encode(batch)[range(4), batch["item_length"] - 1]
    torch.testing.assert_close(model.last_states(batch), last, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(last[:2], last[2:])


SHORTCUTS: list[tuple[str, dict[str, Any]]] = [
    ("FastSASRec", {"recency_scale": 0.5}),
    ("FastSASRec", {"cosine": True, "use_positions": False}),
    ("GatedFusionRec", {"recency_scale": 0.5, "cosine": True}),
    ("GatedFusionRec", {"preset": "original"}),
    ("TriGRec", {"recency_scale": 0.5, "cosine": True}),
    ("TriGRec", {"use_gate": False, "use_cross": False}),
    ("TriGRecUser", {"recency_scale": 0.5}),
]


@torch.no_grad()
@pytest.mark.parametrize(("name", "settings"), SHORTCUTS)
def test_the_last_states_with_other_settings(
    name: str, settings: dict[str, Any], tmp_path: Path, make_config: Any
) -> None:
    write_dataset(tmp_path / "data", "circle", CIRCLE)
    add_domains(tmp_path / "data" / "circle" / "circle.item")
    test_the_last_states_are_those_of_the_last_steps(build(make_config, name, **settings))


def test_an_encode_of_ones_own_is_asked_for_the_last_states(tmp_path: Path, make_config: Any) -> None:
    """FastSASRec's shortcut to them would pass by what a subclass does to its states."""
    write_dataset(tmp_path / "data", "circle", CIRCLE)
    config, model, (train, _, _) = build(make_config, "FastSASRec")

    class Doubled(type(model)):  # type: ignore[misc]
        def encode(self, batch: Any) -> Any:
            return 2 * super().encode(batch)

    class Renamed(type(model)):  # type: ignore[misc]
        pass

    batch = histories([[1, 2, 3], [4, 5]])
    for kind, times in ((Doubled, 2), (Renamed, 1)):
        other = kind(config, train.dataset).eval()
        other.load_state_dict(model.state_dict())
        torch.testing.assert_close(other.user_states(batch), times * model.eval().user_states(batch))


@torch.no_grad()
def test_padding_and_company_change_nothing(built: Any) -> None:
    _, model, _ = built
    model.eval()
    rows = [[1, 2, 3], [4, 5, 6, 7, 8], [9]]
    together = model.full_sort_predict(histories(rows, width=20))
    alone = torch.cat([model.full_sort_predict(histories([row])) for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_predict_is_a_column_of_full_sort_predict(built: Any) -> None:
    _, model, _ = built
    model.eval()
    batch = histories([[1, 2, 3], [4, 5]])
    batch.update(Interaction({"item_id": torch.tensor([7, 2])}))
    scores = model.full_sort_predict(batch)
    torch.testing.assert_close(model.predict(batch), scores[[0, 1], [7, 2]])
    assert (scores[:, 0] == -torch.inf).all()


@torch.no_grad()
def test_the_table_of_some_items_is_their_part_of_the_whole(built: Any) -> None:
    _, model, _ = built
    model.eval()
    some = torch.tensor([0, 3, 4, 9])
    torch.testing.assert_close(model.item_table(some), model.item_table()[some])
    assert model.item_table().shape[0] == model.n_items  # and nothing of the four is kept as if it were all


def test_every_trainable_parameter_gets_a_gradient(built: Any) -> None:
    _, model, (train, _, _) = built
    for batch in train:
        model.calculate_loss(batch).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_overfits_a_circle(built: Any, make_config: Any) -> None:
    from recbole.utils import get_trainer

    config, _, _ = built
    settings = {"epochs": 120, "eval_step": 5, "learning_rate": 0.01, "hidden_dropout_prob": 0.0, "stopping_step": 5}
    rates = ("id_dropout_prob", "qformer_dropout_prob", "user_dropout_prob", "mlp_dropout_prob")
    settings |= {key: 0.0 for key in rates if key in config} | {"mask_known": False}  # or what was seen may rank first
    # The last places of a history are held out of training when two targets of one domain are.
    settings |= {"use_positions": False, "learning_rate": 0.003} if "TriGRec" in config["model"] else {}
    config, model, (train, valid, test) = build(make_config, config["model"], 40, **settings)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.fit(train, valid, verbose=False)
    assert trainer.evaluate(test)["ndcg@10"] == 1.0


def test_saves_and_loads_to_equal_scores(built: Any) -> None:
    from recbole.quick_start import load_data_and_model
    from recbole.utils import get_trainer

    config, model, (train, valid, _) = built
    config["epochs"] = 1
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.fit(train, valid, verbose=False)
    _, loaded, _, _, _, test = load_data_and_model(trainer.saved_model_file)
    model.eval(), loaded.eval()
    batch = test.dataset[np.arange(len(test.dataset))]
    with torch.no_grad():
        assert torch.equal(model.full_sort_predict(batch), loaded.full_sort_predict(batch))


def test_trains_from_recboles_own_loader(built: Any) -> None:
    from recbole.data.dataloader import TrainDataLoader

    config, model, (train, _, _) = built
    batch = next(iter(TrainDataLoader(config, train.dataset, None)))
    assert torch.isfinite(model.calculate_loss(batch))


def test_pretrained_qwen3_with_lora(tmp_path: Any, make_config: Any) -> None:
    """A folder saved in bfloat16, as Qwen3 is published: only the adapters are trained, and the model learns."""
    from recbole.utils import get_trainer
    from transformers import Qwen3Config, Qwen3Model

    write_dataset(tmp_path / "data", "circle", CIRCLE)
    shape = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    small = Qwen3Config(vocab_size=10, num_key_value_heads=1, head_dim=24, **shape)
    Qwen3Model(small).to(torch.bfloat16).save_pretrained(tmp_path / "qwen3")
    lora = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    llm = {"path": str(tmp_path / "qwen3"), "lora": lora}
    config, model, (train, valid, test) = build(make_config, "NestRec", llm=llm, epochs=6, learning_rate=0.003)
    trained = {name for name, p in model.llm.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    frozen = {name: p.clone() for name, p in model.llm.named_parameters() if not p.requires_grad}
    trainer = get_trainer(config["MODEL_TYPE"], "NestRec")(config, model)
    trainer.fit(train, valid, verbose=False)
    assert trainer.history[-1]["train_loss"] < trainer.history[0]["train_loss"]
    assert 0 <= trainer.evaluate(test)["ndcg@10"] <= 1
    assert all(torch.equal(p, frozen[name]) for name, p in model.llm.named_parameters() if name in frozen)


def test_what_a_catalogue_cache_keeps_and_for_how_long() -> None:
    cache, computed = CatalogueCache(), []

    def get(items: torch.Tensor | None, version: tuple[int, ...] | None) -> None:
        cache.get("table", lambda: computed.append(items) or torch.zeros(1), items, version)

    some = torch.tensor([0, 2, 5])
    with cache.step(some):
        get(some, None), get(some, None)
        assert len(computed) == 1 and cache.row_of(torch.tensor([[5, 0]])).tolist() == [[2, 0]]
        get(None, None)  # of other items than the step's
        assert computed[1:] == [None]
    get(None, None), get(None, None)  # with gradients, outside of a step: always anew
    assert len(computed) == 4 and cache.items is None and cache.row_of(some) is some
    get(None, (1, 1)), get(None, (1, 1))  # evaluating
    assert len(computed) == 5
    get(None, (1, 2))  # a parameter has changed
    assert len(computed) == 6
    with pytest.raises(RuntimeError), cache.step(some):
        raise RuntimeError
    assert cache.items is None
    get(None, (1, 2))  # a step came between
    assert len(computed) == 7


@pytest.mark.parametrize("cosine", [False, True])
def test_fastsasrec_with_the_recent_mean(cosine: bool, tmp_path: Any, make_config: Any) -> None:
    """The mean weighs the last item most, sees no later one, and without the transformer it is all that is left."""
    write_dataset(tmp_path / "data", "circle", CIRCLE)
    _, model, _ = build(make_config, "FastSASRec", recency_scale=0.5, cosine=cosine)
    model.eval()
    one, other = histories([[1, 2, 3, 4, 5, 6]]), histories([[1, 2, 3, 9, 10, 11]])
    with torch.no_grad():
        assert torch.equal(model.encode(one)[:, :3], model.encode(other)[:, :3])
        items = model.item_embedding.weight[torch.tensor([1, 2, 3])]
        expected = (items * torch.tensor([0.25, 0.5, 1.0])[:, None]).sum(0) / 1.75
        torch.testing.assert_close(model.recency.mean(items[None])[0, 2], expected)
        model.transformer.norm.weight.zero_()  # says nothing now
        state = model.encode(one)[0, 2]
    torch.testing.assert_close(state / state.norm(), expected / expected.norm())


def test_what_is_compiled_is_what_trains(built: Any, make_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.utils import get_trainer

    config, model, (train, _, _) = built
    calls: list[str] = []

    def note(function: Any, **how: Any) -> Any:
        return lambda *given, **named: calls.append(function.__name__) or function(*given, **named)

    monkeypatch.setattr(torch, "compile", note)
    config["compile"] = True
    get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    model.train().calculate_loss(next(iter(train)))
    assert set(calls) == set(model.compiled)


@pytest.mark.parametrize("model_name", ["ItemQFormer", "NestRec"])
def test_an_evaluation_computes_the_item_table_once(
    model_name: str, tmp_path: Any, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "data", "circle", CIRCLE)
    _, model, _ = build(make_config, model_name, recency_scale=0.5, cosine=True)
    made: list[int] = []
    compute = type(model)._compute_table
    monkeypatch.setattr(type(model), "_compute_table", lambda self, items: made.append(1) or compute(self, items))
    model.eval()
    with torch.no_grad():
        for _ in range(3):
            model.full_sort_predict(histories([[1, 2, 3]]))
    assert len(made) == 1
