"""Export the user vectors of a TriGRecUser: nestrec trigrec export CHECKPOINT --domain food."""

from __future__ import annotations

import argparse
from typing import Any

WRITES = "--folder says"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    verbs = parser.add_subparsers(dest="action", required=True)
    export = verbs.add_parser("export", help="write specific and cross user vectors as .npy")
    export.add_argument("checkpoint", help="of a TriGRecUser or a TriGRec: its best epoch")
    export.add_argument("--domain", required=True, help="whose history the specific vectors are of")
    export.add_argument("--folder", default="embeddings", help="<folder>/<domain>/ is written (default: %(default)s)")
    export.add_argument("--pickle", action="store_true", help="also .pkl: a dictionary user -> list of numbers")
    export.add_argument("--features", action="store_true", help="also a feature store over users")


def call(options: Any) -> int:
    """Run the verb."""
    from nestrec_recbole.recommend.uservectors import export_user_vectors

    kinds = {"pickled": options.pickle, "features": options.features}
    for path in export_user_vectors(options.checkpoint, options.domain, options.folder, **kinds):
        print(path)
    return 0
