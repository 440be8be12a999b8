"""What the value of a setting must be: one table, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from nestrec_recbole.data.domains import PROTOCOLS
from nestrec_recbole.layers.fusion import FUSIONS
from nestrec_recbole.layers.pairs import ACTIVATIONS, INITIALISATIONS, NORMS
from nestrec_recbole.models.itemstart import STARTS
from nestrec_recbole.models.objective import DOMAIN_LOSSES, LOSSES, NEGATIVES

LEARNERS = ("adam", "adamw", "sgd")


@dataclass(frozen=True)
class Rule:
    """What is allowed.

    Attributes
    ----------
    allows : callable
        Any value -> whether it is right.
    expected : str
        What an error says after "expected".
    """

    allows: Callable[[Any], bool]
    expected: str


def _number(allows: Callable[[float], bool], expected: str) -> Rule:
    return Rule(lambda value: isinstance(value, (int, float)) and allows(value), expected)


def _one_of(choices: Iterable[str]) -> Rule:
    choices = tuple(choices)
    return Rule(lambda value: value in choices, f"one of {', '.join(choices)}")


FROM_1 = _number(lambda value: value >= 1, "a whole number from 1")
FROM_0 = _number(lambda value: value >= 0, "a whole number from 0")
NOT_NEGATIVE = _number(lambda value: value >= 0, "a number from 0")
ABOVE_0 = _number(lambda value: value > 0, "a number above 0")
SHARE = _number(lambda value: 0 <= value <= 1, "a number from 0 to 1")
ANY_NUMBER = _number(lambda value: True, "a number")

RULES: dict[str, Rule] = {
    # data and its split
    "MAX_ITEM_LIST_LENGTH": FROM_1,
    "tie_seed": FROM_0,
    "hidden_users": SHARE,
    "hidden_items": SHARE,
    "hidden_seed": FROM_0,
    "protocol": _one_of(PROTOCOLS),
    "times_per_second": ABOVE_0,
    # training
    "item_start": _one_of(STARTS),
    "epochs": FROM_1,
    "stopping_step": FROM_0,
    "train_batch_size": FROM_1,
    "accumulation_steps": FROM_1,
    "checkpoint_steps": FROM_0,
    "learner": _one_of(LEARNERS),
    "learning_rate": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
    "schedule": _one_of(("constant", "cosine", "linear", "step", "plateau")),
    "schedule_factor": NOT_NEGATIVE,
    "schedule_patience": FROM_1,
    "warmup_steps": FROM_0,
    "ema_decay": SHARE,
    "precision": _one_of(("fp32", "bf16", "fp16")),
    # the objective
    "loss": _one_of(LOSSES),
    "domain_loss": _one_of(DOMAIN_LOSSES),
    "targets": _one_of(("all", "last")),
    "temperature": ABOVE_0,
    "negatives": _one_of(NEGATIVES),
    "n_negatives": FROM_1,
    "popularity_exponent": ANY_NUMBER,
    "mask_near_duplicates": SHARE,
    "calibration": SHARE,
    "margin": NOT_NEGATIVE,
    # evaluation
    "candidates": FROM_0,
    "candidate_seed": FROM_0,
    "eval_batch_size": FROM_1,
    # transformers
    "hidden_size": FROM_1,
    "inner_size": FROM_1,
    "n_layers": FROM_0,
    "n_heads": FROM_1,
    "activation": _one_of(("gelu", "swiglu")),
    "residual": _one_of(("plain", "gated")),
    "recency_scale": NOT_NEGATIVE,
    # items and their fields
    "item_table": _one_of(("fused", "content")),
    "whitened_scale": NOT_NEGATIVE,
    "item_layers": FROM_0,
    "item_queries": FROM_1,
    "item_cross_attention_frequency": FROM_1,
    "held_out_items": SHARE,
    "reconstruction_weight": NOT_NEGATIVE,
    "contrastive_weight": NOT_NEGATIVE,
    "user_layers": FROM_1,
    "user_queries": FROM_0,
    "user_cross_attention_frequency": FROM_1,
    # MultimodalRec
    "fusion": _one_of(FUSIONS),
    "negatives_per_positive": FROM_1,
    "mlp_activation": _one_of(ACTIVATIONS),
    "mlp_norm": _one_of(NORMS),
    "mlp_init": _one_of(INITIALISATIONS),
    # TriGRec
    "objective": _one_of(("causal", "masked")),
    "mask_ratio": SHARE,
    "user_vectors": _one_of(("visible", "frozen")),
    "user_loss_weight": NOT_NEGATIVE,
    "specific_weight": NOT_NEGATIVE,
    "common_weight": NOT_NEGATIVE,
    "cross_weight": NOT_NEGATIVE,
    "discriminator_weight": NOT_NEGATIVE,
    "alignment_weight": NOT_NEGATIVE,
    "separation_weight": NOT_NEGATIVE,
    "separation_margin": NOT_NEGATIVE,
    "reversal_weight": NOT_NEGATIVE,
    "reversal_steps": FROM_0,
    "probe_users": FROM_0,
}


def rule_of(name: str) -> Rule | None:
    """The rule of a setting; None where there is none."""
    return SHARE if name.endswith("_prob") else RULES.get(name)
