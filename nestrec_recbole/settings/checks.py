"""Checking a config: unknown keys, ill-typed values, and values out of range are errors that name the right one."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable
from logging import getLogger
from types import NoneType
from typing import Any

from recbole.evaluator import metric_types
from recbole.utils import EvaluatorType, dataset_arguments, evaluation_arguments, general_arguments, training_arguments

from nestrec_recbole.data.domains import has_target
from nestrec_recbole.encode.recipe import KEYS as RECIPE_KEYS
from nestrec_recbole.errors import NestRecError, unknown
from nestrec_recbole.models.objective import DRAWING
from nestrec_recbole.settings.rules import rule_of
from nestrec_recbole.settings.shipped import models_with

# Keys that RecBole reads, those that it lists and the others.
_OF_RECBOLE = {*general_arguments, *training_arguments, *evaluation_arguments, *dataset_arguments} | {
    "model",
    "dataset",
    "config_files",
    "config_file_list",
    "encoding",
    "eval_type",
    "tail_ratio",
    "nproc",
    "world_size",
    "ip",
    "port",
    "offset",
    "local_rank",
    "MODEL_TYPE",
    "MODEL_INPUT_TYPE",
    "device",
    "single_spec",
}
# What RecBole's settings without a default are.
_KINDS = {
    **dict.fromkeys(("val_interval", "threshold", "seq_len", "unload_col", "unused_col", "preload_weight"), dict),
    **dict.fromkeys(("alias_of_user_id", "alias_of_item_id", "normalize_field"), list),
}
# What RecBole's models, and others, call what has another name here.
_OTHER_NAMES = {
    "loss_type": "loss",
    "hidden_act": "activation",
    "dropout_prob": "hidden_dropout_prob",
    "dropout": "hidden_dropout_prob",
    "lr": "learning_rate",
    "patience": "stopping_step",
    "batch_size": "train_batch_size",
    "embedding_size": "hidden_size",
    "max_len": "MAX_ITEM_LIST_LENGTH",
}
# RecBole's Config evaluates what looks like Python: "[3,8]" arrives as a list.
_ANY_TYPE = (
    *("domain_field", "item_fields", "eval_args", "gpu_id", "user_inter_num_interval", "item_inter_num_interval"),
    "additional_feat_suffix",  # one or a list of them
)


def check_known(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse keys that are neither among the known ones nor RecBole's own; the error names the nearest.

    Raises
    ------
    NestRecError
        On the first.
    """
    known = {*known, *_OF_RECBOLE}
    for key in given:
        if key not in known:
            raise NestRecError(unknown("config key", key, sorted(known)))


def check(given: dict[str, Any], defaults: dict[str, Any], inside: str = "") -> None:
    """Compare what a user gives with the defaults: every key must be known and of its default's type.

    Raises
    ------
    NestRecError
        On the first key that is not known, or value of another type.
    """
    for key, value in given.items():
        name = f"{inside}{key}"
        if key not in defaults:
            outer, *parts = key.split(".")
            if parts and outer in defaults and isinstance(defaults[outer], (dict, NoneType)):  # merged() was not asked
                within = functools.reduce(lambda what, part: f"{{{part}: {what}}}", reversed(parts), "...")
                raise NestRecError(f"config key {key!r}: write `{outer}: {within}` here")
            if inside or key not in _OF_RECBOLE:
                owners = [] if inside else models_with(outer)
                if owners:
                    raise NestRecError(
                        f"config key {key!r}: this model does not read it; models that do: {', '.join(owners)}"
                    )
                known = [f"{inside}{k}" for k in defaults]
                if _OTHER_NAMES.get(key) in known:
                    raise NestRecError(f"unknown config key {key!r}; here it is {_OTHER_NAMES[key]!r}")
                raise NestRecError(unknown("config key", name, known))
            continue
        default = defaults[key]
        if key in _KINDS and value is not None and not isinstance(value, _KINDS[key]):
            raise NestRecError(f"config key {key!r} is {value!r}; expected {_KINDS[key].__name__}")
        if not _fits(value, default) and key not in _ANY_TYPE:
            expected = f"list of {type(default[0]).__name__}" if isinstance(default, list) else type(default).__name__
            raise NestRecError(f"config key {name!r} is {value!r} ({type(value).__name__}); expected {expected}")
        _check_inside(key, value)
        if key == "llm":
            check(value or {}, default, f"{name}.")


