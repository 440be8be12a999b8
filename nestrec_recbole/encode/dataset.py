"""Sequences whose item fields are encoded where they are missing."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nestrec_recbole.data.dataset import SequenceDataset
from nestrec_recbole.data.features import FeatureStore
from nestrec_recbole.encode.items import ensure_item_features
from nestrec_recbole.evaluate.beyond import look_at_content
from nestrec_recbole.processes import Processes


def looks_at_items(config: Any) -> bool:
    """Whether a run of one of our models reads item fields: the model, its loss or a metric does."""
    needs_fields = getattr(config.model_class, "needs_item_fields", False)
    return bool(needs_fields or config["mask_near_duplicates"] or look_at_content(config["metrics"]))


class EncodedDataset(SequenceDataset):
    """A dataset whose item fields, if anything looks at them, are encoded where they are missing."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if not looks_at_items(config):
            return
        processes = Processes.current()
        if not processes.is_first:
            processes.wait()  # until the first has encoded what is missing
        self.feature_paths = ensure_item_features(config, self.training_items)
        if processes.is_first:
            processes.wait()
            self._note_missing()

    def _note_missing(self) -> None:
        """Say how many items of the dataset lack a field; masks stand for them."""
        tokens = pd.Index(self.field2id_token[self.iid_field][1:], dtype=object)
        for name, path in self.feature_paths.items():
            n_missing = int((~tokens.isin(FeatureStore.open(path).items)).sum())
            if n_missing:
                self.logger.info("%s: %d of %d items have none, which is masked", name, n_missing, len(tokens))
