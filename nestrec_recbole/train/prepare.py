"""The door that every model trains through: from a config to a trainer and its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

from nestrec_recbole.data.variants import sequences_for
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.settings.shipped import is_ours
from nestrec_recbole.train.baselines import prepare_baseline, share_settings


def configure(model: str, dataset: str, settings: Mapping[str, Any]) -> Config:
    """A config for :func:`prepare`.

    A model of RecBole's keeps RecBole's settings of how it trains; data, protocol and metrics, where they are not
    given, are those of our models (``roles.SHARED``). RecBole demands that ``train_neg_sample_args`` be emptied by
    hand where a sequential model has a loss over the catalogue; here it is.

    Raises
    ------
    NestRecError
        When the model is unknown, or needs a package that is not installed.
    """
    try:
        catalogue = Config(model=model, dataset=dataset, config_dict={"train_neg_sample_args": None, **settings})
    except ImportError as error:
        raise NestRecError(f"model {model!r} needs a package that is not installed: {error}") from error
    samples = hasattr(get_model(model), "input_type") or catalogue["loss_type"] != "CE"
    config = Config(model=model, dataset=dataset, config_dict=dict(settings)) if samples else catalogue
    if not is_ours(model):
        share_settings(config)
    return config


def read_data(config: Any) -> Any:
    """Read the data of a config that :func:`configure` has made, as :func:`prepare` does where it is not given them."""
    return create_dataset(config) if is_ours(config["model"]) else sequences_for(config)


def prepare(config: Any, dataset: Any = None) -> tuple[Any, tuple[Any, Any, Any]]:
    """Build what a config names, from its seed: a model of ours, or any of RecBole's that ranks items.

    Parameters
    ----------
    config : recbole.config.Config
    dataset : recbole.data.dataset.Dataset, optional
        The data where it has been read already.

    Returns
    -------
    trainer : SequenceTrainer, or the trainer that RecBole has for the model with our evaluation and checkpoints
        ``trainer.model`` has fresh weights and is on its device. After ``trainer.fit(train, valid)`` there are
        ``trainer.history``, a dict an epoch, and ``trainer.saved_model_file``.
    loaders : tuple
        Training, validation and test data. ``test.dataset`` is a ``SequenceDataset``, which
        ``rank_targets(trainer.model.full_sort_predict, test.dataset, device=trainer.device)`` ranks.

    Raises
    ------
    NestRecError
        When the settings make no sense, or the model cannot be trained and ranked this way.
    """
    if not is_ours(config["model"]):
        return prepare_baseline(config, dataset)
    return prepare_as_recbole(config, dataset)


def prepare_as_recbole(config: Any, dataset: Any = None) -> tuple[Any, tuple[Any, Any, Any]]:
    """:func:`prepare` by RecBole's own steps: a model of RecBole's keeps its split, sampling, metrics and trainer."""
    init_seed(config["seed"], config["reproducibility"])
    loaders = data_preparation(config, create_dataset(config) if dataset is None else dataset)
    init_seed(config["seed"], config["reproducibility"])  # the weights do not depend on how the data was drawn
    model = get_model(config["model"])(config, loaders[0].dataset).to(config["device"])
    return get_trainer(config["MODEL_TYPE"], config["model"])(config, model), loaders
