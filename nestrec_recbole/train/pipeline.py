"""Several stages as one command: each starts from the one before, resumes, and is skipped where nothing has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole.config import Config
from recbole.data import create_dataset
from recbole.utils import get_model

from nestrec_recbole.encode.recipe import downloaded_revision
from nestrec_recbole.errors import NestRecError, unknown
from nestrec_recbole.evaluate.ranking import write_ranks
from nestrec_recbole.files import sha256_of, written_whole
from nestrec_recbole.fingerprints import code_version, data_files
from nestrec_recbole.processes import Processes
from nestrec_recbole.settings.shipped import is_ours, load_properties
from nestrec_recbole.settings.values import decisive
from nestrec_recbole.train.prepare import prepare
from nestrec_recbole.train.trainer import last_checkpoint


def run_pipeline(
    dataset: str,
    stages: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    folder: str | Path,
    until: str | None = None,
) -> dict[str, Any]:
    """Run stages one after the other, and evaluate the last one on test data.

    Parameters
    ----------
    dataset : str
    stages : mapping of str to mapping
        Name of a stage to its settings, ``model`` among them.
    settings : mapping
        Of every stage whose model has them; a stage's own go over them.
    folder : str or Path
        Each stage gets ``<stage>-<key>/`` in it: ``weights.safetensors`` and ``stage.json``, which says what made
        them. The key is a hash of settings, data, code version and the stage before, so a stage whose inputs are
        unchanged is found and skipped, and one that was cut off goes on where it was.
    until : str, optional
        The last stage to run; test data is then left alone unless it is the last of all.

    Returns
    -------
    dict
        What ``stage.json`` of the last stage says: ``model``, ``valid``, ``test``, ``weights``, ``history``, ...

    Raises
    ------
    NestRecError
        When a stage is unknown or names no model, or its settings are wrong.
    """
    names = list(stages)
    if until is not None and until not in names:
        raise NestRecError(unknown("stage", until, names))
    wanted = {name: _settings_of(name, stages, settings) for name in names[: names.index(until) + 1 if until else None]}
    for own in wanted.values():  # before anything is trained
        Config(model=own["model"], dataset=dataset, config_dict={**own, "checkpoint_last": True})
    before: dict[str, Any] = {}
    for name, own in wanted.items():
        before = _run_stage(name, dataset, own, Path(folder), before, is_last=name == names[-1])
    return before


def _settings_of(name: str, stages: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(stages[name], Mapping):
        raise NestRecError(f"stage {name!r} is {stages[name]!r}; expected settings, `model` among them")
    own = {**settings, **stages[name]}
    if "model" not in own:
        raise NestRecError(f"stage {name!r} names no model")
    of_models = [_settings_known_to(stage.get("model")) for stage in stages.values() if isinstance(stage, Mapping)]
    for key in {*settings} - {*stages[name]} - _settings_known_to(own["model"]):
        if any(key in known for known in of_models):  # meant for the stages whose model has it
            del own[key]
    if "seen_bias" not in stages[name] and not getattr(get_model(own["model"]), "ranks_by_softmax", True):
        own.pop("seen_bias", None)  # meant for the stages that rank
    if stages[name].get("init_from") and name != next(iter(stages)):
        raise NestRecError(f"stage {name!r} starts from the one before; init_from is for the first stage alone")
    return own


def _settings_known_to(model: Any) -> set[str]:
    return {*load_properties(model)} if is_ours(model) else set()


def _run_stage(
    name: str, dataset: str, settings: dict[str, Any], folder: Path, before: dict[str, Any], is_last: bool
) -> dict[str, Any]:
    settings = dict(settings)
    model = settings.pop("model")
    if before:
        settings["init_from"] = before["weights"]
    config = Config(model=model, dataset=dataset, config_dict={**settings, "checkpoint_last": True})
    key = _key(config, before, getattr(create_dataset(config), "feature_paths", {}))
    place = folder / f"{name}-{key[:10]}"
    about, weights = place / "stage.json", place / "weights.safetensors"
    if about.is_file() and weights.is_file() and (not is_last or "test" in json.loads(about.read_text())):
        _say(f"{name}: unchanged, found in {place}")
        return json.loads(about.read_text()) | {"weights": str(weights)}
    _say(f"{name}: training {model}, into {place}")
    config["checkpoint_dir"] = str(place)
    trainer, (train_data, valid_data, test_data) = prepare(config)
    trainer.saved_model_file = str(weights)
    last = Path(last_checkpoint(weights))
    if last.is_file():
        trainer.resume_checkpoint(last)
    score, valid = trainer.fit(train_data, valid_data, verbose=False, show_progress=config["show_progress"])
    result = {"stage": name, "model": model, "dataset": dataset, "key": key, "before": before.get("key")}
    result |= {"valid_score": score, "valid": valid, "history": trainer.history, "weights": str(weights)}
    if is_last:
        result["test"] = trainer.evaluate(test_data, show_progress=config["show_progress"])
    if Processes.current().is_first:
        if result.get("test") is not None:
            write_ranks(trainer.ranks, test_data.dataset, place / "ranks.parquet")
        with written_whole(about) as draft:
            draft.write_text(json.dumps(result, indent=1) + "\n")
        last.unlink(missing_ok=True)
    Processes.current().wait()
    return result


def _say(line: str) -> None:
    if Processes.current().is_first:
        print(line, flush=True)


def _key(config: Any, before: Mapping[str, Any], features: Mapping[str, Path]) -> str:
    """What a stage's result depends on, as a hash."""
    made_of = {
        "settings": decisive(config),
        "data": data_files(config),
        "features": {name: sha256_of(path / "manifest.json") for name, path in features.items()},
        "llm": _base_files((config["llm"] or {}).get("path") if "llm" in config else None),
        "before": before.get("key") or (config["init_from"] and sha256_of(config["init_from"])),
        "code": code_version(),
    }
    return hashlib.sha256(json.dumps(made_of, default=str).encode()).hexdigest()


def _base_files(path: str | None) -> Any:
    """What a language model's ``path`` holds: hashes of its files, or the commit of one of the hub."""
    if not path or not Path(path).is_dir():
        return path and downloaded_revision(path)
    return {file.name: sha256_of(file) for file in sorted(Path(path).iterdir()) if file.is_file()}
