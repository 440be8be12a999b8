"""Attention in the precision that is fast where it runs, and over more rows than a kernel takes."""

import os

import pytest
import torch
import torch.nn.functional as F

from nestrec_recbole.layers.attention import attend
from nestrec_recbole.layers.precision import autocast


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_a_cpu_attends_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, 2, 7, 4, dtype=dtype, requires_grad=True) for _ in range(3))
    mask = torch.rand(3, 1, 7, 7) > 0.3
    mask[..., 0] = True
    with torch.autocast("cpu", dtype):
        found = attend(query, key, value, mask, scale=0.5)
    expected = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), mask, scale=0.5)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert query.grad is not None and query.grad.dtype == dtype


def test_few_kernels_are_kept_for_half_precision_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "")  # so that it is as before when the test has ended
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    for precision, kept in (("fp32", None), ("bf16", "64")):
        with autocast(precision, torch.device("cpu")):
            assert torch.is_autocast_enabled("cpu") == (precision == "bf16")
        assert os.environ.get("ONEDNN_PRIMITIVE_CACHE_CAPACITY") == kept
