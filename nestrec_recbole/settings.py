"""Checking a config: unknown keys, ill-typed values, and values out of range are errors that name the right one."""

from __future__ import annotations

import re
from typing import Any

import yaml
from recbole.evaluator import metric_types
from recbole.utils import dataset_arguments, evaluation_arguments, general_arguments, training_arguments

from nestrec_recbole.errors import NestRecError, unknown
from nestrec_recbole.layers.objective import LOSSES, NEGATIVES

# Keys that RecBole reads but lists in none of its files.
_OF_RECBOLE = {
    *general_arguments,
    *training_arguments,
    *evaluation_arguments,
    *dataset_arguments,
    *("model", "dataset", "config_files", "config_file_list", "encoding", "eval_type", "nproc", "world_size", "ip"),
    *("port", "offset", "local_rank", "MODEL_TYPE", "MODEL_INPUT_TYPE", "device", "single_spec"),
}
_CHOICES = {
    "loss": LOSSES,
    "negatives": NEGATIVES,
    "precision": ("fp32", "bf16", "fp16"),
    "schedule": ("constant", "cosine", "linear", "step", "plateau"),
    "activation": ("gelu", "swiglu"),
    "residual": ("plain", "gated"),
    "learner": ("adam", "adamw", "sgd"),
}
_POSITIVE = ("epochs", "train_batch_size", "eval_batch_size", "accumulation_steps", "hidden_size", "n_negatives")


def yaml_loader() -> type[yaml.SafeLoader]:
    """A safe YAML loader that, as RecBole's, reads ``1e-3`` as a number."""

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))
    return Loader


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
            if inside or key not in _OF_RECBOLE:
                raise NestRecError(unknown("config key", name, [f"{inside}{k}" for k in defaults]))
            continue
        default = defaults[key]
        if value is None or default is None or key in ("item_fields", "eval_args", "gpu_id"):
            continue
        if not _fits(value, default):
            expected = f"list of {type(default[0]).__name__}" if isinstance(default, list) else type(default).__name__
            raise NestRecError(f"config key {name!r} is {value!r} ({type(value).__name__}); expected {expected}")
        if key == "metrics":
            for metric in [value] if isinstance(value, str) else value:
                if metric.lower() not in metric_types:
                    raise NestRecError(unknown("metric", metric, metric_types))
        if key == "llm":
            check(value, default, f"{name}.")


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(default, int):
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(default, list):  # one value stands for a list of it, as in RecBole
        values = value if isinstance(value, (list, tuple)) else [value]
        return not default or (bool(values) and all(_fits(one, default[0]) for one in values))
    return isinstance(value, type(default))


def check_values(config: Any) -> None:
    """Refuse settings that are of the right type and still make no sense."""
    for key, choices in _CHOICES.items():
        if key in config and config[key] not in choices:
            raise NestRecError(f"config key {key!r} is {config[key]!r}; expected one of {', '.join(choices)}")
    for key in (*_POSITIVE, "MAX_ITEM_LIST_LENGTH"):
        if key in config and config[key] < 1:
            raise NestRecError(f"config key {key!r} is {config[key]!r}; expected a whole number from 1")
    _check_metrics(config)
    if config["n_heads"] and config["hidden_size"] % config["n_heads"]:
        raise NestRecError(f"hidden_size {config['hidden_size']} is not a multiple of n_heads {config['n_heads']}")
    temperature, learned = config["temperature"], config["learn_temperature"]
    if temperature <= 0 or (learned and not 0.01 <= temperature <= 1):
        bounds = "from 0.01 to 1, where it is learned" if learned else "above 0"
        raise NestRecError(f"temperature is {temperature}: expected a number {bounds}")
    for key in ("save_dataset", "save_dataloaders"):
        if config[key]:
            raise NestRecError(f"config key {key!r}: RecBole would write a pickle; leave it off, reading is fast here")


def _check_metrics(config: Any) -> None:
    names = [name.lower() for name in config["metrics"]]
    metric, _, k = str(config["valid_metric"]).lower().partition("@")
    if metric not in names:
        computed = ", ".join(config["metrics"])
        raise NestRecError(f"valid_metric is {config['valid_metric']!r}, but metrics are {computed}")
    if k.removesuffix("_f") not in {"", *map(str, config["topk"])}:
        raise NestRecError(f"valid_metric is {config['valid_metric']!r}, but topk is {config['topk']}")
