"""The softmax over the whole catalogue in bounded memory, forward and backward."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nestrec_recbole.layers.products import ROW, aligned
from nestrec_recbole.layers.seen import Seen

# Elements of a block of logits: on a CPU it stays in the cache, on a GPU it is large enough to fill the device.
CPU_BLOCK, GPU_BLOCK = 2**22, 2**25
# Blocks of fewer rows make thin, slow matrix products: below this the catalogue is split instead.
MIN_ROWS = 128


def at_least_float32(x: Tensor) -> torch.dtype:
    """Return the dtype in which softmax and sums are taken."""
    return torch.promote_types(x.dtype, torch.float32)


class _LogitBlocks:
    """The logits (P, N) of states and table, visited a block (rows, columns) at a time in one piece of memory.

    A block has columns of the lowest number after its last item, up to a length at which matrix products are fast.
    """

    def __init__(self, states: Tensor, table: Tensor, targets: Tensor, pad_id: int | None, elements: int):
        n_positions, n_items = len(states), len(table)
        n_rows = min(n_positions, max(elements // n_items, MIN_ROWS))
        most = max(elements // n_rows, 1)
        n_columns = n_items if n_items <= most else most // ROW * ROW or most
        self.states, self.table, self.pad_id = states, table, pad_id
        self.targets = targets if pad_id is None else targets.masked_fill(targets == pad_id, -1)
        self.rows = [slice(i, min(i + n_rows, n_positions)) for i in range(0, n_positions, n_rows)]
        self.columns = [slice(i, min(i + n_columns, n_items)) for i in range(0, n_items, n_columns)]
        self.dtype = at_least_float32(states)
        # Probabilities of a large catalogue are below what float16 can tell from zero.
        self.gradient_dtype = self.dtype if states.dtype is torch.float16 else states.dtype
        self.memory = torch.empty(n_rows * aligned(n_columns), dtype=self.dtype, device=states.device)

    def logits(self, rows: slice, columns: slice) -> Tensor:
        """Compute a block of logits, at least in float32; those of the padding item are the lowest number."""
        states, table = self.states[rows], self.table[columns]
        width, lowest = aligned(len(table)), torch.finfo(self.dtype).min
        block = self.memory[: len(states) * width].view(len(states), width)
        own = block[:, : len(table)]
        if states.dtype == block.dtype:
            torch.mm(states, table.T, out=own)
        else:
            own.copy_(states @ table.T)
        block[:, len(table) :] = lowest
        if self.pad_id is not None and columns.start <= self.pad_id < columns.stop:
            block[:, self.pad_id - columns.start] = lowest
        return block

    def normalise(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Stream over the catalogue; return target logits and log-sum-exps (rows, 1), and the last block's softmax."""
        lse = target_logits = self.memory.new_full((rows.stop - rows.start, 1), -math.inf)
        for columns in self.columns:
            block = self.logits(rows, columns)
            local, inside = _locate(self.targets[rows, None], columns)
            target_logits = torch.where(inside, block.gather(1, local), target_logits)
            top = block.amax(1, keepdim=True)
            torch.softmax(block, 1, out=block)  # one pass; its largest value is 1 / the sum of exp(logit - top)
            block_lse = top - block.amax(1, keepdim=True).log()
            lse = torch.logaddexp(lse, block_lse)
        return target_logits, lse, block if len(self.columns) == 1 else block.mul_((block_lse - lse).exp())

    def add_gradients(
        self,
        rows: slice,
        lse: Tensor,
        last: Tensor,
        grad_states: Tensor | None,
        grad_table: Tensor | None,
        seen: Tensor | None,
        mass: Tensor,
    ) -> None:
        """Add these rows' part of both gradients, and to ``mass`` (P,) what their seen items have of the softmax.

        Of the blocks, all but the last one are computed anew.
        """
        for columns in reversed(self.columns):
            block = last if columns is self.columns[-1] else self.logits(rows, columns).sub_(lse).exp_()
            if seen is not None:
                local, inside = _locate(seen[rows].long(), columns)
                mass[rows] += (block.gather(1, local) * inside).sum(1)
            local, inside = _locate(self.targets[rows, None], columns)
            block.scatter_add_(1, local, -inside.to(block.dtype))  # softmax - onehot: the gradient of the logits
            block = block.to(self.gradient_dtype)[:, : columns.stop - columns.start]
            if grad_states is not None:
                _add_product(grad_states[rows], block, self.table[columns])
            if grad_table is not None:
                _add_product(grad_table[columns], block.T, self.states[rows])


