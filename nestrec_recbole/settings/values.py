"""The settings of a run as they are put together, compared and written down."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from nestrec_recbole.settings.roles import ELSEWHERE


def merged(*levels: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of several levels, later ones over earlier ones; ``llm.layers`` goes into what ``llm`` is so far."""
    together: dict[str, Any] = {}
    for level in levels:
        for name in sorted(level, key=lambda name: "." in name):  # what is whole first
            put(together, name, level[name])
    return together


def put(settings: dict[str, Any], name: str, value: Any) -> None:
    """Set a setting by its dotted name; what it lies inside is copied, and made where it is not there."""
    outer, dot, inner = name.partition(".")
    if dot:
        so_far = settings.get(outer)
        within = dict(so_far) if isinstance(so_far, Mapping) else {}
        put(within, inner, value)
        value = within
    settings[outer] = value


def at(settings: Any, name: str, otherwise: Any = None) -> Any:
    """A setting by its dotted name."""
    for part in name.split("."):
        if not isinstance(settings, Mapping) or part not in settings:
            return otherwise
        settings = settings[part]
    return settings


def decisive(config: Any) -> dict[str, Any]:
    """The settings of a config that decide what comes out, by name; not those that say where and how to run."""
    return {key: value for key, value in sorted(config.final_config_dict.items()) if key not in ELSEWHERE}


def plain(config: Any) -> dict[str, Any]:
    """The settings of a config that JSON can hold, by name; paths as text, sets as lists."""
    settings = {key: _as_json_has_it(value) for key, value in sorted(config.final_config_dict.items())}
    return {key: value for key, value in settings.items() if is_plain(value)}


def _as_json_has_it(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    if isinstance(value, dict):
        return {key: _as_json_has_it(inner) for key, inner in value.items()}
    return [_as_json_has_it(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def is_plain(value: Any) -> bool:
    """Whether JSON can hold a value and give it back."""
    if isinstance(value, dict):
        return all(isinstance(k, str) and is_plain(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return all(is_plain(v) for v in value)
    return value is None or isinstance(value, (bool, int, float, str))
