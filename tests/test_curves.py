"""A picture of the training beside its checkpoint: right numbers, one file, no window."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import write_dataset
from matplotlib.figure import Figure

from nestrec_recbole import run_recbole
from nestrec_recbole.cli import main
from nestrec_recbole.train.checkpoint import read_checkpoint
from nestrec_recbole.train.curves import plot_curves
from nestrec_recbole.train.prepare import configure, prepare
from nestrec_recbole.train.resume import resume

SEQUENCES = [[(7 * start + step * step) % 23 for step in range(5 + start % 9)] for start in range(60)]
SMALL = {"hidden_size": 16, "inner_size": 32, "epochs": 3, "data_path": "data", "show_progress": False}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def watch(self: Figure, *args: Any, **kwargs: Any) -> None:
        figures.append(self)
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", watch)
    return figures


def test_every_run_leaves_its_curves(tmp_path: Path, drawn: list[Figure]) -> None:
    write_dataset(tmp_path / "data", "small", SEQUENCES)
    settings = {**SMALL, "topk": [5, 10], "metrics": ["NDCG", "Hit", "MRR"], "checkpoint_last": True}
    run_recbole("FastSASRec", "small", config_dict=settings)
    (picture,) = Path("saved").glob("*.png")
    assert picture.read_bytes()[:4] == b"\x89PNG"
    checkpoint = picture.with_suffix(".safetensors")
    assert sorted(Path("saved").glob("*.safetensors")) == sorted(
        [checkpoint, checkpoint.with_stem(f"{checkpoint.stem}-last")]
    )
    history = read_checkpoint(checkpoint.with_stem(f"{checkpoint.stem}-last"))[1]["history"]
    assert len(history) == 3 and all(one["valid_ndcg@10"] == round(one["valid_score"], 4) for one in history)
    (figure,) = drawn
    assert [panel.get_ylabel() for panel in figure.axes] == ["training loss", "validation ndcg@10", "validation hit@10"]
    for panel, key in zip(figure.axes, ("train_loss", "valid_ndcg@10", "valid_hit@10"), strict=True):
        wanted = [[one[name] for one in history] for name in (key, f"{key}_f") if name in history[0]]
        assert [line.get_ydata().tolist() for line in panel.lines] == wanted
        assert panel.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert len(figure.axes[1].lines) == 2  # U and F
    picture.unlink()
    resume(checkpoint.with_stem(f"{checkpoint.stem}-last"))  # finished already: the whole curve once more
    assert picture.is_file() and drawn[1].axes[0].lines[0].get_xdata().tolist() == [1, 2, 3]


def test_resuming_from_elsewhere_leaves_nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "data", "small", SEQUENCES)
    monkeypatch.chdir(tmp_path)
    run_recbole("FastSASRec", "small", config_dict={**SMALL, "checkpoint_last": True, "checkpoint_dir": "weights"})
    (last,) = tmp_path.glob("weights/*-last.safetensors")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    before = sorted(tmp_path.glob("weights/*"))
    assert resume(last, data_path=str(tmp_path / "data"))["test_result"]
    assert not list(Path().glob("weights*")) and sorted(tmp_path.glob("weights/*")) == before


@pytest.mark.parametrize("model", ["FastSASRec", "Pop"])
def test_a_run_leaves_the_ranks_of_its_targets(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "data", "small", SEQUENCES)
    run = ["run", "--model", model, "--dataset", "small", "--data_path=data", "--epochs=1", "--metrics=[MRR]"]
    run += ["--plot_curves=False", "--show_progress=False", "--metric_decimal_place=6", "--valid_metric=MRR@10"]
    assert main([*run, "--save_ranks=False"]) == 0 and not list(Path("saved").glob("*.parquet"))
    capsys.readouterr()
    assert main(run) == 0
    said = dict(line.split("\t") for line in capsys.readouterr().out.splitlines() if line.startswith("mrr"))
    (file,) = Path("saved").glob("*-ranks.parquet")
    assert file.with_name(f"{file.stem.removesuffix('-ranks')}.safetensors").is_file()
    ranks = pd.read_parquet(file)
    assert len(ranks) == len(SEQUENCES)
    for name, column in (("mrr@10", "rank"), ("mrr@10_f", "rank_unseen")):
        found = ranks[column].to_numpy()
        assert float(said[name]) == pytest.approx(np.where(found <= 10, 1 / found, 0).mean(), abs=1e-6)


def test_ranks_that_cannot_be_written_lose_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_dataset(tmp_path / "data", "small", SEQUENCES)
    trainer, (train, valid, test) = prepare(configure("FastSASRec", "small", {**SMALL, "state": "ERROR"}))
    trainer.fit(train, valid, verbose=False)
    (tmp_path / "file").touch()
    trainer.ranks_file = tmp_path / "file" / "ranks.parquet"
    caplog.set_level("WARNING")
    assert trainer.evaluate(test) is not None and "ranks.parquet: cannot be written" in caplog.text


def test_switched_off_it_costs_nothing(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", "small", SEQUENCES)
    script = (
        "import json, sys; from nestrec_recbole import run_recbole;"
        "run_recbole('FastSASRec', 'small', config_dict=json.loads(sys.argv.pop()));"
        "print('matplotlib.figure' in sys.modules)"
    )
    given = json.dumps({**SMALL, "epochs": 1, "plot_curves": False, "state": "ERROR"})
    done = subprocess.run([sys.executable, "-c", script, given], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False" and not list(Path("saved").glob("*.png"))


def test_a_picture_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_off(self: Figure, path: Path, **kwargs: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", break_off)
    with pytest.raises(OSError, match="disk full"):
        plot_curves({"a": [{"epoch": 0, "train_loss": 1.0}]}, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_runs_share_a_picture(tmp_path: Path, drawn: list[Figure]) -> None:
    """Where neither NDCG nor Recall is there, the score is drawn; a run that was not validated has a loss only."""
    records = [{"epoch": epoch, "train_loss": 2.0 - epoch, "valid_score": 0.1 * epoch} for epoch in range(2)]
    plot_curves({"one": records, "other": [{"epoch": 0, "train_loss": 1.0}]}, tmp_path / "a.png")
    loss, score = drawn[0].axes
    assert [line.get_label() for line in loss.lines] == ["one", "other"]
    assert [line.get_ydata().tolist() for line in score.lines] == [[0.0, 0.1]]


def test_models_of_recboles_are_drawn_too(tmp_path: Path, drawn: list[Figure]) -> None:
    write_dataset(tmp_path / "data", "small", SEQUENCES)
    trainer, (train, valid, _) = prepare(configure("BPR", "small", {**SMALL, "epochs": 2, "state": "ERROR"}))
    trainer.fit(train, valid, verbose=False)
    assert Path(trainer.saved_model_file).with_suffix(".png").is_file()
    loss, ndcg, *_ = drawn[0].axes
    assert len(loss.lines[0].get_ydata()) == len(ndcg.lines[0].get_ydata()) == 2


def test_the_command_line_draws_too(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", "small", SEQUENCES)
    settings = [f"--{key}={value}" for key, value in {**SMALL, "epochs": 1, "state": "ERROR"}.items()]
    assert main(["run", "--model", "FastSASRec", "--dataset", "small", *settings]) == 0
    assert len(list(Path("saved").glob("*.png"))) == 1


def test_of_several_processes_the_first_draws(tmp_path: Path, make_config: Any) -> None:
    from recbole.data import create_dataset
    from recbole.utils import get_model

    from nestrec_recbole.processes import Processes
    from nestrec_recbole.train.trainer import SequenceTrainer

    write_dataset(tmp_path / "data", "small", SEQUENCES)
    config = make_config("FastSASRec", "small", hidden_size=16, plot_curves=True)
    trainer = SequenceTrainer(config, get_model("FastSASRec")(config, create_dataset(config).build()[0]))
    trainer.history = [{"epoch": 0, "train_loss": 1.0}]
    picture = Path(trainer.saved_model_file).with_suffix(".png")
    trainer.processes = Processes(rank=1, size=1)
    trainer._finish(saved=True)
    assert not picture.exists()
    trainer.processes = Processes()
    trainer._finish(saved=True)
    assert picture.is_file()
