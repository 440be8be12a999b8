"""Search spaces: which settings are searched and over which values, out of YAML or RecBole's ``.hyper`` files.

A point of a space is ``{name: position}``: the number of a choice, else the value itself. Searchers move points about;
what a model is trained with are a point's :meth:`Space.settings`.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from recbole.utils import dataset_arguments, evaluation_arguments, general_arguments

from nestrec_recbole.errors import NestRecError, unknown
from nestrec_recbole.settings import roles
from nestrec_recbole.settings.checks import check
from nestrec_recbole.settings.shipped import read_settings
from nestrec_recbole.settings.values import at, merged

Point = dict[str, Any]
KINDS = {"choice": None, "uniform": 2, "loguniform": 2, "quniform": 3}  # how many numbers each takes
# What a search may change of them: how items are described, and how much of a history is seen.
_SEARCHED = {*roles.ITEM_FIELDS, *roles.HISTORY_LENGTH}
# What decides which rows are predicted and how that is measured: scores under two values of these do not compare.
_FIXED = {*roles.ALL, *dataset_arguments, *evaluation_arguments, *general_arguments} - _SEARCHED
_FIXED |= {"model", "dataset", "valid_neg_sample_args"}


@dataclass(frozen=True)
class Dimension:
    """One setting that is searched.

    Attributes
    ----------
    name : str
        Of the setting; ``llm.layers`` is ``layers`` inside ``llm``.
    kind : str
        ``choice``, ``uniform``, ``loguniform`` or ``quniform`` (multiples of a step).
    values : tuple
        The choices; else low, high and, of ``quniform``, the step.
    when : dict of str to list
        Settings of the space, each with the values under which this one has a meaning.
    whole : bool
        Whether its values are whole numbers.
    """

    name: str
    kind: str
    values: tuple[Any, ...]
    when: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    whole: bool = False

    def at(self, position: Any) -> Any:
        """The value of the setting at a position, rounded to what a file can say exactly."""
        if self.kind == "choice":
            return self.values[int(position)]
        low, high = self.values[:2]
        if self.kind == "quniform":
            step = self.values[2]
            steps = min(max(round(position / step), math.ceil(low / step - 1e-9)), math.floor(high / step + 1e-9))
            return round(steps * step) if self.whole else float(f"{steps * step:.12g}")
        return float(f"{min(max(position, low), high):.6g}")

    def draw(self, random: np.random.Generator) -> Any:
        """A position at random."""
        if self.kind == "choice":
            return int(random.integers(len(self.values)))
        low, high = self.values[:2]
        if self.kind == "loguniform":
            return float(math.exp(random.uniform(math.log(low), math.log(high))))
        return float(random.uniform(low, high))

    def samples(self) -> list[Any]:
        """The values that a check must look at: every choice, else both ends."""
        return list(self.values) if self.kind == "choice" else [self.at(self.values[0]), self.at(self.values[1])]


@dataclass(frozen=True)
class Space:
    """What is searched."""

    dimensions: tuple[Dimension, ...]
    source: str = "the space"

    def settings(self, point: Point) -> dict[str, Any]:
        """The settings at a point, nested as a config has them, without those that have no meaning there."""
        return merged(self.flat(point))

    def flat(self, point: Point) -> dict[str, Any]:
        """The same with ``llm.layers`` for what is inside ``llm``."""
        flat: dict[str, Any] = {}
        for one in self.dimensions:
            if all(name in flat and flat[name] in values for name, values in one.when.items()):
                flat[one.name] = one.at(point[one.name])
        return flat

    def draw(self, number: int, seed: int) -> list[Point]:
        """So many points at random, no two of the same settings; fewer where the space has no more."""
        random, in_vain = np.random.default_rng(seed), 0
        points: list[Point] = []
        seen: set[str] = set()
        while len(points) < number and in_vain < 1000:
            point = {one.name: one.draw(random) for one in self.dimensions}
            key = json.dumps(self.flat(point), default=str)
            in_vain = in_vain + 1 if key in seen else 0
            if key not in seen:
                seen.add(key)
                points.append(point)
        return points

    def checked(self, defaults: Mapping[str, Any]) -> Space:
        """The same space, knowing which numbers are whole, once every value in it is one that the model takes.

        Parameters
        ----------
        defaults : mapping
            Every setting of the model with its default.

        Raises
        ------
        NestRecError
            On the first unknown or ill-typed setting, and on one that says what is measured, not how well.
        """
        found: list[Dimension] = []
        for one in self.dimensions:
            self._check_name(one, [before.name for before in found], defaults)
            default = at(defaults, one.name)
            whole = isinstance(default, int) and not isinstance(default, bool) and one.kind != "choice"
            if whole and (one.kind != "quniform" or any(value != int(value) for value in one.values)):
                raise NestRecError(
                    f"{self.source}: {one.name} is a whole number; search it by choice, or by quniform of whole numbers"
                )
            found.append(replace(one, whole=whole))
            for value in found[-1].samples():
                self._check_value(merged({one.name: value}), dict(defaults))
        return replace(self, dimensions=tuple(found))

    def _check_name(self, one: Dimension, before: list[str], defaults: Mapping[str, Any]) -> None:
        if one.name == "epochs":
            raise NestRecError(f"{self.source}: epochs is the budget of every trial (--epochs), and cannot be searched")
        outer, within = one.name.partition(".")[0], one.name.rpartition(".")[0]
        if outer in _FIXED:
            raise NestRecError(
                f"{self.source}: {one.name} changes what is measured or where a run goes, and cannot be searched"
            )
        if outer not in defaults:
            raise NestRecError(f"{self.source}: {unknown('config key', one.name, defaults)}")
        if within and not isinstance(at(defaults, within), Mapping):
            why = f"{within} is {at(defaults, within)!r}, which has no settings inside"
            raise NestRecError(f"{self.source}: {one.name}: {why}")
        for name in one.when:
            if name not in before:
                raise NestRecError(
                    f"{self.source}: {one.name} has `when: {name}`, which the space does not search before it"
                )

    def _check_value(self, value: dict[str, Any], defaults: dict[str, Any]) -> None:
        try:
            check(value, defaults)
        except NestRecError as error:
            raise NestRecError(f"{self.source}: {error}") from None


def read_space(path: str | Path) -> Space:
    """Read a space from YAML, or from a file in RecBole's format (any other suffix; ``.hyper`` and ``.test``).

    Raises
    ------
    NestRecError
        When the file is missing or says something else; with its line or key.
    """
    path = Path(path)
    if not path.is_file():
        raise NestRecError(f"{path}: no such space; a model's own is used where --space is left out")
    is_yaml = path.suffix in (".yaml", ".yml")
    return parse_space(read_settings(path, "setting: {kind: values}") if is_yaml else _read_hyper(path), path)


def parse_space(described: Mapping[str, Any], source: str | Path = "the space") -> Space:
    """Make a space of ``{setting: {kind: values, when: {setting: [values]}}}``.

    Raises
    ------
    NestRecError
        On the first setting that is not described so.

    Examples
    --------
    >>> space = parse_space({"loss": {"choice": ["full_softmax", "gbce"]},
    ...                      "calibration": {"uniform": [0, 1], "when": {"loss": ["gbce"]}}})
    >>> space.settings({"loss": 1, "calibration": 0.25})
    {'loss': 'gbce', 'calibration': 0.25}
    >>> space.settings({"loss": 0, "calibration": 0.25})
    {'loss': 'full_softmax'}
    """
    if not described:
        raise NestRecError(f"{source}: names no setting; expected lines such as `n_layers: {{choice: [1, 2]}}`")
    return Space(tuple(_dimension(str(name), how, f"{source}: {name}") for name, how in described.items()), str(source))


def _dimension(name: str, how: Any, place: str) -> Dimension:
    kinds = [key for key in how if key != "when"] if isinstance(how, Mapping) else []
    if len(kinds) != 1:
        raise NestRecError(
            f"{place} is {how!r}; expected one of {', '.join(KINDS)} with its values, as {{choice: [1, 2]}}"
        )
    kind, when = kinds[0], how.get("when") or {}
    if kind not in KINDS:
        raise NestRecError(f"{place}: {unknown('kind of search', kind, KINDS)}")
    values = how[kind]
    if not isinstance(values, list) or not values:
        raise NestRecError(f"{place}: {kind} is {values!r}; expected a list")
    if not isinstance(when, Mapping):
        raise NestRecError(f"{place}: when is {when!r}; expected {{setting: [values]}}")
    if kind != "choice":
        _check_numbers(kind, values, place)
    conditions = {key: value if isinstance(value, list) else [value] for key, value in when.items()}
    return Dimension(name, kind, tuple(_as_list(value) for value in values), conditions)


def _as_list(value: Any) -> Any:
    """Tuples as the lists that a file has in their place."""
    return [_as_list(one) for one in value] if isinstance(value, (list, tuple)) else value


def _check_numbers(kind: str, values: list[Any], place: str) -> None:
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    if not numbers or len(values) != KINDS[kind] or not all(map(math.isfinite, values)):
        needed = "low, high and step" if kind == "quniform" else "low and high"
        raise NestRecError(f"{place}: {kind} is {values!r}; expected the numbers {needed}")
    low, high = values[:2]
    widest = (high - low) * (1 + 1e-9)  # of a step: 0.3 - 0.1 is less than 0.2
    if low >= high or (kind == "loguniform" and low <= 0) or (kind == "quniform" and not 0 < values[2] <= widest):
        bounds = {"loguniform": "0 < low < high", "quniform": "low < high and a step that fits between"}
        raise NestRecError(f"{place}: {kind} is {values!r}; expected {bounds.get(kind, 'low < high')}")


def _read_hyper(path: Path) -> dict[str, Any]:
    """RecBole's format: a line is ``name kind values``; its loguniform takes the logarithms of the bounds."""
    described: dict[str, Any] = {}
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise NestRecError(f"{path}: not UTF-8 text ({error})") from None
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if len(words) < 3:  # RecBole passes over them too
            continue
        name, kind, values = words[0], words[1], "".join(words[2:])
        try:
            parsed = ast.literal_eval(values if kind == "choice" else f"[{values}]")
        except (SyntaxError, ValueError):
            raise NestRecError(f"{path}: line {number}: {values} is no list of values") from None
        if kind == "choice" and isinstance(parsed, (list, tuple)):
            parsed = [_literal(value) for value in parsed]
        if kind == "loguniform" and all(isinstance(value, (int, float)) and value < 700 for value in parsed):
            parsed = [float(f"{math.exp(value):.12g}") for value in parsed]
        described[name] = {kind: list(parsed) if isinstance(parsed, (list, tuple)) else parsed}
    return described


def _literal(value: Any) -> Any:
    """A list that stands in quotation marks, as in RecBole's own files: ``'[64,32]'``."""
    if not isinstance(value, str) or not value.startswith(("[", "(")):
        return value
    try:
        return ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return value
