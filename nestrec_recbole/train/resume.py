"""Going on with a training that was cut off."""

from __future__ import annotations

import os
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole.utils import init_logger

from nestrec_recbole.compat import load_checkpoint, look_in, unstarted
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.settings.rules import RULES
from nestrec_recbole.train.prepare import prepare


def resume(
    path: str | os.PathLike[str],
    data_path: str | None = None,
    feature_path: str | None = None,
    epochs: int | None = None,
    stopping_step: int | None = None,
) -> dict[str, Any]:
    """Go on from a ``...-last.safetensors`` checkpoint (``checkpoint_last`` or ``checkpoint_steps``) to the end.

    On a CPU, in one process, the result is bit by bit that of a training that was never cut off.

    Parameters
    ----------
    path : str or Path
    data_path, feature_path : str, optional
        Where datasets and features lie, if no longer where the checkpoint says.
    epochs, stopping_step : int, optional
        In place of what the training was begun with: so one that has come to its end goes on.

    Returns
    -------
    dict
        ``best_valid_score``, ``valid_score_bigger``, ``best_valid_result`` and ``test_result``, as ``run_recbole``.

    Raises
    ------
    NestRecError
        When the file is damaged, holds weights only, or the data is another.
    """
    config = load_checkpoint(path)["config"]
    look_in(config, data_path, feature_path)
    init_logger(config)
    config["checkpoint_dir"] = str(Path(path).parent)  # a relative one was seen from where the training began
    for name, value in (("epochs", epochs), ("stopping_step", stopping_step)):
        if value is not None and not RULES[name].allows(value):
            raise NestRecError(f"{name} is {value!r}; expected {RULES[name].expected}")
        config[name] = config[name] if value is None else value
    config["init_from"] = config["init_from"] and str(path)  # the weights have gone on from there
    with unstarted(config):
        trainer, (train, valid, test) = prepare(config)
    trainer.resume_checkpoint(path)
    if stopping_step is not None and trainer.cur_step <= stopping_step:
        trainer.finished = False
    if trainer.finished or trainer.start_epoch >= trainer.epochs:
        getLogger().warning(
            "%s: this training ended after %d of %d epochs, so there is only the test to do again; to train on, give "
            "more epochs, or a larger stopping_step than %d",
            path,
            trainer.start_epoch,
            trainer.epochs,
            config["stopping_step"],
        )
    best, result = trainer.fit(train, valid, show_progress=config["show_progress"])
    return {
        "best_valid_score": best,
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": result,
        "test_result": trainer.evaluate(test),
    }
