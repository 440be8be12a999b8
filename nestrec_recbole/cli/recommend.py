"""Print the top-k for a history of item ids, for items in a file that the catalogue need not know, or for users."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from typing import Any

from nestrec_recbole.cli.places import add_places

TAKES_MODELS = True
WORDS = "items"  # which may stand anywhere


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
    parser.add_argument(
        "--users", nargs="+", metavar="USER", help="... or users of the dataset, by all they have taken"
    )
    parser.add_argument("--users-file", metavar="FILE", help="... or the users of a file, one a line")
    parser.add_argument("--sample", type=int, metavar="N", help="... or so many users at random")
    parser.add_argument(
        "--histories-in",
        metavar="DIR",
        help="a folder of datasets as they are now: users and what they took come from there, not from the training's",
    )
    parser.add_argument(
        "--new-items",
        metavar="FILE",
        help="items that came after training, as in a history file: they are recommended too, by their content",
    )
    parser.add_argument(
        "--similar", action="store_true", help="not what follows the item ids, but the items most like each of them"
    )
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument(
        "--diversity", type=float, default=0.0, help="0 to 1: how much unlike each other items should be"
    )
    parser.add_argument("--novelty", type=float, default=0.0, help="0 to 1: how little known items should be")
    parser.add_argument(
        "--only", metavar="FILE", help="item ids, one a line, that alone are listed, as what is in stock"
    )
    parser.add_argument("--exclude", metavar="FILE", help="item ids, one a line, that are not listed")
    parser.add_argument("--with-seen", action="store_true", help="list items of the history too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_places(parser)


def call(options: Any) -> int:
    """Run the verb."""
    from nestrec_recbole.errors import NestRecError

    ways = (options.items, options.history_file, options.users, options.users_file, options.sample)
    if sum(map(bool, ways)) != 1:
        raise NestRecError("a history is item ids; or give one of --history-file, --users, --users-file and --sample")
    if options.histories_in and (options.items or options.history_file):
        raise NestRecError("--histories-in is of users; name them by --users, --users-file or --sample")
    if options.similar and not options.items:
        raise NestRecError("--similar is of item ids; name some")
    if options.similar and (options.diversity or options.novelty or options.with_seen):
        raise NestRecError("--similar is of no history; leave --diversity, --novelty and --with-seen out")
    how = {"k": options.k, "diversity": options.diversity, "novelty": options.novelty}
    how["exclude_seen"] = not options.with_seen
    logging.disable(logging.INFO)  # what RecBole says of the checkpoint's training
    try:
        if options.similar:
            return _similar(options)
        if options.items or options.history_file:
            return _for_history(options, how)
        return _for_users(options, how)
    finally:
        logging.disable(logging.NOTSET)


def _load(options: Any) -> tuple[Any, dict[str, str]]:
    """The recommender, with new items where some are given, and the titles of all items."""
    from nestrec_recbole.recommend import Recommender
    from nestrec_recbole.recommend.history import read_history

    new = read_history(options.new_items) if options.new_items else []
    recommender = Recommender.load(options.checkpoint, options.data_path, options.feature_path)
    if new:
        _say(recommender.add_items(new, recommendable=True), len({item.token for item in new}))
    return recommender, {item.token: item.text for item in reversed(new) if item.text} | recommender.titles()


def _listed(options: Any, recommender: Any) -> dict[str, list[str]]:
    """What the files of ``--only`` and ``--exclude`` say may be listed, of what the model knows."""
    from nestrec_recbole.errors import NestRecError
    from nestrec_recbole.recommend.users import read_ids

    found = {}
    for name, file in (("only", options.only), ("exclude", options.exclude)):
        if file:
            ids = read_ids(file, "item")
            found[name] = [one for one in ids if one in recommender.catalogue]
            if not found[name]:
                raise NestRecError(f"{file}: the model knows none of its items, {ids[0]!r} the first; one id a line")
            if len(found[name]) < len(ids):
                n_unknown = len(ids) - len(found[name])
                print(f"nestrec: {file}: {n_unknown:,} of {len(ids):,} items are unknown to the model", file=sys.stderr)
    return found


def _say(unseen: Any, n_items: int) -> None:
    """Say on stderr what the catalogue does not know."""
    for line in (*unseen.problems, unseen.summary(n_items)):
        print(f"nestrec: {line}", file=sys.stderr)


def _for_history(options: Any, how: dict[str, Any]) -> int:
    """Print one list."""
    from nestrec_recbole.recommend.history import read_history

    history = read_history(options.history_file) if options.history_file else []
    recommender, titles = _load(options)
    unseen = recommender.add_items(history) if history else None
    tokens = [item.token for item in history] or options.items
    found = recommender.recommend([tokens], **how, **_listed(options, recommender))[0]
    if unseen is not None:
        _say(unseen, len(tokens))
    if not options.json:
        for line in _lines(found, titles):
            print(line)
        return 0
    unknown = set(unseen.tokens) if unseen else set()
    said = {item.token: item.text for item in reversed(history) if item.text}  # the first that is said, as encoded
    answer = {
        "history": [{"item": t, "title": titles.get(t) or said.get(t), "known": t not in unknown} for t in tokens],
        "missing": unseen.missing if unseen else {},
        "recommendations": _records(found, titles),
    }
    print(json.dumps(answer, ensure_ascii=False, indent=1))
    return 0


def _similar(options: Any) -> int:
    """Print a list for each item, each line beginning with it."""
    recommender, titles = _load(options)
    found = recommender.similar_items(options.items, options.k, **_listed(options, recommender))
    lists = dict(zip(options.items, found, strict=True))
    return _print_lists("item", lists, titles, options.json)


def _for_users(options: Any, how: dict[str, Any]) -> int:
    """Print the lists of users, each line beginning with the user."""
    from nestrec_recbole.recommend.users import read_ids, sample_users

    recommender, titles = _load(options)
    users = options.users or (read_ids(options.users_file, "user") if options.users_file else [])
    if options.histories_in:
        recommender.load_histories(options.histories_in)
    users = users or sample_users(recommender.histories, options.sample)
    lists = recommender.recommend_users(users, **how, **_listed(options, recommender))
    return _print_lists("user", lists, titles, options.json)


def _print_lists(of: str, lists: dict[str, Any], titles: dict[str, str], as_json: bool) -> int:
    """Print lists as JSON, or in lines that each begin with whose it is."""
    if as_json:
        answer = [{of: name, "recommendations": _records(found, titles)} for name, found in lists.items()]
        print(json.dumps(answer, ensure_ascii=False, indent=1))
        return 0
    for name, found in lists.items():
        for line in _lines(found, titles):
            print(f"{name}\t{line}")
    return 0


def _lines(found: list[tuple[str, float]], titles: dict[str, str]) -> list[str]:
    return [f"{token}\t{score:.4f}\t{titles.get(token, '')}" for token, score in found]


def _records(found: list[tuple[str, float]], titles: dict[str, str]) -> list[dict[str, Any]]:
    return [{"item": token, "score": score, "title": titles.get(token)} for token, score in found]
