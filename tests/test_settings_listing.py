"""What `nestrec settings` lists is what holds, each setting once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from nestrec_recbole import NestRecError
from nestrec_recbole.cli import main
from nestrec_recbole.plugin import MODELS
from nestrec_recbole.settings.listing import list_settings
from nestrec_recbole.settings.shipped import RECBOLES, load_properties, read_settings, yaml_loader
from nestrec_recbole.train.prepare import configure


def names(text: str) -> list[str]:
    return re.findall(r"^(\w+)\s*:", text, re.M)


@pytest.mark.parametrize("model", MODELS)
def test_what_is_listed_holds_each_setting_once(model: str) -> None:
    text = list_settings(model)
    of_recbole = read_settings(RECBOLES / "overall.yaml") | read_settings(RECBOLES / "dataset/sample.yaml")
    assert yaml.load(text, yaml_loader()) == of_recbole | load_properties(model)
    assert len(names(text)) == len(set(names(text)))


def test_words_choose_by_name_default_and_comment() -> None:
    assert names(list_settings("FastSASRec", ["dropout"])) == [
        "hidden_dropout_prob",
        "attn_dropout_prob",
        "layer_dropout_prob",
    ]
    found = list_settings("FastSASRec", ["ITEM_FIELDS", "learnt nowhere"])
    assert names(found) == ["item_fields"] and found.splitlines()[1].startswith("# (dict) Item column")
    assert {"loss", "negatives", "n_negatives"} <= set(names(list_settings("FastSASRec", ["sampled_softmax", "drawn"])))
    assert "# Training" not in list_settings("FastSASRec", ["preset"])


def test_of_recboles_models_and_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "SASRec", "loss_type"]) == 0
    assert names(capsys.readouterr().out) == ["loss_type"]
    config, listed = configure("SASRec", "circle", {}), yaml.load(list_settings("SASRec"), yaml_loader())
    assert config["data_path"].startswith(listed["data_path"])
    assert {**config["eval_args"], "mode": "full"} == listed["eval_args"]
    for name in ("valid_metric", "hidden_dropout_prob", "learning_rate", "val_interval", "train_batch_size"):
        assert listed[name] == config[name], name
    (tmp_path / "mine.yaml").write_text("my_setting: 3   # (int) Mine.\n")
    (tmp_path / "mine.py").write_text(
        "from nestrec_recbole import register_model\n"
        "from nestrec_recbole.models.fastsasrec import FastSASRec\n\n\n"
        "@register_model(properties='mine.yaml')\n"
        "class ListedHere(FastSASRec):\n    pass\n"
    )
    assert main(["settings", "ListedHere", "mine.", "width", "--models", str(tmp_path / "mine.py")]) == 0
    assert names(capsys.readouterr().out)[:2] == ["my_setting", "hidden_size"]


def test_bad_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NestRecError, match="no setting of BPR has 'dropuot' or 'x y' in its name or comment"):
        list_settings("BPR", ["dropuot", "x y"])
    assert main(["settings", "NestRek"]) == 2
    assert "NestRek" in capsys.readouterr().err
