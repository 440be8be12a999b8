"""From a suite to the runs that it asks for: data described, fields encoded, rows tuned, keys known."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from nestrec_recbole import own_models, plugin
from nestrec_recbole.bench.card import write_card
from nestrec_recbole.bench.check import EVERYWHERE
from nestrec_recbole.bench.keys import PROTOCOL, run_key
from nestrec_recbole.bench.resolve import REFERENCE, resolve, under_protocol
from nestrec_recbole.bench.suite import DatasetSpec, ModelSpec, Suite
from nestrec_recbole.bench.tuning import space_of, tune_row
from nestrec_recbole.data.content import COMPARABLE
from nestrec_recbole.data.dataset import SequenceDataset
from nestrec_recbole.encode.items import ensure_item_features, read_recipes
from nestrec_recbole.encode.sources import item_path
from nestrec_recbole.errors import NestRecError, in_one_line
from nestrec_recbole.fingerprints import code_version

_PLACES = ("data_path", "feature_path")


@dataclass(frozen=True)
class RunOptions:
    """How a suite is run, which changes nothing of what it is.

    Attributes
    ----------
    named : str
        The suite, as it was named.
    jobs : int or None
        Runs at a time; None: as many as a cluster has room for.
    threads : int
        Of each run.
    gpus : tuple of str
        Of this machine, as CUDA_VISIBLE_DEVICES names them; runs take turns with them.
    address : str, optional
        Of a Ray cluster.
    keep_failed : bool
        Leave failed runs as they are.
    tune : bool
        Whether to tune where the suite says so.
    keep_weights : bool
        Whether runs leave their weights beside their ranks.
    """

    named: str
    jobs: int | None
    threads: int
    gpus: tuple[str, ...] = ()
    address: str | None = None
    keep_failed: bool = False
    tune: bool = True
    keep_weights: bool = False


@dataclass(frozen=True)
class PlannedRun:
    """A run to be.

    Attributes
    ----------
    name : str
        In the progress.
    key : str
        Rows that come to the same settings have the same, and share the run.
    spec : dict
        What the worker is told.
    command : callable
        Threads to the shell line that does it again.
    """

    name: str
    key: str
    spec: dict[str, Any]
    command: Callable[[int], str]

    @property
    def place(self) -> tuple[str, str, int]:
        """Row, dataset and seed."""
        return self.spec["run"]["row"], self.spec["run"]["dataset"], self.spec["run"]["seed"]


def plan(
    suite: Suite, chosen: Suite, folder: Path, options: RunOptions, say: Callable[[str], None]
) -> list[PlannedRun]:
    """Prepare what runs share, and list them, seed after seed so that every row has a first result soon.

    Parameters
    ----------
    suite, chosen : Suite
        The whole, and the part of it that is to run; its rows are listed with every seed of the suite.
    folder : Path
        Of the results.
    """
    runs: list[PlannedRun] = []
    for data in chosen.datasets:
        say(f"{data.name}: reading")
        reference = _reference(suite, data)
        card, digest = write_card(reference, data.name, folder / "datasets")
        content = _content(suite, chosen, data, reference)
        for row in chosen.rows:
            settings = suite.settings_of(row, data)
            tuning, broken = _tuned(suite, row, data, settings, digest, folder, options, say)
            settings |= tuning.get("best", {})
            config = resolve(row.model, data.dataset, settings)
            features = _features(config, say)
            for seed in suite.seeds:
                config["seed"] = seed
                key = run_key(
                    config, digest, features | {f"content {path.name}": path for path in content}, code_version()
                )
                command = partial(_command, suite, row, data, seed, tuning, options.named)
                about = {
                    **{"key": key, "row": row.name, "model": row.model, "dataset": data.name, "data": card.name},
                    **{"seed": seed, "baseline": row.baseline, "settings": settings, "tuning": tuning},
                    **{"code": code_version(), "command": command(options.threads)},
                }
                spec = {
                    **{
                        "model": row.model,
                        "dataset": data.dataset,
                        "run": about,
                        "threads": options.threads,
                        "gpu": None,
                        "keep_weights": options.keep_weights,
                    },
                    "settings": {
                        **under_protocol(row.model, data.dataset, settings),
                        **_places(config, data),
                        "seed": seed,
                    },
                    "content": [str(path.resolve()) for path in content],
                    "time_limit": suite.time_limit,
                    "broken": broken,
                }
                runs.append(PlannedRun(f"{row.name} on {data.name}, seed {seed}", key, spec, command))
    return sorted(runs, key=lambda one: suite.seeds.index(one.place[2]))


def _reference(suite: Suite, data: DatasetSpec) -> Any:
    """A config of a dataset alone."""
    known = (*PROTOCOL, *_PLACES, "item_fields", "load_col", "alias_of_item_id")
    given = {key: value for key, value in suite.settings_of_data(data).items() if key in known}
    topk = given.get("topk") or [10]
    given["valid_metric"] = f"NDCG@{max(topk) if isinstance(topk, list) else topk}"  # each row has its own
    return resolve(REFERENCE, data.dataset, given)


def _content(suite: Suite, chosen: Suite, data: DatasetSpec, reference: Any) -> list[Path]:
    """Stores of the text and image fields that diversity is measured by, for every row the same.

    Encoded where a row looks at items anyway, or the table shows diversity.
    """
    shown = any(metric.startswith("diversity") for metric in suite.metrics)
    as_written = suite.as_written(EVERYWHERE)
    of = ((suite if row in chosen.rows else as_written, row) for row in suite.rows)
    configs = (resolve(row.model, data.dataset, own.settings_of(row, data)) for own, row in of)
    if not item_path(reference).is_file() or not (shown or any(map(plugin.looks_at_items, configs))):
        if shown:
            raise NestRecError(
                f"suite {suite.name!r}: metrics name diversity, but {item_path(reference)} does not exist"
            )
        return []
    fields = read_recipes(reference)
    reference["item_fields"] = {
        name: reference["item_fields"][name] for name, recipe in fields.items() if recipe.modality in COMPARABLE
    }
    if not reference["item_fields"]:
        if shown:
            raise NestRecError(
                f"suite {suite.name!r}: metrics name diversity, but {data.name} has neither text nor image"
            )
        return []
    return list(ensure_item_features(reference, SequenceDataset(reference).training_items).values())


def _features(config: Any, say: Callable[[str], None]) -> dict[str, Path]:
    """The stores of a row's item fields, encoded once before runs would do it side by side."""
    if not plugin.looks_at_items(config):
        return {}
    try:
        return ensure_item_features(config, lambda: SequenceDataset(config).training_items())
    except NestRecError as error:  # its runs will say the same, each in a row of the table
        say(f"{config['model']}: {error}")
        return {}


