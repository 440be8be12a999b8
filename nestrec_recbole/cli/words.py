"""What the command line says beside a verb's own options."""

from __future__ import annotations

import sys
from typing import Any


def take_settings() -> dict[str, Any]:
    """The settings given as ``--key=value``, taken off ``sys.argv``, where RecBole's Config would find them again."""
    from nestrec_recbole.compat import literal

    words, sys.argv = sys.argv[1:], sys.argv[:1]
    return {key: literal(value) for key, _, value in (word.removeprefix("--").partition("=") for word in words)}
