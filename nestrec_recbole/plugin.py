"""The one socket into RecBole: its own entry points find our models, datasets, loaders, trainer and settings."""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import recbole.config.configurator as configurator
import recbole.data
import recbole.data.dataset
import recbole.data.utils
import recbole.trainer
import recbole.utils
import yaml
from recbole.config import Config
from recbole.evaluator import register as metric_tables

from nestrec_recbole import compat, compat_tuning, settings
from nestrec_recbole.data.dataset import SequenceDataset
from nestrec_recbole.data.features import FeatureStore
from nestrec_recbole.data.loader import WindowLoader
from nestrec_recbole.encode.items import ensure_item_features
from nestrec_recbole.errors import NestRecError, unknown
from nestrec_recbole.evaluate.beyond import METRICS
from nestrec_recbole.models.base import SequenceModel
from nestrec_recbole.process_state import without_arguments
from nestrec_recbole.processes import Processes, choose_gpu, join_torchrun
from nestrec_recbole.train.baselines import configure_again, load_baseline
from nestrec_recbole.train.checkpoint import read_checkpoint
from nestrec_recbole.train.trainer import SequenceTrainer

RECOMMENDERS = ("FastSASRec", "ItemQFormer", "UserQFormer", "NestRec", "GatedFusionRec", "MultimodalRec")
PRETRAININGS = ("ItemPretraining", "UserPretraining")
CROSS_DOMAIN = ("TriGRecUser", "TriGRec")  # of data with a target_domain
MODELS = RECOMMENDERS + CROSS_DOMAIN + PRETRAININGS  # a model's base classes before it
_HERE = Path(__file__).resolve().parent
_PROPERTIES = next((p for p in (_HERE / "properties", _HERE.parent / "properties") if p.is_dir()), _HERE / "properties")
_registered: dict[str, list[Path]] = {}  # the files of defaults of each model, those of its base classes first


def load_properties(model: str) -> dict[str, Any]:
    """The defaults of one of our models: ``properties/overall.yaml``, then its own file and those of its base classes.

    Raises
    ------
    NestRecError
        When the model is not ours.
    """
    if model not in _registered:
        raise NestRecError(unknown("model", model, _registered))
    defaults = _read_yaml(_PROPERTIES / "overall.yaml")
    for path in _registered[model]:
        defaults |= _read_yaml(path)
    return defaults


def _load_preset(model: str, name: Any) -> dict[str, Any]:
    """The settings of ``properties/preset/<model>-<name>.yaml``, between a model's defaults and what a user sets."""
    known = [file.stem.removeprefix(f"{model}-") for file in (_PROPERTIES / "preset").glob(f"{model}-*.yaml")]
    if not name or not known:
        return {}
    if name not in known:
        raise NestRecError(unknown(f"preset of {model}", str(name), known))
    return _read_yaml(_PROPERTIES / "preset" / f"{model}-{name}.yaml")


def pipeline_stages(model: str) -> dict[str, dict[str, Any]]:
    """The stages of a model's training, from ``properties/pipeline/<model>.yaml``.

    Raises
    ------
    NestRecError
        When the model has none.
    """
    path = _PROPERTIES / "pipeline" / f"{model}.yaml"
    if not path.is_file():
        raise NestRecError(unknown("pipeline", model, [file.stem for file in path.parent.glob("*.yaml")]))
    return _read_yaml(path)


def tuning_space(model: str) -> Path:
    """The file of what is searched for a model, ``properties/tune/<model>.yaml``.

    Raises
    ------
    NestRecError
        When it has none.
    """
    path = _PROPERTIES / "tune" / f"{model}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
        raise NestRecError(f"no space is known for {model!r}; give one with --space (there are some for {there})")
    return path