def check_words(given: dict[str, Any], defaults: dict[str, Any]) -> None:
    """As :func:`check`, of what RecBole has read from the command line, which may have been meant for a script."""
    try:
        check(given, defaults)
    except NestRecError as error:
        raise NestRecError(f"{error} (on the command line, which RecBole reads)") from None


def take_tuples(given: dict[str, Any]) -> None:
    """Take a tuple for the list that RecBole demands: ``topk: (5, 10)``."""
    given |= {key: list(given[key]) for key in ("topk", "metrics") if isinstance(given.get(key), tuple)}


def refuse_processes(words: dict[str, Any], given: dict[str, Any]) -> None:
    """Refuse ``--nproc`` on the command line, which RecBole's launcher alone reads: it then says ``local_rank`` too."""
    n = words.get("nproc", 1)
    if n != 1 and "local_rank" not in given:
        raise NestRecError(
            f"nproc is {n!r}, which starts no processes here; write "
            f"`torchrun --nproc_per_node={n} -m nestrec_recbole.cli run ...` instead"
        )


def _check_inside(key: str, value: Any) -> None:
    """Compare the keys inside settings that are read one by one, so that a wrong one would be passed over."""
    if key == "item_fields" and isinstance(value, dict):
        for field, how in value.items():
            _check_known(f"{key}.{field}", how, RECIPE_KEYS)
    if key == "eval_args":
        _check_known(key, value, ("split", "group_by", "order", "mode"))
    for metric in ([value] if isinstance(value, str) else value) if key == "metrics" else ():
        if metric_types.get(metric.lower()) is not EvaluatorType.RANKING:  # AUC and others rank nothing
            ranking = [name for name, kind in metric_types.items() if kind is EvaluatorType.RANKING]
            raise NestRecError(unknown("metric", metric, ranking))


def _check_known(name: str, group: Any, known: tuple[str, ...]) -> None:
    for inner in group if isinstance(group, dict) else ():
        if inner not in known:
            raise NestRecError(unknown("config key", f"{name}.{inner}", [f"{name}.{one}" for one in known]))


def _fits(value: Any, default: Any) -> bool:
    if default is None or (value is None and isinstance(default, dict)):
        return True
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(default, int):
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(default, list):  # one value stands for a list of it, as in RecBole
        values = value if isinstance(value, (list, tuple)) else [value]
        return not default or (bool(values) and all(_fits(one, default[0]) for one in values))
    if isinstance(default, str):
        return isinstance(value, (str, os.PathLike))
    return isinstance(value, type(default))


def complete(config: Any, defaults: dict[str, Any]) -> None:
    """Give ``llm``, which RecBole replaces as a whole, the defaults of the keys that are not set."""
    if "llm" in defaults:
        config["llm"] = {**defaults["llm"], **(config["llm"] or {})}


def fill_eval_args(given: dict[str, Any], ours: dict[str, Any]) -> None:
    """Give ``eval_args``, which RecBole too replaces as a whole, our values of the keys that a user leaves out.

    Else an ``eval_args`` that says nothing of the split would mean RecBole's, at random.
    """
    if isinstance(given.get("eval_args"), dict):
        given["eval_args"] = {**ours["eval_args"], **given["eval_args"]}


