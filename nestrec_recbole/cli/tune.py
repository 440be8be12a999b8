"""Search settings on validation data with Ray: nestrec tune --model NestRec --dataset NAME --trials 40 --epochs 30."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

TAKES_MODELS = True
TAKES_SETTINGS = True  # as --key=value, of every trial
WRITES = "--folder and --feature_path=FOLDER say"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="YAML file of settings")
    parser.add_argument("--space", metavar="FILE", help="YAML or .hyper (default: properties/tune/MODEL.yaml)")
    parser.add_argument("--trials", type=int, default=20, help="how many (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="of a trial, at most (default: as the settings say)")
    parser.add_argument("--budget", type=float, metavar="HOURS", help="no trial goes on after so long")
    parser.add_argument("--scheduler", default="asha", help="asha, median, pbt or none (default: %(default)s)")
    parser.add_argument("--search", default="random", help="random, optuna or hyperopt (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=2020, help="of the search (default: %(default)s)")
    parser.add_argument("--cpus", type=float, default=1.0, help="of a trial; 0.5: two on one (default: %(default)s)")
    parser.add_argument("--gpus", type=float, default=0.0, help="of a trial; 0.25: four on one (default: %(default)s)")
    parser.add_argument("--at-once", type=int, metavar="N", help="trials at the same time, at most")
    parser.add_argument("--address", help="host:port of a Ray cluster (default: one is started here)")
    parser.add_argument("--folder", metavar="FOLDER", help="of the search (default: runs/tune/DATASET-MODEL)")
    parser.add_argument("--resume", action="store_true", help="go on with the search in that folder")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the winner's trainings at the end")
    parser.add_argument("--no-final", action="store_true", help="do not train the winner again: leave test data alone")


def call(options: Any) -> int:
    """Run the verb."""
    try:
        _tune(options)
    except KeyboardInterrupt:
        print("nestrec: interrupted; --resume goes on", file=sys.stderr)
        return 130  # as shells have it
    return 0


def _tune(options: Any) -> None:
    from nestrec_recbole.tune.budget import Plan
    from nestrec_recbole.tune.results import write_results
    from nestrec_recbole.tune.search import search

    folder = Path(options.folder or Path("runs/tune") / f"{options.dataset}-{options.model}")
    plan = Plan(
        trials=options.trials,
        epochs=options.epochs,
        scheduler=options.scheduler,
        searcher=options.search,
        seed=options.seed,
        cpus=options.cpus,
        gpus=options.gpus,
        at_once=options.at_once,
        hours=options.budget,
    )
    found = search(
        options.model,
        options.dataset,
        _given(options.config),
        options.space,
        plan,
        folder=folder,
        resume=options.resume,
        address=options.address,
        say=lambda line: print(line, flush=True),
    )
    write_results(found, folder)
    print(f"best validation {found.metric}: {found.score}, with {folder}/best.yaml; all trials in {folder}/tuning.html")
    if not options.no_final:
        write_results(found, folder, _final(found, folder, options.seeds))


def _given(files: list[str]) -> dict[str, Any]:
    """The settings of every trial: those of files, and those of the command line over them."""
    from nestrec_recbole.cli.run import read_settings
    from nestrec_recbole.cli.words import take_settings
    from nestrec_recbole.settings.values import merged

    settings: dict[str, Any] = {}
    for path in files:
        settings = merged(settings, read_settings(path))
    return merged(settings, take_settings())


def _final(found: Any, folder: Path, seeds: list[int]) -> list[dict[str, Any]]:
    """Train the winner once per seed, and evaluate it once on test data; what ``final.json`` has is not run again.

    That the data is the same, the search has checked.
    """
    from nestrec_recbole.bench.run import train
    from nestrec_recbole.files import written_whole
    from nestrec_recbole.fingerprints import code_version

    path = folder / "final.json"
    done = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    made_by = {"settings": json.loads(json.dumps(found.settings, default=str)), "code": code_version()}
    done = [one for one in done if {key: one.get(key) for key in made_by} == made_by]
    quiet = {"state": "ERROR", "show_progress": False}
    for seed in seeds:
        if any(one["seed"] == seed for one in done):
            continue
        weights = folder / f"winner-{seed}.safetensors"
        run, _, _ = train(found.model, found.dataset, {**found.settings, **quiet, "seed": seed}, weights)
        done.append({"seed": seed, **made_by, "metrics": run.metrics})
        with written_whole(path) as draft:
            draft.write_text(json.dumps(done, indent=1) + "\n")
        print(f"test, seed {seed}: {_as_line(run.metrics)}", flush=True)
    chosen = [one for one in done if one["seed"] in seeds]
    means = {name: sum(one["metrics"][name] for one in chosen) / len(chosen) for name in chosen[0]["metrics"]}
    print(f"test, mean: {_as_line(means)}")
    return chosen


def _as_line(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
