"""Where a step was: the same features as an item's place, and a model that can use them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

from nestrec_recbole import NestRecError
from nestrec_recbole.encode.place import encode_places
from nestrec_recbole.layers.place import PlaceEmbedding

TOWNS = [(48.2, 16.4), (-33.9, 151.2), (40.7, -74.0)]


def test_features_are_those_of_items() -> None:
    embedding = PlaceEmbedding(4)
    embedding.project = torch.nn.Identity()  # type: ignore[assignment]
    degrees = np.random.default_rng(0).uniform((-90, -180), (90, 180), (5, 7, 2))
    found = embedding(*torch.from_numpy(degrees).unbind(-1))
    torch.testing.assert_close(found.float(), torch.from_numpy(encode_places(degrees.reshape(-1, 2))).view(5, 7, -1))
    one, same = (embedding(torch.tensor([[10.0]]), torch.tensor([[east]])) for east in (180.0, -180.0))
    torch.testing.assert_close(one, same, atol=1e-4, rtol=0)


@pytest.fixture
def towns(tmp_path: Path) -> Path:
    """The next item is told by the town of the step before; items say nothing of it, and come in random order."""
    random = np.random.default_rng(0)
    place = tmp_path / "data" / "towns"
    place.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float\tlat:float\tlon:float"]
    for user in range(120):
        town = random.integers(3)
        for step in range(8):
            item = 5 * town + random.integers(5)
            town = random.integers(3)
            lines.append(f"u{user}\ti{item}\t{60 * step}\t{TOWNS[town][0]}\t{TOWNS[town][1]}")
    (place / "towns.inter").write_text("\n".join(lines) + "\n")
    rows = "".join(f"i{item}\t{item}\n" for item in range(15))
    (place / "towns.item").write_text("item_id:token\tnumber:token\n" + rows)
    return place / "towns.inter"


def build(make_config: Any, **given: Any) -> Any:
    settings: dict[str, Any] = {"hidden_size": 32, "learning_rate": 0.01, "epochs": 12, "eval_step": 12, **given}
    config = make_config("UserQFormer", "towns", item_fields={"number": {"modality": "category"}}, **settings)
    init_seed(1, True)
    train, valid, test = data_preparation(config, create_dataset(config))
    return get_trainer(config["MODEL_TYPE"], "UserQFormer")(config, get_model("UserQFormer")(config, train.dataset)), (
        train,
        valid,
        test,
    )


def test_a_model_that_knows_where_its_user_is(towns: Path, make_config: Any) -> None:
    """5 of 15 items are in the town: guessing among them gives recall@5 of 1, guessing among all 1 / 3."""
    found = {}
    for name, coordinates in {"with": ["lat", "lon"], "without": None}.items():
        trainer, (train, valid, test) = build(make_config, coordinates=coordinates, topk=[5], valid_metric="Recall@5")
        trainer.fit(train, valid, verbose=False)
        found[name] = trainer.evaluate(test)["recall@5"]
    assert found["with"] > 0.8 and found["without"] < 0.6


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"coordinates": ["lat", "long"]}, "has no column long:float that is loaded; it has user_id"),
        ({"coordinates": ["lat"]}, r"coordinates is \['lat'\]; expected two columns"),
        ({"coordinates": ["lon", "lat"]}, r"towns.inter: line \d+: lon is 151.2; expected degrees"),
    ],
)
def test_bad_columns(given: dict[str, Any], words: str, towns: Path, make_config: Any) -> None:
    with pytest.raises(NestRecError, match=words):
        build(make_config, **given)


def test_an_interaction_without_a_place(towns: Path, make_config: Any) -> None:
    lines = towns.read_text().splitlines()
    lines[3] = "\t".join([*lines[3].split("\t")[:4], ""])
    towns.write_text("\n".join(lines) + "\n")
    with pytest.raises(NestRecError, match=r"towns.inter: line 4: lon is nan; expected degrees"):
        build(make_config, coordinates=["lat", "lon"])
