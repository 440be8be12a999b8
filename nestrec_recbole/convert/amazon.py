"""What the two generations of Amazon's reviews have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from nestrec_recbole.convert.corpus import Corpus, Fields, Locate, record_of
from nestrec_recbole.convert.jsonlines import JsonLines
from nestrec_recbole.convert.lines import check_files
from nestrec_recbole.convert.staging import Staging, name
from nestrec_recbole.errors import NestRecError


def amazon_corpus(
    generation: str,
    reviews: Sequence[str | Path],
    meta: JsonLines | None,
    read_metadata: Callable[[Staging, JsonLines], Fields],
    *,
    kind: type[JsonLines],
    columns: dict[str, str],
    texts: tuple[str, str],
    time_unit: str,
    review_text: int,
) -> Corpus:
    """Put a corpus together from review files and their items' metadata.

    Parameters
    ----------
    generation : str
        The corpus' name.
    kind : type
        How the review files are read.
    columns : dict
        ``user_id``, ``item_id``, ``rating``, ``timestamp`` -> what a review calls it.
    texts : tuple of str
        A review's headline and its text.
    review_text : int
        Reviews per item that enter a field ``review``.
    """
    if review_text < 0:
        raise NestRecError(f"review_text is {review_text}; expected a number of reviews per item, from 0")
    source = kind(check_files(reviews), (*columns.values(), *(texts if review_text else ())))

    def read_reviews(staging: Staging) -> Locate:
        kinds = {"timestamp": "BIGINT", "rating": "DOUBLE"}
        select = [f"{name(columns[one])} AS {one}" for one in ("user_id", "item_id")]
        select += [f"TRY_CAST({name(columns[one])} AS {type_}) AS {one}" for one, type_ in kinds.items()]
        select += [f"concat_ws(' ', {', '.join(map(name, texts))}) AS review"] if review_text else []
        staging.load("raw", ", ".join(select), source)
        return record_of(source)

    return Corpus(
        name=generation,
        sources=source.files + (meta.files if meta else ()),
        time_unit=time_unit,
        read_interactions=read_reviews,
        read_items=(lambda staging: read_metadata(staging, meta)) if meta else None,
        columns=columns,
        options={"review_text": review_text},
    )


def joined(column: str) -> str:
    """SQL of a JSON list of texts, or a text, as one text."""
    return (
        f"CASE json_type({column}) WHEN 'ARRAY' THEN array_to_string({column} ->> '$[*]', ' ') "
        f"WHEN 'VARCHAR' THEN {column} ->> '$' END"
    )


def amount(column: str) -> str:
    """SQL of the first amount of money in a text."""
    found = f"regexp_extract({column}, '\\d[\\d,]*(\\.\\d+)?|\\.\\d+')"
    whole = f"regexp_replace({found}, ',(\\d\\d\\d)', '\\1', 'g')"  # what comma is left is a decimal one
    return f"TRY_CAST(replace({whole}, ',', '.') AS DOUBLE)"