def register_model(model_class: Any = None, *, properties: str | Path | None = None) -> Any:
    """Make a model known to RecBole by its class name; usable as a decorator.

    Parameters
    ----------
    model_class : type
        A subclass of :class:`nestrec_recbole.models.base.SequenceModel`.
    properties : str or Path, optional
        A YAML file of its defaults, beside those of its base class; settings of its own must be there.

    Returns
    -------
    type
        The class itself.

    Raises
    ------
    NestRecError
        When it is no :class:`SequenceModel`, or RecBole has a model of that name.

    Examples
    --------
    >>> @register_model  # doctest: +SKIP
    ... class MyModel(SequenceModel): ...
    >>> run_recbole(model="MyModel", dataset="ml-100k")  # doctest: +SKIP
    """
    if model_class is None:
        return functools.partial(register_model, properties=properties)
    name = model_class.__name__
    if not issubclass(model_class, SequenceModel):
        raise NestRecError(f"model {name!r} is no subclass of nestrec_recbole.models.base.SequenceModel")
    if name.lower() in (known.lower() for known in _recbole_models()):
        raise NestRecError(f"model {name!r}: RecBole has a model of that name; choose another")
    alias = f"recbole.model.sequential_recommender.{name.lower()}"
    module = sys.modules[model_class.__module__]
    if getattr(module, "__spec__", None) is None:  # a script or a notebook: RecBole asks modules for their spec
        module.__spec__ = importlib.machinery.ModuleSpec(alias, None)
    sys.modules[alias] = module
    setattr(module, name, model_class)
    dataset_name, needs = f"{name}Dataset", getattr(model_class, "needs_item_fields", False)
    about = {"__module__": __name__, "needs_item_fields": needs}
    setattr(recbole.data.dataset, dataset_name, type(dataset_name, (_FeatureDataset,), about))
    setattr(recbole.trainer, f"{name}Trainer", type(f"{name}Trainer", (SequenceTrainer,), {"__module__": __name__}))
    inherited = next((_registered[c.__name__] for c in model_class.__mro__[1:] if c.__name__ in _registered), [])
    _registered[name] = [*inherited, *([Path(properties)] if properties else [])]
    return model_class


def is_ours(model: str) -> bool:
    """Whether a model has been registered here; RecBole's own have not."""
    return model in _registered


def register() -> None:
    """Register this package's models and hooks; done on import, harmless when repeated."""
    if _registered:
        return
    for name in MODELS:
        module = importlib.import_module(f"nestrec_recbole.models.{name.lower()}")
        register_model(getattr(module, name), properties=_PROPERTIES / "model" / f"{name}.yaml")
    _hook_names()
    _hook_metrics()
    _hook_config()
    _hook_loaders()
    _hook_loading()
    compat.checkpoint_readers[".safetensors"] = _read_for_recbole
    compat_tuning.repair()


def looks_at_items(config: Any) -> bool:
    """Whether a run of one of our models reads item fields: the model, its loss or a metric does."""
    dataset = getattr(recbole.data.dataset, f"{config['model']}Dataset", None)
    is_measured = "diversity" in (metric.lower() for metric in config["metrics"])
    return bool(getattr(dataset, "needs_item_fields", False) or config["mask_near_duplicates"] or is_measured)


class _FeatureDataset(SequenceDataset):
    """A dataset whose item fields, if anything looks at them, are encoded where they are missing."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if not looks_at_items(config):
            return
        processes = Processes.current()
        if not processes.is_first:
            processes.wait()  # until the first has encoded what is missing
        self.feature_paths = ensure_item_features(config, self.training_items)
        if processes.is_first:
            processes.wait()
            self._note_missing()

    def _note_missing(self) -> None:
        """Say how many items of the dataset lack a field; masks stand for them."""
        tokens = self.field2id_token[self.iid_field][1:]
        for name, path in self.feature_paths.items():
            n_missing = int((~np.isin(tokens, FeatureStore.open(path).items)).sum())
            if n_missing:
                self.logger.info("%s: %d of %d items have none, which is masked", name, n_missing, len(tokens))


def _hook_names() -> None:
    """RecBole looks for a model of an unknown name until it imports LightGBM; here the error has the nearest name."""
    original: Callable[[str], type] = recbole.utils.get_model

    @functools.wraps(original)
    def get_model(model_name: str) -> type:
        try:
            return original(model_name)
        except (ValueError, AttributeError, ImportError):
            known = [*_registered, *_recbole_models()]
            if model_name in known:
                raise
            raise NestRecError(unknown("model", model_name, known)) from None

    for name in ("utils", "utils.utils", "config.configurator", "quick_start.quick_start"):
        sys.modules[f"recbole.{name}"].get_model = get_model  # type: ignore[attr-defined]


def _hook_metrics() -> None:
    """RecBole's evaluator finds metrics in three tables."""
    for metric in METRICS:
        name = metric.__name__.lower()
        metric_tables.metrics_dict[name] = metric
        metric_tables.metric_information[name] = metric.metric_need
        metric_tables.metric_types[name] = metric.metric_type


def _recbole_models() -> list[str]:
    """The model classes of RecBole, read from its files: importing them all would need packages that may be missing."""
    files = (Path(configurator.__file__).parent.parent / "model").glob("*_recommender/*.py")
    found = (re.search(rf"^class ({file.stem})\b", file.read_text("utf-8"), re.I | re.M) for file in files)
    return [match[1] for match in found if match]


