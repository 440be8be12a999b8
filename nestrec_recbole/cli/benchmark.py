"""Run a suite, a YAML file or the name of one that ships: nestrec benchmark smoke."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

TAKES_MODELS = True
TAKES_SETTINGS = True  # as --key=value, over all others
WRITES = "--results and --feature_path=FOLDER say"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("suite", help="YAML file, or the name of a suite that ships")
    parser.add_argument("--results", default="results", metavar="DIR", help="(default: %(default)s)")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at a time (default: one, or one for each GPU)")
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="of each run (default: all cores, shared by the jobs; OMP_NUM_THREADS at most)",
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help="rows to run (default: all)")
    parser.add_argument("--dataset", nargs="+", default=[], metavar="NAME", help="datasets to run on (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], metavar="N", help="seeds to run (default: all)")
    parser.add_argument("--address", help="of a Ray cluster whose machines do the runs; `local` starts one here")
    parser.add_argument("--keep-failed", action="store_true", help="leave failed runs as they are (default: try again)")
    parser.add_argument("--keep-weights", action="store_true", help="runs leave runs/<key>/weights.safetensors")
    parser.add_argument("--no-tune", action="store_true", help="run with the settings as they stand")


def call(options: Any) -> int:
    """Run the verb; 1 where a run failed, 130 where it was stopped."""
    import nestrec_recbole  # noqa: F401  # the repairs come first
    from nestrec_recbole.bench.check import SuiteError, read_suite
    from nestrec_recbole.bench.plan import RunOptions, default_threads, from_word
    from nestrec_recbole.bench.report import write_report
    from nestrec_recbole.bench.results import read_runs
    from nestrec_recbole.bench.runner import benchmark
    from nestrec_recbole.errors import NestRecError

    words, sys.argv = sys.argv[1:], sys.argv[:1]  # RecBole's Config would take them for settings of every run
    given = {key: from_word(value) for key, _, value in (word.removeprefix("--").partition("=") for word in words)}
    for name, value in (("--jobs", options.jobs), ("--threads", options.threads)):
        if value is not None and value < 1:
            raise NestRecError(f"{name} is {value}; expected a whole number from 1")
    gpus = _gpus()
    # A cluster says itself how many it has room for.
    jobs = options.jobs or (None if options.address else max(1, len(gpus)))
    how_to_run = RunOptions(
        named=options.suite,
        jobs=jobs,
        threads=options.threads or default_threads(jobs or 1),
        gpus=gpus,
        address=options.address,
        keep_failed=options.keep_failed,
        tune=not options.no_tune,
        keep_weights=options.keep_weights,
    )
    try:
        suite = read_suite(options.suite, given, options.only or (), options.dataset or ())
        folder = benchmark(suite, options.results, how_to_run, options.only, options.dataset, options.seeds)
    except SuiteError as error:
        for line in error.lines:
            print(f"nestrec: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(f"\nnestrec: {stopped or 'stopped; the same command goes on'}", file=sys.stderr)
        return 130
    page = write_report(folder)
    print(f"\n{(folder / 'table.md').read_text(encoding='utf-8')}")
    failed = [run for run in read_runs(folder) if run["status"] == "failed"]
    for run in failed:
        print(f"{run['row']} on {run['dataset']}, seed {run['seed']}, failed: {run['error']}")
    print(f"Report: {page}; every run: {folder}/runs")
    return 1 if failed else 0


def _gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.cuda.is_available():
        return ()
    return tuple(named.split(",")) if named else tuple(map(str, range(torch.cuda.device_count())))
