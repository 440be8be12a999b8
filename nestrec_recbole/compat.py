"""Repairs of RecBole 1.2.1 on current numpy, pandas, scipy, torch and ray.

Each repair is one function that says what breaks without it, does nothing where it is not needed, and may be called
again. :func:`apply` runs them all; importing :mod:`nestrec_recbole` does so.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import Logger
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

RECBOLE = "1.2.1"
checkpoint_readers: dict[str, Callable[..., dict[str, Any]]] = {}
"""Readers of checkpoint formats other than RecBole's own, by suffix; each returns a dict of RecBole's shape."""


def require_recbole() -> None:
    """Check that the RecBole and pandas this package is made for are installed.

    Raises
    ------
    ImportError
        When RecBole is missing or of another version, or pandas is 3 or later.
    """
    if importlib.util.find_spec("recbole") is None:
        raise ImportError(f"nestrec_recbole needs RecBole: pip install --no-deps recbole=={RECBOLE}")
    import recbole

    if recbole.__version__ != RECBOLE:
        raise ImportError(
            f"nestrec_recbole is made for RecBole {RECBOLE}, found {recbole.__version__}: "
            f"pip install --no-deps recbole=={RECBOLE}"
        )
    import pandas as pd

    if int(pd.__version__.split(".")[0]) >= 3:
        raise ImportError(
            f"RecBole {RECBOLE} reads token sequences and missing values wrongly with pandas {pd.__version__}, "
            "some of it silently: pip install 'pandas<3'"
        )


def apply() -> None:
    """Run every repair."""
    restore_numpy_names()
    import_without_ray()
    leave_anomaly_detection_off()
    keep_ksr_in_float32()
    restore_dok_update()
    fill_missing_in_place()
    readliterals_only()
    read_checkpoints_safely()
    read_datasets_safely()
    count_flops_in_place()
    let_metrics_count()


def restore_numpy_names() -> None:
    """``Config`` uses names that numpy 2 dropped: every run stops at ``np.float_``."""
    for name, now in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
        if name not in vars(np):
            setattr(np, name, now)


def import_without_ray() -> None:
    """``recbole.quick_start`` imports ray (seconds) and reports by keywords, which today's ``tune.report`` refuses."""
    with _placeholder_for_ray():
        quick_start = importlib.import_module("recbole.quick_start.quick_start")
    quick_start.tune = SimpleNamespace(report=_report_to_tune)  # type: ignore[attr-defined]


@contextmanager
def _placeholder_for_ray() -> Iterator[None]:
    if "ray" in sys.modules or "recbole.quick_start.quick_start" in sys.modules:
        yield
        return
    ray = ModuleType("ray")
    ray.tune = ModuleType("ray.tune")  # type: ignore[attr-defined]
    sys.modules.update({"ray": ray, "ray.tune": ray.tune})
    try:
        yield
    finally:
        for name in ("ray", "ray.tune"):
            if sys.modules.get(name) in (ray, ray.tune):
                del sys.modules[name]


def _report_to_tune(**metrics: Any) -> None:
    """Report to the Ray Tune trial this process runs, if it runs one."""
    if "ray.tune" in sys.modules:
        from ray import tune

        tune.report(metrics)


def leave_anomaly_detection_off() -> None:
    """RecBole's SINE switches autograd's anomaly detection on where it is imported: with any sequential model.

    Every training of the process then looks for NaN after each operation, and takes up to twice as long.
    """
    import torch

    was_on = torch.is_anomaly_enabled()
    importlib.import_module("recbole.model.sequential_recommender.sine")
    torch.autograd.set_detect_anomaly(was_on)


def keep_ksr_in_float32() -> None:
    """KSR multiplies its relation embeddings, float64 as numpy made them, with float32 weights, and stops."""
    from recbole.model.sequential_recommender.ksr import KSR

    build = KSR.__init__

    @functools.wraps(build)
    def build_in_float32(self: KSR, config: Any, dataset: Any) -> None:
        build(self, config, dataset)
        self.relation_Matrix = self.relation_Matrix.float()

    if not hasattr(build, "__wrapped__"):
        KSR.__init__ = build_in_float32


