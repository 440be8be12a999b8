"""What a run's result depends on, as a hash: data, settings, code."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nestrec_recbole import setting_roles as roles
from nestrec_recbole.files import sha256_of
from nestrec_recbole.settings import decisive
from nestrec_recbole.version import __version__

# Settings that say what the data is, how it is split and what is ranked: equal for all rows of a dataset, else the
# figures of two rows are not about the same thing.
PROTOCOL = (
    *roles.DATA_PLACE,
    *roles.FILES,
    *roles.NUMBERS,
    *roles.HELD_OUT,
    *roles.REPEATS,
    *roles.RANKED,
    *roles.DOMAIN_FIELD,  # not which domains are kept, nor what histories hold: the targets are the same
)
_FILES = ("inter", "item", "user", "kg", "link", "net")


@functools.cache
def code_version() -> str:
    """``<version>+<12 hex digits>`` of all sources and defaults of this package, as they are on disk."""
    here = Path(__file__).resolve().parent.parent
    properties = next((p for p in (here / "properties", here.parent / "properties") if p.is_dir()), here)
    files = {file.relative_to(here).as_posix(): file for file in here.rglob("*.py")}
    files |= {f"properties/{file.relative_to(properties).as_posix()}": file for file in properties.rglob("*.yaml")}
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        digest.update(f"{name}\x00{sha256_of(file)}\x01".encode())
    return f"{__version__}+{digest.hexdigest()[:12]}"


def data_files(config: Any) -> dict[str, str]:
    """SHA-256 of a dataset's atomic files, by name."""
    folder, name = Path(config["data_path"]), config["dataset"]
    found = (path for kind in _FILES for path in (*folder.glob(f"{name}.{kind}"), *folder.glob(f"{name}.*.{kind}")))
    return {path.name: sha256_of(path) for path in sorted(found)}


def data_hash(config: Any, files: Mapping[str, str]) -> str:
    """Hash a dataset: its files, and the settings that filter and split it."""
    made_by = {key: config[key] for key in PROTOCOL if key != "data_path"}
    return _hash({"files": files, "settings": made_by})


def run_key(config: Any, data: str, features: Mapping[str, Path], code: str) -> str:
    """16 hex digits that change exactly when a run's data, features, settings or code do."""
    start = sha256_of(config["init_from"]) if config["init_from"] else None
    stores = {field: path.name for field, path in features.items()}  # a store's name hashes what it was made from
    made_of = {"data": data, "features": stores, "settings": decisive(config), "init_from": start, "code": code}
    return _hash(made_of)[:16]


def _hash(made_of: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(made_of, sort_keys=True, default=str).encode()).hexdigest()
