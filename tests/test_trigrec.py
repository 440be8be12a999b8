"""TriGRec: its losses by hand, its masks, what is exported, and its stages from the command line."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from test_domains import write

from nestrec_recbole import NestRecError
from nestrec_recbole.cli import main
from nestrec_recbole.data.features import FeatureStore
from nestrec_recbole.layers.adversarial import DomainCentring, alignment, probe_accuracy, reverse_gradient, separation
from nestrec_recbole.layers.merged import MergedHistories
from nestrec_recbole.layers.vector_attention import Gate, VectorAttention
from nestrec_recbole.train.prepare import prepare
from nestrec_recbole.unpickle import load_plain

SMALL = {"hidden_size": 16, "n_heads": 2, "inner_size": 32, "epochs": 1, "target_domain": "food"}
USERS = {f"u{n}": " ".join(f"{'fk'[(n + t) % 2]}{(n + t) // 2 % 6}" for t in range(7 + n % 4)) for n in range(24)}


@pytest.fixture
def shop(tmp_path: Path, make_config: Any) -> Any:
    """A function (model, **settings) -> trainer, loaders over two domains that alternate."""
    write(tmp_path / "data", USERS)
    return lambda model, **settings: prepare(make_config(model, "shop", **{**SMALL, **settings}))


def history(*items: int) -> Interaction:
    ids = torch.tensor([items])
    return Interaction({"item_id_list": ids, "item_length": torch.tensor([len(items)])})


# -- layers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0])
def test_reversal_by_autograd(scale: float) -> None:
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, dtype=torch.float64, requires_grad=True)
    (plain_x, plain_w) = torch.autograd.grad((x @ weight).tanh().sum(), [x, weight])
    out = reverse_gradient(x, scale)
    assert torch.equal(out, x)
    (back_x, back_w) = torch.autograd.grad((out @ weight).tanh().sum(), [x, weight])
    torch.testing.assert_close(back_x, -scale * plain_x)
    torch.testing.assert_close(back_w, plain_w)  # what comes after the reversal learns as ever


def test_alignment_and_separation_by_hand() -> None:
    one, other = torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 2.0], [5.0, 5.0]])
    one.requires_grad_(), other.requires_grad_()
    # Unit vectors: (1, 0) and (0, 1) are sqrt(2) apart, the second pair is the same.
    near = alignment(one, other)
    assert near.item() == pytest.approx((2 + 0) / 2, abs=1e-6)
    assert torch.autograd.grad(near, other, allow_unused=True) == (None,)
    assert separation(one, other, 1.0).item() == pytest.approx((0 + 1) / 2, abs=1e-5)
    assert separation(one, other, 2.0).item() == pytest.approx((2 - math.sqrt(2) + 2) / 2, abs=1e-5)
    assert torch.autograd.grad(separation(one, other, 1.0), one)[0].isfinite().all()


def test_centring_by_hand() -> None:
    centring = DomainCentring(1, 2)
    states, domain = torch.tensor([[[1.0], [3.0], [10.0], [7.0]]]), torch.tensor([[1, 1, 2, 0]])
    assert centring(states, domain).flatten().tolist() == [-1, 1, 0, 7]
    assert centring.eval()(states, domain).flatten().tolist() == [1, 3, 10, 7]
    centring.settle(states, domain)
    assert centring(states + 1, domain).flatten().tolist() == [0, 2, 1, 8]


def test_a_fresh_probe_finds_what_is_there_and_nothing_else() -> None:
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(2).repeat_interleave(500)
    noise = torch.randn(1000, 8, generator=generator)
    assert 0.4 < probe_accuracy(noise, label) < 0.6
    assert probe_accuracy(noise + 3 * label[:, None], label) > 0.99


def test_merged_histories_by_hand() -> None:
    merged = MergedHistories.of(torch.tensor([[1, 2, 2, 1, 0], [2, 0, 0, 0, 0]]), 2)
    assert merged.place.tolist() == [[0, 0, 1, 1, 0], [0, 0, 0, 0, 0]]
    assert merged.latest[0].tolist() == [[0, -1], [0, 1], [0, 2], [3, 2], [3, 2]]
    assert merged.latest[1].tolist() == [[-1, 0]] * 5
    own = merged.visible(same_domain=True, causal=True)[0, 0].int().tolist()
    assert own[:4] == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, 1, 0, 0], [1, 0, 0, 1, 0]]
    both = merged.visible(same_domain=False, causal=False)[0, 0].int().tolist()
    assert both == [[1, 1, 1, 1, 0]] * 4 + [[1, 1, 1, 1, 1]]
    states = torch.arange(10.0).view(2, 5, 1)
    assert merged.mean(states, 2).tolist() == [[1.5], [5.0]] and merged.mean(states).tolist() == [[1.5], [5.0]]
    wanted = torch.tensor([[2] * 5, [1] * 5])
    found = merged.at_latest(states, wanted, torch.tensor([-1.0]))[..., 0].tolist()
    assert found == [[-1, 1, 2, 2, 2], [-1] * 5]


def test_gate_and_attention_against_loops() -> None:
    torch.manual_seed(0)
    attention, gate = VectorAttention(4, 1).double(), Gate(4).double()
    for parameter in (*attention.parameters(), *gate.parameters()):
        torch.nn.init.normal_(parameter)
    vectors, states = torch.randn(2, 3, 4).double(), torch.randn(2, 5, 4).double()
    visible = torch.rand(2, 1, 3, 5) < 0.5
    visible[0, 0, 0] = False  # sees nothing but the learned state
    found = attention(vectors, states, visible)
    for b in range(2):
        for t in range(3):
            seen = torch.stack([attention.nothing, *(s for s, v in zip(states[b], visible[b, 0, t], strict=True) if v)])
            key, value = attention.to_key_value(seen).chunk(2, dim=-1)
            weight = torch.softmax(key @ attention.to_query(vectors[b, t]) / 2, dim=0)
            torch.testing.assert_close(found[b, t], vectors[b, t] + attention.to_out(weight @ value))
    one, other = torch.randn(4).double(), torch.randn(4).double()
    share = torch.sigmoid(gate.linear.weight @ torch.cat([one, other]) + gate.linear.bias)
    torch.testing.assert_close(gate(one, other), share * one + (1 - share) * other)


# -- models -----------------------------------------------------------------------------------------------------------


def test_padding_is_no_item(shop: Any) -> None:
    """The original gives item 0 to food and to padding. Here 0 is of no domain, and no item has that id."""
    trainer, (train, _, _) = shop("TriGRecUser")
    assert train.dataset.items.min() == 1 and trainer.model.of_item[0] == 0
    assert (trainer.model.of_item[1:] > 0).all()
    assert (trainer.model.full_sort_predict(history(1, 2, 3))[:, 0] == -torch.inf).all()


@torch.no_grad()
def test_specific_sees_its_own_domain_only(shop: Any) -> None:
    trainer, _ = shop("TriGRecUser")
    model = trainer.model.eval()
    of_food = [int(i) for i in torch.arange(1, len(model.of_item))[model.of_item[1:] == 1]]
    of_kitchen = [int(i) for i in torch.arange(1, len(model.of_item))[model.of_item[1:] == 2]]
    one = history(of_food[0], of_kitchen[0], of_food[1]).interaction["item_id_list"]
    other = history(of_food[0], of_kitchen[3], of_food[1]).interaction["item_id_list"]
    specific, cross = zip(*(model.user_vectors(items, 1) for items in (one, other)), strict=True)
    assert torch.equal(*specific) and not torch.equal(*cross)
    assert not torch.equal(model.user_vectors(one, 2)[0], model.user_vectors(other, 2)[0])


def test_the_reversal_reaches_its_weight(shop: Any) -> None:
    trainer, (train, valid, _) = shop("TriGRecUser", reversal_steps=4, train_batch_size=64, epochs=3)
    assert trainer.model.reversal() == 0
    trainer.model.n_losses.fill_(2)
    assert trainer.model.reversal() == pytest.approx(2 / (1 + math.exp(-5)) - 1)
    trainer.fit(train, valid, verbose=False)
    assert trainer.model.reversal() > 0.999
    assert {"domain_accuracy_common", "domain_accuracy_specific"} <= trainer.best_valid_result.keys()


def test_specific_tells_the_domain_and_common_forgets_it(shop: Any) -> None:
    """What centring and reversal are for, on data small enough to see it."""
    told = {}
    for weight in (0.0, 0.05):
        settings = {"epochs": 40, "eval_step": 40, "learning_rate": 0.01, "hidden_dropout_prob": 0.0}
        settings |= {"reversal_weight": weight, "reversal_steps": 20, "discriminator_weight": 1.0}
        trainer, (train, valid, _) = shop("TriGRecUser", **settings)
        trainer.fit(train, valid, verbose=False)
        told[weight] = trainer.best_valid_result
    for found in told.values():
        assert found["domain_accuracy_specific"] > 0.9 and found["domain_accuracy_common"] < 0.7


def test_masked_items_are_the_targets(shop: Any) -> None:
    trainer, (train, _, _) = shop("TriGRecUser", objective="masked", mask_ratio=0.3)
    model = trainer.model
    for batch in train:
        items, targets = batch["item_id_list"], batch["target_list"]
        whole, masked = model._draw(items, targets)
        assert torch.equal(whole[:, 0], items[:, 0]) and (masked.sum(1) >= 1).all()
        assert not (masked & (whole == 0)).any()
        last = whole.gather(1, (items > 0).sum(1, keepdim=True))
        assert torch.equal(last[:, 0], targets.gather(1, (items > 0).sum(1, keepdim=True) - 1)[:, 0])
        with torch.no_grad():  # what is masked is not read
            hidden = model._vectors(whole, masked)
            assert torch.equal(hidden[masked], model.mask_embedding.expand_as(hidden[masked]))


def test_masked_stages_train_rank_and_freeze(shop: Any) -> None:
    trainer, (train, valid, test) = shop("TriGRecUser", objective="masked", protocol="original", epochs=2)
    trainer.fit(train, valid, verbose=False)
    assert 0 < trainer.evaluate(test)["ndcg@10"] <= 1
    start = {"init_from": trainer.saved_model_file, "user_loss_weight": 0.0, "objective": "masked"}
    last, (train, valid, test) = shop("TriGRec", user_vectors="frozen", protocol="original", **start)
    last.fit(train, valid, verbose=False)
    assert 0 < last.evaluate(test)["ndcg@10"] <= 1
    with pytest.raises(NestRecError, match="masked sees the future of a position; set user_vectors: frozen"):
        shop("TriGRec", **start)


def test_ablations_leave_out_what_they_say(shop: Any) -> None:
    settings = {"user_loss_weight": 0.0}
    for left_out, names in (
        ({"use_specific": False}, {"specific_attention", "gate", "specific", "domain_embedding"}),
        ({"use_cross": False}, {"cross_attention", "gate", "transformer"}),
        ({"use_gate": False}, {"gate"}),
    ):
        trainer, (train, _, _) = shop("TriGRec", **settings, **left_out)
        for batch in train:
            trainer.model.calculate_loss(batch).backward()
        moved = {name.partition(".")[0] for name, p in trainer.model.named_parameters() if p.grad is not None}
        trained = {name.partition(".")[0] for name, p in trainer.model.named_parameters() if p.requires_grad}
        assert moved == trained and not moved & names


def test_one_domain_is_refused(shop: Any) -> None:
    for settings in ({"target_domain": None}, {"domains": ["food"]}):
        with pytest.raises(NestRecError, match="'TriGRec' needs items of two domains; set target_domain to one"):
            shop("TriGRec", **settings)


# -- stages -----------------------------------------------------------------------------------------------------------


def words(settings: dict[str, Any], folder: Path) -> list[str]:
    given = {**SMALL, **settings, "data_path": folder / "data", "state": "ERROR", "show_progress": False}
    return [f"--{key}={value}" for key, value in given.items()]


def test_pipeline_and_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "data", USERS)
    arguments = ["pipeline", "--model", "TriGRec", "--dataset", "shop", "--folder", "runs", *words({}, tmp_path)]
    override = "learning_rate=0.002, metrics=['NDCG','MRR'], users.epochs=2"
    assert main([*arguments, "--override", override]) == 0
    assert "ndcg@10\t" in capsys.readouterr().out
    (weights,) = Path("runs/shop-TriGRec").glob("users-*/weights.safetensors")
    assert weights.with_name("stage.json").read_text().count('"train_loss"') == 2

    assert main(["trigrec", "export", str(weights), "--domain", "food", "--pickle", "--features"]) == 0
    place = Path("embeddings/food")
    users = (place / "users.txt").read_text().split()
    assert sorted(users) == sorted(USERS)
    for kind in ("specific", "cross"):
        array = np.load(place / f"{kind}.npy")
        plain = load_plain(place / f"{kind}.pkl")
        assert array.shape == (len(users), 16) and np.isfinite(array).all()
        np.testing.assert_array_equal(np.array([plain[user] for user in users], dtype=np.float32), array)
        (store,) = place.glob(f"{kind}-*")
        np.testing.assert_array_equal(FeatureStore.open(store).align(["[PAD]", *users]).values[1:], array)

    assert main(["trigrec", "export", str(weights), "--domain", "fod"]) == 2
    assert "unknown domain 'fod'; did you mean 'food'?" in capsys.readouterr().err


def test_frozen_vectors_are_those_of_the_export(shop: Any) -> None:
    from nestrec_recbole.recommend.uservectors import user_vectors

    first, (train, valid, _) = shop("TriGRecUser")
    first.fit(train, valid, verbose=False)
    settings = {"init_from": first.saved_model_file, "user_vectors": "frozen", "user_loss_weight": 0.0}
    last, (train, valid, _) = shop("TriGRec", **settings)
    users, expected = user_vectors(last.model, train.dataset, "food")
    last.fit(train, valid, verbose=False)
    ids = [train.dataset.field2token_id["user_id"][user] for user in users]
    for number, kind in enumerate(("specific", "cross")):
        np.testing.assert_allclose(last.model.frozen_vectors[ids, number].numpy(), expected[kind], atol=1e-6)
    batch = next(iter(train))
    with torch.no_grad():
        states = last.model.eval().encode(batch)[range(len(batch)), batch["item_length"] - 1]
        torch.testing.assert_close(last.model.last_states(batch), states, atol=1e-6, rtol=1e-5)
    with pytest.raises(NestRecError, match="has vectors of known users only"):
        last.model.full_sort_predict(history(1, 2))


def test_what_is_frozen_is_told_by_one_number(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by those of all users, at every step."""
    looked_at: list[int] = []
    isnan = torch.Tensor.isnan
    monkeypatch.setattr(torch.Tensor, "isnan", lambda self: looked_at.append(self.numel()) or isnan(self))
    first, (train, valid, _) = shop("TriGRecUser")
    first.fit(train, valid, verbose=False)
    start = {"init_from": first.saved_model_file, "user_vectors": "frozen"}
    (one, (train, _, _)), (other, _) = (shop("TriGRec", **start) for _ in range(2))
    looked_at.clear()
    batch = next(iter(train))
    one.model.encode(batch)
    assert one.model.frozen_vectors.isfinite().all()
    kept = one.model.frozen_vectors.fill_(0.5).clone()
    other.model.load_state_dict(one.model.state_dict())
    for model in (one.model, other.model):  # what a checkpoint brings is frozen too
        model.encode(batch)
        assert torch.equal(model.frozen_vectors, kept)
    assert looked_at == [1, 1, 1]