def _tuned(
    suite: Suite,
    row: ModelSpec,
    data: DatasetSpec,
    settings: dict[str, Any],
    digest: str,
    folder: Path,
    options: RunOptions,
    say: Callable[[str], None],
) -> tuple[dict[str, Any], str | None]:
    """What tuning a row got and found, or why it got none; and why it failed, where it did."""
    if not suite.tune or not options.tune:
        return {"trials": 0, "why": "--no-tune" if suite.tune else "the suite has no `tune`"}, None
    given = under_protocol(row.model, data.dataset, settings) | {"seed": suite.seeds[0]}
    made_of = [digest, code_version()]
    cluster: dict[str, Any] = {"cpus": float(options.threads), "gpus": 1.0 if options.gpus else 0.0}
    cluster |= {"address": None if options.address == "local" else options.address}
    try:
        space = space_of(row.model, row.space, suite.own_settings(row, data))
        if isinstance(space, str):
            return {"trials": 0, "why": space}, None
        asked = [f"{suite.tune[unit]} {unit}" for unit in ("trials", "hours") if unit in suite.tune]
        say(f"{row.name} on {data.name}: tuning, {', '.join(asked)}")
        place = folder / "tuning"
        return tune_row(row.model, data.dataset, given, space, suite.tune, made_of, place, say, **cluster), None
    except Exception as error:  # whatever it is, its runs will say it, each in a row of the table
        why = f"tuning failed: {in_one_line(error)}"
        return {"trials": 0, "why": why}, why


def _places(config: Any, data: DatasetSpec) -> dict[str, str]:
    """Where data and features lie, whatever folder the worker stands in."""
    given = {"data_path": os.path.dirname(os.path.abspath(config["data_path"]))}  # the folder itself may be a link
    if config["feature_path"]:
        given["feature_path"] = str(Path(config["feature_path"]).resolve())
    return given


def _command(
    suite: Suite, row: ModelSpec, data: DatasetSpec, seed: int, tuning: Mapping[str, Any], named: str, threads: int
) -> str:
    """The shell line that does a run again, into a results folder of its own."""
    words = ["nestrec", "benchmark", named, "--only", row.name, "--dataset", data.name, "--seeds", str(seed)]
    words += ["--threads", str(threads), "--results", "reproduced"]
    words += ["--no-tune"] if suite.tune else []
    words += [word for path in own_models.files() for word in ("--models", str(path))]
    given = {**suite.given, **tuning.get("best", {})}
    return shlex.join([*words, *(f"--{key}={as_word(value)}" for key, value in given.items())])


def as_word(value: Any) -> str:
    """A setting as it is written on a command line."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")


def from_word(word: str) -> Any:
    """What :func:`as_word` wrote."""
    from nestrec_recbole.settings.shipped import yaml_loader

    return yaml.load(word, Loader=yaml_loader())


def default_threads(jobs: int) -> int:
    """Threads of each of so many runs at a time on this machine; ``OMP_NUM_THREADS`` in the environment at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    said = os.environ.get("OMP_NUM_THREADS", "")
    most = int(said) if said.isdecimal() and int(said) else cores
    return max(1, min(most, cores // jobs))


def all_runs(suite: Suite) -> Sequence[tuple[str, str, int]]:
    """(row, dataset, seed) of every run of a suite."""
    return [(row.name, data.name, seed) for row in suite.rows for data in suite.datasets for seed in suite.seeds]
