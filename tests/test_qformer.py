"""The Q-Former: parity with transformers, a causal form equal to a loop over prefixes, masks."""

import pytest
import torch
import torch.nn.functional as F
from blip2_weights import convert_blip2_state_dict
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from nestrec_recbole.layers import attention
from nestrec_recbole.layers.qformer import QFormer

ENCODER_WIDTH = 10


def build(n_queries=3, width=16, depth=3, cross_attention_frequency=2, seed=0) -> QFormer:
    torch.manual_seed(seed)
    model = QFormer(n_queries, width, depth, 2, 24, ENCODER_WIDTH, cross_attention_frequency).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def prefix_loop(model: QFormer, memory: Tensor) -> Tensor:
    """What `forward_causal` must equal, (B, T, q, encoder_width) -> (B, T, n_queries, width)."""
    return torch.stack([model(memory[:, : t + 1].flatten(1, 2)) for t in range(memory.shape[1])], dim=1)


def gradients(model: QFormer, out: Tensor, memory: Tensor) -> list[Tensor]:
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    trained = [p for p in model.parameters() if p.requires_grad]
    return list(torch.autograd.grad((out * weights).sum(), [memory, *trained]))


# parity with transformers


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("with_text", [False, True])
@pytest.mark.parametrize("frequency", [1, 2, 3])
def test_equals_transformers_with_gradients(frequency, with_text, masked):
    torch.manual_seed(frequency)
    config = Blip2QFormerConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=24,
        encoder_hidden_size=ENCODER_WIDTH,
        cross_attention_frequency=frequency,
        use_qformer_text_input=with_text,
    )
    theirs = Blip2QFormerModel(config).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    query_tokens = torch.randn(1, 3, 16, requires_grad=True)
    ours = QFormer(3, 16, 4, 2, 24, ENCODER_WIDTH, frequency).eval()
    ours.load_state_dict(convert_blip2_state_dict(theirs.state_dict(), query_tokens.detach()))

    memory = torch.randn(5, 7, ENCODER_WIDTH, requires_grad=True)
    mask = (torch.arange(7) <= torch.arange(5)[:, None]) if masked else None
    expected = theirs(
        query_embeds=query_tokens.expand(5, -1, -1),
        encoder_hidden_states=memory,
        encoder_attention_mask=None if mask is None else mask.long(),
    ).last_hidden_state
    out = ours(memory, mask)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)

    (expected * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    assert memory.grad is not None and query_tokens.grad is not None
    theirs_grads = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    expected_grads = convert_blip2_state_dict(theirs_grads, query_tokens.grad)
    names = ["memory", *(name for name, _ in ours.named_parameters())]
    grads = dict(zip(names, gradients(ours, out, memory), strict=True))
    torch.testing.assert_close(grads.pop("memory"), memory.grad, atol=1e-5, rtol=1e-5)
    assert grads.keys() == expected_grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[name], atol=1e-5, rtol=1e-5, msg=name)


def test_conversion_misses_nothing():
    theirs = Blip2QFormerModel(Blip2QFormerConfig(hidden_size=16, num_attention_heads=2, num_hidden_layers=2))
    state_dict = dict(theirs.state_dict())
    del state_dict["encoder.layer.1.output_query.dense.bias"]
    model = QFormer(3, 16, 2, 2, 3072, 1408)
    with pytest.raises(RuntimeError, match=r"layers\.1\.output\.to_out\.bias"):
        model.load_state_dict(convert_blip2_state_dict(state_dict, torch.zeros(1, 3, 16)))


# causal form


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3),
    steps=st.integers(1, 6),
    tokens=st.integers(1, 4),
    n_queries=st.integers(1, 4),
    depth=st.integers(1, 3),
    frequency=st.integers(1, 3),
)
def test_causal_equals_loop_over_prefixes(batch, steps, tokens, n_queries, depth, frequency):
    model = build(n_queries, depth=depth, cross_attention_frequency=frequency, seed=steps)
    memory = torch.randn(batch, steps, tokens, ENCODER_WIDTH, requires_grad=True)
    fast, slow = model.forward_causal(memory), prefix_loop(model, memory)
    assert fast.shape == (batch, steps, n_queries, 16)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    for ours, reference in zip(gradients(model, fast, memory), gradients(model, slow, memory), strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-5 * max(1.0, reference.abs().max().item()), rtol=1e-5)


