"""The leakage check: benchmark files, as they lie on disk, must keep what is predicted away from training."""

from __future__ import annotations

from pathlib import Path

from nestrec_recbole.convert.sources import file_list, struct
from nestrec_recbole.convert.staging import Staging
from nestrec_recbole.data.atomic import read_header
from nestrec_recbole.errors import NestRecError


def refuse_leaks(staging: Staging, kind: str, files: dict[str, Path]) -> None:
    """Look for what a split of this kind must not have, in the written files alone.

    Parameters
    ----------
    kind : str
        See :class:`~nestrec_recbole.convert.splits.Split`.
    files : dict of str to Path
        ``train``, ``valid``, ``test`` and perhaps ``test_new``.

    Raises
    ------
    NestRecError
        The first leak found: between which files, and of whom.
    """
    for part, path in files.items():
        columns = struct(list(read_header(path)))
        reader = f"read_csv({file_list([path])}, columns = {columns}, delim = '\t', quote = '', escape = '', "
        reader += "header = false, skip = 1, auto_detect = false, max_line_size = 16777216, buffer_size = 33554432)"
        staging.run(
            f"CREATE OR REPLACE TEMP VIEW split_{part} AS SELECT * REPLACE (timestamp::DOUBLE AS timestamp) FROM {reader}"
        )
    later = [part for part in files if part != "train"]
    pairs = [("train", part) for part in later] + [("valid", "test")]
    for one, other in pairs:
        _refuse_any(staging, files, one, other, "user_id, item_id, timestamp", "the same interaction")
    if kind in ("user", "new_users"):
        for one, other in pairs if kind == "user" else [(part, "test_new") for part in ("train", "valid", "test")]:
            _refuse_any(staging, files, one, other, "user_id", "the same user")
    if kind in ("item", "stratified_by_column"):
        keys = "item_id" if kind == "item" else "user_id, item_id"
        for one, other in pairs:
            _refuse_any(staging, files, one, other, keys, f"the same {keys.replace('_id', '')}")
            _refuse_any(staging, files, one, other, keys, f"in a history the same {keys}", histories=True)
    if kind == "temporal":
        for one, other in (("train", "valid"), ("valid", "test")):
            _refuse_later(staging, files, one, other, "")
    if kind in ("leave_one_out", "stratified_temporal", "new_users"):
        for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
            _refuse_later(staging, files, one, other, "user_id")


def _refuse_any(
    staging: Staging, files: dict[str, Path], one: str, other: str, keys: str, what: str, histories: bool = False
) -> None:
    """No key of ``one``, or of its histories, may be a key of ``other``."""
    known = f"SELECT {keys} FROM split_{one}"
    if histories:
        if "item_id_list" not in staging.columns(f"split_{one}"):
            return
        unnested = f"SELECT user_id, unnest(string_split(item_id_list, ' ')) AS item_id FROM split_{one}"
        known = f"SELECT {keys} FROM ({unnested})"
    found = staging.run(f"SELECT {keys} FROM split_{other} WHERE ({keys}) IN ({known}) LIMIT 1")
    if found:
        who = ", ".join(map(str, found[0]))
        raise NestRecError(
            f"leak: {what} in {files[one].name} and {files[other].name}: {who}; deduplicate, or report it"
        )


def _refuse_later(staging: Staging, files: dict[str, Path], one: str, other: str, key: str) -> None:
    """Nothing in ``one`` may be later than what is in ``other``; over all, or user by user."""
    group, of, join = (f"GROUP BY {key}", f"{key},", f"USING ({key})") if key else ("", "", "ON true")
    latest = f"SELECT {of} max(timestamp) AS latest FROM split_{one} {group}"
    earliest = f"SELECT {of} min(timestamp) AS earliest FROM split_{other} {group}"
    worse = ">" if key else ">="
    found = staging.run(f"SELECT * FROM ({latest}) JOIN ({earliest}) {join} WHERE latest {worse} earliest LIMIT 1")
    if found:
        who = ", ".join(map(str, found[0]))
        raise NestRecError(f"leak: {files[one].name} holds what is later than {files[other].name}: {who}; report it")
