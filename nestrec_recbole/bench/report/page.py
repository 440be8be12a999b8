"""The report itself: one HTML file that needs no network, from a template, a style sheet and small scripts."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from nestrec_recbole import durations
from nestrec_recbole.bench.report.charts import chart_rows, chart_slices
from nestrec_recbole.bench.report.examples import examples
from nestrec_recbole.bench.report.results import Results
from nestrec_recbole.bench.report.rows import Group, metrics_of, spoken
from nestrec_recbole.bench.report.summary import findings, not_done, p_value, unlike_the_suite
from nestrec_recbole.bench.report.tables import best_of

MISSING = "\N{EN DASH}"
HERE = Path(__file__).resolve().parent
SCRIPTS = ("table.js", "charts.js", "examples.js", "settings.js", "start.js")


def render(results: Results, groups: list[Group]) -> str:
    """The whole page.

    Parameters
    ----------
    results : Results
    groups : list of Group
        As :func:`~nestrec_recbole.bench.report.rows.group_rows` gives them.
    """
    from plotly.offline import get_plotlyjs

    metrics = metrics_of(results)
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"duration": duration, "count": count, "day": day, "spoken": spoken, "p_value": p_value}
    own = "(() => {\n'use strict';\n" + "".join(_read(name) for name in SCRIPTS) + "})();"
    scripts = [get_plotlyjs(), own]
    return environment.get_template("report.html.jinja").render(
        results=results,
        groups=groups,
        metrics=metrics,
        tested=metrics[0],
        findings=findings(groups, metrics[0]),
        not_done=not_done(results),
        unlike=unlike_the_suite(results),
        failed=[run for run in results.runs if not run.finished],
        best_of=best_of,
        published_value=_published_value,
        style=_read("report.css"),
        scripts=scripts,
        digests=[_digest(script) for script in scripts],
        page=json_of(_page_data(results, groups, metrics)),
    )


def _page_data(results: Results, groups: list[Group], metrics: list[str]) -> dict[str, Any]:
    """What the scripts draw from."""
    unseen = metrics[0].endswith("_f")
    had = dict.fromkeys([*metrics, *sorted({name for run in results.runs for name in run.metrics})])
    return {
        "metrics": {name: spoken(name) for name in had},
        "tested": metrics[0],
        "rows": list(dict.fromkeys(run.row for run in results.runs)),
        "datasets": [
            {
                "label": group.label,
                "rows": chart_rows(group),
                "slices": chart_slices(group, results.data[group.data], metrics[0]),
                "examples": examples(group, results.data[group.data], unseen),
            }
            for group in groups
        ],
        "runs": [
            {"label": f"{run.row} on {group.label}, seed {run.seed}", "settings": flat({**run.settings, **run.config})}
            for group in groups
            for row in group.rows
            for run in row.runs
        ],
    }


def json_of(data: Any) -> str:
    """JSON that may stand inside a script element: nothing in it ends one or begins a comment, and no NaN."""
    text = json.dumps(_finite(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def flat(settings: dict[str, Any], inside: str = "") -> dict[str, str]:
    """Nested settings as ``outer.inner`` -> value."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        name = f"{inside}{key}"
        if isinstance(value, dict) and value:
            found |= flat(value, f"{name}.")
        else:
            found[name] = value if isinstance(value, str) else json.dumps(value)
    return found


def duration(seconds: float | None) -> str:
    """Seconds as ``12 s`` or ``2 h 5 min``; a dash where they are not known."""
    return MISSING if seconds is None else durations.duration(seconds)


def count(number: float | None) -> str:
    """A large number in thousands or millions, to three digits: ``12.3 k``, ``4.56 M``."""
    if number is None:
        return MISSING
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def day(time: Any) -> str:
    """The day of an ISO time or of Unix seconds; what is neither, as it is."""
    if time is None:
        return MISSING
    try:
        is_number = isinstance(time, (int, float))
        found = datetime.fromtimestamp(time, timezone.utc) if is_number else datetime.fromisoformat(time)
    except (ValueError, TypeError, OverflowError, OSError):
        return str(time)
    return f"{found:%Y-%m-%d}"


def _published_value(published: dict[str, Any], metric: str) -> float | None:
    value = published.get(metric)
    return float(value) if isinstance(value, (int, float)) else None


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    """For the page's content security policy: scripts that are not these do not run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
