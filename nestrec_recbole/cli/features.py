"""List a dataset's features with coverage and norms, look at neighbours, or import features."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nestrec_recbole.cli.encode import add_paths, read_config

TAKES_SETTINGS = True  # as --key=value: how files are read, such as --ITEM_ID_FIELD=asin


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("dataset")
    parser.add_argument("--neighbours", metavar="FIELD", help="print five items with their nearest neighbours")
    parser.add_argument("--import", dest="file", metavar="FILE", help=".npy, .npz, .parquet, .feat1CLS or atomic file")
    parser.add_argument("--as", dest="name", metavar="FIELD", help="what the imported field is called")
    parser.add_argument("--modality", default="text", help="of the imported field (default: %(default)s)")
    parser.add_argument(
        "--rows",
        choices=["id", "order"],
        default="id",
        help="rows of a file without tokens: row i is item i, or the items of the .item file (default: %(default)s)",
    )
    parser.add_argument("--width", type=int, help="of .feat1CLS (default: 768)")
    add_paths(parser)


def call(options: Any) -> int:
    """Run the verb."""
    from nestrec_recbole.data.reading import no_such_dataset
    from nestrec_recbole.errors import NestRecError

    config = read_config(options)
    if not Path(config["data_path"]).is_dir():
        raise NestRecError(no_such_dataset(options.dataset, Path(config["data_path"])))
    if options.file:
        return _import(config, options)
    return _print_neighbours(config, options.neighbours) if options.neighbours else _list(config)


def _import(config: Any, options: Any) -> int:
    from nestrec_recbole.encode.foreign import import_features
    from nestrec_recbole.errors import NestRecError

    if not options.name:
        raise NestRecError("--import needs --as FIELD: what the field is called in `item_fields`")
    store = import_features(config, options.file, options.name, options.modality, options.rows, options.width)
    print(f"{store.path}: {store.manifest.n_items} items, {store.manifest.width} features")
    print(f"item_fields: {{{options.name}: {{modality: {options.modality}, encoder: imported}}}}")
    return 0


def _print_neighbours(config: Any, name: str) -> int:
    from nestrec_recbole.data.titles import item_titles
    from nestrec_recbole.encode.overview import find_store, neighbours

    titles = item_titles(config)
    for item, near in neighbours(find_store(config, name)):
        print(f"{item}\t{titles.get(item, '')}")
        for other, cosine in near:
            print(f"  {cosine:.3f}\t{other}\t{titles.get(other, '')}")
    return 0


def _list(config: Any) -> int:
    from nestrec_recbole.encode.overview import summarise, unfinished

    print("name\tfield\tmodality\tencoder\tstate\titems\tcoverage\twidth\tviews\tdtype\tnorm least\tmean\tlargest")
    for summary in summarise(config):
        about, norms = summary.store.manifest, "\t".join(f"{norm:.3f}" for norm in summary.norms)
        print(
            f"{summary.store.path.name}\t{about.field}\t{about.modality}\t{about.encoder}\t{summary.state}\t"
            f"{about.n_items}\t{summary.coverage:.1%}\t{about.width}\t{about.n_views}\t{about.dtype}\t{norms}"
        )
    for folder, n_bytes in unfinished(config):
        print(f"unfinished: {folder} ({n_bytes / 2**20:.1f} MiB); the same command goes on with it")
    return 0
