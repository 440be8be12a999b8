"""A search: what it refuses, what it writes, and that it goes on whatever is killed."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from recbole.quick_start import run_recbole
from tuning import EPOCHS, SPACE, ignore, make_task, tune

from nestrec_recbole.bench import run as bench_run
from nestrec_recbole.cli import main
from nestrec_recbole.cli import tune as cli_tune
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.plugin import tuning_space
from nestrec_recbole.tune import search as search_module
from nestrec_recbole.tune.budget import Plan
from nestrec_recbole.tune.results import importances, write_results
from nestrec_recbole.tune.search import SearchResult, search
from nestrec_recbole.tune.space import parse_space, read_space
from nestrec_recbole.tune.trial import Trial, run_trial

ROOT = Path(__file__).resolve().parent.parent


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "space", "said"),
    [
        ([], {"learning_rat": {"choice": [1]}}, "did you mean 'learning_rate'?"),
        ([], {"n_layers": {"choice": ["two"]}}, "'n_layers' is 'two' (str); expected int"),
        (["--trials", "0"], None, "trials is 0; expected a whole number from 1"),
        (["--at-once", "0"], None, "at_once is 0"),
        (["--cpus", "0"], None, "expected CPUs above 0"),
        (["--budget", "0"], None, "the budget is 0 hours; expected a number above 0"),
        (["--scheduler", "ahsa"], None, "unknown scheduler 'ahsa'; did you mean 'asha'?"),
        (["--search", "optun"], None, "unknown searcher 'optun'; did you mean 'optuna'?"),
        (["--scheduler", "pbt", "--search", "optuna"], None, "pbt chooses its own points"),
        (["--valid_metric=NDCG@7"], None, "valid_metric is 'NDCG@7', but topk is"),
        (["--valid_metric=Precision@3"], None, "valid_metric is 'Precision@3', but metrics are"),
        (["--model", "FastSASrec2"], None, "unknown model"),
        (["--address", "127.0.0.1:9"], None, "no Ray cluster at 127.0.0.1:9"),
        (["--address", "somewhere"], None, "expected host:port, or auto"),
        (["--learning_rat=3"], None, "did you mean 'learning_rate'?"),
    ],
)
def test_bad_input(
    more: list[str], space: Any, said: str, circle: dict[str, Any], tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was started"))
    assert tune(circle, tmp_path / "search", *more, space=space) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_folder_belongs_to_one_search(
    circle: dict[str, Any], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "search"
    refused = ["--address", "nowhere"]  # the folder is looked at before
    claimed: list[tuple[Path, dict[str, Any]]] = []
    check = search_module._check_folder
    monkeypatch.setattr(
        search_module, "_check_folder", lambda *given: (check(*given), claimed.append((given[0], given[1])))
    )

    def says(*more: str, **other: Any) -> str:
        assert tune({**circle, **other}, folder, *refused, *more) == 2
        return capsys.readouterr().err

    assert "expected host:port" in says()
    assert not folder.exists()  # a start that failed leaves it free
    search_module._claim(*claimed[0])
    assert "holds a search already; --resume goes on with it" in says()
    assert "expected host:port" in says("--resume")
    assert "its seed differs (2020 there, 7 now)" in says("--resume", "--seed", "7")
    assert "its settings differs (hidden_size: 8 there, 16 now)" in says("--resume", hidden_size=16)
    (folder / "search.json").write_text("[]")
    assert "not written by this program" in says("--resume")
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "thesis.tex").write_text("")
    assert "is not empty and holds no search" in says("--resume")


def test_a_dotted_name_is_no_other_setting_than_a_trials_own(circle: dict[str, Any], tmp_path: Path) -> None:
    given = {"data_path": circle["data_path"], "llm": {"title_tokens": 3}, "llm.layers": 1}
    space = parse_space({"llm.layers": {"choice": [1, 2]}})
    _, task = search_module._task("NestRec", "circle", given, space, Plan(1), tmp_path)
    assert [task.merged({"llm.layers": point})["llm"] for point in (0, 1)] == [
        {"title_tokens": 3, "layers": layers} for layers in (1, 2)
    ]


def test_what_is_inside_a_field_can_be_searched(circle: dict[str, Any], tmp_path: Path) -> None:
    fields = {"year": {"modality": "number", "encoder": "fourier"}, "title": {"modality": "text"}}
    space = parse_space({"item_fields.year.encoder": {"choice": ["fourier", "standardise"]}})
    given = {"data_path": circle["data_path"], "item_fields": fields}
    _, task = search_module._task("NestRec", "circle", given, space, Plan(1), tmp_path)
    found = [task.merged({"item_fields.year.encoder": point})["item_fields"] for point in (0, 1)]
    assert found == [fields, {**fields, "year": {"modality": "number", "encoder": "standardise"}}]
    wrong = parse_space({"item_fields.yaer.encoder": {"choice": ["fourier"]}})
    with pytest.raises(NestRecError, match=r"item_fields.yaer is None, which has no settings inside"):
        search_module._task("NestRec", "circle", given, wrong, Plan(1), tmp_path)


def test_no_space_is_known(circle: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(NestRecError, match=r"no space is known for 'NARM'; give one .*SASRec"):
        search("NARM", "circle", {**circle, "train_neg_sample_args": None}, None, Plan(1), folder=tmp_path / "s")


def test_without_ray(circle: dict[str, Any], tmp_path: Path) -> None:
    code = """import sys

