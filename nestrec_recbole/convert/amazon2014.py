"""Amazon 2014: reviews, and metadata in "loose JSON", which is Python written down."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nestrec_recbole.convert.amazon import amazon_corpus, amount, joined
from nestrec_recbole.convert.corpus import Corpus, Fields
from nestrec_recbole.convert.jsonlines import JsonLines, copy_in, json_records, without_mark
from nestrec_recbole.convert.lines import byte_lines, check_files, decode
from nestrec_recbole.convert.sources import Record
from nestrec_recbole.convert.staging import Staging
from nestrec_recbole.errors import NestRecError

_COLUMNS = {"user_id": "reviewerID", "item_id": "asin", "rating": "overall", "timestamp": "unixReviewTime"}
_FIELDS: Fields = {
    **{"title": "token_seq", "description": "token_seq", "categories": "token_seq"},
    **{"brand": "token", "price": "float"},
}


def amazon2014(reviews: Sequence[str | Path], metadata: Sequence[str | Path] = (), *, review_text: int = 0) -> Corpus:
    """Read reviews and the metadata of their items, joined on ``asin``.

    A file whose first line is a dictionary as Python writes it is taken for loose JSON: its lines are read as literals,
    never evaluated, and staged as JSON. ``categories`` are the distinct names along all paths, the image is ``imUrl``,
    times are seconds.

    Parameters
    ----------
    reviews, metadata : sequence of str or Path
        ``.json`` or ``.json.gz``.
    review_text : int
        See :func:`~nestrec_recbole.convert.amazon2023.amazon2023`.

    Source: McAuley et al., Image-based Recommendations on Styles and Substitutes (SIGIR 2015).

    Raises
    ------
    NestRecError
        A missing file.
    """
    meta_columns = ("asin", "title", "price", "brand", "imUrl")
    meta = LooseJson(check_files(metadata), meta_columns, ("description", "categories")) if metadata else None
    return amazon_corpus(
        "amazon2014",
        reviews,
        meta,
        _read_metadata,
        kind=LooseJson,
        columns=_COLUMNS,
        texts=("summary", "reviewText"),
        time_unit="s",
        review_text=review_text,
    )


def _read_metadata(staging: Staging, meta: JsonLines) -> Fields:
    select = [
        "asin AS item_id",
        "title",
        f"{joined('description')} AS description",
        "json_extract_string(categories, '$[*][*]') AS names",
        "array_to_string(list_filter(names, lambda x, i: list_position(names, x) = i), ', ') AS categories",
        "brand",
        f"{amount('price')} AS price",
        '"imUrl" AS image',
    ]
    staging.load("raw_items", ", ".join(select), meta, "WHERE asin IN (FROM catalogue)")
    return _FIELDS


class LooseJson(JsonLines):
    """JSON lines, or lines that are Python dictionaries."""

    def prepared(self, folder: Path) -> JsonLines:
        """Write what is loose as JSON into a folder."""
        files = (_stage(path, folder) if _is_loose(path) else without_mark(path, folder) for path in self.files)
        return JsonLines(tuple(files), self.columns, self.nested)

    def walk(self) -> Iterator[Record]:
        """See :class:`~nestrec_recbole.convert.sources.Source`."""
        for path in self.files:
            yield from _literal_records(path) if _is_loose(path) else json_records([path])


def _is_loose(path: Path) -> bool:
    """A dictionary written by Python has its first key in single quotes."""
    first = next((line for _, line in byte_lines(path) if line.strip()), b"")
    return re.match(rb"\s*\{\s*u?'", first) is not None


def _stage(path: Path, folder: Path) -> Path:
    staged = copy_in(folder, path)
    with open(staged, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for _, record in _literal_records(path))
    return staged


def _literal_records(path: Path) -> Iterator[Record]:
    for number, line in byte_lines(path):
        if line.strip():
            yield f"{path}: line {number}", _parse_literal(path, number, line)


def _parse_literal(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """A Python literal, which can name no function and call none."""
    text = decode(path, number, line).strip()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of backslashes in texts
            found = ast.literal_eval(text)
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise NestRecError(f"{path}: line {number}: no JSON object and no Python dictionary ({why}); fix it") from None
    if not isinstance(found, dict):
        raise NestRecError(f"{path}: line {number}: found {text[:40]!r}, expected a dictionary {{...}}; fix it")
    return found
