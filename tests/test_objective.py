"""The objective that a config names: each loss by hand, and each one trains."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import write_dataset
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

from nestrec_recbole import NestRecError
from nestrec_recbole.models.objective import LOSSES, NEGATIVES, Objective

CIRCLE = [[(start + step) % 12 for step in range(4 + start % 5)] for start in range(36)]
DEFAULTS = {
    "loss": "full_softmax",
    "temperature": 0.5,
    "learn_temperature": False,
    "negatives": "uniform",
    "n_negatives": 50,
    "popularity_exponent": 0.75,
    "log_q": True,
    "mask_known": True,
    "mask_near_duplicates": 0.9,
    "calibration": 0.75,
    "margin": 1.0,
    "symmetric": False,
}


def batch(n_items: int = 9, n_rows: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    states, table = torch.randn(n_rows, 4), torch.randn(n_items, 4)
    return states, table, torch.randint(1, n_items, (n_rows,))


def test_full_softmax_is_cross_entropy_over_all_but_the_padding() -> None:
    states, table, targets = batch()
    loss = Objective(DEFAULTS, torch.ones(9))(states, table, targets)
    logits = states @ table.T / 0.5
    logits[:, 0] = -math.inf
    assert loss == pytest.approx(F.cross_entropy(logits, targets).item(), abs=1e-6)


@pytest.mark.parametrize("loss", ["sampled_softmax", "gbce", "info_nce", "triplet"])
def test_near_duplicates_are_no_negatives(loss: str) -> None:
    """If all items are alike, no target has a negative, and the loss is that of the positives alone."""
    states, table, targets = batch()
    objective = Objective({**DEFAULTS, "loss": loss, "negatives": "in_batch"}, torch.ones(9), torch.ones(9, 3))
    everything = torch.arange(9).repeat(len(targets), 1)
    without = Objective({**DEFAULTS, "loss": loss, "negatives": "in_batch"}, torch.ones(9))
    assert objective(states, table, targets) == without(states, table, targets, everything)
    assert objective(states, table, targets) < without(states, table, targets)


@pytest.mark.parametrize("loss", ["sampled_softmax", "gbce"])
def test_items_of_the_user_are_no_negatives(loss: str) -> None:
    states, table, targets = batch()
    objective = Objective({**DEFAULTS, "loss": loss, "negatives": "in_batch"}, torch.ones(9))
    everything = torch.arange(9).repeat(len(targets), 1)
    alone = objective(states, table, targets, everything)
    positive = (states * table[targets]).sum(-1) / 0.5
    if loss == "sampled_softmax":
        assert alone == 0
    else:
        rate = len(targets.unique()) / 7  # of the 8 items but the target
        n_logits = len(targets) * (1 + len(targets.unique()))
        assert alone == pytest.approx(((1 - 0.75 * (1 - rate)) * F.softplus(-positive).sum() / n_logits).item())


@pytest.mark.parametrize("negatives", ["uniform", "popularity", "inverse_popularity"])
def test_sampled_softmax_of_many_draws_is_the_full_softmax(negatives: str) -> None:
    """However often each item has been drawn."""
    states, table, targets = batch(n_items=40, n_rows=200)
    chosen = {**DEFAULTS, "loss": "sampled_softmax", "negatives": negatives, "n_negatives": 200_000}
    objective, whole = Objective(chosen, torch.arange(40) ** 2), Objective(DEFAULTS, torch.ones(40))
    torch.testing.assert_close(objective(states, table, targets), whole(states, table, targets))


def test_learned_temperature_is_trained() -> None:
    states, table, targets = batch()
    objective = Objective({**DEFAULTS, "learn_temperature": True}, torch.ones(9))
    objective(states, table, targets).backward()
    (parameter,) = objective.parameters()
    assert parameter.grad is not None and parameter.grad != 0


@pytest.mark.parametrize(
    ("loss", "negatives"),
    [*((loss, "uniform") for loss in LOSSES), *(("sampled_softmax", kind) for kind in NEGATIVES if kind != "uniform")],
)
def test_every_loss_learns_the_circle(loss: str, negatives: str, tmp_path: Any, make_config: Any) -> None:
    write_dataset(tmp_path / "data", "circle", CIRCLE)
    settings = {
        "loss": loss,
        "negatives": negatives,
        "n_negatives": 8,
        "epochs": 400 if loss == "gbce" else 120,
        "eval_step": 40,
    }
    settings |= {"hidden_size": 32, "inner_size": 64, "learning_rate": 0.01, "hidden_dropout_prob": 0.0}
    config = make_config("FastSASRec", "circle", **settings)
    init_seed(1, True)
    train, valid, test = data_preparation(config, create_dataset(config))
    trainer = get_trainer(config["MODEL_TYPE"], "FastSASRec")(config, get_model("FastSASRec")(config, train.dataset))
    trainer.fit(train, valid, verbose=False)
    assert trainer.evaluate(test)["ndcg@10"] > 0.9


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss": "softmax"}, "'loss' is 'softmax'; expected one of full_softmax"),
        ({"negatives": "hard"}, "'negatives' is 'hard'; expected one of uniform"),
        ({"n_negatives": 0}, "'n_negatives' is 0"),
        ({"temperature": 2.0, "learn_temperature": True}, "expected a number from 0.01 to 1"),
    ],
)
def test_bad_settings(settings: dict[str, Any], words: str, make_config: Any) -> None:
    with pytest.raises(NestRecError, match=words):
        make_config("FastSASRec", "ml-100k", **settings)


def test_near_duplicates_come_from_item_fields(tmp_path: Any, make_config: Any) -> None:
    place = write_dataset(tmp_path / "data", "twins", CIRCLE)
    titles = {f"i{item}": f"a tale of the number {item // 2}" for item in range(12)}  # two of each
    rows = "".join(f"{item}\t{title}\n" for item, title in titles.items())
    (place / "twins.item").write_text("item_id:token\ttitle:token_seq\n" + rows)
    given = {"loss": "sampled_softmax", "mask_near_duplicates": 0.999, "feature_path": "data"}
    config = make_config("FastSASRec", "twins", **given)
    dataset = create_dataset(config)
    model = get_model("FastSASRec")(config, dataset.build()[0])
    assert model.objective.duplicates is None  # who only recommends need not look for them
    for token, twin in ((f"i{2 * k}", f"i{2 * k + 1}") for k in range(6)):
        own, other = (dataset.token2id("item_id", one) for one in (token, twin))
        found = model.objective._with_duplicates(torch.tensor([own]), None)
        assert found[0].tolist()[:2] == [other, 0]
