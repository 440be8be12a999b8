"""Training: every optimiser step counts, resuming is exact, and a loss that is no number stops it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import write_dataset
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

from nestrec_recbole import NestRecError
from nestrec_recbole.cli import main
from nestrec_recbole.layers.ids import ItemIds
from nestrec_recbole.models.fastsasrec import FastSASRec
from nestrec_recbole.settings.values import plain
from nestrec_recbole.train.checkpoint import read_checkpoint, write_checkpoint
from nestrec_recbole.train.optimisation import build_optimizer
from nestrec_recbole.train.resume import resume
from nestrec_recbole.train.trainer import SequenceTrainer, last_checkpoint

ROOT = Path(__file__).resolve().parent.parent
SEQUENCES = [[(7 * start + step * step) % 23 for step in range(5 + start % 9)] for start in range(60)]
SMALL = {"hidden_size": 16, "inner_size": 32, "train_batch_size": 64, "epochs": 4}
Build = Callable[..., tuple[SequenceTrainer, Any, Any]]


@pytest.fixture
def build(tmp_path: Path, make_config: Any) -> Build:
    write_dataset(tmp_path / "data", "small", SEQUENCES)

    def make(model: str = "FastSASRec", **settings: Any) -> tuple[SequenceTrainer, Any, Any]:
        config = make_config(model, "small", **{**SMALL, **settings})
        init_seed(config["seed"], True)
        train, valid, _ = data_preparation(config, create_dataset(config))
        trainer = get_trainer(config["MODEL_TYPE"], model)(config, get_model(model)(config, train.dataset))
        return trainer, train, valid

    return make


def weights(trainer: SequenceTrainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trainer.model.parameters()]


@pytest.mark.parametrize(
    "settings",
    [
        {"checkpoint_steps": 3, "ema_decay": 0.9},
        {"schedule": "cosine", "checkpoint_steps": 2, "accumulation_steps": 3},
    ],
)
@pytest.mark.parametrize("model", ["FastSASRec", "NestRec"])
def test_resuming_equals_never_stopping(model: str, settings: dict[str, Any], build: Build) -> None:
    whole, train, valid = build(model, **settings)
    whole.fit(train, valid, verbose=False)

    class PowerCut(Exception):
        pass

    def cut(epoch: int, score: float) -> None:
        if epoch == 2:
            raise PowerCut

    broken, train, valid = build(model, checkpoint_last=True, **settings)
    with pytest.raises(PowerCut):
        broken.fit(train, valid, verbose=False, callback_fn=cut)
    torch.manual_seed(99)
    resumed, train, valid = build(model, checkpoint_last=True, **settings)
    resumed.resume_checkpoint(last_checkpoint(broken.saved_model_file))
    resumed.fit(train, valid, verbose=False)

    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    assert whole.best_valid_score == resumed.best_valid_score
    assert [r["train_loss"] for r in whole.history[2:]] == pytest.approx([r["train_loss"] for r in resumed.history[2:]])


def test_accumulated_steps_are_fewer(build: Build) -> None:
    one, train, valid = build(epochs=1)
    one.fit(train, valid, verbose=False, saved=False)
    two, train, valid = build(epochs=1, accumulation_steps=4)
    two.fit(train, valid, verbose=False, saved=False)
    assert (one.n_steps, two.n_steps) == (len(train), -(-len(train) // 4))


def test_the_last_batches_of_an_epoch_count_as_many_as_they_are(build: Build) -> None:
    """One batch an epoch: accumulating eight makes no smaller a step."""
    found = []
    for accumulate in (1, 8):
        settings = {"epochs": 1, "train_batch_size": 100_000, "accumulation_steps": accumulate, "learner": "sgd"}
        trainer, train, valid = build(**settings)
        assert len(train) == 1
        trainer.fit(train, valid, verbose=False, saved=False)
        found.append(weights(trainer))
    torch.testing.assert_close(*found)


def test_runs_of_the_same_second_have_names_of_their_own(build: Build) -> None:
    assert build()[0].saved_model_file != build()[0].saved_model_file


def test_schedules(build: Build) -> None:
    trainer, *_ = build(warmup_steps=10, schedule="cosine", epochs=2)
    trainer.rate_factor.steps_per_epoch = 55
    factors = [trainer.rate_factor(step) for step in range(111)]
    assert factors[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert factors[10] == 1 and factors[60] == pytest.approx(0.5) and factors[110] == pytest.approx(0)
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_steps_down_and_plateaus(build: Build) -> None:
    trainer, *_ = build(schedule="step", schedule_factor=0.1, schedule_patience=2)
    trainer.rate_factor.steps_per_epoch = 10
    assert [trainer.rate_factor(step) for step in (0, 19, 20, 40)] == pytest.approx([1, 1, 0.1, 0.01])
    trainer, train, valid = build(schedule="plateau", schedule_patience=2, epochs=7)
    scores = iter([0.1, 0.2, 0.1, 0.1, 0.1, 0.1, 0.3])  # four times without a gain, then one
    trainer._valid_epoch = lambda *args, **kwargs: (next(scores), {})  # type: ignore[method-assign]
    trainer.fit(train, valid, verbose=False, saved=False)
    assert trainer.rate_factor(0) == 0.5**2


def test_averaged_weights_are_what_is_evaluated_and_kept(build: Build) -> None:
    trainer, train, valid = build(ema_decay=0.5, epochs=1, accumulation_steps=1)
    seen = [weights(trainer)]
    step = trainer._step

    def watch() -> None:
        step()
        seen.append(weights(trainer))

    trainer._step = watch  # type: ignore[method-assign]
    trainer.fit(train, valid, verbose=False)
    average = seen[0]
    for n, now in enumerate(seen[1:], start=1):
        decay = min(0.5, (1 + n) / (10 + n))
        average = [decay * a + (1 - decay) * b for a, b in zip(average, now, strict=True)]
    assert all(
        torch.equal(a, b) for a, b in zip(weights(trainer), seen[-1], strict=True)
    )  # training goes on with its own
    trainer.evaluate(valid)  # loads what was kept
    for a, b in zip(weights(trainer), average, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_weight_decay_spares_norms_biases_and_embeddings(build: Build) -> None:
    trainer, *_ = build(weight_decay=0.1)
    decayed, spared = trainer.optimizer.param_groups
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    assert decayed["weight_decay"] == 0.1 and spared["weight_decay"] == 0
    assert {names[id(p)].split(".")[-2] for p in decayed["params"]} == {"to_qkv", "to_out", "to_inner"}
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


def test_tables_are_spared_by_what_they_are_not_by_their_names() -> None:
    model = torch.nn.Module()
    model.items, model.ids = torch.nn.Embedding(5, 3), ItemIds(torch.ones(5, dtype=torch.bool), 3)
    model.linear, model.learning_rate_of = torch.nn.Linear(3, 3), lambda name: None
    config = {"learning_rate": 0.1, "weight_decay": 0.1, "learner": "adamw"}
    decayed, spared = build_optimizer(model, config).param_groups
    assert [id(p) for p in decayed["params"]] == [id(model.linear.weight)]
    assert len(spared["params"]) == 3


def test_stops_early_and_keeps_the_best(build: Build) -> None:
    trainer, train, valid = build(epochs=50, stopping_step=2, learning_rate=0.05)
    best, result = trainer.fit(train, valid, verbose=False)
    scores = [record["valid_score"] for record in trainer.history]
    assert best == max(scores) and result["ndcg@10"] == round(best, 4)
    assert len(scores) < 50 and scores.index(best) == len(scores) - 1 - 3  # RecBole stops after the third without gain
    assert trainer.evaluate(valid)["ndcg@10"] == round(best, 4)


def test_rounded_scores_choose_no_epoch(build: Build) -> None:
    """To one digit all scores are equal, which RecBole takes for an improvement each."""
    trainer, train, valid = build(epochs=4, metric_decimal_place=1)
    best, result = trainer.fit(train, valid, verbose=False)
    scores = [record["valid_score"] for record in trainer.history]
    assert len({round(score, 1) for score in scores}) == 1 < len(set(scores))
    assert best == max(scores) and result["ndcg@10"] == trainer.history[0]["valid_ndcg@10"] == round(best, 1)


def test_a_loss_that_is_no_number_stops_training(build: Build) -> None:
    trainer, train, valid = build(learning_rate=float("inf"))
    with pytest.raises(NestRecError, match="training loss is nan at epoch 0, batch 1"):
        trainer.fit(train, valid, verbose=False)
    assert not list(Path("saved").glob("*"))


def test_bf16_trains(build: Build) -> None:
    trainer, train, valid = build(precision="bf16", epochs=2)
    trainer.fit(train, valid, verbose=False, saved=False)
    assert trainer.history[1]["train_loss"] < trainer.history[0]["train_loss"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda tensors, about: tensors.pop("model.item_embedding.weight"), "only the model has item_embedding.weight"),
        (lambda tensors, about: tensors.update({"model.new": torch.ones(1)}), "only the checkpoint has new"),
        (
            lambda tensors, about: tensors.update({"model.item_embedding.weight": torch.ones(2, 16)}),
            r"item_embedding.weight is \(2, 16\), the model has",
        ),
        (lambda tensors, about: about.update(dataset="other"), "dataset is 'other', the config says 'small'"),
        (lambda tensors, about: about.pop("groups"), "holds weights only; resume from"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(damage: Any, words: str, build: Build) -> None:
    trainer, train, valid = build(epochs=1, checkpoint_last=True)
    trainer.fit(train, valid, verbose=False)
    path = last_checkpoint(trainer.saved_model_file)
    tensors, about = read_checkpoint(path)
    damage(tensors, about)
    write_checkpoint(path, tensors, about)
    with pytest.raises(NestRecError, match=words):
        trainer.resume_checkpoint(path)


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, {"model.w": torch.ones(3)}, {"epoch": 1})

    def break_off(*args: Any, **kwargs: Any) -> None:
        Path(args[1]).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("nestrec_recbole.train.checkpoint.save_file", break_off)
    with pytest.raises(NestRecError, match=r"cannot be written \(disk full\); make room, or set checkpoint_dir"):
        write_checkpoint(path, {"model.w": torch.zeros(3)}, {"epoch": 2})
    tensors, about = read_checkpoint(path)
    assert tensors["model.w"].sum() == 3 and about["epoch"] == 1
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["a.safetensors"]


def test_killed_at_any_moment_resumes_to_the_same_weights(tmp_path: Path, build: Build) -> None:
    settings = {**SMALL, "epochs": 12, "checkpoint_steps": 2, "checkpoint_last": True, "data_path": "data"}
    script = (
        "import json, sys; from nestrec_recbole import run_recbole;"
        "run_recbole('FastSASRec', 'small', config_dict=json.loads(sys.argv.pop()))"
    )
    whole, train, valid = build(epochs=12)
    whole.fit(train, valid, verbose=False, saved=False)

    threads = str(torch.get_num_threads())  # sums in another number of threads are not bit by bit the same
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads}
    command = [sys.executable, "-c", script, json.dumps({**settings, "show_progress": False, "state": "ERROR"})]
    running = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    while running.poll() is None and not list(Path("saved").glob("*-last.safetensors")):
        time.sleep(0.01)
    time.sleep(0.2)  # some steps on, wherever that is
    running.kill()
    running.wait()
    (last,) = Path("saved").glob("*-last.safetensors")
    about = read_checkpoint(last)[1]
    assert (about["epoch"], about["first_batch"]) < (12, 0), "killed too late to test anything"

    result = resume(last)
    tensors, about = read_checkpoint(last)
    assert about["epoch"] == 12
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(tensors[f"model.{name}"], parameter), name
    assert result["best_valid_score"] == whole.best_valid_score


def test_a_loss_that_is_no_number_is_seen_before_anything_is_saved(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU few steps wait for their loss, so the last of an epoch may be the first to have it."""
    check, loss = SequenceTrainer._check_finite, FastSASRec.calculate_loss
    seldom = lambda self, *given, at_once=False: check(self, *given, at_once=True) if at_once else None  # noqa: E731
    monkeypatch.setattr(SequenceTrainer, "_check_finite", seldom)
    trainer, train, _ = build(checkpoint_last=True)
    left = iter(range(len(train) - 1, -1, -1))
    broken = lambda self, batch: loss(self, batch) * (1.0 if next(left) else float("nan"))  # noqa: E731
    monkeypatch.setattr(FastSASRec, "calculate_loss", broken)
    with pytest.raises(NestRecError, match="the training loss is nan at epoch 0"):
        trainer.fit(train, None, verbose=False)
    assert not list(Path("saved").glob("*.safetensors"))


