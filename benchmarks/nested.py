"""The nested stack and what each level of it is worth: ``python benchmarks/nested.py beauty --data FOLDER``.

NestRec from scratch and through the stages of its pipeline, each ablation, and FastSASRec, under both protocols, each
compared with NestRec by a paired permutation test over users (values averaged first, over the seeds that both have;
Holm's correction over the runs); then items that training never saw. Validation chooses the epoch, the test data is
evaluated once per run. A run that is in ``results/nested-DATASET.json`` with the same settings, and its ranks in
``--folder``, is not run again. Comparisons whose ranks are not in ``--folder`` stay as the results have them.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from readme import HERE, difference, put_table, read_results, write_results

from nestrec_recbole.bench.run import train
from nestrec_recbole.encode.items import read_recipes
from nestrec_recbole.evaluate.metrics import row_values
from nestrec_recbole.evaluate.saved import ranks_beside
from nestrec_recbole.evaluate.significance import compare, holm
from nestrec_recbole.plugin import pipeline_stages
from nestrec_recbole.settings.shipped import load_preset
from nestrec_recbole.train.pipeline import run_pipeline
from nestrec_recbole.train.prepare import configure

STACK = {"model": "NestRec", "whitened_scale": load_preset("NestRec", "sparse")["whitened_scale"]}
WHOLE, COLD = "NestRec", {"hidden_items": 0.1}
WIDE = {"hidden_size": 128, "inner_size": 512}
WHOLE_OF = {"FastSASRec, width 128": "NestRec, width 128"}  # what a run is compared with, where that is not WHOLE
RUNS: dict[str, dict[str, Any]] = {
    "FastSASRec": {"model": "FastSASRec"},
    WHOLE: STACK,
    "FastSASRec, width 128": {"model": "FastSASRec", **WIDE},
    "NestRec, width 128": {**STACK, **WIDE},
    "pre-trained by the pipeline": {**STACK, "model": "pipeline"},
    "without whitened fields": {"model": "NestRec"},
    "without user tokens": {**STACK, "user_queries": 0},
    "without Item Q-Former": {**STACK, "item_layers": 0},
    "without LLM": {**STACK, "model": "UserQFormer"},
    "without ids": {**STACK, "use_ids": False},
    "without text": {"model": "NestRec", "item_fields": "no text"},
    "cold: Pop": {"model": "Pop", **COLD},
    "cold: FastSASRec": {"model": "FastSASRec", **COLD},
    "cold: ItemQFormer": {**STACK, "model": "ItemQFormer", **COLD},
    "cold: NestRec": {**STACK, **COLD},
}
COMMON = {"learning_rate": 0.002, "epochs": 40, "stopping_step": 5}
QUIET = {"plot_curves": False, "show_progress": False, "state": "ERROR"}
# What validation data chose, the same for every model that has the setting.
CHOSEN = {"beauty": {**load_preset("FastSASRec", "sparse"), "valid_metric": "NDCG@10_f"}}
COLUMNS = ("ndcg@10", "ndcg@10_f", "recall@10", "recall@10_f", "mrr@10")
COLD_COLUMNS = ("ndcg@10_cold", "ndcg@10_f_cold", "recall@10_f_cold", "ndcg@10_f_warm", "ndcg@10_f")


def run(name: str, seed: int, dataset: str, given: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train one of ``RUNS`` with a seed, evaluate its test data, and keep its ranks."""
    own = dict(RUNS[name])
    model, ranks = own.pop("model"), ranks_path(folder, name, seed)
    settings = {**QUIET, **COMMON, **given, **own, "seed": seed}
    if model == "Pop":
        of_networks = {"learning_rate", "item_fields", *CHOSEN["beauty"]} - {"valid_metric"}
        settings = {key: value for key, value in settings.items() if key not in of_networks}
    if own.get("item_fields") == "no text":
        settings["item_fields"] = fields_without_text(dataset, given)
    if model == "pipeline":
        settings["metric_decimal_place"] = 12
        result = run_pipeline(dataset, pipeline_stages("NestRec"), settings, folder / f"pipeline-{seed}")
        written, metrics, history = (
            Path(result["weights"]).with_name("ranks.parquet"),
            result["test"],
            result["history"],
        )
        ranks.write_bytes(written.read_bytes())
    else:
        with tempfile.TemporaryDirectory() as place:
            kept = Path(place) / "kept.safetensors"
            found, _, _ = train(model, dataset, {**settings, "checkpoint_dir": place}, kept)
            ranks.write_bytes(ranks_beside(kept).read_bytes())
        metrics, history = found.metrics, found.history
    valid = [record["valid_score"] for record in history if "valid_score" in record]
    return {"run": name, "seed": seed, "metrics": metrics, "valid": valid}


