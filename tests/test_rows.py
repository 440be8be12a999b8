"""The rows of a split, by hand: two users, whose items are 1..4 and 5..7."""

from __future__ import annotations

import numpy as np
import pytest

from nestrec_recbole.data.rows import RowIndex, gather, ragged_positions


@pytest.fixture
def rows() -> RowIndex:
    items = np.array([1, 2, 3, 4, 5, 6, 7], dtype=np.int32)
    owners = np.array([1, 1, 1, 1, 2, 2, 2], dtype=np.int32)
    return RowIndex.of_users(items, owners, 10 * items.astype(np.int64), {"rating": items / 2})


def written(rows: RowIndex) -> list[tuple[int, list[int], int]]:
    """Every row as (user, history, target)."""
    spans = zip(rows.users, rows.starts, rows.ends, strict=True)
    return [(int(u), rows.items[s:e].tolist(), int(rows.items[e])) for u, s, e in spans]


def test_every_interaction_but_the_first_is_a_target(rows: RowIndex) -> None:
    assert written(rows) == [(1, [1], 2), (1, [1, 2], 3), (1, [1, 2, 3], 4), (2, [5], 6), (2, [5, 6], 7)]


def test_written_histories_become_the_same_rows() -> None:
    histories = [np.array([3, 1]), np.array([3]), np.array([2, 2, 2])]
    rows = RowIndex.of_histories(np.array([7, 7, 9]), histories, np.array([4, 1, 5]))
    assert written(rows) == [(7, [3, 1], 4), (7, [3], 1), (9, [2, 2, 2], 5)]
    assert rows.owners.tolist() == [7] * 5 + [9] * 4
    assert rows.training_positions().tolist() == list(range(9))  # nothing is shared


def test_what_is_written_out_prefix_by_prefix_counts_once() -> None:
    """User 7 took 3, 1, 4 and then 1 again; 9 has one row, with a repeat in its history."""
    histories = [np.array([3, 1]), np.array([3]), np.array([3, 1, 4]), np.array([2, 2])]
    rows = RowIndex.of_histories(np.array([7, 7, 7, 9]), histories, np.array([4, 1, 1, 5]))
    users, items = rows.interactions()
    found = sorted(zip(users.tolist(), items.tolist(), strict=True))
    assert found == [(7, 1), (7, 1), (7, 3), (7, 4), (9, 2), (9, 2), (9, 5)]


def test_select_takes_rows_in_an_order(rows: RowIndex) -> None:
    assert written(rows.select(np.array([4, 0]))) == [(2, [5, 6], 7), (1, [1], 2)]


def test_without_closes_histories_up(rows: RowIndex) -> None:
    """2 was a target and in two histories; 5 was all the history that 6 had."""
    less = rows.without(np.isin(rows.items, [2, 5]))
    assert written(less) == [(1, [1], 3), (1, [1, 3], 4), (2, [6], 7)]
    assert less.times is not None and (less.times == 10 * less.items).all()
    assert (less.columns["rating"] == less.items / 2).all() and less.owners.tolist() == [1, 1, 1, 2, 2]
    assert rows.without(np.zeros(7, dtype=bool)) is rows


def test_blanked_hides_what_no_row_looks_at(rows: RowIndex) -> None:
    hidden = rows.select(np.array([0, 1, 3])).blanked()
    assert hidden.items.tolist() == [1, 2, 3, 0, 5, 6, 0]
    assert hidden.times is not None and hidden.times.tolist() == [10, 20, 30, 0, 50, 60, 0]
    assert hidden.columns["rating"].tolist() == [0.5, 1, 1.5, 0, 2.5, 3, 0]
    assert hidden.owners.tolist() == rows.owners.tolist() and rows.items.all()


def test_what_rows_may_be_trained_on(rows: RowIndex) -> None:
    some = rows.select(np.array([0, 1, 3]))
    assert some.training_positions().tolist() == [0, 1, 2, 4, 5]
    users, items = some.interactions()
    assert users.tolist() == [1, 1, 1, 2, 2] and items.tolist() == [1, 2, 3, 5, 6]
    users, items = rows.select(np.array([3, 4, 0, 1])).interactions()  # as RecBole orders users: by their first time
    assert users.tolist() == [2, 2, 2, 1, 1, 1] and items.tolist() == [5, 6, 7, 1, 2, 3]
    assert len(rows.select(np.zeros(0, dtype=int)).training_positions()) == 0


def test_windows_and_gather(rows: RowIndex) -> None:
    starts, ends = rows.windows(np.array([2, 3]), 2)
    assert gather(rows.items, starts, ends, 3).tolist() == [[2, 3, 0], [5, 0, 0]]
    pairs = np.stack([rows.items, -rows.items], axis=1)
    assert gather(pairs, starts, ends, 2).tolist() == [[[2, -2], [3, -3]], [[5, -5], [0, 0]]]


def test_ragged_positions() -> None:
    assert ragged_positions(np.array([7, 3, 0]), np.array([2, 0, 3])).tolist() == [7, 8, 0, 1, 2]
    assert len(ragged_positions(np.zeros(0, dtype=int), np.zeros(0, dtype=int))) == 0


def test_whole_histories_of_users() -> None:
    written_out = RowIndex.of_histories(
        np.array([1, 1, 3]), [np.array(h) for h in ([5], [5, 6], [7])], np.array([6, 8, 9])
    )
    found = zip(*written_out.whole_histories(np.array([1, 2, 3, 9])), strict=True)
    assert [written_out.items[start:stop].tolist() for start, stop in found] == [[5, 6, 8], [], [7, 9], []]
    sorted_by_time = RowIndex.of_users(np.array([5, 6, 4]), np.array([1, 1, 3]), np.arange(3), {})
    found = zip(*sorted_by_time.whole_histories(np.array([3, 2, 1])), strict=True)
    assert [sorted_by_time.items[start:stop].tolist() for start, stop in found] == [[4], [], [5, 6]]
