"""What is written of a search: its best settings, the table of its trials, and two plots."""

from __future__ import annotations

import csv
import html
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from nestrec_recbole.files import written_whole
from nestrec_recbole.tune.search import SearchResult
from nestrec_recbole.tune.space import Dimension
from nestrec_recbole.tune.trial import Trial

FEW = 8  # below so many trials nothing is said about importance


def write_results(found: SearchResult, folder: str | Path, final: list[dict[str, Any]] | None = None) -> None:
    """Write ``best.yaml``, ``trials.csv`` and ``tuning.html`` into a folder.

    Parameters
    ----------
    found : SearchResult
    folder : path
    final : list of dict, optional
        ``seed`` and ``metrics`` of each training of the winner that was evaluated on test data.
    """
    folder = Path(folder)
    with written_whole(folder / "best.yaml") as draft:
        draft.write_text(best_yaml(found), encoding="utf-8")
    with written_whole(folder / "trials.csv") as draft, open(draft, "w", newline="", encoding="utf-8") as file:
        rows = table(found)
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with written_whole(folder / "tuning.html") as draft:
        draft.write_text(page(found, final or []), encoding="utf-8")


def best_yaml(found: SearchResult) -> str:
    """The best settings, as ``run_recbole(config_file_list=[...])`` and ``--config`` take them."""
    about = f"{found.model} on {found.dataset}: validation {found.metric} {found.score}"
    return f"# {about}, best of {len(found.trials)} trials.\n" + yaml.safe_dump(
        found.settings, sort_keys=False, allow_unicode=True
    )


def table(found: SearchResult) -> list[dict[str, Any]]:
    """A row per trial: how it went, its validation metrics, and its settings."""
    metrics = list(dict.fromkeys(name for trial in found.trials for name in trial.valid))
    rows = []
    for number, trial in enumerate(found.trials, start=1):
        row: dict[str, Any] = {"trial": number, "status": _status(trial), "epochs": len(trial.scores)}
        row["score"] = trial.best(found.bigger) if trial.scores else ""
        row["best_epoch"] = trial.best_epoch(found.bigger) + 1 if trial.scores else ""
        row["seconds"] = round(trial.seconds, 1)
        row |= {name: trial.valid.get(name, "") for name in metrics}
        row |= {one.name: trial.settings.get(one.name, "") for one in found.space.dimensions}
        rows.append({**row, "error": trial.error or ""})
    return rows


def _status(trial: Trial) -> str:
    return "stopped" if trial.status == "running" else trial.status  # the search is over


def importances(found: SearchResult) -> dict[str, float]:
    """How much each setting mattered: by how much R² of a random forest falls when its column is shuffled.

    The forest (300 trees, at least two trials a leaf) predicts a trial's best validation score from its settings, of
    which choices are numbered in their order and what has no meaning in a trial is -1. It is measured on the trials
    that it was made from, thirty shuffles each (Breiman 2001). Trials that were stopped early count with what they
    reached.

    Returns
    -------
    dict of str to float
        Largest first, at least 0; empty where there are too few trials, or all score the same.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    trials = [trial for trial in found.trials if trial.scores]
    scores = np.array([trial.best(found.bigger) for trial in trials])
    if len(trials) < FEW or np.ptp(scores) == 0:
        return {}
    columns = np.array([[_number(one, trial) for one in found.space.dimensions] for trial in trials])
    forest = RandomForestRegressor(300, min_samples_leaf=2, random_state=0).fit(columns, scores)
    fallen = permutation_importance(forest, columns, scores, n_repeats=30, random_state=0).importances_mean
    names = [one.name for one in found.space.dimensions]
    return {names[i]: max(0.0, float(fallen[i])) for i in np.argsort(-fallen, kind="stable")}


def _number(one: Dimension, trial: Trial) -> float:
    """A setting of a trial as a column of numbers has it."""
    if one.name not in trial.settings:
        return -1.0
    value = trial.settings[one.name]
    if one.kind == "choice":
        return float(list(one.values).index(value))
    return math.log10(value) if one.kind == "loguniform" else float(value)


def page(found: SearchResult, final: list[dict[str, Any]]) -> str:
    """One HTML page that needs nothing beside it."""
    from plotly.graph_objects import Figure

    figures: list[tuple[str, Figure]] = [("Every trial", _parallel(found))]
    mattered = importances(found)
    if mattered:
        figures.append(("What mattered", _bars(mattered)))
    parts = [
        f"<h2>{title}</h2>{figure.to_html(full_html=False, include_plotlyjs=number == 0)}"
        for number, (title, figure) in enumerate(figures)
    ]
    if mattered:
        parts.append(f"<p>{html.escape(' '.join(str(importances.__doc__).split('Returns')[0].split()))}</p>")
    else:
        parts.append(f"<p>Fewer than {FEW} trials with different scores: too few to say what mattered.</p>")
    title = html.escape(f"{found.model} on {found.dataset}")
    summary = html.escape(
        f"{len(found.trials)} trials, {found.epochs} epochs; best validation {found.metric} {found.score}"
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Tuning {title}</title>
<style>body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }}
td, th {{ padding: .2rem .8rem; text-align: right }} pre {{ background: #f4f4f4; padding: 1rem }}</style></head>
<body><h1>Tuning {title}</h1><p>{summary}. Test data was not looked at to choose.</p>
{_final_table(final)}<h2>Best settings</h2><pre>{html.escape(best_yaml(found))}</pre>
{"".join(parts)}</body></html>
"""


