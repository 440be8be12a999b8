"""Embeddings of item ids: which of them count, in training and afterwards."""

from __future__ import annotations

import torch

from nestrec_recbole.layers.ids import ItemIds


def test_ids_count_where_training_knows_the_item() -> None:
    ids = ItemIds(torch.tensor([False, True, False, True]), 2).eval()
    vectors, counts = ids()
    assert vectors is ids.weight and counts.tolist() == [False, True, False, True]
    vectors, counts = ids(torch.tensor([3, 0]))
    assert torch.equal(vectors, ids.weight[[3, 0]]) and counts.tolist() == [True, False]


def test_a_share_is_dropped_at_each_call_while_training() -> None:
    is_trained = torch.arange(4001) > 0
    ids = ItemIds(is_trained, 1, dropout=0.25)
    torch.manual_seed(0)
    one, other = ids()[1], ids()[1]
    assert not one[0] and 0.72 < one[1:].float().mean() < 0.78 and not torch.equal(one, other)
    assert ids.eval()()[1].equal(is_trained)
    frozen = ItemIds(is_trained, 1, dropout=0.25).requires_grad_(False)
    assert frozen()[1].equal(is_trained)  # there is nothing left to learn


def test_items_that_came_later() -> None:
    ids = ItemIds(torch.tensor([False, True]), 2).requires_grad_(False)
    ids.add_items(3)
    assert ids()[1].tolist() == [False, True, False, False, False]
    assert not ids.weight[2:].any() and not ids.weight.requires_grad
