"""``nestrec <verb>``: thin, one module per verb, and one function of the package behind each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from nestrec_recbole.cli import convert, encode, features, pipeline, quickstart, recommend, resume, run, tune

# Each has `add_arguments(parser)` and `call(options) -> exit code`; its docstring's first line is the help.
VERBS = {
    "quickstart": quickstart,
    "convert": convert,
    "encode": encode,
    "features": features,
    "run": run,
    "resume": resume,
    "pipeline": pipeline,
    "recommend": recommend,
    "tune": tune,
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
    verb = VERBS[options.verb]
    takes_settings = getattr(verb, "TAKES_SETTINGS", False)
    bad = [word for word in rest if not (takes_settings and word.startswith("--") and "=" in word)]
    if bad:
        hint = "settings are given as --key=value" if takes_settings else f"`nestrec {options.verb} --help` lists them"
        parser.error(f"unrecognized argument {bad[0]!r}; {hint}")
    sys.argv = [sys.argv[0], *rest]
    try:
        return verb.call(options)
    except (ValueError, NotImplementedError, OSError) as error:  # NestRecError, and RecBole's own complaints
        print(f"nestrec: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