def fields_without_text(dataset: str, given: dict[str, Any]) -> dict[str, Any]:
    """The dataset's item fields but those of text; where there is no other, one hashed until it says nothing."""
    config = configure("NestRec", dataset, {**QUIET, **COMMON, **given})
    recipes = read_recipes(config)
    others = {name: {"modality": r.modality} for name, r in recipes.items() if r.modality != "text"}
    return others or {next(iter(recipes)): {"modality": "category", "encoder": "hash", "width": 1}}


def ranks_path(folder: Path, name: str, seed: int) -> Path:
    """Where the ranks of a run are kept."""
    return folder / f"{re.sub('[^a-z]+', '-', name.lower())}-{seed}.parquet"


def values_by_user(folder: Path, name: str, seeds: list[int], ranks: str) -> np.ndarray:
    """NDCG@10 of every user, (n_seeds, n_users); by the column ``ranks`` of the ranks, under its protocol."""
    found = [pd.read_parquet(ranks_path(folder, name, seed)).sort_values(["user", "item"]) for seed in seeds]
    return np.stack([row_values("ndcg", one[ranks].to_numpy(), 10) for one in found])


def comparisons(runs: list[dict[str, Any]], folder: Path, known: dict[str, Any]) -> dict[str, Any]:
    """How NDCG@10 of each run differs from that of the whole stack of its width, under both protocols.

    p is not yet corrected.
    """
    seeds = {name: {one["seed"] for one in runs if one["run"] == name} for name in RUNS}
    found = {name: known[name] for name in RUNS if seeds[name] and name in known}
    for name in seeds:
        whole = WHOLE_OF.get(name, WHOLE)
        common = sorted(seeds[name] & seeds[whole])
        places = [ranks_path(folder, one, seed) for one in (name, whole) for seed in common]
        if name == WHOLE or name.startswith("cold") or not common or not all(place.is_file() for place in places):
            continue
        found[name] = {"seeds": common}
        for column, ranks in zip(COLUMNS[:2], ("rank", "rank_unseen"), strict=True):
            made = compare(*(values_by_user(folder, one, common, ranks) for one in (name, whole)))
            found[name][column] = {"difference": made.difference, "low": made.low, "high": made.high, "p": made.p}
    return found


def table(results: dict[str, Any]) -> str:
    """Markdown: means over seeds, and how each run compares with the whole stack."""
    runs, found = results["runs"], results["comparisons"]
    present = [name for name in RUNS if any(one["run"] == name for one in runs)]
    whole, cold = ([name for name in present if name.startswith("cold") == is_cold] for is_cold in (False, True))
    less = dict.fromkeys(whole, "")
    for column in COLUMNS[:2]:
        p = dict(zip(found, holm([one[column]["p"] for one in found.values()]), strict=True))
        for name in whole:
            one = found[name][column] if name in found else None
            less[name] += f" {difference(one, p[name])} |" if one else "  |"
    names = " | ".join(f"{column} less that of NestRec of its width" for column in COLUMNS[:2])
    lines = [f"| run | seeds | valid | {' | '.join(COLUMNS)} | {names} |", "|---" * (len(COLUMNS) + 5) + "|"]
    lines += [f"| {row(name, runs, COLUMNS)} |{less[name]}" for name in whole]
    if cold:
        lines += ["", f"| run | seeds | valid | {' | '.join(COLD_COLUMNS)} |", "|---" * (len(COLD_COLUMNS) + 3) + "|"]
        lines += [f"| {row(name, runs, COLD_COLUMNS)} |" for name in cold]
    return "\n".join(lines)


