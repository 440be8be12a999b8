"""List the settings of a model, ours or RecBole's: what each means, and its default."""

from __future__ import annotations

import argparse
from typing import Any

TAKES_MODELS = True
WORDS = "words"  # they may stand behind an option


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("model")
    parser.add_argument("words", nargs="*", help="only settings that have one of these in their name or comment")


def call(options: Any) -> int:
    """Run the verb."""
    import nestrec_recbole  # noqa: F401 - registers the models
    from nestrec_recbole.settings.listing import list_settings

    print(list_settings(options.model, options.words))
    return 0
