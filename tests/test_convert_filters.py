"""Filters of interactions, against plain loops."""

from __future__ import annotations

from collections import Counter
from hashlib import md5
from pathlib import Path
from typing import Any

import pytest
from corpora import QUICK, review, rows_of, write_lines
from hypothesis import given
from hypothesis import strategies as st

from nestrec_recbole import NestRecError
from nestrec_recbole.cli import main
from nestrec_recbole.convert import (
    Filters,
    Options,
    amazon2023,
    convert,
    sequences,
    table,
)

EVENTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3), st.integers(1, 5)), min_size=1)


def convert_events(events: list[tuple[int, int, int, int]], filters: Filters, tmp_path: Path) -> list[tuple[Any, ...]]:
    text = "".join(f"{u},{i},{t},{r}\n" for u, i, t, r in events)
    (tmp_path / "t.csv").write_text("user_id,item_id,timestamp,rating\n" + text)
    try:
        convert(table([tmp_path / "t.csv"], rating="rating"), "d", Options(filters), tmp_path)
    except NestRecError as error:
        if "no interaction is left" not in str(error):
            raise
        return []
    return [(int(u), int(i), int(t), int(float(r))) for u, i, r, t in rows_of(tmp_path / "d" / "d.inter")]


def core(events: list[Any], users: int, items: int) -> list[Any]:
    """The slow, obvious k-core."""
    while True:
        of_user, of_item = Counter(e[0] for e in events), Counter(e[1] for e in events)
        kept = [e for e in events if of_user[e[0]] >= users and of_item[e[1]] >= items]
        if len(kept) == len(events):
            return kept
        events = kept


@QUICK
@given(
    events=EVENTS, users=st.integers(0, 3), items=st.integers(0, 3), which=st.sampled_from(["none", "first", "last"])
)
def test_filters_are_those_of_a_plain_loop(
    events: list[Any], users: int, items: int, which: str, tmp_path: Path
) -> None:
    filters = Filters(deduplicate=which, min_rating=2, since="1", until="3", k_core_users=users, k_core_items=items)
    wanted = sorted(events, key=lambda e: (e[0], e[2]))  # stable: source order within one time
    if which != "none":
        seen = {}
        for event in wanted if which == "last" else wanted[::-1]:
            seen[event[:2]] = event
        kept = set(map(id, seen.values()))
        wanted = [event for event in wanted if id(event) in kept]
    wanted = [event for event in wanted if event[3] >= 2 and 1 <= event[2] < 3]
    assert convert_events(events, filters, tmp_path) == core(wanted, users, items)


def test_min_history_and_samples(tmp_path: Path) -> None:
    events = [(user, item, item, 5) for user in range(5) for item in range(user)]
    assert {e[0] for e in convert_events(events, Filters(min_history=3), tmp_path)} == {3, 4}
    few, more = ({e[0] for e in convert_events(events, Filters(sample_users=n), tmp_path)} for n in (2, 3))
    assert (len(few), len(more)) == (2, 3) and few < more
    samples = {
        frozenset(e[0] for e in convert_events(events, Filters(sample_users=2, seed=seed), tmp_path))
        for seed in range(8)
    }
    assert len(samples) > 1


def runs_of(history: list[int], length: int) -> set[tuple[int, ...]]:
    return {tuple(history[k : k + length]) for k in range(len(history) - length + 1)}


