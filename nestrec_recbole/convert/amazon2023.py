"""Amazon Reviews 2023: reviews and ``meta_`` files, ``.jsonl`` or ``.jsonl.gz``, one category or many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nestrec_recbole.convert.amazon import amazon_corpus, amount, joined
from nestrec_recbole.convert.corpus import Corpus, Fields
from nestrec_recbole.convert.jsonlines import JsonLines
from nestrec_recbole.convert.lines import check_files
from nestrec_recbole.convert.staging import Staging

_COLUMNS = {"user_id": "user_id", "item_id": "parent_asin", "rating": "rating", "timestamp": "timestamp"}
_META = ("parent_asin", "title", "main_category", "store", "price", "average_rating", "rating_number")
_NESTED = ("description", "features", "details", "images")
_FIELDS: Fields = {
    **{"title": "token_seq", "description": "token_seq", "features": "token_seq"},
    **{"main_category": "token", "store": "token", "brand": "token"},
    **{"color": "token", "size": "token", "material": "token", "style": "token"},
    **{"price": "float", "average_rating": "float", "rating_number": "float"},
}
_DETAILS = {
    "brand": ("Brand", "Brand Name"),
    "color": ("Color", "Colour"),
    "size": ("Size",),
    "material": ("Material", "Material Type"),
    "style": ("Style", "Style Name"),
}


def amazon2023(reviews: Sequence[str | Path], metadata: Sequence[str | Path] = (), *, review_text: int = 0) -> Corpus:
    """Read reviews and the metadata of their items, joined on ``parent_asin``.

    Texts that are lists are joined by a space. ``brand``, ``color``, ``size``, ``material`` and ``style`` come out of
    ``details``, which may be an object or JSON in a string. A price is the first amount in it ("from 12.99" is 12.99,
    "10.00 - 20.00" is 10.00, "None" is missing). The image is that of variant ``MAIN``, else the first one; ``large``,
    else ``hi_res``. Times are milliseconds. An item in several files keeps its first record.

    Parameters
    ----------
    reviews, metadata : sequence of str or Path
        In this order; of interactions at one time the one in the earlier file or line comes first.
    review_text : int
        Reviews per item that enter a field ``review``; 0 for none. Only reviews of training interactions do: under the
        split that is written, else under leave-one-out, which keeps the last two of every user out. See
        :func:`~nestrec_recbole.convert.reviews.add_reviews`.

    Source: Hou et al., Bridging Language and Items for Retrieval and Recommendation (arXiv 2403.03952).

    Raises
    ------
    NestRecError
        A missing file.
    """
    meta = JsonLines(check_files(metadata), _META, _NESTED) if metadata else None
    return amazon_corpus(
        "amazon2023",
        reviews,
        meta,
        _read_metadata,
        kind=JsonLines,
        columns=_COLUMNS,
        texts=("title", "text"),
        time_unit="ms",
        review_text=review_text,
    )


def _read_metadata(staging: Staging, meta: JsonLines) -> Fields:
    select = [
        "parent_asin AS item_id",
        *("title", "main_category", "store"),
        *(f"{joined(column)} AS {column}" for column in ("description", "features")),
        "CASE json_type(details) WHEN 'VARCHAR' THEN TRY_CAST(details ->> '$' AS JSON) ELSE details END AS more",
        *(_detail(field, keys) for field, keys in _DETAILS.items()),
        f"{amount('price')} AS price",
        *(f"TRY_CAST({column} AS DOUBLE) AS {column}" for column in ("average_rating", "rating_number")),
        f"{_image()} AS image",
    ]
    staging.load("raw_items", ", ".join(select), meta, "WHERE parent_asin IN (FROM catalogue)")
    return _FIELDS


def _detail(field: str, keys: tuple[str, ...]) -> str:
    values = [f"nullif(trim(more ->> '/{key}'), '')" for spelled in keys for key in (spelled, spelled.lower())]
    return f"coalesce({', '.join(values)}) AS {field}"


def _image() -> str:
    """SQL of the URL of the main image, else of the first."""
    images = "TRY_CAST(images AS JSON[])"
    main = f"list_filter({images}, lambda x: (x ->> '$.variant') = 'MAIN')[1]"
    urls = [f"{one} ->> '$.{size}'" for one in (f"({main})", f"({images}[1])") for size in ("large", "hi_res")]
    return f"coalesce({', '.join(urls)})"