class NoRay:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "ray":
            raise ModuleNotFoundError("No module named 'ray'")

sys.meta_path.insert(0, NoRay())
from nestrec_recbole import compat_tuning
from nestrec_recbole.cli import main
assert main(["run", "--model", "FastSASRec", "--dataset", "circle", *sys.argv[1:]]) == 0
sys.exit(main(["tune", "--model", "FastSASRec", "--dataset", "circle"]))"""
    given = [f"--{name}={value}" for name, value in {**circle, "epochs": 1, "state": "ERROR"}.items()]
    run = subprocess.run(
        [sys.executable, "-c", code, *given], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 2 and "ndcg@3" in run.stdout, run.stderr
    last = run.stderr.splitlines()[-1]
    assert "tuning needs Ray Tune" in last and last.endswith("pip install 'ray[tune]>=2.40'")


# -- what is written ------------------------------------------------------------------------------------------------


def made_up(n_trials: int = 30) -> SearchResult:
    """A search whose score depends on the learning rate, a little on whether there is a size, and not on dropout."""
    described = {
        "learning_rate": {"loguniform": [1e-4, 1e-1]},
        "hidden_dropout_prob": {"quniform": [0.0, 0.5, 0.1]},
        "loss": {"choice": ["a", "b"]},
        "n_negatives": {"choice": [1, 2], "when": {"loss": ["b"]}},
    }
    space = parse_space(described)
    trials = []
    for point in space.draw(n_trials, 0):
        flat = space.flat(point)
        score = 1 - abs(np.log10(flat["learning_rate"]) + 2) / 4 + 0.05 * flat.get("n_negatives", 0)
        scores = [(0, score / 2), (1, score), (2, score - 0.1)]
        trials.append(Trial(flat, point, scores, "finished", None, 1.0, {"ndcg@10": score}))
    trials.append(Trial(flat, point, [], "failed", "no, <b>really</b>"))
    best = max(trials[:-1], key=lambda one: one.best(True))
    settings = {"epochs": 3, "metrics": ["NDCG"], **space.settings(best.point)}
    return SearchResult("FastSASRec", "x", "NDCG@10", settings, best.best(True), True, trials, space)


def test_results(tmp_path: Path) -> None:
    found = made_up()
    write_results(found, tmp_path, [{"seed": s, "metrics": {"ndcg@10": s / 4}} for s in (1, 2)])
    assert yaml.safe_load((tmp_path / "best.yaml").read_text()) == found.settings
    with open(tmp_path / "trials.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 31 and [row["status"] for row in rows] == ["finished"] * 30 + ["failed"]
    assert rows[-1]["error"] == "no, <b>really</b>" and rows[-1]["score"] == ""
    for row, one in zip(rows, found.trials[:-1], strict=False):
        assert float(row["score"]) == one.best(True) == float(row["ndcg@10"]) and row["best_epoch"] == "2"
        assert row["n_negatives"] == str(one.settings.get("n_negatives", ""))
    page = (tmp_path / "tuning.html").read_text()
    for part in ("parcoords", "What mattered", "The winner on test data", "<td>0.3750</td>", "learning_rate: "):
        assert part in page
    assert 'src="http' not in page  # it needs nothing from elsewhere


def test_the_winner_is_trained_once_a_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    trained: list[dict[str, Any]] = []

    def train(model: str, dataset: str, settings: dict[str, Any], weights: Path) -> Any:
        trained.append(settings)
        return SimpleNamespace(metrics={"ndcg@10": settings["seed"] / 10}), None, None

    monkeypatch.setattr(bench_run, "train", train)
    found = made_up()
    final = cli_tune._final(found, tmp_path, [1, 2, 3])
    assert [one["seed"] for one in trained] == [1, 2, 3] == [one["seed"] for one in final]
    assert all(found.settings.items() <= one.items() for one in trained)
    assert "test, mean: ndcg@10 0.2000" in capsys.readouterr().out
    assert cli_tune._final(found, tmp_path, [1, 2, 3]) == final and len(trained) == 3  # final.json has them
    cli_tune._final(found, tmp_path, [3, 4])
    assert [one["seed"] for one in trained[3:]] == [4]
    cli_tune._final(replace(found, settings={**found.settings, "epochs": 4}), tmp_path, [1])  # another winner
    assert len(trained) == 5


def test_importance_finds_what_mattered() -> None:
    mattered = importances(made_up())
    assert next(iter(mattered)) == "learning_rate" and mattered["learning_rate"] > 0.5
    assert mattered["hidden_dropout_prob"] < 0.1
    assert importances(made_up(5)) == {}


def test_lower_may_be_better() -> None:
    one = Trial({}, {}, [(0, 3.0), (1, 2.0), (2, 4.0)])
    assert (one.best(False), one.best_epoch(False), one.best(False, 1)) == (2.0, 1, 3.0)
    assert (one.best(True), one.best_epoch(True)) == (4.0, 2)


# -- with Ray -------------------------------------------------------------------------------------------------------


def kill_a_trial(folder: Path, killed: list[int]) -> None:
    """Kill the process of a trial as soon as one has an epoch behind it."""
    for _ in range(3000):
        if any(path.stat().st_size for path in folder.glob("trials/*/trial.json")):
            for process in psutil.Process().children(recursive=True):
                if "ray::ImplicitFunc" in " ".join(process.cmdline()):
                    killed.append(process.pid)
                    os.kill(process.pid, signal.SIGKILL)
                    return
        time.sleep(0.05)


@pytest.mark.usefixtures("ray_of_two")
def test_from_end_to_end(circle: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    folder, killed = tmp_path / "search", []
    watcher = threading.Thread(target=kill_a_trial, args=(folder, killed))
    watcher.start()
    assert tune(circle, folder, "--trials", "5", "--scheduler", "none", "--seeds", "1") == 0
    watcher.join()
    assert killed
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert [line.split()[0] for line in lines] == [f"[{n}/5]" for n in range(1, 6)]

    # Each trial scored what it scores without Ray, also the one whose process was killed.
    task = make_task(circle, tmp_path / "alone")
    scores = {}
    for point in task.space.draw(5, 2020):
        alone = run_trial(task, point, None, ignore)
        with_ray = Trial.read(folder / "trials" / task.folder_of(point).name)
        assert with_ray.scores == alone.scores and with_ray.status == "finished"
        scores[json.dumps(alone.settings)] = alone.best(True)
    assert len(scores) == 5

    best = yaml.safe_load((folder / "best.yaml").read_text())
    chosen = json.dumps({name: best[name] for name in SPACE})
    assert scores[chosen] == max(scores.values())
    result = run_recbole("FastSASRec", "circle", [str(folder / "best.yaml")], {"state": "ERROR"}, saved=False)
    assert result["best_valid_score"] == max(scores.values())
    (final,) = json.loads((folder / "final.json").read_text())
    assert final["seed"] == 1 and 0 <= final["metrics"]["ndcg@3"] <= final["metrics"]["recall@3"] <= 1
    assert not list(folder.glob("trials/**/*.safetensors"))  # what resuming needed is gone

    # A search that is over is not trained again, and may get more trials.
    assert tune(circle, folder, "--trials", "6", "--scheduler", "none", "--no-final", "--resume") == 0
    with open(folder / "trials.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 6


@pytest.mark.usefixtures("ray_of_two")
@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--gpus", "1"], "a trial asks for 1 CPUs and 1 GPUs on one machine; there are 2 CPUs and 0 GPUs"),
        (["--search", "optuna"], "--search optuna needs a package: pip install optuna"),
        (["--scheduler", "pbt"], "the space has none"),
    ],
)
def test_what_cannot_start_leaves_its_folder_free(
    more: list[str], said: str, circle: dict[str, Any], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *of: None if name == "optuna" else find(name, *of))
    assert tune(circle, tmp_path / "search", *more, space={"learning_rate": SPACE["learning_rate"]}) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "search").exists()


@pytest.mark.usefixtures("ray_of_two")
@pytest.mark.parametrize("dies", [True, False], ids=["their processes die", "the time is up"])
def test_trials_that_never_report(
    dies: bool, circle: dict[str, Any], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray says nothing then of what they were."""
    from nestrec_recbole.tune import running

    def objective(config: Any, task: Any, data: Any) -> None:  # pickled as it is, not by its name
        os._exit(1) if dies else time.sleep(60)

    monkeypatch.setattr(running, "objective", objective)
    budget = [] if dies else ["--budget", "0.002"]
    assert tune(circle, tmp_path / "search", "--trials", "2", *budget) == 2
    assert "no trial could be trained: " in capsys.readouterr().err
    errors = [json.loads(path.read_text())["error"] for path in tmp_path.glob("search/trials/*/trial.json")]
    assert len(errors) == (2 if dies else 0) and all(errors)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_of_two")