def summary(runs: list[dict[str, Any]], dataset: str) -> str:
    """Markdown for the first page: the whole stack, ids only, and what papers report."""
    lines = ["| model | | NDCG@10 U | F | Recall@10 U | F |", "|---|---|---|---|---|---|"]
    for name in ("NestRec, width 128", "FastSASRec, width 128", WHOLE, "FastSASRec"):
        own = [one["metrics"] for one in runs if one["run"] == name]
        if not own:
            continue
        means = [np.mean([metrics[column] for metrics in own]) for column in COLUMNS[:4]]
        seeds = f"mean of {len(own)} seeds" if len(own) > 1 else "one seed"
        lines.append(f"| {name} | {seeds} | {' | '.join(f'{mean:.4f}' for mean in means)} |")
    suite = yaml.safe_load((HERE / "suites" / f"{dataset}.yaml").read_text())
    for known in suite["published"][dataset]:
        values = [f"{known[column]:.4f}" if column in known else "" for column in COLUMNS[:4]]
        lines.append(f"| {known['model']} | reported by {known['source']}'s authors | {' | '.join(values)} |")
    return "\n".join(lines)


def row(name: str, runs: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    """Means of one run over its seeds."""
    own = [one for one in runs if one["run"] == name]
    valid = np.mean([max(one["valid"], default=np.nan) for one in own])
    means = [np.mean([one["metrics"][column] for one in own]) for column in columns]
    return " | ".join([name, str(len(own)), f"{valid:.4f}", *(f"{mean:.4f}" for mean in means)])


def main() -> None:
    """Run what is missing, write the results, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--data", metavar="FOLDER", help="holds DATASET/ (default: as for `nestrec run`)")
    parser.add_argument("--folder", type=Path, default=Path("runs/nested"), help="for ranks and stages (%(default)s)")
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--settings", type=yaml.safe_load, default={}, help="for all runs, as {epochs: 5}; over CHOSEN")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    given = {**CHOSEN.get(options.dataset, {}), **options.settings}
    sys.argv = sys.argv[:1]
    torch.set_num_threads(options.threads)
    folder, name = options.folder.resolve() / options.dataset, f"nested-{options.dataset}"
    folder.mkdir(parents=True, exist_ok=True)
    place = {} if options.data is None else {"data_path": options.data, "feature_path": options.data}
    known = read_results(name) if (HERE / "results" / f"{name}.json").is_file() else {"runs": [], "comparisons": {}}
    settings = {one: {**COMMON, **given, **RUNS[one]} for one in RUNS}
    done = {(d["run"], d["seed"]): d for d in known["runs"] if d["settings"] == settings[d["run"]]}
    for seed in options.seeds:
        for one in options.runs:
            if (one, seed) in done and ranks_path(folder, one, seed).is_file():
                continue
            found = run(one, seed, options.dataset, {**place, **given}, folder)
            done[one, seed] = {**found, "settings": settings[one]}
            runs = sorted(done.values(), key=lambda d: (list(RUNS).index(d["run"]), d["seed"]))
            known = {
                "command": f"python benchmarks/nested.py {options.dataset}",
                "runs": runs,
                "comparisons": comparisons(runs, folder, known["comparisons"]),
            }
            write_results(name, known)
            print(one, seed, found["metrics"], flush=True)
    text = table(known)
    print(text)
    if options.dataset == "beauty":
        put_table("nested table", text)
        put_table("nested summary", summary(known["runs"], options.dataset))


if __name__ == "__main__":
    main()
