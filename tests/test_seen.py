"""Items that a history already holds: their bias by loops, in the loss and in the scores."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import write_dataset
from recbole.data.interaction import Interaction
from test_models import CIRCLE, add_domains, build, histories
from torch import Tensor

from nestrec_recbole import NestRecError
from nestrec_recbole.layers.full_softmax import full_softmax
from nestrec_recbole.layers.seen import Seen, SeenBias, seen_so_far

N_ITEMS = 11


def made(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States (P, d), a table (N, d), targets (P,) of which some were seen, and what each position has seen (P, T)."""
    torch.manual_seed(seed)
    states, table = torch.randn(9, 4, dtype=torch.float64), torch.randn(N_ITEMS, 4, dtype=torch.float64)
    seen = seen_so_far(torch.randint(0, N_ITEMS, (9, 6)))[:, -1]
    targets = torch.randint(1, N_ITEMS, (9,))
    targets[:3] = seen[:3].amax(1)
    return states, table, targets, seen


def biased_logits(states: Tensor, table: Tensor, seen: Tensor, bias: Tensor, temperature: float) -> Tensor:
    """Row by row; the padding item has none."""
    logits = states @ table.T / temperature
    mask = torch.zeros_like(logits)
    for row, items in enumerate(seen.tolist()):
        for item in set(items):
            mask[row, item] = 1
    return (logits + bias * mask).index_fill(1, torch.tensor([0]), -math.inf)


@pytest.mark.parametrize("chunk", [None, 9, 40])
def test_value_and_bias_are_of_biased_logits_all_else_of_plain_ones(chunk: int | None, monkeypatch: Any) -> None:
    monkeypatch.setattr("nestrec_recbole.layers.full_softmax.MIN_ROWS", 2)
    states, table, targets, seen = made()
    bias = torch.tensor(-1.3, dtype=torch.float64)
    ours, biased = ([x.clone().requires_grad_() for x in (states, table, bias)] for _ in range(2))
    others = [x.clone().requires_grad_() for x in (states, table)]
    loss = full_softmax(ours[0], ours[1], targets, temperature=0.7, seen=Seen(seen, ours[2]), chunk_elements=chunk)
    reference = F.cross_entropy(biased_logits(biased[0], biased[1], seen, biased[2], 0.7), targets)
    plain = full_softmax(others[0], others[1], targets, temperature=0.7, chunk_elements=chunk)
    for one in (loss, reference, plain):
        one.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(loss, reference)
    torch.testing.assert_close(ours[2].grad, biased[2].grad)
    for one, other in zip(ours, others, strict=False):
        assert torch.equal(one.grad, other.grad)


def test_seen_so_far_by_loops() -> None:
    history = torch.tensor([[3, 5, 3, 4, 5], [2, 2, 0, 0, 0]])
    found = seen_so_far(history)
    for row, items in enumerate(history.tolist()):
        for step in range(len(items)):
            kept = [item for item in found[row, step].tolist() if item]
            assert sorted(kept) == sorted({item for item in items[: step + 1] if item})


def test_a_target_that_was_seen_keeps_its_bias_where_seen_items_are_left_out() -> None:
    """A repeat is ranked among what was not seen, by the score it has: so F changes for it, and for nothing else."""
    bias = SeenBias(0, 100)
    scores = torch.tensor([[0.0, 0.5, 0.4, 0.3, 0.2]])
    with torch.no_grad():
        bias.bias.fill_(-1.0)
        biased = bias(scores.clone(), torch.tensor([[1, 2]]))
    assert biased[0].tolist() == pytest.approx([0.0, -0.5, -0.6, 0.3, 0.2])


