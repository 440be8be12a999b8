"""What README says is true: its code runs, its commands exist, its figures are those of the results."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import write_dataset

from nestrec_recbole import plugin
from nestrec_recbole.bench.suite import shipped_suites
from nestrec_recbole.cli import main
from nestrec_recbole.settings import checks
from nestrec_recbole.tune.space import parse_space

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FIGURES = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
CIRCLE = [[(start + step) % 12 for step in range(4 + start % 5)] for start in range(36)]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


@pytest.mark.parametrize("code", [pytest.param(block, id=block.split()[-3]) for block in blocks("python")])
def test_python_runs(code: str, tmp_path: Path) -> None:
    """On a small dataset of the same name's place, so that it takes seconds."""
    write_dataset(tmp_path / "data", "small", CIRCLE)
    code = code.replace('dataset="ml-100k"', 'dataset="small"')
    (tmp_path / "code.py").write_text(code)
    command = [sys.executable, "code.py", "--data_path=data", "--feature_path=data", "--epochs=1"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_python_recommends(tmp_path: Path) -> None:
    """As it stands there, from a checkpoint that was made before."""
    write_dataset(tmp_path / "data", "small", CIRCLE)
    (code,) = blocks("py")
    code = code.replace("saved/NestRec-<run>.safetensors", "{path}").replace('"50", "181", "172"', '"i3", "i4"')
    code = code.replace('["50"]', '["i3"]')
    train = "import glob, nestrec_recbole; nestrec_recbole.run_recbole('FastSASRec', 'small')\n"
    code = train + code.replace('"{path}"', "glob.glob('saved/*.safetensors')[0]")
    (tmp_path / "code.py").write_text(code + "\nassert len(recommender.recommend([['i3', 'i4']], k=5)[0]) == 5\n")
    command = [sys.executable, "code.py", "--data_path=data", "--epochs=1"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", blocks("yml"))
def test_spaces_are_known(text: str) -> None:
    space = parse_space(yaml.safe_load(text)).checked(plugin.load_properties("FastSASRec"))
    assert len(space.dimensions) == 4


def test_commands_exist(capsys: pytest.CaptureFixture[str]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.M)) <= targets
    for verb in set(re.findall(r"nestrec (\w+) [-\w]", README)):
        with pytest.raises(SystemExit, match="0"):
            main([verb, "--help"])
    for path in re.findall(r"python (benchmarks/\S+\.py)", README + FIGURES):
        assert (ROOT / path).is_file()


@pytest.mark.parametrize("text", blocks("yaml"))
def test_settings_are_known(text: str) -> None:
    checks.check(yaml.safe_load(text), plugin.load_properties("NestRec"))


def test_places_and_models_exist() -> None:
    for place in re.findall(r"`((?:nestrec_recbole|benchmarks|properties)/[\w/.]*)`", README):
        assert (ROOT / place).exists(), place
    assert {name for name in plugin.MODELS if f"| `{name}` |" in README} == set(plugin.MODELS)


@pytest.mark.parametrize(
    ("script", "results"),
    [
        ("quickstart_seeds", "quickstart"),
        *((name, name) for name in ("speed", "data", "features", "llm", "multimodal", "tune", "baselines")),
        ("seeded", "quality"),
        ("seeded", "fusion"),
        ("nested", "nested-beauty"),
        ("trigrec", "trigrec"),
        ("trigrec_speed", "trigrec-speed"),
    ],
)
def test_tables_are_those_of_the_results(script: str, results: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    table = importlib.import_module(script).table
    assert table(json.loads((ROOT / f"benchmarks/results/{results}.json").read_text())) in README + FIGURES


def test_what_the_first_page_says_of_beauty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    summary = importlib.import_module("nested").summary
    runs = json.loads((ROOT / "benchmarks/results/nested-beauty.json").read_text())["runs"]
    assert summary(runs, "beauty") in README


def test_results_of_suites_on_their_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    suite_table = importlib.import_module("suite_table")
    kept = {path.stem.removeprefix("suite-"): path for path in (ROOT / "benchmarks/results").glob("suite-*.json")}
    shown = dict(re.findall(r"<!-- (\w+) table -->\n(.*?)<!-- end -->", FIGURES, re.S))
    assert kept.keys() == {name for name in shipped_suites() if shown.get(name)}
    for name, path in kept.items():
        assert shown[name].strip() == suite_table.table(json.loads(path.read_text()))
    for suite in re.findall(r"nestrec benchmark (\w+)(?!\S*\.yaml)\b", README + FIGURES):
        assert suite in shipped_suites()
