"""Fusions, the scorer of pairs, and what draws their negatives: against what is plain to see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from nestrec_recbole.layers.fusion import FUSIONS, build_fusion, masked_mean
from nestrec_recbole.layers.losses import gbce, info_nce
from nestrec_recbole.layers.negatives import KnownPairs, NegativeSampler
from nestrec_recbole.layers.pairs import ACTIVATIONS, INITIALISATIONS, NORMS, PairScorer

KINDS = ("text", "text", "image", "number", "id")


def tokens(n: int = 6, width: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    mask = torch.rand(n, len(KINDS)) < 0.7
    mask[0], mask[1], mask[2] = False, True, torch.tensor([True, True, False, True, True])  # none, all, no image
    return torch.randn(n, len(KINDS), width), mask


@pytest.mark.parametrize("kind", FUSIONS)
def test_what_is_masked_changes_nothing(kind: str) -> None:
    fusion = build_fusion(kind, KINDS, 8, 2)
    known, mask = tokens()
    expected = fusion(known, mask)
    for junk in (1e3, float("nan")):
        assert torch.equal(fusion(known.masked_fill(~mask[..., None], junk), mask), expected)
    assert torch.isfinite(expected).all()
    assert (expected[0] == fusion(known[:1] + 5, mask[:1])[0]).all()  # an item of which nothing is known
    for place in range(len(KINDS)):  # and what is not masked does
        other = known.clone()
        other[:, place] += torch.randn(8)
        changed = (fusion(other, mask) != expected).any(dim=1)
        assert (changed == mask[:, place]).all()


@pytest.mark.parametrize("kind", FUSIONS)
def test_gradients_reach_every_weight_and_no_masked_token(kind: str) -> None:
    fusion = build_fusion(kind, ("text", "text", "image", "image", "id"), 8, 2)  # no attention to a single token
    known, mask = tokens()
    known.requires_grad_()
    fusion(known, mask).square().sum().backward()
    assert known.grad is not None
    assert (known.grad.abs().sum(dim=2) > 0).equal(mask)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in fusion.parameters())


@pytest.mark.parametrize("kind", ["attention", "cross_modal"])
def test_without_a_column_as_with_it_masked(kind: str) -> None:
    known, mask = tokens()
    mask[:, 1] = False
    torch.manual_seed(0)
    fusion = build_fusion(kind, KINDS, 8, 2)
    kept = [0, 2, 3, 4]
    torch.manual_seed(0)
    without = build_fusion(kind, [KINDS[i] for i in kept], 8, 2)
    torch.testing.assert_close(fusion(known, mask), without(known[:, kept], mask[:, kept]))


def test_cross_modal_text_reads_images_and_not_text() -> None:
    """With one text and one image, each attends to the one token of the other: the softmax is 1."""
    fusion = build_fusion("cross_modal", ("text", "image"), 8, 2)
    known, mask = tokens()[0][:, :2], torch.ones(6, 2, dtype=torch.bool)
    read = []
    for own, other, reading in ((0, 1, fusion.readings[0]), (1, 0, fusion.readings[1])):  # type: ignore[index]
        attention = reading.attention
        update = attention.output.to_out(attention.to_value(known[:, other]))
        read.append(attention.output.norm(known[:, own] + update))
    expected = fusion.to_item((read[0] + read[1]) / 2)  # type: ignore[operator]
    torch.testing.assert_close(fusion(known, mask), expected)


def test_gates_by_hand() -> None:
    fusion = build_fusion("gated", ("text", "image"), 2, 1)
    with torch.no_grad():
        fusion.to_item.weight.copy_(torch.eye(2))  # type: ignore[operator, union-attr]
        fusion.to_gates.weight.zero_()  # type: ignore[operator, union-attr]
        fusion.to_gates.bias.copy_(torch.tensor([50.0, -50.0, 0.0, 0.0]))  # type: ignore[operator, union-attr]
    fused = fusion(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[True, True]]))
    torch.testing.assert_close(fused, torch.tensor([[1.0 + 1.5, 0.0 + 2.0]]))  # open, shut, half, half


def test_unknown_fusions_and_missing_sides() -> None:
    with pytest.raises(ValueError, match="unknown fusion 'sum'; known: concat"):
        build_fusion("sum", KINDS, 8, 2)
    with pytest.raises(ValueError, match="needs tokens of text and of image, not of text, id only"):
        build_fusion("cross_modal", ("text", "id"), 8, 2)


def test_masked_mean() -> None:
    known, mask = tokens()
    expected = [
        row[there].mean(dim=0) if there.any() else torch.zeros(8) for row, there in zip(known, mask, strict=True)
    ]
    torch.testing.assert_close(masked_mean(known, mask), torch.stack(expected))


def test_contrastive_loss_of_three_items_by_hand() -> None:
    """Cosines [[1, 0, 0], [0, 1, 0], [0, 1, 0]] at temperature 1: the third text has the second one's image too."""
    text, image = torch.eye(3)[[0, 1, 1]], torch.eye(3)
    e = np.e
    to_image = np.log(e + 2) - np.array([1, 1, 0])  # rows (1 0 0), (0 1 0), (0 1 0)
    to_text = np.array([np.log(e + 2) - 1, np.log(2 * e + 1) - 1, np.log(3) - 0])  # columns
    expected = (to_image.mean() + to_text.mean()) / 2
    assert info_nce(text, image, torch.tensor([1, 2, 3]), symmetric=True).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("has_product", [True, False])
