"""Encode an item field once and keep the features: --dataset beauty --field title --with minilm."""

from __future__ import annotations

import argparse
from typing import Any

TAKES_SETTINGS = True  # as --key=value: how files are read, such as --ITEM_ID_FIELD=asin
WRITES = "--feature-path says"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--field", required=True, action="append", help="column of the .item file; may be repeated")
    parser.add_argument("--with", dest="encoder", help="encoder; each modality has a default")
    parser.add_argument("--modality", help="text, image, number, category, time or place (default: by the values)")
    parser.add_argument("--width", type=int, help="features kept of a model's; buckets of hashed categories")
    parser.add_argument("--reduce", choices=["truncate", "pca", "whiten"], help="how (default: truncate)")
    parser.add_argument("--instruction", help="put before each text")
    parser.add_argument("--pooling", choices=["last", "mean", "cls"], help="where the encoder brings none")
    parser.add_argument("--revision", help="of a model on the hub")
    parser.add_argument("--views", type=int, help="views of each text or image, the unaltered one included")
    parser.add_argument(
        "--known-from", metavar="DIR", help="take over what the dataset as it was, in DIR, has the same"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument("--engine", choices=["local", "ray"], default="local", help="(default: %(default)s)")
    parser.add_argument("--address", help="of a Ray cluster (default: a local one is started)")
    parser.add_argument("--workers", type=int, default=2, help="of a Ray cluster (default: %(default)s)")
    add_paths(parser)


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where datasets and features lie."""
    parser.add_argument("--data-path", help="folder of datasets (default: dataset_atomic)")
    parser.add_argument("--feature-path", help="folder of features (default: as --data-path)")


def read_config(options: Any, **settings: Any) -> Any:
    """RecBole's config of a dataset, for a model that has item fields."""
    from recbole.config import Config

    import nestrec_recbole  # noqa: F401  # the repairs come first

    paths = {"data_path": options.data_path, "feature_path": options.feature_path}
    given = {key: value for key, value in {**paths, **settings}.items() if value is not None}
    return Config(model="ItemQFormer", dataset=options.dataset, config_dict=given)


def call(options: Any) -> int:
    """Run the verb."""
    from nestrec_recbole.encode.engine import Engine
    from nestrec_recbole.encode.items import encode_fields

    keys = ("modality", "encoder", "width", "reduce", "instruction", "pooling", "revision", "views")
    how = {key: getattr(options, key) for key in keys if getattr(options, key) is not None}
    engine = Engine(options.engine, options.address, options.workers, options.batch_size)
    for path in encode_fields(read_config(options), options.field, how, engine, options.known_from):
        print(path)
    return 0