def test_steps_are_fused_whatever_a_checkpoint_says(build: Build) -> None:
    trainer, train, valid = build(epochs=1, checkpoint_last=True)
    trainer.fit(train, valid, verbose=False)
    last = last_checkpoint(trainer.saved_model_file)
    tensors, about = read_checkpoint(last)
    write_checkpoint(last, tensors, about | {"groups": [group | {"fused": None} for group in about["groups"]]})
    other, _, _ = build(epochs=2)
    other.resume_checkpoint(last)
    assert all(group["fused"] for group in other.optimizer.param_groups)


def test_a_training_that_has_ended_can_be_made_longer(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """By epochs, to bitwise what it would have been; or by patience, where it had stopped early."""
    whole, train, valid = build(epochs=4)
    whole.fit(train, valid, verbose=False)
    short, train, valid = build(epochs=2, checkpoint_last=True)
    short.fit(train, valid, verbose=False)
    last = last_checkpoint(short.saved_model_file)
    said: list[str] = []
    logger = SimpleNamespace(warning=lambda line, *given: said.append(line % given))
    monkeypatch.setattr(sys.modules["nestrec_recbole.train.resume"], "getLogger", lambda: logger)
    resume(last)
    assert "ended after 2 of 2 epochs" in said[0] and "give more epochs" in said[0]
    assert main(["resume", last, "--epochs", "4"]) == 0
    tensors, about = read_checkpoint(last)
    assert about["epoch"] == 4
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(tensors[f"model.{name}"], parameter), name
    early, train, valid = build(epochs=30, stopping_step=0, learning_rate=0.5, checkpoint_last=True)
    early.fit(train, valid, verbose=False)
    last = last_checkpoint(early.saved_model_file)
    ended = read_checkpoint(last)[1]["epoch"]
    assert ended < 30
    resume(last, stopping_step=1)
    assert read_checkpoint(last)[1]["epoch"] > ended
    with pytest.raises(NestRecError, match="epochs is 0; expected a whole number from 1"):
        resume(last, epochs=0)


def test_a_training_does_not_go_on_with_other_data(tmp_path: Path, build: Build) -> None:
    """What was held out would train."""
    trainer, train, valid = build(checkpoint_last=True)
    trainer.fit(train, valid, verbose=False)
    last = last_checkpoint(trainer.saved_model_file)
    with (tmp_path / "data" / "small" / "small.inter").open("a") as file:
        file.write("u0\ti1\t99999\n")
    with pytest.raises(NestRecError, match="inter has changed since this training began; start it anew"):
        resume(last)


def test_a_picture_that_cannot_be_written_ends_no_run(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("nestrec_recbole.train.evaluation.plot_curves", full)
    trainer, train, valid = build(epochs=1, plot_curves=True)
    assert trainer.fit(train, valid, verbose=False)[0] > 0


def test_schedules_end_with_the_last_step_of_accumulated_batches(build: Build) -> None:
    trainer, train, valid = build(schedule="linear", accumulation_steps=3, epochs=2)
    trainer.fit(train, valid, verbose=False, saved=False)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-4)


def test_a_training_that_stopped_early_is_not_resumed(build: Build) -> None:
    settings = {"stopping_step": 1, "learning_rate": 0.05, "checkpoint_last": True, "epochs": 50}
    trainer, train, valid = build(**settings)
    trainer.fit(train, valid, verbose=False)
    again, train, valid = build(**settings)
    again.resume_checkpoint(last_checkpoint(trainer.saved_model_file))
    assert again.fit(train, valid, verbose=False) == (trainer.best_valid_score, trainer.best_valid_result)
    assert len(again.history) == len(trainer.history) < 50


def test_checkpoints_may_be_moved(build: Build, tmp_path: Path) -> None:
    trainer, train, valid = build(checkpoint_last=True, epochs=1)
    trainer.fit(train, valid, verbose=False)
    Path("saved").rename(tmp_path / "elsewhere")
    again, train, valid = build(epochs=2)
    again.resume_checkpoint(tmp_path / "elsewhere" / Path(last_checkpoint(trainer.saved_model_file)).name)
    again.fit(train, valid, verbose=False)
    assert again.evaluate(valid) and not list(Path("saved").glob("*"))


def test_steps_fewer_than_those_between_checkpoints_leave_one_after_the_epoch(build: Build) -> None:
    trainer, train, valid = build(checkpoint_steps=1000, epochs=1)
    trainer.fit(train, valid, verbose=False)
    assert Path(last_checkpoint(trainer.saved_model_file)).is_file()


def test_what_a_checkpoint_keeps_of_settings() -> None:
    given = {"llm": {"path": Path("qwen"), "lora": {"target_modules": {"v", "q"}}}, "device": torch.device("cpu")}
    kept = plain(SimpleNamespace(final_config_dict=given))
    assert kept == {"llm": {"path": "qwen", "lora": {"target_modules": ["q", "v"]}}}


def test_weights_are_kept_where_nothing_is_validated(build: Build) -> None:
    trainer, train, valid = build(eval_step=0, epochs=1)
    trainer.fit(train, valid, verbose=False)
    assert trainer.evaluate(valid)
