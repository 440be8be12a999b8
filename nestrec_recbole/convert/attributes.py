"""Files of items or of users: JSON lines, text tables or Parquet, told by their extension."""

from __future__ import annotations

from pathlib import Path

from nestrec_recbole.convert.delimited import DELIMITERS, Delimited
from nestrec_recbole.convert.jsonlines import JsonObjects
from nestrec_recbole.convert.lines import check_files, extension
from nestrec_recbole.convert.sources import Parquet, Source
from nestrec_recbole.errors import NestRecError


def attribute_source(
    path: str | Path, columns: tuple[str, ...] | None = None, quoted: bool = False, delimiter: str | None = None
) -> Source:
    """Choose how to read a file of items or users.

    Parameters
    ----------
    path : str or Path
        ``.jsonl``, ``.parquet``, or a text table: ``.csv``, ``.tsv``, ``.txt``, ``.dat`` (parted by ``::``). All but
        ``.parquet`` may have ``.gz`` behind it.
    columns, quoted, delimiter
        Of text tables, see :meth:`nestrec_recbole.convert.delimited.Delimited.of`.

    Raises
    ------
    NestRecError
        A missing file, or another extension.
    """
    files = check_files([path])
    kind = extension(files[0])
    if kind in (".jsonl", ".json"):
        return JsonObjects(files)
    if kind == ".parquet":
        return Parquet(files)
    if kind not in DELIMITERS:
        known = f".jsonl, .parquet, {', '.join(DELIMITERS)}"
        raise NestRecError(f"{path}: expected a name that ends in {known}, and perhaps .gz")
    return Delimited.of(files[0], columns, quoted, delimiter)