@QUICK
@given(histories=st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=8), min_size=1, max_size=12))
def test_windows_of_one_history_are_found_and_left_out(histories: list[list[int]], tmp_path: Path) -> None:
    lines = [" ".join(map(str, [f"u{user}", *items])) for user, items in enumerate(histories)]
    (tmp_path / "s.txt").write_text("\n".join(lines) + "\n")
    endings = [tuple(items[-3:]) for items in histories if len(items) > 2]
    known = Counter(run for items in histories for run in runs_of(items, 3))
    report = convert(sequences(tmp_path / "s.txt"), "d", Options(), tmp_path)
    shared = sum(known[run] > 1 for run in endings) / len(endings) if endings else 0
    assert report["share_of_shared_endings"] == pytest.approx(shared)

    convert(sequences(tmp_path / "s.txt"), "d", Options(Filters(distinct_runs=2)), tmp_path)
    order = sorted(  # the longest first
        range(len(histories)), key=lambda user: (-len(histories[user]), md5(f"u{user}".encode()).hexdigest())
    )
    taken: set[tuple[int, ...]] = set()
    wanted = set()
    for user in order:
        if not runs_of(histories[user], 2) & taken:
            wanted.add(f"u{user}")
            taken |= runs_of(histories[user], 2)
    assert {row[0] for row in rows_of(tmp_path / "d" / "d.inter")} == wanted


def test_windows_are_told_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.txt").write_text("u a b c d\nv b c d e\nw c d e f\n")
    told = ["--name", "d", "--data-path", str(tmp_path)]
    main(["convert", "sequences", str(tmp_path / "s.txt"), *told])
    assert "66.7% of users have the run of their last three items in common with another; they may be" in (
        capsys.readouterr().out
    )
    main(["convert", "sequences", str(tmp_path / "s.txt"), *told, "--distinct-runs", "3"])
    out = capsys.readouterr().out
    assert "after distinct runs  8" in out and "0.0% of users have the run" in out


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"distinct_runs": 1}, "distinct_runs is 1; expected 0, or a number of items from 2"),
        ({"deduplicate": "frist"}, "did you mean 'first'"),
        ({"k_core_users": -1}, "k_core_users is -1"),
        ({"sample_users": 0}, "sample_users is 0"),
        ({"min_rating": float("nan")}, "min_rating is nan; expected a finite number"),
        ({"min_rating": float("inf")}, "min_rating is inf; expected a finite number"),
        ({"since": "soon"}, "since is 'soon'; expected a date"),
        ({"since": "2018-01-01"}, "has no times"),
        ({"min_rating": 3.0}, "this corpus has no ratings"),
        ({"k_core_users": 9}, "no interaction is left after the filter 'k-core'; loosen it"),
    ],
)
def test_filters_that_make_no_sense(given: dict[str, Any], words: str, tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("u a b\n")
    with pytest.raises(NestRecError, match=words):
        convert(sequences(tmp_path / "s.txt"), "d", Options(Filters(**given)), tmp_path)


def test_time_range_in_dates(tmp_path: Path) -> None:
    times = [1_514_764_799_999, 1_514_764_800_000, 1_546_300_800_000]  # around 2018 in milliseconds
    reviews = write_lines(tmp_path / "r.jsonl", [review("u", f"i{t}", t) for t in times])
    convert(amazon2023([reviews]), "d", Options(Filters(since="2018-01-01", until="2019-01-01")), tmp_path)
    assert [row[3] for row in rows_of(tmp_path / "d" / "d.inter")] == ["1514764800000"]


@pytest.mark.parametrize(
    ("digits", "words"),
    [
        ("2018", "for the year give 2018-01-01, for the number 02018"),
        ("201803", "for the month give 2018-03-01, for the number 0201803"),
        ("20180331", "for the date give 2018-03-31, for the number 020180331"),
    ],
)
def test_digits_of_a_date_are_no_moment(digits: str, words: str, tmp_path: Path) -> None:
    """In seconds and milliseconds since 1970, that is; places in histories have no dates."""
    reviews = write_lines(tmp_path / "r.jsonl", [review("u", "a", 30_000_000)])
    with pytest.raises(NestRecError, match=f"since is '{digits}', which is a moment of 1970; {words}"):
        convert(amazon2023([reviews]), "d", Options(Filters(since=digits)), tmp_path)
    assert convert(amazon2023([reviews]), "d", Options(Filters(since=f"0{digits}")), tmp_path)["items"] == 1
    (tmp_path / "s.txt").write_text("u a b\n")
    assert convert(sequences(tmp_path / "s.txt"), "s", Options(Filters(until=digits)), tmp_path)["items"] == 2
