"""Running a worker and saying what came of it, whatever happens to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

FORMAT = 1
_TABLES = ("ranks.parquet", "lists.parquet")
WEIGHTS = "weights.safetensors"
_NO_ROOM = 1 << 20  # bytes; with less, not even the reason can be written
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_COMMAND = (sys.executable, "-m", "nestrec_recbole.bench.worker")


class Running:
    """The workers that run side by side, so that all can be stopped at once."""

    def __init__(self) -> None:
        self.processes: set[subprocess.Popen[bytes]] = set()
        self.stopped = False

    def add(self, process: subprocess.Popen[bytes]) -> None:
        """Count a worker among them; after :meth:`stop`, end it."""
        self.processes.add(process)
        if self.stopped:
            process.kill()

    def stop(self) -> None:
        """End every worker; what they have not finished is lost."""
        self.stopped = True
        for process in list(self.processes):
            process.kill()


def attempt(spec: dict[str, Any], place: str | None = None, running: Running | None = None) -> dict[str, bytes]:
    """Do a run in a process of its own.

    Parameters
    ----------
    spec : dict
        ``model``, ``dataset``, ``settings``, ``content`` (feature stores that diversity is measured by), ``threads``,
        ``time_limit`` (seconds or None), ``gpu`` (or None), ``keep_weights``, ``broken`` (why it cannot be run, or
        None) and ``run``, the part of ``run.json`` that is known before.
    place : str, optional
        Folder for what is written on the way; the system's for temporary files by default.
    running : Running, optional
        Is told of the worker.

    Returns
    -------
    dict of str to bytes
        The files of the run, ``run.json`` always among them: a run that failed says why.
    """
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    if spec.get("broken"):
        return failure(spec, spec["broken"], started)
    try:
        with tempfile.TemporaryDirectory(prefix="nestrec-run-", dir=place, ignore_cleanup_errors=True) as folder:
            error = _run(spec, Path(folder), running or Running())
            if error is not None:
                told = Path(folder) / "traceback.txt"
                return failure(spec, error, started) | ({told.name: told.read_bytes()} if told.is_file() else {})
            outcome = json.loads((Path(folder) / "outcome.json").read_text(encoding="utf-8"))
            names = [*_TABLES, WEIGHTS] if (Path(folder) / WEIGHTS).is_file() else _TABLES
            files = {name: (Path(folder) / name).read_bytes() for name in names}
    except OSError as problem:  # on this side of the run: no room, most likely
        return failure(spec, f"{type(problem).__name__}: {problem}", started)
    return {**files, "run.json": _about(spec, started, status="finished", error=None, **outcome)}


def failure(spec: dict[str, Any], error: str, started: str | None = None) -> dict[str, bytes]:
    """The files of a run that came to nothing."""
    return {"run.json": _about(spec, started, status="failed", error=error)}


def _about(spec: dict[str, Any], started: str | None, **outcome: Any) -> bytes:
    started = started or datetime.now(timezone.utc).isoformat(timespec="seconds")
    about = {"format": FORMAT, **spec["run"], "started": started, **outcome}
    return (json.dumps(about, indent=1) + "\n").encode()


def _run(spec: dict[str, Any], folder: Path, running: Running) -> str | None:
    """Run the worker to its end; what went wrong in one line, None where all went well."""
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    environment = {**os.environ, **dict.fromkeys(_THREADS, str(spec["threads"]))}
    environment["PYTHONPATH"] = os.pathsep.join([_package_root(), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    if spec["gpu"] is not None:
        environment["CUDA_VISIBLE_DEVICES"] = str(spec["gpu"])
    with open(folder / "output.txt", "wb") as output:
        # A session of its own: Ctrl-C is for the parent, whose end the worker sees by its standard input.
        process = subprocess.Popen(
            [*_COMMAND, str(folder)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        running.add(process)
        try:
            code = process.wait(timeout=spec["time_limit"])
        except subprocess.TimeoutExpired:
            return f"not finished after {spec['time_limit']:g} s, the suite's time_limit"
        finally:
            process.kill()
            process.wait()
            running.processes.discard(process)
    if code == 0:
        return None
    return _what_went_wrong(code, folder)


def _what_went_wrong(code: int, folder: Path) -> str:
    said = folder / "error.txt"
    if said.is_file() and (line := said.read_text(encoding="utf-8").strip()):
        return line
    if shutil.disk_usage(folder).free < _NO_ROOM:
        return f"no space is left where runs are written, {folder.parent}; make room there"
    if code < 0:
        name = signal.Signals(-code).name
        why = "; the system was most likely out of memory" if name == "SIGKILL" else ""
        return f"ended by signal {-code} ({name}){why}"
    lines = (folder / "output.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"exit code {code}: {lines[-1].strip() if lines else 'without a word'}"


def _package_root() -> str:
    return str(Path(__file__).resolve().parent.parent.parent)
