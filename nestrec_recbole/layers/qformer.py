"""The Q-Former: a few learned queries that read a memory of any length, once or at every step of a history."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-12  # of the layer norms, as in BERT


class Attention(nn.Module):
    """Post-norm attention, `norm(x + attend(x, memory))`: x (B, n, width), memory (B, F, memory_width)."""

    def __init__(self, width: int, memory_width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.attention_dropout = heads, dropout
        self.to_query = nn.Linear(width, width)
        self.to_key = nn.Linear(memory_width, width)
        self.to_value = nn.Linear(memory_width, width)
        self.to_out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None, seeing: Tensor | None = None) -> Tensor:
        """Attend where `mask` (broadcast to (B, heads, n, F)) is True; rows not `seeing` (B, 1, 1) gain nothing."""
        # (B, n, width) -> (B, heads, n, width / heads)
        query, key, value = (
            project.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.to_query(x), self.to_key(memory), self.to_value(memory))
        )
        dropout = self.attention_dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        update = self.dropout(self.to_out(attended.transpose(1, 2).flatten(2)))
        return self.norm(x + (update if seeing is None else update * seeing))


class FeedForward(nn.Module):
    """Post-norm feed-forward, `norm(x + W2 gelu(W1 x))`, (..., width) -> (..., width)."""

    def __init__(self, width: int, inner_width: int, dropout: float):
        super().__init__()
        self.to_inner = nn.Linear(width, inner_width)
        self.to_out = nn.Linear(inner_width, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.dropout(self.to_out(F.gelu(self.to_inner(x)))))


class QFormerLayer(nn.Module):
    """Self-attention of the queries of one step, cross-attention to the memory (in some layers), feed-forward."""

    def __init__(self, width: int, heads: int, inner_width: int, encoder_width: int | None, dropout: float):
        super().__init__()
        self.self_attention = Attention(width, width, heads, dropout)
        self.cross_attention = Attention(width, encoder_width, heads, dropout) if encoder_width else None
        self.feed_forward = FeedForward(width, inner_width, dropout)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None, seeing: Tensor | None) -> Tensor:
        """x (B * T, n, width), memory (B, F, encoder_width) -> (B * T, n, width)."""
        x = self.self_attention(x, x)
        if self.cross_attention is not None:
            x = self.cross_attention(x.reshape(len(memory), -1, x.shape[-1]), memory, mask, seeing).view_as(x)
        return self.feed_forward(x)


class QFormer(nn.Module):
    """Querying transformer of BLIP-2 (Li et al. 2023, arXiv:2301.12597), with a causal form for histories.

    BERT's post-norm layers; layers 0, f, 2f, ... (f = `cross_attention_frequency`) also attend to the memory. Weights
    and queries start as N(0, 0.02^2), biases as zero.

    Parameters
    ----------
    n_queries : int
        Number of learned queries, and of vectors that come out.
    width, depth, heads, inner_width : int
        Size of a query; number of layers; of attention heads; size of the feed-forward's hidden layer.
    encoder_width : int
        Size of a memory token.
    cross_attention_frequency : int
        Every how many layers the memory is read, the first layer being one that does.
    dropout : float
        Rate in 0..1 on the input queries, on attention weights and on each sublayer's output.

    Raises
    ------
    ValueError
        If `heads` does not divide `width`.
    """

    def __init__(
        self,
        n_queries: int,
        width: int,
        depth: int,
        heads: int,
        inner_width: int,
        encoder_width: int,
        cross_attention_frequency: int = 2,
        dropout: float = 0.0,
    ):
        super().__init__()
        if width % heads:
            raise ValueError(f"heads {heads} does not divide width {width}")
        self.queries = nn.Parameter(torch.empty(n_queries, width).normal_(std=0.02))
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.dropout = nn.Dropout(dropout)
        reads = [i % cross_attention_frequency == 0 for i in range(depth)]
        self.layers = nn.ModuleList(
            QFormerLayer(width, heads, inner_width, encoder_width if read else None, dropout) for read in reads
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, memory: Tensor, memory_mask: Tensor | None = None) -> Tensor:
        """Read a memory (B, F, encoder_width) into (B, n_queries, width).

        `memory_mask` (B, F), bool, is True where a token may be seen; where it is True nowhere, the cross-attention of
        that row adds nothing to the queries, which then depend on no memory (and have finite gradients).
        """
        if memory_mask is None:
            return self._run(memory, 1)
        seeing = memory_mask.any(dim=1)[:, None, None]  # (B, 1, 1)
        mask = memory_mask[:, None, None] | ~seeing[..., None]  # (B, 1, 1, F): the softmax of no logits is not a number
        return self._run(memory, 1, mask, seeing)

    def forward_causal(self, memory: Tensor) -> Tensor:
        """Read the memory of steps 1..t at every step t: (B, T, q, encoder_width) -> (B, T, n_queries, width).

        Equals `forward(memory[:, :t].flatten(1, 2))` for every t. The queries of a step attend to each other and to the
        memory so far; later steps do not change a bit of earlier outputs, hence right padding needs no mask.
        """
        n_steps, n_tokens = memory.shape[1:3]
        step = torch.arange(n_steps, device=memory.device)
        query_step = step.repeat_interleave(len(self.queries))
        mask = query_step[:, None] >= step.repeat_interleave(n_tokens)  # (T * n_queries, T * q)
        return self._run(memory.flatten(1, 2), n_steps, mask).unflatten(0, (-1, n_steps))

    def _run(self, memory: Tensor, n_steps: int, mask: Tensor | None = None, seeing: Tensor | None = None) -> Tensor:
        x = self.dropout(self.norm(self.queries).expand(len(memory) * n_steps, -1, -1))  # (B * T, n_queries, width)
        for layer in self.layers:
            x = layer(x, memory, mask, seeing)
        return x


# Substrings of the names in transformers' Blip2QFormerModel and ours, replaced in this order.
BLIP2_NAMES = {
    "encoder.layer.": "layers.",
    "layernorm.": "norm.",
    "crossattention.attention.": "cross_attention.to_",
    "attention.attention.": "self_attention.to_",
    "crossattention.output.": "cross_attention.",
    "attention.output.": "self_attention.",
    "intermediate_query.dense.": "feed_forward.to_inner.",
    "output_query.": "feed_forward.",
    ".dense.": ".to_out.",
    "LayerNorm.": "norm.",
}


def convert_blip2_state_dict(state_dict: Mapping[str, Tensor], queries: Tensor) -> dict[str, Tensor]:
    """Rename the weights of transformers' `Blip2QFormerModel`, for `QFormer.load_state_dict`.

    Parameters
    ----------
    state_dict : mapping
        Names without prefix ("layernorm.weight", "encoder.layer.0. ..."); weights of the text branch are left out.
    queries : Tensor (n_queries, width) or (1, n_queries, width)
        The `query_tokens` of the model around it.
    """
    converted = {"queries": queries.flatten(0, -2)}
    for name, weight in state_dict.items():
        if name.startswith("embeddings.") or ".intermediate.dense." in name or name.split(".")[3:4] == ["output"]:
            continue
        for theirs, ours in BLIP2_NAMES.items():
            name = name.replace(theirs, ours)
        converted[name] = weight
    return converted
