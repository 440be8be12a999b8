"""Ranking a whole catalogue by a network over pairs: ``python benchmarks/multimodal.py --data FOLDER``.

MultimodalRec, untrained, ranks every test target of ML-1M (``FOLDER/ml1m/ml1m.inter`` and ``.item``, with posters)
under both protocols, each fusion in a process of its own: seconds from the first batch to the last
rank, and the most memory that the process ever held. Beside it the same network as it is usually called, once per user
with the pairs of that user and every item written out: processor seconds for some of the users, scaled up. Writes
``results/multimodal.json`` and README's table, at ``<!-- multimodal table -->``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from time import perf_counter, process_time
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from readme import put_table, read_results, write_results

import nestrec_recbole  # noqa: F401  # the repairs come first
from nestrec_recbole.evaluate.ranking import rank_targets
from nestrec_recbole.layers.fusion import FUSIONS
from nestrec_recbole.train.prepare import prepare

FIELDS = {"title": {"modality": "text"}, "plot": {"modality": "text"}, "image": {"modality": "image"}}
N_SLICE = 200  # users whose pairs are written out


def rank_here(data: str, features: str, fusion: str) -> dict[str, Any]:
    """Rank all test targets in this process."""
    from recbole.config import Config

    given = {"data_path": data, "feature_path": features, "item_fields": FIELDS, "fusion": fusion, "use_gpu": False}
    config = Config("MultimodalRec", "ml1m", config_dict={**given, "show_progress": False, "state": "ERROR"})
    trainer, (_, _, test) = prepare(config)
    model = trainer.model.eval()
    began, began_cpu = perf_counter(), process_time()
    ranks = rank_targets(model.full_sort_predict, test.dataset)
    seconds, cpu_seconds = perf_counter() - began, process_time() - began_cpu
    return {
        "users": len(ranks.rank),
        "items": ranks.n_items - 1,
        "seconds": seconds,
        "processor seconds": cpu_seconds,
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "written out, processor seconds, scaled": written_out(model, test.dataset) * len(ranks.rank) / N_SLICE,
    }


@torch.no_grad()
def written_out(model: Any, dataset: Any) -> float:
    """Processor seconds of scoring every item for some users: a call each, over both vectors of a pair side by side."""
    scorer, table = model.scorer, model.item_table()
    first = torch.cat([scorer.of_user.weight, scorer.of_item.weight], dim=1)
    states = model.user_states(dataset[slice(0, N_SLICE)])
    fast = scorer.catalogue(states[:1], table)
    began = process_time()
    for place, state in enumerate(states):
        pairs = torch.cat([state.expand(len(table), -1), table], dim=1)
        scores = scorer.rest(pairs @ first.T + scorer.of_user.bias)[:, 0] + table @ state
        if not place:
            torch.testing.assert_close(scores, fast[0], atol=1e-4, rtol=1e-4)
    return process_time() - began


def table(results: dict[str, Any]) -> str:
    """README's table."""
    rows = ["| fusion | seconds to rank all users | processor seconds | ... a call per user | peak MiB |"]
    rows.append("|---|---|---|---|---|")
    for name, one in results["fusions"].items():
        cpu = f"{one['processor seconds']:.1f} | {one['written out, processor seconds, scaled']:.1f}"
        rows.append(f"| {name} | {one['seconds']:.1f} | {cpu} | {one['peak MiB']:,.0f} |")
    return "\n".join(rows)


def main() -> None:
    """Run every fusion, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="FOLDER", help="holds ml1m/")
    parser.add_argument("--features", metavar="FOLDER", help="where encoded fields are kept; by default with the data")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fusion", choices=FUSIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    arguments, sys.argv = sys.argv[1:], sys.argv[:1]  # RecBole's Config reads it
    torch.set_num_threads(options.threads)
    if options.fusion:
        print(json.dumps(rank_here(options.data, options.features or options.data, options.fusion)))
        return
    found = {}
    for fusion in FUSIONS:
        command = [sys.executable, __file__, *arguments, "--fusion", fusion]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[fusion] = json.loads(output.splitlines()[-1])
    write_results("multimodal", {"command": "python benchmarks/multimodal.py --data FOLDER", "fusions": found})
    put_table("multimodal table", table(read_results("multimodal")))


if __name__ == "__main__":
    main()
