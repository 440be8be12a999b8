"""Convert a raw corpus to a dataset: nestrec convert amazon2023 reviews.jsonl.gz --name NAME."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

# Corpus -> its help, and its own arguments, in the words of its function: how a SOURCE is given, and its options.
_MANY: dict[str, Any] = {"nargs": "+", "metavar": "FILE"}
_FILE: dict[str, Any] = {"metavar": "FILE"}
_NAMES: dict[str, Any] = {"nargs": "+", "metavar": "COLUMN"}
_QUOTED: dict[str, Any] = {"action": "store_true", "help": "cells of a .tsv stand in quotes, as those of a .csv may"}
_AMAZON: dict[str, dict[str, Any]] = {
    "reviews": {**_MANY, "help": "reviews of one category or many"},
    "--metadata": {**_MANY, "default": (), "help": "their items' metadata"},
    "--review-text": {"type": int, "default": 0, "metavar": "N", "help": "item field of up to N training reviews"},
}
_CORPORA: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "amazon2023": ("Amazon Reviews 2023 (.jsonl, .jsonl.gz)", _AMAZON),
    "amazon2014": ("Amazon 2014 (.json.gz; loose JSON too)", _AMAZON),
    "pixelrec": (
        "PixelRec (interactions.csv, item_info.csv)",
        {"interactions": _FILE, "item_info": {**_FILE, "nargs": "?"}},
    ),
    "movielens": ("MovieLens, 100k to 32m", {"folder": {"metavar": "FOLDER", "help": "an unpacked archive"}}),
    "sequences": (
        "lines of `user item item ...` or `user item|time ...`",
        {
            "path": _FILE,
            "--items": {**_FILE, "help": ".jsonl, or a table: .csv, .tsv, .dat, .parquet"},
            "--item-columns": {**_NAMES, "help": "of a table without header"},
            "--item-key": {"default": "item_id", "metavar": "COLUMN"},
            "--users": {**_FILE, "help": "as --items"},
            "--user-columns": {**_NAMES, "help": "of a table without header"},
            "--user-key": {"default": "user_id", "metavar": "COLUMN"},
            "--quoted": _QUOTED,
        },
    ),
    "pickles": (
        "pickled dictionaries user -> [item, ...]",
        {
            "paths": {**_MANY, "help": "one per domain, at most two"},
            "--domains": {"nargs": "+", "metavar": "NAME", "help": "default: the files' names"},
            "--merged": {**_MANY, "default": (), "help": "pickles of both domains in their true order"},
        },
    ),
    "join": (
        "two converted datasets, joined on their users",
        {
            "folders": {"nargs": 2, "metavar": "FOLDER", "help": "of a dataset, such as dataset_atomic/food"},
            "--domains": {"nargs": 2, "metavar": "NAME", "help": "default: the folders' names"},
        },
    ),
    "table": (
        "any CSV, TSV or Parquet files",
        {
            "paths": _MANY,
            "--user": {"default": "user_id", "metavar": "COLUMN"},
            "--item": {"default": "item_id", "metavar": "COLUMN"},
            "--time": {"default": "timestamp", "metavar": "COLUMN"},
            "--time-unit": {"default": "s", "choices": ("s", "ms")},
            "--rating": {"metavar": "COLUMN"},
            "--items": {**_FILE, "help": "a table or .jsonl; its columns become item fields"},
            "--items-key": {"metavar": "COLUMN", "help": "default: as --item"},
            "--users": _FILE,
            "--users-key": {"metavar": "COLUMN"},
            "--quoted": _QUOTED,
            "--delimiter": {"metavar": "CHARACTER", "help": "of text tables (default: as the extension says)"},
        },
    ),
}

WRITES = "--data-path says"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    corpora = parser.add_subparsers(dest="corpus", required=True, metavar="CORPUS")
    for name, (about, own) in _CORPORA.items():
        corpus = corpora.add_parser(name, help=about, description=about)
        for argument, settings in own.items():
            corpus.add_argument(argument, **settings)
        _add_shared(corpus)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--name", required=True, help="of the dataset")
    add("--data-path", default="dataset_atomic", metavar="FOLDER", help="default: %(default)s")
    add("--fields", nargs="+", metavar="FIELD[:TYPE]", help="item fields to keep (default: all)")
    add("--user-fields", nargs="+", metavar="FIELD[:TYPE]", help="user fields to keep (default: all)")
    add("--drop-bad-rows", action="store_true", help="leave out interactions without a time, an id or a rating")
    add("--lower-case", action="store_true")
    add("--max-text-length", type=int, default=5000, metavar="CHARACTERS", help="default: %(default)s")
    filters = parser.add_argument_group("filters, in this order").add_argument
    of_pairs = "of a user and an item; exact: and a time"
    filters("--deduplicate", default="none", choices=("none", "exact", "first", "last"), help=of_pairs)
    filters("--min-rating", type=float, metavar="RATING")
    filters("--since", metavar="TIME", help="a date (UTC), or a number in the corpus' unit")
    filters("--until", metavar="TIME", help="the first moment that is left out")
    filters("--sample-users", type=int, metavar="N")
    windows = "of users that share so many items in a row, keep the one with the longest history"
    filters("--distinct-runs", type=int, default=0, metavar="N", help=windows)
    filters("--k-core-users", type=int, default=0, metavar="K", help="fewest interactions of a user, iterated")
    filters("--k-core-items", type=int, default=0, metavar="K", help="fewest interactions of an item, iterated")
    filters("--min-history", type=int, default=0, metavar="N", help="of a user, once, at the end")
    filters("--seed", type=int, default=0, help="of all that is drawn")
    split = parser.add_argument_group("benchmark files").add_argument
    split("--split", metavar="KIND", help="leave_one_out, temporal, stratified_temporal, user, new_users, item, ...")
    split("--split-ratios", nargs=3, type=float, default=(0.8, 0.1, 0.1), metavar="SHARE")
    split("--split-column", metavar="FIELD", help="of stratified_by_column")
    split("--split-rows", default="sequences", help="sequences or pairs")
    split("--split-history", type=int, default=50, metavar="N", help="items of a written history")
    images = parser.add_argument_group("images").add_argument
    images("--images", type=Path, metavar="FOLDER", help="holds <item_id>.jpg and the like")
    images("--download-images", action="store_true", help="fetch the URLs that the corpus has")
    images("--image-min-size", type=int, default=32, metavar="PIXELS")
    images("--copy-images", action="store_true", help="into the dataset")
    images("--image-resize", type=int, metavar="PIXELS", help="longest side; implies copying")
    images("--image-format", metavar="FORMAT", help="re-encode as jpeg, png or webp")
    machine = parser.add_argument_group("machine").add_argument
    machine("--memory-limit", default="1GB", help="of DuckDB (default: %(default)s)")
    machine("--threads", type=int, metavar="N")
    machine("--temp-directory", type=Path, metavar="FOLDER", help="default: beside the dataset")


def call(options: Any) -> int:
    """Run the verb."""
    from nestrec_recbole.convert import CORPORA, Filters, Images, Options, Split, convert
    from nestrec_recbole.convert.report import short_table

    given = vars(options)
    own = {word.removeprefix("--").replace("-", "_") for word in _CORPORA[options.corpus][1]}
    corpus = CORPORA[options.corpus](**{name: _tuple(given[name]) for name in own})
    split = None
    if options.split:
        ratios, rows = tuple(options.split_ratios), options.split_rows
        split = Split(options.split, ratios, options.split_column, rows, options.split_history)
    images = Images(
        options.images,
        options.download_images,
        options.image_min_size,
        options.copy_images,
        options.image_resize,
        options.image_format,
    )
    filters = Filters(**{name: given[name] for name in Filters.__dataclass_fields__})
    names = (
        "fields",
        "user_fields",
        "drop_bad_rows",
        "lower_case",
        "max_text_length",
        "memory_limit",
        "threads",
        "temp_directory",
    )
    how = Options(filters=filters, split=split, images=images, **{name: _tuple(given[name]) for name in names})
    report = convert(corpus, options.name, how, options.data_path)
    print(short_table(report, Path(options.data_path, options.name)))
    return 0


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
