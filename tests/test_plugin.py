"""RecBole's own entry points know our models, and RecBole's own models notice nothing of us."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import recbole.quick_start
import recbole.utils
import yaml
from conftest import write_dataset
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.quick_start import load_data_and_model, objective_function, run, run_recbole
from recbole.utils import get_model, get_trainer

from nestrec_recbole import NestRecError, register_model
from nestrec_recbole.data.dataset import SequenceDataset
from nestrec_recbole.data.loader import WindowLoader
from nestrec_recbole.models.base import SequenceModel
from nestrec_recbole.models.fastsasrec import FastSASRec
from nestrec_recbole.plugin import MODELS, RECOMMENDERS, load_properties
from nestrec_recbole.settings import checks
from nestrec_recbole.settings.shipped import load_preset
from nestrec_recbole.train.prepare import configure
from nestrec_recbole.train.trainer import SequenceTrainer

ROOT = Path(__file__).resolve().parent.parent
CIRCLE = [[(start + step) % 12 for step in range(4 + start % 5)] for start in range(36)]
SMALL = {"epochs": 1, "hidden_size": 16, "inner_size": 32, "show_progress": False, "state": "ERROR"}


@pytest.fixture(autouse=True)
def small_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "dataset_atomic", "circle", CIRCLE)  # where our defaults look, relative to here
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval=None: 0.0)  # RecBole waits a second for it


@pytest.mark.parametrize("model", RECOMMENDERS)
def test_run_recbole_returns_what_recbole_returns(model: str) -> None:
    result = run_recbole(model=model, dataset="circle", config_dict=SMALL)
    assert set(result) == {"best_valid_score", "valid_score_bigger", "best_valid_result", "test_result"}
    assert round(result["best_valid_score"], 4) == result["best_valid_result"]["ndcg@10"]
    assert set(result["test_result"]) == {f"{m}@10{p}" for m in ("ndcg", "recall", "mrr", "hit") for p in ("", "_f")}


def test_run() -> None:
    assert "test_result" in run("FastSASRec", "circle", config_dict=SMALL)


def test_objective_function() -> None:
    result = objective_function({**SMALL, "model": "FastSASRec", "dataset": "circle"}, saved=False)
    assert result["model"] == "FastSASRec" and "test_result" in result


def test_load_data_and_model() -> None:
    run_recbole(model="NestRec", dataset="circle", config_dict={**SMALL, "learning_rate": 0.125})
    (path,) = Path("saved").glob("NestRec-*.safetensors")
    config, model, dataset, _, _, test = load_data_and_model(str(path))
    assert (config["learning_rate"], config["hidden_size"]) == (0.125, 16)
    assert type(model).__name__ == "NestRec" and isinstance(dataset, SequenceDataset)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    assert trainer.evaluate(test, load_best_model=False) == trainer.evaluate(test, model_file=str(path))


def test_parts_of_the_pipeline() -> None:
    config = Config(model="NestRec", dataset="circle", config_dict=SMALL)
    train, valid, test = data_preparation(config, create_dataset(config))
    assert isinstance(train, WindowLoader)
    assert all(isinstance(loader.dataset, SequenceDataset) for loader in (train, valid, test))
    assert issubclass(get_trainer(config["MODEL_TYPE"], "NestRec"), SequenceTrainer)
    assert {get_model(name).__name__ for name in MODELS} == set(MODELS)


def test_precedence_is_recboles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Command line over dict over file over the model's defaults."""
    keys = ["n_layers", "n_heads", "hidden_dropout_prob", "inner_size"]
    ours = yaml.safe_load((ROOT / "properties/model/FastSASRec.yaml").read_text())
    Path("mine.yaml").write_text("n_heads: 4\nhidden_dropout_prob: 0.5\ninner_size: 1\n")
    monkeypatch.setattr(sys, "argv", ["script", "--inner_size=3"])
    given = {"hidden_dropout_prob": 0.25, "inner_size": 2}
    config = Config(model="FastSASRec", dataset="circle", config_file_list=["mine.yaml"], config_dict=given)
    assert [config[key] for key in keys] == [ours["n_layers"], 4, 0.25, 3]


def test_a_dotted_name_changes_one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.yaml").write_text("llm: {layers: 1, title_tokens: 3}\n")
    monkeypatch.setattr(sys, "argv", ["script", "--llm.packing=True", "--eval_args.group_by=none"])
    given = {"llm.title_tokens": 5}
    config = Config(model="NestRec", dataset="circle", config_file_list=["mine.yaml"], config_dict=given)
    assert [config["llm"][key] for key in ("layers", "title_tokens", "packing", "dtype")] == [1, 5, True, "fp32"]
    assert (config["eval_args"]["group_by"], config["eval_args"]["order"]) == ("none", "TO")
    assert given == {"llm.title_tokens": 5} and "llm.packing" not in config.final_config_dict
    for key, words in (
        ("llm.layer", "unknown config key 'llm.layer'; did you mean 'llm.layers'?"),
        ("n_heads.x", r"'n_heads' is {'x': 1} \(dict\); expected int"),
        ("lmm.layers", "unknown config key 'lmm'; did you mean 'llm'?"),
    ):
        with pytest.raises(NestRecError, match=words):
            Config(model="NestRec", dataset="circle", config_dict={key: 1})
    with pytest.raises(NestRecError, match="'llm': this model does not read it; models that do: NestRec"):
        Config(model="UserQFormer", dataset="circle", config_dict={"llm.layers": 1})


