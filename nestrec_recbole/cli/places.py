"""Options that verbs share which begin with a checkpoint."""

from __future__ import annotations

import argparse


def add_places(parser: argparse.ArgumentParser) -> None:
    """Add where data and features lie, if no longer where the checkpoint says."""
    moved = "if no longer where the checkpoint says"
    parser.add_argument("--data-path", "--data_path", metavar="DIR", help=f"folder of datasets, {moved}")
    parser.add_argument("--feature-path", "--feature_path", metavar="DIR", help=f"folder of features, {moved}")
