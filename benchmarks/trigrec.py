"""TriGRec, its parts, its original and one domain alone, in one table: ``python benchmarks/trigrec.py --data FOLDER``.

``--data`` holds what ``prepare.sh`` makes: ``food-kitchen/`` (ABXI's Amazon Food and Kitchen), ``trigrec/`` and
``trigrec-kitchen/`` (TriGRec's own pickles, converted with food and with kitchen as first domain: of the last items it
is not known in which order they came, and the target's must not come later), ``trigrec-distinct/`` and
``trigrec-distinct-kitchen/`` (one user of each history that is there in several windows). Validation data choose the
epoch, the test data is evaluated once per run. A run that is in ``results/trigrec.json`` with the same settings is not
run again; comparisons whose ranks are not in ``--folder`` stay as the results have them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from readme import HERE, difference, put_table, read_results, write_results

from nestrec_recbole.evaluate.saved import metric_of_users, read_ranks
from nestrec_recbole.evaluate.significance import compare, holm
from nestrec_recbole.settings.shipped import load_preset
from nestrec_recbole.train.pipeline import run_pipeline

N_CANDIDATES = 999
# As Beauty's validation data chose them for FastSASRec, the same for every row.
BASE = {**load_preset("FastSASRec", "sparse"), "hidden_size": 64, "epochs": 30, "stopping_step": 3}
BASE |= {"valid_metric": "NDCG@10_f"}
LAYERS = {"inner_size": 256, "n_layers": 2, "n_heads": 2}  # NestRec's levels have their own
WITH_TITLES = "NestRec, merged, with titles"  # which TriGRec's own data lack
USERS = {"users": {"model": "TriGRecUser"}}
ORIGINAL = {"protocol": "original", "objective": "masked", "user_vectors": "frozen", "user_loss_weight": 0.0}
ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "FastSASRec, target alone": {"alone": {"model": "FastSASRec", "alone": True}},
    "FastSASRec, merged": {"merged": {"model": "FastSASRec"}},
    "FastSASRec, merged, softmax over both domains": {"merged": {"model": "FastSASRec", "domain_loss": "all"}},
    WITH_TITLES: {"merged": {"model": "NestRec", "preset": "sparse", "item_fields": {"title": {"modality": "text"}}}},
    "TriGRec": {"recommender": {"model": "TriGRec"}},
    "TriGRec, stages one after the other": {**USERS, "recommender": {"model": "TriGRec"}},
    "TriGRecUser, specific + cross": USERS,
    "TriGRec without specific": {"recommender": {"model": "TriGRec", "use_specific": False}},
    "TriGRec without cross": {"recommender": {"model": "TriGRec", "use_cross": False}},
    "TriGRec without common": {
        "recommender": {"model": "TriGRec", "common_weight": 0.0, "reversal_weight": 0.0, "alignment_weight": 0.0}
    },
    "TriGRec without gating": {"recommender": {"model": "TriGRec", "use_gate": False}},
    "TriGRec, frozen vectors": {
        **USERS,
        "recommender": {"model": "TriGRec", "user_vectors": "frozen", "user_loss_weight": 0.0},
    },
    "The original's stages and inputs (leak)": {
        "users": {"model": "TriGRecUser", **{k: ORIGINAL[k] for k in ("protocol", "objective")}},
        "recommender": {"model": "TriGRec", **ORIGINAL},
    },
}
DATASETS = {
    "trigrec": ("trigrec", "food"),
    "trigrec-kitchen": ("trigrec-kitchen", "kitchen"),
    "distinct": ("trigrec-distinct", "food"),
    "distinct-kitchen": ("trigrec-distinct-kitchen", "kitchen"),
    "food": ("food-kitchen", "food"),
    "kitchen": ("food-kitchen", "kitchen"),
}
COLUMNS = ("ndcg@10_c", "hit@10_c", "ndcg@10", "ndcg@10_f", "hit@10_f")
REFERENCE = "TriGRec"  # that every other row is compared with


def settings_of(row: str, place: str) -> tuple[str, dict[str, dict[str, Any]], dict[str, Any]]:
    """The dataset, the stages, and the settings of all of them."""
    dataset, target = DATASETS[place]
    stages = {name: dict(stage) for name, stage in ROWS[row].items()}
    for stage in stages.values():
        stage |= {"domains": [target]} if stage.pop("alone", False) else {}
    layers = {} if row == WITH_TITLES else LAYERS
    return dataset, stages, {**BASE, **layers, "target_domain": target, "candidates": N_CANDIDATES}


def run(row: str, place: str, seed: int, data: str, folder: Path) -> dict[str, Any]:
    """Train a row's stages, and evaluate the test data of the last one."""
    dataset, stages, settings = settings_of(row, place)
    where = {"data_path": data, "feature_path": data, "state": "ERROR", "show_progress": False, "seed": seed}
    result = run_pipeline(dataset, stages, {**settings, **where}, folder / f"{place}-{row}-{seed}")
    about = {"row": row, "place": place, "seed": seed, "settings": [stages, settings]}
    return {**about, "valid": result["valid"], "test": result["test"], "epochs": len(result["history"])}


