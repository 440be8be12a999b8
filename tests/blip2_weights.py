"""Weights of transformers' BLIP-2 Q-Former, renamed for ours."""

import re
from collections.abc import Mapping

from torch import Tensor

# Parts of the names in transformers' Blip2QFormerModel and in ours, replaced in this order.
BLIP2_NAMES = {
    "encoder.layer.": "layers.",
    ".attention.attention.": ".self_attention.to_",
    ".crossattention.attention.": ".cross_attention.to_",
    ".attention.": ".self_attention.",
    ".crossattention.": ".cross_attention.",
    "intermediate_query.dense.": "to_inner.",
    "output_query.": "output.",
    "dense.": "to_out.",
    "layernorm.": "norm.",
    "LayerNorm.": "norm.",
}


def convert_blip2_state_dict(state_dict: Mapping[str, Tensor], queries: Tensor) -> dict[str, Tensor]:
    """Rename the weights of transformers' `Blip2QFormerModel` for `QFormer.load_state_dict`.

    `state_dict` names weights from the Q-Former on ("layernorm.weight", ...), its text branch is left out; `queries`
    (1, n_queries, width) are the `query_tokens` of the model around it.
    """
    converted = {"queries": queries.squeeze(0)}
    for name, weight in state_dict.items():
        if re.match(r"embeddings\.|encoder\.layer\.\d+\.(intermediate|output)\.", name):  # the text branch
            continue
        for theirs, ours in BLIP2_NAMES.items():
            name = name.replace(theirs, ours)
        converted[name] = weight
    return converted
