"""Files are written whole or not at all."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nestrec_recbole import NestRecError
from nestrec_recbole.bench.results import ResultsFolder
from nestrec_recbole.files import FORGOTTEN, written_whole

DEAD = 2**22 + 1  # no process has so large a number


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


def test_what_another_machine_is_writing_stays(tmp_path: Path) -> None:
    """Its processes cannot be seen from here: that none has this number here says nothing."""
    elsewhere, forgotten = (tmp_path / f".notes.txt.draft-node-{number}-{DEAD}-ab" for number in (7, 8))
    mine = tmp_path / f".notes.txt.draft-{socket.gethostname()}-{os.getpid()}-ab"
    for draft in (elsewhere, forgotten, mine):
        draft.write_text("half")
    os.utime(forgotten, (time.time() - FORGOTTEN - 60,) * 2)
    with written_whole(tmp_path / "notes.txt") as draft:
        draft.write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", elsewhere.name, mine.name}


def test_a_folder_comes_back_if_a_kill_came_between_the_two_renames(tmp_path: Path) -> None:
    old = tmp_path / f".run.old-{socket.gethostname()}-{DEAD}-ab"
    old.mkdir()
    (old / "notes.txt").write_text("first")
    with pytest.raises(OSError, match="full"), written_whole(tmp_path / "run"):
        raise OSError("disk full")
    assert (tmp_path / "run/notes.txt").read_text() == "first" and not old.exists()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_renamed_is_on_the_disk(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("flushed"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("renamed"), rename(*paths)))
    with written_whole(tmp_path / "notes") as draft:
        if kind == "folder":
            (draft / "deep").mkdir(parents=True)
            (draft / "deep/notes.txt").write_text("all of it")
        else:
            draft.write_text("all of it")
    assert done == ["flushed", "renamed"]


def test_results_that_others_work_on_are_left_to_them(tmp_path: Path) -> None:
    waiting = "from nestrec_recbole.bench.results import ResultsFolder; from pathlib import Path; import sys\n"
    waiting += "with ResultsFolder(Path(sys.argv[1])).held() as drafts:\n    print(drafts, flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", waiting, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    drafts = Path(other.stdout.readline().strip())
    with pytest.raises(NestRecError, match=f"process {other.pid} of .* is at work here"):
        ResultsFolder(tmp_path).held().__enter__()
    assert drafts.is_dir()
    other.kill()  # its lock ends with it
    other.wait()
    with ResultsFolder(tmp_path).held() as drafts:
        assert (tmp_path / ".lock").read_text() == f"process {os.getpid()} of {socket.gethostname()}"
        assert not list(drafts.iterdir())
