"""What every model here shares: a model is two functions, ``item_table`` and ``encode``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from nestrec_recbole.data.content import item_content
from nestrec_recbole.data.numbering import domain_numbering, meanings, numbering
from nestrec_recbole.errors import NestRecError
from nestrec_recbole.layers.ids import ItemIds
from nestrec_recbole.layers.precision import autocast
from nestrec_recbole.layers.products import inner_products
from nestrec_recbole.layers.seen import Seen, SeenBias, seen_so_far
from nestrec_recbole.models.catalogue_cache import CatalogueCache
from nestrec_recbole.models.objective import Drawn, build_objective


class SequenceModel(SequentialRecommender):
    """Base of the sequential models.

    A subclass defines :meth:`item_table` and :meth:`encode`; it gets the loss over all positions, RecBole's
    ``calculate_loss``, ``predict`` and ``full_sort_predict``, and an item table that is computed once per evaluation.

    Parameters
    ----------
    config : recbole.config.Config
    dataset : SequenceDataset or recbole.data.dataset.Dataset
        The training split: its field names, its number of items, and how often each occurs. Item fields are read where
        ``mask_near_duplicates`` is set, hidden items where ``hidden_items`` is, and domains where ``target_domain`` is;
        of these only a SequenceDataset knows.

    Attributes
    ----------
    numbering : dict of str to str
        Hashes of which items, and which users where the model knows them by id, have which numbers, and of what the
        features of items stand for; checkpoints keep it.
    id_tokens : dict of str to numpy.ndarray of shape (number of tokens,)
        The tokens themselves, by field; checkpoints keep these too.
    computes_items : bool
        Whether :meth:`item_table` of some items costs less than that of all. Then a training step whose loss looks at
        a part of the catalogue computes no others.
    counted_items : Tensor (n_items,), bool, or None
        The targets that the loss is the mean of, where these are not all; several processes weigh theirs by it.
    compiled : tuple of str
        The methods that ``compile`` compiles.
    ranks_by_softmax : bool
        Whether its scores are the logits of its objective, to which ``seen_bias`` is fitted.
    """

    input_type = InputType.POINTWISE
    computes_items = False
    ranks_by_softmax = True
    compiled: tuple[str, ...] = ("encode",)

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        masks = config["mask_near_duplicates"] and config["loss"] != "full_softmax"
        content = torch.from_numpy(item_content(dataset.item_fields())) if masks else None
        hidden = torch.from_numpy(dataset.hidden_items) if config["hidden_items"] else None
        self.precision = config["precision"]
        self.rankable: Tensor | None
        domains = getattr(dataset, "domains", None)
        self.objective = build_objective(config, item_counts(dataset), content, hidden, domains)
        self.seen_bias = self._build_seen_bias(config, dataset)
        rankable = None if domains is None else torch.from_numpy(domains.rankable)
        self.register_buffer("rankable", rankable, persistent=False)
        self.catalogue = CatalogueCache()
        self.numbering = meanings(dataset) if getattr(self, "needs_item_fields", False) else {}
        self.numbering |= domain_numbering(dataset)
        self.id_tokens: dict[str, np.ndarray] = {}
        self.know_by_id(dataset, dataset.iid_field)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "encode" in vars(cls) and "last_states" not in vars(cls):
            cls.last_states = SequenceModel.last_states  # type: ignore[method-assign]  # an inherited one reads another

    def _build_seen_bias(self, config: Any, dataset: Any) -> SeenBias | None:
        """What the scores of a history's items get more than those of others; None: nothing."""
        if not config["seen_bias"]:
            return None
        if not self.ranks_by_softmax:
            raise NestRecError(f"seen_bias has no effect on {type(self).__name__}; set it to False")
        if config["loss"] != "full_softmax":
            raise NestRecError(f"seen_bias goes with loss: full_softmax, not {config['loss']}; set it to False")
        return SeenBias(*count_repeats(dataset))

    def know_by_id(self, dataset: Any, field: str) -> None:
        """Keep with the weights which token of a field, such as ``user_id``, has which number."""
        self.numbering |= numbering(dataset, [field])
        self.id_tokens[field] = dataset.field2id_token[field]

    def id_tables(self) -> dict[str, str]:
        """The tensors of the state dict that have a row for each token of a field, and of which field.

        By these a training on other data finds the rows of what it knows. Of a model of one's own these are embeddings,
        parameters and buffers with as many rows as there are items; override it where there are others, such as users'.
        """
        tables = (name for name, tensor in self.state_dict().items() if tensor.shape[:1] == (self.n_items,))
        return {name: self.ITEM_ID for name in tables if self._is_of_items(self.get_submodule(name.rpartition(".")[0]))}

    def _is_of_items(self, owner: nn.Module) -> bool:
        """Whether a tensor of ``owner`` with ``n_items`` rows has these for items, and not by chance."""
        is_own = type(self).__module__.startswith("nestrec_recbole.")
        if isinstance(owner, nn.Embedding):
            return owner.padding_idx == 0 or not is_own
        of_libraries = type(owner).__module__.startswith(("nestrec_recbole.", "torch.", "transformers.", "peft."))
        return isinstance(owner, ItemIds) or not (is_own or of_libraries)

    @property
    def counted_items(self) -> Tensor | None:
        return self.objective.counted_items

    def learning_rate_of(self, name: str) -> float | None:
        """Learning rate of the parameter of this name; None stands for ``learning_rate``."""
        return None

    def export(self, checkpoint: Path) -> None:
        """Write what lies beside a checkpoint in the formats of others; most models have nothing."""

    def keep_fixed(self, folder: Path) -> None:
        """Compute what training will not change, once, into files of a folder; most models have nothing."""

    def item_table(self, items: Tensor | None = None) -> Tensor:
        """What every item is: (n_items, d). Row 0 is the padding item, which is never recommended.

        Parameters
        ----------
        items : Tensor (m,), int64, optional
            Give the rows of these items alone: (m, d).
        """
        raise NotImplementedError(f"{type(self).__name__} has no item_table(); return what every item is, (n_items, d)")

    def encode(self, batch: Any) -> Tensor:
        """What every prefix of every history is: (B, T, d). State t depends on items 1..t only.

        Parameters
        ----------
        batch : recbole.data.interaction.Interaction
            ``item_id_list`` (B, T), right-padded with 0, and the dataset's other ``*_list`` columns.
        """
        raise NotImplementedError(f"{type(self).__name__} has no encode(); return what every prefix is, (B, T, d)")

    def add_items(self, values: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> None:
        """Append items that came after training, known by their fields only, to the item table.

        Parameters
        ----------
        values, masks : sequences of numpy.ndarray, each of shape (n, width of the field) and (n,)
            In the order of the fields; masks are True where an item has the field.

        Raises
        ------
        NestRecError
            When the model reads no fields.
        """
        raise NestRecError(f"{type(self).__name__} cannot read items that are not in its catalogue")

    def report(self) -> dict[str, float]:
        """What the model measures of itself beside the ranking metrics; evaluation adds it to its result."""
        return {}

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Mean loss, by default the cross-entropy over the whole catalogue, at every position that has a target."""
        drawn = self.draw(interaction)
        with self.catalogue.step(self.step_items(interaction, drawn)):
            return self._loss(interaction, drawn)

    def _loss(self, interaction: Any, drawn: Drawn) -> Tensor:
        items = self.catalogue.items
        states, targets, rows = self.at_targets(self.encode(interaction), interaction)
        positives = None
        if self.objective.masks_known:
            positives = torch.cat([interaction[self.ITEM_SEQ], self.next_items(interaction)], dim=1)[rows]
        table = self.item_table() if items is None else self.item_table(items)
        seen = self.seen(interaction[self.ITEM_SEQ], self.next_items(interaction) > 0)
        return self.objective(states, table, targets, positives, drawn, items, seen=seen)

    def seen(self, histories: Tensor, at: Tensor) -> Seen | None:
        """What the steps ``at`` (B, T), bool, of histories (B, T) have read; None where there is no ``seen_bias``."""
        return None if self.seen_bias is None else Seen(seen_so_far(histories)[at], self.seen_bias.bias)

    def draw(self, interaction: Any) -> Drawn:
        """The negatives that a training step looks at, see :meth:`.BaseObjective.draw`."""
        return self.objective.draw(self.targets(interaction)) if self.objective.draws else None

    def step_items(self, interaction: Any, drawn: Drawn) -> Tensor | None:
        """The items that a training step computes, ascending from the padding item, (m,); None: all."""
        if not self.computes_items:
            return None
        if not self.objective.samples:
            return self.objective.visible
        return self.items_of(interaction, *([] if drawn is None else drawn[:1]))

    def items_of(self, interaction: Any, *others: Tensor) -> Tensor:
        """The padding item and those in a batch's histories, targets and ``others``: (m,), ascending."""
        targets, history = self.targets(interaction), interaction[self.ITEM_SEQ].flatten()
        return torch.cat([targets.new_zeros(1), history, targets, *others]).unique()

    def next_items(self, interaction: Any) -> Tensor:
        """The item that follows each step of the histories, (B, T); 0 where there is none to predict.

        That is ``target_list``, where the batch has it. RecBole's own loader gives one target, of the last step.
        """
        if "target_list" in interaction.interaction:
            return interaction["target_list"]
        nothing = torch.zeros_like(interaction[self.ITEM_SEQ])
        return nothing.scatter(1, interaction[self.ITEM_SEQ_LEN][:, None] - 1, interaction[self.POS_ITEM_ID][:, None])

    def targets(self, interaction: Any) -> Tensor:
        """The items to predict, (P,): row after row, in time order."""
        following = self.next_items(interaction)
        return following[following > 0]

    def at_targets(self, states: Tensor, interaction: Any) -> tuple[Tensor, Tensor, Tensor]:
        """The states (B, T, d) that have something to predict.

        Returns
        -------
        states : Tensor (P, d)
        targets : Tensor (P,), int64
        rows : Tensor (P,), int64
            The row of the batch that each comes from.
        """
        following, expected = self.next_items(interaction), (*interaction[self.ITEM_SEQ].shape, "d")
        if states.ndim != 3 or states.shape[:2] != following.shape:
            raise NestRecError(
                f"{type(self).__name__}.encode() gave {tuple(states.shape)}; expected {expected}: a state a step"
            )
        at = (following > 0).flatten().nonzero()[:, 0]  # looked for once: on a GPU each time waits for it
        rows = at.div(following.shape[1], rounding_mode="floor")
        return states.flatten(0, 1).index_select(0, at), following.flatten()[at], rows

    def last_states(self, batch: Any) -> Tensor:
        """The state of each whole history, (B, d): what :meth:`encode` gives at its last step.

        Override it where that takes less than all states. A subclass with an ``encode`` of its own has this one again.
        """
        return self.gather_indexes(self.encode(batch), batch[self.ITEM_SEQ_LEN] - 1)

    def user_states(self, interaction: Any) -> Tensor:
        """Encode histories down to one state each: (B, d). Columns that are padding in every row are not computed.

        In the ``precision`` of training; states and items, and so the scores, are float32 for all that.
        """
        longest = int(interaction[self.ITEM_SEQ_LEN].max())
        fields = interaction.interaction
        cut = {k: v[:, :longest] if k.endswith("_list") and v.ndim > 1 else v for k, v in fields.items()}
        if self.precision == "fp32":
            return self.last_states(type(interaction)(cut))
        self.remember("item_table", self.item_table)  # before `encode`, which reads what it is made of
        with autocast(self.precision, interaction[self.ITEM_SEQ].device):
            return self.last_states(type(interaction)(cut)).float()

    def starting_from(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What this model takes of the weights of another one, where ``init_from`` names it: those of the same name."""
        own = self.state_dict()
        return {name: weight for name, weight in weights.items() if name in own}

    def remember(self, name: str, compute: Callable[[], Tensor], items: Tensor | None = None) -> Tensor:
        """Compute a tensor over the catalogue once per training step, or once per evaluation; see CatalogueCache.

        Parameters
        ----------
        name : str
            Of the tensor, within this model.
        compute : callable
            Without arguments -> the tensor.
        items : Tensor (m,), optional
            What its rows are of; by default all items.
        """
        evaluates = not self.training and not torch.is_grad_enabled()
        version = tuple(parameter._version for parameter in self.parameters()) if evaluates else None
        return self.catalogue.get(name, compute, items, version)

    def forget(self) -> None:
        """Drop what :meth:`remember` has kept."""
        self.catalogue.forget()

    def train(self, mode: bool = True) -> SequenceModel:
        """As torch's; nothing remembered outlives a change of mode."""
        self.forget()
        return super().train(mode)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Scores of every item for every history: (B, n_items); -inf for padding and what may not be recommended."""
        scores = inner_products(self.user_states(interaction), self.remember("item_table", self.item_table))
        if self.seen_bias is not None:
            scores = self.seen_bias(scores, interaction[self.ITEM_SEQ], self.objective.current_temperature())
        return self.masked(scores)

    def masked(self, scores: Tensor) -> Tensor:
        """Set the scores (B, n_items) of the padding item and of items of other domains to -inf."""
        scores[:, 0] = -torch.inf
        if self.rankable is None:
            return scores
        excluded = torch.zeros_like(self.rankable, dtype=scores.dtype).masked_fill_(~self.rankable, -torch.inf)
        # Items that came after training are excluded too. To add takes a fraction of the time of filling in by a mask.
        return scores.add_(F.pad(excluded, (0, scores.shape[1] - len(excluded)), value=-torch.inf))

    def predict(self, interaction: Any) -> Tensor:
        """Score of ``item_id`` for each history: (B,); -inf for what may not be recommended."""
        ids = interaction[self.ITEM_ID]
        scores = (self.user_states(interaction) * self.remember("item_table", self.item_table)[ids]).sum(dim=-1)
        if self.seen_bias is not None:
            is_seen = (interaction[self.ITEM_SEQ] == ids[:, None]).any(dim=1)
            scores = scores + is_seen * self.seen_bias.bias * self.objective.current_temperature()
        return scores if self.rankable is None else scores.masked_fill(~self.rankable[ids], -torch.inf)


def count_repeats(dataset: Any) -> tuple[int, int]:
    """Interactions of the training data with an item that their user took before, and all of them."""
    if hasattr(dataset, "interactions"):
        users, items = map(torch.from_numpy, dataset.interactions())
    else:
        users, items = dataset.inter_feat[dataset.uid_field], dataset.inter_feat[dataset.iid_field]
    return len(items) - len((users.long() * dataset.item_num + items).unique()), len(items)


def item_counts(dataset: Any) -> Tensor:
    """Interactions of each item in the training data: (n_items,) int64."""
    if hasattr(dataset, "item_counts"):
        return torch.from_numpy(dataset.item_counts())
    return torch.bincount(dataset.inter_feat[dataset.iid_field], minlength=dataset.item_num)
