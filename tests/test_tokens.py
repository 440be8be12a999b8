"""What is frozen stays as it is in evaluation, and its item tokens are computed once, into a file that is shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BuildNestRec, write_dataset
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

from nestrec_recbole import NestRecError
from nestrec_recbole.data.tokens import open_tokens, tensors_hash

CIRCLE = [[(start + step) % 12 for step in range(4 + start % 5)] for start in range(36)]
FIELDS = {"title": {"modality": "category"}, "year": {"modality": "number"}}
SMALL: dict[str, Any] = {"hidden_size": 16, "inner_size": 32, "epochs": 2, "item_fields": FIELDS}
DROPS = {"qformer_dropout_prob": 0.4, "hidden_dropout_prob": 0.0}


@pytest.fixture
def make(tmp_path: Path, make_config: Any) -> Any:
    """A function (model, settings) -> trainer, train, valid, on top of one pre-training of items."""
    write_dataset(tmp_path / "data", "circle", CIRCLE)

    def build(model: str, **settings: Any) -> Any:
        config = make_config(model, "circle", **{**SMALL, **settings})
        init_seed(1, True)
        train, valid, _ = data_preparation(config, create_dataset(config))
        net = get_model(model)(config, train.dataset)
        return get_trainer(config["MODEL_TYPE"], model)(config, net), train, valid

    return build


@pytest.fixture
def items(make: Any) -> str:
    trainer, train, valid = make("ItemPretraining")
    trainer.fit(train, valid, verbose=False)
    return str(trainer.saved_model_file)


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "data" / "circle" / "tokens").glob("*"))


def test_the_targets_of_user_pretraining_do_not_move(make: Any, items: str) -> None:
    trainer, _, _ = make("UserPretraining", init_from=items, **DROPS, use_ids=True, id_dropout_prob=0.5)
    model = trainer.model.train()
    one, other = model.item_tokens(), model.item_tokens()
    assert torch.equal(one, other) and torch.equal(one, model.eval().item_tokens())
    trainer, _, _ = make("UserQFormer", init_from=items, **DROPS)
    assert not torch.equal(trainer.model.train().item_tokens(), trainer.model.item_tokens())


def test_a_frozen_user_qformer_drops_nothing(make: Any) -> None:
    (frozen, _, _), (trained, _, _) = (make("NestRec", qformer_learning_rate=rate, **DROPS) for rate in (0, None))
    for trainer, expected in ((frozen, False), (trained, True)):
        trainer.model.train()
        assert {m.training for m in trainer.model.user_qformer.modules()} == {expected}
        assert trainer.model.llm.training  # or it would not checkpoint its gradients


def test_tokens_are_computed_once(make: Any, items: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In both trainings, and of the second one not at all: its weights and features are those of the first."""
    given = {"init_from": items, "qformer_learning_rate": 0, "use_ids": False, **DROPS}
    trainer, train, valid = make("NestRec", **given)
    read, calls = type(trainer.model)._read, []
    monkeypatch.setattr(type(trainer.model), "_read", lambda self, part: calls.append(part) or read(self, part))
    trainer.fit(train, valid, verbose=False)
    assert len(calls) == 1 and len(kept(tmp_path)) == 1
    (path,), shape = kept(tmp_path), (13, 2, 16)
    assert np.load(path, mmap_mode="r").shape == shape and np.load(path).dtype == np.float16
    assert isinstance(trainer.model.kept[0], torch.Tensor)
    with torch.no_grad():
        expected = trainer.model.to_token(trainer.model.item_qformer(*trainer.model.eval().fields()))
        without = trainer.model.item_qformer(trainer.model.fields()[0][:1], torch.zeros(1, 2, dtype=torch.bool))
        torch.testing.assert_close(
            trainer.model.item_tokens(),
            expected - trainer.model.to_token(without) + trainer.model.to_token.bias,
            atol=2e-3,
            rtol=2e-3,
        )
    calls.clear()
    again, train, valid = make("NestRec", **given)
    again.fit(train, valid, verbose=False)
    assert not calls and kept(tmp_path) == [path]
    assert again.history[-1]["train_loss"] == trainer.history[-1]["train_loss"]


@pytest.mark.parametrize("loss", ["full_softmax", "sampled_softmax"])
def test_kept_tokens_train_as_computed_ones(loss: str, make: Any, items: str) -> None:
    """Ids and all above are the same after an epoch, to the bit: computed tokens are rounded as the kept ones are."""
    given = {"init_from": items, "qformer_learning_rate": 0, "loss": loss, "n_negatives": 5, "epochs": 1}
    found = []
    for keeps in (True, False):
        trainer, train, valid = make("NestRec", **given)
        if not keeps:
            trainer.model.keep_fixed = lambda folder: None
        trainer.fit(train, valid, verbose=False)
        found.append(
            (trainer.history[-1]["train_loss"], trainer.best_valid_result, trainer.model.to_llm.weight.clone())
        )
    assert found[0][:2] == found[1][:2]
    torch.testing.assert_close(found[0][2], found[1][2], atol=1e-6, rtol=0)


def test_nothing_is_kept_where_something_trains(make: Any, tmp_path: Path) -> None:
    trainer, train, valid = make("UserQFormer", epochs=1)
    trainer.fit(train, valid, verbose=False)
    assert not kept(tmp_path) and trainer.model.kept is None


def test_other_weights_or_features_have_other_tokens(make: Any, items: str, tmp_path: Path) -> None:
    trainer, _, _ = make("UserPretraining", init_from=items, epochs=1)
    model, folder = trainer.model, tmp_path / "kept"
    model.keep_fixed(folder)
    with torch.no_grad():
        model.fields.features_1[0, 3] += 1
        model.keep_fixed(folder)
        model.to_token.weight[0, 0] += 1
        model.keep_fixed(folder)
    assert len(list(folder.glob("*.npy"))) == 3
    old = model.item_tokens()
    model.load_state_dict({**model.state_dict(), "to_token.weight": model.to_token.weight + 1})
    assert model.kept is None and not torch.equal(model.item_tokens(), old)


def test_damaged_tokens_are_refused(make: Any, items: str, tmp_path: Path) -> None:
    trainer, train, valid = make("UserPretraining", init_from=items, epochs=1)
    trainer.fit(train, valid, verbose=False)
    (path,) = kept(tmp_path)
    with pytest.raises(NestRecError, match=r"holds float16 \(13, 2, 16\), expected float16 \(13, 2, 8\); delete"):
        open_tokens(path, (13, 2, 8))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(NestRecError, match=r"damaged item tokens .*; delete it"):
        trainer.model.keep_fixed(path.parent)


def test_hashes_tell_names_and_numbers_apart() -> None:
    one = torch.zeros(2, 3)
    others = [("b", one), ("a", one.T), ("a", one.double()), ("a", one + 1)]
    assert len({tensors_hash([pair]) for pair in [("a", one), *others]}) == 5


def test_the_llm_reads_kept_tokens(build_nestrec: BuildNestRec, qwen3: Path) -> None:
    llm = {"path": str(qwen3), "lora": {"r": 4, "target_modules": ["q_proj"]}, "gradient_checkpointing": True}
    _, trainer, train, valid = build_nestrec(llm, qformer_learning_rate=0, epochs=2)
    trainer.fit(train, valid, verbose=False)
    assert trainer.history[1]["train_loss"] < trainer.history[0]["train_loss"]
