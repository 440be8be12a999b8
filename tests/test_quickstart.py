"""The quickstart writes what it says; its full length is a slow test."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nestrec_recbole.bench.quickstart import quickstart
from nestrec_recbole.cli import main

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_quickstart_in_three_minutes(tmp_path: Path) -> None:
    """The whole of it, embedding included: NestRec beats Pop at least twofold."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
    began = perf_counter()
    command = [sys.executable, "-m", "nestrec_recbole.cli", "quickstart"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    seconds = perf_counter() - began
    assert done.returncode == 0, done.stderr
    assert seconds < 180, f"{seconds:.0f} s"
    runs = {run["model"]: run for run in json.loads((tmp_path / "runs/quickstart/results.json").read_text())}
    assert runs["NestRec"]["metrics"]["ndcg@10"] >= 2 * runs["Pop"]["metrics"]["ndcg@10"]


def test_quickstart_writes_table_examples_results_and_curves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"epochs": 1, "hidden_size": 8, "inner_size": 8, "MAX_ITEM_LIST_LENGTH": 10, "show_progress": False}
    runs = quickstart(tmp_path / "out", **small, **{"llm.layers": 1})
    assert [run.model for run in runs] == ["Pop", "FastSASRec", "NestRec"]
    said = capsys.readouterr().out
    for run in runs:
        assert f"{run.model:<12}{run.metrics['ndcg@10']:>14.4f}{run.metrics['ndcg@10_f']:>8.4f}" in said
    assert said.count("last saw: ") == 3 and said.count("  5. ") == 3
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"results.json", "curves.png", "NestRec.safetensors", "FastSASRec.safetensors"} <= names
    ranks = pd.read_parquet(tmp_path / "out/NestRec-ranks.parquet")
    assert len(ranks) == 943 and ranks.user.is_unique
    hits = ranks["rank"] <= 10
    assert (hits / np.log2(1 + ranks["rank"])).mean() == pytest.approx(runs[2].metrics["ndcg@10"])
    assert (ranks.rank_unseen <= ranks["rank"]).all()
    assert not any(name.startswith(".") or name.endswith(".part") for name in names)
    assert (tmp_path / "out/curves.png").read_bytes()[:4] == b"\x89PNG"
    saved = json.loads((tmp_path / "out/results.json").read_text())
    assert [record["metrics"] for record in saved] == [run.metrics for run in runs]
    assert all(0 <= value <= 1 for record in saved for value in record["metrics"].values())


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--epoch=1", "unknown config key 'epoch'; did you mean 'epochs'?"),
        ("--dataset=beauty", "dataset is 'beauty': the quickstart's are given; `nestrec run` trains others"),
    ],
)
def test_settings_of_the_command_line(word: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quickstart", "--folder", str(tmp_path / "out"), word]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_settings_reach_the_models_that_read_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {}

    def note(model: str, dataset: str, settings: dict[str, Any], checkpoint: Path) -> Any:
        given[model] = settings
        if model == "NestRec":
            raise ValueError("enough")
        return None, None, None

    monkeypatch.setattr("nestrec_recbole.bench.quickstart.train", note)
    assert main(["quickstart", "--folder", str(tmp_path), "--seed=7", "--llm.layers=1", "--epochs=3", "--topk=5"]) == 2
    assert "llm.layers" not in given["FastSASRec"] and given["NestRec"]["llm.layers"] == 1
    assert all((settings["seed"], settings["epochs"]) == (7, 3) for settings in given.values())
    assert all(settings["topk"] == [5, 10] for settings in given.values())
