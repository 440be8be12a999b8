"""RecBole's own models behind the door that all models train through: our data, evaluation and checkpoints."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from logging import getLogger
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from recbole.config import Config
from recbole.data.utils import get_dataloader
from recbole.sampler import KGSampler
from recbole.utils import InputType, ModelType, get_model, get_trainer, init_seed
from torch import Tensor

from nestrec_recbole.compat import load_checkpoint, look_in
from nestrec_recbole.data.dataset import SequenceDataset
from nestrec_recbole.data.flat import flat_dataset
from nestrec_recbole.data.loader import WholeSplit
from nestrec_recbole.data.numbering import numbering
from nestrec_recbole.data.sampling import OtherSampler, UnseenSampler
from nestrec_recbole.data.variants import in_recboles_order, sequences_for, write_rows_out
from nestrec_recbole.encode.items import ensure_item_features
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.evaluate.beyond import look_at_content
from nestrec_recbole.evaluate.scoring import catalogue_scores
from nestrec_recbole.process_state import without_arguments
from nestrec_recbole.settings.checks import check, check_known, check_metrics, fill_eval_args
from nestrec_recbole.settings.shipped import keys_of_ours_alone
from nestrec_recbole.train.checkpoint import load_weights, model_tensors, new_name, read_checkpoint, write_checkpoint
from nestrec_recbole.train.evaluation import ExactEvaluation, about_run
from nestrec_recbole.train.parameters import other_tensors

# What Config makes of other settings.
_DERIVED = ("eval_type", "valid_metric_bigger", "valid_neg_sample_args", "test_neg_sample_args")


def prepare_baseline(config: Any, dataset: Any = None) -> tuple[Any, tuple[Any, WholeSplit, WholeSplit]]:
    """:func:`nestrec_recbole.train.prepare.prepare` for a model of RecBole's.

    It trains as RecBole trains it: its trainer, loss, optimiser, batches and negatives, drawn from the same random
    numbers. Data are sequences of indices; models of users and items get the training part of them as a table. The
    settings ``roles.SHARED`` that are not given have our defaults, so that all models are compared on one split.

    Raises
    ------
    NestRecError
        When the model cannot go through the door; the message says why.
    """
    given, defaults = config.external_config_dict, {**config.internal_config_dict, **config.shared_settings}
    check({key: value for key, value in given.items() if key in defaults and value is not None}, defaults)
    model, (loader, training, valid, test) = _prepared(config, dataset)
    trainer = _trainer(config, model)
    trainer.train_data = training
    return trainer, (loader, valid, test)


def _prepared(config: Any, dataset: Any = None) -> tuple[Any, tuple[Any, WholeSplit, WholeSplit, WholeSplit]]:
    """A model of RecBole's; its loader of batches, and all of training, validation and test data."""
    share_settings(config)
    check_known(config.external_config_dict, {*config.known_settings, *_DERIVED})
    check_metrics(config)
    _refuse(config)
    init_seed(config["seed"], config["reproducibility"])
    whole = sequences_for(config) if dataset is None else dataset
    if look_at_content(config["metrics"]):
        whole.feature_paths = ensure_item_features(config, whole.training_items)
    training, valid, test = whole.build()
    is_sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    data = in_recboles_order(training) if is_sequential else flat_dataset(training)
    write_rows_out(data, config["model"])
    loader = _loader(config, data)
    init_seed(config["seed"], config["reproducibility"])
    model = _model(config, data)
    model.numbering = numbering(whole, [whole.uid_field, whole.iid_field])
    model.full_sort_predict = catalogue_scores(model, test, config)
    return model, (loader, WholeSplit(training), WholeSplit(valid), WholeSplit(test))


