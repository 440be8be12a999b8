"""The YAML files of ``properties/``: defaults of models and datasets, presets, pipelines, spaces of tuning."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import Any

import recbole.config.configurator as configurator
import yaml

from nestrec_recbole.errors import NestRecError, unknown
from nestrec_recbole.settings import roles

RECBOLES = Path(configurator.__file__).parent.parent / "properties"
_of_models: dict[str, list[Path]] = {}  # the files of defaults of each model, those of its base classes first
_of_recboles: dict[str, list[Path]] = {}  # of each that a user has written as RecBole's are, in the same order


@functools.cache
def folder() -> Path:
    """``properties/``: within the package where it is installed, beside it in the source tree."""
    here = Path(__file__).resolve().parent.parent
    return next((p for p in (here / "properties", here.parent / "properties") if p.is_dir()), here / "properties")


def add_model(model_class: type, file: Path | None) -> None:
    """Note the files of a model's defaults: those of the nearest base class that has been added, then its own."""
    bases = (base.__name__ for base in model_class.__mro__[1:])
    inherited = next((_of_models[name] for name in bases if name in _of_models), [])
    _of_models[model_class.__name__] = [*inherited, *([file.resolve()] if file else [])]
    keys_of_any_model.cache_clear()
    keys_of_ours_alone.cache_clear()


def add_model_of_recboles(model_class: type, file: Path | None) -> None:
    """:func:`add_model` for a model written as RecBole's are, whose base may be one of RecBole's."""
    inherited = next(filter(None, (files_of_recboles(base.__name__) for base in model_class.__mro__[1:])), [])
    _of_recboles[model_class.__name__] = [*inherited, *([file.resolve()] if file else [])]
    keys_of_any_model.cache_clear()
    keys_of_ours_alone.cache_clear()


def registered_models() -> list[str]:
    """The models that have been registered here: ours first, in that order."""
    return [*_of_models, *_of_recboles]


def is_ours(model: str) -> bool:
    """Whether a model of this package's kind has been registered; those of RecBole's kind train as RecBole trains."""
    return model in _of_models


def files_of(model: str) -> list[Path]:
    """The files of the defaults of one of our models: ``properties/overall.yaml``, those of its base classes, its own.

    Raises
    ------
    NestRecError
        When the model is not ours.
    """
    if model not in _of_models:
        raise NestRecError(unknown("model", model, _of_models))
    return [folder() / "overall.yaml", *_of_models[model]]


def files_of_recboles(model: str) -> list[Path]:
    """The files of the defaults of a model of RecBole's kind: those of its base, then its own; there may be none."""
    shipped = RECBOLES / "model" / f"{model}.yaml"
    return _of_recboles.get(model, [shipped] if shipped.is_file() else [])


def load_properties(model: str) -> dict[str, Any]:
    """The defaults of one of our models, of its files one over the other.

    Raises
    ------
    NestRecError
        When the model is not ours.
    """
    defaults: dict[str, Any] = {}
    for path in files_of(model):
        own = read_settings(path)
        if isinstance(own.get("llm"), dict):
            own["llm"] = {**defaults.get("llm", {}), **own["llm"]}
        defaults |= own
    return defaults


def load_preset(model: str, name: Any) -> dict[str, Any]:
    """The settings of ``properties/preset/<model>-<name>.yaml``, between a model's defaults and what a user sets.

    Those of its base classes hold for a model too, its own file over them.

    Raises
    ------
    NestRecError
        When there is none of that name.
    """
    if not name:
        return {}
    files = folder() / "preset"
    prefixes = [f"{path.stem}-" for path in _of_models[model]]
    found = [file for prefix in prefixes if (file := files / f"{prefix}{name}.yaml").is_file()]
    if not found:
        known = {file.stem.removeprefix(prefix) for prefix in prefixes for file in files.glob(f"{prefix}*.yaml")}
        raise NestRecError(unknown(f"preset of {model}", str(name), known) if known else f"{model} has no presets")
    return {key: value for file in found for key, value in read_settings(file).items()}


def load_dataset(name: str) -> dict[str, Any]:
    """The settings of ``properties/dataset/<name>.yaml``; none where there is no such file."""
    file = folder() / "dataset" / f"{name}.yaml"
    return read_settings(file) if file.is_file() else {}


def pipeline_stages(model: str) -> dict[str, dict[str, Any]]:
    """The stages of a model's training, from ``properties/pipeline/<model>.yaml``.

    Raises
    ------
    NestRecError
        When the model has none.
    """
    path = folder() / "pipeline" / f"{model}.yaml"
    if not path.is_file():
        raise NestRecError(unknown("pipeline", model, [file.stem for file in path.parent.glob("*.yaml")]))
    return read_settings(path)


def tuning_space(model: str) -> Path:
    """The file of what is searched for a model, ``properties/tune/<model>.yaml``.

    Raises
    ------
    NestRecError
        When it has none.
    """
    path = folder() / "tune" / f"{model}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
        raise NestRecError(f"no space is known for {model!r}; give one with --space (there are some for {there})")
    return path


@functools.cache
def keys_of_any_model() -> set[str]:
    """The settings that some model has, ours or RecBole's: what is given to several models, not each of them reads."""
    files = [p for place in (folder(), RECBOLES) for p in place.glob("**/*.yaml") if p.parent.name != "pipeline"]
    files += [path for paths in (*_of_models.values(), *_of_recboles.values()) for path in paths]
    return {key for path in files for key in _keys(path)}


def models_with(key: str) -> list[str]:
    """Those of our models that read a setting."""
    return [model for model in _of_models if any(key in _keys(path) for path in files_of(model))]


@functools.cache
def keys_of_ours_alone() -> set[str]:
    """The settings of how our models are built and train, which RecBole's do not read."""
    theirs = [*RECBOLES.glob("**/*.yaml"), *(path for paths in _of_recboles.values() for path in paths)]
    recboles = {key for path in theirs for key in _keys(path)}
    files = [folder() / "overall.yaml", *(path for paths in _of_models.values() for path in paths)]
    return {key for path in files for key in _keys(path)} - recboles - set(roles.ALL)


def _keys(path: Path) -> list[str]:
    return re.findall(r"^(\w+)\s*:", path.read_text("utf-8"), re.M)


def read_settings(path: str | os.PathLike[str], lines: str = "key: value") -> dict[str, Any]:
    """Read a YAML file of settings, or of other ``lines`` that begin with a name.

    Raises
    ------
    NestRecError
        When it is no YAML, or not of such lines.
    """
    with open(path, encoding="utf-8") as file:
        try:
            found = yaml.load(file, Loader=yaml_loader())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise NestRecError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(found, dict):
        raise NestRecError(f"{path}: expected `{lines}` lines, found {type(found).__name__}")
    return found


def yaml_loader() -> type[yaml.SafeLoader]:
    """A safe YAML loader that, as RecBole's, reads ``1e-3`` as a number."""

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))
    return Loader