@pytest.mark.parametrize(("steps", "tokens", "n_queries"), [(2, 1, 1), (5, 3, 2), (50, 4, 4), (90, 3, 8)])
def test_later_memory_changes_no_bit_of_earlier_outputs(steps, tokens, n_queries):
    model = build(n_queries, width=32)
    memory = torch.randn(2, steps, tokens, ENCODER_WIDTH)
    for cut in {1, steps // 2, steps - 1}:
        changed = memory.clone()
        changed[:, cut:] = 100 * torch.randn_like(changed[:, cut:])
        before, after = model.forward_causal(memory), model.forward_causal(changed)
        assert torch.equal(before[:, :cut], after[:, :cut])
        assert not torch.equal(before[:, cut:], after[:, cut:])


# masks


def test_masked_tokens_are_as_if_absent():
    model, memory = build(), torch.randn(2, 5, ENCODER_WIDTH)
    mask = torch.tensor([[True, True, False, True, False], [True] * 5])
    out = model(memory, mask)
    torch.testing.assert_close(out[:1], model(memory[:1, [0, 1, 3]]), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(out[1:], model(memory[1:]), atol=1e-6, rtol=1e-5)


def test_fully_masked_rows_read_nothing_and_stay_finite():
    model, memory = build(), torch.randn(3, 5, ENCODER_WIDTH, requires_grad=True)
    mask = torch.tensor([[True] * 5, [False] * 5, [False] * 5])
    out = model(memory, mask)
    torch.testing.assert_close(out[1], out[2], atol=1e-6, rtol=1e-6)  # rows of a product need not be summed alike
    assert not torch.allclose(out[0], out[1])
    grads = gradients(model, out, memory)
    assert out.isfinite().all() and all(grad.isfinite().all() for grad in grads)
    assert (grads[0][1:] == 0).all() and (grads[0][0] != 0).any()

    unread = model.norm(model.queries)[None]
    for layer in model.layers:
        unread = layer.self_attention(unread, unread)
        if layer.cross_attention is not None:
            unread = layer.cross_attention.output.norm(unread)
        unread = layer.output(unread, F.gelu(layer.to_inner(unread)))
    torch.testing.assert_close(out[1:2], unread, atol=1e-6, rtol=1e-5)


# construction


def test_a_large_one_is_built_on_the_meta_device():
    with torch.device("meta"):
        model = QFormer(64, 1024, 12, 16, 4096, 4096)
        out = model.forward_causal(torch.empty(2, 3, 5, 4096))
    assert out.shape == (2, 3, 64, 1024)
    assert [layer.cross_attention is not None for layer in model.layers] == [True, False] * 6


@pytest.mark.parametrize("causal", [False, True])
def test_checkpointing_keeps_less_and_changes_no_gradient(causal):
    found, kept = [], []
    for on in (False, True):
        model, memory = build().train(), torch.randn(4, 5, 2, ENCODER_WIDTH, generator=torch.Generator().manual_seed(1))
        model.checkpointing = on
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.3
        memory = (memory if causal else memory.flatten(1, 2)).requires_grad_()
        held = []
        torch.manual_seed(2)
        with torch.autograd.graph.saved_tensors_hooks(lambda x, held=held: (held.append(x.numel()), x)[1], lambda x: x):
            out = model.forward_causal(memory) if causal else model(memory)
        found.append([out, *gradients(model, out, memory)])
        kept.append(sum(held))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert kept[1] < kept[0] / 3


def test_heads_must_divide_width():
    with pytest.raises(ValueError, match="heads 3"):
        QFormer(2, 16, 1, 3, 8, 8)


@pytest.mark.parametrize("causal", [False, True])
def test_a_batch_larger_than_a_kernel_takes_is_split(causal, monkeypatch):
    model, mask = build(), torch.rand(7, 5) < 0.7
    mask[:, 0] = True
    memory = torch.randn(3, 4, 5, ENCODER_WIDTH) if causal else torch.randn(7, 5, ENCODER_WIDTH)

    def read():
        return model.forward_causal(memory) if causal else model(memory, mask)

    whole = read()
    monkeypatch.setattr(attention, "MOST", 3)
    torch.testing.assert_close(read(), whole)
