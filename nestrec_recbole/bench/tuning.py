"""The same budget of tuning, on validation data, for every row that has a space."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nestrec_recbole.errors import NestRecError
from nestrec_recbole.files import written_whole
from nestrec_recbole.plugin import tuning_space
from nestrec_recbole.tune.budget import Plan


def has_space(model: str) -> bool:
    """Whether it is known what to search for a model."""
    try:
        tuning_space(model)
    except NestRecError:
        return False
    return True


def tune_row(
    model: str,
    dataset: str,
    settings: Mapping[str, Any],
    budget: Mapping[str, Any],
    made_of: Any,
    folder: Path,
    say: Callable[[str], None],
    address: str | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
) -> dict[str, Any]:
    """Search settings within a budget, or find what an equal search has found before.

    Parameters
    ----------
    budget : mapping
        The suite's ``tune``: trials, epochs, ...
    made_of
        What else the outcome depends on: data and code. Another search gets another folder.
    folder : Path
        Of the searches of a results folder.
    address : str, optional
        Of a Ray cluster.
    cpus, gpus : float
        Of a trial.

    Returns
    -------
    dict
        ``trials``, ``epochs``, ``best`` (settings that were found) and ``score`` (on validation data).
    """
    whole = json.dumps([model, dataset, settings, budget, made_of], sort_keys=True, default=str)
    place = folder / f"{model}-{dataset}-{hashlib.sha256(whole.encode()).hexdigest()[:10]}"
    file = place / "found.json"
    if not file.is_file():
        from nestrec_recbole.tune.search import search  # Ray, which only this needs

        plan = Plan(**budget, cpus=cpus, gpus=gpus)
        found = search(
            model, dataset, settings, None, plan, folder=place / "search", resume=True, address=address, say=say
        )
        best = {key: value for key, value in found.settings.items() if settings.get(key) != value and key != "epochs"}
        about = {"trials": len(found.trials), "epochs": budget.get("epochs"), "best": best, "score": found.score}
        with written_whole(file) as draft:
            draft.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))
