"""TriGRec's speed against a plain reading of the original, and quality: ``python benchmarks/trigrec.py speed|quality``.

``--data`` holds ``trigrec/`` and ``trigrec-kitchen/`` (TriGRec's own pickles, converted with food and with kitchen as
first domain: of the last items it is not known in which order they came, and the target's must not come later),
``trigrec-distinct/`` and ``trigrec-distinct-kitchen/`` (one user of each history that is there in several windows) and
``food-kitchen/`` (ABXI's Amazon Food and Kitchen). Validation data chose the epoch. A run that is in
``results/trigrec.json`` with the same settings is not run again.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from readme import HERE, put_table, read_results, write_results
from torch import Tensor, nn

from nestrec_recbole.evaluate.ranking import rank_targets
from nestrec_recbole.properties_files import load_preset
from nestrec_recbole.train.pipeline import run_pipeline
from nestrec_recbole.train.prepare import prepare

N_IDS, WIDTH, MASK = 64_088, 50, 0.15  # of the original: all ids up to the largest, whether they exist or not
BATCH, N_CANDIDATES = 32, 999
SHAPE = {"hidden_size": 64, "inner_size": 128, "n_layers": 2, "n_heads": 2, "MAX_ITEM_LIST_LENGTH": 15}

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


# -- speed ------------------------------------------------------------------------------------------------------------


class PlainEncoder(nn.Module):
    """BERT4Rec as the original has it: every position is projected on every id."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.items, self.places = nn.Embedding(N_IDS + 1, WIDTH), nn.Embedding(length, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 4 * WIDTH, 0.1, activation="gelu", batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.to_ids = nn.Linear(WIDTH, N_IDS)

    def forward(self, items: Tensor) -> Tensor:
        """Logits (B, T, ids)."""
        places = torch.arange(items.shape[1], device=items.device)
        return self.to_ids(self.blocks(self.items(items) + self.places(places)))


def reference_targets_per_second(histories: Tensor, seconds: float) -> float:
    """Three encoders, 32 users at a time: the masked positions that are trained in a second."""
    encoders = nn.ModuleList(PlainEncoder(histories.shape[1]) for _ in range(3))
    optimizer = torch.optim.Adam(encoders.parameters(), lr=0.001)

    def step(items: Tensor) -> int:
        masked = (torch.rand(items.shape) < MASK) & (items > 0)
        labels = torch.where(masked, items, -100)
        optimizer.zero_grad()
        for encoder in encoders:
            logits = encoder(items.masked_fill(masked, N_IDS))
            nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
        optimizer.step()
        return int(masked.sum())

    step(histories[:BATCH])
    n_targets, began = 0, perf_counter()
    for start in range(0, len(histories), BATCH):
        n_targets += step(histories[start : start + BATCH])
        if perf_counter() - began > seconds:
            break
    return n_targets / (perf_counter() - began)


def our_targets_per_second(trainer: Any, train: Any, seconds: float) -> tuple[float, float]:
    """Targets that TriGRecUser trains in a second, and the seconds of a whole epoch at that rate."""
    model, optimizer = trainer.model.train(), trainer.optimizer
    total = sum(train.n_targets(place)[0] for place in range(len(train)))
    n_targets, began = 0, 0.0
    for place, batch in enumerate(train):
        if place == 1:  # the first one warms up
            began = perf_counter()
        model.calculate_loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        n_targets += train.n_targets(place)[0] if place else 0
        if place and perf_counter() - began > seconds:
            break
    rate = n_targets / (perf_counter() - began)
    return rate, total / rate


@torch.no_grad()
def reference_users_per_second(histories: Tensor, targets: Tensor, seconds: float) -> float:
    """One user at a time: every position projected, 999 negatives drawn, the thousand scores sorted."""
    encoder = PlainEncoder(10).eval()
    n_users, began = 0, perf_counter()
    for items, target in zip(histories[:, -10:], targets.tolist(), strict=True):
        scores = encoder(items[None])[0].mean(0)
        seen, drawn = {target, *items.tolist()}, {random.randrange(N_IDS) for _ in range(N_CANDIDATES)}
        while len(drawn - seen) < N_CANDIDATES:
            drawn.add(random.randrange(N_IDS))
        candidates = [target, *list(drawn - seen)[:N_CANDIDATES]]
        scores[candidates].argsort(descending=True).tolist().index(0)
        n_users += 1
        if perf_counter() - began > seconds:
            break
    return n_users / (perf_counter() - began)


