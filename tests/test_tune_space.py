"""Search spaces: what they say, what they refuse, and that every point of those we ship can be trained."""

from __future__ import annotations

import ast
import json
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from recbole.config import Config
from recbole.trainer import HyperTuning

from nestrec_recbole.errors import NestRecError
from nestrec_recbole.plugin import MODELS
from nestrec_recbole.settings import roles
from nestrec_recbole.tune.space import Space, parse_space, read_space

SPACES = sorted((Path(__file__).resolve().parent.parent / "properties" / "tune").glob("*.yaml"))
DEFAULTS: dict[str, Any] = {
    "learning_rate": 0.001,
    "n_layers": 2,
    "loss": "full_softmax",
    "n_negatives": 1024,
    "use_positions": True,
    "llm": {"layers": 2, "path": None},
}
CONDITIONAL = {
    "loss": {"choice": ["full_softmax", "sampled_softmax", "gbce"]},
    "n_negatives": {"choice": [64, 256], "when": {"loss": ["sampled_softmax", "gbce"]}},
    "calibration": {"uniform": [0, 1], "when": {"loss": "gbce"}},
    "margin": {"uniform": [1, 2], "when": {"n_negatives": [64]}},
}


@given(st.integers(0, 2), st.integers(0, 1), st.floats(0, 1), st.floats(1, 2))
def test_settings_without_a_meaning_are_left_out(loss: int, negatives: int, calibration: float, margin: float) -> None:
    point = {"loss": loss, "n_negatives": negatives, "calibration": calibration, "margin": margin}
    found = parse_space(CONDITIONAL).settings(point)
    assert ("n_negatives" in found) == (loss > 0)
    assert ("calibration" in found) == (loss == 2)
    assert ("margin" in found) == (loss > 0 and negatives == 0)  # a condition on what has itself no meaning


@given(st.floats(-5, 5), st.floats(0.01, 5), st.floats(0.01, 1), st.floats(-20, 20))
@example(low=1.0, width=0.9837733549069788, part=1.0, position=0.0)  # high - low is less than the step
def test_steps_stay_within_bounds(low: float, width: float, part: float, position: float) -> None:
    step = width * part
    value = parse_space({"x": {"quniform": [low, low + width, step]}}).settings({"x": position})["x"]
    assert low - 1e-9 * step <= value <= low + width + 1e-9 * step or math.floor((low + width) / step) * step < low
    assert abs(value / step - round(value / step)) < 1e-6


def test_what_is_written_is_what_was_tried() -> None:
    space = parse_space({"a": {"loguniform": [1e-5, 1]}, "b": {"uniform": [-1, 1]}, "c": {"quniform": [0.1, 0.7, 0.1]}})
    for point in space.draw(50, 1):
        found = space.settings(point)
        assert yaml.safe_load(yaml.safe_dump(found)) == json.loads(json.dumps(found)) == found
        assert len(str(found["c"])) == 3


def test_draws() -> None:
    described = {"rate": {"loguniform": [1e-4, 1e-1]}, "size": {"choice": [8, 16]}, "drop": {"uniform": [0.2, 0.6]}}
    space = parse_space(described)
    points = space.draw(400, 7)
    assert points == space.draw(400, 7) and points[:5] == space.draw(5, 7) != space.draw(5, 8)
    found = [space.settings(point) for point in points]
    rates = np.log10([one["rate"] for one in found])
    assert rates.min() >= -4 and rates.max() <= -1 and abs(rates.mean() + 2.5) < 0.15 and abs(rates.std() - 0.866) < 0.1
    assert abs(np.mean([one["drop"] for one in found]) - 0.4) < 0.02
    assert abs(np.mean([one["size"] for one in found]) - 12) < 0.5


def test_no_settings_twice() -> None:
    space = parse_space({"a": {"choice": [1, 2]}, "b": {"choice": [3, 4, 5], "when": {"a": [2]}}})
    found = [json.dumps(space.settings(point)) for point in space.draw(50, 0)]
    assert len(found) == len(set(found)) == 4  # a 1, and a 2 with each b


