"""Next-item losses over states (P, d), an item table (N, d) and target ids (P,), and their negative samplers."""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Elements of the largest logits block: on a CPU it stays in the cache, on a GPU it is large enough to fill the device.
CPU_BLOCK, GPU_BLOCK = 2**20, 2**25
# Fewer rows than this make thin, slow matrix products: the catalogue is then split as well.
MIN_ROWS = 256


def _slices(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _compute_dtype(states: Tensor) -> torch.dtype:
    """Return the dtype of matrix products: autocast's where it is on, else that of the states."""
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype


class _Blocks:
    """The logits (P, N) of states and table, one block (rows, columns) at a time in one piece of scratch memory."""

    def __init__(self, states: Tensor, table: Tensor, targets: Tensor, pad_id: int | None, elements: int):
        n_positions, n_items = len(states), len(table)
        n_rows = min(n_positions, max(elements // n_items, MIN_ROWS))
        n_columns = min(n_items, max(elements // n_rows, 1))
        self.states, self.table, self.targets, self.pad_id = states, table, targets, pad_id
        self.rows, self.columns = _slices(n_positions, n_rows), _slices(n_items, n_columns)
        self.dtype = torch.promote_types(states.dtype, torch.float32)
        self.scratch = torch.empty(n_rows * n_columns, dtype=self.dtype, device=states.device)

    def logits(self, rows: slice, columns: slice) -> Tensor:
        """Compute one block of logits, in scratch memory and at least float32; the padding item's are -inf."""
        states, table = self.states[rows], self.table[columns]
        block = self.scratch[: len(states) * len(table)].view(len(states), len(table))
        if states.dtype == block.dtype:
            torch.mm(states, table.T, out=block)
        else:
            block.copy_(states @ table.T)
        if self.pad_id is not None and columns.start <= self.pad_id < columns.stop:
            block[:, self.pad_id - columns.start] = -math.inf
        return block

    def local_targets(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Return each row's target as a column of the block (rows, 1), and whether it lies in it (rows, 1)."""
        local = self.targets[rows, None] - columns.start
        width = columns.stop - columns.start
        return local.clamp(0, width - 1), (local >= 0) & (local < width)

    def normalise(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Stream over the catalogue.

        Returns
        -------
        target_logits, lse : Tensor (rows, 1)
            Each row's target logit and log-sum-exp.
        last : Tensor (rows, columns)
            Probabilities of the last block of columns, for which no second product is needed.
        """
        n_rows = rows.stop - rows.start
        top = self.scratch.new_full((n_rows, 1), torch.finfo(self.dtype).min)
        total, target_logits = torch.zeros_like(top), torch.zeros_like(top)
        for columns in self.columns:
            block = self.logits(rows, columns)
            local, inside = self.local_targets(rows, columns)
            target_logits = torch.where(inside, block.gather(1, local), target_logits)
            new_top = torch.maximum(top, block.amax(1, keepdim=True))
            block.sub_(new_top).exp_()
            total.mul_((top - new_top).exp_()).add_(block.sum(1, keepdim=True))
            top = new_top
        return target_logits, top + total.log(), block.div_(total)

    def logit_gradients(self, rows: slice, lse: Tensor, last: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield every block of columns with the gradient `softmax - onehot` (rows, columns), last block first."""
        for columns in reversed(self.columns):
            block = last if columns is self.columns[-1] else self.logits(rows, columns).sub_(lse).exp_()
            local, inside = self.local_targets(rows, columns)
            yield columns, block.scatter_add_(1, local, -inside.to(block.dtype))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add `left @ right` to `total`, the product in the dtype of `right` and the sum in that of `total`."""
    if total.dtype == right.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left.to(right.dtype) @ right)


class _FullSoftmax(torch.autograd.Function):
    """Sum of the positions' cross-entropies; its gradients are computed along with it, while a block is at hand."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, targets: Tensor, pad_id: int | None, elements: int) -> Tensor:
        dtype = _compute_dtype(states)
        with torch.autocast(states.device.type, enabled=False):
            blocks = _Blocks(states.to(dtype), table.to(dtype), targets, pad_id, elements)
            sums = [
                torch.zeros_like(x, dtype=blocks.dtype) if needed else None
                for x, needed in zip((states, table), ctx.needs_input_grad, strict=False)
            ]
            losses = []
            for rows in blocks.rows:
                target_logits, lse, last = blocks.normalise(rows)
                losses.append(lse - target_logits)
                if any(ctx.needs_input_grad):
                    _FullSoftmax.add_gradients(blocks, rows, blocks.logit_gradients(rows, lse, last), *sums)
        ctx.save_for_backward(*(total if total is None else total.to(x.dtype) for total, x in zip(sums, (states, table), strict=True)))
        return torch.cat(losses).sum()

    @staticmethod
    def add_gradients(blocks, rows, gradients, grad_states, grad_table):
        for columns, gradient in gradients:
            if grad_states is not None:
                _add_product(grad_states[rows], gradient, blocks.table[columns])
            if grad_table is not None:
                _add_product(grad_table[columns], gradient.T, blocks.states[rows])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        grads = (None if grad is None else grad * grad_output for grad in ctx.saved_tensors)
        return *grads, None, None, None


def full_softmax(states, table, targets, *, pad_id=0, temperature=1.0, chunk_elements=None):
    if not torch.is_grad_enabled():
        states, table = states.detach(), table.detach()
    elements = chunk_elements or (CPU_BLOCK if states.device.type == "cpu" else GPU_BLOCK)
    return _FullSoftmax.apply(states / temperature, table, targets, pad_id, elements) / len(targets)
