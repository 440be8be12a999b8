"""Time of a step: exact to the second, cyclic in the right places, blind to later steps."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_dataset
from recbole.data import create_dataset, data_preparation

from nestrec_recbole import NestRecError, run_recbole
from nestrec_recbole.layers.time import DAY, N_FREQUENCIES, WEEK, YEAR, TimeEmbedding
from nestrec_recbole.recommend import Recommender

CIRCLE = [[(start + step) % 12 for step in range(4 + start % 5)] for start in range(36)]


def features(times: list[int], per_second: float = 1.0) -> torch.Tensor:
    """What the embedding reads of each step: (T, size, sines, cosines)."""
    embedding = TimeEmbedding(1, per_second)
    n = embedding.project.in_features
    embedding.project = torch.nn.Identity()  # type: ignore[assignment]
    found = embedding(torch.tensor([times]))
    assert found.shape == (1, len(times), n)
    return found[0]


def test_by_hand() -> None:
    start = 1_700_000_000 // WEEK * WEEK  # a Thursday at midnight, as 1970 began
    first, later = features([start, start + DAY // 4])
    assert first[0] == 0 and later[0] == pytest.approx(math.log1p(DAY / 4) / math.log(YEAR))
    sines, cosines = later[1 : 4 + N_FREQUENCIES], later[4 + N_FREQUENCIES :]
    hour, weekday = N_FREQUENCIES, N_FREQUENCIES + 1
    assert (sines[hour], cosines[hour]) == (pytest.approx(1), pytest.approx(0, abs=1e-5))  # six in the morning
    assert sines[weekday] == pytest.approx(math.sin(2 * math.pi / 28), abs=1e-5)


def test_unit_and_second_matter_and_order_of_units_does_not() -> None:
    times = [1_700_000_000, 1_700_000_001, 1_700_090_000]
    torch.testing.assert_close(features(times), features([1000 * t for t in times], per_second=1000.0))
    assert not torch.equal(features(times)[1], features([times[0], times[0], times[2]])[1])


def test_later_steps_change_no_bit_of_earlier_ones() -> None:
    embedding = TimeEmbedding(8)
    one, other = (embedding(torch.tensor([[5, 900, 10_000, last]])) for last in (20_000, 99_999))
    assert torch.equal(one[:, :3], other[:, :3]) and not torch.equal(one[:, 3], other[:, 3])


def test_batches_carry_exact_times(tmp_path: Any, make_config: Any) -> None:
    times = [[1_700_000_000 + 60 * user + step for step in range(len(items))] for user, items in enumerate(CIRCLE)]
    write_dataset(tmp_path / "data", "circle", CIRCLE, times)
    config = make_config("UserQFormer", "circle", use_times=True, item_fields={"title": {"modality": "text"}})
    train, _, test = data_preparation(config, create_dataset(config))
    user = {token: number for number, token in enumerate(test.dataset.field2id_token["user_id"])}
    for batch in (next(iter(train)), test.dataset[:5]):
        for row, who, length in zip(batch["exact_time_list"], batch["user_id"], batch["item_length"], strict=True):
            (name,) = [token for token, number in user.items() if number == who]
            assert set(row[:length].tolist()) <= set(times[int(name[1:])])


def test_a_model_that_reads_times_recommends_by_them(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", "circle", CIRCLE)
    settings = {"data_path": "data", "feature_path": "data", "epochs": 1, "hidden_size": 16, "inner_size": 16}
    run_recbole("NestRec", "circle", config_dict={**settings, "use_times": True, "state": "ERROR"})
    (path,) = Path("saved").glob("*.safetensors")
    recommender = Recommender.load(path)
    soon, late = (
        recommender.recommend([["i1", "i2"]], k=3, times=[[1_600_000_000, t]]) for t in (1_600_000_060, 2**32)
    )
    assert soon != late
    for times in (None, [[1]], [[1, 2], [3]]):
        with pytest.raises(NestRecError, match="give `times`, one for every item"):
            recommender.recommend([["i1", "i2"]], times=times)


@pytest.mark.parametrize(
    ("unit", "words"), [("ms", "set times_per_second: 1000.0"), ("place in the history", "set it to False")]
)
def test_the_unit_that_conversion_wrote_down_counts(unit: str, words: str, tmp_path: Path, make_config: Any) -> None:
    place = write_dataset(tmp_path / "data", "circle", CIRCLE)
    (place / "dataset.json").write_text(f'{{"time_unit": "{unit}"}}')
    config = make_config("UserQFormer", "circle", use_times=True, item_fields={"title": {"modality": "text"}})
    train, _, _ = data_preparation(config, create_dataset(config))
    with pytest.raises(NestRecError, match=words):
        next(iter(train))


def test_the_unit_is_read_once_not_for_every_batch(
    tmp_path: Path, make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write_dataset(tmp_path / "data", "circle", CIRCLE)
    (place / "dataset.json").write_text('{"time_unit": "s"}')
    read: list[str] = []
    parse = json.loads
    monkeypatch.setattr(json, "loads", lambda text, **given: read.append(text) or parse(text, **given))
    how = {"use_times": True, "item_fields": {"year": {"modality": "number"}}}
    dataset = create_dataset(make_config("UserQFormer", "circle", **how))
    train, valid, _ = copy.deepcopy(dataset.build())
    for part in (train, valid, train.select([0])):
        assert "exact_time_list" in part[:1] and "exact_time_list" in part[:1]
    assert read.count('{"time_unit": "s"}') == 1
    times = make_config("UserQFormer", "circle", times_per_second=1000.0, **how)
    plain = create_dataset(make_config("FastSASRec", "circle"))
    plain.build()
    for other in (dataset.under(times), plain.under(times)):  # settings that a dataset was not made with
        with pytest.raises(NestRecError, match="set times_per_second: 1"):
            other.build()[0][:1]
