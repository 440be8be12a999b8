"""A small results folder, as `nestrec benchmark` writes it: three models, two seeds, two datasets, one run failed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image

ROWS = {"SASRec": 0.0, "NestRec": 0.9, "NestRec <without> ids": 0.05}  # what is added to the target's score
DATASETS = {"small": "small-0a1b2c3d", "other": "other-99aa88bb"}
SCRIPT = "<script>document.title = 'broken into'</script>"
N_USERS, N_ITEMS = 240, 400


def write_results(
    folder: Path,
    seeds: tuple[int, ...] = (1, 2),
    rows: dict[str, float] = ROWS,
    fails: Any = ("small", "NestRec", 2),
    datasets: tuple[str, ...] = ("small", "other"),
) -> Path:
    """Write the folder; ``fails`` is the (dataset, row, seed) of the run that failed."""
    folder.mkdir(parents=True)
    head = {"format": 1, "nestrec_recbole": "0.0.test", "suite": "tiny"}
    (folder / "results.json").write_text(json.dumps(head))
    published = [{"model": "BSARec & co", "ndcg@10_f": 0.0611, "source": "https://arxiv.org/abs/2312.10325"}]
    suite = {
        "name": "tiny",
        "about": "Made up, to look at the report.",
        "datasets": {name: {} for name in datasets},
        "models": {row: {"baseline": row == "SASRec"} for row in rows},
        "settings": {"epochs": 3},
        "seeds": list(seeds),
        "metrics": ["ndcg@10_f", "ndcg@10", "recall@10_f", "coverage@10"],
        "published": {"small": published},
    }
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
    for place, dataset in enumerate(datasets):
        data = DATASETS[dataset]
        items = write_data(folder / "datasets" / data, dataset)
        for row, skill in rows.items():
            for seed in seeds:
                write_run(folder, data, dataset, items, row, skill, seed, place, failed=(dataset, row, seed) == fails)
    return folder


def write_data(folder: Path, dataset: str) -> pd.DataFrame:
    """Write a dataset's card and items, some with titles and pictures; return the items."""
    (folder / "pictures").mkdir(parents=True)
    counts = np.sort(np.random.default_rng(5).zipf(1.6, N_ITEMS).clip(max=400))[::-1].copy()
    counts[-6:] = 0
    images: list[str | None] = [None] * N_ITEMS
    for i in range(0, 60, 2):
        colour = tuple(int(c) for c in np.random.default_rng(i).integers(40, 220, 3))
        Image.new("RGB", (120, 160), colour).save(folder / "pictures" / f"{i}.png")
        images[i] = f"pictures/{i}.png"
    images[4], images[6] = "../../../secret.png", "pictures/missing.png"
    Image.new("RGB", (9, 9)).save(folder.parent.parent.parent / "secret.png")
    titles: list[str | None] = [f"A quiet thing, number {i}" for i in range(N_ITEMS)]
    titles[0], titles[1], titles[2] = SCRIPT, None, "Bürsten & Kämme " * 8
    items = pd.DataFrame({"item": [f"i{i}" for i in range(N_ITEMS)], "title": titles, "train_count": counts})
    items = items.assign(has_text=items["title"].notna(), has_image=[one is not None for one in images], image=images)
    items.to_parquet(folder / "items.parquet", index=False)
    card = {
        "dataset": dataset,
        "users": N_USERS,
        "items": N_ITEMS,
        "interactions": 5120,
        "density": 0.237,
        "history_length": {"min": 3, "median": 12, "mean": 21.3, "max": 88},
        "first_time": "1997-09-20T03:05:10+00:00",
        "last_time": "1998-04-22T23:10:38+00:00",
        "fields": {"title": "text", "image": "image"},
        "files": {f"{dataset}.inter": "ab" * 32},
    }
    (folder / "card.json").write_text(json.dumps(card))
    return items


