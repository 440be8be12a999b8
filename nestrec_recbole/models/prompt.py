"""The text around item and user tokens: an opening, and at every step its number and the item's title."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nestrec_recbole.data.titles import item_titles
from nestrec_recbole.errors import NestRecError, first_line
from nestrec_recbole.layers.packing import Texts


class Prompt(nn.Module):
    """``I have bought these items in the past: 1. TITLE <tokens>, 2. TITLE <tokens>, ...``, tokenised once.

    Without an opening and titles it is empty, and so are all its pieces.

    Parameters
    ----------
    settings : dict
        ``llm`` of ``properties/model/NestRec.yaml``: ``path``, ``prompt``, ``titles``, ``title_tokens``.
    config : recbole.config.Config
    dataset : recbole.data.dataset.Dataset
        Its item tokens, in the order of their ids.

    Attributes
    ----------
    longest : int
        Text tokens of the longest history there can be.

    Raises
    ------
    NestRecError
        No tokenizer or one of another model, no such column, or a column that is empty for every item.
    """

    ids: Tensor
    starts: Tensor
    lengths: Tensor
    before: Tensor

    def __init__(self, settings: dict[str, Any], config: Any, dataset: Any, vocabulary: int) -> None:
        super().__init__()
        n_items, n_steps = dataset.item_num, int(config["MAX_ITEM_LIST_LENGTH"])
        pieces: list[list[int]] = [[]] * (n_items + 1 + n_steps)  # of every item, the opening, of every step
        if settings["prompt"] or settings["titles"]:
            tokenizer = _tokenizer(settings["path"])
            texts = [settings["prompt"] or "", *_numbers(n_steps, settings)]
            pieces[n_items:] = tokenizer(texts, add_special_tokens=False)["input_ids"]
            pieces[:n_items] = _title_tokens(tokenizer, settings, config, dataset)
        lengths = [len(piece) for piece in pieces]
        self.longest = lengths[n_items] + sum(lengths[n_items + 1 :]) + n_steps * max(lengths[:n_items])
        ids = [token for piece in pieces for token in piece]
        if ids and max(ids) >= vocabulary:
            raise NestRecError(
                f"llm.path {settings['path']!r}: its tokenizer has a token {max(ids)}, its model {vocabulary}; "
                "get the files of the model again"
            )
        self.register_buffer("ids", torch.tensor(ids, dtype=torch.long), persistent=False)
        self.register_buffer("starts", torch.tensor([0, *accumulate(lengths[:-1])]), persistent=False)
        self.register_buffer("lengths", torch.tensor(lengths), persistent=False)
        self.register_buffer("before", torch.arange(n_items, len(pieces)), persistent=False)

    def add_items(self, n: int) -> None:
        """Append items without a title."""
        at = int(self.before[0])
        empty = self.lengths.new_zeros(n)
        self.starts, self.lengths = (torch.cat([x[:at], empty, x[at:]]) for x in (self.starts, self.lengths))
        self.before = self.before + n

    def forward(self) -> tuple[Texts, Tensor]:
        """All pieces, first those of the items, and which of them open a history and each of its steps."""
        return Texts(self.ids, self.starts, self.lengths), self.before


def _tokenizer(path: str | None) -> Any:
    from transformers import AutoTokenizer

    if not path:
        raise NestRecError("llm.prompt and llm.titles need a tokenizer, and config: tiny has none; set llm.path")
    reason = "it knows no token"
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        if tokenizer("a")["input_ids"]:  # of a folder without a tokenizer, transformers makes an empty one
            return tokenizer
    except (OSError, ValueError) as error:
        reason = first_line(error)
    where = "" if Path(path).is_dir() else ", or name a folder with the files of both"
    raise NestRecError(
        f"llm.path {path!r}: no tokenizer ({reason}), which llm.prompt and llm.titles need; "
        f"put tokenizer.json and tokenizer_config.json beside the model{where}"
    )


def _numbers(n_steps: int, settings: dict[str, Any]) -> list[str]:
    """What comes before the title of every step."""
    if not settings["titles"]:
        return [""] * n_steps
    return [f"{', ' if step else ' '}{step + 1}." for step in range(n_steps)]


def _title_tokens(tokenizer: Any, settings: dict[str, Any], config: Any, dataset: Any) -> list[list[int]]:
    """Title tokens of every item, at most ``title_tokens`` of each; none where it has no title."""
    names = dataset.field2id_token[dataset.iid_field]
    if not settings["titles"]:
        return [[]] * len(names)
    titles = item_titles(config, settings["titles"])
    texts = ["", *(f" {titles[name]}" if name in titles else "" for name in names[1:])]
    if not any(texts):
        raise NestRecError(f"llm.titles: no item has a {settings['titles']!r}; name another column, or leave it empty")
    limit = {"truncation": True, "max_length": settings["title_tokens"]}
    return tokenizer(texts, add_special_tokens=False, **limit)["input_ids"]
