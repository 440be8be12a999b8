"""Pickled dictionaries ``user -> [item, ...]``, one per domain, as TriGRec's authors publish theirs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nestrec_recbole.convert.corpus import PLACE, Corpus, Fields, Locate
from nestrec_recbole.convert.lines import check_files
from nestrec_recbole.convert.staging import Staging, literal
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.unpickle import load_plain


def pickles(
    paths: Sequence[str | Path], *, domains: Sequence[str] | None = None, merged: Sequence[str | Path] = ()
) -> Corpus:
    """Read one or two domains as one dataset with an item field ``domain``.

    The pickles hold no times; the place in the history takes their place. How two domains interleave is known only from
    ``merged``: histories of both in true order, each of which may lack the end of one domain's history. TriGRec's
    ``cross_f_train`` lacks the last two items of food and ``cross_k_train`` those of kitchen, so together they give the
    order of everything but of those last items among each other. What they leave open is ordered by domain, the first
    one first, and ``dataset.json`` counts the users of whom that is so. Without ``merged`` a time is the place in the
    history of the item's own domain. Item ids that occur in two domains are told apart as ``domain:id``.

    Parameters
    ----------
    paths : sequence of str or Path
        One pickle per domain, its histories oldest first.
    domains : sequence of str, optional
        Their names; the files' names without extension by default.
    merged : sequence of str or Path
        Pickles that interleave the two domains.

    Raises
    ------
    NestRecError
        A file that holds anything but such a dictionary, or merged histories that contradict the domains'.
    """
    files, merged_files = check_files(paths), check_files(merged) if merged else ()
    names = tuple(domains) if domains else tuple(file.stem for file in files)
    if len(files) > 2 or len(set(names)) != len(files):
        raise NestRecError(f"{len(files)} pickles and the domains {', '.join(names)}; expected one or two, a name each")
    if merged and len(files) != 2:
        raise NestRecError("merged histories need the pickles of two domains")
    notes: dict[str, Any] = {}
    return Corpus(
        name="pickles",
        sources=files + merged_files,
        time_unit=PLACE,
        read_interactions=lambda staging: _read(staging, files, names, merged_files, notes),
        read_items=_read_domains if len(files) > 1 else None,
        verbatim=("domain",),
        options={"domains": names},
        notes=notes,
    )


def _read(
    staging: Staging, files: Sequence[Path], names: Sequence[str], merged: Sequence[Path], notes: dict[str, Any]
) -> Locate:
    _insert(staging, "domain_events", files)
    shared = staging.value(
        "SELECT count(*) FROM (SELECT item FROM domain_events GROUP BY item HAVING min(file) < max(file))"
    )
    if shared and merged:
        raise NestRecError(
            f"{files[0]}: {shared} item ids occur in both domains, so merged histories cannot be told apart"
        )
    if merged:
        _insert(staging, "merged_events", merged)
        _refuse_contradictions(staging, files, merged)
        notes["users whose last items of the two domains are in no known order"] = _interleave(staging)
    else:
        staging.run("CREATE TABLE ordered AS SELECT *, k - 1 AS timestamp FROM domain_events")
    domain = f"[{', '.join(literal(name) for name in names)}][file + 1]"
    item = f"{domain} || ':' || item" if shared else "item"
    staging.run(
        f"CREATE TABLE raw AS SELECT user_id, {item} AS item_id, timestamp, {domain} AS domain, file FROM ordered "
        "ORDER BY file, place"
    )

    def locate(row: int) -> tuple[str, dict[str, Any]]:
        file, user, item = staging.run("SELECT file, user_id, item_id FROM raw WHERE rowid = ?", [row])[0]
        return f"{files[file]}: user {user!r}", {"user_id": user, "item_id": item}

    return locate


def _insert(staging: Staging, table: str, files: Sequence[Path]) -> None:
    """Create a table of file, user_id, item, place in the file, and ``k``, the place in the user's history from 1."""
    columns: dict[str, list[Any]] = {"file": [], "user_id": [], "item": []}
    for number, path in enumerate(files):
        for user, history in _histories(path).items():
            columns["file"] += [number] * len(history)
            columns["user_id"] += [str(user)] * len(history)
            columns["item"] += map(str, history)
    if not columns["item"]:
        raise NestRecError(f"{files[0]}: holds no interactions; expected a dictionary user -> [item, ...]")
    staging.insert("given_events", columns)
    place = "SELECT *, rowid AS place FROM given_events"
    k = "row_number() OVER (PARTITION BY file, user_id ORDER BY place)"
    staging.run(f"CREATE TABLE {table} AS SELECT *, {k} AS k FROM ({place})")
    staging.run("DROP TABLE given_events")