def test_a_dotted_name_reaches_every_level() -> None:
    fields = {"title": {"modality": "text", "width": 32}, "year": {"modality": "number"}}
    given = {"item_fields": fields, "item_fields.title.width": 64, "eval_args.mode.test": "uni100"}
    config = Config(model="NestRec", dataset="circle", config_dict=given)
    assert config["item_fields"] == {**fields, "title": {"modality": "text", "width": 64}}
    assert config["eval_args"]["mode"]["test"] == "uni100" and config["eval_args"]["order"] == "TO"
    assert fields["title"]["width"] == 32
    of_dataset = Config(model="NestRec", dataset="ml-100k", config_dict={"item_fields.release_year.encoder": "none"})
    plain = Config(model="NestRec", dataset="ml-100k")["item_fields"]
    assert of_dataset["item_fields"] == {**plain, "release_year": {"modality": "number", "encoder": "none"}}
    with pytest.raises(NestRecError, match=r"'item_fields.title.widht'; did you mean 'item_fields.title.width'"):
        Config(model="NestRec", dataset="circle", config_dict={**given, "item_fields.title.widht": 64})


@pytest.mark.parametrize("model", ["FastSASRec", "SASRec"])
def test_columns_that_settings_name_are_loaded(model: str) -> None:
    given = {"USER_ID_FIELD": "uid", "TIME_FIELD": "ts", "val_interval": {"rating": "[3,inf)"}}
    config = configure(model, "circle", given)
    assert config["load_col"]["inter"] == ["uid", "item_id", "ts", "rating"]
    own = configure(model, "circle", {**given, "load_col": {"inter": ["uid", "item_id", "ts"]}})
    assert own["load_col"]["inter"] == ["uid", "item_id", "ts"]


def test_metrics_without_a_length_may_choose() -> None:
    assert Config(model="FastSASRec", dataset="circle", config_dict={"metrics": ["GAUC"], "valid_metric": "GAUC"})


def test_recboles_own_models_get_recboles_own_config(monkeypatch: pytest.MonkeyPatch) -> None:
    def settings() -> dict[str, Any]:
        config = Config(model="SASRec", dataset="ml-100k", config_dict={"train_neg_sample_args": None, "my_own_key": 1})
        return {k: str(v) for k, v in config.final_config_dict.items() if k != "yaml_loader"}

    with_us = settings()
    for name in ("__init__", "_load_internal_config_dict"):
        monkeypatch.setattr(Config, name, getattr(Config, name).__wrapped__)
    assert with_us == settings()


