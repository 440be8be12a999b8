"""Small datasets that the tests make themselves, and a clean place to run RecBole in."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)  # processes that tests start use this tree

import numpy as np
import pytest
import torch

import nestrec_recbole  # noqa: F401  # before any test takes a function of RecBole's by name

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


@pytest.fixture(autouse=True)
def clean_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole writes log/ and saved/ where it stands, and reads settings from sys.argv."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pytest"])


def write_dataset(
    folder: Path, name: str, sequences: list[list[int]], times: list[list[int]] | None = None, item_file: bool = True
) -> Path:
    """Write ``folder/name/name.inter`` (rows shuffled) and ``name.item`` with a title, a year and gaps in both."""
    place = folder / name
    place.mkdir(parents=True)
    rows = [
        (user, item, times[user][step] if times else 1_600_000_000 + 60 * step)
        for user, items in enumerate(sequences)
        for step, item in enumerate(items)
    ]
    if times is None:
        rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    lines = ["user_id:token\titem_id:token\ttimestamp:float"] + [f"u{u}\ti{i}\t{t}" for u, i, t in rows]
    (place / f"{name}.inter").write_text("\n".join(lines) + "\n")
    if item_file:
        items = sorted({item for sequence in sequences for item in sequence})
        titles = ["" if i % 7 == 3 else f"thing number {i}" for i in items]
        years = ["" if i % 5 == 2 else str(1950 + i) for i in items]
        cells = zip([f"i{i}" for i in items], titles, years, strict=True)
        lines = ["item_id:token\ttitle:token_seq\tyear:float"] + ["\t".join(row) for row in cells]
        (place / f"{name}.item").write_text("\n".join(lines) + "\n")
    return place


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., Any]:
    """A function (model, dataset, **settings) -> Config over ``tmp_path/data``."""
    from recbole.config import Config

    def make(model: str, dataset: str, **settings: Any) -> Any:
        base = {"data_path": str(tmp_path / "data"), "feature_path": str(tmp_path / "data"), "show_progress": False}
        return Config(model=model, dataset=dataset, config_dict={**base, "state": "ERROR", **settings})

    return make
