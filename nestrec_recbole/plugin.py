"""The one socket into RecBole: its own entry points find our models, datasets, loaders, trainer and settings."""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import os
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import recbole.config.configurator as configurator
import recbole.data
import recbole.data.dataset
import recbole.data.utils
import recbole.trainer
import recbole.utils
from recbole.config import Config
from recbole.evaluator import register as metric_tables
from recbole.utils import ModelType

from nestrec_recbole import compat, compat_tuning
from nestrec_recbole.data.loader import WindowLoader
from nestrec_recbole.encode.dataset import EncodedDataset, looks_at_items
from nestrec_recbole.errors import NestRecError, unknown
from nestrec_recbole.evaluate.beyond import METRICS
from nestrec_recbole.models.base import SequenceModel
from nestrec_recbole.process_state import without_arguments
from nestrec_recbole.processes import choose_gpu, join_torchrun
from nestrec_recbole.settings import checks, roles, shipped
from nestrec_recbole.settings.shipped import is_ours, load_properties, pipeline_stages, tuning_space
from nestrec_recbole.settings.values import merged
from nestrec_recbole.train.baselines import configure_again, load_baseline
from nestrec_recbole.train.checkpoint import read_about, read_checkpoint, weights_of
from nestrec_recbole.train.trainer import SequenceTrainer

__all__ = [
    "CROSS_DOMAIN",
    "MODELS",
    "PRETRAININGS",
    "RECOMMENDERS",
    "is_ours",
    "load_properties",
    "looks_at_items",
    "pipeline_stages",
    "register",
    "register_model",
    "tuning_space",
]

RECOMMENDERS = ("FastSASRec", "ItemQFormer", "UserQFormer", "NestRec", "GatedFusionRec", "MultimodalRec")
PRETRAININGS = ("ItemPretraining", "UserPretraining")
CROSS_DOMAIN = ("TriGRecUser", "TriGRec")  # of data with a target_domain
MODELS = RECOMMENDERS + CROSS_DOMAIN + PRETRAININGS  # a model's base classes before it


def register_model(model_class: Any = None, *, properties: str | Path | None = None) -> Any:
    """Make a model known to RecBole by its class name; usable as a decorator.

    Parameters
    ----------
    model_class : type
        A subclass of :class:`nestrec_recbole.models.base.SequenceModel`; or a model written as RecBole's are, such as
        a ``SequentialRecommender``, which is then treated as RecBole's own: its loss, batches and negatives are
        RecBole's, evaluation and comparison those of this package.
    properties : str or Path, optional
        A YAML file of its defaults, beside those of its base class; settings of its own must be there. A relative path
        is seen from the file that the class is in, else from here.

    Returns
    -------
    type
        The class itself.

    Raises
    ------
    NestRecError
        When it is neither, or RecBole or this package has a model of that name.

    Examples
    --------
    >>> @register_model  # doctest: +SKIP
    ... class MyModel(SequenceModel): ...
    >>> run_recbole(model="MyModel", dataset="ml-100k")  # doctest: +SKIP
    """
    if model_class is None:
        return functools.partial(register_model, properties=properties)
    name = model_class.__name__
    is_recboles = not issubclass(model_class, SequenceModel)
    if is_recboles and not isinstance(getattr(model_class, "type", None), ModelType):
        needed = "nestrec_recbole.models.base.SequenceModel: item_table() and encode()"
        raise NestRecError(f"model {name!r} is no subclass of {needed}; nor of a recommender of RecBole's")
    if name.lower() in (known.lower() for known in _recbole_models()):
        raise NestRecError(f"model {name!r}: RecBole has a model of that name; choose another")
    if name in MODELS and not model_class.__module__.startswith("nestrec_recbole."):
        raise NestRecError(f"model {name!r}: this package has a model of that name; choose another")
    module = sys.modules[model_class.__module__]
    beside = Path(getattr(module, "__file__", None) or ".").parent / (properties or "")
    properties = beside if properties and beside.is_file() else properties
    if properties and not Path(properties).is_file():
        raise NestRecError(f"model {name!r}: {properties}, its properties, is neither in {beside.parent} nor here")
    _let_recbole_find(model_class, is_recboles)
    add = shipped.add_model_of_recboles if is_recboles else shipped.add_model
    add(model_class, Path(properties) if properties else None)
    return model_class


