"""The Q-Former: a few learned queries that read a memory of any length, once or at every step of a history."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nestrec_recbole.layers.attention import attend
from nestrec_recbole.layers.dropout import Dropout


class AddNorm(nn.Module):
    """End of a post-norm sublayer, `norm(x + W inner)`: x (B, n, width), inner (B, n, inner_width)."""

    def __init__(self, inner_width: int, width: int, dropout: float):
        super().__init__()
        self.to_out = nn.Linear(inner_width, width)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, inner: Tensor, seeing: Tensor | None = None) -> Tensor:
        """Rows that are not `seeing` (B, 1, 1) gain nothing."""
        update = self.dropout(self.to_out(inner))
        return self.norm(x + (update if seeing is None else update * seeing))


class Attention(nn.Module):
    """Post-norm attention of x (B, n, width) to memory (B, F, memory_width)."""

    def __init__(self, width: int, memory_width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.to_query = nn.Linear(width, width)
        self.to_key = nn.Linear(memory_width, width)
        self.to_value = nn.Linear(memory_width, width)
        self.output = AddNorm(width, width, dropout)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None, seeing: Tensor | None = None) -> Tensor:
        """Attend where `mask`, which broadcasts to (B, heads, n, F), is True."""
        if memory is x and x.shape[1] == 1:  # the softmax over one logit is 1, whatever query and key are
            return self.output(x, self.to_value(x))
        projected = self.to_query(x), self.to_key(memory), self.to_value(memory)
        # (B, n, width) -> (B, heads, n, width / heads)
        query, key, value = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in projected)
        dropout = self.dropout if self.training else 0.0
        attended = attend(query, key, value, mask, dropout_p=dropout)
        return self.output(x, attended.transpose(1, 2).flatten(2), seeing)


class QFormerLayer(nn.Module):
    """Self-attention of the queries of one step, cross-attention if there is an `encoder_width`, feed-forward."""

    def __init__(self, width: int, heads: int, inner_width: int, encoder_width: int | None, dropout: float):
        super().__init__()
        self.self_attention = Attention(width, width, heads, dropout)
        self.cross_attention = Attention(width, encoder_width, heads, dropout) if encoder_width else None
        self.to_inner = nn.Linear(width, inner_width)
        self.output = AddNorm(inner_width, width, dropout)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None, seeing: Tensor | None) -> Tensor:
        """Map queries (B * T, n, width) with memory (B, F, encoder_width) to (B * T, n, width)."""
        x = self.self_attention(x, x)
        if self.cross_attention is not None:
            x = self.cross_attention(x.reshape(len(memory), -1, x.shape[-1]), memory, mask, seeing).view_as(x)
        return self.output(x, F.gelu(self.to_inner(x)))


class QFormer(nn.Module):
    """Querying transformer of BLIP-2 (Li et al. 2023, arXiv:2301.12597), with a causal form for histories.

    BERT's post-norm layers; layers 0, f, 2f, ... (f = `cross_attention_frequency`) also attend to the memory. Queries
    start as N(0, 0.02^2), weights as N(0, 1 / fan-in), biases as zero.

    Parameters
    ----------
    n_queries, width, depth : int
        Number of learned queries, hence of output vectors; their size; number of layers.
    heads, inner_width : int
        Number of attention heads, which must divide `width` (else ValueError); size of the feed-forward's hidden layer.
    encoder_width, cross_attention_frequency : int
        Size of a memory token; every how many layers the memory is read.
    dropout : float
        Rate in 0..1 on the input queries, on attention weights and on each sublayer's output.
    checkpointing : bool
        Compute layers again in the backward pass rather than keep what is inside them; gradients are the same.
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
        checkpointing: bool = False,
    ):
        super().__init__()
        self.checkpointing = checkpointing
        if width % heads:
            raise ValueError(f"heads {heads} does not divide width {width}")
        self.queries = nn.Parameter(torch.empty(n_queries, width).normal_(std=0.02))
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = Dropout(dropout)
        memory_widths = [None if i % cross_attention_frequency else encoder_width for i in range(depth)]
        self.layers = nn.ModuleList(QFormerLayer(width, heads, inner_width, m, dropout) for m in memory_widths)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                nn.init.zeros_(module.bias)
        if n_queries == 1:  # one query attends to itself: these have no say
            for module in self.modules():
                if isinstance(module, QFormerLayer):
                    module.self_attention.to_query.requires_grad_(False)
                    module.self_attention.to_key.requires_grad_(False)

    def forward(self, memory: Tensor, memory_mask: Tensor | None = None) -> Tensor:
        """Read a memory (B, F, encoder_width) into (B, n_queries, width).

        `memory_mask` (B, F), bool, is True where a token may be seen; where it is True nowhere, the cross-attention of
        that row adds nothing to the queries, which then depend on no memory (and have finite gradients).
        """
        x = self.norm(self.queries).expand(len(memory), -1, -1)
        if memory_mask is None:
            return self._run(x, memory)
        seeing = memory_mask.any(dim=1)[:, None, None]  # (B, 1, 1)
        mask = memory_mask[:, None, None] | ~seeing[..., None]  # (B, 1, 1, F): the softmax of no logits is not a number
        return self._run(x, memory, mask, seeing)

    def forward_causal(self, memory: Tensor, now: Tensor | None = None) -> Tensor:
        """Read the memory of steps 1..t at every step t: (B, T, q, encoder_width) -> (B, T, n_queries, width).

        `now` (B, T, 1, width), if given, is added to the queries of its step: what they know of where they stand.
        Without it, equals `forward(memory[:, :t].flatten(1, 2))` for every t. The queries of a step attend to each
        other and to the memory so far; later steps do not change a bit of earlier outputs: right padding needs no mask.
        """
        n_steps, n_tokens = memory.shape[1:3]
        step = torch.arange(n_steps, device=memory.device)
        query_step = step.repeat_interleave(len(self.queries))
        mask = query_step[:, None] >= step.repeat_interleave(n_tokens)  # (T * n_queries, T * q)
        queries = self.queries if now is None else (self.queries + now).flatten(0, 1)
        x = self.norm(queries).expand(len(memory) * n_steps, -1, -1)
        return self._run(x, memory.flatten(1, 2), mask).unflatten(0, (-1, n_steps))

    def _run(self, x: Tensor, memory: Tensor, mask: Tensor | None = None, seeing: Tensor | None = None) -> Tensor:
        x = self.dropout(x)  # (B * T, n_queries, width)
        recomputes = self.checkpointing and torch.is_grad_enabled()
        for layer in self.layers:
            inputs = x, memory, mask, seeing
            x = checkpoint(layer, *inputs, use_reentrant=False) if recomputes else layer(*inputs)
        return x
