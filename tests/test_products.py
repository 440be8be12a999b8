"""Products with as many columns as there are items, beside torch's own."""

import pytest
import torch

from nestrec_recbole.layers.products import ROW, aligned, inner_products


@pytest.mark.parametrize(("n_columns", "expected"), [(0, 0), (1, ROW), (ROW, ROW), (ROW + 1, 2 * ROW), (1683, 1696)])
def test_rows_are_as_long_as_the_next_multiple(n_columns, expected):
    assert aligned(n_columns) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("n_items", [1, ROW - 1, ROW, ROW + 1, 1683])
@torch.no_grad()
def test_inner_products_are_torchs_in_rows_of_aligned_length(n_items, dtype):
    left, right = torch.randn(5, 7, dtype=dtype), torch.randn(n_items, 7, dtype=dtype)
    products = inner_products(left, right)
    torch.testing.assert_close(products, left @ right.T)
    assert products.stride() == (aligned(n_items), 1)


def test_inner_products_can_be_differentiated():
    left, right = torch.randn(5, 7, requires_grad=True), torch.randn(9, 7, requires_grad=True)
    ours = torch.autograd.grad(inner_products(left, right).square().sum(), [left, right])
    plain = torch.autograd.grad((left @ right.T).square().sum(), [left, right])
    torch.testing.assert_close(ours, plain)
    with torch.no_grad():
        assert inner_products(left, right).stride() == (ROW, 1)


def test_inner_products_can_be_added_to_in_place():
    left, right, rest = torch.randn(5, 7), torch.randn(9, 7), torch.randn(2, 9, requires_grad=True)
    products = inner_products(left, right)
    products[:2] += rest
    torch.testing.assert_close(products[:2], left[:2] @ right.T + rest)