def our_users_per_second(trainer: Any, test: Any, n_users: int) -> float:
    """TriGRec's exact ranks of test users: the whole target domain under U and F, and among 999 candidates."""
    rows = torch.randperm(len(test.dataset))[:n_users].sort().values.numpy()
    dataset, began = test.dataset.select(rows), perf_counter()
    rank_targets(trainer.model.eval().full_sort_predict, dataset, k=0)
    return len(rows) / (perf_counter() - began)


def speed(data: str, seconds: float) -> dict[str, float]:
    """Both sides of training and of scoring, on the data that the original is for."""
    from recbole.config import Config

    settings = {**SHAPE, "data_path": data, "feature_path": data, "target_domain": "food", "candidates": N_CANDIDATES}
    settings |= {"state": "ERROR", "show_progress": False, "probe_users": 0}
    trainer, (train, _, _) = prepare(Config(model="TriGRecUser", dataset="trigrec", config_dict=settings))
    rate, epoch = our_targets_per_second(trainer, train, seconds)
    found = {"targets_per_second": rate, "epoch_seconds": epoch}
    _, items = train.dataset.domains.training_histories(train.dataset.owners, train.dataset.items, 15)
    histories = torch.from_numpy(items)
    found["reference_targets_per_second"] = reference_targets_per_second(histories, seconds)
    padded = nn.functional.pad(histories, (0, 150 - histories.shape[1]))
    found["reference_targets_per_second_at_length_150"] = reference_targets_per_second(padded, seconds)
    trainer, (_, _, test) = prepare(Config(model="TriGRec", dataset="trigrec", config_dict=settings))
    found["users_per_second"] = our_users_per_second(trainer, test, 8192)
    batch = test.dataset.histories(torch.arange(2048).numpy(), 10)
    histories, targets = batch["item_id_list"], batch["item_id"]
    found["reference_users_per_second"] = reference_users_per_second(histories, targets, seconds)
    return found


def speed_table(found: dict[str, float]) -> str:
    """Markdown."""
    rows = [
        ("targets trained in a second", "targets_per_second", "reference_targets_per_second"),
        (
            "the same, histories padded to 150 as there",
            "targets_per_second",
            "reference_targets_per_second_at_length_150",
        ),
        ("users ranked in a second", "users_per_second", "reference_users_per_second"),
    ]
    lines = ["| | TriGRec | plain reference | ratio |", "|---|---|---|---|"]
    for name, ours, theirs in rows:
        lines.append(f"| {name} | {found[ours]:,.0f} | {found[theirs]:,.1f} | {found[ours] / found[theirs]:,.0f}x |")
    return "\n".join(lines)


# -- quality ----------------------------------------------------------------------------------------------------------


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


def quality_table(runs: list[dict[str, Any]]) -> str:
    """Markdown: means over seeds."""
    lines = ["| data, target | model | seeds | " + " | ".join(COLUMNS) + " |", "|---|---|---|" + "---|" * len(COLUMNS)]
    for place, (dataset, target) in DATASETS.items():
        for row in ROWS:
            found = [one["test"] for one in runs if (one["place"], one["row"]) == (place, row)]
            if found:
                means = " | ".join(f"{sum(one[key] for one in found) / len(found):.4f}" for key in COLUMNS)
                lines.append(f"| {dataset}, {target} | {row} | {len(found)} | {means} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for, and write the results and README's tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["speed", "quality"])
    parser.add_argument("--data", required=True, metavar="FOLDER")
    parser.add_argument("--folder", type=Path, default=Path("runs/trigrec"), help="of weights and ranks")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--on", nargs="+", choices=list(DATASETS), default=list(DATASETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--seconds", type=float, default=30, help="that each side of a comparison is timed")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    sys.argv = sys.argv[:1]
    torch.set_num_threads(options.threads)
    known = read_results("trigrec") if (HERE / "results" / "trigrec.json").is_file() else {}
    results = {"speed": known.get("speed"), "runs": known.get("runs", [])}
    if options.part == "speed":
        results["speed"] = speed(options.data, options.seconds)
        write_results("trigrec", results)
        print(speed_table(results["speed"]))
        put_table("trigrec speed", speed_table(results["speed"]))
        return
    for seed in options.seeds:
        for place in options.on:
            for row in options.rows:
                if row == WITH_TITLES and DATASETS[place][0] != "food-kitchen":
                    continue
                named, given = (row, place, seed), list(settings_of(row, place)[1:])
                same = [one for one in results["runs"] if (one["row"], one["place"], one["seed"]) == named]
                if same and same[0]["settings"] == given:
                    continue
                results["runs"] = [one for one in results["runs"] if one not in same]
                results["runs"].append(run(*named, options.data, options.folder))
                write_results("trigrec", results)
                print(*named, results["runs"][-1]["test"], flush=True)
    put_table("trigrec quality", quality_table(results["runs"]))


if __name__ == "__main__":
    main()
