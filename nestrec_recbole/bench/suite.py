"""A suite of runs as a YAML file: datasets x models x seeds, under one protocol."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from nestrec_recbole.errors import NestRecError, unknown
from nestrec_recbole.settings.shipped import yaml_loader

_HERE = Path(__file__).resolve().parent.parent
_SHIPPED = next((p for p in (_HERE / "suites", _HERE.parent / "benchmarks/suites") if p.is_dir()), _HERE / "suites")


@dataclass(frozen=True)
class ModelSpec:
    """A row of the table: a model with settings of its own.

    Attributes
    ----------
    settings : dict
        Over those of the suite and of the dataset.
    on : dict of str to dict
        Settings for one dataset, over the others.
    space : str or None
        File of what is searched for it; None: the model's own space, where it has one.
    """

    name: str
    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    on: dict[str, dict[str, Any]] = field(default_factory=dict)
    baseline: bool = False
    space: str | None = None


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset of a suite: the folder of atomic files, and settings for every row."""

    name: str
    dataset: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """What :func:`read_suite` reads."""

    name: str
    rows: tuple[ModelSpec, ...]
    datasets: tuple[DatasetSpec, ...]
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    tune: dict[str, Any] | None = None
    time_limit: float | None = None
    about: str = ""
    published: dict[str, Any] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)  # on the command line, over all others

    def settings_of(self, row: ModelSpec, data: DatasetSpec) -> dict[str, Any]:
        """All levels merged: suite, dataset, row, row on this dataset, command line."""
        return {**self.settings, **data.settings, **row.settings, **row.on.get(data.name, {}), **self.given}

    def own_settings(self, row: ModelSpec, data: DatasetSpec) -> dict[str, Any]:
        """What makes a row on a dataset that row: its own settings there, and the command line's."""
        return {**row.settings, **row.on.get(data.name, {}), **self.given}

    def as_written(self, but: Collection[str]) -> Suite:
        """The suite as its file has it, of the command line only these keys: rows that do not run know no others."""
        return replace(self, given={key: value for key, value in self.given.items() if key in but})

    def settings_of_data(self, data: DatasetSpec) -> dict[str, Any]:
        """Those of a dataset, whatever the row."""
        return {**self.settings, **data.settings, **self.given}

    def select(self, rows: Sequence[str], datasets: Sequence[str], seeds: Sequence[int]) -> Suite:
        """Keep the rows, datasets and seeds named; where none is, all of them.

        Raises
        ------
        NestRecError
            When a name or seed is not in the suite.
        """
        for kind, named, known in (
            ("row", rows, [row.name for row in self.rows]),
            ("dataset", datasets, [data.name for data in self.datasets]),
            ("seed", [str(seed) for seed in seeds], [str(seed) for seed in self.seeds]),
        ):
            for name in named:
                if name not in known:
                    raise NestRecError(f"suite {self.name!r}: {unknown(kind, name, known)}")
        return replace(
            self,
            rows=tuple(row for row in self.rows if not rows or row.name in rows),
            datasets=tuple(data for data in self.datasets if not datasets or data.name in datasets),
            seeds=tuple(seed for seed in self.seeds if not seeds or seed in seeds),
        )

    def as_yaml(self) -> str:
        """The suite as a file that :func:`read_suite` reads; what the command line said is in it."""

        def without_given(settings: dict[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in settings.items() if key not in self.given}

        def row(one: ModelSpec) -> dict[str, Any]:
            on = {name: without_given(settings) for name, settings in one.on.items()}
            own = {"settings": without_given(one.settings), "on": on, "space": one.space}
            return {"model": one.model, "baseline": one.baseline} | {key: value for key, value in own.items() if value}

        def data(one: DatasetSpec) -> dict[str, Any]:
            return {"dataset": one.dataset, "settings": without_given(one.settings)}

        found = {
            "name": self.name,
            "about": self.about,
            "datasets": {one.name: data(one) for one in self.datasets},
            "models": {one.name: row(one) for one in self.rows},
            "settings": {**self.settings, **self.given},
            "seeds": list(self.seeds),
            "metrics": list(self.metrics),
            "tune": self.tune,
            "time_limit": self.time_limit,
            "published": self.published,
        }
        kept = {key: value for key, value in found.items() if value or key in ("about", "settings")}
        return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=120)


def shipped_suites() -> list[str]:
    """Names of the suites that come with this package."""
    return sorted(path.stem for path in _SHIPPED.glob("*.yaml"))


def find_suite(named: str) -> Path:
    """The file of a suite: a path, or the name of one that ships.

    Raises
    ------
    NestRecError
        When there is no such file.
    """
    shipped = _SHIPPED / f"{named}.yaml"
    path = shipped if shipped.is_file() and not Path(named).is_file() else Path(named)
    if not path.is_file():
        raise NestRecError(f"{unknown('suite', named, shipped_suites())}; or give the path of a YAML file")
    return path


def read_yaml(path: Path) -> tuple[Mapping[str, Any], list[str]]:
    """What a YAML file says, and the keys that are in it twice, of which YAML keeps the last without a word.

    Raises
    ------
    NestRecError
        When it is no YAML, or not of ``key: value`` lines.
    """
    twice: list[str] = []

    class Loader(yaml_loader()):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            for key, _ in node.value:  # to YAML 1.1 `on` is true
                if key.tag == "tag:yaml.org,2002:bool" and key.value.lower() not in ("true", "false"):
                    key.tag = "tag:yaml.org,2002:str"
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
            for key in dict.fromkeys(key for key in keys if keys.count(key) > 1):
                twice.append(f"line {node.start_mark.line + 1}: {key!r} is there twice")
            return super().construct_mapping(node, deep)

    with open(path, encoding="utf-8") as file:
        try:
            found = yaml.load(file, Loader=Loader)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise NestRecError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(found, dict):
        raise NestRecError(f"{path}: expected `key: value` lines, found {type(found).__name__}")
    return found, list(dict.fromkeys(twice))


def build_suite(found: Mapping[str, Any], given: Mapping[str, Any]) -> Suite:
    """Make a suite of what its file says, which :mod:`nestrec_recbole.bench.check` has found to be well-formed."""

    def stated(about: Mapping[str, Any] | None) -> dict[str, Any]:
        return {key: value for key, value in (about or {}).items() if value is not None}

    rows = [ModelSpec(str(name), **{"model": str(name), **stated(about)}) for name, about in found["models"].items()]
    datasets = [
        DatasetSpec(str(name), **{"dataset": str(name), **stated(about)}) for name, about in found["datasets"].items()
    ]
    others = ("about", "settings", "tune", "time_limit", "published")
    return Suite(
        name=found["name"],
        rows=tuple(rows),
        datasets=tuple(datasets),
        seeds=tuple(found["seeds"]),
        metrics=tuple(found["metrics"]),
        given=dict(given),
        **{key: found[key] for key in others if found.get(key) is not None},
    )
