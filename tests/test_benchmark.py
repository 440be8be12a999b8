"""A suite runs to its end whatever happens on the way, and runs nothing twice."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from conftest import write_dataset

from nestrec_recbole.bench import attempt, keys, plan, tuning
from nestrec_recbole.bench.progress import Progress
from nestrec_recbole.bench.resolve import resolve
from nestrec_recbole.bench.results import ResultsFolder, read_runs
from nestrec_recbole.cli import main
from nestrec_recbole.errors import NestRecError

ROOT = Path(__file__).resolve().parent.parent
CIRCLE = [[(start + step) % 12 for step in range(4 + start % 5)] for start in range(36)]
SMALL = "hidden_size: 8, inner_size: 8, n_layers: 1, MAX_ITEM_LIST_LENGTH: 10"
SUITE = f"""
name: small
datasets: {{circle: {{}}}}
models:
  plain: {{model: FastSASRec, baseline: true}}
  gated: {{model: FastSASRec, settings: {{residual: gated}}}}
settings: {{epochs: 2, {SMALL}, data_path: data}}
seeds: [1, 2]
metrics: [ndcg@10, ndcg@10_f, coverage@10]
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a dataset and ``suite.yaml``, where the test stands."""
    write_dataset(tmp_path / "data", "circle", CIRCLE)
    (tmp_path / "suite.yaml").write_text(SUITE)
    return tmp_path


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the runs that were begun; they take no time, and their metrics are told by their settings."""
    begun: list[str] = []

    def fake(spec: dict[str, Any], *where: Any) -> dict[str, bytes]:
        run = spec["run"]
        begun.append(f"{run['row']} {run['seed']}")
        value = run["seed"] / 100 + len(spec["settings"].get("residual", ""))
        metrics = dict.fromkeys(("ndcg@10", "ndcg@10_f", "coverage@10"), value)
        outcome = {"metrics": metrics, "seconds": dict.fromkeys(("prepare", "train", "evaluate"), 1.0)}
        return {"run.json": attempt._about(spec, None, status="finished", error=None, **outcome)}

    monkeypatch.setattr(attempt, "attempt", fake)
    return begun


