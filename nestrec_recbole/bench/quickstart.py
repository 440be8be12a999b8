"""``nestrec quickstart``: NestRec and FastSASRec trained, evaluated and compared on MovieLens-100k."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from nestrec_recbole.bench.run import Run, full_histories, train
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.files import written_whole
from nestrec_recbole.recommend import Recommender
from nestrec_recbole.settings.checks import check_known
from nestrec_recbole.settings.shipped import is_ours, keys_of_any_model, models_with
from nestrec_recbole.train.curves import plot_curves

DATASET = "ml-100k"
# As many epochs as fit into three minutes on two quiet cores.
# Of the rates 0.002 and 0.003, the better on validation data, of both models.
ALIKE = {"item_start": "cooccurrence", "learning_rate": 0.003}
SETTINGS: dict[str, dict[str, Any]] = {
    "Pop": {},
    "FastSASRec": {"epochs": 12, **ALIKE},
    "NestRec": {"epochs": 7, **ALIKE},
}
_COLUMNS = {
    "NDCG@10": "ndcg@10",
    "Recall@10": "recall@10",
    "MRR@10": "mrr@10",
    "Coverage@10": "coverage@10",
}


def quickstart(folder: str | Path = "runs/quickstart", **settings: Any) -> list[Run]:
    """Train two models on the ml-100k that ships inside RecBole and compare them with popularity.

    Prints a table and, for three users, their last items and five recommendations. Writes ``results.json``,
    ``curves.png``, the checkpoints and every user's ranks (``<model>-ranks.parquet``) to ``folder``.

    Parameters
    ----------
    folder : str or Path
        Where results go.
    **settings
        Any config keys, such as ``epochs=1`` or ``seed=7``, for the models that read them.

    Returns
    -------
    list of Run
        Pop, FastSASRec, NestRec.
    """
    for key in settings.keys() & {"model", "dataset"}:
        raise NestRecError(f"{key} is {settings[key]!r}: the quickstart's are given; `nestrec run` trains others")
    check_known({key.partition(".")[0] for key in settings}, keys_of_any_model())
    topk = settings.get("topk", 10)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    began = perf_counter()
    settings = {
        "show_progress": True,
        "state": "WARNING",
        "checkpoint_dir": str(folder),
        "feature_path": str(folder / "features"),
        "plot_curves": False,  # both models in one picture
        **settings,
        "topk": sorted({10, *(topk if isinstance(topk, (list, tuple)) else [topk])}),  # 10 is what the table shows
    }
    runs = []
    print(f"Training on {DATASET}, leave-one-out; validation chooses the epoch, test is evaluated once.")
    for model, own in SETTINGS.items():
        read = {key: value for key, value in settings.items() if _is_for(model, key)}
        run, trained, test = train(model, DATASET, {**own, **read}, folder / f"{model}.safetensors")
        runs.append(run)
    print("\n" + table(runs) + "\n")
    print(examples(Recommender(trained, test), test))
    with written_whole(folder / "results.json") as draft:
        draft.write_text(json.dumps([asdict(run) for run in runs], indent=1) + "\n")
    plot_curves({run.model: run.history for run in runs[1:]}, folder / "curves.png")
    print(f"{perf_counter() - began:.0f} s in all. Results, curves and checkpoints: {folder}/")
    return runs


def _is_for(model: str, setting: str) -> bool:
    """Whether a model reads a setting; one of RecBole's passes over what it does not know."""
    readers = models_with(setting.partition(".")[0])
    return model in readers or not readers or not is_ours(model)


def table(runs: list[Run]) -> str:
    """Test metrics, one line a model; U ranks seen items too, F leaves them out."""
    head = f"{'model':<12}" + "".join(f"{name:>12} U{'F':>8}" for name in _COLUMNS) + f"{'seconds':>9}"
    lines = [head, "-" * len(head)]
    for run in runs:
        cells = "".join(f"{run.metrics[key]:>14.4f}{run.metrics[key + '_f']:>8.4f}" for key in _COLUMNS.values())
        lines.append(f"{run.model:<12}{cells}{run.seconds:>9.1f}")
    return "\n".join(lines)


def examples(recommender: Recommender, test: Any, n_users: int = 3, k: int = 5) -> str:
    """Three users: the last five items of their history, five recommendations, and what they really took next."""
    titles = recommender.titles()
    rows = len(test) * np.arange(1, n_users + 1) // (n_users + 1)
    histories = full_histories(test, rows)
    lines = []
    for row, history, items in zip(rows, histories, recommender.recommend(histories, k=k), strict=True):
        user = test.field2id_token[test.uid_field][test.users[row]]
        target = str(recommender.catalogue.tokens[test.items[test.ends[row]]])
        lines.append(f"User {user} last saw: " + "; ".join(titles.get(t, t) for t in history[-5:]))
        for place, (token, score) in enumerate(items, start=1):
            mark = "  <- taken next" if token == target else ""
            lines.append(f"  {place}. {titles.get(token, token)} ({score:.2f}){mark}")
    return "\n".join(lines)
