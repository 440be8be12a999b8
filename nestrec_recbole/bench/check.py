"""Everything that is wrong with a suite, said at once, before anything runs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole.utils import get_model

from nestrec_recbole.bench.keys import PROTOCOL
from nestrec_recbole.bench.referred import drop_protocol, read_referred
from nestrec_recbole.bench.resolve import REFERENCE, defaults, resolve
from nestrec_recbole.bench.run import LIST_METRICS
from nestrec_recbole.bench.shape import NUMBER, as_dict, is_a, well_formed, wrong_shape
from nestrec_recbole.bench.suite import DatasetSpec, ModelSpec, Suite, build_suite, find_suite, read_yaml
from nestrec_recbole.bench.tuning import plan_of, space_of
from nestrec_recbole.data.reading import no_such_dataset
from nestrec_recbole.errors import NestRecError, first_line, unknown
from nestrec_recbole.files import sha256_of
from nestrec_recbole.settings.checks import check
from nestrec_recbole.settings.values import decisive

_RANKED = ("hit", "ndcg", "recall", "mrr")
_OF_LISTS = ("coverage", *LIST_METRICS, "diversity")
Configs = dict[tuple[str, str], Any]  # (row, dataset) to what its settings come to
EVERYWHERE = (*PROTOCOL, "feature_path")  # the same for all rows, wherever it is said


class SuiteError(NestRecError):
    """A suite with mistakes: ``lines`` has one line for each."""

    def __init__(self, path: Path, lines: list[str]) -> None:
        self.lines = [f"{path}: {line}" for line in dict.fromkeys(lines)]
        super().__init__("\n".join(self.lines))


def read_suite(
    named: str, given: Mapping[str, Any] | None = None, rows: Sequence[str] = (), datasets: Sequence[str] = ()
) -> Suite:
    """Read a suite and check all of it.

    Parameters
    ----------
    named : str
        A YAML file, or the name of a suite that ships.
    given : mapping, optional
        Settings that go over all others.
    rows, datasets : sequences of str
        Which are to run, all by default: the others need not know what is given.

    Raises
    ------
    NestRecError
        When there is no such file, or no YAML in it.
    SuiteError
        With a line for everything that is wrong.
    """
    path = find_suite(named)
    found, wrong = read_yaml(path)
    given = given or {}
    wrong += wrong_shape(found)
    if wrong:  # go on with what is well-formed
        found = well_formed(found)
    if not found:
        raise SuiteError(path, wrong)
    found, files, unread = read_referred(found, path.parent)
    suite, other_protocol = drop_protocol(build_suite(found, given), files)
    as_written = suite.as_written(EVERYWHERE)
    configs: Configs = {}
    wrong += [*unread, *other_protocol, *_settings(as_written, configs), *_metrics(suite)]
    wrong += [*_tuning(as_written, configs), *_twins(as_written, configs)]
    if given and not wrong:
        wrong += _settings(suite.select(rows, datasets, ()), {})
    if wrong:
        raise SuiteError(path, wrong)
    return suite


def _settings(suite: Suite, configs: Configs) -> Iterator[str]:
    """Unknown models and datasets; unknown and ill-typed settings; what only validation data may decide.

    What the settings of a row come to is put into ``configs``, where they are right.
    """
    levels = [("settings", suite.settings), *((f"datasets.{data.name}", data.settings) for data in suite.datasets)]
    for row in suite.rows:
        own = [(f"models.{row.name}", row.settings), *((f"models.{row.name}.on.{on}", s) for on, s in row.on.items())]
        for where, given in own:
            yield from (
                f"{where}: {key!r} must be the same for every row of a dataset; set it under `settings` or `datasets`"
                for key in given
                if key in PROTOCOL
            )
        levels += own
    for where, given in [*levels, ("command line", suite.given)]:
        yield from _not_of_a_row(where, given)
    for data in suite.datasets:
        missing = _missing(suite, data)
        if missing:
            yield f"datasets.{data.name}: {missing}"
        else:
            yield from _copies(suite, data)
        yield from _of_models(suite, data, configs)


def _not_of_a_row(where: str, given: Mapping[str, Any]) -> Iterator[str]:
    for key in ("seed", "model", "dataset"):
        if key in given:
            yield f"{where}: {key!r} is no setting of a suite; it has `{key}s`"
    files = given.get("benchmark_filename") or []
    if isinstance(files, list) and files and (len(set(files)) < len(files) or len(files) != 3):
        yield f"{where}: benchmark_filename is {files}: what is tested on must not train or choose; name three files"
    if as_dict(given.get("eval_args")).get("mode", "full") != "full":
        yield f"{where}: eval_args.mode: runs rank the whole catalogue; set `candidates` to rank among drawn items too"
    if "split" in as_dict(given.get("eval_args")):
        yield from (f"{where}: eval_args.split is {line}" for line in _split(given["eval_args"]["split"]))


def _split(split: Any) -> Iterator[str]:
    """Why there would be nothing to train on, to choose by or to test on."""
    if not isinstance(split, dict) or len(split) != 1 or not split.keys() <= {"LS", "RS", "TS"}:
        yield f"{split!r}; expected one of LS, RS or TS, as {{LS: valid_and_test}}"
        return
    ((kind, parts),) = split.items()
    if kind == "LS":
        if parts != "valid_and_test":
            yield f"{split}: no validation data is left to choose the epoch by"
        return
    shares = parts if isinstance(parts, list) else []
    if len(shares) != 3 or not all(is_a(share, NUMBER) and share > 0 for share in shares):
        yield f"{split}; expected three shares above 0, for training, validation and test: {{{kind}: [0.8, 0.1, 0.1]}}"


def _folder(suite: Suite, data: DatasetSpec) -> Path:
    """Where the atomic files of a dataset are to lie."""
    path = suite.settings_of_data(data).get("data_path") or "dataset_atomic/"
    return Path(resolve(REFERENCE, data.dataset, {"data_path": path})["data_path"])


def _missing(suite: Suite, data: DatasetSpec) -> str:
    """Why a dataset cannot be had; empty where it can."""
    try:
        folder = _folder(suite, data)
    except (ValueError, OSError) as error:
        return first_line(error)
    if any(folder.glob(f"{data.dataset}*.inter")):
        return ""
    return no_such_dataset(data.dataset, folder)


def _copies(suite: Suite, data: DatasetSpec) -> Iterator[str]:
    """Benchmark files of two names that say the same."""
    named = suite.settings_of_data(data).get("benchmark_filename")
    if not isinstance(named, list):
        return
    paths = {name: _folder(suite, data) / f"{data.dataset}.{name}.inter" for name in dict.fromkeys(named)}
    hashes = {name: sha256_of(path) for name, path in paths.items() if path.is_file()}
    for one, other in itertools.combinations(hashes, 2):
        if hashes[one] == hashes[other]:
            yield (
                f"datasets.{data.name}: {paths[one].name} and {paths[other].name} are copies: what is tested on must "
                "not train or choose"
            )


def _of_models(suite: Suite, data: DatasetSpec, configs: Configs) -> Iterator[str]:
    """What each row has to say; of settings that rows share once, with the models that do not know them."""
    said: dict[str, list[str]] = {}
    for row in suite.rows:
        for line in _row_settings(suite, row, data, configs):
            said.setdefault(line, []).append(row.model)
    models = {row.model for row in suite.rows}
    for line, of in said.items():
        some = f"{line} (of {', '.join(dict.fromkeys(of))}; rows may have `settings` of their own)"
        yield line if line.startswith("models") or models == set(of) else some


def _row_settings(suite: Suite, row: ModelSpec, data: DatasetSpec, configs: Configs) -> Iterator[str]:
    """Every setting by itself against what the model knows, then all of them together."""
    where = f"models.{row.name}"
    try:
        get_model(row.model)
        known = defaults(row.model, data.dataset)
    except (ValueError, ImportError, AttributeError) as error:
        yield f"{where}: {first_line(error)}"
        return
    wrong: set[str] = set()
    for level, given in (
        ("settings", suite.settings),
        (f"datasets.{data.name}", data.settings),
        (where, row.settings),
        (f"{where}.on.{data.name}", row.on.get(data.name, {})),
        ("command line", suite.given),
    ):
        for key, value in given.items():
            try:
                check({key: value}, known)
            except (ValueError, AttributeError, TypeError) as error:
                wrong.add(key)
                yield f"{level}: {first_line(error)}"
    try:
        rest = {key: value for key, value in suite.settings_of(row, data).items() if key not in wrong}
        config = resolve(row.model, data.dataset, rest)
        if not wrong:
            configs[row.name, data.name] = config
    except (ValueError, NotImplementedError, OSError, RuntimeError, TypeError, KeyError) as error:
        yield f"{where}, on {data.name}: {first_line(error)}"


def _metrics(suite: Suite) -> Iterator[str]:
    """Columns of the table that no run computes."""
    for data in suite.datasets:
        given = suite.settings_of_data(data)
        topk = given.get("topk") or [10]
        suffixes = ["", "_f", *(["_c"] if given.get("candidates") else [])]
        named = [(m, s) for m, s in itertools.product(_RANKED, suffixes)]
        named += [(m, s) for m, s in itertools.product(_OF_LISTS, ("", "_f"))]
        hidden = (("hidden_items", ("_cold", "_warm")), ("hidden_users", ("_new", "_known")))
        groups = [suffix for setting, both in hidden if given.get(setting) for suffix in both]
        named += [(m, s + group) for m, s in itertools.product(_RANKED, suffixes) for group in groups]
        topk = topk if isinstance(topk, list) else [topk]
        computed = [f"{m}@{k}{s}" for k in topk for m, s in named]
        for metric in suite.metrics:
            if metric not in computed:
                yield f"metrics: {_not_computed(str(metric), data.name, topk, computed)}"


def _not_computed(metric: str, data: str, topk: list[int], computed: list[str]) -> str:
    """Why no run on a dataset computes a metric, and what to do."""
    found = re.fullmatch(r"(\w+)@(\d+)(_[a-z_]+)?", metric)
    if found is None or found[1] not in (*_RANKED, *_OF_LISTS):
        return unknown("metric", metric, computed)
    if int(found[2]) not in topk:
        return f"{metric}: topk is {topk} on {data}; add {found[2]} to `topk`"
    needs = {"_c": "candidates", "_cold": "hidden_items", "_warm": "hidden_items", "_new": "hidden_users"}
    needs["_known"] = "hidden_users"
    missing = [setting for suffix, setting in needs.items() if suffix in re.findall("_[a-z]+", found[3] or "")]
    if found[1] in _RANKED and missing:
        return f"{metric}: not on {data}, which has not all it needs; set {' and '.join(f'`{one}`' for one in missing)}"
    return unknown("metric", metric, computed)


def _tuning(suite: Suite, configs: Configs) -> Iterator[str]:
    """Budgets and spaces that a search would refuse."""
    if suite.tune is None:
        for row in suite.rows:
            if row.space:
                yield f"models.{row.name}.space: the suite has no `tune`, so nothing is searched; add it, or drop this"
        return
    try:
        plan_of(suite.tune)
    except NestRecError as error:
        yield f"tune: {error}"
    for row, data in itertools.product(suite.rows, suite.datasets):
        config = configs.get((row.name, data.name))
        if config is None:
            continue
        try:
            space = space_of(row.model, row.space, suite.own_settings(row, data))
            if not isinstance(space, str):
                space.checked(config.internal_config_dict)
        except NestRecError as error:
            yield f"models.{row.name}: {error}"


def _twins(suite: Suite, configs: Configs) -> Iterator[str]:
    """Rows, and datasets, that come to the same, by what they say and by defaults."""

    def comes_to(row: ModelSpec, data: DatasetSpec) -> Any:
        config = configs.get((row.name, data.name))
        settings = suite.settings_of(row, data) if config is None else decisive(config)
        place = {key: suite.settings_of(row, data).get(key) for key in ("data_path", "init_from")}
        return [row.model, row.space, data.dataset, place, config is None, settings]

    table = {(row.name, data.name): comes_to(row, data) for row in suite.rows for data in suite.datasets}
    for one, other in itertools.combinations(suite.rows, 2):
        if all(table[one.name, data.name] == table[other.name, data.name] for data in suite.datasets):
            yield (
                f"models.{other.name} is the same as models.{one.name}: both come to the same settings; leave one of "
                "the rows out"
            )
    for first, second in itertools.combinations(suite.datasets, 2):
        if all(table[row.name, first.name] == table[row.name, second.name] for row in suite.rows):
            yield f"datasets.{second.name} is the same as datasets.{first.name} for every row; leave one out"
