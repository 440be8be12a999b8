"""Print the top-k for a history of item ids."""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("checkpoint")
    parser.add_argument("items", nargs="+", help="item ids, oldest first")
    parser.add_argument("-k", type=int, default=10)


def call(options: Any) -> int:
    """Run the verb."""
    from nestrec_recbole.recommend import Recommender

    recommender = Recommender.load(options.checkpoint)
    titles = recommender.titles()
    for token, score in recommender.recommend([options.items], k=options.k)[0]:
        print(f"{token}\t{score:.4f}\t{titles.get(token, '')}")
    return 0