def _final_table(final: list[dict[str, Any]]) -> str:
    """The winner on test data, a line per seed and their mean."""
    if not final:
        return ""
    names = list(final[0]["metrics"])
    lines = [(str(one["seed"]), [one["metrics"][name] for name in names]) for one in final]
    lines.append(("mean", [float(np.mean(column)) for column in zip(*(values for _, values in lines), strict=True)]))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    rows = "".join(
        f"<tr><th>{seed}</th>{''.join(f'<td>{value:.4f}</td>' for value in values)}</tr>" for seed, values in lines
    )
    return f"<h2>The winner on test data</h2><table><tr><th>seed</th>{head}</tr>{rows}</table>"


def _parallel(found: SearchResult) -> Any:
    """Parallel coordinates: an axis per setting, the last one the score, which also colours the lines."""
    from plotly.graph_objects import Figure, Parcoords

    trials = [trial for trial in found.trials if trial.scores]
    scores = [trial.best(found.bigger) for trial in trials]
    axes = [_axis(one, trials) for one in found.space.dimensions]
    axes.append({"label": found.metric, "values": scores})
    line = {"color": scores, "colorscale": "Viridis", "reversescale": not found.bigger, "showscale": True}
    figure = Figure(Parcoords(dimensions=axes, line=line))
    return figure.update_layout(height=480, margin={"l": 80, "r": 40, "t": 60, "b": 20})


def _axis(one: Dimension, trials: list[Trial]) -> dict[str, Any]:
    """An axis; below what is there lie the trials in which the setting has no meaning."""
    values = [_number(one, trial) for trial in trials]
    missing = [one.name not in trial.settings for trial in trials]
    if one.kind == "choice":
        ticks = {float(place): str(value) for place, value in enumerate(one.values)}
    else:
        low, high = (math.log10(v) if one.kind == "loguniform" else float(v) for v in one.values[:2])
        at = np.linspace(low, high, 5)
        ticks = {float(place): f"{10**place if one.kind == 'loguniform' else place:.3g}" for place in at}
    if any(missing):
        step = (max(ticks) - min(ticks)) / max(1, len(ticks) - 1) or 1.0
        without = min(ticks) - step
        ticks = {without: "none", **ticks}
        values = [without if gone else value for value, gone in zip(values, missing, strict=True)]
    axis = {"label": one.name, "values": values, "tickvals": list(ticks), "ticktext": list(ticks.values())}
    return axis | {"range": [min(ticks), max(ticks)]} if len(ticks) > 1 else axis


def _bars(mattered: dict[str, float]) -> Any:
    from plotly.graph_objects import Bar, Figure

    names = list(mattered)[::-1]
    figure = Figure(Bar(x=[mattered[name] for name in names], y=names, orientation="h"))
    height = 120 + 28 * len(names)
    return figure.update_layout(height=height, xaxis_title="fall of R²", margin={"l": 200, "r": 40, "t": 20, "b": 60})
