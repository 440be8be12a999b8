"""Runs of a suite as tasks of a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from nestrec_recbole.bench.attempt import attempt, failure
from nestrec_recbole.bench.plan import How, Planned
from nestrec_recbole.bench.progress import Progress
from nestrec_recbole.errors import NestRecError, first_line


def run_on_ray(runs: Sequence[Planned], how: How, progress: Progress) -> Iterator[tuple[Planned, dict[str, bytes]]]:
    """Do every run on some machine of a cluster, and give its files back as it ends.

    A machine must have this package, and find data and features under the same paths. ``local`` as address starts a
    cluster on this one.

    Raises
    ------
    NestRecError
        When ray is missing, or no cluster answers.
    """
    try:
        import ray
    except ImportError:
        raise NestRecError("--address: the package ray is missing; pip install 'ray[default]'") from None
    is_local = how.address == "local"
    try:
        n_cpus = how.jobs * how.threads if is_local else None
        ray.init(
            address=how.address, num_cpus=n_cpus, log_to_driver=False, include_dashboard=False if is_local else None
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise NestRecError(f"no Ray cluster at {how.address}: {first_line(error)}") from None
    try:
        n_gpus = 1 if ray.cluster_resources().get("GPU") else 0
        task = ray.remote(num_cpus=how.threads, num_gpus=n_gpus, max_retries=0)(attempt)
        left = list(runs)
        waiting: dict[Any, Planned] = {}
        while left or waiting:
            while left and len(waiting) < how.jobs:
                one = left.pop(0)
                progress.start(one.name)
                waiting[task.remote(one.spec)] = one
            (ended,), _ = ray.wait(list(waiting), num_returns=1)
            one = waiting.pop(ended)
            try:
                yield one, ray.get(ended)
            except ray.exceptions.RayError as error:
                yield one, failure(one.spec, f"on the cluster: {first_line(error)}")
    finally:
        ray.shutdown()
