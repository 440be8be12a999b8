"""PixelRec: ``interactions.csv``, ``item_info.csv`` and images called ``<item_id>.jpg``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nestrec_recbole.convert.corpus import Corpus
from nestrec_recbole.convert.table import table


def pixelrec(interactions: str | Path, item_info: str | Path | None = None) -> Corpus:
    """Read PixelRec's tables: ``item_id,user_id,timestamp``, and title, tag, description and counts of each item.

    Source: Cheng et al., An Image Dataset for Benchmarking Recommender Systems with Raw Pixels (SDM 2024).

    Raises
    ------
    NestRecError
        A missing file, or a column that is not there.
    """
    return replace(table([interactions], items=item_info), name="pixelrec", options={})
