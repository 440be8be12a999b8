"""Next-item losses over states (P, d), an item table (N, d) and target ids (P,); row 0 of the table is the padding."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nestrec_recbole.layers.full_softmax import at_least_float32
from nestrec_recbole.layers.negatives import is_among


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

    .. math:: L = \frac{1}{P} \sum_p -\log \frac{e^{f_p(y_p)}}{e^{f_p(y_p)} + \sum_{n \in N_p} e^{f_p(n)}},
              \quad f_p(i) = s_p \cdot v_i / \tau - \log Q(i)

    Sampled softmax with the logQ correction (Bengio & Senecal 2008; Yi et al. 2019). A negative that is the row's own
    target, or one of its `forbidden` items, is left out of that row; a row without negatives has loss zero. As the
    target stands there once, so does every negative: with repetitions, what is popular would come out too likely.

    Parameters
    ----------
    states, table, targets : Tensor (P, d), (N, d), (P,)
    negatives : Tensor (K,), int64
        Item ids; N_p is the set of those that row p may have.
    log_q : Tensor (N,) or None
        Log-probability, up to a constant, of each item being in that set; None leaves the logits uncorrected.
    forbidden : Tensor (P, m), int64, or None
        Known positives of each row that must not count as negatives, padded with 0.
    temperature : float or scalar Tensor

    Returns
    -------
    Tensor ()
        Nats per position.
    """
    states, negatives = states / temperature, negatives.sort().values
    repeated = F.pad(negatives[1:] == negatives[:-1], (1, 0))  # unique() would wait for the device
    positive_logits = (states * table[targets]).sum(-1, keepdim=True)
    negative_logits = states @ table[negatives].T  # (P, K)
    if log_q is not None:
        positive_logits = positive_logits - log_q[targets, None]
        negative_logits = negative_logits - log_q[negatives]
    excluded = targets[:, None] if forbidden is None else torch.cat([targets[:, None], forbidden], dim=1)
    negative_logits = negative_logits.masked_fill(is_among(negatives, excluded) | repeated, -math.inf)
    logits = torch.cat([positive_logits, negative_logits], dim=1)
    return F.cross_entropy(logits.to(at_least_float32(logits)), torch.zeros_like(targets))


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
    positive_logits, negative_logits = (x.to(at_least_float32(x)) for x in (positive_logits, negative_logits))
    beta = 1 - calibration * (1 - sampling_rate)
    loss = beta * F.softplus(-positive_logits).sum() + F.softplus(negative_logits).sum()
    return loss / (positive_logits.numel() + negative_logits.numel())


def triplet(positive_logits: Tensor, negative_logits: Tensor, margin: float) -> Tensor:
    r"""Triplet loss (Schroff et al. 2015): the positive is to score higher than every negative by a margin.

    .. math:: L = \frac{1}{|\{(p, k) \text{ allowed}\}|} \sum_{p, k} \max(0, m - s_p^+ + s_{pk}^-)

    Parameters
    ----------
    positive_logits : Tensor (P,)
    negative_logits : Tensor (P, K)
        A logit of -inf leaves that negative out.
    margin : float
        m, in units of the logits.

    Returns
    -------
    Tensor ()
        Mean over the pairs; 0 where there are none.
    """
    positive_logits, negative_logits = (x.to(at_least_float32(x)) for x in (positive_logits, negative_logits))
    violations = F.relu(margin - positive_logits[:, None] + negative_logits)
    return violations.sum() / (negative_logits > -math.inf).sum().clamp(min=1)


def info_nce(
    states: Tensor,
    positives: Tensor,
    items: Tensor,
    *,
    forbidden: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    symmetric: bool = False,
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
    forbidden : Tensor (P, m), int64, or None
        Further items that are no negatives of a row, padded with 0.
    temperature : float or scalar Tensor
    symmetric : bool
        Average with the loss that tells states apart, given a positive (Radford et al. 2021).

    Returns
    -------
    Tensor ()
        Nats per position.
    """
    logits = (states / temperature) @ positives.T
    excluded = items[:, None] if forbidden is None else torch.cat([items[:, None], forbidden], dim=1)
    others = is_among(items, excluded).fill_diagonal_(False)
    logits = logits.to(at_least_float32(logits)).masked_fill(others, -math.inf)
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
        if not self.training:  # a parameter that is written to makes what was remembered of the catalogue stale
            return self.log_temperature.clamp(*self.bounds).exp()
        with torch.no_grad():
            self.log_temperature.clamp_(*self.bounds)
        return self.log_temperature.exp()
