"""Tables of results go into README.md here or above, between a comment that names them and ``<!-- end -->``."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGES = (HERE.parent / "README.md", HERE / "README.md")


def put_table(name: str, table: str) -> None:
    """Replace the table called ``name`` on the page that has a place for it."""
    place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.S)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if place.search(text):
            page.write_text(place.sub(lambda match: f"{match[1]}{table}\n{match[2]}", text), encoding="utf-8")
            return
    raise SystemExit(f"no place for the table {name!r}: <!-- {name} --> ... <!-- end --> in one of {PAGES}")


def write_results(name: str, results: dict[str, Any]) -> None:
    """Write ``results/<name>.json`` with the machine, whole or not at all."""
    import torch

    from nestrec_recbole.files import written_whole

    machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    with written_whole(HERE / "results" / f"{name}.json") as draft:
        draft.write_text(json.dumps({"machine": machine, "versions": versions, **results}, indent=1) + "\n")


def read_results(name: str) -> dict[str, Any]:
    """Read what :func:`write_results` wrote."""
    return json.loads((HERE / "results" / f"{name}.json").read_text())


def difference(one: dict[str, float], p: float) -> str:
    """A comparison in words: the mean difference, its 95% interval, and p as corrected."""
    return f"{one['difference']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}], p {p:.4f}"
