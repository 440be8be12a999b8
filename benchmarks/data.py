"""How fast and how small: ``python benchmarks/data.py``. Writes ``results/data.json`` and README's table.

Conversion: synthetic reviews with the schema of Amazon Reviews 2023, gzipped, in two files. Ours runs in a process of
its own, whose peak memory is what the system counts (VmHWM, all of it: Python, torch and RecBole too). The reference is
pandas fed line by line, in two ways: whole records, as the loader that Amazon's reviews are published with does it
(``json.loads`` into a dictionary of dictionaries, ``DataFrame.from_dict(orient="index")``), and the least that will do,
a tuple of the four columns that are needed. Both then sort and write. They run on a fraction and are scaled up in
proportion, which flatters them: sorting grows faster, and all the records would not fit into memory. Unpacking alone
takes about half of our time, and both sides do it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from readme import put_table, read_results, write_results

FILES = 2  # categories
MEMORY = "1GB"  # DuckDB's limit


def write_reviews(folder: Path, n: int) -> list[Path]:
    """Write ``n`` reviews of n/5 users and n/20 items, popular ones more often; 200 words of text at most."""
    source = random.Random(0)
    words = ["".join(source.choices("etaoinshrdlucmfwyp", k=source.randint(2, 10))) for _ in range(5000)]
    lengths = [int(source.paretovariate(1.2) * 12) % 200 + 1 for _ in range(5000)]
    texts = [json.dumps(" ".join(source.choices(words, k=length))) for length in lengths]
    titles = [json.dumps(" ".join(source.choices(words, k=4))) for _ in texts]
    line = (
        '{"rating": %d.0, "title": %s, "text": %s, "images": [], "asin": "B%09d", "parent_asin": "B%09d", '
        '"user_id": "A%027d", "timestamp": %d, "helpful_vote": %d, "verified_purchase": true}\n'
    )
    paths = []
    for number in range(FILES):
        paths.append(folder / f"Category_{number}.jsonl.gz")
        with gzip.open(paths[-1], "wt", compresslevel=4) as file:
            for _ in range(n // FILES):
                user, item = source.randrange(n // 5 + 1), int(source.paretovariate(1) * 500) % (n // 20 + 1)
                title, text = source.choice(titles), source.choice(texts)
                time = source.randrange(1_300_000_000_000, 1_690_000_000_000)
                file.write(line % (source.randint(1, 5), title, text, item, item, user, time, item % 7))
    return paths


def convert_ours(folder: str, threads: str) -> dict[str, float]:
    """Seconds, by the clock and of the processor, and peak MiB of our conversion."""
    from nestrec_recbole.convert import Options, amazon2023, convert

    watch = Watch()
    options = Options(memory_limit=MEMORY, threads=int(threads))
    report = convert(amazon2023(sorted(Path(folder).glob("*.jsonl.gz"))), "ours", options, folder)
    return {**watch.stopped(), "interactions": report["interactions"]}


def convert_with_pandas(folder: str, n: str, records: str) -> dict[str, float]:
    """The same of reading, sorting and writing ``n`` reviews with pandas, ``whole`` records or ``lean``."""
    import pandas as pd

    columns = ["user_id", "parent_asin", "rating", "timestamp"]
    watch = Watch()
    if records == "whole":
        table = pd.DataFrame.from_dict(dict(enumerate(_parse(folder, int(n)))), orient="index")[columns]
    else:
        rows = [(r["user_id"], r["parent_asin"], r["rating"], r["timestamp"]) for r in _parse(folder, int(n))]
        table = pd.DataFrame(rows, columns=columns)
    table = table.sort_values(["user_id", "timestamp"], kind="stable")
    header = ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    table.to_csv(Path(folder) / f"{records}.inter", sep="\t", index=False, header=header)
    return {**watch.stopped(), "interactions": len(table)}


def _parse(folder: str, n: int) -> Iterator[dict[str, Any]]:
    for path in sorted(Path(folder).glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield from map(json.loads, islice(file, n // FILES))


def conversion(n: int, share: float, threads: int) -> dict[str, Any]:
    """Convert ``n`` synthetic reviews, and a share of them with pandas; with a share of 1 the bytes are compared."""
    with tempfile.TemporaryDirectory() as folder:
        size = sum(path.stat().st_size for path in write_reviews(Path(folder), n))
        ours = in_own_process("convert_ours", folder, str(threads))
        result = {
            "reviews": ours["interactions"],
            "MiB of gzip": size / 2**20,
            "threads": threads,
            "ours": ours["seconds"],
            "ours, CPU": ours["CPU seconds"],
            "ours, MiB": ours["MiB"],
            "share that pandas reads": share,
        }
        for records in ("whole", "lean"):
            pandas = in_own_process("convert_with_pandas", folder, str(int(n * share)), records)
            if share == 1 and not _same(Path(folder), records):
                raise SystemExit(f"ours and pandas ({records}) wrote different interactions")
            scale = ours["interactions"] / pandas["interactions"]
            result[records] = {
                "pandas, scaled": pandas["seconds"] * scale,
                "pandas, CPU, scaled": pandas["CPU seconds"] * scale,
                "ratio": pandas["seconds"] * scale / ours["seconds"],
                "ratio of CPU": pandas["CPU seconds"] * scale / ours["CPU seconds"],
                "MiB of the share": pandas["MiB"],
            }
    return result


def _same(folder: Path, records: str) -> bool:
    return (folder / "ours" / "ours.inter").read_bytes() == (folder / f"{records}.inter").read_bytes()


class Watch:
    """Clock, processor time of all threads, and peak memory of this process, from here on."""

    def __init__(self) -> None:
        self.began, self.used = perf_counter(), process_time()

    def stopped(self) -> dict[str, float]:
        """What has passed: on a machine that others use, the processor's time is the steadier figure."""
        seconds, used = perf_counter() - self.began, process_time() - self.used
        return {"seconds": seconds, "CPU seconds": used, "MiB": peak_memory()}


