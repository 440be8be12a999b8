"""From a corpus to ``dataset_atomic/<name>/``: filter, clean, count, write; all of it or nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from nestrec_recbole.convert.corpus import NO_NUMBERS, REPEATED, Corpus, Fields, keep_first
from nestrec_recbole.convert.fields import choose, values_that_are_no_numbers, write_fields
from nestrec_recbole.convert.filters import Filters, apply_filters
from nestrec_recbole.convert.folder import check_target, draft_of, replace, work_folder
from nestrec_recbole.convert.ids import number_ids
from nestrec_recbole.convert.images import Images, collect_images
from nestrec_recbole.convert.report import describe, write_report
from nestrec_recbole.convert.reviews import add_reviews
from nestrec_recbole.convert.splits import Split, label_parts, write_split
from nestrec_recbole.convert.staging import Staging
from nestrec_recbole.convert.text import clean_text
from nestrec_recbole.data.atomic import copy_statement
from nestrec_recbole.errors import NestRecError


@dataclass(frozen=True)
class Options:
    """How a corpus is converted.

    Attributes
    ----------
    filters : Filters
    fields, user_fields : tuple of str, optional
        Item and user fields to keep, each ``name`` or ``name:type`` with one of RecBole's types; all by default.
    drop_bad_rows : bool
        Leave out interactions without a time, an id or a rating, which are refused by default.
    lower_case : bool
        Lower-case the texts of items and users.
    max_text_length : int
        Characters of a text at most.
    split : Split, optional
        Write benchmark files too.
    images : Images
    memory_limit : str
        Of DuckDB. Neither it nor the two below change a byte of the output.
    threads : int, optional
    temp_directory : Path, optional
        For what does not fit into memory; beside the dataset by default.
    """

    filters: Filters = field(default_factory=Filters)
    fields: tuple[str, ...] | None = None
    user_fields: tuple[str, ...] | None = None
    drop_bad_rows: bool = False
    lower_case: bool = False
    max_text_length: int = 5000
    split: Split | None = None
    images: Images = field(default_factory=Images)
    memory_limit: str = "1GB"
    threads: int | None = None
    temp_directory: Path | None = None

    def __post_init__(self) -> None:
        if self.max_text_length < 1:
            raise NestRecError(f"max_text_length is {self.max_text_length}; expected a whole number from 1")
        if self.threads is not None and self.threads < 1:
            raise NestRecError(f"threads is {self.threads}; expected a whole number from 1")

    def recorded(self) -> dict[str, Any]:
        """What decides about the output, in plain containers."""
        given = asdict(self)
        for without_effect in ("memory_limit", "threads", "temp_directory"):
            del given[without_effect]
        given["images"]["folder"] = str(self.images.folder) if self.images.folder else None
        return given


def convert(
    corpus: Corpus, name: str, options: Options | None = None, data_path: str | Path = "dataset_atomic"
) -> dict[str, Any]:
    """Write a corpus as RecBole's atomic files to ``<data_path>/<name>/``.

    The same input and options give the same bytes. A dataset of that name, if an earlier conversion wrote it, is
    replaced when everything has succeeded, and left as it is otherwise; its encoded ``features/`` stay, for they are
    checked against the texts before use.

    Returns
    -------
    dict
        What ``dataset.json`` holds.

    Raises
    ------
    NestRecError
        Bad input: one line with file, line, field, what was expected and what to do.

    Examples
    --------
    >>> from nestrec_recbole.convert import Filters, convert, sequences  # doctest: +SKIP
    >>> corpus = sequences("sequences.txt", items="items.jsonl")  # doctest: +SKIP
    >>> convert(corpus, "beauty", Options(Filters(k_core_users=5, k_core_items=5)))["users"]  # doctest: +SKIP
    22363
    """
    options = options or Options()
    target = check_target(Path(data_path), name)
    with draft_of(target) as draft, work_folder(options.temp_directory, target) as work:
        with Staging(work, options.memory_limit, options.threads) as staging:
            report = _convert(staging, corpus, name, options, draft, target)
        report = write_report(report, draft)
        replace(target, draft)
    return report


def _convert(
    staging: Staging, corpus: Corpus, name: str, options: Options, draft: Path, target: Path
) -> dict[str, Any]:
    number_ids(staging, corpus, corpus.read_interactions(staging), options.drop_bad_rows)
    steps = apply_filters(staging, options.filters, corpus.time_unit)
    _write_interactions(staging, draft / f"{name}.inter")
    items, users = _read_fields(staging, corpus)
    has_reviews = "review" in staging.columns("raw")
    if options.split or has_reviews:
        label_parts(staging, options.split or Split("leave_one_out"), options.filters.seed, corpus.time_unit)
    if has_reviews:
        items = add_reviews(staging, items, corpus.options["review_text"])
    cache = target.parent / f".{name}-downloads"
    with_urls = "image" not in items or options.images.download
    images = collect_images(staging, options.images, draft, cache, with_urls)
    pictured: Fields = {"image": "token"} if staging.has("pictures") else {}
    twin = next((field for field in items if field not in pictured and field.lower() in pictured), None)
    if twin is not None:
        raise NestRecError(f"field {twin!r} of items and that of their images have the same name; rename the column")
    chosen_items = choose({**items, **pictured}, options.fields) | pictured
    chosen_users = choose(users, options.user_fields)
    coverage: dict[str, float] = {}
    for kind, fields, verbatim in (("item", chosen_items, corpus.verbatim), ("user", chosen_users, ())):
        clean = partial(clean_text, lower=options.lower_case, max_length=options.max_text_length)
        for name_of, (n, example) in values_that_are_no_numbers(staging, kind, fields).items():
            corpus.notes[f"{NO_NUMBERS} {name_of}, such as {example!r}"] = n
        coverage |= write_fields(staging, kind, fields, draft / f"{name}.{kind}", clean, verbatim)
    split = write_split(staging, options.split, draft, name) if options.split else None
    types = chosen_items | chosen_users
    found = {"filters": steps, "fields": coverage, "types": types, "images": images, "split": split}
    return describe(staging, corpus, options.recorded(), **found)


def _write_interactions(staging: Staging, path: Path) -> None:
    """Write ``.inter``, and create the tables ``catalogue`` and ``audience`` of the items and users in it."""
    fields = {"user_id": "token", "item_id": "token", "rating": "float", "timestamp": "float"}
    if "rating" not in staging.columns("interactions"):
        del fields["rating"]
    query = "SELECT * FROM interactions JOIN users USING (u) JOIN items USING (i)"
    staging.run(copy_statement(query, path, fields, order="u, timestamp, place"))
    staging.run("CREATE TABLE catalogue AS SELECT item_id FROM items WHERE i IN (SELECT i FROM interactions)")
    staging.run("CREATE TABLE audience AS SELECT user_id FROM users WHERE u IN (SELECT u FROM interactions)")


def _read_fields(staging: Staging, corpus: Corpus) -> tuple[Fields, Fields]:
    """Fill ``raw_items`` and ``raw_users``, which are empty where the corpus says nothing about them."""
    items = corpus.read_items(staging) if corpus.read_items else {}
    users = corpus.read_users(staging) if corpus.read_users else {}
    for table, key, everyone in (("raw_items", "item_id", "catalogue"), ("raw_users", "user_id", "audience")):
        if staging.has(table):
            corpus.notes[f"{REPEATED} {table[4:]}"] = keep_first(staging, table, key)
        else:
            staging.run(f"CREATE TABLE {table} AS FROM {everyone} LIMIT 0")
    twice = next((field for field in users if field in items), None)
    if twice is not None:
        raise NestRecError(f"field {twice!r} is one of users and of items; rename one, for RecBole knows one per name")
    return items, users
