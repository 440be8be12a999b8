"""Pre-train items, then users, then train the whole: nestrec pipeline --dataset NAME --items.epochs=5."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

TAKES_MODELS = True
TAKES_SETTINGS = True  # as --key=value for the stages whose model has it, --stage.key=value for one
WRITES = "--folder and --feature_path=FOLDER say"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("--model", default="NestRec")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="YAML file of settings")
    parser.add_argument("--stages", metavar="FILE", help="YAML file of the stages (default: the model's own)")
    parser.add_argument("--until", metavar="STAGE", help="the last stage to run")
    parser.add_argument("--folder", default="runs/pipeline", help="where results go (default: %(default)s)")


def call(options: Any) -> int:
    """Run the verb."""
    from nestrec_recbole.cli.run import print_metrics, read_settings
    from nestrec_recbole.plugin import pipeline_stages
    from nestrec_recbole.settings.values import merged
    from nestrec_recbole.train.pipeline import run_pipeline

    stages = read_settings(options.stages) if options.stages else pipeline_stages(options.model)
    settings = merged(*map(read_settings, options.config))
    given, sys.argv = sys.argv[1:], sys.argv[:1]  # RecBole's Config would take them for settings of every stage
    for_all, of_stages = _of_words(given, stages)
    settings = merged(settings, for_all)
    over = [key for key in for_all if "." not in key] if options.stages else settings  # who writes stages means them
    for name, own in stages.items():
        if isinstance(own, dict):
            own = {key: value for key, value in own.items() if key == "model" or key not in over}
            whole = {key: settings[key] for key in map(_outer, of_stages[name]) if key in settings}
            inside = {key: value for key, value in for_all.items() if "." in key and _outer(key) in own}
            stages[name] = merged(whole, own, inside, of_stages[name])
    folder = Path(options.folder) / f"{options.dataset}-{options.model}"
    result = run_pipeline(options.dataset, stages, settings, folder, options.until)
    print_metrics({"test_result": result.get("test"), "best_valid_result": result["valid"]})
    return 0


def _of_words(words: list[str], stages: Collection[str]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What the command line says of all stages, and of each one."""
    from nestrec_recbole.compat import literal
    from nestrec_recbole.errors import NestRecError
    from nestrec_recbole.settings.shipped import keys_of_any_model

    for_all: dict[str, Any] = {}
    of_stages: dict[str, dict[str, Any]] = {name: {} for name in stages}
    for word in words:
        key, _, value = word.removeprefix("--").partition("=")
        stage, dot, inner = key.partition(".")
        if dot and stage in stages:  # --joint.epochs=2, --joint.llm.layers=2
            of_stages[stage][inner] = literal(value) if "." in inner else value
        elif dot and stage not in keys_of_any_model():
            raise NestRecError(f"--{key}={value}: no stage {stage!r}; there are {', '.join(stages)}")
        else:  # --epochs=2, --llm.layers=2
            for_all[key] = literal(value) if dot else value
    return for_all, of_stages


def _outer(key: str) -> str:
    return key.partition(".")[0]
