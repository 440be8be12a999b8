"""Options that verbs share which begin with a checkpoint."""

from __future__ import annotations

import argparse


def add_places(parser: argparse.ArgumentParser) -> None:
    """Add where data and features lie, if no longer where the checkpoint says."""
    for name in ("data", "feature"):
        about = f"folder of {name}sets" if name == "data" else "folder of features"
        spelled = (f"--{name}-path", f"--{name}_path")
        parser.add_argument(*spelled, metavar="DIR", help=f"{about}, if no longer where the checkpoint says")
