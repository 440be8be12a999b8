"""Losses: each beside a slow, obvious reference or numbers worked out by hand."""

import math
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nestrec_recbole.layers import full_softmax as full_softmax_module
from nestrec_recbole.layers.full_softmax import full_softmax
from nestrec_recbole.layers.losses import LearnableTemperature, gbce, info_nce, sampled_softmax, triplet
from nestrec_recbole.layers.negatives import NegativeSampler, in_batch_negatives, log_inclusion, near_duplicates


def draw(n_positions: int, n_items: int, width: int, dtype=torch.float64, seed=0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(n_positions, width, generator=generator, dtype=dtype).requires_grad_()
    table = torch.randn(n_items, width, generator=generator, dtype=dtype).requires_grad_()
    return states, table, torch.randint(1, n_items, (n_positions,), generator=generator)


def plain_softmax(states, table, targets, pad_id=0, temperature=1.0):
    logits = states @ table.T / temperature
    if pad_id is not None:
        logits = logits.index_fill(1, torch.tensor([pad_id]), -math.inf)
    return F.cross_entropy(logits, targets)


def value_and_gradients(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, inputs)]


# full softmax


@settings(max_examples=60, deadline=None)
@given(
    n_positions=st.integers(1, 40),
    n_items=st.integers(2, 100),
    width=st.integers(1, 6),
    chunk_elements=st.integers(1, 2000),
    min_rows=st.integers(1, 16),
    pad_id=st.sampled_from([0, None]),
    temperature=st.sampled_from([1.0, 0.1]),
    frozen_table=st.booleans(),
)
def test_full_softmax_equals_plain(
    n_positions, n_items, width, chunk_elements, min_rows, pad_id, temperature, frozen_table
):
    states, table, targets = draw(n_positions, n_items, width, seed=n_positions)
    inputs = [states] if frozen_table else [states, table]
    table.requires_grad_(not frozen_table)
    expected = value_and_gradients(plain_softmax(states, table, targets, pad_id, temperature), *inputs)
    with patch.object(full_softmax_module, "MIN_ROWS", min_rows):
        loss = full_softmax(
            states, table, targets, pad_id=pad_id, temperature=temperature, chunk_elements=chunk_elements
        )
    for ours, plain in zip(value_and_gradients(loss, *inputs), expected, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("chunk_elements", [None, 40])
def test_full_softmax_gradcheck(chunk_elements):
    states, table, targets = draw(5, 12, 3)
    assert torch.autograd.gradcheck(
        lambda s, t: full_softmax(s, t, targets, chunk_elements=chunk_elements), [states, table]
    )


@pytest.mark.parametrize("chunk_elements", [None, 1000])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_full_softmax_in_float32_with_large_logits(chunk_elements, scale):
    states, table, targets = draw(64, 300, 16, torch.float32)
    expected = value_and_gradients(plain_softmax(scale * states, table, targets), states, table)
    ours = value_and_gradients(
        full_softmax(scale * states, table, targets, chunk_elements=chunk_elements), states, table
    )
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, atol=2e-6 * scale, rtol=2e-5)


@pytest.mark.parametrize("chunk_elements", [None, 1000])
def test_full_softmax_under_bf16_autocast(chunk_elements):
    states, table, targets = draw(64, 300, 16, torch.float32)
    expected = value_and_gradients(plain_softmax(states, table, targets), states, table)
    with torch.autocast("cpu", torch.bfloat16):
        loss = full_softmax(states, table, targets, chunk_elements=chunk_elements)
    for ours, plain in zip(value_and_gradients(loss, states, table), expected, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - plain).norm() < 0.01 * plain.norm()


def test_full_softmax_of_bf16_tensors_gives_bf16_gradients():
    states, table, targets = draw(8, 20, 4, torch.bfloat16)
    loss = full_softmax(states, table, targets)
    assert loss.dtype == torch.float32
    assert {grad.dtype for grad in torch.autograd.grad(loss, [states, table])} == {torch.bfloat16}


