"""The same budget of tuning, on validation data, for every row that has a space."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nestrec_recbole.errors import NestRecError
from nestrec_recbole.files import sha256_of, written_whole
from nestrec_recbole.fingerprints import base_files
from nestrec_recbole.plugin import tuning_space
from nestrec_recbole.settings.roles import ELSEWHERE
from nestrec_recbole.settings.values import at
from nestrec_recbole.tune.budget import Plan
from nestrec_recbole.tune.space import Dimension, Space, read_space

_MANY = 1000  # trials, where only hours are stated


def has_space(model: str) -> bool:
    """Whether it is known what to search for a model."""
    try:
        tuning_space(model)
    except NestRecError:
        return False
    return True


def space_of(model: str, named: str | None, own: Mapping[str, Any]) -> Space | str:
    """What is searched for a row, or why nothing is.

    Parameters
    ----------
    model : str
    named : str or None
        File of the row's space.
    own : mapping
        Settings that make the row that row: none of them is searched.

    Raises
    ------
    NestRecError
        When the space cannot be read.
    """
    if named is None and not has_space(model):
        return f"no space is known for {model}; the row may name one, `space: FILE`"
    space = read_space(tuning_space(model) if named is None else named)
    space = replace(space, dimensions=tuple(_fixed(one, own) for one in space.dimensions))
    if all(one.kind == "choice" and len(one.values) == 1 for one in space.dimensions):
        return "the row itself says all that would be searched"
    return space


def _fixed(one: Dimension, own: Mapping[str, Any]) -> Dimension:
    """The one value that a row states, where it states one."""
    nothing = object()
    stated = at(own, one.name, nothing)
    return one if stated is nothing else replace(one, kind="choice", values=(stated,))


def plan_of(tune: Mapping[str, Any], cpus: float = 1.0, gpus: float = 0.0) -> Plan:
    """The suite's ``tune`` as a search takes it.

    Raises
    ------
    NestRecError
        When no search would take it.
    """
    return Plan(**{"trials": _MANY, **tune}, cpus=cpus, gpus=gpus)


def tune_row(
    model: str,
    dataset: str,
    settings: Mapping[str, Any],
    space: Space,
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
        The suite's ``tune``: trials, hours, epochs, ...
    made_of
        What else the outcome depends on: data and code. Another search gets another folder.
    folder : Path
        Of the searches of a results folder. Each leaves ``trials.csv``, ``tuning.html`` and ``best.yaml`` in its own.
    address : str, optional
        Of a Ray cluster.
    cpus, gpus : float
        Of a trial.

    Returns
    -------
    dict
        ``trials``, ``epochs`` (of all trials together), ``best`` (settings that were found), ``score`` (on validation
        data) and ``folder`` (its name).
    """
    dimensions = [asdict(one) for one in space.dimensions]
    told = {key: value for key, value in settings.items() if key not in ELSEWHERE}
    if settings.get("init_from"):
        told["init_from"] = sha256_of(settings["init_from"])  # by what is in it, as for a run
    told["llm_files"] = base_files(settings.get("llm"))
    whole = json.dumps([model, dataset, told, dimensions, budget, made_of], sort_keys=True, default=str)
    place = folder / f"{model}-{dataset}-{hashlib.sha256(whole.encode()).hexdigest()[:10]}"
    file = place / "found.json"
    if not file.is_file():
        from nestrec_recbole.tune.results import write_results  # these need Ray, which the rest does not
        from nestrec_recbole.tune.search import search

        plan = plan_of(budget, cpus, gpus)
        found = search(
            model, dataset, settings, space, plan, folder=place / "search", resume=True, address=address, say=say
        )
        best = {key: value for key, value in found.settings.items() if settings.get(key) != value and key != "epochs"}
        about = {"trials": len(found.trials), "epochs": found.epochs, "best": best, "score": found.score}
        write_results(found, place)
        with written_whole(file) as draft:
            draft.write_text(json.dumps({**about, "folder": place.name}, indent=1) + "\n", encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))