class BaselineTrainer(ExactEvaluation):
    """Mixin for RecBole's trainers: evaluates exactly, keeps a history, and pickles nothing."""

    history: list[dict[str, float]]

    def __init__(self, config: Any, model: Any) -> None:
        super().__init__(config, model)  # type: ignore[call-arg]
        self.saved_model_file = new_name(config)
        self.history = []
        self.eval_collector: Any = _Nothing()

    def fit(
        self, train_data: Any, valid_data: Any = None, verbose: bool = True, saved: bool = True, **kwargs: Any
    ) -> Any:
        """As RecBole's."""
        theirs: Any = super()
        result = theirs.fit(train_data, valid_data, verbose, saved, **kwargs)
        if saved:
            self.draw_curves()
        return result

    def _train_epoch(self, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        began = perf_counter()
        theirs: Any = super()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # RecBole calls names that torch is to drop
            loss = theirs._train_epoch(train_data, epoch_idx, *args, **kwargs)
        total = sum(loss) if isinstance(loss, tuple) else loss  # over the batches
        seconds = perf_counter() - began
        self.history.append({"epoch": epoch_idx, "train_loss": total / len(train_data), "train_seconds": seconds})
        return loss

    def _valid_epoch(self, valid_data: Any, show_progress: bool = False) -> tuple[float, dict[str, float]]:
        began = perf_counter()
        score, result = super()._valid_epoch(valid_data, show_progress)
        self.history[-1] |= {"valid_score": score, "valid_seconds": perf_counter() - began}
        self.history[-1] |= {f"valid_{name}": value for name, value in result.items()}
        return score, result

    def _check_nan(self, loss: Tensor) -> None:
        if torch.isnan(loss):
            raise NestRecError(f"the training loss is NaN in epoch {len(self.history)}; try a lower learning_rate")

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """Keep the best weights, and what the model has learnt besides."""
        path = kwargs.get("saved_model_file", self.saved_model_file)
        write_checkpoint(path, model_tensors(self.model) | other_tensors(self.model), about_run(self, epoch))

    def save_pretrained_model(self, epoch: int, saved_model_file: str) -> None:
        """Keep a stage of S3Rec's or RaCT's training, for ``pre_model_path``."""
        self.saved_model_file = str(Path(saved_model_file).with_suffix(".safetensors"))
        self._save_checkpoint(epoch)

    def resume_checkpoint(self, resume_file: Any) -> None:
        """Refuse: of RecBole's models only weights are kept."""
        raise NestRecError(f"{resume_file}: training of {self.config['model']}, a model of RecBole's, cannot go on")


class _Nothing:
    """In place of RecBole's collector of what its own evaluation needs."""

    def data_collect(self, train_data: Any) -> None:
        pass


def configure_again(model: str, dataset: str, saved: Mapping[str, Any], data_path: str) -> Any:
    """The config that a checkpoint of one of RecBole's models was trained with."""
    settings = {key: value for key, value in saved.items() if key != "local_rank"}  # else Config wants a GPU for each
    settings["data_path"] = str(Path(data_path).parent)
    if settings["train_neg_sample_args"]["distribution"] == "none":
        settings["train_neg_sample_args"] = None  # as Config wants it, and not as it resolves it
    with without_arguments():  # what was given on that run's command line is in the checkpoint
        return Config(model=model, dataset=dataset, config_dict=settings)


def load_baseline(
    path: str | os.PathLike[str], data_path: str | None = None, feature_path: str | None = None
) -> tuple[Any, ...]:
    """Load a model of RecBole's from a checkpoint of ours, and its data, which may lie elsewhere now.

    Returns
    -------
    tuple
        config, model, dataset, training, validation and test data.
    """
    config = load_checkpoint(path)["config"]
    for noted in {*config.external_config_dict} - {*config.known_settings, *_DERIVED}:  # by RecBole's transforms
        del config.external_config_dict[noted]
    look_in(config, data_path, feature_path)
    share_settings(config)
    whole = sequences_for(config)
    model, (loader, _, valid, test) = _prepared(config, whole)
    load_weights(model, *read_checkpoint(path), path, config)
    return config, model, whole, loader, valid, test


def share_settings(config: Any) -> None:
    """Give the shared settings that nobody has set our defaults, resolved as RecBole resolves settings."""
    given = config.external_config_dict
    fill_eval_args(given, config.shared_settings)
    ours = {key: value for key, value in config.shared_settings.items() if key not in given}
    if set(config["load_col"] or ()) != {"inter"}:  # RecBole knows that this model reads other files too
        ours.pop("load_col", None)
    with without_arguments():  # what is there has been read
        resolved = Config(model=config["model"], dataset=config["dataset"], config_dict={**given, **ours})
    for key in (*ours, *_DERIVED, "eval_args"):
        config[key] = resolved[key]


def _refuse(config: Any) -> None:
    name = config["model"]
    given = [key for key in config.external_config_dict if key in keys_of_ours_alone()]
    if config.external_config_dict.get("init_from"):
        raise NestRecError(f"init_from has no effect on {name}, a model of RecBole's; leave it out")
    if given:
        getLogger().warning("no effect on %s, a model of RecBole's: %s", name, ", ".join(sorted(given)))
    if config["MODEL_TYPE"] == ModelType.DECISIONTREE:
        raise NestRecError(f"model {name!r} has no place here: it learns from labels and ranks no catalogue")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise NestRecError(f"model {name!r} is RecBole's and trains in one process; start it without torchrun")
    for phase, mode in config["eval_args"]["mode"].items():
        if mode != "full":
            raise NestRecError(f"eval_args.mode is {mode!r} for {phase}: expected 'full'; for samples set `candidates`")


def _loader(config: Any, data: Any) -> Any:
    """RecBole's loader of training batches over our data."""
    sampling, is_knowledge = config["train_neg_sample_args"], config["MODEL_TYPE"] == ModelType.KNOWLEDGE
    needs_label = config["MODEL_TYPE"] == ModelType.CONTEXT and config["MODEL_INPUT_TYPE"] == InputType.POINTWISE
    distribution, alpha = sampling["distribution"], sampling["alpha"]
    if needs_label and distribution == "none" and config["LABEL_FIELD"] not in data.field2type:
        raise NestRecError(
            f"model {config['model']!r} learns from labels: set train_neg_sample_args: {{distribution: uniform, "
            "sample_num: 1}, or threshold: {rating: 4}"
        )
    sampler: Any = None
    if distribution != "none":
        kind = OtherSampler if config["repeatable"] else UnseenSampler
        sampler = kind("train", data, distribution, alpha)
    others = (KGSampler(data, distribution, alpha),) if is_knowledge else ()
    shuffle = True if is_knowledge else config["shuffle"]
    return get_dataloader(config, "train")(config, data, sampler, *others, shuffle=shuffle)


def _model(config: Any, data: SequenceDataset) -> Any:
    try:
        model = get_model(config["model"])(config, data).to(config["device"])
    except ImportError as error:
        raise NestRecError(f"model {config['model']!r} needs a package that is not installed: {error}") from error
    if config["model"] == "Pop":
        model.calculate_loss = _CountTargets(model, config["LABEL_FIELD"])
    return model


class _CountTargets:
    """Pop's training: RecBole's counts an item once per batch however often it is there, and negatives too."""

    def __init__(self, model: Any, label: str) -> None:
        self.model, self.label = model, label

    def __call__(self, interaction: Any) -> Tensor:
        items = interaction[self.model.ITEM_ID]
        if self.label in interaction.interaction:
            items = items[interaction[self.label] > 0]
        self.model.item_cnt.index_add_(0, items, torch.ones_like(items)[:, None])
        self.model.max_cnt = self.model.item_cnt.max(dim=0)[0]
        return torch.zeros(1, requires_grad=True)


def _trainer(config: Any, model: Any) -> Any:
    theirs = get_trainer(config["MODEL_TYPE"], config["model"])
    return type(theirs.__name__, (BaselineTrainer, theirs), {"__module__": __name__})(config, model)