@pytest.mark.parametrize(
    "how",
    [
        ["--scheduler", "pbt"],
        ["--scheduler", "median"],
        ["--search", "optuna"],
        ["--search", "hyperopt"],
        ["--cpus", "0.5"],
        [],
    ],
    ids=" ".join,
)
def test_other_ways(how: list[str], circle: dict[str, Any], tmp_path: Path) -> None:
    assert tune(circle, tmp_path / "search", "--trials", "6", "--no-final", *how) == 0
    with open(tmp_path / "search" / "trials.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and not any(row["error"] for row in rows)
    assert max(float(row["score"]) for row in rows) > 0.4
    if not how:  # ASHA: two of six go on after their first epoch, or three; what waited was not trained twice
        epochs = [int(row["epochs"]) for row in rows]
        assert max(epochs) == EPOCHS and min(epochs) == 1 and sum(epochs) < 0.7 * 6 * EPOCHS
        task = make_task(circle, tmp_path / "alone")
        for point in task.space.draw(6, 2020):
            there = Trial.read(tmp_path / "search" / "trials" / task.folder_of(point).name)
            if there.status == "finished":
                assert there.scores == run_trial(task, point, None, ignore).scores
    assert all(float(row["hidden_dropout_prob"]) <= 0.2 for row in rows)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_of_two")
def test_a_population_that_is_over_is_not_trained_again(circle: dict[str, Any], tmp_path: Path) -> None:
    folder, how = tmp_path / "search", ["--trials", "4", "--scheduler", "pbt", "--no-final"]
    assert tune(circle, folder, *how) == 0
    written = {path: path.read_text() for path in [folder / "best.yaml", *folder.glob("trials/*/trial.json")]}
    assert len(written) == 5
    assert tune(circle, folder, *how, "--resume") == 0
    assert {path: path.read_text() for path in written} == written


@pytest.mark.slow
@pytest.mark.usefixtures("ray_of_two")
def test_a_model_of_recboles_with_its_own_space(circle: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "search"
    given = [f"--{name}={circle[name]}" for name in ("data_path", "topk", "valid_metric")]
    options = ["--model", "SASRec", "--dataset", "circle", "--trials", "3", "--epochs", "2", "--folder", str(folder)]
    assert main(["tune", *options, "--no-final", *given]) == 0
    with open(folder / "trials.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 and not any(row["error"] for row in rows)
    searched = [one.name for one in read_space(tuning_space("SASRec")).dimensions]
    assert {name for row in rows for name in searched if row[name]} == set(searched)
    best = yaml.safe_load((folder / "best.yaml").read_text())
    assert best["epochs"] == 2 and best.keys() >= {"learning_rate", "valid_metric"}


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["asha", "pbt"])
def test_a_killed_search_goes_on(scheduler: str, circle: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE, sort_keys=False))
    options = ["--model", "FastSASRec", "--dataset", "circle", "--space", "space.yaml", "--no-final", "--at-once", "1"]
    options += [f"--{name}={value}" for name, value in circle.items()]
    options += ["--trials", "6", "--epochs", "12", "--scheduler", scheduler]

    def start(folder: str, *more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "nestrec_recbole.cli", "tune", *options, "--folder", folder, *more]
        return subprocess.Popen(command, cwd=tmp_path)

    cut = start("cut")
    deadline = time.time() + 300
    while time.time() < deadline and len(list(tmp_path.glob("cut/trials/*/trial.json"))) < 3:
        time.sleep(0.1)
    cut.kill()  # with SIGKILL; its Ray goes with it
    cut.wait()
    assert not (tmp_path / "cut" / "best.yaml").exists()
    assert start("cut", "--resume").wait() == 0
    assert start("whole").wait() == 0
    if scheduler == "asha":
        assert (tmp_path / "cut" / "best.yaml").read_text() == (tmp_path / "whole" / "best.yaml").read_text()
    rows = [list(csv.DictReader(open(tmp_path / name / "trials.csv"))) for name in ("cut", "whole")]  # noqa: SIM115
    kept = ("learning_rate", "hidden_dropout_prob", "score", "epochs")
    if scheduler == "asha":
        assert [[row[k] for k in kept] for row in rows[0]] == [[row[k] for k in kept] for row in rows[1]]
    assert len(rows[0]) == len(rows[1]) == 6


@pytest.mark.slow
def test_ctrl_c(circle: dict[str, Any], tmp_path: Path) -> None:
    options = ["--model=FastSASRec", "--dataset=circle", "--no-final", "--folder=search", "--trials=50", "--epochs=50"]
    options += [f"--{name}={value}" for name, value in circle.items()]
    command = [sys.executable, "-m", "nestrec_recbole.cli", "tune", *options]
    run = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.time() + 120
    while time.time() < deadline and not list(tmp_path.glob("search/trials/*/trial.json")):
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does, to all of its processes
    _, said = run.communicate(timeout=60)
    assert (run.returncode, said) == (130, "nestrec: interrupted; --resume goes on\n")


@pytest.mark.usefixtures("ray_of_two")
def test_trials_that_fail_at_once_are_no_failure_of_ray(circle: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    """Of several settings: Ray itself stops where a result of more than one says nothing of the metric."""
    space = {"learning_rate": {"choice": [1.0e30]}, "hidden_size": {"choice": [8, 16]}}
    assert tune(circle, tmp_path / "search", "--trials", "2", "--no-final", space=space) == 2
    assert "no trial could be trained: the training loss is" in capsys.readouterr().err


@pytest.mark.usefixtures("ray_of_two")
def test_a_search_is_of_all_files_of_the_dataset(circle: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    given = ("--trials", "1", "--no-final")
    assert tune(circle, tmp_path / "search", *given) == 0
    (tmp_path / "data/circle/circle.item").write_text("item_id:token\ttitle:token_seq\ni0\tnew\n")
    assert tune(circle, tmp_path / "search", *given, "--resume") == 2
    assert "holds another search: its data differs (circle.item: None there" in capsys.readouterr().err