def peak_memory() -> float:
    """MiB that this process has held at most; getrusage's figure would be the parent's at the start."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def in_own_process(name: str, *arguments: str) -> dict[str, Any]:
    """Call a function of this file in a new process."""
    command = [sys.executable, __file__, "--call", name, *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def table(results: dict[str, Any]) -> str:
    """Markdown of what has been measured."""
    lines = ["| | ours | reference | ratio |", "|---|---|---|---|"]
    if "conversion" in results:
        r = results["conversion"]
        what = f"seconds to convert {r['reviews'] / 1e6:g} million reviews"
        for records, name in {"whole": what, "lean": "... pandas reading four columns only"}.items():
            theirs = r[records]
            lines.append(f"| {name} | {r['ours']:.0f} | {theirs['pandas, scaled']:.0f} | {theirs['ratio']:.1f} x |")
        for records, name in {"whole": "... processor seconds", "lean": "... reading four columns only"}.items():
            used, ratio = r[records]["pandas, CPU, scaled"], r[records]["ratio of CPU"]
            lines.append(f"| {name} | {r['ours, CPU']:.0f} | {used:.0f} | {ratio:.1f} x |")
        held = f"{r['whole']['MiB of the share']:.0f}, for {r['share that pandas reads']:.0%} of them"
        lines.append(f"| ... peak memory, MiB | {r['ours, MiB']:.0f} | {held} | |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is asked for, and write the results and README's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="parts to measure anew; the others stay as they were")
    parser.add_argument("--reviews", type=int, default=10_000_000)
    parser.add_argument("--share", type=float, default=0.02, help="of the reviews that pandas reads")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dry", action="store_true", help="print only: for trying out")
    parser.add_argument("--call", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.call:
        name, *arguments = options.call
        print(json.dumps(globals()[name](*arguments)))
        return
    tasks: dict[str, Callable[[], dict[str, Any]]] = {
        "conversion": lambda: conversion(options.reviews, options.share, options.threads),
    }
    results = read_results("data") if options.only else {}
    for name, task in tasks.items():
        if options.only and name not in options.only:
            continue
        results[name] = task()
        print(name, json.dumps(results[name]), flush=True)
    if not options.dry:
        write_results("data", {**results, "command": "python benchmarks/data.py"})
        put_table("data table", table(results))


if __name__ == "__main__":
    main()
