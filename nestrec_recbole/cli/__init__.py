"""``nestrec <verb>``: thin, one module per verb, and one function of the package behind each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from nestrec_recbole.cli import encode, features, quickstart, recommend, resume, run

# Each has `add_arguments(parser)` and `call(options) -> exit code`; its docstring's first line is the help.
VERBS = {
    "quickstart": quickstart,
    "run": run,
    "resume": resume,
    "recommend": recommend,
    "encode": encode,
    "features": features,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; bad input gives one line on stderr and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="nestrec", description="Multimodal and LLM sequential recommenders as RecBole models."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, verb in VERBS.items():
        about = str(verb.__doc__)
        verb.add_arguments(verbs.add_parser(name, help=about.splitlines()[0], description=about))
    options, rest = parser.parse_known_args(arguments)
    bad = rest if options.verb != "run" else [word for word in rest if not (word.startswith("--") and "=" in word)]
    if bad:
        parser.error(f"unrecognized argument {bad[0]!r}; settings are given as --key=value, to `nestrec run` only")
    sys.argv = [sys.argv[0], *rest]  # RecBole's Config reads its settings there
    try:
        return VERBS[options.verb].call(options)
    except (ValueError, NotImplementedError, OSError) as error:  # NestRecError, and RecBole's own complaints
        print(f"nestrec: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
