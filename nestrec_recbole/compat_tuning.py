"""RecBole's own way of tuning, ``HyperTuning`` and ``objective_function``, on current numpy, hyperopt and Ray."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np

from nestrec_recbole.compat import literal
from nestrec_recbole.process_state import without_arguments

_SAID = (
    "objective_function tells Ray Tune the validation metrics of the best epoch so far, after every epoch; RecBole's "
    "own tells it those of the test data, once, and so chooses by them"
)


def objective_function(
    config_dict: dict[str, Any] | None = None, config_file_list: list[str] | None = None, saved: bool = True
) -> dict[str, Any]:
    """Train and evaluate under one choice of settings: RecBole's function, of which Ray Tune hears validation metrics.

    Parameters
    ----------
    config_dict : dict, optional
        The choice, and other settings.
    config_file_list : list of str, optional
    saved : bool
        Keep and evaluate the best epoch's weights, not the last ones.

    Returns
    -------
    dict
        ``model``, ``best_valid_score``, ``valid_score_bigger``, ``best_valid_result`` and ``test_result``; in a trial
        of Ray Tune, which takes it for its last report, also the validation metrics under their own names.
    """
    from recbole.config import Config
    from recbole.utils import init_logger

    from nestrec_recbole.train.prepare import prepare_as_recbole

    report = _report_of_trial()
    with without_arguments() if report else nullcontext():  # a worker's arguments are Ray's
        config = Config(config_dict=config_dict, config_file_list=config_file_list)
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    init_logger(config)
    trainer, (train_data, valid_data, test_data) = prepare_as_recbole(config)
    told: dict[str, Any] = {}
    if report:
        _warn_once()
        if "callback_fn" in inspect.signature(trainer.fit).parameters:  # not of decision trees, which have no epochs
            told["callback_fn"] = lambda epoch, score: report(dict(trainer.best_valid_result))
    score, valid = trainer.fit(train_data, valid_data, verbose=False, saved=saved, **told)
    result = {
        "model": config["model"],
        "best_valid_score": score,
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": valid,
        "test_result": trainer.evaluate(test_data, load_best_model=saved),
    }
    return {**result, **(valid or {})} if report else result


@functools.cache
def _warn_once() -> None:
    warnings.warn(_SAID, stacklevel=3)


def _report_of_trial() -> Callable[[dict[str, float]], None] | None:
    """How this process reports to Ray Tune; None where it runs no trial."""
    if "ray.tune" not in sys.modules:
        return None
    ray = ray_session()
    return ray.report if ray.get_context().get_trial_id() else None


def ray_session() -> Any:
    """Where Ray keeps what a trial reports with: ``ray.tune``; ``ray.train`` in 2.40."""
    from ray import tune

    if hasattr(tune, "report"):
        return tune
    from ray import train

    return train


class _Random:
    """The random numbers that the module below sees: hyperopt asks for ``integers``, which only a Generator has."""

    RandomState = staticmethod(np.random.default_rng)


class _Numpy:
    """The numpy that it sees; its ``str`` is gone from the real one."""

    random = _Random()

    def __getattr__(self, name: str) -> Any:
        return str if name == "str" else getattr(np, name)


def repair() -> None:
    """Let ``HyperTuning`` run, read its files without running them, and choose on validation data under Ray."""
    import recbole.quick_start
    import recbole.trainer.hyper_tuning as hyper_tuning

    hyper_tuning.np = _Numpy()
    hyper_tuning.eval = literal  # of the values of a choice
    recbole.quick_start.objective_function = objective_function
    sys.modules["recbole.quick_start.quick_start"].objective_function = objective_function  # type: ignore[attr-defined]
