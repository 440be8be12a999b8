"""TriGRec's training and scoring against a plain reading of the original: ``python benchmarks/trigrec_speed.py``.

``--data`` holds ``trigrec/``, TriGRec's own pickles as ``prepare.sh`` converts them.
"""

from __future__ import annotations

import argparse
import random
import sys
from time import perf_counter
from typing import Any

import torch
from readme import put_table, write_results
from torch import Tensor, nn

from nestrec_recbole.evaluate.ranking import rank_targets
from nestrec_recbole.train.prepare import prepare

N_IDS, WIDTH, MASK = 64_088, 50, 0.15  # of the original: all ids up to the largest, whether they exist or not
BATCH, N_CANDIDATES = 32, 999
SHAPE = {"hidden_size": 64, "inner_size": 128, "n_layers": 2, "n_heads": 2, "MAX_ITEM_LIST_LENGTH": 15}


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


def table(found: dict[str, float]) -> str:
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


def main() -> None:
    """Time both sides, and write the results and README's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="FOLDER")
    parser.add_argument("--seconds", type=float, default=30, help="that each side of a comparison is timed")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    sys.argv = sys.argv[:1]
    torch.set_num_threads(options.threads)
    found = speed(options.data, options.seconds)
    write_results("trigrec-speed", found)
    print(table(found))
    put_table("trigrec speed", table(found))


if __name__ == "__main__":
    main()
