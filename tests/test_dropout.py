"""Our dropout is nn.Dropout but for where its random numbers come from."""

import pytest
import torch

from nestrec_recbole.layers.dropout import Dropout


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9])
def test_drops_at_its_rate_and_keeps_the_mean(rate: float) -> None:
    torch.manual_seed(0)
    dropped = Dropout(rate)(torch.ones(1000, 333))
    assert (dropped == 0).float().mean().item() == pytest.approx(rate, abs=0.005)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / (1 - rate)], rel=1e-3)
    assert dropped.mean().item() == pytest.approx(1, abs=0.01)
    assert (dropped == 0).float().mean(dim=0).std() < 0.03  # no column is favoured


def test_neighbours_are_independent() -> None:
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(400_000)) > 0).float() - 0.5
    for distance in (1, 2, 3, 4, 8):
        assert abs((kept[distance:] * kept[:-distance]).mean()) < 0.002


def test_gradient_passes_where_values_did() -> None:
    x = torch.randn(7, 5, 3, requires_grad=True)
    dropped = Dropout(0.5)(x)
    dropped.sum().backward()
    assert torch.equal(x.grad, (dropped != 0) * 2.0)


def test_follows_the_seed() -> None:
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(Dropout(0.4)(torch.ones(50)))
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize(("rate", "training"), [(0.0, True), (0.5, False)])
def test_leaves_alone(rate: float, training: bool) -> None:
    x = torch.randn(4, 4)
    assert torch.equal(Dropout(rate).train(training)(x), x)


def test_rate_one_and_empty() -> None:
    assert not Dropout(1.0)(torch.ones(9)).any()
    assert Dropout(0.5)(torch.ones(0, 3)).shape == (0, 3)


def test_bf16_stays_bf16() -> None:
    assert Dropout(0.5)(torch.ones(8, dtype=torch.bfloat16)).dtype is torch.bfloat16
