"""Item titles, as they stand in the ``.item`` file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nestrec_recbole.data.atomic import read_columns, read_header


def item_titles(config: Any, field: str | None = None) -> dict[str, str]:
    """Item token to title, where it has one.

    Parameters
    ----------
    config : recbole.config.Config
    field : str, optional
        Column of the ``.item`` file; by default its first column named like a title.

    Returns
    -------
    dict
        Empty where there is no such file, or no column is named like a title.

    Raises
    ------
    NestRecError
        When the file has no column ``field``.
    """
    path = Path(config["data_path"]) / f"{config['dataset']}.item"
    if not path.is_file():
        return {}
    how = {"separator": config["field_separator"], "encoding": config["encoding"]}
    named = field or next((name for name in read_header(path, **how) if "title" in name or name == "name"), None)
    if named is None:
        return {}
    items = config["ITEM_ID_FIELD"]
    table = read_columns(path, [items, named], **how).drop_duplicates(items).dropna()  # the first counts, as in RecBole
    return dict(zip(table[items], table[named], strict=True))
