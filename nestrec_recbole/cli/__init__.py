"""``nestrec <verb>``: thin, one module per verb, and one function of the package behind each."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence

from nestrec_recbole.cli import (
    benchmark,
    compare,
    convert,
    encode,
    features,
    pipeline,
    quickstart,
    recommend,
    report,
    resume,
    run,
    runs,
    settings,
    trigrec,
    tune,
)
from nestrec_recbole.errors import where_raised

# Each has `add_arguments(parser)` and `call(options) -> exit code`; its docstring's first line is the help. It may
# say TAKES_SETTINGS (--key=value), TAKES_MODELS (--models), WORDS, GOES_ON, what to do after Ctrl-C, and WRITES, what
# says where it writes.
VERBS = {
    "quickstart": quickstart,
    "convert": convert,
    "encode": encode,
    "features": features,
    "settings": settings,
    "run": run,
    "resume": resume,
    "pipeline": pipeline,
    "trigrec": trigrec,
    "benchmark": benchmark,
    "runs": runs,
    "compare": compare,
    "report": report,
    "tune": tune,
    "recommend": recommend,
}
NOT_WRITTEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; bad input gives one line on stderr and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="nestrec", description="Multimodal and LLM sequential recommenders as RecBole models."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, verb in VERBS.items():
        about = str(verb.__doc__)
        own = verbs.add_parser(name, help=about.splitlines()[0], description=about, allow_abbrev=False)
        verb.add_arguments(own)
        if getattr(verb, "TAKES_SETTINGS", False):
            own.add_argument("--override", default="", metavar="KEY=VALUE,...", help="several settings in one word")
        if getattr(verb, "TAKES_MODELS", False):
            about_models = "Python file that registers models of your own; also NESTREC_MODELS"
            own.add_argument("--models", action="append", default=[], metavar="FILE", help=about_models)
    given = list(sys.argv[1:] if arguments is None else arguments)
    takes_words = bool(given) and hasattr(VERBS.get(given[0]), "WORDS")
    end = given.index("--") if takes_words and "--" in given else len(given)
    options, rest = parser.parse_known_args(given[:end])
    verb = VERBS[options.verb]
    takes_settings = getattr(verb, "TAKES_SETTINGS", False)
    if hasattr(verb, "WORDS"):  # argparse gives those up that stand behind an option; any may stand behind --
        vars(options)[verb.WORDS] += [*(word for word in rest if not word.startswith("-")), *given[end + 1 :]]
        rest = [word for word in rest if word.startswith("-")]
    rest += [f"--{word}" for word in _split(getattr(options, "override", ""))]
    bad = [word for word in rest if not (takes_settings and word.startswith("--") and "=" in word)]
    if bad:
        hint = "settings are given as --key=value" if takes_settings else f"`nestrec {options.verb} --help` lists them"
        hint += f"; {verb.WORDS} that begin with - go behind --" if hasattr(verb, "WORDS") else ""
        parser.error(f"unrecognized argument {bad[0]!r}; {hint}")
    sys.argv = [sys.argv[0], *rest]
    try:
        if getattr(options, "models", None):
            from nestrec_recbole.own_models import add_files

            add_files(options.models)
        code = verb.call(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # what reads the output has seen enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains as it ends
        return 0
    except KeyboardInterrupt:
        print(f"nestrec: interrupted{getattr(verb, 'GOES_ON', '')}", file=sys.stderr)
        return 130  # as shells have it
    except (ValueError, NotImplementedError, OSError, ImportError) as error:  # NestRecError, and RecBole's own
        print(f"nestrec: {_complaint(error, getattr(verb, 'WRITES', None))}", file=sys.stderr)
        return 2


def _complaint(error: Exception, writes: str | None) -> str:
    """An error in one line; where nothing could be written, with what says where to."""
    said = " ".join(str(error).split()) or f"{type(error).__name__} ({where_raised(error)})"
    is_place = isinstance(error, OSError) and error.errno in NOT_WRITTEN and writes
    return f"{said}; {writes} where it writes" if is_place else said


def _split(words: str) -> list[str]:
    """Split at commas outside of brackets and quotation marks."""
    found, depth, quote = [""], 0, ""
    for letter in words:
        if quote or letter in "'\"":
            quote = "" if letter == quote else quote or letter
        else:
            depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth and not quote:
            found.append("")
        else:
            found[-1] += letter
    return [word.strip() for word in found if word.strip()]