def _let_recbole_find(model_class: type, is_recboles: bool) -> None:
    """The model in a module of its name; our dataset and trainer, or those that RecBole has for a base of the model."""
    name = model_class.__name__
    alias = f"recbole.model.sequential_recommender.{name.lower()}"
    # RecBole looks for a module of this name that has a spec; a script or a notebook has none, and must not be given
    # one: processes that are spawned would import it under that name.
    found_by_recbole = types.ModuleType(alias)
    found_by_recbole.__spec__ = importlib.machinery.ModuleSpec(alias, None)
    setattr(found_by_recbole, name, model_class)
    sys.modules[alias] = found_by_recbole
    ours = (recbole.data.dataset, "Dataset", EncodedDataset), (recbole.trainer, "Trainer", SequenceTrainer)
    for place, what, kind in ours:
        of_bases = (vars(place).get(f"{base.__name__}{what}") for base in model_class.__mro__)
        base = next(filter(None, of_bases), None) if is_recboles else kind
        if base is not None:
            setattr(place, f"{name}{what}", type(f"{name}{what}", (base,), {"__module__": __name__}))


def register() -> None:
    """Register this package's models and hooks; done on import, harmless when repeated."""
    if shipped.registered_models():
        return
    for name in MODELS:
        module = importlib.import_module(f"nestrec_recbole.models.{name.lower()}")
        register_model(getattr(module, name), properties=shipped.folder() / "model" / f"{name}.yaml")
    _hook_names()
    _hook_metrics()
    _hook_config()
    _hook_loaders()
    _hook_loading()
    compat.checkpoint_readers[".safetensors"] = _read_for_recbole
    compat_tuning.repair()


def _hook_names() -> None:
    """RecBole looks for a model of an unknown name until it imports LightGBM; here the error has the nearest name."""
    original: Callable[[str], type] = recbole.utils.get_model

    @functools.wraps(original)
    def get_model(model_name: str) -> type:
        """RecBole's; NestRecError where there is no such model."""
        try:
            return original(model_name)
        except (ValueError, AttributeError, ImportError):
            known = [*shipped.registered_models(), *_recbole_models()]
            if model_name in known:
                raise
            hint = "one of your own is registered by its file, --models FILE"
            raise NestRecError(f"{unknown('model', model_name, known)}; {hint}") from None

    for name in ("utils", "utils.utils", "config.configurator", "quick_start.quick_start"):
        sys.modules[f"recbole.{name}"].get_model = get_model  # type: ignore[attr-defined]


def _hook_metrics() -> None:
    """RecBole's evaluator finds metrics in three tables."""
    for metric in METRICS:
        name = metric.__name__.lower()
        metric_tables.metrics_dict[name] = metric
        metric_tables.metric_information[name] = metric.metric_need
        metric_tables.metric_types[name] = metric.metric_type


@functools.cache
def _recbole_models() -> list[str]:
    """The model classes of RecBole, read from its files: importing them all would need packages that may be missing."""
    files = (Path(configurator.__file__).parent.parent / "model").glob("*_recommender/*.py")
    found = (re.search(rf"^class ({file.stem})\b", file.read_text("utf-8"), re.I | re.M) for file in files)
    return [match[1] for match in found if match]