@pytest.mark.parametrize("norm", NORMS)
def test_pairs_are_an_mlp_over_both_vectors(norm: str, has_product: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    scorer = PairScorer(5, [7, 4], norm=norm, activation="gelu", has_product=has_product)
    users, table = torch.randn(3, 5), torch.randn(11, 5)
    if norm == "batch":
        scorer(users, table, torch.randint(11, (3, 6)))  # some running statistics
    scorer.eval()
    both = torch.cat([users[:, None].expand(-1, 11, -1), table.expand(3, -1, -1)], dim=-1)
    first = torch.cat([scorer.of_user.weight, scorer.of_item.weight], dim=1)
    expected = scorer.rest(F.linear(both, first, scorer.of_user.bias).flatten(0, 1)).view(3, 11)
    expected = expected + users @ table.T if has_product else expected
    for elements in (1 << 20, 30):  # at once, and piece by piece
        monkeypatch.setattr("nestrec_recbole.layers.pairs.CPU_ELEMENTS", elements)
        torch.testing.assert_close(scorer.catalogue(users, table), expected)
    some = torch.tensor([[0, 10], [3, 3], [7, 1]])
    torch.testing.assert_close(scorer(users, table, some), expected.gather(1, some))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation: str) -> None:
    layer = PairScorer(4, [3], activation=activation).rest[1]
    x = torch.randn(9)
    torch.testing.assert_close(layer(x), getattr(F, activation)(x) if activation != "tanh" else torch.tanh(x))


@pytest.mark.parametrize("initialisation", INITIALISATIONS)
def test_the_two_halves_start_as_one_layer(initialisation: str) -> None:
    torch.manual_seed(0)
    scorer = PairScorer(200, [300], initialisation=initialisation)
    both = torch.cat([scorer.of_user.weight, scorer.of_item.weight], dim=1)
    spread = (2 / (400 + 300)) ** 0.5 if initialisation.startswith("xavier") else (2 / 400) ** 0.5
    assert both.std().item() == pytest.approx(spread, rel=0.02)
    assert (scorer.of_user.weight.std() / scorer.of_item.weight.std()).item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("distribution", "exponent"), [("uniform", 0), ("popularity", 0.75), ("inverse_popularity", -0.75)]
)
def test_negatives_come_as_often_as_they_should(distribution: str, exponent: float) -> None:
    torch.manual_seed(3)
    counts = torch.tensor([999, 1, 0, 4, 20, 300])
    sampler = NegativeSampler(counts, distribution, 0.75)  # type: ignore[arg-type]
    drawn = sampler(20_000).bincount(minlength=6).numpy()
    shares = np.array([1, 1, 4, 20, 300]) ** exponent
    assert drawn[0] == 0
    assert stats.chisquare(drawn[1:], 20_000 * shares / shares.sum()).pvalue > 1e-3


def test_known_pairs_are_those_of_the_training_data() -> None:
    random = np.random.default_rng(0)
    users, items = random.integers(0, 30, 200), random.integers(1, 50, 200)
    taken = set(zip(users.tolist(), items.tolist(), strict=True))
    known = KnownPairs(torch.from_numpy(users), torch.from_numpy(items), 50)
    asked = torch.arange(50).expand(40, -1)  # users 30 to 39 have taken nothing
    expected = [[(user, item) in taken for item in range(50)] for user in range(40)]
    assert known(torch.arange(40), asked).tolist() == expected


def test_bce_of_pairs_leaves_known_ones_out() -> None:
    """What the model hands over: generalised BCE without calibration is BCE, and -inf is no negative at all."""
    positive, negative = torch.tensor([0.3, -1.0]), torch.tensor([[0.5, -torch.inf], [2.0, 1.0]])
    terms = [F.softplus(-positive).sum(), F.softplus(torch.tensor([0.5, 2.0, 1.0])).sum()]
    loss = gbce(positive, negative, sampling_rate=1.0, calibration=0.0)
    assert loss.item() == pytest.approx((terms[0] + terms[1]).item() / 6)
