"""A causal transformer for sequences of item vectors: pre-norm, optional SwiGLU and gated residual."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nestrec_recbole.layers.attention import attend
from nestrec_recbole.layers.dropout import Dropout


def steps_at(x: Tensor, at: Tensor) -> Tensor:
    """The vectors (B, 1, width) of one step of each row of (B, T, width); ``at`` (B,) are these steps, from 0."""
    return x.gather(1, at[:, None, None].expand(-1, 1, x.shape[-1]))


def visible_at(visible: Tensor | None, at: Tensor, n_steps: int) -> Tensor:
    """The rows (B, 1, 1, T) of ``visible`` (B, 1, T, T) for the steps ``at`` (B,); None: itself and all before it."""
    if visible is None:
        return (torch.arange(n_steps, device=at.device) <= at[:, None])[:, None, None]
    return steps_at(visible[:, 0], at)[:, None]


class CausalSelfAttention(nn.Module):
    """Multi-head self-attention in which step t sees steps 1..t, or those it is given, (B, T, width) -> the same.

    Given ``at`` (B,), that of one step of each row: (B, 1, width).
    """

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads, self.dropout = heads, dropout
        self.to_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor, visible: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        if at is None:
            query, key, value = self._by_head(self.to_qkv(x), 3)
        else:
            width, weight, bias = x.shape[-1], self.to_qkv.weight, self.to_qkv.bias
            (query,) = self._by_head(F.linear(steps_at(x, at), weight[:width], bias[:width]), 1)
            key, value = self._by_head(F.linear(x, weight[width:], bias[width:]), 2)
            visible = visible_at(visible, at, x.shape[1])
        dropout = self.dropout if self.training else 0.0
        attended = attend(query, key, value, visible, dropout_p=dropout, is_causal=visible is None)
        return self.to_out(attended.transpose(1, 2).flatten(2))

    def _by_head(self, x: Tensor, n: int) -> tuple[Tensor, ...]:
        """(B, T, n * width) -> n x (B, heads, T, width / heads)."""
        return x.unflatten(-1, (n, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()


class FeedForward(nn.Module):
    """`W2 gelu(W1 x)`, or with SwiGLU `W2 (silu(Wg x) * W1 x)` (Shazeer 2020), (..., width) -> (..., width)."""

    def __init__(self, width: int, inner_width: int, dropout: float, activation: Literal["gelu", "swiglu"]):
        super().__init__()
        self.is_gated = activation == "swiglu"
        self.to_inner = nn.Linear(width, inner_width * (2 if self.is_gated else 1))
        self.to_out = nn.Linear(inner_width, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_gated:
            gate, linear = self.to_inner(x).chunk(2, dim=-1)
            return self.to_out(self.dropout(F.silu(gate) * linear))
        return self.to_out(self.dropout(F.gelu(self.to_inner(x))))


class Residual(nn.Module):
    """Pre-norm residual: `x + f(norm(x))`, or gated `x + sigmoid(W x) * f(norm(x))`."""

    def __init__(self, sublayer: nn.Module, width: int, dropout: float, residual: Literal["plain", "gated"]):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.sublayer = sublayer
        self.dropout = Dropout(dropout)
        self.gate = nn.Linear(width, width) if residual == "gated" else None

    def forward(self, x: Tensor, *visible: Tensor | None, at: Tensor | None = None) -> Tensor:
        if at is None:
            update = self.sublayer(self.norm(x), *visible)
        else:
            x, update = steps_at(x, at), self.sublayer(self.norm(x), *visible, at)
        update = self.dropout(update)
        return x + update if self.gate is None else x + torch.sigmoid(self.gate(x)) * update


class CausalTransformer(nn.Module):
    """Stack of causal pre-norm transformer blocks with a final norm.

    Batches are right padded: a valid step sees only the steps before it, hence no padding, and no padding mask is
    needed; the states of padded steps mean nothing. `activation="swiglu"` with `residual="gated"` is the LiGR block
    (Borisyuk, Hertel et al. 2025, arXiv:2502.03417) as in eSASRec (Tikhonovich et al. 2025); the defaults are a
    pre-norm SASRec (Kang & McAuley 2018). Weights start as N(0, 0.02^2), biases as zero.

    Parameters
    ----------
    width, depth, heads, inner_width : int
        Size of a step's vector; number of blocks; of attention heads; size of the feed-forward's hidden layer.
    dropout : float
        Rate in 0..1 on the feed-forward's hidden layer and on each sublayer's output.
    attention_dropout : float
        Rate in 0..1 on attention weights; above 0 there is no fused attention on a CPU, which takes half as long again.
    activation, residual : str
        Feed-forward with "gelu" or "swiglu"; "gated" scales each sublayer's output by a sigmoid gate, "plain" does not.

    Raises
    ------
    ValueError
        If `heads` does not divide `width`, or `activation` or `residual` is none of the above.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        inner_width: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation: Literal["gelu", "swiglu"] = "gelu",
        residual: Literal["plain", "gated"] = "plain",
    ):
        super().__init__()
        if activation not in ("gelu", "swiglu") or residual not in ("plain", "gated"):
            raise ValueError(f"unknown activation {activation!r} or residual {residual!r}")
        blocks: list[nn.Module] = []
        for _ in range(depth):
            attention = CausalSelfAttention(width, heads, attention_dropout)
            feed_forward = FeedForward(width, inner_width, dropout, activation)
            blocks += [Residual(layer, width, dropout, residual) for layer in (attention, feed_forward)]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, visible: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        """Map step vectors (B, T, width) to states (B, T, width); the state of step t depends on steps 1..t only.

        Given ``visible`` (B, 1, T, T), bool, it depends on the steps (last axis) that are visible to it; at least one.
        Given ``at`` (B,), int64, only the state of that step of each row is computed, (B, 1, width): the last block has
        little more to do than its keys and values.
        """
        blocks = list(zip(self.blocks[::2], self.blocks[1::2], strict=True))
        for attention, feed_forward in blocks[:-1]:
            x = feed_forward(attention(x, visible))
        for attention, feed_forward in blocks[-1:]:
            x = feed_forward(attention(x, visible, at=at))
        return self.norm(x if blocks or at is None else steps_at(x, at))


class BidirectionalTransformer(nn.TransformerEncoder):
    """torch's post-norm encoder (Vaswani et al. 2017), in which every step sees the whole history.

    Parameters are those of :class:`CausalTransformer`.
    """

    def __init__(self, width: int, depth: int, heads: int, inner_width: int, dropout: float = 0.0):
        layer = nn.TransformerEncoderLayer(width, heads, inner_width, dropout, batch_first=True)
        super().__init__(layer, depth, enable_nested_tensor=False)

    def forward(self, x: Tensor, is_step: Tensor) -> Tensor:  # type: ignore[override]
        """Map step vectors (B, T, width) to states (B, T, width); ``is_step`` (B, T), bool, is False for padding."""
        return super().forward(x, src_key_padding_mask=~is_step)
