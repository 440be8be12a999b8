"""Stages: each starts from the one before, is skipped where nothing has changed, and resumes after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_dataset

from nestrec_recbole.cli import main
from nestrec_recbole.train import pipeline
from nestrec_recbole.train.checkpoint import read_checkpoint
from nestrec_recbole.train.pipeline import run_pipeline

SEQUENCES = [[(7 * start + step * step) % 23 for step in range(5 + start % 9)] for start in range(60)]
SMALL = {"hidden_size": 16, "inner_size": 32, "epochs": 2, "show_progress": False, "state": "ERROR"}
SMALL |= {"data_path": "data", "feature_path": "data"}
STAGES = {"items": {"model": "ItemPretraining"}, "users": {"model": "UserPretraining"}, "joint": {"model": "NestRec"}}


@pytest.fixture(autouse=True)
def dataset(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", "small", SEQUENCES)


def run(until: str | None = None, **settings: Any) -> dict[str, Any]:
    stages = {name: dict(own) for name, own in STAGES.items()}
    return run_pipeline("small", stages, {**SMALL, **settings}, "runs", until)


def test_each_stage_starts_from_the_one_before() -> None:
    result = run(learning_rate=0.0)  # so that weights stay as they start
    tensors = {}
    for stage in STAGES:
        (path,) = Path("runs").glob(f"{stage}-*/weights.safetensors")
        tensors[stage] = read_checkpoint(path)[0]
    for name in ("item_qformer.queries", "to_token.weight", "fields.projections.0.weight", "recent_mean.decay"):
        assert len({tensors[stage][f"model.{name}"].sum().item() for stage in STAGES}) == 1
    user = "model.user_qformer.layers.0.to_inner.weight"
    assert torch.equal(tensors["users"][user], tensors["joint"][user])
    assert "model.id_embedding.weight" in tensors["joint"] and "model.id_embedding.weight" not in tensors["items"]
    rank = pd.read_parquet(Path(result["weights"]).parent / "ranks.parquet")["rank"]
    assert len(rank) == len(SEQUENCES)
    gains = (1 / np.log2(rank + 1)).where(rank <= 10, 0.0)
    assert result["test"]["ndcg@10"] == pytest.approx(gains.mean(), abs=1e-4)


def test_data_are_read_once_where_stages_read_them_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of each stage are those of reading for it alone."""
    read, n_read = pipeline.read_data, []
    monkeypatch.setattr(pipeline, "read_data", lambda config: (n_read.append(config["model"]), read(config))[1])
    shared = run()
    assert n_read == ["ItemPretraining"]
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "year"]}
    stages = {**STAGES, "users": {**STAGES["users"], "load_col": columns}}
    run_pipeline("small", stages, {**SMALL, "epochs": 1}, "others")
    assert n_read[1:] == ["ItemPretraining", "UserPretraining"]
    monkeypatch.setattr(pipeline._Read, "data", lambda self, config: read(config))
    alone = run_pipeline("small", STAGES, SMALL, "alone")
    unlike = ("weights", "key", "before", "history")
    assert {k: v for k, v in shared.items() if k not in unlike} == {k: v for k, v in alone.items() if k not in unlike}


def test_the_first_stage_may_start_from_a_checkpoint() -> None:
    items = run(until="items")["weights"]
    stages = {name: STAGES[name] for name in ("users", "joint")}
    assert run_pipeline("small", stages, {**SMALL, "init_from": items}, "later")["test"]


def test_seen_bias_is_for_the_stages_that_rank_by_their_softmax() -> None:
    done = run(seen_bias=True)
    assert "model.seen_bias.bias" in read_checkpoint(done["weights"])[0]
    (users,) = Path("runs").glob("users-*/weights.safetensors")
    assert "model.seen_bias.bias" not in read_checkpoint(users)[0]


def test_the_item_stage_reports_on_held_out_items() -> None:
    valid = run(until="items", held_out_items=0.3)["valid"]
    assert 0 < valid["mse_title"] < 5 and -1 <= valid["cosine_year"] <= 1
    assert not list(Path("runs").glob("joint-*"))


def test_unchanged_stages_are_skipped_and_changed_ones_run_anew(capsys: pytest.CaptureFixture[str]) -> None:
    first = run()
    assert capsys.readouterr().out.count(": training") == 3
    assert run() == first
    assert capsys.readouterr().out.count(": unchanged") == 3
    run_pipeline("small", {**STAGES, "joint": {"model": "NestRec", "epochs": 1}}, SMALL, "runs")
    said = capsys.readouterr().out
    assert said.count(": unchanged") == 2 and said.count(": training") == 1
    for store in Path("data/small/features").glob("year-*"):  # as if encoded from something else
        about = json.loads((store / "manifest.json").read_text())
        (store / "manifest.json").write_text(json.dumps({**about, "revision": "other"}))
    run()
    assert capsys.readouterr().out.count(": training") == 3
    with open("data/small/small.inter", "a") as file:
        file.write("u0\ti1\t1700000000\n")
    run()
    assert capsys.readouterr().out.count(": training") == 3