def test_recboles_own_models_get_recboles_own_parts(tmp_path: Path) -> None:
    given = {"train_neg_sample_args": None, "data_path": str(tmp_path / "dataset_atomic"), "state": "ERROR"}
    given |= {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    config = Config(model="SASRec", dataset="circle", config_dict=given)
    dataset = create_dataset(config)
    train, *_ = data_preparation(config, dataset)
    trainer = get_trainer(config["MODEL_TYPE"], "SASRec")
    assert {type(part).__module__.split(".")[0] for part in (dataset, train)} == {"recbole"}
    assert trainer.__module__ == "recbole.trainer.trainer"


def test_register_model_of_ones_own() -> None:
    Path("mine.yaml").write_text((ROOT / "properties/model/FastSASRec.yaml").read_text() + "my_key: 7\n")

    told = []

    @register_model(properties="mine.yaml")
    class MyModel(FastSASRec):
        def __init__(self, config: Any, dataset: Any) -> None:
            super().__init__(config, dataset)
            told.append(config["my_key"])

    assert get_model("MyModel") is MyModel
    assert load_properties("MyModel")["my_key"] == 7
    result = run_recbole(model="MyModel", dataset="circle", config_dict={**SMALL, "my_key": 8})
    assert told == [8]
    assert result == run_recbole(
        model="FastSASRec", dataset="circle", config_dict=SMALL
    )  # which it is but for its name
    with pytest.raises(NestRecError, match="'my_kee'; did you mean 'my_key'"):
        run_recbole(model="MyModel", dataset="circle", config_dict={"my_kee": 8})


@pytest.mark.parametrize("model", ["FastSASRec", "SASRec"])
def test_a_part_of_eval_args_leaves_the_rest_as_it_is(model: str) -> None:
    """RecBole splits at random where only ``order`` is set, and so it does when it is left to itself."""
    config = configure(model, "ml-100k", {"eval_args": {"order": "TO"}})
    assert config["eval_args"]["split"] == {"LS": "valid_and_test"}
    assert (config["eval_args"]["group_by"], config["eval_args"]["mode"]["test"]) == ("user", "full")
    if model == "SASRec":
        given = {"eval_args": {"order": "TO"}, "train_neg_sample_args": None}
        assert Config(model, "ml-100k", config_dict=given)["eval_args"]["split"] == {"RS": [0.8, 0.1, 0.1]}


def test_names_are_no_sums() -> None:
    config = Config("FastSASRec", "ml-100k", config_dict={"feature_path": "2024-11-22", "init_from": "None"})
    assert (config["feature_path"], config["init_from"]) == ("2024-11-22", None)


def test_settings_of_a_model_that_is_registered_later_are_known() -> None:
    """So that a suite may give them to all its rows, those of RecBole's models too."""
    given = {"data_path": "dataset_atomic", "state": "ERROR"}
    assert "later_key" not in Config(model="BPR", dataset="circle", config_dict=given).known_settings
    Path("later.yaml").write_text("later_key: 7\n")
    register_model(type("LaterModel", (FastSASRec,), {}), properties="later.yaml")
    assert "later_key" in Config(model="BPR", dataset="circle", config_dict=given).known_settings


@pytest.mark.parametrize("find", [get_model, load_properties])
def test_unknown_model_is_named_with_the_nearest(find: Callable[[str], Any]) -> None:
    with pytest.raises(NestRecError, match="unknown model 'Nestrec'; did you mean 'NestRec'"):
        find("Nestrec")


@pytest.mark.parametrize("model", ["FastSASRec", pytest.param("NestRec", marks=pytest.mark.slow)])
def test_two_lines_outside_the_repository(model: str, tmp_path: Path) -> None:
    script = tmp_path / "two_lines.py"
    script.write_text(
        "import nestrec_recbole\n"
        "from recbole.quick_start import run_recbole\n"
        f'print(run_recbole(model="{model}", dataset="ml-100k", config_dict={{"epochs": 1}}))\n'
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("{'best_valid_score': ")


@pytest.mark.parametrize("model", ["FastSASRec", "GRU4Rec"])
def test_a_tuple_stands_for_a_list(model: str) -> None:
    config = Config(
        model, "ml-100k", config_dict={"topk": (5, 10), "metrics": ("NDCG", "MRR"), "train_neg_sample_args": None}
    )
    assert (config["topk"], config["metrics"]) == ([5, 10], ["NDCG", "MRR"])


@pytest.mark.parametrize("model", ["FastSASRec", "ItemQFormer", "NestRec"])
def test_presets_lie_between_defaults_and_what_is_set(model: str) -> None:
    """A preset of a base class holds for a model too."""
    config = Config(model, "ml-100k", config_dict={"preset": "sparse", "temperature": 0.1})
    assert (config["cosine"], config["temperature"], config["hidden_size"]) == (True, 0.1, 64)
    assert ("whitened_scale" in config) == (model != "FastSASRec")
    for name, value in load_preset(model, "sparse").items():  # all of them settings that there are, of the right kind
        assert name in load_properties(model) and (name == "temperature" or config[name] == value)
    checks.check(load_preset(model, "sparse"), load_properties(model))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("NestRec", "unknown preset of NestRec 'spars'; did you mean 'sparse'?"),
        ("MultimodalRec", "MultimodalRec has no presets"),
    ],
)
def test_unknown_presets(model: str, said: str) -> None:
    with pytest.raises(NestRecError, match=re.escape(said)):
        Config(model, "ml-100k", config_dict={"preset": "spars"})


def test_modules_see_one_get_model() -> None:
    assert recbole.quick_start.quick_start.get_model is recbole.utils.get_model


def test_models_of_others_names_are_not_registered() -> None:
    with pytest.raises(NestRecError, match="RecBole has a model of that name"):
        register_model(type("BPR", (FastSASRec,), {}))
    with pytest.raises(NestRecError, match="no subclass of"):
        register_model(dict)


def test_a_model_without_its_properties_is_not_registered() -> None:
    """Else no config could be made any more."""
    with pytest.raises(NestRecError, match=r"'Bare': gone.yaml, its properties, is neither in .* nor here"):
        register_model(type("Bare", (FastSASRec,), {"__module__": __name__}), properties="gone.yaml")


def test_what_a_model_lacks_is_said() -> None:
    model = object.__new__(SequenceModel)
    with pytest.raises(NotImplementedError, match=r"SequenceModel has no item_table\(\); return what every item is"):
        model.item_table()
    with pytest.raises(NotImplementedError, match=r"SequenceModel has no encode\(\); return what every prefix is"):
        model.encode(None)