def test_full_softmax_in_fp16_does_not_lose_small_probabilities():
    """Over two million items probabilities are a few times the smallest number of float16, 6e-8.

    Sums of so many in float32 are off by up to 0.004 by themselves, as the CPU's matrix products order them.
    """
    states, table, targets = draw(4, 2_000_000, 2, torch.float32)
    exact_states, exact_table = (x.detach().double().requires_grad_() for x in (states, table))
    exact = value_and_gradients(plain_softmax(exact_states, exact_table, targets), exact_states, exact_table)
    with torch.autocast("cpu", dtype=torch.float16):
        ours = value_and_gradients(full_softmax(states, table, targets), states, table)
    for one, other in zip(ours, exact, strict=True):
        assert (one - other).norm() < 0.005 * other.norm()


def test_full_softmax_temperature_gradient():
    states, table, targets = draw(9, 20, 4)
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    ours = value_and_gradients(full_softmax(states, table, targets, temperature=temperature), temperature)
    plain = value_and_gradients(plain_softmax(states, table, targets, temperature=temperature), temperature)
    torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("target", [0, 20, -100])
@pytest.mark.parametrize("chunk_elements", [None, 30])
def test_full_softmax_is_infinite_for_a_target_that_is_no_item(target, chunk_elements):
    states, table, targets = draw(9, 20, 4)
    targets[3] = target
    assert full_softmax(states, table, targets, chunk_elements=chunk_elements).item() == math.inf


def test_full_softmax_backward_may_be_repeated_and_no_grad_agrees():
    states, table, targets = draw(9, 20, 4)
    loss = full_softmax(states, table, targets)
    first = torch.autograd.grad(loss, [states, table], retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(2 * loss, [states, table]), tuple(2 * grad for grad in first))
    with torch.no_grad():
        assert full_softmax(states, table, targets).item() == pytest.approx(loss.item())


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = out if isinstance(out, tuple) else (out,)
        self.elements = max([self.elements, *(x.numel() for x in tensors if isinstance(x, Tensor))])
        return out


def test_full_softmax_holds_nothing_larger_than_a_block_or_the_table():
    states, table, targets = draw(600, 20_000, 4, torch.float32)
    with LargestTensor() as ours:
        full_softmax(states, table, targets, chunk_elements=2**16).backward()
    with LargestTensor() as plain:
        plain_softmax(states, table, targets).backward()
    assert ours.elements == table.numel()
    assert plain.elements == 600 * 20_000


# sampled softmax and its negatives


def loop_sampled_softmax(states, table, targets, negatives, log_q, forbidden, temperature):
    terms = []
    for state, target, banned in zip(states, targets.tolist(), forbidden.tolist(), strict=True):
        allowed = [i for i in set(negatives.tolist()) if i != target and i not in banned]
        logits = torch.stack([state @ table[i] / temperature - log_q[i] for i in [target, *allowed]])
        terms.append(logits.logsumexp(0) - logits[0])
    return torch.stack(terms).mean()


@settings(max_examples=40, deadline=None)
@given(
    n_positions=st.integers(1, 8),
    n_items=st.integers(2, 12),
    n_negatives=st.integers(1, 20),
    n_forbidden=st.integers(0, 5),
    seed=st.integers(0, 1000),
)
def test_sampled_softmax_equals_loop(n_positions, n_items, n_negatives, n_forbidden, seed):
    states, table, targets = draw(n_positions, n_items, 3, seed=seed)
    sampler = NegativeSampler(torch.randint(0, 9, (n_items,)), "popularity", 0.5)
    negatives, log_q = sampler(n_negatives), log_inclusion(sampler.log_q.exp(), n_negatives).double()
    forbidden = torch.randint(0, n_items, (n_positions, n_forbidden))
    ours = sampled_softmax(states, table, targets, negatives, log_q=log_q, forbidden=forbidden, temperature=0.5)
    slow = loop_sampled_softmax(states, table, targets, negatives, log_q, forbidden, 0.5)
    for one, other in zip(
        value_and_gradients(ours, states, table), value_and_gradients(slow, states, table), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-9)


def test_sampled_softmax_over_all_items_is_the_full_softmax():
    states, table, targets = draw(30, 12, 4)
    ours = sampled_softmax(states, table, targets, torch.arange(1, 12))
    torch.testing.assert_close(
        value_and_gradients(ours, states, table),
        value_and_gradients(plain_softmax(states, table, targets), states, table),
    )


