"""Models of a user's own: Python files that register them, named by ``--models FILE`` or in ``NESTREC_MODELS``.

Every process that this one starts, a run of a suite or a trial, imports the same files. A checkpoint names a model,
never a file: what is loaded executes nothing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from logging import getLogger
from pathlib import Path

from nestrec_recbole.errors import NestRecError, first_line
from nestrec_recbole.files import sha256_of
from nestrec_recbole.settings.shipped import registered_models

VARIABLE = "NESTREC_MODELS"  # paths of files, separated as those of PATH are


def files() -> list[Path]:
    """The files that ``NESTREC_MODELS`` names."""
    return [Path(path).resolve() for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path]


def digests() -> dict[str, str]:
    """SHA-256 of each of the files, by its name: what a result depends on; of what they import nothing is known."""
    return {f"{number}-{path.name}": sha256_of(path) for number, path in enumerate(files()) if path.is_file()}


def import_files() -> None:
    """Import what ``NESTREC_MODELS`` names; a warning says what cannot be, whose models are then unknown."""
    for path in files():
        try:
            _import(path)
        except NestRecError as error:
            getLogger().warning("%s: %s", VARIABLE, error)


def add_files(paths: Sequence[str | Path]) -> None:
    """Import files, here and in every process that this one will start.

    Raises
    ------
    NestRecError
        When a file is not there, raises, or registers no model.
    """
    added = [Path(path).resolve() for path in paths]
    for path in added:
        _import(path)
    os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys(map(str, [*files(), *added])))


def _import(path: Path) -> None:
    name = f"nestrec_models_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise NestRecError(f"{path}: no such Python file")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # it may import what lies beside it, now or later
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        why = f"{type(error).__name__}: {first_line(error)}"
        raise NestRecError(f"{path}: cannot be imported: {why}") from None
    classes = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == name]
    if not any(one.__name__ in registered_models() for one in classes):
        raise NestRecError(f"{path}: registers no model; put @register_model above its class")