def test_scores_of_seen_items_get_the_bias_once() -> None:
    bias = SeenBias(0, 100)
    scores = bias(torch.zeros(2, 6), torch.tensor([[3, 3, 1], [2, 0, 0]]), 0.5)
    expected = torch.zeros(2, 6)
    expected[0, [1, 3]] = expected[1, 2] = 0.5 * bias.bias.item()
    assert torch.equal(scores.detach()[:, 1:], expected[:, 1:])  # the padding item's is nobody's
    assert bias.bias.item() == pytest.approx(math.log(0.5 / 100.5))
    assert SeenBias(50, 100).bias.item() == 0.0


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("FastSASRec", {}),
        ("FastSASRec", {"target_domain": "even", "domain_loss": "target"}),
        ("NestRec", {}),
        ("TriGRec", {"user_loss_weight": 0.0}),
    ],
)
def test_training_and_ranking_give_a_seen_item_the_same_score(
    model: str, settings: dict[str, Any], tmp_path: Any, make_config: Any
) -> None:
    """The loss of one history is the cross-entropy of what full_sort_predict says of each of its prefixes."""
    write_dataset(tmp_path / "data", "circle", CIRCLE)
    add_domains(tmp_path / "data" / "circle" / "circle.item")
    _, built, _ = build(make_config, model, seen_bias=True, temperature=0.5, **settings)
    built.eval()
    items = [3, 5, 3, 4, 8, 4]
    with torch.no_grad():
        built.seen_bias.bias.fill_(-0.7)
        batch = histories([items[:-1]])
        batch.update(Interaction({"target_list": torch.tensor([items[1:]])}))
        loss = built.calculate_loss(batch)
        losses = []
        for end in range(1, len(items)):
            prefix = histories([items[:end]])
            scores = built.full_sort_predict(prefix)
            prefix.update(Interaction({"item_id": torch.tensor([items[end]])}))
            torch.testing.assert_close(built.predict(prefix), scores[:, items[end]])
            if scores[0, items[end]] > -torch.inf:
                losses.append(F.cross_entropy(scores / 0.5, torch.tensor([items[end]])))
    assert len(losses) > 1
    torch.testing.assert_close(loss, torch.stack(losses).mean())


def test_hidden_items_are_in_no_history_of_the_loss(tmp_path: Any, make_config: Any) -> None:
    """Items are numbered anew where training does not know of some: seen ones too."""
    write_dataset(tmp_path / "data", "circle", CIRCLE)
    _, model, (train, _, _) = build(make_config, "FastSASRec", seen_bias=True, hidden_items=0.3)
    model.eval()
    batch = next(iter(train))
    states, targets, _ = model.at_targets(model.encode(batch), batch)
    seen = model.seen(batch["item_id_list"], batch["target_list"] > 0)
    logits = biased_logits(states, model.item_table(), seen.items, seen.bias, 1.0)
    hidden = torch.from_numpy(train.dataset.hidden_items)
    assert hidden.any()
    expected = F.cross_entropy(logits.masked_fill(hidden, -math.inf), targets)
    torch.testing.assert_close(model.calculate_loss(batch), expected)


def test_training_with_it_leaves_all_other_weights_as_they_are(tmp_path: Any, make_config: Any) -> None:
    from recbole.utils import get_trainer

    write_dataset(tmp_path / "data", "circle", CIRCLE)
    results, weights = [], []
    for biased in (False, True):
        given = {"seen_bias": biased, "epochs": 3, "valid_metric": "NDCG@10_f", "learning_rate": 0.01}
        config, model, (train, valid, test) = build(make_config, "FastSASRec", **given)
        trainer = get_trainer(config["MODEL_TYPE"], "FastSASRec")(config, model)
        trainer.fit(train, valid, verbose=False)
        results.append(trainer.evaluate(test))
        weights.append({name: x for name, x in model.state_dict().items() if name != "seen_bias.bias"})
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0] | weights[1])
    assert results[0]["mrr@10_f"] == results[1]["mrr@10_f"] == results[1]["mrr@10"] > results[0]["mrr@10"]


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        ("FastSASRec", {"loss": "gbce"}, "seen_bias goes with loss: full_softmax, not gbce"),
        ("MultimodalRec", {}, "seen_bias has no effect on pairs"),
        ("TriGRecUser", {}, "seen_bias has no effect on TriGRecUser"),
        ("UserPretraining", {}, "seen_bias has no effect on UserPretraining"),
    ],
)
def test_where_it_means_nothing_it_is_refused(
    model: str, settings: dict[str, Any], words: str, tmp_path: Any, make_config: Any
) -> None:
    write_dataset(tmp_path / "data", "circle", CIRCLE)
    add_domains(tmp_path / "data" / "circle" / "circle.item")
    with pytest.raises(NestRecError, match=words):
        build(make_config, model, seen_bias=True, **settings)


def test_it_starts_at_the_log_odds_of_a_repeat(tmp_path: Any, make_config: Any) -> None:
    write_dataset(tmp_path / "data", "circle", [[0, 1, 0, 1, 2, 3], [2, 3, 4, 5, 6, 7]])  # the last two are held out
    _, model, _ = build(make_config, "FastSASRec", seen_bias=True)
    assert model.seen_bias.bias.item() == pytest.approx(math.log(2.5 / 6.5))
