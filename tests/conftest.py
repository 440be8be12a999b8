"""Small datasets that the tests make themselves, and a clean place to run RecBole in."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by Ray: beside anything else, a trial would not end in time
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)  # processes that tests start use this tree

import numpy as np
import pytest
import torch

import nestrec_recbole  # noqa: F401  # before any test takes a function of RecBole's by name

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(autouse=True)
def clean_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole writes log/ and saved/ where it stands, reads sys.argv, and sets the level of the root logger."""
    logging.getLogger().setLevel(logging.WARNING)
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
        base |= {"plot_curves": False, "save_ranks": False}  # a third of a second each
        return Config(model=model, dataset=dataset, config_dict={**base, "state": "ERROR", **settings})

    return make


LAYERS = 3
BuildNestRec = Callable[..., tuple[Any, Any, Any, Any]]


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Qwen3 of widths of its own, in bfloat16 as Qwen3 is published, and its byte-level tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

    folder = tmp_path_factory.mktemp("qwen3")
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(["thing number 10, 2."], trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    torch.manual_seed(5)
    shape = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    config = Qwen3Config(vocab_size=280, num_key_value_heads=2, head_dim=8, max_position_embeddings=512, **shape)
    Qwen3Model(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture
def build_nestrec(tmp_path: Path, make_config: Any) -> BuildNestRec:
    """A function (llm, **settings) -> (model, trainer, train, valid): a NestRec, always from the same seed.

    Every user of its dataset walks round a circle of 12 items.
    """
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    write_dataset(
        tmp_path / "data", "circle", [[(start + step) % 12 for step in range(4 + start % 5)] for start in range(36)]
    )
    given: dict[str, Any] = {"hidden_size": 16, "n_heads": 2, "inner_size": 32, "train_batch_size": 256}
    given["MAX_ITEM_LIST_LENGTH"] = 30
    given["item_fields"] = {"title": {"modality": "text"}, "year": {"modality": "number"}}

    def build(llm: dict[str, Any] | None = None, **settings: Any) -> tuple[Any, Any, Any, Any]:
        config = make_config("NestRec", "circle", **{**given, **({"llm": llm} if llm else {}), **settings})
        init_seed(config["seed"], True)
        train, valid, _ = data_preparation(config, create_dataset(config))
        model = get_model("NestRec")(config, train.dataset)
        return model, get_trainer(config["MODEL_TYPE"], "NestRec")(config, model), train, valid

    return build


@pytest.fixture
def circle(tmp_path: Path) -> dict[str, Any]:
    """Settings of a dataset ``circle``."""
    from tuning import SMALL, in_order, walks

    write_dataset(tmp_path / "data", "circle", walks(), in_order(walks()), item_file=False)
    return {**SMALL, "data_path": str(tmp_path / "data")}


@pytest.fixture(scope="module")
def ray_of_two() -> Iterator[None]:
    """A Ray of two CPUs on this machine alone."""
    from nestrec_recbole.tune import cluster

    cluster.require_ray()
    import ray

    ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    yield
    ray.shutdown()
