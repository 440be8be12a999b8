"""How far a suite is: runs done, running, left, and when it will be finished."""

from __future__ import annotations

import sys
import threading
from time import perf_counter
from typing import TextIO

from nestrec_recbole.durations import duration


class Progress:
    """Says how far a suite is: one line that is rewritten on a terminal, a line per run elsewhere.

    Parameters
    ----------
    n_runs : int
        To do.
    jobs : int
        At a time.
    stream : text file
    """

    def __init__(self, n_runs: int, jobs: int, stream: TextIO | None = None) -> None:
        self.n_runs, self.jobs, self.stream = n_runs, jobs, stream or sys.stdout
        self.running: list[str] = []
        self.took: dict[str, float] = {}
        self.began: dict[str, float] = {}
        self.lock = threading.Lock()

    def start(self, name: str) -> None:
        """Note that a run has begun."""
        with self.lock:
            self.began[name] = perf_counter()
            self.running.append(name)
            self._rewrite()

    def finish(self, name: str, said: str) -> None:
        """Note that a run has ended, with what is to be said of it."""
        with self.lock:
            self.running.remove(name)
            self.took[name] = perf_counter() - self.began[name]
            self._say(f"{len(self.took)}/{self.n_runs}  {name}: {said}, {duration(self.took[name])}{self._eta()}")
            self._rewrite()

    def say(self, line: str) -> None:
        """Print a line above the one that is rewritten."""
        with self.lock:
            self._say(line)
            self._rewrite()

    @property
    def left(self) -> int:
        """Runs that have not begun."""
        return self.n_runs - len(self.took) - len(self.running)

    def _say(self, line: str) -> None:
        print(f"\r\x1b[K{line}" if self.stream.isatty() else line, file=self.stream, flush=True)

    def _rewrite(self) -> None:
        if self.stream.isatty() and self.running:
            counts = f"{len(self.took)} done, {len(self.running)} running ({', '.join(self.running)}), {self.left} left"
            print(f"\r\x1b[K{counts}{self._eta()}"[:160], end="", file=self.stream, flush=True)

    def _eta(self) -> str:
        """What is left at the mean pace of what is done; in a run that is under way, half is left."""
        if not self.took or not (self.left or self.running):
            return ""
        seconds = sum(self.took.values()) / len(self.took) * (self.left + len(self.running) / 2) / self.jobs
        return f"; about {duration(seconds)} left"
