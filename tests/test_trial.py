"""Trials: they cannot see test data, share what they read, and go on where they were cut off."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_dataset
from recbole.data import create_dataset
from tuning import EPOCHS, Cut, cut_at, ignore, in_order, make_task, walks

from nestrec_recbole.errors import NestRecError
from nestrec_recbole.train.prepare import read_data
from nestrec_recbole.tune import cluster, trial
from nestrec_recbole.tune.space import parse_space
from nestrec_recbole.tune.trial import Task, Trial, run_trial

# -- test data is not there -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "eval_args",
    [
        {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
        {"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": "user", "order": "TO", "mode": "full"},
        {"split": {"TS": [0.6, 0.2, 0.2]}, "group_by": "none", "order": "TO", "mode": "full"},
    ],
)
def test_data_without_test_rows(eval_args: dict[str, Any], circle: dict[str, Any], make_config: Any) -> None:
    config = make_config("FastSASRec", "circle", **circle, eval_args=eval_args)
    whole = create_dataset(config)
    train, valid, test = whole.build()
    assert len(test)
    rest = create_dataset(config).without_test()
    ours = rest.build()
    for mine, theirs in zip(ours, (train, valid), strict=False):
        assert mine[:].interaction.keys() == theirs[:].interaction.keys()
        for name, column in theirs[:].interaction.items():
            np.testing.assert_array_equal(mine[:][name].numpy(), column.numpy())
    assert len(ours[2]) == 0 and len(rest) == len(train) + len(valid)
    for column in (rest.items, rest.times, *rest.columns.values()):
        assert not column[test.ends].any()
    assert whole.items[test.ends].all()  # the data it came from is as it was


@pytest.mark.parametrize("model", ["FastSASRec", "SASRec", "BPR"])
def test_trials_do_not_depend_on_test_data(model: str, circle: dict[str, Any], tmp_path: Path) -> None:
    write_dataset(tmp_path / "other", "circle", walks(True), in_order(walks(True)), item_file=False)
    space, trials = parse_space({"learning_rate": {"choice": [0.02]}}), []
    given = circle if model == "FastSASRec" else {k: circle[k] for k in ("data_path", "topk", "valid_metric")}
    for name in ("data", "other"):
        settings = {**given, "epochs": EPOCHS, "data_path": str(tmp_path / name)}
        task = Task(model, "circle", settings, space, str(tmp_path / name / "trials"))
        trials.append(run_trial(task, {"learning_rate": 0}, None, ignore))
    one, two = trials
    assert one.scores == two.scores and one.valid == two.valid and len(one.scores) == EPOCHS
    assert one.scores[-1][1] != one.scores[0][1]  # it trains


def test_trials_share_data_and_features_to_read(tmp_path: Path) -> None:
    """As Ray's object store gives them: arrays outside of the pickle, mapped by every process."""
    cluster.require_ray()
    from ray import cloudpickle

    write_dataset(tmp_path / "data", "circle", walks(), in_order(walks()))
    settings = {"data_path": str(tmp_path / "data"), "epochs": 1, "topk": [3], "valid_metric": "NDCG@3"}
    settings["item_fields"] = {"title": {"modality": "text"}, "year": {"modality": "number"}}
    space = parse_space({"learning_rate": {"choice": [0.02]}})
    task = Task("GatedFusionRec", "circle", settings, space, str(tmp_path / "trials"))
    config = trial.make_config("GatedFusionRec", "circle", settings, str(tmp_path))
    alone, data = read_data(config), trial.shared_data(task, config)
    outside: list[pickle.PickleBuffer] = []
    text = cloudpickle.dumps(data, protocol=5, buffer_callback=outside.append)
    there = cloudpickle.loads(text, buffers=[one.raw().toreadonly() for one in outside]).under(config)
    fields = list(zip(data.item_fields(), there.item_fields(), alone.item_fields(), strict=True))
    assert [field.name for field, _, _ in fields] == ["title", "year"]
    shared = [(data.items, there.items), (data.times, there.times)]
    shared += [(column, there.columns[name]) for name, column in data.columns.items()]
    shared += [(one.values, other.values) for one, other, _ in fields]
    shared += [(one.mask, other.mask) for one, other, _ in fields]
    assert len(data.columns) == 1
    for mine, theirs in shared:
        assert np.shares_memory(mine, theirs) and not theirs.flags.writeable
    for _, theirs, before in fields:
        assert (theirs.name, theirs.modality, theirs.views) == (before.name, before.modality, before.views)
        np.testing.assert_array_equal(theirs.values, before.values)
        np.testing.assert_array_equal(theirs.mask, before.mask)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The given NumPy array is not writable")
        one, other = (run_trial(task, {"learning_rate": 0}, d, ignore).scores for d in (there, None))
    assert one == other