def test_a_stage_that_was_cut_off_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from nestrec_recbole.train.trainer import SequenceTrainer

    whole = run(until="items", epochs=4)
    original = SequenceTrainer._train_epoch
    trained: list[int] = []

    def cut(self: Any, train_data: Any, epoch_idx: int, **kwargs: Any) -> float:
        trained.append(epoch_idx)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return original(self, train_data, epoch_idx, **kwargs)

    monkeypatch.setattr(SequenceTrainer, "_train_epoch", cut)
    stages = {"items": STAGES["items"]}
    with pytest.raises(KeyboardInterrupt):
        run_pipeline("small", stages, {**SMALL, "epochs": 4}, "again", "items")
    resumed = run_pipeline("small", stages, {**SMALL, "epochs": 4}, "again", "items")
    assert trained == [0, 1, 2, 2, 3]
    one, other = read_checkpoint(whole["weights"])[0], read_checkpoint(resumed["weights"])[0]
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not list(Path("again").rglob("*-last*"))


def test_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    given = [f"--{key}={value}" for key, value in SMALL.items()]
    arguments = ["pipeline", "--dataset", "small", "--folder", "runs", *given]
    assert main([*arguments, "--items.epochs=1", "--until", "users"]) == 0
    assert "ndcg@10\t" in capsys.readouterr().out
    (about,) = Path("runs/small-NestRec").glob("items-*/stage.json")
    assert len(json.loads(about.read_text())["history"]) == 1


def test_what_is_given_for_all_stages_goes_over_those_that_ship(capsys: pytest.CaptureFixture[str]) -> None:
    given = [f"--{key}={value}" for key, value in SMALL.items()]
    arguments = ["pipeline", "--dataset", "small", "--until", "items", *given]
    epochs = {"packaged": [], "stated": ["--items.epochs=1"]}
    Path("stages.yaml").write_text("items: {model: ItemPretraining, epochs: 1}\njoint: {model: NestRec}\n")
    epochs["own"] = ["--stages", "stages.yaml"]  # the command line goes over them
    for name, more in epochs.items():
        assert main([*arguments, "--folder", name, *more]) == 0
        (about,) = Path(name).glob("*/items-*/stage.json")
        assert len(json.loads(about.read_text())["history"]) == (1 if name == "stated" else 2)


def test_settings_go_to_the_stages_whose_model_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    given = [f"--{key}={value}" for key, value in SMALL.items()]
    Path("mine.yaml").write_text("llm: {layers: 1}\nuser_queries: 2\n")
    arguments = ["pipeline", "--dataset", "small", "--folder", "runs", "--config", "mine.yaml", *given]
    assert main([*arguments, "--joint.llm.title_tokens=3", "--llm.packing=True"]) == 0
    (joint,) = Path("runs/small-NestRec").glob("joint-*/weights.safetensors")
    llm = read_checkpoint(joint)[1]["config"]["llm"]
    assert (llm["layers"], llm["title_tokens"], llm["packing"]) == (1, 3, True)
    Path("stages.yaml").write_text("joint: {model: NestRec, llm: {layers: 2, title_tokens: 5}}\n")
    arguments = ["pipeline", "--dataset", "small", "--folder", "own", "--stages", "stages.yaml", *given]
    assert main([*arguments, "--llm.layers=1"]) == 0
    (joint,) = Path("own/small-NestRec").glob("joint-*/weights.safetensors")
    llm = read_checkpoint(joint)[1]["config"]["llm"]
    assert (llm["layers"], llm["title_tokens"], llm["packing"]) == (1, 5, False)


def test_mistakes_in_later_stages_are_said_before_any_is_trained() -> None:
    from nestrec_recbole import NestRecError

    items = {"model": "ItemPretraining"}
    for later, words in (
        ({"model": "NestRec", "epoch": 3}, "unknown config key 'epoch'"),
        ({"model": "NestRec", "init_from": "x"}, "stage 'joint' starts from the one before"),
        ("NestRec", "stage 'joint' is 'NestRec'; expected settings"),
        ({"model": "NestRec", "llm": {"path": "nowhere"}}, "stage 'joint': llm.path 'nowhere': cannot load Qwen3"),
        ({"model": "NestRec", "llm": {"lora": {"r": 4}}}, "stage 'joint': llm.lora adapts pretrained weights"),
    ):
        with pytest.raises(NestRecError, match=words):
            run_pipeline("small", {"items": items, "joint": later}, SMALL, "runs")  # type: ignore[dict-item]
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--until", "itmes"], "unknown stage 'itmes'; did you mean 'items'?"),
        (["--itmes.epochs=3"], "--itmes.epochs=3: no stage 'itmes'; there are items, users, joint"),
        (["--items.epoch=3"], "unknown config key 'epoch'; did you mean 'epochs'?"),
        (["--model", "NestRek"], "unknown pipeline 'NestRek'; did you mean 'NestRec'?"),
    ],
)
def test_bad_commands(more: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = [f"--{key}={value}" for key, value in SMALL.items()]
    assert main(["pipeline", "--dataset", "small", *given, *more]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        ("UserQFormer", {"hidden_size": 32}, "give both equal settings"),
        (
            "UserQFormer",
            {"item_fields": {"year": {"modality": "number"}, "title": {"modality": "text"}}},
            "its item_fields are title, year, h",
        ),
        ("UserQFormer", {"val_interval": {"timestamp": "[0,inf)"}}, "its val_interval is None, here it is .*held out"),
        ("FastSASRec", {}, "of ItemPretraining this model has no part"),
        ("UserPretraining", {"init_from": None}, "set init_from to a checkpoint of ItemPretraining"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    model: str, settings: dict[str, Any], words: str, make_config: Any
) -> None:
    from nestrec_recbole import NestRecError
    from nestrec_recbole.train.prepare import prepare

    weights = run(until="items")["weights"]
    config = make_config(model, "small", **{**SMALL, "init_from": weights, **settings})
    with pytest.raises(NestRecError, match=words):
        prepare(config)
