"""Where the tokens of a batch go: vectors and pieces of text, padded to rows or packed one behind the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nestrec_recbole.layers.attention import attend


@dataclass(frozen=True)
class Packed:
    """Sequences one behind the other, without padding.

    Attributes
    ----------
    lengths : Tensor (B,), int64
    longest : int
    row, position : Tensor (N,), int64
        Of each of the N tokens, the sequence it belongs to and its place there, from 0.
    """

    lengths: Tensor
    longest: int
    row: Tensor
    position: Tensor

    @classmethod
    def of(cls, lengths: Tensor, longest: int, total: int | None = None) -> Packed:
        """Pack sequences of these lengths, the longest and the sum of which are known."""
        row, position = enumerate_ragged(lengths, total)
        return cls(lengths, longest, row, position)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        """Causal attention inside each sequence: (1, heads, N, d) -> (1, heads, N, d).

        Queries, keys and values alone are padded, to (B, heads, longest, d): what takes a model's time are its linear
        layers, and a fused causal kernel beats one that is given a block-diagonal mask of N x N.
        """
        place = self.row * self.longest + self.position

        def pad(x: Tensor) -> Tensor:
            grid = x.new_zeros(len(self.lengths) * self.longest, x.shape[1], x.shape[3])
            grid = grid.index_copy(0, place, x[0].transpose(0, 1))
            return grid.unflatten(0, (-1, self.longest)).transpose(1, 2)

        out = attend(pad(query), pad(key), pad(value), is_causal=True, **options)
        return out.transpose(1, 2).flatten(0, 1)[place].transpose(0, 1)[None]

    def boundaries(self) -> Tensor:
        """Cumulative lengths (B + 1,), int32, from 0: what FlashAttention's kernel for ragged batches reads."""
        return F.pad(self.lengths.cumsum(0), (1, 0)).to(torch.int32)


@dataclass(frozen=True)
class Texts:
    """Tokenised pieces of text, ragged: piece i is ``ids[starts[i] : starts[i] + lengths[i]]``."""

    ids: Tensor
    starts: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class Layout:
    """Where every token of a batch of histories goes.

    Attributes
    ----------
    rows, width : int
        Of the grid that the language model reads.
    text : Tensor (M,), int64
        Token ids of the text in the batch.
    text_place : Tensor (M,), int64
        Their places in the flattened grid.
    steps : Tensor (P,), int64
        Which of the B * T steps are no padding.
    vector_place : Tensor (P, n), int64
        Places of the vectors of these steps.
    state_place : Tensor (B, T), int64
        Place of each step's last vector; of padding 0.
    packed : Packed or None
        Set where the grid is one row without padding.
    """

    rows: int
    width: int
    text: Tensor
    text_place: Tensor
    steps: Tensor
    vector_place: Tensor
    state_place: Tensor
    packed: Packed | None

    def fill(self, vectors: Tensor, text: Tensor) -> Tensor:
        """Put vectors (B, T, n, h) and embedded text (M, h) in their places: (rows, width, h), zero between them."""
        tokens = torch.cat([text.to(vectors.dtype), vectors.flatten(0, 1)[self.steps].flatten(0, 1)])
        places = torch.cat([self.text_place, self.vector_place.flatten()])
        grid = vectors.new_zeros(self.rows * self.width, vectors.shape[-1])
        return grid.index_copy(0, places, tokens).unflatten(0, (self.rows, self.width))

    def states(self, hidden: Tensor) -> Tensor:
        """Pick what the model made of each step's last vector: (rows, width, h) -> (B, T, h)."""
        return hidden.flatten(0, 1)[self.state_place]


def _outside_graphs(function: Callable[..., Any]) -> Callable[..., Any]:
    """As ``torch.compiler.disable``, which imports the compiler, a second or more, even where nothing is compiled."""
    disabled = cache(lambda: torch.compiler.disable(function))

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (disabled() if torch.compiler.is_compiling() else function)(*args, **kwargs)

    return call


@_outside_graphs  # its shapes depend on what is in the batch
def lay_out(history: Tensor, n_vectors: int, texts: Texts, before: Tensor, packing: bool) -> Layout:
    """Lay histories out, each as ``before[0]``, then at every step t ``before[t + 1]``, its item's text, its vectors.

    Parameters
    ----------
    history : Tensor (B, T), int64
        Item ids, right-padded with 0.
    n_vectors : int
        Vectors of a step.
    texts : Texts
        Piece i is that of item i, for every item; others may follow.
    before : Tensor (>= T + 1,), int64
        Pieces that open a sequence, and each of its steps.
    packing : bool
        One row without padding, rather than a row for each history.
    """
    is_step = history > 0
    steps = is_step.flatten().nonzero()[:, 0]
    opening, numbers = before[0].expand(len(history)), before[1 : history.shape[1] + 1].expand_as(history)
    n_text = texts.lengths[numbers] + texts.lengths[history]  # (B, T)
    size = (n_text + n_vectors) * is_step
    start = size.cumsum(1) - size + texts.lengths[before[:1]]  # (B, T): where in its sequence a step begins
    lengths = texts.lengths[before[:1]] + size.sum(1)  # (B,)
    total, longest = torch.stack([lengths.sum(), lengths.max()]).tolist()  # together: a GPU is waited for once
    if packing:
        rows, width, base = 1, total, lengths.cumsum(0) - lengths
    else:
        rows, width = len(history), longest
        base = torch.arange(rows, device=history.device) * width
    place = base[:, None] + start

    numbers, titles, begins = numbers.flatten()[steps], history.flatten()[steps], place.flatten()[steps]
    pieces = torch.cat([opening, numbers, titles])
    targets = torch.cat([base, begins, begins + texts.lengths[numbers]])
    which, offset = enumerate_ragged(texts.lengths[pieces], None if len(texts.ids) else 0)
    offsets = torch.arange(n_vectors, device=history.device)
    return Layout(
        rows,
        width,
        text=texts.ids[texts.starts[pieces][which] + offset],
        text_place=targets[which] + offset,
        steps=steps,
        vector_place=(begins + n_text.flatten()[steps])[:, None] + offsets,
        state_place=(place + n_text + n_vectors - 1) * is_step,
        packed=Packed.of(lengths, longest, total) if packing else None,
    )


def enumerate_ragged(lengths: Tensor, total: int | None = None) -> tuple[Tensor, Tensor]:
    """For groups of these lengths (m,), the group of every member and its number there: two (sum of lengths,).

    A GPU is not waited for where ``total``, that sum, is given.
    """
    group = torch.repeat_interleave(lengths, output_size=total)
    first = lengths.cumsum(0) - lengths
    return group, torch.arange(len(group), device=lengths.device) - first[group]
