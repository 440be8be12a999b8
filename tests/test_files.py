"""Files are written whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nestrec_recbole.files import written_whole


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "notes.txt"
    with written_whole(path) as draft:
        draft.write_text("first")
    with pytest.raises(UnicodeEncodeError), written_whole(path) as draft:
        draft.write_text("half, and what is no text: \ud800", encoding="utf-8")
    assert path.read_text() == "first"
    assert [p.name for p in path.parent.iterdir()] == ["notes.txt"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "notes.txt").symlink_to(tmp_path / "there" / "notes.txt")
    with written_whole(tmp_path / "notes.txt") as draft:
        draft.write_text("first")
    assert (tmp_path / "notes.txt").is_symlink() and (tmp_path / "there" / "notes.txt").read_text() == "first"


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    code = """import os, signal, sys
from nestrec_recbole.files import written_whole
with written_whole(sys.argv[1]) as draft:
    draft.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)"""
    path = tmp_path / "notes.txt"
    root = Path(__file__).resolve().parent.parent
    subprocess.run([sys.executable, "-c", code, str(path)], env={"PYTHONPATH": str(root)}, check=False)
    assert len(list(tmp_path.iterdir())) == 1 and not path.exists()
    with written_whole(path) as draft:
        draft.write_text("whole")
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
