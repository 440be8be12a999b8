"""NestRec: Item Q-Former, User Q-Former and a causal language model, one inside the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nestrec_recbole.data.numbering import BASE
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.layers.packing import lay_out
from nestrec_recbole.models.adapters import adapter_folder, write_adapters
from nestrec_recbole.models.llm import build_llm, fingerprint, read_tokens, weights_from_path
from nestrec_recbole.models.prompt import Prompt
from nestrec_recbole.models.userqformer import UserQFormer

# Neither Q-Former nor language model.
OWN = ("to_llm.", "token_kind.", "to_state.", "objective.", "recency.", "seen_bias.")


class NestRec(UserQFormer):
    """After item t's q tokens come its u user tokens; Qwen3 reads them all, and its last user token is state t.

    With ``user_queries: 0`` there are none, and state t is the last token of item t.

    Every token of step t was made from items 1..t, and Qwen3 is causal, so one forward trains every position.
    The language model and all that the Q-Formers are made of may have learning rates of their own, 0 to freeze them.
    What is loaded from ``llm.path`` and never changes is in no checkpoint; LoRA adapters also lie beside it in PEFT's
    format (:mod:`.adapters`).

    Source: UniRec (arXiv:2601.19423): "Item Q-Former, User Q-Former, Qwen3 + LoRA", there with one target per user.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        self.llm_rate = _rate("llm.learning_rate", config["llm"]["learning_rate"])
        self.qformer_rate = _rate("qformer_learning_rate", config["qformer_learning_rate"])
        super().__init__(config, dataset)
        if self.not_saved:
            self.numbering[BASE] = fingerprint(self, self.not_saved)
        self.packing = config["llm"]["packing"]
        self.prompt = Prompt(config["llm"], config, dataset, self.llm.config.vocab_size)
        self._check_positions(config)
        for name, parameter in self.named_parameters():
            if self.learning_rate_of(name) == 0:
                parameter.requires_grad_(False)

    def _build_output(self, config: Any) -> None:
        self.recent_mean.requires_grad_(self.user_qformer is not None)  # that is who asks for it
        self.llm = build_llm(config["llm"], self.width, config["n_heads"], config["inner_size"])
        self.not_saved = {f"llm.{name}" for name in weights_from_path(self.llm, config["llm"])}
        hidden = self.llm.config.hidden_size
        self.to_llm = nn.Linear(self.width, hidden)
        self.token_kind = nn.Embedding(2, hidden)  # item or user token
        nn.init.normal_(self.token_kind.weight, std=0.02)
        self.to_state = nn.Linear(hidden, self.width)
        nn.init.orthogonal_(self.to_llm.weight)
        with torch.no_grad():
            self.to_state.weight.copy_(self.to_llm.weight.T)

    def _check_positions(self, config: Any) -> None:
        tokens_per_item, length = self.n_item_tokens + config["user_queries"], config["MAX_ITEM_LIST_LENGTH"]
        needed, positions = length * tokens_per_item + self.prompt.longest, self.llm.config.max_position_embeddings
        if needed > positions:
            raise NestRecError(
                f"llm: a history may take {needed} tokens ({length} items x {tokens_per_item}, and "
                f"{self.prompt.longest} of text), the model has {positions} positions; lower MAX_ITEM_LIST_LENGTH, "
                "item_queries, user_queries or llm.title_tokens"
            )

    def learning_rate_of(self, name: str) -> float | None:
        """As the base's: ``llm.learning_rate`` of the language model, ``qformer_learning_rate`` of the Q-Formers."""
        if name.startswith("llm."):
            return self.llm_rate
        return None if name.startswith(OWN) else self.qformer_rate

    def add_items(self, values: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> None:
        """As ItemQFormer's; new items have no title in the prompt."""
        super().add_items(values, masks)
        self.prompt.add_items(len(masks[0]))

    def encode(self, batch: Any) -> Tensor:
        """As the base's: what the language model makes of each step's last token."""
        items, users = self.history_tokens(batch)
        q, u = items.shape[2], users.shape[2]
        of_items, of_users = self.token_kind.weight.split(1)
        kinds = torch.cat([of_items.expand(q, -1), of_users.expand(u, -1)])  # (q + u, hidden)
        vectors = self.to_llm(torch.cat([items, users], dim=2)) + kinds  # (B, T, q + u, hidden)
        layout = lay_out(batch[self.ITEM_SEQ], q + u, *self.prompt(), packing=self.packing)
        tokens = layout.fill(vectors, self.llm.get_input_embeddings()(layout.text))
        last_token = layout.states(read_tokens(self.llm, tokens, layout))  # (B, T, hidden)
        return self.finished(self.to_state(self.dropout(last_token)), batch)

    def id_tables(self) -> dict[str, str]:
        """As the base's; what the language model knows by number are words."""
        return {name: field for name, field in super().id_tables().items() if not name.startswith("llm.")}

    def starting_from(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As the base's; a UserQFormer's map of user tokens to states goes on behind the language model.

        It reads what ``to_llm`` makes of those tokens, so that the stack begins where UserQFormer ended.
        """
        taken = super().starting_from(weights)
        if "to_state.weight" in taken and "to_llm.weight" not in weights:
            taken["to_state.weight"] = taken["to_state.weight"] @ self.to_llm.weight.detach().T.to(
                taken["to_state.weight"]
            )
        return taken

    # -- what is saved, and where -------------------------------------------------------------------------------

    def state_dict(self, *args: Any, prefix: str = "", **kwargs: Any) -> Any:
        """As torch's, without the weights that ``llm.path`` holds."""
        state = super().state_dict(*args, prefix=prefix, **kwargs)
        for name in self.not_saved:
            del state[prefix + name]
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As torch's, of what :meth:`state_dict` gives."""
        own = {name: parameter for name, parameter in self.named_parameters() if name in self.not_saved}
        return super().load_state_dict({**own, **state_dict}, *args, **kwargs)

    def export(self, checkpoint: Path) -> None:
        """Write LoRA adapters beside the checkpoint, in PEFT's format."""
        write_adapters(self.llm, adapter_folder(checkpoint))


def _rate(key: str, rate: Any) -> float | None:
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1e9):
        raise NestRecError(f"config key {key!r} is {rate!r}; expected a number from 0, or nothing for learning_rate")
    return rate