def test_export_refuses_other_models(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    trainer, (train, valid, _) = shop("FastSASRec")
    trainer.fit(train, valid, verbose=False)
    assert main(["trigrec", "export", trainer.saved_model_file, "--domain", "food"]) == 2
    assert "a FastSASRec; expected a TriGRecUser or a TriGRec" in capsys.readouterr().err


class _Callable:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


def test_a_pickle_with_a_callable_executes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("food.pkl").write_bytes(pickle.dumps({1: [1, 2, _Callable()]}))
    Path("kitchen.pkl").write_bytes(pickle.dumps({1: [7, 8]}))
    arguments = ["convert", "pickles", "food.pkl", "kitchen.pkl", "--name", "d", "--data-path", str(tmp_path)]
    assert main(arguments) == 2
    assert "food.pkl: it names pathlib.Path.touch" in capsys.readouterr().err.replace("pathlib._local", "pathlib")
    assert not Path("executed").exists() and not (tmp_path / "d").exists()


def test_no_start_from_what_may_know_the_answers(shop: Any) -> None:
    trainer, (train, valid, _) = shop("TriGRecUser", protocol="original", epochs=1)
    trainer.fit(train, valid, verbose=False)
    with pytest.raises(NestRecError, match="its protocol is original, here it is strict: it may know what is held out"):
        shop("TriGRec", init_from=trainer.saved_model_file)


def test_hidden_items_in_two_domains(shop: Any) -> None:
    """Each domain has a softmax of its own, without its hidden items."""
    trainer, (train, _, test) = shop("FastSASRec", hidden_items=0.2)
    for batch in train:
        trainer.model.calculate_loss(batch).backward()
    hidden = torch.from_numpy(test.dataset.hidden_items)
    assert hidden.any() and not trainer.model.item_embedding.weight.grad[hidden].any()
    with pytest.raises(NestRecError, match="user_vectors: frozen are made of whole histories"):
        shop("TriGRec", user_vectors="frozen", hidden_items=0.2)


def test_vectors_of_encoders_that_nobody_trained_are_not_frozen(shop: Any) -> None:
    with pytest.raises(NestRecError, match="user_vectors: frozen needs encoders that are trained: set init_from"):
        shop("TriGRec", user_vectors="frozen")