def test_sampled_softmax_wants_what_the_full_softmax_wants():
    """Where logits are the targets' own log-probabilities, the gradient is that of chance, whatever is drawn most."""
    torch.manual_seed(0)
    share = torch.cat([torch.zeros(1), 1 / torch.arange(1, 51)])
    sampler, share = NegativeSampler(1e6 * share, "popularity"), share / share.sum()
    table = share.log().clamp(min=-20)[:, None].requires_grad_()
    total = torch.zeros_like(table)
    for _ in range(400):
        targets = torch.multinomial(share, 500, replacement=True)
        log_q = log_inclusion(sampler.log_q.exp(), 30)
        loss = sampled_softmax(torch.ones(500, 1), table, targets, sampler(30), log_q=log_q)
        total += torch.autograd.grad(loss, table)[0] / 400
    assert (total.abs() < 0.006).all()  # with repetitions -.037 at the most popular item


def test_sampled_softmax_without_any_negative_left_is_zero():
    states, table, _ = draw(2, 5, 3)
    loss = sampled_softmax(states, table, torch.tensor([2, 2]), torch.tensor([2, 2, 2]))
    assert [x.abs().max().item() for x in value_and_gradients(loss, states, table)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("distribution", "alpha", "weights"),
    [("uniform", 1.0, [1, 1, 1, 1]), ("popularity", 1.0, [1, 4, 1, 9]), ("popularity", 0.5, [1, 2, 1, 3])],
)
def test_sampler_draws_what_log_q_says_and_never_padding(distribution, alpha, weights):
    torch.manual_seed(0)
    sampler = NegativeSampler(torch.tensor([50, 1, 4, 0, 9]), distribution, alpha)
    expected = torch.tensor([0.0, *weights]) / sum(weights)
    torch.testing.assert_close(sampler.log_q.exp(), expected)
    drawn = sampler(100_000).bincount(minlength=5)
    assert drawn[0] == 0
    torch.testing.assert_close(drawn / 100_000, expected, atol=0.01, rtol=0)


def test_sampler_at_the_ends_of_the_unit_interval():
    sampler = NegativeSampler(torch.ones(1_000_001), "popularity")
    with patch.object(torch, "rand", lambda *_, **__: torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)):
        assert sampler(2).tolist() == [1, 1_000_000]


def test_sampler_refuses_an_unknown_distribution():
    with pytest.raises(ValueError, match="zipf"):
        NegativeSampler(torch.ones(3), "zipf")  # type: ignore[arg-type]


def test_in_batch_negatives_by_hand():
    negatives, log_q = in_batch_negatives(torch.tensor([2, 2]), torch.tensor([9, 1, 3]))
    assert negatives.tolist() == [2]
    # q = 1/4 and 3/4, two draws: 1 - (3/4)^2 and 1 - (1/4)^2
    torch.testing.assert_close(log_q.exp(), torch.tensor([0.0, 7 / 16, 15 / 16]))


# gBCE


def test_gbce_by_hand():
    # one positive, one negative, alpha = 1/2, t = 1/2: beta = 1 - 1/2 * 1/2 = 3/4
    loss = gbce(torch.tensor([0.0]), torch.tensor([[math.log(3)]]), sampling_rate=0.5, calibration=0.5)
    # -(3/4 log(1/2) + log(1/4)) / 2
    assert loss.item() == pytest.approx(2.75 * math.log(2) / 2)


@pytest.mark.parametrize(("sampling_rate", "calibration"), [(0.1, 0.0), (1.0, 0.75)])
def test_gbce_without_correction_is_binary_cross_entropy(sampling_rate, calibration):
    positive, negative = torch.randn(7), torch.randn(7, 3)
    logits, labels = torch.cat([positive, negative.flatten()]), torch.tensor([1.0] * 7 + [0.0] * 21)
    expected = F.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(gbce(positive, negative, sampling_rate, calibration), expected)


def test_gbce_leaves_out_negatives_of_minus_infinity():
    negative = torch.tensor([[1.0, -math.inf]], requires_grad=True)
    loss = gbce(torch.tensor([0.0]), negative, 0.5, 0.5)
    loss.backward()
    assert loss.isfinite() and negative.grad is not None
    assert negative.grad[0, 0] > 0 and negative.grad[0, 1] == 0


