"""The scripts of benchmarks/ that train, on data of seconds: what they run, keep and compare."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from conftest import write_dataset
from test_domains import write as write_domains
from test_trigrec import USERS

SMALL = {"hidden_size": 16, "n_heads": 2, "inner_size": 32, "epochs": 1}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parent.parent / "benchmarks")
    return importlib.import_module


def test_levels_are_compared_user_by_user(script: Any, tmp_path: Path) -> None:
    nested = script("nested")
    write_dataset(tmp_path, "circle", [[(start + step) % 12 for step in range(4 + start % 5)] for start in range(36)])
    given = {**SMALL, "data_path": str(tmp_path), "valid_metric": "NDCG@10_f", "whitened_scale": 0.5}
    names = ["FastSASRec", "NestRec", "pre-trained by the pipeline", "without text"]
    runs = []
    for name in names:
        own = {key: value for key, value in given.items() if name != "FastSASRec" or key != "whitened_scale"}
        runs.append(nested.run(name, 1, "circle", own, tmp_path))
    found = nested.comparisons(runs, tmp_path, {})
    assert list(found) == ["FastSASRec", "pre-trained by the pipeline", "without text"]
    metrics = {one["run"]: one["metrics"] for one in runs}
    for name, one in found.items():
        for column in ("ndcg@10", "ndcg@10_f"):
            less = metrics[name][column] - metrics["NestRec"][column]
            assert one[column]["difference"] == pytest.approx(less, abs=1e-4)
    assert all(f"| {name} | 1 |" in nested.table({"runs": runs, "comparisons": found}) for name in names)


def test_domains_are_compared_user_by_user(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trigrec = script("trigrec")
    write_domains(tmp_path, USERS)
    monkeypatch.setattr(trigrec, "DATASETS", {"food": ("shop", "food")})
    monkeypatch.setattr(trigrec, "BASE", trigrec.BASE | SMALL)
    monkeypatch.setattr(trigrec, "LAYERS", {})
    monkeypatch.setattr(trigrec, "N_CANDIDATES", 1)
    rows = ["FastSASRec, target alone", "TriGRec", "The original's stages and inputs (leak)"]
    runs = [trigrec.run(row, "food", 1, str(tmp_path), tmp_path / "runs") for row in rows]
    found = trigrec.comparisons(runs, tmp_path / "runs", {})
    assert list(found["food"]) == [rows[0], rows[2]]
    less = runs[0]["test"]["ndcg@10_c"] - runs[1]["test"]["ndcg@10_c"]
    assert found["food"][rows[0]]["difference"] == pytest.approx(less, abs=1e-3)
    assert all(f"| {row} | 1 |" in trigrec.table({"runs": runs, "comparisons": found}) for row in rows)


def test_runs_over_seeds_are_not_done_twice(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeded = script("seeded")
    write_dataset(tmp_path, "circle", [[(start + step) % 12 for step in range(4 + start % 5)] for start in range(36)])
    kept: dict[str, Any] = {}
    monkeypatch.setattr(seeded, "HERE", tmp_path)
    monkeypatch.setattr(seeded, "write_results", lambda name, results: kept.update({name: results}))
    monkeypatch.setattr(seeded, "read_results", lambda name: kept[name])
    monkeypatch.setattr(seeded, "put_table", lambda name, text: kept.update({"page": text}))
    runs = {"plain": {"model": "FastSASRec", "dataset": "circle", "preset": "sparse", **SMALL}}
    options = seeded.parser("", runs).parse_args(["--seeds", "1", "2", "--threads", "1"])
    seeded.fill("small", "python small.py", runs, options, {"data_path": str(tmp_path)})
    first = [dict(one) for one in kept["small"]["runs"]]
    assert [one["seed"] for one in first] == [1, 2] and kept["page"].count("\n| plain | ") == 1
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "small.json").touch()
    monkeypatch.setattr(seeded, "train", None)
    seeded.fill("small", "python small.py", runs, options, {"data_path": str(tmp_path)})
    assert kept["small"]["runs"] == first
