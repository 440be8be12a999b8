"""Progress bars: what they write where nobody watches."""

from __future__ import annotations

import sys
import time

import pytest

from nestrec_recbole.bars import progress_bar


@pytest.mark.parametrize(("is_terminal", "fewest", "most"), [(True, 3, 1000), (False, 1, 2)])
def test_a_log_file_is_not_filled(
    is_terminal: bool, fewest: int, most: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    for _ in progress_bar(range(50), shown=True, desc="Train"):
        time.sleep(0.01)
    written = capsys.readouterr().err
    assert "50/50" in written
    assert fewest <= written.count("Train") <= most


def test_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress_bar(range(3), shown=False)) == [0, 1, 2]
    assert capsys.readouterr().err == ""
