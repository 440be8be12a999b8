"""``nestrec <verb>``: thin, one function of the package behind each verb."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; bad input gives one line on stderr and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="nestrec", description="Multimodal and LLM sequential recommenders as RecBole models."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    quick = verbs.add_parser("quickstart", help="train, evaluate and compare on MovieLens-100k in three minutes")
    quick.add_argument("--folder", default="runs/quickstart", help="where results go (default: %(default)s)")
    run = verbs.add_parser("run", help="RecBole's run_recbole: --model NestRec --dataset ml-100k --epochs=5")
    run.add_argument("--model", required=True)
    run.add_argument("--dataset", required=True)
    run.add_argument("--config", action="append", default=[], metavar="FILE", help="YAML file of settings")
    resume = verbs.add_parser("resume", help="go on with a training that was cut off")
    resume.add_argument("checkpoint", help="saved/...-last.safetensors, kept with --checkpoint_last=True")
    top = verbs.add_parser("recommend", help="top-k for a history of item ids")
    top.add_argument("checkpoint")
    top.add_argument("items", nargs="+", help="item ids, oldest first")
    top.add_argument("-k", type=int, default=10)
    options, rest = parser.parse_known_args(arguments)
    bad = rest if options.verb != "run" else [word for word in rest if not (word.startswith("--") and "=" in word)]
    if bad:
        parser.error(f"unrecognized argument {bad[0]!r}; settings are given as --key=value, to `nestrec run` only")
    sys.argv = [sys.argv[0], *rest]  # RecBole's Config reads its settings there
    try:
        return _VERBS[options.verb](options)
    except (ValueError, NotImplementedError, OSError) as error:  # NestRecError, and RecBole's own complaints
        print(f"nestrec: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _quickstart(options: Any) -> int:
    from nestrec_recbole.bench.quickstart import quickstart

    quickstart(options.folder)
    return 0


def _run(options: Any) -> int:
    from nestrec_recbole import run_recbole

    for path in options.config:
        _check_yaml(path)
    return _print_metrics(run_recbole(options.model, options.dataset, options.config or None))


def _check_yaml(path: str) -> None:
    import yaml

    from nestrec_recbole.errors import NestRecError
    from nestrec_recbole.settings import yaml_loader

    with open(path, encoding="utf-8") as file:
        try:
            found = yaml.load(file, Loader=yaml_loader())
        except yaml.YAMLError as error:
            raise NestRecError(f"{path}: not valid YAML ({error})") from None
    if not isinstance(found, dict):
        raise NestRecError(f"{path}: expected `key: value` lines, found {type(found).__name__}")


def _resume(options: Any) -> int:
    from nestrec_recbole.train.resume import resume

    return _print_metrics(resume(options.checkpoint))


def _print_metrics(result: dict[str, Any]) -> int:
    from nestrec_recbole.processes import Processes

    if Processes.current().is_first:
        for name, value in (result["test_result"] or result["best_valid_result"] or {}).items():
            print(f"{name}\t{value}")
    return 0


def _recommend(options: Any) -> int:
    from nestrec_recbole.recommend import Recommender

    recommender = Recommender.load(options.checkpoint)
    titles = recommender.titles()
    for token, score in recommender.recommend([options.items], k=options.k)[0]:
        print(f"{token}\t{score:.4f}\t{titles.get(token, '')}")
    return 0


_VERBS = {"quickstart": _quickstart, "run": _run, "resume": _resume, "recommend": _recommend}

if __name__ == "__main__":
    sys.exit(main())
