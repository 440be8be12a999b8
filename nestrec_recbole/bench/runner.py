"""Running a suite: what is finished stays, the rest runs side by side, and what fails becomes a row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import Queue
from typing import Any

from nestrec_recbole.bench import attempt as worker
from nestrec_recbole.bench.plan import How, Planned, all_runs, plan
from nestrec_recbole.bench.progress import Progress
from nestrec_recbole.bench.results import ResultsFolder
from nestrec_recbole.bench.suite import Suite
from nestrec_recbole.errors import NestRecError


def benchmark(
    suite: Suite,
    results: str | Path,
    how: How,
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
    how : How

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
        planned = plan(suite, chosen, folder.path, how, lambda line: print(line, flush=True))
        of = {one.key: one.spec["run"] for one in planned}
        keys = {(run["row"], run["dataset"], run["seed"]): key for key, run in of.items()}
        folder.bring_up_to_date({**dict.fromkeys(all_runs(suite)), **keys})  # no row mixes settings, whatever seeds run
        runs = [one for one in planned if of[one.key]["seed"] in chosen.seeds]
        for one in runs:
            if folder.status(one.key):
                folder.relabel(one.key, one.spec["run"])
        settled = ("finished", "failed") if how.keep_failed else ("finished",)
        left = [one for one in runs if folder.status(one.key) not in settled]
        if len(left) < len(runs):
            print(f"{len(runs) - len(left)} of {len(runs)} runs are there already", flush=True)
        progress = Progress(len(left), how.jobs)
        try:
            for one, files in _run_all(left, how, drafts, progress):
                _publish(folder, one, files)
                progress.finish(one.name, _spoken(json.loads(files["run.json"]), suite.metrics[0]))
        except KeyboardInterrupt:
            done = sum(folder.status(one.key) == "finished" for one in runs)
            raise KeyboardInterrupt(
                f"stopped with {done} of {len(runs)} runs finished, which are kept in {folder.path}; the same command "
                "goes on with the rest"
            ) from None
    return folder.path


def _run_all(
    runs: Sequence[Planned], how: How, drafts: Path, progress: Progress
) -> Iterator[tuple[Planned, dict[str, bytes]]]:
    """Each run with its files, as it ends."""
    if how.address is not None:
        from nestrec_recbole.bench.cluster import run_on_ray

        yield from run_on_ray(runs, how, progress)
        return
    free: Queue[str | None] = Queue()
    for slot in range(how.jobs):
        free.put(how.gpus[slot % len(how.gpus)] if how.gpus else None)

    running = worker.Running()

    def do(one: Planned) -> dict[str, bytes]:
        gpu = free.get()
        progress.start(one.name)
        try:
            return worker.attempt({**one.spec, "gpu": gpu}, str(drafts.resolve()), running)
        finally:
            free.put(gpu)

    with ThreadPoolExecutor(how.jobs) as pool:
        waiting = {pool.submit(do, one): one for one in runs}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            running.stop()
            raise


def _publish(folder: ResultsFolder, one: Planned, files: dict[str, bytes]) -> None:
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
    return f"{metric} {about['metrics'][metric]:.4f}"
