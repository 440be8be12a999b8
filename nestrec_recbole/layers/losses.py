"""Next-item losses over states (P, d), an item table (N, d) and target ids (P,); row 0 of the table is the padding."""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Elements of a block of logits: on a CPU it stays in the cache, on a GPU it is large enough to fill the device.
CPU_BLOCK, GPU_BLOCK = 2**22, 2**25
# Blocks of fewer rows make thin, slow matrix products: below this the catalogue is split instead.
MIN_ROWS = 128


def _at_least_float32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


class _LogitBlocks:
    """The logits (P, N) of states and table, visited a block (rows, columns) at a time in one piece of memory."""

    def __init__(self, states: Tensor, table: Tensor, targets: Tensor, pad_id: int | None, elements: int):
        n_positions, n_items = len(states), len(table)
        n_rows = min(n_positions, max(elements // n_items, MIN_ROWS))
        n_columns = min(n_items, max(elements // n_rows, 1))
        self.states, self.table, self.targets, self.pad_id = states, table, targets, pad_id
        self.rows = [slice(i, min(i + n_rows, n_positions)) for i in range(0, n_positions, n_rows)]
        self.columns = [slice(i, min(i + n_columns, n_items)) for i in range(0, n_items, n_columns)]
        self.dtype = _at_least_float32(states)
        self.memory = torch.empty(n_rows * n_columns, dtype=self.dtype, device=states.device)

    def logits(self, rows: slice, columns: slice) -> Tensor:
        """Compute a block of logits, at least in float32; those of the padding item are -inf."""
        states, table = self.states[rows], self.table[columns]
        block = self.memory[: len(states) * len(table)].view(len(states), len(table))
        if states.dtype == block.dtype:
            torch.mm(states, table.T, out=block)
        else:
            block.copy_(states @ table.T)
        if self.pad_id is not None and columns.start <= self.pad_id < columns.stop:
            block[:, self.pad_id - columns.start] = -math.inf
        return block

    def locate_targets(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Return the targets as columns of a block, and whether they lie in it, both (rows, 1)."""
        local = self.targets[rows, None] - columns.start
        last = columns.stop - columns.start - 1
        return local.clamp(0, last), (local >= 0) & (local <= last)

    def normalise(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Stream over the catalogue; return target logits and log-sum-exps (rows, 1), and the last block's softmax."""
        top = self.memory.new_full((rows.stop - rows.start, 1), torch.finfo(self.dtype).min)
        total, target_logits = torch.zeros_like(top), torch.full_like(top, -math.inf)
        for columns in self.columns:
            block = self.logits(rows, columns)
            local, inside = self.locate_targets(rows, columns)
            target_logits = torch.where(inside, block.gather(1, local), target_logits)
            new_top = torch.maximum(top, block.amax(1, keepdim=True))
            block.sub_(new_top).exp_()
            total.mul_((top - new_top).exp_()).add_(block.sum(1, keepdim=True))
            top = new_top
        return target_logits, top + total.log(), block.div_(total)

    def add_gradients(
        self, rows: slice, lse: Tensor, last: Tensor, grad_states: Tensor | None, grad_table: Tensor | None
    ) -> None:
        """Add these rows' part of both gradients; of the blocks, all but the last one are computed anew."""
        for columns in reversed(self.columns):
            block = last if columns is self.columns[-1] else self.logits(rows, columns).sub_(lse).exp_()
            local, inside = self.locate_targets(rows, columns)
            block.scatter_add_(1, local, -inside.to(block.dtype))  # softmax - onehot: the gradient of the logits
            if grad_states is not None:
                _add_product(grad_states[rows], block, self.table[columns])
            if grad_table is not None:
                _add_product(grad_table[columns], block.T, self.states[rows])


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add `left @ right` to `total`, the product in the dtype of `right` and the sum in that of `total`."""
    if total.dtype == right.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left.to(right.dtype) @ right)


class _FullSoftmax(torch.autograd.Function):
    """Sum of the positions' cross-entropies; the gradients are found on the way, while a block is at hand."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, targets: Tensor, pad_id: int | None, elements: int) -> Tensor:
        device = states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
        needs_states, needs_table = ctx.needs_input_grad[:2]
        with torch.autocast(device, enabled=False):
            blocks = _LogitBlocks(states.to(dtype), table.to(dtype), targets, pad_id, elements)
            grad_states = torch.zeros_like(states, dtype=blocks.dtype) if needs_states else None
            grad_table = torch.zeros_like(table, dtype=blocks.dtype) if needs_table else None
            loss = blocks.memory.new_zeros(())
            for rows in blocks.rows:
                target_logits, lse, last = blocks.normalise(rows)
                loss += (lse - target_logits).sum()
                if needs_states or needs_table:
                    blocks.add_gradients(rows, lse, last, grad_states, grad_table)
        ctx.save_for_backward(grad_states, grad_table)
        ctx.dtypes = states.dtype, table.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        grads = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return *(None if grad is None else (grad * grad_output).to(dtype) for grad, dtype in grads), None, None, None


def full_softmax(
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    *,
    pad_id: int | None = 0,
    temperature: float | Tensor = 1.0,
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
    return _FullSoftmax.apply(states / temperature, table, targets, pad_id, elements) / len(targets)


def is_among(negatives: Tensor, ids: Tensor) -> Tensor:
    """Return (P, K): whether negative k of (K,) is one of row p of ids (P, m). Memory P x (K + m), not P x K x m."""
    ordered = negatives.sort().values
    column = torch.searchsorted(ordered, ids).clamp_(max=len(ordered) - 1)  # first of its equals
    column = torch.where(ordered[column] == ids, column, len(ordered))  # (P, m); not there: one column too many
    hit = torch.zeros(len(ids), len(ordered) + 1, dtype=torch.bool, device=ids.device).scatter_(1, column, True)
    return hit[:, torch.searchsorted(ordered, negatives)]


def sampled_softmax(
    states: Tensor,
    table: Tensor,
    targets: Tensor,
    negatives: Tensor,
    *,
    log_q: Tensor | None = None,
    forbidden: Tensor | None = None,
    temperature: float | Tensor = 1.0,
) -> Tensor:
    r"""Mean cross-entropy of the target among negatives shared by all positions.

    .. math:: L = \frac{1}{P} \sum_p -\log \frac{e^{f_p(y_p)}}{e^{f_p(y_p)} + \sum_{k \text{ allowed}} e^{f_p(n_k)}},
              \quad f_p(i) = s_p \cdot v_i / \tau - \log Q(i)

    Sampled softmax with the logQ correction (Bengio & Senecal 2008; Yi et al. 2019). A negative that is the row's own
    target, or one of its `forbidden` items, is left out of that row; a row without negatives has loss zero.

    Parameters
    ----------
    states, table, targets : Tensor (P, d), (N, d), (P,)
    negatives : Tensor (K,), int64
        Item ids, repetitions allowed.
    log_q : Tensor (N,) or None
        Log-probability, up to a constant, of each item being drawn; None leaves the logits uncorrected.
    forbidden : Tensor (P, m), int64, or None
        Known positives of each row that must not count as negatives, padded with 0.
    temperature : float or scalar Tensor

    Returns
    -------
    Tensor ()
        Nats per position.
    """
    states = states / temperature
    positive_logits = (states * table[targets]).sum(-1, keepdim=True)
    negative_logits = states @ table[negatives].T  # (P, K)
    if log_q is not None:
        positive_logits = positive_logits - log_q[targets, None]
        negative_logits = negative_logits - log_q[negatives]
    excluded = targets[:, None] if forbidden is None else torch.cat([targets[:, None], forbidden], dim=1)
    negative_logits = negative_logits.masked_fill(is_among(negatives, excluded), -math.inf)
    logits = torch.cat([positive_logits, negative_logits], dim=1)
    return F.cross_entropy(logits.to(_at_least_float32(logits)), torch.zeros_like(targets))


class NegativeSampler(nn.Module):
    r"""Draws item ids with replacement from :math:`Q(i) \propto \max(n_i, 1)^\alpha`, never the padding id 0.

    Parameters
    ----------
    counts : Tensor (N,)
        Interactions per item id in the training data; entry 0, the padding, is not looked at.
    distribution : {"uniform", "popularity"}
        Uniform is popularity with alpha 0.
    alpha : float
        Exponent of popularity (0.75 in Mikolov et al. 2013).

    Attributes
    ----------
    log_q : Tensor (N,), float32
        Log-probability of each item, -inf for the padding: what `sampled_softmax` takes.

    Raises
    ------
    ValueError
        If `distribution` is none of the above.
    """

    log_q: Tensor
    cumulative: Tensor

    def __init__(self, counts: Tensor, distribution: Literal["uniform", "popularity"], alpha: float = 1.0):
        super().__init__()
        if distribution not in ("uniform", "popularity"):
            raise ValueError(f"distribution must be 'uniform' or 'popularity', not {distribution!r}")
        weights = counts.double().clamp(min=1.0) ** (alpha if distribution == "popularity" else 0.0)
        weights[0] = 0.0
        cumulative = weights.cumsum(0)
        self.register_buffer("cumulative", cumulative / cumulative[-1], persistent=False)  # float64: N may be 10^6
        self.register_buffer("log_q", (weights / weights.sum()).log().float(), persistent=False)

    def forward(self, n_negatives: int) -> Tensor:
        """Draw ids (n_negatives,), int64, on the sampler's device."""
        uniform = torch.rand(n_negatives, dtype=self.cumulative.dtype, device=self.cumulative.device)
        return torch.searchsorted(self.cumulative, uniform, right=True)


def in_batch_negatives(targets: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the batch's distinct targets as negatives, and the log-probability of each item being among them.

    Of P targets drawn by popularity :math:`q_i = n_i / \sum n`, item i is one with probability
    :math:`Q(i) = 1 - (1 - q_i)^P`: what the logQ correction of Yi et al. (2019) needs once repetitions are dropped.

    Parameters
    ----------
    targets : Tensor (P,), int64
    counts : Tensor (N,)
        Interactions per item id in the training data; those below one count as one, entry 0 is not looked at.

    Returns
    -------
    negatives : Tensor (K,), int64
        K <= P distinct ids.
    log_q : Tensor (N,), float32
        -inf for the padding id 0.
    """
    weights = counts.double().clamp(min=1.0)
    weights[0] = 0.0
    missed = len(targets) * torch.log1p(-weights / weights.sum())
    return targets.unique(), (-torch.expm1(missed)).log().float()


def gbce(positive_logits: Tensor, negative_logits: Tensor, sampling_rate: float, calibration: float) -> Tensor:
    r"""Generalised binary cross-entropy of gSASRec (Petrov & Macdonald 2023).

    .. math:: L = -\frac{1}{P (K + 1)} \sum_p \Big( \beta \log \sigma(s_p^+) + \sum_k \log(1 - \sigma(s_{pk}^-)) \Big),
              \quad \beta = \alpha \big(t (1 - 1 / \alpha) + 1 / \alpha\big) = 1 - t (1 - \alpha)

    Parameters
    ----------
    positive_logits : Tensor (P,)
    negative_logits : Tensor (P, K)
        A logit of -inf leaves that negative out.
    sampling_rate : float
        alpha, negatives drawn over negatives there are: K / (items - 1), in (0, 1].
    calibration : float
        t in 0..1: with 0 this is binary cross-entropy, with 1 the probabilities are calibrated as in the full softmax.

    Returns
    -------
    Tensor ()
        Nats per logit.
    """
    beta = 1 - calibration * (1 - sampling_rate)
    loss = beta * F.softplus(-positive_logits).sum() + F.softplus(negative_logits).sum()
    return loss / (positive_logits.numel() + negative_logits.numel())


def info_nce(
    states: Tensor, positives: Tensor, items: Tensor, *, temperature: float | Tensor = 1.0, symmetric: bool = False
) -> Tensor:
    r"""InfoNCE (van den Oord et al. 2018): tell each row's positive from the positives of the other rows.

    .. math:: L = \frac{1}{P} \sum_p -\log \frac{e^{s_p \cdot v_p / \tau}}
              {e^{s_p \cdot v_p / \tau} + \sum_{q : i_q \neq i_p} e^{s_p \cdot v_q / \tau}}

    Parameters
    ----------
    states, positives : Tensor (P, d)
        Normalise both for cosine similarities.
    items : Tensor (P,), int64
        Item of each positive; rows of the same item are no negatives of each other.
    temperature : float or scalar Tensor
    symmetric : bool
        Average with the loss that tells states apart, given a positive (Radford et al. 2021).

    Returns
    -------
    Tensor ()
        Nats per position.
    """
    logits = (states / temperature) @ positives.T
    same = (items[:, None] == items).fill_diagonal_(False)
    logits = logits.to(_at_least_float32(logits)).masked_fill(same, -math.inf)
    rows = torch.arange(len(items), device=items.device)
    loss = F.cross_entropy(logits, rows)
    return (loss + F.cross_entropy(logits.T, rows)) / 2 if symmetric else loss


class LearnableTemperature(nn.Module):
    """A temperature learned as its logarithm and held in `minimum..maximum` (Radford et al. 2021).

    The parameter itself is clamped, not its use: at a bound the gradient still arrives and may lead back inside.
    """

    def __init__(self, initial: float = 0.07, minimum: float = 0.01, maximum: float = 1.0):
        super().__init__()
        if not 0 < minimum <= initial <= maximum:
            raise ValueError(f"need 0 < minimum <= initial <= maximum, not {minimum}, {initial}, {maximum}")
        self.bounds = math.log(minimum), math.log(maximum)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(initial)))

    def forward(self) -> Tensor:
        """Return the temperature, a scalar tensor."""
        with torch.no_grad():
            self.log_temperature.clamp_(*self.bounds)
        return self.log_temperature.exp()
