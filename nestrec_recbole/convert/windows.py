"""Users that are windows of one history: some published data hold each history several times, cut at other places.

Leaving out the last item of each is then no test, for another user's training history goes on to it. TriGRec's and
C2DSR's Food-Kitchen is such data: of half of its users the last three items follow each other in another's history.
"""

from __future__ import annotations

from nestrec_recbole.convert.staging import Staging

ENDING = 3  # items

_HISTORY = "OVER (PARTITION BY u ORDER BY timestamp, place)"


def share_of_shared_endings(staging: Staging) -> float:
    """The share of users with three items or more whose last three follow each other in another's history too.

    Of real people's histories a few in a hundred share their ending: .02 in Amazon Beauty, .003 in Food and Kitchen,
    .08 in MovieLens-1M.
    """
    last = f"lead(i) {_HISTORY} IS NULL AS last"
    runs = f"SELECT u, {_run(ENDING, 'lag')} AS run, {last} FROM interactions"
    by_run = "SELECT count(*) FILTER (last) AS endings, min(u) <> max(u) AS shared"
    by_run += f" FROM ({runs}) WHERE run IS NOT NULL GROUP BY run"
    shared = f"SELECT coalesce(sum(endings) FILTER (shared) / sum(endings), 0) FROM ({by_run})"
    return float(staging.value(shared))


def without_windows(staging: Staging, length: int) -> str:
    """Of users that share ``length`` consecutive items, keep the one with the longest history.

    Of equally long ones a hash of the user id decides. Those that stay have no such run in common, and each of the
    others has one in common with one of them. All are decided about in rounds, inside DuckDB.

    Returns
    -------
    str
        The condition in SQL that holds for interactions of users that stay.
    """
    rank = "row_number() OVER (ORDER BY n DESC, md5(user_id), u)"
    users = "SELECT u, count(*) AS n FROM interactions GROUP BY u"
    staging.run(f"CREATE TABLE ranked AS SELECT u, {rank} AS rank FROM ({users}) JOIN users USING (u)")
    runs = f"SELECT DISTINCT rank, run FROM (SELECT u, {_run(length, 'lead')} AS run FROM interactions)"
    shared = "QUALIFY count(*) OVER (PARTITION BY run) > 1"
    staging.run(f"CREATE TABLE runs AS FROM ({runs} JOIN ranked USING (u) WHERE run IS NOT NULL) {shared}")
    staging.run("CREATE TABLE dropped (rank BIGINT)")
    while staging.value("SELECT count(*) FROM runs"):
        first = "SELECT rank, rank = min(rank) OVER (PARTITION BY run) AS first FROM runs"
        staging.run(f"CREATE TABLE stay AS SELECT rank FROM ({first}) GROUP BY rank HAVING bool_and(first)")
        taken = "run IN (SELECT run FROM runs JOIN stay USING (rank))"
        staging.run(f"CREATE TABLE go AS SELECT DISTINCT rank FROM runs ANTI JOIN stay USING (rank) WHERE {taken}")
        staging.run("INSERT INTO dropped FROM go")
        staging.run("DELETE FROM runs WHERE rank IN (FROM stay) OR rank IN (FROM go)")
        staging.run("DROP TABLE stay; DROP TABLE go")
    return "u NOT IN (SELECT u FROM ranked JOIN dropped USING (rank))"


def _run(length: int, step: str) -> str:
    """SQL of a hash of so many consecutive items, NULL where the history has fewer of them."""
    items = [f"{step}(i, {k}) {_HISTORY}" for k in range(length)]
    return f"CASE WHEN {items[-1]} IS NOT NULL THEN hash({', '.join(items)}) END"
