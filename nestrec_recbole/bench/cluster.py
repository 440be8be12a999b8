"""Runs of a suite as tasks of a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from nestrec_recbole.bench.attempt import attempt, failure
from nestrec_recbole.bench.plan import PlannedRun, RunOptions
from nestrec_recbole.bench.progress import Progress
from nestrec_recbole.errors import NestRecError, first_line
from nestrec_recbole.tune.cluster import check_resources, machines, running_ray


def run_on_ray(
    runs: Sequence[PlannedRun], options: RunOptions, progress: Progress
) -> Iterator[tuple[PlannedRun, dict[str, bytes]]]:
    """Do every run on some machine of a cluster, and give its files back as it ends.

    A machine must have this package, and find data and features under the same paths. ``local`` as address starts a
    cluster on this one.

    Raises
    ------
    NestRecError
        When ray is missing, no cluster answers, or no machine has the threads that a run asks for.
    """
    try:
        import ray
    except ImportError:
        raise NestRecError("--address: the package ray is missing; pip install 'ray[default]'") from None
    address = None if options.address == "local" else options.address
    what = f"a run of --threads {options.threads}"
    with running_ray(address, options.threads, 0, what):
        gpus = 1 if any(one.get("GPU") for one in machines()) else 0
        check_resources(machines(), options.threads, gpus, what)
        progress.jobs = options.jobs or room(machines(), options.threads, gpus)
        task = ray.remote(num_cpus=options.threads, num_gpus=gpus, max_retries=0)(attempt)
        left = list(runs)
        waiting: dict[Any, PlannedRun] = {}
        while left or waiting:
            while left and len(waiting) < progress.jobs:
                one = left.pop(0)
                progress.start(one.name)
                waiting[task.remote(one.spec)] = one
            (ended,), _ = ray.wait(list(waiting), num_returns=1)
            one = waiting.pop(ended)
            try:
                yield one, ray.get(ended)
            except ray.exceptions.RayError as error:
                yield one, failure(one.spec, f"on the cluster: {first_line(error)}")


def room(machines: Sequence[dict[str, float]], threads: int, gpus: int) -> int:
    """How many runs of so many threads (and GPUs) the machines can do at a time."""
    by_cpu = [int(one.get("CPU", 0) // threads) for one in machines]
    by_gpu = [int(one.get("GPU", 0) // gpus) if gpus else n for one, n in zip(machines, by_cpu, strict=True)]
    return sum(map(min, by_cpu, by_gpu))
