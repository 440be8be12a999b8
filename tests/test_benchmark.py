"""A suite runs to its end whatever happens on the way, and runs nothing twice."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import yaml
from conftest import write_dataset

from nestrec_recbole import fingerprints
from nestrec_recbole.bench import attempt, keys, plan, tuning
from nestrec_recbole.bench import cluster as bench_cluster
from nestrec_recbole.bench.card import write_card
from nestrec_recbole.bench.progress import Progress
from nestrec_recbole.bench.resolve import resolve
from nestrec_recbole.bench.results import ResultsFolder, read_runs
from nestrec_recbole.cli import main
from nestrec_recbole.convert import Options, Split, convert, table
from nestrec_recbole.encode.foreign import import_features
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.files import locked
from nestrec_recbole.train.prepare import configure
from nestrec_recbole.tune import cluster as ray_cluster
from nestrec_recbole.tune.space import Space, parse_space

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
def searched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What every search was called with; each finds the first of all choices."""
    calls: list[Any] = []

    def search(model: str, dataset: str, settings: dict[str, Any], space: Space, plan: Any, **how: Any) -> Any:
        calls.append(SimpleNamespace(model=model, dataset=dataset, settings=settings, space=space, plan=plan))
        best = {one.name: one.values[0] for one in space.dimensions if one.kind == "choice"}
        return SimpleNamespace(settings={**settings, **best}, score=0.5, trials=[1, 2, 3], epochs=7)

    def write_results(found: Any, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("trials.csv", "tuning.html"):
            (folder / name).write_text("")

    monkeypatch.setattr("nestrec_recbole.tune.search.search", search)
    monkeypatch.setattr("nestrec_recbole.tune.results.write_results", write_results)
    return calls


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
        outcome["environment"] = {"threads": spec["threads"]}
        return {"run.json": attempt._about(spec, None, status="finished", error=None, **outcome)}

    monkeypatch.setattr(attempt, "attempt", fake)
    return begun


def outcomes(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    return {(run["row"], run["seed"]): run for run in read_runs(folder)}


# -- from end to end ------------------------------------------------------------------------------------------------


def test_runs_in_processes_of_their_own(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that trains, one whose loss is soon no number; and the first again, by the command that it names."""
    (place / "suite.yaml").write_text(SUITE.replace("{residual: gated}", "{learning_rate: 1.0e+30}"))
    assert main(["benchmark", "suite.yaml", "--seeds", "1", "--jobs", "2", "--threads", "1", "--keep-weights"]) == 1
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
    assert main(["recommend", str(folder / "weights.safetensors"), "i3", "-k", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1

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


def test_a_run_has_every_metric_under_both_protocols(place: Path) -> None:
    """Diversity too, where a column of the table asks for it: titles are what items are compared by."""
    metrics = ["ndcg@10", "diversity@10", "diversity@5_f"]
    suite: dict[str, Any] = {"name": "all", "datasets": {"circle": {}}, "models": {"Pop": {}}, "seeds": [1]}
    settings = {"topk": [5, 10], "item_fields": {"title": {"modality": "text"}}, "data_path": "data"}
    suite |= {"settings": {**settings, "feature_path": "features"}, "metrics": metrics}
    (place / "suite.yaml").write_text(yaml.safe_dump(suite))
    assert main(["benchmark", "suite.yaml", "--threads", "1"]) == 0
    (run,) = read_runs(place / "results/all")
    of_lists = ("coverage", "novelty", "diversity", "serendipity", "averagepopularity", "giniindex")
    names = ("hit", "ndcg", "recall", "mrr", *of_lists)
    assert set(run["metrics"]) == {f"{name}@{k}{suffix}" for name in names for k in (5, 10) for suffix in ("", "_f")}
    assert np.isfinite(list(run["metrics"].values())).all()
    assert run["tuning"] == {"trials": 0, "why": "the suite has no `tune`"}


@pytest.mark.slow
def test_the_same_twice_is_the_same_to_the_byte(place: Path) -> None:
    for folder in ("one", "two"):
        assert main(["benchmark", "suite.yaml", "--threads", "1", "--results", folder]) == 0
    for name in ("table.csv", "table.md", "table.tex"):
        assert (place / "one/small" / name).read_bytes() == (place / "two/small" / name).read_bytes(), name
    assert (place / "one/small/costs.csv").is_file()


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


def test_rows_of_other_settings_are_named_under_the_table(place: Path, counted: list[str]) -> None:
    table = place / "results/small/table.md"
    main(["benchmark", "suite.yaml"])
    assert "other settings" not in table.read_text()
    main(["benchmark", "suite.yaml", "--only", "gated", f"--data_path={place / 'data'}"])
    assert "other settings" not in table.read_text()  # where the data lies changes nothing
    main(["benchmark", "suite.yaml", "--only", "gated", "--epochs=3"])
    said = "not to be compared with the others: plain on circle (epochs 2)."
    assert said in table.read_text() and said in (place / "results/small/report.html").read_text()
    main(["benchmark", "suite.yaml"])
    assert "other settings" not in table.read_text()


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


def test_a_full_disk_is_said_by_the_parent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where there is no room for even the reason."""
    monkeypatch.setattr(attempt, "_COMMAND", ("sh", "-c", "exit 1"))
    monkeypatch.setattr(attempt.shutil, "disk_usage", lambda path: SimpleNamespace(free=4096))
    files = attempt.attempt({"run": {"row": "a"}, "threads": 1, "gpu": None, "time_limit": None}, str(tmp_path))
    said = json.loads(files["run.json"])["error"]
    assert said == f"no space is left where runs are written, {tmp_path}; make room there"


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
    with locked(folder / ".lock", "{}"):
        assert main(["benchmark", "suite.yaml"]) == 2
    assert f"process {os.getpid()} of {socket.gethostname()} is at work here" in capsys.readouterr().err
    assert main(["benchmark", "suite.yaml"]) == 0 and len(counted) == 4


def test_a_metric_that_a_run_has_not_stops_no_suite(
    place: Path, counted: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    suite = SUITE.replace("metrics: [ndcg@10,", "metrics: [ndcg@10_cold,").replace("epochs: 2,", "hidden_items: 0.001,")
    (place / "suite.yaml").write_text(suite)
    assert main(["benchmark", "suite.yaml"]) == 0 and len(counted) == 4
    assert capsys.readouterr().out.count("no ndcg@10_cold") == 4


def test_rows_compared_on_cold_items_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = SUITE.replace("metrics: [ndcg@10,", "metrics: [ndcg@10_cold,").replace("epochs: 2,", "hidden_items: 0.3,")
    (place / "suite.yaml").write_text(suite)
    assert main(["benchmark", "suite.yaml", "--seeds", "1"]) == 0
    ranks = [pd.read_parquet(file) for file in place.glob("results/*/runs/*/ranks.parquet")]
    n_users = {int(one["cold"].sum()) for one in ranks}  # leave one out: a row of each user
    assert len(ranks) == 2 and len(n_users) == 1 and 0 < n_users.pop() < len(ranks[0])
    assert "not tested" not in capsys.readouterr().out
    assert main(["report", str(next(place.glob("results/*")))]) == 0


def test_a_card_says_what_item_fields_are_now(place: Path) -> None:
    found = []
    for fields in ({"title": {"modality": "category"}}, {"title": {"modality": "text"}}):
        settings = {"data_path": "data", "item_fields": fields, "show_progress": False, "state": "ERROR"}
        path, _ = write_card(configure("ItemQFormer", "circle", settings), "circle", place)
        table = pd.read_parquet(path / "items.parquet")
        found.append((json.loads((path / "card.json").read_text())["fields"], int(table["has_text"].sum())))
    assert found == [({"title": "category"}, 0), ({"title": "text"}, 10)]


def test_names_that_are_not_in_the_suite(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "suite.yaml", "--only", "gaited"]) == 2
    assert "unknown row 'gaited'; did you mean 'gated'?" in capsys.readouterr().err
    assert main(["benchmark", "suite.yaml", "--seeds", "3"]) == 2
    assert "unknown seed '3'" in capsys.readouterr().err
    assert main(["runs", "nowhere"]) == 2


def test_what_is_given_concerns_the_rows_that_run(place: Path, counted: list[str]) -> None:
    """As the command of a tuned row gives what was found; other rows need not know it."""
    text = SUITE.replace(f", {SMALL}", "").replace("models:\n", "models:\n  Pop: {}\n")
    (place / "suite.yaml").write_text(text)
    assert main(["benchmark", "suite.yaml", "--only", "plain", "--seeds", "1", "--n_layers=1"]) == 0
    assert counted == ["plain 1"]


@pytest.mark.parametrize(
    ("said", "jobs", "threads"), [(None, 1, 8), (None, 3, 2), (None, 9, 1), ("1", 1, 1), ("4", 4, 2), ("4,2", 1, 8)]
)
def test_threads_are_shared_by_the_jobs(
    said: str | None, jobs: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan.os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert plan.default_threads(jobs) == threads


def test_a_command_says_the_threads_that_the_run_had(place: Path, counted: list[str]) -> None:
    for threads in ("1", "2"):
        assert main(["benchmark", "suite.yaml", "--only", "plain", "--threads", threads]) == 0
    assert len(counted) == 2
    commands = [run["command"] for run in outcomes(place / "results/small").values()]
    assert all("--threads 1" in command for command in commands)


# -- keys -----------------------------------------------------------------------------------------------------------


def test_data_that_convert_has_split(place: Path, counted: list[str]) -> None:
    """Histories are written out in the files, and RecBole must be told which column they are."""
    rows = [f"u{user},i{(user + step) % 12},{step}" for user in range(20) for step in range(4 + user % 3)]
    (place / "e.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]) + "\n")
    report = convert(table([place / "e.csv"]), "d", Options(split=Split("leave_one_out")), place / "data")
    settings = json.dumps(report["split"]["settings"])
    (place / "suite.yaml").write_text(SUITE.replace("{circle: {}}", f"{{d: {{settings: {settings}}}}}"))
    assert main(["benchmark", "suite.yaml"]) == 0 and len(counted) == 4


def test_imported_features_are_no_column(place: Path, counted: list[str], make_config: Callable[..., Any]) -> None:
    np.save(place / "seen.npy", np.random.default_rng(0).normal(size=(12, 4)))
    config = make_config("NestRec", "circle", data_path=str(place / "data"), feature_path=str(place / "data"))
    import_features(config, place / "seen.npy", "visual", "image", rows="order")
    text = SUITE.replace("epochs: 2", "feature_path: data, item_fields: {visual: {modality: image, encoder: imported}}")
    (place / "suite.yaml").write_text(text)
    assert main(["benchmark", "suite.yaml"]) == 0 and len(counted) == 4


def test_a_key_changes_when_data_settings_or_code_do_and_only_then(place: Path) -> None:
    def key(code: str = "1", features: dict[str, Path] | None = None, **settings: Any) -> str:
        config = resolve("FastSASRec", "circle", {"data_path": str(place / "data"), "seed": 1, **settings})
        data = keys.data_hash(config, fingerprints.data_files(config))
        return keys.run_key(config, data, features or {}, code)

    first = key()
    assert key() == first and len(first) == 16 and int(first, 16) >= 0
    for same in (
        *({"show_progress": False}, {"checkpoint_dir": "there"}, {"gpu_id": "1"}, {"feature_path": "there"}),
        {"eval_batch_size": 3},
    ):
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
        (tmp_path / "package").mkdir(exist_ok=True)
        (tmp_path / "package/fingerprints.py").write_text(text)
        fingerprints._sources.cache_clear()
        return fingerprints.code_version()

    monkeypatch.setattr(fingerprints, "__file__", str(tmp_path / "package/fingerprints.py"))
    assert version("a = 1") == version("a = 1") != version("a = 2")
    monkeypatch.undo()
    fingerprints._sources.cache_clear()


def test_rows_that_come_to_the_same_are_refused(
    place: Path, counted: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """What one says outright is what the other has by default."""
    (place / "suite.yaml").write_text(SUITE.replace("residual: gated", "residual: plain"))
    assert main(["benchmark", "suite.yaml"]) == 2
    assert "come to the same settings; leave one of the rows out" in capsys.readouterr().err
    assert counted == []


# -- tuning ---------------------------------------------------------------------------------------------------------


def test_rows_with_a_space_are_tuned_with_one_budget(place: Path, counted: list[str], searched: list[Any]) -> None:
    calls = searched
    (place / "mine.yaml").write_text("hidden_size: {choice: [16, 32]}")
    text = SUITE.replace("{model: FastSASRec, ", "{model: FastSASRec, space: mine.yaml, ")
    (place / "suite.yaml").write_text(text.replace("hidden_size: 8, ", "") + "tune: {trials: 3, epochs: 4}\n")
    main(["benchmark", "suite.yaml"])
    assert [(one.plan.trials, one.plan.epochs) for one in calls] == [(3, 4)] * 2  # a row once, whatever its seeds
    assert all(one.settings["seed"] == 1 for one in calls)
    runs = outcomes(place / "results/small")
    for run in runs.values():
        name = run["tuning"].pop("folder")
        assert run["tuning"] == {"trials": 3, "epochs": 7, "best": {"hidden_size": 16}, "score": 0.5}
        assert {path.name for path in (place / "results/small/tuning" / name).iterdir()} == {
            *("found.json", "trials.csv", "tuning.html")
        }
        assert run["settings"]["hidden_size"] == 16 and run["settings"]["epochs"] == 2
        assert "--no-tune" in run["command"] and "--hidden_size=16" in run["command"]
    main(["benchmark", "suite.yaml"])
    assert len(calls) == 2 and len(counted) == 4
    assert main(shlex.split(runs["plain", 2]["command"])[1:]) == 0
    assert len(calls) == 2 and read_runs(place / "reproduced/small")[0]["key"] == runs["plain", 2]["key"]
    assert tuning.has_space("Nothing") is False


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NestRecError("no trial could be trained"), "no trial could be trained"),
        (RuntimeError("the actor died\nunexpectedly"), "RuntimeError: the actor died"),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
    ],
)
def test_tuning_that_fails_is_a_row_with_its_reason(
    error: Exception, said: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **how: Any) -> None:
        raise error

    monkeypatch.setattr(plan, "tune_row", fail)
    (place / "suite.yaml").write_text(SUITE + "tune: {trials: 3, epochs: 4}\n")
    assert main(["benchmark", "suite.yaml", "--only", "plain", "--seeds", "1"]) == 1
    (run,) = outcomes(place / "results/small").values()
    assert (run["status"], run["error"]) == ("failed", f"tuning failed: {said}")


def test_what_makes_a_row_that_row_is_not_searched(place: Path, counted: list[str], searched: list[Any]) -> None:
    narrow, wide = "narrow: {model: FastSASRec, settings: {hidden_size: 16}}", "wide: {model: FastSASRec"
    models = f"models:\n  {narrow}\n  {wide}, on: {{circle: {{hidden_size: 32}}}}}}\nsettings"
    text = re.sub(r"models:.*\nsettings", models, SUITE, flags=re.S)
    (place / "suite.yaml").write_text(text + "tune: {hours: 0.5}\n")
    assert main(["benchmark", "suite.yaml", "--seeds", "1", "--n_layers=2"]) == 0
    for one, size in zip(searched, (16, 32), strict=True):
        searched_for = {dimension.name: dimension.values for dimension in one.space.dimensions}
        assert searched_for["hidden_size"] == (size,) and searched_for["n_layers"] == (2,)
        assert len(searched_for["n_heads"]) > 1
        assert (one.plan.hours, one.plan.trials) == (0.5, 1000)
    runs = outcomes(place / "results/small")
    assert [runs[row, 1]["settings"]["hidden_size"] for row in ("narrow", "wide")] == [16, 32]


def test_rows_that_tuning_makes_equal_share_their_runs(
    place: Path, counted: list[str], searched: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "has_space", lambda model: False)
    (place / "mine.yaml").write_text("residual: {choice: [gated, plain]}")
    text = SUITE.replace("baseline: true", "baseline: true, space: mine.yaml")
    (place / "suite.yaml").write_text(text + "tune: {trials: 3}\n")
    folder = place / "results/small"
    assert main(["benchmark", "suite.yaml", "--threads", "1"]) == 0
    assert counted == ["plain 1", "plain 2"]  # the other is what it is found to be
    runs = outcomes(folder)
    assert sorted(runs) == [("gated", 1), ("gated", 2), ("plain", 1), ("plain", 2)]
    assert runs["plain", 1]["key"] == runs["gated", 1]["key"]
    assert runs["plain", 1]["baseline"] and not runs["gated", 1]["baseline"]
    assert "--only gated" in runs["gated", 1]["command"] and "--only plain" in runs["plain", 1]["command"]
    assert re.search(r"\| plain \|.*\| 2 \|", (folder / "table.md").read_text())
    assert re.search(r"\| gated \|.*\| 2 \|", (folder / "table.md").read_text())
    assert main(["benchmark", "suite.yaml", "--only", "gated"]) == 0
    assert len(counted) == 2 and outcomes(folder) == runs
    (place / "suite.yaml").write_text(SUITE)
    assert main(["benchmark", "suite.yaml"]) == 0  # now they differ again
    assert counted[2:] == ["plain 1", "plain 2"] and sorted(outcomes(folder)) == sorted(runs)


def test_rows_that_are_not_tuned_say_why(place: Path, counted: list[str], searched: list[Any]) -> None:
    (place / "mine.yaml").write_text("n_layers: {choice: [1, 2]}")
    fixed = "fixed: {model: FastSASRec, space: mine.yaml, settings: {n_layers: 1}}"
    text = f"name: small\ndatasets: {{circle: {{}}}}\nmodels: {{Pop: {{}}, {fixed}}}\nsettings: {{data_path: data}}\n"
    text += "seeds: [1]\nmetrics: [ndcg@10]\n"
    (place / "suite.yaml").write_text(text)
    assert main(["benchmark", "suite.yaml"]) == 2
    (place / "suite.yaml").write_text(text + "tune: {trials: 3}\n")
    assert main(["benchmark", "suite.yaml", "--seeds", "1"]) == 0 and searched == []
    runs = outcomes(place / "results/small")
    assert runs["Pop", 1]["tuning"] == {
        "trials": 0,
        "why": "no space is known for Pop; the row may name one, `space: FILE`",
    }
    assert runs["fixed", 1]["tuning"]["why"] == "the row itself says all that would be searched"
    assert main(["benchmark", "suite.yaml", "--seeds", "1", "--no-tune"]) == 0 and len(counted) == 2
    assert outcomes(place / "results/small")["Pop", 1]["tuning"] == {"trials": 0, "why": "--no-tune"}


@pytest.mark.parametrize(
    ("tune", "said"),
    [
        ("{trials: 0}", "tune: trials is 0; expected a whole number from 1"),
        ("{trials: 3, scheduler: ahsa}", "tune: unknown scheduler 'ahsa'; did you mean 'asha'?"),
        ("{hours: -1}", "tune: the budget is -1 hours; expected a number above 0"),
        ("{epochs: 3}", "no tune.trials; expected one, or tune.hours"),
        ("{trials: many}", "tune.trials is 'many' (str); expected int"),
    ],
)
def test_a_budget_that_no_search_takes_is_said_before_any(
    tune: str, said: str, place: Path, counted: list[str], searched: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "mine.yaml").write_text("hidden_sise: {choice: [16, 32]}")
    text = SUITE.replace("baseline: true", "baseline: true, space: mine.yaml")
    (place / "suite.yaml").write_text(text + f"tune: {tune}\n")
    assert main(["benchmark", "suite.yaml"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert sum(said in line for line in lines) == 1
    assert any("unknown config key 'hidden_sise'; did you mean 'hidden_size'" in line for line in lines)
    assert searched == counted == []


# -- machines -------------------------------------------------------------------------------------------------------


def test_every_job_gets_a_gpu_of_its_own(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many jobs as GPUs, where nothing is said."""
    together, used = threading.Barrier(2, timeout=60), []

    def fake(spec: dict[str, Any], *where: Any) -> dict[str, bytes]:
        together.wait()
        used.append(spec["gpu"])
        together.wait()
        return attempt.failure(spec, "no luck")

    monkeypatch.setattr(attempt, "attempt", fake)
    monkeypatch.setattr("nestrec_recbole.cli.benchmark._gpus", lambda: ("3", "5"))
    assert main(["benchmark", "suite.yaml"]) == 1
    assert sorted(used[:2]) == sorted(used[2:]) == ["3", "5"]


def test_a_cluster_without_room_is_said_in_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray_cluster, "_connect", lambda address: None)
    monkeypatch.setattr(bench_cluster, "machines", lambda: [{"CPU": 4.0}, {"CPU": 8.0}])
    monkeypatch.setattr(ray_cluster, "machines", lambda: [{"CPU": 4.0}, {"CPU": 8.0}])
    assert main(["benchmark", "suite.yaml", "--address", "head:6379", "--threads", "16"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "a run of --threads 16 asks for 16 CPUs and 0 GPUs on one machine; there are 4 CPUs and 0 GPUs; 8" in said


def test_a_cluster_is_filled() -> None:
    machines = [{"CPU": 4.0}, {"CPU": 9.0, "GPU": 1.0}, {"memory": 1.0}]
    assert [bench_cluster.room(machines, 2, gpus) for gpus in (0, 1)] == [2 + 4, 1]


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


# -- one run --------------------------------------------------------------------------------------------------------


def test_metrics_are_cut_where_topk_says(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the batches of the evaluation are as long as the settings say."""
    from nestrec_recbole.bench import run

    sizes: list[int] = []
    rank_targets = run.rank_targets

    def counted(*args: Any, **how: Any) -> Any:
        sizes.append(how["batch_size"])
        found.append(rank_targets(*args, **how))
        return found[-1]

    found: list[Any] = []
    monkeypatch.setattr(run, "rank_targets", counted)
    settings = {"topk": [3], "valid_metric": "NDCG@3", "epochs": 1, "data_path": "data", "eval_batch_size": 7}
    small = {"hidden_size": 8, "inner_size": 8, "n_layers": 1, "state": "ERROR", "show_progress": False}
    done, *_ = run.train("FastSASRec", "circle", settings | small)
    (ranks,) = found
    assert sizes == [7]
    for suffix, rank, top in (("", ranks.rank, ranks.top), ("_f", ranks.rank_unseen, ranks.top_unseen)):
        discounted = [1 / np.log2(1 + place) if place <= 3 else 0.0 for place in rank]
        assert done.metrics[f"ndcg@3{suffix}"] == pytest.approx(np.mean(discounted))
        listed = {item for row in top for item in row[:3] if item}
        assert done.metrics[f"coverage@3{suffix}"] == pytest.approx(len(listed) / 12)
    assert {name.partition("@")[2] for name in done.metrics} == {"3", "3_f"}


def test_a_row_is_named_on_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "suite.yaml").write_text(SUITE.replace("  plain:", '  "two\\nlines":'))
    assert main(["benchmark", "suite.yaml"]) == 2
    assert "'two\\nlines' holds a line break or another control character; rename it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("unit", "expected"),
    [(None, [1_600_000_000, 1_600_000_420]), ("s", [1_600_000_000, 1_600_000_420]), ("ms", [1_600_000, 1_600_000.42])],
)
def test_a_card_has_times_in_seconds(unit: str | None, expected: list[float], place: Path) -> None:
    if unit is not None:
        (place / "data/circle/dataset.json").write_text(json.dumps({"time_unit": unit}))
    path, _ = write_card(configure("FastSASRec", "circle", {"data_path": "data"}), "circle", place)
    card = json.loads((path / "card.json").read_text())
    assert [card["first_time"], card["last_time"]] == pytest.approx(expected)


def test_a_card_of_data_without_times_has_none(place: Path) -> None:
    (place / "data/circle/dataset.json").write_text('{"time_unit": "place in the history"}')
    path, _ = write_card(configure("FastSASRec", "circle", {"data_path": "data"}), "circle", place)
    assert json.loads((path / "card.json").read_text())["first_time"] is None


def test_a_search_is_not_made_anew_for_settings_that_decide_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(tuning.Path, "is_file", lambda self: told.append(self.parent.name) or True)
    monkeypatch.setattr(tuning.Path, "read_text", lambda self, **how: "{}")
    space = parse_space({"learning_rate": {"choice": [0.1, 0.2]}})
    (place / "a").write_text("weights")
    (place / "b").write_text("others")
    starts = ({"init_from": str(place / name)} for name in "ab")
    for settings in ({}, {"eval_batch_size": 64, "show_progress": False}, {"hidden_size": 8}, *starts):
        tuning.tune_row("FastSASRec", "circle", settings, space, {"trials": 1}, ["data"], place, print)
    one, same, *others = told
    assert one == same and len({one, *others}) == 4