def fill_load_col(given: dict[str, Any], ours: dict[str, Any]) -> None:
    """Where ``load_col`` is not given, load what other settings name: ids, time, histories written out, filters.

    Parameters
    ----------
    given, ours : dict
        What a user gives; our defaults, of which ``load_col`` is changed.
    """
    if "load_col" in given or not isinstance(ours.get("load_col"), dict):
        return
    called = {"user_id": "USER_ID_FIELD", "item_id": "ITEM_ID_FIELD", "timestamp": "TIME_FIELD"}
    columns = [given.get(called.get(name, ""), name) for name in ours["load_col"].get("inter", [])]
    if given.get("benchmark_filename"):
        columns.append(f"{given.get('ITEM_ID_FIELD', 'item_id')}{given.get('LIST_SUFFIX', '_list')}")
    keys = ("alias_of_user_id", "alias_of_item_id", "coordinates", "val_interval", "normalize_field")
    naming = [given.get(key) for key in keys]
    asked = [name for names in naming if isinstance(names, (dict, list)) for name in names]
    inter = list(dict.fromkeys([*columns, *map(str, asked)]))
    ours["load_col"] = {**ours["load_col"], "inter": inter}


def check_values(config: Any, defaults: dict[str, Any]) -> None:
    """Refuse settings that are of the right type and still make no sense, or have no effect."""
    _check_by_rules(config, defaults)
    check_metrics(config)
    _check_together(config, defaults)
    _check_columns(config)
    _check_without_effect(config, defaults)
    _warn_of_start(config)
    _warn_of_other_losses(config, defaults)
    for phase, mode in config["eval_args"]["mode"].items():
        if mode == "labeled" or (mode != "full" and has_target(config)):
            why = "models here rank items" if mode == "labeled" else "its negatives are of all domains"
            raise NestRecError(f"eval_args.mode is {mode!r} for {phase}: {why}; set full, and `candidates` for samples")
    if has_target(config) and config["domain_loss"] != "all" and config["loss"] != "full_softmax":
        raise NestRecError(f"loss {config['loss']!r} is over all domains; set domain_loss: all, or loss: full_softmax")


# The losses that read a setting, and what MultimodalRec's pairs read of them.
_READ_BY = {
    **dict.fromkeys(("negatives", "n_negatives", "popularity_exponent"), DRAWING),
    **{"log_q": ("sampled_softmax",), "calibration": ("gbce",), "margin": ("triplet",), "symmetric": ("info_nce",)},
}
_OF_PAIRS = ("negatives", "popularity_exponent")


@functools.cache
def _warn_once(line: str) -> None:
    getLogger().warning(line)


def _warn_of_other_losses(config: Any, defaults: dict[str, Any]) -> None:
    """Say which settings are set and not read; a warning, as a file of settings may serve several losses."""
    for key, losses in _READ_BY.items():
        reads = config["loss"] in losses or (key in _OF_PAIRS and defaults.get("history") is not None)
        if key in defaults and config[key] != defaults[key] and not reads:
            _warn_once(f"config key {key!r} has no effect on loss: {config['loss']}; it is for {', '.join(losses)}")


_PICKLES = "RecBole would write a pickle; leave it off, reading is fast here"
_WITHOUT_EFFECT = {
    "enable_amp": "it has no effect here; use `precision: bf16` or `precision: fp16`",
    "threshold": "models of this package rank; leave interactions out with val_interval: {rating: '[3,inf)'}",
    "preload_weight": "make a field of it, `nestrec features DATASET --import FILE --as FIELD`",
    "transform": "models of this package take none",
    "save_dataset": _PICKLES,
    "save_dataloaders": _PICKLES,
}


