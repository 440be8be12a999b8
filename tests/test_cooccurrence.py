"""What items are taken with: counts and information by hand, vectors, and models that start from them."""

from __future__ import annotations

from math import log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_dataset
from recbole.quick_start import load_data_and_model

from nestrec_recbole.data.cooccurrence import DECAY, SMOOTHING, WINDOW, cooccurrence_vectors, pair_counts
from nestrec_recbole.data.cooccurrence import positive_information as information_of
from nestrec_recbole.models import itemstart
from nestrec_recbole.train.prepare import configure, prepare


def test_pairs_are_counted_within_a_history_and_a_window() -> None:
    users = np.array([1, 1, 1, 2, 2, *[3] * (WINDOW + 2)])
    items = np.array([1, 2, 3, 3, 3, 4, *[5] * WINDOW, 6])
    counts = pair_counts(users, items, 7).toarray()
    assert counts[1, 2] == counts[2, 3] == 1 and counts[1, 3] == pytest.approx(DECAY)
    assert counts[3, 3] == 0 == counts[5, 5]  # an item beside itself
    assert counts[3, 4] == 0  # of two users
    assert counts[4, 6] == 0  # too far apart
    assert counts[4, 5] == pytest.approx(sum(DECAY**apart for apart in range(WINDOW)))
    np.testing.assert_array_equal(counts, counts.T)


def test_information_by_hand() -> None:
    """1 and 2 twice together, 2 and 3 once: of n = 3 counted pairs either way."""
    counts = pair_counts(np.array([1, 1, 2, 2, 3, 3]), np.array([1, 2, 1, 2, 2, 3]), 4)
    smoothed = {1: 2**SMOOTHING, 2: 3**SMOOTHING, 3: 1.0}
    share = {item: count / sum(smoothed.values()) for item, count in smoothed.items()}
    expected = {(1, 2): log(2 / 2 / share[2]), (2, 1): log(2 / 3 / share[1])}
    expected |= {(2, 3): log(1 / 3 / share[3]), (3, 2): log(1 / share[2])}
    found = information_of(counts).todok()
    assert {pair: pytest.approx(value, rel=1e-5) for pair, value in expected.items() if value > 0} == dict(found)
    assert len(found) == 4


def prepared(place: Path, model: str = "FastSASRec", **settings: Any) -> Any:
    """Two groups of items that users of one group each take in any order; item 20 is a test target only."""
    draws = np.random.default_rng(0)
    rows = [[*draws.permutation(np.arange(1, 10) + 10 * (user % 2)).tolist(), 20] for user in range(40)]
    write_dataset(place / "data", "groups", rows)
    given = {"data_path": str(place / "data"), "checkpoint_dir": str(place), "state": "ERROR", "hidden_size": 16}
    return prepare(configure(model, "groups", {**given, **settings}))


def groups(dataset: Any) -> np.ndarray:
    """Of each item: 0, 1, or 2 for the one that only tests have; -1 for padding."""
    tokens = dataset.field2id_token[dataset.iid_field]
    return np.array(
        [-1] + [(int(str(token).removeprefix("i")) - 1) // 10 if "20" not in token else 2 for token in tokens[1:]]
    )


def test_what_is_taken_together_is_alike_and_what_is_held_out_is_not_read(tmp_path: Path) -> None:
    _, (train, _, _) = prepared(tmp_path)
    of, vectors = groups(train.dataset), cooccurrence_vectors(train.dataset, 8)
    assert vectors.dtype == np.float32 and vectors.shape == (train.dataset.item_num, 8)
    assert not vectors[of == -1].any() and not vectors[of == 2].any()
    first, second = vectors[of == 0], vectors[of == 1]
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-5)
    assert (first @ first.T).mean() > 0.2 and abs((first @ second.T).mean()) < 0.01
    np.testing.assert_array_equal(vectors, cooccurrence_vectors(train.dataset, 8))
    wide = cooccurrence_vectors(train.dataset, 50)  # more features than items
    assert wide.shape[1] == 50 and not wide[:, train.dataset.item_num :].any()


@pytest.mark.parametrize("model", ["FastSASRec", "GatedFusionRec", "MultimodalRec", "NestRec"])
def test_models_start_from_it(model: str, tmp_path: Path) -> None:
    fields = {} if model == "FastSASRec" else {"item_fields": {"year": {"modality": "number"}}}
    given = {"item_start": "cooccurrence", "metric_decimal_place": 12, "epochs": 1, **fields}
    trainer, (train, valid, _) = prepared(tmp_path, model, **given)
    of = groups(train.dataset)
    ids = trainer.model.state_dict()[next(iter(trainer.model.id_tables()))].clone()
    known = (of == 0) | (of == 1)
    assert not ids[of == -1].any() and ids[of == 2].norm().item() == pytest.approx(0.02 * 16**0.5, rel=0.5)
    alike, same = torch.corrcoef(ids[known]).numpy(), of[known][:, None] == of[known]
    assert alike[same].mean() > alike[~same].mean() + 0.1
    trainer.fit(train, valid, verbose=False)


def test_rounding_is_not_taken_for_a_vector() -> None:
    """Of two kinds of groups the small ones lie beyond the components that are kept."""
    rows = [[*range(first, first + 12)] for first in range(0, 96, 12)] * 3 + [[100, 101, 102], [103, 104, 105]]
    users = np.concatenate([np.full(len(row), user) for user, row in enumerate(rows)])
    items = np.concatenate(rows) + 1
    given = SimpleNamespace(item_num=110, interactions=lambda in_order: (users, items))
    lengths = np.linalg.norm(cooccurrence_vectors(given, 8), axis=1)
    assert np.isin(lengths.round(5), (0, 1)).all()
    assert lengths[1:97].all() and not lengths[97:].any()


def test_no_ids_no_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fields = {"item_fields": {"year": {"modality": "number"}}}
    prepared(tmp_path, "ItemQFormer", item_start="cooccurrence", use_ids=False, **fields)
    assert "item_start: cooccurrence has no effect here: there are no item ids" in caplog.text


def test_a_model_that_is_loaded_does_not_compute_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, (train, valid, _) = prepared(tmp_path, item_start="cooccurrence", epochs=1)
    trainer.fit(train, valid, verbose=False)
    monkeypatch.setattr(itemstart, "cooccurrence_vectors", None)
    config, model, *_ = load_data_and_model(trainer.saved_model_file)
    assert config["item_start"] == "cooccurrence"
    ids = next(iter(model.id_tables()))
    torch.testing.assert_close(model.state_dict()[ids], trainer.model.state_dict()[ids])