def comparisons(runs: list[dict[str, Any]], folder: Path, known: dict[str, Any]) -> dict[str, Any]:
    """Place -> row -> how NDCG@10 among candidates differs from TriGRec's; p is not yet corrected."""
    found: dict[str, Any] = {}
    for place in DATASETS:
        seeds = {row: {one["seed"] for one in runs if (one["place"], one["row"]) == (place, row)} for row in ROWS}
        for row in ROWS:
            both, common = (row, REFERENCE), sorted(seeds[row] & seeds[REFERENCE])
            kept = [seed for seed in common if all(ranks_of(folder, place, one, seed) for one in both)]
            files = [[ranks_of(folder, place, one, seed) for seed in kept] for one in both]
            of_before = known.get(place, {}).get(row, {}).get("seeds", [])
            if row != REFERENCE and kept and (len(kept) > len(of_before) or kept == of_before):
                values = [metric_of_users([read_ranks(file) for file in of_row], COLUMNS[0]) for of_row in files]
                made = compare(*(by_seed.to_numpy() for by_seed in values))
                about = {"difference": made.difference, "low": made.low, "high": made.high, "p": made.p}
                found.setdefault(place, {})[row] = {"seeds": kept, **about}
            elif common and row in known.get(place, {}):
                found.setdefault(place, {})[row] = known[place][row]
    return found


def ranks_of(folder: Path, place: str, row: str, seed: int) -> Path | None:
    """The ranks of a row's last stage, where they are kept."""
    return next((folder / f"{place}-{row}-{seed}").glob(f"{list(ROWS[row])[-1]}-*/ranks.parquet"), None)


def table(results: dict[str, Any]) -> str:
    """Markdown: means over seeds, and how each row compares with TriGRec."""
    runs, made = results["runs"], results["comparisons"]
    each = [(place, row) for place in made for row in made[place]]
    p = dict(zip(each, holm([made[place][row]["p"] for place, row in each]), strict=True))
    names = ["data, target", "model", "seeds", *COLUMNS, f"{COLUMNS[0]} less that of {REFERENCE}"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for place, (dataset, target) in DATASETS.items():
        for row in ROWS:
            found = [one["test"] for one in runs if (one["place"], one["row"]) == (place, row)]
            if found:
                means = [f"{sum(one[key] for one in found) / len(found):.4f}" for key in COLUMNS]
                less = difference(made[place][row], p[place, row]) if (place, row) in p else ""
                lines.append(f"| {' | '.join([f'{dataset}, {target}', row, str(len(found)), *means, less])} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, write the results, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="FOLDER")
    parser.add_argument("--folder", type=Path, default=Path("runs/trigrec"), help="of weights and ranks (%(default)s)")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--on", nargs="+", choices=list(DATASETS), default=list(DATASETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    sys.argv = sys.argv[:1]
    torch.set_num_threads(options.threads)
    known = read_results("trigrec") if (HERE / "results" / "trigrec.json").is_file() else {}
    runs, made = known.get("runs", []), known.get("comparisons", {})
    for seed in options.seeds:
        for place in options.on:
            for row in options.rows:
                if row == WITH_TITLES and DATASETS[place][0] != "food-kitchen":
                    continue
                named, given = (row, place, seed), list(settings_of(row, place)[1:])
                same = [one for one in runs if (one["row"], one["place"], one["seed"]) == named]
                if same and same[0]["settings"] == given:
                    continue
                runs = [one for one in runs if one not in same]
                runs.append(run(*named, options.data, options.folder))
                write_results("trigrec", {"runs": runs, "comparisons": made})
                print(*named, runs[-1]["test"], flush=True)
    write_results("trigrec", {"runs": runs, "comparisons": comparisons(runs, options.folder, made)})
    put_table("trigrec table", table(read_results("trigrec")))


if __name__ == "__main__":
    main()