def write_run(
    folder: Path,
    data: str,
    dataset: str,
    items: pd.DataFrame,
    row: str,
    skill: float,
    seed: int,
    place: int = 0,
    failed: bool = False,
) -> None:
    """Write one run; ``skill`` says how much better than chance and popularity it ranks the targets."""
    key = f"{place}{list(ROWS).index(row) if row in ROWS else 9}{seed}".ljust(16, "0")
    to = folder / "runs" / key
    to.mkdir(parents=True)
    about: dict[str, Any] = {"format": 1, "key": key, "row": row, "model": row.split()[0], "dataset": dataset}
    about |= {"data": data, "seed": seed, "baseline": row == "SASRec", "status": "failed" if failed else "finished"}
    about |= {"settings": {"epochs": 3}, "started": f"2026-11-21T10:0{seed}:00", "code": "0.0.test+0123abcd"}
    about["config"] = {"learning_rate": 0.001 if row == "SASRec" else 0.002, "hidden_size": 64, "seed": seed}
    about["config"]["item_fields"] = {} if row == "SASRec" else {"title": {"modality": "text"}}
    about["environment"] = {"machine": "x86_64", "python": "3.11.9", "torch": "2.15.0", "threads": 2, "device": "cpu"}
    about["command"] = f"nestrec run --model {row.split()[0]} --dataset {dataset} --seed={seed} --note='{row}'"
    about["error"] = "RuntimeError: loss is NaN in epoch 2 <b>&</b> no checkpoint" if failed else None
    if not failed:
        about |= _write_ranks(to, items, skill, seed, place)
    (to / "run.json").write_text(json.dumps(about))


def _write_ranks(folder: Path, items: pd.DataFrame, skill: float, seed: int, place: int) -> dict[str, Any]:
    world, own = np.random.default_rng(place), np.random.default_rng([seed, int(skill * 100), place])
    popularity = np.log1p(items["train_count"].to_numpy())
    chances = (items["train_count"] + 0.3) / (items["train_count"] + 0.3).sum()
    targets = world.choice(N_ITEMS, N_USERS, p=chances)
    taste = world.normal(size=(N_USERS, N_ITEMS))  # what models share
    scores = 0.5 * popularity + taste + 0.3 * own.normal(size=(N_USERS, N_ITEMS))
    scores[np.arange(N_USERS), targets] += skill
    seen = world.random((N_USERS, N_ITEMS)) < 0.05
    seen[np.arange(N_USERS), targets] = False
    order, order_unseen = (np.argsort(-np.where(left_out, -np.inf, scores)) for left_out in (False, seen))
    rank, unseen = (1 + (one == targets[:, None]).argmax(axis=1) for one in (order, order_unseen))
    lengths = world.integers(1, 70, N_USERS)
    users, tokens = [f"u{u}" for u in range(N_USERS)], items["item"].to_numpy()
    ranks = pd.DataFrame({"user": users, "item": tokens[targets], "rank": rank, "rank_unseen": unseen})
    ranks = ranks.assign(history_length=lengths, tied=world.random(N_USERS) < 0.2)
    ranks.to_parquet(folder / "ranks.parquet", index=False)
    history = [tokens[world.integers(0, N_ITEMS, min(n, 10))].tolist() for n in lengths]
    top, top_unseen = (tokens[one[:, :10]].tolist() for one in (order, order_unseen))
    lists = pd.DataFrame({"user": users, "history": history, "items": top, "items_unseen": top_unseen})
    lists.to_parquet(folder / "lists.parquet", index=False)
    ndcg = {f"ndcg@10{s}": float(((r <= 10) / np.log2(1 + r)).mean()) for s, r in (("", rank), ("_f", unseen))}
    recall = {f"recall@10{s}": float((r <= 10).mean()) for s, r in (("", rank), ("_f", unseen))}
    coverage = len(np.unique(order[:, :10])) / N_ITEMS
    beyond = {"coverage@10": coverage, "novelty@10": 4 + own.random(), "diversity@10": 0.5 + 0.2 * own.random()}
    scores_by_epoch = [0.02, ndcg["ndcg@10"] * 0.8, ndcg["ndcg@10"], ndcg["ndcg@10"] * 0.97]
    history_of_epochs = [
        {"epoch": e, "train_loss": 5 - e - skill, "train_seconds": 1.5, "valid_score": v, "valid_seconds": 0.2}
        for e, v in enumerate(scores_by_epoch)
    ]
    return {
        "metrics": {**ndcg, **recall, **beyond},
        "valid": {"score": max(scores_by_epoch), "metric": "NDCG@10", "epoch": 2},
        "history": history_of_epochs,
        "seconds": {"prepare": 1.0, "train": 6 + 40 * skill, "per_epoch": 1.5 + 10 * skill, "evaluate": 0.2},
        "peak_memory_mib": 512.5 + 100 * skill,
        "parameters": int(100_000 * (1 + skill)),
    }