def test_numbers_know_whether_they_are_whole() -> None:
    space = parse_space({"n_layers": {"quniform": [1, 3, 1]}, "llm.layers": {"quniform": [1, 2, 1]}}).checked(DEFAULTS)
    assert repr(space.settings({"n_layers": 2.4, "llm.layers": 1.9})) == "{'n_layers': 2, 'llm': {'layers': 2}}"


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ({"learning_rat": {"uniform": [0, 1]}}, "unknown config key 'learning_rat'; did you mean 'learning_rate'?"),
        ({"llm.layer": {"choice": [1]}}, "unknown config key 'llm.layer'; did you mean 'llm.layers'?"),
        ({"n_layers": {"choice": [1, 2.5]}}, "'n_layers' is 2.5 (float); expected int"),
        ({"n_layers": {"uniform": [1, 3]}}, "n_layers is a whole number; search it by choice, or by quniform"),
        ({"n_layers": {"quniform": [1, 3, 0.5]}}, "n_layers is a whole number"),
        ({"use_positions": {"choice": [True, "no"]}}, "'use_positions' is 'no' (str); expected bool"),
        ({"use_positions": {"uniform": [0, 1]}}, "'use_positions' is 0.0 (float); expected bool"),
        ({"epochs": {"choice": [5, 10]}}, "epochs is the budget of every trial"),
        ({"eval_args": {"choice": [{}]}}, "eval_args changes what is measured"),
        ({"eval_args.split": {"choice": [{}]}}, "eval_args.split changes what is measured"),
        ({"loss.x": {"choice": [1]}}, "loss.x: loss is 'full_softmax', which has no settings inside"),
        ({"seed": {"choice": [1, 2]}}, "seed changes what is measured"),
        ({"candidate_seed": {"choice": [1, 2]}}, "candidate_seed changes what is measured"),
        ({"n_negatives": {"choice": [1], "when": {"loss": ["gbce"]}}}, "does not search before it"),
    ],
)
def test_settings_are_checked_before_anything_starts(described: dict[str, Any], said: str) -> None:
    with pytest.raises(NestRecError) as caught:
        parse_space(described, "mine.yaml").checked(DEFAULTS)
    assert said in str(caught.value) and str(caught.value).startswith("mine.yaml") and "\n" not in str(caught.value)


def test_every_setting_of_data_and_evaluation_has_one_role() -> None:
    text = (SPACES[0].parent.parent / "overall.yaml").read_text(encoding="utf-8")
    before, _, rest = text.partition("# Training\n")
    _, _, evaluation = rest.partition("# Evaluation")
    keys = {*yaml.safe_load(before), *yaml.safe_load(evaluation.partition("\n")[2])}
    training = {"eval_batch_size", "stopping_step"}  # which say how long it takes
    assert {"load_col", "protocol", "candidate_seed"} <= keys and keys - training <= set(roles.ALL)
    assert len(roles.ALL) == len(set(roles.ALL))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected `setting: {kind: values}` lines"),
        ("{}", "names no setting"),
        ("- a", "found list"),
        ("a: [", "not valid YAML"),
        ("a: 3", "a is 3; expected one of choice, uniform, loguniform, quniform"),
        ("a: {choice: [1], uniform: [0, 1]}", "expected one of"),
        ("a: {chioce: [1]}", "unknown kind of search 'chioce'; did you mean 'choice'?"),
        ("a: {choice: []}", "choice is []; expected a list"),
        ("a: {choice: 3}", "expected a list"),
        ("a: {uniform: [1]}", "expected the numbers low and high"),
        ("a: {uniform: [1, x]}", "expected the numbers low and high"),
        ("a: {uniform: [2, 1]}", "expected low < high"),
        ("a: {uniform: [.nan, 1]}", "expected the numbers"),
        ("a: {loguniform: [0, 1]}", "expected 0 < low < high"),
        ("a: {quniform: [0, 1]}", "low, high and step"),
        ("a: {quniform: [0, 1, 2]}", "a step that fits between"),
        ("a: {choice: [1], when: b}", "expected {setting: [values]}"),
    ],
)
def test_files_that_are_no_spaces(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(NestRecError) as caught:
        read_space(tmp_path / "mine.yaml")
    assert said in str(caught.value) and str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)


