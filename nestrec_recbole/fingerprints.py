"""What results depend on, as digests: the code, and the files of a dataset."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

from nestrec_recbole import own_models
from nestrec_recbole.encode.recipe import downloaded_revision
from nestrec_recbole.files import sha256_of
from nestrec_recbole.version import __version__

_FILES = ("inter", "item", "user", "kg", "link", "net")


def code_version() -> str:
    """``<version>+<12 hex digits>`` of all sources and defaults of this package, and of a user's own models."""
    digests = _sources() | {f"models/{name}": found for name, found in own_models.digests().items()}
    digest = hashlib.sha256()
    for name, found in sorted(digests.items()):
        digest.update(f"{name}\x00{found}\x01".encode())
    return f"{__version__}+{digest.hexdigest()[:12]}"


@functools.cache
def _sources() -> dict[str, str]:
    """SHA-256 of the package's files, by name, as they are when first asked for; models may be added later."""
    here = Path(__file__).resolve().parent
    properties = next((p for p in (here / "properties", here.parent / "properties") if p.is_dir()), here)
    files = {file.relative_to(here).as_posix(): file for file in here.rglob("*.py")}
    files |= {f"properties/{file.relative_to(properties).as_posix()}": file for file in properties.rglob("*.yaml")}
    return {name: sha256_of(file) for name, file in files.items()}


def base_files(llm: dict[str, Any] | None) -> Any:
    """What ``path`` of ``llm`` holds: hashes of its files, or the commit of one of the hub; None where it says none."""
    path = (llm or {}).get("path")
    if not path or not Path(path).is_dir():
        return path and downloaded_revision(path)
    return {file.name: sha256_of(file) for file in sorted(Path(path).iterdir()) if file.is_file()}


def data_files(config: Any) -> dict[str, str]:
    """SHA-256 of a dataset's atomic files, by name."""
    folder, name = Path(config["data_path"]), config["dataset"]
    kinds = (*_FILES, *(config["additional_feat_suffix"] or ()))
    found = (path for kind in kinds for path in (*folder.glob(f"{name}.{kind}"), *folder.glob(f"{name}.*.{kind}")))
    return {path.name: sha256_of(path) for path in sorted(found)}
