"""Small corpora as files, and what becomes of them as rows and digests."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings

from nestrec_recbole.files import sha256_of

Row = tuple[str, ...]
QUICK = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


def rows_of(path: Path) -> list[Row]:
    """Cells of an atomic file below its header; missing ones are empty."""
    return [tuple(line.split("\t")) for line in path.read_text(encoding="utf-8").splitlines()[1:]]


def write_lines(path: Path, records: list[Any]) -> Path:
    text = "".join(json.dumps(record) + "\n" for record in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def review(user: str, item: str, time: int, rating: float = 5.0, **more: Any) -> dict[str, Any]:
    fixed = {"images": [], "asin": f"variant of {item}", "helpful_vote": 0, "verified_purchase": True}
    text = {"title": f"{user} on {item}", "text": f"said at {time}"}
    about = {"user_id": user, "parent_asin": item, "timestamp": time, "rating": rating}
    return {**fixed, **text, **about, **more}


def meta(item: str, **more: Any) -> dict[str, Any]:
    return {"parent_asin": item, "title": f"thing {item}", "features": [], "description": [], "details": {}, **more}


def digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}
