"""Running a suite: what is finished stays, the rest runs side by side, and what fails becomes a row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import Queue
from typing import Any

from nestrec_recbole.bench import attempt as worker
from nestrec_recbole.bench.plan import PlannedRun, RunOptions, all_runs, plan
from nestrec_recbole.bench.progress import Progress
from nestrec_recbole.bench.results import LABELS, Labels, ResultsFolder
from nestrec_recbole.bench.suite import Suite
from nestrec_recbole.errors import NestRecError


def benchmark(
    suite: Suite,
    results: str | Path,
    options: RunOptions,
    only: Sequence[str] = (),
    datasets: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> Path:
    """Run a suite, or the named rows, datasets and seeds of it, and say how far it is.

    Parameters
    ----------
    suite : Suite
    results : str or Path
        The suite's folder is made in it.
    options : RunOptions

    Returns
    -------
    Path
        The folder of the results, ``<results>/<suite>``.

    Raises
    ------
    NestRecError
        When a name is not in the suite, the folder is of another version or in use, or data cannot be read.
    """
    chosen = suite.select(only, datasets, seeds)
    folder = ResultsFolder(Path(results) / suite.name)
    with folder.held() as drafts:
        folder.open(suite)
        planned = plan(suite, chosen, folder.path, options, lambda line: print(line, flush=True))
        labels = {key: _labels([one for one in planned if one.key == key]) for key in {one.key for one in planned}}
        keys = {one.place: one.key for one in planned}
        # No row mixes settings, whatever seeds run.
        folder.bring_up_to_date({**dict.fromkeys(all_runs(suite)), **keys}, labels)
        runs = [one for one in planned if one.place[2] in chosen.seeds]
        settled = ("finished", "failed") if options.keep_failed else ("finished",)
        open_runs = [one for one in runs if folder.status(one.key) not in settled]
        if len(open_runs) < len(runs):
            print(f"{len(runs) - len(open_runs)} of {len(runs)} runs are there already", flush=True)
        left = list({one.key: one for one in reversed(open_runs)}.values())[::-1]  # rows that share a run have it once
        progress = Progress(len(left), options.jobs or 1)
        try:
            for one, files in _run_all(left, options, drafts, progress):
                _publish(folder, one, files)
                folder.label(one.key, labels[one.key])
                progress.finish(one.name, _spoken(json.loads(files["run.json"]), suite.metrics[0]))
        except KeyboardInterrupt:
            done = sum(folder.status(one.key) == "finished" for one in runs)
            raise KeyboardInterrupt(
                f"stopped with {done} of {len(runs)} runs finished, which are kept in {folder.path}; the same command "
                "goes on with the rest"
            ) from None
    return folder.path


def _labels(runs: Sequence[PlannedRun]) -> Labels:
    """What the rows that share a run call it."""

    def of_threads(threads: int | None) -> list[dict[str, Any]]:
        called = [{name: one.spec["run"][name] for name in LABELS} for one in runs]
        again = [{} if threads is None else {"command": one.command(threads)} for one in runs]
        return [{**label, **command} for label, command in zip(called, again, strict=True)]

    return of_threads


def _run_all(
    runs: Sequence[PlannedRun], options: RunOptions, drafts: Path, progress: Progress
) -> Iterator[tuple[PlannedRun, dict[str, bytes]]]:
    """Each run with its files, as it ends."""
    if options.address is not None:
        from nestrec_recbole.bench.cluster import run_on_ray

        yield from run_on_ray(runs, options, progress)
        return
    free: Queue[str | None] = Queue()
    for slot in range(progress.jobs):
        free.put(options.gpus[slot % len(options.gpus)] if options.gpus else None)

    running = worker.Running()

    def do(one: PlannedRun) -> dict[str, bytes]:
        gpu = free.get()
        progress.start(one.name)
        try:
            return worker.attempt({**one.spec, "gpu": gpu}, str(drafts.resolve()), running)
        finally:
            free.put(gpu)

    with ThreadPoolExecutor(progress.jobs) as pool:
        waiting = {pool.submit(do, one): one for one in runs}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            running.stop()
            raise


def _publish(folder: ResultsFolder, one: PlannedRun, files: dict[str, bytes]) -> None:
    """Keep a run; where there is no room for its tables, as one that failed."""
    try:
        folder.publish(one.key, files)
    except OSError as error:
        about = {**json.loads(files["run.json"]), "status": "failed", "error": f"{type(error).__name__}: {error}"}
        files["run.json"] = json.dumps(about).encode()
        try:
            folder.publish(one.key, {"run.json": files["run.json"]})
        except OSError:
            raise NestRecError(f"{folder.path}: {error}; make room, and the same command goes on") from None


def _spoken(about: dict[str, Any], metric: str) -> str:
    if about["status"] == "failed":
        return f"failed: {about['error']}"
    value = about["metrics"].get(metric)
    return f"no {metric}" if value is None else f"{metric} {value:.4f}"
