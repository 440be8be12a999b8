"""Several stages as one command: each starts from the one before, resumes, and is skipped where nothing has changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole.config import Config
from recbole.utils import get_model

from nestrec_recbole.encode.dataset import looks_at_items
from nestrec_recbole.errors import NestRecError, unknown
from nestrec_recbole.files import sha256_of, written_whole
from nestrec_recbole.fingerprints import base_files, code_version, data_files
from nestrec_recbole.processes import Processes
from nestrec_recbole.settings.roles import HELD_OUT, HISTORIES, WHAT_DATA_IS
from nestrec_recbole.settings.shipped import is_ours, load_properties
from nestrec_recbole.settings.values import decisive
from nestrec_recbole.train.baselines import share_settings
from nestrec_recbole.train.prepare import prepare, read_data
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
    configs = {name: _config_of(dataset, own) for name, own in wanted.items()}  # all, before any data is read
    planned: list[_Stage] = []
    read = _Read()
    for name, config in configs.items():
        before = planned[-1] if planned else None
        planned.append(_Stage.after(before, name, config, read, Path(folder), name == names[-1]))
    for stage in [stage for stage in planned if not stage.is_done][1:]:
        stage.try_out()  # what cannot be built is told before the stages before it are trained
    for stage in planned:
        done = _run_stage(stage)
    return done


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


def _config_of(dataset: str, settings: Mapping[str, Any]) -> Config:
    own = {**settings, "checkpoint_last": True}
    config = Config(model=own.pop("model"), dataset=dataset, config_dict=own)
    if not is_ours(config["model"]):
        share_settings(config)  # before its data are read
    return config


class _Read:
    """Data and the hashes of their files, once for all stages that read and split them alike."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Any, dict[str, str]]] = {}

    def data(self, config: Config) -> Any:
        """The data of a stage; an empty ``item_fields`` is filled as it was for whoever read them first."""
        dataset = self._of(config)[0]
        config["item_fields"] = dataset.config["item_fields"]
        return dataset.under(config) if is_ours(config["model"]) else dataset

    def files(self, config: Config) -> dict[str, str]:
        """See :func:`data_files`."""
        return self._of(config)[1]

    def _of(self, config: Config) -> tuple[Any, dict[str, str]]:
        if self._key(config) not in self._kept:
            asked = self._key(config)
            found = read_data(config), data_files(config)
            self._kept |= {asked: found, self._key(config): found}  # reading fills `item_fields`
        return self._kept[self._key(config)]

    def _key(self, config: Config) -> str:
        decided_by = [config[name] for name in (*WHAT_DATA_IS, *HELD_OUT, *HISTORIES, "coordinates", "dataset")]
        whose = looks_at_items(config) if is_ours(config["model"]) else config["model"]
        return json.dumps([whose, *decided_by], default=str)


@dataclass(frozen=True)
class _Stage:
    """A stage whose key is known, done or not; ``before`` is the key of the one that it starts from."""

    name: str
    config: Config
    read: _Read
    key: str
    before: str | None
    place: Path
    is_last: bool

    @classmethod
    def after(
        cls, before: _Stage | None, name: str, config: Config, read: _Read, folder: Path, is_last: bool
    ) -> _Stage:
        if before is not None:
            config["init_from"] = str(before.weights)
        key = _key(config, before, read)
        place = folder / f"{name}-{key[:10]}"
        config["checkpoint_dir"] = str(place)
        return cls(name, config, read, key, before.key if before else None, place, is_last)

    @property
    def about(self) -> Path:
        return self.place / "stage.json"

    @property
    def weights(self) -> Path:
        return self.place / "weights.safetensors"

    @property
    def is_done(self) -> bool:
        there = self.about.is_file() and self.weights.is_file()
        return there and (not self.is_last or "test" in json.loads(self.about.read_text()))

    def try_out(self) -> None:
        """Build the model once, from no weights."""
        train = self.read.data(self.config).build()[0]
        try:
            get_model(self.config["model"])(self.config, train)
        except NestRecError as error:
            raise NestRecError(f"stage {self.name!r}: {error}") from None


def _run_stage(stage: _Stage) -> dict[str, Any]:
    config, place = stage.config, stage.place
    if stage.is_done:
        _say(f"{stage.name}: unchanged, found in {place}")
        return json.loads(stage.about.read_text()) | {"weights": str(stage.weights)}
    _say(f"{stage.name}: training {config['model']}, into {place}")
    trainer, (train_data, valid_data, test_data) = prepare(config, stage.read.data(config))
    trainer.saved_model_file = str(stage.weights)
    last = Path(last_checkpoint(stage.weights))
    if last.is_file():
        trainer.resume_checkpoint(last)
    score, valid = trainer.fit(train_data, valid_data, verbose=False, show_progress=config["show_progress"])
    result = {"stage": stage.name, "model": config["model"], "dataset": config["dataset"], "key": stage.key}
    result |= {"before": stage.before, "valid_score": score, "valid": valid, "history": trainer.history}
    result["weights"] = str(stage.weights)
    if stage.is_last:
        trainer.ranks_file = place / "ranks.parquet"
        result["test"] = trainer.evaluate(test_data, show_progress=config["show_progress"])
    if Processes.current().is_first:
        with written_whole(stage.about) as draft:
            draft.write_text(json.dumps(result, indent=1) + "\n")
        last.unlink(missing_ok=True)
    Processes.current().wait()
    return result


def _say(line: str) -> None:
    if Processes.current().is_first:
        print(line, flush=True)


def _key(config: Any, before: _Stage | None, read: _Read) -> str:
    """What a stage's result depends on, as a hash."""
    features = read.data(config).feature_paths
    made_of = {
        "features": {name: sha256_of(path / "manifest.json") for name, path in features.items()},
        "settings": decisive(config),
        "data": read.files(config),
        "llm": base_files(config["llm"]),
        "before": before.key if before else config["init_from"] and sha256_of(config["init_from"]),
        "code": code_version(),
    }
    return hashlib.sha256(json.dumps(made_of, default=str).encode()).hexdigest()