# InfoNCE


def test_triplet_by_hand():
    positive = torch.tensor([2.0, 0.0], requires_grad=True)
    negative = torch.tensor([[0.5, 1.5, -math.inf], [-math.inf, 1.0, -3.0]])
    loss = triplet(positive, negative, margin=1.0)  # violations: 0, 0.5; 2, 0
    assert loss.item() == pytest.approx(2.5 / 4)
    loss.backward()
    assert positive.grad.tolist() == pytest.approx([-0.25, -0.25])
    assert triplet(positive, torch.full((2, 3), -math.inf), 1.0) == 0


@pytest.mark.parametrize("symmetric", [False, True])
def test_info_nce_with_distinct_items_is_cross_entropy_of_the_diagonal(symmetric):
    states, positives = torch.randn(6, 4), torch.randn(6, 4)
    logits, rows = states @ positives.T / 0.2, torch.arange(6)
    expected = F.cross_entropy(logits, rows)
    if symmetric:
        expected = (expected + F.cross_entropy(logits.T, rows)) / 2
    ours = info_nce(states, positives, rows + 1, temperature=0.2, symmetric=symmetric)
    torch.testing.assert_close(ours, expected)


def test_info_nce_ignores_rows_of_the_same_item():
    states = torch.eye(3, requires_grad=True)
    loss = info_nce(states, torch.eye(3), torch.tensor([5, 5, 7]))
    # rows 1 and 2 have one negative, row 3 has two
    expected = (2 * math.log(1 + math.exp(-1)) + math.log(1 + 2 * math.exp(-1))) / 3
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert states.grad is not None and states.grad.isfinite().all()


@pytest.mark.parametrize("symmetric", [False, True])
def test_info_nce_leaves_forbidden_items_out(symmetric):
    states, positives, items = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([2, 3, 4, 5])
    forbidden = torch.tensor([[4, 0], [0, 0], [5, 2], [0, 9]])
    logits = states @ positives.T
    for row, item in ((0, 2), (2, 3), (2, 0)):
        logits[row, item] = -math.inf
    expected = F.cross_entropy(logits, torch.arange(4))
    if symmetric:
        expected = (expected + F.cross_entropy(logits.T, torch.arange(4))) / 2
    torch.testing.assert_close(info_nce(states, positives, items, forbidden=forbidden, symmetric=symmetric), expected)


@pytest.mark.parametrize("chunk_elements", [2**24, 7])
def test_near_duplicates_by_hand(chunk_elements):
    features = torch.tensor([[1.0, 0], [1, 0], [2, 0.2], [0, 1], [0, 0], [1, 0.4], [0, 0]])
    found = near_duplicates(features, 0.9, most=2, chunk_elements=chunk_elements)
    assert found.tolist() == [[0, 0], [2, 5], [1, 5], [0, 0], [0, 0], [2, 1], [0, 0]]


def test_temperature_stays_in_bounds_and_comes_back():
    temperature = LearnableTemperature(0.07, 0.01, 1.0)
    assert temperature().item() == pytest.approx(0.07)
    with torch.no_grad():
        temperature.log_temperature.fill_(5.0)
    value = temperature()
    value.backward()
    assert value.item() == pytest.approx(1.0)
    assert temperature.log_temperature.grad is not None and temperature.log_temperature.grad > 0


def test_temperature_refuses_impossible_bounds():
    with pytest.raises(ValueError, match="minimum"):
        LearnableTemperature(0.07, 0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_over_many_half_precision_logits(dtype):
    random = torch.Generator().manual_seed(0)
    positive, negative = torch.randn(400, generator=random), torch.randn(400, 300, generator=random)
    for loss in (lambda p, n: gbce(p, n, 0.5, 0.5), lambda p, n: triplet(p, n, 0.5)):
        rounded = loss(positive.to(dtype).float(), negative.to(dtype).float())
        assert loss(positive.to(dtype), negative.to(dtype)).item() == pytest.approx(rounded.item(), rel=1e-4)
