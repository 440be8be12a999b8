"""Print the top-k for a history of item ids, or of items in a file that the catalogue need not know."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("checkpoint")
    parser.add_argument("items", nargs="*", help="item ids, oldest first")
    parser.add_argument(
        "--history-file",
        metavar="FILE",
        help="instead of ids: JSON lines, oldest first, of parent_asin, combined_text, and image_url or image_path; "
        "items that are not in the catalogue are encoded",
    )
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def call(options: Any) -> int:
    """Run the verb."""
    from nestrec_recbole.errors import NestRecError
    from nestrec_recbole.recommend import Recommender
    from nestrec_recbole.recommend.history import read_history

    if bool(options.items) == bool(options.history_file):
        raise NestRecError("a history is item ids, or --history-file FILE: give one of the two")
    history = read_history(options.history_file) if options.history_file else []
    recommender = Recommender.load(options.checkpoint)
    unseen = recommender.add_items(history) if history else None
    tokens = [item.token for item in history] or options.items
    titles = recommender.titles()
    found = recommender.recommend([tokens], k=options.k)[0]
    if unseen is not None:
        for line in (*unseen.problems, unseen.summary(len(tokens))):
            print(f"nestrec: {line}", file=sys.stderr)
    if not options.json:
        for token, score in found:
            print(f"{token}\t{score:.4f}\t{titles.get(token, '')}")
        return 0
    unknown = set(unseen.tokens) if unseen else set()
    said = {item.token: item.text for item in history}
    answer = {
        "history": [{"item": t, "title": titles.get(t) or said.get(t), "known": t not in unknown} for t in tokens],
        "missing": unseen.missing if unseen else {},
        "recommendations": [{"item": t, "score": score, "title": titles.get(t)} for t, score in found],
    }
    print(json.dumps(answer, ensure_ascii=False, indent=1))
    return 0