def outcomes(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    return {(run["row"], run["seed"]): run for run in read_runs(folder)}


# -- from end to end ------------------------------------------------------------------------------------------------


def test_runs_in_processes_of_their_own(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that trains, one whose loss is soon no number; and the first again, by the command that it names."""
    (place / "suite.yaml").write_text(SUITE.replace("{residual: gated}", "{learning_rate: 1.0e+30}"))
    assert main(["benchmark", "suite.yaml", "--seeds", "1", "--jobs", "2", "--threads", "1"]) == 1
    said = capsys.readouterr().out
    runs = outcomes(place / "results/small")
    good, bad = runs["plain", 1], runs["gated", 1]

    assert bad["status"] == "failed" and "learning_rate" in bad["error"] and "\n" not in bad["error"]
    assert f"gated on circle, seed 1, failed: {bad['error']}" in said
    assert good["status"] == "finished" and good["error"] is None
    folder = place / "results/small/runs" / good["key"]
    ranks, lists = pd.read_parquet(folder / "ranks.parquet"), pd.read_parquet(folder / "lists.parquet")
    for suffix, rank in (("", ranks["rank"]), ("_f", ranks.rank_unseen)):
        assert good["metrics"][f"ndcg@10{suffix}"] == pytest.approx(((rank <= 10) / np.log2(1 + rank)).mean())
        shown = lists["items_unseen" if suffix else "items"]
        assert good["metrics"][f"coverage@10{suffix}"] == pytest.approx(len(set(np.concatenate(shown))) / 12)
    sequences = {f"u{user}": [f"i{item}" for item in items] for user, items in enumerate(CIRCLE)}
    assert {user: list(seen) for user, seen in zip(lists.user, lists.history, strict=True)} == {
        user: items[:-1] for user, items in sequences.items()
    }
    assert dict(zip(ranks.user, ranks.item, strict=True)) == {user: items[-1] for user, items in sequences.items()}
    assert (ranks.history_length == [len(sequences[user]) - 1 for user in ranks.user]).all()
    assert not ranks.tied.any()
    assert [record["epoch"] for record in good["history"]] == [0, 1]
    assert good["valid"]["score"] == max(record["valid_score"] for record in good["history"])
    assert good["config"]["epochs"] == 2 and good["config"]["seed"] == 1 and good["settings"]["hidden_size"] == 8
    assert good["parameters"] > 0 and 100 < good["peak_memory_mib"] < 10_000
    assert set(good["seconds"]) == {"prepare", "train", "per_epoch", "evaluate"}
    assert good["environment"]["threads"] == 1

    assert main(shlex.split(good["command"])[1:]) == 0
    (again,) = read_runs(place / "reproduced/small")
    assert (again["key"], again["metrics"]) == (good["key"], good["metrics"])
    theirs = place / "reproduced/small/runs" / again["key"] / "ranks.parquet"
    pd.testing.assert_frame_equal(pd.read_parquet(theirs), ranks)
    assert not list(place.glob("**/.drafts")) and not list(place.glob("log_tensorboard"))


@pytest.mark.slow
def test_killed_and_started_again(place: Path) -> None:
    command = [sys.executable, "-m", "nestrec_recbole.cli", "benchmark", "suite.yaml", "--threads", "1"]
    runs = place / "results/small/runs"
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while not list(runs.glob("*/run.json")):
        time.sleep(0.1)
    workers = psutil.Process(first.pid).children()
    first.kill()
    first.wait()
    kept = {path: path.stat().st_mtime_ns for path in runs.glob("*/run.json")}
    _, alive = psutil.wait_procs(workers, timeout=120)  # a worker sees the end once it has imported everything
    assert all(worker.status() == psutil.STATUS_ZOMBIE for worker in alive)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{len(kept)} of 4 runs are there already" in done.stdout
    assert len(list(runs.glob("*/run.json"))) == 4 and not list(runs.glob(".*"))
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same(place: Path) -> None:
    command = [sys.executable, "-m", "nestrec_recbole.cli", "benchmark", "suite.yaml", "--threads", "1", "--seeds", "1"]
    for more in (["--address", "local", "--jobs", "2", "--results", "ray"], ["--results", "here"]):
        done = subprocess.run([*command, *more], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    there, here = outcomes(place / "ray/small"), outcomes(place / "here/small")
    assert {name: run["metrics"] for name, run in there.items()} == {name: run["metrics"] for name, run in here.items()}


# -- what is run, and what is not run again -------------------------------------------------------------------------


def test_no_row_mixes_settings_over_its_seeds(place: Path, counted: list[str]) -> None:
    assert main(["benchmark", "suite.yaml"]) == 0
    assert main(["benchmark", "suite.yaml", "--only", "gated", "--seeds", "1", "--epochs=3"]) == 0
    assert counted[4:] == ["gated 1"]
    assert sorted(outcomes(place / "results/small")) == [("gated", 1), ("plain", 1), ("plain", 2)]
    assert main(["benchmark", "suite.yaml"]) == 0  # what was found before is found again
    assert len(counted) == 5 and len(outcomes(place / "results/small")) == 4


def test_seed_after_seed_and_nothing_twice(place: Path, counted: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "suite.yaml", "--only", "gated"]) == 0
    assert counted == ["gated 1", "gated 2"]
    assert main(["benchmark", "suite.yaml"]) == 0
    assert counted[2:] == ["plain 1", "plain 2"]
    table = (place / "results/small/table.md").read_text()
    assert table in capsys.readouterr().out and (place / "results/small/report.html").is_file()
    assert main(["benchmark", "suite.yaml"]) == 0
    assert len(counted) == 4 and table in capsys.readouterr().out
    assert re.search(r"plain.*\| 0\.0150 \|", table)
    assert main(["runs"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split("\t")[:5] == ["suite", "dataset", "row", "seed", "status"] and len(lines) == 4
    assert lines[2].startswith("small\tcircle\tgated\t1\tfinished\tndcg@10 5.0100, ")


def test_what_changed_runs_again_and_is_found_when_it_is_back(place: Path, counted: list[str]) -> None:
    runs = place / "results/small/runs"
    main(["benchmark", "suite.yaml"])
    first = {path.name for path in runs.iterdir()}
    (place / "suite.yaml").write_text(SUITE.replace("gated}", "gated, n_heads: 1}"))
    main(["benchmark", "suite.yaml"])
    assert counted[4:] == ["gated 1", "gated 2"]
    assert len(list(runs.iterdir())) == 4, "the table would have two runs of one row and seed"
    (place / "suite.yaml").write_text(SUITE.replace("plain:", "renamed:"))
    main(["benchmark", "suite.yaml"])
    assert len(counted) == 6 and {path.name for path in runs.iterdir()} == first
    assert {run["row"] for run in read_runs(place / "results/small")} == {"renamed", "gated"}


def test_failed_runs_are_tried_again(
    place: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    works = attempt.attempt
    monkeypatch.setattr(attempt, "attempt", lambda spec, *where: attempt.failure(spec, "no luck"))
    assert main(["benchmark", "suite.yaml", "--seeds", "1"]) == 1
    monkeypatch.setattr(attempt, "attempt", works)
    assert main(["benchmark", "suite.yaml", "--seeds", "1", "--keep-failed"]) == 1
    assert counted == [] and "plain on circle, seed 1, failed: no luck" in capsys.readouterr().out
    assert main(["benchmark", "suite.yaml", "--seeds", "1"]) == 0
    assert counted == ["plain 1", "gated 1"]


def test_stopped_by_hand(
    place: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    works = attempt.attempt

    def interrupted(spec: dict[str, Any], *where: Any) -> dict[str, bytes]:
        if len(counted) == 2:
            raise KeyboardInterrupt
        return works(spec, *where)

    monkeypatch.setattr(attempt, "attempt", interrupted)
    assert main(["benchmark", "suite.yaml"]) == 130
    assert "stopped with 2 of 4 runs finished" in capsys.readouterr().err
    monkeypatch.setattr(attempt, "attempt", works)
    assert main(["benchmark", "suite.yaml"]) == 0
    assert counted == ["plain 1", "gated 1", "plain 2", "gated 2"]


def test_disk_full(
    place: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish = ResultsFolder.publish

    def full(self: ResultsFolder, key: str, files: dict[str, bytes]) -> None:
        if json.loads(files["run.json"])["status"] == "finished" and "plain 1" in counted:
            counted.remove("plain 1")
            raise OSError(28, "No space left on device")
        publish(self, key, files)

    monkeypatch.setattr(ResultsFolder, "publish", full)
    assert main(["benchmark", "suite.yaml", "--seeds", "1"]) == 1
    assert "seed 1, failed: OSError: [Errno 28] No space left on device" in capsys.readouterr().out

    def fuller(self: ResultsFolder, key: str, files: dict[str, bytes]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ResultsFolder, "publish", fuller)
    assert main(["benchmark", "suite.yaml", "--seeds", "2"]) == 2
    assert "make room, and the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "limit", "expected"),
    [
        ("kill -9 $$", None, r"ended by signal 9 \(SIGKILL\); the system was most likely out of memory"),
        ("echo one; echo MemoryError: all of it >&2; exit 3", None, "exit code 3: MemoryError: all of it"),
        ("echo 'the loss is NaN' > $0/error.txt; exit 1", None, "^the loss is NaN$"),
        ("sleep 60", 0.2, r"not finished after 0.2 s, the suite's time_limit"),
    ],
)
def test_ends_that_a_run_can_come_to(
    command: str, limit: float | None, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(attempt, "_COMMAND", ("sh", "-c", command))
    spec = {"run": {"row": "a"}, "threads": 1, "gpu": None, "time_limit": limit}
    files = attempt.attempt(spec, str(tmp_path))
    about = json.loads(files["run.json"])
    assert (list(files), about["row"], about["status"]) == (["run.json"], "a", "failed")
    assert re.search(expected, about["error"]), about["error"]
    assert not list(tmp_path.iterdir())


def test_a_folder_of_others_is_refused(place: Path, counted: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = place / "results/small"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("mine")
    assert main(["benchmark", "suite.yaml"]) == 2
    assert "holds other files" in capsys.readouterr().err
    for key, value in (("format", 2), ("nestrec_recbole", "0.0.1"), ("suite", "large")):
        about = {"format": 1, "nestrec_recbole": "0.1.0", "suite": "small", key: value}
        (folder / "results.json").write_text(json.dumps(about))
        assert main(["benchmark", "suite.yaml"]) == 2
        assert f"{key} is {value!r}, here it is" in capsys.readouterr().err
    (folder / "results.json").unlink()
    (folder / "thesis.txt").unlink()
    (folder / ".lock").write_text(str(os.getppid()))
    assert main(["benchmark", "suite.yaml"]) == 2
    assert f"process {os.getppid()} is at work here" in capsys.readouterr().err
    (folder / ".lock").write_text("999999999")
    assert main(["benchmark", "suite.yaml"]) == 0 and len(counted) == 4


def test_names_that_are_not_in_the_suite(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "suite.yaml", "--only", "gaited"]) == 2
    assert "unknown row 'gaited'; did you mean 'gated'?" in capsys.readouterr().err
    assert main(["benchmark", "suite.yaml", "--seeds", "3"]) == 2
    assert "unknown seed '3'" in capsys.readouterr().err
    assert main(["runs", "nowhere"]) == 2


# -- keys -----------------------------------------------------------------------------------------------------------


def test_a_key_changes_when_data_settings_or_code_do_and_only_then(place: Path) -> None:
    def key(code: str = "1", features: dict[str, Path] | None = None, **settings: Any) -> str:
        config = resolve("FastSASRec", "circle", {"data_path": str(place / "data"), "seed": 1, **settings})
        data = keys.data_hash(config, keys.data_files(config))
        return keys.run_key(config, data, features or {}, code)

    first = key()
    assert key() == first and len(first) == 16 and int(first, 16) >= 0
    for same in ({"show_progress": False}, {"checkpoint_dir": "there"}, {"gpu_id": "1"}, {"feature_path": "there"}):
        assert key(**same) == first, same
    others = [{"learning_rate": 0.01}, {"seed": 2}, {"hidden_size": 32}, {"shuffle_ties": True}, {"code": "2"}]
    others += [
        {"features": {"title": Path("title-1-2")}},
        {"features": {"title": Path("title-1-3")}},
        {"topk": [5], "valid_metric": "NDCG@5"},
    ]
    assert len({first, *(key(**other) for other in others)}) == 1 + len(others)
    (place / "elsewhere").mkdir()
    (place / "data/circle").rename(place / "elsewhere/circle")
    assert key(data_path=str(place / "elsewhere")) == first
    with open(place / "elsewhere/circle/circle.inter", "a") as file:
        file.write("u0\ti3\t1700000000\n")
    assert key(data_path=str(place / "elsewhere")) != first


def test_the_code_version_is_that_of_the_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def version(text: str) -> str:
        (tmp_path / "package/bench").mkdir(parents=True, exist_ok=True)
        (tmp_path / "package/bench/keys.py").write_text(text)
        keys.code_version.cache_clear()
        return keys.code_version()

    monkeypatch.setattr(keys, "__file__", str(tmp_path / "package/bench/keys.py"))
    assert version("a = 1") == version("a = 1") != version("a = 2")
    monkeypatch.undo()
    keys.code_version.cache_clear()


def test_rows_that_come_to_the_same_are_refused(
    place: Path, counted: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """What one says outright is what the other has by default."""
    (place / "suite.yaml").write_text(SUITE.replace("residual: gated", "residual: plain"))
    assert main(["benchmark", "suite.yaml"]) == 2
    assert "come to the same settings; leave one of the rows out" in capsys.readouterr().err
    assert counted == []


# -- tuning ---------------------------------------------------------------------------------------------------------


def test_rows_with_a_space_are_tuned_with_one_budget(
    place: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def search(model: str, dataset: str, settings: dict[str, Any], space: Any, plan: Any, **how: Any) -> Any:
        calls.append((settings, space, plan))
        return SimpleNamespace(settings={**settings, "hidden_size": 16}, score=0.5, trials=[1, 2, 3])

    module: Any = ModuleType("nestrec_recbole.tune.search")
    module.search = search
    monkeypatch.setitem(sys.modules, "nestrec_recbole.tune", ModuleType("nestrec_recbole.tune"))
    monkeypatch.setitem(sys.modules, "nestrec_recbole.tune.search", module)
    monkeypatch.setattr(plan, "has_space", lambda model: model == "FastSASRec")
    (place / "suite.yaml").write_text(SUITE + "tune: {trials: 3, epochs: 4}\n")
    main(["benchmark", "suite.yaml"])
    # A row once, whatever its seeds.
    assert [(space, one.trials, one.epochs) for _, space, one in calls] == [(None, 3, 4)] * 2
    assert all(settings["seed"] == 1 for settings, _, _ in calls)
    runs = outcomes(place / "results/small")
    for run in runs.values():
        assert run["tuning"] == {"trials": 3, "epochs": 4, "best": {"hidden_size": 16}, "score": 0.5}
        assert run["settings"]["hidden_size"] == 16 and run["settings"]["epochs"] == 2
        assert "--no-tune" in run["command"] and "--hidden_size=16" in run["command"]
    main(["benchmark", "suite.yaml"])
    assert len(calls) == 2 and len(counted) == 4
    assert main(shlex.split(runs["plain", 2]["command"])[1:]) == 0
    assert len(calls) == 2 and read_runs(place / "reproduced/small")[0]["key"] == runs["plain", 2]["key"]
    assert tuning.has_space("Nothing") is False


def test_tuning_that_fails_is_a_row_with_its_reason(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **how: Any) -> None:
        raise NestRecError("no trial could be trained")

    monkeypatch.setattr(plan, "tune_row", fail)
    (place / "suite.yaml").write_text(SUITE + "tune: {trials: 3, epochs: 4}\n")
    assert main(["benchmark", "suite.yaml", "--only", "plain", "--seeds", "1"]) == 1
    (run,) = outcomes(place / "results/small").values()
    assert (run["status"], run["error"]) == ("failed", "tuning failed: no trial could be trained")


# -- what is said on the way ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    stream: Any = SimpleNamespace(isatty=lambda: is_terminal, write=said.append, flush=lambda: None)
    clock = iter([0.0, 0.0, 30.0])
    monkeypatch.setattr("nestrec_recbole.bench.progress.perf_counter", lambda: next(clock))
    progress = Progress(4, 2, stream)
    progress.start("a")
    progress.start("b")
    progress.finish("a", "done")
    text = "".join(said)
    assert "1/4  a: done, 30 s; about 38 s left\n" in text  # (2 left + half of one) x 30 s at 2 a time
    assert ("\r\x1b[K1 done, 1 running (b), 2 left" in text) == is_terminal
    assert is_terminal or all(line.startswith("1/4") for line in text.splitlines())


def test_tied_targets(make_config: Callable[..., Any], tmp_path: Path) -> None:
    """Against a plain loop over all interactions."""
    from nestrec_recbole.bench.tables import is_tied
    from nestrec_recbole.data.dataset import SequenceDataset

    random = np.random.default_rng(3)
    times = [sorted(random.integers(0, 4 + user, len(items)).tolist()) for user, items in enumerate(CIRCLE)]
    write_dataset(tmp_path / "data", "tied", CIRCLE, times)
    config = make_config("FastSASRec", "tied", eval_args={"split": {"RS": [0.4, 0.3, 0.3]}, "order": "TO"})
    test = SequenceDataset(config).build()[2]
    users = test.field2id_token["user_id"][test.users]
    expected = []
    for user, end, start in zip(users, test.ends, test.starts, strict=True):
        own = times[int(user[1:])]
        expected.append(own.count(own[end - start]) > 1)
    assert is_tied(test).tolist() == expected and 0 < sum(expected) < len(expected)
