"""What tuning costs and finds: ``python benchmarks/tune.py --data FOLDER``, with two CPUs and nothing else running.

Three parts, each a figure that can be wrong. ``asha``: FastSASRec on ml-100k, the same points searched in full and by
ASHA; how near ASHA's best validation score is to the full search's, and after what share of its epochs. ``together``:
the trials per minute of two at once, with a thread each, over those of one at a time, once their processes are up.
``overhead``: seconds of an epoch of FastSASRec on Beauty (``FOLDER/beauty/beauty.inter``) inside a trial of Ray Tune,
less those of the same trial without Ray. ``memory``: what a trial adds to the resident memory of its process, and what
the tenth of ten processes that hold the shared data and a model adds to their private memory (Linux).
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from readme import put_table, read_results, write_results
from scipy.stats import spearmanr

from nestrec_recbole.memory import give_back
from nestrec_recbole.tune.budget import Plan
from nestrec_recbole.tune.cluster import require_ray, running_ray
from nestrec_recbole.tune.search import search
from nestrec_recbole.tune.space import Space, parse_space
from nestrec_recbole.tune.trial import Task, build, make_config, run_trial, shared_data

PARTS = ("asha", "together", "overhead", "memory")
SPACE = parse_space(  # what changes how good a model is, and not how long it takes
    {
        "learning_rate": {"loguniform": [0.0005, 0.01]},
        "hidden_dropout_prob": {"quniform": [0.1, 0.6, 0.1]},
        "cosine": {"choice": [False, True]},
        "temperature": {"loguniform": [0.03, 0.2], "when": {"cosine": [True]}},
        "recency_scale": {"choice": [0.0, 0.5]},
        "weight_decay": {"choice": [0.0, 0.0001, 0.01]},
    }
)
SETTINGS = {"learning_rate": 0.002, "show_progress": False, "state": "ERROR"}
POINTS = 1  # the seed of those that ASHA searches; its rungs were chosen by the curves of others (2020)
ONE_POINT = {"learning_rate": {"choice": [0.002]}}
TIMED_TRIALS = 9  # of the part together


def asha(options: argparse.Namespace) -> dict[str, Any]:
    """Search the same points in full and by ASHA, with the size of model and the epochs that are asked for."""
    own = {"hidden_size": options.width, "inner_size": 4 * options.width, "n_layers": options.layers}
    own |= {"valid_metric": options.metric, "topk": [int(options.metric.partition("@")[2])]}
    found: dict[str, Any] = {"of each": {**own, "epochs": options.epochs}}
    with tempfile.TemporaryDirectory() as folder:
        for scheduler in ("none", "asha"):
            given = {**SETTINGS, **own, "stopping_step": options.epochs}  # full is full
            plan = Plan(options.trials, options.epochs, scheduler, seed=POINTS)
            where = Path(options.keep or folder, scheduler)
            result = search("FastSASRec", "ml-100k", given, SPACE, plan, folder=where, resume=True)
            found[scheduler] = {"score": result.score, "epochs": result.epochs, "trials": len(result.trials)}
            if scheduler == "none":
                found["agreement"] = agreement([[score for _, score in one.scores] for one in result.trials])
    full, short = found["none"], found["asha"]
    found |= {"of best": short["score"] / full["score"], "of epochs": short["epochs"] / full["epochs"]}
    return {f"{options.width}x{options.layers}, {options.epochs} epochs, {options.metric}": found}


def agreement(curves: list[list[float]]) -> list[float]:
    """How trials rank by their best score after a sixth, a third and two thirds of the epochs, and at the end (rho)."""
    best = np.maximum.accumulate(np.array(curves), axis=1)  # (trials, epochs)
    rungs = [math.ceil(best.shape[1] * share / 6) - 1 for share in (1, 2, 4)]
    return [float(spearmanr(best[:, rung], best[:, -1])[0]) for rung in rungs]


def together(options: argparse.Namespace) -> dict[str, float]:
    """Trials per minute between the end of the first and of the last trial, one and two at a time."""
    space = parse_space({"learning_rate": {"loguniform": [0.001, 0.004]}})
    rates: dict[str, float] = {}
    for at_once in (1, 2):
        ends: list[float] = []
        with tempfile.TemporaryDirectory() as folder:
            search(
                "FastSASRec",
                "ml-100k",
                SETTINGS,
                space,
                Plan(TIMED_TRIALS, options.short_epochs, "none", at_once=at_once),
                folder=Path(folder) / "search",
                say=lambda line, ends=ends: ends.append(perf_counter()),  # type: ignore[misc]
            )
        rates[str(at_once)] = 60 * (len(ends) - at_once) / (ends[-1] - ends[at_once - 1])
    return rates | {"ratio": rates["2"] / rates["1"]}


def overhead(options: argparse.Namespace) -> dict[str, float]:
    """Seconds per epoch of one trial on Beauty, with and without Ray, in turns; the first epoch of each is left out."""
    space = parse_space(ONE_POINT)
    settings = {**SETTINGS, "data_path": options.data, "epochs": options.short_epochs}
    seconds: dict[str, list[float]] = {"alone": [], "ray": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.turns):
            seconds["alone"] += _epochs_alone(settings, space, f"{folder}/alone-{turn}")
            seconds["ray"] += _epochs_with_ray(settings, space, f"{folder}/ray-{turn}")
    alone, ray = (median(seconds[name]) for name in ("alone", "ray"))
    return {"alone": alone, "ray": ray, "share": ray / alone - 1}


def _epochs_alone(settings: dict[str, Any], space: Space, folder: str) -> list[float]:
    """What training takes in this process, with the checkpoints that a trial writes but nobody to report to."""
    torch.set_num_threads(1)
    epochs = settings["epochs"]
    task = Task("FastSASRec", "beauty", settings, space.checked({"learning_rate": 0.001}), folder)
    data = shared_data(task, make_config("FastSASRec", "beauty", settings, folder))
    ends: list[float] = []
    run_trial(task, {"learning_rate": 0}, data, lambda epoch, best: ends.append(perf_counter()))
    assert len(ends) == epochs
    return [after - before for before, after in pairwise(ends)]


def _epochs_with_ray(settings: dict[str, Any], space: Space, folder: str) -> list[float]:
    """The same in a trial; its file says when each epoch ended."""
    ends: list[float] = []

    class Watch(_progress()):  # type: ignore[misc]
        def on_trial_result(self, **info: Any) -> None:
            ends.append(perf_counter())

    from nestrec_recbole.tune import running

    before, running.Progress = running.Progress, Watch  # type: ignore[misc]
    try:
        plan = Plan(1, settings["epochs"], "none")
        search("FastSASRec", "beauty", settings, space, plan, folder=folder, say=_ignore)
    finally:
        running.Progress = before  # type: ignore[misc]
    return [after - before for before, after in pairwise(ends)]


def _progress() -> Any:
    require_ray()
    from nestrec_recbole.tune.progress import Progress

    return Progress


def _ignore(line: str) -> None:
    pass


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """MiB of its own that a process has after it has imported everything, and that data, a trial, the tenth add."""
    require_ray()
    with running_ray(None, 1, 0), tempfile.TemporaryDirectory() as folder:
        import ray

        settings = {**SETTINGS, "data_path": options.data, "epochs": 1}
        space = parse_space(ONE_POINT).checked({"learning_rate": 0.001})
        task = Task("FastSASRec", "beauty", settings, space, folder)
        data = ray.put(shared_data(task, make_config("FastSASRec", "beauty", settings, folder)))
        found: dict[str, Any] = ray.get(ray.remote(num_cpus=1)(_measure).remote(task, [data]))
        has_features = any(Path(options.data, "beauty", "features").glob("*/manifest.json"))
        several = replace(task, model="GatedFusionRec" if has_features else "FastSASRec")
        return found | {"tenth": _tenth(several), "tenth of": several.model}


def _tenth(task: Task) -> float:
    """What the tenth of ten processes that each hold the data and a trial's model adds to what is theirs alone.

    All ten have imported everything before, so that what a process is at all is left out.
    """
    import ray

    data = ray.put(shared_data(task, make_config(task.model, task.dataset, task.settings, task.folder)))
    actor = ray.remote(num_cpus=0)(_Holder)
    holders = [actor.remote() for _ in range(10)]
    private = sum(ray.get([one.private.remote() for one in holders]))
    for holder in holders:
        before = private
        ray.get(holder.hold.remote(task, [data]))
        private = sum(ray.get([one.private.remote() for one in holders]))
    return private - before


class _Holder:
    """A process that holds what a trial holds before its first epoch."""

    def __init__(self) -> None:
        import nestrec_recbole.tune.trial  # noqa: F401

    def hold(self, task: Task, data: list[Any]) -> None:
        import ray

        self.held = build(task, {"learning_rate": 0}, ray.get(data[0]))
        give_back()

    def private(self) -> float:
        """MiB that no other process shares (USS)."""
        text = Path("/proc/self/smaps_rollup").read_text()
        return sum(map(int, re.findall(r"Private_(?:Clean|Dirty):\s+(\d+)", text))) / 1024


def _measure(task: Task, data: list[Any]) -> dict[str, float]:
    import ray

    import nestrec_recbole.tune.trial  # noqa: F401

    def own(what: str = "RssAnon") -> float:
        return int(re.search(rf"{what}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024  # type: ignore[index]

    base = own()
    held = ray.get(data[0])
    opened = own()
    Path("/proc/self/clear_refs").write_text("5")  # the highest since now is what VmHWM says
    before, after = own("VmHWM"), []
    run_trial(task, {"learning_rate": 0}, held, lambda epoch, best: after.append(own()))
    highest = own("VmHWM") - before + opened
    return {"imports": base, "data": opened - base, "trial": max(after) - base, "highest": highest - base}


def table(results: dict[str, Any]) -> str:
    """Markdown, a line per figure."""
    lines = ["| | |", "|---|---|"]
    if "asha" in results:
        for one in results["asha"].values():
            each = one["of each"]
            lines += [
                f"| best validation {each['valid_metric']} of {one['none']['trials']} trials on ml-100k, "
                f"width {each['hidden_size']}, layers {each['n_layers']}, {each['epochs']} epochs each "
                f"| {one['none']['score']:.4f} |",
                f"| ... under ASHA, after {one['of epochs']:.1%} of the epochs | {one['asha']['score']:.4f} |",
            ]
            if "agreement" in one:  # results of an older state have none
                rhos = ", ".join(f"{rho:.2f}" for rho in one["agreement"])
                lines.append(f"| ... rank correlation with the end, after a sixth, a third, two thirds | {rhos} |")
    if "together" in results:
        one = results["together"]
        lines.append(f"| trials per minute, two at once over one at a time | {one['ratio']:.2f} x |")
    if "overhead" in results:
        one = results["overhead"]
        lines.append(
            f"| seconds of an epoch on Beauty in a trial, and without Ray | {one['ray']:.2f}, {one['alone']:.2f} |"
        )
    if "memory" in results:
        one = results["memory"]
        lines.append(f"| MiB that a trial on Beauty adds to its process, after its epochs | {one['trial']:.0f} |")
        lines.append(f"| ... and at its highest, within one | {one['highest']:.0f} |")
        if "tenth" in one:  # results of an older state have none
            lines.append(f"| ... and that the tenth of ten that hold the data adds to all | {one['tenth']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is asked for, and write the results and README's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="FOLDER", help="holds beauty/")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--trials", type=int, default=27, help="of the part asha")
    parser.add_argument("--epochs", type=int, default=60, help="of a trial of the part asha (%(default)s)")
    parser.add_argument("--metric", default="NDCG@100", help="that the part asha is decided by (%(default)s)")
    parser.add_argument("--width", type=int, default=32, help="of the model of the part asha (%(default)s)")
    parser.add_argument("--layers", type=int, default=1, help="of the model of the part asha (%(default)s)")
    parser.add_argument("--keep", metavar="FOLDER", help="of the searches of the part asha, which go on from there")
    parser.add_argument("--short-epochs", type=int, default=5, help="of the others")
    parser.add_argument("--turns", type=int, default=2, help="of the part overhead")
    parser.add_argument("--no-readme", action="store_true", help="write neither results nor README: a trial run")
    options = parser.parse_args()
    sys.argv = sys.argv[:1]
    try:
        results = read_results("tune")
    except FileNotFoundError:
        results = {}
    for part in options.parts:
        found = {"asha": asha, "together": together, "overhead": overhead, "memory": memory}[part](options)
        results[part] = {**results.get("asha", {}), **found} if part == "asha" else found
        print(part, found, flush=True)
    if not options.no_readme:
        write_results("tune", {**results, "command": "python benchmarks/tune.py --data FOLDER"})
        put_table("tune table", table(read_results("tune")))
    print(table(results))


if __name__ == "__main__":
    main()
