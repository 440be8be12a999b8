"""Print the top-k for a history of item ids, or for users of the data set."""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("checkpoint")
    parser.add_argument("items", nargs="*", help="item ids, oldest first")
    parser.add_argument("-k", type=int, default=10)
    add_users(parser)


def add_users(parser: argparse.ArgumentParser) -> None:
    """Add what asks for users of the dataset, and for other lists than the best items."""
    parser.add_argument("--users", nargs="+", metavar="USER", help="instead of items: users, by all they have taken")
    parser.add_argument("--users-file", metavar="FILE", help="... the users of a file, one a line")
    parser.add_argument("--sample", type=int, metavar="N", help="... so many users at random")
    parser.add_argument("--diversity", type=float, default=0.0, help="0 to 1: how much unlike each other items should be")
    parser.add_argument("--novelty", type=float, default=0.0, help="0 to 1: how little known items should be")


def call(options: Any) -> int:
    """Run the verb."""
    from nestrec_recbole.errors import NestRecError
    from nestrec_recbole.recommend import Recommender

    if sum(map(bool, (options.items, options.users, options.users_file, options.sample))) != 1:
        raise NestRecError("a history is item ids; or give one of --users, --users-file and --sample")
    recommender = Recommender.load(options.checkpoint)
    if not options.items:
        return _for_users(recommender, options)
    titles = recommender.titles()
    how = {"k": options.k, "diversity": options.diversity, "novelty": options.novelty}
    for token, score in recommender.recommend([options.items], **how)[0]:
        print(f"{token}\t{score:.4f}\t{titles.get(token, '')}")
    return 0


def _for_users(recommender: Any, options: Any) -> int:
    """Print the lists of users, each line beginning with the user."""
    from nestrec_recbole.recommend.users import histories_of, read_users, sample_users

    users = options.users or (read_users(options.users_file) if options.users_file else [])
    users = users or sample_users(recommender.dataset, options.sample)
    histories, times = histories_of(recommender.dataset, users)
    how = {"k": options.k, "diversity": options.diversity, "novelty": options.novelty}
    titles = recommender.titles()
    for user, found in zip(users, recommender.recommend(histories, times=times, users=users, **how), strict=True):
        for token, score in found:
            print(f"{user}\t{token}\t{score:.4f}\t{titles.get(token, '')}")
    return 0
