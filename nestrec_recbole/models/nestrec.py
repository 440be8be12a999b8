"""NestRec: Item Q-Former, User Q-Former and a causal language model, one inside the other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nestrec_recbole.models.llm import build_llm
from nestrec_recbole.models.userqformer import UserQFormer


class NestRec(UserQFormer):
    """After item t's q tokens come its u user tokens; Qwen3 reads them all, and its last user token is state t.

    Every token of step t was made from items 1..t, and Qwen3 is causal, so one forward trains every position.

    Source: UniRec (arXiv:2601.19423): "Item Q-Former, User Q-Former, Qwen3 + LoRA", there with one target per user.
    """

    def _build_output(self, config: Any) -> None:
        self.llm = build_llm(config["llm"], self.width, config["n_heads"], config["inner_size"])
        hidden = self.llm.config.hidden_size
        self.to_llm = nn.Linear(self.width, hidden)
        self.token_kind = nn.Embedding(2, hidden)  # item or user token
        nn.init.normal_(self.token_kind.weight, std=0.02)
        self.to_state = nn.Linear(hidden, self.width)
        nn.init.orthogonal_(self.to_llm.weight)
        with torch.no_grad():
            self.to_state.weight.copy_(self.to_llm.weight.T)

    def encode(self, batch: Any) -> Tensor:
        items, users = self.history_tokens(batch)
        q, u = items.shape[2], users.shape[2]
        kinds = self.token_kind(torch.tensor([0] * q + [1] * u, device=items.device))  # (q + u, hidden)
        tokens = self.to_llm(torch.cat([items, users], dim=2)) + kinds  # (B, T, q + u, hidden)
        # Histories are padded on the right, where a causal model never looks: no attention mask is needed.
        hidden = self.llm(inputs_embeds=tokens.flatten(1, 2), use_cache=False).last_hidden_state
        last_user_token = hidden.unflatten(1, (-1, q + u))[:, :, -1]  # (B, T, hidden)
        return self.to_state(self.dropout(last_user_token))
