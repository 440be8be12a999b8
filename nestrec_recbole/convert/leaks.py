"""The leakage check: benchmark files, as they lie on disk, must keep what is predicted away from training."""

from __future__ import annotations

from pathlib import Path

from nestrec_recbole.convert.lines import LONGEST_LINE
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
        staging.run(f"CREATE OR REPLACE TEMP VIEW split_{part} AS {_reading(path)}")
    pairs = [("train", part) for part in files if part != "train"] + [("valid", "test")]
    for one, other in pairs:
        _refuse_any(staging, files, one, other, "user_id, item_id, timestamp")
    strangers = {"user": pairs, "new_users": [(part, "test_new") for part in ("train", "valid", "test")]}
    for one, other in strangers.get(kind, []):
        _refuse_any(staging, files, one, other, "user_id")
    drawn = {"item": "item_id", "stratified_by_column": "user_id, item_id"}
    for one, other in pairs if kind in drawn else []:
        _refuse_any(staging, files, one, other, drawn[kind])
        _refuse_any(staging, files, one, other, drawn[kind], histories=True)
    if kind in ("temporal", "leave_one_out", "stratified_temporal", "new_users"):
        for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
            _refuse_later(staging, files, one, other, by_user=kind != "temporal")


def _reading(path: Path) -> str:
    columns = struct(list(read_header(path)))
    longest = f"max_line_size = {LONGEST_LINE}, buffer_size = {2 * LONGEST_LINE}"
    return (
        f"SELECT * REPLACE (timestamp::DOUBLE AS timestamp) FROM read_csv({file_list([path])}, columns = {columns}, "
        f"delim = '\t', quote = '', escape = '', header = false, skip = 1, auto_detect = false, {longest})"
    )


def _refuse_any(
    staging: Staging, files: dict[str, Path], one: str, other: str, keys: str, histories: bool = False
) -> None:
    """No key of ``one``, or of its histories, may be a key of ``other``."""
    known = f"SELECT {keys} FROM split_{one}"
    if histories:
        if "item_id_list" not in staging.columns(f"split_{one}"):
            return
        unnested = f"SELECT user_id, unnest(string_split(item_id_list, ' ')) AS item_id FROM split_{one}"
        known = f"SELECT {keys} FROM ({unnested})"
    found = staging.run(f"SELECT {keys} FROM split_{other} WHERE ({keys}) IN ({known}) ORDER BY ALL LIMIT 1")
    if found:
        who = f"{keys} {', '.join(map(str, found[0]))}"
        where = f"{'a history of ' if histories else ''}{files[one].name}"
        raise NestRecError(
            f"leak: {who} of {files[other].name} is in {where} too; remove repeated interactions, as --deduplicate does"
        )


def _refuse_later(staging: Staging, files: dict[str, Path], one: str, other: str, by_user: bool) -> None:
    """Nothing in ``one`` may be later than what is in ``other``; user by user, or over all, where no time is shared."""
    key = "user_id" if by_user else "''"
    latest = f"SELECT {key} AS key, max(timestamp) AS latest FROM split_{one} GROUP BY key"
    earliest = f"SELECT {key} AS key, min(timestamp) AS earliest FROM split_{other} GROUP BY key"
    later = f"latest {'>' if by_user else '>='} earliest"
    found = staging.run(f"SELECT * FROM ({latest}) JOIN ({earliest}) USING (key) WHERE {later} ORDER BY ALL LIMIT 1")
    for user, last, first in found:
        who = f" of user {user}" if by_user else ""
        what = f"the interaction{who} at {last:.0f} is later than what {files[other].name} predicts at {first:.0f}"
        raise NestRecError(f"leak: {files[one].name}: {what}; check the times")
