"""What a large catalogue costs the nested stack: ``python benchmarks/catalogue.py``, a few minutes on one core.

200,000 made-up items with text features 384 wide; a training step of UserQFormer with a sampled loss that computes
every item against one that computes the items it looks at, frozen items computed against read from the kept file, and
the item table of an evaluation in one piece against in chunks. Each case in a process of its own; memory is its peak
over what the process held before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from recbole.utils import get_model

import nestrec_recbole  # noqa: F401
from nestrec_recbole.data.features import ItemField
from nestrec_recbole.models import itemqformer

ROWS, LENGTH, WIDTH = 80, 50, 384
CASES = {
    "step, every item": {"computes_items": False},
    "step, items it looks at": {},
    "frozen step, items it looks at": {"qformer_learning_rate": 0},
    "frozen step, kept tokens": {"qformer_learning_rate": 0, "keeps": True},
    "item table, one piece": {"chunk": 1 << 40},
    "item table, chunks of 65,536": {"chunk": itemqformer.CHUNK},
}


class Catalogue:
    """As much of a dataset as a model looks at."""

    def __init__(self, n_items: int) -> None:
        self.item_num, self.iid_field = n_items, "item_id"
        self.hidden_items = np.zeros(n_items, dtype=bool)

    def num(self, field: str) -> int:
        """Items there are."""
        return self.item_num

    def item_counts(self) -> np.ndarray:
        """One interaction of each."""
        return np.r_[0, np.ones(self.item_num - 1, dtype=np.int64)]

    def item_fields(self) -> list[ItemField]:
        """One text field that every item has."""
        values = np.random.default_rng(0).standard_normal((self.item_num, WIDTH), dtype=np.float32)
        return [ItemField("title", "text", values, np.arange(self.item_num) > 0)]


def memory(what: str) -> float:
    """``VmRSS``, what this process holds now, or ``VmHWM``, the most since :func:`forget_peak`: MiB."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what)]
    return int(line.split()[1]) / 1024


def forget_peak() -> None:
    """Building the model held more than a step may."""
    Path("/proc/self/clear_refs").write_text("5")


def batch(n_items: int) -> Interaction:
    """Rows of made-up histories, each position with a target."""
    items = torch.randint(1, n_items, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    fields = {"item_id_list": items[:, :-1], "target_list": items[:, 1:]}
    return Interaction({**fields, "item_length": torch.full((ROWS,), LENGTH)})


def measure(name: str, n_items: int) -> dict[str, Any]:
    """Seconds (best of three) and peak memory of one case."""
    case = CASES[name]
    given = {"loss": "sampled_softmax", "state": "ERROR", "item_fields": {"title": {"modality": "text"}}}
    config = Config(model="UserQFormer", dataset="ml-100k", config_dict=given)
    torch.manual_seed(0)
    model = get_model("UserQFormer")(config, Catalogue(n_items))
    model.computes_items = case.get("computes_items", True)
    if "qformer_learning_rate" in case:
        for part in model.readers():
            part.requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        if case.get("keeps"):
            model.keep_fixed(Path(folder))
        itemqformer.CHUNK = case.get("chunk", itemqformer.CHUNK)
        forget_peak()
        before, seconds = memory("VmRSS"), []
        for _ in range(3):
            began = perf_counter()
            run(model, n_items, "chunk" in case)
            seconds.append(perf_counter() - began)
    return {"case": name, "seconds": min(seconds), "mib": memory("VmHWM") - before, "before_mib": before}


def run(model: Any, n_items: int, evaluates: bool) -> None:
    """One training step, or one table for evaluation."""
    if evaluates:
        with torch.no_grad():
            model.eval().item_table()
        return
    model.train().zero_grad()
    model.calculate_loss(batch(n_items)).backward()


def main() -> None:
    """Measure every case, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=200_000)
    parser.add_argument("--case", choices=list(CASES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.argv = sys.argv[:1]
    if options.case:
        print(json.dumps(measure(options.case, options.items + 1)))
        return
    for name in CASES:
        command = [sys.executable, __file__, "--items", str(options.items), "--case", name]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        print(f"| {name} | {found['seconds']:.2f} s | {found['mib']:,.0f} MiB |", flush=True)


if __name__ == "__main__":
    main()
