"""``dataset.json``: what a dataset is, what it was made from, and how."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nestrec_recbole.convert.corpus import DROPPED, NO_NUMBERS, REPEATED, ROUNDED, Corpus
from nestrec_recbole.convert.lines import check_sum
from nestrec_recbole.convert.staging import Staging
from nestrec_recbole.convert.windows import share_of_shared_endings
from nestrec_recbole.files import sha256_of

_COUNTS = """SELECT count(*), (SELECT count(*) FROM audience), (SELECT count(*) FROM catalogue),
    min(timestamp), max(timestamp) FROM interactions"""
_LATEST = 7_258_118_400  # the year 2200, in seconds
_SUSPICIOUS = 0.2  # of endings that are shared: users are windows of one history
_TIES = "SELECT count(*) FROM (SELECT DISTINCT u, timestamp FROM interactions)"
_DISTINCT = "SELECT count(*) FROM (SELECT DISTINCT u, i, timestamp FROM interactions)"
_LENGTHS = "SELECT min(n), median(n), max(n) FROM (SELECT count(*) AS n FROM interactions GROUP BY u)"


def describe(staging: Staging, corpus: Corpus, options: dict[str, Any], **found: Any) -> dict[str, Any]:
    """Count the table ``interactions`` and put everything together that does not lie on disk.

    Raises
    ------
    NestRecError
        A source whose gzip stream is damaged.
    """
    n, users, items, first, last = staging.run(_COUNTS)[0]
    shortest, median, longest = staging.run(_LENGTHS)[0]
    adjacent = n - users
    for path in corpus.sources:
        check_sum(path)
    return {
        "corpus": corpus.name,
        "users": users,
        "items": items,
        "interactions": n,
        "density": n / (users * items),
        "history_length": {"min": shortest, "median": median, "max": longest},
        "time_unit": corpus.time_unit,
        "time_range": [first, last],
        "share_of_ties": (n - staging.value(_TIES)) / adjacent if adjacent else 0.0,
        "exact_duplicates": n - staging.value(_DISTINCT),
        "share_of_shared_endings": share_of_shared_endings(staging),
        **found,
        "notes": corpus.notes,
        "options": {**corpus.options, **options},
        "sources": [
            {"file": str(path), "bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in corpus.sources
        ],
    }


def write_report(report: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Add the SHA-256 of every file written so far, and write ``dataset.json`` beside them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    report = {**report, "files": {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}}
    (folder / "dataset.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return report


def _time_range(first: int, last: int, unit: str) -> str:
    """First and last time, as dates where they are some."""
    said = f"{first} to {last} ({unit})"
    scale = {"s": 1, "ms": 1000}.get(unit)
    if scale is None:
        return said
    if last > _LATEST * scale:
        return f"{said}; after the year 2200: are they in milliseconds? See --time-unit"
    if first < 0:
        return said
    days = [datetime.fromtimestamp(moment / scale, timezone.utc).date() for moment in (first, last)]
    return f"{said}, {days[0]} to {days[1]}"


def short_table(report: dict[str, Any], folder: Path) -> str:
    """The report in a few lines, for a terminal."""
    first, last = report["time_range"]
    lines = {
        "dataset": folder,
        "users": f"{report['users']:,}",
        "items": f"{report['items']:,}",
        "interactions": f"{report['interactions']:,}",
        "density": f"{report['density']:.3%}",
        "time": _time_range(first, last, report["time_unit"]),
        "ties": f"{report['share_of_ties']:.1%} of neighbours in a history share their time",
    }
    if report["exact_duplicates"]:
        repeat = "repeat another of the same user, item and time; --deduplicate exact leaves them out"
        lines["duplicates"] = f"{report['exact_duplicates']:,} interactions {repeat}"
    shared = report["share_of_shared_endings"]
    advice = "; they may be windows of one history, see --distinct-runs" if shared > _SUSPICIOUS else ""
    lines["endings"] = f"{shared:.1%} of users have the run of their last three items in common with another{advice}"
    steps = list(report["filters"].items())
    lines |= {f"after {step}": f"{left:,}" for step, left in steps[1:]}
    types = report["types"]
    lines |= {f"field {field}:{types[field]}": f"{share:.1%}" for field, share in report["fields"].items()}
    if report["images"]:
        counts = report["images"]
        lines["images"] = f"{counts['listed']:,} listed, {counts['bad']:,} refused"
    if report["split"]:
        counts = report["split"]["rows"].items()
        lines[report["split"]["kind"]] = ", ".join(f"{part} {rows:,}" for part, rows in counts)
    told = (ROUNDED, DROPPED, REPEATED, NO_NUMBERS)
    noted = [f"{n:,} {what}" for what, n in report["notes"].items() if what.startswith(told) and n]
    lines |= {"note" if number == 1 else f"note {number}": text for number, text in enumerate(noted, start=1)}
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())
