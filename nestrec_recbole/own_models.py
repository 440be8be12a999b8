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
from pathlib import Path

from nestrec_recbole.errors import NestRecError, first_line
from nestrec_recbole.properties_files import our_models

VARIABLE = "NESTREC_MODELS"  # paths of files, separated as those of PATH are


def files() -> list[Path]:
    """The files that ``NESTREC_MODELS`` names."""
    return [Path(path) for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path]


def import_files() -> None:
    """Import what ``NESTREC_MODELS`` names.

    Raises
    ------
    NestRecError
        See :func:`add_files`.
    """
    for path in files():
        _import(path)


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
        raise NestRecError(f"--models {path}: no such Python file")
    before = len(our_models())
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise NestRecError(
            f"--models {path}: cannot be imported: {type(error).__name__}: {first_line(error)}"
        ) from None
    if len(our_models()) == before:
        raise NestRecError(f"--models {path}: registers no model; put @register_model above its class")