def test_the_trainer_is_given_no_test_rows(circle: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    prepared: list[Any] = []
    prepare = trial.prepare
    monkeypatch.setattr(trial, "prepare", lambda *given: prepared.append(prepare(*given)) or prepared[-1])
    trial.build(make_task(circle, tmp_path / "t"), {"learning_rate": 0, "hidden_dropout_prob": 0.1}, None)
    ((_, loaders),) = prepared
    assert [len(loader.dataset) > 0 for loader in loaders] == [True, True, False]


# -- going on -------------------------------------------------------------------------------------------------------


def test_a_trial_that_is_cut_off_goes_on(circle: dict[str, Any], tmp_path: Path) -> None:
    point = {"learning_rate": 0, "hidden_dropout_prob": 0.15}
    whole = run_trial(make_task(circle, tmp_path / "whole"), point, None, ignore)
    task, told = make_task(circle, tmp_path / "cut"), []
    with pytest.raises(Cut):
        run_trial(task, point, None, cut_at(1))
    assert len(Trial.read(task.folder_of(point)).scores) == 2
    gone_on = run_trial(task, point, None, lambda epoch, best: told.append((epoch, best)))
    assert gone_on.scores == whole.scores and gone_on.valid == whole.valid and gone_on.status == "finished"
    assert told == [(epoch, max(score for _, score in whole.scores[: epoch + 1])) for epoch in range(EPOCHS)]
    assert Trial.read(task.folder_of(point)) == gone_on


def test_a_trial_is_not_trained_twice(circle: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    task, point, told = make_task(circle, tmp_path / "t"), {"learning_rate": 1, "hidden_dropout_prob": 0.0}, []
    first = run_trial(task, point, None, ignore)
    monkeypatch.setattr(trial, "build", lambda *_: pytest.fail("trained again"))
    again = run_trial(task, point, None, lambda epoch, best: told.append(epoch))
    assert again.scores == first.scores and told == [0, 1, 2, 3]


@pytest.mark.parametrize("left", ["", "\0\0\0", '{"settings": {"learning_ra'], ids=["empty", "zeros", "cut"])
@pytest.mark.parametrize("keeps_checkpoint", [True, False])
def test_files_that_a_power_cut_has_spoilt(
    left: str, keeps_checkpoint: bool, circle: dict[str, Any], tmp_path: Path
) -> None:
    point = {"learning_rate": 0, "hidden_dropout_prob": 0.15}
    whole = run_trial(make_task(circle, tmp_path / "whole"), point, None, ignore)
    task = make_task(circle, tmp_path / "cut")
    with pytest.raises(Cut):
        run_trial(task, point, None, cut_at(1))
    (task.folder_of(point) / "trial.json").write_text(left)
    if not keeps_checkpoint:
        (task.folder_of(point) / "weights-last.safetensors").write_text(left)
    assert Trial.read(task.folder_of(point)) is None
    assert run_trial(task, point, None, ignore).scores == whole.scores


def test_a_trial_of_other_keys_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trial.json").write_text('{"name": "thesis"}')
    with pytest.raises(NestRecError, match="not written by this program"):
        Trial.read(tmp_path)


def test_settings_that_cannot_be_trained_fail_and_say_why(circle: dict[str, Any], tmp_path: Path) -> None:
    task = make_task({**circle, "n_heads": 3}, tmp_path / "t")
    point = {"learning_rate": 0, "hidden_dropout_prob": 0.0}
    assert run_trial(task, point, None, ignore).status == "failed"
    assert Trial.read(task.folder_of(point)).error == "hidden_size 8 is not a multiple of n_heads 3"


def test_a_member_takes_over_weights_and_keeps_its_own_rate(circle: dict[str, Any], tmp_path: Path) -> None:
    task = make_task(circle, tmp_path / "t", population=True)
    good = {"learning_rate": 0, "hidden_dropout_prob": 0.0, "member": 0}
    with pytest.raises(Cut):
        run_trial(task, good, None, cut_at(1))
    checkpoint = task.folder_of(good) / "weights-last.safetensors"
    seen: list[Any] = []
    build = trial.build
    trial.build = lambda *given: seen.append(build(*given)) or seen[-1]  # type: ignore[assignment]
    try:
        taken = run_trial(task, {"learning_rate": 3, "hidden_dropout_prob": 0.1, "member": 1}, None, ignore, checkpoint)
    finally:
        trial.build = build
    ((trainer, _, _),) = seen
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {0.0001}
    assert [epoch for epoch, _ in taken.scores] == [0, 1, 2, 3]
    assert taken.scores[:2] == Trial.read(task.folder_of(good)).scores  # what it copied comes with its past
    assert Path(trainer.saved_model_file).parent == task.folder_of({"member": 1})