def test_tuples_are_the_lists_that_a_file_has_for_them() -> None:
    space = parse_space({"mlp_widths": {"choice": [(64, 32), [16]]}})
    assert space.settings({"mlp_widths": 0}) == {"mlp_widths": [64, 32]}
    assert json.loads(json.dumps(space.dimensions[0].values)) == list(space.dimensions[0].values)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NestRecError, match="no such space"):
        read_space(tmp_path / "mine.yaml")


HYPER = """learning_rate choice [0.01, 0.005, 0.001]
loss_type choice ['BPR', 'CE']
mlp_hidden_size choice ["[64,64]","[128]"]
attn_dropout_prob quniform 0.1,0.5,0.1
dropout_prob uniform 0.0, 1.0
weight_decay loguniform -8,0
too short
"""


def test_recbole_files_as_recbole_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, Any] = {}
    kinds = ("choice", "uniform", "quniform", "loguniform")
    hp = SimpleNamespace(**{k: lambda name, *values, k=k: calls.update({name: (k, values)}) for k in kinds})
    hyperopt = ModuleType("hyperopt")
    hyperopt.hp = hp  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hyperopt", hyperopt)
    path = tmp_path / "model.hyper"
    path.write_text(HYPER)
    HyperTuning._build_space_from_file(str(path))
    ours = {one.name: (one.kind, one.values) for one in read_space(path).dimensions}
    assert ours.keys() == calls.keys() and len(calls) == 6
    for name, (kind, values) in calls.items():
        theirs = tuple(values[0]) if kind == "choice" else values
        theirs = tuple(map(math.exp, theirs)) if kind == "loguniform" else theirs
        if name == "mlp_hidden_size":  # RecBole's Config reads what is in quotation marks
            theirs = tuple(map(ast.literal_eval, theirs))
        assert ours[name][0] == kind
        assert ours[name][1] == (theirs if kind == "choice" else pytest.approx(theirs))


@pytest.mark.parametrize("values", ["__import__('os').mkdir('ran')", "[1, open('ran', 'w')]"])
def test_recbole_files_are_not_run(values: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bad.hyper"
    path.write_text(f"learning_rate choice [1]\nloss choice {values}\n")
    with pytest.raises(NestRecError, match=r"bad.hyper: line 2: .* is no list of values"):
        read_space(path)
    hyperopt = ModuleType("hyperopt")
    hyperopt.hp = SimpleNamespace(choice=lambda name, values: values)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hyperopt", hyperopt)
    HyperTuning._build_space_from_file(str(path))
    assert not Path("ran").exists()


def test_models_with_a_space() -> None:
    assert {path.stem for path in SPACES} == {*MODELS, "SASRec", "BERT4Rec", "GRU4Rec"}


@pytest.mark.parametrize("path", SPACES, ids=[path.stem for path in SPACES])
def test_every_point_of_a_shipped_space_is_a_config(path: Path, tmp_path: Path) -> None:
    def config(**settings: Any) -> Any:
        given = {"state": "ERROR", "train_neg_sample_args": None, **settings}  # as RecBole's cross-entropy wants it
        return Config(model=path.stem, dataset="ml-100k", config_dict=given)

    defaults = config().internal_config_dict
    space: Space = read_space(path).checked(defaults)
    searched = set()
    for point in space.draw(20, 0):
        found = space.settings(point)
        built = config(**found)
        assert {name: built[name] for name in found if name != "llm"} == {k: v for k, v in found.items() if k != "llm"}
        searched |= found.keys()
    assert searched == {one.name.partition(".")[0] for one in space.dimensions}