def _check_without_effect(config: Any, defaults: dict[str, Any]) -> None:
    given = config["train_neg_sample_args"] or {}
    if str(given.get("distribution", "none")).lower() != "none":
        raise NestRecError("config key 'train_neg_sample_args' has no effect here; use `loss` and `negatives`")
    for key in ("mask_known", "mask_near_duplicates"):
        if config[key] and config[key] != defaults.get(key) and config["loss"] == "full_softmax":
            raise NestRecError(f"config key {key!r} has no effect on loss: full_softmax; leave it out, or sample")
    for key, why in _WITHOUT_EFFECT.items():
        if config[key]:
            raise NestRecError(f"config key {key!r} is {config[key]!r}: {why}")
    clip = config["clip_grad_norm"]
    if clip is not None and not (
        isinstance(clip, dict) and {*clip} <= {"max_norm", "norm_type"} and "max_norm" in clip
    ):
        raise NestRecError(f"config key 'clip_grad_norm' is {clip!r}; expected {{'max_norm': 1.0}}")


def _warn_of_start(config: Any) -> None:
    if config["item_start"] == "cooccurrence" and config["use_ids"] is False:
        _warn_once("item_start: cooccurrence has no effect here: there are no item ids (use_ids: False)")


def _check_by_rules(config: Any, defaults: dict[str, Any]) -> None:
    """Each setting by itself; where a model's default breaks the rule, the name means something else there."""
    for key, default in defaults.items():
        rule = rule_of(key)
        if rule is not None and rule.allows(default):
            given = config[key].lower() if key == "learner" else config[key]
            if not rule.allows(given):
                raise NestRecError(f"config key {key!r} is {config[key]!r}; expected {rule.expected}")


def _check_together(config: Any, defaults: dict[str, Any]) -> None:
    """Settings that are right by themselves and not beside each other."""
    if config["n_heads"] and config["hidden_size"] % config["n_heads"]:
        raise NestRecError(f"hidden_size {config['hidden_size']} is not a multiple of n_heads {config['n_heads']}")
    if defaults.get("llm") and not config["llm"]["path"] and config["hidden_size"] // config["n_heads"] % 2:
        raise NestRecError(
            f"hidden_size {config['hidden_size']} gives each of {config['n_heads']} heads an odd width; the language "
            "model turns pairs of numbers by the position: set hidden_size to a multiple of 2 x n_heads"
        )
    if config["learn_temperature"] and not 0.01 <= config["temperature"] <= 1:
        raise NestRecError(f"temperature is {config['temperature']}: expected a number from 0.01 to 1 to learn it from")


def _check_columns(config: Any) -> None:
    columns = config["coordinates"]
    if columns is not None and not (isinstance(columns, list) and len(columns) == 2):
        raise NestRecError(
            f"coordinates is {columns!r}; expected two columns of the .inter file, [latitude, longitude]"
        )


def check_metrics(config: Any) -> None:
    """Refuse a ``valid_metric`` that is not among what is computed."""
    names = [name.lower() for name in config["metrics"]]
    metric, _, k = str(config["valid_metric"]).lower().partition("@")
    if metric not in names:
        computed = ", ".join(config["metrics"])
        raise NestRecError(f"valid_metric is {config['valid_metric']!r}, but metrics are {computed}")
    if metric == "gauc" and not k:
        return
    parts = re.fullmatch(r"(\d*)(?:_([fc]))?(?:_(new|known|cold|warm))?", k)
    if parts is None:
        raise NestRecError(
            f"valid_metric is {config['valid_metric']!r}; expected a metric at k, then nothing, _f or _c, then "
            "nothing, _new, _known, _cold or _warm"
        )
    if parts[1] not in set(map(str, config["topk"])):
        instead = f"{config['metrics'][names.index(metric)]}@{max(config['topk'])}"
        raise NestRecError(
            f"valid_metric is {config['valid_metric']!r}, but topk is {config['topk']}; set valid_metric: {instead}"
        )
    needs = {"c": "candidates", "new": "hidden_users", "known": "hidden_users"}
    for setting in (needs.get(parts[2]), needs.get(parts[3], parts[3] and "hidden_items")):
        if setting and not config[setting]:
            raise NestRecError(f"valid_metric is {config['valid_metric']!r}, but {setting} is 0")
