"""From a config to a trainer and its data, as RecBole's ``run_recbole`` gets there."""

from __future__ import annotations

from typing import Any

from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed


def prepare(config: Any, dataset: Any = None) -> tuple[Any, tuple[Any, Any, Any]]:
    """Build what a config names, from its seed.

    Parameters
    ----------
    config : recbole.config.Config
    dataset : recbole.data.dataset.Dataset, optional
        The data where it has been read already.

    Returns
    -------
    trainer : SequenceTrainer, or RecBole's own for a model of RecBole's
        ``trainer.model`` has fresh weights and is on its device.
    loaders : tuple
        Training, validation and test data.
    """
    init_seed(config["seed"], config["reproducibility"])
    loaders = data_preparation(config, create_dataset(config) if dataset is None else dataset)
    init_seed(config["seed"], config["reproducibility"])  # the weights do not depend on how the data was drawn
    model = get_model(config["model"])(config, loaders[0].dataset).to(config["device"])
    return get_trainer(config["MODEL_TYPE"], config["model"])(config, model), loaders