@functools.cache
def _keys_of_any_model() -> set[str]:
    """The settings that some model has, ours or RecBole's: what is given to several models, not each of them reads."""
    folders = (_PROPERTIES, Path(configurator.__file__).parent.parent / "properties")
    files = [path for folder in folders for path in folder.glob("**/*.yaml") if path.parent.name != "pipeline"]
    files += [path for paths in _registered.values() for path in paths]
    return {key for path in files for key in re.findall(r"^(\w+)\s*:", path.read_text("utf-8"), re.M)}


def _hook_config() -> None:
    """Slip our YAML defaults in between RecBole's own and the user's, and check what the user says against them."""
    load_internal, build, init_device = Config._load_internal_config_dict, Config.__init__, Config._init_device

    @functools.wraps(load_internal)
    def load_with_ours(self: Config, model: str, model_class: type, dataset: str) -> None:
        load_internal(self, model, model_class, dataset)
        ours, theirs = (
            folder / "dataset" / f"{dataset}.yaml"
            for folder in (_PROPERTIES, Path(configurator.__file__).parent.parent / "properties")
        )
        if model in _registered:
            self.internal_config_dict.update(load_properties(model))
            self.internal_config_dict.update(_load_preset(model, self.external_config_dict.get("preset")))
        if ours.is_file() and (model in _registered or not theirs.is_file()):
            self.internal_config_dict.update(_read_yaml(ours))
        overall = _read_yaml(_PROPERTIES / "overall.yaml") | (_read_yaml(ours) if ours.is_file() else {})
        self.shared_settings = {key: overall[key] for key in settings.SHARED if key in overall}
        # A list: RecBole pickles its config, and what we read of pickles holds no sets.
        self.known_settings = sorted(_keys_of_any_model() | self.internal_config_dict.keys())
        if model in _registered:
            settings.check(self.external_config_dict, self.internal_config_dict)

    @functools.wraps(build)
    def build_checked(self: Config, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        if self["model"] in _registered:
            settings.complete(self, self.internal_config_dict)
            settings.check_values(self, self.internal_config_dict)
            device = join_torchrun()
            if device is not None:
                self["device"] = device

    @functools.wraps(init_device)
    def init_own_device(self: Config) -> None:
        if self.final_config_dict["model"] in _registered:
            self.final_config_dict["gpu_id"] = choose_gpu(str(self.final_config_dict["gpu_id"]).strip("()"))
        init_device(self)

    Config._load_internal_config_dict = load_with_ours
    Config._init_device = init_own_device
    Config.__init__ = build_checked


def _hook_loaders() -> None:
    """RecBole's ``get_dataloader`` keeps its table inside the function, so ours goes around it."""
    original: Callable[..., Any] = recbole.data.utils.get_dataloader

    @functools.wraps(original)
    def get_dataloader(config: Any, phase: str) -> Any:
        if phase == "train" and config["model"] in _registered:
            return WindowLoader
        return original(config, phase)

    recbole.data.utils.get_dataloader = get_dataloader
    recbole.data.get_dataloader = get_dataloader


def _hook_loading() -> None:
    """RecBole's ``load_data_and_model`` prepares data as RecBole does; a model from the door has ours."""

    @functools.wraps(compat.load_data_and_model)
    def load_data_and_model(model_file: str) -> tuple[Any, ...]:
        is_ours = Path(model_file).suffix == ".safetensors"
        if is_ours and read_checkpoint(model_file)[1]["model"] not in _registered:
            return load_baseline(model_file)
        return compat.load_data_and_model(model_file)

    for name in ("quick_start", "quick_start.quick_start"):
        sys.modules[f"recbole.{name}"].load_data_and_model = load_data_and_model  # type: ignore[attr-defined]


def _read_for_recbole(path: str, map_location: Any = None) -> dict[str, Any]:
    """Our checkpoint in the shape of RecBole's, for ``load_data_and_model``."""
    tensors, about = read_checkpoint(path, str(map_location or "cpu"))
    saved = about["config"]
    kept = {k: v for k, v in saved.items() if k not in ("data_path", "model", "dataset")}
    weights = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    if about["model"] not in _registered:
        config = configure_again(about["model"], about["dataset"], kept, saved["data_path"])
        return {"config": config, "state_dict": weights, "other_parameter": None}
    with without_arguments():  # what was given on that run's command line is in the checkpoint
        config = Config(model=about["model"], dataset=about["dataset"])
    config.final_config_dict.update(kept)
    settings.complete(config, config.internal_config_dict)  # settings that are newer than the checkpoint
    config["data_path"] = saved["data_path"]
    return {"config": config, "state_dict": weights, "other_parameter": None}


def _read_yaml(path: Path) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        return yaml.load(file, Loader=settings.yaml_loader()) or {}
