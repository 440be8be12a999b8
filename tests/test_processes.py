"""Two processes train and evaluate as one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import write_dataset
from torch.distributed import HashStore

from nestrec_recbole import NestRecError, processes
from nestrec_recbole.processes import agree_on_gpus

ROOT = Path(__file__).resolve().parent.parent
SEQUENCES = [[(7 * start + step * step) % 23 for step in range(5 + start % 9)] for start in range(61)]
SCRIPT = """
import json, os, sys
import nestrec_recbole
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

settings = {
    "data_path": "data", "feature_path": "data", "hidden_size": 16, "inner_size": 32, "train_batch_size": 64,
    "epochs": 3, "hidden_dropout_prob": 0.0, "show_progress": False, "state": "ERROR", "eval_batch_size": 8,
    "clip_grad_norm": {"max_norm": 1.0}, **json.loads(sys.argv.pop(2)),
}
model = sys.argv.pop(1)
config = Config(model=model, dataset="small", config_dict=settings)
init_seed(config["seed"], True)
train, valid, test = data_preparation(config, create_dataset(config))
trainer = get_trainer(config["MODEL_TYPE"], model)(config, get_model(model)(config, train.dataset))
trainer.fit(train, valid, verbose=False)
result = trainer.evaluate(test)
if os.environ.get("RANK", "0") == "0":
    losses = [record["train_loss"] for record in trainer.history]
    json.dump({"losses": losses, "test": result, "rank": trainer.ranks.rank.tolist()}, open("result.json", "w"))
"""


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("FastSASRec", {"accumulation_steps": 3}),
        pytest.param("FastSASRec", {"target_domain": "even", "domain_loss": "target"}, marks=pytest.mark.slow),
        ("TriGRec", {"target_domain": "even", "user_loss_weight": 0.0, "epochs": 2}),
        pytest.param("NestRec", {"id_dropout_prob": 0.0, "epochs": 2}, marks=pytest.mark.slow),
    ],
)
def test_two_processes_equal_one(model: str, settings: dict[str, float], tmp_path: Path) -> None:
    place = write_dataset(tmp_path / "data", "small", SEQUENCES, item_file=False)
    rows = "".join(f"i{item}\tthing {item}\t{'odd' if item % 3 else 'even'}\n" for item in range(23))
    (place / "small.item").write_text("item_id:token\ttitle:token_seq\tdomain:token\n" + rows)
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    found = []
    for launcher in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]):
        command = [sys.executable, *launcher, "script.py", model, json.dumps(settings)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        found.append(json.loads((tmp_path / "result.json").read_text()))
        (tmp_path / "result.json").unlink()
    one, two = found
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert two["test"] == pytest.approx(one["test"], abs=1e-3)
    apart = np.abs(np.subtract(two["rank"], one["rank"]))  # the items' order, but for those that nearly tie
    assert apart.max() <= 2 and (apart == 0).mean() > 0.9
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) == 2  # one a run


@pytest.mark.parametrize(
    ("has_gpu", "is_right"), [((True, False), False), ((True, True), True), ((False, False), True)]
)
def test_all_processes_have_a_gpu_or_none(has_gpu: tuple[bool, ...], is_right: bool) -> None:
    """Else they would join different groups, and wait for each other."""
    store = HashStore()
    with ThreadPoolExecutor(2) as pool:
        joining = [pool.submit(agree_on_gpus, store, rank, 2, has) for rank, has in enumerate(has_gpu)]
    for one in joining:
        if is_right:
            one.result()
        else:
            with pytest.raises(NestRecError, match="1 of 2 processes have a GPU: start as many"):
                one.result()


@pytest.mark.parametrize(
    ("visible", "given", "is_default", "rank", "chosen"),
    [
        (None, "0", True, None, "0"),
        ("3", "0", True, None, "3"),
        ("3", "0", False, None, "0"),
        ("", "0", True, None, ""),
        ("4,5", "0", True, 1, "5"),
        ("4,5", "6,7", False, 1, "7"),
        (None, "0", True, 1, "1"),
    ],
)
def test_gpus_that_are_visible_are_used_unless_others_are_named(
    visible: str | None, given: str, is_default: bool, rank: int | None, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "VISIBLE", visible)
    monkeypatch.setenv("WORLD_SIZE", "1" if rank is None else "2")
    monkeypatch.setenv("LOCAL_RANK", str(rank or 0))
    assert processes.choose_gpu(given, is_default) == chosen
