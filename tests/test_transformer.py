"""The causal transformer: exact causality, blindness to right padding, parity with torch's own layer."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nestrec_recbole.layers.transformer import CausalTransformer, FeedForward, Residual

VARIANTS = [(a, r) for a in ("gelu", "swiglu") for r in ("plain", "gated")]


def build(activation="gelu", residual="plain", width=32, depth=2) -> CausalTransformer:
    torch.manual_seed(0)
    return CausalTransformer(width, depth, heads=4, inner_width=48, activation=activation, residual=residual).eval()


@pytest.mark.parametrize(("activation", "residual"), VARIANTS)
@pytest.mark.parametrize("steps", [2, 7, 50, 200])
def test_later_steps_change_no_bit_of_earlier_states(activation, residual, steps):
    model, cut = build(activation, residual), steps // 2
    x = torch.randn(3, steps, 32)
    changed = x.clone()
    changed[:, cut:] = 100 * torch.randn(3, steps - cut, 32)
    assert torch.equal(model(x)[:, :cut], model(changed)[:, :cut])
    assert not torch.equal(model(x)[:, cut:], model(changed)[:, cut:])


@pytest.mark.parametrize(("activation", "residual"), VARIANTS)
def test_right_padding_is_invisible(activation, residual):
    model, x = build(activation, residual), torch.randn(3, 9, 32)
    padded = torch.cat([x, torch.zeros(3, 5, 32)], dim=1)
    torch.testing.assert_close(model(padded)[:, :9], model(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("activation", "residual"), VARIANTS)
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_one_step_of_each_row_alone(activation, residual, depth):
    model, x, at = build(activation, residual, depth=depth), torch.randn(4, 9, 32), torch.tensor([8, 0, 4, 1])
    torch.testing.assert_close(model(x, at=at)[:, 0], model(x)[range(4), at], atol=1e-6, rtol=1e-5)
    visible = torch.rand(4, 1, 9, 9).lt(0.5).tril() | torch.eye(9, dtype=torch.bool)
    assert not torch.allclose(model(x, visible), model(x)) or depth == 0
    torch.testing.assert_close(model(x, visible, at)[:, 0], model(x, visible)[range(4), at], atol=1e-6, rtol=1e-5)


def test_no_gradient_reaches_later_steps():
    model, x = build(), torch.randn(2, 6, 32, requires_grad=True)
    model(x)[:, 2, 0].sum().backward()
    assert x.grad is not None and (x.grad[:, 3:] == 0).all() and (x.grad[:, :3] != 0).any()


def test_plain_gelu_equals_torch_encoder_layer():
    ours = build(depth=1)
    for parameter in ours.blocks.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs = nn.TransformerEncoderLayer(32, 4, 48, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    attention, feed_forward = ours.blocks
    assert isinstance(attention, Residual) and isinstance(feed_forward, Residual)
    names = {
        "self_attn.in_proj_weight": attention.sublayer.to_qkv.weight,
        "self_attn.in_proj_bias": attention.sublayer.to_qkv.bias,
        "self_attn.out_proj.weight": attention.sublayer.to_out.weight,
        "self_attn.out_proj.bias": attention.sublayer.to_out.bias,
        "linear1.weight": feed_forward.sublayer.to_inner.weight,
        "linear1.bias": feed_forward.sublayer.to_inner.bias,
        "linear2.weight": feed_forward.sublayer.to_out.weight,
        "linear2.bias": feed_forward.sublayer.to_out.bias,
        "norm1.weight": attention.norm.weight,
        "norm1.bias": attention.norm.bias,
        "norm2.weight": feed_forward.norm.weight,
        "norm2.bias": feed_forward.norm.bias,
    }
    theirs.load_state_dict({name: weight.detach() for name, weight in names.items()})
    x, mask = torch.randn(2, 8, 32), nn.Transformer.generate_square_subsequent_mask(8)
    expected = F.layer_norm(theirs(x, src_mask=mask, is_causal=True), (32,))
    torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-5)


def test_swiglu_by_hand():
    layer = FeedForward(1, 1, 0.0, "swiglu")
    with torch.no_grad():
        layer.to_inner.weight.copy_(torch.tensor([[2.0], [3.0]]))
        layer.to_inner.bias.zero_()
        layer.to_out.weight.fill_(1.0)
        layer.to_out.bias.zero_()
    # silu(2) * 3 = 2 * 0.880797 * 3
    assert layer(torch.ones(1)).item() == pytest.approx(5.284782, abs=1e-5)


def test_closed_gate_leaves_the_input():
    class Five(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full_like(x, 5.0)

    block, x = Residual(Five(), 4, 0.0, "gated"), torch.randn(2, 4)
    assert block.gate is not None
    nn.init.zeros_(block.gate.weight)
    nn.init.zeros_(block.gate.bias)
    torch.testing.assert_close(block(x), x + 2.5)
    nn.init.constant_(block.gate.bias, -1e4)
    torch.testing.assert_close(block(x), x)


@pytest.mark.parametrize(
    "wrong", [{"heads": 3}, {"activation": "relu"}, {"residual": "highway"}], ids=["heads", "activation", "residual"]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CausalTransformer(**{"width": 8, "depth": 1, "heads": 2, "inner_width": 8, **wrong})