def _locate(items: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Return items (n, m) as columns of a block, and whether they lie in it, both (n, m)."""
    local = items - columns.start
    last = columns.stop - columns.start - 1
    return local.clamp(0, last), (local >= 0) & (local <= last)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add `left @ right` to `total`, the product in the dtype of `left` and the sum in that of `total`."""
    right = right.to(left.dtype)
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


class _FullSoftmax(torch.autograd.Function):
    """Sum of the positions' cross-entropies; the gradients are found on the way, while a block is at hand.

    Also what the seen items have of each position's softmax, (P,); of that there is no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        table: Tensor,
        targets: Tensor,
        seen: Tensor | None,
        pad_id: int | None,
        elements: int,
    ) -> tuple[Tensor, Tensor]:
        device = states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
        needs_states, needs_table = ctx.needs_input_grad[:2]
        with torch.autocast(device, enabled=False):
            blocks = _LogitBlocks(states.to(dtype), table.to(dtype), targets, pad_id, elements)
            grad_states = torch.zeros_like(states, dtype=blocks.dtype) if needs_states else None
            grad_table = torch.zeros_like(table, dtype=blocks.dtype) if needs_table else None
            loss, mass = blocks.memory.new_zeros(()), blocks.memory.new_zeros(len(targets))
            for rows in blocks.rows:
                target_logits, lse, last = blocks.normalise(rows)
                loss += (lse - target_logits).sum()
                if needs_states or needs_table or seen is not None:
                    blocks.add_gradients(rows, lse, last, grad_states, grad_table, seen, mass)
        ctx.save_for_backward(grad_states, grad_table)
        ctx.dtypes = states.dtype, table.dtype
        ctx.mark_non_differentiable(mass)
        return loss, mass

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grads = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return *(None if grad is None else (grad * grad_output).to(dtype) for grad, dtype in grads), *[None] * 4


def full_softmax(
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    *,
    pad_id: int | None = 0,
    temperature: float | Tensor = 1.0,
    seen: Seen | None = None,
    chunk_elements: int | None = None,
) -> Tensor:
    r"""Mean cross-entropy of the softmax over the whole catalogue, in bounded memory.

    .. math:: L = \frac{1}{P} \sum_p -\log \frac{e^{s_p \cdot v_{y_p} / \tau}}{\sum_{i \ne pad} e^{s_p \cdot v_i/\tau}}

    Value and gradients are those of `F.cross_entropy(states @ table.T / temperature, targets)` without the padding item
    (Klenitskiy & Vasilev 2023 show what this loss does for SASRec), but nothing of size P x N is ever held: logits are
    made block by block with a streaming log-sum-exp, and while a block is in the cache the forward pass adds its part
    of the gradients (Liger, Hsu et al. 2024; Cut Cross-Entropy, Wijmans et al. 2025). Where `chunk_elements` holds
    some rows of N logits this costs the same three matrix products as the plain form, beyond that a fourth. Softmax and
    sums are float32 at least; matrix products are in the dtype of autocast, if on. A per-item bias is one more column
    of `table` against a column of ones in `states`.

    Parameters
    ----------
    states : Tensor (P, d)
    table : Tensor (N, d)
        With or without gradient; without, its share of the work is not done.
    targets : Tensor (P,), int64
        Ids below N. A target that is `pad_id` or no row of `table` makes the loss infinite.
    pad_id : int or None
        Row of `table` that no softmax contains.
    temperature : float or scalar Tensor
        Divides the logits; receives a gradient if it asks for one.
    seen : Seen, optional
        Items of each position, padded with ``pad_id``, whose logits get a bias more, after their division. It is fitted
        to the others: the value and the gradient of the bias are those of the biased logits, the gradients of
        states, table and temperature those of the logits without it.
    chunk_elements : int or None
        Most logits held at a time, at least min(P, 128); by default 2^22 on a CPU, 2^25 elsewhere.

    Returns
    -------
    Tensor ()
        Nats per position. It can be differentiated once.
    """
    if not torch.is_grad_enabled():
        states, table = states.detach(), table.detach()
    elements = chunk_elements or (CPU_BLOCK if states.device.type == "cpu" else GPU_BLOCK)
    items = None if seen is None else seen.items
    total, mass = _FullSoftmax.apply(states / temperature, table, targets, items, pad_id, elements)
    if seen is not None:
        total = total + _bias_term(mass, (seen.items == targets[:, None]).any(1), seen.bias)
    return total / len(targets)


def _bias_term(mass: Tensor, is_repeat: Tensor, bias: Tensor) -> Tensor:
    """What the sum of the cross-entropies gains by a bias on items that have so much (P,) of the softmax.

    Their exponentials are multiplied by that of the bias, which adds (e^bias - 1) x mass to a denominator of 1. In
    float32 no mass is nearer to 1 than 1e-6: what little is beside it cannot be told.
    """
    return torch.log1p(torch.expm1(bias) * mass.clamp(max=1 - 1e-6)).sum() - bias * is_repeat.sum()
