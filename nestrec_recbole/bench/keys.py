"""What a run's result depends on, as a hash: data, settings, code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nestrec_recbole.files import sha256_of
from nestrec_recbole.fingerprints import base_files
from nestrec_recbole.settings import roles
from nestrec_recbole.settings.values import decisive

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


def data_hash(config: Any, files: Mapping[str, str]) -> str:
    """Hash a dataset: its files, and the settings that filter and split it."""
    made_by = {key: config[key] for key in PROTOCOL if key != "data_path"}
    return _hash({"files": files, "settings": made_by})


def run_key(config: Any, data: str, features: Mapping[str, Path], code: str) -> str:
    """16 hex digits that change exactly when a run's data, features, settings or code do."""
    start = sha256_of(config["init_from"]) if config["init_from"] else None
    stores = {field: path.name for field, path in features.items()}  # a store's name hashes what it was made from
    made_of = {"data": data, "features": stores, "settings": decisive(config), "init_from": start, "code": code}
    made_of["llm"] = base_files(config["llm"])
    return _hash(made_of)[:16]


def _hash(made_of: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(made_of, sort_keys=True, default=str).encode()).hexdigest()