def _histories(path: Path) -> dict[Any, Sequence[Any]]:
    found = load_plain(path)
    if not isinstance(found, dict):
        raise NestRecError(f"{path}: holds a {type(found).__name__}, expected a dictionary user -> [item, ...]")
    for user, history in found.items():
        if type(user) not in (int, str) or not isinstance(history, list | tuple):
            why = f"user {str(user)[:40]!r} has a {type(history).__name__}, expected a list of items"
            raise NestRecError(f"{path}: {why}; write it again")
        kinds = {type(item) for item in history} - {int, str}
        if kinds:
            raise NestRecError(f"{path}: user {user!r} has an item of type {kinds.pop().__name__}, expected int or str")
    if len({str(user) for user in found}) < len(found):
        raise NestRecError(f"{path}: two users are the same as text, such as 1 and '1'; rename one")
    return found


def _refuse_contradictions(staging: Staging, files: Sequence[Path], merged: Sequence[Path]) -> None:
    """Each merged history must hold the beginnings of both domains' histories, in their order."""
    staging.run(
        "CREATE TABLE merged_domains AS SELECT m.file AS merge, m.user_id, m.item, m.k AS position, d.file, "
        "row_number() OVER (PARTITION BY m.file, m.user_id, d.file ORDER BY m.k) AS k FROM merged_events m "
        "LEFT JOIN (SELECT DISTINCT item, file FROM domain_events) d USING (item)"
    )
    wrong = staging.run(
        "SELECT m.merge, m.user_id, m.item FROM merged_domains m LEFT JOIN domain_events d USING (file, user_id, k) "
        "WHERE d.item IS DISTINCT FROM m.item ORDER BY m.merge, m.user_id, position LIMIT 1"
    )
    for merge, user, item in wrong:
        why = f"user {user!r}: item {item!r} is not where {' or '.join(file.name for file in files)} has it"
        raise NestRecError(f"{merged[merge]}: {why}; give the merged histories of these pickles")


def _interleave(staging: Staging) -> int:
    """Create ``ordered``, the domains' events with their place in the merged history; count users left open.

    An event of the first domain is placed by how many events of the second come before it. A merged history says so
    exactly, unless all it has of the second domain comes before and the second domain's end is missing: then the number
    is one that it has at least.
    """
    staging.run(
        """CREATE TABLE known AS
        WITH second_domain AS (SELECT user_id, count(*) AS n FROM domain_events WHERE file = 1 GROUP BY user_id),
        counted AS (
            SELECT *, count(*) FILTER (file = 1) OVER (PARTITION BY merge, user_id ORDER BY position) AS before,
                count(*) FILTER (file = 1) OVER (PARTITION BY merge, user_id) AS had
            FROM merged_domains
        )
        SELECT user_id, k, max(before) AS before, bool_or(before < had OR had = coalesce(n, 0)) AS exact
        FROM counted LEFT JOIN second_domain USING (user_id) WHERE file = 0 GROUP BY user_id, k"""
    )
    staging.run(
        """CREATE TABLE keyed AS
        SELECT d.*, coalesce(exact, file = 1) AS exact, CASE file WHEN 1 THEN d.k ELSE
            max(coalesce(before, 0)) OVER (PARTITION BY file, d.user_id ORDER BY d.k) END AS second,
            count(*) FILTER (file = 1) OVER (PARTITION BY d.user_id) AS n
        FROM domain_events d LEFT JOIN known ON file = 0 AND known.user_id = d.user_id AND known.k = d.k"""
    )
    order = "PARTITION BY user_id ORDER BY second, file DESC, k"
    staging.run(f"CREATE TABLE ordered AS SELECT *, row_number() OVER ({order}) - 1 AS timestamp FROM keyed")
    return staging.value("SELECT count(DISTINCT user_id) FROM keyed WHERE NOT exact AND second < n")


def _read_domains(staging: Staging) -> Fields:
    staging.run(
        "CREATE TABLE raw_items AS SELECT item_id, min(domain) AS domain FROM raw "
        "WHERE item_id IN (FROM catalogue) GROUP BY item_id ORDER BY item_id"
    )
    return {"domain": "token"}