def _hook_config() -> None:
    """Slip our YAML defaults in between RecBole's own and the user's, and check what the user says against them."""
    load_internal, build, init_device = Config._load_internal_config_dict, Config.__init__, Config._init_device

    @functools.wraps(load_internal)
    def load_with_ours(self: Config, model: str, model_class: type, dataset: str) -> None:
        """RecBole's, then our defaults; NestRecError where what is given does not fit them."""
        load_internal(self, model, model_class, dataset)
        checks.take_tuples(self.external_config_dict)
        checks.refuse_processes(self.cmd_config_dict, self.external_config_dict)
        of_data = shipped.load_dataset(dataset)
        self.internal_config_dict.update(_defaults(model, self.external_config_dict.get("preset")))
        if is_ours(model) or not (shipped.RECBOLES / "dataset" / f"{dataset}.yaml").is_file():
            self.internal_config_dict.update(of_data)
        overall = shipped.read_settings(shipped.folder() / "overall.yaml") | of_data
        self.shared_settings = {key: overall[key] for key in roles.SHARED if key in overall}
        checks.fill_load_col(self.external_config_dict, self.shared_settings)
        # A list: RecBole pickles its config, and what we read of pickles holds no sets.
        self.known_settings = sorted(shipped.keys_of_any_model() | self.internal_config_dict.keys())
        whole = _around_dotted(self.external_config_dict, self.internal_config_dict)
        self.external_config_dict = merged(whole, self.external_config_dict)
        if is_ours(model):
            checks.fill_load_col(self.external_config_dict, self.internal_config_dict)
            checks.fill_eval_args(self.external_config_dict, self.shared_settings)
            checks.check_words(merged(whole, self.cmd_config_dict), self.internal_config_dict)
            checks.check(self.external_config_dict, self.internal_config_dict)

    @functools.wraps(build)
    def build_checked(self: Config, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        if is_ours(self["model"]):
            checks.complete(self, self.internal_config_dict)
            checks.check_values(self, self.internal_config_dict)
            device = join_torchrun()
            if device is not None:
                self["device"] = device

    @functools.wraps(init_device)
    def init_own_device(self: Config) -> None:
        if is_ours(self.final_config_dict["model"]):
            self.final_config_dict["gpu_id"] = choose_gpu(
                str(self.final_config_dict["gpu_id"]).strip("()"), is_default="gpu_id" not in self.external_config_dict
            )
        init_device(self)

    Config._load_internal_config_dict = load_with_ours
    Config._init_device = init_own_device
    Config.__init__ = build_checked


def _around_dotted(given: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The defaults of what ``item_fields.title.width`` is a key of; ``eval_args`` has its defaults elsewhere."""
    outer = {name.partition(".")[0] for name in given if "." in name} - {"eval_args"}
    return {name: defaults[name] for name in sorted(outer) if isinstance(defaults.get(name), dict)}


def _defaults(model: str, preset: Any) -> dict[str, Any]:
    """Of a model that has been registered here; of RecBole's own, RecBole has read them."""
    if is_ours(model):
        return load_properties(model) | shipped.load_preset(model, preset)
    files = () if model in _recbole_models() else shipped.files_of_recboles(model)
    return {key: value for path in files for key, value in shipped.read_settings(path).items()}


def _hook_loaders() -> None:
    """RecBole's ``get_dataloader`` keeps its table inside the function, so ours goes around it."""
    original: Callable[..., Any] = recbole.data.utils.get_dataloader

    @functools.wraps(original)
    def get_dataloader(config: Any, phase: str) -> Any:
        if phase == "train" and is_ours(config["model"]):
            return WindowLoader
        return original(config, phase)

    recbole.data.utils.get_dataloader = get_dataloader
    recbole.data.get_dataloader = get_dataloader


def _hook_loading() -> None:
    """RecBole's ``load_data_and_model`` prepares data as RecBole does; a model from the door has ours."""

    @functools.wraps(compat.load_data_and_model)
    def load_data_and_model(
        model_file: str, data_path: str | None = None, feature_path: str | None = None, logs: bool = True
    ) -> tuple[Any, ...]:
        is_of_the_door = Path(model_file).suffix == ".safetensors"
        if is_of_the_door and not is_ours(read_about(model_file)["model"]):
            return load_baseline(model_file, data_path, feature_path)
        return compat.load_data_and_model(model_file, data_path, feature_path, logs)

    for name in ("quick_start", "quick_start.quick_start"):
        sys.modules[f"recbole.{name}"].load_data_and_model = load_data_and_model  # type: ignore[attr-defined]


def _read_for_recbole(path: str, map_location: Any = None) -> dict[str, Any]:
    """Our checkpoint in the shape of RecBole's, for ``load_data_and_model``."""
    tensors, about = read_checkpoint(path, str(map_location or "cpu"))
    saved = about["config"]
    for key in ("data_path", "feature_path"):
        if saved.get(key):
            saved[key] = _near(Path(path), saved[key])
    kept = {k: v for k, v in saved.items() if k not in ("data_path", "model", "dataset")}
    weights = weights_of(tensors)
    if not is_ours(about["model"]):
        config = configure_again(about["model"], about["dataset"], kept, saved["data_path"])
        return {"config": config, "state_dict": weights, "other_parameter": None}
    with without_arguments():  # what was given on that run's command line is in the checkpoint
        config = Config(model=about["model"], dataset=about["dataset"])
    config.final_config_dict.update(kept)
    checks.complete(config, config.internal_config_dict)  # settings that are newer than the checkpoint
    config["data_path"] = saved["data_path"]
    return {"config": config, "state_dict": weights, "other_parameter": None, "numbering": about.get("numbering")}


def _near(checkpoint: Path, place: str) -> str:
    """A folder as a checkpoint names it: seen from here, else from the nearest folder above it that has one.

    Of one that is named from the root, the last two folders are looked for there.
    """
    if os.path.isdir(place):
        return place
    named = Path(*Path(place).parts[-2:]) if os.path.isabs(place) else Path(place)
    return next((str(above / named) for above in checkpoint.resolve().parents if (above / named).is_dir()), place)