def let_metrics_count() -> None:
    """Metrics of coverage, popularity and the like stop: numbers and counters are moved to the CPU as if tensors."""
    from recbole.evaluator.collector import Collector

    move = Collector.get_data_struct

    @functools.wraps(move)
    def get_data_struct(self: Collector) -> Any:
        held = self.data_struct._data_dict
        counts = {name: held.pop(name) for name in list(held) if not hasattr(held[name], "cpu")}
        struct = move(self)
        held.update(counts)
        struct._data_dict.update(counts)
        return struct

    if not hasattr(move, "__wrapped__"):
        Collector.get_data_struct = get_data_struct


def restore_dok_update() -> None:
    """LightGCN, NGCF, GCMC, SpectralCF and NCL fill their graph through ``dok_matrix._update``, gone from scipy."""
    from scipy.sparse import dok_matrix

    if not hasattr(dok_matrix, "_update"):
        dok_matrix._update = lambda self, entries: self._dict.update(entries)


def fill_missing_in_place() -> None:
    """``df[column].fillna(inplace=True)`` does nothing under pandas' copy-on-write: NaN reaches the tensors."""
    import pandas as pd
    from recbole.data.dataset import Dataset

    def in_place(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def run(*args: Any, **kwargs: Any) -> Any:
            with pd.option_context("mode.copy_on_write", False), warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of pandas 3, which is refused
                return method(*args, **kwargs)

        return run

    for name in ("_load_feat", "_fill_nan"):
        if not hasattr(getattr(Dataset, name), "__wrapped__"):
            setattr(Dataset, name, in_place(getattr(Dataset, name)))


_HARMLESS = (ast.Expression, ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Load, ast.UnaryOp, ast.unaryop)
_SETTINGS = (str, int, float, list, tuple, dict)
_ARITHMETIC = (ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod)


def readliterals_only() -> None:
    """``Config`` runs every text setting, file names from the command line included, through ``eval``."""
    from recbole.config import Config

    def convert(self: Config, config_dict: dict[str, Any]) -> dict[str, Any]:
        for key, value in config_dict.items():
            if isinstance(value, str):
                config_dict[key] = literal(value)
        return config_dict

    Config._convert_config_dict = convert


def literal(text: str) -> Any:
    """A number, list, tuple, dict, truth value or sum of numbers written as text; any other text is itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        tree = ast.parse(text.strip(" \t"), mode="eval")
        if all(isinstance(node, _HARMLESS + _ARITHMETIC) for node in ast.walk(tree)):
            value = eval(compile(tree, "<setting>", "eval"), {"__builtins__": {}})  # numbers and containers only
            return value if value is None or isinstance(value, _SETTINGS) else text
    except (SyntaxError, ValueError, TypeError, ZeroDivisionError, RecursionError, MemoryError):
        pass
    return text


def load_checkpoint(path: str | os.PathLike[str], map_location: Any = None, **_: Any) -> dict[str, Any]:
    """Read a checkpoint of RecBole's or ours without running anything it holds.

    Parameters
    ----------
    path : str or Path
    map_location : torch.device or str, optional

    Returns
    -------
    dict
        With ``config``, ``state_dict``, ``other_parameter``, ...

    Raises
    ------
    NestRecError
        When the file is damaged, or asks to call what a checkpoint has no use for.
    """
    from nestrec_recbole.unpickle import load_torch

    reader = checkpoint_readers.get(Path(path).suffix, load_torch)
    return reader(path, map_location)


# RecBole's modules that read a checkpoint, their own or a pretrained model's.
_READERS = (
    "recbole.trainer.trainer",
    "recbole.model.general_recommender.convncf",
    "recbole.model.general_recommender.nais",
    "recbole.model.general_recommender.neumf",
    "recbole.model.general_recommender.ract",
    "recbole.model.context_aware_recommender.kd_dagfm",
    "recbole.model.sequential_recommender.s3rec",
)


class _Torch:
    """The torch that those modules see: torch itself, with another ``load``."""

    load = staticmethod(load_checkpoint)

    def __getattr__(self, name: str) -> Any:
        import torch

        return getattr(torch, name)


def read_checkpoints_safely() -> None:
    """PyTorch >= 2.6 cannot read RecBole's checkpoints; the one before runs whatever code one holds."""
    import recbole.quick_start

    for name in _READERS:
        importlib.import_module(name).torch = _Torch()  # type: ignore[attr-defined]
    recbole.quick_start.load_data_and_model = load_data_and_model
    sys.modules["recbole.quick_start.quick_start"].load_data_and_model = load_data_and_model  # type: ignore[attr-defined]


def load_data_and_model(model_file: str) -> tuple[Any, ...]:
    """Load a saved model and the data it was trained on; RecBole's function, reading checkpoints safely.

    Returns
    -------
    tuple
        config, model, dataset, train_data, valid_data, test_data.
    """
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, init_logger, init_seed

    checkpoint = load_checkpoint(model_file)
    config = checkpoint["config"]
    init_seed(config["seed"], config["reproducibility"])
    init_logger(config)
    dataset = create_dataset(config)
    loaders = data_preparation(config, dataset)
    init_seed(config["seed"], config["reproducibility"])
    model = get_model(config["model"])(config, loaders[0]._dataset).to(config["device"])
    model.load_state_dict(checkpoint["state_dict"])
    model.load_other_parameter(checkpoint.get("other_parameter"))
    return config, model, dataset, *loaders


def read_datasets_safely() -> None:
    """RecBole unpickles ``saved/<dataset>-*.pth`` wherever it finds one, and with it runs what it holds."""
    import pickle

    import recbole.data.utils

    from nestrec_recbole import unpickle

    recbole.data.utils.pickle = SimpleNamespace(load=unpickle.load, dump=pickle.dump)


def count_flops_in_place() -> None:
    """RecBole counts FLOPs on a deep copy: models need twice the memory, and those whose ``predict`` asserts stop."""
    import recbole.utils
    import recbole.utils.utils

    for module in (recbole.utils, recbole.utils.utils, sys.modules["recbole.quick_start.quick_start"]):
        module.get_flops = get_flops  # type: ignore[union-attr]


def get_flops(
    model: Any, dataset: Any, device: Any, logger: Logger, transform: Callable[..., Any], verbose: bool = False
) -> float:
    """Multiply-adds of predicting for one row, as RecBole's function of this name counts them.

    Counts are kept in hooks on the model itself, which leaves as it came; a model that cannot predict counts 0.
    """
    import torch
    from recbole.utils import ModelType
    from thop.profile import register_hooks
    from torch import nn

    if model.type == ModelType.DECISIONTREE or type(model).__name__ == "Pop":
        return 1
    rules = {**register_hooks, nn.Embedding: _count_embedding, nn.LayerNorm: _count_norm}
    counted = [module for module in model.modules() if type(module) in rules]
    before = [(module, dict(vars(module))) for module in model.modules()]
    hooks = []
    try:
        row = transform(dataset, dataset[torch.tensor([1])].to(device))
        model.eval()
        for module in counted:
            module.total_ops = torch.zeros(1, dtype=torch.float64)
            hooks.append(module.register_forward_hook(rules[type(module)]))
        with torch.no_grad():
            model.predict(row)
        return _sum_of_outermost(model, set(counted))
    except Exception as error:  # a figure for the log is no reason to stop a training
        logger.warning("FLOPs not counted: %s in %s.predict: %s", type(error).__name__, type(model).__name__, error)
        return 0
    finally:
        for hook in hooks:
            hook.remove()
        for module, attributes in before:
            vars(module).clear()
            vars(module).update(attributes)


def _count_norm(module: Any, inputs: Any, output: Any) -> None:
    module.total_ops += 2 * inputs[0].numel()


def _count_embedding(module: Any, inputs: Any, output: Any) -> None:
    module.total_ops += inputs[0].numel() * output.shape[-1]


def _sum_of_outermost(module: Any, counted: set[Any]) -> float:
    """Sum the counts, not going into a module that has one of its own."""
    from torch import nn

    total = float(module.total_ops) if module in counted else 0.0
    for child in module.children():
        if child in counted and not isinstance(child, (nn.Sequential, nn.ModuleList)):
            total += float(child.total_ops)
        else:
            total += _sum_of_outermost(child, counted)
    return total
