"""One run, in a process of its own: ``python -m nestrec_recbole.bench.worker FOLDER``.

``FOLDER`` holds ``spec.json``; what the run leaves behind is written there, ``outcome.json`` last. Bad input and broken
trainings end with exit code 1 and one line in ``error.txt``; what nobody foresaw is in ``traceback.txt`` too.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from nestrec_recbole.errors import NestRecError, in_one_line, where_raised


def main(folder: Path) -> int:
    """Run what ``spec.json`` says."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    try:
        outcome = run(spec, folder)
        (folder / "outcome.json").write_text(json.dumps(outcome), encoding="utf-8")
    except Exception as error:  # whatever it is, it becomes a row of the table
        said = in_one_line(error)
        if not isinstance(error, NestRecError):
            (folder / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
            said += f" ({where_raised(error)})"
        (folder / "error.txt").write_text(f"{said}\n", encoding="utf-8")
        return 1
    return 0


def run(spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train, measure, write the tables, and say what ``run.json`` wants to know."""
    import numpy as np
    import torch

    from nestrec_recbole.bench.attempt import WEIGHTS
    from nestrec_recbole.bench.run import Trained, all_metrics, train_and_rank
    from nestrec_recbole.bench.tables import write_tables
    from nestrec_recbole.data.content import item_content
    from nestrec_recbole.data.features import FeatureStore
    from nestrec_recbole.process_state import events_in
    from nestrec_recbole.settings.values import decisive, is_plain

    torch.set_num_threads(spec["threads"])
    settings = {**spec["settings"], "checkpoint_dir": str(folder / "saved"), "show_progress": False, "state": "ERROR"}
    if "CUDA_VISIBLE_DEVICES" in os.environ:  # RecBole would set it to `gpu_id`, for all runs the same
        settings["gpu_id"] = os.environ["CUDA_VISIBLE_DEVICES"]
    with events_in(folder):
        done: Trained = train_and_rank(spec["model"], spec["dataset"], settings)
    trainer, config = done.trainer, done.trainer.config
    tokens = done.test.field2id_token[done.test.iid_field]
    fields = [FeatureStore.open(path).align(tokens) for path in spec["content"]]
    metrics = all_metrics(done, item_content(fields) if fields else None)
    if not np.isfinite(list(metrics.values())).all():
        raise ValueError(f"metrics that are not finite: {[name for name in metrics if not np.isfinite(metrics[name])]}")
    write_tables(done.ranks, done.test, folder)
    if spec.get("keep_weights"):
        os.replace(trainer.saved_model_file, folder / WEIGHTS)
    return {
        "config": {key: value for key, value in decisive(config).items() if is_plain(value)},
        "metrics": metrics,
        "valid": _validation(trainer),
        "history": trainer.history,
        "seconds": done.seconds,
        "peak_memory_mib": peak_memory_mib(),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "environment": environment(str(trainer.device)),
    }


def peak_memory_mib() -> float:
    """The most memory this process has held so far."""
    status = Path("/proc/self/status")
    if status.is_file():  # what `getrusage` says begins, on Linux, with what the parent held
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return round(int(line.split()[1]) / 1024, 1)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def environment(device: str) -> dict[str, Any]:
    """What a run was measured on."""
    import numpy as np
    import recbole
    import torch

    found = {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "recbole": recbole.__version__,
        "threads": torch.get_num_threads(),
        "device": device,
    }
    if device.startswith("cuda"):
        found["device"] = f"{device}, {torch.cuda.get_device_name()}"
        found["peak_gpu_memory_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return found


def _validation(trainer: Any) -> dict[str, Any]:
    """What validation said of the weights that were tested."""
    scored = [record for record in trainer.history if "valid_score" in record]
    sign = 1 if trainer.config["valid_metric_bigger"] else -1
    best: dict[str, Any] = max(reversed(scored), key=lambda record: sign * record["valid_score"], default={})
    return {"score": best.get("valid_score"), "metric": trainer.config["valid_metric"], "epoch": best.get("epoch")}


def _end_with_parent() -> None:
    """Wait for the end of standard input, which the parent holds open: without it nobody wants the result."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv.pop())))
