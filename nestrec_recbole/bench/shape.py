"""The shape of a suite's YAML: which keys there are, and of which types; nothing of what settings mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nestrec_recbole.errors import unknown

NUMBER = (int, float)
_TOP: dict[str, Any] = {
    **{"name": str, "about": str, "datasets": dict, "models": dict, "settings": dict, "seeds": list, "metrics": list},
    **{"tune": dict, "time_limit": NUMBER, "published": dict},
}
_ROW: dict[str, Any] = {"model": str, "settings": (dict, str), "on": dict, "baseline": bool, "space": str}
_DATA: dict[str, Any] = {"dataset": str, "settings": dict}
_TUNE: dict[str, Any] = {
    **{"trials": int, "hours": NUMBER, "epochs": int, "scheduler": str, "searcher": str, "seed": int},
}


def wrong_shape(found: Mapping[str, Any]) -> Iterator[str]:
    """A line for each key that is unknown, missing or of another type, and for what is wrong inside of others."""
    yield from _shape("", found, _TOP, ("name", "datasets", "models", "seeds", "metrics"))
    yield from _members(found)


def _shape(where: str, found: Mapping[str, Any], spec: Mapping[str, Any], needed: tuple[str, ...]) -> Iterator[str]:
    """Keys that are unknown, missing, or of another type."""
    for key, value in found.items():
        if key not in spec:
            yield unknown("key", f"{where}{key}", [f"{where}{one}" for one in spec])
        elif not is_a(value, spec[key]) and not (value is None and key not in needed):
            kinds = spec[key] if isinstance(spec[key], tuple) else (spec[key],)
            names = " or ".join(kind.__name__ for kind in kinds)
            yield f"{where}{key} is {value!r} ({type(value).__name__}); expected {names}"
    for key in needed:
        if key not in found:
            yield f"no {where}{key}; expected one"
        elif is_a(found[key], spec[key]) and not found[key]:
            yield f"{where}{key} is empty; expected one at least"


def is_a(value: Any, kind: Any) -> bool:
    """Whether a value is of a type, or of one of several; true and false are no numbers."""
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _members(found: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong inside the keys of a suite, its settings left out."""
    yield from _name("name", found.get("name"))
    for name in as_dict(found.get("datasets")):
        yield from _name("datasets", name)
    yield from _seeds(found.get("seeds"))
    for key, spec in (("models", _ROW), ("datasets", _DATA)):
        for name, about in as_dict(found.get(key)).items():
            if not str(name).isprintable():
                yield f"{key}.{str(name)!r} holds a line break or another control character; rename it"
            if about is not None and not isinstance(about, dict):
                yield f"{key}.{name} is {about!r}; expected a mapping such as {{settings: {{}}}}"
            yield from _shape(f"{key}.{name}.", as_dict(about), spec, ())
    yield from _places(found)
    yield from _published(found)
    if isinstance(found.get("tune"), dict):
        yield from _shape("tune.", found["tune"], _TUNE, ())
        if not found["tune"].keys() & {"trials", "hours"}:
            yield "no tune.trials; expected one, or tune.hours"
    limit: Any = found.get("time_limit")
    if is_a(limit, NUMBER) and limit <= 0:
        yield f"time_limit is {limit}; expected seconds that a run may take"


def _places(found: Mapping[str, Any]) -> Iterator[str]:
    """Settings for a dataset that the suite has not."""
    known = [str(name) for name in as_dict(found.get("datasets"))]
    for name, about in as_dict(found.get("models")).items():
        for dataset, own in as_dict(as_dict(about).get("on")).items():
            if str(dataset) not in known:
                yield f"models.{name}.on: {unknown('dataset', str(dataset), known)}"
            elif not isinstance(own, (dict, str)):
                yield f"models.{name}.on.{dataset} is {own!r}; expected settings, or a file of them"


def _published(found: Mapping[str, Any]) -> Iterator[str]:
    for dataset, rows in as_dict(found.get("published")).items():
        for one in rows if isinstance(rows, list) else [rows]:
            if not isinstance(one, dict) or "model" not in one:
                yield f"published.{dataset}: {one!r}; expected a list of {{model: ..., ndcg@10: ..., source: ...}}"


def _name(key: str, name: Any) -> Iterator[str]:
    if isinstance(name, str) and name and (name != Path(name).name or name.startswith(".")):
        yield f"{key}: {name!r} is no name that a folder can have"


def _seeds(seeds: Any) -> Iterator[str]:
    for seed in seeds if isinstance(seeds, list) else ():
        if not is_a(seed, int) or seed < 0:
            yield f"seeds: {seed!r}; expected whole numbers from 0"
        elif seeds.count(seed) > 1:
            yield f"seeds: {seed} is there {seeds.count(seed)} times; expected each once"


def as_dict(value: Any) -> dict[Any, Any]:
    """The mapping that a value is; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def well_formed(found: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a suite that can be looked at further; empty where that is nothing."""

    def part(group: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in group.items() if key in spec and is_a(value, spec[key])}

    kept = part(found, _TOP)
    kept["models"] = {name: part(as_dict(about), _ROW) for name, about in kept.get("models", {}).items()}
    for row in kept["models"].values():
        row["on"] = {name: own for name, own in row.get("on", {}).items() if isinstance(own, (dict, str))}
    kept["datasets"] = {name: part(as_dict(about), _DATA) for name, about in kept.get("datasets", {}).items()}
    kept["tune"] = part(kept["tune"], _TUNE) if kept.get("tune") else None
    if not kept["models"] or not kept["datasets"]:
        return {}
    return {"name": "", "seeds": [], "metrics": [], **kept}
