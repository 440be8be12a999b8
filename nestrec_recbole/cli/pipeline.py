"""Pre-train items, then users, then train the whole: nestrec pipeline --dataset NAME --items.epochs=5."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

TAKES_MODELS = True
TAKES_SETTINGS = True  # as --key=value for the stages whose model has it, --stage.key=value for one


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
    from nestrec_recbole.compat import literal
    from nestrec_recbole.errors import NestRecError
    from nestrec_recbole.plugin import pipeline_stages
    from nestrec_recbole.train.pipeline import run_pipeline

    stages = read_settings(options.stages) if options.stages else pipeline_stages(options.model)
    settings: dict[str, Any] = {}
    for path in options.config:
        settings |= read_settings(path)
    given, sys.argv = sys.argv[1:], sys.argv[:1]  # RecBole's Config would take them for settings of every stage
    pairs = [word.removeprefix("--").partition("=")[::2] for word in given]
    for_all = {key: value for key, value in pairs if "." not in key}
    settings |= for_all
    over = for_all if options.stages else settings  # over what a stage says: who writes stages means what they say
    stages = {name: _without(stage, over) for name, stage in stages.items()}
    for key, value in pairs:
        stage, dot, inner = key.partition(".")
        if not dot:
            continue
        if stage not in stages:
            raise NestRecError(f"--{key}={value}: no stage {stage!r}; there are {', '.join(stages)}")
        outer, within, last = inner.partition(".")
        if within:  # --joint.llm.layers=2
            so_far = stages[stage].get(outer) or settings.get(outer) or {}
            stages[stage][outer] = {**so_far, last: literal(value)}
        else:
            stages[stage][inner] = value
    folder = Path(options.folder) / f"{options.dataset}-{options.model}"
    result = run_pipeline(options.dataset, stages, settings, folder, options.until)
    print_metrics({"test_result": result.get("test"), "best_valid_result": result["valid"]})
    return 0


def _without(stage: Any, keys: dict[str, Any]) -> Any:
    """The settings of a stage but these; its model stays."""
    return {k: v for k, v in stage.items() if k == "model" or k not in keys} if isinstance(stage, dict) else stage
