"""What RecBole leaves in a process is taken back."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from nestrec_recbole.process_state import events_in, keeping_visible_gpus, without_arguments


@pytest.mark.parametrize("before", [None, "", "2,3"])
def test_visible_gpus_are_kept(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if before is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    with suppress(KeyError), keeping_visible_gpus():
        os.environ["CUDA_VISIBLE_DEVICES"] = "0"
        raise KeyError
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before


def test_arguments_are_hidden_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["mine.py", "--epochs=3"])
    with suppress(KeyError), without_arguments():
        assert sys.argv == ["mine.py"]
        raise KeyError
    assert sys.argv == ["mine.py", "--epochs=3"]


def test_events_lie_in_a_folder_and_their_threads_end(tmp_path: Path) -> None:
    import recbole.trainer.trainer as theirs

    before, n_threads = theirs.get_tensorboard, threading.active_count()
    with events_in(tmp_path):
        theirs.get_tensorboard(None).add_scalar("loss", 1.0, 0)
        assert threading.active_count() > n_threads
    assert theirs.get_tensorboard is before and threading.active_count() == n_threads
    assert list((tmp_path / "tensorboard").glob("events*"))
